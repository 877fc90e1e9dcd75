"""``correspondence.csv`` of ``make_pairs``: where each ground-truth pixel is in its reference.

Coordinates are (x, y) with the centre of the top-left pixel at (0, 0). One line per pair: its
name, its photographs, the overlap, the homography h11 .. h33 that maps ground-truth pixels
[x, y, 1] to reference pixels (empty for an unrelated pair), the reference's colour changes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from defsr.data.pair_geometry import project
from defsr.data.pair_synthesis import Pair, Photometry

HOMOGRAPHY = tuple(f'h{row}{column}' for row in (1, 2, 3) for column in (1, 2, 3))
PHOTOMETRY = tuple(field.name for field in fields(Photometry))
COLUMNS = (
    'name',
    'gt_source',
    'gt_x',
    'gt_y',
    'ref_source',
    'unrelated',
    'overlap_asked',
    'overlap',
    *HOMOGRAPHY,
    *PHOTOMETRY,
)


@dataclass(frozen=True)
class Correspondence:
    """The truth about one pair.

    Args:
        name: of both images, with ``.png``.
        gt_source, ref_source: file names of the photographs.
        gt_xy: column and row of the ground truth's top-left pixel in its photograph.
        unrelated: whether the reference shows another photograph.
        overlap_asked, overlap: drawn and reached share of the ground truth's area that the
            reference shows; 0 if unrelated.
        homography: (3, 3) float64, ground truth to reference pixels; NaN if unrelated.
        photometry: what was done to the reference's colours.
    """

    name: str
    gt_source: str
    gt_xy: tuple[int, int]
    ref_source: str
    unrelated: bool
    overlap_asked: float
    overlap: float
    homography: np.ndarray
    photometry: Photometry

    @classmethod
    def of_pair(cls, name: str, gt_source: str, pair: Pair) -> Correspondence:
        """The truth about ``pair``, which was made from ``gt_source``, under a name."""
        return cls(
            name=name,
            gt_source=gt_source,
            gt_xy=pair.gt_xy,
            ref_source=pair.ref_source,
            unrelated=pair.unrelated,
            overlap_asked=pair.overlap_asked,
            overlap=pair.overlap,
            homography=pair.homography,
            photometry=pair.photometry,
        )


def write_correspondences(path: str | Path, truths: Iterable[Correspondence]) -> None:
    """Write the CSV; numbers keep all their digits."""
    with open(path, 'w', encoding='utf-8', errors='surrogateescape', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(COLUMNS)
        for truth in truths:
            homography = [''] * 9 if truth.unrelated else truth.homography.ravel().tolist()
            overlaps = (truth.overlap_asked, truth.overlap)
            places = (truth.name, truth.gt_source, *truth.gt_xy, truth.ref_source)
            photometry = astuple(truth.photometry)
            writer.writerow([*places, int(truth.unrelated), *overlaps, *homography, *photometry])


def read_correspondences(path: str | Path) -> dict[str, Correspondence]:
    """Read a ``correspondence.csv``.

    Returns:
        name of the pair (``photo_0.png``) -> its truth, in the file's order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its columns or a line are not those of ``write_correspondences``.
    """
    with open(path, encoding='utf-8', errors='surrogateescape', newline='') as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f'{path} has the columns {reader.fieldnames}, expected {list(COLUMNS)}. '
                'Make the pairs anew with `python -m defsr.tools.make_pairs`.'
            )
        truths = {}
        for row in reader:
            try:
                truth = _parse(row)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f'{path}, line {reader.line_num} is damaged ({error}). Make the pairs anew.'
                ) from None
            truths[truth.name] = truth
    return truths


def true_positions(homography: np.ndarray, height: int, width: int) -> np.ndarray:
    """For each ground-truth pixel its place in the reference.

    Args:
        homography: (3, 3), ground truth to reference pixels, as in ``Pair``.
        height, width: of the ground truth.

    Returns:
        (2, height, width) float64, rows then columns, in reference pixels; outside the reference
        where that does not show the pixel, NaN for an unrelated pair.
    """
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    places = project(homography, np.stack((columns, rows), axis=-1))
    return np.stack((places[..., 1], places[..., 0]))


def _parse(row: dict[str, str]) -> Correspondence:
    unrelated = bool(int(row['unrelated']))
    entries = [np.nan if unrelated else float(row[key]) for key in HOMOGRAPHY]
    return Correspondence(
        name=row['name'],
        gt_source=row['gt_source'],
        gt_xy=(int(row['gt_x']), int(row['gt_y'])),
        ref_source=row['ref_source'],
        unrelated=unrelated,
        overlap_asked=float(row['overlap_asked']),
        overlap=float(row['overlap']),
        homography=np.array(entries).reshape(3, 3),
        photometry=Photometry(*(float(row[key]) for key in PHOTOMETRY)),
    )
