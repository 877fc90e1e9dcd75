"""``create_lmdb`` killed at any moment: the LMDB is the old one or the new one, whole."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import lmdb
import pytest
from harness import assert_gone
from ledger import LONG
from photos import read_rgb
from torchvision.utils import save_image

pytestmark = pytest.mark.timeout(600 if LONG else 120)

TIMES = 20 if LONG else 3
KINDS = ('put', 'replace', 'fsync', 'write', 'rmtree')
Content = dict[bytes, bytes]


def contents(folder: Path) -> Content | None:
    """Keys and values, and the meta file; None if there is no such LMDB."""
    if not folder.is_dir():
        return None
    environment = lmdb.open(str(folder), readonly=True, lock=False)
    with environment.begin() as transaction:
        found = dict(transaction.cursor())
    environment.close()
    return found | {b'meta': (folder / 'meta_info.txt').read_bytes()}


@pytest.fixture(scope='module')
def images(runs, stereo_paths) -> dict[str, Path]:
    """Two folders, ``old`` and ``new``, with the same names and other pictures."""
    folders = {}
    for name, path in zip(('old', 'new'), stereo_paths, strict=True):
        folders[name] = runs.folder / f'lmdb_{name}'
        folders[name].mkdir()
        for i in range(60):
            save_image(read_rgb(path)[..., 5 * i : 5 * i + 40, :60], folders[name] / f'{i:02}.png')
    return folders


@pytest.fixture(scope='module')
def wanted(runs, images) -> tuple[dict[str, Content], float]:
    """What each folder becomes in a run that is left alone, and the seconds it takes."""
    found = {}
    for name, folder in images.items():
        begun = time.monotonic()
        runs.start('create_lmdb', *arguments(folder, runs.folder / f'alone_{name}')).wait_well()
        seconds = time.monotonic() - begun
        found[name] = contents(runs.folder / f'alone_{name}/gt.lmdb')
        assert len(found[name]) == 61
    assert found['old'] != found['new']
    return found, seconds


def arguments(folder: Path, out: Path) -> list[str]:
    return ['--gt', str(folder), '--out', str(out), '--force']


def hidden(out: Path) -> list[str]:
    return [path.name for path in out.iterdir() if path.name.startswith('.')]


@pytest.mark.parametrize('there_is_one', [True, False])
def test_the_old_one_or_the_new_one(runs, ledger, dice, images, wanted, there_is_one):
    wanted, seconds = wanted
    what = f'{"replacing one" if there_is_one else "from nothing"}: SIGKILL'
    killed = number = 0
    while killed < TIMES:
        out, number = runs.folder / f'lmdb_{there_is_one}_{number}', number + 1
        if there_is_one:
            runs.start('create_lmdb', *arguments(images['old'], out)).wait_well()
        plan = {'action': 'kill', 'edge': dice.choice(('before', 'after'))}
        plan['kind'] = dice.choice((*KINDS, 'any time'))
        plan['number'] = dice.randint(1, 60 if plan['kind'] == 'put' else 3)
        run = runs.start('create_lmdb', *arguments(images['new'], out), plan=plan)
        if plan['kind'] == 'any time':
            time.sleep(dice.uniform(0, seconds))
            run.send(signal.SIGKILL)
        code = run.wait()
        assert_gone(run.pid)
        if code == 0:
            continue
        assert code == -signal.SIGKILL, run.output
        killed += 1
        phase, point, _ = run.witness.read()
        ledger.note(what, phase, table='create_lmdb')
        sys.stdout.write(f'{out.name}: killed in {phase} {point}\n')
        found = contents(out / 'gt.lmdb')
        if found is None and there_is_one:  # between the two renames; the next run puts it back
            assert point in ('after replace 1 of gt.lmdb', 'before replace 2 of .gt.lmdb.tmp')
            found = contents(out / '.gt.lmdb.old')
        assert found in (wanted['new'], wanted['old'] if there_is_one else None)
        again = runs.start('create_lmdb', *arguments(images['new'], out))
        again.wait_well()
        equal = contents(out / 'gt.lmdb') == wanted['new'] and not hidden(out)
        ledger.judge(what, equal=equal, table='create_lmdb')
        assert equal


def test_a_refused_run_puts_the_old_one_back(runs, images, wanted):
    """Killed between its two renames, then started without --force."""
    out = runs.folder / 'lmdb_between'
    runs.start('create_lmdb', *arguments(images['old'], out)).wait_well()
    plan = {'action': 'kill', 'kind': 'replace', 'number': 1, 'edge': 'after'}
    run = runs.start('create_lmdb', *arguments(images['new'], out), plan=plan)
    assert run.wait() == -signal.SIGKILL
    again = runs.start('create_lmdb', *arguments(images['new'], out)[:-1])
    assert again.wait() == 2 and 'exists already' in again.output
    assert contents(out / 'gt.lmdb') == wanted[0]['old']
    assert os.listdir(out) == ['gt.lmdb']
