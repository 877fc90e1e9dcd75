"""Two hosts with a wire between them: training on both, one goes off, the wire is cut, the lock."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from harness import Result, Run, train_arguments
from hosts import INTERFACE, Host, two_hosts
from ledger import LONG
from repository import REPOSITORY
from test_two_processes import LOST, SECONDS, end_well, judge

pytestmark = pytest.mark.timeout(1200 if LONG else 240)

PLAN = {'heartbeat': 0.5, 'silence': 4}  # 10 and 120 s, which are waited for in `make faults`
WIRE = {'GLOO_SOCKET_IFNAME': INTERFACE}
PHASES = ('iteration', 'validation')  # before, they wait for each other


@pytest.fixture
def nodes() -> Iterator[Callable[[], tuple[Host, Host]]]:
    """Makes two hosts; those made before are gone then."""
    with ExitStack() as made:

        def make() -> tuple[Host, Host]:
            made.close()
            return made.enter_context(two_hosts())

        yield make


def start(runs, two: tuple[Host, Host], name: str, model: str = 'SR') -> list[Run]:
    """A forked process on each, as torchrun would start them."""
    env = {'WORLD_SIZE': '2', 'MASTER_ADDR': two[0].address, 'MASTER_PORT': '29500'} | WIRE
    arguments = ['--launcher', 'pytorch', *train_arguments(model, name)]
    return [
        runs.start(
            'train', *arguments, plan=PLAN, env=env | {'RANK': str(i), 'LOCAL_RANK': '0'}, host=host
        )
        for i, host in enumerate(two)
    ]


def torchrun(runs, two: tuple[Host, Host], name: str, env=WIRE, **options: object) -> list[Run]:
    """docs/training.md's commands."""
    return [
        runs.command(
            sys.executable,
            *('-m', 'torch.distributed.run', '--nnodes=2', f'--node_rank={i}'),
            *('--nproc_per_node=1', f'--master_addr={two[0].address}', '--master_port=29500'),
            str(REPOSITORY / 'defsr/train.py'),
            *('--launcher', 'pytorch', *train_arguments('SR', name, **options)),
            env=env,
            host=host,
        )
        for i, host in enumerate(two)
    ]


def errors(output: str) -> list[str]:
    """Lines that say what is wrong; AssertionError for anything a user cannot read."""
    assert not re.search(r'File ".*/defsr/', output), output[-5000:]
    return re.findall(r'^(?:rank 1: )?error: .*', output, flags=re.MULTILINE)


def assert_lost(run: Run, seconds: float = SECONDS) -> None:
    """It ends in time, with one line."""
    assert run.wait(seconds) == 2, run.output[-3000:]
    (error,) = errors(run.output)
    assert LOST in error and '--auto_resume' in error


@pytest.fixture(scope='module')
def alone(runs) -> Result:
    """Two processes of one host."""
    return end_well(runs, 'SR', 'nodes_alone', before=[])


def test_two_nodes_are_two_processes_are_one_with_their_batches(runs, nodes, alone):
    """By torchrun; to the last bit, and to rounding."""
    both = torchrun(runs, nodes(), 'nodes_torchrun')
    for run in both:
        run.wait_well()
    assert not Result(runs.folder, 'nodes_torchrun', [both[0].log]).differences(alone)

    name = 'nodes_one'
    one = runs.start('train', *train_arguments('SR', name, datasets__train__batch_size_per_gpu=4))
    one.wait_well()
    weights = [
        torch.load(result.experiment / 'models/net_g_latest.pth', weights_only=True)['params']
        for result in (alone, Result(runs.folder, name, [one.log]))
    ]
    worst = max((weights[1][key] - value).abs().max().item() for key, value in weights[0].items())
    sys.stdout.write(f'weights differ by up to {worst:.1e}\n')
    assert worst < 1e-5


@pytest.mark.parametrize('victim', [0, 1])
def test_a_node_goes_off(runs, nodes, ledger, dice, alone, victim):
    """All its processes are killed. The lock of the first is an unknown host's for the next."""
    what = f'two nodes, SR: node {victim} goes off'
    for i in range(6) if LONG else range(1):
        name = f'nodes_off_{victim}_{i}'
        two = nodes()
        both = start(runs, two, name)
        phase = dice.choice(PHASES)
        assert both[victim].wait_for(phase, dice.randint(2, 7))
        two[victim].end()
        ledger.note(what, phase)
        assert_lost(both[1 - victim])
        assert both[victim].wait() == -signal.SIGKILL
        go_on(runs, nodes, ledger, what, name, both, alone)


