"""Enhancers: low-resolution image in, detail-enhanced input I_DE of DEF out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Literal

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor

from defsr.archs.blocks import build_inner
from defsr.archs.denoiser_runtime import DenoiserRuntime, Precision
from defsr.archs.denoisers import (
    as_trained,
    fingerprint_of_denoiser,
    is_pretrained,
)
from defsr.archs.enhancer_base import Enhancer
from defsr.diffusion.predictions import PREDICTIONS, eps_from
from defsr.diffusion.ranges import from_signed, sigma_to_signed, to_signed
from defsr.diffusion.sampler import check_sampling
from defsr.diffusion.schedule import ADM_SCHEDULE, build_schedule, complete_schedule
from defsr.diffusion.strategies import STRATEGIES, sample_any_size
from defsr.diffusion.windows import CanvasNoise, content_key
from defsr.ops.padding import pad_reflect
from defsr.ops.resize import upsample_bicubic
from defsr.utils.checks import check_at_least, check_choice, check_image, check_keys

SAMPLING_SCHEDULE = {'beta_start': 1e-6, 'beta_end': 1e-2, 'num_train_steps': 1000}
DIFFUSION = {
    'num_steps': 100,
    'eta': 0.85,
    'sigma_y': 0.0,
    'travel': (1, 1),
    'start': 'noise',
    'start_alpha_bar': 0.5,
    'end_alpha_bar': 1.0,
    'temperature': 1.0,
    'grid': 'ddnm',
    'rule': 'ddnm',
    'schedule': SAMPLING_SCHEDULE,
    'denoiser_schedule': ADM_SCHEDULE,
    'prediction': 'eps',
    'strategy': 'full',
    'tile': 256,
    'overlap': 128,
    'windows_per_batch': 8,
    'seed': 0,
}
SAMPLING = (
    'num_steps', 'eta', 'travel', 'start', 'start_alpha_bar', 'end_alpha_bar', 'temperature',
    'grid', 'rule',
)  # fmt: skip
SCHEDULES = {'schedule': SAMPLING_SCHEDULE, 'denoiser_schedule': ADM_SCHEDULE}
QUANTIZATION = 1 / (255 * math.sqrt(12))  # std of rounding to 8 bit, on the [0, 1] scale


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
        diffusion (dict | None): sampling options; what is missing keeps its default.
            num_steps: reverse steps, 1..num_train_steps. Default: 100.
            eta: share of fresh noise in DDNM's convention, 0..1. Default: 0.85.
            sigma_y: noise std of lq on the [0,1] scale; above 0, DDNM+. ``quantization``: that
                of rounding to 8 bit, 1 / (255 sqrt(12)). Default: 0.
            travel: [length, repeats] of time travel, both >= 1. Default: [1, 1], none.
            start: ``noise``, or ``lq``: from A_pinv lq with noise of level start_alpha_bar.
            start_alpha_bar: for ``start: lq``, 0..1. Default: 0.5.
            end_alpha_bar: cleaner levels are not visited, 0..1. Default: 1.
            temperature: factor of all noise, 0..1; 0 with eta 1 is plug-and-play restoration.
                Default: 1.
            grid: ``ddnm``, ``trailing`` or ``log_snr``, see ``defsr.diffusion.times``.
            rule: ``ddnm``, ``ddim`` or ``ddpm``, see ``defsr.diffusion.ddnm_sample``.
            schedule: to sample with; beta_start, beta_end, num_train_steps of a linear one, or
                ``type: cosine`` and num_train_steps. Default: linear, 1e-6, 1e-2, 1000, as in DEF.
            denoiser_schedule: the same of the denoiser's training. Default: what the denoiser
                says of it (``DiffusersUNet``), else linear, 1e-4, 2e-2, 1000.
            prediction: what the denoiser was trained to answer, ``eps``, ``v`` or ``x0``.
                Default: what the denoiser says, else ``eps``.
            strategy: for images larger than ``tile``: ``full``, ``blend``, ``replace`` or
                ``mask_shift``, see ``defsr.diffusion.strategies``. Default: ``full``.
            tile: side of a window in HR pixels, a multiple of the denoiser's stride. Default: 256.
            overlap: of neighbouring windows in HR pixels, at least. Default: 128.
            windows_per_batch: for ``blend``, windows in one call of the denoiser. Default: 8.
            seed: of the noise, >= 0. Default: 0.
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

    def __init__(
        self,
        denoiser: Mapping[str, object],
        scale: int = 4,
        diffusion: Mapping[str, object] | None = None,
        degradation: Literal['matlab', 'pil'] = 'matlab',
        *,
        precision: Precision = 'fp32',
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__(scale, degradation)
        self.runtime = DenoiserRuntime(precision, channels_last, compile)
        self.precision, self.channels_last = precision, channels_last
        given = dict(diffusion or {})
        check_keys('network_e:diffusion', given, DIFFUSION)
        opt = DIFFUSION | given
        self.schedule = build_schedule(
            'network_e:diffusion:schedule', opt['schedule'], SAMPLING_SCHEDULE
        )
        self.division = {
            'strategy': check_choice('network_e:diffusion:strategy', opt['strategy'], STRATEGIES),
            'side': check_at_least('network_e:diffusion:tile', opt['tile'], 1),
            'overlap': check_at_least('network_e:diffusion:overlap', opt['overlap'], 0),
            'windows_per_batch': check_at_least(
                'network_e:diffusion:windows_per_batch', opt['windows_per_batch'], 1
            ),
        }
        trained = build_schedule(
            'network_e:diffusion:denoiser_schedule', opt['denoiser_schedule'], ADM_SCHEDULE
        )
        self.sigma_y = QUANTIZATION if opt['sigma_y'] == 'quantization' else opt['sigma_y']
        travel = opt['travel']
        self.sampling = {key: opt[key] for key in SAMPLING}
        self.sampling['travel'] = tuple(travel) if isinstance(travel, list) else travel
        self.prediction = check_choice(
            'network_e:diffusion:prediction', opt['prediction'], PREDICTIONS
        )
        self.seed = check_at_least('network_e:diffusion:seed', opt['seed'], 0)
        check_sampling(self.schedule, sigma_y=self.sigma_y, **self.sampling)
        self.denoiser = self.runtime.arrange(
            build_inner('network_e:denoiser', denoiser).requires_grad_(False)
        )
        trained, self.prediction = as_trained(self.denoiser, trained, self.prediction, given)
        self._denoiser_block = deepcopy(denoiser)
        completed = {key: complete_schedule(opt[key], full) for key, full in SCHEDULES.items()}
        self.diffusion = opt | completed | {'prediction': self.prediction}
        self._check_tile()
        timesteps = trained.timesteps_at(self.schedule.alpha_bar).float()
        self.register_buffer('denoiser_timesteps', timesteps, persistent=False)
        self.eval()

    @property
    def needs_weights(self) -> bool:
        """Whether the denoiser came without weights; if with, none are to be loaded."""
        return not is_pretrained(self.denoiser)

    def fingerprint(self) -> dict[str, object]:
        """As ``Enhancer.fingerprint``, with the denoiser and its weights' SHA-256."""
        own = fingerprint_of_denoiser(self._denoiser_block, self.denoiser)
        return super().fingerprint() | own

    def _check_tile(self) -> None:
        tile = self.division['side']
        multiple = math.lcm(getattr(self.denoiser, 'stride', 1), self.scale)
        if self.division['strategy'] != 'full' and tile % multiple:
            raise ValueError(
                f'network_e:diffusion:tile is {tile}, but must be a multiple of {multiple} '
                f"(scale and the denoiser's stride). Nearest: {tile - tile % multiple}."
            )

    def train(self, mode: bool = True) -> DDNMEnhancer:
        """Stay in eval mode, whatever the model around it does."""
        return super().train(False)

    def forward(self, lq: Tensor) -> Tensor:
        """(N,3,h,w) RGB in [0,1] -> I_DE (N,3,scale*h,scale*w), clamped to [0,1]."""
        return self.enhance(lq).clamp(0, 1)

    @torch.no_grad()
    def enhance(self, lq: Tensor, progress: Callable[[int, int], None] | None = None) -> Tensor:
        """As ``forward`` without the clamp: for sigma_y = 0, ``operator.A`` of it is ``lq``.

        Args:
            lq: (N,3,h,w) RGB in [0, 1], any size.
            progress: called as ``progress(step, num_steps)`` after each denoiser call.

        Returns:
            (N,3,scale*h,scale*w), about [0, 1].

        Raises:
            ValueError: if ``lq`` is no such image.
        """
        check_image('lq', lq)
        height, width = lq.shape[-2:]
        stride = getattr(self.denoiser, 'stride', 1)
        padded = pad_reflect(lq, stride // math.gcd(stride, self.scale))
        noise = CanvasNoise([content_key(self.seed, each) for each in lq])
        x0_hat = sample_any_size(
            self._predict_noise,
            to_signed(padded),
            self.operator,
            self.schedule,
            noise,
            self.sampling | {'sigma_y': sigma_to_signed(self.sigma_y)},
            **self.division,
            progress=progress,
        )
        de = from_signed(x0_hat[..., : self.scale * height, : self.scale * width])
        # The crop cut into what A sees near the border: close the data consistency again.
        return self.operator.project(de, lq) if self.sigma_y == 0 else de

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
