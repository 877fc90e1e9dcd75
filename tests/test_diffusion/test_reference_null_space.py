"""What a reference says inside of a diffusion: consistency with y, and both of its ends."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from defsr.diffusion import BicubicDownsample, NoiseSchedule, SamplingOptions, ddnm_sample
from defsr.diffusion.options import STRATEGIES
from defsr.diffusion.reference_null_space import Filling, NullSpaces
from defsr.diffusion.strategies import sample_any_size
from defsr.diffusion.windows import CanvasNoise
from defsr.ops.evidence import Evidence

SCHEDULE = NoiseSchedule.linear(1e-6, 1e-2)
OPERATOR = BicubicDownsample(4)
FROM_Y = {'start': 'lq', 'temperature': 0.0, 'eta': 1.0, 'extrapolation': 1.0}
SETTINGS = {
    'sample': {'num_steps': 6},
    'ddim': {'num_steps': 4, 'rule': 'ddim', 'eta': 0.0},
    'from y': {'num_steps': 5, **FROM_Y},
    'one step': {'num_steps': 1, **FROM_Y},
    'travel': {'num_steps': 6, 'travel': (2, 2)},
}


def pointwise(x_t, t):
    """Exact for pixels from N(0, 0.25): no pixel looks at another."""
    alpha_bar = SCHEDULE.alpha_bar_at(t).view(-1, 1, 1, 1).to(x_t)
    return x_t * (1 - alpha_bar).sqrt() / (0.25 * alpha_bar + 1 - alpha_bar)


def sample(y, setting, fill=None):
    options = SamplingOptions(**SETTINGS[setting])
    generator = torch.Generator().manual_seed(3)
    return ddnm_sample(pointwise, y, OPERATOR, options, fill=fill, generator=generator)


@pytest.fixture
def y(rng):
    return torch.randn(2, 3, 6, 9, generator=rng, dtype=torch.float64)


@pytest.fixture
def reference(rng):
    """W, and its null space (I - A_pinv A) W."""
    image = torch.randn(2, 3, 24, 36, generator=rng, dtype=torch.float64)
    return image, image - OPERATOR.A_pinv(OPERATOR.A(image))


def filling(y, other, share):
    image = OPERATOR.A_pinv(y) + other
    return Filling(image, torch.as_tensor(share).to(y).expand(2, 1, 24, 36))


@pytest.mark.parametrize('setting', SETTINGS)
def test_it_degrades_to_y_whatever_is_filled_in(setting, y, reference, rng):
    """Also with a gain that varies, so that what is filled in has left the null space."""
    share, gain = torch.rand(2, 2, 1, 24, 36, generator=rng, dtype=torch.float64)
    out = sample(y, setting, filling(y, 2 * gain * reference[1], share))
    assert_close(OPERATOR.A(out), y, rtol=0, atol=1e-9)
    assert (out - sample(y, setting)).abs().max() > 0.1


@pytest.mark.parametrize('setting', SETTINGS)
def test_without_any_share_it_is_the_plain_sampler_to_the_bit(setting, y, reference):
    out = sample(y.float(), setting, filling(y.float(), reference[1].float(), 0.0))
    assert torch.equal(out, sample(y.float(), setting))


@pytest.mark.parametrize('setting', SETTINGS)
def test_with_all_of_it_the_null_space_is_the_reference_s(setting, y, reference):
    out = sample(y, setting, filling(y, reference[1], 1.0))
    assert_close(out, OPERATOR.A_pinv(y) + reference[1], rtol=0, atol=1e-10)


def test_half_is_not_the_mean_of_the_ends(y, reference):
    """The prior sees what was filled in: with a share of a half it goes on from the mixture."""
    half, none, all_of_it = (
        sample(y, 'from y', filling(y, reference[1], share)) for share in (0.5, 0.0, 1.0)
    )
    assert (half - (none + all_of_it) / 2).abs().max() > 0.01


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_windows_have_their_part_of_it(strategy, rng):
    """(2, 3, 64, 96) in windows of 32: the ends are those of the whole image."""
    y = torch.randn(2, 3, 16, 24, generator=rng, dtype=torch.float64)
    image = OPERATOR.A_pinv(y) + torch.randn(2, 3, 64, 96, generator=rng, dtype=torch.float64)
    image = OPERATOR.project(image, y)
    options = SamplingOptions(**SETTINGS['from y'], tile=32, overlap=16, strategy=strategy)

    def run(fill):
        return sample_any_size(pointwise, y, OPERATOR, options, CanvasNoise(range(2)), None, fill)

    none, all_of_it = (Filling(image, y.new_full((2, 1, 64, 96), share)) for share in (0.0, 1.0))
    assert torch.equal(run(none), run(None))
    out = run(all_of_it)
    assert_close(OPERATOR.A(out), y, rtol=0, atol=1e-9)
    if strategy in ('full', 'blend'):  # others project windows by their own borders
        assert_close(out, image, rtol=0, atol=1e-10)


def test_a_filling_is_what_is_mixed(rng):
    """Once, that is: the same shares, of the same images."""
    image, pinv, other = torch.rand(3, 2, 3, 24, 36, generator=rng)
    soft, share = torch.rand(2, 3, 6, 9, generator=rng), torch.rand(2, 1, 6, 9, generator=rng)
    spaces = NullSpaces(pinv, other, soft, Evidence(share, share, share))
    assert_close(spaces.filling(share)(image), spaces.mixed(image, share))
