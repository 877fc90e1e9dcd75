"""Data from files that anyone may have written: JSON and PyTorch's, plain and bounded."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch

MAX_VALUES, MAX_DEPTH = 10**6, 50
_FOREIGN = re.compile(r'GLOBAL (\S+)')


def parse_json(text: str | bytes) -> Any:
    """JSON -> plain data. ValueError for what is none, or nested too deep."""
    try:
        return bounded(json.loads(text))
    except RecursionError:
        raise ValueError('it is nested too deep') from None


def read_json(path: Path) -> Any:
    """A JSON file's content. OSError, or ValueError as of ``parse_json``."""
    return parse_json(path.read_bytes())


def read_tensors(path: Path, device: str | torch.device = 'cpu', allowed: tuple = ()) -> Any:
    """What a file of ``torch.save`` holds, if that is plain data and tensors.

    Args:
        path: the file.
        device: where tensors go.
        allowed: classes beside those that PyTorch takes for harmless.

    Raises:
        OSError: if it cannot be read.
        ValueError: with the reason in some words, for anything else. PyTorch's own advice, to load
            the file unsafely, is not passed on.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*allowed]):
            warnings.simplefilter('ignore')  # of old pickle protocols
            return bounded(torch.load(path, map_location=device, weights_only=True))
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(_reason(error)) from None


def bounded(data: Any) -> Any:
    """``data`` if what it holds, references written out, is no more than a walk can visit."""
    level, number = [data], 0
    for _ in range(MAX_DEPTH):
        level = [*chain.from_iterable(map(_children, level))]
        number += len(level)
        if not level or number > MAX_VALUES:
            break
    if level:
        raise ValueError('it is nested too deep, or holds too many values')
    return data


def _children(node: object) -> Any:
    if isinstance(node, dict):
        if {*getattr(node, '__dict__', ())} - {'_metadata'}:  # they could stand for its methods
            raise ValueError('it has a mapping with attributes')
        return [*dict.values(node), *(key for key in dict.keys(node) if isinstance(key, tuple))]
    return node if isinstance(node, (list, tuple, set, frozenset)) else ()


def _reason(error: Exception) -> str:
    """One short line."""
    text = str(error)
    foreign = _FOREIGN.search(text)
    if foreign:
        return f'it asks for the Python object {foreign[1]}, which weights do not need'
    known = ('Weights only load failed', 'PytorchStreamReader')
    if not text or text.startswith(known):
        return 'it is torn or of another kind'
    return ' '.join(text.split())[:120].rstrip('. ')


def is_number(value: object) -> bool:
    """A number of at most 64 bits, or an infinity; no NaN."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) < 2**63 or value in (float('inf'), -float('inf'))


def is_block(value: object, kinds: Mapping[str, type | tuple[type, ...]]) -> bool:
    """Whether ``value`` is a mapping that has these keys, with values of these types."""
    return isinstance(value, Mapping) and all(
        isinstance(value.get(key), kind) for key, kind in kinds.items()
    )
