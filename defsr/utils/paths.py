"""Where the files are that come with the package: inside it in a wheel, beside it in a checkout."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

_PACKAGE = Path(str(resources.files('defsr')))
# Holds options/, datasets/ and experiments/pretrained_models/; setup.py fills a wheel's.
SHIPPED = _PACKAGE / 'shipped' if (_PACKAGE / 'shipped').is_dir() else _PACKAGE.parent
PRETRAINED = Path('experiments/pretrained_models')


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with a home folder in place of ``~`` or ``~name``; ValueError for nobody's."""
    full = os.path.expanduser(path)
    if str(full).startswith('~'):
        raise ValueError(
            f'{path} begins with the home folder of a user who is not known here. Write '
            f'./{path} if that is its name.'
        )
    return Path(full)


def find_shipped(path: str | Path, named_by: str) -> Path:
    """A file as given, from the current directory, or one that comes with the package.

    Args:
        path: as the user gave it, e.g. ``options/train_DEF_x4.yml``.
        named_by: what the user sets to it, for messages.

    Raises:
        FileNotFoundError: with the places that were tried.
    """
    return _first(path, named_by, [expanded(path)])


def find_pretrained(path: str | Path, option: str = 'weights') -> Path:
    """A weight file by path, or by name in ``experiments/pretrained_models``.

    Looked up as given (from the current directory), then among the files of the package.

    Args:
        path: as the user gave it.
        option: what the user sets to it, for messages.

    Raises:
        ValueError: for what is no path.
        FileNotFoundError: with every place that was tried.
    """
    if not isinstance(path, (str, Path)) or not str(path) or '\0' in str(path):
        raise ValueError(f'{option} is {path!r}, but must be the path of a weight file.')
    given = expanded(path)
    return _first(path, option, [given, PRETRAINED / given])


def _first(path: str | Path, named_by: str, names: list[Path]) -> Path:
    candidates = [place for name in names for place in (name, SHIPPED / name)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if candidates[0].is_dir():
        raise FileNotFoundError(f'{named_by} is {path}, which is a folder. Give a file in it.')
    tried = ', '.join(dict.fromkeys(str(place) for place in candidates))
    raise FileNotFoundError(f'{named_by} is {path}, which does not exist. Tried: {tried}.')
