"""Methods that begin by enhancing the input with a frozen network."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from defsr.archs.enhancer_base import Enhancer
from defsr.methods.base import Method, Progress

Prepared = TypeVar('Prepared')


class Enhanced(Method[Prepared]):
    """A method with ``net_e``, an enhancer, ``lq -> I_DE`` in [0, 1]."""

    net_e: Enhancer

    @torch.no_grad()
    def enhance(self, lq: Tensor, progress: Progress | None = None) -> Tensor:
        """lq (N,3,h,w) -> I_DE (N,3,4h,4w), both in [0, 1]."""
        if progress:
            return self.net_e.enhance(lq, progress).clamp(0, 1)
        return self.net_e(lq)
