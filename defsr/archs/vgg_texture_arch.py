"""Texture features of DEF Eq. 6 and 10."""

from __future__ import annotations

from collections.abc import Sequence

from basicsr.utils.registry import ARCH_REGISTRY

from defsr.archs.vgg import VGGTrunk


@ARCH_REGISTRY.register()
class VGGTextureExtractor(VGGTrunk):
    """Texture features at full, half and quarter size from a frozen VGG (DEF Eq. 6, 10).

    The same extractor serves the enhanced input and the reference. ``num_feat`` maps each layer
    to its number of channels. TTSR fine-tunes its extractor; DEF's stays as it is.

    Args:
        vgg_type (str): ``vgg16`` or ``vgg19`` (the usual one for this task). Default: ``vgg19``.
        weights (str): ``torchvision`` / a path / ``none``, see ``VGGTrunk``.
            Default: ``torchvision``.
        layers (Sequence[str]): from fine to coarse. Default: relu1_1, relu2_1, relu3_1 with 64,
            128, 256 channels at 1, 1/2, 1/4 of the size.

    Raises:
        ValueError, OSError: as ``VGGTrunk``.
    """

    def __init__(
        self,
        vgg_type: str = 'vgg19',
        weights: str = 'torchvision',
        layers: Sequence[str] = ('relu1_1', 'relu2_1', 'relu3_1'),
    ) -> None:
        super().__init__(layers, vgg_type, weights)
