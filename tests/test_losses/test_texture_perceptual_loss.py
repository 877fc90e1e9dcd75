"""TexturePerceptualLoss against BasicSR's own forward and against formulas."""

from __future__ import annotations

import pytest
import torch
from basicsr.losses import build_loss
from basicsr.losses.basic_loss import PerceptualLoss
from torch.testing import assert_close

from defsr.archs.vgg import VGGTrunk
from defsr.losses.texture_perceptual_loss import TexturePerceptualLoss

HED = {'vgg_type': 'vgg16', 'weights': 'vgg16_trunk_hed.pth'}
LAYERS = {'relu2_1': 0.5, 'conv3_1': 2.0}


@pytest.fixture
def pair(rng) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.rand(2, 3, 24, 36, generator=rng) for _ in range(2))


def gram(x: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    return torch.einsum('nchw,ndhw->ncd', x, x) / (c * h * w)


DISTANCES = {
    'l1': lambda a, b: (a - b).abs().mean(),
    'l2': lambda a, b: (a - b).square().mean(),
    'fro': lambda a, b: (a - b).square().sum().sqrt(),
}


@pytest.mark.parametrize('criterion', DISTANCES)
def test_weighted_sum_of_feature_distances(pair, criterion):
    loss = build_loss(
        {
            'type': 'TexturePerceptualLoss',
            'layer_weights': LAYERS,
            'perceptual_weight': 0.1,
            'style_weight': 10.0,
            'criterion': criterion,
            **HED,
        }
    )
    assert isinstance(loss, PerceptualLoss)
    trunk = VGGTrunk(list(LAYERS), **HED)
    a, b = trunk(pair[0]), trunk(pair[1])
    distance = DISTANCES[criterion]
    content = 0.1 * sum(w * distance(a[k], b[k]) for k, w in LAYERS.items())
    style = 10 * sum(w * distance(gram(a[k]), gram(b[k])) for k, w in LAYERS.items())
    assert_close(loss(*pair)[0], content, rtol=1e-4, atol=0)
    assert_close(loss(*pair)[1], style, rtol=1e-4, atol=0)


def test_gradient_goes_to_the_first_image_only(pair):
    loss = TexturePerceptualLoss({'relu3_1': 1.0}, **HED)
    x, gt = (image.requires_grad_() for image in pair)
    content, style = loss(x, gt)
    content.backward()
    assert style is None
    assert x.grad.abs().sum() > 0 and gt.grad is None
    assert loss(x, x)[0] == 0
    assert not any(p.requires_grad for p in loss.parameters())


def test_range_norm_takes_images_from_minus_one_to_one(pair):
    plain = TexturePerceptualLoss(LAYERS, **HED)
    shifted = TexturePerceptualLoss(LAYERS, range_norm=True, **HED)
    assert_close(shifted(*(2 * x - 1 for x in pair))[0], plain(*pair)[0], rtol=1e-4, atol=0)


def test_no_input_norm_feeds_the_image_itself(pair):
    features = {}
    for use_range in (False, True):
        loss = TexturePerceptualLoss(
            {'conv1_1': 1.0}, 'vgg16', 'none', use_input_norm=False, range_norm=use_range
        )
        features[use_range] = loss.vgg(pair[0])['conv1_1']
    conv = loss.vgg.conv1_1
    assert_close(features[False], conv(pair[0]))
    assert_close(features[True], conv((pair[0] + 1) / 2))


def test_errors():
    with pytest.raises(ValueError, match="perceptual_opt:criterion is 'l3'.*'l1', 'l2', 'fro'"):
        TexturePerceptualLoss(LAYERS, 'vgg16', 'none', criterion='l3')
    with pytest.raises(ValueError, match='has no .*conv5_1'):
        TexturePerceptualLoss({'relu5_1': 1.0}, **HED)
    with pytest.raises(ValueError, match="'relu6_1'"):
        TexturePerceptualLoss({'relu6_1': 1.0}, weights='none')
