"""A folder of training pairs from a folder of photographs: what ``defsr-make-pairs`` runs."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from basicsr.utils import get_root_logger
from PIL import Image
from tqdm import tqdm

from defsr.data.correspondence import Correspondence, write_correspondences
from defsr.data.image_source import ImageSource, image_key
from defsr.data.lmdb_writer import create_lmdb
from defsr.data.pair_settings import PairSettings
from defsr.data.pair_synthesis import make_pair
from defsr.images.levels import to_levels
from defsr.images.png import encode_png
from defsr.utils.checks import check_at_least
from defsr.utils.files import NAME_BYTES, building_folder, clear_remains, publish_folder
from defsr.utils.locks import locked
from defsr.utils.paths import expanded

TRUTH_FILE = 'correspondence.csv'
Found = TypeVar('Found')
OUTPUTS = frozenset(('gt', 'ref', 'gt.lmdb', 'ref.lmdb', TRUTH_FILE))


@dataclass(frozen=True)
class PairsReport:
    """What a run made: number of pairs, of photographs used and of those that are too small."""

    num_pairs: int
    num_photos: int
    num_skipped: int


def make_pairs(
    photos: str | Path,
    out: str | Path,
    settings: PairSettings | None = None,
    *,
    per_image: int = 1,
    workers: int = 1,
    lmdb: bool = False,
    force: bool = False,
) -> PairsReport:
    """Write ``out/gt``, ``out/ref`` and ``out/correspondence.csv``, all of them or none.

    Everything is built in a hidden folder beside ``out`` and renamed when complete: a run that
    was killed leaves nothing under the final name, and the next one clears its remains away. One
    run at a time per ``out``. A pair depends on the seed, the photograph's file name and its
    number (and, if unrelated, on the names of the others), not on order or ``workers``.

    Args:
        photos: folder of photographs; those with a side below ``settings.min_side`` are left out.
        out: folder to make.
        settings: what a pair may be. Default: ``PairSettings()``.
        per_image: pairs per photograph, >= 1.
        workers: processes, >= 1.
        lmdb: also make ``out/gt.lmdb`` and ``out/ref.lmdb``.
        force: replace an earlier result in ``out``.

    Raises:
        FileExistsError: if ``out`` is not empty and ``force`` is off.
        ValueError: for settings out of range, if no photograph can be used or one cannot be read,
            and if ``out`` holds anything that this tool does not write.
    """
    settings = settings or PairSettings()
    check_at_least('per_image', per_image, 1)
    check_at_least('workers', workers, 1)
    source = ImageSource('--photos', photos)
    with folder_in_making(out, force, OUTPUTS) as building:
        usable, skipped = _sort_out(source, settings)
        _check_lengths(source, usable, per_image)
        if lmdb:
            _check_keys_for_lmdb(usable)
        for role in ('gt', 'ref'):
            (building / role).mkdir(parents=True)
        work = partial(_make_pairs_of, source.root, usable, settings, per_image, building)
        done = tqdm(map_names(work, usable, workers), total=len(usable), unit='photo')
        truths = [truth for of_photo in done for truth in of_photo]
        write_correspondences(building / TRUTH_FILE, truths)
        if lmdb:
            create_lmdb({'gt': building / 'gt', 'ref': building / 'ref'}, building)
    return PairsReport(len(truths), len(usable), len(skipped))


@contextmanager
def folder_in_making(out: str | Path, force: bool, outputs: Collection[str]) -> Iterator[Path]:
    """The hidden folder in which ``out`` is built, alone; renamed at the end, removed on failure.

    Args:
        out, force: as of ``make_pairs``.
        outputs: names of what the tool writes; ``force`` removes nothing else.
    """
    final = Path(os.path.abspath(expanded(out)))
    building = building_folder(final)
    with ExitStack() as held:
        held.enter_context(locked(final, 'Wait for it, or write elsewhere (--out).'))
        clear_remains(final)  # first: it may bring back a result that must not be overwritten
        _check_out(final, force, outputs)
        held.callback(shutil.rmtree, building, ignore_errors=True)
        yield building
        publish_folder(final)


def _make_pairs_of(
    root: str,
    usable: Sequence[str],
    settings: PairSettings,
    per_image: int,
    folder: Path,
    name: str,
) -> list[Correspondence]:
    """Write every pair of one photograph, in whatever process."""
    source = ImageSource('--photos', root)
    others = [other for other in usable if other != name]
    truths = []
    for k in range(per_image):
        pair = make_pair(name, k, settings, others, partial(_read_photo, source))
        truth = Correspondence.of_pair(f'{image_key(name)}_{k}.png', name, pair)
        for role, image in (('gt', pair.gt), ('ref', pair.ref)):
            path = folder / role / truth.name
            write_unsynced(path, encode_png(image[..., ::-1]))
        truths.append(truth)
    return truths


def write_unsynced(path: Path, content: bytes) -> None:
    """Not synced one by one: the whole folder appears at the end, or nothing."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OSError(f'{path} cannot be written: {error.strerror}. Is the disk full?') from error


