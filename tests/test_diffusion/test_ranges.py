"""The converters between [0, 1] and [-1, 1]."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from defsr.diffusion import from_signed, sigma_to_signed, to_signed


def test_ends_and_middle():
    assert_close(to_signed(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-1.0, 0.0, 1.0]))


def test_from_signed_inverts_and_does_not_clamp(rng):
    x = 3 * torch.randn(2, 3, 4, 5, generator=rng)
    assert_close(from_signed(to_signed(x)), x)
    assert from_signed(torch.tensor(3.0)) == 2


def test_sigma_is_the_noise_after_conversion(rng):
    x = torch.rand(1000, generator=rng)
    noise = 0.1 * torch.randn(1000, generator=rng)
    signed = to_signed(x + noise) - to_signed(x)
    assert_close(signed, sigma_to_signed(0.1) * noise / 0.1, rtol=0, atol=1e-6)
