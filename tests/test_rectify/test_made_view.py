"""Rectified training pairs: made of photographs, the same each time, as the data set reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from defsr.data.ref_triplet_dataset import RefTripletDataset
from defsr.diffusion.degradation import Degradation
from defsr.images.levels import to_levels
from defsr.images.png import write_png
from defsr.rectify.made_folder import make_rectified
from defsr.rectify.made_view import make_view

MATLAB = Degradation('matlab', 4)


@pytest.fixture(scope='module')
def photos(stereo) -> list[torch.Tensor]:
    """Two (1, 3, 160, 200) photographs."""
    left = stereo[0].reshape(1, *stereo[0].shape[-3:])
    return [left[..., y : y + 160, x : x + 200] for y, x in ((120, 200), (40, 420))]


@pytest.fixture(scope='module')
def made(photos, tmp_path_factory):
    root = tmp_path_factory.mktemp('made')
    for number, photo in enumerate(photos):
        write_png(to_levels(photo)[..., ::-1], str(root / 'photos' / f'{number}.png'))
    assert make_rectified(root / 'photos', root / 'out', MATLAB, per_image=2) == 4
    return root


def test_a_view_is_near_the_truth_but_not_it(photos):
    views = [make_view(*photos, MATLAB, np.random.default_rng(seed)) for seed in range(6)]
    again = make_view(*photos, MATLAB, np.random.default_rng(0))
    assert torch.equal(again.image, views[0].image) and torch.equal(again.valid, views[0].valid)
    errors = [float((view.image - view.gt).abs().mean()) for view in views]
    assert max(errors) < 0.3 and min(errors) > 1e-3
    assert views[0].valid.shape == (1, 1, 40, 50) and views[0].valid.dtype == torch.bool


def test_the_data_set_cuts_reference_and_mask_with_the_ground_truth(made):
    """What it gives at any crop and turn is where the folder's own images have it."""
    out = made / 'out'
    block = {
        'name': 'made', 'phase': 'train', 'scale': 4, 'gt_size': 64, 'io_backend': {'type': 'disk'},
        'dataroot_gt': str(out / 'gt'), 'dataroot_ref_rect': str(out / 'gt'),
        'dataroot_ref_mask': str(out / 'ref_mask'),
    }  # fmt: skip
    items = [RefTripletDataset(block)[0] for _ in range(8)]
    for item in items:
        assert torch.equal(item['gt'], item['ref'])
        assert item['ref_valid'].shape == (1, 16, 16) and item['ref_valid'].dtype == torch.bool
        assert item['ref_path'].startswith(str(out / 'gt'))
    whole = RefTripletDataset({**block, 'phase': 'val', 'dataroot_ref_rect': str(out / 'ref_rect')})
    assert whole[1]['ref'].shape == whole[1]['gt'].shape == (3, 160, 200)
    assert whole[1]['ref_valid'].shape == (1, 40, 50)
    shares = [float(item['ref_valid'].float().mean()) for item in items]
    assert max(shares) > 0


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'dataroot_ref_mask': None}, 'go together'),
        ({'dataroot_ref': 'x'}, 'is given beside dataroot_ref_rect'),
        ({'ref_augment': 'independent'}, 'Remove ref_augment'),
        ({'ref_size': 128}, 'Remove ref_augment and ref_size'),
    ],
)
def test_options_that_do_not_go_with_rectified_references(changes, message):
    block = {
        'name': 'made', 'phase': 'train', 'scale': 4, 'gt_size': 64, 'dataroot_gt': 'a',
        'dataroot_ref_rect': 'b', 'dataroot_ref_mask': 'c',
    }  # fmt: skip
    RefTripletDataset.check('datasets:train', block)
    with pytest.raises(ValueError, match=message):
        RefTripletDataset.check('datasets:train', block | changes)


def test_nothing_is_overwritten_and_one_photograph_is_not_enough(made, tmp_path):
    with pytest.raises(FileExistsError, match='--force'):
        make_rectified(made / 'photos', made / 'out', MATLAB)
    (tmp_path / 'one').mkdir()
    (tmp_path / 'one/0.png').write_bytes((made / 'photos/0.png').read_bytes())
    with pytest.raises(ValueError, match='Give two or more'):
        make_rectified(tmp_path / 'one', tmp_path / 'out', MATLAB)
