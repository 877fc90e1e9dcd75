from __future__ import annotations

import pytest
import torch

from defsr.ops.match_border import match_patches_carried
from defsr.ops.matching_inside import match_patches_inside


@pytest.mark.parametrize('size', [3, 5])
def test_a_planted_copy_is_found_up_to_the_border(rng, size):
    """Each position goes with its nearest patch: where the copy is, at the border as inside."""
    key = torch.randn(2, 4, 9, 11, generator=rng)
    query = key[:, :, 1:8, 3:9].clone()
    index, confidence = match_patches_carried(query, key, size)
    own = torch.arange(99).view(9, 11)[1:8, 3:9]
    assert torch.equal(index, own.expand(2, -1, -1))
    torch.testing.assert_close(confidence, torch.ones(2, 7, 6))


def test_inside_it_is_the_search_inside(rng):
    query, key = torch.randn(2, 4, 6, 7, generator=rng), torch.randn(2, 4, 8, 5, generator=rng)
    mask = torch.ones(8, 5, dtype=torch.bool)
    mask[0] = False
    index, confidence = match_patches_carried(query, key, key_mask=mask)
    inner = match_patches_inside(query, key, key_mask=mask)
    assert torch.equal(index[:, 1:-1, 1:-1], inner[0])
    assert torch.equal(confidence[:, 1:-1, 1:-1], inner[1])
    assert torch.equal(confidence[:, 0], confidence[:, 1])
    assert int(index.min()) >= 5 and int(index.max()) < 40, 'the masked row is in no patch'


@pytest.mark.parametrize('sizes', [(1, 2), (2, 5), (3, 1)])
def test_a_query_smaller_than_a_patch(rng, sizes):
    query, key = torch.rand(2, 4, *sizes, generator=rng), torch.rand(2, 4, 5, 6, generator=rng)
    index, confidence = match_patches_carried(query, key)
    assert index.shape == confidence.shape == (2, *sizes)
    assert int(index.min()) >= 0 and int(index.max()) < 30
