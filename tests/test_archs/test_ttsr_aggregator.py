"""The aggregator's rearrangements against the formulas they replace, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defsr.archs import ttsr_aggregator_arch
from defsr.archs.ttsr_aggregator_arch import CrossScaleExchange, conv_of_parts, upsample


def interpolate(x, factor):
    return F.interpolate(x, scale_factor=float(factor), mode='bicubic', align_corners=False)


def assert_same(ours, plain, leaves):
    """Values, and the gradients of the sum of squares with respect to ``leaves``."""
    grads = [torch.autograd.grad(x.square().sum(), leaves) for x in (ours, plain)]
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('factor', [1, 2, 4])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_upsampling_is_torchs_bicubic(rng, factor, layout):
    x = torch.randn(2, 3, 5, 8, generator=rng, dtype=torch.float64).to(memory_format=layout)
    x.requires_grad_()
    assert_same(upsample(x, factor), interpolate(x, factor), [x])


def test_large_maps_are_interpolated(rng, monkeypatch):
    x = torch.randn(2, 3, 5, 8, generator=rng)
    by_matrix = upsample(x, 2)
    monkeypatch.setattr(ttsr_aggregator_arch, 'MATRIX_SIDE', 7)
    assert torch.equal(upsample(x, 2), interpolate(x, 2))
    torch.testing.assert_close(by_matrix, interpolate(x, 2), rtol=0, atol=1e-5)


def test_a_convolution_of_parts_is_that_of_their_concatenation(rng):
    conv = nn.Conv2d(9, 4, 3, padding=1).double()
    parts = [torch.randn(2, c, 5, 8, generator=rng, dtype=torch.float64) for c in (2, 3, 4)]
    for part in parts[:2]:
        part.requires_grad_()
    leaves = [*parts[:2], *conv.parameters()]
    assert_same(conv_of_parts(conv, parts), conv(torch.cat(parts, dim=1)), leaves)


def plain_exchange(net, scales):
    """TTSR's order: upsample, then the 1x1 convolution; concatenate, then merge."""
    out = []
    for target, merge in enumerate(net.merge):
        parts = [scales[target]]
        for source, x in enumerate(scales):
            if source != target:
                x = interpolate(x, 2 ** (target - source)) if source < target else x
                parts.append(net.path[f'{source}_{target}'](x))
        out.append(F.relu(merge(torch.cat(parts, dim=1))))
    return out


def test_the_exchange_is_ttsrs(rng):
    net = CrossScaleExchange(4, 3).double()
    scales = [
        torch.randn(2, 4, 3 * f, 5 * f, generator=rng, dtype=torch.float64).requires_grad_()
        for f in (1, 2, 4)
    ]
    leaves = [*scales, *net.parameters()]
    ours, plain = (
        torch.cat([x.flatten() for x in out]) for out in (net(scales), plain_exchange(net, scales))
    )
    assert_same(ours, plain, leaves)
