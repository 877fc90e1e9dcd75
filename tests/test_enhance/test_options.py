"""The option file of ``defsr-enhance``: what it asks for, and every mistake in one line."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
from workspaces import enhance_options, write_prior

from defsr.enhance.options import check_enhance_options


@pytest.fixture
def opt(tmp_path) -> dict:
    """One data set, read from LMDBs."""
    data = {'dataroot_gt': 'gt.lmdb', 'dataroot_ref': 'ref.lmdb', 'io_backend': {'type': 'lmdb'}}
    wanted = {'enhance': ['de', 'ref_de'], 'out': {'de': 'de.lmdb/', 'ref_de': 'ref_de.lmdb'}}
    return enhance_options(write_prior(tmp_path / 'prior.pth'), train=data | wanted)


def test_the_caches_that_are_asked_for(opt):
    opt['datasets']['val'] = {'type': 'RefTripletDataset', 'name': 'v', 'dataroot_lq': 'x',
                              'pair_list': 'list.txt', 'out': 'v_de', 'gt_size': 7}  # fmt: skip
    before = deepcopy(opt)
    made = [(r.kind, r.out, r.option, r.options.block) for r in check_enhance_options(opt)]
    assert made == [
        ('de', 'de.lmdb', 'datasets:train:out:de', 'datasets:pairs'),
        ('ref_de', 'ref_de.lmdb', 'datasets:train:out:ref_de', 'datasets:pairs'),
        ('de', 'v_de', 'datasets:val:out:de', 'datasets:v'),
    ]
    assert opt == before


def block(**changes: object):
    return lambda o: o['datasets']['train'].update(changes)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda o: o.update(images_per_bach=2), 'Did you mean `images_per_batch`'),
        (lambda o: o.update(images_per_batch=0), 'images_per_batch is 0, but must be at least 1'),
        (lambda o: o.update(scale=1), 'scale is 1, but must be at least 2'),
        (lambda o: o.pop('num_gpu'), 'num_gpu is missing'),
        (lambda o: o.pop('network_e'), 'network_e is missing'),
        (lambda o: o['network_e'].update(stepps=2), 'Unknown option `network_e:stepps`'),
        (lambda o: o['path'].update(pretrain_network_g='x'), 'path:pretrain_network_g`'),
        (lambda o: o['path'].update(pretrain_network_e='x.pth'), 'x.pth, which does not exist'),
        (lambda o: o.update(datasets={}), 'datasets is empty'),
        (lambda o: o['datasets'].update(val=3), 'datasets:val is 3, but must be a block'),
        (block(degradation='pil'), 'network_e:degradation is matlab, but datasets:pairs'),
        (block(type='PairedImageDataset'), 'datasets:train:type is .*RefTripletDataset'),
        (block(name=None), 'datasets:train:name is missing'),
        (block(dataroot_de='x'), 'dataroot_de names a cache that is there already. Write `out'),
        (block(enhanc=['de']), 'datasets:train:enhanc`. Did you mean `enhance`'),
        (block(enhance='de'), "enhance is 'de', but must be a list"),
        (block(enhance=['dee']), 'An entry of datasets:train:enhance is .*Did you mean `de`'),
        (block(dataroot_ref=None), 'datasets:train:dataroot_ref is missing'),
        (block(out=None), 'datasets:train:out is missing'),
        (block(out='x.lmdb'), "datasets:train:out is 'x.lmdb', but must be a block"),
        (block(out={'de': 'x.lmdb'}), 'datasets:train:out:ref_de is missing'),
        (block(out={'de': 'x.lmdb', 'ref_de': 3}), 'out:ref_de is 3, but must be the path'),
        (block(out={'de': 'x.lmdb', 'ref': 'y'}), 'datasets:train:out:ref`'),
        (block(out={'de': 'x', 'ref_de': 'y.lmdb'}), 'out:de is x, but with io_backend lmdb'),
        (block(out={'de': 'x.lmdb', 'ref_de': './x.lmdb'}), 'out:ref_de is ./x.lmdb, as is '
         'datasets:train:out:de. Give each cache its own'),
    ],
)  # fmt: skip
def test_mistakes(opt, change, message):
    change(opt)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_enhance_options(opt)


def test_the_path_may_be_written_with_a_tilde(opt, monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    block(out={'de': '~/x.lmdb', 'ref_de': str(Path(tmp_path) / 'x.lmdb')})(opt)
    with pytest.raises(ValueError, match='Give each cache its own'):
        check_enhance_options(opt)
