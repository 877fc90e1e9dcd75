"""MATLAB files as SciPy writes them, in both orders of bytes, and as accidents leave them."""

from __future__ import annotations

import random
import re
import struct
import zlib

import numpy as np
import pytest
from scipy.io import savemat

from defsr.utils.matlab_file import MAX_BYTES, read_matlab


@pytest.fixture
def variables() -> dict:
    rng = np.random.default_rng(0)
    return {
        'weights': rng.normal(size=(3, 4, 5)),
        'single': rng.normal(size=(2, 7)).astype(np.float32),
        'a': np.ones((1, 1)),  # a name short enough to stand beside its tag
        'empty': np.zeros((0, 3)),
    }


@pytest.mark.parametrize('compressed', [True, False])
def test_what_scipy_writes(tmp_path, variables, compressed):
    more = {'text': 'abc', 'nested': {'x': 1.0}, 'complex': np.ones(3) * 1j, 'whole': np.arange(3)}
    savemat(tmp_path / 'x.mat', variables | more, do_compression=compressed)
    found = read_matlab(tmp_path / 'x.mat')
    assert found.keys() == variables.keys()
    for name, value in variables.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value.astype(np.float32))


def matlab(name: bytes, shape: list[int], data: bytes, kind: int, order: str = '<') -> bytes:
    """A file with one double, whose numbers MATLAB has stored as another type."""

    def element(tag: int, content: bytes) -> bytes:
        padded = content + b'\0' * (-len(content) % 8)
        return struct.pack(f'{order}II', tag, len(content)) + padded

    sizes = struct.pack(f'{order}{len(shape)}i', *shape)
    parts = element(6, struct.pack(f'{order}II', 6, 0)) + element(5, sizes)
    matrix = element(14, parts + element(1, name) + element(kind, data))
    version = b'\0\1IM' if order == '<' else b'\1\0MI'
    return b'MATLAB 5.0'.ljust(124) + version + matrix


@pytest.mark.parametrize('order', ['<', '>'])
def test_whole_numbers_are_stored_as_such(tmp_path, order):
    data = np.arange(6, dtype=f'{order}u2').tobytes()
    (tmp_path / 'x.mat').write_bytes(matlab(b'numbers', [2, 3], data, 4, order))
    found = read_matlab(tmp_path / 'x.mat')['numbers']
    np.testing.assert_array_equal(found, [[0, 2, 4], [1, 3, 5]])  # columns first


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (matlab(b'x', [2, 3], b'\0' * 5, 2), 'torn or damaged'),
        (matlab(b'x', [-1, -6], b'\0' * 6, 2), 'torn or damaged'),
        (matlab(b'x', [2, 3], b'\0' * 7, 4), 'torn or damaged'),
        (matlab(b'x', [2, 3], b'\0' * 6, 2)[:-12], 'torn or damaged'),
        (b'MATLAB 7.3'.ljust(124) + b'\0\2IM', 'MATLAB 5 to 7; save it there with -v7'),
        (b'', 'MATLAB 5 to 7'),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    (tmp_path / 'x.mat').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_matlab(tmp_path / 'x.mat')


def test_a_bomb_does_not_go_off(tmp_path):
    packed = zlib.compress(b'\0' * (MAX_BYTES + 1))
    header = b'MATLAB 5.0'.ljust(124) + b'\0\1IM' + struct.pack('<II', 15, len(packed))
    (tmp_path / 'x.mat').write_bytes(header + packed)
    with pytest.raises(ValueError, match='a variable of it has more than 16,777,216 bytes'):
        read_matlab(tmp_path / 'x.mat')


def test_a_thousand_accidents(tmp_path, variables):
    """SciPy's own reader ends in a segmentation fault here."""
    dice = random.Random(0)
    path = tmp_path / 'x.mat'
    for compressed in (True, False):
        savemat(path, variables | {'nested': {'x': 1.0}}, do_compression=compressed)
        whole = path.read_bytes()
        refused = 0
        for _ in range(500):
            content = bytearray(whole)
            for _ in range(dice.choice((1, 2, 5, 20))):
                content[dice.randrange(124, len(content))] = dice.choice((0, 1, 14, 15, 127, 255))
            path.write_bytes(content[: dice.choice((len(whole), dice.randrange(len(whole))))])
            try:
                read_matlab(path)
            except ValueError as error:
                refused += 1
                assert re.search('torn or damaged|MATLAB 5 to 7|has more than', str(error))
        assert refused > 100
