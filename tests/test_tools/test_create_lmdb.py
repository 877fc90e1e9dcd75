"""Folders into LMDBs: same pixels, BasicSR's format, and nothing half-written."""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.data.data_util import paths_from_lmdb
from basicsr.utils import FileClient
from warm import Warm
from workspaces import run_well

from defsr.data.image_source import ImageSource
from defsr.data.lmdb_writer import create_lmdb
from defsr.tools import create_lmdb as tool
from defsr.utils.cli import run_cli


@pytest.fixture
def folder(tmp_path) -> Path:
    """PNG, JPEG, grey and 16-bit images under real-looking names."""
    rng = np.random.default_rng(20)
    root = tmp_path / 'images'
    root.mkdir()
    colour = rng.integers(0, 256, (20, 31, 3), dtype=np.uint8)
    cv2.imwrite(str(root / 'H_0_8439753@N07_01_0_99matches109_raw_01.png'), colour)
    cv2.imwrite(str(root / 'photo.jpg'), colour)
    cv2.imwrite(str(root / 'grey.png'), colour[..., 0])
    cv2.imwrite(str(root / 'deep.png'), colour.astype(np.uint16) * 250)
    return root


def contents(root: Path) -> dict[str, torch.Tensor]:
    source = ImageSource('lmdb', root, 'lmdb')
    return {name: source.read(name) for name in source.names()}


def hidden(out: Path) -> list[str]:
    """What is left of a build; a killed run's lock is nobody's and stays until the next run."""
    return [path.name for path in out.glob('.*') if path.suffix != '.lock']


def test_every_pixel_survives(folder, tmp_path):
    made = create_lmdb({'gt': folder, 'ref_de': folder}, tmp_path / 'new' / 'out')
    assert made == [tmp_path / 'new' / 'out' / f'{root}.lmdb' for root in ('gt', 'ref_de')]
    source = ImageSource('disk', folder)
    stored = contents(made[0])
    assert [Path(name).stem for name in stored] == [Path(name).stem for name in source.names()]
    for name in source.names():
        assert torch.equal(stored[Path(name).stem + '.png'], source.read(name))
    assert hidden(tmp_path / 'new' / 'out') == []


def test_the_format_is_basicsrs(folder, tmp_path):
    [root] = create_lmdb({'gt': folder}, tmp_path / 'out', compress_level=4)
    assert (root / 'meta_info.txt').read_text().splitlines() == [
        'H_0_8439753@N07_01_0_99matches109_raw_01.png (20,31,3) -1',
        'deep.png (20,31,3) -1',
        'grey.png (20,31,1) -1',
        'photo.png (20,31,3) 4',
    ]
    keys = paths_from_lmdb(str(root))
    client = FileClient('lmdb', db_paths=[str(root)], client_keys=['gt'])
    values = {key: bytes(client.get(key, 'gt')) for key in keys}
    assert values['grey'] == (folder / 'grey.png').read_bytes()  # PNGs go in untouched
    assert values['photo'].startswith(b'\x89PNG')


def test_a_pair_list_selects(folder, tmp_path):
    (tmp_path / 'list.txt').write_text('grey.png deep.png photo.jpg\ndeep.png photo.jpg\n')
    folders = dict.fromkeys(('gt', 'ref', 'de'), folder)
    gt, ref, de = create_lmdb(folders, tmp_path / 'out', pair_list=tmp_path / 'list.txt')
    assert set(contents(gt)) == set(contents(de)) == {'grey.png', 'deep.png'}
    assert set(contents(ref)) == {'deep.png', 'photo.png'}
    (tmp_path / 'list.txt').write_text('grey.png none.png\n')
    with pytest.raises(FileNotFoundError, match='--ref is .*no image none.png'):
        create_lmdb({'ref': folder}, tmp_path / 'two', pair_list=tmp_path / 'list.txt')


def test_the_map_grows(folder, tmp_path, monkeypatch):
    monkeypatch.setattr('defsr.data.lmdb_writer.START_MAP_SIZE', 16 * 1024)
    [root] = create_lmdb({'gt': folder}, tmp_path / 'out')
    assert len(contents(root)) == 4
    assert (root / 'data.mdb').stat().st_size > 16 * 1024


