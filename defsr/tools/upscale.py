"""Make one photograph four times as large, with the textures of related ones.

    defsr-upscale -i photo.jpg -r other1.jpg other2.jpg -o sharp.png
    defsr-upscale -i FOLDER -r FOLDER_OF_REFERENCES -o NEW_FOLDER

Needs no option file and no ground truth, and takes any size. See docs/upscale.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from defsr.utils.checks import check_at_least
from defsr.utils.cli import MISTAKES, StageBars, let_cpu_help, run_cli, tell

# PyTorch takes seconds, which --help need not wait: what needs it is imported where it is used.
if TYPE_CHECKING:
    from torch import Tensor

    from defsr.images.photo import Photo
    from defsr.images.photo_files import Task
    from defsr.methods.base import StageProgress
    from defsr.upscaling import Upscaler

CROP = 96  # side of the comparison's enlarged crop, in pixels of the result


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='defsr-upscale', description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add(
        '-i', '--input', type=Path, required=True, metavar='PATH',
        help='the photo to enlarge, or a folder of photos, with those inside it',
    )  # fmt: skip
    add(
        '-r', '--ref', type=Path, required=True, nargs='+', metavar='PATH',
        help='one or more photos of the same scene or kind of thing, with more detail,\n'
        'or folders of them',
    )  # fmt: skip
    add(
        '-o', '--output', type=Path, required=True, metavar='PATH',
        help='the result: .png, .jpg, .jpeg, .tif, .tiff or .webp; of a folder the folder of\n'
        'results, where what is there already is not made again',
    )  # fmt: skip
    add(
        '--best', type=int, default=4, metavar='N',
        help='of more references than N those N that most matches confirm (default: 4)',
    )  # fmt: skip
    add('--force', action='store_true', help='replace files that exist')
    add('--comparison', type=Path, metavar='PNG', help='also write a picture of before and after')
    add(
        '--quality', choices=('auto', 'clean', 'photo'),
        help='what the photo is: clean, or with noise or traces of JPEG (photo), which are taken\n'
        'off; auto, the default, looks at it',
    )  # fmt: skip
    add('--device', default='auto', help='auto (default), cpu, cuda, cuda:N or mps')
    add(
        '--precision', choices=('fp32', 'bf16'), default='fp32',
        help='of the network: fp32 (default), or bf16, for GPUs that are faster in it',
    )  # fmt: skip
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
    args = parser.parse_args()
    let_cpu_help(args.device)
    return args


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
    check_at_least('--best', args.best, 1)
    if args.input.is_dir():
        _check_folders(args)
        return
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
        _check_place(option, path, path.absolute().parents)
    if args.comparison and args.comparison.resolve() == args.output.resolve():
        raise ValueError('--comparison and --output are the same file.')


def _check_folders(args: argparse.Namespace) -> None:
    if args.comparison:
        raise ValueError('--comparison is for one photo, but --input is a folder. Leave it out.')
    if args.output.exists() and not args.output.is_dir():
        raise ValueError(f'--output {args.output} is a file, but --input is a folder.')
    if args.output.resolve() == args.input.resolve():
        raise ValueError(f'--output {args.output} is also the input: choose another folder.')
    place = args.output.absolute()
    _check_place('--output', args.output, (place, *place.parents))


def _check_place(option: str, path: Path, places: Sequence[Path]) -> None:
    folder = next(p for p in places if p.exists())
    if not os.access(folder, os.W_OK) or not folder.is_dir():
        raise OSError(f'{option} {path}: {folder} cannot be written to.')


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

    Raises:
        ValueError: also at the end, if some photos of a folder failed.
    """
    from defsr.images.photo_files import Task, expand, photos_below, tasks
    from defsr.upscaling import NETWORK, Upscaler

    check_arguments(args)
    whole_folder = args.input.is_dir()
    refs = expand(args.ref, args.output if whole_folder else None)
    if not refs:
        raise ValueError(f'--ref {args.ref[0]} is a folder without photos.')
    todo = [Task(args.input, args.output)]
    if whole_folder:
        photos = photos_below(args.input, args.output)
        if not photos:
            raise ValueError(f'--input {args.input} is a folder without photos.')
        todo = tasks(photos, args.input, args.output)
    upscaler = Upscaler(
        args.weights,
        args.device,
        options=args.options or NETWORK,
        quality=args.quality,
        precision=args.precision,
    )
    if not whole_folder:
        restore(args, upscaler, todo[0], refs)
        return
    there, failed = 0, []
    for number, task in enumerate(todo, start=1):
        if task.output.exists() and not args.force:
            there += 1
            continue
        tell(f'[{number}/{len(todo)}] {task.photo}')
        own = [ref for ref in refs if ref.resolve() != task.photo.resolve()]
        try:
            restore(args, upscaler, task, own)
        except MISTAKES as error:
            failed.append(task.photo.name)
            tell(f'error: {error}')
    made = len(todo) - there - len(failed)
    tell(f'{args.output}: {made} photos made, {there} were there already, {len(failed)} failed')
    if failed:
        raise ValueError(f'{len(failed)} of {len(todo)} photos failed: {", ".join(failed)}.')


