"""Noise and traces of JPEG taken off an input."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network
from torch import Tensor

from defsr.archs.ffdnet_arch import FFDNet
from defsr.config.files import load_options
from defsr.diffusion.degradation import Degradation
from defsr.diffusion.reference_null_space import Best
from defsr.methods import cleaning
from defsr.methods.cleaning import Cleaner, with_references
from defsr.ops.evidence import evidence_of, explained_by
from defsr.ops.input_quality import Faults
from defsr.upscaling import NETWORK, Upscaler
from defsr.utils.weights import load_weights

NOISE = Faults(15 / 255, 0.0)
NOTHING = Faults(0.0, 0.0)


@pytest.fixture(scope='module')
def denoiser() -> FFDNet:
    opt = load_options(NETWORK)
    net = build_network(opt['network_c'])
    load_weights(net, opt['path']['pretrain_network_c'], option='weights', network='network_c')
    return net.eval().requires_grad_(False)


@pytest.fixture(scope='module')
def clean(stereo) -> Tensor:
    """(1, 3, 75, 91), both sides odd."""
    return Degradation('matlab', 4).degrade(stereo[0][0, :, :300, 200:564])[None]


@pytest.fixture
def noisy(clean, rng) -> Tensor:
    return (clean + NOISE.noise * torch.randn(clean.shape, generator=rng)).clamp(0, 1)


def error(image: Tensor, truth: Tensor) -> float:
    return float((image - truth).square().mean())


def best_of_one(image: Tensor, soft: Tensor, lq: Tensor) -> Best:
    valid = torch.ones_like(lq[:, :1]) > 0
    return Best(image, evidence_of(lq, soft, valid), valid, valid.long())


def test_noise_is_taken_off(denoiser, clean, noisy):
    cleaned = Cleaner(denoiser, 'auto')(noisy, [NOISE])
    assert cleaned.shape == clean.shape
    assert error(cleaned, clean) < error(noisy, clean) / 3


def test_what_has_no_faults_stays_to_the_bit(denoiser, clean, noisy):
    cleaner = Cleaner(denoiser, 'auto')
    assert [one.deviation > 0 for one in cleaner.faults(torch.cat((clean, noisy)))] == [False, True]
    both = cleaner(torch.cat((clean, noisy)), [NOTHING, NOISE])
    assert torch.equal(both[:1], clean)
    assert torch.allclose(both[1:], cleaner(noisy, [NOISE]), atol=1e-6)


def test_in_tiles_it_is_the_same(denoiser, noisy, monkeypatch):
    whole = Cleaner(denoiser, 'auto')(noisy, [NOISE])
    monkeypatch.setattr(cleaning, 'TILE', 30)
    assert torch.allclose(Cleaner(denoiser, 'auto')(noisy, [NOISE]), whole, atol=1e-5)


def test_more_noise_than_it_was_trained_for_is_no_error(denoiser, noisy):
    strong = Cleaner(denoiser, 'auto')(noisy, [Faults(0.5, 0.0)])
    assert torch.equal(strong, Cleaner(denoiser, 'auto')(noisy, [Faults(75 / 255, 0.0)]))


def test_a_photo_has_some_noise_even_if_none_is_seen(denoiser, clean):
    assert Cleaner(denoiser, 'photo').faults(clean)[0].noise > 0


def test_only_a_denoiser_that_is_told_the_level_will_do():
    with pytest.raises(ValueError, match='network_c is Conv2d, but must be a denoiser'):
        Cleaner(torch.nn.Conv2d(3, 3, 1), 'auto')


def test_regression_finds_a_planted_gain_and_offset(clean):
    """y = 0.7 A W + 0.1: all of it is explained."""
    predicted, left = explained_by(0.7 * clean + 0.1, clean)
    assert torch.allclose(predicted, 0.7 * clean + 0.1, atol=0.01)
    assert float(left.mean()) < 1e-4


def test_a_reference_of_the_scene_cleans_further(denoiser, clean, noisy):
    """In another light: its colours are fitted first."""
    cleaned = Cleaner(denoiser, 'auto')(noisy, [NOISE])
    soft = 0.7 * clean + 0.1
    best = best_of_one(soft, soft, cleaned)
    assert error(with_references(noisy, cleaned, soft, best, [NOISE]), clean) < 0.7 * error(
        cleaned, clean
    )


def test_a_reference_of_something_else_does_no_harm(denoiser, clean, noisy):
    cleaned = Cleaner(denoiser, 'auto')(noisy, [NOISE])
    soft = clean.flip(-1)
    best = best_of_one(soft, soft, cleaned)
    with_it = with_references(noisy, cleaned, soft, best, [NOISE])
    assert error(with_it, clean) < 1.02 * error(cleaned, clean)


@pytest.fixture(scope='module')
def pair(stereo) -> tuple[Tensor, Tensor, Tensor]:
    """GT, clean input, reference, of 192x256."""
    left, right = stereo[0][..., 120:312, 260:516], stereo[1][..., 110:330, 200:500]
    lq = Degradation('matlab', 4).make_lq(left.reshape(1, *left.shape[-3:]))[1]
    return left.reshape(1, *left.shape[-3:]), lq, right.reshape(1, *right.shape[-3:])


def test_noisy_photos_gain_and_clean_ones_stay(pair, rng):
    gt, lq, ref = pair
    noisy = (lq + NOISE.noise * torch.randn(lq.shape, generator=rng)).clamp(0, 1)
    results = {
        quality: [Upscaler(device='cpu', quality=quality)(x, [ref]) for x in (lq, noisy)]
        for quality in ('clean', 'auto')
    }
    assert torch.equal(results['clean'][0], results['auto'][0])
    assert error(results['auto'][1], gt) < error(results['clean'][1], gt) / 1.5


def test_other_qualities_are_refused():
    with pytest.raises(ValueError, match="quality is 'bad', but must be one of"):
        Upscaler(device='cpu', quality='bad')
