from __future__ import annotations

import json
import logging
import shutil
import zipfile
from collections import Counter, OrderedDict

import pytest
import torch

from defsr.running import checkpoints
from defsr.running.checkpoints import (
    Checkpoints,
    ValidationRecord,
    save_tensors,
)
from defsr.running.states import read_state

CPU = torch.device('cpu')


class Attack:
    def __reduce__(self):
        import os

        return os.mkdir, ('pwned',)


def state_of(current_iter):
    scheduler = {'milestones': Counter([5])}
    return {'iter': current_iter, 'epoch': 1, 'optimizers': [], 'schedulers': [scheduler]}


@pytest.fixture
def store(tmp_path):
    """Checkpoints of iterations 8 and 16; the second is the newest."""
    store = Checkpoints(tmp_path / 'models', tmp_path / 'states')
    for current_iter in (8, 16):
        write(store, current_iter)
    return store


def write(store, current_iter, with_list=True):
    files = [store.models / f'net_{label}_{current_iter}.pth' for label in 'gd']
    for file in files:
        save_tensors({'params': OrderedDict(w=torch.arange(100.0))}, file)
    files.append(store.state_path(current_iter))
    save_tensors(state_of(current_iter), files[-1])
    if with_list:
        store.publish(current_iter, files)


def test_the_newest_is_taken(store):
    assert store.iterations() == [16, 8]
    assert store.newest() == (16, [])
    state = read_state(store.state_path(16), CPU)
    assert state['iter'] == 16 and state['schedulers'][0]['milestones'] == Counter([5])
    assert Checkpoints('none', 'none').newest() == (None, [])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    """One bit of a tensor, which ``torch.load`` alone would take for what it says."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(100.0).numpy().tobytes()) + 40] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('with_list', [True, False], ids=['listed', 'of BasicSR alone'])
@pytest.mark.parametrize(
    ('name', 'damage', 'fault'),
    [
        ('models/net_d_16.pth', truncate, 'net_d_16.pth'),
        ('models/net_g_16.pth', flip, 'net_g_16.pth'),
        ('states/16.state', truncate, '16.state'),
        ('states/16.state', lambda path: path.write_bytes(b''), '16.state'),
        ('states/16.state', lambda path: path.unlink(), '16.state'),
    ],
)
def test_a_damaged_one_is_passed_over(store, tmp_path, with_list, name, damage, fault):
    if not with_list:
        (store.states / '16.json').unlink()
    damage(tmp_path / name)
    newest, warnings = store.newest()
    assert newest == 8
    if with_list or '.state' not in name or (tmp_path / name).exists():
        assert len(warnings) == 1
        assert 'iteration 16 is damaged' in warnings[0] and fault in warnings[0]


@pytest.mark.parametrize(
    'content',
    [
        '',
        '{"iter": 16}',
        '[]',
        '{"files": 3}',
        '\x00',
        '{"files": {"a": 3}}',
        '{"files": {"a": {}}}',
        '{"files": {}}',
        '{"files": []}',
        '{"files": {"16.state": {"bytes": 1, "sha256": "0"}}}',
        '{"files": {"net_g_16.pth": {"bytes": 1, "sha256": "0"}}}',
        '{"files": {"16.state": {"bytes": 1, "sha256": ""}, "net_g_8.pth": '
        '{"bytes": 1, "sha256": ""}}}',
        '{"iter": ' + '[' * 100_000,
        '{"iter": ' + '9' * 5000 + '}',
        '{"iter": ' + '[' * 60 + ']' * 60 + '}',
    ],
)
def test_a_damaged_list(store, content):
    (store.states / '16.json').write_text(content)
    newest, warnings = store.newest()
    assert newest == 8 and '16.json cannot be read' in warnings[0]


def test_a_list_names_files_of_the_experiment_only(store, tmp_path):
    (tmp_path / 'secret.pth').write_text('x')
    content = {'iter': 16, 'files': {'../../secret.pth': {'bytes': 1, 'sha256': '0'}}}
    (store.states / '16.json').write_text(json.dumps(content))
    assert '16.json cannot be read, or lists something else' in store.fault_of(16)


def test_torch_alone_does_not_see_a_flipped_bit(store):
    """Why there are checksums."""
    flip(store.models / 'net_g_16.pth')
    loaded = torch.load(store.models / 'net_g_16.pth', weights_only=True)
    assert not torch.equal(loaded['params']['w'], torch.arange(100.0))


def test_old_ones_go(store):
    write(store, 24)
    write(store, 4, with_list=False)
    store.keep_newest(2, last_iter=24)
    assert store.iterations() == [24, 16, 4], 'what has no list is not ours to delete'
    assert not list(store.models.glob('net_*_8.pth'))
    assert store.newest() == (24, [])


@pytest.mark.parametrize('folder', ['models', 'states'])
def test_a_folder_that_vanishes_under_a_training_is_made_again(store, folder):
    shutil.rmtree(store.models.parent / folder)
    write(store, 24)
    assert store.newest() == (24, [])
    store.keep_newest(1, last_iter=24)
    assert store.iterations() == [24]


def test_a_later_torn_one_does_not_count_as_new(store):
    truncate(store.state_path(16))
    write(store, 12)
    store.keep_newest(1, last_iter=12)
    assert store.newest()[0] == 12


def test_a_kill_before_the_list_leaves_nothing_for_ever(store):
    write(store, 24, with_list=False)
    assert store.newest() == (24, [])
    store.adopt(24)
    write(store, 32)
    store.keep_newest(1, last_iter=32)
    assert store.iterations() == [32]


def test_remains_of_a_killed_process_are_cleared(store):
    metrics = store.models.parent / 'metrics'
    metrics.mkdir()
    remains = [store.models / '.net_g_24.pth.123.tmp', store.states / '.24.state.9.tmp']
    remains += [metrics / '.val_24.csv.9.tmp', metrics.parent / '.DEF.yml.9.tmp']
    other = store.models / '.hidden.tmp'
    for path in (*remains, other):
        path.write_text('half')
    store.clear_temporaries()
    assert not any(path.exists() for path in remains) and other.exists()


def test_a_failed_write_leaves_the_old_file(store, monkeypatch):
    path = store.models / 'net_g_16.pth'
    before = path.read_bytes()

    def fail(content, file):
        file.write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(checkpoints.torch, 'save', fail)
    with pytest.raises(OSError, match=r'net_g_16.pth could not be written: No space left.*room'):
        save_tensors({}, path)
    assert path.read_bytes() == before
    assert not list(store.models.glob('.*'))


def test_a_state_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(state_of(1) | {'x': Attack()}, 'bad.state')
    with pytest.raises(ValueError, match='bad.state is no training state of plain values'):
        read_state(tmp_path / 'bad.state', CPU)
    assert not (tmp_path / 'pwned').exists()


def test_advice_to_load_it_unsafely_is_not_passed_on(tmp_path):
    torch.save(state_of(1) | {'x': Attack()}, tmp_path / 'bad.state')
    with pytest.raises(ValueError, match='asks for the Python object .*mkdir, which') as refused:
        read_state(tmp_path / 'bad.state', CPU)
    assert 'weights_only' not in str(refused.value) and '\n' not in str(refused.value)


@pytest.mark.parametrize(
    'change',
    [
        {'iter': 'x'},
        {'iter': -1},
        {'epoch': True},
        {'epoch': 10**30},
        {'optimizers': 3},
        {'optimizers': [3]},
        {'schedulers': [None]},
        {'defsr': 3},
        {'defsr': {'images_done': 'x', 'manual_seed': 0}},
        {'defsr': {'images_done': 3, 'manual_seed': 0, 'num_nonfinite': []}},
    ],
    ids=str,
)
def test_values_of_another_kind(tmp_path, change):
    torch.save(state_of(1) | change, tmp_path / 'x.state')
    with pytest.raises(ValueError, match='x.state is no training state: its values are of another'):
        read_state(tmp_path / 'x.state', CPU)


@pytest.mark.parametrize('content', [[1], {'iter': 1}, torch.zeros(3)])
def test_what_is_no_state(tmp_path, content):
    torch.save(content, tmp_path / 'x.state')
    with pytest.raises(ValueError, match='it has no .*optimizers'):
        read_state(tmp_path / 'x.state', CPU)


def test_files_stay_readable_for_basicsr(store):
    """Names and contents are BasicSR's: a zip that torch.load opens."""
    assert zipfile.is_zipfile(store.state_path(8))
    assert set(torch.load(store.state_path(8), weights_only=False)) == set(state_of(8))


