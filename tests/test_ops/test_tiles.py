"""Tiles cover an image once, at every scale."""

from __future__ import annotations

import pytest
import torch

from defsr.ops.tiles import make_tiles


@pytest.mark.parametrize('size', [(37, 31), (16, 100), (1, 1), (64, 64)])
@pytest.mark.parametrize('scale', [1, 4])
def test_pieces_cover_the_image_exactly_once(size, scale):
    count = torch.zeros(1, 1, size[0] * scale, size[1] * scale)
    for tile in make_tiles(*size, side=16, overlap=5):
        count[tile.inner(scale)] += 1
    assert torch.equal(count, torch.ones_like(count))


def test_core_is_the_piece_inside_what_outer_cuts_out(rng):
    x = torch.rand(2, 3, 37, 31, generator=rng)
    for tile in make_tiles(37, 31, side=16, overlap=5):
        assert torch.equal(x[tile.outer()][tile.core()], x[tile.inner()])


def test_tiles_begin_on_a_grid_and_see_no_less():
    for tile, plain in zip(
        make_tiles(37, 31, 16, 5, grid=4), make_tiles(37, 31, 16, 5), strict=True
    ):
        assert tile.bounds == plain.bounds and tile.reach[1::2] == plain.reach[1::2]
        for begin, least in zip(tile.reach[::2], plain.reach[::2], strict=True):
            assert begin % 4 == 0 and 0 <= least - begin < 4


def test_one_tile_is_the_whole_image():
    (tile,) = make_tiles(20, 30, side=30, overlap=8)
    assert tile.bounds == tile.reach == (0, 20, 0, 30)


def test_side_must_be_positive():
    with pytest.raises(ValueError, match='tile is 0, but must be at least 1'):
        make_tiles(20, 30, side=0, overlap=8)
