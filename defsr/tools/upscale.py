"""Make one photograph four times as large, with the textures of related ones.

    defsr-upscale -i photo.jpg -r other1.jpg other2.jpg -o sharp.png

Needs no option file and no ground truth, and takes any size. See docs/upscale.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from defsr.utils.checks import check_at_least
from defsr.utils.cli import StageBars, run_cli, tell

# PyTorch takes seconds, which --help need not wait: what needs it is imported where it is used.
if TYPE_CHECKING:
    from torch import Tensor

CROP = 96  # side of the comparison's enlarged crop, in pixels of the result


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='defsr-upscale', description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add('-i', '--input', type=Path, required=True, metavar='FILE', help='the photo to enlarge')
    add(
        '-r', '--ref', type=Path, required=True, nargs='+', metavar='FILE',
        help='one or more photos of the same scene or kind of thing, with more detail',
    )  # fmt: skip
    add(
        '-o', '--output', type=Path, required=True, metavar='FILE',
        help='the result: .png, .jpg, .jpeg, .tif, .tiff or .webp',
    )  # fmt: skip
    add('--force', action='store_true', help='replace files that exist')
    add('--comparison', type=Path, metavar='PNG', help='also write a picture of before and after')
    add('--device', default='auto', help='auto (default), cpu, cuda or cuda:N')
    add(
        '--tile', type=int, default=128,
        help='side of the pieces it works in, in pixels of the photo (default: %(default)s);\n'
        'smaller ones need less memory',
    )  # fmt: skip
    add('--overlap', type=int, default=16, help='what the pieces share (default: 16)')
    add(
        '--max-megapixels', type=float, default=64.0,
        help='largest image to read or to write (default: 64)',
    )  # fmt: skip
    add(
        '--max-ref-megapixels', type=float, default=4.0,
        help='references beyond this, all together, are reduced (default: 4, about 3 GB)',
    )  # fmt: skip
    add('--weights', metavar='FILE', help='other weights for the network of options/upscale.yml')
    add('--options', type=Path, metavar='FILE', help='another such description')
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Everything that can be known to go wrong before the work is done.

    Raises:
        ValueError: for an output that cannot be, must not be or need not be written.
        OSError: if its folder cannot be written to.
    """
    from defsr.images.photo_writer import check_writable
    from defsr.upscaling import MIN_TILE

    check_at_least('--tile', args.tile, MIN_TILE)
    check_at_least('--overlap', args.overlap, 0)
    check_writable(args.output, (1, 1))
    outputs = {'--output': args.output}
    if args.comparison:
        if args.comparison.suffix.lower() != '.png':
            raise ValueError(f'--comparison is {args.comparison}, but must end in .png.')
        outputs['--comparison'] = args.comparison
    sources = {path.resolve() for path in (args.input, *args.ref)}
    for option, path in outputs.items():
        if path.resolve() in sources:
            raise ValueError(f'{option} {path} is also an input: choose another name.')
        if path.is_dir():
            raise ValueError(f'{option} {path} is a folder: give a file name.')
        if path.exists() and not args.force:
            raise ValueError(f'{option} {path} exists already. Add --force to replace it.')
        folder = next(p for p in path.absolute().parents if p.exists())
        if not os.access(folder, os.W_OK) or not folder.is_dir():
            raise OSError(f'{option} {path}: {folder} cannot be written to.')
    if args.comparison and args.comparison.resolve() == args.output.resolve():
        raise ValueError('--comparison and --output are the same file.')


def write_comparison(path: Path, lq: Tensor, ref: Tensor, sr: Tensor, scale: int) -> None:
    """Photo, bicubic, reference and result side by side, with the crop that changed most."""
    from torch.nn import functional as F

    from defsr.images.figures import busiest_window, save_comparison
    from defsr.ops.resize import upsample_bicubic

    bicubic = upsample_bicubic(lq, scale).clamp(0, 1)
    panels = {
        'photo': F.interpolate(lq, scale_factor=scale),
        'bicubic': bicubic,
        'reference': ref,
        'result': sr,
    }
    side = min(CROP, *sr.shape[-2:])
    window = (*busiest_window(bicubic, sr, bicubic, side), side)
    save_comparison(path, panels, dict.fromkeys(('photo', 'bicubic', 'result'), window))


@contextmanager
def told_lines(name: str) -> Iterator[list[str]]:
    """What a logger says meanwhile, to be told when the progress bars are gone."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def run(args: argparse.Namespace) -> None:
    """Read, super-resolve, write.

    Args:
        args: as of ``parse_arguments``.
    """
    from defsr.images.photo import read_photo
    from defsr.images.photo_writer import check_writable, losses, write_photo
    from defsr.upscaling import NETWORK, Upscaler

    check_arguments(args)
    start = time.perf_counter()
    upscaler = Upscaler(args.weights, args.device, options=args.options or NETWORK)
    photo, *refs = (read_photo(path, args.max_megapixels) for path in (args.input, *args.ref))
    height, width = (upscaler.scale * side for side in photo.size)
    check_writable(args.output, (height, width))
    for loss in losses(args.output, photo):
        tell(loss)
    tell(f'{args.input.name} on {upscaler.device}')
    with StageBars() as advance, told_lines('basicsr.references') as lines:
        result = upscaler(
            photo,
            refs,
            tile=args.tile,
            overlap=args.overlap,
            max_ref_megapixels=args.max_ref_megapixels,
            max_megapixels=args.max_megapixels,
            progress=advance,
        )
    for line in lines:
        tell(line)
    write_photo(args.output, result)
    tell(f'{args.output}: {height}x{width} (HxW), {time.perf_counter() - start:.0f} s')
    if args.comparison:
        write_comparison(args.comparison, photo.rgb, refs[0].rgb, result.rgb, upscaler.scale)
        tell(f'{args.comparison}: before and after')


def upscale() -> None:
    """Parse the command line and run."""
    run(parse_arguments())


def main() -> None:
    """Entry point of ``defsr-upscale``."""
    run_cli(upscale)


if __name__ == '__main__':
    main()
