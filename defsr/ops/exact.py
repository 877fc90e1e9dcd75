"""Numbers in float64, on a device that has it."""

from __future__ import annotations

from torch import Tensor

WITHOUT_FLOAT64 = {'mps'}  # types of devices


def exact(x: Tensor) -> Tensor:
    """``x`` in float64: where it is, or on the CPU if its device has no float64."""
    return (x.cpu() if x.device.type in WITHOUT_FLOAT64 else x).double()
