"""Exact matching against what published codes do, and its memory and time on whole photographs.

    python tests/benchmarks/bench_matching.py [--rounds 5]
        [--scale [--threads 1 2] [--figure PNG]]

Side by side in one run, on features (relu3_1, C = 256) of scikit-image's stereo pair:
TTSR's search (unfold, normalise, one product of all pairs, max), C2-Matching's (the reference's
normalised patches, some at a time, as kernels of a convolution over the query; running max), and
the bare product of all positions, K^T Q, into memory that is there already or not.

With ``--scale`` whole photographs, each in a process of its own: seconds and what the process grew
by at its peak, above the features, with each number of threads; and the same of
``match_coarse_to_fine`` with its recall. The query is the photograph reduced and interpolated, the
key (``ref_down_up``) the photograph shifted, darkened and with noise, reduced and interpolated too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch
from enhancer_cases import centre, soft, stereo_images, texture_extractor
from measuring import (
    answer,
    data_parser,
    in_process,
    in_turns,
    measured,
    milliseconds,
    photograph,
    ratio,
    report,
    table,
)
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from defsr.archs.levels import MATCH_LEVEL
from defsr.archs.stacked_features import texture_features
from defsr.images.figures import save_figure
from defsr.ops.matching import match_patches
from defsr.ops.matching_coarse import match_coarse_to_fine
from defsr.utils.cli import run_cli

GRIDS = (40, 64, 96, 125)
PHOTOGRAPHS = ((64, 64), (125, 125), (170, 255), (240, 360), (339, 510))  # (h, w) of the features
PATCHES_PER_KERNEL = 512
SHIFT = (37, -61)  # pixels between a photograph and its reference
WAYS = (('exact', '#1f6feb', 'match_patches'), ('coarse', '#d1242f', 'match_coarse_to_fine'))
TTSR, CONVOLUTION, BARE, FRESH, OURS = (
    'unfold + product (TTSR)',
    'blocked convolution (C2-Matching)',
    'bare product, memory at hand',
    'bare product, new memory',
    'match_patches',
)


def match_by_unfold(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Every patch unfolded and normalised, all cosines at once. (1,C,h,w) -> (1,h*w) twice."""
    query, key = (F.normalize(F.unfold(x, 3, padding=1), dim=1) for x in (query, key))
    confidence, index = torch.bmm(key.transpose(1, 2), query).max(dim=1)
    return index, confidence


