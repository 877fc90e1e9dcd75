"""Numbers in float64, on a device that has it."""

from __future__ import annotations

import torch
from torch import Tensor

WITHOUT_FLOAT64 = {'mps'}  # types of devices


def exact(x: Tensor | float) -> Tensor:
    """``x`` in float64: where it is, or on the CPU if its device has no float64."""
    if not isinstance(x, Tensor):
        return torch.as_tensor(x, dtype=torch.float64)
    return (x.cpu() if x.device.type in WITHOUT_FLOAT64 else x).double()
