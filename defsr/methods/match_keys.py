"""What a reference is matched by: one of three images of it, or a mixture of their features."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Literal

from torch import Tensor

from defsr.utils.checks import check_above, check_choice, check_int

MatchKey = Literal['ref', 'ref_down_up', 'ref_enhanced']
MATCH_KEYS: tuple[MatchKey, ...] = ('ref', 'ref_down_up', 'ref_enhanced')


def key_weights(match_key: MatchKey | Mapping[MatchKey, float]) -> dict[MatchKey, float]:
    """``match_key`` as key -> weight.

    Args:
        match_key: the name of a key, or a block of several with their weights, as
            ``{ref_enhanced: 1.0, ref: 0.5}``.

    Raises:
        ValueError: for an unknown key, and for a weight that is not above 0.
    """
    if not isinstance(match_key, Mapping):
        return {check_choice('match_key', match_key, MATCH_KEYS): 1.0}
    if not match_key:
        raise ValueError(f'match_key is empty, but must name one of {list(MATCH_KEYS)}, or more.')
    for name, weight in match_key.items():
        check_choice('match_key', name, MATCH_KEYS)
        check_above(f'match_key:{name}', weight, 0)
    return dict(match_key)


def check_patch_size(size: int) -> int:
    """``match_patch_size`` if it is an odd number of at least 1; ValueError if not."""
    if check_int('match_patch_size', size, 1) % 2 == 0:
        raise ValueError(f'match_patch_size is {size}, but must be odd. Nearest: {size + 1}.')
    return size


def mixed_key(features: Mapping[MatchKey, Tensor], weights: Mapping[MatchKey, float]) -> Tensor:
    """The weighted sum of feature maps brought to one length; a single one comes back as it is.

    A cosine to the sum stands in for the sum of cosines to each map, at the cost of one search.

    Args:
        features: key -> (N, C, h', w').
        weights: key -> weight, the same keys.
    """
    if len(weights) == 1:
        return next(iter(features.values()))

    def part(name: MatchKey) -> Tensor:
        feature = features[name]
        length = feature.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
        return feature * (weights[name] / length)

    return reduce(Tensor.add_, map(part, weights))
