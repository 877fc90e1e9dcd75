"""Products of positions with those around them, seen shift by shift."""

from __future__ import annotations

from torch import Tensor


def by_shift(products: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """The products of each position with its shifts, of all products with a block around a tile.

    Args:
        products: (B, rows * columns, (rows + side - 1) * (columns + side - 1)), of the positions of
            a tile with those of the block that reaches (side - 1) / 2 farther.
        side: of the square of shifts.

    Returns:
        (B, side, side, rows, columns), a view: shift (y, x) of position (i, j) is (i + y, j + x) of
        the block.
    """
    width = columns + side - 1
    tile, query, key = products.stride()
    strides = tile, width * key, key, columns * query + width * key, query + key
    size = len(products), side, side, rows, columns
    return products.as_strided(size, strides, products.storage_offset())
