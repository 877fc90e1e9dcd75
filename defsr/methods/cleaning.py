"""Noise and traces of JPEG taken off an input before it is enlarged. Not in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from defsr.archs.told_denoiser import ToldDenoiser
from defsr.diffusion.ranges import alpha_bar_of, from_signed, to_signed
from defsr.diffusion.reference_null_space import Best
from defsr.ops.evidence import explained_by
from defsr.ops.exact import exact
from defsr.ops.input_quality import CLEAN_NOISE, Faults
from defsr.ops.padding import pad_edge
from defsr.ops.tiles import make_tiles

QUALITIES = ('clean', 'photo', 'auto')
LEFT = 0.3  # of the variance of noise, what a denoiser leaves
ASSUMED = 0.2  # of it, least variance of what references predict: windows are small
TILE = 512  # LR pixels


class Cleaner:
    """A denoiser that is told how much noise there is, for images with faults.

    Args:
        denoiser: ``(x_t, t) -> x0``, a ``ToldDenoiser`` such as ``FFDNet``.
        quality: what inputs are. ``auto``: their faults are looked for, and only those that have
            some are cleaned. ``photo``: all have at least as much noise as can be seen.

    Raises:
        ValueError: for another denoiser.
    """

    def __init__(self, denoiser: Any, quality: str) -> None:
        if not isinstance(denoiser, ToldDenoiser):
            raise ValueError(
                f'network_c is {type(denoiser).__name__}, but must be a denoiser that is told the '
                'noise level and answers with the image. Use FFDNet or DRUNet.'
            )
        self.denoiser, self.quality = denoiser, quality

    def faults(self, lq: Tensor) -> list[Faults]:
        """Of each image of (N, 3, h, w) in [0, 1]."""
        found = [Faults.of(one) for one in lq]
        if self.quality == 'photo':
            found = [Faults(max(one.noise, CLEAN_NOISE), one.jpeg) for one in found]
        return found

    @torch.no_grad()
    def __call__(self, lq: Tensor, faults: Sequence[Faults]) -> Tensor:
        """(N, 3, h, w) in [0, 1] without its faults; images that have none stay as they are."""
        deviations = _deviations(faults, lq)
        sigma = exact(deviations)
        schedule = self.denoiser.trained_schedule
        t = schedule.timesteps_at(alpha_bar_of(sigma.flatten()))
        state = to_signed(lq) * schedule.alpha_bar_at(t).sqrt().to(lq).view(-1, 1, 1, 1)
        cleaned = lq.clone()
        height, width = lq.shape[-2:]
        for piece in make_tiles(height, width, side=TILE, overlap=self.denoiser.around):
            part = self._denoised(state[piece.outer()], t)
            cleaned[piece.inner()] = part[piece.core()]
        return torch.where(deviations > 0, cleaned, lq)

    def _denoised(self, state: Tensor, t: Tensor) -> Tensor:
        height, width = state.shape[-2:]
        padded = pad_edge(state, self.denoiser.stride)
        return from_signed(self.denoiser(padded, t))[..., :height, :width].clamp(0, 1)


def with_references(
    lq: Tensor, cleaned: Tensor, soft: Tensor, best: Best, faults: Sequence[Faults]
) -> Tensor:
    """A cleaned input, better yet where references explain it.

    Two estimates of the same pixels, weighted by the inverse of their variances: the denoiser's,
    which has left ``LEFT sigma^2``, and the references', a regression of y on A W, which leaves of
    y sigma^2 and its own error. Trusted by rho^2 at most, as colours of another hour also regress.

    Args:
        lq: (N, 3, h, w), y.
        cleaned: of it.
        soft: (N, 3, h, w), A W.
        best: W and its evidence, of the cleaned image.
        faults: of y.

    Returns:
        (N, 3, h, w) in [0, 1].
    """
    variance = _deviations(faults, lq) ** 2
    predicted, left = explained_by(lq, soft, best.valid)
    own = torch.maximum(left - variance, ASSUMED * variance)
    share = LEFT * variance / (LEFT * variance + own).clamp(min=1e-12)
    share = share * best.evidence.rho**2 * best.valid
    return (cleaned + share * (predicted - cleaned)).clamp(0, 1)


def _deviations(faults: Sequence[Faults], lq: Tensor) -> Tensor:
    """(N, 1, 1, 1)."""
    return lq.new_tensor([one.deviation for one in faults]).view(-1, 1, 1, 1)
