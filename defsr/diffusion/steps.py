"""One reverse step of DDNM, DDNM+, DDIM and DDPM: tensors in, tensors out.

``alpha_bar`` is the level of x_t, ``alpha_bar_next`` that of the state to make. Equation numbers
are those of the DDNM paper (Wang et al., ICLR 2023).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from defsr.diffusion.operators import LinearOperator


def predict_x0(x_t: Tensor, eps: Tensor, alpha_bar: float) -> Tensor:
    """``x_{0|t}``, the clean image behind ``x_t`` if ``eps`` is its noise (DDNM Eq. 12)."""
    return torch.sub(x_t, eps, alpha=(1 - alpha_bar) ** 0.5).div_(alpha_bar**0.5)


def diffuse(x0: Tensor, noise: Tensor, alpha_bar: float | Tensor) -> Tensor:
    """``x0`` with noise up to a level: q(x_t | x_0). Time travel applies it to ``x_{0|t}``.

    The published code re-noises the *unrectified* prediction, and so do we.
    """
    return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise


def renoise(
    x0_hat: Tensor, eps: Tensor, noise: Tensor, alpha_bar_next: float, eta: float
) -> Tensor:
    """``x_{t-1}`` from the rectified ``x0_hat`` (DDNM Eq. 14).

    The paper takes DDPM's posterior; we follow the published code, whose noise is a mixture of
    a fresh and of the predicted one with shares eta and sqrt(1 - eta^2).
    """
    sigma_t = (1 - alpha_bar_next) ** 0.5
    x_next = alpha_bar_next**0.5 * x0_hat
    return x_next.add_(noise, alpha=sigma_t * eta).add_(eps, alpha=sigma_t * (1 - eta**2) ** 0.5)


def noisy_shares(
    singular: Tensor, alpha_bar_next: float, eta: float, sigma_y: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What DDNM+ does to each spectral coefficient (DDNM Eq. 17-19 in their SVD form).

    With a = sqrt(alpha_bar_next), sigma_t = sqrt(1 - alpha_bar_next) and a singular value s, the
    noise of ``y`` arrives in x_{t-1} as a * sigma_y / s. Below sigma_t it replaces part of the
    fresh noise; above, the correction is weakened until it fits.

    Args:
        singular: (H,W) singular values, 0 in the null space.
        alpha_bar_next: noise level of the next state.
        eta: share of fresh noise, 0..1.
        sigma_y: noise standard deviation of y, > 0.

    Returns:
        ``(correction, fresh, kept)``, each (H,W): the diagonal of Sigma_t, and the factors of
        the fresh and of the predicted noise, which add up to Phi_t. In the null space they are
        DDNM's. The noise variance of a coefficient of x_{t-1} is sigma_t^2 in every case.
    """
    a, sigma_t = alpha_bar_next**0.5, (1 - alpha_bar_next) ** 0.5
    kept_share = (1 - eta**2) ** 0.5
    measured = singular > 0
    arriving = a * sigma_y / torch.where(measured, singular, 1)
    fits = arriving <= sigma_t
    correction = torch.where(fits | ~measured, 1.0, sigma_t * kept_share / arriving)
    rest = (sigma_t**2 - arriving**2).clamp(min=0).sqrt()
    fresh = torch.where(measured & fits, rest, sigma_t * eta)
    kept = torch.where(measured, 0.0, torch.full_like(singular, sigma_t * kept_share))
    return correction, fresh, kept


def renoise_noisy(
    x0_hat: Tensor,
    eps: Tensor,
    noise: Tensor,
    alpha_bar_next: float,
    operator: LinearOperator,
    shares: Sequence[Tensor],
) -> Tensor:
    """``x_{t-1}`` of DDNM+ (DDNM Eq. 18): the noise is weighted in the spectral basis.

    Both kinds of noise are taken to the basis first, which the published operators leave out.
    """
    fresh, kept = shares
    mixed = fresh * operator.to_spectral(noise) + kept * operator.to_spectral(eps)
    return alpha_bar_next**0.5 * x0_hat + operator.from_spectral(mixed)


class Step(NamedTuple):
    """What the next state is made of: the rectified image, the state, its noise, fresh noise."""

    x0_hat: Tensor
    x_t: Tensor
    eps: Tensor
    noise: Tensor
    alpha_bar: float
    alpha_bar_next: float


