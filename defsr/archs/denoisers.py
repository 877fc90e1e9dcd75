"""What a denoiser knows about its own training.

A denoiser is any registered arch ``(x_t, t) -> answer``. It may have these attributes:
``stride``, both sides of x_t must be multiples of it (default: 1; whoever asks it pads, see
``defsr.ops.padding``); and, if it brings its weights along, ``is_pretrained`` (true),
``trained_schedule`` (a ``NoiseSchedule``), ``trained_prediction`` (``eps``, ``v`` or ``x0``) and
``trained_config`` (its own options, where the block's do not tell). One that was trained for no
more noise than its schedule ends with says ``is_bounded``; it is not asked beyond.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.diffusion.options import SamplingOptions
from defsr.diffusion.predictions import Prediction
from defsr.diffusion.schedule import NoiseSchedule
from defsr.utils.fingerprints import digest_of_state, plain, with_defaults


def check_sides(x_t: Tensor, stride: int) -> None:
    """ValueError if a side of (N,C,H,W) is no multiple of ``stride``."""
    height, width = x_t.shape[-2:]
    if height % stride or width % stride:
        raise ValueError(
            f'x_t is {height}x{width} (HxW), but both sides must be multiples of {stride}.'
        )


def is_pretrained(denoiser: nn.Module) -> bool:
    """Whether it has trained weights from its own arguments on."""
    return getattr(denoiser, 'is_pretrained', False)


def fingerprint_of_denoiser(block: Mapping[str, Any], denoiser: nn.Module) -> dict[str, Any]:
    """All of a denoiser that determines its answers, as JSON holds it.

    Args:
        block: that it was built of. Where on the disk a ``folder`` is does not count.
        denoiser: the network.

    Returns:
        ``denoiser``, options with their defaults, and ``denoiser_sha256`` of its weights, and of
        the schedule it was trained with if it has one of its own.
    """
    options = with_defaults(ARCH_REGISTRY.get(block['type']), block)
    options |= getattr(denoiser, 'trained_config', {})
    state = denoiser.state_dict()
    schedule = getattr(denoiser, 'trained_schedule', None)
    if schedule is not None:
        state = {**state, 'trained_schedule': schedule.alpha_bar}
    return {
        'denoiser': plain(options, without=('folder',)),
        'denoiser_sha256': digest_of_state(state),
    }


def as_trained(denoiser: nn.Module, sampling: SamplingOptions) -> tuple[NoiseSchedule, Prediction]:
    """The schedule and the prediction that a denoiser was trained with: its word, else ours.

    Args:
        denoiser: see the head of this module.
        sampling: the options, of which ``denoiser_schedule`` and ``prediction`` count.

    Raises:
        ValueError: if the options say something else than the denoiser, or ask it for more noise
            than it knows.
    """
    said, predicts = sampling.trained_with, sampling.prediction or 'eps'
    own_schedule = getattr(denoiser, 'trained_schedule', None) or said
    own_prediction = getattr(denoiser, 'trained_prediction', None) or predicts
    contradicted = [
        key
        for key, same in (
            ('denoiser_schedule', _same(own_schedule, said)),
            ('prediction', own_prediction == predicts),
        )
        if getattr(sampling, key) is not None and not same
    ]
    if contradicted:
        raise ValueError(
            f'{sampling.where}:{contradicted[0]} is not what network_e:denoiser says of its '
            f'own training ({own_prediction}, alpha_bar {own_schedule.alpha_bar[0]:.6f} .. '
            f'{own_schedule.alpha_bar[-1]:.3g} in {own_schedule.num_train_steps} steps). '
            'Remove the option.'
        )
    if getattr(denoiser, 'is_bounded', False):
        _check_noisiest(type(denoiser).__name__, own_schedule, sampling)
    return own_schedule, own_prediction


def _check_noisiest(name: str, trained: NoiseSchedule, sampling: SamplingOptions) -> None:
    """Refuse to ask for more noise than a denoiser was trained with."""
    noisiest, least = (
        float(x) for x in (sampling.levels.alpha_bar[sampling.times[-1]], trained.alpha_bar[-1])
    )
    if noisiest < least:
        raise ValueError(
            f'{sampling.where} begins at alpha_bar {noisiest:.3g}, with more noise than {name} was '
            f'trained for. Set start: lq and start_alpha_bar to {least + 0.0005:.3f} or more.'
        )


def _same(one: NoiseSchedule, other: NoiseSchedule) -> bool:
    same_length = one.num_train_steps == other.num_train_steps
    return same_length and torch.allclose(one.alpha_bar, other.alpha_bar, rtol=1e-4, atol=0)
