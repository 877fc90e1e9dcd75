"""The gradient penalty of WGAN-GP."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean of (||d D(x) / d x||_2 - 1)^2 at random points x between real and fake samples.

    The norm is over all elements of a sample, as WGAN-GP defines it (Gulrajani et al. 2017,
    Eq. 3). BasicSR's ``gradient_penalty_loss`` takes the norm over the channels only, pixel by
    pixel, and so asks for another, image-size dependent slope.

    Args:
        discriminator: (N,3,H,W) -> scores; several scores of one sample are summed. One sample's
            scores must not depend on the others (no batch normalisation).
        real: (N,3,H,W).
        fake: (N,3,H,W); no gradient flows to it.
        generator: source of the N mixing factors, on any device. Default: the global one.

    Returns:
        A scalar that can be differentiated with respect to the discriminator's parameters.

    Raises:
        ValueError: if the shapes differ.
    """
    if real.shape != fake.shape:
        raise ValueError(
            f'real is {tuple(real.shape)}, fake is {tuple(fake.shape)}: the shapes must be equal. '
            'Check gt_size and scale in the option file.'
        )
    device = real.device if generator is None else generator.device
    eps = torch.rand(real.shape[0], device=device, generator=generator).to(real)
    eps = eps.view(-1, *[1] * (real.ndim - 1))
    with torch.enable_grad():
        mixed = (eps * real.detach() + (1 - eps) * fake.detach()).requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(mixed).sum(), mixed, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
