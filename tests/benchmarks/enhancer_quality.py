"""How good I_DE is, by start, eta and number of steps, against bicubic and A_pinv y.

    python tests/benchmarks/enhancer_quality.py --data DIR [--record FILE] [--figure PNG]

On the centre 256x256 of each image: PSNR and SSIM on Y (8 bit, crop_border 4), ``trunk_distance``
(LPIPS's formula on the shipped VGG16 trunk, unweighted; lower is better), max |A I_DE - y| on
[0, 1] before clamping, seconds. ``default``: the option file. ``plain``: the same without
extrapolation. ``lq``: its start and grid, but at temperature 1. ``noise``: DDNM's published
sampling, for a prior that knows so much noise (--starts). With --record a run that was stopped goes
on, and several may share the work (--sets).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

import torch
from enhancer_cases import (
    OPTIONS,
    EnhancerFactory,
    Record,
    Setting,
    crops,
    lq_of,
    psnr_ssim_y,
    texture_extractor,
    timed,
)
from measuring import data_parser, table
from torch import Tensor
from tqdm import tqdm

from defsr.diffusion import BicubicDownsample
from defsr.images.figures import save_figure
from defsr.images.levels import round_to_8_bit
from defsr.metrics.trunk_distance import trunk_distance
from defsr.ops.resize import upsample_bicubic
from defsr.utils.cli import run_cli

SETS = ('urban100', 'sun80', 'manga109', 'cufed5')
OPERATOR = BicubicDownsample(4)
# The paper's levels in ten times as many steps: from 0.8 on its own table has but 200.
FINE = {'beta_start': 1e-7, 'beta_end': 1e-3, 'num_train_steps': 10000}
STARTS = {
    'lq': {'extrapolation': 0.0},
    'noise': {'extrapolation': 0.0, 'start': 'noise', 'grid': 'ddnm', 'end_alpha_bar': 1.0},
}


def settings_of(steps: Sequence[int], starts: Sequence[str]) -> list[Setting]:
    """Every way to sample, at each number of steps."""
    ways = {
        f'{start}, eta {eta:g}': STARTS[start] | {'eta': eta, 'temperature': 1.0}
        for start in starts
        for eta in (0.0, 0.85)
    }
    ways |= {'plain': {'extrapolation': 0.0}, 'default': {}}
    found = []
    for number, (label, changes) in itertools.product(steps, ways.items()):
        fine = {'schedule': FINE} if number > 100 and not label.startswith('noise') else {}
        found.append(Setting(label, changes | fine | {'num_steps': number}))
    return found


def measure(de: Tensor, gt: Tensor, lq: Tensor, trunk: torch.nn.Module) -> dict[str, float]:
    """Scores of one unclamped enhanced image."""
    image = round_to_8_bit(de)
    scores = psnr_ssim_y(image, gt)
    residual = float((OPERATOR.A(de) - lq).abs().max())
    return scores | {'trunk': trunk_distance(trunk, image, gt), 'residual': residual}


def run(args: argparse.Namespace, record: Record) -> None:
    """Measure what the record does not have yet."""
    factory = EnhancerFactory(args.options, args.weights)
    trunk = texture_extractor()
    plain = {
        'bicubic': lambda lq: upsample_bicubic(lq, 4),
        'A_pinv y': OPERATOR.A_pinv,
    }
    cases = list(crops(args.data, args.sets, args.side, args.per_set))
    long = first_two_of_each_set(cases)
    jobs = []
    for name, image, gt in cases:
        jobs += [(name, image, gt, Setting(label), how) for label, how in plain.items()]
        steps = args.steps + (args.long_steps if f'{name}/{image}' in long else [])
        for setting in settings_of(steps, args.starts):
            if args.only and setting.label not in args.only:
                continue
            jobs.append((name, image, gt, setting, factory.make(setting.diffusion).enhance))
    for name, image, gt, setting, how in tqdm(jobs, unit='image'):
        key = f'{name}/{image}/{setting.label}/{setting.steps}'
        if key in record:
            continue
        lq = lq_of(gt)
        de, seconds = timed(how, lq)
        row = measure(de, gt, lq, trunk) | {'seconds': seconds}
        row |= {'set': name, 'image': image, 'label': setting.label, 'steps': setting.steps}
        record.add(key, row)


def first_two_of_each_set(cases: Sequence[tuple[str, str, Tensor]]) -> set[str]:
    """The images of the longest runs: two of urban100, sun80 and manga109 each."""
    picked: dict[str, list[str]] = {}
    for name, image, _ in cases:
        picked.setdefault(name, []).append(f'{name}/{image}')
    return {image for name, images in picked.items() if name != 'cufed5' for image in images[:2]}


def mean(rows: Sequence[dict], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def rows_of(record: Record, sets: Sequence[str], images: set[str] | None = None) -> str:
    """Markdown: one row per setting, means over the images that all settings have."""
    groups: dict[tuple[str, int], list[dict]] = {}
    for row in record.rows.values():
        if images is None or f'{row["set"]}/{row["image"]}' in images:
            groups.setdefault((row['label'], row['steps']), []).append(row)
    head = ['setting', 'steps', 'images', 'PSNR-Y', 'SSIM-Y', 'trunk distance']
    head += [f'PSNR-Y {name}' for name in sets] + [f'trunk {name}' for name in sets]
    head += ['max abs(A I_DE - y)', 'seconds']
    lines = []
    for (label, steps), rows in sorted(groups.items(), key=lambda item: order(*item[0])):
        by_set = {name: [row for row in rows if row['set'] == name] for name in sets}
        cells = [label, str(steps or ''), str(len(rows))]
        cells += [f'{mean(rows, "psnr"):.2f}', f'{mean(rows, "ssim"):.3f}']
        cells += [f'{mean(rows, "trunk"):.3f}']
        for key, digits in (('psnr', 2), ('trunk', 3)):
            cells += [f'{mean(r, key):.{digits}f}' if r else '' for r in by_set.values()]
        cells += [f'{max(row["residual"] for row in rows):.0e}', f'{mean(rows, "seconds"):.1f}']
        lines.append(cells)
    return table(head, lines)


def order(label: str, steps: int) -> tuple[int, str, int]:
    """Plain interpolation first, the default last."""
    return (0 if not steps else 2 if label == 'default' else 1), label, steps


def draw(record: Record, path: str) -> None:
    """PSNR-Y and trunk distance over the number of steps, one line per way to sample."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.9), dpi=110, layout='constrained')
    axes = figure.subplots(1, 2)
    short = [row for row in record.rows.values() if row['steps'] <= 100]
    for axis, key, title in zip(
        axes, ('psnr', 'trunk'), ('PSNR-Y in dB', 'trunk distance (lower is better)'), strict=True
    ):
        for label in sorted({row['label'] for row in short}):
            rows = [row for row in short if row['label'] == label]
            counts = sorted({row['steps'] for row in rows})
            values = [mean([r for r in rows if r['steps'] == n], key) for n in counts]
            if counts == [0]:
                style = ':' if label == 'bicubic' else '--'
                axis.axhline(values[0], color='grey', linestyle=style, label=label)
            else:
                axis.plot(counts, values, marker='o', label=label)
        axis.set(xlabel='steps', title=title, xscale='log')
        ticks = sorted({row['steps'] for row in short} - {0})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', fontsize=8, ncols=len(labels))
    save_figure(figure, path)


