"""Matches of a coarse level, moved to where a finer level agrees best."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.matching import first_reaching
from defsr.ops.shifts import by_shift
from defsr.ops.tiles import even_cuts
from defsr.ops.warping import cell_positions, flat_positions
from defsr.utils.checks import check_at_least, check_int

EPS = 1e-12
TIE = 1e-6  # of mean cosines
# Numbers of the key's blocks that are read at a time: a CPU's stay in its caches, a GPU wants few,
# large calls.
CPU_PIECE, GPU_PIECE = 2**18, 2**26


@torch.no_grad()
def refine_positions(
    query: Tensor, key: Tensor, corner_yx: Tensor, factor: int, radius: int, window: int
) -> Tensor:
    """Each position's match, moved by at most ``radius`` in y and x. Not in the paper.

    A match of the coarsest level, carried to a finer one, is off by up to half a coarse cell. Of
    the (2 radius + 1)^2 shifts of it, that with the largest mean cosine over a window around the
    position is taken; of those within 1e-6 of it the shortest.

    The ``factor``^2 positions of a cell go to one block of the key, so that for each cell one
    matrix product of its queries with the block and ``radius`` positions around it has the
    products of all shifts.

    Args:
        query: (N, C, factor*h, factor*w) features.
        key: (N, C, H', W') features of the same level.
        corner_yx: (N, 2, h, w) int64, rows then columns: the match of each cell's first position.
        factor: side of a cell in positions.
        radius: of the search, in positions, >= 0.
        window: side of the window that is averaged over, odd.

    Returns:
        (N, 2, factor*h, factor*w) int64. They may lie outside the map by ``radius``.

    Raises:
        ValueError: for a radius below 0 and an even window.
    """
    check_int('radius', radius, 0)
    if check_at_least('window', window, 1) % 2 == 0:
        raise ValueError(f'window is {window}, but must be odd.')
    shifts = _shifts(radius)
    score = _mean_around(_cosines(query, key, corner_yx, factor, radius), window)
    side = 2 * radius + 1
    ranked = score[:, [(y + radius) * side + x + radius for y, x in shifts]]
    first = first_reaching(ranked.movedim(1, 0), ranked.amax(dim=1) - TIE)
    moved = torch.tensor(shifts, device=first.device)[first]  # (N, H, W, 2)
    return cell_positions(corner_yx, factor) + moved.permute(0, 3, 1, 2)


def _cosines(query: Tensor, key: Tensor, corner_yx: Tensor, factor: int, radius: int) -> Tensor:
    """(N, (2 radius + 1)^2, H, W), of each position and each shift of its match, row by row."""
    num, channels, height, width = query.shape
    rows, columns = corner_yx.shape[-2:]
    side, reach = factor + 2 * radius, 2 * radius + 1
    query_cells = query.view(num, channels, rows, factor, columns, factor)
    query_cells = query_cells.permute(0, 2, 4, 3, 5, 1)  # (N, h, w, factor, factor, C)
    pixels = key.permute(0, 2, 3, 1).reshape(-1, channels)
    scale = _one_over_norm(key).flatten()
    around = torch.arange(-radius, factor + radius, device=key.device)
    block_yx = torch.stack(torch.meshgrid(around, around, indexing='ij')).view(1, 2, 1, -1)
    out = query.new_empty(num, reach**2, rows, factor, columns, factor)
    piece = CPU_PIECE if key.device.type == 'cpu' else GPU_PIECE
    cells = max(1, piece // (side**2 * channels))
    cuts = even_cuts(rows, max(1, cells // columns)), even_cuts(columns, cells)
    for n, down, along in product(range(num), *cuts):
        here = slice(*down), slice(*along)
        corner = corner_yx[n, :, here[0], here[1]].flatten(1).unsqueeze(-1)
        flat, inside = flat_positions(corner.unsqueeze(0) + block_yx, key.shape[-2:])
        flat = flat.flatten() + n * key.shape[-2] * key.shape[-1]
        blocks = pixels.index_select(0, flat).view(-1, side**2, channels)
        queries = query_cells[n, here[0], here[1]].reshape(-1, factor**2, channels)
        products = queries @ blocks.transpose(1, 2)
        products *= (scale[flat] * inside.flatten()).view(-1, 1, side**2)
        shifted = by_shift(products, factor, factor, reach).flatten(1, 2)
        shifted = shifted.unflatten(0, (down[1] - down[0], -1)).permute(2, 0, 3, 1, 4)
        out[n, :, here[0], :, here[1]] = shifted
    return out.view(num, -1, height, width).mul_(_one_over_norm(query))


def _one_over_norm(x: Tensor) -> Tensor:
    """(N,C,H,W) -> (N,1,H,W), of each position's features."""
    return torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(EPS).reciprocal()


def _shifts(radius: int) -> list[tuple[int, int]]:
    """All of them, short ones first."""
    reach = range(-radius, radius + 1)
    return sorted(((y, x) for y in reach for x in reach), key=lambda s: s[0] ** 2 + s[1] ** 2)


def _mean_around(x: Tensor, window: int) -> Tensor:
    """(N,K,H,W), the mean over the window's part inside the map."""
    for size in ((window, 1), (1, window)):
        pad = [side // 2 for side in size]
        x = F.avg_pool2d(x, size, stride=1, padding=pad, count_include_pad=False)
    return x
