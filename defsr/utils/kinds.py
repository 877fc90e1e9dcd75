"""What an option may be, told as a type that says its range, too: ``Count``, ``Count | None``.

A constructor's own annotations are what its block in an option file is compared with.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from defsr.utils import checks

Rule = Callable[[str, Any], object]  # of (option, value), raising ValueError
FEW = 2**16  # channels, blocks and sides are fewer; more would end for want of memory


def between(low: float, high: float) -> Rule:
    """A number in a range."""
    return lambda option, value: checks.check_between(option, value, low, high)


def above(limit: float) -> Rule:
    """A number above another."""
    return lambda option, value: checks.check_above(option, value, limit)


def whole(least: int) -> Rule:
    """A whole number, which may be written as a float: 5e3."""
    return lambda option, value: checks.check_int(option, value, least, or_float=True)


def entries(least: int, most: int | None = None) -> Rule:
    """A list of so many entries."""

    def check(option: str, value: Sequence) -> None:
        if not least <= len(value) <= (most or len(value)):
            number = least if least == most else f'at least {least}'
            raise ValueError(f'{option} is {value!r}, but must have {number} entries.')

    return check


Count = Annotated[int, between(1, FEW)]
Whole = Annotated[int, between(0, FEW)]
Positive = Annotated[float, above(0)]
NotNegative = Annotated[float, between(0, checks.MOST)]
Share = Annotated[float, between(0, 1)]
Iterations = Annotated[Any, whole(1)]
Text = Annotated[str, checks.check_text]
Name = Annotated[str, checks.check_name]
Flag = Literal[True, False]


def check_kind(option: str, value: Any, kind: Any) -> None:
    """Compare a value with a type; ValueError names the option.

    Args:
        kind: int, float (which whole numbers are, too), bool, str, None, ``Literal``, a union, a
            sequence, a mapping from texts, or ``Annotated`` with ``Rule``s. Others fit anything.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        check_kind(option, value, inner[0])
        for rule in inner[1:]:
            rule(option, value)
    elif origin in (Union, UnionType):
        _check_union(option, value, inner)
    elif origin is Literal:
        checks.check_choice(option, value, inner)
    elif kind is bool:
        checks.check_choice(option, value, (True, False))
    elif kind is int:
        checks.check_int(option, value, -checks.MOST_WHOLE)
    elif kind is float:
        checks.check_at_least(option, value, -checks.MOST)
    elif kind is str and not isinstance(value, str):
        raise ValueError(f'{option} is {value!r}, but must be a text. Put it in quotes.')
    elif isinstance(origin or kind, type) and kind is not str:
        _check_collection(option, value, origin or kind, inner)


def _check_union(option: str, value: Any, kinds: Sequence[Any]) -> None:
    if value is None and NoneType in kinds:
        return
    mistakes = []
    for kind in kinds:
        if kind is not NoneType:
            try:
                return check_kind(option, value, kind)
            except ValueError as error:
                mistakes.append(error)
    raise mistakes[-1]


def _check_collection(option: str, value: Any, kind: type, inner: Sequence[Any]) -> None:
    if issubclass(kind, Mapping):
        for key, entry in checks.check_block(option, value).items():
            check_kind(f'{option}:{key}', entry, inner[1] if inner else Any)
    elif issubclass(kind, (Sequence, tuple)):
        such = f', such as [{value}]' if isinstance(value, (int, float, str)) else ''
        for entry in checks.check_list(option, value, such):
            check_kind(f'An entry of {option}', entry, inner[0] if inner else Any)


@cache
def kinds_of(target: Callable) -> Mapping[str, Any]:
    """The types of the arguments that something annotates; of others those of their defaults."""
    parameters = inspect.signature(target).parameters.values()
    kinds = {p.name: _kind_of_default(p.default) for p in parameters}
    try:
        owner: Any = target
        function = owner.__init__ if isinstance(target, type) else owner
        return kinds | get_type_hints(function, include_extras=True)
    except NameError:  # of what somebody imports for type checkers only
        return kinds


def _kind_of_default(default: object) -> Any:
    kinds = {bool: bool, int: float, float: float, str: str, list: Sequence, tuple: Sequence}
    return kinds.get(type(default), Any)
