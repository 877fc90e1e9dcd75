import os
import shutil
import signal
import sys
import time
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from warm import Warm

from defsr.data import pair_folder
from defsr.data.correspondence import read_correspondences, true_positions
from defsr.data.pair_folder import PairsReport, make_pairs
from defsr.data.pair_settings import PairSettings
from defsr.data.pair_synthesis import Photometry
from defsr.tools import make_pairs as tool

SETTINGS = PairSettings(size=64, ref_size=72, unrelated=0.25)


@pytest.fixture(scope='module')
def photos(tmp_path_factory) -> Path:
    """Three photographs of different formats."""
    skimage = pytest.importorskip('skimage')
    source = Path(skimage.__file__).parent / 'data'
    folder = tmp_path_factory.mktemp('photos')
    for name in ('chelsea.png', 'coffee.png', 'rocket.jpg'):
        shutil.copyfile(source / name, folder / name)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope='module')
def made(photos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('made') / 'deep' / 'pairs'
    assert make_pairs(photos, out, SETTINGS, per_image=4) == PairsReport(12, 3, 0)
    return out


def test_layout_and_truth(made, photos):
    names = [f'{stem}_{k}.png' for stem in ('chelsea', 'coffee', 'rocket') for k in range(4)]
    truths = read_correspondences(made / 'correspondence.csv')
    assert list(truths) == sorted(os.listdir(made / 'gt')) == names
    assert sorted(os.listdir(made / 'ref')) == names
    for name, truth in truths.items():
        gt = cv2.imread(str(made / 'gt' / name), cv2.IMREAD_UNCHANGED)
        ref = cv2.imread(str(made / 'ref' / name), cv2.IMREAD_UNCHANGED)
        assert gt.shape == (64, 64, 3) and ref.shape == (72, 72, 3)
        x, y = truth.gt_xy
        photo = cv2.imread(str(photos / truth.gt_source))
        np.testing.assert_array_equal(gt, photo[y : y + 64, x : x + 64])
        assert truth.photometry != Photometry()
        assert truth.unrelated == (truth.ref_source != truth.gt_source)
    assert os.listdir(made.parent) == ['pairs']


def test_stored_homography_leads_to_the_same_content(photos, tmp_path):
    plain = PairSettings(size=96, ref_size=96, photometric=0, unrelated=0)
    make_pairs(photos, tmp_path / 'out', plain, per_image=3)
    for name, truth in read_correspondences(tmp_path / 'out/correspondence.csv').items():
        gt = cv2.imread(str(tmp_path / 'out/gt' / name)).astype(float)
        ref = cv2.imread(str(tmp_path / 'out/ref' / name))
        rows, columns = true_positions(truth.homography, 96, 96).astype(np.float32)
        inside = (rows >= 1) & (rows <= 94) & (columns >= 1) & (columns <= 94)
        assert inside.mean() == pytest.approx(truth.overlap, abs=0.06)
        error = (cv2.remap(ref, columns, rows, cv2.INTER_CUBIC) - gt)[inside]
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 28


def test_result_is_the_same_again_and_with_two_workers(made, photos, tmp_path):
    expected = content(made)
    make_pairs(photos, tmp_path / 'again', SETTINGS, per_image=4)
    assert content(tmp_path / 'again') == expected
    make_pairs(photos, tmp_path / 'two', SETTINGS, per_image=4, workers=2)
    assert content(tmp_path / 'two') == expected


def test_related_pairs_do_not_depend_on_the_other_photographs(made, photos, tmp_path):
    (tmp_path / 'few').mkdir()
    for name in ('coffee.png', 'rocket.jpg'):
        shutil.copyfile(photos / name, tmp_path / 'few' / name)
    make_pairs(tmp_path / 'few', tmp_path / 'out', SETTINGS, per_image=2)
    all_made, few_made = content(made), content(tmp_path / 'out')
    truths = read_correspondences(tmp_path / 'out/correspondence.csv')
    related = [name for name, truth in truths.items() if not truth.unrelated]
    assert related
    for name in related:
        assert few_made[f'ref/{name}'] == all_made[f'ref/{name}']


def test_small_photographs_are_skipped_in_one_line(photos, tmp_path, monkeypatch):
    folder = tmp_path / 'photos'
    shutil.copytree(photos, folder)
    for i, shape in enumerate([(63, 300, 3), (300, 63, 3), (10, 10, 3), (9, 9, 3)]):
        cv2.imwrite(str(folder / f'small{i}.png'), np.zeros(shape, np.uint8))
    cv2.imwrite(str(folder / 'fits.png'), np.full((64, 64, 3), 99, np.uint8))
    (folder / 'notes.txt').write_text('not a photograph')
    lines = []
    logger = pair_folder.get_root_logger()
    monkeypatch.setattr(logger, 'warning', lines.append)
    report = make_pairs(folder, tmp_path / 'out', SETTINGS)
    assert report == PairsReport(num_pairs=4, num_photos=4, num_skipped=4)
    [line] = lines
    assert line == (
        'Skipped 4 photos below 64 pixels on each side: small0.png, small1.png, small2.png ...'
    )


def test_grey_and_16_bit_photographs(tmp_path):
    (tmp_path / 'photos').mkdir()
    grey = np.arange(80 * 90).reshape(80, 90) % 251
    cv2.imwrite(str(tmp_path / 'photos/grey.png'), grey.astype(np.uint8))
    cv2.imwrite(str(tmp_path / 'photos/deep.png'), (257 * grey).astype(np.uint16))
    settings = PairSettings(size=64, ref_size=64, unrelated=0)
    make_pairs(tmp_path / 'photos', tmp_path / 'out', settings)
    for name, truth in read_correspondences(tmp_path / 'out/correspondence.csv').items():
        x, y = truth.gt_xy
        gt = cv2.imread(str(tmp_path / 'out/gt' / name))
        np.testing.assert_array_equal(gt, np.repeat(grey[y : y + 64, x : x + 64, None], 3, 2))


def test_lmdb_holds_the_same_pairs(photos, tmp_path):
    make_pairs(photos, tmp_path / 'out', SETTINGS, per_image=1, lmdb=True)
    for role in ('gt', 'ref'):
        with lmdb.open(str(tmp_path / f'out/{role}.lmdb'), readonly=True) as environment:
            stored = environment.begin().get(b'coffee_0')
        assert stored == (tmp_path / f'out/{role}/coffee_0.png').read_bytes()


def test_name_that_no_lmdb_key_can_hold(photos, tmp_path):
    folder = tmp_path / 'photos'
    shutil.copytree(photos, folder)
    (folder / 'coffee.png').rename(folder / 'cof.fee.png')
    with pytest.raises(ValueError, match="first dot, which 'cof.fee.png' does not fit"):
        make_pairs(folder, tmp_path / 'out', SETTINGS, lmdb=True)
    assert not (tmp_path / 'out').exists()


def test_refuses_to_overwrite_unless_forced(photos, tmp_path):
    out = tmp_path / 'out'
    out.mkdir()  # empty: fine
    make_pairs(photos, out, SETTINGS)
    before = content(out)
    with pytest.raises(FileExistsError, match='out is not empty. Remove it, or .* --force'):
        make_pairs(photos, out, SETTINGS, per_image=2)
    assert content(out) == before
    make_pairs(photos, out, SETTINGS, per_image=2, force=True)
    assert len(os.listdir(out / 'gt')) == 6
    assert os.listdir(tmp_path) == ['out']
    (out / 'thesis.txt').write_text('precious')
    with pytest.raises(ValueError, match="holds 'thesis.txt', which --force would remove"):
        make_pairs(photos, out, SETTINGS, force=True)
    (tmp_path / 'file').touch()
    with pytest.raises(FileExistsError, match='file is a file. Choose a folder'):
        make_pairs(photos, tmp_path / 'file', SETTINGS, force=True)


def test_unusable_folders(photos, tmp_path):
    with pytest.raises(FileNotFoundError, match='--photos is .*nowhere'):
        make_pairs(tmp_path / 'nowhere', tmp_path / 'out', SETTINGS)
    (tmp_path / 'photos').mkdir()
    with pytest.raises(ValueError, match='--photos is .* which has no images'):
        make_pairs(tmp_path / 'photos', tmp_path / 'out', SETTINGS)
    with pytest.raises(ValueError, match='no photograph of 900 pixels .* all 3 are smaller'):
        make_pairs(photos, tmp_path / 'out', PairSettings(size=900, ref_size=900))
    shutil.copyfile(photos / 'coffee.png', tmp_path / 'photos/coffee.png')
    with pytest.raises(ValueError, match='only one photograph .* give --unrelated 0'):
        make_pairs(tmp_path / 'photos', tmp_path / 'out', SETTINGS)
    (tmp_path / 'photos/broken.jpg').write_bytes(b'nothing')
    with pytest.raises(ValueError, match='broken.jpg cannot be read as an image .* Remove it'):
        make_pairs(tmp_path / 'photos', tmp_path / 'out', SETTINGS)
    for argument in ('per_image', 'workers'):
        with pytest.raises(ValueError, match=f'{argument} is 0, but must be at least 1'):
            make_pairs(photos, tmp_path / 'out', SETTINGS, **{argument: 0})
    assert os.listdir(tmp_path) == ['photos']


def test_failure_on_the_way_leaves_nothing(photos, tmp_path, monkeypatch):
    write = pair_folder.write_unsynced

    def write_little(path, content):
        write(path.parent / 'no/folder' if path.name == 'chelsea_0.png' else path, content)

    monkeypatch.setattr(pair_folder, 'write_unsynced', write_little)
    with pytest.raises(OSError, match='cannot be written: No such file'):
        make_pairs(photos, tmp_path / 'out', SETTINGS)
    assert os.listdir(tmp_path) == []


def test_kill_leaves_nothing_under_the_final_name(photos, tmp_path):
    command = ['-m', 'defsr.tools.make_pairs', '--photos', str(photos), '--out', 'out']
    process = Warm(tmp_path, *command, *['--per-image', '5000', '--size', '64', '--ref-size', '64'])
    written = tmp_path / '.out.tmp/ref/chelsea_3.png'
    end = time.monotonic() + 120
    while not written.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert written.exists() and process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / 'out').exists()
    make_pairs(photos, tmp_path / 'out', SETTINGS)  # clears the remains away
    assert os.listdir(tmp_path) == ['out']
    assert len(os.listdir(tmp_path / 'out/ref')) == 3


