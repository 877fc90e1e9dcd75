"""Make training pairs whose reference is in the frame of the ground truth, with planted errors.

    python -m defsr.tools.make_rectified --photos DIR --out FOLDER

writes FOLDER/gt, FOLDER/ref_rect and FOLDER/ref_mask, which ``RefTripletDataset`` reads as
``dataroot_gt``, ``dataroot_ref_rect`` and ``dataroot_ref_mask``.
"""

from __future__ import annotations

import argparse

from defsr.utils.cli import run_cli, tell


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description='Make training pairs with rectified references from photographs.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('--photos', metavar='DIR', required=True, help='folder of photographs')
    add('--out', metavar='FOLDER', required=True, help='folder to make')
    add('--per-image', type=int, default=1, metavar='K', help='pairs per photograph')
    add('--degradation', choices=('matlab', 'pil'), default='matlab', help='of the inputs')
    add('--seed', type=int, default=0, help='of everything random')
    add('--workers', type=int, default=1, help='processes; the result is the same')
    add('--force', action='store_true', help='replace an earlier result')
    return parser


def _run() -> None:
    args = _parser().parse_args()
    # PyTorch: seconds, which --help need not wait
    from defsr.diffusion.degradation import Degradation
    from defsr.rectify.made_folder import make_rectified

    number = make_rectified(
        args.photos,
        args.out,
        Degradation(args.degradation, 4),
        per_image=args.per_image,
        seed=args.seed,
        workers=args.workers,
        force=args.force,
    )
    tell(f'Wrote {number} pairs to {args.out}.')


def main() -> None:
    """Entry point."""
    run_cli(_run)


if __name__ == '__main__':
    main()
