"""What is enhanced is what the data set would give, each image once."""

from __future__ import annotations

import pytest
import torch

from defsr.data.lmdb_writer import create_lmdb
from defsr.data.ref_triplet_dataset import RefTripletDataset
from defsr.data.triplet_options import TripletOptions
from defsr.diffusion.degradation import Degradation
from defsr.enhance.source import EnhanceSource


@pytest.fixture
def source(block):
    """Makes one over the triplets."""

    def make(kind: str, **changes: object) -> EnhanceSource:
        return EnhanceSource(TripletOptions.from_opt(block('test', **changes)), kind)

    return make


def test_inputs_are_the_data_sets(block, source):
    made = source('de')
    assert list(made.images) == ['a.png', 'b.png', 'c.png'] and made.lq == 'matlab'
    for item, name in zip(RefTripletDataset(block('test')), made.images, strict=True):
        lq = made.read_lq(name)
        assert torch.equal(lq, item['lq'])
        assert made.lq_size(name) == tuple(lq.shape[-2:])
        assert made.path(name) == item['gt_path']


def test_references_are_degraded_alike(block, source):
    made = source('ref_de', degradation='pil')
    assert made.lq == 'pil'
    for item, name in zip(RefTripletDataset(block('test')), made.images, strict=True):
        _, expected = Degradation('pil', 4).make_lq(item['ref'], name)
        assert torch.equal(made.read_lq(name), expected)
        assert made.lq_size(name) == tuple(expected.shape[-2:])


def test_given_inputs_are_taken_as_they_are(triplets, block, source, write_image):
    for name, (height, width) in {'a': (12, 15), 'b': (10, 11), 'c': (10, 13)}.items():
        write_image(triplets / 'lq' / f'{name}.jpg', height, width, 1)
    for changes in ({}, {'dataroot_gt': None}):
        changes |= {'dataroot_lq': str(triplets / 'lq'), 'dataroot_ref': 'lq'}
        made = source('de', **changes)
        assert list(made.images) == ['a.png', 'b.png', 'c.png'] and made.lq == 'given'
        items = RefTripletDataset(block('test', **changes))
        for item, name in zip(items, made.images, strict=True):
            assert torch.equal(made.read_lq(name), item['lq'])
            assert made.lq_size(name) == tuple(item['lq'].shape[-2:])
    softer = source('ref_de', **changes)
    assert softer.lq == 'matlab'
    assert softer.lq_size('a.png') == tuple(softer.read_lq('a.png').shape[-2:]) == (3, 3)


def test_an_input_as_its_own_reference(source):
    made = source('ref_de', dataroot_ref='lq')
    assert made.lq_size('a.png') == tuple(made.read_lq('a.png').shape[-2:]) == (3, 3)


@pytest.mark.parametrize('backend', ['disk', 'lmdb'])
def test_each_image_once(triplets, source, backend):
    (triplets / 'list.txt').write_text('b.png c.png a.png\nb.png c.png\nb.png b.png a.png\n')
    changes = {'pair_list': str(triplets / 'list.txt')}
    if backend == 'lmdb':
        create_lmdb({role: triplets / role for role in ('gt', 'ref')}, triplets)
        roots = {f'dataroot_{role}': str(triplets / f'{role}.lmdb') for role in ('gt', 'ref')}
        changes |= roots | {'io_backend': {'type': 'lmdb'}}
    assert list(source('de', **changes).images) == ['b.png']
    refs = source('ref_de', **changes)
    assert list(refs.images) == ['a.png', 'b.png', 'c.png']
    assert refs.lq_size('c.png') == (10, 7)


def test_what_has_no_place_is_refused(triplets, source, write_image):
    write_image(triplets / 'gt' / 'a.jpg', 40, 40, 9)
    pairs = triplets / 'list.txt'
    for lines, message in (
        ('a.png a.png\na.jpg a.png\n', 'a.jpg and a.png differ in their extension only'),
        ('../gt/b.png a.png\n', r'Tiny: \.\./gt/b.png lies outside of its folder'),
        ('x.png a.png\n', 'dataroot_gt is .*no image x.png'),
    ):
        pairs.write_text(lines)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            source('de', pair_list=str(pairs))
    pairs.write_text('b.png\n')
    with pytest.raises(ValueError, match='pair_list has no references, of which ref_de is made'):
        source('ref_de', pair_list=str(pairs))
    (triplets / 'lq').mkdir()
    with pytest.raises(FileNotFoundError, match='dataroot_lq is .*no image b.png'):
        source('de', pair_list=str(pairs), dataroot_lq=str(triplets / 'lq'))


def test_headers_are_checked(triplets, source, write_image):
    write_image(triplets / 'gt' / 'a.png', 3, 40, 9)
    (triplets / 'gt' / 'b.png').write_bytes(b'hello')
    made = source('de', max_megapixels=0.002)
    with pytest.raises(ValueError, match='both sides must be at least scale=4'):
        made.lq_size('a.png')
    with pytest.raises(ValueError, match='b.png cannot be read as an image'):
        made.lq_size('b.png')
    with pytest.raises(ValueError, match='c.png has .* more than datasets:Tiny:max_megapixels'):
        made.lq_size('c.png')
