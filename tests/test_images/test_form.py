"""Images as people hold them: each kind is read alike, and given back as it came."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from defsr.images.form import ImageForm, image_forms
from defsr.images.levels import from_levels, to_levels
from defsr.images.photo import read_photo
from defsr.ops.resize import upsample_bicubic

MODES = {  # of Pillow, and of what comes back
    '1': 'L', 'L': 'L', 'LA': 'LA', 'La': 'LA', 'P': 'RGB', 'PA': 'RGBA', 'RGB': 'RGB',
    'RGBA': 'RGBA', 'RGBa': 'RGBA', 'RGBX': 'RGB', 'CMYK': 'RGB', 'YCbCr': 'RGB', 'HSV': 'RGB',
    'I;16': 'I;16', 'I;16B': 'I;16', 'I;16L': 'I;16',
}  # fmt: skip
IN_FILES = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16')  # that PNG can hold


def picture_of(mode: str) -> Image.Image:
    """9x6, with all kinds of values."""
    generator = np.random.default_rng(9)
    if mode.startswith('I;16'):
        levels = generator.integers(0, 2**16, (6, 9)).astype('>u2' if mode == 'I;16B' else '<u2')
        return Image.frombytes(mode, (9, 6), levels.tobytes())
    picture = Image.fromarray(generator.integers(0, 256, (6, 9, 4), np.uint8), 'RGBA')
    if mode in ('La', 'PA'):
        return picture.convert('LA' if mode == 'La' else 'P').convert(mode)
    return picture.convert(mode) if mode == 'RGBa' else picture.convert('RGB').convert(mode)


def doubled(form: ImageForm) -> object:
    """An enlarged image in the owner's form, as an upscaler makes it."""
    alpha = None if form.alpha is None else upsample_bicubic(form.alpha, 2).clamp(0, 1)
    return form.give_back(upsample_bicubic(form.rgb, 2).clamp(0, 1), alpha)


@pytest.mark.parametrize('mode', MODES)
def test_pillow_images_of_every_mode(mode):
    picture = picture_of(mode)
    before = picture.tobytes()
    form = ImageForm.of('lq', picture)
    assert form.rgb.shape == (1, 3, 6, 9) and (form.alpha is not None) == MODES[mode].endswith('A')
    if mode.startswith('I;16'):
        want = from_levels(np.asarray(picture).astype(np.uint16)).expand(-1, 3, -1, -1)
    else:
        want = from_levels(np.asarray(picture.convert(MODES[mode]).convert('RGB')))
    torch.testing.assert_close(form.rgb, want, rtol=0, atol=0)
    result = doubled(form)
    assert (type(result), result.mode, result.size) == (Image.Image, MODES[mode], (18, 12))
    assert picture.tobytes() == before


@pytest.mark.parametrize('mode', IN_FILES)
@pytest.mark.parametrize('kind', [str, Path])
def test_a_file_is_taken_as_the_pillow_image_in_it(tmp_path, mode, kind):
    """And as ``read_photo``, the command's way: turned upright, a Pillow image comes back."""
    tags = Image.Exif()
    tags[274] = 8
    picture_of(mode).save(tmp_path / 'a.png', exif=tags, dpi=(300, 300))
    form = ImageForm.of('lq', kind(tmp_path / 'a.png'))
    with Image.open(tmp_path / 'a.png') as picture:
        other = ImageForm.of('lq', picture)
    photo = read_photo(tmp_path / 'a.png')
    for x in (other.rgb, photo.rgb):
        torch.testing.assert_close(x, form.rgb, rtol=0, atol=0)
    assert form.rgb.shape == (1, 3, 9, 6) and (form.alpha is None) == (other.alpha is None)
    results = doubled(form), doubled(other)
    assert results[0].tobytes() == results[1].tobytes()
    for result in results:
        assert (result.mode, result.size) == (MODES[mode], (12, 18))
        assert result.getexif()[274] == 1
        assert result.info['dpi'] == pytest.approx((300, 300), abs=0.01)


def test_transparency_of_a_palette(tmp_path):
    picture = Image.new('P', (6, 4), 1)
    picture.putpalette([0, 0, 0, 255, 128, 0])
    picture.putpixel((2, 1), 0)
    picture.info['transparency'] = 0
    form = ImageForm.of('lq', picture)
    assert form.alpha[0, 0, 1, 2] == 0 and form.alpha.sum() == 23
    result = doubled(form)
    assert result.mode == 'RGBA' and 'transparency' not in result.info


def test_a_file_with_16_bit_of_colour_says_what_pillow_cannot(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger('basicsr'), 'propagate', True)
    levels = np.random.default_rng(5).integers(0, 2**16, (6, 9, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / 'a.png'), levels[..., ::-1])
    form = ImageForm.of('lq', str(tmp_path / 'a.png'))
    np.testing.assert_array_equal(to_levels(form.rgb, 16), levels)
    assert doubled(form).mode == 'RGB'
    assert 'a.png: 16 bit of colour are rounded to 8' in caplog.text


def test_the_frame_where_an_animation_stands(tmp_path):
    frames = [Image.new('RGB', (6, 4), colour) for colour in ('red', 'blue')]
    frames[0].save(tmp_path / 'a.webp', save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(tmp_path / 'a.webp') as picture:
        picture.seek(1)
        assert to_levels(ImageForm.of('lq', picture).rgb)[0, 0].tolist() == [0, 0, 255]
        assert picture.tell() == 1


def test_a_photo_stays_one(tmp_path):
    picture_of('RGBA').save(tmp_path / 'a.png')
    photo = replace(read_photo(tmp_path / 'a.png'), bit_depth=16)
    result = doubled(ImageForm.of('lq', photo))
    assert result.size == (12, 18) and result.alpha.shape == (1, 1, 12, 18)
    assert (result.bit_depth, result.path, result.metadata) == (16, photo.path, photo.metadata)


def test_several_of_any_kind(tmp_path):
    picture_of('RGB').save(tmp_path / 'a.png')
    photo = read_photo(tmp_path / 'a.png')
    array, picture = to_levels(photo.rgb), picture_of('RGB')
    kinds = [tmp_path / 'a.png', str(tmp_path / 'a.png'), picture, photo, array, photo.rgb]
    lists = [kinds, tuple(kinds), iter(kinds), dict(enumerate(kinds)).values()]
    for given in lists:
        forms = image_forms('refs', given)
        assert len(forms) == 6
        for form in forms:
            torch.testing.assert_close(form.rgb, photo.rgb, rtol=0, atol=0)
    for one in kinds:
        (form,) = image_forms('refs', one)
        assert form.name.startswith('refs') and '[' not in form.name
    assert image_forms('refs', kinds)[3].name == f'refs[3] ({tmp_path / "a.png"})'