@pytest.mark.parametrize('where', [0, 1])
def test_the_wire_is_cut(runs, nodes, ledger, dice, alone, where):
    """Nothing is closed then; no answer within SILENCE is the end for both."""
    what = f'two nodes, SR: no link at node {where}'
    for i in range(3) if LONG else range(1):
        name = f'nodes_cut_{where}_{i}'
        two = nodes()
        both = start(runs, two, name)
        assert both[1].wait_for('iteration', dice.randint(2, 7))
        two[where].do('ip', 'link', 'set', INTERFACE, 'down')
        ledger.note(what, 'iteration')
        begun = time.monotonic()
        for run in both:
            assert_lost(run)
        sys.stdout.write(f'{name}: ended after {time.monotonic() - begun:.1f} s\n')
        go_on(runs, nodes, ledger, what, name, both, alone)


def go_on(runs, nodes, ledger, what: str, name: str, first: list[Run], alone: Result) -> None:
    """Nothing is torn; started again on both, the end is that of the run left alone."""
    assert not Result(runs.folder, name, []).torn()
    again = start(runs, nodes(), name)
    for run in again:
        run.wait_well()
    judge(ledger, what, Result(runs.folder, name, [first[0].log, again[0].log]), alone)


@pytest.mark.skipif(not LONG, reason='torchrun starts for ten seconds; part of `make faults`')
def test_a_host_that_others_cannot_find_says_so(runs, nodes):
    """Its name stands for no address: without the interface all end at once, in one line."""
    for run in torchrun(runs, nodes(), 'nodes_unfound', env={}):
        assert run.wait(SECONDS) != 0
        (error,) = errors(run.output)
        assert 'Other nodes cannot find this one' in error and 'GLOO_SOCKET_IFNAME' in error


@pytest.mark.skipif(not LONG, reason='waits for two minutes; part of `make faults`')
@pytest.mark.parametrize('fault', ['off', 'cut'])
@pytest.mark.parametrize('victim', [0, 1])
def test_torchrun_on_two_nodes(runs, nodes, ledger, alone, fault, victim):
    what, name = f'two nodes, torchrun, SR: node {victim} {fault}', f'nodes_{fault}_{victim}_real'
    two = nodes()
    both = torchrun(runs, two, name)
    while not re.search(r'iter: +4, ', both[0].output) and not both[0].is_over():
        time.sleep(0.005)
    begun = time.monotonic()
    if fault == 'off':
        two[victim].end()
    else:
        two[victim].do('ip', 'link', 'set', INTERFACE, 'down')
    ledger.note(what, 'not observed')
    for number, run in enumerate(both):
        if fault == 'off' and number == victim:
            continue
        assert run.wait(300) != 0
        sys.stdout.write(f'{name}: node {number} ended after {time.monotonic() - begun:.1f} s\n')
        assert [LOST in error for error in errors(run.output)] == [True], run.output[-3000:]
    two = nodes()
    again = torchrun(runs, two, name)
    for run in again:
        run.wait_well()
    judge(ledger, what, Result(runs.folder, name, [both[0].log, again[0].log]), alone)


def test_a_name_in_use_on_another_host(runs, nodes):
    """Refused while the other is at work; taken over when it gives no sign of life."""
    plan = {} if LONG else PLAN
    patience = 3.5 * plan.get('heartbeat', 10)
    name = 'nodes_lock'
    two = nodes()
    work = train_arguments('SR', name, train__total_iter=10**6, val__val_freq=10**6)
    first = runs.start('train', *work, plan=plan, host=two[0])
    assert first.wait_for('iteration', 2), first.output[-3000:]
    second = runs.start('train', *work, plan=plan, host=two[1])
    assert second.wait(patience + SECONDS) == 2, second.output[-3000:]
    (error,) = errors(second.output)
    assert f'{name} is in use by' in error and 'on node1, since' in error
    assert not first.is_over()

    two[0].end()
    begun = time.monotonic()
    third = runs.start('train', *train_arguments('SR', name), plan=plan, host=two[1])
    third.wait_for('loading')
    seconds = time.monotonic() - begun
    sys.stdout.write(f'taken over after {seconds:.1f} s\n')
    assert first.wait() == -signal.SIGKILL
    third.send(signal.SIGKILL)
    third.wait()
    assert patience < seconds < patience + 10, third.output[-3000:]


def test_nothing_is_left_of_a_host(tmp_path):
    with two_hosts() as two:
        holders = [host.holder for host in two]
        spaces = [Path(f'/proc/{holder}/ns/net').readlink() for holder in holders]
        assert len(set(spaces)) == 2
    end = time.monotonic() + 10
    while left := [p for p in Path('/proc').glob('[0-9]*/ns/net') if space_of(p) in spaces]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


def space_of(path: Path) -> Path | None:
    try:
        return path.readlink()
    except OSError:
        return None