def parse() -> argparse.Namespace:
    parser = data_parser(__doc__)
    parser.add_argument('--sets', nargs='+', default=list(SETS), choices=SETS)
    parser.add_argument('--options', default=OPTIONS)
    parser.add_argument('--weights')
    parser.add_argument('--steps', type=int, nargs='*', default=[3, 5, 10, 20])
    parser.add_argument('--long_steps', type=int, nargs='*', default=[])
    parser.add_argument('--starts', nargs='+', default=['lq'], choices=STARTS)
    parser.add_argument('--only', nargs='+', help='labels of settings, as "lq, eta 0"')
    parser.add_argument('--per_set', type=int, help='only so many images of each set')
    parser.add_argument('--side', type=int, default=256)
    parser.add_argument('--record')
    parser.add_argument('--figure')
    return parser.parse_args()


def main() -> None:
    args = parse()
    record = Record(args.record)
    run(args, record)
    every = sorted({f'{row["set"]}/{row["image"]}' for row in record.rows.values()})
    lines = ['', f'{len(every)} images, {args.side}x{args.side}', '', rows_of(record, args.sets)]
    long = {f'{r["set"]}/{r["image"]}' for r in record.rows.values() if r['steps'] > 100}
    if long:
        lines += ['', f'{len(long)} images', '', rows_of(record, args.sets, long)]
    tqdm.write('\n'.join(lines))
    if args.figure:
        draw(record, args.figure)


if __name__ == '__main__':
    run_cli(main)
