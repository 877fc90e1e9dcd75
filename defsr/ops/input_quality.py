"""Whether an image is clean enough to be reproduced to the bit: its noise, and traces of JPEG."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

PATCH = 5  # pixels
FLATTEST = 0.2  # share of the patches whose covariance is looked at
MOST_PATCHES = 200_000
STEPS = np.arange(2, 60)  # of quantization, in levels
FEWEST = 8  # coefficients beyond half a step, for a step to be judged by them
DCT = np.cos(np.pi / 16 * np.outer(np.arange(8), 2 * np.arange(8) + 1)) / 2  # the 8x8 one's rows
DCT[0] /= math.sqrt(2)
# Photographs reduced by 4: noise 0.8 levels and traces 0.13 at most; with noise of 2 levels
# 1.1 to 2.1, as JPEG 90 traces of 0.3 to 0.9.
CLEAN_NOISE = 1.2 / 255
CLEAN_TRACES = 0.25


def is_clean(image: Tensor) -> bool:
    """Whether no more than rounding lies between the scene and all of (N, 3, h, w) in [0, 1]."""
    return all(noise_level(one) < CLEAN_NOISE and jpeg_traces(one) < CLEAN_TRACES for one in image)


def noise_level(image: Tensor) -> float:
    """Standard deviation of the noise of (3, h, w), in the image's units.

    The smallest principal component of the flattest patches (Liu, Tanaka and Okutomi, 2013), of
    differences between colours: texture is nearly grey where noise is not. Of a grey image, of
    itself, where fine texture counts as noise.
    """
    red, green, blue = image.float().cpu()
    kinds = [(red - blue) / math.sqrt(2), (red - 2 * green + blue) / math.sqrt(6)]
    if all(float(kind.abs().max()) == 0 for kind in kinds):
        kinds = [green]
    return min(_least_deviation(kind) for kind in kinds)


def _least_deviation(image: Tensor) -> float:
    stride = math.ceil(math.sqrt(image.numel() / MOST_PATCHES))
    height, width = (max(0, PATCH - side) for side in image.shape)  # of tiny images
    image = F.pad(image[None, None], [0, width, 0, height])
    patches = F.unfold(image, PATCH, stride=stride)[0]
    patches = patches - patches.mean(dim=0)
    number = max(4 * PATCH**2, int(FLATTEST * patches.shape[1]))
    patches = patches[:, patches.square().mean(dim=0).argsort()[:number]]
    covariance = patches @ patches.T / patches.shape[1]
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(covariance)[1])))  # 0: of the means


def jpeg_traces(image: Tensor) -> float:
    """How much the coefficients of (3, h, w) in [0, 1] lie on multiples of a step: -1 to 1.

    The 8x8 DCT of Y from the upper left corner on, as JPEG quantizes it: the median over low
    frequencies of the best mean of cos(2 pi c / step), less what chance gives.
    """
    weights = torch.tensor([0.299, 0.587, 0.114])
    y = (255 * image.float().cpu() * weights[:, None, None]).sum(dim=0).numpy() - 128
    rows, columns = (side // 8 for side in y.shape)
    blocks = y[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8).swapaxes(1, 2)
    found = (DCT @ blocks @ DCT.T).reshape(-1, 8, 8)
    low = [(u, v) for u in range(8) for v in range(8 - u) if u + v > 0]
    return float(np.median([_on_steps(found[:, u, v]) for u, v in low]))


def _on_steps(coefficients: np.ndarray) -> float:
    best = 0.0
    for step in STEPS:
        beyond = coefficients[np.abs(coefficients) > 0.6 * step]
        if len(beyond) < FEWEST:
            break
        score = np.cos(2 * np.pi * beyond / step).mean() - 1 / math.sqrt(len(beyond))
        best = max(best, float(score))
    return best
