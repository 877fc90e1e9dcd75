"""Blocks of an option file against what they are for, and what every option file shares."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY, Registry

from defsr.utils.checks import (
    check_block,
    check_choice,
    check_int,
    check_keys,
    check_name,
    did_you_mean,
)
from defsr.utils.fingerprints import with_defaults
from defsr.utils.paths import find_pretrained

RUN_KEYS = (
    'name', 'model_type', 'scale', 'num_gpu', 'manual_seed', 'datasets', 'path', 'train', 'val',
    'logger', 'dist_params', 'find_unused_parameters', 'network_g', 'network_d',
)  # fmt: skip
FILLED_KEYS = (
    'dist', 'rank', 'world_size', 'auto_resume', 'is_train', 'root_path', 'seed_was_drawn',
)  # fmt: skip
INNER_NETWORKS = ('transfer', 'aggregator', 'denoiser', 'network')
_KINDS = (
    (bool, 'true or false'),
    ((int, float), 'a number'),
    (str, 'a text'),
    ((list, tuple), 'a list'),
)


def required(block: Mapping[str, Any], where: str, key: str) -> Any:
    """``block[key]``, which must be there and not null; ``where`` is the block's own path."""
    if block.get(key) is not None:
        return block[key]
    near = [] if key in block else difflib.get_close_matches(key, [*block], n=1)
    hint = f'Is `{near[0]}` meant to be it?' if near else 'Set it in the option file.'
    raise ValueError(f'{join(where, key)} is missing. {hint}')


def choose(block: Mapping[str, Any], where: str, registry: Registry) -> Any:
    """The registered thing that ``block['type']`` names. ValueError with the nearest name."""
    return registered(join(where, 'type'), required(block, where, 'type'), registry)


def registered(option: str, name: object, registry: Registry) -> Any:
    """What ``name`` stands for in a registry of BasicSR's. ValueError with the nearest name."""
    objects = dict(iter(registry))
    for known in (name, f'{name}_basicsr'):
        if isinstance(known, str) and known in objects:
            return objects[known]
    within = [known for known in sorted(objects) if str(name).lower() in known.lower()]
    hint = did_you_mean(name, objects) or ''.join(f' Did you mean `{x}`?' for x in within[:1])
    raise ValueError(f'{option} is {name!r}, but must be one of {sorted(objects)}.{hint}')


def check_arguments(
    where: str,
    block: Mapping[str, Any],
    target: Callable,
    *,
    given: Sequence[str] = (),
    strict: bool = False,
) -> None:
    """Compare a block, but for its ``type``, with the arguments of what will be called with it.

    ValueError for an unknown key, for a missing one that has no default, and for a value of another
    kind than its default (number, text, list, true or false).

    Args:
        given: arguments that do not come from the block.
        strict: refuse unknown keys even if ``target`` swallows them with ``**kwargs``.
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
            option = join(where, p.name)
            raise ValueError(f'{option} is missing, which {target.__name__} needs. Set it.')
        if p.name in keys:
            _check_kind(join(where, p.name), keys[p.name], p.default)


def ask(owner: type, where: str, block: Mapping[str, Any]) -> None:
    """Compare a block with the class that is built of it, which may say more than its signature.

    Its ``check(where, block)``, if it has one, is called with all arguments of its constructor.
    """
    check_arguments(where, block, owner)
    if hasattr(owner, 'check'):
        given = {key: value for key, value in block.items() if key != 'type'}
        with surprises_explained(where):
            owner.check(where, with_defaults(owner, given))


@contextmanager
def surprises_explained(where: str) -> Iterator[None]:
    """A check that stumbles has met a kind of value that nobody thought of: ValueError."""
    try:
        yield
    except (TypeError, OverflowError) as error:
        raise ValueError(f'{where} has a value of a kind that cannot be: {error}.') from error


def check_network(where: str, block: Any) -> None:
    """Compare a network's block, and those inside it, with what they are for; builds nothing."""
    arch = choose(check_block(where, block), where, ARCH_REGISTRY)
    for key, value in block.items():
        if key in INNER_NETWORKS or (isinstance(value, Mapping) and 'type' in value):
            check_network(f'{where}:{key}', value)
    ask(arch, where, block)


def check_networks(opt: Mapping[str, Any]) -> None:
    """``check_network`` for every block ``network_*`` of an option file."""
    for name, block in opt.items():
        if name.startswith('network_') and block is not None:
            check_network(name, block)


def check_path(opt: Mapping[str, Any], own: Sequence[str] = (), *, look: bool = True) -> None:
    """Refuse keys of ``path`` that are neither ``own`` nor of a network of the file.

    FileNotFoundError for weights that do not exist, unless ``look`` is off.
    """
    path = check_block('path', opt['path'])
    labels = [name.removeprefix('network_') for name in opt if name.startswith('network_')]
    kinds = ('pretrain_network', 'param_key', 'strict_load')
    known = [f'{kind}_{label}' for kind in kinds for label in labels]
    used = {key: value for key, value in path.items() if value is not None}  # null is harmless
    check_keys('path', used, (*own, *known))
    for key, value in used.items():
        if key.startswith('pretrain_network') and look:
            find_pretrained(value, f'path:{key}')
        if key.startswith('strict_load'):
            check_choice(f'path:{key}', value, (True, False))


def check_adversarial(opt: Mapping[str, Any]) -> None:
    """Refuse an adversarial loss without its options, its critic or that one's optimizer."""
    for name, block in (('gan_opt', opt['train']), ('optim_d', opt['train']), ('network_d', opt)):
        if not block.get(name):
            where = name if block is opt else f'train:{name}'
            raise ValueError(
                f'{where} is missing, which an adversarial loss needs. Give it, or train without: '
                'remove train:gan_opt from a DEFModel, or use SRModel.'
            )


def check_run(opt: Mapping[str, Any]) -> None:
    """Refuse a name, a number of GPUs or settings of several processes that cannot be."""
    check_name('name', required(opt, '', 'name'))
    if required(opt, '', 'num_gpu') != 'auto':
        check_int('num_gpu', opt['num_gpu'], 0, '; or write auto')
    if opt.get('dist_params') is not None:
        known = ('backend', 'port', 'timeout')
        check_keys('dist_params', check_block('dist_params', opt['dist_params']), known)


def _check_kind(option: str, value: object, default: object) -> None:
    for kinds, words in _KINDS:
        if isinstance(default, kinds):
            same_bool = isinstance(value, bool) == isinstance(default, bool)
            if not (isinstance(value, kinds) and same_bool):
                raise ValueError(
                    f'{option} is {value!r}, but must be {words}, such as {default!r}.'
                )
            return


def join(where: str, key: str) -> str:
    """The path of an option, as in ``train:optim_g:lr``."""
    return f'{where}:{key}' if where else key
