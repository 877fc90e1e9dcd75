"""Which of several versions of an image is better: a table of scores beside the images."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LABELS = 'niqe.csv'  # in the folder that has one folder of images for each method
NAME = 'name'
REMAKE = 'Make it anew with `python -m defsr.tools.make_ranked`.'


@dataclass(frozen=True)
class RankLabels:
    """Scores of a folder of ranked images; lower is better.

    Attributes:
        methods: names of the versions, at least two.
        scores: name of an image -> its score of each method.
    """

    methods: Sequence[str]
    scores: Mapping[str, Sequence[float]]


def write_rank_labels(path: Path, labels: RankLabels) -> None:
    """Write ``name, <method>, ...``, a line for each image."""
    with open(path, 'w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file)
        writer.writerow([NAME, *labels.methods])
        for name, scores in labels.scores.items():
            writer.writerow([name, *(f'{score:.6f}' for score in scores)])


def read_rank_labels(path: Path) -> RankLabels:
    """Read what ``write_rank_labels`` wrote.

    Raises:
        OSError: if there is no such file.
        ValueError: for another table, and with the number of a line that is damaged.
    """
    with open(path, encoding='utf-8', errors='surrogateescape', newline='') as file:
        try:
            head, *lines = [*csv.reader(file)] or [[]]
        except (csv.Error, ValueError) as error:
            raise ValueError(f'{path} is no table of scores ({error}). {REMAKE}') from None
    first, *methods = head or ['']
    if first != NAME or len({*methods}) < max(2, len(methods)):
        raise ValueError(
            f'{path} begins with {",".join(head)[:80]!r}, but must name two methods or more, as '
            f'{NAME},bicubic,EDSR. {REMAKE}'
        )
    scores = {}
    for number, (name, *values) in enumerate(filter(None, lines), start=2):
        try:
            row = [float(value) for value in values]
        except ValueError:
            row = []
        if len(row) != len(methods) or not all(map(math.isfinite, row)) or name in scores:
            raise ValueError(f'{path}, line {number} is damaged. {REMAKE}')
        scores[name] = row
    if not scores:
        raise ValueError(f'{path} has no image. {REMAKE}')
    return RankLabels(methods, scores)
