"""What must hold of any photograph, whatever the network: with the weights that come along.

The bounds are grey levels of 255, some three times what was measured on five crops of the stereo
pair.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import defsr
from defsr.images.levels import from_levels, to_levels


class Scene:
    """A crop of the left photograph, 32x28 when small, and what of the right one lies beside it."""

    def __init__(self, stereo: tuple[Tensor, Tensor]) -> None:
        left, right = stereo
        self.gt = left[..., 180:308, 280:392]
        self.lq = from_levels(to_levels(F.avg_pool2d(self.gt, 4)))
        self.refs = [right[..., 180:276, 240:336], right[..., 184:280, 336:432]]
        self.upscale = defsr.Upscaler(device='cpu')
        self.sr = self.upscale(self.lq, self.refs)

    def score(self, sr: Tensor) -> float:
        return psnr(sr, self.gt)


@pytest.fixture(scope='module')
def scene(stereo) -> Scene:
    return Scene(stereo)


def psnr(one: Tensor, two: Tensor) -> float:
    return -10 * (one - two).square().mean().log10().item()


def levels_off(one: Tensor, two: Tensor) -> Tensor:
    return (one - two).abs() * 255


def test_the_order_of_references_matters_at_their_borders_only(scene):
    """Of equal matches the first reference's is taken; a texture may reach into the next one."""
    turned = scene.upscale(scene.lq, scene.refs[::-1])
    assert levels_off(turned, scene.sr).mean() < 0.6  # 0.07 to 0.3
    assert scene.score(turned) == pytest.approx(scene.score(scene.sr), abs=0.1)
    without = scene.upscale(scene.lq, scene.refs[1:])
    assert levels_off(without, scene.sr).mean() > 0.6, 'both are used'


def test_a_reference_twice_is_one(scene):
    """Up to textures at its border, which may reach into the copy."""
    once, twice = (scene.upscale(scene.lq, scene.refs[:1] * n) for n in (1, 2))
    assert levels_off(once, twice).mean() < 0.1  # 0.004 to 0.036
    assert scene.score(twice) == pytest.approx(scene.score(once), abs=0.02)


def test_the_truth_as_reference_is_the_best(scene):
    """Planted: 3 dB better than the other camera's picture; beside that it loses nothing."""
    alone, beside = (scene.upscale(scene.lq, refs) for refs in (scene.gt, [scene.gt, *scene.refs]))
    assert scene.score(alone) > scene.score(scene.sr) + 2
    assert scene.score(beside) > scene.score(alone) - 0.3


@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_a_jpeg_file_is_its_pixels(scene, tmp_path, mode):
    paths = [tmp_path / name for name in ('lq.jpg', 'ref.jpg')]
    for path, image in zip(paths, (scene.lq, scene.refs[0]), strict=True):
        Image.fromarray(to_levels(image)).convert(mode).save(path, quality=90)
    of_files = np.asarray(scene.upscale(*paths))
    of_pixels = scene.upscale(*(np.asarray(Image.open(path)) for path in paths))
    np.testing.assert_array_equal(of_files, of_pixels)


@pytest.mark.parametrize('overlap, bound', [(16, 1e-3), (8, 0.02)])
def test_tiles_are_one_piece(scene, overlap, bound):
    """Everywhere, seams included: 16 positions are all that the network sees to each side."""
    tiled = scene.upscale(scene.lq, scene.refs, tile=16, overlap=overlap)
    assert levels_off(tiled, scene.sr).max() < bound


def test_threads_change_rounding_only(scene, one_thread):
    small = scene.lq[..., :16, :20], scene.refs[0][..., :48, :40]  # two threads wait for a core
    one = scene.upscale(*small)
    torch.set_num_threads(2)
    two = scene.upscale(*small)
    assert levels_off(one, two).max() < 0.01  # 3e-5


@pytest.mark.parametrize('axis', [-1, -2], ids=['left-right', 'upside down'])
def test_a_mirrored_photo_is_mirrored(scene, axis):
    """No network here is symmetric, so only about: the wrong axis gives 10 dB."""
    flipped = scene.upscale(scene.lq.flip(axis), [ref.flip(axis) for ref in scene.refs])
    back = flipped.flip(axis)
    assert psnr(back, scene.sr) > 30  # 33 to 39 dB
    assert scene.score(back) == pytest.approx(scene.score(scene.sr), abs=0.75)
