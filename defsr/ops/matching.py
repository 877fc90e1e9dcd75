"""Exact patch matching (DEF Eq. 11-12) in memory that does not grow with the number of pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.float32 import in_float32
from defsr.ops.tiles import Reach, Span, even_cuts
from defsr.utils.packages import HAS_NUMBA, HAS_TRITON
from defsr.utils.threads import one_thread_each

if TYPE_CHECKING:
    from defsr.ops.matching_compiled import CompiledStrip

EPS = 1e-12
TIE = 1e-6
FORBIDDEN = -1.0  # in place of one over the norm of a key that may not be matched
# Products of a query tile with one row of keys: six such buffers stay in the caches of a CPU, while
# a GPU without Triton wants few, large calls.
CPU_BLOCK_ELEMENTS = 2**18
GPU_BLOCK_ELEMENTS = 2**24
KEY_ROWS = 8  # of one matrix product
NORM_ROWS = 16  # of one piece of the energy


@torch.no_grad()
@in_float32
def match_patches(
    query: Tensor,
    key: Tensor,
    patch_size: int = 3,
    *,
    key_mask: Tensor | None = None,
    block_elements: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Best match of every query patch among the key patches, by cosine similarity.

    TTSR's semantics: patches around every position, zeros outside the map, borders take part.
    The inner product of two patches is the sum over their taps of products of single positions,
    so ``unfold`` is not needed: for a tile of queries and a few rows of keys after the other, one
    matrix product with K = C, then additions along x and y, the division by the key's norm and
    the running best, all while the products are in the cache. The query's norm comes last.

    Args:
        query: (N, C, h, w) features, any float dtype; computed in at least float32.
        key: (N, C, h', w') features; h', w' are free.
        patch_size: side of the patches, odd.
        key_mask: (h', w') bool; only patches centred on True can be matched. Default: all.
        block_elements: products of a query tile with one row of keys; about six times as many
            numbers are held at once. Default: by device; on a GPU with Triton there are no such
            tiles unless it is given, see ``match_patches_fused``.
        progress: called with (query tiles done, query tiles) after each.

    Returns:
        index: (N, h, w) int64, flat into h' * w'; of cosines that differ by less than 1e-6 the
            lowest.
        confidence: (N, h, w) cosine in [-1, 1], query's dtype; 0 where a patch is all zero.

    Raises:
        ValueError: if the shapes do not fit, the patch size is even or nothing may be matched.

    Example:
        >>> key = torch.rand(1, 8, 5, 7)
        >>> index, confidence = match_patches(key[..., 1:4, 2:6], key, patch_size=1)
        >>> index[0, 0].tolist()  # row 1 of seven columns, from column 2 on
        [9, 10, 11, 12]
    """
    check_maps(query, key, patch_size, key_mask)
    dtype = torch.promote_types(query.dtype, torch.float32)
    query_norm = patch_norm(query, patch_size).clamp_min(EPS)
    if has_kernel(query.device) and block_elements is None:
        index, best = search_on_gpu(query, key, patch_size, key_mask, query_norm, progress=progress)
        return index, (best / query_norm).to(query.dtype)
    strip_type, usual = _strip_type(query.device)
    block_elements = block_elements or usual
    key_scale = patch_norm(key, patch_size).clamp_min(EPS).reciprocal()
    index = torch.zeros_like(query_norm, dtype=torch.int64)
    best = torch.full_like(query_norm, -math.inf)
    done = 0
    tiles, strips = _cuts(query, key, patch_size - 1, block_elements)
    total = len(query) * len(strips) * len(tiles)
    with one_thread_each(query.device) as threads:
        for n, columns in itertools.product(range(len(query)), strips):
            strip = strip_type(key[n], key_scale[n], key_mask, columns, patch_size, dtype)
            places = [(n, slice(*rows), slice(*columns)) for rows, columns in tiles]
            ties = [TIE * query_norm[at] for at in places]
            search = partial(strip.search, query[n])
            found = threads(search, *zip(*tiles, strict=True), ties)
            for at, tie, (score, place) in zip(places, ties, found, strict=True):
                _keep_better(best[at], index[at], score, place, tie)
                done += 1
                if progress:
                    progress(done, total)
    return index, (best / query_norm).to(query.dtype)


def has_kernel(device: torch.device) -> bool:
    """Whether ``search_on_gpu`` is for it."""
    return device.type == 'cuda' and HAS_TRITON


