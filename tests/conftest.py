"""Shared by all tests: a seeded generator, odd sizes, real photographs."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import defsr  # noqa: F401  (registers everything, applies the patches)

REPOSITORY = Path(__file__).resolve().parents[1]


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


def read_rgb(path: Path) -> torch.Tensor:
    """An image file as (1, 3, H, W) RGB float32 in [0, 1]."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert bgr is not None, path
    rgb = np.ascontiguousarray(bgr[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(rgb).float().div(255).unsqueeze(0)


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
