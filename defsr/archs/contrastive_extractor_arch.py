"""C2-Matching's correspondence extractor: one trunk for inputs, one for references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.levels import MATCH_LEVEL
from defsr.archs.vgg import VGGTrunk

LAYER = 'conv3_1'  # before its ReLU
OFFICIAL = {'feature_extraction_image1': 'query', 'feature_extraction_image2': 'key'}


class _Trunk(VGGTrunk):
    """VGG16 up to conv3_1 with parameters that learn; each position's features have length 1."""

    def __init__(self, weights: str, where: str) -> None:
        super().__init__([LAYER], 'vgg16', weights, where=where)
        self.requires_grad_(True)

    def forward(self, img: Tensor) -> dict[str, Tensor]:
        """(N,3,H,W) RGB in [0,1] -> the coarsest level -> (N, 256, H/4, W/4)."""
        return {MATCH_LEVEL: F.normalize(super().forward(img)[LAYER], dim=1)}


@ARCH_REGISTRY.register()
class ContrastiveExtractor(nn.Module):
    """Features by which an interpolated LR image finds its places in a reference (C2-Matching).

    Two VGG16 trunks up to conv3_1: ``query`` reads the input, ``key`` references. They start
    alike, and are trained by ``ContrastiveModel``. No parameter is shared.

    Args:
        weights (str): what both start from: ``torchvision`` / a path / ``none``, see
            ``VGGTrunk``. No matter where trained weights are loaded. Default: ``none``.
    """

    not_learned = ('weights',)
    official_source = 'yumingj/C2-Matching, feature extraction'

    def __init__(self, weights: str = 'none') -> None:
        super().__init__()
        self.check('network_m', {'weights': weights})
        self.query = _Trunk(weights, 'network_m')
        self.key = _Trunk(weights, 'network_m')

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would; ValueError names the option."""
        VGGTrunk.check(where, {**block, 'layers': [LAYER], 'vgg_type': 'vgg16'})

    def forward(self, img: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
        """The features of both, of length 1 at each position.

        Args:
            img: (N, 3, H, W) RGB in [0, 1], the input at the size of the result.
            ref: (N, 3, H', W') RGB in [0, 1].

        Returns:
            (N, 256, H/4, W/4) and (N, 256, H'/4, W'/4).
        """
        return self.query(img)[MATCH_LEVEL], self.key(ref)[MATCH_LEVEL]

    @classmethod
    def official_block(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Arguments for published weights: none is needed. KeyError for other weights."""
        cls.from_official(state)
        return {}

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights by our names. KeyError for others."""
        return {_own_name(name): value for name, value in state.items()}


def _own_name(official: str) -> str:
    trunk, name = official.split('.', 1)
    return f'{OFFICIAL[trunk]}.{name.removeprefix("model.")}'
