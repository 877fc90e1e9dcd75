from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from defsr.diffusion import BicubicDownsample, NoiseSchedule, SamplingOptions, ddnm_sample
from defsr.diffusion.options import STRATEGIES
from defsr.diffusion.strategies import sample_any_size
from defsr.diffusion.windows import CanvasNoise, Window

SCHEDULE = NoiseSchedule.linear(1e-6, 1e-2)
OPERATOR = BicubicDownsample(4)
SAMPLING = SamplingOptions(num_steps=8, tile=64, overlap=32, windows_per_batch=3)


def pointwise(x_t, t):
    """Exact for pixels from N(0, 0.25): no pixel looks at another."""
    alpha_bar = SCHEDULE.alpha_bar_at(t).view(-1, 1, 1, 1).to(x_t)
    return x_t * (1 - alpha_bar).sqrt() / (0.25 * alpha_bar + 1 - alpha_bar)


def sample(strategy, y, progress=None):
    options = replace(SAMPLING, strategy=strategy)
    noise = CanvasNoise(range(len(y)))
    return sample_any_size(pointwise, y, OPERATOR, options, noise, progress)


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('size', [(16, 40), (25, 16), (10, 12)], ids=str)
def test_the_whole_image_degrades_to_y(strategy, size, rng):
    y = torch.randn(2, 3, *size, generator=rng, dtype=torch.float64)
    out = sample(strategy, y)
    assert out.shape == (2, 3, 4 * size[0], 4 * size[1]) and out.dtype == y.dtype
    assert_close(OPERATOR.A(out), y, rtol=0, atol=1e-9)


def test_one_window_is_no_tiling(rng):
    y = torch.randn(2, 3, 12, 16, generator=rng)
    expected = ddnm_sample(
        pointwise, y, OPERATOR, SAMPLING,
        noise=CanvasNoise(range(2)).stream(Window(0, 48, 0, 64)),
    )  # fmt: skip
    for strategy in STRATEGIES:
        assert torch.equal(sample(strategy, y), expected)


def test_a_blend_of_a_pointwise_denoiser_is_the_whole_image(rng):
    """One projection of the whole image per step: windows leave no trace at all."""
    y = torch.randn(1, 3, 24, 40, generator=rng)
    assert_close(sample('blend', y), sample('full', y), rtol=0, atol=1e-4)


def test_later_windows_replace_or_respect_earlier_ones(rng):
    """Two windows over 96 columns: 0..64 and 32..96. Before the closing projection of the whole
    image, ``replace`` takes the overlap from the second, ``mask_shift`` from the first."""
    y = torch.randn(1, 3, 16, 24, generator=rng)
    first, second = Window(0, 64, 0, 64), Window(0, 64, 32, 96)
    alone = {
        window: ddnm_sample(
            pointwise, window.cut(y, 4), OPERATOR, SAMPLING,
            noise=CanvasNoise(range(1)).stream(window),
        )
        for window in (first, second)
    }  # fmt: skip
    replaced = torch.cat([alone[first][..., :32], alone[second]], dim=-1)
    assert_close(sample('replace', y), OPERATOR.project(replaced, y), rtol=0, atol=1e-5)
    shifted = sample('mask_shift', y)
    middle = (..., slice(36, 60))
    to_first = (shifted[middle] - alone[first][..., 36:60]).abs().mean()
    to_second = (shifted[middle] - alone[second][..., 4:28]).abs().mean()
    assert to_first < 0.2 * to_second


def test_progress_counts_all_windows(rng):
    seen = []
    y = torch.randn(1, 3, 16, 24, generator=rng)
    sample('mask_shift', y, progress=lambda *at: seen.append(at))
    assert seen == [(i, 16) for i in range(1, 17)]
    seen.clear()
    sample('blend', y, progress=lambda *at: seen.append(at))
    assert seen == [(i, 8) for i in range(1, 9)]


def test_unknown_strategies():
    with pytest.raises(ValueError, match='diffusion:strategy is .mask.'):
        sample('mask', torch.zeros(1, 3, 8, 8))
