"""Following an index to every level."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from defsr.ops import gather_positions, match_positions
from defsr.ops.warping import displacement


@pytest.mark.parametrize('factor', [1, 2, 4])
def test_positions_of_a_finer_level_follow_their_cell(rng, factor):
    key_size = (5, 7)
    index = torch.randint(0, 35, (2, 3, 4), generator=rng)
    position = match_positions(index, key_size, factor)
    assert position.shape == (2, 2, 3 * factor, 4 * factor)
    for n, y, x in [(0, 0, 0), (1, 2 * factor, 3 * factor + factor - 1), (0, factor, 1)]:
        match = int(index[n, y // factor, x // factor])
        expected = [match // 7 * factor + y % factor, match % 7 * factor + x % factor]
        assert position[n, :, y, x].tolist() == expected


def test_positions_equal_the_upsampled_displacement(rng):
    index = torch.randint(0, 35, (2, 3, 4), generator=rng)
    moved = F.interpolate(displacement(index, (5, 7)), scale_factor=4.0) * 4
    own = torch.stack(torch.meshgrid(torch.arange(12), torch.arange(16), indexing='ij'))
    assert torch.equal(match_positions(index, (5, 7), 4).float(), moved + own)


def test_gather_takes_values_and_gives_zero_outside(rng):
    feat = torch.rand(2, 3, 4, 6, generator=rng)
    position = torch.tensor([[[[0, 3, 4, -1]], [[5, 0, 0, 2]]]]).expand(2, -1, -1, -1)
    out = gather_positions(feat, position)
    assert out.shape == (2, 3, 1, 4)
    assert torch.equal(out[:, :, 0, 0], feat[:, :, 0, 5])
    assert torch.equal(out[:, :, 0, 1], feat[:, :, 3, 0])
    assert float(out[:, :, 0, 2:].abs().max()) == 0


def test_an_index_of_another_reference_is_refused():
    with pytest.raises(ValueError, match='made for another reference'):
        match_positions(torch.full((1, 2, 2), 35), (5, 7))
