"""Texture features of images of any size, piece by piece, several references in one map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from defsr.archs.transfer_arch import LEVEL_FACTORS
from defsr.ops.tiles import make_tiles

CELL = max(LEVEL_FACTORS.values())  # pixels that one position of the coarsest level stands for
PIECE = 96  # side of a piece in such positions; more gains no speed


def texture_features(
    net_t: nn.Module,
    image: Tensor,
    levels: Sequence[str] = tuple(LEVEL_FACTORS),
    out: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """``net_t(image)`` with the extractor's own memory bounded: equal up to rounding.

    Args:
        net_t: texture extractor with ``num_feat``, its channels by level, and ``reach``, how many
            pixels to each side a feature reads.
        image: (N, 3, H, W), sides multiples of 4.
        levels: which features are wanted.
        out: where to write them. Default: a new map for each.

    Returns:
        level -> (N, C, f*H/4, f*W/4), f by ``LEVEL_FACTORS``.
    """
    height, width = (side // CELL for side in image.shape[-2:])
    pieces = make_tiles(height, width, side=PIECE, overlap=-(-net_t.reach // CELL))
    if out is None and len(pieces) == 1:
        found = net_t(image)
        return {level: found[level] for level in levels}
    out = out or {level: _new_map(net_t, image, level, height, width) for level in levels}
    for piece in pieces:
        found = net_t(image[piece.outer(CELL)])
        for level in levels:
            factor = LEVEL_FACTORS[level]
            out[level][piece.inner(factor)] = found[level][piece.core(factor)]
    return dict(out)


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
    if len(images) == 1:
        return texture_features(net_t, images[0], levels)
    rows = stacked_rows(images)
    width = max(image.shape[-1] // CELL for image in images)
    maps = {level: _new_map(net_t, images[0], level, rows[-1][1], width) for level in levels}
    for feat in maps.values():
        feat.zero_()
    for image, (top, bottom) in zip(images, rows, strict=True):
        views = {
            level: feat[
                :,
                :,
                top * LEVEL_FACTORS[level] : bottom * LEVEL_FACTORS[level],
                : image.shape[-1] // CELL * LEVEL_FACTORS[level],
            ]
            for level, feat in maps.items()
        }
        texture_features(net_t, image, levels, out=views)
    return maps


def stacked_rows(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """First and end row of each image in ``stacked_features``, at the coarsest level."""
    rows, top = [], 0
    for image in images:
        rows.append((top, top + image.shape[-2] // CELL))
        top = rows[-1][1] + 1
    return rows


def stacked_mask(images: Sequence[Tensor]) -> Tensor | None:
    """(h', w') bool, where the coarsest stacked map shows an image; None for one image alone."""
    if len(images) == 1:
        return None
    rows = stacked_rows(images)
    width = max(image.shape[-1] // CELL for image in images)
    mask = torch.zeros(rows[-1][1], width, dtype=torch.bool, device=images[0].device)
    for image, (top, bottom) in zip(images, rows, strict=True):
        mask[top:bottom, : image.shape[-1] // CELL] = True
    return mask


def _new_map(net_t: nn.Module, image: Tensor, level: str, height: int, width: int) -> Tensor:
    """Channels innermost, as the transfer reads whole positions."""
    factor = LEVEL_FACTORS[level]
    size = len(image), net_t.num_feat[level], factor * height, factor * width
    return torch.empty(
        size, dtype=image.dtype, device=image.device, memory_format=torch.channels_last
    )
