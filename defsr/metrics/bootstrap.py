"""How sure a difference of two methods is: the paired bootstrap over images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FEWEST = 6  # images that can show a difference: were there none, 2 of 2**6 would agree in sign


class Difference(NamedTuple):
    """Mean difference and the interval that holds the given share of resampled means."""

    mean: float
    low: float
    high: float
    number: int

    @property
    def is_claim(self) -> bool:
        """Whether the interval leaves no doubt about the sign.

        Never with fewer than ``FEWEST`` images: resampling two or three that agree in sign never
        gives another one, though chance alone makes them agree in a half or a quarter of cases.
        """
        return self.number >= FEWEST and (self.low > 0 or self.high < 0)


def paired_bootstrap(
    differences: Sequence[float], samples: int = 10000, seed: int = 0, level: float = 0.95
) -> Difference:
    """Percentile interval of the mean difference, by resampling images with replacement.

    Args:
        differences: one per image, the same image under both methods; in dB, say.
        samples: number of resamples, >= 1.
        seed: of the resampling, >= 0.
        level: share of the resampled means inside the interval, 0..1.

    Returns:
        The mean, the interval and the number of images. With one image the interval is the mean.

    Raises:
        ValueError: without differences, and for values out of range.

    Example:
        >>> found = paired_bootstrap([0.3, 0.1, 0.2, 0.4, 0.2, 0.1])
        >>> round(found.mean, 3), found.low > 0, found.is_claim
        (0.217, True, True)
    """
    values = np.asarray(differences, dtype=np.float64)
    if not values.size:
        raise ValueError('There is no image that both methods have restored.')
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f'samples is {samples} and level {level}; must be >= 1 and in 0..1.')
    mean, number = float(values.mean()), values.size
    if number == 1:
        return Difference(mean, mean, mean, number)
    from scipy.stats import bootstrap  # a second, which the measuring need not wait for

    low, high = bootstrap(
        (values,),
        np.mean,
        n_resamples=samples,
        confidence_level=level,
        method='percentile',
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Difference(mean, float(low), float(high), number)
