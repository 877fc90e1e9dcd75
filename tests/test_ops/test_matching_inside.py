from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from defsr.ops.matching_inside import match_patches_inside, matches_with_ring


@pytest.mark.parametrize('size', [3, 5])
@pytest.mark.parametrize('sizes', [((7, 9), (6, 11)), ((5, 6), (13, 5))])
def test_equals_the_plain_definition(rng, size, sizes):
    """Every patch that is inside, unfolded and normalised; C2-Matching's index made a centre's."""
    query, key = (torch.randn(2, 4, *side, generator=rng) for side in sizes)
    index, confidence = match_patches_inside(query, key, size)
    patches = [F.normalize(F.unfold(x, size), dim=1) for x in (query, key)]
    best, place = (patches[0].mT @ patches[1]).max(dim=2)
    columns = sizes[1][1] - size + 1
    rows = place // columns + size // 2
    want = rows * sizes[1][1] + place % columns + size // 2
    assert torch.equal(index.flatten(1), want)
    torch.testing.assert_close(confidence.flatten(1), best)


def test_a_patch_needs_all_of_its_mask(rng):
    x = torch.randn(1, 4, 8, 9, generator=rng)
    mask = torch.ones(8, 9, dtype=torch.bool)
    mask[4, 5] = False
    index, _ = match_patches_inside(x, x, key_mask=mask)
    own = torch.arange(72).view(1, 8, 9)[:, 1:-1, 1:-1]
    taken = {(r, c) for r in (3, 4, 5) for c in (4, 5, 6)}
    for r in range(1, 7):
        for c in range(1, 8):
            same = int(index[0, r - 1, c - 1]) == int(own[0, r - 1, c - 1])
            assert same is ((r, c) not in taken)


def test_the_ring_is_the_position_itself(rng):
    ring = matches_with_ring(torch.randint(0, 30, (2, 3, 4), generator=rng), key_width=6)
    assert ring.shape == (2, 2, 7, 8)
    assert ring[0, :, 0, 0].tolist() == [-1, -1] and ring[1, :, -1, 3].tolist() == [5, 2]
    assert ring[0, :, 1, 4].tolist() == [0, 3]


@pytest.mark.parametrize(
    ('sizes', 'mask'),
    [(((2, 5), (6, 6)), None), (((5, 5), (6, 6)), torch.eye(6, dtype=torch.bool))],
)
def test_refuses_maps_without_a_patch(sizes, mask):
    query, key = (torch.zeros(1, 4, *side) for side in sizes)
    with pytest.raises(ValueError, match='must both have a patch of 3x3 inside'):
        match_patches_inside(query, key, key_mask=mask)
