from __future__ import annotations

import random

import numpy as np
import torch

from defsr.utils.seeding import derive_seed, seed_generators


def numbers():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_seeds_are_the_same_everywhere():
    """A golden value: another one would change every run that is resumed."""
    assert derive_seed('item', 0, 1, 2) == 6508424281085026344


def test_seeds_differ_in_every_part():
    seeds = {derive_seed('item', 0, epoch, number) for epoch in range(50) for number in range(50)}
    assert len(seeds) == 2500
    assert derive_seed('item', 1, 2) != derive_seed('item', 2, 1) != derive_seed('order', 2, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_all_generators_follow():
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_generators('iteration', 0, 0, 7)
    first = numbers()
    seed_generators('iteration', 0, 0, 8)
    assert all(a != b for a, b in zip(first, numbers(), strict=True))
    seed_generators('iteration', 0, 0, 7)
    assert numbers() == first
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
