"""Two processes on gloo: one dies, both end, both go on; and SIGTERM to torchrun."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from harness import Result, Run, assert_gone, train_arguments
from ledger import LONG
from processes import free_port
from repository import REPOSITORY

pytestmark = pytest.mark.timeout(1200 if LONG else 120)

SECONDS = 60  # for the survivor; it takes less than one on an idle machine
NUMBERS = (signal.SIGTERM, signal.SIGINT)
LOST = 'Another process of this run has ended'


def start_both(runs, model: str, name: str) -> list[Run]:
    """Two forked processes, as torchrun would start them."""
    env = {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': free_port()}
    arguments = ['--launcher', 'pytorch', *train_arguments(model, name)]
    return [
        runs.start('train', *arguments, env=env | {'RANK': str(i), 'LOCAL_RANK': str(i)})
        for i in range(2)
    ]


def torchrun(runs, model: str, name: str) -> Run:
    """The real thing."""
    return runs.command(
        sys.executable,
        *('-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_addr=127.0.0.1'),
        f'--master_port={free_port()}',
        str(REPOSITORY / 'defsr/train.py'),
        *('--launcher', 'pytorch', *train_arguments(model, name)),
    )


def end_well(runs, model: str, name: str, *, before: list[Path]) -> Result:
    """Run two processes to the end."""
    both = start_both(runs, model, name)
    for run in both:
        run.wait_well()
    return Result(runs.folder, name, [*before, both[0].log])


def judge(ledger, what: str, result: Result, alone: Result) -> None:
    """Note in the ledger whether a run ended as one left alone; AssertionError if it did not."""
    differences = result.differences(alone)
    ledger.judge(what, equal=not differences)
    assert not differences


@pytest.fixture(scope='module', params=['SR', 'DEF_GAN'] if LONG else ['SR'])
def pair(request, runs) -> tuple[str, Result]:
    """A model, and its run in two processes that was left alone."""
    model = request.param
    return model, end_well(runs, model, f'{model}_pair', before=[])


@pytest.mark.parametrize('victim', [0, 1])
def test_one_of_two_is_killed(runs, ledger, dice, pair, victim):
    model, alone = pair
    what = f'two processes, {model}: SIGKILL of rank {victim}'
    phases = ('iteration', 'loading', 'checkpoint', 'validation')
    for time_ in range(6) if LONG else range(1):
        name = f'{model}_pair_{victim}_{time_}'
        both = start_both(runs, model, name)
        phase = dice.choice([p for p in phases if p != 'checkpoint' or victim == 0])
        if not both[victim].wait_for(phase, dice.randint(3, 8)):
            raise AssertionError(both[victim].output[-3000:])
        both[victim].send(signal.SIGKILL)
        ledger.note(what, both[victim].witness.read()[0])
        survivor = both[1 - victim]
        begun = time.monotonic()
        code = survivor.wait(SECONDS)
        sys.stdout.write(
            f'{name}: {phase}, survivor ended after {time.monotonic() - begun:.2f} s\n'
        )
        assert code == 2, survivor.output[-3000:]
        assert both[victim].wait() == -signal.SIGKILL
        errors = re.findall(r'^(?:rank 1: )?error: .*', survivor.output, flags=re.MULTILINE)
        assert len(errors) == 1 and LOST in errors[0] and '--auto_resume' in errors[0]
        assert 'Traceback' not in survivor.output, survivor.output[-3000:]
        judge(ledger, what, end_well(runs, model, name, before=[both[0].log]), alone)


@pytest.mark.parametrize('number', NUMBERS if LONG else NUMBERS[:1])
def test_a_signal_to_one_stops_both(runs, ledger, dice, pair, number):
    model, alone = pair
    what = f'two processes, {model}: {number.name} to rank 1'
    for time_ in range(4) if LONG else range(1):
        name = f'{model}_pair_{number.name}_{time_}'
        both = start_both(runs, model, name)
        phase = dice.choice(('iteration', 'loading', 'validation'))
        assert both[1].wait_for(phase, dice.randint(1, 7)), both[1].output[-3000:]
        both[1].send(number)
        ledger.note(what, both[1].witness.read()[0])
        for run in both:
            assert run.wait(SECONDS) == 128 + number, run.output[-3000:]
            assert 'Traceback' not in run.output, run.output[-3000:]
        assert 'Stopped after iteration' in both[0].output
        judge(ledger, what, end_well(runs, model, name, before=[both[0].log]), alone)


def await_iteration(run: Run, number: int) -> None:
    while not re.search(rf'iter: +{number}, ', run.output) and not run.is_over():
        time.sleep(0.005)
    assert not run.is_over(), run.output[-3000:]


def ranks_of(run: Run) -> dict[int, int]:
    """Rank -> process id of torchrun's children."""
    found = {}
    for environ in Path('/proc').glob('[0-9]*/environ'):
        try:
            content = environ.read_bytes().split(b'\0')
            stat = (environ.parent / 'stat').read_text().rpartition(')')[2].split()
        except OSError:
            continue
        rank = [int(entry[5:]) for entry in content if entry.startswith(b'RANK=')]
        if rank and int(stat[1]) == run.pid:
            found[rank[0]] = int(environ.parent.name)
    return found


@pytest.mark.skipif(not LONG, reason='torchrun starts for half a minute; part of `make faults`')
@pytest.mark.parametrize('victim', [0, 1])
def test_torchrun_with_one_killed(runs, ledger, dice, victim):
    what = f'torchrun, SR: SIGKILL of rank {victim}'
    name = f'torchrun_{victim}'
    alone = end_well(runs, 'SR', f'{name}_alone', before=[])
    first = torchrun(runs, 'SR', name)
    await_iteration(first, 4)
    time.sleep(dice.uniform(0, 0.3))
    victims = ranks_of(first)
    os.kill(victims[victim], signal.SIGKILL)
    assert first.wait(SECONDS) != 0
    assert_gone(first.pid)
    ledger.note(what, 'not observed')
    assert not re.search(r'File ".*/defsr/', first.output), first.output[-5000:]
    second = torchrun(runs, 'SR', name)
    second.wait_well()
    judge(ledger, what, Result(runs.folder, name, [first.log, second.log]), alone)


@pytest.mark.skipif(not LONG, reason='torchrun starts for half a minute; part of `make faults`')
@pytest.mark.parametrize('number', NUMBERS)
def test_torchrun_is_told_to_stop(runs, ledger, dice, number):
    what, name = f'torchrun, SR: {number.name} to torchrun', f'torchrun_{number.name}'
    alone = end_well(runs, 'SR', f'{name}_alone', before=[])
    first = torchrun(runs, 'SR', name)
    await_iteration(first, 3)
    time.sleep(dice.uniform(0, 0.2))
    first.send(number, to_group=False)
    assert first.wait(SECONDS) != 0
    assert_gone(first.pid)
    ledger.note(what, 'not observed')
    assert 'Stopped after iteration' in first.output, first.output[-5000:]
    assert not re.search(r'File ".*/defsr/', first.output), first.output[-5000:]
    second = torchrun(runs, 'SR', name)
    second.wait_well()
    judge(ledger, what, Result(runs.folder, name, [first.log, second.log]), alone)
