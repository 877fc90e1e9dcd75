"""Adversarial losses of images by themselves, or by how they compare with the other kind."""

from __future__ import annotations

from torch import Tensor, nn


def generator_loss(
    cri_gan: nn.Module, net_d: nn.Module, fake: Tensor, real: Tensor | None
) -> Tensor:
    """What the generator is told, a scalar.

    Args:
        cri_gan: BasicSR's ``GANLoss``.
        net_d: the critic, whose parameters ask for no gradient.
        fake: (N, 3, H, W), the generator's.
        real: (N, 3, H, W): relativistic average (ESRGAN Eq. 2), each score less the mean of the
            other kind's. None: fake images alone.
    """
    fake_pred = net_d(fake)
    if real is None:
        return cri_gan(fake_pred, True, is_disc=False)
    real_pred = net_d(real).detach()
    as_real = cri_gan(fake_pred - real_pred.mean(), True, is_disc=False)
    return (as_real + cri_gan(real_pred - fake_pred.mean(), False, is_disc=False)) / 2


def critic_losses(
    cri_gan: nn.Module, real_pred: Tensor, fake_pred: Tensor, *, relativistic: bool
) -> tuple[Tensor, Tensor]:
    """What the critic is told of real and of fake images, from its scores (N, ...) of both."""
    if not relativistic:
        return cri_gan(real_pred, True, is_disc=True), cri_gan(fake_pred, False, is_disc=True)
    real = cri_gan(real_pred - fake_pred.detach().mean(), True, is_disc=True)
    fake = cri_gan(fake_pred - real_pred.detach().mean(), False, is_disc=True)
    return real / 2, fake / 2
