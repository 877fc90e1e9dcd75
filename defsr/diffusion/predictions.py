"""What a denoiser may be trained to predict, and how one prediction becomes another.

With ``x_t = a x0 + s eps``, ``a = sqrt(alpha_bar)``, ``s = sqrt(1 - alpha_bar)``:
``v = a eps - s x0`` (Salimans and Ho 2022), so ``x0 = a x_t - s v`` and ``eps = s x_t + a v``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Prediction = Literal['eps', 'v', 'x0']
PREDICTIONS = ('eps', 'v', 'x0')


def target_of(prediction: Prediction, x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the denoiser should have answered.

    Args:
        prediction: the kind.
        x0, eps: (N,C,H,W), the clean image and its noise.
        alpha_bar: broadcasts to them.
    """
    if prediction == 'v':
        return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0
    return {'eps': eps, 'x0': x0}[prediction]


def eps_from(prediction: Prediction, answer: Tensor, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """The noise behind a denoiser's answer."""
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction == 'v':
        return s * x_t + a * answer
    return answer if prediction == 'eps' else (x_t - a * answer) / s


def x0_from(prediction: Prediction, answer: Tensor, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """The clean image behind a denoiser's answer."""
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction == 'v':
        return a * x_t - s * answer
    return answer if prediction == 'x0' else (x_t - s * answer) / a


def min_snr_weight(prediction: Prediction, alpha_bar: Tensor, gamma: float) -> Tensor:
    """Weight of the squared error of each level: min(SNR, gamma) on x0 (Hang et al. 2023).

    Args:
        prediction: what the error is measured on.
        alpha_bar: any shape; SNR = alpha_bar / (1 - alpha_bar).
        gamma: the larger, the more the clean levels count, > 0.
    """
    snr = alpha_bar / (1 - alpha_bar)
    on_x0 = torch.clamp(snr, max=gamma)
    weights: dict[str, Tensor | float] = {'x0': 1, 'eps': snr, 'v': snr + 1}
    return on_x0 / weights[prediction]
