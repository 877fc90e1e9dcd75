"""``match_coarse_to_fine``: finds what was planted, never invents, respects masks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from defsr.ops.matching import match_patches
from defsr.ops.matching_coarse import match_coarse_to_fine


def smooth(rng, *size):
    """A map whose neighbours resemble each other, as features' do."""
    return F.avg_pool2d(torch.randn(*size, generator=rng), 5, stride=1, padding=2)


def cosine_at(query, key, index):
    """(N,h,w) float64 cosine of each query patch and the key patch it was given."""
    patches = [F.normalize(F.unfold(x.double(), 3, padding=1), dim=1) for x in (query, key)]
    chosen = patches[1].gather(2, index.flatten(1).unsqueeze(1).expand(-1, patches[0].shape[1], -1))
    return (patches[0] * chosen).sum(1).view_as(index)


@pytest.mark.parametrize('shift', [(0, 0), (4, -6), (3, 5)])
def test_a_shift_is_found(rng, shift):
    key = smooth(rng, 2, 16, 40, 48)
    query = torch.roll(key, shift, (-2, -1)) + 0.02 * torch.randn(key.shape, generator=rng)
    index, _ = match_coarse_to_fine(query, key)
    exact, _ = match_patches(query, key)
    inside = (slice(None), slice(10, -10), slice(10, -10))
    assert float((index == exact)[inside].float().mean()) > 0.99


@pytest.mark.parametrize(
    ('query_size', 'key_size'), [((9, 13), (12, 7)), ((1, 8), (5, 1)), ((6, 6), (1, 1))]
)
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_its_confidence_is_that_of_its_index(rng, query_size, key_size, layout):
    query = torch.randn(2, 8, *query_size, generator=rng).contiguous(memory_format=layout)
    key = torch.randn(2, 8, *key_size, generator=rng).contiguous(memory_format=layout)
    index, confidence = match_coarse_to_fine(query, key)
    assert int(index.min()) >= 0 and int(index.max()) < key_size[0] * key_size[1]
    expected = cosine_at(query, key, index)
    torch.testing.assert_close(confidence.double(), expected, rtol=0, atol=1e-6)
    assert bool((confidence <= match_patches(query, key)[1] + 1e-6).all())


def test_a_window_over_the_whole_map_is_exact(rng):
    query, key = torch.randn(2, 1, 8, 9, 7, generator=rng)
    index, _ = match_coarse_to_fine(query, key, radius=9)
    assert torch.equal(index, match_patches(query, key)[0])


def test_of_equal_patches_the_first_in_the_window_is_taken():
    flat = torch.ones(1, 4, 12, 12)
    index, _ = match_coarse_to_fine(flat, flat, radius=3)
    exact, _ = match_patches(flat, flat)
    assert bool((index >= exact).all())
    assert int(index[0, 6, 6]) < 6 * 12 + 6


def test_masked_positions_are_never_matched(rng):
    x = smooth(rng, 2, 8, 14, 15)
    mask = torch.rand(14, 15, generator=rng) < 0.2
    index, _ = match_coarse_to_fine(x, x, key_mask=mask)
    assert bool(mask.flatten()[index].all())


def test_half_inputs(rng):
    query, key = torch.randn(2, 1, 8, 10, 12, generator=rng).half()
    index, confidence = match_coarse_to_fine(query, key)
    assert confidence.dtype == torch.float16
    assert torch.equal(index, match_coarse_to_fine(query.float(), key.float())[0])


def test_an_empty_patch_has_no_confidence():
    query, key = torch.zeros(1, 4, 5, 5), torch.ones(1, 4, 5, 5)
    assert float(match_coarse_to_fine(query, key)[1].abs().max()) == 0


def test_refuses_what_does_not_fit():
    x = torch.zeros(1, 4, 5, 5)
    with pytest.raises(ValueError, match='same N and C'):
        match_coarse_to_fine(x, x[:, :3])
    with pytest.raises(ValueError, match='radius is 0'):
        match_coarse_to_fine(x, x, radius=0)
