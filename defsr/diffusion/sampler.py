"""DDNM and DDNM+: sampling the null space of a degradation with a pre-trained denoiser.

Equation numbers are those of the DDNM paper (Wang et al., ICLR 2023) and of DEF. Where the
published DDNM code and its paper differ, the functions say which is followed. All images are
in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from defsr.diffusion.operators import LinearOperator
from defsr.diffusion.schedule import NoiseSchedule
from defsr.diffusion.steps import (
    diffuse,
    noisy_shares,
    predict_x0,
    rectify_noisy,
    renoise,
    renoise_ddim,
    renoise_ddpm,
    renoise_noisy,
)
from defsr.diffusion.times import sampling_moves, time_grid
from defsr.utils.checks import check_at_least, check_between, check_choice

RULES = ('ddnm', 'ddim', 'ddpm')
STARTS = ('noise', 'lq')
Denoiser = Callable[[Tensor, Tensor], Tensor]
Generators = torch.Generator | Sequence[torch.Generator]


@torch.no_grad()
def ddnm_sample(
    denoiser: Denoiser,
    y: Tensor,
    operator: LinearOperator,
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    eta: float = 0.85,
    sigma_y: float = 0.0,
    travel: Sequence[int] = (1, 1),
    x_T: Tensor | None = None,
    noise: Iterable[Tensor] | None = None,
    generator: Generators | None = None,
    start: Literal['noise', 'lq'] = 'noise',
    start_alpha_bar: float = 0.5,
    x0_start: Tensor | None = None,
    end_alpha_bar: float = 1.0,
    temperature: float = 1.0,
    grid: Literal['ddnm', 'trailing', 'log_snr'] = 'ddnm',
    rule: Literal['ddnm', 'ddim', 'ddpm'] = 'ddnm',
    hold: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Sample an image that degrades to ``y`` and looks real to ``denoiser`` (DEF Eq. 8-9).

    Memory does not grow with the number of steps. Following DDNM's code, nothing is clipped.

    Args:
        denoiser: ``(x_t, t) -> eps``; x_t (N,C,H,W), t (N,) float timesteps of ``schedule``,
            result (N,C,H,W), or (N,2C,H,W) of which the variance half is ignored.
        y: (N,C,h,w) in [-1, 1], floating point.
        operator: the degradation that made ``y``.
        schedule: the noise levels to sample with, T of them.
        num_steps: reverse steps, 1..T. On the default grid take a divisor of T: otherwise the
            chain starts well below the schedule's noisiest level.
        eta: share of fresh noise *per step* in DDNM's convention, not DDIM's: 0 (deterministic
            but for x_T) .. 1. The larger, the less varied the samples, for any num_steps: for a
            Gaussian prior of variance 0.25, 1000 steps give 0.25 at 0, 0.19 at 0.85, 0.12 at 1.
        sigma_y: noise standard deviation of ``y`` in y's units ([-1, 1]), >= 0; above 0, DDNM+.
        travel: (length, repeats) of the time travel, both >= 1; (1, 1) is none.
        x_T: (N,C,H,W), the starting noise; drawn if None.
        noise: source of all noise instead of a generator: (N,C,H,W) tensors in the order of use,
            first x_T unless given, then one per move in time.
        generator: one for the batch, or a list of one per sample, which makes a sample
            independent of its batch. Noise is drawn in float32 on the CPU whatever y's device.
            None: PyTorch's global one.
        start: ``noise``, or ``lq``: from A_pinv y with noise of level ``start_alpha_bar``. The
            steps are spent below that level, and nothing above it is ever seen.
        start_alpha_bar: for ``start='lq'``, 0..1.
        x0_start: for ``start='lq'``, (N,C,H,W) another image to start from than A_pinv y.
        end_alpha_bar: cleaner levels are not visited, 0..1: the last ones cost steps and change
            little.
        temperature: factor of x_T and of all fresh noise, 0..1, while the denoiser is told the
            full level. 1 samples; 0 is deterministic and, with eta = 1, plug-and-play
            restoration (denoise ever more gently and project; IRCNN, DPIR), whose result is
            smoother than a sample and nearer to the posterior mean.
        grid: which timesteps are visited, see ``defsr.diffusion.times.time_grid``.
        rule: how x_{t-1} is made of the rectified x0: ``ddnm`` (the published code), ``ddim``
            (eta in DDIM's sense) or ``ddpm`` (the posterior, DDNM's paper; eta is not used).
        hold: changes each rectified x0, to hold a part of it fixed (DDNM's mask-shift).
        progress: called as ``progress(step, num_steps)`` after each call of the denoiser, with
            the repeats of the time travel in the count.

    Returns:
        (N,C,H,W), the last rectified x0, not clamped. For sigma_y = 0, ``A`` of it is ``y``.

    Raises:
        ValueError: for options out of range, a wrong shape, or too little ``noise``.
    """
    times = check_sampling(
        schedule,
        num_steps=num_steps,
        eta=eta,
        sigma_y=sigma_y,
        travel=travel,
        start=start,
        start_alpha_bar=start_alpha_bar,
        end_alpha_bar=end_alpha_bar,
        temperature=temperature,
        grid=grid,
        rule=rule,
    )
    _check_measurement(y)
    # A_pinv of y costs little and knows the image size for any operator.
    base = operator.A_pinv(y)
    shape = base.shape
    source = _noise_source(shape, y, noise, generator)

    def draw() -> Tensor:
        return source() if temperature == 1 else temperature * source()

    x_t = draw() if x_T is None else temperature * _check_shape('x_T', x_T, shape).to(y)
    if start == 'lq':
        if x0_start is not None:
            base = _check_shape('x0_start', x0_start, shape).to(y)
        x_t = diffuse(base, x_t, float(schedule.alpha_bar_at(times[-1])))
    del base
    singular = operator.singular_values(*shape[-2:]).to(y) if sigma_y > 0 else None
    moves = sampling_moves(times, travel)
    num_calls = sum(t_next < t for t, t_next in moves)
    step = 0
    x0 = x0_hat = x_t
    for t, t_next in moves:
        alpha_bar, alpha_bar_next = (float(schedule.alpha_bar_at(time)) for time in (t, t_next))
        if t_next > t:
            x_t = diffuse(x0, draw(), alpha_bar_next)
            continue
        x0 = x0_hat = eps = None  # the denoiser needs x_t and the memory
        eps = _predict_noise(denoiser, x_t, t)
        x0 = predict_x0(x_t, eps, alpha_bar)
        if singular is not None:
            shares = noisy_shares(singular, alpha_bar_next, eta, sigma_y)
            x0_hat = rectify_noisy(x0, y, operator, shares[0])
            x0_hat = hold(x0_hat) if hold else x0_hat
            x_t = renoise_noisy(x0_hat, eps, draw(), alpha_bar_next, operator, shares[1:])
        else:
            x0_hat = operator.project(x0, y)
            x0_hat = hold(x0_hat) if hold else x0_hat
            if rule == 'ddnm':
                x_t = renoise(x0_hat, eps, draw(), alpha_bar_next, eta)
            elif rule == 'ddim':
                x_t = renoise_ddim(x0_hat, eps, draw(), alpha_bar, alpha_bar_next, eta)
            else:
                x_t = renoise_ddpm(x0_hat, x_t, draw(), alpha_bar, alpha_bar_next)
        step += 1
        if progress is not None:
            progress(step, num_calls)
    return x0_hat


