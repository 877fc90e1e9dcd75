"""Tiles of an image as slices, made once; the same tile at any scale."""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType

from defsr.utils.checks import check_at_least

Bounds = tuple[int, int, int, int]  # top, bottom, left, right
Index = tuple[EllipsisType, slice, slice]
Span = tuple[int, int]  # first and end


@dataclass(frozen=True)
class Tile:
    """A piece of an image with its context.

    ``bounds`` are (top, bottom, left, right) of the piece that this tile answers for; ``reach``
    the same with context, cut at the image's border. Together the bounds cover the image once.
    """

    bounds: Bounds
    reach: Bounds

    def inner(self, scale: int = 1) -> Index:
        """Index of the piece in an image ``scale`` times as large."""
        return _index(self.bounds, scale)

    def outer(self, scale: int = 1) -> Index:
        """Index of the piece with its context."""
        return _index(self.reach, scale)

    def core(self, scale: int = 1) -> Index:
        """Index of the piece inside what ``outer`` cut out."""
        top, left = self.reach[0], self.reach[2]
        shifted = tuple(b - o for b, o in zip(self.bounds, (top, top, left, left), strict=True))
        return _index(shifted, scale)

    def widen(self, context: int, height: int, width: int) -> Tile:
        """The tile whose piece is this one with its context, and ``context`` more around it."""
        return Tile(self.reach, _reach(self.reach, context, height, width))


def make_tiles(height: int, width: int, side: int, overlap: int, grid: int = 1) -> list[Tile]:
    """Cover ``height`` x ``width`` with tiles of about equal size, at most ``side``, row by row.

    Args:
        side: largest side of a piece, >= 1.
        overlap: context on each side, >= 0.
        grid: tiles begin with their context at multiples of it, which may be a little more
            context, >= 1.

    Example:
        >>> [tile.bounds for tile in make_tiles(10, 30, side=16, overlap=4)]
        [(0, 10, 0, 15), (0, 10, 15, 30)]
    """
    check_at_least('tile', side, 1)
    check_at_least('overlap', overlap, 0)
    rows, columns = even_cuts(height, side), even_cuts(width, side)
    tiles = []
    for top, bottom in rows:
        for left, right in columns:
            bounds = (top, bottom, left, right)
            first, last, start, end = _reach(bounds, overlap, height, width)
            reach = first - first % grid, last, start - start % grid, end
            tiles.append(Tile(bounds, reach))
    return tiles


def even_cuts(length: int, side: int) -> list[Span]:
    """(first, end) of the fewest pieces of about equal length, at most ``side``, that cover it."""
    number = -(-length // side)
    edges = [round(i * length / number) for i in range(number + 1)]
    return list(zip(edges, edges[1:], strict=False))


@dataclass(frozen=True)
class Reach:
    """A piece of a line with its halo: what of it is there, what is missing on either side."""

    inside: slice
    before: int
    after: int

    @classmethod
    def of(cls, piece: Span, halo: int, length: int) -> Reach:
        """The reach of (first, end) on a line of some length."""
        first, end = piece[0] - halo, piece[1] + halo
        inside = slice(max(0, first), min(length, end))
        return cls(inside, inside.start - first, end - inside.stop)


def _reach(bounds: Bounds, context: int, height: int, width: int) -> Bounds:
    top, bottom, left, right = bounds
    return (
        max(0, top - context),
        min(height, bottom + context),
        max(0, left - context),
        min(width, right + context),
    )


def _index(bounds: tuple[int, ...], scale: int) -> Index:
    top, bottom, left, right = (scale * b for b in bounds)
    return ..., slice(top, bottom), slice(left, right)
