"""Blocks of an option file against what they are for: registries and signatures."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence

from basicsr.utils.registry import Registry

from defsr.utils.checks import check_keys

_KINDS = (
    (bool, 'true or false'),
    ((int, float), 'a number'),
    (str, 'a text'),
    ((list, tuple), 'a list'),
)


def required(block: Mapping[str, object], where: str, key: str) -> object:
    """``block[key]``, which must be there and not null; ``where`` is the block's own path."""
    if block.get(key) is not None:
        return block[key]
    near = [] if key in block else difflib.get_close_matches(key, [*block], n=1)
    hint = f'Is `{near[0]}` meant to be it?' if near else 'Set it in the option file.'
    raise ValueError(f'{join(where, key)} is missing. {hint}')


def choose(block: Mapping[str, object], where: str, registry: Registry) -> Callable:
    """The registered thing that ``block['type']`` names. ValueError with the nearest name."""
    return registered(join(where, 'type'), required(block, where, 'type'), registry)


def registered(option: str, name: object, registry: Registry) -> Callable:
    """What ``name`` stands for in a registry of BasicSR's. ValueError with the nearest name."""
    objects = dict(iter(registry))
    for known in (name, f'{name}_basicsr'):
        if isinstance(known, str) and known in objects:
            return objects[known]
    near = difflib.get_close_matches(str(name), objects, n=1)
    near = near or [known for known in sorted(objects) if str(name).lower() in known.lower()]
    hint = f' Did you mean `{near[0]}`?' if near else ''
    raise ValueError(f'{option} is {name!r}, but must be one of {sorted(objects)}.{hint}')


def check_arguments(
    where: str,
    block: Mapping[str, object],
    target: Callable,
    *,
    given: Sequence[str] = (),
    strict: bool = False,
) -> None:
    """Compare a block with the arguments of the class or function that it is for.

    Args:
        where: the block's path in the option file.
        block: its content; ``type`` is left out.
        target: what will be called with it.
        given: arguments that do not come from the block.
        strict: refuse unknown keys even if ``target`` swallows them with ``**kwargs``.

    Raises:
        ValueError: for an unknown key, for a missing one that has no default, and for a value of
            another kind than its default (number, text, list, true or false).
    """
    parameters = inspect.signature(target).parameters.values()
    swallows = any(p.kind == p.VAR_KEYWORD for p in parameters)
    named = [
        p
        for p in parameters
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in given
    ]
    keys = {key: value for key, value in block.items() if key != 'type'}
    if strict or not swallows:
        check_keys(where, keys, [p.name for p in named])
    for p in named:
        if p.default is p.empty and p.name not in keys:
            raise ValueError(f'{where}:{p.name} is missing, which {target.__name__} needs. Set it.')
        if p.name in keys:
            _check_kind(join(where, p.name), keys[p.name], p.default)


def _check_kind(option: str, value: object, default: object) -> None:
    for kinds, words in _KINDS:
        if isinstance(default, kinds):
            same_bool = isinstance(value, bool) == isinstance(default, bool)
            if not (isinstance(value, kinds) and same_bool):
                raise ValueError(
                    f'{option} is {value!r}, but must be {words}, such as {default!r}.'
                )
            return


def check_texts(block: Mapping, where: str = '') -> None:
    """Refuse keys that are no text: YAML reads ``on``, ``no`` and ``1`` as something else."""
    for key, value in block.items():
        if not isinstance(key, str):
            raise ValueError(
                f'{where or "The option file"} has the key {key!r}, which is no text. Quote it.'
            )
        if isinstance(value, Mapping):
            check_texts(value, join(where, key))


def join(where: str, key: str) -> str:
    """The path of an option, as in ``train:optim_g:lr``."""
    return f'{where}:{key}' if where else key
