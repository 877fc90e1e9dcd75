"""DDNM and DDNM+: sampling the null space of a degradation with a pre-trained denoiser.

Equation numbers are those of the DDNM paper (Wang et al., ICLR 2023) and of DEF. Where the
published DDNM code and its paper differ, the functions say which is followed. All images are
in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from defsr.diffusion.operators import LinearOperator
from defsr.diffusion.schedule import NoiseSchedule
from defsr.utils.checks import check_at_least, check_between

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
        num_steps: reverse steps, 1..T, on the grid ``t = i * (T // num_steps)``. Take a divisor
            of T: otherwise the chain starts well below the schedule's noisiest level.
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
        progress: called as ``progress(step, num_steps)`` after each call of the denoiser, with
            the repeats of the time travel in the count.

    Returns:
        (N,C,H,W), the last rectified x0, not clamped. For sigma_y = 0, ``A`` of it is ``y``.

    Raises:
        ValueError: for options out of range, a wrong shape, or too little ``noise``.
    """
    check_sampling(num_steps, eta, sigma_y, travel, schedule.num_train_steps)
    _check_measurement(y)
    # A_pinv of y costs little and knows the image size for any operator.
    shape = operator.A_pinv(y).shape
    draw = _noise_source(shape, y, noise, generator)
    x_t = draw() if x_T is None else _check_shape('x_T', x_T, shape).to(y)
    singular = operator.singular_values(*shape[-2:]).to(y) if sigma_y > 0 else None
    moves = sampling_moves(num_steps, schedule.num_train_steps, travel)
    num_calls = sum(t_next < t for t, t_next in moves)
    step = 0
    x0 = x0_hat = x_t
    for t, t_next in moves:
        alpha_bar_next = float(schedule.alpha_bar_at(t_next))
        if t_next > t:
            x_t = diffuse(x0, draw(), alpha_bar_next)
            continue
        eps = _predict_noise(denoiser, x_t, t)
        x0 = predict_x0(x_t, eps, float(schedule.alpha_bar_at(t)))
        if singular is None:
            x0_hat = operator.project(x0, y)
            x_t = renoise(x0_hat, eps, draw(), alpha_bar_next, eta)
        else:
            shares = noisy_shares(singular, alpha_bar_next, eta, sigma_y)
            x0_hat = rectify_noisy(x0, y, operator, shares[0])
            x_t = renoise_noisy(x0_hat, eps, draw(), alpha_bar_next, operator, shares[1:])
        step += 1
        if progress is not None:
            progress(step, num_calls)
    return x0_hat


def check_sampling(
    num_steps: int, eta: float, sigma_y: float, travel: Sequence[int], num_train_steps: int
) -> None:
    """Refuse sampling options out of range; see ``ddnm_sample``. ValueError names the option."""
    _check_integer('diffusion:num_steps', num_steps)
    check_between('diffusion:num_steps', num_steps, 1, num_train_steps)
    check_between('diffusion:eta', eta, 0, 1)
    check_at_least('diffusion:sigma_y', sigma_y, 0)
    if not isinstance(travel, Sequence) or len(travel) != 2:
        raise ValueError(
            f'diffusion:travel is {travel!r}, but must be two integers, [length, repeats]. '
            '[1, 1] means no time travel.'
        )
    for name, value in zip(('length', 'repeats'), travel, strict=True):
        _check_integer(f'diffusion:travel {name}', value)
        check_at_least(f'diffusion:travel {name}', value, 1)


def sampling_moves(
    num_steps: int, num_train_steps: int, travel: Sequence[int] = (1, 1)
) -> list[tuple[int, int]]:
    """The moves in time, (from, to), of DDNM with time travel (DDNM Algorithm 2).

    Without travel the grid ``i * (num_train_steps // num_steps)`` is walked down, from
    i = num_steps - 1 to 0 and on to -1, the clean image. With travel (length, repeats), each
    arrival at a grid index that is a multiple of ``length`` (the topmost stretch apart) is
    followed by ``repeats - 1`` excursions: ``length`` moves up, the same moves down again.
    """
    length, repeats = travel
    skip = num_train_steps // num_steps
    path = []
    for index in reversed(range(num_steps)):
        path.append(index)
        if index % length == 0 and index < num_steps - length:
            up = range(index + 1, index + length + 1)
            down = range(index + length - 1, index - 1, -1)
            path.extend([*up, *down] * (repeats - 1))
    times = [index * skip for index in path] + [-1]
    return list(zip(times[:-1], times[1:], strict=True))


