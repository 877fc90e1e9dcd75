"""What is kept beside the pixels, from every format to every other, and what no file can spoil."""

from __future__ import annotations

import io
import random
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from defsr.images.levels import to_levels
from defsr.images.metadata import Metadata, png_chunks
from defsr.images.photo import Photo, read_photo
from defsr.images.photo_writer import losses, to_picture, write_photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" a="b"/></x:xmpmeta>'
UPRIGHT_XMP = b'<x:xmpmeta><rdf:Description a="b"/></x:xmpmeta>'
TEXTS = {'Title': 'Bridge', 'Comment': 'Brücke', 'Long': 'x' * 5000}
PLACE = {1: 'N', 2: (51.0, 30.0, 0.0), 3: 'W', 4: (0.0, 7.0, 30.0)}
IN = ['a.png', 'a.jpg', 'a.webp', 'a.tif']
OUT = ['b.png', 'b.jpg', 'b.webp', 'b.tif']


def tags() -> dict:
    """As a phone writes them, of a picture stored lying."""
    camera = {0x829A: 0.02, 0x9003: '2020:01:02 03:04:05', 0xA002: 9, 0xA003: 6, 0x927C: b'notes'}
    camera[0xA005] = {1: 'R98'}
    return {
        271: 'Maker', 272: 'Model', 274: 6, 282: 300.0, 283: 300.0, 296: 2,
        306: '2021:01:02 03:04:05', 256: 9, 257: 6, 0x8769: camera, 0x8825: PLACE,
    }  # fmt: skip


def exif_block(thumbnail: bytes = b'') -> bytes:
    """With a thumbnail, which Pillow does not write, in a second directory."""
    exif = Image.Exif()
    for tag, value in tags().items():
        exif[tag] = value
    block = bytearray(exif.tobytes().removeprefix(b'Exif\0\0'))
    if thumbnail:
        (number,) = struct.unpack_from('>H', block, 8)
        struct.pack_into('>I', block, 10 + 12 * number, len(block))
        block += struct.pack('>H', 2)
        block += struct.pack('>HHII', 513, 4, 1, len(block) + 2 * 12 + 4)
        block += struct.pack('>HHII', 514, 4, 1, len(thumbnail)) + bytes(4) + thumbnail
    return b'Exif\0\0' + bytes(block)


def png_texts() -> PngInfo:
    info = PngInfo()
    for key, value in TEXTS.items():
        info.add_text(key, value)
    info.add_itxt('XML:com.adobe.xmp', XMP.decode())
    return info


def save(path: Path, exif: bytes | None = None) -> Path:
    """A picture of 6x9, stored lying, with all that the format can hold."""
    exif = exif or exif_block(b'\xff\xd8thumbnail\xff\xd9')
    picture = Image.effect_noise((9, 6), 80).convert('RGB')
    options = {'exif': exif, 'icc_profile': SRGB, 'dpi': (300, 300)}
    if path.suffix == '.png':
        options['pnginfo'] = png_texts()
    elif path.suffix != '.tif':
        options['xmp'] = XMP
    if path.suffix == '.tif':
        options['exif'] = block = Image.Exif()
        block.load(exif)
        block[700] = XMP
    picture.save(path, **options)
    return path


def tags_of(path: Path) -> tuple[dict, dict, dict]:
    """Of a file, by Pillow: its own, the camera's and the place."""
    with Image.open(path) as picture:
        exif = picture.getexif()
        assert not exif.get_ifd(1), 'a thumbnail'
        return dict(exif), dict(exif.get_ifd(0x8769)), dict(exif.get_ifd(0x8825))