def test_nothing_is_overwritten_unasked(folder, tmp_path):
    [root] = create_lmdb({'gt': folder}, tmp_path / 'out')
    before = (root / 'data.mdb').read_bytes()
    (folder / 'grey.png').unlink()
    with pytest.raises(FileExistsError, match='gt.lmdb exists already.*--force'):
        create_lmdb({'ref': folder, 'gt': folder}, tmp_path / 'out')
    assert (root / 'data.mdb').read_bytes() == before
    assert not (tmp_path / 'out' / 'ref.lmdb').exists()
    create_lmdb({'gt': folder}, tmp_path / 'out', force=True)
    assert set(contents(root)) == {
        'H_0_8439753@N07_01_0_99matches109_raw_01.png',
        'deep.png',
        'photo.png',
    }
    assert hidden(tmp_path / 'out') == []


def test_a_failure_leaves_nothing(folder, tmp_path):
    (folder / 'later.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='later.png cannot be read'):
        create_lmdb({'gt': folder}, tmp_path / 'out')
    assert list((tmp_path / 'out').iterdir()) == []


@pytest.mark.parametrize('name', ['two.dots.png', 'bücher.png'])
def test_names_that_keys_cannot_hold(folder, tmp_path, name):
    (folder / 'grey.png').rename(folder / name)
    with pytest.raises(ValueError, match=f'{re.escape(name)}: LMDB keys are ASCII'):
        create_lmdb({'gt': folder}, tmp_path / 'out')


def test_arguments_are_checked(folder, tmp_path):
    with pytest.raises(ValueError, match='nothing to do'):
        create_lmdb({}, tmp_path)
    with pytest.raises(ValueError, match='Unknown option `create_lmdb:hr`'):
        create_lmdb({'hr': folder}, tmp_path)
    with pytest.raises(ValueError, match='compress_level is 10, but must be at most 9'):
        create_lmdb({'gt': folder}, tmp_path, compress_level=10)
    with pytest.raises(FileNotFoundError, match='--ref-de is .*nowhere'):
        create_lmdb({'ref_de': folder / 'nowhere'}, tmp_path)


def test_command_line(folder, tmp_path):
    arguments = ['--gt', str(folder), '--ref-de', str(folder), '--out', 'out', '--force']
    run_well(tmp_path, '-m', 'defsr.tools.create_lmdb', *arguments)
    assert all(len(contents(tmp_path / 'out' / f'{root}.lmdb')) == 4 for root in ('gt', 'ref_de'))


def test_the_command_line_refuses_in_one_line(folder, tmp_path, monkeypatch, capsys):
    create_lmdb({'gt': folder}, tmp_path)
    arguments = ['create_lmdb', '--gt', str(folder), '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', arguments)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_cli(tool.main)
    assert stop.value.code == 2
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith('error: ') and 'gt.lmdb exists already' in first


KILLED = """
import sys, time
from defsr.data import lmdb_writer as tool
original = tool._put
def slow(environment, key, content):
    original(environment, key, content)
    open(sys.argv[3], 'w').close()
    time.sleep(600)
tool._put = slow
tool.create_lmdb({'ref': sys.argv[1], 'gt': sys.argv[1]}, sys.argv[2], force=True)
"""


def test_a_killed_run_leaves_nothing_half_written(folder, tmp_path):
    out, flag = tmp_path / 'out', tmp_path / 'writing'
    create_lmdb({'gt': folder}, out)
    script = tmp_path / 'killed.py'
    script.write_text(KILLED)
    process = Warm(tmp_path, *map(str, (script, folder, out, flag)))
    try:
        deadline = time.monotonic() + 120
        while not flag.exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert flag.exists()
    assert len(contents(out / 'gt.lmdb')) == 4
    assert not (out / 'ref.lmdb').exists()
    assert hidden(out) == ['.ref.lmdb.tmp']
    [root] = create_lmdb({'ref': folder}, out)
    assert len(contents(root)) == 4
    assert hidden(out) == []


def test_a_run_killed_between_its_renames_loses_nothing(folder, tmp_path):
    [root] = create_lmdb({'gt': folder}, tmp_path / 'out')
    root.rename(root.with_name('.gt.lmdb.old'))
    with pytest.raises(FileExistsError, match='exists already'):
        create_lmdb({'gt': folder}, tmp_path / 'out')
    assert len(contents(root)) == 4
    assert hidden(tmp_path / 'out') == []
