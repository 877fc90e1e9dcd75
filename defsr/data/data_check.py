"""Data sets looked through: is everything there, readable, of fitting sizes, and there once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import path as osp
from pathlib import Path
from typing import Any

from defsr.data.image_source import ImageSource, decode_array
from defsr.data.pair_list import Pair, check_result_names, read_pair_list
from defsr.data.ref_triplet_dataset import MIN_REF_SIDE
from defsr.data.triplet_options import TripletOptions

WORKERS = 4  # threads that decode
Size = tuple[int, int]
Progress = Callable[[int, int], None]


def block_of(
    name: str, gt: Path, ref: Path | None = None, pair_list: str | None = None, scale: int = 4
) -> dict[str, Any]:
    """The block of an option file, for validation, of folders on the disk; ref None: ``lq``."""
    return {
        'name': name,
        'type': 'RefTripletDataset',
        'phase': 'val',
        'scale': scale,
        'dataroot_gt': str(gt),
        'dataroot_ref': 'lq' if ref is None else str(ref),
        'pair_list': pair_list,
        'io_backend': {'type': 'disk'},
    }


@dataclass(frozen=True)
class KnownSet:
    """How a public data set lies in its folder: sub-folders, pair list, how many pairs."""

    gt: str
    ref: str | None
    pair_list: str | None
    number: int

    def block(self, name: str, folder: Path) -> dict[str, Any]:
        """The data set's block of an option file, for validation."""
        ref = None if self.ref is None else folder / self.ref
        return block_of(name, folder / self.gt, ref, self.pair_list)


KNOWN_SETS = {
    'CUFED': KnownSet('train/input', 'train/ref', None, 11871),
    'CUFED5': KnownSet('', '', 'datasets/CUFED5_all_refs.txt', 126),
    'WR-SR': KnownSet('input', 'ref', 'datasets/WR-SR.txt', 80),
    'Sun80': KnownSet('gt', 'ref', 'datasets/Sun80.txt', 80),
    'Urban100': KnownSet('', None, 'datasets/Urban100.txt', 100),
    'Manga109': KnownSet('', '', 'datasets/Manga109.txt', 109),
}


@dataclass
class Looked:
    """What was found in one data set.

    Attributes:
        name: of the set.
        pairs: inputs with their references.
        images: root -> how many different ones were read.
        sizes: root -> (least, most) of the shorter and of the longer side.
        problems: one line each; empty: the set is in order.
        notes: what is no mistake, but may surprise.
    """

    name: str
    pairs: int = 0
    images: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, tuple[Size, Size]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Image:
    """One that was read: sides (H, W), and a digest of its pixels."""

    size: Size
    digest: str


def look_through(
    name: str,
    block: Mapping[str, Any],
    *,
    number: int | None = None,
    progress: Progress | None = None,
) -> Looked:
    """Read every image of a data set once; what is wrong is collected, not raised.

    Args:
        name: of the set, for people.
        block: of an option file, with ``phase`` and ``scale``.
        number: how many pairs it should have.
        progress: called as (done, total) of the images.

    Raises:
        ValueError: for a block that is not legal.
    """
    options = TripletOptions.from_opt(block)
    looked = Looked(name)
    sources = {}
    for root, folder in options.roots.items():
        try:
            sources[root] = ImageSource(
                f'dataroot_{root}', folder, options.backend, options.max_megapixels
            )
        except (ValueError, OSError) as error:
            looked.problems.append(str(error))
    if looked.problems:
        return looked
    try:
        main = sources[options.main]
        pairs = [Pair(each, (each,)) for each in main.names()]
        if options.pair_list is not None:
            pairs = read_pair_list(options.pair_list)
        if not options.is_train:
            check_result_names(name, pairs)
    except (ValueError, OSError) as error:
        looked.problems.append(str(error))
        return looked
    looked.pairs = len(pairs)
    if number not in (None, len(pairs)):
        looked.problems.append(f'{len(pairs)} pairs, but {name} has {number}.')
    found = {pair: dict(_find(pair, sources, options, looked)) for pair in pairs}
    wanted = sorted(
        {each for files in found.values() for names in files.values() for each in names}
    )
    images = _read_all(wanted, sources, looked, progress)
    for root in sources:
        own = {path: image for (kind, path), image in images.items() if kind == root}
        looked.images[root] = len(own)
        if own:
            short, long = zip(*(sorted(image.size) for image in own.values()), strict=True)
            looked.sizes[root] = (min(short), min(long)), (max(short), max(long))
    for pair, files in found.items():
        looked.problems += _misfits(pair, files, images, options.scale)
    _note_duplicates(looked, images, options.main)
    if options.pair_list is not None and options.backend == 'disk':
        _note_unlisted(looked, sources, wanted)
    return looked


