"""Mismatch and undermatch: what a worse reference costs, in dB over bicubic interpolation.

    python tests/benchmarks/reference_quality.py --data DIR [--pairs 12] [--record FILE]

Pairs made from BSDS500's validation photographs (GT 128x128, reference 160x160, rotated and skewed
a little, same exposure). Mismatch: the reference's exposure, contrast or hue is shifted, all else
equal. Undermatch: it shows less and less of the GT, down to another photograph. PSNR-Y of the
8-bit result, crop_border 4, over that of bicubic interpolation; mean and standard error over the
pairs. ``--methods``: LABEL=OPTIONS.yml:WEIGHTS, option files of trainings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from enhancer_cases import Record, lq_of, psnr_ssim_y
from measuring import build_restorer, data_parser, report, table
from torch import Tensor
from tqdm import tqdm

from defsr.data.image_source import ImageSource
from defsr.data.pair_settings import PairSettings
from defsr.data.pair_synthesis import Photometry, apply_photometry, make_pair
from defsr.images.figures import save_figure
from defsr.images.levels import from_levels, to_levels
from defsr.ops.resize import upsample_bicubic
from defsr.utils.cli import run_cli

SETTINGS = PairSettings(
    size=128, ref_size=160, overlap=(0.9, 1.0), scale=(1.0, 1.0), rotation=4.0, perspective=0.02,
    photometric=0.0, unrelated=0.0, seed=0,
)  # fmt: skip
LEVELS: dict[str, tuple[float, ...]] = {
    'exposure, stops': (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0),
    'contrast, factor': (0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
    'hue, degrees': (0.0, 20.0, 45.0, 90.0, 180.0),
    'overlap, %': (100.0, 80.0, 60.0, 40.0, 20.0, 0.0),
}
UNCHANGED = {
    'exposure, stops': 0.0,
    'contrast, factor': 1.0,
    'hue, degrees': 0.0,
    'overlap, %': 100.0,
}
FIELDS = {'exposure, stops': 'exposure', 'contrast, factor': 'contrast', 'hue, degrees': 'hue'}
METHODS = tuple(
    f'{label}=options/small/{row}_x4.yml:experiments/pretrained_models/small_{row}.pth'
    for label, row in (
        ('EDSR', 'EDSR'), ('Base', 'table2_Base'), ('DEF', 'table2_DCN_DEF'), ('best', 'best')
    )
)  # fmt: skip
Row = tuple[str, float, str, list[float]]  # study, level, method, dB of each pair


class Photographs:
    """BSDS500's validation photographs, and the pairs made of them."""

    def __init__(self, data: Path) -> None:
        self.source = ImageSource('--data', data / 'bsds500/val')
        self.names = self.source.names()

    def read(self, name: str) -> np.ndarray:
        """(H,W,3) RGB uint8."""
        return to_levels(self.source.read(name))

    def pair(self, name: str, settings: PairSettings) -> tuple[np.ndarray, np.ndarray]:
        """GT and reference of a photograph, RGB uint8."""
        others = [other for other in self.names if other != name]
        pair = make_pair(name, 0, settings, others, self.read)
        return pair.gt, pair.ref

    def case(self, name: str, study: str, level: float) -> tuple[Tensor, Tensor]:
        """GT (1,3,128,128) and reference (1,3,160,160) in [0, 1] at a level of a study."""
        settings = SETTINGS
        if study == 'overlap, %':
            share = level / 100
            settings = replace(SETTINGS, overlap=(share, share), unrelated=float(level == 0))
        gt, ref = self.pair(name, settings)
        if study in FIELDS:
            changed = apply_photometry(ref / 255, replace(Photometry(), **{FIELDS[study]: level}))
            ref = (changed * 255).round().astype(np.uint8)
        return from_levels(gt), from_levels(ref)


def restorers(methods: Sequence[str]) -> dict[str, object]:
    """LABEL=OPTIONS:WEIGHTS -> label and restorer. ValueError if it is not written so."""
    found = {}
    for text in methods:
        label, equals, rest = text.partition('=')
        options, colon, weights = rest.partition(':')
        if not (label and equals and options and colon and weights):
            raise ValueError(f'--methods has {text!r}, but must be LABEL=OPTIONS.yml:WEIGHTS.')
        found[label] = build_restorer(options, weights)
    return found


