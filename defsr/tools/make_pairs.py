"""Make training pairs for reference-based super-resolution from a folder of photographs.

    python -m defsr.tools.make_pairs --photos DIR --out FOLDER

writes FOLDER/gt/*.png and FOLDER/ref/*.png of equal names, which ``RefTripletDataset`` reads
without a pair list, and FOLDER/correspondence.csv with the true correspondence of each pair.
"""

from __future__ import annotations

import argparse
from dataclasses import fields

from defsr.data.pair_settings import PairSettings
from defsr.utils.cli import run_cli, tell


def _parser() -> argparse.ArgumentParser:
    default = PairSettings()
    parser = argparse.ArgumentParser(
        description='Make training pairs (ground truth and reference) from photographs.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('--photos', metavar='DIR', required=True, help='folder of photographs')
    add('--out', metavar='FOLDER', required=True, help='folder to make')
    add('--per-image', type=int, default=1, metavar='K', help='pairs per photograph')
    add('--size', type=int, default=default.size, help='side of the ground truth')
    add('--ref-size', type=int, default=default.ref_size, help='side of the reference')
    for name, text in (
        ('overlap', 'share of the ground truth that the reference shows'),
        ('scale', 'reference pixels per photograph pixel'),
    ):
        value = getattr(default, name)
        add(f'--{name}', type=float, nargs=2, default=value, metavar=('LOW', 'HIGH'), help=text)
    add('--rotation', type=float, default=default.rotation, help='degrees, either way')
    add('--perspective', type=float, default=default.perspective, help='corner shift per side')
    add('--photometric', type=float, default=default.photometric, help='colour changes; 0: none')
    add('--unrelated', type=float, default=default.unrelated, help='share from another photograph')
    add('--seed', type=int, default=default.seed, help='of everything random')
    add('--workers', type=int, default=1, help='processes; the result is the same')
    add('--lmdb', action='store_true', help='also make gt.lmdb and ref.lmdb')
    add('--force', action='store_true', help='replace an earlier result')
    return parser


def _run() -> None:
    args = _parser().parse_args()
    from defsr.data.pair_folder import make_pairs  # PyTorch: seconds, which --help need not wait

    values = {field.name: getattr(args, field.name) for field in fields(PairSettings)}
    ranges = {'overlap': tuple(args.overlap), 'scale': tuple(args.scale)}
    report = make_pairs(
        args.photos,
        args.out,
        PairSettings(**{**values, **ranges}),
        per_image=args.per_image,
        workers=args.workers,
        lmdb=args.lmdb,
        force=args.force,
    )
    tell(
        f'Wrote {report.num_pairs} pairs of {report.num_photos} photos to {args.out} '
        f'({report.num_skipped} skipped as too small).'
    )


def main() -> None:
    """Entry point."""
    run_cli(_run)


if __name__ == '__main__':
    main()
