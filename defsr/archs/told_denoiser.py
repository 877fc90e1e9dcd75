"""What denoisers share that are told how much noise there is."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from defsr.archs.denoisers import check_sides
from defsr.diffusion.ranges import alpha_bar_of, from_signed, to_signed
from defsr.diffusion.schedule import NoiseSchedule

NUM_LEVELS = 1000


class ToldDenoiser(nn.Module):
    """``(x_t, t) -> x0`` of a network that takes an image and the standard deviation of its noise.

    A state of a diffusion, ``sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps``, is such an image
    after a division by ``sqrt(alpha_bar)``, its sigma ``sqrt(1 / alpha_bar - 1) / 2`` on the
    [0, 1] scale.

    Attributes:
        largest_sigma: of its training, on the [0, 1] scale.
        stride: both sides of x_t must be multiples of it.
        around: context that a piece of a large image wants on each side, pixels.
        trained_schedule: its timesteps, in equal steps of sigma up to the largest; for more noise,
            below ``trained_schedule.alpha_bar[-1]``, it was not trained, and ``DDNMEnhancer``
            refuses to ask it.
        trained_prediction: ``x0``.
    """

    largest_sigma: ClassVar[float]
    stride: int
    around: ClassVar[int]
    trained_prediction = 'x0'
    is_bounded = True

    def __init__(self) -> None:
        super().__init__()
        steps = torch.arange(1, NUM_LEVELS + 1, dtype=torch.float64, device='cpu')
        self.trained_schedule = NoiseSchedule(alpha_bar_of(self.largest_sigma * steps / NUM_LEVELS))

    @abstractmethod
    def denoised(self, image: Tensor, sigma: Tensor) -> Tensor:
        """The clean image (N,C,H,W) behind one about [0, 1] with noise of sigma, (N,1,1,1)."""

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(N,C,H,W) and (N,) timesteps of ``trained_schedule`` -> x0 (N,C,H,W), about [-1, 1].

        Raises:
            ValueError: if a side is no multiple of ``stride``.
        """
        check_sides(x_t, self.stride)
        alpha_bar = self.trained_schedule.alpha_bar_at(t.clamp(0, NUM_LEVELS - 1))
        alpha_bar = alpha_bar.view(-1, 1, 1, 1)
        image = from_signed(x_t / alpha_bar.sqrt().to(x_t))
        sigma = ((1 / alpha_bar - 1).sqrt() / 2).to(x_t)
        return to_signed(self.denoised(image, sigma))
