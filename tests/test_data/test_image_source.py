"""Decoding, and finding images by name."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from defsr.data.image_source import ImageSource, decode_image, image_key


@pytest.fixture
def rgb():
    return np.random.default_rng(5).integers(0, 256, (7, 11, 3), dtype=np.uint8)


def decode(path) -> torch.Tensor:
    image = decode_image(path.read_bytes(), str(path))
    assert image.dtype == torch.float32 and image.is_contiguous()
    return image


def expected(pixels: np.ndarray, peak: int = 255) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(peak))


@pytest.mark.parametrize('extension', ['png', 'bmp', 'tif'])
def test_colour_is_rgb(rgb, tmp_path, extension):
    Image.fromarray(rgb).save(tmp_path / f'x.{extension}')
    assert torch.equal(decode(tmp_path / f'x.{extension}'), expected(rgb))


def test_grey_is_repeated(rgb, tmp_path):
    Image.fromarray(rgb[..., 0]).save(tmp_path / 'x.png')
    assert torch.equal(decode(tmp_path / 'x.png'), expected(rgb[..., :1].repeat(3, 2)))


def test_alpha_is_dropped(rgb, tmp_path):
    rgba = np.dstack([rgb, rgb[..., :1]])
    Image.fromarray(rgba, 'RGBA').save(tmp_path / 'x.png')
    assert torch.equal(decode(tmp_path / 'x.png'), expected(rgb))
    Image.fromarray(rgba[..., ::3].copy(), 'LA').save(tmp_path / 'grey.png')
    assert torch.equal(decode(tmp_path / 'grey.png'), expected(rgb[..., :1].repeat(3, 2)))


def test_palettes_are_expanded(rgb, tmp_path):
    image = Image.fromarray(rgb // 128 * 255).convert('P')
    image.save(tmp_path / 'x.png')
    pixels = np.array(image.convert('RGB'))
    assert torch.equal(decode(tmp_path / 'x.png'), expected(pixels))


def test_16_bits_keep_their_precision(rgb, tmp_path):
    deep = rgb.astype(np.uint16) * 257 - 3 * (rgb > 0)
    cv2.imwrite(str(tmp_path / 'x.png'), deep[..., ::-1].astype(np.uint16))
    image = decode(tmp_path / 'x.png')
    torch.testing.assert_close(image, expected(deep, 65535), rtol=0, atol=1e-7)


def test_orientation_tags_are_ignored(rgb, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(rgb).save(tmp_path / 'x.jpg', exif=exif)
    assert decode(tmp_path / 'x.jpg').shape == (3, 7, 11)


def test_what_is_no_image_is_named(tmp_path):
    for content in (b'', b'text', b'GIF89a', b'\x89PNG', b'P6 4 4 255 '):
        with pytest.raises(ValueError, match='broken.png cannot be read as an image'):
            decode_image(content, 'broken.png')
    cv2.imwrite(str(tmp_path / 'x.tif'), np.ones((4, 5, 3), np.float32))
    with pytest.raises(ValueError, match='float32 pixels, but must have 8 or 16'):
        decode(tmp_path / 'x.tif')


@pytest.mark.parametrize(
    'name, key',
    [('a.png', 'a'), ('a.b.JPG', 'a.b'), ('a.b', 'a.b'), ('d/a.png', 'd/a'), ('a', 'a')],
)
def test_image_key(name, key):
    assert image_key(name) == key


def test_names_are_sorted_images(tmp_path, write_image):
    for name in ('b.png', 'A.JPG', 'c.jpeg', 'd.bmp', 'e.tif', 'f.webp', 'deep/x.png'):
        write_image(tmp_path / name, 4, 6, 0)
    (tmp_path / 'notes.txt').write_text('no image')
    source = ImageSource('dataroot_gt', tmp_path)
    assert source.names() == ['A.JPG', 'b.png', 'c.jpeg', 'd.bmp', 'e.tif', 'f.webp']
    assert source.find('deep/x.png') == 'deep/x.png'


def test_names_must_differ_in_more_than_the_extension(tmp_path, write_image):
    write_image(tmp_path / 'a.png', 4, 6, 0)
    write_image(tmp_path / 'a.jpg', 4, 6, 0)
    with pytest.raises(ValueError, match='a.jpg and a.png differ in their extension only'):
        ImageSource('dataroot_gt', tmp_path).names()


def test_find(tmp_path, write_image):
    write_image(tmp_path / 'a.png', 4, 6, 0)
    source = ImageSource('dataroot_de', tmp_path)
    assert source.find('a.png') == 'a.png'
    assert source.find('a.jpg', any_extension=True) == 'a.png'
    for name in ('a.jpg', 'b.png', 'deep/a.png'):
        with pytest.raises(FileNotFoundError, match=f'dataroot_de is .*no image {name}'):
            source.find(name)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match='dataroot_gt is .*nowhere, which is not an exist'):
        ImageSource('dataroot_gt', tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='dataroot_gt is .* which has no images'):
        ImageSource('dataroot_gt', tmp_path).names()


def test_lmdb_roots_are_checked(tmp_path):
    with pytest.raises(ValueError, match='must end in .lmdb'):
        ImageSource('dataroot_gt', tmp_path, 'lmdb')
    root = tmp_path / 'gt.lmdb'
    root.mkdir()
    with pytest.raises(FileNotFoundError, match='dataroot_gt is .*has no meta_info.txt'):
        ImageSource('dataroot_gt', root, 'lmdb')
    (root / 'meta_info.txt').write_text('a.png (4,6,3) 1\nb.png\n')
    with pytest.raises(ValueError, match=r"line 'b.png', expected `name.png \(h,w,c\) level`"):
        ImageSource('dataroot_gt', root, 'lmdb')
    (root / 'meta_info.txt').write_text('')
    with pytest.raises(ValueError, match='meta_info.txt lists no images'):
        ImageSource('dataroot_gt', root, 'lmdb')
    (root / 'meta_info.txt').write_bytes(bytes(range(255)))
    with pytest.raises(ValueError, match='dataroot_gt: .*meta_info.txt has the line'):
        ImageSource('dataroot_gt', root, 'lmdb')
    (root / 'meta_info.txt').write_text('a.png (4,6,3) 1\n')
    with pytest.raises(FileNotFoundError, match='dataroot_gt is .*has no data.mdb'):
        ImageSource('dataroot_gt', root, 'lmdb')


def test_a_home_folder_is_expanded(tmp_path, monkeypatch, write_image):
    monkeypatch.setenv('HOME', str(tmp_path))
    write_image(tmp_path / 'gt' / 'a.png', 4, 6, 0)
    assert ImageSource('dataroot_gt', '~/gt').names() == ['a.png']


@pytest.mark.parametrize('name', [b'a\xff.png', b'a\nb.png', b'a\x1b[2Jb.png', b'a\xc2\x85b.png'])
def test_names_are_text_of_one_line(rgb, tmp_path, name):
    """OpenCV dies of the first, and the second makes an LMDB that nobody reads."""
    (tmp_path / os.fsdecode(name)).write_bytes(cv2.imencode('.png', rgb)[1].tobytes())
    with pytest.raises(ValueError, match=r"^gt: the name of an image is 'a\\.*, but must be UTF-8"):
        ImageSource('gt', tmp_path).names()
    (tmp_path / os.fsdecode(name)).rename(tmp_path / 'a\u3000\u5b57 b.png')
    assert ImageSource('gt', tmp_path).names() == ['a\u3000\u5b57 b.png']


def test_hidden_files_are_no_images(tmp_path, write_image):
    write_image(tmp_path / '0.png', 9, 9, 0)
    (tmp_path / '._0.png').write_bytes(b'\0\5\26\7Mac OS X')
    source = ImageSource('gt', tmp_path)
    assert source.names() == ['0.png']
    with pytest.raises(FileNotFoundError, match='no image ._0.png'):
        source.find('._0.png', any_extension=True)


def test_extensions_in_capitals(tmp_path, write_image):
    write_image(tmp_path / 'sub/0.png', 9, 9, 0)
    (tmp_path / 'sub/0.png').rename(tmp_path / 'sub/0.JPG')
    (tmp_path / 'sub/0').touch()
    source = ImageSource('ref', tmp_path)
    assert source.find('sub/0.png', any_extension=True) == 'sub/0.JPG'
    with pytest.raises(FileNotFoundError, match='no image sub/0.png'):
        source.find('sub/0.png')
