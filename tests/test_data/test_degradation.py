"""LR from GT: the two published ways of making it, checked against their origins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.utils.matlab_functions import imresize
from PIL import Image

from defsr.data.degradation import crop_to_multiple, degrade, make_lq
from defsr.images.levels import round_to_8_bit


@pytest.fixture
def gt(stereo):
    return crop_to_multiple(stereo[0][0, :, 100:150, 200:261], 4)


def test_crop_to_multiple_keeps_the_top_left():
    image = torch.arange(50 * 61.0).view(1, 50, 61)
    assert torch.equal(crop_to_multiple(image, 4), image[:, :48, :60])
    assert torch.equal(crop_to_multiple(image[:, :48, :60], 4), image[:, :48, :60])


def test_matlab_is_imresize_rounded_to_8_bit(gt):
    expected = imresize(gt, 1 / 4).clamp(0, 1).mul(255).round()
    got = degrade(gt, 4).mul(255)
    assert got.shape == (3, 12, 15)
    # sums in another order may tip a value that lies between two levels
    assert (got.round() - expected).abs().max() <= 1
    assert (got.round() != expected).float().mean() < 0.01
    torch.testing.assert_close(got, got.round(), rtol=0, atol=1e-4)


def test_pil_is_pil(gt):
    pixels = gt.mul(255).round().byte().permute(1, 2, 0).numpy()
    expected = np.array(Image.fromarray(pixels).resize((15, 12), Image.BICUBIC))
    got = degrade(gt, 4, 'pil')
    assert np.array_equal(got.mul(255).round().byte().permute(1, 2, 0).numpy(), expected)
    assert not torch.equal(got, degrade(gt, 4, 'matlab'))


def test_the_result_is_clamped():
    stripes = torch.zeros(3, 32, 48)
    stripes[..., 16:] = 1  # bicubic overshoots on both sides of the edge
    for degradation in ('matlab', 'pil'):
        small = degrade(stripes, 4, degradation)
        assert small.min() == 0 and small.max() == 1


def test_round_to_8_bit():
    image = torch.tensor([-0.3, 0.0, 0.4 / 255, 0.6 / 255, 1.2])
    expected = torch.tensor([0.0, 0.0, 0.0, 1 / 255, 1.0])
    torch.testing.assert_close(round_to_8_bit(image), expected)


@pytest.mark.parametrize('degradation', ['matlab', 'pil'])
def test_sides_must_be_multiples(degradation):
    with pytest.raises(ValueError, match='scale=4'):
        degrade(torch.zeros(3, 10, 12), 4, degradation)


def test_make_lq_cuts_first(stereo):
    image = stereo[0][0, :, :50, :61]
    gt, lq = make_lq(image, 4, 'pil', 'a.png')
    assert torch.equal(gt, crop_to_multiple(image, 4))
    assert torch.equal(lq, degrade(gt, 4, 'pil'))
    with pytest.raises(ValueError, match='a.png has a side below scale=4. Remove it.'):
        make_lq(image[:, :3], 4, 'matlab', 'a.png')
