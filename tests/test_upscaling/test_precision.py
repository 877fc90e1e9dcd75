"""``precision``: fp32 is what it was, bf16 nearly the same."""

from __future__ import annotations

import pytest
import torch

from defsr.archs.network_call import NetworkCall
from defsr.ops.resize import upsample_bicubic
from defsr.upscaling import Upscaler


def test_bf16_is_nearly_float32(network, weights, upscaler, lq, refs, monkeypatch):
    called = []
    call = NetworkCall.__call__
    monkeypatch.setattr(NetworkCall, '__call__', lambda *args: called.append(1) or call(*args))
    plain = upscaler(lq, refs)
    assert torch.equal(Upscaler(weights, 'cpu', network, precision='fp32')(lq, refs), plain)
    assert not called
    found = Upscaler(weights, 'cpu', network, precision='bf16')(lq, refs)
    assert called and found.dtype == torch.float32
    error = float((found - plain).square().mean())
    assert 0 < error < 1e-4  # 40 dB


def test_another_precision_is_refused(network, weights):
    with pytest.raises(ValueError, match=r"precision is 'fp16', but must be one of \['fp32'"):
        Upscaler(weights, 'cpu', network, precision='fp16')


def test_resizing_stays_float32(rng):
    x = torch.rand(1, 3, 9, 8, generator=rng)
    with torch.autocast('cpu', torch.bfloat16):
        found = upsample_bicubic(x, 4)
    assert torch.equal(found, upsample_bicubic(x, 4))
