"""Weighted sums of positions against a gather for each."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from defsr.ops.patch_sum import sum_positions


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_is_a_sum_of_gathers_with_its_gradient(rng, layout):
    feat = torch.randn(2, 3, 4, 6, generator=rng).double().to(memory_format=layout)
    feat.requires_grad_()
    index = torch.randint(0, 24, (2, 5, 7, 4), generator=rng)
    share = torch.randn(index.shape, generator=rng).double()
    found = sum_positions(feat, index, share)
    flat = feat.flatten(2)
    want = torch.stack([(x[:, i] * s).sum(-1) for x, i, s in zip(flat, index, share, strict=True)])
    assert found.shape == (2, 3, 5, 7) and found.is_contiguous(memory_format=torch.channels_last)
    assert_close(found, want)
    assert_close(*(torch.autograd.grad(x.square().sum(), feat)[0] for x in (found, want)))
