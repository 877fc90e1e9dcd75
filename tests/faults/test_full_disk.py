"""A full disk: one line that names the file, older checkpoints whole, and the same end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from harness import Result, Run, kilobytes, resize, train_arguments
from ledger import LONG

pytestmark = pytest.mark.timeout(600 if LONG else 120)

LINE = 'No space left on device'


def check_failed(run: Run, result: Result, message: str) -> str:
    """One error line that names a file; nothing half-written. Returns the line."""
    assert run.wait() == 2, run.output[-3000:]
    lines = [line for line in run.output.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and message in lines[0], run.output[-3000:]
    assert str(result.experiment) in lines[0], lines[0]
    assert 'Traceback' not in run.output, run.output[-3000:]
    sys.stdout.write(f'{lines[0]}\n')
    newest, warnings = result.checkpoints.newest()
    assert newest is None or not warnings
    assert not list(result.experiment.rglob('.*'))
    return lines[0]


def resume(runs, ledger, undisturbed, name: str, what: str, logs: list[Path]) -> None:
    """With room again: to the end, and compare."""
    run = runs.start('train', *train_arguments('SR', name))
    run.wait_well()
    differences = Result(runs.folder, name, [*logs, run.log]).differences(undisturbed('SR'))
    ledger.judge(what, equal=not differences)
    assert not differences


def test_a_small_disk_fills_up(runs, ledger, dice, undisturbed, small_disk):
    """Really full, for every file of the run: the kernel says so, wherever it happens."""
    what = "BasicSR's SRModel: a full disk (tmpfs)"
    alone = undisturbed('SR')
    whole = kilobytes(alone.experiment, alone.events)
    for number in range(8) if LONG else range(1):
        name = f'full_{number}'
        arguments = train_arguments('SR', name)
        resize(small_disk, kilobytes(small_disk) + dice.randint(whole // 4, whole - 40))
        run = runs.start('train', *arguments, folder=small_disk)
        run.wait()
        ledger.note(what, run.witness.read()[0])
        check_failed(run, Result(small_disk, name, [run.log]), LINE)
        resize(small_disk, 65536)
        again = runs.start('train', *arguments, folder=small_disk)
        again.wait_well()
        differences = Result(small_disk, name, [run.log, again.log]).differences(alone)
        ledger.judge(what, equal=not differences)
        assert not differences


def test_a_write_that_fails(runs, ledger, dice, undisturbed):
    """ENOSPC from a chosen write or sync on, in checkpoints, lists, records and tables."""
    what = "BasicSR's SRModel: ENOSPC at a chosen write"
    counts = undisturbed('SR').counts
    for number in range(16) if LONG else range(2):
        name = f'enospc_{number}'
        kind = ('write', 'fsync')[number % 2]
        place = dice.randint(1, counts[kind])
        plan = {'kind': kind, 'number': place, 'edge': 'before', 'action': 'enospc'}
        run = runs.start('train', *train_arguments('SR', name), plan=plan)
        run.wait()
        phase, point, _ = run.witness.read()
        sys.stdout.write(f'{name}: {phase}, {point}\n')
        ledger.note(what, phase)
        check_failed(run, Result(runs.folder, name, [run.log]), LINE)
        resume(runs, ledger, undisturbed, name, what, [run.log])


@pytest.mark.parametrize('file', ['net_g_6.pth', '6.state', '6.json', 'validation.json'])
def test_each_kind_of_file_is_named(runs, file):
    """A network, a state, a list, the record of validations: whichever does not fit."""
    name = f'enospc_{file}'
    plan = {'kind': 'write', 'file': file, 'edge': 'before', 'action': 'enospc'}
    run = runs.start('train', *train_arguments('SR', name), plan=plan)
    run.wait()
    assert file in check_failed(run, Result(runs.folder, name, [run.log]), LINE)


def test_a_limit_on_file_sizes(runs, ledger, dice, undisturbed):
    """A quota of the kernel's (RLIMIT_FSIZE), which the C++ side of torch.save meets too."""
    what = "BasicSR's SRModel: a limit on file sizes"
    name = 'limit'
    largest = max(p.stat().st_size for p in undisturbed('SR').experiment.rglob('*.state'))
    plan = {'kind': 'save', 'number': dice.randint(3, 8), 'edge': 'before'}
    plan |= {'action': 'limit', 'bytes': largest // 2}
    run = runs.start('train', *train_arguments('SR', name), plan=plan)
    run.wait()
    ledger.note(what, run.witness.read()[0])
    check_failed(run, Result(runs.folder, name, [run.log]), os.strerror(27))
    resume(runs, ledger, undisturbed, name, what, [run.log])
