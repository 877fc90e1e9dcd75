"""Pieces of work side by side: in order, with one thread each, and nothing is changed after."""

from __future__ import annotations

import pytest
import torch

from defsr.ops.matching import match_patches
from defsr.utils.threads import one_thread_each

CPU = torch.device('cpu')


@pytest.fixture(params=[1, 3])
def number(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_in_order_on_one_thread(number):
    with one_thread_each(CPU) as threads:
        found = list(threads(lambda a, b: (a - b, torch.get_num_threads()), range(20), [1] * 20))
    assert found == [(i - 1, 1) for i in range(20)]
    assert torch.get_num_threads() == number


def test_an_error_ends_the_rest(number):
    def fail(item):
        raise ValueError(f'item {item}')

    with pytest.raises(ValueError, match='item 0'), one_thread_each(CPU) as threads:
        list(threads(fail, range(5)))
    assert torch.get_num_threads() == number


def test_matches_are_the_same_for_any_number_of_threads(number, rng):
    """Several tiles; features of a network that learns, whose graph no thread may record."""
    query, key = (torch.rand(2, 8, 23, 31, generator=rng).requires_grad_() for _ in 'qk')
    said = []
    found = match_patches(query, key, block_elements=2**9, progress=lambda *done: said.append(done))
    torch.set_num_threads(1)
    wanted = match_patches(query, key, block_elements=2**9)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
    assert not found[1].requires_grad
    assert [done for done, _ in said] == list(range(1, len(said) + 1)) and len(said) > 4
