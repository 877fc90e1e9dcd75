"""The null space of the input filled from references, where these explain the input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.diffusion.operators import BicubicDownsample
from defsr.ops.evidence import Evidence

POWER, GATE_POWER = 6, 4  # of rho: what a reference's detail counts, and a network's result


def with_null_space(
    lq: Tensor,
    de: Tensor,
    parts: Sequence[tuple[Tensor, Evidence]],
    operator: BicubicDownsample,
) -> Tensor:
    """DEF's Eq. 9 with references as the image of the null space, where they explain the input.

    ``A_pinv y + (1 - M)(I - A_pinv A) I_DE + M a (I - A_pinv A) W``, M = rho^``POWER``, projected:
    M and a vary in space, so the sum alone would miss y.

    Args:
        lq: (N, 3, h, w), y.
        de: (N, 3, H, W), I_DE.
        parts: each reference W (N, 3, H, W) with its evidence; at each place the one with the
            largest rho counts.
        operator: A, with its pseudo-inverse.

    Returns:
        (N, 3, H, W) in [0, 1].
    """
    scale = operator.scale
    detail = de - operator.A_pinv(operator.A(de))
    best = torch.zeros_like(lq[:, :1])
    for image, evidence in parts:
        rho = evidence.rho
        wins = (rho > best).to(rho)
        best = torch.maximum(best, rho)
        share = enlarged(wins * rho**POWER, scale)
        own = image - operator.A_pinv(operator.A(image))
        detail = (1 - share) * detail + share * enlarged(evidence.gain, scale) * own
    return project(operator.A_pinv(lq) + detail, lq, operator)


def gated(de: Tensor, sr: Tensor, rho: Tensor, operator: BicubicDownsample) -> Tensor:
    """A result where the references explain the input, elsewhere I_DE: I_DE + rho^4 (sr - I_DE).

    Arguments as of ``with_null_space``; sr (N, 3, H, W), rho (N, 1, h, w) in [0, 1].
    """
    return de + enlarged(rho**GATE_POWER, operator.scale) * (sr - de)


def project(x: Tensor, lq: Tensor, operator: BicubicDownsample, rounds: int = 2) -> Tensor:
    """The image nearest to x whose A is y, in [0, 1]: clamping moves it, so in some rounds."""
    for _ in range(rounds):
        x = operator.project(x, lq).clamp(0, 1)
    return x


def enlarged(x: Tensor, scale: int) -> Tensor:
    """A map of the input's size at that of the result, bilinear."""
    return F.interpolate(x, scale_factor=float(scale), mode='bilinear')