def predict_x0(x_t: Tensor, eps: Tensor, alpha_bar: float) -> Tensor:
    """``x_{0|t}``, the clean image behind ``x_t`` if ``eps`` is its noise (DDNM Eq. 12)."""
    return (x_t - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5


def diffuse(x0: Tensor, noise: Tensor, alpha_bar: float) -> Tensor:
    """``x0`` with noise up to a level: q(x_t | x_0). Time travel applies it to ``x_{0|t}``.

    The published code re-noises the *unrectified* prediction, and so do we.
    """
    return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise


def renoise(
    x0_hat: Tensor, eps: Tensor, noise: Tensor, alpha_bar_next: float, eta: float
) -> Tensor:
    """``x_{t-1}`` from the rectified ``x0_hat`` (DDNM Eq. 14).

    The paper takes DDPM's posterior; we follow the published code, whose noise is a mixture of
    a fresh and of the predicted one with shares eta and sqrt(1 - eta^2).
    """
    mixed = eta * noise + (1 - eta**2) ** 0.5 * eps
    return alpha_bar_next**0.5 * x0_hat + (1 - alpha_bar_next) ** 0.5 * mixed


def noisy_shares(
    singular: Tensor, alpha_bar_next: float, eta: float, sigma_y: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What DDNM+ does to each spectral coefficient (DDNM Eq. 17-19 in their SVD form).

    With a = sqrt(alpha_bar_next), sigma_t = sqrt(1 - alpha_bar_next) and a singular value s, the
    noise of ``y`` arrives in x_{t-1} as a * sigma_y / s. Below sigma_t it replaces part of the
    fresh noise; above, the correction is weakened until it fits.

    Args:
        singular: (H,W) singular values, 0 in the null space.
        alpha_bar_next: noise level of the next state.
        eta: share of fresh noise, 0..1.
        sigma_y: noise standard deviation of y, > 0.

    Returns:
        ``(correction, fresh, kept)``, each (H,W): the diagonal of Sigma_t, and the factors of
        the fresh and of the predicted noise, which add up to Phi_t. In the null space they are
        DDNM's. The noise variance of a coefficient of x_{t-1} is sigma_t^2 in every case.
    """
    a, sigma_t = alpha_bar_next**0.5, (1 - alpha_bar_next) ** 0.5
    kept_share = (1 - eta**2) ** 0.5
    measured = singular > 0
    arriving = a * sigma_y / torch.where(measured, singular, 1)
    fits = arriving <= sigma_t
    correction = torch.where(fits | ~measured, 1.0, sigma_t * kept_share / arriving)
    rest = (sigma_t**2 - arriving**2).clamp(min=0).sqrt()
    fresh = torch.where(measured & fits, rest, sigma_t * eta)
    kept = torch.where(measured, 0.0, torch.full_like(singular, sigma_t * kept_share))
    return correction, fresh, kept


def rectify_noisy(x0: Tensor, y: Tensor, operator: LinearOperator, correction: Tensor) -> Tensor:
    """``x0_hat = x0 - Sigma_t A_pinv (A x0 - y)`` (DDNM Eq. 17), Sigma_t = V correction V^T."""
    error = operator.to_spectral(operator.A_pinv(operator.A(x0) - y))
    return x0 - operator.from_spectral(correction * error)


def renoise_noisy(
    x0_hat: Tensor,
    eps: Tensor,
    noise: Tensor,
    alpha_bar_next: float,
    operator: LinearOperator,
    shares: Sequence[Tensor],
) -> Tensor:
    """``x_{t-1}`` of DDNM+ (DDNM Eq. 18): the noise is weighted in the spectral basis.

    Both kinds of noise are taken to the basis first, which the published operators leave out.
    """
    fresh, kept = shares
    mixed = fresh * operator.to_spectral(noise) + kept * operator.to_spectral(eps)
    return alpha_bar_next**0.5 * x0_hat + operator.from_spectral(mixed)


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
