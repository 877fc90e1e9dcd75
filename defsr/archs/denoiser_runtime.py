"""How a denoiser is called: precision, memory format, compilation. Its answer stays float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from defsr.archs.lazy_compile import LazyCompile
from defsr.utils.checks import check_choice

Precision = Literal['fp32', 'fp16', 'bf16']
PRECISIONS = {'fp32': None, 'fp16': torch.float16, 'bf16': torch.bfloat16}


class DenoiserRuntime:
    """Calls a denoiser ``(x_t, t) -> answer`` in another precision, layout or compiled.

    No module, and not in the tree of one, as ``LazyCompile``.

    Args:
        precision: ``fp32``; ``fp16`` (GPU only) or ``bf16``: matrix products and convolutions
            run in it, under autocast, norms and sums stay in float32.
        channels_last: channels innermost in memory, for weights and x_t. Same results up to
            rounding.
        use_compile: compile the denoiser at its first call, see ``LazyCompile``.
        where: the options' block, for messages.

    Raises:
        ValueError: for another value.
    """

    def __init__(
        self,
        precision: Precision = 'fp32',
        channels_last: bool = True,
        use_compile: bool = False,
        where: str = 'network_e',
    ) -> None:
        self.where = where
        self.precision = check_choice(f'{where}:precision', precision, tuple(PRECISIONS))
        switches = (True, False)
        self.channels_last = check_choice(f'{where}:channels_last', channels_last, switches)
        self.use_compile = check_choice(f'{where}:compile', use_compile, switches)
        self.compile = LazyCompile(f'{where}:compile')

    @property
    def memory_format(self) -> torch.memory_format:
        """Of four-dimensional weights and images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def arrange(self, denoiser: nn.Module) -> nn.Module:
        """Put the weights of ``denoiser`` into the memory format, in place, and return it.

        Moving it and loading weights into it keep the format.
        """
        return denoiser.to(memory_format=self.memory_format)

    def __call__(self, denoiser: nn.Module, x_t: Tensor, t: Tensor) -> Tensor:
        """Ask ``denoiser``.

        Args:
            denoiser: the plain module.
            x_t: (N,C,H,W), on the denoiser's device.
            t: (N,), its timesteps.

        Returns:
            (N,C',H,W) with the dtype of x_t, contiguous.

        Raises:
            ValueError: for fp16 on the CPU, and if the denoiser cannot be compiled.
        """
        context = self._autocast(x_t.device.type)
        x_t = x_t.contiguous(memory_format=self.memory_format)
        with context:
            answer = self.compile(denoiser, x_t, t) if self.use_compile else denoiser(x_t, t)
        return answer.to(x_t.dtype).contiguous()

    def _autocast(self, device_type: str) -> AbstractContextManager:
        dtype = PRECISIONS[self.precision]
        if dtype is torch.float16 and device_type == 'cpu':
            raise ValueError(
                f'{self.where}:precision is fp16, but the denoiser runs on the CPU, where that '
                'is slower than fp32. Set fp32, or bf16 on a CPU that has it in hardware.'
            )
        return nullcontext() if dtype is None else torch.autocast(device_type, dtype)
