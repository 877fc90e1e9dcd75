"""The search in a window: the exact search's answers among the keys that lie in it."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from defsr.ops.matching import match_patches
from defsr.ops.matching_near import match_patches_near


@pytest.fixture
def maps(rng):
    """Sides that are no multiple of a tile's; two samples."""

    def draw(height, width):
        return [torch.rand(2, 6, height, width, generator=rng).double() for _ in 'qk']

    return draw


@pytest.mark.parametrize('patch_size', [1, 3, 5])
@pytest.mark.parametrize('size', [(9, 13), (20, 17), (3, 5), (1, 1)])
def test_as_far_as_the_map_it_is_the_exact_search(maps, rng, size, patch_size):
    query, key = maps(*size)
    mask = torch.rand(size, generator=rng) > 0.3
    mask[0, 0] = True
    for options in ({}, {'key_mask': mask}):
        near = match_patches_near(query, key, max(size), patch_size, **options)
        exact = match_patches(query, key, patch_size, **options)
        assert torch.equal(near[0], exact[0])
        assert_close(near[1], exact[1])


@pytest.mark.parametrize('reach', [0, 1, 3])
def test_every_position_has_a_window_of_its_own(maps, rng, reach):
    """Each against the exact search with a mask of its window."""
    query, key = maps(11, 10)
    mask = torch.rand((11, 10), generator=rng) > 0.4
    index, confidence = match_patches_near(query, key, reach, key_mask=mask)
    for y in range(11):
        for x in range(10):
            window = torch.zeros_like(mask)
            window[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = True
            window &= mask
            if not window.any():
                assert index[:, y, x].tolist() == [10 * y + x] * 2
                assert not confidence[:, y, x].any()
                continue
            exact = match_patches(query, key, key_mask=window)
            assert torch.equal(index[:, y, x], exact[0][:, y, x])
            assert_close(confidence[:, y, x], exact[1][:, y, x])


def test_of_equal_ones_the_lowest_index(rng):
    flat = torch.ones(1, 3, 12, 12)
    index, confidence = match_patches_near(flat, flat, reach=2)
    inside = index[0, 4:8, 4:8]  # where all patches of the window are whole
    rows, columns = torch.meshgrid(torch.arange(2, 6), torch.arange(2, 6), indexing='ij')
    assert torch.equal(inside, rows * 12 + columns)
    assert_close(confidence[0, 4:8, 4:8], torch.ones(4, 4))


def test_says_how_far_it_is(maps):
    query, key = maps(9, 17)
    said = []
    match_patches_near(query, key, 1, progress=lambda done, total: said.append((done, total)))
    assert said == [(i, 12) for i in range(1, 13)]


def test_half_precision_is_computed_in_single(maps):
    query, key = (x.half() for x in maps(8, 9))
    index, confidence = match_patches_near(query, key, 2)
    wanted = match_patches_near(query.float(), key.float(), 2)
    assert torch.equal(index, wanted[0]) and confidence.dtype == torch.float16
    assert_close(confidence, wanted[1].half())


def test_refuses(maps):
    query, key = maps(4, 5)
    with pytest.raises(ValueError, match='must be of one size to be in one frame'):
        match_patches_near(query, key[..., 1:], 1)
    with pytest.raises(ValueError, match='reach is -1'):
        match_patches_near(query, key, -1)
