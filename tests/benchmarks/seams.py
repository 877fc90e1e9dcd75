"""What is seen of the windows' borders, strategy by strategy, on a real photograph.

    python tests/benchmarks/seams.py --data DIR --weights PRIOR.pth --figure docs/images/seams.jpg

Prints the seam ratio (``defsr.metrics.seams``) where windows begin and where they end, the
distance from the measurement and the time, and draws a crop across an overlap for each
strategy, where borders show most. ``--diffusion '{eta: 1.0}'`` changes sampling options.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import yaml
from measuring import (
    build_enhancer,
    clock,
    data_parser,
    photograph,
    prior_arguments,
    report,
    table,
)
from torch import Tensor
from torch.nn import functional as F

from defsr.diffusion.options import STRATEGIES
from defsr.diffusion.windows import Window, cover
from defsr.images.figures import save_figure
from defsr.images.levels import to_levels
from defsr.metrics.seams import seam_ratio

TRUTH = 'ground truth'
AMPLIFIED = 6


def borders(windows: list[Window], height: int, width: int) -> dict[str, tuple[list, list]]:
    """(rows, columns) inside the image where windows begin, and where they end."""

    def inside(values: set[int], length: int) -> list[int]:
        return sorted(value for value in values if 0 < value < length)

    return {
        'begin': (
            inside({w.top for w in windows}, height),
            inside({w.left for w in windows}, width),
        ),
        'end': (
            inside({w.bottom for w in windows}, height),
            inside({w.right for w in windows}, width),
        ),
    }


def all_borders(lines: Mapping[str, tuple[list, list]]) -> list[list[int]]:
    """[rows, columns] of either kind."""
    return [sorted({*lines['begin'][axis], *lines['end'][axis]}) for axis in (0, 1)]


def enhance_all(args: argparse.Namespace, gt: Tensor) -> tuple[dict[str, Tensor], list[list]]:
    """The photograph by each strategy, clamped, and the rows of the table."""
    height, width = gt.shape[-2:]
    windows = cover(height, width, args.tile, args.overlap, 4)
    lines = borders(windows, height, width)
    images, rows = {TRUTH: gt}, [[TRUTH, *ratios(gt, lines), '', '']]
    for strategy in STRATEGIES:
        diffusion = {
            'strategy': strategy, 'num_steps': args.steps, 'tile': args.tile,
            'overlap': args.overlap, 'windows_per_batch': 4,
        }  # fmt: skip
        enhancer = build_enhancer(args.options, args.weights, **(diffusion | args.diffusion))
        lq = enhancer.operator.A(gt).clamp(0, 1)
        start = clock()
        de = enhancer.enhance(lq)
        seconds = clock() - start
        images[strategy] = de.clamp(0, 1)
        residual = enhancer.residual(de, lq)['unclamped']
        row = [f'`{strategy}`', *ratios(images[strategy], lines), f'{residual:.1e}']
        rows.append([*row, f'{seconds:.1f}'])
    return images, rows


def ratios(image: Tensor, lines: Mapping[str, tuple[list, list]]) -> list[str]:
    """Seam ratios for a table."""
    return [f'{seam_ratio(image, *lines[kind]):.3f}' for kind in ('begin', 'end')]


def showiest_overlap(images: Mapping[str, Tensor], lines: Mapping, side: int) -> Window:
    """A crop across an overlap of neighbours in a row of windows, where the borders show most.

    ``replace`` has its border where the later window begins, ``mask_shift`` where the earlier one
    ends; what counts is their steps there over those of ``full``.
    """
    steps = {name: image.diff(dim=-1).abs().mean(dim=(0, 1)) for name, image in images.items()}
    height, width = images['full'].shape[-2:]
    found = []
    for begin, end in zip(lines['begin'][1], lines['end'][1], strict=True):
        more = steps['replace'][:, begin - 1] - steps['full'][:, begin - 1]
        more = more + steps['mask_shift'][:, end - 1] - steps['full'][:, end - 1]
        stretch = more.unfold(0, min(side, height), 1).mean(dim=1)
        found.append((float(stretch.max()), int(stretch.argmax()), (begin + end) // 2))
    _, top, middle = max(found)
    left = min(max(middle - side // 2, 0), width - side)
    return Window(top, top + side, left, left + side)


def steepness(image: Tensor) -> Tensor:
    """(1,3,H,W) -> (1,3,H,W) grey: steps to the left and upper neighbour, amplified."""
    steps = F.pad(image.diff(dim=-1), (1, 0)).abs() + F.pad(image.diff(dim=-2), (0, 0, 1, 0)).abs()
    return (AMPLIFIED / 2 * steps.mean(dim=1, keepdim=True)).clamp(0, 1).expand(-1, 3, -1, -1)


def difference(image: Tensor, whole: Tensor) -> Tensor:
    """Signed, amplified, around grey."""
    return (0.5 + AMPLIFIED * (image - whole)).clamp(0, 1)


def draw(path: Path, images: Mapping[str, Tensor], crop: Window, lines: Mapping) -> None:
    """The crop of each image; its steps; what the strategies change against ``full``."""
    from matplotlib.figure import Figure

    rows, columns = all_borders(lines)
    labels = ['crop', f'steps x {AMPLIFIED}', f'minus `full`, x {AMPLIFIED}']
    figure = Figure(figsize=(2.1 * len(images), 6.6), dpi=110, layout='constrained')
    grid = figure.subplots(3, len(images))
    for column, (name, image) in enumerate(images.items()):
        shown = [image, steepness(image), difference(image, images['full'])]
        for axis, panel in zip(grid[:, column], shown, strict=True):
            axis.imshow(to_levels(crop.cut(panel)), interpolation='nearest')
            axis.set_xticks([x - crop.left - 0.5 for x in columns if crop.left < x < crop.right])
            axis.set_yticks([y - crop.top - 0.5 for y in rows if crop.top < y < crop.bottom])
            axis.tick_params(color='#ff3b30', length=6, width=2, labelbottom=False, labelleft=False)
        grid[0, column].set_title(name)
    for axis, label in zip(grid[:, 0], labels, strict=True):
        axis.set_ylabel(label)
    figure.supxlabel('red marks: where a window begins or ends', fontsize=9)
    save_figure(figure, path, path.suffix[1:] or 'png')


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument('--image', default='urban100/img_012.png', help='in the data folder')
    parser.add_argument('--size', type=int, nargs=2, default=(512, 640), metavar=('H', 'W'))
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument('--tile', type=int, default=256)
    parser.add_argument('--overlap', type=int, default=64)
    parser.add_argument('--diffusion', type=yaml.safe_load, default={}, help='more options, YAML')
    parser.add_argument('--crop', type=int, default=96, help="side of the figure's crop")
    parser.add_argument('--figure', type=Path, help='write the crops there (PNG or JPG)')
    prior_arguments(parser)
    args = parser.parse_args()
    gt = photograph(args.data, *args.size, args.image)
    images, rows = enhance_all(args, gt)
    height, width = args.size
    lines = borders(cover(height, width, args.tile, args.overlap, 4), height, width)
    if args.figure:
        crop = showiest_overlap(images, lines, args.crop)
        draw(args.figure, images, crop, lines)
    head = ['image', 'seam ratio, begin', 'seam ratio, end', 'residual', 's']
    prior = 'a trained prior' if args.weights else 'an untrained prior'
    report(
        f'Seams: {args.image}, {width}x{height}, {args.steps} steps, {prior}',
        f'Windows of {args.tile}, overlap {args.overlap}. The residual is max abs(A I_DE - y), '
        'images in [0, 1], before clamping.',
        table(head, rows),
    )


if __name__ == '__main__':
    main()
