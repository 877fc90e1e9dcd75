"""SIGKILL at any moment: the run that goes on ends as one that was left alone, to the last bit."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
from harness import Result, assert_gone, train_arguments
from ledger import LONG
from repository import REPOSITORY
from workload import TOTAL_ITER

pytestmark = pytest.mark.timeout(1200 if LONG else 120)

CASES = [('DEF', 2), ('DEF_GAN', 0), ('DEF_GAN', 2), ('SR', 0)]
SHORT_CASES = [('DEF_GAN', 2), ('SR', 0), ('SR', 2)]  # DEF_GAN begins with reconstruction
NAMES = {'DEF': 'DEF, reconstruction', 'DEF_GAN': 'DEF, GAN', 'SR': "BasicSR's SRModel"}
KILLS = 40 if LONG else 2


class Moments:
    """Draws when to kill: half the time at a file operation, else at any time.

    Args:
        dice: a seeded generator.
        alone: the run that was left alone.
    """

    def __init__(self, dice, alone) -> None:
        self.dice, self.alone = dice, alone

    def plan(self, done: int) -> dict:
        """A plan for ``Points``, or an empty one if the kill comes from outside."""
        if self.dice.random() < 0.5:
            return {}
        kind = self.dice.choice(sorted(self.alone.counts))
        left = max(1, self.alone.counts[kind] * (TOTAL_ITER - done) // TOTAL_ITER)
        number, edge = self.dice.randint(1, left), self.dice.choice(('before', 'after'))
        return {'kind': kind, 'number': number, 'edge': edge, 'action': 'kill'}

    def kill_from_outside(self, run, done: int) -> None:
        """Some time after the start, or after the loop's start."""
        if self.dice.random() < 0.2:
            time.sleep(self.dice.uniform(0, self.alone.seconds_before))
        else:
            run.wait_for('loading')
            left = self.alone.seconds * (TOTAL_ITER - done) / TOTAL_ITER
            time.sleep(self.dice.uniform(0, left))
        run.send(signal.SIGKILL)


def kill_and_resume(runs, ledger, moments, model, name, *, what, kills, **options) -> tuple:
    """Start, kill, start again; at last to the end.

    Returns:
        The Result, and how often it was killed.
    """
    logs, done, killed = [], 0, 0
    for number in range(kills + 1):
        last = number == kills
        plan = {} if last else moments.plan(done)
        run = runs.start('train', *train_arguments(model, name, **options), plan=plan)
        logs.append(run.log)
        if not (plan or last):
            moments.kill_from_outside(run, done)
        code = run.wait()
        assert_gone(run.pid)
        if code == 0:
            break
        assert code == -signal.SIGKILL, run.output[-3000:]
        phase, point, done = run.witness.read()
        ledger.note(what, phase)
        sys.stdout.write(f'{name}: killed in {phase}, iteration {done} {point if plan else ""}\n')
        torn = Result(runs.folder, name, logs).torn()
        assert not torn, f'{name}: {torn}'
        killed += 1
    assert code == 0, run.output[-3000:]
    return Result(runs.folder, name, logs), killed


@pytest.mark.parametrize(('model', 'workers'), CASES if LONG else SHORT_CASES)
def test_a_killed_run_ends_as_if_nothing_had_been(runs, ledger, dice, undisturbed, model, workers):
    alone = undisturbed(model)
    moments = Moments(dice, alone)
    what = f'{NAMES[model]}, {workers} data workers: SIGKILL'
    killed, number = 0, 0
    while killed < KILLS:
        name, number = f'{model}_{workers}_{number}', number + 1
        result, times = kill_and_resume(
            runs,
            ledger,
            moments,
            model,
            name,
            what=what,
            kills=min(KILLS - killed, dice.randint(2, 4)),
            datasets__train__num_worker_per_gpu=workers,
        )
        killed += times
        differences = result.differences(alone)
        if times:
            ledger.judge(what, equal=not differences)
        assert not differences, f'{name}: {differences}'
        assert result.checkpoints.iterations() == alone.checkpoints.iterations()


