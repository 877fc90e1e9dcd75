"""How much of an observation a rectified reference explains, and what it adds to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 7  # LR pixels
FINE, FINE_WINDOW = 0.8, 2.0  # LR pixels: deviations of what is subtracted, and of the mean
ROUNDING = 1e-5  # variance of what is no more than rounding to 8 bit, with room
FINE_ROUNDING = 3e-6
MOST_GAIN = 2.0


@dataclass(frozen=True)
class Evidence:
    """What ``evidence_of`` finds, at LR scale; all 0 where the reference is not valid.

    Attributes:
        rho: (N, 1, h, w) in [0, 1], how well the reference explains the observation.
        fine: (N, 1, h, w) in [0, 1], the same of the finest details that the observation has: what
            is finer still agrees at most as well.
        gain: (N, 1, h, w) in [0, 2], contrast of the observation over the reference's.
    """

    rho: Tensor
    fine: Tensor
    gain: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Evidence:
        """The same change to all."""
        return Evidence(change(self.rho), change(self.fine), change(self.gain))


def evidence_of(lq: Tensor, soft: Tensor, valid: Tensor | None = None) -> Evidence:
    """Correlation and gain in windows on grey, and correlation of high-passed colours.

    Args:
        lq: (N, 3, h, w), the observation y.
        soft: (N, 3, h, w), A W of the rectified reference W.
        valid: (N or 1, 1, h, w) bool, where W shows something. None: everywhere.

    Example:
        >>> lq = torch.rand(1, 3, 24, 32)
        >>> itself = evidence_of(lq, lq / 2)  # the same in half the contrast
        >>> [round(float(x.mean()), 1) for x in (itself.rho, itself.fine, itself.gain)]
        [1.0, 1.0, 2.0]
        >>> float(evidence_of(lq, torch.rand(1, 3, 24, 32)).rho.mean()) < 0.3
        True
    """
    known = _known(lq, valid)
    y, w = lq.mean(1, keepdim=True), soft.mean(1, keepdim=True)
    mean = _mean_where(known)
    y_mean, w_mean = mean(y), mean(w)
    y_var = (mean(y * y) - y_mean**2).clamp(min=0)
    w_var = (mean(w * w) - w_mean**2).clamp(min=0)
    both = mean(y * w) - y_mean * w_mean
    rho = both / ((y_var + ROUNDING) * (w_var + ROUNDING)).sqrt()
    gain = (both / (w_var + ROUNDING)).clamp(0, MOST_GAIN)
    return Evidence(rho.clamp(0, 1) * known, _fine(lq, soft, known), gain * known)


def explained_by(lq: Tensor, soft: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What a reference says that the observation is: linear regression in windows, of each colour.

    Args:
        lq, soft, valid: as of ``evidence_of``.

    Returns:
        (N, 3, h, w), ``mean(y) + a (A W - mean(A W))`` with a in [0, 2], and (N, 1, h, w), the
        variance of what it leaves of y, the mean of the colours. Without meaning where W is not
        valid.
    """
    mean = _mean_where(_known(lq, valid))
    y_mean, w_mean = mean(lq), mean(soft)
    y_var = (mean(lq * lq) - y_mean**2).clamp(min=0)
    w_var = (mean(soft * soft) - w_mean**2).clamp(min=0)
    both = mean(lq * soft) - y_mean * w_mean
    gain = (both / (w_var + ROUNDING)).clamp(0, MOST_GAIN)
    left = y_var - 2 * gain * both + gain**2 * w_var
    return y_mean + gain * (soft - w_mean), left.mean(1, keepdim=True).clamp(min=0)


def _known(lq: Tensor, valid: Tensor | None) -> Tensor:
    """(N, 1, h, w): 1 where the reference shows something."""
    return torch.ones_like(lq[:, :1]) if valid is None else valid.to(lq).expand_as(lq[:, :1])


def _mean_where(known: Tensor) -> Callable[[Tensor], Tensor]:
    """Means in windows, of what is known."""
    share = _windowed(known).clamp(min=1e-6)
    return lambda x: _windowed(x * known) / share


def _fine(lq: Tensor, soft: Tensor, known: Tensor) -> Tensor:
    y, w = ((image - _blurred(image, FINE)) * known for image in (lq, soft))
    y_var, w_var, both = (
        _blurred(product.mean(1, keepdim=True), FINE_WINDOW) for product in (y * y, w * w, y * w)
    )
    rho = both / ((y_var + FINE_ROUNDING) * (w_var + FINE_ROUNDING)).sqrt()
    return rho.clamp(0, 1) * known


def _windowed(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, [WINDOW // 2] * 4, mode='replicate'), WINDOW, stride=1)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """By a Gaussian, in pixels."""
    reach = int(4 * sigma)
    places = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-places.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.pad(x, [reach] * 4, mode='replicate')
    x = F.conv2d(x, kernel, groups=x.shape[1])
    return F.conv2d(x, kernel.transpose(-1, -2), groups=x.shape[1])
