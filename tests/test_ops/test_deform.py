"""Both backends of the deformable convolution, against each other and against plain loops."""

from __future__ import annotations

import pytest
import torch
from memory import TensorBytes

from defsr.ops import deform, deform_conv_at
from defsr.ops.deform import TAPS

BACKENDS = ['gather', 'torchvision']
SIZES = [((7, 9), (11, 5)), ((6, 8), (6, 8)), ((5, 4), (1, 9)), ((3, 4), (12, 13))]
GROUPS = 4


def case(rng, size, ref_size, dtype=torch.float64):
    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=dtype)

    rows = torch.randint(0, ref_size[0], (2, *size), generator=rng)
    columns = torch.randint(0, ref_size[1], (2, *size), generator=rng)
    return {
        'feat': draw(2, 8, *ref_size),
        'base_yx': torch.stack((rows, columns), dim=1),
        'offset_yx': draw(2, GROUPS * 18, *size) * 1.5,
        'mask': torch.rand(2, GROUPS * 9, *size, generator=rng, dtype=dtype),
        'weight': draw(6, 8, 3, 3),
        'bias': draw(6),
    }


def bilinear(channel, y, x):
    """Value of a 2-D map at a real position, zero outside."""
    value = 0.0
    for row in (int(y // 1), int(y // 1) + 1):
        for column in (int(x // 1), int(x // 1) + 1):
            if 0 <= row < channel.shape[0] and 0 <= column < channel.shape[1]:
                share = max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
                value += share * float(channel[row, column])
    return value


@pytest.mark.parametrize('backend', BACKENDS)
def test_equals_the_sum_written_out(rng, backend):
    c = case(rng, (3, 4), (5, 6))
    out = deform_conv_at(**c, backend=backend)
    for n, y, x in [(0, 0, 0), (1, 2, 3), (0, 1, 2)]:
        expected = c['bias'].clone()
        for tap, (dy, dx) in enumerate(TAPS):
            for channel in range(8):
                group = channel // (8 // GROUPS)
                offset = c['offset_yx'].view(2, GROUPS, 9, 2, 3, 4)[n, group, tap, :, y, x]
                at_y = float(c['base_yx'][n, 0, y, x] + dy + offset[0])
                at_x = float(c['base_yx'][n, 1, y, x] + dx + offset[1])
                value = bilinear(c['feat'][n, channel], at_y, at_x)
                value *= float(c['mask'].view(2, GROUPS, 9, 3, 4)[n, group, tap, y, x])
                expected += c['weight'][:, channel, dy + 1, dx + 1] * value
        torch.testing.assert_close(out[n, :, y, x], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(('size', 'ref_size'), SIZES)
def test_backends_agree_forward_and_backward(rng, size, ref_size):
    c = case(rng, size, ref_size)
    learned = ('feat', 'offset_yx', 'mask', 'weight', 'bias')
    results = []
    for backend in BACKENDS:
        inputs = {k: v.clone().requires_grad_(k in learned) for k, v in c.items()}
        out = deform_conv_at(**inputs, backend=backend)
        grads = torch.autograd.grad(out.square().sum(), [inputs[k] for k in learned])
        results.append((out, *grads))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_far_outside_there_is_nothing(rng):
    c = case(rng, (3, 4), (5, 6))
    c['offset_yx'] = (c['offset_yx'] + 1e9).requires_grad_()
    out = deform_conv_at(**c, backend='gather')
    torch.testing.assert_close(out, c['bias'].view(1, -1, 1, 1).expand_as(out))
    (grad,) = torch.autograd.grad(out.square().sum(), c['offset_yx'])
    assert not grad.any()


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_the_values(rng, monkeypatch, layout):
    """In pieces of two positions, with offsets away from the kinks at integers."""
    monkeypatch.setattr(deform, 'PIECE', 2 * GROUPS * 9)
    c = case(rng, (2, 3), (4, 3))
    shares = torch.rand(c['offset_yx'].shape, generator=rng, dtype=torch.float64)
    c['offset_yx'] = c['offset_yx'].floor() + 0.1 + 0.8 * shares
    c['feat'] = c['feat'].contiguous(memory_format=layout)
    learned = ('feat', 'offset_yx', 'mask', 'weight', 'bias')

    def of(*values):
        given = c | dict(zip(learned, values, strict=True))
        return deform_conv_at(**given, backend='gather')

    assert torch.autograd.gradcheck(of, [c[k].requires_grad_() for k in learned], fast_mode=True)


def test_a_large_map_is_not_copied(rng):
    feat = torch.rand(1, 256, 128, 256, generator=rng)  # 32 MiB
    feat = feat.contiguous(memory_format=torch.channels_last)
    base = torch.randint(0, 128, (1, 2, 4, 4), generator=rng)
    offset, mask = torch.zeros(1, 18 * GROUPS, 4, 4), torch.ones(1, 9 * GROUPS, 4, 4)
    with TensorBytes() as memory:
        deform_conv_at(feat, base, offset, mask, torch.rand(8, 256, 3, 3), backend='gather')
    assert memory.peak < 2**20


def test_what_is_no_number_is_not_hidden(rng):
    c = case(rng, (3, 4), (5, 6))
    c['offset_yx'][0, 0, 1, 2] = float('nan')
    c['offset_yx'][1, 3, 0, 0] = float('inf')
    out = deform_conv_at(**c, backend='gather')
    assert out[0, :, 1, 2].isnan().all()
    assert out[1].isfinite().all()
