"""``defsr-enhance`` killed, stopped, out of disk: every entry is whole, and the end is the same."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from harness import Run, assert_gone, kilobytes, resize
from ledger import LONG
from processes import free_port
from repository import REPOSITORY
from test_create_lmdb_killed import contents as contents_of_lmdb
from test_two_processes import ranks_of
from workspaces import enhance_options, pairs, write_pairs, write_prior

from defsr.data.cache_record import RECORD

pytestmark = pytest.mark.timeout(1200 if LONG else 120)

TIMES = 30 if LONG else 2
SIZES = ((24, 32), (20, 28))
NUM_IMAGES = 12
KINDS = ('replace', 'fsync', 'write', 'unlink', 'put', 'rmtree')
AGAIN = 'Run the same command again to go on'
SECONDS = 60  # for a survivor; it takes less than one on an idle machine


@dataclass
class Alone:
    """A run that was left alone: what it made, in how many seconds, with which file operations."""

    images: dict[str, bytes]
    packed: dict[bytes, bytes]
    seconds: float
    counts: dict[str, int]


def arguments(out: Path | str, *more: str) -> list[str]:
    """Of a run that makes ``out/de`` and ``out/ref_de.lmdb``."""
    outs = [f'datasets:train:out:de={out}/de', f'datasets:train:out:ref_de={out}/ref_de.lmdb']
    return ['-opt', 'enhance.yml', *more, '--force_yml', *outs]


def images_in(folder: Path) -> dict[str, bytes]:
    """What has its final name."""
    files = folder.glob('[!.]*') if folder.is_dir() else ()
    return {path.name: path.read_bytes() for path in files}


def enhance_alone(runs, stereo) -> Alone:
    """Twelve pairs of two sizes, and the caches of an undisturbed run."""
    windows = [(9 * i, 40 * i, *SIZES[i % 2]) for i in range(NUM_IMAGES)]
    write_pairs(runs.folder / 'enhance', stereo, windows, digits=2)
    prior = write_prior(runs.folder / 'enhance/prior.pth')
    out = {'de': 'x', 'ref_de': 'y.lmdb'}
    block = pairs('enhance', enhance=['de', 'ref_de'], out=out)
    opt = enhance_options(prior, train=block) | {'dist_params': {'timeout': 1}}
    (runs.folder / 'enhance.yml').write_text(yaml.safe_dump(opt))
    begun, counts = time.monotonic(), runs.folder / 'enhance.counts'
    runs.start('enhance', *arguments('alone'), plan={'counts': str(counts)}).wait_well()
    seconds = time.monotonic() - begun
    images = images_in(runs.folder / 'alone/de')
    packed = contents_of_lmdb(runs.folder / 'alone/ref_de.lmdb')
    assert len(images) == len(packed) == NUM_IMAGES + 1
    return Alone(images, packed, seconds, json.loads(counts.read_text()))


def check_so_far(out: Path, alone: Alone) -> int:
    """Whatever is there is whole and right, at any moment; returns the number of images."""
    found = images_in(out / 'de')
    assert all(alone.images[name] == content for name, content in found.items())
    record = alone.images[RECORD].replace(b'"kind": "de"', b'"kind": "ref_de"')
    parts = images_in(out / 'ref_de.lmdb.parts')
    for name, content in parts.items():
        wanted = record if name == RECORD else alone.packed[name[:2].encode()]
        assert content == wanted, name
    packed = contents_of_lmdb(out / 'ref_de.lmdb')
    assert packed is None or packed == alone.packed
    return len(found) + len(parts)


def is_equal(out: Path, alone: Alone) -> bool:
    """Byte for byte as the undisturbed one, and nothing beside it."""
    return (
        images_in(out / 'de') == alone.images
        and contents_of_lmdb(out / 'ref_de.lmdb') == alone.packed
        and (out / 'ref_de.lmdb' / RECORD).is_file()
        and sorted(os.listdir(out)) == ['de', 'ref_de.lmdb']
        and not list(out.rglob('.*'))
    )


def start_many(runs, number: int, out: Path | str, plans: dict | None = None) -> list[Run]:
    """So many forked processes, as torchrun would start them."""
    if number == 1:
        return [runs.start('enhance', *arguments(out))]
    env = {'WORLD_SIZE': str(number), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': free_port()}
    return [
        runs.start(
            'enhance',
            *arguments(out, '--launcher', 'pytorch'),
            env=env | {'RANK': str(i), 'LOCAL_RANK': str(i)},
            plan=(plans or {}).get(i),
        )
        for i in range(number)
    ]


def finish(runs, ledger, what: str, out: Path, alone: Alone, number: int = 1) -> None:
    """Run it to its end and compare."""
    for run in start_many(runs, number, out.name if out.parent == runs.folder else out):
        run.wait_well()
    equal = is_equal(out, alone)
    ledger.judge(what, equal=equal, table='enhance')
    assert equal


def chosen_point(dice, alone: Alone) -> dict:
    """A plan that kills before or after a file operation."""
    kind = dice.choice([kind for kind in KINDS if alone.counts.get(kind)])
    last = alone.counts[kind]
    number = dice.randint(max(1, last - 2) if dice.random() < 0.3 else 1, last)
    return {'action': 'kill', 'kind': kind, 'number': number,
            'edge': dice.choice(('before', 'after'))}  # fmt: skip


def test_the_whole_job_is_killed(runs, ledger, dice, alone):
    """One to three times in a row, at a chosen file operation or at any time."""
    what = 'one process: SIGKILL'
    killed = number = 0
    while killed < TIMES:
        out, number = runs.folder / f'enhance_{number}', number + 1
        for _ in range(dice.randint(1, 3)):
            plan = chosen_point(dice, alone) if dice.random() < 0.6 else None
            run = runs.start('enhance', *arguments(out.name), plan=plan)
            if plan is None:
                time.sleep(dice.uniform(0, alone.seconds))
                run.send(signal.SIGKILL)
            code = run.wait()
            assert_gone(run.pid)
            assert code in (0, -signal.SIGKILL), run.output[-3000:]
            if code:
                killed += 1
                phase, point, _ = run.witness.read()
                ledger.note(what, phase, table='enhance')
                there = check_so_far(out, alone)
                sys.stdout.write(f'{out.name}: killed in {phase} {point}, {there} files there\n')
        finish(runs, ledger, what, out, alone)


@pytest.mark.parametrize('kind', ['replace', 'rmtree'])
def test_killed_around_the_exchange(runs, ledger, alone, kind):
    """The LMDB gets its name by the last rename; the parts go by the last removal."""
    what = 'one process, as the LMDB appears: SIGKILL'
    for back in range(3 if LONG else 1):
        for edge in ('before', 'after'):
            out = runs.folder / f'enhance_{kind}_{back}_{edge}'
            plan = {'action': 'kill', 'kind': kind, 'edge': edge}
            plan['number'] = alone.counts[kind] - back
            run = runs.start('enhance', *arguments(out.name), plan=plan)
            assert run.wait() == -signal.SIGKILL, run.output[-3000:]
            phase, point, _ = run.witness.read()
            ledger.note(what, phase, table='enhance')
            there = check_so_far(out, alone)
            sys.stdout.write(f'{out.name}: killed in {phase} {point}, {there} files there\n')
            finish(runs, ledger, what, out, alone)


@pytest.mark.parametrize('victim', [0, 1])
def test_one_of_two_is_killed(runs, ledger, dice, alone, victim):
    """The other one ends in one line; one, two or three processes finish it."""
    what = f'two processes: SIGKILL of rank {victim}'
    killed = number = 0
    while killed < TIMES // 2:
        out, number = runs.folder / f'enhance_{victim}_of_2_{number}', number + 1
        plan = chosen_point(dice, alone) if dice.random() < 0.6 else None
        both = start_many(runs, 2, out.name, {victim: plan})
        if plan is None:
            assert both[victim].wait_for('enhancing'), both[victim].output[-3000:]
            time.sleep(dice.uniform(0, 0.1))
            both[victim].send(signal.SIGKILL)
        if both[victim].wait() == 0:
            both[1 - victim].wait_well()
            continue
        killed += 1
        ledger.note(what, both[victim].witness.read()[0], table='enhance')
        survivor = both[1 - victim]
        code = survivor.wait(SECONDS)
        if code:  # all that needs the other one may be over
            assert code == 2, survivor.output[-3000:]
            [line] = re.findall(r'^(?:rank 1: )?error: .*', survivor.output, flags=re.MULTILINE)
            assert 'Another process of this run has ended' in line and AGAIN in line
        assert 'Traceback' not in survivor.output, survivor.output[-3000:]
        check_so_far(out, alone)
        finish(runs, ledger, what, out, alone, number=dice.randint(1, 3))


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_answered_after_the_batch(runs, ledger, dice, alone, number, code):
    what = f'one process: {number.name}'
    for time_ in range(6 if LONG else 1):
        out = runs.folder / f'enhance_{number.name}_{time_}'
        run = runs.start('enhance', *arguments(out.name))
        assert run.wait_for(dice.choice(('enhancing', 'writing'))), run.output[-3000:]
        run.send(number)
        assert run.wait(SECONDS) == code, run.output[-3000:]
        ledger.note(what, run.witness.read()[0], table='enhance')
        [line] = [text for text in run.output.splitlines() if 'Stopped: ' in text]
        assert AGAIN in line and 'Traceback' not in run.output
        assert not list(out.rglob('.*')), 'nothing half-written, not even under another name'
        check_so_far(out, alone)
        finish(runs, ledger, what, out, alone)


def check_disk_line(run: Run, out: Path | str) -> None:
    """One error line that names a file and says how to go on."""
    assert run.wait() == 2, run.output[-3000:]
    [line] = [text for text in run.output.splitlines() if text.startswith('error: ')]
    said = 'No space left on device' in line or 'Is the disk full?' in line
    assert said and str(out) in line and AGAIN in line, line
    assert 'Traceback' not in run.output, run.output[-3000:]


def test_a_write_that_fails(runs, ledger, dice, alone):
    what = 'one process: ENOSPC at a chosen write'
    for time_ in range(TIMES // 2 + 1):
        out, kind = runs.folder / f'enhance_enospc_{time_}', ('write', 'fsync')[time_ % 2]
        plan = {'kind': kind, 'number': dice.randint(2, alone.counts[kind]), 'edge': 'before'}
        run = runs.start('enhance', *arguments(out.name), plan=plan | {'action': 'enospc'})
        check_disk_line(run, out.name)
        ledger.note(what, run.witness.read()[0], table='enhance')
        check_so_far(out, alone)
        finish(runs, ledger, what, out, alone)


def test_a_small_disk_fills_up(runs, ledger, dice, alone, small_disk):
    """Really full, in the images or in the LMDB: the kernel says so."""
    what = 'one process: a full disk (tmpfs)'
    whole = kilobytes(runs.folder / 'alone')
    for time_ in range(8 if LONG else 1):
        out = small_disk / f'enhance_{time_}'
        resize(small_disk, kilobytes(small_disk) + dice.randint(30, whole - 8))
        run = runs.start('enhance', *arguments(out))
        check_disk_line(run, out)
        ledger.note(what, run.witness.read()[0], table='enhance')
        check_so_far(out, alone)
        resize(small_disk, 65536)
        finish(runs, ledger, what, out, alone)


def torchrun(runs, number: int, out: str) -> Run:
    """The real thing."""
    return runs.command(
        sys.executable,
        *('-m', 'torch.distributed.run', f'--nproc_per_node={number}', '--master_addr=127.0.0.1'),
        f'--master_port={free_port()}',
        str(REPOSITORY / 'defsr/tools/enhance.py'),
        *arguments(out, '--launcher', 'pytorch'),
    )


@pytest.mark.skipif(not LONG, reason='torchrun starts for half a minute; part of `make faults`')
@pytest.mark.parametrize('victim', [0, 1, None])
def test_torchrun(runs, ledger, dice, alone, victim):
    """One rank is killed, or torchrun is told to stop; another number of ranks finishes."""
    what = f'torchrun: {"SIGTERM" if victim is None else f"SIGKILL of rank {victim}"}'
    out = runs.folder / f'enhance_torchrun_{victim}'
    first = torchrun(runs, 2, out.name)
    while not list(out.glob('de/*.png')) and not first.is_over():
        time.sleep(0.002)
    time.sleep(dice.uniform(0, 0.05))
    if victim is None:
        first.send(signal.SIGTERM, to_group=False)
    else:
        os.kill(ranks_of(first)[victim], signal.SIGKILL)
    assert first.wait(SECONDS) != 0, first.output[-3000:]
    assert_gone(first.pid)
    ledger.note(what, 'not observed', table='enhance')
    assert not re.search(r'File ".*/defsr/', first.output), first.output[-5000:]
    check_so_far(out, alone)
    second = torchrun(runs, 3, out.name)
    second.wait_well()
    equal = is_equal(out, alone)
    ledger.judge(what, equal=equal, table='enhance')
    assert equal
