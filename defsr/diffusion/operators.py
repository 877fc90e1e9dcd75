"""Degradations as objects: A, its pseudo-inverse, and the spectral basis that DDNM+ needs.

With the singular value decomposition ``A = U S V^T``, "spectral" means the coefficients
``V^T x``, kept in the shape of the image. Functions of the singular values act there by
elementwise products, and nothing depends on which basis the decomposition picked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from defsr.ops.resize import (
    Border,
    apply_separable,
    bicubic_matrix,
    downsample_bicubic,
    downsample_pil,
)
from defsr.utils.checks import check_choice, check_divisible, check_int

Kind = Literal['symmetric', 'pil', 'mean']


class LinearOperator(ABC):
    """A linear degradation ``y = A x`` on NCHW images of any C, dtype and device."""

    scale: int  # sides of x to those of y

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """Degrade ``x`` (N,C,H,W)."""

    @abstractmethod
    def A_pinv(self, y: Tensor) -> Tensor:
        """Moore-Penrose pseudo-inverse: the smallest (N,C,H,W) that degrades to ``y``."""

    @abstractmethod
    def to_spectral(self, x: Tensor) -> Tensor:
        """``V^T x``: (N,C,H,W) -> coefficients (N,C,H,W), orthonormal."""

    @abstractmethod
    def from_spectral(self, z: Tensor) -> Tensor:
        """``V z``: the inverse of ``to_spectral``."""

    @abstractmethod
    def singular_values(self, height: int, width: int) -> Tensor:
        """One per coefficient of an image of that size: (H,W) float64, 0 in the null space."""

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """Replace the range-space part of ``x`` by that of ``y`` (DEF Eq. 9, DDNM Eq. 13).

        Args:
            x: (N,C,H,W).
            y: (N,C,h,w), the measurement.

        Returns:
            ``x - A_pinv(A(x) - y)``, so that ``A`` of it is ``y``.

        Raises:
            ValueError: if ``y`` has not the shape of ``A(x)``.
        """
        degraded = self.A(x)
        if degraded.shape != y.shape:
            raise ValueError(
                f'y is {tuple(y.shape)}, but x of shape {tuple(x.shape)} degrades to '
                f'{tuple(degraded.shape)} under {self!r}.'
            )
        return self.A_pinv(degraded - y).neg_().add_(x)


class SeparableDownsample(LinearOperator):
    """A downsampling whose rows and columns are handled by one 1-D matrix each.

    Args:
        kind: which 1-D matrix, see ``downsample_matrix``.
        scale: downsampling factor, an integer >= 1.

    Raises:
        ValueError: for a scale that is no positive integer.
    """

    def __init__(self, kind: Kind, scale: int) -> None:
        self._kind = kind
        self.scale = check_int('scale', scale, 1)

    def _check(self, name: str, x: Tensor, scale: int) -> Tensor:
        if x.ndim != 4 or not x.is_floating_point():
            raise ValueError(
                f'{name} is {x.dtype} of shape {tuple(x.shape)}, but must be floating point '
                '(N, C, H, W).'
            )
        return check_divisible(name, x, scale)

    def A_pinv(self, y: Tensor) -> Tensor:
        """(N,C,h,w) -> (N,C,scale*h,scale*w). ValueError if not 4-D floating point."""
        height, width = (self.scale * side for side in self._check('y', y, 1).shape[-2:])
        rows = _decompose(self._kind, height, self.scale).pinv
        columns = _decompose(self._kind, width, self.scale).pinv
        return apply_separable(y, rows, columns)

    def to_spectral(self, x: Tensor) -> Tensor:
        """``V^T x``, (N,C,H,W) -> (N,C,H,W). ValueError if a side is no multiple of scale."""
        height, width = self._check('x', x, self.scale).shape[-2:]
        return apply_separable(x, self._basis(height).T, self._basis(width).T)

    def from_spectral(self, z: Tensor) -> Tensor:
        """``V z``, (N,C,H,W) -> (N,C,H,W). ValueError if a side is no multiple of scale."""
        height, width = self._check('z', z, self.scale).shape[-2:]
        return apply_separable(z, self._basis(height), self._basis(width))

    def singular_values(self, height: int, width: int) -> Tensor:
        """(H,W) float64 on the CPU: products of the 1-D ones, 0 in the null space."""
        return torch.outer(self._padded_singular(height), self._padded_singular(width))

    def _basis(self, length: int) -> Tensor:
        return _spectral_basis(self._kind, length, self.scale)

    def _padded_singular(self, length: int) -> Tensor:
        singular = _decompose(self._kind, length, self.scale).singular
        return F.pad(singular, (0, length - len(singular)))


class BicubicDownsample(SeparableDownsample):
    """Bicubic downsampling, the degradation A of DEF Eq. 3, for any size divisible by scale.

    Args:
        scale: downsampling factor, an integer >= 1.
        border: ``symmetric`` equals MATLAB's and BasicSR's ``imresize``; ``pil`` treats the
            border as PIL does (without PIL's rounding). Default: ``symmetric``.

    Raises:
        ValueError: for another scale or border.

    Example:
        >>> operator = BicubicDownsample(4)
        >>> y = torch.rand(1, 3, 10, 12, dtype=torch.float64)
        >>> torch.allclose(operator.A(operator.A_pinv(y)), y)
        True
    """

    def __init__(self, scale: int, border: Border = 'symmetric') -> None:
        super().__init__(check_choice('border', border, ('symmetric', 'pil')), scale)
        self.border = border

    def __repr__(self) -> str:
        return f'BicubicDownsample(scale={self.scale}, border={self.border!r})'

    def A(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H/scale,W/scale). ValueError if not divisible."""
        self._check('x', x, self.scale)
        downsample = downsample_pil if self.border == 'pil' else downsample_bicubic
        return downsample(x, self.scale)


class AveragePoolDownsample(SeparableDownsample):
    """Block mean; the pseudo-inverse repeats each pixel, so A A_pinv = I (DEF Eq. 3).

    Args:
        scale: block side, an integer >= 1.
    """

    def __init__(self, scale: int) -> None:
        super().__init__('mean', scale)

    def __repr__(self) -> str:
        return f'AveragePoolDownsample(scale={self.scale})'

    def A(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H/scale,W/scale). ValueError if not divisible."""
        return F.avg_pool2d(self._check('x', x, self.scale), self.scale)

    def A_pinv(self, y: Tensor) -> Tensor:
        """(N,C,h,w) -> (N,C,scale*h,scale*w). ValueError if not 4-D floating point."""
        self._check('y', y, 1)
        return y.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


class _Decomposition(NamedTuple):
    pinv: Tensor  # (length, length / scale)
    singular: Tensor  # (length / scale,), descending


def downsample_matrix(kind: Kind, length: int, scale: int) -> Tensor:
    """The 1-D downsampling as a (length / scale, length) float64 matrix.

    Args:
        kind: ``symmetric`` or ``pil`` for bicubic with that border, ``mean`` for block means.
        length: input samples, a multiple of ``scale``.
        scale: downsampling factor.
    """
    if kind == 'mean':
        block = torch.full((1, scale), 1 / scale, dtype=torch.float64)
        return torch.kron(torch.eye(length // scale, dtype=torch.float64), block)
    return bicubic_matrix(length, 1 / scale, kind)


@lru_cache(maxsize=32)
def _decompose(kind: Kind, length: int, scale: int) -> _Decomposition:
    matrix = downsample_matrix(kind, length, scale)
    left, singular, right_t = torch.linalg.svd(matrix, full_matrices=False)
    cut = singular[0] * length * torch.finfo(singular.dtype).eps
    singular = torch.where(singular > cut, singular, 0)
    inverse = torch.where(singular > 0, 1 / singular, 0)
    return _Decomposition((right_t.T * inverse) @ left.T, singular)


@lru_cache(maxsize=16)
def _spectral_basis(kind: Kind, length: int, scale: int) -> Tensor:
    """V, (length, length), columns in the order of ``_decompose``'s singular values."""
    return torch.linalg.svd(downsample_matrix(kind, length, scale), full_matrices=True).Vh.T
