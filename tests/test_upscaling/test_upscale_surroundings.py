"""A library in other people's scripts: their state and images are left alone, and do not matter."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from state import changes, photograph
from workspaces import DENOISER, UPSCALE, save_options, write_prior

import defsr
from defsr.upscaling import Upscaler

STATE = Path(__file__).parents[1] / 'state.py'


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device('meta')
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def strict_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


SETTINGS = {
    'float64': default_dtype,
    'another device': default_device,
    'deterministic': deterministic,
    'inference': torch.inference_mode,
    'no gradients': torch.no_grad,
    'autocast': lambda: torch.autocast('cpu', torch.bfloat16),
    'warnings are errors': strict_warnings,
    'NumPy raises': lambda: np.errstate(all='raise'),
}


@pytest.fixture(scope='module')
def refined(tmp_path_factory) -> Path:
    """A description that uses every part of the matching and a diffusion model."""
    folder = tmp_path_factory.mktemp('refined')
    opt = deepcopy(UPSCALE)
    opt |= {'match_key': {'ref_enhanced': 1.0, 'ref': 0.5}, 'match_patch_size': 5}
    opt |= {'match_refine': 2, 'match_check': 'weight', 'match_search': 'coarse_to_fine'}
    opt['network_e'] = {'type': 'DDNMEnhancer', 'denoiser': DENOISER, 'diffusion': {'num_steps': 2}}
    opt['path']['pretrain_network_e'] = str(write_prior(folder / 'prior.pth'))
    return Path(save_options(folder / 'refined.yml', opt))


@pytest.fixture(scope='module')
def images() -> tuple[np.ndarray, np.ndarray]:
    """A uint16 lq of 16x16 with alpha and a reference of 24x30."""
    generator = np.random.default_rng(8)
    lq = generator.integers(0, 2**16, (16, 16, 4)).astype(np.uint16)
    return lq, generator.random((24, 30, 3)).astype(np.float32)


def test_a_process_of_its_own_is_left_as_it_was():
    """By the import, by building, by calling, and by both at once; the log is a line on stderr."""
    done = subprocess.run([sys.executable, STATE], capture_output=True, text=True)
    assert done.stdout.splitlines() == ['{}'] * 4, done.stderr
    assert done.stderr.splitlines() == [
        'Reference 1 is reduced from 24x24 to 10x10 (HxW): max_ref_megapixels is 0.0001 for 1.'
    ]


@pytest.fixture(scope='module')
def undisturbed(refined, weights, images) -> np.ndarray:
    """The result without any settings."""
    return Upscaler(weights, 'cpu', refined)(*images)


@pytest.mark.parametrize('name', SETTINGS)
def test_settings_of_the_caller(name, undisturbed, refined, weights, images):
    """Nothing in, nothing out: the same result to the bit, and the settings as they were."""
    with SETTINGS[name]():
        before = photograph()
        upscaler = Upscaler(weights, 'cpu', refined)
        found = upscaler(*images)
        again = upscaler(torch.from_numpy(images[1][:4, :5]).permute(2, 0, 1), images[1])
        assert changes(before, photograph()) == {}
    np.testing.assert_array_equal(found, undisturbed)
    assert again.dtype == torch.float32 and not again.requires_grad


def test_several_threads_share_one_upscaler(upscaler, images):
    """They read files and arrays, and some build another one."""
    lq, ref = images
    lqs = [np.roll(lq, i, axis=0) for i in range(6)]
    want = [upscaler(lq, ref) for lq in lqs]
    before, found = photograph(), {}

    def work(i: int) -> None:
        found[i] = upscaler(lqs[i], ref, tile=16, overlap=i)
        found[i] = upscaler(lqs[i], [ref])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert changes(before, photograph()) == {}
    for i, result in enumerate(want):
        np.testing.assert_array_equal(found[i], result)


def test_threads_that_build(network, weights):
    before, built = photograph(), []
    threads = [
        threading.Thread(target=lambda: built.append(Upscaler(weights, 'cpu', network)))
        for _ in range(4)
    ]
    with default_dtype():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert changes(before, photograph()) == {}
    assert all(p.dtype == torch.float32 for u in built for p in u.restorer.net_g.parameters())
    assert len(built) == 4


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    'negative strides': lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    'negative channels': lambda x: x[..., ::-1].copy()[..., ::-1],
    'columns first': np.asfortranarray,
    'every second': lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
    'read-only': read_only,
    'big-endian': lambda x: x.astype(x.dtype.newbyteorder('>')),
    'a matrix of another class': lambda x: x.view(np.ma.MaskedArray),
}


@pytest.mark.parametrize('dtype', ['u1', 'u2', 'f2', 'f4', 'f8'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_arrays_of_any_layout(upscaler, images, dtype, layout):
    """The same result as for a plain array, of the same dtype; nothing changed, nothing shared."""
    top = np.iinfo(dtype).max if dtype[0] == 'u' else 1
    lq, ref = (x[:6, :7] / x.max() * top for x in images)
    plain, ref = lq.astype(dtype), ref.astype(dtype)
    given, other = LAYOUTS[layout](plain), LAYOUTS[layout](ref)
    copies = given.copy(), other.copy()
    found = upscaler(given, other)
    assert found.dtype == given.dtype and type(found) is np.ndarray
    np.testing.assert_array_equal(found, upscaler(plain, ref))
    np.testing.assert_array_equal(given, copies[0])
    np.testing.assert_array_equal(other, copies[1])
    assert not np.shares_memory(found, given)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32', 'float64'])
def test_tensors_of_any_layout(upscaler, lq, refs, dtype):
    given = lq.to(getattr(torch, dtype)).to(memory_format=torch.channels_last)
    before = given.clone()
    found = upscaler(given.requires_grad_(), refs[1].requires_grad_())
    refs[1].requires_grad_(False)
    assert found.dtype == given.dtype and not found.requires_grad
    plain = upscaler(given.detach().clone().contiguous(), refs[1])
    torch.testing.assert_close(found, plain, rtol=0, atol=0)
    torch.testing.assert_close(given.detach(), before, rtol=0, atol=0)
    found.zero_()
    torch.testing.assert_close(given.detach(), before, rtol=0, atol=0)


def test_a_pillow_image_is_left_as_it_was(upscaler, tmp_path):
    tags = Image.Exif()
    tags[274] = 6
    Image.new('P', (18, 20)).save(tmp_path / 'a.png', exif=tags)
    with Image.open(tmp_path / 'a.png') as picture:
        picture.load()
        before = picture.mode, picture.size, dict(picture.info), picture.tobytes()
        result = upscaler(picture, picture)
        assert (picture.mode, picture.size, dict(picture.info), picture.tobytes()) == before
        assert picture.getexif()[274] == 6 and result.getexif()[274] == 1
    assert (result.mode, result.size) == ('RGB', (80, 72))


def test_whole_numbers_and_numbers_of_numpy(upscaler, images):
    want = upscaler(*images, tile=16, overlap=4, max_ref_megapixels=1)
    options = {'tile': np.int64(16), 'overlap': np.uint8(4), 'max_ref_megapixels': np.float32(1)}
    np.testing.assert_array_equal(upscaler(*images, **options), want)


def test_public_names():
    assert defsr.Upscaler is Upscaler and {'Upscaler', 'upscale'} <= {*defsr.__all__}
