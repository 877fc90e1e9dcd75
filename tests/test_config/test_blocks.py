"""Blocks against registries and signatures."""

from __future__ import annotations

import pytest
from basicsr.utils.registry import Registry

from defsr.config.blocks import (
    check_arguments,
    choose,
    join,
    registered,
    required,
)


def make(size, num_feat=64, use_bias=True, name='a', sides=(1, 2), inner=None):
    """Something to be made of options."""


def make_any(size, **kwargs):
    """The same, which swallows what it does not know."""


@pytest.fixture
def registry() -> Registry:
    """One with ``make`` and, under BasicSR's suffix, ``make_any``."""
    known = Registry('things')
    known.register(make)
    known.register(suffix='basicsr')(make_any)
    return known


def test_required():
    assert required({'lr': 0}, 'optim', 'lr') == 0
    with pytest.raises(ValueError, match='^optim:lr is missing. Set it in the option file.'):
        required({'lr': None}, 'optim', 'lr')
    with pytest.raises(ValueError, match='^total_iter is missing. Is `total_iters` meant to be it'):
        required({'total_iters': 3}, '', 'total_iter')


def test_names(registry):
    assert choose({'type': 'make'}, 'x', registry) is make
    assert registered('x', 'make_any', registry) is make_any
    with pytest.raises(ValueError, match=r"^x:type is 'mak', but .*\['make', .*mean `make`\?"):
        choose({'type': 'mak'}, 'x', registry)
    with pytest.raises(ValueError, match='Did you mean `make_any_basicsr`'):
        registered('x', 'ANY', registry)
    for other in (3, None, ['make'], {'a': 1}):
        with pytest.raises(ValueError, match='^x is .*, but must be one of'):
            registered('x', other, registry)


@pytest.mark.parametrize(
    ('block', 'message'),
    [
        ({}, 'x:size is missing, which make needs'),
        ({'size': 1, 'num_feats': 3}, 'Unknown option `x:num_feats`. Did you mean `num_feat`'),
        ({'size': 1, 'num_feat': 'a'}, "x:num_feat is 'a' .*but must be a number"),
        ({'size': 1, 'num_feat': True}, 'x:num_feat is True .*but must be a number'),
        ({'size': 1, 'num_feat': None}, 'x:num_feat is None .*but must be a number'),
        ({'size': 1, 'use_bias': 1}, 'x:use_bias is 1, but must be true or false'),
        ({'size': 1, 'name': 3}, 'x:name is 3, but must be a text'),
        ({'size': 1, 'sides': 3}, 'x:sides is 3, but must be a list'),
    ],
)
def test_arguments(block, message):
    with pytest.raises(ValueError, match=message):
        check_arguments('x', block, make)


def test_arguments_that_fit():
    full = {
        'type': 'make',
        'size': [1],
        'num_feat': 0.5,
        'use_bias': False,
        'name': '',
        'sides': [],
    }
    check_arguments('x', full | {'inner': {'a': 1}}, make)
    check_arguments('x', {}, make, given=('size',))
    check_arguments('x', {'size': 1, 'more': 2}, make_any)


def test_paths():
    assert join('a', 'b') == 'a:b' and join('', 'b') == 'b'
