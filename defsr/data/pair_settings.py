"""What training pairs made from photographs may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from defsr.utils.checks import check_at_least, check_between


@dataclass(frozen=True)
class PairSettings:
    """What a pair may be.

    Args:
        size: side of the ground truth in pixels.
        ref_size: side of the reference in pixels.
        overlap: range of the share of the ground truth's area that the reference shows, 0 .. 1.
        scale: range of reference pixels per photograph pixel; above 1 it shows less, magnified.
        rotation: largest rotation either way, degrees, 0 .. 180.
        perspective: largest displacement of a corner in x and in y, as a share of the
            reference's side, 0 .. 0.2.
        photometric: strength of the colour changes: 0 none, 1 as in ``draw_photometry``.
        unrelated: probability of a reference from another photograph, 0 .. 1.
        seed: of everything random, >= 0.

    Raises:
        ValueError: for a value outside its range, and for an overlap beyond what the scale allows.
    """

    size: int = 160
    ref_size: int = 160
    overlap: tuple[float, float] = (0.4, 1.0)
    scale: tuple[float, float] = (0.75, 1.33)
    rotation: float = 15.0
    perspective: float = 0.06
    photometric: float = 1.0
    unrelated: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least('size', self.size, 8)
        check_at_least('ref_size', self.ref_size, 8)
        check_between('overlap HIGH', self.overlap[1], 0.0, 1.0)
        check_between('overlap LOW', self.overlap[0], 0.0, self.overlap[1])
        check_between('scale LOW', self.scale[0], 0.05, self.scale[1])
        check_between('rotation', self.rotation, 0.0, 180.0)
        check_between('perspective', self.perspective, 0.0, 0.2)
        check_between('photometric', self.photometric, 0.0, 3.0)
        check_between('unrelated', self.unrelated, 0.0, 1.0)
        check_at_least('seed', self.seed, 0)
        most = min(1.0, (self.ref_size / self.scale[0] / self.size) ** 2)
        if self.overlap[0] > most:
            raise ValueError(
                f'overlap starts at {self.overlap[0]}, but a reference of ref_size='
                f'{self.ref_size} at scale {self.scale[0]} shows at most {most:.2f} of a ground '
                f'truth of size={self.size}. Lower the overlap or the scale.'
            )

    @property
    def min_side(self) -> int:
        """Smallest photograph side that holds a ground truth and a reference, in pixels."""
        return max(self.size, math.ceil(self.ref_size / self.scale[1]))
