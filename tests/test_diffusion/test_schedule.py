"""Noise schedules and the map between them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from defsr.diffusion import NoiseSchedule
from defsr.diffusion.schedule import build_schedule, complete_schedule

DEF = NoiseSchedule.linear(1e-6, 1e-2)
ADM = NoiseSchedule.linear(1e-4, 2e-2)


def test_linear_table_is_the_cumulative_product():
    expected, product = [], 1.0
    for t in range(1000):
        product *= 1 - (1e-6 + (1e-2 - 1e-6) * t / 999)
        expected.append(product)
    expected = torch.tensor(expected, dtype=torch.float64)
    assert DEF.num_train_steps == 1000
    assert_close(DEF.alpha_bar, expected, rtol=1e-12, atol=0)


def test_known_ends():
    # From guided-diffusion's linear schedule of 1000 steps, float64.
    assert_close(ADM.alpha_bar[0].item(), 0.9999, rtol=0, atol=1e-15)
    assert_close(ADM.alpha_bar[-1].item(), 4.0358e-05, rtol=1e-4, atol=0)


def test_clean_image_is_at_minus_one():
    assert DEF.alpha_bar_at(-1) == 1
    t = torch.tensor([[-1.0, 0.0], [7.0, 999.0]])
    expected = torch.tensor(
        [[1.0, DEF.alpha_bar[0]], [DEF.alpha_bar[7], DEF.alpha_bar[999]]], dtype=torch.float64
    )
    assert torch.equal(DEF.alpha_bar_at(t), expected)


@pytest.mark.parametrize('schedule', [DEF, ADM], ids=['def', 'adm'])
def test_timesteps_of_the_own_table_are_the_identity(schedule):
    own = torch.arange(1000, dtype=torch.float64)
    assert torch.equal(schedule.timesteps_at(schedule.alpha_bar), own)
    assert torch.equal(schedule.alpha_bar_at(own), schedule.alpha_bar)


def test_fractional_timesteps_round_trip_and_rise(rng):
    t = (999 * torch.rand(2, 50, generator=rng, dtype=torch.float64)).sort().values
    levels = ADM.alpha_bar_at(t)
    assert bool((levels.diff() < 0).all())
    assert_close(ADM.timesteps_at(levels), t, rtol=0, atol=1e-8)


def test_between_two_entries_log_snr_is_linear():
    low, high = (math.log(a / (1 - a)) for a in ADM.alpha_bar[40:42].tolist())
    middle = 1 / (1 + math.exp(-(0.75 * low + 0.25 * high)))
    assert_close(ADM.timesteps_at(middle).item(), 40.25, rtol=0, atol=1e-9)
    assert_close(ADM.alpha_bar_at(40.25).item(), middle, rtol=1e-12, atol=0)


def test_other_schedule_is_clamped_at_its_ends():
    t = ADM.timesteps_at(DEF.alpha_bar)
    assert t[0] == 0  # DEF's first levels are cleaner than anything that ADM was trained on
    assert bool((t.diff() >= 0).all())
    assert_close(ADM.alpha_bar_at(t[20:]), DEF.alpha_bar[20:], rtol=1e-9, atol=0)
    assert ADM.timesteps_at(1.0) == 0
    assert ADM.timesteps_at(0.0) == 999
    assert DEF.timesteps_at(ADM.alpha_bar[-1]) == 999
    assert NoiseSchedule.linear(0.1, 0.1, 1).timesteps_at(0.5) == 0


def test_is_frozen():
    with pytest.raises(AttributeError):
        DEF.alpha_bar = ADM.alpha_bar


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((2e-2, 1e-4), 'schedule:beta_end is 0.0001, but must be at least 0.02'),
        ((1e-4, 1.5), 'schedule:beta_end is 1.5, but must be at most 1'),
        ((-1e-4, 1e-2), 'schedule:beta_start is -0.0001'),
        ((0.0, 1e-2), 'alpha_bar must fall strictly'),
        ((1e-4, 1e-2, 0), 'schedule:num_train_steps is 0, but must be at least 1'),
        ((1e-4, 1e-2, 10.5), 'num_train_steps is 10.5, but must be a whole number'),
        (('1e-4', 1e-2), r"schedule:beta_start is '1e-4' \(str\)"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        NoiseSchedule.linear(*arguments)


def test_bad_values():
    with pytest.raises(ValueError, match='float32.*must be a float64 vector'):
        NoiseSchedule(torch.tensor([0.5]))
    with pytest.raises(ValueError, match=r't must be -1 or in \[0, 999\], got \[-0.5\]'):
        DEF.alpha_bar_at(-0.5)
    with pytest.raises(ValueError, match=r'in \[0, 999\]'):
        DEF.alpha_bar_at(1000)
    with pytest.raises(ValueError, match=r'alpha_bar must be in \[0, 1\]'):
        DEF.timesteps_at(torch.tensor([0.5, 1.1]))


def test_cosine_is_the_published_one():
    """Values of the closed form; the last betas are cut at 0.999."""
    schedule = NoiseSchedule.cosine(1000)

    def f(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 10, 500, 900):
        assert float(schedule.alpha_bar[t]) == pytest.approx(f((t + 1) / 1000) / f(0), rel=1e-12)
    ratio = schedule.alpha_bar[-1] / schedule.alpha_bar[-2]
    assert float(ratio) == pytest.approx(1e-3, rel=1e-9)


@pytest.mark.parametrize('options', [{'offset': -1}, {'max_beta': 2}, {'num_train_steps': 0}])
def test_cosine_out_of_range(options):
    with pytest.raises(ValueError, match=f'schedule:{next(iter(options))}'):
        NoiseSchedule.cosine(**options)


@pytest.mark.parametrize('given', [{}, {'beta_start': 0.01}, {'type': 'cosine'}], ids=str)
def test_a_completed_schedule_is_the_same(given):
    defaults = {'beta_start': 1e-6, 'beta_end': 1e-2, 'num_train_steps': 1000}
    full = complete_schedule(given, defaults)
    linear = {'type': 'linear'} | defaults | given
    assert full == ({'num_train_steps': 1000} | given if given.get('type') else linear)
    one, two = (build_schedule('s', opt, defaults) for opt in (given, full))
    assert torch.equal(one.alpha_bar, two.alpha_bar)
