from __future__ import annotations

import pytest
import torch

from defsr.metrics.seams import seam_ratio


def test_an_image_of_noise_has_no_seams(rng):
    image = torch.rand(2, 3, 200, 300, generator=rng)
    assert seam_ratio(image, [64, 128], [100, 200]) == pytest.approx(1, abs=0.06)


def test_a_step_shows(rng):
    """A step of 0.5 in noise whose own mean squared step is 1/6, in one of two directions."""
    image = torch.rand(1, 3, 200, 300, generator=rng)
    image[..., 100:] += 0.5
    assert seam_ratio(image, [], [100]) == pytest.approx(1 + 0.25 * 6, abs=0.3)
    assert seam_ratio(image, [50], []) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ('rows', 'columns', 'message'),
    [([], [], 'no border'), ([0], [], 'inside 0..8'), ([], [9], 'inside 0..9')],
)
def test_borders_that_are_none(rows, columns, message):
    with pytest.raises(ValueError, match=message):
        seam_ratio(torch.zeros(1, 3, 8, 9), rows, columns)
