"""Make ranked images, the data of RankSRGAN's Ranker: several methods' results with their NIQE.

    python -m defsr.tools.make_ranked -opt FILE --out FOLDER

FILE is one of defsr-benchmark's: each of its methods restores each image of its data sets.
"""

from __future__ import annotations

import argparse

from defsr.config.files import load_options, override_options
from defsr.utils.cli import run_cli, tell


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make ranked images for RankSRGAN's Ranker.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('-opt', required=True, metavar='FILE', help='option file of defsr-benchmark')
    add('--out', required=True, metavar='FOLDER', help='folder to make')
    add('--size', type=int, default=296, help='side of the patches')
    add('--stride', type=int, default=148, help='from one patch to the next')
    add('--least', type=float, default=0.1, help='smallest difference of two scores')
    add('--force', action='store_true', help='replace an earlier result')
    add('--force_yml', nargs='+', default=[], metavar='KEY=VALUE', help='change options')
    return parser.parse_args()


def _run() -> None:
    args = parse()
    # PyTorch takes seconds, which --help need not wait.
    from defsr.benchmark.options import read_benchmark
    from defsr.benchmark.ranked import make_ranked

    benchmark = read_benchmark(override_options(load_options(args.opt), args.force_yml))
    settings = {'size': args.size, 'stride': args.stride, 'least': args.least}
    kept, tried = make_ranked(benchmark, args.out, force=args.force, **settings)
    tell(f'Wrote {kept} of {tried} patches by {len(benchmark.methods)} methods to {args.out}.')


def main() -> None:
    """Entry point."""
    run_cli(_run)


if __name__ == '__main__':
    main()