def gains(
    photographs: Photographs, names: Sequence[str], methods: Mapping[str, object], record: Record
) -> Iterator[Row]:
    """(study, level, method, dB over bicubic of each pair)."""
    total = len(names) * sum(map(len, LEVELS.values()))
    with tqdm(total=total, unit='reference') as bar:
        for study, levels in LEVELS.items():
            for level in levels:
                found: dict[str, list[float]] = {label: [] for label in methods}
                for name in names:
                    bar.set_description(f'{study} {level:g}')
                    for label, gain in _of_pair(
                        photographs, name, (study, level), methods, record
                    ).items():
                        found[label].append(gain)
                    bar.update()
                for label, values in found.items():
                    yield study, level, label, values


def _of_pair(
    photographs: Photographs,
    name: str,
    case: tuple[str, float],
    methods: Mapping[str, object],
    record: Record,
) -> dict[str, float]:
    key = f'{case[0]} {case[1]:g} {name}'
    known = record.rows.get(key, {}).get('gains', {})
    todo = {label: method for label, method in methods.items() if label not in known}
    if todo:
        gt, ref = photographs.case(name, *case)
        lq = lq_of(gt)
        base = psnr_ssim_y(upsample_bicubic(lq, 4), gt)['psnr']
        new = {k: psnr_ssim_y(method(lq, [ref]), gt)['psnr'] - base for k, method in todo.items()}
        known = known | new
        record.add(key, {'gains': known})
    return {label: known[label] for label in methods}


def error_of(values: Sequence[float]) -> float:
    """Standard error of the mean; 0 of a single value."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((x - mean) ** 2 for x in values) / (len(values) - 1) / len(values))


def costs(rows: Sequence[Row]) -> list[Row]:
    """The rows, less what the same pair gains with the unchanged reference."""
    base = {(s, label): v for s, level, label, v in rows if level == UNCHANGED[s]}
    return [
        (s, level, label, [a - b for a, b in zip(values, base[s, label], strict=True)])
        for s, level, label, values in rows
    ]


def tables(rows: Sequence[Row], methods: Sequence[str]) -> list[str]:
    """A table per study: a line per method, a column per level."""
    parts = []
    for study, levels in LEVELS.items():
        lines = []
        for method in methods:
            values = [v for s, _, label, v in rows if (s, label) == (study, method)]
            cells = [f'{sum(v) / len(v):+.2f} ± {error_of(v):.2f}' for v in values]
            lines.append([method, *cells])
        parts.append(table([study, *(f'{level:g}' for level in levels)], lines))
    return parts


def draw(rows: Sequence[Row], path: str) -> None:
    """A panel per study, a line per method with a band of one standard error either way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), dpi=110, layout='constrained')
    axes = figure.subplots(1, len(LEVELS), sharey=True)
    methods = list(dict.fromkeys(label for _, _, label, _ in rows))
    for axis, (study, levels) in zip(axes, LEVELS.items(), strict=True):
        places = list(range(len(levels)))
        for number, method in enumerate(methods):
            values = [v for s, _, label, v in rows if (s, label) == (study, method)]
            mean = [sum(v) / len(v) for v in values]
            low = [m - error_of(v) for m, v in zip(mean, values, strict=True)]
            high = [m + error_of(v) for m, v in zip(mean, values, strict=True)]
            axis.plot(places, mean, 'o-', ms=3, color=f'C{number}', label=method)
            axis.fill_between(places, low, high, color=f'C{number}', alpha=0.15, linewidth=0)
        axis.axhline(0, color='black', linewidth=0.8)
        axis.set_xticks(places, [f'{level:g}' for level in levels])
        axis.set(xlabel=f"the reference's {study}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('PSNR-Y over bicubic, dB')
    axes[0].legend(fontsize=8)
    save_figure(figure, path)


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument('--pairs', type=int, default=12)
    parser.add_argument('--methods', nargs='+', default=METHODS)
    parser.add_argument('--record', help='file of results so far, to go on from')
    parser.add_argument('--figure')
    args = parser.parse_args()
    photographs, methods = Photographs(args.data), restorers(args.methods)
    names = photographs.names[:: max(1, len(photographs.names) // args.pairs)][: args.pairs]
    rows = list(gains(photographs, names, methods, Record(args.record)))
    number = f'mean of {len(names)} pairs and its standard error'
    report(f'dB over bicubic, {number}', *tables(rows, list(methods)))
    report(f'What the change costs each pair, dB, {number}', *tables(costs(rows), list(methods)))
    if args.figure:
        draw(rows, args.figure)


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