def test_kill_between_the_renames_loses_nothing(made, photos, tmp_path):
    shutil.copytree(made, tmp_path / '.out.old')
    with pytest.raises(FileExistsError, match='out is not empty'):
        make_pairs(photos, tmp_path / 'out', SETTINGS)
    assert content(tmp_path / 'out') == content(made)


def test_command_line(made, photos, tmp_path, monkeypatch, capsys):
    command = f'make_pairs --photos {photos} --out {tmp_path / "out"} --per-image 4 --size 64'
    command += ' --ref-size 72 --unrelated 0.25'
    monkeypatch.setattr(sys, 'argv', command.split())
    tool.main()
    assert content(tmp_path / 'out') == content(made)
    with pytest.raises(SystemExit, match='2'):
        tool.main()
    assert 'is not empty' in capsys.readouterr().err
    changed = f'{command} --force --overlap 0.8 0.9 --scale 0.8 0.9 --rotation 0 --perspective 0'
    monkeypatch.setattr(sys, 'argv', f'{changed} --photometric 0 --seed 1 --lmdb'.split())
    tool.main()
    truths = read_correspondences(tmp_path / 'out/correspondence.csv').values()
    related = [truth for truth in truths if not truth.unrelated]
    assert all(0.79 < truth.overlap < 0.91 for truth in related)
    assert all(0.799 < truth.homography[0, 0] < 0.901 for truth in related)
    assert all(truth.photometry == Photometry() for truth in truths)
    assert (tmp_path / 'out/gt.lmdb/data.mdb').is_file()