@pytest.mark.parametrize('bit_depth', [8, 16])
@pytest.mark.parametrize('target', OUT)
@pytest.mark.parametrize('source', IN)
def test_what_is_kept(tmp_path, source, target, bit_depth):
    """The result stands upright and is as large as it is, whatever the source said of itself."""
    photo = replace(read_photo(save(tmp_path / source)), bit_depth=bit_depth)
    assert photo.size == (9, 6) and not photo.metadata.damaged
    write_photo(tmp_path / target, photo)

    own, camera, place = tags_of(tmp_path / target)
    assert own[274] == 1 and (own[271], own[272]) == ('Maker', 'Model')
    assert (own[282], own[283], own[296]) == (300, 300, 2)
    assert camera[0x9003] == '2020:01:02 03:04:05' and camera[0x927C] == b'notes'
    assert not {0xA002, 0xA003} & {*camera} and place == PLACE
    if target == 'b.tif':
        assert (own[256], own[257]) == (6, 9)
    else:
        assert not {256, 257, 258, 273, 700, 34675} & {*own}

    with Image.open(tmp_path / target) as picture:
        picture.load()
        assert picture.size == (6, 9) and picture.info['icc_profile'] == SRGB
        assert picture.info['xmp'].replace(b'  ', b' ') == UPRIGHT_XMP
        if target != 'b.webp':
            assert picture.info['dpi'] == pytest.approx((300, 300), abs=0.01)
        texts = getattr(picture, 'text', {})
        assert {key: texts.get(key) for key in TEXTS} == (
            TEXTS if (source, target) == ('a.png', 'b.png') else dict.fromkeys(TEXTS)
        )
    told = '; '.join(losses(tmp_path / target, photo))
    assert ('texts (Title, Comment, Long) of a.png cannot be kept' in told) == (
        source == 'a.png' and target != 'b.png'
    )
    again = read_photo(tmp_path / target)
    shown = 8 if target in ('b.jpg', 'b.webp') else bit_depth
    assert again.bit_depth == shown and not again.metadata.damaged
    if target != 'b.jpg':
        torch.testing.assert_close(again.rgb, photo.rgb, rtol=0, atol=1e-6)


@pytest.mark.parametrize('source', IN)
def test_pillow_gets_the_same(tmp_path, source):
    """Its ``save`` keeps the profile by itself, and the others as its manual says."""
    picture = to_picture(read_photo(save(tmp_path / source)))
    exif = picture.getexif()
    assert exif[274] == 1 and exif.get_ifd(0x8825) == PLACE
    assert picture.info['dpi'] == pytest.approx((300, 300), abs=0.01)
    assert (
        picture.info['xmp'].startswith(b'<x:xmpmeta') and b'Orientation' not in picture.info['xmp']
    )
    if source == 'a.png':
        assert {key: picture.info[key] for key in TEXTS} == TEXTS
    picture.save(tmp_path / 'again.png', exif=picture.getexif())
    assert read_photo(tmp_path / 'again.png').metadata.icc_profile == SRGB


def test_nothing_is_made_up(tmp_path):
    Image.new('RGB', (9, 6)).save(tmp_path / 'a.png')
    photo = read_photo(tmp_path / 'a.png')
    assert photo.metadata == Metadata()
    for name in OUT:
        write_photo(tmp_path / name, photo)
        assert losses(name, photo) == []
        assert read_photo(tmp_path / name).metadata == Metadata()


def test_a_resolution_alone_has_a_place_in_webp(tmp_path):
    Image.new('RGB', (9, 6)).save(tmp_path / 'a.png', dpi=(72, 72))
    write_photo(tmp_path / 'b.webp', read_photo(tmp_path / 'a.png'))
    own, _, _ = tags_of(tmp_path / 'b.webp')
    assert own == {282: pytest.approx(72, abs=0.01), 283: pytest.approx(72, abs=0.01), 296: 2}


def test_too_much_for_a_jpeg_is_said(tmp_path):
    block = Image.Exif()
    block[0x8769] = {0x927C: bytes(70000)}
    metadata = Metadata(SRGB, block.tobytes(), bytes(70000))
    grey = torch.full((1, 3, 6, 9), 0.5)
    photo = Photo(grey, None, 8, False, Path('from.png'), metadata)
    assert losses('b.jpg', photo) == [
        'The EXIF data of from.png cannot be kept in this JPEG.',
        'The XMP data of from.png cannot be kept in this JPEG.',
    ]
    for name in OUT:
        write_photo(tmp_path / name, photo)
        assert read_photo(tmp_path / name).metadata.icc_profile == SRGB
        assert name == 'b.jpg' or losses(name, photo) == []


# -- hostile files ---------------------------------------------------------------------------------


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))


BOMB = zlib.compress(bytes(3 * 2**20))


def one_tag(tag: int, kind: int, count: int, value: int | bytes) -> bytes:
    """EXIF data of one tag, true or not."""
    value = value if isinstance(value, bytes) else struct.pack('>I', value)
    return b'Exif\0\0MM\0*' + struct.pack('>IHHHI', 8, 1, tag, kind, count) + value + bytes(4)


