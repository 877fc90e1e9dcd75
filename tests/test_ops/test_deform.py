"""Both backends of the deformable convolution, against each other and against plain loops."""

from __future__ import annotations

import pytest
import torch

from defsr.ops import deform_conv_at
from defsr.ops.deform import TAPS

BACKENDS = ['grid_sample', 'torchvision']
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
