"""What is compiled where numba is installed, against PyTorch's operations."""

from __future__ import annotations

import pytest
import torch

from defsr.ops import deform, deform_conv_at, match_patches, matching
from defsr.ops.products import inner_products

pytest.importorskip('numba')
from defsr.ops import deform_compiled, matching_compiled  # noqa: E402

CASES = [  # queries, keys, patch, share of keys allowed, products of a tile with a row
    ((9, 13), (11, 7), 3, 1.0, 2**17),
    ((9, 13), (11, 7), 5, 0.4, 400),
    ((12, 11), (30, 9), 3, 0.4, 150),
    ((5, 4), (6, 3), 1, 1.0, 40),
    ((1, 1), (1, 1), 3, 1.0, 2**17),
    ((7, 20), (17, 19), 11, 0.7, 3000),
    ((6, 6), (40, 5), 17, 1.0, 2**17),
]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize(('size', 'key_size', 'patch', 'share', 'block'), CASES)
def test_the_same_matches(rng, monkeypatch, size, key_size, patch, share, block, dtype):
    query = torch.randn(2, 6, *size, generator=rng, dtype=dtype)
    key = torch.randn(2, 6, *key_size, generator=rng, dtype=dtype)
    mask = torch.rand(key_size, generator=rng) < share
    assert matching._strip_type(query.device)[0] is matching_compiled.CompiledStrip
    found = match_patches(query, key, patch, key_mask=mask, block_elements=block)
    monkeypatch.setattr(matching, 'HAS_NUMBA', False)
    index, confidence = match_patches(query, key, patch, key_mask=mask, block_elements=block)
    assert torch.equal(found[0], index)
    torch.testing.assert_close(found[1], confidence)


def test_of_near_ties_the_first_wins():
    """What the search in tiles promises holds here: less than 1e-6 is no difference."""
    key = torch.ones(1, 4, 9, 31)
    key[..., 5:, 9:] *= 1 + torch.linspace(0, 1e-3, 22)  # of one direction: rounding decides
    index, confidence = match_patches(key[..., 1:2, 1:2], key, 1)
    assert index.item() == 0
    torch.testing.assert_close(confidence.item(), 1.0)


@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('frozen', [True, False], ids=['frozen map', 'learned map'])
def test_the_same_samples_and_gradients(rng, monkeypatch, frozen, threads):
    num, groups, height, width = 2, 3, 9, 7

    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    given = {
        'feat': draw(num, 6, 5, 8),
        'base_yx': torch.randint(-2, 9, (num, 2, height, width), generator=rng),
        'offset_yx': draw(num, groups * 18, height, width).mul(2).round(decimals=1),
        'mask': draw(num, groups * 9, height, width),
        'weight': draw(4, 6, 3, 3),
    }
    learned = ['feat', 'offset_yx', 'mask', 'weight'][frozen:]
    monkeypatch.setattr(deform_compiled, 'PIECE', 20 * groups * 9)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = []
        for has_numba in (True, False):
            monkeypatch.setattr(deform, 'HAS_NUMBA', has_numba)
            inputs = {k: v.clone().requires_grad_(k in learned) for k, v in given.items()}
            out = deform_conv_at(**inputs, backend='gather')
            grads = torch.autograd.grad(out.square().sum(), [inputs[k] for k in learned])
            results.append((out, *grads))
    finally:
        torch.set_num_threads(before)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('shape', [(1, 1, 1), (5, 3, 7), (64, 130, 33)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_inner_products_are_a_contiguous_matrix(rng, shape, dtype):
    rows, columns, channels = shape
    left = torch.randn(rows, channels, generator=rng, dtype=dtype)
    right = torch.randn(channels, columns, generator=rng, dtype=dtype).T  # any layout
    found = inner_products(left, right)
    assert found.is_contiguous()
    torch.testing.assert_close(found, left @ right.T)
