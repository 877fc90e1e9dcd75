"""``match_patches`` against the plain definition: unfold, normalise, multiply, max."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from defsr.ops import match_patches
from defsr.ops.matching import patch_norm

TIE = 1e-6

SIZES = [
    ((7, 9), (7, 9)),
    ((7, 9), (11, 5)),
    ((13, 6), (3, 17)),
    ((1, 8), (4, 3)),
    ((5, 5), (1, 1)),
    ((1, 1), (6, 2)),
]


TWENTY = [
    tuple((int(a), int(b)) for a, b in pair)
    for pair in torch.randint(1, 24, (20, 2, 2), generator=torch.Generator().manual_seed(3))
]
TWENTY[0], TWENTY[1] = ((1, 23), (9, 14)), ((8, 5), (1, 17))  # one position high


def direct(query, key, patch_size=3):
    """(N, h*w, h'*w') cosines in float64, exactly as TTSR's search builds them."""
    unfolded = [
        F.normalize(F.unfold(x.double(), patch_size, padding=patch_size // 2), dim=1)
        for x in (query, key)
    ]
    return unfolded[0].transpose(1, 2) @ unfolded[1]


def assert_same_match(query, key, patch_size=3, **options):
    index, confidence = match_patches(query, key, patch_size, **options)
    cosines = direct(query, key, patch_size)
    best = cosines.max(dim=2).values.view_as(confidence)
    chosen = cosines.gather(2, index.flatten(1).unsqueeze(2)).view_as(confidence)
    assert index.shape == confidence.shape == (len(query), *query.shape[-2:])
    assert float((best - chosen).max()) < TIE, 'a worse match was taken'
    torch.testing.assert_close(confidence.double(), best, rtol=0, atol=1e-5)


@pytest.mark.parametrize('block_elements', [2**20, 400], ids=['one block', 'many blocks'])
@pytest.mark.parametrize(('query_size', 'key_size'), SIZES)
def test_equals_the_direct_computation(rng, query_size, key_size, block_elements):
    query = torch.randn(2, 8, *query_size, generator=rng)
    key = torch.randn(2, 8, *key_size, generator=rng)
    assert_same_match(query, key, block_elements=block_elements)


@pytest.mark.parametrize(('query_size', 'key_size'), TWENTY)
def test_equals_the_direct_computation_for_any_two_sizes(rng, query_size, key_size):
    query = torch.randn(1, 16, *query_size, generator=rng).relu()
    key = torch.randn(1, 16, *key_size, generator=rng).relu()
    assert_same_match(query, key)
    assert_same_match(query, key, block_elements=3000)


def test_half_inputs_are_computed_in_float32(rng):
    query, key = torch.randn(2, 2, 8, 9, 11, generator=rng).half()
    index, confidence = match_patches(query, key)
    assert confidence.dtype == torch.float16
    expected = match_patches(query.float(), key.float())
    assert torch.equal(index, expected[0])
    torch.testing.assert_close(confidence.float(), expected[1], rtol=0, atol=1e-3)


def test_the_layout_in_memory_does_not_matter(rng):
    query, key = torch.randn(2, 2, 8, 9, 11, generator=rng)
    turned = (x.contiguous(memory_format=torch.channels_last) for x in (query, key))
    index, confidence = match_patches(query, key)
    other_index, other_confidence = match_patches(*turned)
    assert torch.equal(index, other_index)
    torch.testing.assert_close(confidence, other_confidence, rtol=0, atol=1e-6)


def test_progress_counts_up_to_all_tiles(rng):
    x, seen = torch.randn(2, 4, 9, 12, generator=rng), []
    match_patches(x, x, block_elements=500, progress=lambda *state: seen.append(state))
    assert [done for done, _ in seen] == [*range(1, len(seen) + 1)]
    assert {total for _, total in seen} == {len(seen)} and len(seen) > 4


@pytest.mark.parametrize('patch_size', [1, 5, 7])
def test_other_patch_sizes(rng, patch_size):
    query = torch.randn(2, 4, 6, 9, generator=rng)
    key = torch.randn(2, 4, 8, 7, generator=rng)
    assert_same_match(query, key, patch_size)


def test_double_precision_is_kept(rng):
    query = torch.randn(2, 4, 6, 9, generator=rng, dtype=torch.float64)
    assert match_patches(query, query)[1].dtype == torch.float64


def test_a_map_matched_with_itself_is_the_identity(rng):
    x = torch.randn(2, 16, 9, 12, generator=rng)
    index, confidence = match_patches(x, x)
    expected = torch.arange(9 * 12).view(1, 9, 12).expand(2, -1, -1)
    assert torch.equal(index, expected)
    torch.testing.assert_close(confidence, torch.ones(2, 9, 12), rtol=0, atol=1e-5)


def test_the_lowest_of_equal_scores_wins(rng):
    tile = torch.randn(1, 8, 6, 6, generator=rng)
    index, _ = match_patches(tile[:, :, 1:5, 1:5], torch.cat((tile, tile), dim=3))
    assert int((index % 12)[0, 1:3, 1:3].max()) < 6


def test_masked_positions_are_never_matched(rng):
    x = torch.randn(2, 8, 7, 10, generator=rng)
    mask = torch.zeros(7, 10, dtype=torch.bool)
    mask[2:5, 3:9] = True
    index, _ = match_patches(x, x, key_mask=mask, block_elements=2000)
    assert bool(mask.flatten()[index].all())
    own = torch.arange(70).view(7, 10)
    assert torch.equal(index[:, mask], own[mask].expand(2, -1))


def test_an_empty_patch_has_no_confidence():
    query = torch.zeros(1, 4, 5, 5)
    key = torch.ones(1, 4, 5, 5)
    assert float(match_patches(query, key)[1].abs().max()) == 0


def test_inputs_are_not_modified(rng):
    query, key = torch.randn(2, 1, 4, 6, 7, generator=rng)
    before = query.clone(), key.clone()
    match_patches(query, key)
    assert torch.equal(query, before[0])
    assert torch.equal(key, before[1])


def test_patch_norm_is_the_norm_of_unfolded_patches(rng):
    x = torch.randn(2, 5, 6, 8, generator=rng)
    expected = F.unfold(x, 3, padding=1).norm(dim=1).view(2, 6, 8)
    torch.testing.assert_close(patch_norm(x, 3), expected)


@pytest.mark.parametrize(
    ('query', 'key', 'options', 'message'),
    [
        ((1, 4, 5, 5), (1, 3, 5, 5), {}, 'same N and C'),
        ((1, 4, 5, 5), (2, 4, 5, 5), {}, 'same N and C'),
        ((4, 5, 5), (4, 5, 5), {}, 'same N and C'),
        ((1, 4, 5, 5), (1, 4, 5, 5), {'patch_size': 2}, 'must be odd'),
        ((1, 4, 5, 5), (1, 4, 5, 5), {'key_mask': torch.ones(5, 4, dtype=torch.bool)}, 'key_mask'),
        ((1, 4, 5, 5), (1, 4, 5, 5), {'key_mask': torch.zeros(5, 5, dtype=torch.bool)}, 'allows'),
    ],
)
def test_refuses_what_does_not_fit(query, key, options, message):
    with pytest.raises(ValueError, match=message):
        match_patches(torch.zeros(query), torch.zeros(key), **options)