def test_the_record_of_validations(tmp_path):
    record = ValidationRecord(tmp_path / 'validation.json')
    record.load(100)
    record.add(10, 'a', {'psnr': 1.5})
    record.add(20, 'a', {'psnr': 2.5})
    record.add(20, 'b', {})
    record.save()
    again = ValidationRecord(tmp_path / 'validation.json')
    again.load(last_iter=19)
    assert again.results == {10: {'a': {'psnr': 1.5}}}
    assert again.has(10, 'a') and not again.has(10, 'b') and not again.has(20, 'a')
    again.load(last_iter=20)
    assert again.has(20, 'b')


@pytest.mark.parametrize(
    'content', ['', '[]', '{"x": {}}', '{"8": 3}', '{"8": {"v": 3}}', '{"8": {"v": {"psnr": []}}}',
                '[' * 100_000, b'\xff'], ids=lambda x: str(x[:20]),
)  # fmt: skip
def test_a_damaged_record_of_validations_is_ignored_with_a_warning(tmp_path, caplog, content):
    path = tmp_path / 'validation.json'
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    record = ValidationRecord(path)
    logger = logging.getLogger('basicsr')
    logger.addHandler(caplog.handler)
    record.load(100)
    logger.removeHandler(caplog.handler)
    assert record.results == {}
    assert f'{path} is damaged: earlier validations' in caplog.text
