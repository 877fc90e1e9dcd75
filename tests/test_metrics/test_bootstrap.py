"""The paired bootstrap against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from defsr.metrics.bootstrap import paired_bootstrap


def test_interval_of_a_normal_sample():
    """For many images the interval is that of the mean: 1.96 standard errors either way."""
    values = np.random.default_rng(0).normal(0.3, 1.0, 400)
    found = paired_bootstrap(values, samples=20000)
    error = values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.03 * error * 2)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.03 * error * 2)
    assert found.is_claim and found.number == 400


def test_coverage():
    """Of 200 samples whose true mean is 0, about 95 % hold it (30 images: a little fewer)."""
    draws = np.random.default_rng(1).normal(0, 1, (200, 30))
    found = [paired_bootstrap(values, samples=500) for values in draws]
    held = sum(each.low <= 0 <= each.high for each in found)
    assert 178 <= held <= 197
    assert sum(each.is_claim for each in found) == 200 - held


def test_two_images_by_hand():
    """Of (0, 1) a quarter of the resampled means are 0, a quarter 1, the rest 0.5."""
    found = paired_bootstrap([0.0, 1.0], samples=1000, level=0.4)
    assert (found.low, found.high, found.mean) == (0.5, 0.5, 0.5)
    assert paired_bootstrap([0.0, 1.0], samples=1000)[1:3] == (0.0, 1.0)


def test_the_draws_stay_the_same():
    """Published intervals can be made again: a seed means the same images."""
    found = paired_bootstrap([0.31, -0.12, 0.05, 0.44, 0.27, -0.03, 0.18])
    assert found == pytest.approx(
        (0.1571428571428571, 0.022857142857142857, 0.2914642857142852, 7), abs=1e-12
    )


def test_repeats_with_the_seed():
    values = [0.1, -0.2, 0.4, 0.3]
    assert paired_bootstrap(values, seed=3) == paired_bootstrap(values, seed=3)
    assert paired_bootstrap(values, 50, seed=3) != paired_bootstrap(values, 50, seed=4)


def test_few_images_are_no_claim():
    found = paired_bootstrap([2.0])
    assert found == (2.0, 2.0, 2.0, 1) and not found.is_claim
    assert not paired_bootstrap([2.0] * 5).is_claim
    assert paired_bootstrap([2.0, 1.0] * 3).is_claim and paired_bootstrap([-1.0] * 6).is_claim


def test_refuses():
    with pytest.raises(ValueError, match='no image that both'):
        paired_bootstrap([])
    with pytest.raises(ValueError, match='samples is 0 and level 0.95'):
        paired_bootstrap([1.0], samples=0)
