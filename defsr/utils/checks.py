"""Checks at the door: each names what was given, what was expected and which option to change."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Choice = TypeVar('Choice')
Number = TypeVar('Number', int, float)
MOST, MOST_WHOLE = 10**12, 2**31  # of an option: beyond are overflows and work without an end


_MOST_OF_A_NAME = 100  # bytes: names of results are made of several, and 255 is a file system's end


def check_text(name: str, value: object) -> str:
    """Return ``value`` if it is a text of one line, in characters that UTF-8 has.

    ValueError if not: such a text tears a list of names, a table, a terminal, or OpenCV apart.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f'{name} is {value!r}, but must be a text. Put it in quotes.')
    if any(unicodedata.category(c) in ('Cc', 'Cs', 'Zl', 'Zp') for c in value):
        raise ValueError(
            f'{name} is {ascii(value)}, but must be UTF-8 without line breaks and control '
            'characters. Rename it.'
        )
    return value


def check_name(name: str, value: object) -> str:
    """Return ``value`` if it can name a file or folder of results; ValueError if not."""
    text = check_text(name, value)
    if '/' in text or text in ('.', '..'):
        raise ValueError(
            f'{name} is {value!r}, but must be a text that can name a folder. '
            'No slash can be in it, nor can it be `..`.'
        )
    if len(text.encode()) > _MOST_OF_A_NAME:
        raise ValueError(
            f'{name} is {text[:40]!r}..., but must have at most {_MOST_OF_A_NAME} bytes: files are '
            'named by it.'
        )
    return text


def check_keys(block: str, opt: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse an option that nobody reads: a typo must not train for two days on a default.

    Args:
        block: path of the block in the option file, as in ``datasets:train``; '' for the file.
        opt: the block's content.
        known: every key that the block may have.

    Raises:
        ValueError: for the first unknown key, with the nearest known one.
    """
    for key in sorted(set(opt) - set(known)):
        option = f'{block}:{key}' if block else key
        known = sorted(set(known))
        raise ValueError(f'Unknown option `{option}`.{did_you_mean(key, known)} Known: {known}.')


def check_choice(name: str, value: Any, choices: Collection[Choice]) -> Choice:
    """Return ``value`` if it is one of ``choices``; ValueError names the nearest one if not."""
    for choice in choices:  # true is no 1, and the value may not be hashable
        if value == choice and isinstance(value, bool) == isinstance(choice, bool):
            return value
    hint = did_you_mean(value, choices)
    words = 'true or false' if [*choices] == [True, False] else f'one of {[*choices]}'
    raise ValueError(f'{name} is {value!r}, but must be {words}.{hint}')


def _number(name: str, value: Any) -> Any:
    """``value`` if it is a number, one of NumPy's, too, that is not beyond all measure."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or value != value:  # which NaN says of itself
        raise ValueError(f'{name} is {value!r} ({type(value).__name__}), but must be a number.')
    number: Any = value
    if number > MOST:
        raise ValueError(f'{name} is above {MOST:g}, which no option may be.')
    return number


def did_you_mean(value: object, choices: Collection[object]) -> str:
    """A question after the nearest choice, to follow a full stop; '' if none is near."""
    near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    return f' Did you mean `{near[0]}`?' if near else ''


def check_at_least(name: str, value: Number, minimum: Number) -> Number:
    """Return ``value`` if it is a number of at least ``minimum``; ValueError if not."""
    if not _number(name, value) >= minimum:
        raise ValueError(f'{name} is {value}, but must be at least {minimum}.')
    return value


def check_int(
    name: str, value: Any, minimum: int, hint: str = '', *, or_float: bool = False
) -> int:
    """``value`` as int if it is a whole number of at least ``minimum``; ValueError if not.

    With ``or_float`` it may be written as a float: 4.0, 5e3.
    """
    is_int = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_int and not (or_float and isinstance(value, float) and value.is_integer()):
        raise ValueError(f'{name} is {value!r}, but must be a whole number{hint}.')
    return int(check_between(name, value, minimum, MOST_WHOLE))


def check_block(name: str, value: object) -> Mapping[str, Any]:
    """Return ``value`` if it is a block of options, ``key: value`` lines; ValueError if not."""
    if not isinstance(value, Mapping):
        raise ValueError(
            f'{name} is {value!r}, but must be a block of `key: value` lines. '
            'Indent its options below it.'
        )
    return value


def check_list(name: str, value: object, of: str = '', least: int = 0) -> Sequence:
    """Return ``value`` if it is a list of ``least`` entries or more; ``of``: for the message."""
    if not isinstance(value, (list, tuple)) or len(value) < least:
        raise ValueError(f'{name} is {value!r}, but must be a list{of}.')
    return value


def check_above(name: str, value: Number, limit: Number) -> Number:
    """Return ``value`` if it is a number above ``limit``; ValueError if not (so for NaN)."""
    if not _number(name, value) > limit:
        raise ValueError(f'{name} is {value}, but must be above {limit}.')
    return value


def check_between(name: str, value: Number, low: Number, high: Number) -> Number:
    """Return ``value`` if ``low <= value <= high``; ValueError if not."""
    if check_at_least(name, value, low) > high:
        raise ValueError(f'{name} is {value}, but must be at most {high}.')
    return value


def check_divisible(name: str, x: Tensor, scale: int) -> Tensor:
    """Return ``x`` (..., H, W) if both sides are multiples of ``scale``; ValueError if not."""
    height, width = x.shape[-2:]
    if height % scale or width % scale:
        raise ValueError(
            f'{name} is {height}x{width} (HxW), but both sides must be multiples of '
            f'scale={scale}. Crop it to {height - height % scale}x{width - width % scale}, '
            'or change scale in the option file.'
        )
    return x


def check_finite(x: Tensor, what: str, weights: str) -> None:
    """FloatingPointError if an image that a network made has values that are NaN or infinite.

    Args:
        x: the image.
        what: it is, for the message.
        weights: the option that names the network's weights.
    """
    if not bool(x.isfinite().all()):
        raise FloatingPointError(
            f'{what} has values that are NaN or infinite: {weights} may have gone astray in '
            'training. Give an earlier checkpoint, and fp32 as precision.'
        )


def check_image(name: str, x: Tensor, num_ch: int = 3) -> Tensor:
    """Return ``x`` if it is a float (N, num_ch, H, W) tensor; ValueError if not."""
    if x.ndim != 4 or x.shape[1] != num_ch or not x.is_floating_point():
        raise ValueError(
            f'{name} is {x.dtype} of shape {tuple(x.shape)}, but must be floating point '
            f'(N, {num_ch}, H, W), RGB in [0, 1].'
        )
    return x
