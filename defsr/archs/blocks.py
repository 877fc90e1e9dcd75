"""Blocks of networks: built, and completed to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from logging import getLogger
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from defsr.utils.checks import check_choice
from defsr.utils.fingerprints import plain, with_defaults

EXAMPLES = {'network_e:denoiser': 'ADMUNet', 'network_e:network': 'EDSR'}
# Options that change a result by no more than rounding.
WITHOUT_EFFECT = frozenset(('windows_per_batch', 'compile', 'channels_last', 'backend'))


def build_network(block: Mapping[str, Any]) -> nn.Module:
    """As BasicSR's, which sets up its logger on the way: in a script of other people's it must not.

    Args:
        block: ``type`` and arguments of a registered arch; it is not changed.
    """
    opt = dict(deepcopy(block))
    net = ARCH_REGISTRY.get(opt.pop('type'))(**opt)
    getLogger('basicsr').info(f'Network [{type(net).__name__}] is created.')
    return net


def build_inner(option: str, block: Mapping[str, Any]) -> nn.Module:
    """The network inside an enhancer, from its block: ``type`` and arguments. ValueError if not."""
    if not isinstance(block, Mapping) or 'type' not in block:
        raise ValueError(f'{option} has no `type`; name an arch, such as {EXAMPLES[option]}.')
    opt = dict(deepcopy(block))
    name = opt.pop('type')
    check_choice(f'{option}:type', name, [known for known, _ in ARCH_REGISTRY])
    return ARCH_REGISTRY.get(name)(**opt)


def check_factor(where: str, block: Mapping[str, Any], option: str, scale: object) -> None:
    """ValueError if a network says of itself that it upsamples by another factor than ``scale``.

    Args:
        where: the path of its block.
        option: that of ``scale``.
    """
    made = with_defaults(ARCH_REGISTRY.get(block['type']), block)
    for key in ('upscale', 'scale'):
        if made.get(key, scale) != scale:
            raise ValueError(
                f'{where}:{key} is {made[key]}, but {option} is {scale}. Set both to the same.'
            )


def completed(block: Mapping[str, Any]) -> dict[str, Any]:
    """A network's block with the defaults of its class, those inside it too, as JSON holds it."""
    own = {k: completed(v) if isinstance(v, Mapping) else v for k, v in block.items()}
    if 'type' in block:
        own = with_defaults(ARCH_REGISTRY.get(block['type']), own)
    return plain(own, without=WITHOUT_EFFECT)
