"""Memory of sampling as a number: in steps, in windows per batch, in whole images held."""

from __future__ import annotations

import pytest
import torch
from memory import TensorBytes

from defsr.archs.unshuffle_unet_arch import UnshuffleUNet
from defsr.diffusion import BicubicDownsample, SamplingOptions
from defsr.diffusion.options import STRATEGIES
from defsr.diffusion.strategies import sample_any_size
from defsr.diffusion.windows import CanvasNoise

SIZE = (128, 192)
IMAGE = 4 * 3 * SIZE[0] * SIZE[1]  # bytes


@pytest.fixture(scope='module')
def denoiser():
    torch.manual_seed(0)
    return UnshuffleUNet(num_feat=(32, 32), num_block=1)


def peak(denoiser, strategy, num_steps=3, windows_per_batch=2):
    y = torch.rand(1, 3, SIZE[0] // 4, SIZE[1] // 4)
    sampling = SamplingOptions(
        num_steps=num_steps,
        strategy=strategy,
        tile=64,
        overlap=32,
        windows_per_batch=windows_per_batch,
    )
    noise, operator = CanvasNoise([0]), BicubicDownsample(4)
    with TensorBytes() as count:
        sample_any_size(denoiser, y, operator, sampling, noise)
    return count.peak


def peak_alone(denoiser, windows_per_batch):
    x_t = torch.rand(windows_per_batch, 3, 64, 64)
    with torch.no_grad(), TensorBytes() as count:
        denoiser(x_t, torch.zeros(windows_per_batch))
    return count.peak


def test_bytes_are_counted_while_they_live():
    x = torch.zeros(1000)
    with TensorBytes() as count:
        y = x + 1
        x.add_(1)
        view = y[:10]
        assert count.alive == count.peak == 4000
        del y
        assert count.alive == 4000, 'the view keeps it'
        del view
        assert count.alive == 0
        (x + 1, x.double() + 1)
    assert count.peak == 4000 + 16000


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_more_steps_need_no_more(denoiser, strategy):
    peak(denoiser, strategy, num_steps=1)  # the operator's matrices are made once
    assert peak(denoiser, strategy, num_steps=2) == peak(denoiser, strategy, num_steps=6)


@pytest.mark.parametrize('windows_per_batch', [1, 2, 4])
def test_windows_per_batch_bounds_the_denoisers_part(denoiser, windows_per_batch):
    """Beside the denoiser's own, a blend holds x_t, the sum of the predictions, and batches."""
    alone = peak_alone(denoiser, windows_per_batch)
    peak(denoiser, 'blend', num_steps=1)
    blend = peak(denoiser, 'blend', windows_per_batch=windows_per_batch)
    batch = windows_per_batch * 4 * 3 * 64 * 64
    assert blend <= max(alone + 2.2 * IMAGE + 3 * batch, 7 * IMAGE)
    assert blend < peak(denoiser, 'full')


@pytest.mark.parametrize(('strategy', 'images'), [('full', 6), ('blend', 6)])
def test_the_sampler_holds_few_whole_images(strategy, images):
    """With a denoiser that holds its answer alone; also, a line of blocks of noise."""

    def denoiser(x_t, t):
        return x_t * 0.5

    peak(denoiser, strategy)
    assert peak(denoiser, strategy) < (images + 0.6) * IMAGE
