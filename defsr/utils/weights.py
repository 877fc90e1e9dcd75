"""Weight files: one reader, which runs no code from them and says in one line what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from defsr.utils.fingerprints import differences, plain
from defsr.utils.matlab_file import read_matlab
from defsr.utils.paths import find_pretrained
from defsr.utils.strangers import read_safetensors, read_tensors

CONTAINERS = ('params_ema', 'ema', 'params', 'state_dict')
TRAINED_WITH = 'trained_with'
# What an arch's `from_official` and `official_block` may raise for weights of other archs.
NOT_THEIRS = (LookupError, ValueError, RuntimeError, TypeError, ArithmeticError)


def read_weights(
    file: str | Path, *, option: str, param_key: str | None = None, prefer: str = CONTAINERS[0]
) -> dict[str, Tensor]:
    """A weight file -> its state dict, on the CPU, without the ``module.`` of parallel training.

    Args:
        file: a path, or a name in ``experiments/pretrained_models``.
        option: what the user sets to the file, for messages, as ``path:pretrain_network_g``.
        param_key: key of the state dict in the file. None: ``prefer``, or else ``params_ema``,
            ``ema``, ``params`` or ``state_dict``, the first that is there; without any of them the
            file is a bare state dict.
        prefer: see ``param_key``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, holds more than plain tensors, or no state dict.
    """
    path = find_pretrained(file, option)
    return state_dict_of(read_checkpoint(path, option=option), path, option, param_key, prefer)


def read_checkpoint(file: str | Path, *, option: str) -> Mapping[str, Any]:
    """Everything that a weight file holds, plain data only. Arguments, errors: ``read_weights``."""
    path = find_pretrained(file, option)
    kind, read = READERS.get(path.suffix.lower(), ('PyTorch file', read_tensors))
    try:
        content = read(path)
    except ValueError as error:
        raise ValueError(
            f'{option} is {path}, which is no {kind} of plain tensors: {error}. '
            'Give another file, or copy this one anew.'
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(
            f'{option} is {path}, which holds a {type(content).__name__}, expected a state dict. '
            'Give another file.'
        )
    return content


def _read_matlab(path: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in read_matlab(path).items()}


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {  # by the end of the name
    '.safetensors': ('safetensors file', read_safetensors),
    '.mat': ('MATLAB file', _read_matlab),
}


def state_dict_of(
    content: Mapping[str, Any],
    file: str | Path,
    option: str,
    param_key: str | None = None,
    prefer: str = CONTAINERS[0],
) -> dict[str, Tensor]:
    """The state dict in what ``read_checkpoint`` returned. Arguments, errors: ``read_weights``."""
    names = dict.fromkeys((prefer, *CONTAINERS))
    found = [key for key in names if isinstance(content.get(key), Mapping)]
    if param_key is not None and not isinstance(content.get(param_key), Mapping):
        key_option = option.replace('pretrain_network', 'param_key')
        right = found[0] if found else '~'
        hint = f' Set {key_option}: {right}.' if key_option != option else ''
        has = ', '.join(found) or ('a bare one' if _is_state(content) else 'none')
        raise ValueError(
            f'{option} is {file}, which has no state dict `{param_key}`, but {has}.{hint}'
        )
    key = param_key or (found[0] if found else None)
    state = content if key is None else content[key]
    if not _is_state(state):
        raise ValueError(
            f'{option} is {file}, which holds no state dict; its keys are '
            f'{sorted(map(str, state))[:5]}. Give a file of weights.'
        )
    return {key.removeprefix('module.'): value for key, value in state.items()}


def load_weights(
    net: nn.Module,
    file: str | Path,
    *,
    option: str,
    network: str,
    param_key: str | None = None,
    prefer: str = CONTAINERS[0],
    strict: bool = True,
    trained_with: Mapping[str, Any] | None = None,
) -> None:
    """Load a weight file into a network.

    Args:
        net: to load into. If its class has ``from_official(state)``, a file of another layout is
            passed through it: it returns the state dict as the network names it.
        file, option, param_key, prefer: see ``read_weights``.
        network: the network's block in the option file, as ``network_g``.
        strict: False: load what has a name and a shape of the network's, leave the rest.
        trained_with: options that the file has to have been trained with, as JSON holds them; see
            ``check_trained_with``. None: any.

    Raises:
        FileNotFoundError, ValueError: as ``read_weights``, ``check_same_layout`` and
            ``check_trained_with``.
    """
    path = find_pretrained(file, option)
    content = read_checkpoint(path, option=option)
    state = state_dict_of(content, path, option, param_key, prefer)
    if trained_with is not None:
        check_trained_with(content, trained_with, path, option)
    wanted = net.state_dict()
    from_official = getattr(net, 'from_official', None)
    if from_official is not None and state.keys() != wanted.keys():
        with suppress(*NOT_THEIRS):  # or what differs is said below
            state = from_official(state)
    if not strict:
        state = {
            key: value
            for key, value in state.items()
            if key in wanted and _shape(value) == _shape(wanted[key])
        }
        wanted = {key: wanted[key] for key in state}
    check_same_layout(file, state, wanted, option=option, network=network)
    net.load_state_dict(state, strict=strict)


def check_trained_with(
    content: Mapping[str, Any], wanted: Mapping[str, Any], file: str | Path, option: str
) -> None:
    """Refuse weights that were trained with other options than they are to be used with.

    Of a checkpoint that does not say, one line in the log.

    Args:
        content: what ``read_checkpoint`` returned; its ``trained_with`` holds options.
        wanted: options; those of which the checkpoint says nothing are passed over.
        file, option: see ``read_weights``.

    Raises:
        ValueError: with every option that differs.
    """
    known = content.get(TRAINED_WITH)
    if not isinstance(known, Mapping):
        getLogger('basicsr').warning(
            f'{file} does not say what it was trained with: the options are taken as they stand.'
        )
        return
    try:
        known = plain(known)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f'{option} is {file}, whose `{TRAINED_WITH}` holds no options. Give another file.'
        ) from None
    here = {key: value for key, value in wanted.items() if key in known}
    there = {key: known[key] for key in here}
    # An argument that is null by default may be younger than the weights.
    found = differences(_given(here), _given(there), 'when it was trained')
    if found:
        raise ValueError(
            f'{option} is {file}, which was trained with other options: {found}. '
            'Change them, or set check_trained: false.'
        )


def _given(options: Any) -> Any:
    """Options without nulls, those inside them too."""
    if not isinstance(options, Mapping):
        return options
    return {key: _given(value) for key, value in options.items() if value is not None}


def check_same_layout(
    file: str | Path,
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    option: str,
    network: str,
) -> None:
    """Refuse a state dict that does not fit a network, or that has values that are not finite.

    Args:
        file: where ``state`` came from, for the message.
        state: as ``read_weights`` returns it.
        wanted: the network's ``state_dict()``.
        option: see ``read_weights``.
        network: the network's block in the option file, as ``network_g``.

    Raises:
        ValueError: with the number and the first three of the keys that are missing, unexpected,
            or of another shape; with the first key whose tensor is no dense one of the network's
            kind, or has values that are NaN or infinite.
    """
    both = [key for key in wanted if key in state]
    wrong = {
        'missing': [key for key in wanted if key not in state],
        'unexpected': [key for key in state if key not in wanted],
        'of another shape': [
            f'{key} {_shape(state[key])} for {_shape(wanted[key])}'
            for key in both
            if _shape(state[key]) != _shape(wanted[key])
        ],
    }
    parts = [f'{len(keys)} {what} ({", ".join(keys[:3])})' for what, keys in wrong.items() if keys]
    if parts:
        raise ValueError(
            f'{option} is {file}, which is of another architecture than {network}: '
            f'{"; ".join(parts)}. Change the options of {network}, or {option}.'
        )
    for key in both:
        fault = fault_of_tensor(state[key], wanted[key])
        if fault:
            raise ValueError(
                f'{option} is {file}, where {key} {fault}. Its training went astray, or something '
                'else wrote it: give a checkpoint as training writes it.'
            )


def fault_of_tensor(tensor: Tensor, like: Tensor) -> str | None:
    """What of a tensor from a file cannot stand for ``like``, as the end of 'x ...'; or None."""
    if _kind(tensor) != _kind(like):
        return f'is {_kind(tensor)}, but must be {_kind(like)}'
    if tensor.shape != like.shape:
        return f'is of shape {_shape(tensor)}, but must be of {_shape(like)}'
    values = tensor.float() if tensor.is_floating_point() else tensor  # float8 has no isfinite
    return None if bool(torch.isfinite(values).all()) else 'has values that are NaN or infinite'


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return () if tensor.is_nested else tuple(tensor.shape)


def _kind(tensor: Tensor) -> str:
    if tensor.is_meta:
        return 'a tensor without values'
    if tensor.is_quantized or tensor.is_nested:
        return f'a {"quantized" if tensor.is_quantized else "nested"} tensor'
    if tensor.layout != torch.strided:
        return f'a {str(tensor.layout).removeprefix("torch.")} tensor'
    return 'of floating point' if tensor.is_floating_point() else f'of {tensor.dtype}'


def _is_state(content: Mapping) -> bool:
    return bool(content) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )
