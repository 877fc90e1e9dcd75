"""Blocks of an option file against what they are for, and what every option file shares."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY, Registry

from defsr.config.basicsr_options import ARGUMENTS, DIST, PATH, RUN
from defsr.utils.checks import check_block, check_keys, did_you_mean
from defsr.utils.fingerprints import with_defaults
from defsr.utils.kinds import check_kind, kinds_of
from defsr.utils.paths import find_pretrained

RUN_KEYS = (
    'name', 'model_type', 'scale', 'num_gpu', 'manual_seed', 'datasets', 'path', 'train', 'val',
    'logger', 'dist_params', 'find_unused_parameters', 'network_g', 'network_d',
)  # fmt: skip
FILLED_KEYS = (
    'dist', 'rank', 'world_size', 'auto_resume', 'is_train', 'root_path', 'seed_was_drawn',
)  # fmt: skip
GREY = ' Grey ones are read as three equal channels.'
INNER_NETWORKS = ('transfer', 'aggregator', 'denoiser', 'network')


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
) -> None:
    """Compare a block, but for its ``type``, with the arguments of what will be called with it.

    ValueError for an unknown key, for a missing one that has no default, and for a value that is
    not of its type: what the target annotates, or what is known of BasicSR's and PyTorch's.

    Args:
        given: arguments that do not come from the block.
    """
    foreign = is_foreign(target)
    kinds = {**kinds_of(target), **(ARGUMENTS if foreign else {})}
    parameters = inspect.signature(target).parameters.values()
    swallows = any(p.kind == p.VAR_KEYWORD for p in parameters)
    named = [
        p
        for p in parameters
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in given
    ]
    keys = {key: value for key, value in block.items() if key != 'type'}
    if foreign or not swallows:  # BasicSR's metrics would swallow a typo
        check_keys(where, keys, [p.name for p in named])
    for p in named:
        if p.default is p.empty and p.name not in keys:
            option = join(where, p.name)
            raise ValueError(f'{option} is missing, which {target.__name__} needs. Set it.')
        if p.name in keys:
            check_kind(join(where, p.name), keys[p.name], kinds[p.name])


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


def is_foreign(target: Callable) -> bool:
    """Whether it is BasicSR's or PyTorch's, which look at nothing that they are given."""
    return target.__module__.startswith(('basicsr.', 'torch.'))


def check_network(where: str, block: Any, channels: int = 3) -> None:
    """Compare a network's block, and those inside it, with what they are for.

    Args:
        channels: of the images.
    """
    arch = choose(check_block(where, block), where, ARCH_REGISTRY)
    for key, value in block.items():
        if key in INNER_NETWORKS or (isinstance(value, Mapping) and 'type' in value):
            check_network(f'{where}:{key}', value, channels)
    ask(arch, where, block)
    made = with_defaults(arch, block)
    for key in ('num_in_ch', 'num_out_ch'):  # a denoiser may tell the variance, too
        most = channels if is_foreign(arch) or key == 'num_in_ch' else 2 * channels
        if key in made and made[key] not in (channels, most):
            raise ValueError(
                f'{where}:{key} is {made[key]}, but must be {channels}: so many channels have '
                f'the images of the data sets.{GREY if channels == 3 and made[key] == 1 else ""}'
            )
    if is_foreign(arch):
        _build_without_memory(where, arch, block)


def _build_without_memory(where: str, arch: type, block: Mapping[str, Any]) -> None:
    """What only the constructor of a network of BasicSR's would say."""
    try:
        with torch.device('meta'):
            arch(**{key: value for key, value in block.items() if key != 'type'})
    except Exception as error:  # whatever it stumbles over
        if 'meta' not in str(error):  # the network, not its options
            line = ' '.join(str(error).split()).rstrip('.') or type(error).__name__
            raise ValueError(
                f'{where}: {arch.__name__} cannot be built with these options: {line}. Change them.'
            ) from error


def check_networks(opt: Mapping[str, Any], channels: int = 3) -> None:
    """``check_network`` for every block ``network_*`` of an option file."""
    for name, block in opt.items():
        if name.startswith('network_') and block is not None:
            check_network(name, block, channels)


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
        kind = next((PATH[start] for start in PATH if key.startswith(start)), Any)
        check_kind(f'path:{key}', value, kind)
        if key.startswith('pretrain_network') and look:
            find_pretrained(value, f'path:{key}')


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
    check_block_of('', opt, RUN, ('name', 'num_gpu'))
    if opt.get('dist_params') is not None:
        check_block_of('dist_params', opt['dist_params'], DIST, only=True)


def check_block_of(
    where: str,
    block: Any,
    kinds: Mapping[str, Any],
    needed: Sequence[str] = (),
    *,
    only: bool = False,
) -> Mapping[str, Any]:
    """``block`` if what it holds of ``kinds`` is of its type; ValueError names the option.

    Args:
        needed: keys that have to be there.
        only: refuse keys that are not of ``kinds``.
    """
    check_block(where, block)
    if only:
        check_keys(where, block, kinds)
    for key in needed:
        required(block, where, key)
    for key, kind in kinds.items():
        if key in block:
            check_kind(join(where, key), block[key], kind)
    return block


def join(where: str, key: str) -> str:
    """The path of an option, as in ``train:optim_g:lr``."""
    return f'{where}:{key}' if where else key