BAD_EXIF = {
    'rubbish': b'Exif\0\0' + bytes(range(255)),
    'cut off': exif_block()[:60],
    'empty': b'Exif\0\0',
    'circular': one_tag(0x8769, 4, 1, 8),
    'far away': one_tag(0x8769, 4, 1, 2**32 - 1),
    'endless': one_tag(271, 2, 2**32 - 1, 8),
    'orientation 9': one_tag(274, 3, 1, b'\0\x09\0\0'),
    'orientation of text': one_tag(274, 2, 4, b'six\0'),
}
BAD_CHUNKS = {
    'text bomb': chunk(b'zTXt', b'Comment\0\0' + BOMB),
    'international bomb': chunk(b'iTXt', b'Comment\0\1\0\0\0' + BOMB),
    'text compressed by nobody': chunk(b'zTXt', b'Comment\0\7' + BOMB),
    'torn text': chunk(b'zTXt', b'Comment\0\0' + BOMB[:50]),
    'profile bomb': chunk(b'iCCP', b'ICC\0\0' + BOMB),
    'profile compressed by nobody': chunk(b'iCCP', b'ICC\0\7' + BOMB),
    'rubbish as profile': chunk(b'iCCP', b'ICC\0\0' + zlib.compress(b'profile')),
    'profile cut off': chunk(b'iCCP', b'ICC\0\0' + zlib.compress(SRGB[:200])),
    'short resolution': chunk(b'pHYs', b'\0'),
    'no resolution': chunk(b'pHYs', bytes(8) + b'\1'),
    'large EXIF data': chunk(b'eXIf', bytes(2**22)),
}


def plain_png(*chunks: bytes) -> tuple[bytes, np.ndarray]:
    """A PNG with chunks put in after its header, and its pixels."""
    levels = np.random.default_rng(3).integers(0, 256, (6, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, 'PNG')
    content = file.getvalue()
    return content[:33] + b''.join(chunks) + content[33:], levels


def survives(path: Path) -> Photo:
    """The photo, once it has been written in every format, with each loss told in a line."""
    photo = read_photo(path)
    for name in OUT:
        target = path.with_name(name)
        assert all('\n' not in line for line in losses(target, photo))
        write_photo(target, photo)
        assert read_photo(target).size == photo.size
    to_picture(photo)
    return photo


@pytest.mark.parametrize('kind', BAD_CHUNKS)
def test_bad_chunks_do_not_cost_the_image(tmp_path, kind):
    content, levels = plain_png(BAD_CHUNKS[kind], chunk(b'tEXt', b'Title\0Bridge'))
    (tmp_path / 'a.png').write_bytes(content)
    photo = survives(tmp_path / 'a.png')
    np.testing.assert_array_equal(to_levels(photo.rgb), levels)
    if 'bomb' in kind or 'nobody' in kind or kind == 'short resolution':
        said = 'The metadata of a.png cannot be read: dropped.'
        assert losses('b.png', photo) == [said]
    else:
        assert photo.metadata.text['Title'] == 'Bridge'


@pytest.mark.parametrize('kind', BAD_EXIF)
@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.webp'])
def test_bad_exif_does_not_cost_the_image(tmp_path, kind, name):
    photo = survives(save(tmp_path / name, BAD_EXIF[kind]))
    by_xmp = kind not in ('rubbish', 'orientation 9', 'orientation of text')
    assert photo.size == ((9, 6) if by_xmp else (6, 9))
    assert photo.metadata.icc_profile == SRGB


def test_a_damaged_profile_is_told(tmp_path):
    for name in ('a.jpg', 'a.webp', 'a.tif'):
        Image.new('RGB', (9, 6)).save(tmp_path / name, icc_profile=SRGB[:300])
        photo = survives(tmp_path / name)
        assert losses('b.png', photo) == [f'The colour profile of {name} cannot be read: dropped.']


def test_broken_bytes_end_well_or_in_one_line(tmp_path):
    """Whatever is broken in the metadata: an image, or a ValueError."""
    generator = random.Random(4)
    for source in IN:
        content = save(tmp_path / source).read_bytes()
        for _ in range(15):
            broken = bytearray(content)
            for _ in range(generator.choice((1, 4))):
                broken[generator.randrange(33, 600)] = generator.choice((0, 255, 42))
            if source == 'a.png':  # sums that are right, so that Pillow reads on
                chunks = [chunk(c[4:8], c[8:-4]) for c in png_chunks(bytes(broken))]
                broken = broken[:8] + b''.join(chunks)
            (tmp_path / source).write_bytes(broken)
            try:
                photo = read_photo(tmp_path / source)
            except ValueError as error:
                assert source in str(error)
            else:
                to_picture(photo)
                write_photo(tmp_path / 'b.png', photo)
