from __future__ import annotations

import pytest
import torch

from defsr.metrics.trunk_distance import trunk_distance
from defsr.ops.resize import downsample_bicubic, upsample_bicubic


def identity(image):
    return {'pixels': image}


def test_the_formula(rng):
    """Orthogonal features are at distance 2, the same direction at 0 whatever its length."""
    red, blue = torch.zeros(2, 3, 4, 6), torch.zeros(2, 3, 4, 6)
    red[:, 0], blue[:, 2] = 0.3, 0.9
    assert trunk_distance(identity, red, blue) == pytest.approx(2)
    assert trunk_distance(identity, red, 2 * red) == pytest.approx(0, abs=1e-6)
    blue[:, :, :, 3:] = red[:, :, :, 3:]
    assert trunk_distance(identity, red, blue) == pytest.approx(1)


def test_layers_add_up(rng):
    image, other = torch.rand(2, 2, 3, 8, 12, generator=rng)
    one = trunk_distance(identity, image, other)
    both = trunk_distance(lambda x: {'a': x, 'b': x}, image, other)
    assert both == pytest.approx(2 * one)


def test_blur_of_a_photograph_is_far_and_more_blur_farther(stereo, trunk):
    gt = stereo[0][..., 100:228, 200:328]
    blurred = [upsample_bicubic(downsample_bicubic(gt, s), s).clamp(0, 1) for s in (2, 4)]
    near, far = (trunk_distance(trunk, image, gt) for image in blurred)
    assert 0.02 < near < far


@pytest.fixture(scope='module')
def trunk():
    from basicsr.archs import build_network

    weights = 'experiments/pretrained_models/vgg16_trunk_hed.pth'
    block = {'type': 'VGGTextureExtractor', 'vgg_type': 'vgg16', 'weights': weights}
    return build_network(block).eval()


def test_mistakes():
    with pytest.raises(ValueError, match='give two of one shape'):
        trunk_distance(identity, torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 8))
    with pytest.raises(ValueError, match='reference'):
        trunk_distance(identity, torch.zeros(1, 3, 4, 4), torch.zeros(3, 4, 4))
