"""What lies between a scene and its image: noise, and traces of JPEG."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

PATCH = 5  # pixels
FLATTEST = 0.2  # share of the patches whose covariance is looked at
MOST_PATCHES = 200_000
STEPS = np.arange(2, 60)  # of quantization, in levels
BLOCK = 8  # of JPEG
FEWEST = 8  # coefficients beyond half a step, for a step to be judged by them
LOWEST = [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0)]  # frequencies that tell corners apart
CORNER_BLOCKS = 500
ANGLES = np.outer(np.arange(BLOCK), 2 * np.arange(BLOCK) + 1)
DCT = np.cos(np.pi / 16 * ANGLES) / 2  # the rows of the 8x8 one
DCT[0] /= math.sqrt(2)
FLATTEST_HAVE = 0.72  # of the deviation, measured: the flattest patches have the least noise
# Photographs reduced by 4: noise 0.8 levels and traces 0.13 at most; with noise of 2 levels
# 1.3 to 2.7, as JPEG 90 traces of 0.3 to 0.9.
CLEAN_NOISE = 1.65 / 255
CLEAN_TRACES = 0.25


@dataclass(frozen=True)
class Faults:
    """Standard deviations of what has been added to an image, in its units; 0: nothing is seen.

    Attributes:
        noise: of the noise of each colour.
        jpeg: of what JPEG has changed, on average over photographs.
    """

    noise: float
    jpeg: float

    @classmethod
    def of(cls, image: Tensor) -> Faults:
        """Of (3, h, w) in [0, 1]: what is more than rounding and the image's own texture."""
        noise = noise_level(image)
        traces, step = _quantization(image)
        return cls(
            noise if noise >= CLEAN_NOISE else 0.0,
            jpeg_deviation(step) if traces >= CLEAN_TRACES else 0.0,
        )

    @property
    def deviation(self) -> float:
        """Of both together."""
        return math.hypot(self.noise, self.jpeg)

    def __str__(self) -> str:
        kinds = []
        if self.noise:
            kinds.append(f'noise of {255 * self.noise:.0f} levels')
        if self.jpeg:
            kinds.append(f'traces of JPEG, about {255 * self.jpeg:.0f} levels')
        return ' and '.join(kinds) or 'no faults'


def is_clean(image: Tensor) -> bool:
    """Whether no more than rounding lies between the scene and all of (N, 3, h, w) in [0, 1]."""
    return all(Faults.of(one).deviation == 0 for one in image)


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
    return min(_least_deviation(kind) for kind in kinds) / FLATTEST_HAVE


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


def jpeg_deviation(step: float) -> float:
    """What quantization of the low frequencies by ``step`` levels changes, in units of [0, 1].

    Fitted to 14 photographs reduced by 4, qualities 95 to 20: 5.4 levels at steps of 5 (JPEG 90),
    8 at 12 (75), 11 at 24 (50); single images are within a factor of 1.7.
    """
    return 2.6 * step**0.45 / 255


def jpeg_traces(image: Tensor) -> float:
    """How much the coefficients of (3, h, w) in [0, 1] lie on multiples of a step: -1 to 1.

    The 8x8 DCT of Y as JPEG quantizes it, from the upper left corner on or, of what was cropped
    later, from the corner that fits: the median over low frequencies of the best mean of
    cos(2 pi c / step), less what chance gives.
    """
    return _quantization(image)[0]


def _quantization(image: Tensor) -> tuple[float, float]:
    """``jpeg_traces``, and the median of the steps that fit best."""
    weights = torch.tensor([0.299, 0.587, 0.114])
    y = (255 * image.float().cpu() * weights[:, None, None]).sum(dim=0).numpy() - 128
    found = _quantization_of(_spectra(y))
    if found[0] < CLEAN_TRACES and min(y.shape) >= 2 * BLOCK:
        corners = [(top, left) for top in range(BLOCK) for left in range(BLOCK)]
        fits = [_fit(y[top:, left:]) for top, left in corners]
        top, left = corners[int(np.argmax(fits))]
        found = max(found, _quantization_of(_spectra(y[top:, left:])))
    return found


def _spectra(y: np.ndarray, most: int | None = None) -> np.ndarray:
    """(n, 8, 8), the DCT of the blocks from the corner on, of ``most`` of them or of all."""
    rows, columns = (side // BLOCK for side in y.shape)
    blocks = y[: BLOCK * rows, : BLOCK * columns].reshape(rows, BLOCK, columns, BLOCK)
    blocks = blocks.swapaxes(1, 2).reshape(-1, BLOCK, BLOCK)
    return DCT @ blocks[:: math.ceil(len(blocks) / most) if most else 1] @ DCT.T


def _fit(y: np.ndarray) -> float:
    """``_on_steps`` of a few of the lowest frequencies, of some of the blocks."""
    found = _spectra(y, CORNER_BLOCKS)
    return float(np.median([_on_steps(found[:, u, v])[0] for u, v in LOWEST]))


def _quantization_of(found: np.ndarray) -> tuple[float, float]:
    low = [(u, v) for u in range(BLOCK) for v in range(BLOCK - u) if u + v > 0]
    scores, steps = zip(*(_on_steps(found[:, u, v]) for u, v in low), strict=True)
    seen = [step for step in steps if step]
    return float(np.median(scores)), float(np.median(seen)) if seen else 0.0


def _on_steps(coefficients: np.ndarray) -> tuple[float, int]:
    """The best score, and the step that has it; (0, 0) for none."""
    best = 0.0, 0
    for step in STEPS:
        beyond = coefficients[np.abs(coefficients) > 0.6 * step]
        if len(beyond) < FEWEST:
            break
        score = np.cos(2 * np.pi * beyond / step).mean() - 1 / math.sqrt(len(beyond))
        best = max(best, (float(score), int(step)))
    return best
