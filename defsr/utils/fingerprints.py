"""What determines a result, as plain data: made, digested and compared."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ABSENT = object()


def plain(value: object, without: Collection[str] = ()) -> Any:
    """Options as JSON gives them back: dict, list, text, number, true, false, null.

    Args:
        value: of mappings, sequences and plain values. 4.0 becomes 4, as YAML may hold either.
        without: keys to leave out, of the outer mappings and of the inner ones.

    Raises:
        TypeError: for a value that JSON cannot hold.
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v, without) for k, v in value.items() if k not in without}
    if isinstance(value, (list, tuple)):
        return [plain(each, without) for each in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    raise TypeError(f'{value!r} ({type(value).__name__}) is no plain option.')


def with_defaults(target: Callable, given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` and the defaults of the other arguments, so that written-out ones are no change."""
    parameters = inspect.signature(target).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return defaults | dict(given)


def digest_of_state(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict: names, shapes, dtypes and bytes, in the order of names."""
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        total.update(f'{name} {tuple(value.shape)} {value.dtype}\n'.encode())
        if value.numel():
            total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def digest_of(fingerprint: Mapping[str, Any]) -> str:
    """SHA-256 of a fingerprint, whatever the order of its keys."""
    text = json.dumps(fingerprint, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(here: Mapping[str, Any], there: Mapping[str, Any], place: str) -> str:
    """In one line which fields differ, as in ``diffusion:num_steps 20 here, 100 in the cache``.

    Args:
        here, there: two fingerprints.
        place: what the second one is called, as in ``in the cache``.

    Returns:
        The fields, separated by ``; ``. Empty if the two are equal.
    """
    mine, theirs = dict(_leaves(here)), dict(_leaves(there))
    return '; '.join(
        f'{key} {_shown(mine.get(key, _ABSENT))} here, {_shown(theirs.get(key, _ABSENT))} {place}'
        for key in dict.fromkeys((*mine, *theirs))
        if mine.get(key, _ABSENT) != theirs.get(key, _ABSENT)
    )


def _leaves(node: Mapping[str, Any], path: str = '') -> Iterator[tuple[str, object]]:
    for key, value in node.items():
        where = f'{path}:{key}' if path else key
        if isinstance(value, Mapping):
            yield from _leaves(value, where)
        else:
            yield where, value


def _shown(value: object) -> str:
    if value is _ABSENT:
        return 'not set'
    text = value if isinstance(value, str) else json.dumps(value)
    return f'{text[:12]}...' if len(text) > 40 else text


def digest_of_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
