"""DDNM on images of any size: four ways to divide the work, one data consistency."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from defsr.diffusion.operators import LinearOperator
from defsr.diffusion.options import SamplingOptions
from defsr.diffusion.reference_null_space import Filling
from defsr.diffusion.sampler import Denoiser, ddnm_sample
from defsr.diffusion.windows import CanvasNoise, Window, WindowedDenoiser, cover

Progress = Callable[[int, int], None]


def sample_any_size(
    denoiser: Denoiser,
    y: Tensor,
    operator: LinearOperator,
    sampling: SamplingOptions,
    noise: CanvasNoise,
    progress: Progress | None = None,
    fill: Filling | None = None,
) -> Tensor:
    """``ddnm_sample`` on an image that may be larger than the denoiser's.

    Args:
        denoiser, y, operator, sampling: as ``ddnm_sample``'s.
        noise: all noise, drawn by place: each strategy sees the same.
        progress: ``progress(step, num_steps)`` after each step of each window.
        fill: of the whole image, in [-1, 1].

    Returns:
        (N,C,H,W), not clamped. Every strategy ends with ``A`` of it equal to ``y`` on the whole
        image, if sigma_y = 0.

    Raises:
        ValueError: for windows that do not fit the scale, and for what ``ddnm_sample`` refuses.
    """
    scale = operator.scale
    height, width = (scale * length for length in y.shape[-2:])
    whole = Window(0, height, 0, width)
    windows = [whole]
    if sampling.strategy != 'full':
        windows = cover(height, width, sampling.tile, sampling.overlap, scale)
    sample = partial(ddnm_sample, operator=operator, sampling=sampling)
    if len(windows) == 1 or sampling.strategy == 'blend':
        if len(windows) > 1:
            denoiser = WindowedDenoiser(
                denoiser, windows, sampling.overlap, sampling.windows_per_batch
            )
        return sample(denoiser, y, noise=noise.stream(whole), fill=fill, progress=progress)
    x0 = y.new_zeros(*y.shape[:2], height, width)
    hold = sampling.strategy == 'mask_shift'
    one = partial(sample, denoiser)
    _one_by_one(one, x0, y, noise, windows, hold=hold, fill=fill, progress=progress)
    return x0 if sampling.sigma else operator.project(x0, y)


def _one_by_one(
    sample: Callable[..., Tensor],
    x0: Tensor,
    y: Tensor,
    noise: CanvasNoise,
    windows: list[Window],
    *,
    hold: bool,
    fill: Filling | None,
    progress: Progress | None,
) -> None:
    """Sample window after window into ``x0``."""
    scale = x0.shape[-1] // y.shape[-1]
    known = torch.zeros(x0.shape[-2:], dtype=torch.bool, device=y.device)
    for number, window in enumerate(windows):
        made, is_made = window.cut(x0), window.cut(known)
        keep = _holder(made.clone(), is_made.clone()) if hold and number else None
        made.copy_(
            sample(
                window.cut(y, scale),
                noise=noise.stream(window),
                fill=None if fill is None else fill.map(window.cut),
                hold=keep,
                progress=_part_of(progress, number, len(windows)),
            )
        )
        is_made.fill_(True)


def _holder(made: Tensor, is_made: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x0_hat: torch.where(is_made, made, x0_hat)


def _part_of(progress: Progress | None, number: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda step, steps: progress(number * steps + step, total * steps)
