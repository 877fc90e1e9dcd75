"""The data set's options: what is refused, and what the defaults are."""

from __future__ import annotations

import pytest
from repository import REPOSITORY

from defsr.data.triplet_options import BASICSR_KEYS, OWN_KEYS, TripletOptions


def test_defaults(block):
    options = TripletOptions.from_opt(block('train', io_backend=None))
    assert (options.backend, options.degradation.name) == ('disk', 'matlab')
    assert (options.use_hflip, options.use_rot, options.ref_augment) == (True, True, 'together')
    assert (options.gt_size, options.ref_size, options.pair_list) == (32, 32, None)
    assert set(options.roots) == {'gt', 'ref'} and not options.ref_is_lq


def test_crops_are_for_training_only(block):
    options = TripletOptions.from_opt(block('val', gt_size=33, ref_size=7, dataroot_ref='lq'))
    assert (options.gt_size, options.ref_size) == (0, 0)
    assert set(options.roots) == {'gt'} and options.ref_is_lq


@pytest.mark.parametrize(
    'phase, changes, message',
    [
        ('val', {'dataroot_reff': 'x'}, 'Unknown option `datasets:Tiny:dataroot_reff`'),
        ('val', {'filename_tmpl': '{}'}, 'Unknown option `datasets:Tiny:filename_tmpl`'),
        ('val', {'phase': 'valid'}, "phase is 'valid'"),
        ('val', {'mean': [0.5, 0.5, 0.5]}, 'mean is set, but images stay in'),
        ('val', {'scale': None}, 'scale is None, but must be a whole number'),
        ('val', {'degradation': 'bicubic'}, "degradation is 'bicubic'"),
        ('val', {'io_backend': {'type': 'memcached'}}, "io_backend:type is 'memcached'"),
        ('val', {'io_backend': {'type': 'disk', 'path': 'x'}}, 'io_backend:path`'),
        ('val', {'dataroot_gt': None}, 'dataroot_gt is missing.*or dataroot_lq'),
        ('val', {'dataroot_ref': None}, 'dataroot_ref is missing.*or `lq`'),
        (
            'train',
            {'dataroot_gt': None, 'dataroot_lq': 'x'},
            'dataroot_gt is missing. Name the folder of ground truth',
        ),
        ('train', {'dataroot_ref': 'lq'}, 'dataroot_ref is `lq`, which is for val and test'),
        ('train', {'gt_size': None}, 'gt_size is None, but must be a whole number'),
        ('train', {'gt_size': 34}, 'gt_size is 34, but must be a multiple of scale=4.*32'),
        ('train', {'gt_size': 0}, 'gt_size is 0, but must be at least 4'),
        ('train', {'ref_size': 30}, 'ref_size is 30, but must be a multiple of scale=4.*28'),
        ('train', {'ref_augment': 'both'}, "ref_augment is 'both'"),
        ('train', {'use_hflip': 'yes'}, "use_hflip is 'yes'"),
    ],
)
def test_options_are_checked(block, phase, changes, message):
    with pytest.raises(ValueError, match=message):
        TripletOptions.from_opt(block(phase, **changes))


def test_every_option_is_documented():
    page = (REPOSITORY / 'docs' / 'datasets.md').read_text()
    assert [key for key in BASICSR_KEYS | OWN_KEYS if f'`{key}`' not in page] == []
