"""gradient_penalty against critics whose slope is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from defsr.losses.gradient_penalty import gradient_penalty


@pytest.fixture
def real(rng) -> torch.Tensor:
    return torch.rand(2, 3, 5, 7, generator=rng, dtype=torch.float64)


@pytest.fixture
def fake(rng, real) -> torch.Tensor:
    return torch.rand(real.shape, generator=rng, dtype=torch.float64)


def test_linear_critic_has_one_norm_over_the_whole_sample(real, fake, rng):
    """D(x) = <w, x>: the penalty is (|w| - 1)^2 and its gradient 2 (|w| - 1) w / |w|."""
    w = torch.rand(3, 5, 7, generator=rng, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(lambda x: (x * w).sum((1, 2, 3)), real, fake)
    norm = w.detach().square().sum().sqrt()
    assert_close(penalty, (norm - 1) ** 2)
    penalty.backward()
    assert_close(w.grad, 2 * (norm - 1) * w.detach() / norm)


def test_quadratic_critic_sees_the_mixture_of_each_sample(real, fake):
    """D(x) = |x|^2 / 2 has gradient x, so the penalty tells where it was taken."""
    penalty = gradient_penalty(
        lambda x: x.square().sum((1, 2, 3)) / 2, real, fake, torch.Generator().manual_seed(5)
    )
    eps = torch.rand(2, generator=torch.Generator().manual_seed(5)).double().view(2, 1, 1, 1)
    assert eps[0] != eps[1]
    mixed = eps * real + (1 - eps) * fake
    norms = mixed.square().sum((1, 2, 3)).sqrt()
    assert_close(penalty, ((norms - 1) ** 2).mean())


def test_generator_leaves_the_global_one_alone(real, fake):
    state = torch.get_rng_state()
    gradient_penalty(lambda x: x.square().sum(), real, fake, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_gradient_reaches_the_critic_only_and_works_without_grad_mode(real, fake):
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3)).double()
    fake.requires_grad_()
    gradient_penalty(critic, real, fake).backward()
    assert critic[0].weight.grad.abs().sum() > 0
    assert fake.grad is None
    with torch.no_grad():
        assert gradient_penalty(critic, real, fake) >= 0


def test_flat_critic_gives_one_without_nan(real, fake):
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(lambda x: scale * x.sum((1, 2, 3)), real, fake)
    penalty.backward()
    assert penalty == 1 and torch.isfinite(scale.grad)


def test_shapes_must_agree(real, fake):
    with pytest.raises(ValueError, match='gt_size'):
        gradient_penalty(lambda x: x.sum(), real, fake[..., 1:])
