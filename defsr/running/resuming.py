"""What an option file and a training state say differently, and which of them is in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import accumulate
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

# Of a parameter group and of a scheduler, what is no option of theirs.
_GROUP_STATE = ('params', 'lr', 'param_names')
_SCHEDULER_STATE = ('optimizer', 'base_lrs', 'last_epoch', 'cumulative_period')


class Settings:
    """The options in optimizers and their schedulers, as they stand when this is made.

    Args:
        optimizers: by the name of their block, as ``optim_g``.
        schedulers: one for each, in their order.
    """

    def __init__(
        self, optimizers: Mapping[str, Optimizer], schedulers: Sequence[LRScheduler]
    ) -> None:
        self.optimizers, self.schedulers = optimizers, schedulers
        self.groups = {
            name: [
                {key: value for key, value in group.items() if key not in _GROUP_STATE}
                for group in optimizer.param_groups
            ]
            for name, optimizer in optimizers.items()
        }
        self.rules = [deepcopy(_own(scheduler)) for scheduler in schedulers]

    def differences(self, other: Settings) -> dict[str, tuple[Any, Any]]:
        """Option -> its value here and there, for those that differ."""
        found = {}
        for name, groups in self.groups.items():
            for i, (mine, theirs) in enumerate(zip(groups, other.groups[name], strict=True)):
                where = f'train:{name}' if len(groups) == 1 else f'train:{name}, group {i + 1}'
                for key in mine.keys() & theirs.keys():  # an older PyTorch knew fewer
                    found[f'{where}:{key.removeprefix("initial_")}'] = mine[key], theirs[key]
        for mine, theirs in zip(self.rules, other.rules, strict=True):
            for key in mine.keys() & theirs.keys():
                found[f'train:scheduler:{key}'] = mine[key], theirs[key]
        pairs = {option: tuple(map(_plain, values)) for option, values in found.items()}
        return {option: (a, b) for option, (a, b) in sorted(pairs.items()) if a != b}

    def restore(self) -> None:
        """Put these options into force for the iterations to come, with their learning rates."""
        for (name, optimizer), scheduler, rule in zip(
            self.optimizers.items(), self.schedulers, self.rules, strict=True
        ):
            steps = scheduler.last_epoch
            for group, settings in zip(optimizer.param_groups, self.groups[name], strict=True):
                group |= deepcopy(settings)
                group['lr'] = group['initial_lr']
            vars(scheduler).update(deepcopy(rule))
            scheduler.base_lrs = [group['initial_lr'] for group in optimizer.param_groups]
            if 'periods' in rule:
                vars(scheduler)['cumulative_period'] = [*accumulate(rule['periods'])]
            scheduler.last_epoch = -1  # step by step: a learning rate hangs on the one before
            for _ in range(steps + 1):
                scheduler.step()


def _own(scheduler: LRScheduler) -> dict[str, Any]:
    given = vars(scheduler).items()
    return {k: v for k, v in given if k not in _SCHEDULER_STATE and not k.startswith('_')}


def _plain(value: Any) -> Any:
    """As an option file says it: no tuples, no counters."""
    if isinstance(value, Counter):
        return sorted(value.elements())
    return list(value) if isinstance(value, tuple) else value
