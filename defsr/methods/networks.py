"""Networks of an option file: built, loaded and laid out in memory, here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.archs.blocks import build_network
from defsr.archs.enhancer_base import Enhancer
from defsr.diffusion.degradation import Degradation
from defsr.utils.fingerprints import with_defaults
from defsr.utils.weights import load_weights


def memory_format_on(device: torch.device) -> torch.memory_format:
    """Channels innermost on a CPU, which is faster there; the results are the same."""
    return torch.channels_last if device.type == 'cpu' else torch.contiguous_format


def arrange(net: nn.Module, device: torch.device) -> nn.Module:
    """A network on its device in the layout that is fastest there."""
    return net.to(device).to(memory_format=memory_format_on(device))


def arrange_image(image: Tensor, device: torch.device) -> Tensor:
    """An image where the networks are, in their layout and dtype."""
    return image.to(device, torch.float32, memory_format=memory_format_on(device))


def count_parameters(net: nn.Module) -> int:
    """All of a network's parameters."""
    return sum(parameter.numel() for parameter in net.parameters())


def check_trained(opt: Mapping[str, Any]) -> bool:
    """Whether weights have to have been trained with the options that they are used with."""
    return opt.get('check_trained', True)


def build_frozen(
    name: str, opt: Mapping[str, Any], device: torch.device, *, may_lack_weights: bool = True
) -> Any:
    """A network that is never trained, with the weights that ``path`` names, in eval mode.

    Args:
        name: its block, such as ``network_t``.
        opt: an option file's content; ``path:pretrain_<name>`` and ``path:param_key_<label>`` are
            honoured.
        device: where to put it.
        may_lack_weights: whether an ``Enhancer`` whose network has no weights will do.

    Raises:
        ValueError: for weights that do not fit or are missing.
        FileNotFoundError: for weights that do not exist.
    """
    with torch.random.fork_rng(devices=[]):  # so that it is no matter what is frozen beside net_g
        net = build_network(opt[name])
    path = opt.get('path') or {}
    option, label = f'path:pretrain_{name}', name.removeprefix('network_')
    file, param_key = path.get(f'pretrain_{name}'), path.get(f'param_key_{label}')
    if file is None:
        if isinstance(net, Enhancer) and net.needs_weights and not may_lack_weights:
            raise ValueError(
                f'{option} is missing: {type(net).__name__} is of no use without the weights of '
                'its network. Name their file.'
            )
    elif isinstance(net, Enhancer):
        net.load_weights(file, param_key, check_trained=check_trained(opt), name=name)
    else:
        load_weights(net, file, option=option, network=name, param_key=param_key)
    net.to(device)
    if not hasattr(net, 'runtime'):  # DDNMEnhancer has options for the layout of its own
        arrange(net, device)
    return net.eval().requires_grad_(False)


def check_enhancer(name: str, opt: Mapping[str, Any], degradation: Degradation) -> None:
    """ValueError if an enhancer is for another degradation than the images', or another scale.

    Args:
        name: its block, such as ``network_e``.
        opt: an option file's content.
        degradation: of the images.
    """
    block = opt[name]
    enhancer = ARCH_REGISTRY.get(block['type'])
    fitting = {'scale': degradation.scale, 'degradation': degradation.name}
    made = fitting | with_defaults(enhancer, block)
    if made['scale'] != degradation.scale:
        raise ValueError(f'{name}:scale is {made["scale"]}, but scale is {degradation.scale}.')
    if getattr(enhancer, 'consistent', False) and made['degradation'] != degradation.name:
        raise ValueError(
            f'{name}:degradation is {made["degradation"]}, but {degradation.option} is '
            f'{degradation.name}. Set both to the same.'
        )
