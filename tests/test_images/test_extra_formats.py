"""AVIF, HEIC and JPEG XL as photographs: pixels, depth, orientation, metadata, and what is refused.

The two JPEG XL files as text were made by cjxl 0.7, of 24x16 (WxH) pixels drawn for this.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, features

from defsr.images.extra_formats import extra_format
from defsr.images.formats import DATA_SUFFIXES, FORMATS, PHOTO_SUFFIXES
from defsr.images.jxl_header import jxl_boxes, jxl_header
from defsr.images.levels import to_levels
from defsr.images.photo import read_photo
from defsr.images.photo_files import photos_below
from defsr.images.photo_writer import WRITABLE, check_writable, losses
from defsr.upscaling import Upscaler

heif = pytest.importorskip('pillow_heif')
pytest.importorskip('pillow_jxl')
needs_avif = pytest.mark.skipif(not features.check('avif'), reason='Pillow without AVIF')
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
# Left half red, of the upper half green in addition; EXIF's orientation 6 became the codestream's.
TURNED_JXL = base64.b64decode(
    'AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAABBanhsY/8KAy0QUFwSCAIBAKwASxiLFQDUIjPGmFEXCAL'
    'gAyUHgGbXX6Qfloanf5AsCkOwMiQwvEBCQLgCAA=='
)
# 16 bit of colour: level 50 * (72 * y + 3 * x + c).
DEEP_JXL = base64.b64decode(
    'AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAAAJanhsbAoAAAE3anhsY/8KA/EDUFwICAIBAIQESxiTjoWD'
    'STDuoP9oKWMMbmqMweweYM8AlgTAgXCttdZaa6211lprrbXWWgjXWmuttdZaa6211lprrWW3h3CttdZaa6211lprrbXW'
    'WgjXWmuttdZaa6211lprrYVwrbXWWmuttdZaa6211lr5xAjXWmuttdZaa6211lprrYVwrbXWWmuttdZaa6211loI11pr'
    'rbXWWmuttdZaa611HoxwrbXWWmuttdZaa6211loI11prrbXWWmuttdZaa631nYBwrbXWWmuttdZaa6211loI11prrbXW'
    'WmuttdZaa62FcK211lprrbXWWmuttdZaCfoI11prrbXWWmuttdZaa62FcK211lprrbXWWmuttdZaCNdaa6211GvWWmut'
    'tdZaa62FBA=='
)


def smooth(channels: int = 3) -> np.ndarray:
    """(48, 64, channels) uint8 that every codec keeps within a few levels."""
    y, x = np.mgrid[:48, :64]
    planes = [2 * y + x + 30, 2 * x + 40, 200 - 2 * y, 255 - x]
    return np.stack(planes[:channels], axis=-1).astype(np.uint8).squeeze()


def encoded(kind: str, array: np.ndarray, **options: object) -> bytes:
    """In near lossless quality."""
    buffer = io.BytesIO()
    picture = Image.fromarray(array)
    if kind == 'HEIC':
        heif.from_pillow(picture).save(buffer, quality=-1, chroma=444, **options)
    elif kind == 'JPEG XL':
        picture.save(buffer, 'JXL', lossless=True, **options)
    else:
        picture.save(buffer, 'AVIF', quality=100, subsampling='4:4:4', **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[271], tags[274] = 'Maker', orientation
    return tags.tobytes()


KINDS = [pytest.param('AVIF', marks=needs_avif), 'HEIC', 'JPEG XL']


@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('kind', KINDS)
def test_pixels_alpha_and_profile(tmp_path, kind, channels):
    array = smooth(channels)
    path = tmp_path / 'a.jpg'  # the content tells, whatever the name says
    options = {} if channels == 1 else {'icc_profile': SRGB}
    if kind == 'JPEG XL':
        options = {}  # its plugin writes none
    path.write_bytes(encoded(kind, array, **options))
    photo = read_photo(path)
    assert photo.bit_depth == 8 and photo.is_grey == (channels == 1 and kind != 'AVIF')
    assert (photo.alpha is None) == (channels < 4)
    colours = array[..., :3] if channels > 1 else np.repeat(array[..., None], 3, axis=2)
    assert np.abs(to_levels(photo.rgb).astype(int) - colours).max() <= 3
    if channels == 4:
        assert np.abs(to_levels(photo.alpha).astype(int) - array[..., 3]).max() <= 2
    if options:
        assert photo.metadata.icc_profile == SRGB
    assert not photo.metadata.damaged


@pytest.mark.parametrize('kind', KINDS[:2])
def test_orientation_is_applied_once_and_other_tags_are_kept(tmp_path, kind):
    path, array = tmp_path / 'a', smooth()
    path.write_bytes(encoded(kind, array, exif=exif(6)))
    photo = read_photo(path)
    upright = np.rot90(array, -1)
    assert photo.size == upright.shape[:2] == (64, 48)
    assert np.abs(to_levels(photo.rgb).astype(int) - upright).max() <= 3
    tags = Image.Exif()
    tags.load(photo.metadata.exif)
    assert (tags[271], tags[274]) == ('Maker', 1)


def test_jpeg_xl_is_turned_by_its_codestream_not_by_exif(tmp_path):
    path = tmp_path / 'a.jxl'
    path.write_bytes(TURNED_JXL)
    levels = to_levels(read_photo(path).rgb)
    assert levels.shape == (24, 16, 3)
    assert levels[:12, :8].reshape(-1, 3).tolist() == [[255, 0, 0]] * 96
    assert levels[:12, 8:].reshape(-1, 3).tolist() == [[255, 255, 0]] * 96
    path.write_bytes(encoded('JPEG XL', smooth(), exif=exif(6)))
    photo = read_photo(path)
    np.testing.assert_array_equal(to_levels(photo.rgb), smooth())
    assert b'Maker' in photo.metadata.exif


def test_jpeg_in_jpeg_xl_is_read_as_the_jpeg(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / 'a.jpg', exif=exif(6), quality=95)
    with Image.open(tmp_path / 'a.jpg') as picture:
        picture.save(tmp_path / 'a.jxl', lossless_jpeg=True)
    jpeg, again = read_photo(tmp_path / 'a.jpg'), read_photo(tmp_path / 'a.jxl')
    assert again.rgb.equal(jpeg.rgb) and again.metadata.exif == jpeg.metadata.exif


@pytest.mark.parametrize('bits', [10, 12])
def test_deep_heic_keeps_its_levels(tmp_path, bits):
    deep = smooth().astype(np.uint16) * (2**bits // 256) + 1
    deep[0, 0] = 2**bits - 1  # white
    file = heif.from_bytes(mode=f'RGB;{bits}', size=(64, 48), data=deep.tobytes())
    buffer = io.BytesIO()
    file.save(buffer, quality=-1, chroma=444, matrix_coefficients=0)
    (tmp_path / 'a.heic').write_bytes(buffer.getvalue())
    photo = read_photo(tmp_path / 'a.heic')
    assert photo.bit_depth == 16 and not photo.metadata.damaged
    levels = photo.rgb[0].permute(1, 2, 0).numpy() * (2**bits - 1)
    assert np.abs(levels - deep).max() < 0.1
    assert photo.rgb[0, :, 0, 0].tolist() == [1, 1, 1]


@needs_avif
def test_deep_avif_keeps_its_levels_or_says_so(tmp_path, monkeypatch):
    deep = cv2.GaussianBlur(smooth().astype(np.uint16) * 4 + 1, (0, 0), 2)
    settings = [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 100]
    try:
        done, content = cv2.imencode('.avif', deep, settings)
    except cv2.error:
        done = False
    if not done:
        pytest.skip('OpenCV without AVIF')
    (tmp_path / 'a.avif').write_bytes(content.tobytes())
    photo = read_photo(tmp_path / 'a.avif')
    assert photo.bit_depth == 16
    levels = photo.rgb[0].permute(1, 2, 0).numpy()[..., ::-1] * 1023
    assert np.abs(levels - deep).max() < 1.1
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: None)
    rounded = read_photo(tmp_path / 'a.avif')
    assert rounded.bit_depth == 8
    assert losses('b.png', rounded) == [
        'The bits beyond 8 per channel of a.avif cannot be read: dropped.'
    ]


def test_jpeg_xl_of_16_bit_grey_is_kept_and_of_colour_told(tmp_path):
    grey = smooth(1).astype(np.uint16) * 257 + 3
    (tmp_path / 'a.jxl').write_bytes(encoded('JPEG XL', grey))
    photo = read_photo(tmp_path / 'a.jxl')
    assert (photo.bit_depth, photo.is_grey) == (16, True)
    np.testing.assert_array_equal(to_levels(photo.rgb[:, :1], 16), grey)
    (tmp_path / 'b.jxl').write_bytes(DEEP_JXL)
    photo = read_photo(tmp_path / 'b.jxl')
    assert jxl_header(DEEP_JXL) == ((16, 24), 16, False)
    assert photo.metadata.damaged == ('bits beyond 8 per channel',)
    level = 50 * np.arange(16 * 24 * 3).reshape(16, 24, 3)
    assert np.abs(to_levels(photo.rgb)[..., ::-1] - level / 257).max() < 1.1  # it dithers


@pytest.mark.parametrize('size', [(8, 8), (16, 24), (256, 256), (7, 300), (520, 9), (90, 160)])
def test_size_of_jpeg_xl_without_decoding(size):
    content = encoded('JPEG XL', np.zeros((*size, 3), np.uint8))
    assert jxl_header(content) == (size, 8, False)
    for _, body in jxl_boxes(content):
        if body.startswith(b'\xff\x0a'):
            assert jxl_header(body).size == size  # and without its container


def bare_jxl(height: int, width: int) -> bytes:
    """A codestream that ends after its size."""
    bits, place = 0x0AFF, 17
    for side, end in ((height, 3), (width, 0)):
        bits |= (3 | (side - 1) << 2) << place  # 30 bits follow
        place += 32 + end
    return (bits | 1 << place).to_bytes(32, 'little')


def test_nothing_is_decoded_before_the_size_is_known(tmp_path):
    (tmp_path / 'a.jxl').write_bytes(bare_jxl(40000, 50000))
    with pytest.raises(ValueError, match=r'a.jxl has 2000.0 megapixels \(40000x50000, HxW\)'):
        read_photo(tmp_path / 'a.jxl')
    for kind in ('HEIC', 'AVIF'):
        (tmp_path / 'a').write_bytes(encoded(kind, smooth()))
        with pytest.raises(ValueError, match=r'\(48x64, HxW\), more than max_megapixels=0.001'):
            read_photo(tmp_path / 'a', max_megapixels=0.001)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('share', [0.1, 0.5, 0.9])
def test_cut_off(tmp_path, kind, share):
    content = encoded(kind, smooth())
    (tmp_path / 'a').write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match='a is (damaged|no image)'):
        read_photo(tmp_path / 'a')


@pytest.mark.parametrize('kind', KINDS)
def test_damaged_files_end_in_one_line(tmp_path, kind):
    content, rng = encoded(kind, smooth(), exif=exif(6)), np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(256)
        (tmp_path / 'a').write_bytes(damaged)
        try:
            photo = read_photo(tmp_path / 'a')
        except ValueError as error:
            assert '\n' not in str(error) and str(tmp_path) in str(error)
        else:
            assert photo.rgb.shape[1] == 3


@pytest.mark.parametrize(
    ('kind', 'module', 'package'),
    [('HEIC', 'pillow_heif', 'pillow-heif'), ('JPEG XL', 'pillow_jxl', 'pillow-jxl-plugin')],
)
def test_without_the_extra_one_line_names_it(tmp_path, monkeypatch, kind, module, package):
    (tmp_path / 'a').write_bytes(encoded(kind, smooth()))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError) as caught:
        read_photo(tmp_path / 'a')
    line = f"is a photo in {kind}, which needs {package}: pip install 'defsr[formats]'"
    assert str(caught.value) == f'{tmp_path}/a {line}'


def test_an_avif_without_pillows_own_says_so(tmp_path, monkeypatch):
    (tmp_path / 'a').write_bytes(encoded('AVIF', smooth()))
    monkeypatch.setattr(features, 'check', lambda name: False)
    with pytest.raises(ValueError, match='a photo in AVIF, which needs Pillow 11.3 or newer'):
        read_photo(tmp_path / 'a')


@needs_avif
def test_colours_beyond_srgb_that_no_profile_describes_are_told(tmp_path):
    content = encoded('HEIC', smooth(), color_primaries=12, transfer_characteristics=13)
    (tmp_path / 'p3.heic').write_bytes(content)
    photo = read_photo(tmp_path / 'p3.heic')
    assert photo.metadata.damaged == ('colour space (CICP)',)


@pytest.mark.parametrize(
    ('brands', 'name'),
    [(b'avif', 'AVIF'), (b'heix', 'HEIC'), (b'mif1\0\0\0\0mif1heic', 'HEIC'),
     (b'mif1\0\0\0\0mif1avif', 'AVIF'), (b'mp42\0\0\0\0isom', None), (b'', None)],
)  # fmt: skip
def test_brands(brands, name):
    content = (8 + len(brands)).to_bytes(4, 'big') + b'ftyp' + brands
    found = extra_format(content)
    assert (found and found.name) == name


def test_pillow_is_left_as_it_was(tmp_path):
    (tmp_path / 'a.heic').write_bytes(encoded('HEIC', smooth()))
    before = {*Image.OPEN}  # other packages of this process may have changed it
    read_photo(tmp_path / 'a.heic')
    assert {*Image.OPEN} == before


def test_every_ending_has_one_owner():
    assert len({*PHOTO_SUFFIXES}) == len(PHOTO_SUFFIXES)
    assert {*DATA_SUFFIXES} < {*PHOTO_SUFFIXES} and {*WRITABLE} < {*PHOTO_SUFFIXES}
    assert not {'.heic', '.avif', '.jxl', '.gif'} & {*DATA_SUFFIXES}
    assert [kind.name for kind in FORMATS if not kind.in_data_sets] == [
        'GIF', 'AVIF', 'HEIC', 'JPEG XL'
    ]  # fmt: skip


def test_folders_take_them_and_outputs_are_refused(tmp_path):
    for name in ('a.HEIC', 'b.avif', 'c.jxl', 'd.heif'):
        (tmp_path / name).write_bytes(b'')
    assert [path.name for path in photos_below(tmp_path)] == ['a.HEIC', 'b.avif', 'c.jxl', 'd.heif']
    for name in ('a.heic', 'a.avif', 'a.jxl'):
        with pytest.raises(
            ValueError, match='must be one of .png, .jpg, .jpeg, .tif, .tiff, .webp'
        ):
            check_writable(name, (4, 4))


def test_photo_and_reference_of_a_phone_are_upscaled(tmp_path):
    paths = [tmp_path / 'a.heic', tmp_path / 'b.jxl']
    small = cv2.resize(smooth(), (16, 12), interpolation=cv2.INTER_AREA)
    paths[0].write_bytes(encoded('HEIC', small))
    paths[1].write_bytes(encoded('JPEG XL', smooth()))
    result = Upscaler(device='cpu')(paths[0], [paths[1]])
    assert result.size == (64, 48)
    assert Path(paths[0]).stat().st_size  # the input is there still
