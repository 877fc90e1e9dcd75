"""``match_patches`` on a GPU: sums over patches and the best key in one pass over the products."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from defsr.ops.matching import first_reaching
from defsr.ops.tiles import Reach, even_cuts

PRODUCTS = 2**27  # held at once: half a GiB in float32
BLOCK_QUERY, BLOCK_KEY, WARPS = 64, 16, 4  # of one program's step
PROGRAMS = 1024  # that share a piece: several for each multiprocessor


def match_patches_fused(
    query: Tensor,
    key: Tensor,
    patch_size: int,
    key_scale: Tensor,
    tie: Tensor,
    *,
    reach: int | None = None,
    products: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """What ``match_patches`` looks for in one image.

    For some rows of queries and of keys after the other: one matrix product of all their
    positions, and one kernel that adds up along the patch, divides by the keys' norms and keeps
    the best. It reads each product about three times and writes nothing of that size.

    Args:
        query: (C, h, w), in the dtype to compute in.
        key: (C, h', w').
        patch_size: side of the patches, odd.
        key_scale: (h', w'), one over the patches' norms, or ``FORBIDDEN``.
        tie: (h, w), the difference of two scores that counts as none.
        reach: only keys at most so many rows and columns away, in maps of one frame.
        products: how many to hold at once. Default: ``PRODUCTS``.
        progress: called with (pieces done, pieces).

    Returns:
        score: (h, w), cosine times the query's norm, -infinity where nothing may be matched;
        index: (h, w) int64 into h' * w'.
    """
    radius, products = patch_size // 2, products or PRODUCTS
    score, index = torch.empty_like(tie), torch.empty_like(tie, dtype=torch.int64)
    cuts = _cuts(query.shape[1], query.shape[2], radius, products)
    for done, (top, bottom) in enumerate(cuts, start=1):
        part, found = slice(top, bottom), []
        first, end = 0, key.shape[1]
        if reach is not None:
            first, end = max(0, top - reach), min(end, bottom + reach)
        for start, stop in _cuts(end - first, key.shape[2], radius, products):
            rows = first + start, first + stop
            found += _search(query, key, radius, key_scale, tie[part], (top, bottom), rows, reach)
        score[part], index[part] = _best_of(found, tie[part])
        if progress:
            progress(done, len(cuts))
    return score, index


def _cuts(rows: int, width: int, radius: int, products: int) -> list[tuple[int, int]]:
    """Rows of one piece: as many positions of queries as of keys."""
    return even_cuts(rows, max(1, int(products**0.5) // width - 2 * radius))


def _search(
    query: Tensor,
    key: Tensor,
    radius: int,
    key_scale: Tensor,
    tie: Tensor,
    query_rows: tuple[int, int],
    key_rows: tuple[int, int],
    reach: int | None,
) -> list[tuple[Tensor, Tensor]]:
    """(score, index), as ``tie``, for each share of some rows of keys, in their order."""
    (queries, first), (keys, key_first) = (
        _with_halo(x, rows, radius) for x, rows in ((query, query_rows), (key, key_rows))
    )
    products = keys.flatten(1).T @ queries.flatten(1)
    num_query, width = tie.numel(), key.shape[2]
    num_key = (key_rows[1] - key_rows[0]) * width
    blocks = triton.cdiv(num_query, BLOCK_QUERY)
    shares = min(triton.cdiv(PROGRAMS, blocks), triton.cdiv(num_key, BLOCK_KEY))
    share = triton.cdiv(triton.cdiv(num_key, BLOCK_KEY), shares) * BLOCK_KEY
    shares = triton.cdiv(num_key, share)
    score = tie.new_empty(shares, *tie.shape)
    index = torch.empty_like(score, dtype=torch.int64)
    _best_key[(blocks, shares)](
        products, key_scale[slice(*key_rows)].contiguous(), tie.contiguous(), score, index,
        queries.shape[1], query.shape[2], query_rows[0] - first, num_query,
        keys.shape[1], width, key_rows[0] - key_first, num_key, key_rows[0] * width, share,
        key_first - first, -1 if reach is None else reach,
        radius, BLOCK_QUERY, BLOCK_KEY, num_warps=WARPS,
    )  # fmt: skip
    return list(zip(score, index, strict=True))


def _with_halo(x: Tensor, rows: tuple[int, int], radius: int) -> tuple[Tensor, int]:
    """Some rows of (C, h, w) and those around them that lie in the map; the first of them."""
    inside = Reach.of(rows, radius, x.shape[1]).inside
    return x[:, inside], inside.start


def _best_of(found: list[tuple[Tensor, Tensor]], tie: Tensor) -> tuple[Tensor, Tensor]:
    """The best share of each query; the first of those that tie."""
    score, index = (torch.stack(parts) for parts in zip(*found, strict=True))
    highest = score.amax(dim=0)
    first = first_reaching(score, highest - tie)
    return highest, index.gather(0, first[None]).squeeze(0)


# Compiled once for all sizes, not anew where one is 1 or a multiple of 16.
@triton.jit(
    do_not_specialize=[
        'query_height', 'query_width', 'query_top', 'num_query', 'key_height', 'key_width',
        'key_top', 'num_key', 'first_key', 'share', 'rows_below', 'reach',
    ]
)  # fmt: skip
def _best_key(  # type: ignore[no-untyped-def]
    products, scale, tie, score, index,
    query_height, query_width, query_top, num_query,
    key_height, key_width, key_top, num_key, first_key, share,
    rows_below, reach, radius: tl.constexpr, block_query: tl.constexpr, block_key: tl.constexpr,
):  # fmt: skip
    """The best key of a share (second index of the grid) for a block of queries (first index).

    ``products`` (key_height * key_width, query_height * query_width) has the rows of the halo;
    keys and queries that count begin with rows ``key_top`` and ``query_top`` of it. Its first row
    of keys lies ``rows_below`` its first row of queries; ``reach`` below 0 is none.
    """
    of_query = tl.program_id(0) * block_query + tl.arange(0, block_query)
    is_query = of_query < num_query
    query_y = query_top + of_query // query_width
    query_x = of_query % query_width
    query_tie = tl.load(tie + of_query, mask=is_query, other=0.0)
    best = tl.full((block_query,), -float('inf'), products.dtype.element_ty)
    place = tl.zeros((block_query,), tl.int32)
    row = query_height * query_width
    products += query_top * query_width
    begin = tl.program_id(1) * share
    for start in range(begin, min(begin + share, num_key), block_key):
        of_key = start + tl.arange(0, block_key)
        is_key = of_key < num_key
        key_y = key_top + of_key // key_width
        key_x = of_key % key_width
        # Positions one after the other lie one after the other, and a tap is a step for all.
        at_key = (key_top * key_width + of_key).to(tl.int64) * row
        at = products + at_key[:, None] + of_query[None, :]
        total = tl.zeros((block_key, block_query), products.dtype.element_ty)
        for dy in tl.static_range(-radius, radius + 1):
            key_in_y = is_key & (key_y + dy >= 0) & (key_y + dy < key_height)
            in_y = is_query & (query_y + dy >= 0) & (query_y + dy < query_height)
            for dx in tl.static_range(-radius, radius + 1):
                key_inside = key_in_y & (key_x + dx >= 0) & (key_x + dx < key_width)
                inside = in_y & (query_x + dx >= 0) & (query_x + dx < query_width)
                step = (dy * key_width + dx).to(tl.int64) * row + dy * query_width + dx
                total += tl.load(at + step, mask=key_inside[:, None] & inside[None, :], other=0.0)
        one_over_norm = tl.load(scale + of_key, mask=is_key, other=-1.0)[:, None]
        away = tl.maximum(
            tl.abs(key_y[:, None] + rows_below - query_y[None, :]),
            tl.abs(key_x[:, None] - query_x[None, :]),
        )
        allowed = (one_over_norm >= 0) & ((reach < 0) | (away <= reach))
        total = tl.where(allowed, total * one_over_norm, -float('inf'))
        highest = tl.max(total, axis=0)
        reached = total >= (highest - query_tie)[None, :]
        first = tl.min(tl.where(reached, of_key[:, None], num_key), axis=0)
        improves = highest > best + query_tie
        place = tl.where(improves, first, place)
        best = tl.where(improves, highest, best)
    out = tl.program_id(1) * num_query + of_query
    tl.store(score + out, best, mask=is_query)
    tl.store(index + out, first_key + place.to(tl.int64), mask=is_query)
