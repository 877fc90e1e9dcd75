"""Strangers' files: read whole or refused with their path, never half and never with a crash."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import torch
from PIL import Image

from defsr.data.image_source import ImageSource, decode_image
from defsr.data.lmdb_reader import read_lmdb
from defsr.data.lmdb_writer import create_lmdb
from defsr.data.ref_triplet_dataset import RefTripletDataset

PIXELS = cv2.blur(np.random.default_rng(3).integers(0, 256, (40, 56, 3), np.uint8), (3, 3))
OPTION = 'datasets:Set5:dataroot_gt'


def encode(kind: str, picture: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (picture or Image.fromarray(PIXELS)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    'content',
    [
        encode('PNG'),
        encode('JPEG'),
        encode('JPEG', progressive=True),
        encode('BMP'),
        encode('TIFF'),
        encode('TIFF', compression='tiff_lzw'),
        encode('WEBP'),
        encode('WEBP', lossless=True),
    ],
    ids=['png', 'jpeg', 'progressive', 'bmp', 'tiff', 'lzw', 'webp', 'lossless'],
)
def test_a_cut_file_is_refused(content, capfd):
    """At every kind of place; a WebP may end with padding that nobody needs."""
    cuts = [round(len(content) * part) for part in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)]
    for cut in cuts:
        with pytest.raises(ValueError, match='^x.png (is cut off|is damaged|cannot be read)'):
            decode_image(content[:cut], 'x.png')
    assert capfd.readouterr().err == ''
    assert decode_image(content + b'more', 'x.png').shape == (3, 40, 56)


def test_a_jpeg_that_ends_in_zeros_is_refused():
    """What an interrupted copy leaves; OpenCV returns it, grey below."""
    content = encode('JPEG')
    torn = content[: len(content) // 2] + bytes(9000)
    assert cv2.imdecode(np.frombuffer(torn, np.uint8), cv2.IMREAD_UNCHANGED) is not None
    with pytest.raises(ValueError, match='x.jpg is cut off'):
        decode_image(torn, 'x.jpg')


def test_a_flipped_byte_in_a_png_is_seen():
    content = encode('PNG')
    for position in range(45, len(content) - 20, 97):
        damaged = bytearray(content)
        damaged[position] ^= 4
        with pytest.raises(ValueError, match='x.png is (damaged|cut off)'):
            decode_image(bytes(damaged), 'x.png')


@pytest.mark.parametrize(
    ('content', 'shape'),
    [
        (encode('PNG', Image.new('RGB', (1, 1))), (1, 1)),
        (encode('JPEG', Image.new('RGB', (50, 1))), (1, 50)),
        (encode('PNG', Image.new('1', (5, 4))), (4, 5)),
        (encode('PNG', Image.new('P', (5, 4)), transparency=0), (4, 5)),
        (encode('JPEG', Image.new('CMYK', (5, 4))), (4, 5)),
        (encode('TIFF', Image.new('I;16', (5, 4))), (4, 5)),
        (encode('PNG', save_all=True, append_images=[Image.new('RGB', (56, 40))]), (40, 56)),
        (encode('TIFF', save_all=True, append_images=[Image.new('RGB', (9, 9))]), (40, 56)),
    ],
    ids=['1x1', '1 high', '1 bit', 'palette', 'cmyk', '16 bit', 'animated', 'pages'],
)
def test_unusual_images(content, shape):
    image = decode_image(content, 'x')
    assert image.shape == (3, *shape)
    assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1


def test_sizes_are_limited_before_decoding(monkeypatch):
    content = bytearray(encode('PNG'))
    content[16:24] = (30000).to_bytes(4, 'big') * 2
    monkeypatch.setattr(cv2, 'imdecode', None)
    message = r'^x has 900.0 megapixels \(30000x30000, HxW\), more than max_megapixels=128\. Reduce'
    with pytest.raises(ValueError, match=message):
        decode_image(bytes(content), 'x')
    with pytest.raises(ValueError, match='more than datasets:Set5:max_megapixels=0.001'):
        decode_image(encode('PNG'), 'x', 0.001, 'datasets:Set5')


def test_the_limit_is_an_option(block):
    with pytest.raises(ValueError, match=r'a.png has 0.0 .* than datasets:Tiny:max_megapixels=0.0'):
        RefTripletDataset(block(max_megapixels=0.002))[0]
    assert RefTripletDataset(block(max_megapixels=0.01))[0]
    for bad in (0, -1, 'many', float('nan')):
        with pytest.raises(ValueError, match='datasets:Tiny:max_megapixels is'):
            RefTripletDataset(block(max_megapixels=bad))


@pytest.mark.parametrize('phase', ['train', 'val'])
def test_tiny_references(block, triplets, write_image, phase):
    for side in (1, 3):
        write_image(triplets / 'ref' / 'a.png', side, 60, 0)
        message = rf'ref.a.png of datasets:Tiny is {side}x60 \(HxW\), but .* at least 4'
        with pytest.raises(ValueError, match=message):
            RefTripletDataset(block(phase))[0]
    write_image(triplets / 'ref' / 'a.png', 4, 4, 0)
    assert RefTripletDataset(block(phase))[0]['ref'].shape[0] == 3


def test_tiny_inputs(block, triplets, write_image):
    write_image(triplets / 'gt' / 'a.png', 1, 1, 0)
    with pytest.raises(ValueError, match='both sides must be at least scale=4'):
        RefTripletDataset(block())[0]
    write_image(triplets / 'gt' / 'a.png', 12, 12, 0)
    with pytest.raises(ValueError, match='a.png of datasets:Tiny is 3x3 .* at least 4'):
        RefTripletDataset(block(dataroot_ref='lq'))[0]


def test_create_lmdb_refuses_the_same(tmp_path):
    (tmp_path / 'gt').mkdir()
    (tmp_path / 'gt/a.png').write_bytes(encode('PNG')[:-3])
    with pytest.raises(ValueError, match='a.png is cut off'):
        create_lmdb({'gt': tmp_path / 'gt'}, tmp_path / 'out')
    (tmp_path / 'gt/a.png').write_bytes(encode('PNG'))
    with pytest.raises(ValueError, match='more than max_megapixels=0.001'):
        create_lmdb({'gt': tmp_path / 'gt'}, tmp_path / 'out', max_megapixels=0.001)
    assert not any((tmp_path / 'out').glob('*.lmdb'))


@pytest.fixture
def packed(tmp_path) -> Path:
    """An LMDB of twelve images."""
    (tmp_path / 'gt').mkdir()
    for i in range(12):
        (tmp_path / f'gt/{i}.png').write_bytes(encode('PNG'))
    return create_lmdb({'gt': tmp_path / 'gt'}, tmp_path)[0]


def test_a_torn_lmdb_is_refused_when_opened(packed, tmp_path):
    """Reading behind the end of the file would be a SIGBUS, so this runs here and now."""
    content = (packed / 'data.mdb').read_bytes()
    cuts = (0, 1, 4096, 5000, 8192, 8193, 12288, len(content) // 2, len(content) - 4096, -1)
    for number, cut in enumerate(cuts):
        torn = tmp_path / f'{number}.lmdb'
        torn.mkdir()
        (torn / 'meta_info.txt').write_text('0.png (40,56,3) 1\n')
        (torn / 'data.mdb').write_bytes(content[:cut])
        with pytest.raises(ValueError, match=f'{OPTION} is .*{number}.lmdb, whose data.mdb cannot'):
            ImageSource(OPTION, torn, 'lmdb')


def test_a_torn_lmdb_would_kill(packed):
    """The reason for the check, in a process of its own."""
    content = (packed / 'data.mdb').read_bytes()
    (packed / 'data.mdb').write_bytes(content[: len(content) // 2])
    code = (
        'import lmdb, sys\n'
        't = lmdb.open(sys.argv[1], readonly=True, lock=False).begin()\n'
        '[bytes(t.get(str(i).encode())) for i in range(12)]'
    )
    assert subprocess.run([sys.executable, '-c', code, str(packed)]).returncode < 0


@pytest.mark.parametrize('keep', [0, 8192], ids=['all', 'pages'])
@pytest.mark.parametrize('filler', [b'\0', b'text'])
def test_a_garbage_lmdb_is_refused(packed, keep, filler):
    content = (packed / 'data.mdb').read_bytes()
    rest = (filler * len(content))[: len(content) - keep]
    (packed / 'data.mdb').write_bytes(content[:keep] + rest)
    with pytest.raises(ValueError, match=f'{OPTION} is .*gt.lmdb, whose data.mdb (is|cannot)'):
        ImageSource(OPTION, packed, 'lmdb').read('0.png')


def test_what_the_meta_file_promises_must_be_there(packed):
    with (packed / 'meta_info.txt').open('a') as meta:
        meta.write('12.png (40,56,3) 1\n' + 'é' * 300 + '.png (40,56,3) 1\n')
    source = ImageSource(OPTION, packed, 'lmdb')
    assert source.read('11.png').shape == (3, 40, 56)
    with pytest.raises(ValueError, match='meta_info.txt lists 12, but its data.mdb has no such'):
        source.read('12.png')
    with pytest.raises(ValueError, match='lists é+, but its data.mdb has no such'):
        source.read('é' * 300 + '.png')


def test_an_lmdb_of_text(packed):
    environment = lmdb.open(str(packed))
    with environment.begin(write=True) as transaction:
        transaction.put(b'3', b'text')
    environment.close()
    with pytest.raises(ValueError, match=r'gt.lmdb.3.png cannot be read as an image'):
        ImageSource(OPTION, packed, 'lmdb').read('3.png')


def test_read_lmdb_without_its_file(packed):
    (packed / 'data.mdb').unlink()
    with pytest.raises(FileNotFoundError, match=f'{OPTION} is .*has no data.mdb'):
        read_lmdb(OPTION, str(packed), '0')


def test_an_lmdb_whose_lock_file_has_the_inode_of_a_deleted_one(packed, tmp_path):
    """As file systems give inodes again: nobody holds the lock file open."""
    assert ImageSource(OPTION, packed, 'lmdb').read('0.png').shape == (3, 40, 56)
    new = shutil.copytree(packed, tmp_path / 'new.lmdb')
    (new / 'lock.mdb').unlink()
    (new / 'lock.mdb').hardlink_to(packed / 'lock.mdb')
    assert ImageSource(OPTION, new, 'lmdb').read('0.png').shape == (3, 40, 56)
