"""A reference in the frame of a photograph, as rectifying leaves real ones: with planted errors.

What remains wrong after fields and flows is drawn first - smooth displacements, layers that move on
their own, other content, other light, another camera - and then treated as in use: by the same
optical flows against the same soft input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.data.pair_synthesis import apply_photometry, draw_photometry
from defsr.diffusion.degradation import Degradation
from defsr.ops.dense_warp import linear_field, positions, rotation, warp
from defsr.rectify.rectifier import eroded, flowed

PERIODS = (80, 240), (24, 80)  # pixels, of the smooth displacements
LAYERS, LONGEST = 4, 10.0  # fewer layers than this, and pixels that one may move
OTHERS = 3  # fewer patches of other content than this
JITTER = (8, 24), 1.0  # pixels: period and size of what no flow can follow


@dataclass(frozen=True)
class MadeView:
    """A photograph and what a reference of it looks like in its frame.

    Attributes:
        gt: (1, 3, H, W), sides multiples of the scale.
        image: (1, 3, H, W) in [0, 1].
        valid: (1, 1, h, w) bool.
    """

    gt: Tensor
    image: Tensor
    valid: Tensor


def make_view(
    gt: Tensor, other: Tensor, degradation: Degradation, rng: np.random.Generator
) -> MadeView:
    """Draw a reference of ``gt``.

    Args:
        gt: (1, 3, H, W) RGB in [0, 1].
        other: another photograph of any size, for what the reference does not share.
        degradation: of the input.
        rng: decides everything.
    """
    gt, lq = degradation.make_lq(gt)
    size = (gt.shape[-2], gt.shape[-1])
    other = F.interpolate(other, size=size, mode='bicubic', antialias=True).clamp(0, 1)
    ref = _another_camera(rng, _other_content(rng, gt, other))
    field = positions(*size) + _displacements(rng, size)
    if rng.random() < 0.5:  # sampled a second time, as a view that is turned and zoomed is
        centre = torch.tensor([(side - 1) / 2 for side in size], dtype=torch.float64)
        linear = _turn(rng)
        ref = warp(ref, linear_field(linear, centre - linear @ centre, size))[0].clamp(0, 1)
        back = torch.linalg.inv(linear).float()
        middle = centre.float().view(2, 1, 1)
        field = torch.einsum('ij,jhw->ihw', back, field - middle) + middle
    field = flowed(lq, degradation.operator.A_pinv(lq), ref, field, degradation)
    if rng.random() < 0.65:
        field = field + JITTER[1] * rng.random() * _noise(rng, 2, size, rng.uniform(*JITTER[0]))
    image, inside = warp(ref, field)
    whole = F.avg_pool2d(inside.to(lq), degradation.scale) > 0.999
    if rng.random() < 0.4:  # matches were found in a part of the image alone
        cells = (lq.shape[-2], lq.shape[-1])
        whole &= _blob(rng, cells, rng.uniform(0.4, 0.95), rng.uniform(15, 60))
    return MadeView(gt, image.clamp(0, 1), eroded(whole))


def _other_content(rng: np.random.Generator, gt: Tensor, other: Tensor) -> Tensor:
    size = (gt.shape[-2], gt.shape[-1])
    if rng.random() < 0.07:
        return other
    ref = gt
    if rng.random() < 0.4:  # taken from farther away
        coarse = F.interpolate(gt, scale_factor=rng.uniform(0.5, 1), mode='bicubic', antialias=True)
        ref = F.interpolate(coarse, size=size, mode='bicubic').clamp(0, 1)
    for _ in range(rng.integers(OTHERS)):
        ref = torch.where(
            _blob(rng, size, rng.uniform(0.02, 0.2), rng.uniform(30, 160)), other, ref
        )
    return ref


def _another_camera(rng: np.random.Generator, ref: Tensor) -> Tensor:
    """Colours, light, sharpness, noise and compression."""
    image = np.ascontiguousarray(ref[0].permute(1, 2, 0).numpy())
    image = apply_photometry(image, draw_photometry(rng, rng.choice([0.0, 0.5, 1.0, 1.5])))
    if rng.random() < 0.4:
        light = _noise(rng, 1, (ref.shape[-2], ref.shape[-1]), rng.uniform(60, 250))
        image = image * torch.exp(0.25 * rng.random() * light)[0, ..., None].numpy()
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
    elif rng.random() < 0.25:
        image = image + rng.uniform(0.2, 0.8) * (image - cv2.GaussianBlur(image, (0, 0), 1.0))
    if rng.random() < 0.4:
        image = image + rng.standard_normal(image.shape) * rng.uniform(0.5, 4) / 255
    levels = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 97))]
        levels = cv2.imdecode(cv2.imencode('.jpg', levels, quality)[1], cv2.IMREAD_COLOR)
    return torch.from_numpy(levels.astype(np.float32) / 255).permute(2, 0, 1)[None]


def _displacements(rng: np.random.Generator, size: tuple[int, int]) -> Tensor:
    """(2, H, W) in pixels, before the flows."""
    total = torch.zeros(2, *size)
    strength = math.exp(rng.uniform(math.log(0.2), math.log(5)))
    for low, high in PERIODS:
        period = rng.uniform(low, high)
        total += strength * rng.uniform(0.2, 1) * period / 120 * _noise(rng, 2, size, period)
    for _ in range(rng.integers(LAYERS)):
        layer = _blob(rng, size, rng.uniform(0.03, 0.4), rng.uniform(20, 160))[0, 0]
        length, angle = LONGEST * rng.random() * rng.random(), rng.uniform(0, 2 * math.pi)
        shift = torch.tensor([length * math.sin(angle), length * math.cos(angle)])
        total += layer * shift.view(2, 1, 1)
    return total


def _turn(rng: np.random.Generator) -> Tensor:
    zoom, angle = math.exp(rng.uniform(-0.15, 0.3)), math.radians(rng.uniform(-20, 20))
    return rotation(angle) / zoom


def _noise(rng: np.random.Generator, channels: int, size: tuple[int, int], period: float) -> Tensor:
    """(channels, H, W), smooth, of deviation about 0.7."""
    nodes = [max(2, math.ceil(side / period)) + 2 for side in size]
    values = torch.from_numpy(rng.standard_normal((1, channels, *nodes))).float()
    return F.interpolate(values, size=size, mode='bicubic', align_corners=False)[0]


def _blob(rng: np.random.Generator, size: tuple[int, int], share: float, period: float) -> Tensor:
    """(1, 1, H, W) bool, true in about ``share`` of the places, in patches."""
    noise = _noise(rng, 1, size, period)
    return (noise > torch.quantile(noise.flatten()[::7], 1 - share))[None]
