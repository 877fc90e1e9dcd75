"""Data from files that anyone may have written, plain and bounded: of JSON, PyTorch and kin."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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


def read_safetensors(path: Path) -> dict[str, Any]:
    """name -> tensor; as ``params`` beside what the metadata hold, if that is JSON.

    Raises:
        OSError: if it cannot be read.
        ValueError: for what is no such file, and without the package safetensors.
    """
    safetensors = _safetensors()
    with open(path, 'rb'):  # whose errors are the system's
        pass
    try:
        with safetensors.safe_open(path, framework='pt') as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            texts = file.metadata() or {}
        blocks = {key: parse_json(text) for key, text in texts.items() if text.startswith('{')}
        return {'params': tensors} | blocks if blocks else tensors
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(_reason(error)) from None


def save_safetensors(state: Mapping[str, Tensor], path: Path, texts: Mapping[str, str]) -> None:
    """Write contiguous tensors, none of which shares memory, with metadata."""
    _safetensors().torch.save_file(dict(state), path, dict(texts))


def _safetensors() -> Any:
    """The package, an extra; ValueError without it."""
    try:
        import safetensors.torch
    except ImportError:
        raise ValueError("safetensors is not installed: pip install 'defsr[safetensors]'") from None
    return safetensors


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
        return (
            f'it asks for the Python object {foreign[1]}, which weights do not need. Where you '
            'trust it, save the tensors alone: torch.save(net.state_dict(), file)'
        )
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
