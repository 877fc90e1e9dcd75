"""Types of options: what fits, and what is said of what does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest

from defsr.utils.kinds import Count, Flag, Iterations, Share, check_kind, entries, kinds_of

if TYPE_CHECKING:
    from nowhere import Nothing

FITTING = [
    (3, int), (3, float), (0.5, float), (True, bool), (False, Flag), ('a', str), (None, int | None),
    (1, Count), (0.5, Share), (5e3, Iterations), ('a', Literal['a', 'b']), ([1, 2], Sequence[int]),
    ((1, 2), Annotated[Sequence[Count], entries(2, 2)]), ({'a': 1}, Mapping[str, float]),
    ('auto', Literal['auto'] | Count), (2, Literal['auto'] | Count), (object(), Any), ({}, Mapping),
]  # fmt: skip
MISFITS = [
    (1.5, int, 'x is 1.5, but must be a whole number.'),
    (True, int, 'x is True, but must be a whole number.'),
    (10**30, int, 'x is above 1e.12, which no option may be.'),
    (10**10, int, 'x is 10000000000, but must be at most 2147483648.'),
    ('1', float, "x is '1' .str., but must be a number."),
    (float('nan'), float, 'x is nan .float., but must be a number.'),
    (float('inf'), float, 'x is above 1e.12'),
    (0, bool, 'x is 0, but must be true or false.'),
    (1, Flag, 'x is 1, but must be true or false.'),
    (None, str, 'x is None, but must be a text. Put it in quotes.'),
    (0, Count, 'x is 0, but must be at least 1.'),
    (70000, Count, 'x is 70000, but must be at most 65536.'),
    (1.01, Share, 'x is 1.01, but must be at most 1.'),
    (0.5, Iterations, 'x is 0.5, but must be a whole number.'),
    ('ab', Literal['a'] | None, "x is 'ab', but must be one of .'a'.. Did you mean `a`"),
    (3, Sequence[int], r'x is 3, but must be a list, such as \[3\].'),
    ([1, None], Sequence[int], 'An entry of x is None, but must be a whole number.'),
    ([1], Annotated[Sequence[int], entries(2, 2)], r'x is \[1\], but must have 2 entries.'),
    ([], Annotated[Sequence[int], entries(1)], r'x is \[\], but must have at least 1 entries.'),
    ([1], Mapping, r'x is \[1\], but must be a block'),
    ({'a': None}, Mapping[str, float], 'x:a is None .NoneType., but must be a number.'),
]


@pytest.mark.parametrize(('value', 'kind'), FITTING)
def test_what_fits(value, kind):
    check_kind('x', value, kind)


@pytest.mark.parametrize(('value', 'kind', 'message'), MISFITS)
def test_what_does_not(value, kind, message):
    with pytest.raises(ValueError, match=f'^{message}'):
        check_kind('x', value, kind)


class Annotating:
    def __init__(self, width: Count, rate=0.5, name=None) -> None: ...


def unknowing(width: Nothing, use=True): ...


def test_the_types_of_arguments():
    kinds = kinds_of(Annotating)
    assert kinds['width'] == Count and kinds['rate'] is float and kinds['name'] is Any
    assert kinds_of(unknowing) == {'width': Any, 'use': bool}
