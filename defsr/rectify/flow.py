"""What a field leaves over: a small, checked optical flow."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.images.levels import to_levels
from defsr.ops.dense_warp import positions, sample

MOST_ROUND_TRIP = 1.0  # pixels between a position and where the flow there and back ends


def refine_field(field: Tensor, fixed: Tensor, moving: Tensor, most: float) -> Tensor:
    """Move a field by the optical flow (DIS, Kroeger et al. 2016) between what it should align.

    A flow longer than ``most`` or that does not come back is none; from there the nearest
    good ones fade out.

    Args:
        field: (2, H, W), see ``moving_least_squares``.
        fixed: (1, 3, H, W) in [0, 1], the image that ``field`` is of.
        moving: (1, 3, H, W), the other image, seen through ``field``.
        most: pixels.

    Returns:
        (2, H, W).
    """
    there, back = _flow(fixed, moving), _flow(moving, fixed)
    height, width = field.shape[-2:]
    around = sample(back, there + positions(height, width))
    good = (torch.hypot(*(there + around)) < MOST_ROUND_TRIP) & (torch.hypot(*there) < most)
    share = _smooth(good.to(there)[None, None])
    flow = _smooth((there * good)[None])[0] / share[0].clamp(min=1e-3)
    flow = torch.where(good, there, flow * share[0].clamp(max=1))
    return sample(field, positions(height, width) + flow)


def _flow(fixed: Tensor, moving: Tensor) -> Tensor:
    """(2, H, W), rows then columns: what is at p in ``fixed`` is at p + flow in ``moving``."""
    height, width = fixed.shape[-2:]
    if min(height, width) < 32:  # DIS's coarsest patches want more
        return torch.zeros(2, height, width)
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = dis.calc(_grey(fixed), _grey(moving), None)
    return torch.from_numpy(flow).permute(2, 0, 1).flip(0).contiguous()


def _grey(image: Tensor) -> np.ndarray:
    return np.ascontiguousarray(to_levels(image.mean(1, keepdim=True)))


def _smooth(x: Tensor) -> Tensor:
    """The mean of 17x17 pixels; a mean of columns of means of rows, eight times as fast."""
    padded = F.pad(x, [8] * 4, mode='replicate')
    return F.avg_pool2d(F.avg_pool2d(padded, (1, 17), stride=1), (17, 1), stride=1)
