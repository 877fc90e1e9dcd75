"""LMDBs in BasicSR's format, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import cv2
import lmdb
from tqdm import tqdm

from defsr.data.image_source import ImageSource, decode_array, image_key
from defsr.data.pair_list import read_pair_list
from defsr.data.roots import ROOTS, flag
from defsr.images.header import MAX_MEGAPIXELS
from defsr.utils.checks import check_above, check_between, check_keys
from defsr.utils.files import building_folder, clear_remains, publish_folder, sync_folder
from defsr.utils.locks import locked
from defsr.utils.paths import expanded

START_MAP_SIZE = 64 * 2**20


def create_lmdb(
    folders: Mapping[str, str | Path],
    out: str | Path,
    *,
    pair_list: str | Path | None = None,
    compress_level: int = 1,
    force: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> list[Path]:
    """Write one LMDB per folder: ``out/gt.lmdb``, ``out/ref.lmdb`` and so on.

    PNG files are stored as they are (level -1 in ``meta_info.txt``), others are decoded and
    stored as PNG, so that an item is the same from both backends. Everything is built in hidden
    folders beside the results and renamed when complete: a run that was killed leaves nothing
    under the final names, and the next run clears its remains away. A second run into
    the same ``out`` is refused while the first is at work.

    Args:
        folders: any of ``gt``, ``lq``, ``ref``, ``de``, ``ref_de`` -> folder of images.
        out: where the LMDBs go; made if it does not exist.
        pair_list: take the images it names only; its first column names those of gt, lq and de,
            the others those of ref and ref_de. None: every image of each folder.
        compress_level: PNG compression of what is encoded anew, 0 (fast) .. 9 (small).
        force: replace LMDBs that exist.
        max_megapixels: larger images are refused by their header.

    Returns:
        The LMDBs' paths, in the order of ``folders``.

    Raises:
        FileExistsError: if one exists and ``force`` is off.
        FileNotFoundError: for folders and listed images that do not exist.
        ValueError: for names that LMDB keys cannot hold, for unreadable images, and while another
            run makes one of the LMDBs.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new('RGB', (9, 8)).save(f'{folder}/a.png')
        ...     (path,) = create_lmdb({'gt': folder}, folder)
        ...     path.name, (path / 'meta_info.txt').read_text(encoding='utf-8')
        ('gt.lmdb', 'a.png (8,9,3) -1\\n')
    """
    check_keys('create_lmdb', folders, ROOTS)
    check_between('compress_level', compress_level, 0, 9)
    if not folders:
        raise ValueError('There is nothing to do: name at least one folder, as in --gt DIR.')
    check_above('max_megapixels', max_megapixels, 0)
    sources = {
        root: ImageSource(flag(root), folder, max_megapixels=max_megapixels)
        for root, folder in folders.items()
    }
    names = {root: _list_names(root, source, pair_list) for root, source in sources.items()}
    finals = {root: expanded(out) / f'{root}.lmdb' for root in folders}
    with ExitStack() as held:
        for final in finals.values():
            held.enter_context(locked(final, 'Wait for it, or write elsewhere (--out).'))
            clear_remains(final)
            if final.exists() and not force:
                raise FileExistsError(
                    f'{final} exists already. Remove it, or replace it with --force.'
                )
            held.callback(shutil.rmtree, building_folder(final), ignore_errors=True)
        for root, final in finals.items():
            build_lmdb(sources[root], names[root], building_folder(final), compress_level)
        for final in finals.values():
            publish_folder(final)
    return list(finals.values())


def _list_names(root: str, source: ImageSource, pair_list: str | Path | None) -> list[str]:
    """Names of the images to store, sorted, each once."""
    if pair_list is None:
        names = source.names()
    else:
        pairs = read_pair_list(pair_list)
        is_ref = root in ('ref', 'ref_de')
        listed = {name for pair in pairs for name in (pair.refs if is_ref else (pair.gt,))}
        cached = root not in ('gt', 'ref')
        names = sorted(source.find(name, any_extension=cached) for name in listed)
    for name in names:
        check_key(name, source.path(name))
    return names


def check_key(name: str, path: str) -> None:
    """ValueError with ``path`` if an image's name cannot be a key of an LMDB."""
    key = image_key(name)
    if '.' in key or not key.isascii():
        raise ValueError(f'{path}: LMDB keys are ASCII and end at the first dot. Rename the file.')


def build_lmdb(
    source: ImageSource, names: Sequence[str], folder: Path, compress_level: int = 1
) -> None:
    """Write an LMDB with its ``meta_info.txt``, and see it on the disk before returning.

    Args:
        source: of the images.
        names: which of them, in the order of the meta file.
        folder: to make, usually a ``building_folder``; the progress bar is called after it.
        compress_level: as of ``create_lmdb``.

    Raises:
        ValueError: for unreadable images.
        OSError: if the disk does not take it.
    """
    folder.mkdir(parents=True)
    try:
        _fill(source, names, folder, compress_level)
    except lmdb.Error as error:  # LMDB calls a write that was cut short an input/output error
        raise OSError(f'{folder} could not be written: {error}. Is the disk full?') from error


def _fill(source: ImageSource, names: Sequence[str], folder: Path, compress_level: int) -> None:
    environment = lmdb.open(str(folder), map_size=START_MAP_SIZE, sync=False)
    lines = []
    try:
        for name in tqdm(names, unit='image', desc=folder.name.split('.')[1]):
            content, shape, level = _encode(source, name, compress_level)
            _put(environment, image_key(name).encode('ascii'), content)
            lines.append(f'{image_key(name)}.png ({",".join(map(str, shape))}) {level}\n')
        environment.sync(True)
    finally:
        environment.close()
    with open(folder / 'meta_info.txt', 'w', encoding='utf-8') as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def _encode(
    source: ImageSource, name: str, compress_level: int
) -> tuple[bytes, tuple[int, int, int], int]:
    """An image's PNG bytes, its (height, width, channels) and its level in the meta file."""
    content, path = source.read_bytes(name), source.path(name)
    image = decode_array(content, path, source.max_megapixels)
    shape = image.shape if image.ndim == 3 else (*image.shape, 1)
    if content.startswith(b'\x89PNG'):
        return content, shape, -1
    done, buffer = cv2.imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, compress_level])
    if not done:
        raise ValueError(f'{path} cannot be stored as PNG.')
    return buffer.tobytes(), shape, compress_level


def _put(environment: lmdb.Environment, key: bytes, content: bytes) -> None:
    """Store one value. The map grows when full: a fixed huge one fails on small disks."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                transaction.put(key, content)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()['map_size'])
