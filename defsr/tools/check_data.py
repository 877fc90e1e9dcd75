"""Look through data sets: is everything there, readable, of fitting sizes, and there once.

    defsr-check-data CUFED5 datasets/CUFED5        # a public set, as docs/datasets.md lays it out
    defsr-check-data -opt options/train_DEF_x4.yml # all sets of an option file
    defsr-check-data --gt inputs --ref references  # folders of one's own

Ends with status 2 if anything is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from defsr.utils.cli import StageBars, run_cli, tell, visible

MOST = 20  # problems of a set that are told


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='defsr-check-data',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('name', nargs='?', help='CUFED, CUFED5, WR-SR, Sun80, Urban100 or Manga109')
    add('folder', nargs='?', type=Path, help='where it lies; default: datasets/NAME')
    add('-opt', metavar='FILE', help='option file of a training, a test or a benchmark')
    add('--gt', type=Path, help='folder of ground truths')
    add('--ref', type=Path, help='folder of references of the same names, or as the list says')
    add('--pair-list', metavar='FILE', help='lines `gt ref1 [ref2 ...]`')
    add('--scale', type=int, default=4, help='of --gt (default: 4)')
    add('--all', action='store_true', help=f'tell every problem, not the first {MOST} of a set')
    return parser.parse_args()


def blocks_of(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any], int | None]]:
    """(name, block, how many pairs it should have) of each set that was asked for.

    Raises:
        ValueError: for no set, or more than one way to name them.
    """
    from defsr.config.files import load_options
    from defsr.data.data_check import KNOWN_SETS, block_of
    from defsr.utils.checks import check_block, check_choice

    ways = [way for way in ('name', 'opt', 'gt') if getattr(args, way) is not None]
    if len(ways) != 1:
        raise ValueError('Give the name of a public set, or -opt FILE, or --gt FOLDER.')
    if args.name is not None:
        known = KNOWN_SETS[check_choice('The set', args.name, KNOWN_SETS)]
        folder = args.folder or Path('datasets') / args.name
        yield args.name, known.block(args.name, folder), known.number
    elif args.gt is not None:
        name = args.gt.name
        yield name, block_of(name, args.gt, args.ref, args.pair_list, args.scale), None
    else:
        opt = load_options(args.opt)
        sets = check_block('datasets', opt.get('datasets'))
        for name, block in sets.items():
            if isinstance(block, dict) and block.get('type') == 'RefTripletDataset':
                phase = {'train': 'train', 'test': 'test'}.get(name.split('_')[0], 'val')
                own = {'name': name, **block, 'phase': phase, 'scale': opt.get('scale')}
                yield name, own, None
            else:
                tell(f'{name} is no RefTripletDataset, and is not looked at.')


def table(found: list[Any]) -> str:
    """Markdown, a row for each set."""
    from defsr.benchmark.tables import markdown_table

    def sizes(one: Any, root: str) -> str:
        if root not in one.sizes:
            return '-'
        least, most = ('x'.join(map(str, sides)) for sides in one.sizes[root])
        return least if least == most else f'{least} to {most}'

    rows = [
        [visible(one.name), one.pairs, *(one.images.get(root, 0) for root in ('gt', 'lq', 'ref')),
         sizes(one, 'gt' if 'gt' in one.images else 'lq'), sizes(one, 'ref'), len(one.problems)]
        for one in found
    ]  # fmt: skip
    head = ['set', 'pairs', 'gt', 'lq', 'references', 'sides', 'sides of references', 'problems']
    return markdown_table(head, [[str(cell) for cell in row] for row in rows])


def _run() -> None:
    args = parse()
    from defsr.data.data_check import look_through

    found = []
    with StageBars() as bars:
        for name, block, number in blocks_of(args):
            advance = partial(bars, visible(name))
            found.append(look_through(name, block, number=number, progress=advance))
    tqdm.write(table(found))
    for one in found:
        shown = one.problems if args.all else one.problems[:MOST]
        for line in shown:
            tqdm.write(visible(f'{one.name}: {line}'))
        if len(shown) < len(one.problems):
            tqdm.write(f'{one.name}: and {len(one.problems) - len(shown)} more (--all).')
        for line in one.notes:
            tqdm.write(visible(f'{one.name}, note: {line}'))
    wrong = [one for one in found if one.problems]
    if wrong:
        number = sum(len(one.problems) for one in wrong)
        plural, plurals = ('s' * (count > 1) for count in (number, len(wrong)))
        tell(f'{number} problem{plural} in {len(wrong)} set{plurals}.')
        sys.exit(2)


def main() -> None:
    """Entry point of ``defsr-check-data``."""
    run_cli(_run)


if __name__ == '__main__':
    main()