def check_sampling(
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    eta: float,
    sigma_y: float,
    travel: Sequence[int],
    start: str,
    start_alpha_bar: float,
    end_alpha_bar: float,
    temperature: float,
    grid: str,
    rule: str,
) -> list[int]:
    """Refuse sampling options out of range (ValueError names the option); see ``ddnm_sample``.

    Returns:
        The timesteps to visit, from the cleanest to the noisiest.
    """
    _check_integer('diffusion:num_steps', num_steps)
    check_choice('diffusion:start', start, STARTS)
    check_between('diffusion:start_alpha_bar', start_alpha_bar, 0, 1)
    check_between('diffusion:end_alpha_bar', end_alpha_bar, 0, 1)
    check_between('diffusion:temperature', temperature, 0, 1)
    check_choice('diffusion:rule', rule, RULES)
    check_between('diffusion:eta', eta, 0, 1)
    check_at_least('diffusion:sigma_y', sigma_y, 0)
    if sigma_y and rule != 'ddnm':
        raise ValueError(
            f'diffusion:rule is {rule}, but a noisy input (sigma_y = {sigma_y:g}) is handled by '
            'DDNM+, which has its own. Set `rule: ddnm`.'
        )
    if not isinstance(travel, Sequence) or len(travel) != 2:
        raise ValueError(
            f'diffusion:travel is {travel!r}, but must be two integers, [length, repeats]. '
            '[1, 1] means no time travel.'
        )
    for name, value in zip(('length', 'repeats'), travel, strict=True):
        _check_integer(f'diffusion:travel {name}', value)
        check_at_least(f'diffusion:travel {name}', value, 1)
    lowest = start_alpha_bar if start == 'lq' else 0
    return time_grid(schedule, num_steps, grid, lowest, end_alpha_bar)


