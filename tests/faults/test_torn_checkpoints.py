"""A damaged checkpoint is named, the one before is taken, and the end is the same."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from harness import Result, train_arguments
from ledger import LONG

from defsr.running.checkpoints import Checkpoints

pytestmark = pytest.mark.timeout(600 if LONG else 120)

NEWEST = 9


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b'')


DAMAGES = [
    (truncate, 'models/net_g_9.pth'),
    (flip, 'models/net_g_9.pth'),
    (Path.unlink, 'models/net_g_9.pth'),
    (truncate, 'training_states/9.state'),
    (flip, 'training_states/9.state'),
    (empty, 'training_states/9.state'),
    (Path.unlink, 'training_states/9.state'),
    (truncate, 'training_states/9.json'),
    (flip, 'training_states/9.json'),
    (empty, 'training_states/9.json'),
]


@pytest.fixture(scope='module')
def stopped(runs) -> Result:
    """A run that was killed at iteration 9 of 12."""
    plan = {'file': f'{NEWEST}.json', 'kind': 'replace', 'edge': 'after', 'action': 'kill'}
    run = runs.start('train', *train_arguments('SR', 'stopped'), plan=plan)
    assert run.wait() == -signal.SIGKILL, run.output[-3000:]
    return Result(runs.folder, 'stopped', [run.log])


def copy_of(stopped: Result, name: str) -> Path:
    for folder in (stopped.experiment, stopped.events):
        copy = folder.with_name(name)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
    return stopped.experiment.with_name(name)


@pytest.mark.parametrize(
    ('damage', 'file'),
    DAMAGES if LONG else DAMAGES[::3],
    ids=lambda value: getattr(value, '__name__', str(value).rpartition('/')[2]),
)
def test_the_one_before_is_taken(runs, ledger, undisturbed, stopped, damage, file):
    name = f'torn_{damage.__name__}_{Path(file).name}'
    damage(copy_of(stopped, name) / file)
    run = runs.start('train', *train_arguments('SR', name))
    run.wait_well()
    warning = next(line for line in run.output.splitlines() if 'WARNING' in line)
    assert 'iteration 9 is damaged' in warning
    in_list = damage is flip and file.endswith('.json')  # a wrong digest blames the file it is of
    assert ('9.pth' if in_list else Path(file).name) in warning
    assert re.search(r'Resuming training from epoch: \d+, iter: 6\.', run.output)
    result = Result(runs.folder, name, [*stopped.logs, run.log])
    differences = result.differences(undisturbed('SR'))
    what = f'checkpoint damaged ({damage.__name__.strip("_")})'
    ledger.note(what, 'not observed')
    ledger.judge(what, equal=not differences)
    assert not differences


def test_without_its_list_a_whole_checkpoint_is_taken(runs, undisturbed, stopped):
    folder = copy_of(stopped, 'no_list')
    (folder / 'training_states/9.json').unlink()
    run = runs.start('train', *train_arguments('SR', 'no_list'))
    run.wait_well()
    assert re.search(r'Resuming training from epoch: \d+, iter: 9\.', run.output)
    result = Result(runs.folder, 'no_list', [*stopped.logs, run.log])
    assert not result.differences(undisturbed('SR'))


def test_all_torn_is_one_line(runs, stopped):
    folder = copy_of(stopped, 'all_torn')
    for path in folder.glob('training_states/*.state'):
        truncate(path)
    run = runs.start('train', *train_arguments('SR', 'all_torn'))
    assert run.wait() == 2, run.output
    lines = run.output.splitlines()
    errors = [line for line in lines if line.startswith('error: ')]
    assert len(errors) == 1 and 'no checkpoint in' in errors[0] and '9.state' in errors[0]
    assert 'Traceback' not in run.output
    assert not (folder / 'models/net_g_12.pth').exists()


@pytest.mark.parametrize('file', ['training_states/9.json', 'training_states/9.state'])
def test_no_flipped_bit_raises(stopped, dice, file):
    """Whatever a byte becomes, there is an answer: damaged, or harmless (in the iteration)."""
    folder = copy_of(stopped, 'flipped')
    path = folder / file
    checkpoints = Checkpoints(folder / 'models', folder / 'training_states')
    content = path.read_bytes()
    size = len(content)
    harmless = 0
    for place in range(size) if size < 1000 else dice.sample(range(size), 200):
        changed = bytearray(content)
        changed[place] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
        fault = checkpoints.fault_of(NEWEST)
        assert fault is None or isinstance(fault, str)
        harmless += fault is None
    assert harmless < (60 if path.suffix == '.json' else 1)  # white space and `iter`
