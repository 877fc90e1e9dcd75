"""Forward-backward consistency of matches."""

from __future__ import annotations

import pytest
import torch

from defsr.ops.match_check import checked_confidence, round_trip_distance
from defsr.ops.matching import match_patches


def test_the_way_back_of_the_identity_is_short():
    index = torch.arange(30).view(1, 5, 6)
    assert float(round_trip_distance(index, index).max()) == 0


def test_the_distance_is_that_of_the_larger_step():
    index = torch.zeros(1, 1, 1, dtype=torch.int64)
    query = torch.full((1, 4, 7), 2, dtype=torch.int64)  # all go to key 2
    back = torch.full((1, 1, 3), 3 * 7 + 5, dtype=torch.int64)  # which leads to (3, 5)
    distance = round_trip_distance(query, back)
    assert distance.shape == (1, 4, 7) and distance.dtype == torch.float32
    assert float(distance[0, 3, 5]) == 0
    assert float(distance[0, 0, 0]) == 5 and float(distance[0, 0, 5]) == 3
    assert float(round_trip_distance(index, index).max()) == 0


def test_what_the_key_does_not_show_is_found_out(rng):
    """The right half of the query is elsewhere: its matches cannot lead back."""
    key = torch.randn(1, 16, 20, 20, generator=rng)
    query = torch.cat((key[..., :10], torch.randn(1, 16, 20, 10, generator=rng)), dim=3)
    index, confidence = match_patches(query, key)
    distance = round_trip_distance(index, match_patches(key, query)[0])
    kept = checked_confidence(confidence, distance, 'mask')
    assert torch.equal(kept[..., :9], confidence[..., :9]), 'these are copies'
    assert float((kept[..., 11:] > 0).float().mean()) < 0.3
    weighted = checked_confidence(confidence, distance, 'weight')
    torch.testing.assert_close(weighted[..., :9], confidence[..., :9])
    assert bool((weighted <= confidence + 1e-7).all())
    assert torch.equal(checked_confidence(confidence, distance, 'none'), confidence)


def test_refusals():
    index, back = torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 3, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match='index of 1 maps reaches 9, but the other side'):
        round_trip_distance(index + 9, back)
    with pytest.raises(ValueError, match='back_index of 1 maps reaches 4'):
        round_trip_distance(index, back + 4)
    with pytest.raises(ValueError, match='match_check is'):
        checked_confidence(index.float(), index.float(), 'soft')
    with pytest.raises(ValueError, match='tolerance is 0'):
        checked_confidence(index.float(), index.float(), 'mask', 0)
