"""Fingerprints: plain, digested in any order, compared field by field."""

from __future__ import annotations

import json

import pytest
import torch

from defsr.utils.fingerprints import (
    differences,
    digest_of,
    digest_of_state,
    plain,
    with_defaults,
)


def test_plain_is_what_json_gives_back():
    value = {'a': (1, 2.5, (True, None)), 'b': {'c': 4.0, 'd': 'x', 'skip': object()}, 'e': 1e-6}
    made = plain(value, without={'skip'})
    assert made == json.loads(json.dumps(made))
    assert made == {'a': [1, 2.5, [True, None]], 'b': {'c': 4, 'd': 'x'}, 'e': 1e-6}
    assert isinstance(made['b']['c'], int)
    assert plain([True])[0] is True
    with pytest.raises(TypeError, match='is no plain option'):
        plain({'a': torch.ones(1)})


def test_defaults_are_filled_in():
    def target(a, b=2, *, c=(3,)):
        raise NotImplementedError

    assert with_defaults(target, {'a': 1, 'c': 4}) == {'a': 1, 'b': 2, 'c': 4}


def test_a_state_dict_is_its_names_shapes_dtypes_and_bytes():
    state = {'a': torch.arange(6.0).view(2, 3), 'b': torch.tensor(7), 'c': torch.zeros(0)}
    digest = digest_of_state(state)
    assert digest == digest_of_state(dict(reversed(state.items()))), 'in whatever order'
    strided = torch.arange(6.0).view(2, 3).t().contiguous().t()
    assert digest == digest_of_state(state | {'a': strided}), 'however it lies in memory'
    others = [
        {'a': state['a'], 'B': state['b'], 'c': state['c']},
        state | {'a': state['a'].view(3, 2)},
        state | {'b': state['b'].int()},
        state | {'a': state['a'] + 1e-6},
        state | {'a': -state['a']},
        state | {'c': torch.zeros(0, 1)},
    ]
    assert len({digest, *map(digest_of_state, others)}) == 1 + len(others)
    half = {'a': torch.ones(3, dtype=torch.float16)}
    assert digest_of_state(half) != digest_of_state({'a': torch.ones(3)})


def test_digests_do_not_depend_on_the_order():
    assert digest_of({'a': 1, 'b': {'c': 2, 'd': 3}}) == digest_of({'b': {'d': 3, 'c': 2}, 'a': 1})
    assert digest_of({'a': 1}) != digest_of({'a': 2})


def test_differences_are_named_in_one_line():
    here = {'type': 'X', 'diffusion': {'num_steps': 20, 'travel': [1, 1], 'new': True}}
    there = {'type': 'X', 'diffusion': {'num_steps': 100, 'travel': [1, 2]}, 'sha': 'a' * 64}
    assert differences(here, there, 'in the cache') == (
        'diffusion:num_steps 20 here, 100 in the cache; '
        'diffusion:travel [1, 1] here, [1, 2] in the cache; '
        'diffusion:new true here, not set in the cache; '
        'sha not set here, aaaaaaaaaaaa... in the cache'
    )
    assert differences(here, dict(here), 'there') == ''
    assert 'a not set here, null there' in differences({}, {'a': None}, 'there')
