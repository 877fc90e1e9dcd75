"""Enhancers: low-resolution image in, detail-enhanced input I_DE of DEF out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor

from defsr.archs.blocks import build_inner
from defsr.archs.denoiser_runtime import DenoiserRuntime, Precision
from defsr.archs.denoisers import as_trained, fingerprint_of_denoiser, is_pretrained
from defsr.archs.enhancer_base import Enhancer
from defsr.diffusion.options import SamplingOptions
from defsr.diffusion.predictions import eps_from
from defsr.diffusion.ranges import from_signed, sigma_to_signed, to_signed
from defsr.diffusion.reference_null_space import Filling
from defsr.diffusion.strategies import sample_any_size
from defsr.diffusion.windows import CanvasNoise, content_key
from defsr.ops.padding import pad_reflect
from defsr.ops.resize import upsample_bicubic
from defsr.utils.checks import check_image
from defsr.utils.fingerprints import with_defaults


@ARCH_REGISTRY.register()
class BicubicEnhancer(Enhancer):
    """Bicubic stand-in for the diffusion enhancer (row "Base" of DEF Table 2).

    Args:
        scale (int): upsampling factor, >= 2. Default: 4.
    """

    def __init__(self, scale: int = 4) -> None:
        super().__init__(scale, 'matlab')

    def forward(self, lq: Tensor) -> Tensor:
        """(N,3,h,w) RGB in [0,1] -> (N,3,scale*h,scale*w), clamped. ValueError if not."""
        return upsample_bicubic(check_image('lq', lq), self.scale).clamp(0, 1)


@ARCH_REGISTRY.register()
class DDNMEnhancer(Enhancer):
    """Detail enhancement by DDNM with a pre-trained denoiser (DEF Eq. 8-9). Frozen, eval mode.

    An image smaller than what the denoiser takes, or of another shape, is padded by reflection,
    sampled whole or in windows, cropped and projected again. The noise of a sample follows from
    ``seed`` and the image alone, so batches, order and repeats do not change a result.

    Args:
        denoiser (dict): an arch block, ``type`` and its arguments, as ``{type: ADMUNet, ...}``.
        scale (int): upsampling factor, >= 2. Default: 4.
        diffusion (dict | None): the sampling options, see ``SamplingOptions``; what is missing
            keeps its default.
        degradation (str): ``matlab`` or ``pil``, how lq was made. Default: ``matlab``.
        precision (str): of the denoiser: ``fp32``, ``fp16`` (GPU only) or ``bf16``. The sampler
            computes in float32. Default: ``fp32``.
        channels_last (bool): memory layout in the denoiser, see ``DenoiserRuntime``; on a CPU
            never slower. Default: True.
        compile (bool): compile the denoiser at its first call. Default: False.

    Raises:
        ValueError: for unknown or missing options, for values out of range, and for what
            contradicts the denoiser's own word on its training.
    """

    costly = True
    consistent = True
    trained = 'denoiser'
    denoiser_timesteps: Tensor

    def __init__(
        self,
        denoiser: Mapping[str, Any],
        scale: int = 4,
        diffusion: Mapping[str, Any] | None = None,
        degradation: Literal['matlab', 'pil'] = 'matlab',
        *,
        precision: Precision = 'fp32',
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__(scale, degradation)
        self.runtime = DenoiserRuntime(precision, channels_last, compile)
        self.precision, self.channels_last = precision, channels_last
        self.sampling = SamplingOptions.from_block('network_e:diffusion', diffusion or {})
        self.denoiser = self.runtime.arrange(
            build_inner('network_e:denoiser', denoiser).requires_grad_(False)
        )
        self.sampling.check_windows(scale, self._stride)
        self._denoiser_block = deepcopy(denoiser)
        trained, self.prediction = as_trained(self.denoiser, self.sampling)
        self.diffusion = self.sampling.completed() | {'prediction': self.prediction}
        self.schedule = self.sampling.levels
        timesteps = trained.timesteps_at(self.schedule.alpha_bar).float()
        self.register_buffer('denoiser_timesteps', timesteps, persistent=False)
        self.eval()

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """As ``Enhancer.check``. Whether windows fit the denoiser, only the constructor knows."""
        super().check(where, block)
        opt = with_defaults(DDNMEnhancer, block)
        DenoiserRuntime(opt['precision'], opt['channels_last'], opt['compile'], where)
        sampling = SamplingOptions.from_block(f'{where}:diffusion', opt['diffusion'] or {})
        sampling.check_windows(opt['scale'])

    @property
    def _stride(self) -> int:
        return getattr(self.denoiser, 'stride', 1)

    @property
    def needs_weights(self) -> bool:
        """Whether the denoiser came without weights; if with, none are to be loaded."""
        return not is_pretrained(self.denoiser)

    def fingerprint(self) -> dict[str, Any]:
        """As ``Enhancer.fingerprint``, with the denoiser and its weights' SHA-256."""
        own = fingerprint_of_denoiser(self._denoiser_block, self.denoiser)
        return super().fingerprint() | own

    def forward(self, lq: Tensor) -> Tensor:
        """(N,3,h,w) RGB in [0,1] -> I_DE (N,3,scale*h,scale*w), clamped to [0,1]."""
        return self.enhance(lq).clamp(0, 1)

    @torch.no_grad()
    def enhance(
        self,
        lq: Tensor,
        progress: Callable[[int, int], None] | None = None,
        fill: Filling | None = None,
    ) -> Tensor:
        """As ``forward`` without the clamp: for sigma_y = 0, ``operator.A`` of it is ``lq``.

        Args:
            lq: (N,3,h,w) RGB in [0, 1], any size.
            progress: called as ``progress(step, num_steps)`` after each denoiser call.
            fill: what a reference says of each step's x0, in [0, 1].

        Returns:
            (N,3,scale*h,scale*w), about [0, 1].

        Raises:
            ValueError: if ``lq`` is no such image.
        """
        check_image('lq', lq)
        height, width = lq.shape[-2:]
        multiple = self._stride // math.gcd(self._stride, self.scale)
        padded = pad_reflect(lq, multiple)
        if fill is not None:
            fill = fill.map(lambda image: pad_reflect(image, multiple * self.scale))
            fill = replace(fill, image=to_signed(fill.image))
        noise = CanvasNoise([content_key(self.sampling.seed, each) for each in lq])
        sigma_y = self.sampling.sigma
        x0_hat = sample_any_size(
            self._predict_noise,
            to_signed(padded),
            self.operator,
            replace(self.sampling, sigma_y=sigma_to_signed(sigma_y)),
            noise,
            progress,
            fill,
        )
        de = from_signed(x0_hat[..., : self.scale * height, : self.scale * width])
        # The crop cut into what A sees near the border: close the data consistency again.
        return self.operator.project(de, lq) if sigma_y == 0 else de

    def _predict_noise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Ask the denoiser in its own timesteps and dtype; its answer as eps."""
        dtype = next((p.dtype for p in self.denoiser.parameters()), x_t.dtype)
        steps = t.long()
        own_steps = self.denoiser_timesteps[steps]
        answer = self.runtime(self.denoiser, x_t.to(dtype), own_steps).to(x_t.dtype)
        if self.prediction == 'eps':
            return answer
        alpha_bar = self.schedule.alpha_bar.to(x_t.device)[steps].view(-1, 1, 1, 1).to(x_t)
        return eps_from(self.prediction, answer[:, : x_t.shape[1]], x_t, alpha_bar)
