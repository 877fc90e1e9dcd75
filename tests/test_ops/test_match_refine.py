"""Refined matches: planted shifts are found, and nothing else moves."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from defsr.ops import match_refine
from defsr.ops.match_refine import refine_positions
from defsr.ops.warping import cell_positions


def grid(height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    return torch.stack((rows, columns))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('shift', [(0, 0), (2, -1), (-2, 2)])
def test_a_planted_shift_is_found(shift, dtype, rng):
    """Two samples, H != W, the key larger: from the wrong place to the right one."""
    key = torch.rand(2, 5, 30, 37, generator=rng, dtype=dtype)
    dy, dx = shift
    query = key[:, :, 4 + dy : 24 + dy, 6 + dx : 32 + dx] * 3
    start = (grid(20, 26) + torch.tensor([4, 6]).view(2, 1, 1)).expand(2, -1, -1, -1)
    found = refine_positions(query, key, start, factor=1, radius=2, window=5)
    expected = start + torch.tensor(shift).view(1, 2, 1, 1)
    assert torch.equal(found, expected) and found.dtype == torch.int64


def test_each_position_moves_on_its_own(rng):
    """The left half is off by one in y, the right half in x."""
    key = torch.rand(1, 6, 24, 40, generator=rng)
    query = torch.cat((key[..., 1:21, :20], key[..., :20, 21:40]), dim=-1)
    found = refine_positions(query, key, grid(20, 39)[None], factor=1, radius=1, window=3)
    moved = found - grid(20, 39)
    assert (moved[0, 0, :, :18] == 1).all() and (moved[0, 1, :, :18] == 0).all()
    assert (moved[0, 0, :, 22:] == 0).all() and (moved[0, 1, :, 22:] == 1).all()


def test_equal_places_keep_the_match():
    """On a flat map every shift is as good: none is taken. Nor with a radius of 0."""
    flat, start = torch.ones(1, 3, 8, 9), grid(8, 9)[None]
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    assert torch.equal(refine_positions(flat, flat, start, 1, 2, 3)[inside], start[inside])
    noise = torch.rand(1, 3, 8, 9)
    assert torch.equal(refine_positions(noise, noise.flip(-1), start, 1, 0, 3), start)


def test_places_outside_are_not_taken(rng):
    """They count as zero, and a cosine of non-negative features is above it."""
    key = torch.rand(1, 4, 10, 12, generator=rng) + 0.1
    found = refine_positions(key, key, grid(10, 12)[None], factor=1, radius=2, window=3)
    assert torch.equal(found, grid(10, 12)[None])


def test_against_a_loop(rng):
    """Every position and shift by hand, the window cut at the border."""
    query, key = (torch.rand(1, 3, 6, 7, generator=rng, dtype=torch.float64) for _ in 'qk')
    start, radius, window = grid(6, 7)[None], 1, 3
    found = refine_positions(query, key, start, 1, radius, window)

    def cosine(y, x, dy, dx):
        if not (0 <= y + dy < 6 and 0 <= x + dx < 7):
            return 0.0
        return float(F.cosine_similarity(query[0, :, y, x], key[0, :, y + dy, x + dx], dim=0))

    for y in range(6):
        for x in range(7):
            scores = {}
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    around = [
                        cosine(v, u, dy, dx)
                        for v in range(max(0, y - 1), min(6, y + 2))
                        for u in range(max(0, x - 1), min(7, x + 2))
                    ]
                    scores[dy, dx] = sum(around) / len(around)
            best = max(scores, key=scores.get)
            assert tuple((found[0, :, y, x] - torch.tensor([y, x])).tolist()) == best


@pytest.mark.parametrize('piece', [1, 2**18])
@pytest.mark.parametrize('factor', [2, 4])
def test_cells_are_their_positions_one_by_one(factor, piece, rng, monkeypatch):
    """Matches of cells anywhere, at the border of the key as well, however they are cut."""
    monkeypatch.setattr(match_refine, 'CPU_PIECE', piece)
    query = torch.rand(2, 6, 4 * factor, 5 * factor, generator=rng, dtype=torch.float64)
    key = torch.rand(2, 6, 7 * factor, 3 * factor, generator=rng, dtype=torch.float64)
    rows, columns = (torch.randint(number, (2, 4, 5), generator=rng) for number in (7, 3))
    corner_yx = torch.stack((rows, columns), dim=1) * factor + 1  # also between cells of the key
    found = refine_positions(query, key, corner_yx, factor, radius=2, window=2 * factor + 1)
    fine = cell_positions(corner_yx, factor)
    assert torch.equal(found, refine_positions(query, key, fine, 1, 2, 2 * factor + 1))


def test_refuses():
    maps = torch.rand(1, 2, 4, 4)
    with pytest.raises(ValueError, match='window is 4, but must be odd'):
        refine_positions(maps, maps, grid(4, 4)[None], 1, 1, 4)
    with pytest.raises(ValueError, match='radius is -1'):
        refine_positions(maps, maps, grid(4, 4)[None], 1, -1, 3)
