"""Large images with a reference in their frame, in blocks that see the same part of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from defsr.archs.interface import Reference, Restoration
from defsr.ops.tiles import Index, make_tiles

if TYPE_CHECKING:
    from defsr.methods.base import Method

BLOCK, AROUND = 256, 32  # LR pixels: a larger image is cut, and what a block sees beside its own


@torch.no_grad()
def restore_in_blocks(
    method: Method,
    net_g: nn.Module,
    lq: Tensor,
    ref: Reference,
    de: Tensor | None,
    anchor: Tensor,
    *,
    tile: int | None,
    overlap: int,
    progress: Callable[[str, int, int], None],
) -> Restoration:
    """As ``Method.restore`` in memory and time that a block bounds: matches stay inside it.

    Args:
        ref: in the frame of lq.
        anchor: (N,3,H,W): what a block stays where nothing of the reference is valid.
        tile, overlap, progress: as of ``Method.super_resolve``; a block is worked on in tiles.
    """
    assert ref.valid is not None
    scale, valid = method.scale, ref.valid
    blocks = make_tiles(lq.shape[-2], lq.shape[-1], side=BLOCK, overlap=AROUND)
    sr = anchor.clone()
    report = partial(progress, 'restore')
    report(0, len(blocks))

    def restored(here: Index, large: Index) -> Tensor:
        """What a block's references were made into is given up with it."""
        part = Reference(ref.image[large], valid=valid[here])
        return method.restore_tiled(
            net_g,
            lq[here],
            method.prepare(net_g, [part]),
            tile=tile or BLOCK,
            overlap=overlap,
            de=None if de is None else de[large],
        ).sr

    for number, block in enumerate(blocks, start=1):
        here = block.outer()
        if bool(valid[here].any()):
            found = restored(here, block.outer(scale))
            sr[block.inner(scale)] = found[block.core(scale)]
        report(number, len(blocks))
    return Restoration(sr, de=de)