def restore(
    args: argparse.Namespace, upscaler: Upscaler, task: Task, paths: Sequence[Path]
) -> None:
    """One photo, with the best of the references."""
    from defsr.images.photo import read_photo
    from defsr.images.photo_writer import check_writable, losses, write_photo

    start = time.perf_counter()
    photo = read_photo(task.photo, args.max_megapixels)
    height, width = (upscaler.scale * side for side in photo.size)
    check_writable(task.output, (height, width))
    for loss in losses(task.output, photo):
        tell(loss)
    tell(f'{task.photo.name} on {upscaler.device}')
    with StageBars() as advance:
        refs = pick(args, upscaler, photo, paths, advance)
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
    write_photo(task.output, result)
    tell(f'{task.output}: {height}x{width} (HxW), {time.perf_counter() - start:.0f} s')
    if args.comparison:
        write_comparison(args.comparison, photo.rgb, refs[0].rgb, result.rgb, upscaler.scale)
        tell(f'{args.comparison}: before and after')


class Limits(Protocol):
    """Of the options those that ``pick`` reads."""

    @property
    def best(self) -> int: ...

    @property
    def max_megapixels(self) -> float: ...


def pick(
    args: Limits,
    upscaler: Upscaler,
    photo: Photo,
    paths: Sequence[Path],
    advance: StageProgress,
    say: Callable[[str], None] = tell,
) -> list[Photo]:
    """The references that most matches confirm, if there are more than wanted.

    Args:
        args: see ``parse_arguments``.
        upscaler: which confirms them.
        photo: that they are to serve.
        paths: of the references.
        advance: called as (stage, done, total).
        say: what is left out, and what is chosen.

    Raises:
        ValueError: for what cannot be read, if there is no choice; and if there is nothing else.
    """
    from defsr.images.photo import read_photo

    if len(paths) <= args.best:
        return [read_photo(path, args.max_megapixels) for path in paths]
    readable: list[Path] = []

    def read() -> Iterator[Photo]:
        for number, path in enumerate(paths):
            advance('choose', number, len(paths))
            try:
                ref = read_photo(path, args.max_megapixels)
            except (ValueError, OSError) as error:
                say(f'Left out: {error}')
                continue
            readable.append(path)
            yield ref
        advance('choose', len(paths), len(paths))

    numbers = upscaler.confirmed(photo, read())
    confirmed = dict(zip(readable, numbers, strict=True))
    if not confirmed:
        raise ValueError(f'None of {len(paths)} references can be read.')
    best = sorted(confirmed, key=lambda path: -confirmed[path])[: args.best]
    for number, path in enumerate(best, start=1):
        say(f'Reference {number} is {path.name}: {confirmed[path]} matches.')
    return [read_photo(path, args.max_megapixels) for path in best]


def upscale() -> None:
    """Parse the command line and run."""
    run(parse_arguments())


def main() -> None:
    """Entry point of ``defsr-upscale``."""
    run_cli(upscale)


if __name__ == '__main__':
    main()
