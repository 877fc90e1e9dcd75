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
from defsr.diffusion.options import SamplingOptions
from defsr.diffusion.steps import RULES, Step, diffuse, predict_x0
from defsr.diffusion.times import sampling_moves

Denoiser = Callable[[Tensor, Tensor], Tensor]
Generators = torch.Generator | Sequence[torch.Generator]


@torch.no_grad()
def ddnm_sample(
    denoiser: Denoiser,
    y: Tensor,
    operator: LinearOperator,
    sampling: SamplingOptions,
    *,
    x_T: Tensor | None = None,
    noise: Iterable[Tensor] | None = None,
    generator: Generators | None = None,
    x0_start: Tensor | None = None,
    fill: Callable[[Tensor], Tensor] | None = None,
    hold: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Sample an image that degrades to ``y`` and looks real to ``denoiser`` (DEF Eq. 8-9).

    Memory does not grow with the number of steps. Following DDNM's code, nothing is clipped.

    Args:
        denoiser: ``(x_t, t) -> eps``; x_t (N,C,H,W), t (N,) float timesteps of
            ``sampling.levels``, result (N,C,H,W), or (N,2C,H,W) of which the variance half is
            ignored.
        y: (N,C,h,w) in [-1, 1], floating point.
        operator: the degradation that made ``y``.
        sampling: steps, noise and rule; its ``sigma_y`` in y's units.
        x_T: (N,C,H,W), the starting noise; drawn if None.
        noise: source of all noise instead of a generator: (N,C,H,W) tensors in the order of use,
            first x_T unless given, then one per move in time.
        generator: one for the batch, or a list of one per sample, which makes a sample
            independent of its batch. Noise is drawn in float32 on the CPU whatever y's device.
            None: PyTorch's global one.
        x0_start: for ``start: lq``, (N,C,H,W) another image to start from than A_pinv y.
        fill: changes each predicted x0 before it is rectified, to fill the null space from
            elsewhere, and the image of ``start: lq``, in its null space; see ``Filling``.
        hold: changes each rectified x0, to hold a part of it fixed (DDNM's mask-shift).
        progress: called as ``progress(step, num_steps)`` after each call of the denoiser, with
            the repeats of the time travel in the count.

    Returns:
        (N,C,H,W), the last rectified x0, not clamped. For sigma_y = 0, ``A`` of it is ``y``.

    Raises:
        ValueError: for a wrong shape, or too little ``noise``.
    """
    _check_measurement(y)
    # A_pinv of y costs little and knows the image size for any operator.
    base = operator.A_pinv(y)
    shape = base.shape
    source = _noise_source(shape, y, noise, generator)
    temperature, alpha_bar_at = sampling.temperature, sampling.levels.alpha_bar_at

    def draw() -> Tensor:
        return source() if temperature == 1 else temperature * source()

    x_t = draw() if x_T is None else temperature * _check_shape('x_T', x_T, shape).to(y)
    if sampling.start == 'lq':
        if x0_start is not None:
            base = _check_shape('x0_start', x0_start, shape).to(y)
        if fill is not None:
            base = base + _in_null_space(fill(base) - base, operator)
        x_t = diffuse(base, x_t, float(alpha_bar_at(sampling.times[-1])))
    before = base if sampling.extrapolation else None
    del base
    kind = RULES[sampling.rule]
    if sampling.sigma > 0:
        assert kind.noisy is not None  # SamplingOptions refuses the others
        kind = kind.noisy
    rule = kind(y, operator, sampling.eta, sampling.sigma)
    moves = sampling_moves(sampling.times, sampling.travel)
    num_calls = sum(t_next < t for t, t_next in moves)
    step = 0
    x0 = x0_hat = eps = x_t
    for t, t_next in moves:
        alpha_bar, alpha_bar_next = (float(alpha_bar_at(time)) for time in (t, t_next))
        if t_next > t:
            x_t = diffuse(x0, draw(), alpha_bar_next)
            continue
        del x0, x0_hat, eps  # the denoiser needs x_t and the memory
        eps = _predict_noise(denoiser, x_t, t)
        x0 = predict_x0(x_t, eps, alpha_bar)
        x0_hat = rule.rectify(x0 if fill is None else fill(x0), alpha_bar_next)
        if before is not None:
            before, x0_hat = x0_hat, torch.lerp(before, x0_hat, 1 + sampling.extrapolation)
        x0_hat = hold(x0_hat) if hold else x0_hat
        x_t = rule.next_state(Step(x0_hat, x_t, eps, draw(), alpha_bar, alpha_bar_next))
        step += 1
        if progress is not None:
            progress(step, num_calls)
    return x0_hat


def _in_null_space(x: Tensor, operator: LinearOperator) -> Tensor:
    """``(I - A_pinv A) x``."""
    return x - operator.A_pinv(operator.A(x))


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
