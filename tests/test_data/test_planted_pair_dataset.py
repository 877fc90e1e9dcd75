from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from torch.nn import functional as F
from torch.testing import assert_close
from workspaces import write_pairs

from defsr.data.pair_geometry import project


@pytest.fixture
def block(tmp_path, stereo):
    write_pairs(tmp_path, stereo, [(100, 200 + 90 * i, 90, 96) for i in range(2)])
    opt = {'type': 'PlantedPairDataset', 'name': 'planted', 'dataroot_gt': str(tmp_path / 'gt')}
    return opt | {'phase': 'val', 'scale': 4, 'gt_size': 64, 'perturb': 6}


@pytest.mark.parametrize('phase', ['train', 'val'])
def test_pixels_are_where_the_homography_says(block, phase):
    """The view, read at the mapped places, is the crop; LR is the crop degraded."""
    dataset = build_dataset(block | {'phase': phase})
    item = dataset[1]
    gt, ref, homography = item['gt'], item['ref'], item['homography'].numpy()
    assert gt.shape == ref.shape == (3, 64, 64) and item['lq'].shape == (3, 16, 16)
    rows, columns = np.mgrid[:64, :64].astype(float)
    places = project(homography, np.stack((columns, rows), axis=-1))
    grid = torch.from_numpy(places / 63 * 2 - 1).float()[None]
    seen = F.grid_sample(ref[None], grid, mode='bilinear', align_corners=True)[0]
    inside = torch.from_numpy(((places > 2) & (places < 61)).all(axis=-1))
    error = (seen - gt).abs().mean(dim=0)[inside]
    unmoved = (ref - gt).abs().mean(dim=0)[inside]
    assert float(error.mean()) < 0.3 * float(unmoved.mean())
    corners = np.array([[-0.5, -0.5], [63.5, -0.5], [63.5, 63.5], [-0.5, 63.5]])
    moved = np.abs(project(homography, corners) - corners)
    assert moved.max() <= 6.001 and moved.min(axis=0).max() > 0
    assert_close(F.avg_pool2d(gt, 4), item['lq'], rtol=0, atol=0.2)


def test_validation_has_the_same_views_each_time(block):
    first, again = (build_dataset(block)[0] for _ in 'ab')
    other = build_dataset(block)[1]
    assert torch.equal(first['homography'], again['homography'])
    assert not torch.equal(first['homography'], other['homography'])
    train = build_dataset(block | {'phase': 'train'})
    assert not torch.equal(train[0]['homography'], train[0]['homography'])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'gt_size': 66}, 'gt_size is 66, but must be a multiple of scale=4.* Nearest: 64'),
        ({'gt_size': 8}, 'gt_size is 8, but .* at least 12'),
        ({'perturb': 20}, 'perturb is 20'),
        ({'degradation': 'box'}, "degradation is 'box'"),
        ({'pertub': 3}, 'Did you mean'),
    ],
)
def test_refuses(block, change, message):
    with pytest.raises(ValueError, match=message):
        build_dataset(block | change)
