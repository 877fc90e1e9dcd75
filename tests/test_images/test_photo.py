"""Photographs in and out: orientation, depth, grey, alpha, profiles, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from defsr.images.levels import from_levels, to_levels
from defsr.images.metadata import Metadata
from defsr.images.photo import Photo, read_photo
from defsr.images.photo_writer import check_writable, losses, write_photo

# What turns the stored pixels upright, as EXIF defines each value.
UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: np.swapaxes(x, 0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.swapaxes(np.rot90(x, 2), 0, 1),
    8: lambda x: np.rot90(x, 1),
}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
GREY_PROFILE = SRGB[:16] + b'GRAY' + SRGB[20:]


@pytest.fixture
def levels() -> np.random.Generator:
    return np.random.default_rng(5)


def photo_of(array: np.ndarray, **changes) -> Photo:
    """A Photo from (H,W[,C]) levels, 1 or 3 colours and perhaps alpha."""
    image = from_levels(array)
    num = 3 if image.shape[1] > 2 else 1
    alpha = image[:, num:] if image.shape[1] > num else None
    rgb = image[:, :num].expand(-1, 3, -1, -1)
    photo = Photo(rgb, alpha, 8 * array.dtype.itemsize, num == 1, Path('from.png'))
    return replace(photo, **changes)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def with_png_chunk(content: bytes, name: bytes, body: bytes) -> bytes:
    chunk = struct.pack('>I', len(body)) + name + body
    return content[:33] + chunk + struct.pack('>I', zlib.crc32(name + body)) + content[33:]


@pytest.mark.parametrize('orientation', UPRIGHT)
@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'a.webp'])
def test_8_bit_colour_is_turned_upright(tmp_path, levels, name, orientation):
    stored = levels.integers(0, 256, (6, 9, 3), np.uint8)
    options = {'lossless': True} if name == 'a.webp' else {}
    Image.fromarray(stored).save(tmp_path / name, exif=exif(orientation), **options)
    photo = read_photo(tmp_path / name)
    np.testing.assert_array_equal(to_levels(photo.rgb, 8), UPRIGHT[orientation](stored))


@pytest.mark.parametrize('orientation', UPRIGHT)
@pytest.mark.parametrize('name', ['a.png', 'a.tif'])
def test_16_bit_grey_is_turned_upright(tmp_path, levels, name, orientation):
    stored = levels.integers(0, 2**16, (6, 9)).astype(np.uint16)
    Image.fromarray(stored).save(tmp_path / name, exif=exif(orientation))
    photo = read_photo(tmp_path / name)
    assert (photo.bit_depth, photo.is_grey, photo.alpha) == (16, True, None)
    np.testing.assert_array_equal(to_levels(photo.rgb[:, :1], 16), UPRIGHT[orientation](stored))


def test_16_bit_colour_png_with_exif_is_turned_upright(tmp_path, levels):
    stored = levels.integers(0, 2**16, (6, 9, 4)).astype(np.uint16)
    content = cv2.imencode('.png', stored[..., [2, 1, 0, 3]])[1].tobytes()
    tags = exif(6).tobytes().removeprefix(b'Exif\0\0')
    (tmp_path / 'a.png').write_bytes(with_png_chunk(content, b'eXIf', tags))
    photo = read_photo(tmp_path / 'a.png')
    image = torch.cat((photo.rgb, photo.alpha), dim=1)
    np.testing.assert_array_equal(to_levels(image, 16), np.rot90(stored, -1))


def test_jpeg_orientation(tmp_path):
    """A red left half, stored lying: upright it is the upper half."""
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:, :32, 0] = 255
    Image.fromarray(stored).save(tmp_path / 'a.jpg', exif=exif(6), quality=95)
    red = read_photo(tmp_path / 'a.jpg').rgb[0, 0]
    assert red.shape == (64, 32)
    assert red[:30].min() > 0.9 and red[34:].max() < 0.1


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize(
    ('name', 'dtype'),
    [('a.png', 'u1'), ('a.png', 'u2'), ('a.TIFF', 'u1'), ('a.TIFF', 'u2'), ('a.webp', 'u1')],
)
def test_round_trip_is_exact(tmp_path, levels, name, channels, dtype):
    array = levels.integers(0, np.iinfo(dtype).max + 1, (7, 10, channels)).astype(dtype)
    array[..., -1] |= 1  # WebP may clear the colour under full transparency
    photo = photo_of(array)
    write_photo(tmp_path / name, photo)
    again = read_photo(tmp_path / name)
    torch.testing.assert_close(again.rgb, photo.rgb.contiguous(), rtol=0, atol=1e-6)
    assert again.bit_depth == photo.bit_depth
    assert (again.alpha is None) == (channels in (1, 3))
    if photo.alpha is not None:
        torch.testing.assert_close(again.alpha, photo.alpha.contiguous(), rtol=0, atol=1e-6)
    stored_as_rgb = name == 'a.webp' or (channels == 2 and dtype == 'u2')
    assert again.is_grey == (photo.is_grey and not stored_as_rgb)


def test_levels_are_clamped_and_rounded():
    image = torch.tensor([-1.0, 0.4999, 127.6, 254.4, 300.0]).div(255).view(1, 1, 1, 5)
    assert to_levels(image, 8).tolist() == [[0, 0, 128, 254, 255]]
    deep = torch.tensor([0.6, 65534.6]).div(65535).view(1, 1, 1, 2)
    assert to_levels(deep, 16).tolist() == [[1, 65535]]


def test_grey_is_written_as_luma(tmp_path):
    rgb = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 6)
    write_photo(tmp_path / 'a.png', replace(photo_of(np.zeros((4, 6), np.uint8)), rgb=rgb))
    with Image.open(tmp_path / 'a.png') as picture:
        assert picture.mode == 'L'
        assert np.unique(picture).tolist() == [76]  # 0.299 * 255 = 76.2


def test_jpeg_has_no_alpha_and_8_bit_and_says_so(tmp_path, levels):
    photo = photo_of(
        levels.integers(0, 2**16, (8, 12, 4)).astype(np.uint16), metadata=Metadata(SRGB)
    )
    told = losses(tmp_path / 'a.jpg', photo)
    assert len(told) == 2
    assert 'alpha channel is dropped' in told[0] and '16 bit are rounded to 8' in told[1]
    write_photo(tmp_path / 'a.jpg', photo)
    again = read_photo(tmp_path / 'a.jpg')
    assert (again.alpha, again.bit_depth, again.metadata.icc_profile) == (None, 8, SRGB)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.webp', 'a.tif'])
def test_colour_profile_is_kept_or_the_loss_is_told(tmp_path, levels, name, dtype):
    photo = photo_of(levels.integers(0, 256, (8, 12, 3)).astype(dtype), metadata=Metadata(SRGB))
    write_photo(tmp_path / name, photo)
    lost = any('profile of from.png cannot be kept in this' in line for line in losses(name, photo))
    assert not lost
    assert read_photo(tmp_path / name).metadata.icc_profile == (None if lost else SRGB)


def test_grey_profile_goes_with_grey_pixels_only(tmp_path, levels):
    photo = photo_of(levels.integers(0, 256, (8, 12), np.uint8), metadata=Metadata(GREY_PROFILE))
    write_photo(tmp_path / 'a.png', photo)
    assert read_photo(tmp_path / 'a.png').metadata.icc_profile == GREY_PROFILE
    assert not losses('a.jpg', photo)
    assert 'cannot be kept in this WEBP' in losses('a.webp', photo)[0]


def test_cmyk_becomes_rgb_without_its_profile(tmp_path):
    profile = SRGB[:16] + b'CMYK' + SRGB[20:]
    picture = Image.new('CMYK', (16, 8), (0, 255, 255, 0))
    picture.save(tmp_path / 'a.jpg', icc_profile=profile, quality=95)
    photo = read_photo(tmp_path / 'a.jpg')
    assert photo.metadata.icc_profile is None and not photo.is_grey
    torch.testing.assert_close(photo.rgb[0, :, 4, 8], torch.tensor([1.0, 0, 0]), rtol=0, atol=0.02)


def test_palette_with_transparency(tmp_path):
    picture = Image.new('P', (6, 4), 1)
    picture.putpalette([0, 0, 0, 255, 128, 0])
    picture.putpixel((2, 1), 0)
    picture.save(tmp_path / 'a.png', transparency=0)
    photo = read_photo(tmp_path / 'a.png')
    assert photo.alpha[0, 0, 1, 2] == 0 and photo.alpha.sum() == 23
    assert to_levels(photo.rgb, 8)[0, 0].tolist() == [255, 128, 0]


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new('RGB', (6, 4), colour) for colour in ('red', 'blue')]
    frames[0].save(tmp_path / 'a.webp', save_all=True, append_images=frames[1:], lossless=True)
    assert to_levels(read_photo(tmp_path / 'a.webp').rgb, 8)[0, 0].tolist() == [255, 0, 0]


def test_first_picture_of_a_phone_file(tmp_path):
    """Phones append a gain map or a second view to a JPEG (MPO)."""
    pictures = [Image.new('RGB', (16, 8), colour) for colour in ('red', 'blue')]
    with open(tmp_path / 'a.jpg', 'wb') as file:
        pictures[0].save(file, 'MPO', save_all=True, append_images=pictures[1:])
    assert read_photo(tmp_path / 'a.jpg').rgb[0, 0].min() > 0.95


# -- what is refused ------------------------------------------------------------------------------


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing.png does not exist'):
        read_photo(tmp_path / 'nothing.png')
    with pytest.raises(FileNotFoundError, match='is no file'):
        read_photo(tmp_path)


@pytest.mark.parametrize('content', [b'', b'hello', b'%PDF-1.4'])
def test_no_image(tmp_path, content):
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(ValueError, match='is no image that can be read. Known: BMP, GIF, JPEG'):
        read_photo(tmp_path / 'a.png')


@pytest.mark.parametrize(
    ('name', 'dtype'),
    [('a.jpg', 'u1'), ('a.png', 'u1'), ('a.png', 'u2'), ('a.webp', 'u1')],
)
def test_truncated_file(tmp_path, levels, name, dtype):
    array = levels.integers(0, 256, (64, 96, 3)).astype(dtype)
    content = cv2.imencode(name[1:], array)[1].tobytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f'{name} is (damaged|cut off)'):
        read_photo(tmp_path / name)


def promised_png(side: int) -> bytes:
    """A PNG that promises side x side pixels and holds none."""
    header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    signed = b'IHDR' + header
    start = b'\x89PNG\r\n\x1a\n\0\0\0\x0d' + signed + struct.pack('>I', zlib.crc32(signed))
    return with_png_chunk(start, b'IDAT', b'')


def test_truncated_16_bit_tiff(tmp_path, levels):
    """Its directory stands in front, so that the header alone looks well."""
    Image.fromarray(levels.integers(0, 2**16, (64, 96), np.uint16)).save(tmp_path / 'a.tif')
    content = (tmp_path / 'a.tif').read_bytes()
    (tmp_path / 'a.tif').write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(ValueError, match='a.tif is damaged: image file is truncated'):
        read_photo(tmp_path / 'a.tif')


def test_too_large_by_header_alone(tmp_path):
    """Nothing is decoded before the size is known: what it promises is not there."""
    (tmp_path / 'a.png').write_bytes(promised_png(10000))
    with pytest.raises(ValueError, match='has 100.0 megapixels .* max_megapixels=64'):
        read_photo(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='is damaged'):
        read_photo(tmp_path / 'a.png', max_megapixels=101)


def test_beyond_what_pillow_opens(tmp_path):
    (tmp_path / 'a.png').write_bytes(promised_png(20000))
    with pytest.raises(ValueError, match='too large to be read safely'):
        read_photo(tmp_path / 'a.png', max_megapixels=1000)


def test_floating_point_tiff(tmp_path):
    Image.new('F', (6, 4)).save(tmp_path / 'a.tif')
    with pytest.raises(ValueError, match='has 32 bit per channel'):
        read_photo(tmp_path / 'a.tif')


@pytest.mark.parametrize('name', ['a.bmp', 'a', 'a.png.txt'])
def test_unknown_output(name):
    with pytest.raises(ValueError, match='must be one of .png, .jpg'):
        check_writable(name, (4, 4))


def test_beyond_the_format():
    assert check_writable('a.webp', (16383, 5)) == 'WEBP'
    with pytest.raises(ValueError, match='WEBP ends at 16383 pixels per side'):
        check_writable('a.webp', (5, 16384))


def test_failed_write_leaves_the_old_file(tmp_path, levels, monkeypatch):
    photo = photo_of(levels.integers(0, 256, (4, 6, 3), np.uint8))
    (tmp_path / 'a.png').write_bytes(b'old')
    monkeypatch.setattr(io, 'BytesIO', lambda: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        write_photo(tmp_path / 'a.png', photo)
    assert (tmp_path / 'a.png').read_bytes() == b'old'
    assert len(list(tmp_path.iterdir())) == 1
