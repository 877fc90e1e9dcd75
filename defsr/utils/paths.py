"""Where the repository's shipped files are, from a checkout and from the current directory."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PRETRAINED = Path('experiments/pretrained_models')


def find_pretrained(path: str | Path, option: str = 'weights') -> Path:
    """A weight file by path, or by name in ``experiments/pretrained_models``.

    Looked up as given (from the current directory), then in the checkout that holds this package.

    Args:
        path: as the user gave it.
        option: what the user sets to it, for messages.

    Raises:
        ValueError: for what is no path.
        FileNotFoundError: with every place that was tried.
    """
    if not isinstance(path, (str, Path)) or not str(path) or '\0' in str(path):
        raise ValueError(f'{option} is {path!r}, but must be the path of a weight file.')
    given = Path(path).expanduser()
    candidates = [given, REPOSITORY / given, PRETRAINED / given, REPOSITORY / PRETRAINED / given]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = ', '.join(dict.fromkeys(str(c) for c in candidates))
    if given.is_dir():
        raise FileNotFoundError(f'{option} is {path}, which is a folder. Give a file in it.')
    raise FileNotFoundError(f'{option} is {path}, which does not exist. Tried: {tried}.')
