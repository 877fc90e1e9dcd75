"""A texture extractor for runs whose networks do not matter."""

from __future__ import annotations

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn


@ARCH_REGISTRY.register()
class TinyTexture(nn.Module):
    """A texture extractor that costs nothing: three frozen convolutions."""

    num_feat = {'relu1_1': 4, 'relu2_1': 4, 'relu3_1': 8}

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        num_in = 3
        for level, num_out in self.num_feat.items():
            layer = nn.Conv2d(num_in, num_out, 3, padding=1)
            layer.weight.data.normal_(generator=generator)
            layer.bias.data.zero_()
            self.add_module(level, layer)
            num_in = num_out

    def forward(self, img: Tensor) -> dict[str, Tensor]:
        """(N,3,H,W) -> features at 1, 1/2 and 1/4 of the size."""
        features, x = {}, img - 0.5
        for level in self.num_feat:
            x = x if level == 'relu1_1' else nn.functional.avg_pool2d(x, 2)
            x = features[level] = getattr(self, level)(x).relu()
        return features
