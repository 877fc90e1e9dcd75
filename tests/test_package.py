"""The wheel and the sdist: what is in them, and that a wheel works far from any checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import pytest
from repository import REPOSITORY

import defsr
from defsr.config.files import load_options
from defsr.tools.copy_options import copy_options
from defsr.utils.paths import SHIPPED

SHIPPED_FOLDERS = ('options/', 'datasets/', 'experiments/')
NOT_IN_SDIST = ('.ci/', '.gitignore', '.pre-commit-config.yaml')


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding='utf-8')


def tracked() -> list[str]:
    """The files of the checkout that belong to it."""
    if not (REPOSITORY / '.git').exists():
        pytest.skip('no git checkout to compare with')
    names = subprocess.check_output(['git', 'ls-files', '-z'], cwd=REPOSITORY, text=True)
    return [name for name in names.split('\0') if name and (REPOSITORY / name).is_file()]


@pytest.fixture(scope='module')
def built(tmp_path_factory) -> dict[str, Path]:
    """``python -m build`` on a copy of what belongs to the checkout."""
    folder = tmp_path_factory.mktemp('build')
    for name in tracked():
        (folder / 'source' / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / 'source' / name)
    (folder / 'source/experiments/pretrained_models/own.pth').touch()  # a user's, stays out
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(folder), 'source']
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (sdist,), (wheel,) = folder.glob('*.tar.gz'), folder.glob('*.whl')
    return {'sdist': sdist, 'wheel': wheel}


@pytest.fixture(scope='module')
def installed(built, tmp_path_factory) -> Path:
    """The wheel's files, as pip lays them out; nothing of them is in this environment."""
    folder = tmp_path_factory.mktemp('site')
    with zipfile.ZipFile(built['wheel']) as wheel:
        wheel.extractall(folder)
    return folder


def run_in(folder: Path, installed: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {'PYTHONPATH': str(installed), 'OMP_NUM_THREADS': '1'}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_contents_of_the_wheel(built):
    with zipfile.ZipFile(built['wheel']) as wheel:
        names = {name for name in wheel.namelist() if '.dist-info/' not in name}
        licences = {Path(name).name for name in wheel.namelist() if '/licenses/' in name}
    code = {name for name in tracked() if name.startswith('defsr/')}
    beside = {f'defsr/shipped/{name}' for name in tracked() if name.startswith(SHIPPED_FOLDERS)}
    assert names == code | beside
    assert licences == {'LICENSE', *os.listdir(REPOSITORY / 'docs/licenses')}
    assert built['wheel'].name == f'defsr-{defsr.__version__}-py3-none-any.whl'


def test_the_newest_change_is_this_version():
    newest = re.search(r'^## (.+) \((\d{4}-\d\d-\d\d)\)$', read('CHANGES.md'), re.MULTILINE)
    assert newest[1] == defsr.__version__ and date.fromisoformat(newest[2]) <= date.today()
    for page in ('README.md', 'docs/install.md'):
        assert f'defsr-{defsr.__version__}-py3-none-any.whl' in read(page)


def test_contents_of_the_sdist(built):
    with tarfile.open(built['sdist']) as sdist:
        names = {member.name.partition('/')[2] for member in sdist if member.isfile()}
    made = {name for name in names if name.startswith('defsr.egg-info/')}
    expected = {name for name in tracked() if not name.startswith(NOT_IN_SDIST)}
    assert names - made == expected | {'PKG-INFO', 'setup.cfg'}


def test_a_photo_is_upscaled_from_an_empty_folder(installed, tmp_path):
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / 'photo.png'), rng.integers(0, 256, (16, 16, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'ref.png'), rng.integers(0, 256, (24, 24, 3), np.uint8))
    done = run_in(
        tmp_path, installed,
        '-m', 'defsr.tools.upscale', '-i', 'photo.png', '-r', 'ref.png', '-o', 'sharp.png',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / 'sharp.png')).shape == (64, 64, 3)


def test_shipped_files_are_read_and_copied_by_name(installed, tmp_path):
    script = """
import pathlib, defsr
from defsr.config.files import load_options
from defsr.data.pair_list import read_pair_list
from defsr.utils.paths import SHIPPED, find_pretrained
print(defsr.__file__, SHIPPED)
for file in SHIPPED.glob('options/**/*.yml'):
    print(file.relative_to(SHIPPED), load_options(file.relative_to(SHIPPED)).get('name'))
print(find_pretrained('small_best.pth'), len(read_pair_list('datasets/Sun80.txt')))
"""
    done = run_in(tmp_path, installed, '-c', script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('.yml') == len([*SHIPPED.glob('options/**/*.yml')])
    assert str(REPOSITORY) not in done.stdout
    done = run_in(tmp_path, installed, '-m', 'defsr.tools.copy_options', 'own')
    assert re.search(r'own: \d+ files copied, 0 there already', done.stderr), done.stderr
    own = load_options(tmp_path / 'own/options/small/best_x4.yml')
    assert own == load_options(REPOSITORY / 'options/small/best_x4.yml')


def test_copied_options_are_not_replaced(tmp_path):
    (tmp_path / 'options').mkdir()
    (tmp_path / 'options/upscale.yml').write_text('mine')
    copied, kept = copy_options(tmp_path)
    assert kept == 1 and copy_options(tmp_path) == (0, copied + 1)
    assert (tmp_path / 'options/upscale.yml').read_text() == 'mine'


@pytest.mark.parametrize('start', [['-c', 'import defsr'], ['defsr-upscale']])
def test_without_basicsr_one_line_names_the_command(start, tmp_path):
    (tmp_path / 'defsr-upscale').write_text('import defsr')
    command = [sys.executable, '-S', *start]  # -S: without the environment's packages
    environment = os.environ | {'PYTHONPATH': str(REPOSITORY)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.endswith('Run: python -m defsr.tools.install_basicsr')
    assert start[0] == '-c' or done.stderr == f'{last}\n' and last.startswith('error: BasicSR is')


def test_the_installer_gives_exec_its_former_meaning():
    from defsr.tools.install_basicsr import SITECUSTOMIZE

    script = f"""{SITECUSTOMIZE}
def get_version():
    exec(compile("__version__ = '1.4.2'", 'version.py', 'exec'))
    return locals()['__version__']

assert get_version() == '1.4.2'
space = {{}}
exec('a = 1', space)
exec('b = 2')
assert space['a'] == 1 and b == 2
"""
    subprocess.run([sys.executable, '-S', '-c', script], check=True)