@pytest.mark.parametrize(
    'file', ['net_g_6.pth', '6.state', '6.json', 'net_g_best.pth', 'validation.json']
)
def test_killed_half_way_through_a_file(runs, ledger, undisturbed, file):
    """A file of that name is the one before or is not there."""
    name, what = f'half_{file}', "BasicSR's SRModel, half-way through a file: SIGKILL"
    arguments = train_arguments('SR', name)
    plan = {'kind': 'write', 'file': file, 'edge': 'after', 'action': 'kill'}
    first = runs.start('train', *arguments, plan=plan)
    assert first.wait() == -signal.SIGKILL, first.output[-3000:]
    ledger.note(what, first.witness.read()[0])
    result = Result(runs.folder, name, [first.log])
    assert not result.torn()
    assert [path.name.split('.')[1] for path in result.experiment.rglob('.*')] == [Path(file).stem]
    second = runs.start('train', *arguments)
    second.wait_well()
    differences = Result(runs.folder, name, [first.log, second.log]).differences(undisturbed('SR'))
    ledger.judge(what, equal=not differences)
    assert not differences


@pytest.mark.parametrize('kind', ['replace', 'unlink', 'fsync'])
def test_killed_while_old_checkpoints_are_deleted(runs, ledger, dice, undisturbed, kind):
    """keep_last deletes files: what is left is whole, and not more than was asked for."""
    alone = undisturbed('SR')
    what = "BasicSR's SRModel, keep_last 2: SIGKILL"
    numbers = range(1, alone.counts[kind] + 1)
    for number in dice.sample(numbers, 8 if LONG else 1):
        edge = dice.choice(('before', 'after'))
        name = f'keep_{kind}_{edge}_{number}'
        arguments = train_arguments('SR', name, logger__keep_last=2)
        plan = {'kind': kind, 'number': number, 'edge': edge, 'action': 'kill'}
        first = runs.start('train', *arguments, plan=plan)
        assert first.wait() == -signal.SIGKILL, first.output[-3000:]
        phase, point, done = first.witness.read()
        sys.stdout.write(f'{name}: killed in {phase}, iteration {done} {point}\n')
        ledger.note(what, phase)
        second = runs.start('train', *arguments)
        second.wait_well()
        result = Result(runs.folder, name, [first.log, second.log])
        differences = result.differences(alone)
        ledger.judge(what, equal=not differences)
        assert not differences, f'{name}: {differences}'
        assert result.checkpoints.iterations() == [12, 9], name


def test_the_command_is_killed_and_resumed(runs, ledger, dice, undisturbed):
    """As a user starts it, without anything that watches."""
    name, what = 'command', 'python defsr/train.py: SIGKILL'
    command = [sys.executable, str(REPOSITORY / 'defsr/train.py')]
    arguments = train_arguments('SR', name)
    logs = []
    for _ in range(3 if LONG else 1):
        run = runs.command(*command, *arguments)
        logs.append(run.log)
        while 'Start training' not in run.output and not run.is_over():
            time.sleep(0.002)
        time.sleep(dice.uniform(0, undisturbed('SR').seconds))
        run.send(signal.SIGKILL)
        code = run.wait()
        assert_gone(run.pid)
        if code == 0:
            break
        assert code == -signal.SIGKILL, run.output[-3000:]
        ledger.note(what, 'not observed')
    last = runs.command(*command, *arguments) if LONG else runs.start('train', *arguments)
    last.wait_well()
    differences = Result(runs.folder, name, [*logs, last.log]).differences(undisturbed('SR'))
    ledger.judge(what, equal=not differences)
    assert not differences


def test_workers_of_a_killed_process_end_by_themselves(runs, undisturbed):
    """The out-of-memory killer takes one process, not its group."""
    if not LONG:
        pytest.skip('takes torch half a minute; part of `make faults`')
    run = runs.start('train', *train_arguments('SR', 'oom', datasets__train__num_worker_per_gpu=2))
    assert run.wait_for('iteration', 3)
    run.send(signal.SIGKILL, to_group=False)
    assert run.wait() == -signal.SIGKILL
    assert_gone(run.pid, seconds=60)