_Key = tuple[str, str]  # root, name


def _find(
    pair: Pair, sources: Mapping[str, ImageSource], options: TripletOptions, looked: Looked
) -> Iterator[tuple[str, list[_Key]]]:
    """Root -> the files of a pair."""
    for root, source in sources.items():
        names = pair.refs if root.startswith('ref') else (pair.gt,)
        if root.startswith('ref') and not names:
            looked.problems.append(f'{pair.gt}: the pair list gives it no reference.')
        loose = options.any_extension(root)
        keys = []
        for each in names:
            try:
                keys.append((root, source.find(each, any_extension=loose)))
            except FileNotFoundError:
                looked.problems.append(f'{osp.join(source.root, each)} is missing.')
        yield root, keys


def _read_all(
    wanted: Iterable[_Key],
    sources: Mapping[str, ImageSource],
    looked: Looked,
    progress: Progress | None,
) -> dict[_Key, _Image]:
    def read(key: _Key) -> _Image | str:
        source = sources[key[0]]
        path = source.path(key[1])
        try:
            pixels = decode_array(source.read_bytes(key[1]), path, source.max_megapixels)
        except (ValueError, OSError) as error:
            return str(error)
        digest = hashlib.sha256(f'{pixels.shape} {pixels.dtype}'.encode() + pixels.tobytes())
        return _Image((pixels.shape[0], pixels.shape[1]), digest.hexdigest())

    keys, images = list(wanted), {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for done, (key, image) in enumerate(zip(keys, pool.map(read, keys), strict=True), start=1):
            if isinstance(image, str):
                looked.problems.append(image)
            else:
                images[key] = image
            if progress is not None:
                progress(done, len(keys))
    return images


def _misfits(
    pair: Pair, files: Mapping[str, list[_Key]], images: Mapping[_Key, _Image], scale: int
) -> Iterator[str]:
    """What does not fit together of one pair."""

    def size_of(root: str) -> Size | None:
        keys = files.get(root) or []
        return images[keys[0]].size if keys and keys[0] in images else None

    gt, lq = size_of('gt'), size_of('lq')
    if gt is not None and min(gt) < scale:
        yield f'{pair.gt} is {gt[0]}x{gt[1]} (HxW), less than one pixel at scale {scale}.'
    if gt is not None and lq is not None:
        more = [large - scale * small for large, small in zip(gt, lq, strict=True)]
        if not all(0 <= each < scale for each in more):
            yield (
                f'{pair.gt}: gt is {gt[0]}x{gt[1]} (HxW) and lq {lq[0]}x{lq[1]}, which is no '
                f'{scale}th of it.'
            )
    base = lq if lq is not None else None if gt is None else tuple(side // scale for side in gt)
    for root in ('de', 'ref_rect', 'ref_mask'):
        factor = 1 if root == 'ref_mask' else scale
        for key in files.get(root, ()):
            if base is not None and key in images:
                want = tuple(factor * side for side in base)
                if images[key].size != want:
                    yield f'{root} {key[1]} is {images[key].size}, but must be {want} (H, W).'
    truth = images.get(files['gt'][0]) if files.get('gt') else None
    for key in files.get('ref', ()):
        if key not in images:
            continue
        if min(images[key].size) < MIN_REF_SIDE:
            yield f'The reference {key[1]} is smaller than {MIN_REF_SIDE} pixels on a side.'
        if truth is not None and images[key].digest == truth.digest:
            yield f'The reference {key[1]} of {pair.gt} is its ground truth, pixel by pixel.'


def _note_duplicates(looked: Looked, images: Mapping[_Key, _Image], root: str) -> None:
    seen: dict[str, str] = {}
    for (kind, name), image in images.items():
        if kind == root:
            other = seen.setdefault(image.digest, name)
            if other != name:
                looked.problems.append(f'{root}: {name} has the same pixels as {other}.')


def _note_unlisted(looked: Looked, sources: Mapping[str, ImageSource], wanted: list[_Key]) -> None:
    used: dict[str, set[str]] = {}
    for root, name in wanted:
        used.setdefault(osp.realpath(sources[root].root), set()).add(name)
    for root, source in sources.items():
        names = used.pop(osp.realpath(source.root), None)
        if names is None:
            continue
        rest = [each for each in source.names() if each not in names]
        if rest:
            looked.notes.append(
                f'dataroot_{root} has {len(rest)} images that no pair names, such as {rest[0]}.'
            )
