"""What is clean and what is not, of a real photograph."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from defsr.diffusion.degradation import Degradation
from defsr.images.levels import from_levels, to_levels
from defsr.ops.input_quality import Faults, is_clean, jpeg_traces, noise_level


@pytest.fixture(scope='module')
def lq(stereo) -> Tensor:
    """(1, 3, 125, 185), reduced and rounded."""
    return Degradation('matlab', 4).make_lq(stereo[0].reshape(1, *stereo[0].shape[-3:]))[1]


def through_jpeg(lq: Tensor, quality: int) -> Tensor:
    _, data = cv2.imencode('.jpg', to_levels(lq)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return from_levels(np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]))


@pytest.mark.parametrize('levels', [2, 5, 15])
def test_planted_noise_is_measured(lq, rng, levels):
    noisy = (lq + levels / 255 * torch.randn(lq.shape, generator=rng)).clamp(0, 1)
    assert 0.8 < 255 * noise_level(noisy[0]) / levels < 1.3
    assert Faults.of(noisy[0]) == Faults(noise_level(noisy[0]), 0)
    assert not is_clean(noisy) and is_clean(lq)
    assert not is_clean(torch.cat((lq, noisy)))


@pytest.mark.parametrize('quality', [95, 90, 75, 30])
def test_jpeg_leaves_traces(lq, quality):
    assert jpeg_traces(lq[0]) < 0.15 < 0.3 < jpeg_traces(through_jpeg(lq, quality)[0])
    assert not is_clean(through_jpeg(lq, quality))


def test_a_grey_image_is_judged_by_itself(lq, rng):
    grey = lq.mean(dim=1, keepdim=True)
    noise = 15 / 255 * torch.randn(grey.shape, generator=rng)
    noisy = (grey + noise).clamp(0, 1).expand(-1, 3, -1, -1)
    assert 255 * noise_level(noisy[0]) > 10 > 255 * noise_level(grey.expand(-1, 3, -1, -1)[0])


@pytest.mark.parametrize('quality', [90, 75, 50])
@pytest.mark.parametrize('crop', [(1, 0), (3, 5), (0, 7)])
def test_traces_are_found_in_what_was_cropped_later(lq, quality, crop):
    found = through_jpeg(lq, quality)[..., crop[0] :, crop[1] :]
    assert jpeg_traces(found[0]) > 0.3


@pytest.mark.parametrize('quality', [90, 75, 50])
def test_what_jpeg_has_changed_is_estimated(lq, quality):
    found = through_jpeg(lq, quality)
    changed = float((found - lq).square().mean().sqrt())
    faults = Faults.of(found[0])
    assert 0.6 < faults.jpeg / changed < 1.7 and faults.noise == 0


def test_both_faults_are_told_apart(lq, rng):
    found = through_jpeg(lq, 50)
    noisy = (found + 3 / 255 * torch.randn(lq.shape, generator=rng)).clamp(0, 1)
    faults = Faults.of(noisy[0])
    assert faults.jpeg > 5 / 255 and 2 / 255 < faults.noise < 4.5 / 255
    assert faults.deviation > max(faults.noise, faults.jpeg)
    assert str(faults) == 'noise of 3 levels and traces of JPEG, about 11 levels'


@pytest.mark.parametrize('size', [(1, 1), (3, 40), (8, 8)])
def test_tiny_and_constant_images_are_clean(size):
    assert is_clean(torch.full((1, 3, *size), 0.5))
