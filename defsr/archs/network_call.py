"""Networks under autocast or compiled, in training and in use: what they give stays float32."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from defsr.archs.interface import Restoration
from defsr.archs.lazy_compile import LazyCompile

Precision = Literal['fp32', 'bf16']  # in use; a training may have fp16, too
PRECISIONS: tuple[Precision, ...] = ('fp32', 'bf16')


@dataclass(frozen=True)
class NetworkCall:
    """Calls a network in another way; what it gives is float32, and so are its weights.

    Under autocast convolutions and products are in ``dtype``; places, near ties and resizing stay
    in float32, see ``defsr.ops.float32``.

    Methods take it for the network itself: they look at attributes through ``module``, as
    behind PyTorch's wrappers of several processes.

    Attributes:
        net: what is called, perhaps such a wrapper.
        module: the network itself.
        dtype: under autocast in bfloat16 or float16; None: float32.
        compiled: calls it compiled; None: as it is.
    """

    net: nn.Module
    module: nn.Module
    dtype: torch.dtype | None = None
    compiled: LazyCompile | None = None

    @property
    def training(self) -> bool:
        """Of the network."""
        return self.net.training

    def __call__(self, lq: Tensor, *args: Any) -> Tensor | Restoration:
        """As the network."""
        half = nullcontext() if self.dtype is None else torch.autocast(lq.device.type, self.dtype)
        with half:
            if self.compiled is None:
                found = self.net(lq, *args)
            else:
                found = self.compiled(self.net, lq, *args)
        if isinstance(found, Tensor):
            return found.float()
        textures = {level: texture.float() for level, texture in found.textures.items()}
        attention = found.attention if found.attention is None else found.attention.float()
        return replace(found, sr=found.sr.float(), textures=textures, attention=attention)
