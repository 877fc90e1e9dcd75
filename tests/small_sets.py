"""Small sets of images on disk: odd sizes, H != W, references larger and smaller than GT."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def write_image():
    """Saves a random image, blurred a little; returns its pixels as (H, W, 3) RGB uint8."""

    def write(path: Path, height: int, width: int, seed: int) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert cv2.imwrite(str(path), cv2.blur(image, (2, 2)))
        stored = cv2.imread(str(path), cv2.IMREAD_COLOR)
        return np.ascontiguousarray(stored[..., ::-1])

    return write


SIZES = {
    # name: (gt, ref)
    'a': ((50, 61), (70, 91)),
    'b': ((41, 44), (30, 37)),
    'c': ((43, 53), (41, 29)),
}


@pytest.fixture
def triplets(tmp_path, write_image) -> Path:
    """``gt`` and ``ref`` with a.png, b.png, c.png, sizes as in SIZES."""
    for seed, (name, sizes) in enumerate(SIZES.items()):
        write_image(tmp_path / 'gt' / f'{name}.png', *sizes[0], seed)
        write_image(tmp_path / 'ref' / f'{name}.png', *sizes[1], 10 + seed)
    return tmp_path


@pytest.fixture
def block(triplets):
    """Makes a data set block over ``triplets``; keyword arguments change it."""

    def make(phase: str = 'val', /, **changes: object) -> dict:
        opt = {
            'name': 'Tiny',
            'type': 'RefTripletDataset',
            'phase': phase,
            'scale': 4,
            'dataroot_gt': str(triplets / 'gt'),
            'dataroot_ref': str(triplets / 'ref'),
            'io_backend': {'type': 'disk'},
        }
        if phase == 'train':
            opt |= {'gt_size': 32, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}
        opt |= changes
        return {key: value for key, value in opt.items() if value is not None}

    return make
