"""DEF's network as it was first written: what the present one is measured against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs import transfer_arch, ttsr_aggregator_arch
from defsr.ops.deform import TAPS


@contextmanager
def first_formulation() -> Iterator[None]:
    """The network computes as at first while this is open."""
    with ExitStack() as stack:
        for module, name, function in (
            (transfer_arch, 'deform_conv_at', deform_conv_at),
            (ttsr_aggregator_arch, 'conv_of_parts', conv_of_parts),
            (ttsr_aggregator_arch, 'upsampled_conv', upsampled_conv),
        ):
            stack.enter_context(mock.patch.object(module, name, function))
        yield


def conv_of_parts(conv: nn.Conv2d, parts: Sequence[Tensor]) -> Tensor:
    """One convolution of the concatenation."""
    return conv(torch.cat(list(parts), dim=1))


def upsampled_conv(conv: nn.Conv2d, x: Tensor, factor: int) -> Tensor:
    """The 1x1 convolution behind torch's bicubic interpolation."""
    return conv(F.interpolate(x, scale_factor=float(factor), mode='bicubic', align_corners=False))


def deform_conv_at(
    feat: Tensor,
    base_yx: Tensor,
    offset_yx: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    backend: str = 'auto',
) -> Tensor:
    """One ``grid_sample`` and one 1x1 convolution per tap."""
    num, channels, height_ref, width_ref = feat.shape
    groups = mask.shape[1] // len(TAPS)
    size = base_yx.shape[-2:]
    grouped = feat.reshape(num * groups, channels // groups, height_ref, width_ref)
    offsets = offset_yx.view(num, groups, len(TAPS), 2, *size)
    masks = mask.view(num, groups, len(TAPS), 1, *size)
    base = base_yx.to(offset_yx.dtype).unsqueeze(1)
    out = None
    for tap, (dy, dx) in enumerate(TAPS):
        y = base[:, :, 0] + offsets[:, :, tap, 0] + dy
        x = base[:, :, 1] + offsets[:, :, tap, 1] + dx
        x, y = (x * 2 + 1) / width_ref - 1, (y * 2 + 1) / height_ref - 1
        grid = torch.stack((x, y), dim=-1).flatten(0, 1)
        sampled = F.grid_sample(grouped, grid, align_corners=False)
        sampled = (sampled.view(num, groups, -1, *size) * masks[:, :, tap]).flatten(1, 2)
        part = F.conv2d(sampled, weight[:, :, dy + 1, dx + 1, None, None])
        out = part if out is None else out + part
    return out if bias is None else out + bias.view(1, -1, 1, 1)
