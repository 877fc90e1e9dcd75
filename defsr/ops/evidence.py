"""How much of an observation a rectified reference explains, and what it adds to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 7  # LR pixels
ROUNDING = 1e-5  # variance of what is no more than rounding to 8 bit, with room
MOST_GAIN = 2.0


@dataclass(frozen=True)
class Evidence:
    """What ``evidence_of`` finds, at LR scale.

    Attributes:
        rho: (N, 1, h, w) in [0, 1], how well the reference explains the observation; 0 where it
            is not valid.
        gain: (N, 1, h, w) in [0, 2], contrast of the observation over the reference's.
    """

    rho: Tensor
    gain: Tensor


def evidence_of(lq: Tensor, soft: Tensor, valid: Tensor | None = None) -> Evidence:
    """Correlation and gain in windows, on grey.

    Args:
        lq: (N, 3, h, w), the observation y.
        soft: (N, 3, h, w), A W of the rectified reference W.
        valid: (N or 1, 1, h, w) bool, where W shows something. None: everywhere.
    """
    y, w = lq.mean(1, keepdim=True), soft.mean(1, keepdim=True)
    known = torch.ones_like(y) if valid is None else valid.to(y).expand_as(y)
    share = _windowed(known).clamp(min=1e-6)

    def mean(x: Tensor) -> Tensor:
        return _windowed(x * known) / share

    y_mean, w_mean = mean(y), mean(w)
    y_var = (mean(y * y) - y_mean**2).clamp(min=0)
    w_var = (mean(w * w) - w_mean**2).clamp(min=0)
    both = mean(y * w) - y_mean * w_mean
    rho = both / ((y_var + ROUNDING) * (w_var + ROUNDING)).sqrt()
    gain = both / (w_var + ROUNDING)
    rho = rho.clamp(0, 1) * known
    return Evidence(rho, gain.clamp(0, MOST_GAIN))


def _windowed(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, [WINDOW // 2] * 4, mode='replicate'), WINDOW, stride=1)
