"""In which precision a network is trained, and whether it is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from defsr.archs.denoiser_runtime import Precision
from defsr.archs.lazy_compile import LazyCompile
from defsr.running.loss_scale import LossScale
from defsr.utils.checks import check_choice
from defsr.utils.devices import has_gpu, why_no_gpu

PRECISIONS: tuple[Precision, ...] = ('fp32', 'bf16', 'fp16')


def train_precision(opt: Mapping[str, Any]) -> Precision:
    """``train:precision`` of an option file; ValueError for what is not offered here."""
    train = opt.get('train') or {}
    precision = check_choice('train:precision', train.get('precision', 'fp32'), PRECISIONS)
    num_gpu = opt.get('num_gpu')
    if precision == 'fp16' and not has_gpu(num_gpu):
        raise ValueError(
            f'train:precision is fp16, which is for GPUs, but {why_no_gpu(num_gpu)}. Set bf16, '
            'which has the range of fp32, or fp32.'
        )
    return precision


def loss_scale(opt: Mapping[str, Any], device: torch.device) -> LossScale | None:
    """What fp16 needs; None for the others, whose gradients have the range of float32."""
    return LossScale(device.type) if train_precision(opt) == 'fp16' else None


def train_compile(opt: Mapping[str, Any]) -> bool:
    """``train:compile``; ValueError if it is neither true nor false, and for several processes."""
    asked = check_choice(
        'train:compile', (opt.get('train') or {}).get('compile', False), (True, False)
    )
    if asked and opt.get('dist'):
        raise ValueError(
            'train:compile is true, but is for one process. Set it to false, or start without '
            '--launcher.'
        )
    return asked


def lazy_compile(opt: Mapping[str, Any]) -> LazyCompile | None:
    """How ``network_g`` is called if ``train:compile`` is set."""
    return LazyCompile('train:compile') if train_compile(opt) else None
