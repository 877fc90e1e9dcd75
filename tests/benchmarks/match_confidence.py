"""Does the confidence tell right matches from wrong ones, with and without a check of the way back?

    python tests/benchmarks/match_confidence.py --data DIR [--pairs 60] [--figure PNG]

Pairs made from BSDS500's validation photographs, whose true correspondence is known (160x160,
overlap 30 to 100 %, scale, rotation, perspective and colour changed, a fifth unrelated): a match is
right if it lies within one position of the truth; where the reference does not show the place none
is. And scikit-image's stereo pair (256x320 centres), where the match of the GT query in the
untouched reference stands for the truth. Query: bicubic; key: ``ref_down_up``.

``AUC``: the probability that a right match has a higher confidence than a wrong one. ``kept``: the
share of positions with a confidence above 0; ``right``: of those.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from enhancer_cases import centre, soft, stereo_images, texture_extractor
from measuring import data_parser, report, table
from scipy.stats import mannwhitneyu
from torch import Tensor
from tqdm import tqdm

from defsr.archs.interface import Reference
from defsr.data.correspondence import true_positions
from defsr.data.image_source import ImageSource
from defsr.data.pair_settings import PairSettings
from defsr.data.pair_synthesis import make_pair
from defsr.images.figures import save_figure
from defsr.images.levels import from_levels, to_levels
from defsr.methods.matched import Matched
from defsr.ops.match_check import checked_confidence, round_trip_distance
from defsr.ops.matching import match_patches
from defsr.utils.cli import run_cli

SETTINGS = PairSettings(
    size=160,
    ref_size=160,
    overlap=(0.3, 1.0),
    scale=(0.8, 1.25),
    rotation=10.0,
    perspective=0.05,
    photometric=0.5,
    unrelated=0.2,
    seed=0,
)
TOLERANCES = (0.5, 1.0, 2.0, 4.0)
SIZE = (256, 320)


class Matcher:
    """Exact matches both ways with the shipped trunk, bicubic query and ``ref_down_up`` key."""

    def __init__(self) -> None:
        enhance = torch.nn.Module()
        self.pipeline = Matched(enhance, texture_extractor(), 'ref_down_up')
        self.features = self.pipeline.net_t

    def __call__(self, gt: Tensor, ref: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1,3,H,W) twice -> index, confidence, distance of the way back, (h,w) each."""
        key = self.pipeline.prepare(None, [Reference(ref)]).key
        query = self.features(soft(gt))['relu3_1']
        index, confidence = match_patches(query, key)
        distance = round_trip_distance(index, match_patches(key, query)[0])
        return index[0], confidence[0], distance[0]


def near(index: Tensor, rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Whether matches lie within one position of (fractional) places, which may be NaN."""
    off = torch.maximum((index // width - rows).abs(), (index % width - columns).abs())
    return off <= 1


def made_images(
    data: Path, number: int, settings: PairSettings = SETTINGS
) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
    """(GT, reference, homography) of each pair, images (1,3,160,160), with a progress bar."""
    source = ImageSource('--data', data / 'bsds500/val')
    names = source.names()

    for name in tqdm(names[:number], unit='pair'):
        others = [other for other in names if other != name]
        pair = make_pair(name, 0, settings, others, lambda each: to_levels(source.read(each)))
        yield from_levels(pair.gt), from_levels(pair.ref), pair.homography


def cells_of_truth(homography: np.ndarray, gt: Tensor) -> Tensor:
    """(2,h,w): row and column of the position that shows each position of ``gt``, or NaN."""
    places = torch.from_numpy(true_positions(homography, *gt.shape[-2:]))
    return (places.view(2, gt.shape[-2] // 4, 4, -1, 4).mean(dim=(2, 4)) - 1.5) / 4


def made_pairs(data: Path, number: int, matcher: Matcher) -> Iterator[tuple[Tensor, ...]]:
    """(right, confidence, distance) of each pair, flat."""
    for gt, ref, homography in made_images(data, number):
        index, confidence, distance = matcher(gt, ref)
        cells = cells_of_truth(homography, gt)
        yield (
            near(index, *cells, ref.shape[-1] // 4).flatten(),
            confidence.flatten(),
            distance.flatten(),
        )


def stereo_pair(matcher: Matcher) -> tuple[Tensor, ...]:
    """(right, confidence, distance), flat; right by the GT query's match."""
    gt, ref = (centre(image, *SIZE) for image in stereo_images())
    index, confidence, distance = matcher(gt, ref)
    truth = match_patches(*(matcher.features(x)['relu3_1'] for x in (gt, ref)))[0][0]
    width = SIZE[1] // 4
    right = near(index, truth // width, truth % width, width)
    return right.flatten(), confidence.flatten(), distance.flatten()


def variants(confidence: Tensor, distance: Tensor) -> dict[str, Tensor]:
    """Confidences by the names of the rows."""
    found = {'cosine as it is': confidence}
    for how in ('mask', 'weight'):
        for tolerance in TOLERANCES:
            if how == 'weight' or tolerance >= 1:  # distances are whole
                label = f'{how}, tolerance {tolerance:g}'
                found[label] = checked_confidence(confidence, distance, how, tolerance)
    return found


def auc(right: Tensor, confidence: Tensor) -> float:
    """Probability that a right match is trusted more than a wrong one, ties half."""
    statistic = mannwhitneyu(confidence[right].numpy(), confidence[~right].numpy()).statistic
    return float(statistic) / (int(right.sum()) * int((~right).sum()))


def lines_of(cases: Mapping[str, tuple[Tensor, ...]]) -> list[list[str]]:
    """A row per variant, three columns per case."""
    rows: dict[str, list[str]] = {}
    for right, confidence, distance in cases.values():
        for label, values in variants(confidence, distance).items():
            kept = values > 0.01
            cells = [
                auc(right, values),
                float(kept.float().mean()),
                float(right[kept].float().mean()),
            ]
            rows.setdefault(label, [label]).extend(f'{cell:.3f}' for cell in cells)
    return list(rows.values())


def draw(cases: Mapping[str, tuple[Tensor, ...]], path: str) -> None:
    """Share of right matches among the most trusted, over the share of positions kept."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=110, layout='constrained')
    shown = ('cosine as it is', 'mask, tolerance 1', 'weight, tolerance 1', 'weight, tolerance 2')
    for axis, (title, (right, confidence, distance)) in zip(
        figure.subplots(1, 2), cases.items(), strict=True
    ):
        for label in shown:
            values = variants(confidence, distance)[label]
            order = values.argsort(descending=True, stable=True)
            number = torch.arange(1, len(order) + 1)
            share = right[order].cumsum(0) / number
            keep = number > len(order) // 50
            axis.plot((number / len(order))[keep], share[keep], label=label)
        axis.set(xlabel='share of positions, most trusted first', ylabel='right', title=title)
        axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save_figure(figure, path)


def parse() -> argparse.Namespace:
    parser = data_parser(__doc__)
    parser.add_argument('--pairs', type=int, default=60)
    parser.add_argument('--figure')
    return parser.parse_args()


def main() -> None:
    args = parse()
    matcher = Matcher()
    made = [
        torch.cat(parts) for parts in zip(*made_pairs(args.data, args.pairs, matcher), strict=True)
    ]
    cases = {f'{args.pairs} made pairs': tuple(made), 'stereo pair': stereo_pair(matcher)}
    head = ['confidence']
    for name in cases:
        head += [f'{name}: AUC', 'kept', 'right']
    report('Confidence', table(head, lines_of(cases)))
    if args.figure:
        draw(cases, args.figure)


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
