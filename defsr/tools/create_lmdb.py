"""Turn folders of images into LMDBs, which ``io_backend: {type: lmdb}`` reads.

    python -m defsr.tools.create_lmdb --gt DIR --ref DIR --out FOLDER

writes FOLDER/gt.lmdb and FOLDER/ref.lmdb in BasicSR's format.
"""

from __future__ import annotations

import argparse

from defsr.data.roots import ROOTS, flag
from defsr.images.header import MAX_MEGAPIXELS
from defsr.utils.cli import run_cli, tell


def run() -> None:
    """Read the command line and build the LMDBs."""
    parser = argparse.ArgumentParser(description='Turn folders of images into LMDBs.')
    for root in ROOTS:
        parser.add_argument(flag(root), metavar='DIR', help=f'images for dataroot_{root}')
    parser.add_argument('--out', metavar='FOLDER', required=True, help='where the LMDBs go')
    parser.add_argument('--pair_list', '--pair-list', metavar='FILE', help='only its images')
    parser.add_argument('--compress_level', '--compress-level', type=int, default=1, metavar='0..9')
    parser.add_argument(
        '--max_megapixels',
        '--max-megapixels',
        type=float,
        default=MAX_MEGAPIXELS,
        metavar='N',
        help='refuse larger images',
    )
    parser.add_argument('--force', action='store_true', help='replace LMDBs that exist')
    args = parser.parse_args()
    from defsr.data.lmdb_writer import create_lmdb  # PyTorch: seconds, which --help need not wait

    folders = {root: getattr(args, root) for root in ROOTS if getattr(args, root)}
    made = create_lmdb(
        folders,
        args.out,
        pair_list=args.pair_list,
        compress_level=args.compress_level,
        force=args.force,
        max_megapixels=args.max_megapixels,
    )
    tell(f'Wrote {", ".join(map(str, made))}.')


def main() -> None:
    """Entry point."""
    run_cli(run)


if __name__ == '__main__':
    main()
