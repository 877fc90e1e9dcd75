"""Training states: read without running code, and held against what they are loaded into."""

from __future__ import annotations

import itertools
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn

import torch
from basicsr.utils import get_root_logger
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from defsr.utils.strangers import is_block, is_number, read_tensors
from defsr.utils.weights import fault_of_tensor

_NEEDED: dict[str, type | tuple[type, ...]] = {
    'iter': int,
    'epoch': int,
    'optimizers': (list, tuple),
    'schedulers': (list, tuple),
}
_OURS = {'images_done': int, 'manual_seed': int}
_SCALE = (
    'scale',
    'growth_factor',
    'backoff_factor',
    'growth_interval',
    '_growth_tracker',
    'num_overflows',
)
_COUNTS = (*_OURS, 'num_nonfinite', 'ema_decay')
_TECHNICAL = ('foreach', 'fused', 'capturable', 'differentiable', 'betas')
_NEEDS = {  # of each parameter that has been stepped
    'Adam': {'step', 'exp_avg', 'exp_avg_sq'},
    'AdamW': {'step', 'exp_avg', 'exp_avg_sq'},
    'NAdam': {'step', 'mu_product', 'exp_avg', 'exp_avg_sq'},
    'RAdam': {'step', 'exp_avg', 'exp_avg_sq'},
    'Adamax': {'step', 'exp_avg', 'exp_inf'},
    'ASGD': {'step', 'eta', 'mu', 'ax'},
    'RMSprop': {'step', 'square_avg'},
    'Rprop': {'step', 'prev', 'step_size'},
}
_NUMBERS = ('step', 'mu_product', 'eta', 'mu')
_NONE = ('momentum_buffer',)  # of SGD without momentum


def read_state(path: Path, device: torch.device) -> dict:
    """A ``.state`` file, read without running code. ValueError for anything else."""
    try:
        state = read_tensors(path, device, (Counter, OrderedDict))
    except (OSError, ValueError) as error:
        raise ValueError(f'{path} is no training state of plain values: {error}.') from None
    missing = [*_NEEDED]
    if isinstance(state, Mapping):
        missing = [key for key in _NEEDED if key not in state]
    if missing:
        raise ValueError(f'{path} is no training state: it has no {", ".join(missing)}.')
    blocks = [*state['optimizers'], *state['schedulers']] if is_block(state, _NEEDED) else [None]
    counts = [state['iter'], state['epoch']]
    if state.get('defsr') is not None:
        blocks.append(state['defsr'] if is_block(state['defsr'], _OURS) else None)
        counts += [(blocks[-1] or {}).get(key, 0) for key in _COUNTS]
    if not all(isinstance(block, Mapping) for block in blocks) or not all(
        is_number(count) and count >= 0 for count in counts
    ):
        raise ValueError(f'{path} is no training state: its values are of another kind.')
    return state


def check_state(
    state: Mapping[str, Any], optimizers: Sequence[Optimizer], schedulers: Sequence[LRScheduler]
) -> None:
    """Refuse a state that would be taken wrongly, or fail at the first step.

    Raises:
        ValueError: for other numbers of optimizers or schedulers, parameters of another name,
            order or shape, and for values that are of another kind or not finite.
    """
    here = {'optimizers': len(optimizers), 'schedulers': len(schedulers)}
    for what, number in here.items():
        if number != len(state[what]):
            _refuse(f'it has {len(state[what])} {what}, but here are {number}')
    for optimizer, saved in zip(optimizers, state['optimizers'], strict=True):
        _check_groups(optimizer, saved)
        _check_names(optimizer, saved)
        _check_tensors(optimizer, saved)
    for scheduler, saved in zip(schedulers, state['schedulers'], strict=True):
        own = vars(scheduler)
        for key, value in saved.items():
            own_method = callable(getattr(type(scheduler), str(key), None))
            if own_method or key in own and not _alike(value, own[key]):
                _refuse(f'its scheduler has {key} of another kind')
    scale = (state.get('defsr') or {}).get('loss_scale')
    if scale is not None and not (
        is_block(scale, dict.fromkeys(_SCALE, (int, float)))
        and all(0 <= scale[key] < math.inf for key in _SCALE)
        and scale['scale'] > 0
    ):
        _refuse('its loss_scale is of another kind')


