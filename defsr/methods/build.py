"""The method of an option file with its networks, by what its ``network_g`` reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.archs.blocks import build_network, completed
from defsr.archs.interface import Reference, Restoration, has_weights, reads_of
from defsr.archs.network_call import PRECISIONS, NetworkCall, Precision
from defsr.diffusion.degradation import Degradation
from defsr.methods.base import Method, StageProgress
from defsr.methods.corresponding import Corresponding
from defsr.methods.from_rectified import FromRectified
from defsr.methods.from_references import FromReferences
from defsr.methods.matched import Matched
from defsr.methods.networks import arrange, arrange_image, check_trained, count_parameters
from defsr.methods.single_image import SingleImage
from defsr.utils.checks import check_choice, check_finite
from defsr.utils.fingerprints import plain, with_defaults
from defsr.utils.weights import load_weights

METHODS = dict[str, type[Method]](
    lq=SingleImage,
    references=FromReferences,
    matches=Matched,
    rectified=FromRectified,
    correspondences=Corresponding,
)
MIN_TILE = 16
TILE = (
    128  # inner side in LR pixels; smaller ones repeat more context, larger ones want more memory
)


def method_class(opt: Mapping[str, Any]) -> type[Method]:
    """The kind of method of an option file, by the arch that ``network_g:type`` names."""
    reads = reads_of(ARCH_REGISTRY.get(opt['network_g']['type']))
    return METHODS[check_choice('network_g: `reads` of its class', reads, METHODS)]


def wants_weights(opt: Mapping[str, Any]) -> bool:
    """Whether the ``network_g`` of an option file is to be loaded."""
    return has_weights(ARCH_REGISTRY.get(opt['network_g']['type']))


def trained_with(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide what ``network_g`` learns to work with; its checkpoints keep them."""
    method = method_class(opt)
    defaults = with_defaults(method, {})
    options = {key: opt.get(key, defaults[key]) for key in method.learned}
    block = completed(opt['network_g'])
    for name in getattr(ARCH_REGISTRY.get(block['type']), 'not_learned', ()):
        block.pop(name, None)
    return plain({'network_g': block} | options)


def build_method(
    opt: Mapping[str, Any],
    device: torch.device,
    degradation: Degradation,
    *,
    needs_enhancer: bool = True,
    prefer: str = 'params_ema',
    option: str = 'path:pretrain_network_g',
    network: str = 'network_g',
) -> tuple[Method, nn.Module]:
    """A method and its trainable network, loaded: the only place where networks are.

    Args:
        opt: an option file's content: ``network_g``, the blocks that its method reads, and
            ``path`` with ``pretrain_network_*``, ``param_key_*`` and ``strict_load_g``;
            ``check_trained: false`` takes weights that were trained with other options.
        device: where they go.
        degradation: of the data, or of the photographs to be restored.
        needs_enhancer: see ``Method.from_opt``.
        prefer: key of the weights in the file of ``network_g`` unless ``path:param_key_g`` says
            it; see ``read_weights``.
        option, network: what messages call the weights and the network.

    Returns:
        The method, and ``network_g`` in training mode with gradients.

    Raises:
        ValueError: for weights that do not fit, and for an enhancer that does not fit the data.
        FileNotFoundError: for weights that do not exist.
    """
    method_class(opt).check(opt, degradation)
    path = opt.get('path') or {}
    net_g = build_network(opt['network_g'])
    file = path.get('pretrain_network_g')
    if file is not None:
        strict = path.get('strict_load_g', True)
        wanted = trained_with(opt) if check_trained(opt) else None
        load_weights(
            net_g,
            file,
            option=option,
            network=network,
            param_key=path.get('param_key_g'),
            prefer=prefer,
            strict=strict,
            trained_with=wanted,
        )
    method = method_class(opt).from_opt(opt, degradation, device, needs_enhancer=needs_enhancer)
    return method, arrange(net_g, device)


@dataclass(frozen=True)
class Restorer:
    """A method and its network, to restore images one by one.

    Args:
        method, net_g: as ``build_method`` returns them.
        device: of the networks.
        tile: inner side of a tile in LR pixels; None for one piece.
        overlap: context around a tile in LR pixels.
        precision: of ``net_g``: ``fp32``, or ``bf16`` under autocast; all else is in float32.
    """

    method: Method
    net_g: nn.Module
    device: torch.device
    tile: int | None = TILE
    overlap: int = 16
    precision: Precision = 'fp32'

    @classmethod
    def build(
        cls,
        opt: Mapping[str, Any],
        device: torch.device,
        degradation: Degradation,
        *,
        tile: int | None = TILE,
        overlap: int = 16,
        precision: Precision = 'fp32',
        **more: Any,
    ) -> Restorer:
        """From an option file's content. Other arguments and errors as of ``build_method``.

        Example:
            >>> from defsr.config.files import load_options
            >>> opt = load_options('options/small/EDSR_x4.yml')
            >>> opt['path'] = {'pretrain_network_g': 'small_EDSR.pth'}  # as the repository has it
            >>> restorer = Restorer.build(opt, torch.device('cpu'), Degradation('matlab', 4))
            >>> restorer.num_parameters
            688515
            >>> tuple(restorer(torch.rand(1, 3, 20, 16), []).shape)
            (1, 3, 80, 64)
        """
        check_choice('precision', precision, PRECISIONS)
        method, net_g = build_method(opt, device, degradation, **more)
        return cls(method, net_g.eval().requires_grad_(False), device, tile, overlap, precision)

    @property
    def num_parameters(self) -> int:
        """Of ``network_g``; the frozen networks are not counted."""
        return count_parameters(self.net_g)

    def __call__(self, lq: Tensor, refs: Sequence[Tensor], **more: Any) -> Tensor:
        """lq (1,3,h,w), refs [(1,3,H',W')], all in [0, 1] -> (1,3,scale*h,scale*w).

        ``more`` and errors as of ``restore``.
        """
        return self.restore(lq, refs, **more).sr

    def restore(
        self,
        lq: Tensor,
        refs: Sequence[Tensor],
        *,
        tile: int | None = None,
        overlap: int | None = None,
        progress: StageProgress | None = None,
    ) -> Restoration:
        """As a call, with all else that the method has found.

        Other tiles than the constructor's if given. FloatingPointError for a result that is NaN or
        infinite somewhere.
        """
        called: Any = self.net_g
        if self.precision == 'bf16':
            called = NetworkCall(self.net_g, self.net_g, torch.bfloat16)
        with torch.no_grad():
            found = self.method.super_resolve(
                called,
                arrange_image(lq, self.device),
                [Reference(arrange_image(ref, self.device)) for ref in refs],
                tile=tile or self.tile or max(*lq.shape[-2:], MIN_TILE),
                overlap=self.overlap if overlap is None else overlap,
                progress=progress,
            )
        check_finite(found.sr, 'The result', 'the weights')
        return found

    def confirming(self, lq: Tensor) -> Callable[[Tensor], int]:
        """Of lq, how many of its matches with a reference, both as of a call, a geometry confirms.

        Raises:
            ValueError: if the method does not rectify.
        """
        count = self.method.confirming(arrange_image(lq, self.device))
        return torch.no_grad()(lambda ref: count(Reference(arrange_image(ref, self.device))))
