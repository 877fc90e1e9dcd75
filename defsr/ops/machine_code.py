"""Compiled loops, loaded ahead of their first use."""

from __future__ import annotations

import torch

from defsr.ops.deform import deform_conv_at
from defsr.ops.matching import match_patches
from defsr.utils.packages import HAS_NUMBA


@torch.no_grad()
def load_machine_code() -> None:
    """Load what numba has compiled for float32, or compile it: half a second, or some.

    Without numba nothing happens.
    """
    if not HAS_NUMBA:
        return
    image, places = torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2)
    match_patches(image, image)
    deform_conv_at(image, places, image.new_zeros(1, 18, 2, 2), image.new_zeros(1, 9, 2, 2),
                   image.new_zeros(1, 1, 3, 3), backend='gather')  # fmt: skip