def _strip_type(device: torch.device) -> tuple[type[KeyStrip | CompiledStrip], int]:
    """What searches some columns of keys there, and the usual size of its tiles."""
    if device.type != 'cpu':
        return KeyStrip, GPU_BLOCK_ELEMENTS
    if not HAS_NUMBA:
        return KeyStrip, CPU_BLOCK_ELEMENTS
    from defsr.ops import matching_compiled

    return matching_compiled.CompiledStrip, matching_compiled.BLOCK_ELEMENTS


def search_on_gpu(
    query: Tensor,
    key: Tensor,
    patch_size: int,
    key_mask: Tensor | None,
    query_norm: Tensor,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Index and score (N, h, w) by ``match_patches_fused``, which has the other ``options``."""
    from defsr.ops.matching_fused import match_patches_fused

    dtype = query_norm.dtype
    key_scale = patch_norm(key, patch_size).clamp_min(EPS).reciprocal()
    if key_mask is not None:
        key_scale = torch.where(key_mask, key_scale, FORBIDDEN)
    found = [
        match_patches_fused(q.to(dtype), k.to(dtype), patch_size, scale, TIE * norm, **options)
        for q, k, scale, norm in zip(query, key, key_scale, query_norm, strict=True)
    ]
    score, index = (torch.stack(parts) for parts in zip(*found, strict=True))
    return index, score


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


class KeyStrip:
    """Some columns of the key map, searched by one query tile after another.

    Args:
        key: (C, h', w').
        scale: (h', w'), one over the patches' norms.
        mask: (h', w') bool, or None.
        columns: first and end of the columns that may be matched.
        patch_size: side of the patches.
        dtype: to compute in; only the strip is converted.
    """

    def __init__(
        self,
        key: Tensor,
        scale: Tensor,
        mask: Tensor | None,
        columns: Span,
        patch_size: int,
        dtype: torch.dtype,
    ) -> None:
        self.patch_size, self.radius = patch_size, patch_size // 2
        self.first, self.map_width = columns[0], key.shape[-1]
        reach = Reach.of(columns, self.radius, key.shape[-1])
        self.key = F.pad(key[:, :, reach.inside].to(dtype), (reach.before, reach.after))
        self.scale = scale[:, slice(*columns), None]
        self.forbidden = None if mask is None else ~mask[:, slice(*columns)]

    @torch.no_grad()
    def search(
        self, query: Tensor, rows: Span, columns: Span, tie: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Best key of this strip for every query of a tile.

        Args:
            query: (C, h, w), the whole map.
            rows: first and end of the tile's rows.
            columns: first and end of its columns.
            tie: (a, b), the difference of two scores that counts as none.

        Returns:
            score (a, b): cosine times the query's norm; index (a, b) into the whole key map.
        """
        halo = self.patch_size - 1
        width = tie.shape[1] + halo
        used = tie.shape[0] * width - halo
        # Between the rows of a tile lie positions of the halo, which nothing can improve on.
        best = F.pad(torch.full_like(tie, -math.inf), (0, halo), value=math.inf).flatten()[:used]
        least = F.pad(tie, (0, halo)).flatten()[:used]
        score, index = (
            F.pad(x, (0, halo)).view(-1, width)[:, : -halo or None]
            for x in self.search_flat(query, rows, columns, best, least)
        )
        return score, index

    def search_flat(
        self, query: Tensor, rows: Span, columns: Span, best: Tensor, tie: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As ``search``, of positions one after the other with the halo between rows.

        ``best`` (Q,) is what a score has to beat to begin with.
        """
        running = _RunningBest(best, tie)
        for row, score in self._scores(query, rows, columns):
            running.update(score, row, self.first, self.map_width)
        return running.score, running.index

    def _scores(self, query: Tensor, rows: Span, columns: Span) -> Iterator[tuple[int, Tensor]]:
        """(key row r, scores of rows r, r+1, ... (rows, key columns, queries)), row by row.

        Keys are the outer, queries the inner index, both flat with their halo: the diagonal sum
        along x is then one shift of the whole buffer, and along y a step to the next buffer.
        Only what lies in the maps is multiplied, the rest of the halo stays zero. Each answer is
        valid until the next is asked for.
        """
        size, radius, halo = self.patch_size, self.radius, self.patch_size - 1
        down = Reach.of(rows, radius, query.shape[1])
        along = Reach.of(columns, radius, query.shape[2])
        part = query[:, down.inside, along.inside].to(self.key.dtype)
        flat = F.pad(part, (along.before, along.after)).flatten(1)
        width = part.shape[2] + along.before + along.after
        num_query = flat.shape[1] + (down.before + down.after) * width
        _, height, num_key = self.key.shape
        products = flat.new_empty(KEY_ROWS * num_key, num_query)
        first, end = down.before * width, num_query - down.after * width
        products[:, :first], products[:, end:] = 0, 0
        sums = flat.new_empty(halo + KEY_ROWS, num_key, num_query)
        sums[:halo] = 0
        used_key, used_query = num_key - halo, num_query - halo * (width + 1)
        for top in range(0, height + radius, KEY_ROWS):
            keys = self.key[:, top : top + KEY_ROWS].flatten(1)
            new = products[: keys.shape[1]]
            torch.mm(keys.T, flat, out=new[:, first:end])
            new = new.view(-1, num_key, num_query)
            _shifted_sum(new, num_query + 1, size, out=sums[halo : halo + len(new)])
            sums[halo + len(new) :] = 0
            # All terms of key row top - radius + i are there: sums[i] to sums[i + halo].
            ready = range(max(0, radius - top), min(KEY_ROWS, height - top + radius))
            if ready:
                for i in ready:
                    for j in range(1, size):
                        below = sums[i + j, :, j * width :]
                        sums[i, :used_key, :used_query] += below[:used_key, :used_query]
                row = ready.start + top - radius
                score = sums[ready.start : ready.stop, :used_key, :used_query]
                yield row, self._normalise(score, row)
            for i in range(halo):
                sums[i] = sums[i + KEY_ROWS]

    def _normalise(self, score: Tensor, row: int) -> Tensor:
        """Divide by the keys' norms and rule out what is masked, in place; rows from ``row`` on."""
        rows = slice(row, row + len(score))
        score *= self.scale[rows]
        if self.forbidden is not None:
            score[self.forbidden[rows]] = -math.inf
        return score


class _RunningBest:
    """Best score of each query so far, and where.

    Args:
        score: (Q,) to begin with.
        tie: (Q,) what a later key must be better by.
    """

    def __init__(self, score: Tensor, tie: Tensor) -> None:
        self.score, self.tie = score, tie
        self.index = torch.zeros_like(score, dtype=torch.int64)

    def update(self, score: Tensor, row: int, column: int, map_width: int) -> None:
        """Take in the scores (rows, columns, Q) of keys from (row, column) of a map on.

        Few queries improve, so only their columns are searched for the place.
        """
        highest = score.amax(dim=1).amax(dim=0)
        better = (highest > self.score + self.tie).nonzero().squeeze(1)
        if not len(better):
            return
        tie = self.tie
        if len(better) < len(tie):
            highest, tie, score = (x.index_select(-1, better) for x in (highest, tie, score))
        self.score.index_copy_(0, better, highest)
        place = first_reaching(score.flatten(0, 1), highest - tie)
        rows, columns = row + place // score.shape[1], column + place % score.shape[1]
        self.index.index_copy_(0, better, rows * map_width + columns)


def first_reaching(score: Tensor, least: Tensor) -> Tensor:
    """The first of (K, ...) in which each of (...) is reached: int64; K where none is."""
    number = len(score)
    # It has the most left, counted from the last.
    left = torch.arange(number, 0, -1, dtype=score.dtype, device=score.device)
    left = left.view(-1, *[1] * least.dim())
    return number - torch.where(score >= least, left, 0).amax(dim=0).long()


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


def _cuts(
    query: Tensor, key: Tensor, halo: int, block_elements: int
) -> tuple[list[tuple[Span, Span]], list[Span]]:
    """Query tiles as (rows, columns) and strips of key columns: the fewest products in halos."""
    height, width = query.shape[-2:]
    key_columns = min(key.shape[-1], max(1, round(2 * block_elements ** (1 / 3)) - halo))
    positions = block_elements // (key_columns + halo)

    def cuts(num_rows: int) -> tuple[list[Span], list[Span]]:
        side = max(1, positions // (num_rows + halo) - halo)
        return even_cuts(height, num_rows), even_cuts(width, side)

    def work(num_rows: int) -> int:
        rows, columns = cuts(num_rows)
        return (height + halo * len(rows)) * (width + halo * len(columns))

    sizes = sorted({-(-height // number) for number in range(1, height + 1)})
    fitting = [size for size in sizes if positions // (size + halo) > halo] or sizes[:1]
    rows, columns = cuts(min(fitting, key=work))
    return list(itertools.product(rows, columns)), even_cuts(key.shape[-1], key_columns)


def check_maps(query: Tensor, key: Tensor, patch_size: int, key_mask: Tensor | None) -> None:
    """Refuse what cannot be matched, see ``match_patches``."""
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
