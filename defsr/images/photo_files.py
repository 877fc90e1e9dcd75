"""Folders of photographs: which files are some, and where their results go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from defsr.images.formats import PHOTO_SUFFIXES
from defsr.images.photo_writer import WRITABLE


@dataclass(frozen=True)
class Task:
    """A photo and the file that its result goes to."""

    photo: Path
    output: Path


def photos_below(folder: Path, without: Path | None = None) -> list[Path]:
    """The image files in a folder and those inside it, by their extensions, sorted.

    Hidden files and folders are left out, and so is all that lies in ``without``.
    """
    left_out = None if without is None else without.resolve()

    def wanted(path: Path) -> bool:
        if path.suffix.lower() not in PHOTO_SUFFIXES or not path.is_file():
            return False
        if any(part.startswith('.') for part in path.relative_to(folder).parts):
            return False
        return left_out is None or left_out not in path.resolve().parents

    return sorted(filter(wanted, folder.rglob('*')))


def expand(paths: Iterable[Path], without: Path | None = None) -> list[Path]:
    """Files as they are, and the photos of folders, each once."""

    def all_of() -> Iterator[Path]:
        for path in paths:
            yield from photos_below(path, without) if path.is_dir() else [path]

    return list({path.resolve(): path for path in all_of()}.values())


def tasks(photos: Sequence[Path], folder: Path, output: Path) -> list[Task]:
    """Where the results of a folder's photos go: the same names in the same sub-folders.

    What cannot be written with its own extension becomes a PNG, and so does, with its whole name,
    what would have the name of another.
    """
    names = {photo: photo.relative_to(folder) for photo in photos}
    for photo, name in names.items():
        if name.suffix.lower() not in WRITABLE:
            names[photo] = name.with_suffix('.png')
    number = Counter(names.values())
    for photo, name in names.items():
        own = photo.relative_to(folder)
        if number[name] > 1 and name != own:
            names[photo] = own.with_name(f'{own.name}.png')
    return [Task(photo, output / name) for photo, name in names.items()]
