"""Trained networks of an option file, ready to restore images: for upscaling and the benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Protocol

import torch
from basicsr.archs import build_network
from torch import Tensor, nn

from defsr.methods.matched import RefSRPipeline, StageProgress, memory_format_on
from defsr.ops.tiles import make_tiles
from defsr.utils.weights import check_same_layout, read_weights

MIN_TILE = 16
SINGLE_IMAGE = ('SRModel', 'SRGANModel', 'ESRGANModel')


class Restorer(Protocol):
    """A way to make the HR image of an LR image and its references.

    Attributes:
        num_parameters: of what was trained for it, the enhancer's network not counted.
    """

    num_parameters: int

    def __call__(self, lq: Tensor, refs: Sequence[Tensor]) -> Tensor:
        """lq (1,3,h,w), refs [(1,3,H',W')], all in [0, 1] -> (1,3,scale*h,scale*w)."""
        ...


def load_weights(net: nn.Module, file: str | Path, option: str, network: str) -> None:
    """Load a checkpoint strictly, the EMA weights if it has them.

    Args:
        net: to load into.
        file: a path, or a name in ``experiments/pretrained_models``.
        option, network: what the user sets to them, for messages.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is no checkpoint of plain tensors, or of another network.
    """
    state = read_weights(file, option=option)
    check_same_layout(file, state, net.state_dict(), option=option, network=network)
    net.load_state_dict(state)


def build_frozen(block: Mapping[str, object], device: torch.device) -> nn.Module:
    """A network of an option block, in eval mode, without gradients, in the device's layout."""
    net = build_network(deepcopy(dict(block)))
    return net.to(device, memory_format=memory_format_on(device)).eval().requires_grad_(False)


class SingleImageRestorer:
    """A network that sees the LR image only, such as EDSR; in tiles if the image is large.

    Args:
        opt: option file with ``network_g`` and ``scale``.
        weights: checkpoint of ``network_g``.
        device: where to run.
        tile: inner side of a tile in LR pixels; None for one piece.
        overlap: context around a tile in LR pixels.
        option, file: what the user sets to ``weights`` and where ``opt`` comes from, for messages.
    """

    def __init__(
        self,
        opt: Mapping[str, object],
        weights: str | Path,
        device: torch.device,
        *,
        tile: int | None = 96,
        overlap: int = 16,
        option: str = 'weights',
        file: str = 'the option file',
    ) -> None:
        self.scale, self.device, self.tile, self.overlap = opt['scale'], device, tile, overlap
        self.net_g = build_frozen(opt['network_g'], device)
        load_weights(self.net_g, weights, option, f'network_g of {Path(file).name}')
        self.num_parameters = count_parameters(self.net_g)

    @torch.no_grad()
    def __call__(self, lq: Tensor, refs: Sequence[Tensor]) -> Tensor:
        """As ``Restorer``; the references are not looked at."""
        lq = lq.to(self.device, memory_format=memory_format_on(self.device))
        num, channels, height, width = lq.shape
        sr = lq.new_empty((num, channels, self.scale * height, self.scale * width))
        side = self.tile or max(height, width)
        for piece in make_tiles(height, width, side=side, overlap=self.overlap):
            answer = self.net_g(lq[piece.outer()])
            sr[piece.inner(self.scale)] = answer[piece.core(self.scale)]
        return sr


class ReferenceRestorer:
    """Enhancer, texture extractor and network of DEF, loaded once for any number of images.

    Args:
        opt: option file with ``network_e``, ``network_t``, ``network_g``, ``scale``, ``match_key``
            and ``path:pretrain_network_e`` where the enhancer needs it.
        weights: checkpoint of ``network_g``.
        device: where to run.
        degradation: how references are degraded for their keys.
        tile: inner side of a tile in LR pixels; None for one piece.
        overlap: context around a tile in LR pixels.
        option, file: what the user sets to ``weights`` and where ``opt`` comes from, for messages.

    Raises:
        ValueError: for weights that do not fit or are missing.
        FileNotFoundError: without the weights.
    """

    def __init__(
        self,
        opt: Mapping[str, object],
        weights: str | Path,
        device: torch.device,
        *,
        degradation: str = 'matlab',
        tile: int | None = 96,
        overlap: int = 16,
        option: str = 'weights',
        file: str = 'the option file',
    ) -> None:
        self.scale, self.device, self.tile, self.overlap = opt['scale'], device, tile, overlap
        self.net_g = build_frozen(opt['network_g'], device)
        load_weights(self.net_g, weights, option, f'network_g of {Path(file).name}')
        self.num_parameters = count_parameters(self.net_g)
        net_e = build_frozen(opt['network_e'], device)
        if opt['path'].get('pretrain_network_e'):
            net_e.load_weights(opt['path']['pretrain_network_e'])
        elif net_e.needs_weights:
            raise ValueError(
                f'path:pretrain_network_e is missing in {file}, but the network in '
                f'{type(net_e).__name__} needs weights. Give them.'
            )
        net_t = build_frozen(opt['network_t'], device)
        self.pipeline = RefSRPipeline.from_opt(opt, net_e, net_t, degradation)

    def __call__(
        self,
        lq: Tensor,
        refs: Sequence[Tensor],
        *,
        tile: int | None = None,
        overlap: int | None = None,
        progress: StageProgress | None = None,
    ) -> Tensor:
        """As ``Restorer``; other tiles than the constructor's if given."""
        side = tile or self.tile or max(*lq.shape[-2:], MIN_TILE)
        return self.pipeline.restore_tiled(
            self.net_g,
            self._take(lq),
            [self._take(ref) for ref in refs],
            tile=side,
            overlap=self.overlap if overlap is None else overlap,
            progress=progress,
        ).sr

    def _take(self, image: Tensor) -> Tensor:
        layout = memory_format_on(self.device)
        return image.to(self.device, torch.float32, memory_format=layout)


def build_restorer(
    opt: Mapping[str, object],
    weights: str | Path,
    device: torch.device,
    *,
    degradation: str = 'matlab',
    tile: int | None = 96,
    overlap: int = 16,
    option: str = 'weights',
    file: str = 'the option file',
) -> Restorer:
    """The restorer of an option file of a training or a test, by its ``model_type``.

    Arguments and errors as ``ReferenceRestorer``; ValueError also for another kind of model.
    """
    more = {'tile': tile, 'overlap': overlap, 'option': option, 'file': file}
    kind = opt.get('model_type')
    if kind in SINGLE_IMAGE:
        return SingleImageRestorer(opt, weights, device, **more)
    if kind == 'DEFModel':
        return ReferenceRestorer(opt, weights, device, degradation=degradation, **more)
    raise ValueError(
        f'{file} has model_type {kind!r}, but must have DEFModel or one of {list(SINGLE_IMAGE)}.'
    )


def count_parameters(net: nn.Module) -> int:
    """All of a network's parameters."""
    return sum(parameter.numel() for parameter in net.parameters())
