"""Networks with plain tensors in and ``sr`` out, as files for other programs hold them.

A network that reads ``lq`` has that as its only input. One that reads ``matches`` has, too,

- ``de`` (N, 3, 4h, 4w) in [0, 1], the enhanced input;
- ``confidence`` (N, h, w) in [-1, 1], of the match of each position;
- ``feat_de``: level -> (N, C, f*h, f*w), features of the enhanced input;
- ``feat_ref``: level -> (N, C, f*h', f*w'), those of the reference;
- ``position``: level -> (N, 2, f*h, f*w) int64, rows then columns of each match in ``feat_ref``;

as ``Alignment`` has them; f by ``LEVEL_FACTORS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from defsr.archs.interface import Alignment, Restoration, reads_of
from defsr.archs.levels import LEVEL_FACTORS

LEAST = 4  # pixels of each side of the input, and positions of the reference's coarsest level


class FromImage(nn.Module):
    """``lq -> sr`` of a network that reads ``lq``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, lq: Tensor) -> Tensor:
        """(N, 3, h, w) -> (N, 3, scale*h, scale*w)."""
        return Restoration.of(self.net(lq)).sr


class FromMatches(nn.Module):
    """What the module's docstring lists ``-> sr``, of a network that reads ``matches``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        lq: Tensor,
        de: Tensor,
        confidence: Tensor,
        feat_de: dict[str, Tensor],
        feat_ref: dict[str, Tensor],
        position: dict[str, Tensor],
    ) -> Tensor:
        """(N, 3, h, w) and the others -> (N, 3, 4h, 4w)."""
        index = next(iter(position.values()))  # which nobody asks where positions are given
        aligned = Alignment(feat_de, feat_ref, index, confidence, (0, 0), de, position)
        return Restoration.of(self.net(lq, aligned)).sr


def with_plain_inputs(net: nn.Module) -> nn.Module:
    """The one of both that a network wants."""
    return FromImage(net) if reads_of(net) == 'lq' else FromMatches(net)


def random_inputs(
    net: nn.Module, size: Sequence[int], ref_size: Sequence[int], num: int
) -> dict[str, Any]:
    """Inputs of ``with_plain_inputs(net)``, the same for the same sizes.

    Args:
        net: the network.
        size: height and width of ``lq``.
        ref_size: those of the reference at the coarsest level.
        num: images.
    """
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    found: dict[str, Any] = {'lq': made(num, 3, *size)}
    if reads_of(net) == 'lq':
        return found
    found['de'] = made(num, 3, *(4 * side for side in size))
    found['confidence'] = 2 * made(num, *size) - 1
    found |= {'feat_de': {}, 'feat_ref': {}, 'position': {}}
    for level, channels in texture_channels(net).items():
        here, there = ([LEVEL_FACTORS[level] * side for side in s] for s in (size, ref_size))
        found['feat_de'][level] = made(num, channels, *here)
        found['feat_ref'][level] = made(num, channels, *there)
        places = [(made(num, *here) * side).long() for side in there]
        found['position'][level] = torch.stack(places, dim=1)
    return found


def texture_channels(net: nn.Module) -> Mapping[str, int]:
    """Level -> channels of the textures that a network with matches transfers."""
    transfer: Any = net.swap if hasattr(net, 'swap') else net.transfer
    return transfer.num_ch


def free_sides(net: nn.Module) -> dict[str, Any]:
    """Which sides of ``with_plain_inputs(net)`` are free, for ``torch.export``."""
    from torch.export import Dim

    num = Dim('num')
    names = ('height', 'width', 'ref_height', 'ref_width')
    height, width, ref_height, ref_width = (Dim(name, min=LEAST) for name in names)
    free: dict[str, Any] = {'lq': {0: num, 2: height, 3: width}}
    if reads_of(net) == 'lq':
        return free
    free['de'] = {0: num, 2: 4 * height, 3: 4 * width}
    free['confidence'] = {0: num, 1: height, 2: width}
    free |= {'feat_de': {}, 'feat_ref': {}, 'position': {}}
    for level in texture_channels(net):
        factor = LEVEL_FACTORS[level]
        here = {0: num, 2: _times(factor, height), 3: _times(factor, width)}
        there = {0: num, 2: _times(factor, ref_height), 3: _times(factor, ref_width)}
        free['feat_de'][level], free['feat_ref'][level] = here, there
        free['position'][level] = here
    return free


def _times(factor: int, side: Any) -> Any:
    return side if factor == 1 else factor * side  # PyTorch takes no multiple of one


def named_inputs(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Inputs by the names that a file has: ``lq``, ``feat_de_relu1_1``, in their order."""
    flat: dict[str, Tensor] = {}
    for name, value in inputs.items():
        if isinstance(value, Mapping):
            flat |= {f'{name}_{level}': tensor for level, tensor in value.items()}
        else:
            flat[name] = value
    return flat
