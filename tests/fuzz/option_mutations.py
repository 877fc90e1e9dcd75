"""Every key of an option file, made wrong in every way: what the tests of options go through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

VALUES = {
    'null': None,
    'true': True,
    'text': 'x',
    'list': [None],
    'block': {'x': 1},
    'negative': -1,
    'zero': 0,
    'fraction': 1.5,
    'huge': 10**30,
    'nan': float('nan'),
    'infinite': float('inf'),
}
WAYS = ('deleted', 'renamed', *VALUES)


class Mutation(NamedTuple):
    """An option file with one mistake.

    Attributes:
        option: path of what was changed, as ``train:optim_g:betas:0`` for an entry of a list.
        way: how.
        before: what stood there.
        opt: the whole.
    """

    option: str
    way: str
    before: Any
    opt: dict


def mutations(opt: Mapping[str, Any]) -> Iterator[Mutation]:
    """One key after the other, each in all ways that change it."""
    for path, before in _nodes(opt):
        for way in WAYS:
            changed = deepcopy(dict(opt))
            *blocks, key = path
            node: Any = changed
            for block in blocks:
                node = node[block]
            if way in VALUES:
                node[key] = deepcopy(VALUES[way])
            elif way == 'deleted':
                del node[key]
            elif isinstance(node, list):
                continue
            else:
                node[f'{key}x'] = node.pop(key)
            if repr(changed) != repr(opt):
                yield Mutation(':'.join(map(str, path)), way, before, changed)


def _nodes(node: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for key, value in items:
        yield (*path, key), value
        if isinstance(value, (Mapping, list)):
            yield from _nodes(value, (*path, key))
