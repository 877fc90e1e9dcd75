"""Modulated deformable convolution around given base positions (the sum of DEF Eq. 13)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from defsr.ops.exporting import TAPS, is_exporting, sample_plainly
from defsr.ops.float32 import in_float32
from defsr.utils.packages import HAS_NUMBA

PIECE = 2**17  # samples, of one group at one tap, that are worked on at a time

Backend = Literal['auto', 'torchvision', 'gather', 'grid_sample']


@in_float32
def deform_conv_at(
    feat: Tensor,
    base_yx: Tensor,
    offset_yx: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    backend: Backend = 'auto',
) -> Tensor:
    """Nine-tap modulated deformable convolution of ``feat`` around ``base_yx``.

    Output at p: sum over taps j of ``w_j feat(base(p) + tap_j + offset_j(p)) mask_j(p)``,
    bilinear, zero outside the map; taps run row by row, (-1,-1) first. In float32 under
    autocast, too.

    Args:
        feat: (N, C, H', W'), the map sampled from.
        base_yx: (N, 2, H, W) base positions in pixels of ``feat``, rows then columns.
        offset_yx: (N, G*9*2, H, W); per group and tap the row, then the column offset.
        mask: (N, G*9, H, W) modulation.
        weight: (C_out, C, 3, 3).
        bias: (C_out,) or None.
        backend: ``gather`` (any sizes as they are; a channels-last ``feat`` is not copied),
            ``torchvision`` (its kernels want equal sizes, so the smaller map is padded),
            ``auto``: torchvision on CUDA, where its kernels are parallel; gather elsewhere,
            where they are serial. ``grid_sample`` is the former name of ``gather``.

    Returns:
        (N, C_out, H, W).

    Example:
        >>> feat, identity = torch.rand(1, 4, 5, 7), torch.zeros(4, 4, 3, 3)
        >>> identity[range(4), range(4), 1, 1] = 1  # the centre tap alone
        >>> base_yx = torch.tensor([2, 3]).view(1, 2, 1, 1).expand(1, 2, 6, 8)  # all at (2, 3)
        >>> offset_yx, mask = torch.zeros(1, 18, 6, 8), torch.ones(1, 9, 6, 8)
        >>> out = deform_conv_at(feat, base_yx, offset_yx, mask, identity)
        >>> bool((out == feat[:, :, 2:3, 3:4]).all())
        True
    """
    if backend == 'auto':
        backend = 'torchvision' if feat.is_cuda else 'gather'
    path = _with_torchvision if backend == 'torchvision' else _with_gather
    path = sample_plainly if is_exporting() else path
    return path(feat, base_yx, offset_yx, mask, weight, bias)


def _with_gather(
    feat: Tensor,
    base_yx: Tensor,
    offset_yx: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Four neighbours per sample, read as rows of a channels-last map, then one product.

    A map stored channels-last is read where it lies, whatever its size; others are copied.
    """
    num, channels = feat.shape[:2]
    groups = mask.shape[1] // len(TAPS)
    flat = weight.view(len(weight), groups, channels // groups, len(TAPS)).transpose(2, 3)
    out = _product_on(feat).apply(
        feat.permute(0, 2, 3, 1).contiguous(),
        base_yx.permute(0, 2, 3, 1).reshape(-1, 2),
        offset_yx.permute(0, 2, 3, 1).reshape(-1, groups, len(TAPS), 2),
        mask.permute(0, 2, 3, 1).reshape(-1, groups, len(TAPS)),
        flat.reshape(len(weight), -1),
    )
    out = out.view(num, *base_yx.shape[-2:], -1).permute(0, 3, 1, 2)
    return out if bias is None else out + bias.view(1, -1, 1, 1)


def _product_on(feat: Tensor) -> type[torch.autograd.Function]:
    """The compiled form where there is one, which ``torch.compile`` could not look into."""
    if feat.device.type == 'cpu' and HAS_NUMBA and not torch.compiler.is_compiling():
        from defsr.ops.deform_compiled import DTYPES, CompiledSampledProduct

        if feat.dtype in DTYPES:
            return CompiledSampledProduct
    return SampledProduct


class SampledProduct(torch.autograd.Function):
    """``weight @ samples`` by chunks of positions; the samples are read again on the way back.

    feat (N,H',W',C), base (P,2) with P = N*H*W, offset (P,G,9,2), mask (P,G,9) and weight
    (C_out, G*9*C/G) -> (P, C_out).
    """

    @staticmethod
    def forward(
        ctx: Any, feat: Tensor, base: Tensor, offset: Tensor, mask: Tensor, weight: Tensor
    ) -> Tensor:
        ctx.save_for_backward(feat, base, offset, mask, weight)
        out = feat.new_empty(len(base), len(weight))
        for piece in _pieces(base, mask):
            bilinear = _Bilinear(feat, base, offset, piece)
            samples = bilinear.read(mask[piece])
            torch.mm(samples.view(-1, weight.shape[1]), weight.T, out=out[piece])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        feat, base, offset, mask, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_feat = torch.zeros_like(feat) if ctx.needs_input_grad[0] else None
        grad_offset, grad_mask = torch.empty_like(offset), torch.empty_like(mask)
        grad_weight = torch.zeros_like(weight)
        for piece in _pieces(base, mask):
            bilinear = _Bilinear(feat, base, offset, piece)
            samples = bilinear.read(mask[piece])
            grad_weight.addmm_(grad[piece].T, samples.view(-1, weight.shape[1]))
            grad_samples = (grad[piece] @ weight).view_as(samples)
            grad_offset[piece], grad_mask[piece] = bilinear.slopes(mask[piece], grad_samples)
            if grad_feat is not None:
                bilinear.scatter(mask[piece], grad_samples, grad_feat)
        return grad_feat, None, grad_offset, grad_mask, grad_weight


def _pieces(base: Tensor, mask: Tensor) -> Iterator[slice]:
    """Slices of the positions, so short that the intermediate results stay in the cache."""
    step = max(1, PIECE // mask[0].numel())
    for start in range(0, len(base), step):
        yield slice(start, start + step)


class _Bilinear:
    """Where the samples of some positions lie in ``feat``, and the shares of four neighbours.

    All tensors are (p,G,9); zero outside the map.
    """

    def __init__(self, feat: Tensor, base: Tensor, offset: Tensor, piece: slice) -> None:
        num, height, width, channels = feat.shape
        per_image = len(base) // num
        groups = offset.shape[1]
        self.table = feat.view(-1, channels // groups)
        base, offset = base[piece], offset[piece]
        y, x = (base[:, None, None, i] + offset.new_tensor(TAPS)[:, i] for i in (0, 1))
        self.y = _Neighbours(offset[..., 0] + y, height)
        self.x = _Neighbours(offset[..., 1] + x, width)
        kind = torch.int32 if len(self.table) < 2**31 else torch.int64
        start = torch.arange(piece.start, piece.start + len(base), device=feat.device)
        start = (start // per_image * (height * width * groups)).to(kind).view(-1, 1, 1)
        start = start + torch.arange(groups, device=feat.device, dtype=kind).view(-1, 1)
        rows = [side.to(kind) * (width * groups) + start for side in self.y.at]
        columns = [side.to(kind) * groups for side in self.x.at]
        self.index = _pairs(torch.add, rows, columns)

    def shares(self, mask: Tensor) -> Tensor:
        """(p*G*9, 4) weights of the neighbours: (low, low), (low, high), (high, low), ..."""
        rows = [mask * share for share in self.y.share]
        return _pairs(torch.mul, rows, self.x.share).view(-1, 4)

    def read(self, mask: Tensor) -> Tensor:
        """Interpolated and masked samples, (p*G*9, C/G)."""
        index = self.index.view(-1, 4)
        return F.embedding_bag(index, self.table, per_sample_weights=self.shares(mask), mode='sum')

    def slopes(self, mask: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of offset (p,G,9,2) and mask (p,G,9), given that of the samples."""
        values = self.table.index_select(0, self.index.flatten()).view(*grad.shape[:1], 4, -1)
        dots = (values @ grad.unsqueeze(-1)).view(*mask.shape, 4)
        low_low, low_high, high_low, high_high = dots.unbind(-1)
        (y_low, y_high), (x_low, x_high) = self.y.share, self.x.share
        at_x_low = y_low * low_low + y_high * high_low
        at_x_high = y_low * low_high + y_high * high_high
        slope_x = self.x.inside[1] * at_x_high - self.x.inside[0] * at_x_low
        at_y_low = x_low * low_low + x_high * low_high
        at_y_high = x_low * high_low + x_high * high_high
        slope_y = self.y.inside[1] * at_y_high - self.y.inside[0] * at_y_low
        grad_offset = torch.stack((mask * slope_y, mask * slope_x), dim=-1)
        return grad_offset, x_low * at_x_low + x_high * at_x_high

    def scatter(self, mask: Tensor, grad: Tensor, grad_feat: Tensor) -> None:
        """Add the gradient of the samples to that of the map."""
        shares = self.shares(mask)
        table = grad_feat.view_as(self.table)
        for number, index in enumerate(self.index.view(-1, 4).unbind(-1)):
            table.index_add_(0, index, grad * shares[:, number, None])


def _pairs(
    operation: Callable[..., Tensor], rows: Sequence[Tensor], columns: Sequence[Tensor]
) -> Tensor:
    """(..., 4): each of two rows with each of two columns; twice as fast as stacking them."""
    made = rows[0].new_empty((*rows[0].shape, 4))
    for i, (row, column) in enumerate(product(rows, columns)):
        operation(row, column, out=made[..., i])
    return made


class _Neighbours:
    """The integers around real positions on a line of ``length``: low, high.

    ``at``: clamped to the line; ``inside``: 1 if they were on it, else 0; ``share``: linear
    weights, 0 outside.
    """

    def __init__(self, position: Tensor, length: int) -> None:
        position = position.clamp(-2, length)
        low = position.floor()
        share = position - low
        ends = (low, low + 1)
        self.at = [end.clamp(0, length - 1) for end in ends]
        self.inside = [
            torch.eq(end, at, out=torch.empty_like(share))
            for end, at in zip(ends, self.at, strict=True)
        ]
        self.share = [(1 - share) * self.inside[0], share * self.inside[1]]


def _with_torchvision(
    feat: Tensor,
    base_yx: Tensor,
    offset_yx: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    height, width = base_yx.shape[-2:]
    own_y = torch.arange(height, device=feat.device, dtype=offset_yx.dtype).view(1, height, 1)
    own_x = torch.arange(width, device=feat.device, dtype=offset_yx.dtype).view(1, 1, width)
    own_yx = torch.stack(torch.broadcast_tensors(own_y, own_x), dim=1)
    relative = base_yx.to(offset_yx.dtype) - own_yx
    offset = offset_yx + relative.repeat(1, mask.shape[1], 1, 1)
    pad_feat = (0, max(0, width - feat.shape[-1]), 0, max(0, height - feat.shape[-2]))
    pad_out = (0, max(0, feat.shape[-1] - width), 0, max(0, feat.shape[-2] - height))
    out = deform_conv2d(
        F.pad(feat, pad_feat),
        F.pad(offset, pad_out),
        weight,
        bias,
        padding=1,
        mask=F.pad(mask, pad_out),
    )
    return out[..., :height, :width]
