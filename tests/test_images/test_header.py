"""Sizes are read and torn files found before anything is decoded."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from memory import peak_of
from PIL import Image

from defsr.data.image_source import decode_array, decode_image
from defsr.images.header import check_megapixels, image_size
from defsr.images.photo import read_photo

PIXELS = cv2.blur(np.random.default_rng(3).integers(0, 256, (40, 56, 3), np.uint8), (3, 3))
FORMATS = {
    'png': ('PNG', {}),
    'jpeg': ('JPEG', {}),
    'progressive': ('JPEG', {'progressive': True}),
    'bmp': ('BMP', {}),
    'tiff': ('TIFF', {}),
    'deflated tiff': ('TIFF', {'compression': 'tiff_adobe_deflate'}),
    'big tiff': ('TIFF', {'big_tiff': True}),
    'webp': ('WEBP', {}),
    'lossless webp': ('WEBP', {'lossless': True}),
    'extended webp': ('WEBP', {'icc_profile': bytes(200)}),
}


def encode(name: str, picture: Image.Image | None = None) -> bytes:
    buffer = io.BytesIO()
    kind, options = FORMATS[name]
    (picture or Image.fromarray(PIXELS)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize('name', FORMATS)
def test_size_is_height_and_width(name):
    content = encode(name)
    assert image_size(content, 'x') == (40, 56)
    assert image_size(content + b'rubbish \xff\xd9 IEND', 'x') == (40, 56)


@pytest.mark.parametrize('name', ['png', 'jpeg', 'progressive'])
@pytest.mark.parametrize('filler', [b'', bytes(5000)], ids=['cut', 'zeros'])
def test_torn_files(name, filler):
    content = encode(name)
    for cut in range(4, len(content), 61):
        with pytest.raises(ValueError, match='^x is cut off|^x cannot be read as an image'):
            image_size(content[:cut] + filler, 'x')
    with pytest.raises(ValueError, match='^x is cut off'):
        image_size(content[:-1], 'x')


def test_a_preview_inside_does_not_count_as_the_end():
    exif = Image.Exif()
    exif[0x9286] = encode('jpeg')  # a comment that is a whole JPEG
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, 'JPEG', exif=exif)
    content = buffer.getvalue()
    assert content.count(b'\xff\xd9') == 2
    assert image_size(content, 'x') == (40, 56)
    with pytest.raises(ValueError, match='x is cut off'):
        image_size(content[:-30], 'x')


@pytest.mark.parametrize('name', FORMATS)
def test_any_damage_is_a_clear_error_or_a_size(name):
    content, rng = encode(name), np.random.default_rng(1)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.integers(len(content) if rng.random() < 0.3 else 60)] = rng.integers(256)
        try:
            height, width = image_size(bytes(damaged), 'x')
        except ValueError as error:
            assert str(error).startswith('x ') and '\n' not in str(error)
        else:
            assert height >= 0 and width >= 0


@pytest.mark.parametrize('name', ['png', 'jpeg', 'tiff', 'webp'])
def test_it_is_the_size_of_the_decoded_image(name):
    """Of all orientation tags OpenCV follows those of TIFF, whatever its flags say."""
    kind, _ = FORMATS[name]
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        Image.fromarray(PIXELS).save(buffer, kind, exif=exif)
        content = buffer.getvalue()
        assert image_size(content, 'x') == decode_array(content, 'x').shape[:2]


def test_a_kind_of_tiff_that_pillow_does_not_open():
    content = cv2.imencode('.tif', PIXELS.astype(np.float32))[1].tobytes()
    assert image_size(content, 'x') == (40, 56)


def test_other_files():
    for content in (b'', b'text', b'GIF89a', b'\xff\xd8', b'II*', b'RIFF\0\0\0\0WAVE'):
        with pytest.raises(ValueError, match='^x cannot be read as an image'):
            image_size(content, 'x')
    for content in (b'\xff\xd8\xff', b'II*\0', b'BM', b'RIFF\0\0\0\0WEBP', b'\x89PNG\r\n\x1a\n'):
        with pytest.raises(ValueError, match='^x is cut off'):
            image_size(content, 'x')


def test_megapixels():
    check_megapixels('x', (1000, 2000), 2)
    with pytest.raises(ValueError, match=r'x has 2.0 megapixels \(1000x2001, HxW\), more than a:b'):
        check_megapixels('x', (1000, 2001), 2, 'a:b')


def bomb(height: int, width: int) -> bytes:
    """A valid black PNG, made row by row: two megabytes that would fill gigabytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
        )

    packer, row = zlib.compressobj(1), bytes(1 + width)
    data = b''.join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        chunk(*part) for part in ((b'IHDR', header), (b'IDAT', data), (b'IEND', b''))
    )


