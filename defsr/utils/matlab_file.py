"""Numbers from a MATLAB file of version 5 to 7 (MathWorks, "MAT-File Level 5 File Format").

SciPy's reader is not for files of strangers: a few wrong bytes make it end in a segmentation fault.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

MAX_BYTES = 16 * 2**20  # of a file, and of a variable that is compressed
_HEADER = 128  # text, and in the last bytes the version and the order of bytes
_MATRIX, _COMPRESSED = 14, 15
_FLOATS = (6, 7)  # classes of matrices: double, single
_COMPLEX = 0x08
_DTYPES = {
    1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 9: 'f8', 12: 'i8', 13: 'u8',
}  # fmt: skip


def read_matlab(path: Path) -> dict[str, np.ndarray]:
    """name -> float32 array, of the real floating point variables; the others are passed over.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is none of these versions, torn, damaged or too large.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f'it has more than {MAX_BYTES:,d} bytes')
    content = path.read_bytes()
    orders = {b'\x00\x01IM': '<', b'\x01\x00MI': '>'}
    order = orders.get(content[_HEADER - 4 : _HEADER])
    if order is None:
        raise ValueError('it is not of MATLAB 5 to 7; save it there with -v7')
    found = {}
    for kind, data in _elements(content[_HEADER:], order):
        if kind == _COMPRESSED:
            kind, data = next(_elements(_inflated(data), order), (0, b''))
        if kind == _MATRIX:
            found.update(_matrix([*_elements(data, order)], order))
    return found


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, content) one after the other; short ones have both in eight bytes."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f'{order}II', data, at)
        start = at + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + size > len(data) or (start == at + 4 and size > 4):
            raise ValueError('it is torn or damaged')
        yield kind, data[start : start + size]
        at = start + size
        if kind != _COMPRESSED:
            at += -at % 8


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, MAX_BYTES)
    except zlib.error:
        raise ValueError('it is torn or damaged') from None
    if inflater.unconsumed_tail:
        raise ValueError(f'a variable of it has more than {MAX_BYTES:,d} bytes')
    return content


def _matrix(parts: list[tuple[int, bytes]], order: str) -> dict[str, np.ndarray]:
    """Flags, sizes, name and values of one variable; nothing if it is no real floating one."""
    if len(parts) < 4 or len(parts[0][1]) < 4:
        return {}
    flags = struct.unpack_from(f'{order}I', parts[0][1])[0]
    if flags & 0xFF not in _FLOATS or (flags >> 8) & _COMPLEX or parts[3][0] not in _DTYPES:
        return {}
    shape = _array(5, parts[1][1], order).tolist()
    with np.errstate(over='ignore'):  # too large for float32: infinite, which no network takes
        values = _array(*parts[3], order).astype(np.float32)
    if len(shape) > 32 or min(shape, default=-1) < 0 or prod(shape) != values.size:
        raise ValueError('it is torn or damaged')
    name = parts[2][1].decode('ascii', 'replace')
    return {name: np.ascontiguousarray(values.reshape(shape, order='F'))}


def _array(kind: int, data: bytes, order: str) -> np.ndarray:
    dtype = np.dtype(order + _DTYPES[kind])
    if len(data) % dtype.itemsize:
        raise ValueError('it is torn or damaged')
    return np.frombuffer(data, dtype)
