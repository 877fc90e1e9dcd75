"""Methods without a reference, as EDSR and ESRGAN."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from defsr.archs.interface import Reference, Restoration
from defsr.methods.base import INPUT_OPTIONS, Method


class SingleImage(Method[None]):
    """For networks that read ``lq`` alone; references are not looked at."""

    options = INPUT_OPTIONS

    def prepare(self, net_g: nn.Module, refs: Sequence[Reference]) -> None:
        """Nothing."""

    def restore(
        self, net_g: nn.Module, lq: Tensor, prepared: None, de: Tensor | None = None
    ) -> Restoration:
        """As ``Method.restore``."""
        return Restoration.of(net_g(lq))