def _read_photo(source: ImageSource, name: str) -> np.ndarray:
    """(H, W, 3) RGB uint8."""
    return to_levels(source.read(name))


def map_names(work: partial[Found], names: Sequence[str], workers: int) -> Iterator[Found]:
    """Results in the order of ``names``, by so many processes."""
    if workers == 1:
        yield from map(work, names)
        return
    context = multiprocessing.get_context('spawn')  # a fork of running OpenCV threads may hang
    with context.Pool(min(workers, len(names)), cv2.setNumThreads, (1,)) as pool:
        yield from pool.imap(work, names, chunksize=4)


def _sort_out(source: ImageSource, settings: PairSettings) -> tuple[list[str], list[str]]:
    """Names of the photographs: (large enough, too small), each sorted."""
    usable: list[str] = []
    skipped: list[str] = []
    for name in source.names():
        try:
            with Image.open(source.path(name)) as photo:  # reads the header only
                smallest = min(photo.size)
        except OSError as error:
            raise ValueError(
                f'{source.path(name)} cannot be read as an image ({error}). Remove it.'
            ) from None
        (usable if smallest >= settings.min_side else skipped).append(name)
    need = f'{settings.min_side} pixels on each side'
    if not usable:
        raise ValueError(
            f'--photos {source.root} has no photograph of {need}: all {len(skipped)} are smaller. '
            'Lower --size and --ref-size.'
        )
    if len(usable) == 1 and settings.unrelated > 0:
        raise ValueError(
            f'--unrelated is {settings.unrelated}, but --photos {source.root} has only one '
            f'photograph of {need}. Add photographs, or give --unrelated 0.'
        )
    if skipped:
        few = ', '.join(skipped[:3]) + (' ...' if len(skipped) > 3 else '')
        get_root_logger().warning(f'Skipped {len(skipped)} photos below {need}: {few}')
    return usable, skipped


def _check_lengths(source: ImageSource, names: Sequence[str], per_image: int) -> None:
    for name in names:
        if len(f'{image_key(name)}_{per_image - 1}.png'.encode()) > NAME_BYTES:
            raise ValueError(
                f'{source.path(name)}: its name is too long for one more number. Rename the '
                'photograph.'
            )


def _check_keys_for_lmdb(names: Sequence[str]) -> None:
    for name in names:
        key = image_key(name)
        if '.' in key or not key.isascii():
            raise ValueError(
                f'--lmdb: keys are ASCII and end at the first dot, which {name!r} does not fit. '
                'Rename the photograph.'
            )


def _check_out(final: Path, force: bool, outputs: Collection[str]) -> None:
    """Refuse to overwrite, and never remove what this tool did not write."""
    if not final.exists():
        return
    if not final.is_dir():
        raise FileExistsError(f'--out {final} is a file. Choose a folder.')
    content = {entry.name for entry in os.scandir(final)}
    if content and not force:
        raise FileExistsError(f'--out {final} is not empty. Remove it, or replace it with --force.')
    strange = sorted(content.difference(outputs))
    if strange:
        raise ValueError(
            f'--out {final} holds {strange[0]!r}, which --force would remove with the pairs. '
            'Choose another folder.'
        )
