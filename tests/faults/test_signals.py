"""SIGTERM and Ctrl-C: saved within seconds, said where, and the end is the same."""

from __future__ import annotations

import signal
import sys
import time

import pytest
from harness import Result, Run, assert_gone, load, train_arguments
from ledger import LONG
from workspaces import same

pytestmark = pytest.mark.timeout(1200 if LONG else 120)

SECONDS = 20  # to end in; it takes about one on an idle machine
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
CASES = [
    (model, number, phase)
    for model in ('SR', 'DEF_GAN')
    for number in CODES
    for phase in ('iteration', 'validation', 'loading', 'checkpoint')
]
SHORT_CASES = [
    ('SR', signal.SIGTERM, 'iteration'),
    ('SR', signal.SIGTERM, 'validation'),
    ('SR', signal.SIGINT, 'loading'),
]
TIMES = 4 if LONG else 1


def stop_in(run: Run, phase: str, iteration: int, number: signal.Signals, to_group: bool) -> str:
    """Send a signal in a phase; returns the phase in which it came."""
    assert run.wait_for(phase, iteration), run.output[-3000:]
    run.send(number, to_group=to_group)
    return run.witness.read()[0]


def check_stopped(run: Run, result: Result, code: int) -> None:
    """Everything that a stopped run leaves."""
    begun = time.monotonic()
    assert run.wait(SECONDS) == code, run.output[-3000:]
    sys.stdout.write(f'ended after {time.monotonic() - begun:.2f} s\n')
    assert_gone(run.pid)
    assert 'Traceback' not in run.output, run.output[-3000:]
    newest = result.checkpoints.iterations()[0]
    assert result.checkpoints.fault_of(newest) is None
    [line] = [text for text in run.output.splitlines() if 'Stopped after iteration' in text]
    assert f'Stopped after iteration {newest}, ' in line
    assert str(result.checkpoints.state_path(newest)) in line and '--auto_resume' in line
    for latest in result.checkpoints.models.glob('net_*_latest.pth'):
        numbered = latest.with_name(latest.name.replace('latest', str(newest)))
        assert same(load(latest), load(numbered))
    assert result.checkpoints.models.joinpath('net_g_latest.pth').is_file()


def resume(runs, ledger, first: Run, alone, name: str, arguments, what: str, code: int) -> None:
    """See how the first part ended, run the second, compare."""
    check_stopped(first, Result(runs.folder, name, [first.log]), code)
    second = runs.start('train', *arguments)
    second.wait_well()
    result = Result(runs.folder, name, [first.log, second.log])
    differences = result.differences(alone)
    ledger.judge(what, equal=not differences)
    assert not differences


@pytest.mark.parametrize(('model', 'number', 'phase'), CASES if LONG else SHORT_CASES)
def test_a_signal_is_answered(runs, ledger, dice, undisturbed, model, number, phase):
    what = f'{model}: {number.name}'
    for time_ in range(TIMES):
        name = f'{number.name}_{model}_{phase}_{time_}'
        workers = dice.choice((0, 2))
        arguments = train_arguments(model, name, datasets__train__num_worker_per_gpu=workers)
        first = runs.start('train', *arguments)
        iteration = dice.randint(1, 7)
        ledger.note(what, stop_in(first, phase, iteration, number, to_group=False))
        resume(runs, ledger, first, undisturbed(model), name, arguments, what, CODES[number])


@pytest.mark.parametrize('number', CODES if LONG else [signal.SIGTERM])
def test_a_signal_to_data_workers_too(runs, ledger, dice, undisturbed, number):
    """Ctrl-C, SLURM and systemd signal every process of the group, data workers included."""
    what = f'SR: {number.name} to the group, 2 data workers'
    for time_ in range(TIMES):
        name = f'{number.name}_group_{time_}'
        arguments = train_arguments('SR', name, datasets__train__num_worker_per_gpu=2)
        first = runs.start('train', *arguments)
        iteration = dice.randint(1, 7)
        ledger.note(what, stop_in(first, 'iteration', iteration, number, to_group=True))
        resume(runs, ledger, first, undisturbed('SR'), name, arguments, what, CODES[number])
