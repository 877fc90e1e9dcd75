"""Exact patch matching (DEF Eq. 11-12) without the whole similarity matrix in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-12
BLOCK_ELEMENTS = 2**20


def match_patches(
    query: Tensor,
    key: Tensor,
    patch_size: int = 3,
    *,
    key_mask: Tensor | None = None,
    block_elements: int = BLOCK_ELEMENTS,
) -> tuple[Tensor, Tensor]:
    """Best match of every query patch among the key patches, by cosine similarity.

    TTSR's semantics: patches around every position, zeros outside the map, borders take part.
    A patch's inner product is the sum over its taps of a per-position one, so one small matrix
    product per block and shifted additions do the work of ``unfold`` at 1/patch_size^2 of the
    multiplications; blocks of query and key rows keep the memory flat.

    Args:
        query: (N, C, h, w) features, any float dtype; computed in at least float32.
        key: (N, C, h', w') features; h', w' are free.
        patch_size: side of the patches, odd.
        key_mask: (h', w') bool; only patches centred on True can be matched. Default: all.
        block_elements: similarities that a block may hold; bounds the memory.

    Returns:
        index: (N, h, w) int64, flat into h' * w' (the lowest of equal scores in a block).
        confidence: (N, h, w) cosine in [-1, 1], query's dtype; 0 where a patch is all zero.

    Raises:
        ValueError: if the shapes do not fit, the patch size is even or nothing may be matched.
    """
    _check(query, key, patch_size, key_mask)
    dtype = torch.promote_types(query.dtype, torch.float32)
    height, width = query.shape[-2:]
    index = query.new_zeros((len(query), height, width), dtype=torch.int64)
    best = query.new_full((len(query), height, width), -math.inf, dtype=dtype)
    query_norm = patch_norm(query.to(dtype), patch_size)
    key_norm = patch_norm(key.to(dtype), patch_size)
    for n in range(len(query)):
        rows = _block_rows(query.shape[-2:], key.shape[-2:], patch_size, block_elements)
        for top, bottom in _spans(height, rows[0]):
            for low, high in _spans(key.shape[-2], rows[1]):
                query_block = _padded_rows(query[n].to(dtype), top, bottom, patch_size)
                key_block = _padded_rows(key[n].to(dtype), low, high, patch_size)
                score = _patch_products(query_block, key_block, patch_size)
                score /= key_norm[n, low:high].clamp_min(EPS)
                if key_mask is not None:
                    score.masked_fill_(~key_mask[low:high], -math.inf)
                value, place = score.flatten(2).max(dim=2)
                better = value > best[n, top:bottom]
                best[n, top:bottom] = torch.where(better, value, best[n, top:bottom])
                place += low * key.shape[-1]
                index[n, top:bottom] = torch.where(better, place, index[n, top:bottom])
    return index, (best / query_norm.clamp_min(EPS)).to(query.dtype)


def patch_norm(x: Tensor, patch_size: int) -> Tensor:
    """(N,C,h,w) -> (N,h,w), Euclidean norm of the zero-padded patch around each position."""
    energy = x.square().sum(dim=1, keepdim=True)
    ones = energy.new_ones((1, 1, patch_size, patch_size))
    return F.conv2d(energy, ones, padding=patch_size // 2).clamp_min(0).sqrt().squeeze(1)


def _patch_products(query: Tensor, key: Tensor, patch_size: int) -> Tensor:
    """Padded blocks (C,a+p-1,w+p-1), (C,b+p-1,w'+p-1) -> (a,w,b,w') patch inner products."""
    products = query.flatten(1).T @ key.flatten(1)
    products = products.view(*query.shape[1:], *key.shape[1:])
    halo = patch_size - 1
    a, w = query.shape[1] - halo, query.shape[2] - halo
    b, w_key = key.shape[1] - halo, key.shape[2] - halo
    along_x = products[:, :w, :, :w_key].clone()
    for j in range(1, patch_size):
        along_x += products[:, j : j + w, :, j : j + w_key]
    total = along_x[:a, :, :b].clone()
    for i in range(1, patch_size):
        total += along_x[i : i + a, :, i : i + b]
    return total


def _padded_rows(x: Tensor, top: int, bottom: int, patch_size: int) -> Tensor:
    """Rows top..bottom of (C,h,w) with their halo, zeros beyond the map, contiguous."""
    radius = patch_size // 2
    above, below = max(0, radius - top), max(0, bottom + radius - x.shape[1])
    rows = x[:, max(0, top - radius) : bottom + radius]
    return F.pad(rows, (radius, radius, above, below)).contiguous()


def _block_rows(
    query_size: torch.Size, key_size: torch.Size, patch_size: int, block_elements: int
) -> tuple[int, int]:
    """Rows per query and per key block: near-square blocks waste least in halos."""
    halo = patch_size - 1
    pairs = max(1, block_elements // ((query_size[1] + halo) * (key_size[1] + halo)))
    side = max(1, math.isqrt(pairs) - halo)
    query_rows = min(query_size[0], side)
    key_rows = min(key_size[0], max(1, pairs // (query_rows + halo) - halo))
    query_rows = min(query_size[0], max(1, pairs // (key_rows + halo) - halo))
    return query_rows, key_rows


def _spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, step):
        yield start, min(length, start + step)


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
