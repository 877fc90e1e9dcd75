"""Networks under autocast, in training and in use: what they give stays float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from defsr.archs.interface import Restoration

Precision = Literal['fp32', 'bf16']
PRECISIONS: tuple[Precision, ...] = ('fp32', 'bf16')


@dataclass(frozen=True)
class InBfloat16:
    """Calls a network under autocast; what it gives is float32, and so are its weights.

    Convolutions and products are in bfloat16; places, near ties and resizing stay in float32, see
    ``defsr.ops.float32``.

    Methods take it for the network itself: they look at attributes through ``module``, as
    behind PyTorch's wrappers of several processes.

    Attributes:
        net: what is called, perhaps such a wrapper.
        module: the network itself.
    """

    net: nn.Module
    module: nn.Module

    @property
    def training(self) -> bool:
        """Of the network."""
        return self.net.training

    def __call__(self, lq: Tensor, *args: Any) -> Tensor | Restoration:
        """As the network."""
        with torch.autocast(lq.device.type, torch.bfloat16):
            found = self.net(lq, *args)
        if isinstance(found, Tensor):
            return found.float()
        textures = {level: texture.float() for level, texture in found.textures.items()}
        attention = found.attention if found.attention is None else found.attention.float()
        return replace(found, sr=found.sr.float(), textures=textures, attention=attention)