def _refuse(why: str) -> NoReturn:
    raise ValueError(
        f'The training state cannot be resumed: {why}. Resume with the option file that it was '
        'written with, or start anew from its weights (path:pretrain_network_g).'
    )


def _check_groups(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    if not is_block(saved, {'state': Mapping, 'param_groups': (list, tuple)}):
        _refuse('an optimizer has no state or param_groups')
    groups = saved['param_groups']
    for group in groups:
        if not is_block(group, {'params': (list, tuple)}) or not all(
            type(number) is int for number in group['params']
        ):
            _refuse('an optimizer has a group without params')
    if [len(group['params']) for group in groups] != [
        len(group['params']) for group in optimizer.param_groups
    ]:
        return  # `_check_names` says which, and PyTorch that
    for mine, group in zip(optimizer.param_groups, groups, strict=True):
        for key in mine.keys() - {'params', 'param_names'}:
            is_old = isinstance(mine[key], (bool, NoneType)) and key not in group
            if not is_old and not _alike(group.get(key), mine[key], exactly=key in _TECHNICAL):
                _refuse(f'an optimizer has {key} of another kind')


def _check_names(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """A state is taken by position: of other parameters it would be wrong in silence."""
    there = [group.get('param_names') for group in saved['param_groups']]
    if None in there:
        get_root_logger().warning(
            'The training state does not name its parameters: their order is taken as it stands.'
        )
        return
    here = [group['param_names'] for group in optimizer.param_groups]
    if here != there:
        mine, theirs = ([str(name) for group in n for name in _named(group)] for n in (here, there))
        pairs = itertools.zip_longest(mine, theirs, fillvalue='nothing')
        first = next((f'{a} here, {b} there' for a, b in pairs if a != b), 'in other groups')
        raise ValueError(
            f'The training state is of other parameters than the networks have: {first}. Resume '
            'with the option file that it was written with (network_g, train:optim_g:groups), or '
            'start anew from its weights (path:pretrain_network_g).'
        )


def _named(group: object) -> Sequence[object]:
    return group if isinstance(group, (list, tuple)) else [group]


def _check_tensors(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """By position, as PyTorch takes them."""
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    if [i for group in saved['param_groups'] for i in group['params']] != [*range(len(parameters))]:
        _refuse('an optimizer has other parameters')
    needs = _NEEDS.get(type(optimizer).__name__, set())
    if any(group.get('momentum') for group in optimizer.param_groups):
        needs = needs | {'momentum_buffer'}
    if any(group.get('centered') for group in optimizer.param_groups):
        needs = needs | {'grad_avg'}
    if any(group.get('amsgrad') for group in saved['param_groups']):
        needs = needs | {'max_exp_avg_sq'}
    for index, values in saved['state'].items():
        if not isinstance(index, int) or not 0 <= index < len(parameters):
            _refuse(f'an optimizer has values of a parameter {index}, of which there are fewer')
        if not isinstance(values, Mapping) or values and not needs <= values.keys():
            _refuse(f'an optimizer has not all values of parameter {index}')
        for key, value in values.items():
            is_tensor = isinstance(value, Tensor)
            like = torch.zeros(()) if key in _NUMBERS else parameters[index].detach()
            fault = fault_of_tensor(value, like) if is_tensor else None
            is_free = key in _NUMBERS and is_number(value) or key in _NONE and value is None
            if fault or not (is_tensor or is_free):
                _refuse(f'{key} of parameter {index} {fault or "is no tensor"}')
            if key == 'step' and not 0 <= float(value) < 2**53:
                _refuse(f'step of parameter {index} is {float(value)}')


def _alike(value: object, mine: object, *, exactly: bool = False) -> bool:
    """Whether an option of an optimizer or scheduler can be what another one is."""
    if isinstance(mine, (list, tuple)):
        same = isinstance(value, (list, tuple)) and all(map(is_number, value))
        return same and (not exactly or len(value) == len(mine))  # type: ignore[arg-type]
    if isinstance(mine, Mapping):
        return isinstance(value, Mapping) and all(map(is_number, (*value, *value.values())))
    if isinstance(mine, (bool, NoneType)):
        return value is mine if exactly else isinstance(value, (bool, NoneType))
    return isinstance(value, str) if isinstance(mine, str) else is_number(value)