def test_a_bomb_is_known_by_its_header():
    content = bomb(30000, 30000)
    assert len(content) < 5e6
    assert image_size(content, 'x') == (30000, 30000)


def tiff(*entries: tuple[int, int], big: bool = False) -> bytes:
    """A little-endian TIFF of one page with these tags, all of them LONG, and no pixels."""
    form, head = ('<HHQQ', '<HHHQQ') if big else ('<HHII', '<HIH')
    tags = b''.join(struct.pack(form, tag, 4, 1, value) for tag, value in entries)
    start = struct.pack(head, *((43, 8, 0, 16) if big else (42, 8)), len(entries))
    return b'II' + start + tags + bytes(8)


@pytest.mark.parametrize('big', [False, True])
def test_a_tag_given_twice_is_refused_whichever_a_decoder_takes(big):
    """Pillow and OpenCV's libtiff do not always take the same one."""
    assert image_size(tiff((256, 50), (257, 40), big=big), 'x') == (40, 50)
    assert image_size(tiff((256, 50), (257, 40), (274, 6), big=big), 'x') == (50, 40)
    for tags in (
        [(256, 50), (256, 40000), (257, 40000)],
        [(256, 40000), (256, 50), (257, 40000)],
        [(256, 50), (257, 40), (257, 40)],
    ):
        with pytest.raises(ValueError, match='^x cannot be read as an image'):
            image_size(tiff(*tags, big=big), 'x')


def test_a_tile_beyond_the_image_is_refused():
    assert image_size(tiff((256, 50), (257, 40), (322, 256), (323, 256)), 'x') == (40, 50)
    with pytest.raises(ValueError, match='^x cannot be read as an image'):
        image_size(tiff((256, 50), (257, 40), (322, 16384), (323, 16384)), 'x')


def rle_bmp(height: int, width: int, data: bytes) -> bytes:
    """A BMP of one colour, run-length encoded."""
    head = struct.pack('<IiiHHIIiiII', 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    start = 14 + len(head) + 1024
    return b'BM' + struct.pack('<IHHI', start + len(data), 0, 0, start) + head + bytes(1024) + data


def test_an_rle_bmp_cannot_be_larger_than_its_runs():
    """A kilobyte that says 8000x16000 took three gigabytes."""
    with pytest.raises(ValueError, match='^x is cut off'):
        image_size(rle_bmp(8000, 16000, b'\0\1'), 'x')
    rows = (b'\xff\7' * 4 + b'\0\0') * 500 + b'\0\1'
    assert decode_array(rle_bmp(500, 1020, rows), 'x').shape[:2] == (500, 1020)


def test_memory_follows_the_pixels(tmp_path):
    """Of anything within ``max_megapixels``: the levels, and one copy of 12 bytes a pixel."""
    megapixels = 16
    Image.new('RGB', (4000, 4000)).save(tmp_path / 'x.png')
    content = (tmp_path / 'x.png').read_bytes()
    told, peak = peak_of(lambda: decode_image(content, 'x', megapixels).shape)
    assert told == 'torch.Size([3, 4000, 4000])'
    assert peak < 17.5 * megapixels * 1e6
    told, peak = peak_of(lambda: read_photo(tmp_path / 'x.png').size)
    assert told == '(4000, 4000)'
    assert peak < 24 * megapixels * 1e6
    told, peak = peak_of(lambda: decode_image(content, 'x', megapixels - 1))
    assert told.startswith('ValueError: x has 16.0 megapixels')
    assert peak < 1e6
