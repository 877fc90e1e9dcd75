"""Shared by all tests: a seeded generator, odd sizes, real photographs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from photos import read_rgb
from torchvision.utils import save_image

import defsr  # noqa: F401  (registers everything, applies the patches)


@pytest.fixture
def rng() -> torch.Generator:
    """A generator with a fixed seed; pass it on, so that no test depends on another."""
    return torch.Generator().manual_seed(20)


@pytest.fixture(scope='session')
def stereo_paths() -> tuple[Path, Path]:
    """scikit-image's rectified stereo pair, 500x741 RGB: (left, right)."""
    skimage = pytest.importorskip('skimage')
    folder = Path(skimage.__file__).parent / 'data'
    return folder / 'motorcycle_left.png', folder / 'motorcycle_right.png'


@pytest.fixture(scope='session')
def stereo(stereo_paths) -> tuple[torch.Tensor, torch.Tensor]:
    """The stereo pair as two (1, 3, 500, 740) tensors."""
    left, right = (read_rgb(path)[..., :740] for path in stereo_paths)
    return left, right


@pytest.fixture(scope='session')
def data_root() -> Path:
    """The folder of benchmark images (docs/datasets.md), named by DEFSR_DATA."""
    folder = Path(os.environ.get('DEFSR_DATA', 'unset'))
    if not folder.is_dir():
        pytest.skip('DEFSR_DATA names no folder of benchmark images (docs/datasets.md)')
    return folder


@pytest.fixture
def workspace(tmp_path, stereo) -> Path:
    """A folder with three small pairs under datasets/."""
    for i in range(3):
        window = (..., slice(100, 260), slice(160 * i, 160 * i + 160))
        for role, image in zip(('gt', 'ref'), stereo, strict=True):
            folder = tmp_path / 'datasets' / role
            folder.mkdir(parents=True, exist_ok=True)
            save_image(image[window], folder / f'{i}.png')
    return tmp_path
