"""SRNTT's texture loss: Gram matrices of the result's features against the swapped textures'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from defsr.archs.interface import Restoration
from defsr.archs.levels import LEVEL_FACTORS
from defsr.archs.srntt_arch import confidence_at
from defsr.archs.vgg import VGGTrunk
from defsr.utils.kinds import NotNegative

WHERE = 'train:texture_opt'  # in an option file


@LOSS_REGISTRY.register()
class SwappedTextureLoss(nn.Module):
    """Mean over three levels of || Gr(S F(sr)) - Gr(S M) || / (4 (C H W)^2).

    M are the swapped textures (C, H, W), F the features of the result at their level, S the weights
    ``sigmoid(slope * c + bias)`` of the similarity c of the matches. With the published numbers S
    is largest where matches are bad and next to nothing (below 1e-5) where they are good.

    Args:
        vgg_type (str): that of ``network_t``. Default: ``vgg19``.
        weights (str): those of ``network_t``, see ``VGGTrunk``. Default: ``torchvision``.
        use_confidence (bool): weigh by the similarity; if not, S is 1. Default: True.
        slope (float), bias (float): of the weights. Default: -20 and 0.65, the published ones.
        criterion (str): ``l2``: the mean of squares over the Gram matrices, in the authors' code;
            ``fro``: the norm of the whole difference, as in the PyTorch port, which divides by 256
            more, taking H and W of the image. Default: ``l2``.
        loss_weight (float): factor. Default: 1e-4, the published one.

    Raises:
        ValueError, FileNotFoundError, OSError: as of ``VGGTrunk``.
    """

    reads = 'restoration'

    def __init__(
        self,
        vgg_type: str = 'vgg19',
        weights: str = 'torchvision',
        *,
        use_confidence: bool = True,
        slope: float = -20.0,
        bias: float = 0.65,
        criterion: Literal['l2', 'fro'] = 'l2',
        loss_weight: NotNegative = 1e-4,
    ) -> None:
        super().__init__()
        self.use_confidence, self.slope, self.bias = use_confidence, slope, bias
        self.criterion, self.loss_weight = criterion, loss_weight
        self.vgg = VGGTrunk([*LEVEL_FACTORS], vgg_type, weights, where=WHERE)

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would. Errors as its own; reads no file."""
        VGGTrunk.check(where, {**block, 'layers': [*LEVEL_FACTORS]})

    def forward(self, out: Restoration, gt: Tensor | None, net_g: nn.Module) -> Tensor:
        """The loss of ``out.sr`` (N,3,4h,4w), by its ``textures`` and ``confidence``.

        ``gt`` is not looked at. ValueError for a network that gives no textures of these levels.
        """
        if out.textures.keys() != LEVEL_FACTORS.keys() or out.confidence is None:
            raise ValueError(
                f'{WHERE} is a SwappedTextureLoss, which needs the textures that an SRNTT swaps; '
                f'{type(net_g).__name__} gives none. Remove {WHERE}.'
            )
        found = self.vgg(out.sr)
        distances = [
            self._distance(found[level], out.textures[level], out.confidence, factor)
            for level, factor in LEVEL_FACTORS.items()
        ]
        return self.loss_weight * torch.stack(distances).mean()

    def _distance(self, feat: Tensor, texture: Tensor, confidence: Tensor, factor: int) -> Tensor:
        if self.use_confidence:
            gate = self.slope * confidence_at(confidence, factor) + self.bias
            weight = torch.sigmoid(gate)
            feat, texture = feat * weight, texture * weight
        size = feat.shape[1:].numel()
        difference = (_gram(feat) - _gram(texture)) / (2 * size)
        if self.criterion == 'l2':
            return difference.square().mean()
        return difference.norm() / (2 * size)


def _gram(feat: Tensor) -> Tensor:
    """(N,C,H,W) -> (N,C,C), the products of channels summed over positions."""
    flat = feat.flatten(2)
    return flat @ flat.mT
