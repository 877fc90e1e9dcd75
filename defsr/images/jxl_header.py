"""What a JPEG XL file says before it is decoded; ISO/IEC 18181-1, Annex A and D, and -2."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

STARTS = (b'\xff\x0a', b'\0\0\0\x0cJXL \r\n\x87\n')  # of a bare codestream, of a container
_RATIOS = {1: (1, 1), 2: (6, 5), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_Choices = tuple[tuple[int, int], ...]  # of U32: offset and number of bits, for each selector
_SIDE: _Choices = ((1, 9), (1, 13), (1, 18), (1, 30))
_PREVIEW_EIGHTHS: _Choices = ((16, 0), (32, 0), (1, 5), (33, 9))
_PREVIEW_SIDE: _Choices = ((1, 6), (65, 8), (321, 10), (1345, 12))
_ANIMATION: tuple[_Choices, ...] = (  # ticks, their divisor, loops
    ((100, 0), (1000, 0), (1, 10), (1, 30)),
    ((1, 0), (1001, 0), (1, 8), (1, 10)),
    ((0, 0), (0, 3), (0, 16), (0, 32)),
)
_BITS: _Choices = ((8, 0), (10, 0), (12, 0), (1, 6))
_HEAD = 64  # bytes: more than all that is read here


class JxlHeader(NamedTuple):
    """``size``: (H, W) as stored. ``bits``: per channel. ``is_float``: these are floating point."""

    size: tuple[int, int]
    bits: int
    is_float: bool


def jxl_header(content: bytes) -> JxlHeader:
    """Of a whole file.

    Raises:
        ValueError: if it ends before its header does, or has none.
    """
    bits = _Bits(_codestream(content))
    if bits.take(16) != 0x0AFF:
        raise ValueError('it has no JPEG XL image')
    size = _size(bits)
    if bits.take(1):  # all as usual
        return JxlHeader(size, 8, False)
    if bits.take(1):
        bits.take(3)  # orientation, which the decoder applies
        if bits.take(1):
            _size(bits)
        if bits.take(1):
            _preview(bits)
        if bits.take(1):
            for choices in _ANIMATION:
                bits.choose(choices)
            bits.take(1)
    is_float = bool(bits.take(1))
    return JxlHeader(size, 32 if is_float else bits.choose(_BITS), is_float)


def jxl_boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each box of a container; of a bare codestream none."""
    position = 0
    while content.startswith(STARTS[1]) and len(content) - position >= 8:
        length, name = struct.unpack_from('>I4s', content, position)
        start = position + 8
        if length == 1:
            if len(content) - start < 8:
                return
            (length,) = struct.unpack_from('>Q', content, start)
            start += 8
        end = position + length if length else len(content)
        if end <= position:
            return
        yield name, content[start:end]
        position = end


class _Bits:
    """Bits of bytes, the lowest first."""

    def __init__(self, content: bytes) -> None:
        self._left = 8 * len(content)
        self._value = int.from_bytes(content, 'little')

    def take(self, number: int) -> int:
        """An unsigned number of so many bits."""
        if number > self._left:
            raise ValueError('it ends before its header does')
        value = self._value & ((1 << number) - 1)
        self._value >>= number
        self._left -= number
        return value

    def choose(self, choices: _Choices) -> int:
        """The format's U32: two bits say with which offset and how many bits it is stored."""
        offset, number = choices[self.take(2)]
        return offset + self.take(number)


def _codestream(content: bytes) -> bytes:
    """Its first bytes, also where a container has it in parts."""
    if content.startswith(STARTS[0]):
        return content[:_HEAD]
    head = b''
    for name, body in jxl_boxes(content):
        if name == b'jxlc':
            return body[:_HEAD]
        if name == b'jxlp':
            head += body[4 : 4 + _HEAD]
        if len(head) >= _HEAD:
            break
    return head[:_HEAD]


def _size(bits: _Bits) -> tuple[int, int]:
    """Height and width, stored as eighths, of 1 to 32, or as they are."""
    is_short = bits.take(1)

    def side() -> int:
        return 8 * (bits.take(5) + 1) if is_short else bits.choose(_SIDE)

    height = side()
    ratio = bits.take(3)
    if not ratio:
        return height, side()
    across, down = _RATIOS[ratio]
    return height, height * across // down


def _preview(bits: _Bits) -> None:
    choices = _PREVIEW_EIGHTHS if bits.take(1) else _PREVIEW_SIDE
    bits.choose(choices)
    if not bits.take(3):
        bits.choose(choices)
