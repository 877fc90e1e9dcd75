"""Time and memory of the enhancer up to a whole photograph of 2040x1356.

    python tests/benchmarks/enhance_scale.py --data DIR [--figure docs/images/enhance_scale.png]

Each row runs in a process of its own; its memory is what the process grew by at its peak, above
what it held with the network loaded and the photograph read.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from measuring import (
    answer,
    build_enhancer,
    data_parser,
    in_process,
    measured,
    photograph,
    prior_arguments,
    report,
    table,
)

from defsr.images.figures import save_figure
from defsr.utils.cli import tell

SIZES = [(256, 256), (512, 512), (768, 1024), (1024, 1536), (1356, 2040)]
LOOKS = {'full': ('#1f6feb', 'o'), 'blend': ('#d1242f', 's')}


def one_row(row: dict) -> None:
    """Enhance one photograph in this process, and hand back what it took."""
    enhancer = build_enhancer(row['options'], row['weights'], **row['diffusion'])
    gt = photograph(Path(row['data']), row['height'], row['width'])
    lq = enhancer.operator.A(gt).clamp(0, 1)
    del gt
    result = []
    taken = measured(lambda: result.append(enhancer.enhance(lq)))
    answer(taken | {'residual': enhancer.residual(result[0], lq)['unclamped']})


def measure(args: argparse.Namespace) -> list[dict]:
    """All rows: size by size, both strategies in turn."""
    made = []
    for height, width in SIZES[: args.sizes]:
        for strategy in LOOKS:
            row = {
                'options': str(args.options),
                'weights': args.weights and str(args.weights),
                'data': str(args.data),
                'height': height,
                'width': width,
                'diffusion': {
                    'strategy': strategy,
                    'num_steps': args.steps,
                    'tile': args.tile,
                    'overlap': args.overlap,
                    'windows_per_batch': args.windows_per_batch,
                },
            }
            made.append(row | {'strategy': strategy} | in_process(__file__, row))
            tell(' | '.join(line(made[-1], args.steps)))
    return made


def line(row: dict, steps: int) -> list[str]:
    """One row of the table."""
    area = row['height'] * row['width'] / 1e6
    return [
        f'{row["width"]}x{row["height"]}, {row["strategy"]}',
        f'{area:.2f}',
        f'{row["seconds"]:.1f}',
        f'{row["processor"]:.1f}',
        f'{row["processor"] / steps / area:.2f}',
        f'{row["mib"]:.0f}',
        f'{row["mib"] / area:.0f}',
        f'{row["residual"]:.1e}',
    ]


def draw(path: Path, rows: list[dict]) -> None:
    """Time and memory over the area."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), dpi=110, layout='constrained')
    kinds = {'processor': 'processor seconds', 'mib': 'peak MiB above the start'}
    for axis, (key, label) in zip(figure.subplots(1, 2), kinds.items(), strict=True):
        for strategy, (colour, marker) in LOOKS.items():
            chosen = [row for row in rows if row['strategy'] == strategy]
            areas = [row['height'] * row['width'] / 1e6 for row in chosen]
            values = [row[key] for row in chosen]
            axis.plot(areas, values, color=colour, marker=marker, label=strategy)
        axis.set_xlabel('megapixels of the result')
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    save_figure(figure, path, path.suffix[1:] or 'png')


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--tile', type=int, default=256)
    parser.add_argument('--overlap', type=int, default=64)
    parser.add_argument('--windows-per-batch', type=int, default=4)
    parser.add_argument('--sizes', type=int, default=len(SIZES), help='the first few sizes only')
    parser.add_argument('--figure', type=Path, help='write the curves there (PNG or JPG)')
    parser.add_argument('--row', type=json.loads, help=argparse.SUPPRESS)
    prior_arguments(parser)
    args = parser.parse_args()
    if args.row:
        one_row(args.row)
        return
    rows = measure(args)
    if args.figure:
        draw(args.figure, rows)
    head = ['photograph', 'megapixels', 's', 'processor s', 'the same per step and megapixel']
    head += ['peak MiB', 'MiB per megapixel', 'residual']
    report(
        f'Up to a whole photograph, {args.steps} steps',
        f'Windows of {args.tile}, overlap {args.overlap}, {args.windows_per_batch} in one call. '
        'One run per row. The residual is max abs(A I_DE - y), images in [0, 1].',
        table(head, [line(row, args.steps) for row in rows]),
    )


if __name__ == '__main__':
    main()
