"""The record beside a cache, and what is refused because of it."""

from __future__ import annotations

import json

import pytest

from defsr.data.cache_record import (
    RECORD,
    check_caches,
    fault_of,
    make_record,
    read_record,
    write_record,
)

ENHANCER = {'type': 'X', 'diffusion': {'num_steps': 20}}
OTHER = {'type': 'X', 'diffusion': {'num_steps': 100}}


def test_a_record_is_read_as_written(tmp_path):
    assert read_record('option', tmp_path) is None
    record = make_record('ref_de', 'pil', ENHANCER)
    write_record(tmp_path, record)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]
    assert read_record('option', tmp_path) == record
    assert record['enhancer'] == ENHANCER and record['kind'] == 'ref_de' and record['lq'] == 'pil'


@pytest.mark.parametrize(
    'spoil',
    [
        lambda text: text[: len(text) // 2],
        lambda text: '[]',
        lambda text: '{}',
        lambda text: text.replace('20', '21'),
        lambda text: '',
        lambda text: '[' * 100_000,
        lambda text: text.replace('"ref_de"', '["ref_de"]').replace('"de"', '["de"]'),
        lambda text: text.replace('"enhancer": {', '"enhancer": "", "x": {'),
    ],
    ids=['torn', 'list', 'empty', 'edited', 'nothing', 'deep', 'list as kind', 'text as enhancer'],
)
def test_a_damaged_record_is_refused(tmp_path, spoil):
    write_record(tmp_path, make_record('de', 'matlab', ENHANCER))
    path = tmp_path / RECORD
    path.write_text(spoil(path.read_text()))
    with pytest.raises(ValueError, match='^here is .*whose enhancer.json is damaged'):
        read_record('here', tmp_path)


def test_faults_are_told():
    wanted = make_record('de', 'matlab', ENHANCER)
    assert fault_of(wanted, wanted) is None
    assert fault_of(make_record('de', 'given', ENHANCER), wanted) is None, 'it may be the same'
    found = fault_of(make_record('de', 'matlab', OTHER), wanted)
    assert found == 'another enhancer made: diffusion:num_steps 20 here, 100 in the cache'
    found = fault_of(make_record('de', 'pil', ENHANCER), wanted)
    assert found == 'was made of images degraded by pil, not by matlab'
    found = fault_of(make_record('ref_de', 'matlab', ENHANCER), wanted)
    assert found == 'holds ref_de images (references, degraded and enhanced), not de'


@pytest.fixture
def caches(tmp_path):
    """Folders ``de`` and ``ref_de`` with records."""
    for kind in ('de', 'ref_de'):
        (tmp_path / kind).mkdir()
        write_record(tmp_path / kind, make_record(kind, 'matlab', ENHANCER))
    return tmp_path


def blocks(caches, **block):
    return {'train': {}, 'val_1': {f'dataroot_{k}': str(caches / v) for k, v in block.items()}}


def test_caches_of_this_enhancer_pass(caches):
    check_caches(blocks(caches, de='de', ref_de='ref_de'), ENHANCER)
    check_caches(blocks(caches), OTHER)
    given = blocks(caches, de='de')
    given['val_1'] |= {'dataroot_lq': 'lq', 'degradation': 'pil'}
    check_caches(given, ENHANCER)


def test_other_caches_do_not(caches):
    option = 'datasets:val_1:dataroot_'
    with pytest.raises(
        ValueError,
        match=f'{option}de is .* which another enhancer made: '
        'diffusion:num_steps 100 here, 20 in the cache.*check_cache: false',
    ):
        check_caches(blocks(caches, de='de'), OTHER)
    with pytest.raises(ValueError, match=f'{option}ref_de is .*which holds de images .*not ref_de'):
        check_caches(blocks(caches, ref_de='de'), ENHANCER)
    with pytest.raises(ValueError, match=f'{option}de is .*which holds ref_de images'):
        check_caches(blocks(caches, de='ref_de'), ENHANCER)
    pil = blocks(caches, de='de')
    pil['val_1']['degradation'] = 'pil'
    with pytest.raises(ValueError, match='degraded by matlab, not by pil'):
        check_caches(pil, ENHANCER)
    (caches / 'ref_de' / RECORD).unlink()
    with pytest.raises(
        ValueError,
        match=f'{option}ref_de is .*has no enhancer.json.*'
        'Make it with defsr-enhance, or set check_cache: false',
    ):
        check_caches(blocks(caches, de='de', ref_de='ref_de'), ENHANCER)
    with pytest.raises(FileNotFoundError, match=f'{option}de is .*no, which is not an existing'):
        check_caches(blocks(caches, de='no'), ENHANCER)


def test_json_of_others_keeps_its_meaning(tmp_path):
    """Keys in another order and other spaces are the same record."""
    record = make_record('de', 'matlab', ENHANCER)
    (tmp_path / RECORD).write_text(json.dumps(record, sort_keys=True))
    assert read_record('option', tmp_path) == record
