"""Texture features of images of any size, piece by piece, several references in one map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from defsr.archs.levels import LEVEL_FACTORS
from defsr.ops.tiles import Tile, make_tiles

CELL = max(LEVEL_FACTORS.values())  # pixels that one position of the coarsest level stands for
PIECE = 96  # side of a piece in such positions; more gains no speed


def texture_features(
    net_t: nn.Module, image: Tensor, levels: Sequence[str] = tuple(LEVEL_FACTORS)
) -> dict[str, Tensor]:
    """``net_t(image)`` with the extractor's own memory bounded: equal up to rounding.

    Args:
        net_t: texture extractor. If it says by ``reach`` how many pixels to each side a feature
            depends on, as ``VGGTrunk`` does, large images are read piece by piece.
        image: (N, 3, H, W), sides multiples of 4.
        levels: which features are wanted.

    Returns:
        level -> (N, C, f*H/4, f*W/4), f by ``LEVEL_FACTORS``.
    """
    return stacked_features(net_t, [image], levels)


def stacked_features(
    net_t: nn.Module, images: Sequence[Tensor], levels: Sequence[str] = tuple(LEVEL_FACTORS)
) -> dict[str, Tensor]:
    """Features of several images one above the other, with a row of zeros between.

    Each image is read alone. A row is one position of the coarsest level; to the right of the
    narrower images there are zeros.

    Args:
        net_t: see ``texture_features``.
        images: (N, 3, H_i, W_i) each, sides multiples of 4.
        levels: which features are wanted.
    """
    rows = stacked_rows(images)
    size = rows[-1][1], max(image.shape[-1] // CELL for image in images)
    maps: dict[str, Tensor] = {}
    for image, (top, _) in zip(images, rows, strict=True):
        pieces = _pieces(net_t, image)
        for piece in pieces:
            found = net_t(image[piece.outer(CELL)])
            if len(images) == len(pieces) == 1:
                return {level: found[level] for level in levels}
            maps = maps or {level: _new_map(found[level], level, size) for level in levels}
            for level, feat in maps.items():
                factor = LEVEL_FACTORS[level]
                below = feat[:, :, top * factor :]
                below[piece.inner(factor)] = found[level][piece.core(factor)]
    return maps


def features_of_tile(
    net_t: nn.Module, image: Tensor, tile: Tile, levels: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Features of a tile and its context as they are in the whole image.

    Args:
        net_t: see ``texture_features``; one without ``reach`` sees the context and no more, one
            with ``some_levels`` is asked for these alone.
        image: (N, 3, H, W), the whole.
        tile: in positions of the coarsest level.
        levels: which features are wanted; default: all.
    """
    height, width = (side // CELL for side in image.shape[-2:])
    wider = tile.widen(_halo(net_t) or 0, height, width)
    part = image[wider.outer(CELL)]
    levels = levels or tuple(LEVEL_FACTORS)
    some = getattr(net_t, 'some_levels', None)
    found = some(part, levels) if some else net_t(part)
    return {level: found[level][wider.core(LEVEL_FACTORS[level])] for level in levels}


def stacked_rows(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """First and end row of each image in ``stacked_features``, at the coarsest level."""
    rows, top = [], 0
    for image in images:
        rows.append((top, top + image.shape[-2] // CELL))
        top = rows[-1][1] + 1
    return rows


def stacked_mask(images: Sequence[Tensor], valid: Sequence[Tensor | None] = ()) -> Tensor | None:
    """(h', w') bool, where the coarsest stacked map shows an image; None if everywhere.

    Args:
        images: see ``stacked_features``.
        valid: of each image the part that counts, (N, 1, H_i / 4, W_i / 4) bool, or None. Of a
            batch what counts in any; a map of which nothing counts is taken whole.
    """
    parts = list(valid) or [None] * len(images)
    if len(images) == 1 and parts[0] is None:
        return None
    rows = stacked_rows(images)
    width = max(image.shape[-1] // CELL for image in images)
    mask = torch.zeros(rows[-1][1], width, dtype=torch.bool, device=images[0].device)
    for image, part, (top, bottom) in zip(images, parts, rows, strict=True):
        mask[top:bottom, : image.shape[-1] // CELL] = True if part is None else part.any(dim=0)[0]
    return mask if bool(mask.any()) else None


def winner_of(index: Tensor, rows: Sequence[tuple[int, int]], width: int) -> Tensor:
    """Which image of a stacked map, ``width`` wide, an index lies in, by its ``rows``; from 0."""
    ends = torch.tensor([end for _, end in rows], device=index.device)
    return torch.bucketize(index // width, ends, right=True)


def _pieces(net_t: nn.Module, image: Tensor) -> list[Tile]:
    height, width = (side // CELL for side in image.shape[-2:])
    halo = _halo(net_t)
    if halo is None:
        return make_tiles(height, width, side=max(height, width), overlap=0)
    return make_tiles(height, width, side=PIECE, overlap=halo)


def _halo(net_t: nn.Module) -> int | None:
    """``reach`` in positions of the coarsest level; None if the extractor has none."""
    reach = getattr(net_t, 'reach', None)
    return None if reach is None else -(-reach // CELL)


def _new_map(found: Tensor, level: str, size: tuple[int, int]) -> Tensor:
    """Zeros, channels innermost, as the transfer reads whole positions."""
    shape = *found.shape[:2], *(LEVEL_FACTORS[level] * side for side in size)
    empty = torch.empty(
        shape, dtype=found.dtype, device=found.device, memory_format=torch.channels_last
    )
    return empty.zero_()
