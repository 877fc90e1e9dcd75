"""Exact patch matching (DEF Eq. 11-12) in memory that does not grow with the number of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.tiles import even_cuts

EPS = 1e-12
TIE = 1e-6
# Products of a tile: with their sums they fit the caches of two cores; a GPU wants few, large calls.
CPU_BLOCK_ELEMENTS = 2**18
GPU_BLOCK_ELEMENTS = 2**24
NORM_ROWS = 16
NUMROW = 1


@torch.no_grad()
def match_patches(
    query: Tensor,
    key: Tensor,
    patch_size: int = 3,
    *,
    key_mask: Tensor | None = None,
    block_elements: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Best match of every query patch among the key patches, by cosine similarity.

    TTSR's semantics: patches around every position, zeros outside the map, borders take part.
    The inner product of two patches is the sum over their taps of products of single positions,
    so ``unfold`` is not needed: for a tile of queries and one row of keys after the other, one
    matrix product with K = C, then additions along x and y, the division by the key's norm and
    the running best, all while the tile is in the cache. The query's norm comes last.

    Args:
        query: (N, C, h, w) features, any float dtype; computed in at least float32.
        key: (N, C, h', w') features; h', w' are free.
        patch_size: side of the patches, odd.
        key_mask: (h', w') bool; only patches centred on True can be matched. Default: all.
        block_elements: products that a tile may hold; bounds the memory. Default: by device.

    Returns:
        index: (N, h, w) int64, flat into h' * w'; of cosines that differ by less than 1e-6 the
            lowest.
        confidence: (N, h, w) cosine in [-1, 1], query's dtype; 0 where a patch is all zero.

    Raises:
        ValueError: if the shapes do not fit, the patch size is even or nothing may be matched.
    """
    _check(query, key, patch_size, key_mask)
    dtype = torch.promote_types(query.dtype, torch.float32)
    block_elements = block_elements or (
        CPU_BLOCK_ELEMENTS if query.device.type == 'cpu' else GPU_BLOCK_ELEMENTS
    )
    query_norm = patch_norm(query, patch_size).clamp_min(EPS)
    key_scale = patch_norm(key, patch_size).clamp_min(EPS).reciprocal()
    index = torch.zeros_like(query_norm, dtype=torch.int64)
    best = torch.full_like(query_norm, -math.inf)
    rows, columns, key_columns = _tile_size(query, key, patch_size - 1, block_elements)
    for n in range(len(query)):
        for keys in even_cuts(key.shape[-1], key_columns):
            strip = _KeyStrip(key[n], key_scale[n], key_mask, keys, patch_size, dtype)
            for vertical in even_cuts(query.shape[-2], rows):
                for horizontal in even_cuts(query.shape[-1], columns):
                    tile = n, slice(*vertical), slice(*horizontal)
                    block = _with_halo(query[n], vertical, horizontal, patch_size // 2, dtype)
                    tie = TIE * query_norm[tile]
                    found = strip.search(block, tie)
                    _keep_better(best[tile], index[tile], *found, tie)
    return index, (best / query_norm).to(query.dtype)


def patch_norm(x: Tensor, patch_size: int) -> Tensor:
    """(N,C,h,w) -> (N,h,w), Euclidean norm of the zero-padded patch around each position.

    In at least float32, without a temporary of x's size.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    energy = x.new_empty((len(x), 1, *x.shape[-2:]), dtype=dtype)
    for top, bottom in even_cuts(x.shape[-2], NORM_ROWS):
        energy[:, 0, top:bottom] = x[:, :, top:bottom].to(dtype).square().sum(dim=1)
    ones = energy.new_ones((1, 1, patch_size, patch_size))
    return F.conv2d(energy, ones, padding=patch_size // 2).clamp_min(0).sqrt().squeeze(1)


class _KeyStrip:
    """Some columns of the key map, with their halo, searched by one query tile after another.

    Args:
        key: (C, h', w').
        scale: (h', w'), one over the patches' norms.
        mask: (h', w') bool, or None.
        columns: first and end of the columns that may be matched.
    """

    def __init__(
        self,
        key: Tensor,
        scale: Tensor,
        mask: Tensor | None,
        columns: tuple[int, int],
        patch_size: int,
        dtype: torch.dtype,
    ) -> None:
        self.patch_size = patch_size
        self.num_row = NUMROW
        self.first, self.map_width = columns[0], key.shape[-1]
        radius = patch_size // 2
        self.rows = _with_halo(key, (0, key.shape[1]), columns, radius, dtype)[:, radius:]
        self.scale = scale[:, slice(*columns), None]
        self.forbidden = None if mask is None else ~mask[:, slice(*columns)]

    def search(self, query: Tensor, tie: Tensor) -> tuple[Tensor, Tensor]:
        """Best key of this strip for every query of a tile.

        Queries are flat, with their halo, so that a step along x or y is a shift of the whole
        tile; what the halo computes is thrown away.

        Args:
            query: (C, a + patch_size - 1, b + patch_size - 1), a tile with its halo.
            tie: (a, b), the difference of two scores that counts as none.

        Returns:
            score (a, b): cosine times the query's norm; index (a, b) into the whole key map.
        """
        radius, width = self.patch_size // 2, query.shape[2]
        halo = 2 * radius
        flat = query.flatten(1)
        height, num_key, num_query = len(self.scale), self.rows.shape[2], flat.shape[1]
        products = query.new_empty(self.num_row * num_key, num_query)
        along_x = query.new_zeros(self.num_row + halo, num_key, num_query)
        used = num_key - halo, num_query - halo * (width + 1)
        best = F.pad(torch.full_like(tie, -math.inf), (0, halo), value=math.inf)
        best, tie = best.flatten()[: used[1]], F.pad(tie, (0, halo)).flatten()[: used[1]]
        index = torch.zeros_like(best, dtype=torch.int64)
        from_last = torch.arange(self.num_row * used[0], 0, -1, dtype=best.dtype, device=best.device)
        for top in range(0, self.rows.shape[1], self.num_row):
            keys = self.rows[:, top : top + self.num_row]
            num_row = keys.shape[1]
            new = products[: num_row * num_key]
            torch.mm(keys.flatten(1).T, flat, out=new)
            for i in range(halo):
                along_x[i].copy_(along_x[i - halo])
            _shifted_sum(new, num_query + 1, self.patch_size, out=along_x[halo:halo + num_row])
            low, high = max(0, top - radius), min(height, top + num_row - radius)
            if high <= low:
                continue
            first = low - (top - radius)
            parts = [
                along_x[first + i : first + i + high - low, : used[0], i * width : i * width + used[1]]
                for i in range(self.patch_size)
            ]
            score = new.view(num_row, num_key, num_query)[: high - low, : used[0], : used[1]]
            _sum(parts, out=score)
            score *= self.scale[low:high]
            if self.forbidden is not None:
                score[self.forbidden[low:high]] = -math.inf
            value = score.amax(dim=1).amax(dim=0)
            better = (value > best + tie).nonzero().squeeze(1)
            if len(better):
                value = value.index_select(0, better)
                best.index_copy_(0, better, value)
                least = value - tie.index_select(0, better)
                candidates = score.index_select(2, better).flatten(0, 1)
                ramp = from_last[-len(candidates):, None]
                place = len(candidates) - torch.where(candidates >= least, ramp, 0).amax(dim=0).long()
                row, column = low + place // used[0], self.first + place % used[0]
                index.index_copy_(0, better, row * self.map_width + column)
        return tuple(
            F.pad(x, (0, 2 * radius)).view(-1, width)[:, : width - 2 * radius]
            for x in (best, index)
        )


def _shifted_sum(x: Tensor, step: int, number: int, out: Tensor) -> None:
    """out[i] = x[i] + x[i + step] + ... on flat memory, ``number`` terms, where all exist."""
    length = x.numel() - (number - 1) * step
    flat = x.view(-1)
    _sum([flat[i * step : i * step + length] for i in range(number)], out.view(-1)[:length])


def _sum(parts: Sequence[Tensor], out: Tensor) -> None:
    """Add up into ``out``, which must not overlap any part."""
    if len(parts) == 1:
        out.copy_(parts[0])
        return
    torch.add(parts[0], parts[1], out=out)
    for part in parts[2:]:
        out += part


def _keep_better(best: Tensor, index: Tensor, score: Tensor, place: Tensor, tie: Tensor) -> None:
    """Update a tile's best score and its index in place."""
    wins = (score > best + tie) | ((score >= best - tie) & (place < index))
    index.copy_(torch.where(wins, place, index))
    torch.maximum(best, score, out=best)


def _with_halo(
    x: Tensor,
    rows: tuple[int, int],
    columns: tuple[int, int],
    halo: int,
    dtype: torch.dtype,
) -> Tensor:
    """A piece of (C,h,w) with ``halo`` more on each side, zeros beyond the map, laid out as x."""
    channels, height, width = x.shape
    size = rows[1] - rows[0] + 2 * halo, columns[1] - columns[0] + 2 * halo
    if channels > 1 and x.stride(0) == 1:
        out = x.new_zeros((*size, channels), dtype=dtype).permute(2, 0, 1)
    else:
        out = x.new_zeros((channels, *size), dtype=dtype)
    top, bottom = max(0, rows[0] - halo), min(height, rows[1] + halo)
    left, right = max(0, columns[0] - halo), min(width, columns[1] + halo)
    down, along = top - rows[0] + halo, left - columns[0] + halo
    inside = out[:, down : down + bottom - top, along : along + right - left]
    inside.copy_(x[:, top:bottom, left:right])
    return out


def _tile_size(query: Tensor, key: Tensor, halo: int, block_elements: int) -> tuple[int, int, int]:
    """Query rows, query columns and key columns of a tile: the fewest products in halos."""
    height, width = query.shape[-2:]
    key_columns = min(key.shape[-1], max(1, round(2 * block_elements ** (1 / 3)) - halo))
    positions = block_elements // (key_columns + halo)
    best = None
    for number in range(1, height + 1):
        rows = -(-height // number)
        columns = positions // (rows + halo) - halo
        if columns < 1 and number < height:
            continue
        pieces = -(-width // max(1, columns))
        columns = -(-width // pieces)
        work = number * (rows + halo) * pieces * (columns + halo)
        if best is None or work < best[0]:
            best = work, rows, columns
    return best[1], best[2], key_columns


def _check(query: Tensor, key: Tensor, patch_size: int, key_mask: Tensor | None) -> None:
    if query.ndim != 4 or key.ndim != 4 or query.shape[:2] != key.shape[:2]:
        raise ValueError(
            f'query {tuple(query.shape)} and key {tuple(key.shape)} must be (N, C, h, w) and '
            "(N, C, h', w') with the same N and C."
        )
    if patch_size < 1 or patch_size % 2 == 0:
        raise ValueError(f'patch_size is {patch_size}, but must be odd.')
    if key_mask is not None:
        if key_mask.dtype != torch.bool or key_mask.shape != key.shape[-2:]:
            raise ValueError(
                f'key_mask is {key_mask.dtype} {tuple(key_mask.shape)}, '
                f'but must be bool {tuple(key.shape[-2:])}.'
            )
        if not key_mask.any():
            raise ValueError('key_mask allows no position at all.')
