"""``match_patches`` on a CPU: sums over patches and the best key in one compiled pass."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.products import inner_products
from defsr.ops.tiles import Reach, Span, even_cuts
from defsr.utils.compiled import compiled

BLOCK_ELEMENTS = 2**17  # products of a query tile with one row of keys
KEY_ROWS = 8  # of one matrix product
BLOCK = 512  # queries whose sums stay in the first cache
FORBIDDEN = -1.0  # in place of one over the norm of a key that may not be matched


class CompiledStrip:
    """As ``matching.KeyStrip``: some columns of the key map, searched by one tile after another.

    Args:
        key: (C, h', w').
        scale: (h', w'), one over the patches' norms.
        mask: (h', w') bool, or None.
        columns: first and end of the columns that may be matched.
        patch_size: side of the patches.
        dtype: to compute in.
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
        reach = Reach.of(columns, self.radius, self.map_width)
        part = F.pad(key[:, :, reach.inside].to(dtype), (reach.before, reach.after))
        self.key = part.permute(1, 2, 0).contiguous()  # (h', columns and halo, C)
        scale = scale if mask is None else torch.where(mask, scale, FORBIDDEN)
        self.scale = scale[:, slice(*columns)].contiguous().numpy()

    @torch.no_grad()
    def search(
        self, query: Tensor, rows: Span, columns: Span, tie: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As of ``matching.KeyStrip``: (C, h, w) -> score and index (a, b).

        Products have keys as the outer, queries as the inner index, both flat with their halo: the
        next tap along x is one step on for both, and along y a row on.
        """
        halo = self.patch_size - 1
        down = Reach.of(rows, self.radius, query.shape[1])
        along = Reach.of(columns, self.radius, query.shape[2])
        part = query[:, down.inside, along.inside].to(self.key.dtype)
        part = F.pad(part, (along.before, along.after, down.before, down.after))
        width = part.shape[2]
        queries = part.flatten(1).T.contiguous()
        used = tie.shape[0] * width - halo
        # Between the rows of a tile lie positions of the halo, which nothing can improve on.
        best = F.pad(torch.full_like(tie, -math.inf), (0, halo), value=math.inf).flatten()[:used]
        least = F.pad(tie, (0, halo)).flatten()[:used]
        index = torch.zeros_like(best, dtype=torch.int32)
        before = queries.new_empty(0, self.key.shape[1], len(queries))
        for top, bottom in even_cuts(len(self.key), KEY_ROWS):
            keys = self.key[top:bottom]
            products = inner_products(keys.flatten(0, 1), queries).view(*keys.shape[:2], -1)
            arrays = (x.numpy() for x in (before, products, best, index, least))
            _take_in(*arrays, self.scale, top, width, self.patch_size, self.first, self.map_width)
            before = products if bottom - top >= halo else torch.cat((before, products))
            before = before[max(0, len(before) - halo) :]
        score, place = (
            F.pad(x, (0, halo)).view(-1, width)[:, : -halo or None] for x in (best, index)
        )
        return score, place.long()


@compiled
def _take_in(
    before, products, best, index, tie, scale, top, width, patch_size, first, map_width
):  # fmt: skip
    """Take in the keys whose last row of products has come.

    Args:
        before: (b, K, Q) products of the ``b`` rows of keys above those of ``products``.
        products: (rows, K, Q), of rows from ``top`` on.
        best, index, tie: (q,) the score that counts, its key, and what a later key must be better
            by; written.
        scale: (h', k), or ``FORBIDDEN``.
        width: of the queries' rows.
        first, map_width: the first column of the keys, and how many the whole map has.
    """
    height, num_key = scale.shape
    radius, bottom = patch_size // 2, top + len(products)
    last = height if bottom == height else bottom - radius
    total = np.empty(BLOCK, products.dtype)
    for start in range(0, len(best), BLOCK):
        end = min(start + BLOCK, len(best))
        score, place, least = best[start:end], index[start:end], tie[start:end]
        summed = total[: end - start]
        for y in range(max(0, top - radius), last):
            for x in range(num_key):
                factor = scale[y, x]
                if factor < 0:
                    continue
                summed[:] = 0
                for j in range(max(0, radius - y), min(patch_size, height + radius - y)):
                    row = y + j - radius
                    for i in range(patch_size):
                        shift = j * width + i
                        if row >= top:
                            part = products[row - top, x + i, start + shift : end + shift]
                        else:
                            part = before[
                                row - top + len(before), x + i, start + shift : end + shift
                            ]
                        for q in range(len(summed)):
                            summed[q] += part[q]
                here = y * map_width + first + x
                for q in range(len(score)):
                    cosine = summed[q] * factor
                    wins = cosine > score[q] + least[q]
                    score[q] = cosine if wins else score[q]
                    place[q] = here if wins else place[q]
