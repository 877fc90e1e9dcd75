"""What ``defsr.upscale`` and ``Upscaler`` refuse: always in one line that names the argument."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import defsr
from defsr.images.photo import read_photo
from defsr.upscaling import pick_device

LQ, REF = np.full((8, 9, 3), 0.5, np.float32), np.full((12, 10, 3), 0.5, np.float32)
NAN = float('nan')
HUGE = 'has 8100.0 megapixels .*max_megapixels=64'
IMAGES = [  # no image, and what is said of it
    (None, 'is None, but must be'),
    (5, r'is a int \(5\), but must be'),
    ([LQ], r'is a list \(\[array'),
    (b'photo.png', r"is a bytes \(b'photo.png'\), but must be"),
    (np.zeros((4, 4, 3), np.int64), r'is a ndarray int64 of shape \(4, 4, 3\)'),
    (np.zeros((4, 4, 3), bool), 'is a ndarray bool'),
    (np.zeros((4, 4, 3), complex), 'is a ndarray complex128'),
    (np.zeros((4, 4, 3), object), 'is a ndarray object'),
    (np.zeros((4, 4, 3), np.uint32), 'is a ndarray uint32'),
    (np.zeros((4, 4, 2), np.uint8), r'.* of shape \(4, 4, 2\), but'),
    (np.zeros((4, 4, 5), np.uint8), r'.* of shape \(4, 4, 5\), but'),
    (np.zeros((3, 4, 9), np.uint8), r'.* of shape \(3, 4, 9\), but'),
    (np.zeros((1, 4, 4, 3), np.uint8), r'.* of shape \(1, 4, 4, 3\), but'),
    (np.zeros((0, 4, 3), np.uint8), r'.* of shape \(0, 4, 3\), but'),
    (np.zeros(()), r'.* of shape \(\), but'),
    (torch.zeros(2, 3, 4, 4), r'.* of shape \(2, 3, 4, 4\), but'),
    (torch.zeros(4, 4), r'.* of shape \(4, 4\), but'),
    (torch.zeros(3, 0, 4), r'.* of shape \(3, 0, 4\), but'),
    (torch.zeros(3, 4, 4, dtype=torch.uint8), 'is a Tensor torch.uint8'),
    (torch.zeros(3, 4, 4, dtype=torch.complex64), 'is a Tensor torch.complex64'),
    (torch.zeros(3, 4, 4).to_sparse(), 'is a Tensor torch.float32'),
    (torch.zeros(3, 4, 4, device='meta'), 'is a Tensor torch.float32'),
    (Image.new('F', (4, 4)), 'is a Pillow image of mode F, but must be'),
    (Image.new('LAB', (4, 4)), 'is a Pillow image of mode LAB, but must be'),
    (Image.new('RGB', (0, 4)), r'has no pixels: 4x0 \(HxW\)'),
    (np.full((4, 4), 255.0), r'has values in \[255, 255\], but .* \[0, 1\]. Divide by 255'),
    (np.full((4, 4, 3), -np.inf), r'has values in \[-inf, -inf\]'),
    (torch.full((3, 4, 4), NAN), r'has values in \[nan, nan\]'),
    (
        np.broadcast_to(np.float32(0), (90000, 90000, 3)),
        HUGE,
    ),
    (torch.zeros(1).expand(3, 90000, 90000), HUGE),
]
REFS = [
    (None, 'refs is None, but must be an image or a list of images, each a path, a Pillow'),
    ([], 'refs is empty, but at least one reference is needed'),
    (iter(()), 'refs is empty'),
    (3.5, r'refs is a float \(3.5\), but must be an image or'),
    ({'a': REF}, r'refs is a dict \(\{.*\), but must be an image or'),
    ([REF, None], r'refs\[1\] is None, but must be a path'),
    ([torch.zeros(1, 3, 3, 40)], r'refs\[0\] is 3x40 \(HxW\), .* at least 4'),
    (np.zeros((3, 40)), r'refs is 3x40 \(HxW\), .* at least 4'),
]
OPTIONS = [
    ({'tile': 15}, 'tile is 15, but must be at least 16'),
    ({'tile': True}, 'tile is True, but must be a whole number'),
    ({'tile': 96.0}, 'tile is 96.0, but must be a whole number'),
    ({'tile': NAN}, 'tile is nan, but must be a whole number'),
    ({'tile': '96'}, "tile is '96', but must be a whole number"),
    ({'overlap': -1}, 'overlap is -1, but must be at least 0'),
    ({'overlap': None}, 'overlap is None, but must be a whole number'),
    ({'max_ref_megapixels': 'x'}, r"max_ref_megapixels is 'x' \(str\), but must be a number"),
    ({'max_ref_megapixels': True}, r'max_ref_megapixels is True \(bool\)'),
    ({'max_ref_megapixels': NAN}, r'max_ref_megapixels is nan \(float\), but must be a number'),
    ({'max_ref_megapixels': 0}, 'max_ref_megapixels is 0, but must be above 0'),
    ({'max_ref_megapixels': np.inf}, r'max_ref_megapixels is above 1e\+12'),
    ({'max_megapixels': -1}, 'max_megapixels is -1, but must be above 0'),
    ({'max_megapixels': 1e-3}, r'lq would become 32x36 \(HxW\), 0.00115 megapixels, more than'),
    ({'progress': 3}, r'progress is 3, but must be a function of \(stage, done, total\)'),
]
BUILDING = [
    ({'device': 3.5}, 'device is 3.5, but must be auto, cpu, cuda, cuda:N or mps'),
    ({'device': None}, 'device is None, but must be auto'),
    ({'device': 0}, 'device is 0, but must be auto'),
    ({'device': 'gpu'}, "device is 'gpu', but must be auto"),
    ({'device': 'mps:3'}, "device is 'mps:3', but this machine has none. Use auto"),
    ({'device': torch.device('meta')}, r"device is device\(type='meta'\), but must be auto"),
    ({'device': 'cuda:99'}, "device is 'cuda:99', but this machine has"),
    ({'weights': 5}, 'weights is 5, but must be the path of a file'),
    ({'weights': 0}, 'weights is 0, but must be the path of a file'),
    ({'weights': ''}, "weights is '', but must be the path of a weight file"),
]


@contextmanager
def refused(message: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """In one line that begins with ``message`` and shows no other error."""
    with pytest.raises(kind, match=f'^{message}') as error:
        yield
    assert '\n' not in str(error.value) and len(str(error.value)) < 500
    assert error.value.__suppress_context__ or error.value.__context__ is None


@pytest.mark.parametrize(('image', 'message'), IMAGES, ids=range(len(IMAGES)))
def test_no_image(upscaler, image, message):
    with refused(f'lq {message}'):
        upscaler(image, REF)
    if not isinstance(image, list):
        with refused(rf'refs\[1\] {message}'):
            upscaler(LQ, [REF, image])


@pytest.mark.parametrize(('refs', 'message'), REFS, ids=range(len(REFS)))
def test_no_references(upscaler, refs, message):
    with refused(message):
        upscaler(LQ, refs)


@pytest.mark.parametrize(('options', 'message'), OPTIONS, ids=repr)
def test_bad_options(upscaler, options, message):
    with refused(message):
        upscaler(LQ, REF, **options)


@pytest.mark.parametrize(('options', 'message'), BUILDING, ids=repr)
def test_what_an_upscaler_is_built_with(network, options, message):
    with refused(message):
        defsr.Upscaler(**{'options': network} | options)
    with refused(message):
        defsr.upscale(LQ, REF, **options)


@pytest.mark.parametrize('options', [None, 3])
def test_the_description_is_a_path(weights, options):
    with refused(f'options is {options}, but must be the path of a file'):
        defsr.Upscaler(weights, options=options)


def test_devices():
    assert pick_device('cpu') == pick_device('cpu:0') == torch.device('cpu')
    assert pick_device('auto').type in ('cpu', 'cuda')


@pytest.mark.parametrize('name', ['none.png', '', 'x' * 9999, 'a\0b', Path('none.png'), '.'])
def test_files_that_are_not_there(upscaler, name):
    with refused('lq: Image .* does not exist or is no file', FileNotFoundError):
        upscaler(name, REF)
    with refused(r'refs\[1\]: Image .* does not exist', FileNotFoundError):
        upscaler(LQ, [REF, name])
    with refused('refs: Image .* does not exist', FileNotFoundError):
        upscaler(LQ, name)


def test_files_that_are_no_images(upscaler, tmp_path):
    (tmp_path / 'a.png').write_text('hello')
    with refused('lq: .*a.png is no image that can be read'):
        upscaler(tmp_path / 'a.png', REF)
    Image.new('RGB', (30, 20), 'red').save(tmp_path / 'b.png')
    content = (tmp_path / 'b.png').read_bytes()
    (tmp_path / 'b.png').write_bytes(content[: len(content) - 30])
    with (
        refused('lq is damaged: '),
        Image.open(tmp_path / 'b.png') as lazy,
    ):
        upscaler(lazy, REF)
    with refused('lq is damaged: '):
        upscaler(lazy, REF)  # closed
    Image.new('RGB', (30, 3), 'red').save(tmp_path / 'c.png')
    with refused(r'refs\[0\] \(.*c.png\) is 3x30 \(HxW\), but both sides'):
        upscaler(LQ, [read_photo(tmp_path / 'c.png')])


def test_too_little_memory(upscaler, monkeypatch):
    def allocate(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9e18")

    monkeypatch.setattr(type(upscaler.restorer), 'restore', allocate)
    with refused(r'cpu has too little memory. Lower tile \(now 128\) or'):
        upscaler(LQ, REF)
