"""Approximate patch matching for very large maps: at half resolution, then in a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.matching import EPS, TIE, check_maps, first_reaching, match_patches, patch_norm
from defsr.utils.checks import check_at_least

BLOCK_POSITIONS = 256  # queries refined at once: the windows' pixels stay in a CPU's caches


@torch.no_grad()
def match_coarse_to_fine(
    query: Tensor,
    key: Tensor,
    patch_size: int = 3,
    *,
    key_mask: Tensor | None = None,
    radius: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``match_patches``, a sixteenth of its work, and not always its result.

    Both maps are averaged over 2x2 and matched exactly; a position 2p + r starts at
    2 match(p) + r, and the best patch within ``radius`` of that is taken. Of what is returned the
    confidence is exact; a better match elsewhere may have been missed.

    Args:
        query: (N, C, h, w) features, any float dtype; computed in at least float32.
        key: (N, C, h', w') features; h', w' are free.
        patch_size: side of the patches, odd.
        key_mask: (h', w') bool; only patches centred on True can be matched. Default: all.
        radius: of the window in positions, >= 1.
        progress: called with (parts done, parts) of the search at half resolution.

    Returns:
        index (N, h, w) int64 and confidence (N, h, w), see ``match_patches``. Of cosines in the
        window that differ by less than 1e-6 the lowest index.

    Raises:
        ValueError: as ``match_patches``, and for a radius below 1.
    """
    check_maps(query, key, patch_size, key_mask)
    check_at_least('radius', radius, 1)
    dtype = torch.promote_types(query.dtype, torch.float32)
    coarse_mask = None
    if key_mask is not None:
        coarse_mask = F.max_pool2d(key_mask[None, None].to(dtype), 2, ceil_mode=True)[0, 0] > 0
    coarse, _ = match_patches(
        _halved(query, dtype),
        _halved(key, dtype),
        patch_size,
        key_mask=coarse_mask,
        progress=progress,
    )
    start = _carried(coarse, -(-key.shape[-1] // 2), query.shape[-2:], key.shape[-2:])
    window = _Window(key.to(dtype), patch_size, radius, key_mask)
    index, confidence = torch.empty_like(start[:, 0]), query.new_empty(start[:, 0].shape)
    for n in range(len(query)):
        found = window.search(n, query[n].to(dtype), start[n].flatten(1))
        index[n], confidence[n] = (x.view(index.shape[1:]) for x in found)
    return index, confidence


def _halved(x: Tensor, dtype: torch.dtype) -> Tensor:
    return F.avg_pool2d(x.to(dtype), 2, ceil_mode=True)


def _carried(coarse: Tensor, width: int, size: torch.Size, key_size: torch.Size) -> Tensor:
    """(N, ceil(h/2), ceil(w/2)) flat index -> (N, 2, h, w), where the fine search starts."""
    start = torch.stack((coarse // width, coarse % width), dim=1)
    start = start.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : size[0], : size[1]] * 2
    for axis, length in enumerate(size):
        parity = torch.arange(length, device=coarse.device) % 2
        start[:, axis] += parity.view(-1, 1) if axis == 0 else parity
        start[:, axis].clamp_(max=key_size[axis] - 1)
    return start


class _Window:
    """The patches of a key map around given positions, for any query.

    Args:
        key: (N, C, h', w').
        patch_size: side of the patches.
        radius: of the window.
        mask: (h', w') bool, or None.
    """

    def __init__(self, key: Tensor, patch_size: int, radius: int, mask: Tensor | None) -> None:
        self.patch_size, self.side = patch_size, 2 * radius + 1
        self.size = key.shape[-2:]
        self.pixels = _pixels(key)
        self.scale = patch_norm(key, patch_size).clamp_min(EPS).reciprocal().flatten(1)
        self.allowed = None if mask is None else mask.flatten()

    def search(self, n: int, query: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Best patch around ``start`` (2, h*w) for each query of (C, h, w): index, confidence."""
        height, width = query.shape[-2:]
        pixels = _pixels(query[None])[0]
        norm = patch_norm(query[None], self.patch_size).clamp_min(EPS).flatten()
        own = torch.arange(height * width, device=query.device)
        own = torch.stack((own // width, own % width))
        index, confidence = torch.empty_like(start[0]), torch.empty_like(norm)
        for first in range(0, len(norm), BLOCK_POSITIONS):
            part = slice(first, first + BLOCK_POSITIONS)
            taps, inside = _around(own[:, part], self.patch_size, (height, width))
            taps = _gather(pixels, taps, inside)
            index[part], score = self._best(n, taps, start[:, part], TIE * norm[part])
            confidence[part] = score / norm[part]
        return index, confidence

    def _best(self, n: int, taps: Tensor, start: Tensor, tie: Tensor) -> tuple[Tensor, Tensor]:
        """(P, taps, C) -> index (P,) and score (P,), which is cosine times the query's norm."""
        side, size = self.side, self.patch_size
        reach = side + size - 1
        products = torch.bmm(_gather(self.pixels[n], *_around(start, reach, self.size)), taps.mT)
        products = products.view(-1, reach, reach, size, size)
        shifted = (
            products[:, i : i + side, j : j + side, i, j] for i in range(size) for j in range(size)
        )
        score = reduce(torch.add, shifted).flatten(1)
        places, inside = _around(start, side, self.size)
        score = score * self.scale[n][places]
        if self.allowed is not None:
            inside = inside & self.allowed[places]
        score = score.masked_fill(~inside, -torch.inf)
        best = score.amax(dim=1)
        place = first_reaching(score.T, best - tie)
        return places.gather(1, place.unsqueeze(1)).squeeze(1), best


def _pixels(x: Tensor) -> Tensor:
    """(N,C,h,w) -> (N,h*w,C); a view if the channels are innermost in memory."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1])


def _around(centre: Tensor, side: int, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Flat places (P, side^2) of the squares around (2, P), row by row, and which are inside."""
    steps = torch.arange(side, device=centre.device) - side // 2
    rows = (centre[0].view(-1, 1, 1) + steps.view(1, -1, 1)).expand(-1, -1, side)
    columns = (centre[1].view(-1, 1, 1) + steps.view(1, 1, -1)).expand(-1, side, -1)
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    places = rows.clamp(0, size[0] - 1) * size[1] + columns.clamp(0, size[1] - 1)
    return places.flatten(1), inside.flatten(1)


def _gather(pixels: Tensor, places: Tensor, inside: Tensor) -> Tensor:
    """(L,C), (P,K) -> (P,K,C), zero outside the map."""
    values = pixels.index_select(0, places.flatten()).view(*places.shape, -1)
    return values if bool(inside.all()) else values * inside.unsqueeze(-1)