class Rule(ABC):
    """How one reverse step makes a prediction consistent with y, and a next state of it.

    Args:
        y: (N,C,h,w), the measurement.
        operator: that made it.
        eta: share, or amount, of fresh noise, 0..1.
        sigma_y: noise standard deviation of y.

    Attributes:
        noisy: the rule that takes this one's place if y has noise; None if there is none.
    """

    noisy: type[Rule] | None = None

    def __init__(self, y: Tensor, operator: LinearOperator, eta: float, sigma_y: float) -> None:
        self.y, self.operator, self.eta, self.sigma_y = y, operator, eta, sigma_y

    def rectify(self, x0: Tensor, alpha_bar_next: float) -> Tensor:
        """``x0_hat``, the nearest image to ``x0`` that degrades to y (DDNM Eq. 13)."""
        return self.operator.project(x0, self.y)

    @abstractmethod
    def next_state(self, step: Step) -> Tensor:
        """``x_{t-1}``."""


class DDNMPlus(Rule):
    """DDNM+: y has noise of a known level (DDNM Eq. 17-19)."""

    singular: Tensor | None = None

    def rectify(self, x0: Tensor, alpha_bar_next: float) -> Tensor:
        """``x0 - Sigma_t A_pinv (A x0 - y)`` (DDNM Eq. 17), Sigma_t = V correction V^T."""
        operator = self.operator
        correction, _, _ = self._shares(x0, alpha_bar_next)
        error = operator.to_spectral(operator.A_pinv(operator.A(x0) - self.y))
        return x0 - operator.from_spectral(correction * error)

    def next_state(self, step: Step) -> Tensor:
        """See ``renoise_noisy``."""
        x0_hat, _, eps, noise, _, alpha_bar_next = step
        _, *shares = self._shares(x0_hat, alpha_bar_next)
        return renoise_noisy(x0_hat, eps, noise, alpha_bar_next, self.operator, shares)

    def _shares(self, like: Tensor, alpha_bar_next: float) -> tuple[Tensor, Tensor, Tensor]:
        if self.singular is None:
            height, width = like.shape[-2:]
            self.singular = self.operator.singular_values(height, width).to(like)
        return noisy_shares(self.singular, alpha_bar_next, self.eta, self.sigma_y)


class DDNM(Rule):
    """The published code's rule, see ``renoise``."""

    noisy = DDNMPlus

    def next_state(self, step: Step) -> Tensor:
        """See ``renoise``."""
        return renoise(step.x0_hat, step.eps, step.noise, step.alpha_bar_next, self.eta)


class DDIM(Rule):
    """DDIM's rule (Song et al. 2021, Eq. 12 and 16).

    ``eta`` scales DDPM's standard deviation: 0 is deterministic, 1 has DDPM's noise. It is not
    the ``eta`` of ``renoise``, which is a share of the noise of each step.
    """

    def next_state(self, step: Step) -> Tensor:
        x0_hat, _, eps, noise, alpha_bar, alpha_bar_next = step
        sigma = self.eta * _posterior_std(alpha_bar, alpha_bar_next)
        direction = (1 - alpha_bar_next - sigma**2) ** 0.5 * eps
        return alpha_bar_next**0.5 * x0_hat + direction + sigma * noise


class DDPM(Rule):
    """DDPM's posterior q(x_{t-1} | x_t, x0_hat): the paper's DDNM Eq. 14. Without ``eta``."""

    def next_state(self, step: Step) -> Tensor:
        x0_hat, x_t, _, noise, alpha_bar, alpha_bar_next = step
        alpha = alpha_bar / alpha_bar_next
        share_x0 = alpha_bar_next**0.5 * (1 - alpha) / (1 - alpha_bar)
        share_x_t = alpha**0.5 * (1 - alpha_bar_next) / (1 - alpha_bar)
        std = _posterior_std(alpha_bar, alpha_bar_next)
        return share_x0 * x0_hat + share_x_t * x_t + std * noise


RULES: dict[str, type[Rule]] = {
    'ddnm': DDNM,
    'ddim': DDIM,
    'ddpm': DDPM,
}  # by their name in option files


def _posterior_std(alpha_bar: float, alpha_bar_next: float) -> float:
    """Of q(x_{t-1} | x_t, x_0) (DDPM Eq. 7)."""
    beta = 1 - alpha_bar / alpha_bar_next
    return (beta * (1 - alpha_bar_next) / (1 - alpha_bar)) ** 0.5
