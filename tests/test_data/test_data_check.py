"""defsr-check-data: a good set, and every way in which a copy may be broken."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from defsr.data.data_check import KNOWN_SETS, KnownSet, look_through
from defsr.data.pair_list import read_pair_list
from defsr.tools import check_data


def write(path: Path, height: int = 20, width: int = 24, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    cv2.imwrite(str(path), pixels)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three pairs in gt/ and ref/."""
    for i in range(3):
        write(tmp_path / f'gt/{i}.png', seed=i)
        write(tmp_path / f'ref/{i}.png', 30, 22, seed=10 + i)
    return tmp_path


def look(folder: Path, **more: object) -> list[str]:
    block = KnownSet('gt', 'ref', None, 0).block('own', folder)
    return look_through('own', block | more).problems


def test_a_good_set(folder):
    seen = []
    block = KnownSet('gt', 'ref', None, 3).block('own', folder)
    found = look_through('own', block, number=3, progress=lambda *state: seen.append(state))
    assert found.problems == [] and found.notes == []
    assert found.pairs == 3 and found.images == {'gt': 3, 'ref': 3}
    assert found.sizes == {'gt': ((20, 24), (20, 24)), 'ref': ((22, 30), (22, 30))}
    assert seen[-1] == (6, 6)


def break_off(folder: Path) -> None:
    path = folder / 'gt/1.png'
    path.write_bytes(path.read_bytes()[:200])


def copy(source: str, target: str):
    return lambda folder: shutil.copyfile(folder / source, folder / target)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda folder: (folder / 'ref/2.png').unlink(), r'ref/2\.png is missing'),
        (break_off, r'gt/1\.png is cut off'),
        (
            lambda folder: (folder / 'ref/0.png').write_text('x'),
            r'0\.png cannot be read as an image',
        ),
        (copy('gt/0.png', 'gt/2.png'), r'gt: 2\.png has the same pixels as 0\.png'),
        (copy('gt/1.png', 'ref/1.png'), r'reference 1\.png of 1\.png is its ground truth'),
        (lambda folder: write(folder / 'ref/1.png', 3, 9), r'1\.png is smaller than 4 pixels'),
        (lambda folder: shutil.rmtree(folder / 'ref'), 'not an existing folder'),
        (lambda folder: write(folder / 'gt/2.png', 3, 3), r'2\.png is 3x3 .* one pixel at scale 4'),
    ],
)
def test_what_is_broken_is_one_line(folder, damage, message):
    damage(folder)
    problems = look(folder)
    assert len(problems) == 1
    assert re.search(message, problems[0])


def test_all_problems_are_told_not_the_first(folder):
    break_off(folder)
    (folder / 'ref/2.png').unlink()
    shutil.copyfile(folder / 'gt/0.png', folder / 'ref/0.png')
    assert len(look(folder)) == 3


def test_low_resolution_inputs_and_caches_have_to_fit(folder):
    for i in range(3):
        write(folder / f'lq/{i}.png', 5, 6, seed=20 + i)
        write(folder / f'de/{i}.png', seed=30 + i)
    more = {'dataroot_lq': str(folder / 'lq'), 'dataroot_de': str(folder / 'de')}
    assert look(folder, **more) == []
    write(folder / 'lq/0.png', 5, 5, seed=40)
    write(folder / 'de/1.png', 20, 20, seed=41)
    problems = '\n'.join(look(folder, **more))
    assert '0.png: gt is 20x24 (HxW) and lq 5x5' in problems
    assert 'de 1.png is (20, 20), but must be (20, 24)' in problems


def test_images_that_no_pair_names_are_a_note(folder):
    (folder / 'pairs.txt').write_text('0.png 1.png\n')
    block = KnownSet('gt', 'ref', str(folder / 'pairs.txt'), 1).block('own', folder)
    found = look_through('own', block, number=2)
    assert found.problems == ['1 pairs, but own has 2.']
    assert found.notes[0] == 'dataroot_gt has 2 images that no pair names, such as 1.png.'


def test_public_sets_have_as_many_pairs_as_their_lists():
    for name, known in KNOWN_SETS.items():
        if known.pair_list:
            assert len(read_pair_list(known.pair_list)) == known.number, name


def told(monkeypatch, capsys, *arguments: str) -> tuple[str, int]:
    monkeypatch.setattr('sys.argv', ['defsr-check-data', *arguments])
    status = 0
    try:
        check_data.main()
    except SystemExit as error:
        status = int(error.code or 0)
    said = capsys.readouterr()
    return said.out + said.err, status


def test_the_command(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    said, status = told(monkeypatch, capsys, '--gt', 'gt', '--ref', 'ref')
    assert status == 0 and '| gt | 3 | 3 | 0 | 3 | 20x24 | 22x30 | 0 |' in said
    for i in range(3):
        break_off(folder)
        (folder / f'ref/{i}.png').unlink()
    said, status = told(monkeypatch, capsys, '--gt', 'gt', '--ref', 'ref')
    assert status == 2 and '\n4 problems in 1 set.' in said


def test_an_option_file_and_a_public_set(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    Path('o.yml').write_text(
        'scale: 4\ndatasets:\n'
        '  train: {type: RefTripletDataset, dataroot_gt: gt, dataroot_ref: ref, gt_size: 16}\n'
        '  val: {type: RefTripletDataset, dataroot_gt: gt, dataroot_ref: none}\n'
        '  other: {type: PairedImageDataset}\n'
    )
    said, status = told(monkeypatch, capsys, '-opt', 'o.yml')
    assert status == 2 and '| train | 3 | 3 |' in said and 'val: dataroot_ref is none' in said
    assert 'other is no RefTripletDataset' in said
    said, status = told(monkeypatch, capsys, 'Urban100', 'gt')
    assert status == 2 and 'img_001.png is missing' in said and 'more (--all)' in said


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((), 'Give the name of a public set'),
        (('CUFED5', '-opt', 'x.yml'), 'Give the name of a public set'),
        (('CUFED6',), "The set is 'CUFED6', but must be one of"),
    ],
)
def test_what_the_command_refuses(monkeypatch, capsys, arguments, message):
    said, status = told(monkeypatch, capsys, *arguments)
    assert status == 2 and message in said