def match_by_convolution(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised patches of the key as kernels, a block at a time. (1,C,h,w) -> (1,h,w) twice."""
    patches = F.normalize(F.unfold(key, 3, padding=1), dim=1)
    kernels = patches[0].T.reshape(-1, key.shape[1], 3, 3)
    best, index = None, None
    for first in range(0, len(kernels), PATCHES_PER_KERNEL):
        score = F.conv2d(query, kernels[first : first + PATCHES_PER_KERNEL], padding=1)
        highest, place = score.max(dim=1)
        place += first
        if best is None:
            best, index = highest, place
        else:
            wins = highest > best
            best, index = torch.where(wins, highest, best), torch.where(wins, place, index)
    norm = F.unfold(query, 3, padding=1).norm(dim=1).clamp_min(1e-12).view_as(best)
    return index, best / norm


def stereo_features(grid: int) -> tuple[Tensor, Tensor]:
    """relu3_1 (1,256,grid,grid) of the centres of the stereo pair."""
    extractor = texture_extractor()
    crops = (centre(image, 4 * grid, 4 * grid) for image in stereo_images())
    query, key = (extractor(crop)[MATCH_LEVEL] for crop in crops)
    return query, key


def works(query: Tensor, key: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    rows, columns = key[0].flatten(1).T, query[0].flatten(1)
    products = torch.zeros(len(rows), columns.shape[1])
    return {
        TTSR: lambda: match_by_unfold(query, key),
        CONVOLUTION: lambda: match_by_convolution(query, key),
        FRESH: lambda: torch.mm(rows, columns),
        BARE: lambda: torch.mm(rows, columns, out=products),
        OURS: lambda: match_patches(query, key),
    }


def agreement(query: Tensor, key: Tensor) -> tuple[float, float]:
    """Share of the indices that TTSR's search and the convolution have in common with ours."""
    index = match_patches(query, key)[0].flatten()
    others = match_by_unfold(query, key)[0], match_by_convolution(query, key)[0]
    return tuple(float((other.flatten() == index).float().mean()) for other in others)


def compare(rounds: int) -> str:
    """Milliseconds and ratios for each grid."""
    lines = []
    for grid in tqdm(GRIDS, unit='grid'):
        query, key = stereo_features(grid)
        same = agreement(query, key)
        seconds = in_turns(works(query, key), rounds)
        cells = [f'{grid}x{grid}', *(milliseconds(seconds[name]) for name in seconds)]
        cells += [f'{ratio(seconds, name, OURS):.1f}x' for name in (TTSR, CONVOLUTION)]
        cells += [f'{ratio(seconds, OURS, name):.2f}' for name in (BARE, FRESH)]
        lines.append([*cells, *(f'{100 * share:.2f} %' for share in same)])
    head = ['grid', *(f'{name}, ms' for name in (TTSR, CONVOLUTION, FRESH, BARE, OURS))]
    head += ['faster than TTSR', 'faster than the convolution', 'times bare, at hand']
    head += ['times bare, new', 'same index as TTSR', 'as the convolution']
    return table(head, lines)


def one_row(row: dict) -> None:
    """Match one photograph against its shifted self in this process."""
    torch.set_num_threads(row['threads'])
    gt = photograph(Path(row['data']), 4 * row['height'], 4 * row['width'])
    extractor = texture_extractor()
    query, key = (
        texture_features(extractor, image, [MATCH_LEVEL])[MATCH_LEVEL]
        for image in (soft(gt), soft(reference_of(gt)))
    )
    exact = partial(match_patches, query, key)
    coarse = partial(match_coarse_to_fine, query, key)
    for way in (match_patches, match_coarse_to_fine):  # what the first call loads is not theirs
        way(query[..., :8, :8], key[..., :8, :8])
    found, taken = [], {}
    for name, way in {'exact': exact, 'coarse': coarse}.items():
        taken[name] = measured(lambda way=way: found.append(way()))
    answer(taken | recall(*found, key.shape[-1]))


def recall(
    exact: tuple[Tensor, Tensor], coarse: tuple[Tensor, Tensor], width: int
) -> dict[str, float]:
    """Of one search against the other: same index, within one position, mean cosine lost."""
    rows, columns = exact[0] // width - coarse[0] // width, exact[0] % width - coarse[0] % width
    return {
        'same': float((exact[0] == coarse[0]).float().mean()),
        'near': float((torch.maximum(rows.abs(), columns.abs()) <= 1).float().mean()),
        'lost': float((exact[1] - coarse[1]).mean()),
    }


def reference_of(gt: Tensor) -> Tensor:
    """Another photograph of the same: shifted, darker, noisy."""
    noise = torch.randn(gt.shape, generator=torch.Generator().manual_seed(0))
    return (0.85 * torch.roll(gt, SHIFT, (-2, -1)) + 0.02 * noise).clamp(0, 1)


def scale(data: Path, threads: Sequence[int]) -> list[dict]:
    """All photographs with each number of threads, each in its own process."""
    rows = []
    for number, (height, width) in tqdm([*product(threads, PHOTOGRAPHS)], unit='photograph'):
        row = {'data': str(data), 'height': height, 'width': width, 'threads': number}
        rows.append(row | in_process(__file__, row))
    return rows


def scale_table(rows: list[dict]) -> str:
    """Seconds, GFLOP/s of the bare product in that time, MiB."""
    lines = []
    for row in rows:
        pairs = (row['height'] * row['width']) ** 2
        exact, coarse = row['exact'], row['coarse']
        seconds, coarse_seconds = (way['seconds'] for way in (exact, coarse))
        lines.append(
            [
                row['threads'],
                f'{row["width"]}x{row["height"]}',
                f'{4 * row["width"]}x{4 * row["height"]}',
                f'{seconds:.2f}',
                f'{512 * pairs / seconds / 1e9:.0f}',
                f'{exact["mib"]:.0f}',
                f'{4 * pairs / 2**20:,.0f}',
                f'{coarse_seconds:.2f}',
                f'{seconds / coarse_seconds:.1f}x',
                f'{coarse["mib"]:.0f}',
                f'{100 * row["same"]:.1f} %',
                f'{100 * row["near"]:.1f} %',
                f'{row["lost"]:.4f}',
            ]
        )
    head = ['threads', 'grid', 'photograph', 'seconds', 'useful GFLOP/s', 'MiB above the features']
    head += ['MiB of all pairs', 'coarse: seconds', 'faster', 'MiB', 'same match', 'within one']
    return table([*head, 'cosine lost'], lines)


def draw(rows: list[dict], path: str) -> None:
    """Seconds and memory over the number of pairs, a line for each number of threads."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=110, layout='constrained')
    axes = figure.subplots(1, 2)
    threads = sorted({row['threads'] for row in rows})
    for axis, key, title in zip(axes, ('seconds', 'mib'), ('seconds', 'MiB'), strict=True):
        for number, (way, colour, label) in product(threads, WAYS):
            mine = [row for row in rows if row['threads'] == number]
            pairs = [(row['height'] * row['width']) ** 2 for row in mine]
            plural = '' if number == 1 else 's'
            axis.loglog(
                pairs, [row[way][key] for row in mine], '--' if number == 1 else '-',
                marker='o', color=colour, label=f'{label}, {number} thread{plural}',
            )  # fmt: skip
        if key == 'mib':
            axis.loglog(pairs, [4 * each / 2**20 for each in pairs], ':', color='grey',
                        label='the matrix of all pairs')  # fmt: skip
        for row, each in zip(mine, pairs, strict=True):
            at, label = (each, row['exact'][key]), f'{row["width"]}x{row["height"]}'
            axis.annotate(label, at, (4, -9), textcoords='offset points', fontsize=7)
        axis.set(xlabel='pairs of positions', title=title)
        axis.legend(fontsize=7)
    save_figure(figure, path)


def parse() -> argparse.Namespace:
    parser = data_parser(__doc__)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--scale', action='store_true', help='whole photographs, not grids')
    parser.add_argument('--threads', nargs='+', type=int, default=[1, 2], help='of --scale')
    parser.add_argument('--figure', help='of --scale')
    parser.add_argument('--row', help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.row:
        one_row(json.loads(args.row))
    elif args.scale:
        rows = scale(args.data, args.threads)
        report('Whole photographs', scale_table(rows))
        if args.figure:
            draw(rows, args.figure)
    else:
        report('Exact matching, side by side', compare(args.rounds))


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
