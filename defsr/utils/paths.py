"""Where the repository's shipped files are, from a checkout and from the current directory."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PRETRAINED = Path('experiments/pretrained_models')


def find_pretrained(path: str | Path) -> Path:
    """A weight file by path, or by name in ``experiments/pretrained_models``.

    Looked up as given (from the current directory), then in the checkout that holds this package.

    Raises:
        FileNotFoundError: with every place that was tried.
    """
    given = Path(path).expanduser()
    candidates = [given, REPOSITORY / given, PRETRAINED / given, REPOSITORY / PRETRAINED / given]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = ', '.join(dict.fromkeys(str(c) for c in candidates))
    raise FileNotFoundError(f'Weights {str(path)!r} not found. Tried: {tried}.')
