"""Bicubic resizing as a pair of matrices: MATLAB's (BasicSR's ``imresize``) and PIL's borders."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from defsr.ops.exporting import is_exporting, upsample_plainly
from defsr.ops.float32 import in_float32
from defsr.utils.checks import check_divisible

Border = Literal['symmetric', 'pil']
REACH = 2  # pixels on each side of one that upsampling asks


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel with a = -0.5, as MATLAB and PIL use it."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=64)
def bicubic_matrix(in_length: int, scale: float, border: Border = 'symmetric') -> Tensor:
    """The 1-D bicubic resampling as a matrix, float64.

    Args:
        in_length: number of input samples, >= 1.
        scale: output per input samples; below 1 the kernel is widened against aliasing.
        border: ``symmetric`` mirrors the signal, edge sample included (MATLAB, BasicSR's
            ``imresize``); ``pil`` cuts the kernel at the border and renormalises it (PIL).

    Returns:
        (ceil(in_length * scale), in_length), each row summing to 1. Shared: do not write to it.
    """
    return torch.from_numpy(_bicubic_array(in_length, scale, border))


def _bicubic_array(in_length: int, scale: float, border: Border) -> np.ndarray:
    out_length = int(np.ceil(in_length * scale))
    stretch = min(scale, 1.0)
    radius = 2.0 / stretch
    centre = (np.arange(out_length) + 0.5) / scale - 0.5
    left = np.floor(centre - radius).astype(np.int64)
    taps = left[:, None] + np.arange(int(np.ceil(2 * radius)) + 2)
    weights = _cubic((centre[:, None] - taps) * stretch)
    if border == 'pil':
        weights = np.where((taps >= 0) & (taps < in_length), weights, 0.0)
        taps = taps.clip(0, in_length - 1)
    else:
        period = taps % (2 * in_length)
        taps = np.where(period < in_length, period, 2 * in_length - 1 - period)
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((out_length, in_length))
    np.add.at(matrix, (np.arange(out_length)[:, None], taps), weights)
    return matrix


@in_float32
def apply_separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N,C,H,W) -> (N,C,H',W') by ``rows`` (H',H) and ``columns`` (W',W), in x's dtype.

    Under autocast in float32: an image that is only resized keeps all of its digits.
    """
    rows, columns = rows.to(x), columns.to(x)
    return rows @ (x @ columns.T)


def _resize(x: Tensor, scale: float, border: Border) -> Tensor:
    height, width = x.shape[-2:]
    rows, columns = bicubic_matrix(height, scale, border), bicubic_matrix(width, scale, border)
    return apply_separable(x, rows, columns)


def downsample_bicubic(x: Tensor, scale: int) -> Tensor:
    """(N,C,H,W) -> (N,C,H/scale,W/scale), MATLAB's bicubic, not clamped.

    Equals BasicSR's ``imresize(x, 1 / scale)``. ValueError if a side is no multiple of ``scale``.
    """
    return _resize(check_divisible('x', x, scale), 1 / scale, 'symmetric')


def downsample_pil(x: Tensor, scale: int) -> Tensor:
    """As ``downsample_bicubic`` with PIL's treatment of the border, without PIL's rounding."""
    return _resize(check_divisible('x', x, scale), 1 / scale, 'pil')


def upsample_bicubic(x: Tensor, scale: int, border: Border = 'symmetric') -> Tensor:
    """(N,C,h,w) -> (N,C,scale*h,scale*w), MATLAB's bicubic, not clamped: the usual baseline.

    With ``border: pil`` PIL's, without its rounding.

    Example:
        >>> upsample_bicubic(torch.full((1, 3, 10, 12), 0.5), 4).shape
        torch.Size([1, 3, 40, 48])
    """
    if is_exporting() and border == 'symmetric':
        middle = _bicubic_array(2 * REACH + 1, scale, border)[REACH * scale : (REACH + 1) * scale]
        return upsample_plainly(x, middle.tolist(), -REACH)
    return _resize(x, float(scale), border)
