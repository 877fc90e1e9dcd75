"""Texture features of DEF Eq. 6 and 10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor

from defsr.archs.levels import LEVEL_FACTORS
from defsr.archs.vgg import VGGTrunk, num_feat_of, stride_of


@ARCH_REGISTRY.register()
class VGGTextureExtractor(VGGTrunk):
    """Texture features at full, half and quarter size from a frozen VGG (DEF Eq. 6, 10).

    The same extractor serves the enhanced input and the reference. ``num_feat`` maps each level
    to its number of channels. TTSR fine-tunes its extractor; DEF's stays as it is.

    Args:
        vgg_type (str): ``vgg16`` or ``vgg19`` (the usual one for this task). Default: ``vgg19``.
        weights (str): ``torchvision`` / a path / ``none``, see ``VGGTrunk``.
            Default: ``torchvision``.
        layers (Sequence[str]): one for each level of ``LEVEL_FACTORS``, from fine to coarse, at
            1, 1/2 and 1/4 of the image's size. Default: relu1_1, relu2_1, relu3_1 with 64, 128,
            256 channels.

    Raises:
        ValueError, OSError: as ``VGGTrunk``; ValueError also for layers at other sizes.
    """

    def __init__(
        self,
        vgg_type: str = 'vgg19',
        weights: str = 'torchvision',
        layers: Sequence[str] = tuple(LEVEL_FACTORS),
    ) -> None:
        super().__init__(layers, vgg_type, weights)
        self.num_feat = {
            level: num_feat_of(layer)
            for level, layer in zip(LEVEL_FACTORS, self.layers, strict=True)
        }

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """As of ``VGGTrunk``; one layer for each level, at its size."""
        super().check(where, block)
        finest = max(LEVEL_FACTORS.values())
        wanted = [finest // factor for factor in LEVEL_FACTORS.values()]
        strides = [stride_of(layer) for layer in block['layers']]
        if strides != wanted:
            raise ValueError(
                f'{where}:layers is {list(block["layers"])}, at strides {strides}, but must have '
                f'one layer at each of the strides {wanted}, from fine to coarse, such as '
                f'{list(LEVEL_FACTORS)}.'
            )

    def forward(self, img: Tensor) -> dict[str, Tensor]:
        """(N,3,H,W) RGB in [0,1] -> level -> (N, C, f*H/4, f*W/4), f by ``LEVEL_FACTORS``."""
        return self.some_levels(img, tuple(LEVEL_FACTORS))

    def some_levels(self, img: Tensor, levels: Sequence[str]) -> dict[str, Tensor]:
        """As ``forward``, of some levels, and no further than the coarsest of them."""
        layer_of = dict(zip(LEVEL_FACTORS, self.layers, strict=True))
        found = self.some(img, [layer_of[level] for level in levels])
        return {level: found[layer_of[level]] for level in levels}
