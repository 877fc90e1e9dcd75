from __future__ import annotations

import pytest
import torch
from basicsr.data import build_dataset
from torchvision.utils import save_image


@pytest.fixture
def opt(tmp_path, rng):
    images = torch.rand(2, 3, 20, 30, generator=rng).mul(255).round().div(255)
    for i, image in enumerate(images):
        save_image(image, tmp_path / f'{i}.png')
    save_image(images[0, :, :10, :12], tmp_path / 'small.png')
    block = {'name': 'x', 'type': 'ImageCropDataset', 'phase': 'val', 'gt_size': 16}
    return block | {'dataroot_gt': str(tmp_path), 'scale': 4}, images


def test_validation_takes_the_centre(opt):
    block, images = opt
    dataset = build_dataset(block)
    assert len(dataset) == 3
    item = dataset[1]
    torch.testing.assert_close(item['gt'], images[1, :, 2:18, 7:23])
    assert item['gt_path'].endswith('1.png')


def test_training_takes_random_parts_and_turns_them(opt):
    block, images = opt
    dataset = build_dataset(block | {'phase': 'train'})
    crops = [dataset[0]['gt'] for _ in range(20)]
    assert all(crop.shape == (3, 16, 16) for crop in crops)
    assert len({tuple(crop.flatten().tolist()) for crop in crops}) > 15
    values = set(images[0].flatten().mul(255).round().tolist())
    assert set(crops[3].flatten().mul(255).round().tolist()) <= values


def test_a_small_image_is_mirrored(opt):
    dataset = build_dataset(opt[0] | {'phase': 'train', 'use_rot': False, 'use_hflip': False})
    gt = dataset[2]['gt']
    assert gt.shape == (3, 16, 16)
    torch.testing.assert_close(gt[:, 10:], gt[:, 3:9].flip(1))


def test_zoom_reduces_larger_crops(opt, tmp_path):
    """A ramp keeps its values at any zoom; its slope says how far it was reduced."""
    folder = tmp_path / 'ramp'
    folder.mkdir()
    ramp = torch.arange(200.0).div(255).expand(3, 200, 200)
    save_image(ramp, folder / 'ramp.png')
    block = opt[0] | {'dataroot_gt': str(folder), 'gt_size': 32, 'phase': 'train'}
    block |= {'use_hflip': False, 'use_rot': False}
    dataset = build_dataset(block | {'zoom': 0.5})
    crops = [dataset[0]['gt'] for _ in range(30)]
    assert all(crop.shape == (3, 32, 32) for crop in crops)
    slopes = [float(crop[0, 16, 4:28].diff().mean()) * 255 for crop in crops]
    assert 0.999 <= min(slopes) < 1.2 and 1.8 < max(slopes) <= 2.1
    plain = build_dataset(block)[0]['gt']
    torch.testing.assert_close(plain[0, 16].diff() * 255, torch.ones(31), rtol=0, atol=1e-3)


def test_images_kept_in_memory_are_read_once(opt, monkeypatch):
    block = opt[0] | {'phase': 'val'}
    kept, plain = (build_dataset(block | {'keep_in_memory': keep}) for keep in (True, False))
    first = [kept[i]['gt'].clone() for i in range(3)]
    monkeypatch.setattr(type(kept.source), 'read', None)
    for i in range(3):
        assert torch.equal(kept[i]['gt'], first[i])
    monkeypatch.undo()
    assert all(torch.equal(plain[i]['gt'], first[i]) for i in range(3))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'gt_sise': 3}, 'Did you mean `gt_size`'),
        ({'gt_size': 4}, 'datasets:x:gt_size is 4, but must be at least 8'),
        ({'gt_size': None}, 'datasets:x:gt_size is None'),
        ({'dataroot_gt': None}, 'datasets:x:dataroot_gt is None, but must be a folder'),
        ({'use_rot': 3}, 'datasets:x:use_rot is 3'),
        ({'zoom': 0}, 'datasets:x:zoom is 0'),
        ({'keep_in_memory': 3}, 'datasets:x:keep_in_memory is 3'),
        ({'io_backend': {'type': 'zip'}}, 'io_backend:type is .zip.'),
    ],
)
def test_mistakes(opt, change, message):
    with pytest.raises(ValueError, match=message):
        build_dataset(opt[0] | change)
