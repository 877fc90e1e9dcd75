"""``docs/add_a_method.md`` as a newcomer follows it: its files written, its commands typed."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from repository import REPOSITORY
from torchvision.utils import save_image
from workspaces import write_pairs

PAGE = REPOSITORY / 'docs' / 'add_a_method.md'
FILE = re.compile(r'\*\*`([^`]+)`\*\*[^\n]*\n\n```(?:python|yaml)\n(.*?)```', re.S)
COMMAND = re.compile(r'```sh\n(.*?)```', re.S)


@pytest.fixture(scope='module')
def checkout(tmp_path_factory, stereo) -> Path:
    """A copy of the package and its options, the page's files in it, and a few small pairs."""
    folder = tmp_path_factory.mktemp('checkout')
    for name in ('defsr', 'options'):
        shutil.copytree(REPOSITORY / name, folder / name)
    for name, content in FILE.findall(PAGE.read_text(encoding='utf-8')):
        (folder / name).write_text(content, encoding='utf-8')
    left, right = stereo
    windows = [(100, 60 * i, 128, 128) for i in range(8)]
    write_pairs(folder / 'datasets/bsds_pairs_small', stereo, windows)
    for role, image in (('gt', left), ('ref', right)):
        path = folder / 'datasets/demo' / role / 'motorcycle.png'
        path.parent.mkdir(parents=True)
        save_image(image[..., 100:260, 200:480], path)
    save_image(left[..., 100:140, 200:260], folder / 'photo.png')
    save_image(right[..., 100:220, 200:300], folder / 'other.png')
    return folder


@pytest.fixture(scope='module')
def said(checkout) -> list[str]:
    """What the page's commands say, in their order."""
    answers = []
    for command in COMMAND.findall(PAGE.read_text(encoding='utf-8')):
        done = subprocess.run(
            [sys.executable, *command.replace('\\\n', ' ').split()[1:]],
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=240,
            env=os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(checkout)},
        )
        assert done.returncode == 0, f'{command}\n{done.stderr[-3000:]}'
        answers.append(done.stdout + done.stderr)
    return answers


def weights(checkout: Path) -> dict:
    path = checkout / 'experiments/toy_x4/models/net_g_latest.pth'
    return torch.load(path, weights_only=True)


def test_the_page_is_short():
    """The promise of the page: less than 60 lines of code and options."""
    files = dict(FILE.findall(PAGE.read_text(encoding='utf-8')))
    assert len(files) == 4 and len(COMMAND.findall(PAGE.read_text(encoding='utf-8'))) == 3
    lines = [line for content in files.values() for line in content.splitlines() if line.strip()]
    assert len(lines) < 60


def test_its_extractor_learns_at_its_own_rate(checkout, said):
    rates = re.search(r'lr:\(([^)]*)\)', said[0])[1]
    assert [float(rate) for rate in rates.split(',') if rate] == [5e-4, 1e-4]
    found = weights(checkout)
    assert found['trained_with']['network_g'] == {'type': 'ToyTTSR', 'num_feat': 16, 'scale': 4}
    state = torch.load(checkout / 'experiments/toy_x4/training_states/20.state', weights_only=True)
    groups = state['optimizers'][0]['param_groups']
    assert groups[1]['param_names'] == ['net_g.lte.weight', 'net_g.lte.bias']
    moments = [state['optimizers'][0]['state'][i]['exp_avg'] for i in groups[1]['params']]
    assert all(float(moment.abs().max()) > 0 for moment in moments)


def test_it_is_validated_with_pictures(checkout, said):
    folder = checkout / 'experiments/toy_x4/visualization/motorcycle'
    names = {path.name.split('_20', 1)[1] for path in folder.iterdir()}
    assert names == {'.png', '_index.png', '_confidence.png', '_comparison.png'}
    assert re.search(r'\nSR +\d+\.\d{4}', said[0]), 'the table beside bicubic'
    assert list((checkout / 'tb_logger/toy_x4').glob('events*'))


def test_it_restores_a_photo(checkout, said):
    assert cv2.imread(str(checkout / 'sharp.png')).shape == (160, 240, 3)


def test_it_has_a_row_in_the_benchmark(checkout, said):
    with open(checkout / 'results/toy/results.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert {row['method'] for row in rows} == {'bicubic', 'toy'}
    assert '| toy |' in (checkout / 'results/toy/results.md').read_text()
