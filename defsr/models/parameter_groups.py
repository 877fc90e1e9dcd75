"""Learning rates by the names of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from defsr.utils.checks import check_above, check_block


def check_rates(where: str, rates: Mapping[str, float]) -> Mapping[str, float]:
    """``rates`` if each is a number above 0; ValueError names the option."""
    for prefix, rate in check_block(where, rates).items():
        check_above(f'{where}:{prefix}', rate, 0)
    return rates


def freeze(net: nn.Module, prefixes: Sequence[str]) -> None:
    """``train:freeze``: parameters whose names begin with one of these stay as they are.

    Raises:
        ValueError: for one that no parameter begins with, and if all would be frozen.
    """
    for prefix in prefixes:
        members = [p for name, p in net.named_parameters() if name.startswith(prefix)]
        if not members:
            names = [name for name, _ in net.named_parameters()]
            raise _fits_none(f'train:freeze: {prefix}', net, names)
        for parameter in members:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ValueError('train:freeze leaves nothing to train. Name fewer parts.')


def _fits_none(what: str, net: nn.Module, names: Sequence[str]) -> ValueError:
    first = sorted({name.split('.')[0] for name in names})
    return ValueError(
        f'{what} fits no parameter of {type(net).__name__}. Their names begin with {first}.'
    )


def parameter_groups(
    net: nn.Module, rates: Mapping[str, float] | None, where: str
) -> list[nn.Parameter] | list[dict[str, Any]]:
    """What an optimizer takes: the trained parameters, in groups if some have rates of their own.

    Args:
        net: the network; parameters without a gradient are left out.
        rates: start of a parameter's name -> learning rate; of several the longest counts. None:
            all have the optimizer's.
        where: the option that ``rates`` come from, for messages.

    Raises:
        ValueError: for a rate that is not above 0, and for a name that no parameter begins with.
    """
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    if not rates:
        return [p for _, p in named]
    for prefix in check_rates(where, rates):
        if not any(name.startswith(prefix) for name, _ in named):
            raise _fits_none(f'{where}:{prefix}', net, [name for name, _ in named])
    members: dict[str, list[nn.Parameter]] = {prefix: [] for prefix in ('', *rates)}
    for name, parameter in named:
        fitting = [prefix for prefix in members if name.startswith(prefix)]
        members[max(fitting, key=len)].append(parameter)
    return [
        {'params': parameters} | ({'lr': rates[prefix]} if prefix else {})
        for prefix, parameters in members.items()
        if parameters
    ]
