"""Shared by all tests: a seeded generator, odd sizes, real photographs."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
from photos import read_rgb

import defsr  # noqa: F401  (before BasicSR: applies the patches)

pytest_plugins = ['workspaces', 'browsers']
cv2.setNumThreads(1)  # its threads do not survive the forks of some tests


@pytest.fixture(autouse=True)
def _seeded():
    """Augmentation draws from Python's generator; no test depends on another."""
    state = random.getstate()
    random.seed(20)
    yield
    random.setstate(state)


@pytest.fixture
def rng() -> torch.Generator:
    """A generator with a fixed seed; pass it on, so that no test depends on another."""
    return torch.Generator().manual_seed(20)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: sums are cut into as many parts as there are threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.fixture(scope='session')
def diffusers_pipeline(tmp_path_factory) -> Path:
    """A pipeline folder as diffusers writes it: stride 4, six channels out, v, cosine."""
    diffusers = pytest.importorskip('diffusers')
    with torch.random.fork_rng():
        torch.manual_seed(20)
        unet = diffusers.UNet2DModel(
            sample_size=16,
            out_channels=6,
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            down_block_types=('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D'),
            up_block_types=('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
            norm_num_groups=4,
        )
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=500,
        beta_schedule='squaredcos_cap_v2',
        prediction_type='v_prediction',
    )
    folder = tmp_path_factory.mktemp('diffusers') / 'pipeline'
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(folder)
    return folder
