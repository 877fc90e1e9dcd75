"""What an input is taken for, and what that means for it and for its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from defsr.diffusion.degradation import Degradation
from defsr.diffusion.reference_null_space import Best, project
from defsr.methods.cleaning import QUALITIES, Cleaner, with_references
from defsr.ops.input_quality import Faults, is_clean
from defsr.rectify.rectifier import LOG
from defsr.utils.checks import check_choice

PROJECT = ('off', 'exact', 'auto')


class Inputs:
    """The options ``project`` and ``quality`` of ``Method``.

    Args:
        degradation: of the inputs.
        project, quality: see ``Method``.

    Attributes:
        cleaner: of inputs with faults; None: they stay as they are.

    Raises:
        ValueError: for another value of these.
    """

    def __init__(self, degradation: Degradation, project: str | bool, quality: str) -> None:
        self.degradation = degradation
        project = 'off' if project is False else project  # YAML's `off`
        self.project = check_choice('project', project, PROJECT)
        self.quality = check_choice('quality', quality, QUALITIES)
        self.cleaner: Cleaner | None = None

    def clean_with(self, denoiser: Any) -> None:
        """Take this denoiser, ``network_c``."""
        self.cleaner = Cleaner(denoiser, self.quality)

    def faults(self, lq: Tensor) -> list[Faults]:
        """What is to be taken off (N, 3, h, w), said aloud; empty: nothing."""
        faults = [] if self.cleaner is None else self.cleaner.faults(lq)
        if not any(one.deviation for one in faults):
            return []
        LOG.info(f'The input has {", ".join(map(str, faults))}: cleaned first.')
        return faults

    def cleaned(self, lq: Tensor, faults: Sequence[Faults]) -> Tensor:
        """Without its faults; what has none stays as it is."""
        return self.cleaner(lq, faults) if self.cleaner is not None and faults else lq

    def explained(
        self, lq: Tensor, cleaned: Tensor, best: Best, faults: Sequence[Faults]
    ) -> Tensor:
        """``with_references``, by what is best of the rectified ones."""
        soft = self.degradation.operator.A(best.image)
        return with_references(lq, cleaned, soft, best, faults)

    def consistent(self, sr: Tensor, lq: Tensor, faults: Sequence[Faults]) -> Tensor:
        """The result with its input, if ``project`` says so and the input had no faults."""
        if self.project == 'off' or (self.project == 'auto' and faults):
            return sr
        looked = self.cleaner is not None  # and found none
        if self.project == 'auto' and not looked and not is_clean(lq):
            LOG.info('The input has noise or traces of JPEG: the result is not projected onto it.')
            return sr
        return project(sr, lq, self.degradation.operator)
