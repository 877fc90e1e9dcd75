"""The options of ``SafeTraining``: any model has them beside its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from defsr.utils.checks import check_above, check_choice, check_int

NONFINITE = ('stop', 'skip')
RESUME_WITH = ('state', 'file')
SAFE_TRAIN_KEYS = ('grad_clip_norm', 'nonfinite', 'max_nonfinite', 'resume_with')
LOGGER_KEYS = ('keep_last', 'keep_best')


@dataclass(frozen=True)
class SafeOptions:
    """Those of ``train`` and of ``logger``, see ``docs/training.md``; null is the default.

    Raises:
        ValueError: for a value that is not legal.
    """

    grad_clip_norm: float | None = None
    nonfinite: str = 'stop'
    max_nonfinite: int = 100
    resume_with: str = 'state'
    keep_last: int | None = None
    keep_best: str | None = None

    def __post_init__(self) -> None:
        if self.grad_clip_norm is not None:
            check_above('train:grad_clip_norm', self.grad_clip_norm, 0)
        check_choice('train:nonfinite', self.nonfinite, NONFINITE)
        check_int('train:max_nonfinite', self.max_nonfinite, 0, or_float=True)
        check_choice('train:resume_with', self.resume_with, RESUME_WITH)
        if self.keep_last is not None:
            check_int('logger:keep_last', self.keep_last, 1)

    @classmethod
    def from_opt(cls, opt: Mapping[str, Any], metrics: Collection[str]) -> SafeOptions:
        """Of an option file's content; ``metrics``: the names of what the model measures."""
        given = {key: opt['train'].get(key) for key in SAFE_TRAIN_KEYS}
        given |= {key: opt['logger'].get(key) for key in LOGGER_KEYS}
        options = cls(**{key: value for key, value in given.items() if value is not None})
        if options.keep_best is not None:
            dataset, _, metric = str(options.keep_best).rpartition('/')
            check_choice('logger:keep_best', metric, metrics)
            sets = [block['name'] for phase, block in opt['datasets'].items() if phase != 'train']
            check_choice('The data set of logger:keep_best', dataset, ['', *sets])
        return options


def model_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """An option file's content without these options of ``train``, as a model reads it."""
    train = {k: v for k, v in (opt.get('train') or {}).items() if k not in SAFE_TRAIN_KEYS}
    return {**opt, 'train': train} if opt.get('train') else dict(opt)
