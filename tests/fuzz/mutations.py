"""Ways to damage bytes, texts and plain data, as accidents do and as strangers might."""

from __future__ import annotations

import copy
import itertools
import random
import struct
from collections.abc import Sequence
from typing import Any

NUMBERS = (0, 1, 127, 128, 255, 256, 32767, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
HEAD = 200  # bytes in which formats say most of what they are
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 10**30, 1.5, float('nan'), float('inf'), -1e308, '', 'x',
    '../x', '/x', '..', 'a\nb', '\x1b[2J', 'a\0b', '\u202e', 'x' * 5000, [], [[]], [1, 'x'], {},
    {'x': []}, {'': {}}, [[[[[[[[]]]]]]]],
)  # fmt: skip


def damaged(content: bytes, dice: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """One to four kinds of damage to a file."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4))):
        if not data:
            break
        end = min(len(data), HEAD) if dice.random() < 0.6 else len(data)
        place = dice.randrange(end)
        kind = dice.randrange(7)
        if kind == 0:
            data[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[place] = dice.randrange(256)
        elif kind == 2:
            form = dice.choice(('<H', '>H', '<I', '>I'))
            number = struct.pack(form, dice.choice(NUMBERS) % 2 ** (8 * struct.calcsize(form)))
            data[place : place + len(number)] = number
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            del data[place : place + dice.choice((1, 4, 64))]
        elif kind == 5:
            data[place:place] = data[place : place + dice.choice((1, 12, 200))]
        elif others:
            other = dice.choice(others)
            data[place:] = other[dice.randrange(len(other)) :]
    return bytes(data)


def changed(data: Any, dice: random.Random, values: Sequence[Any] = VALUES) -> Any:
    """Plain data with one to three of its values replaced, removed, doubled or renamed."""
    data = copy.deepcopy(data)
    for _ in range(dice.choice((1, 1, 2, 3))):
        places = [*itertools.islice(_places(data), 500)]  # of a bomb not all
        if not places or dice.random() < 0.02:
            return copy.deepcopy(dice.choice(values))
        node, key = dice.choice(places)
        kind = dice.randrange(6)
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        elif kind == 1:
            node[dice.choice(('x', '', '../x', f'{key}x', '\x1b[2J', '9' * 30))] = node.pop(key)
        else:
            node[key] = copy.deepcopy(dice.choice(values))
    return data


def _places(node: Any) -> Any:
    """(container, key) of every value."""
    if isinstance(node, (dict, list)):
        for key in [*node] if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from _places(node[key])


SNIPPETS = (
    '~', 'true', '[]', '{}', '[1, x]', '{a: 1}', '-1', '1e-4', '.nan', '.inf', '1' + '0' * 30,
    '9' * 5000, '!!bool abc', '!!timestamp x', '!!int x', '!!float {}', '!!set {a}', '!!binary a',
    '!!python/name:os.system', '!!python/object/apply:os.mkdir [pwned]', '&a [*a]', '*nobody',
    '[[[[' * 1000, '{a: ' * 1000, '"\\0"', '"\\ud800"', '"\\e[2J"', '2024-12-13', "'", '"', '|',
    '>', '? [a]', '<<: *a', '../x', '/x', '"a\\nb"', 'x' * 3000, '!', '&', '%', '@', '`', '- ',
    ': ', '&a [x, x, x, x, x, x, x, x, x]', '[*a, *a, *a, *a, *a, *a, *a, *a, *a]', '\ufeff',
    '\x07',
)  # fmt: skip


def retyped(text: str, dice: random.Random, snippets: Sequence[str] = SNIPPETS) -> str:
    """A text with one to three of its lines changed."""
    lines = text.split('\n')
    for _ in range(dice.choice((1, 1, 2, 3))):
        number = dice.randrange(len(lines))
        line, kind = lines[number], dice.randrange(8)
        key, colon, _ = line.partition(':')
        if kind < 3 and colon:
            lines[number] = f'{key}: {dice.choice(snippets)}'
        elif kind == 3:
            lines[number] = line + dice.choice(snippets)
        elif kind == 4:
            lines[number] = dice.choice(('', ' ', '  ', '\t')) + line.lstrip()
        elif kind == 5:
            lines.insert(number, lines[dice.randrange(len(lines))])
        elif kind == 6:
            del lines[number]
            lines = lines or ['']
        elif line:
            place = dice.randrange(len(line))
            lines[number] = (
                line[:place] + dice.choice('[]{}:,&*!|>#\'"%@`?- \t\\\0\x85') + line[place:]
            )
    return '\n'.join(lines)