def _predict_noise(denoiser: Denoiser, x_t: Tensor, t: int) -> Tensor:
    out = denoiser(x_t, torch.full((len(x_t),), float(t), device=x_t.device))
    num_ch = x_t.shape[1]
    expected = {(len(x_t), k * num_ch, *x_t.shape[2:]) for k in (1, 2)}
    if tuple(out.shape) not in expected:
        raise ValueError(
            f'The denoiser made {tuple(out.shape)} of x_t {tuple(x_t.shape)}; expected its '
            f'shape, or {2 * num_ch} channels with a learned variance. Check num_out_ch.'
        )
    return out[:, :num_ch].to(x_t)


def _noise_source(
    shape: torch.Size,
    like: Tensor,
    noise: Iterable[Tensor] | None,
    generator: Generators | None,
) -> Callable[[], Tensor]:
    """A function that returns the next noise tensor, with ``like``'s dtype and device."""
    if noise is not None:
        if generator is not None:
            raise ValueError('Both noise and generator are given; pass one of them.')
        source = iter(noise)

        def draw_given() -> Tensor:
            item = next(source, None)
            if item is None:
                raise ValueError('noise ran out: give one tensor per move in time.')
            return _check_shape('noise', item, shape).to(like)

        return draw_given
    if generator is None or isinstance(generator, torch.Generator):
        return lambda: _randn(shape, generator).to(like)
    if len(generator) != shape[0]:
        raise ValueError(f'{len(generator)} generators for {shape[0]} samples; give one each.')
    return lambda: torch.stack([_randn(shape[1:], each) for each in generator]).to(like)


def _randn(shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Float32 on the CPU, so that a seed means the same noise for any device and dtype."""
    return torch.randn(shape, generator=generator, dtype=torch.float32, device='cpu')


def _check_measurement(y: Tensor) -> None:
    if y.ndim != 4 or not y.is_floating_point():
        raise ValueError(
            f'y is {y.dtype} of shape {tuple(y.shape)}, but must be floating point (N, C, h, w) '
            'in [-1, 1].'
        )


def _check_shape(name: str, x: Tensor, shape: torch.Size) -> Tensor:
    if x.shape != shape:
        raise ValueError(f'{name} is {tuple(x.shape)}, but must be {tuple(shape)}, as x0.')
    return x


def _check_integer(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f'{name} is {value!r}, but must be an integer.')
