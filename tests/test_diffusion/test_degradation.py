"""LR from GT: the two published ways of making it, checked against their origins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.utils.matlab_functions import imresize
from PIL import Image

from defsr.diffusion.degradation import Degradation
from defsr.images.levels import round_to_8_bit

MATLAB, PIL = Degradation('matlab', 4), Degradation('pil', 4)


@pytest.fixture
def gt(stereo):
    return MATLAB.cut(stereo[0][0, :, 100:150, 200:261])


def test_crop_to_multiple_keeps_the_top_left():
    image = torch.arange(50 * 61.0).view(1, 50, 61)
    assert torch.equal(MATLAB.cut(image), image[:, :48, :60])
    assert torch.equal(MATLAB.cut(image[:, :48, :60]), image[:, :48, :60])


def test_matlab_is_imresize_rounded_to_8_bit(gt):
    expected = imresize(gt, 1 / 4).clamp(0, 1).mul(255).round()
    got = MATLAB.degrade(gt).mul(255)
    assert got.shape == (3, 12, 15)
    # sums in another order may tip a value that lies between two levels
    assert (got.round() - expected).abs().max() <= 1
    assert (got.round() != expected).float().mean() < 0.01
    torch.testing.assert_close(got, got.round(), rtol=0, atol=1e-4)


def test_pil_is_pil(gt):
    pixels = gt.mul(255).round().byte().permute(1, 2, 0).numpy()
    expected = np.array(Image.fromarray(pixels).resize((15, 12), Image.BICUBIC))
    got = PIL.degrade(gt)
    assert np.array_equal(got.mul(255).round().byte().permute(1, 2, 0).numpy(), expected)
    assert not torch.equal(got, MATLAB.degrade(gt))


def test_the_result_is_clamped():
    stripes = torch.zeros(3, 32, 48)
    stripes[..., 16:] = 1  # bicubic overshoots on both sides of the edge
    for degradation in (MATLAB, PIL):
        small = degradation.degrade(stripes)
        assert small.min() == 0 and small.max() == 1


def test_round_to_8_bit():
    image = torch.tensor([-0.3, 0.0, 0.4 / 255, 0.6 / 255, 1.2])
    expected = torch.tensor([0.0, 0.0, 0.0, 1 / 255, 1.0])
    torch.testing.assert_close(round_to_8_bit(image), expected)


@pytest.mark.parametrize('degradation', [MATLAB, PIL], ids=str)
def test_sides_must_be_multiples(degradation):
    with pytest.raises(ValueError, match='scale=4'):
        degradation.degrade(torch.zeros(3, 10, 12))


def test_make_lq_cuts_first(stereo):
    image = stereo[0][0, :, :50, :61]
    gt, lq = PIL.make_lq(image, 'a.png')
    assert torch.equal(gt, MATLAB.cut(image))
    assert torch.equal(lq, PIL.degrade(gt))
    with pytest.raises(
        ValueError,
        match='a.png is 3x61 .* at least scale=4. Remove it.',
    ):
        MATLAB.make_lq(image[:, :3], 'a.png')


@pytest.mark.parametrize('degradation', [MATLAB, PIL], ids=str)
def test_a_batch_is_its_images(stereo, degradation):
    batch = torch.cat([image[..., 100:148, 200:260] for image in stereo])
    together = degradation.degrade(batch)
    assert together.shape == (2, 3, 12, 15)
    torch.testing.assert_close(together[1], degradation.degrade(batch[1]), rtol=0, atol=1e-6)
