"""Steps of an optimizer, for gradients that fit into float16 where the network runs in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

LEAST = 1.0  # a gradient that overflows below is no matter of the scale


class LossScale:
    """PyTorch's gradient scaler: a loss is enlarged before its gradient, the gradient made small.

    A step whose gradient overflows is left out, counted, and the scale halved; after 2000 steps
    without, it is doubled.

    Args:
        device_type: of the network.

    Attributes:
        num_overflows: steps left out.
        is_stepping: while the optimizer is asked, whose gradients may be none then.
    """

    def __init__(self, device_type: str) -> None:
        self._scaler = torch.amp.GradScaler(device_type)
        self.num_overflows = 0
        self.is_stepping = False

    @property
    def scale(self) -> float:
        """The present factor, a power of two."""
        return float(self._scaler.get_scale())

    def step(self, loss: Tensor, optimizer: Optimizer) -> None:
        """One step on the gradients of ``loss``, as ``step_on`` without a scale."""
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(optimizer)  # before clipping, which the step does
        before, self.is_stepping = self.scale, True
        try:
            self._scaler.step(optimizer)
        finally:
            self.is_stepping = False
        self._scaler.update()
        self.num_overflows += self.scale < before

    def state(self) -> dict[str, float]:
        """All that the next step depends on: plain numbers."""
        return {**self._scaler.state_dict(), 'num_overflows': self.num_overflows}

    def load(self, state: Mapping[str, Any]) -> None:
        """As ``state`` gave it, and ``check_state`` found it in order."""
        own = {key: value for key, value in state.items() if key != 'num_overflows'}
        self._scaler.load_state_dict(own)
        self.num_overflows = int(state['num_overflows'])


def step_on(loss: Tensor, optimizer: Optimizer, scale: LossScale | None = None) -> None:
    """One step of an optimizer down the gradient of a loss.

    Args:
        loss: () tensor.
        optimizer: whose old gradients are forgotten.
        scale: for a network in float16.
    """
    optimizer.zero_grad()
    if scale is not None:
        scale.step(loss, optimizer)
        return
    loss.backward()
    optimizer.step()
