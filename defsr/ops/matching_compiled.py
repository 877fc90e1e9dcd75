"""``match_patches`` on a CPU: sums over patches and the best key in one compiled pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.ops.matching import FORBIDDEN, KeyStrip
from defsr.ops.products import inner_products
from defsr.ops.tiles import Reach, Span, even_cuts
from defsr.utils.compiled import compiled

BLOCK_ELEMENTS = 2**17  # products of a query tile with one row of keys
KEY_ROWS = 8  # of one matrix product
BLOCK = 512  # queries whose sums stay in the first cache


class CompiledStrip(KeyStrip):
    """A ``KeyStrip`` in other arithmetic; arguments as there."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.key = self.key.permute(1, 2, 0).contiguous()  # (h', columns and halo, C)
        scale = self.scale.squeeze(-1)
        if self.forbidden is not None:
            scale = scale.masked_fill(self.forbidden, FORBIDDEN)
        self.factors = scale.contiguous().numpy()

    def search_flat(
        self, query: Tensor, rows: Span, columns: Span, best: Tensor, tie: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As of ``KeyStrip``.

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
        index = torch.zeros_like(best, dtype=torch.int32)
        before = queries.new_empty(0, self.key.shape[1], len(queries))
        for top, bottom in even_cuts(len(self.key), KEY_ROWS):
            keys = self.key[top:bottom]
            products = inner_products(keys.flatten(0, 1), queries).view(*keys.shape[:2], -1)
            arrays = (x.numpy() for x in (before, products, best, index, tie))
            _take_in(*arrays, self.factors, top, width, self.patch_size, self.first, self.map_width)
            before = products if bottom - top >= halo else torch.cat((before, products))
            before = before[max(0, len(before) - halo) :]
        return best, index.long()


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
