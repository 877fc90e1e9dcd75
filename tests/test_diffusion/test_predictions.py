from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from defsr.diffusion.predictions import (
    PREDICTIONS,
    eps_from,
    min_snr_weight,
    target_of,
    x0_from,
)


@pytest.fixture
def state(rng):
    x0, eps = torch.randn(2, 2, 3, 5, 7, generator=rng, dtype=torch.float64)
    alpha_bar = torch.tensor([0.3, 0.98], dtype=torch.float64).view(2, 1, 1, 1)
    return x0, eps, alpha_bar, alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps


@pytest.mark.parametrize('prediction', PREDICTIONS)
def test_a_perfect_answer_gives_image_and_noise_back(prediction, state):
    x0, eps, alpha_bar, x_t = state
    answer = target_of(prediction, x0, eps, alpha_bar)
    assert_close(x0_from(prediction, answer, x_t, alpha_bar), x0, rtol=0, atol=1e-10)
    assert_close(eps_from(prediction, answer, x_t, alpha_bar), eps, rtol=0, atol=1e-10)


@pytest.mark.parametrize('prediction', PREDICTIONS)
@pytest.mark.parametrize('gamma', [0.1, 5.0])
def test_the_weight_is_min_snr_on_the_image(prediction, gamma, state, rng):
    """Whatever the error is measured on: the weighted squared error is that of x0 times
    min(SNR, gamma)."""
    x0, eps, alpha_bar, x_t = state
    target = target_of(prediction, x0, eps, alpha_bar)
    answer = target + torch.randn(target.shape, generator=rng, dtype=target.dtype)
    weighted = min_snr_weight(prediction, alpha_bar, gamma) * (answer - target) ** 2
    on_x0 = (x0_from(prediction, answer, x_t, alpha_bar) - x0) ** 2
    snr = alpha_bar / (1 - alpha_bar)
    assert_close(weighted, snr.clamp(max=gamma) * on_x0)
