"""DDNM on images of any size: four ways to divide the work, one data consistency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from defsr.diffusion.operators import LinearOperator
from defsr.diffusion.sampler import Denoiser, ddnm_sample
from defsr.diffusion.schedule import NoiseSchedule
from defsr.diffusion.windows import CanvasNoise, Window, WindowedDenoiser, cover
from defsr.utils.checks import check_choice

Strategy = Literal['full', 'blend', 'replace', 'mask_shift']
STRATEGIES = ('full', 'blend', 'replace', 'mask_shift')
Progress = Callable[[int, int], None]


def sample_any_size(
    denoiser: Denoiser,
    y: Tensor,
    operator: LinearOperator,
    schedule: NoiseSchedule,
    noise: CanvasNoise,
    sampling: Mapping[str, object],
    *,
    strategy: Strategy = 'full',
    side: int = 256,
    overlap: int = 128,
    windows_per_batch: int = 8,
    progress: Progress | None = None,
) -> Tensor:
    """``ddnm_sample`` on an image that may be larger than the denoiser's.

    Args:
        denoiser, y, operator, schedule: as ``ddnm_sample``'s.
        noise: all noise, drawn by place: each strategy sees the same.
        sampling: the other arguments of ``ddnm_sample``: num_steps, eta, sigma_y and so on.
        strategy:
            ``full``: the whole image at once (a convolutional denoiser takes any size).
            ``blend``: in each step all windows as batches, their predictions blended, then one
            projection of the whole image. No window ever sees an end of its own.
            ``replace``: window after window, a later one replaces an earlier one (DEF section 3).
            ``mask_shift``: window after window; what an earlier one made of the overlap is held
            in each step of the later one (DDNM's mask-shift).
        side: of a window in HR pixels, a multiple of the scale and of the denoiser's stride.
        overlap: of neighbouring windows in HR pixels; DEF takes half of ``side``.
        windows_per_batch: for ``blend``.
        progress: ``progress(step, num_steps)`` after each step of each window.

    Returns:
        (N,C,H,W), not clamped. Every strategy ends with ``A`` of it equal to ``y`` on the whole
        image, if sigma_y = 0.

    Raises:
        ValueError: for an unknown strategy, and for what ``ddnm_sample`` refuses.
    """
    check_choice('diffusion:strategy', strategy, STRATEGIES)
    scale = operator.scale
    height, width = (scale * length for length in y.shape[-2:])
    whole = Window(0, height, 0, width)
    windows = [whole]
    if strategy != 'full':
        windows = cover(height, width, side, overlap, scale)
    sample = partial(ddnm_sample, operator=operator, schedule=schedule, **sampling)
    if len(windows) == 1 or strategy == 'blend':
        if len(windows) > 1:
            denoiser = WindowedDenoiser(denoiser, windows, overlap, windows_per_batch)
        return sample(denoiser, y, noise=noise.stream(whole), progress=progress)
    x0 = y.new_zeros(*y.shape[:2], height, width)
    hold = strategy == 'mask_shift'
    _one_by_one(partial(sample, denoiser), x0, y, noise, windows, hold=hold, progress=progress)
    return x0 if sampling.get('sigma_y') else operator.project(x0, y)


def _one_by_one(
    sample: Callable[..., Tensor],
    x0: Tensor,
    y: Tensor,
    noise: CanvasNoise,
    windows: list[Window],
    *,
    hold: bool,
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
