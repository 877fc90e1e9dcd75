"""A cache while it is made: begun once, gone on with, and mixed with no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from defsr.data.cache_record import RECORD, make_record, write_record
from defsr.data.image_source import ImageSource
from defsr.enhance.cache import EnhancedCache
from defsr.images.levels import round_to_8_bit

MINE = make_record('de', 'matlab', {'type': 'X', 'num_steps': 20})
OTHER = make_record('de', 'matlab', {'type': 'X', 'num_steps': 100})


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()}


@pytest.fixture
def image(rng):
    """(3, 8, 12), partly beyond [0, 1]."""
    return 1.2 * torch.rand(3, 8, 12, generator=rng) - 0.1


@pytest.mark.parametrize('out', ['cache', 'deep/x.lmdb'])
def test_images_are_stored_as_8_bit(tmp_path, image, out):
    cache = EnhancedCache('out', tmp_path / out, MINE)
    assert cache.begin(['a.png', 'b/c.png'])
    assert cache.folder == tmp_path / {'cache': 'cache', 'deep/x.lmdb': 'deep/x.lmdb.parts'}[out]
    cache.put('b/c.png', image)
    assert names(cache.folder) == {RECORD, 'b/c.png'}
    stored = ImageSource('x', cache.folder).read('b/c.png')
    assert torch.equal(stored, round_to_8_bit(image))
    assert cache.has('b/c.png', (8, 12))
    assert not cache.has('b/c.png', (12, 8)) and not cache.has('a.png', (8, 12))


@pytest.mark.parametrize('keep', [0, 0.3, 0.99])
def test_a_torn_image_is_not_there(tmp_path, image, keep):
    cache = EnhancedCache('out', tmp_path / 'x', MINE)
    cache.begin(['a.png'])
    cache.put('a.png', image)
    path = tmp_path / 'x/a.png'
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert not cache.has('a.png', (8, 12))
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 8
    path.write_bytes(flipped)
    assert not cache.has('a.png', (8, 12))


def test_going_on_clears_what_was_being_written(tmp_path, image):
    cache = EnhancedCache('out', tmp_path / 'x', MINE)
    cache.begin(['a.png'])
    cache.put('a.png', image)
    (tmp_path / 'x/.b.png.77.tmp').write_bytes(b'half')
    assert cache.begin(['a.png', 'b.png'])
    assert names(tmp_path / 'x') == {RECORD, 'a.png'}


def test_two_enhancers_are_not_mixed(tmp_path):
    EnhancedCache('out', tmp_path / 'x.lmdb', MINE).begin(['a.png'])
    with pytest.raises(
        ValueError,
        match='out is .*x.lmdb, begun in .*x.lmdb.parts, which another '
        'enhancer made: num_steps 100 here, 20 in the cache. Remove the folder',
    ):
        EnhancedCache('out', tmp_path / 'x.lmdb', OTHER).begin(['a.png'])


def test_a_folder_of_somebody_else(tmp_path):
    (tmp_path / 'x').mkdir()
    cache = EnhancedCache('out', tmp_path / 'x', MINE)
    (tmp_path / 'x/.enhancer.json.1.tmp').write_bytes(b'killed here')
    assert cache.begin(['a.png']), 'an empty folder may be filled'
    (tmp_path / 'x' / RECORD).unlink()
    (tmp_path / 'x/photo.png').write_bytes(b'')
    with pytest.raises(ValueError, match='out is .*x, which has files but no enhancer.json'):
        cache.begin(['a.png'])
    assert names(tmp_path / 'x') == {'photo.png'}
    with pytest.raises(ValueError, match='photo.png, but .*photo.png is a file. Change out.'):
        EnhancedCache('out', tmp_path / 'x/photo.png', MINE).begin(['a.png'])


def finished(tmp_path, image) -> EnhancedCache:
    """An LMDB with a.png, and parts that a killed run left beside it."""
    from defsr.data.lmdb_writer import build_lmdb

    cache = EnhancedCache('out', tmp_path / 'x.lmdb', MINE)
    cache.begin(['a.png'])
    cache.put('a.png', image)
    build_lmdb(ImageSource('x', cache.folder), ['a.png'], cache.out)
    write_record(cache.out, MINE)
    return cache


def test_a_finished_lmdb_is_left_alone(tmp_path, image):
    cache = finished(tmp_path, image)
    assert not cache.begin(['a.png'])
    assert not cache.folder.exists()
    with pytest.raises(ValueError, match=r'which is finished, but has not b.png \(1 of 2'):
        cache.begin(['a.png', 'b.png'])
    other = EnhancedCache('out', tmp_path / 'x.lmdb', OTHER)
    with pytest.raises(ValueError, match='x.lmdb, which another enhancer made'):
        other.begin(['a.png'])
    (cache.out / RECORD).unlink()
    with pytest.raises(ValueError, match='x.lmdb, which has files but no enhancer.json'):
        cache.begin(['a.png'])
