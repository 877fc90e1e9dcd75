"""The commands of the README as a user types them, on a small pair, in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.utils import save_image

from defsr.utils.options import load_options
from defsr.utils.paths import REPOSITORY

SMALL = REPOSITORY / 'options/small'


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {'OMP_NUM_THREADS': '1'},  # small work; threads would only wait
    )


def run_well(folder: Path, *command: str) -> str:
    done = run(folder, *command)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def save_options(path: Path, opt) -> str:
    path.write_text(yaml.safe_dump(_plain(opt)))
    return str(path)


def _plain(node):
    return {k: _plain(v) for k, v in node.items()} if isinstance(node, dict) else node


@pytest.fixture
def workspace(tmp_path, stereo) -> Path:
    """A folder with three small pairs under datasets/."""
    for i in range(3):
        window = (..., slice(100, 260), slice(160 * i, 160 * i + 160))
        for role, image in zip(('gt', 'ref'), stereo, strict=True):
            folder = tmp_path / 'datasets' / role
            folder.mkdir(parents=True, exist_ok=True)
            save_image(image[window], folder / f'{i}.png')
    return tmp_path


def shrink(name: str) -> dict:
    """A small option file on the workspace's pairs, with networks for seconds."""
    opt = load_options(SMALL / name)
    data = {'dataroot_gt': 'datasets/gt', 'dataroot_ref': 'datasets/ref'}
    train = opt['datasets']['train'] | data
    train |= {'num_worker_per_gpu': 0, 'dataset_enlarge_ratio': 1, 'batch_size_per_gpu': 2}
    val = {'name': 'pairs', 'type': 'RefTripletDataset', 'io_backend': {'type': 'disk'}} | data
    opt['datasets'] = {'train': train, 'val': val}
    net = opt['network_g']
    if net['type'] == 'DEFNet':
        net['aggregator'] |= {'num_feat': 8, 'num_block': [1, 1, 1, 1]}
        net['transfer']['num_offset_feat'] = 8
        train |= {'gt_size': 64, 'ref_size': 64}
        opt.get('network_d', {})['input_size'] = 64
    else:
        net |= {'num_feat': 8, 'num_block': 1}
    opt['train']['total_iter'] = 4
    opt['logger'] |= {'print_freq': 1, 'save_checkpoint_freq': 2}
    opt['val']['val_freq'] = 4
    opt['path']['pretrain_network_g'] = None
    return opt


@pytest.mark.parametrize(
    ('name', 'losses'),
    [
        ('train_DEF_GAN_small_x4.yml', ('l_g_pix', 'l_g_percep', 'l_g_gan', 'l_d_gp')),
        ('train_EDSR_small_x4.yml', ('l_pix',)),
        ('train_ESRGAN_small_x4.yml', ('l_g_pix', 'l_g_percep', 'l_g_gan', 'l_d_fake')),
    ],
)
def test_train_and_resume(workspace, name, losses):
    """BasicSR's own models and ours, through the same script and data set."""
    opt = shrink(name)
    if 'GAN' in name and opt['model_type'] == 'DEFModel':
        opt['train']['rec_only_epochs'] = 1
    file = save_options(workspace / 'o.yml', opt)
    script = str(REPOSITORY / 'defsr/train.py')
    output = run_well(workspace, script, '-opt', file)
    assert 'iter:       4' in output
    assert 'iter:       5' not in output
    for loss in losses:
        assert loss in output
    assert 'psnr' in output and 'ssim' in output
    experiment = workspace / 'experiments' / opt['name']
    assert (experiment / 'models/net_g_latest.pth').is_file()
    assert any((workspace / 'tb_logger' / opt['name']).iterdir())

    output = run_well(
        workspace, script, '-opt', file, '--auto_resume', '--force_yml', 'train:total_iter=6'
    )
    assert 'Resuming training from epoch: ' in output
    assert 'iter: 4.' in output
    assert 'iter:       6' in output
    assert 'iter:       4' not in output


def test_debug_mode(workspace):
    opt = shrink('train_DEF_small_x4.yml')
    opt['train']['total_iter'] = 1
    file = save_options(workspace / 'o.yml', opt)
    run_well(workspace, str(REPOSITORY / 'defsr/train.py'), '-opt', file, '--debug')
    assert (workspace / f'experiments/debug_{opt["name"]}').is_dir()
    assert not (workspace / 'tb_logger').exists()


def test_test(workspace):
    opt = load_options(REPOSITORY / 'options/test_DEF_demo.yml')
    opt['datasets']['test'] |= {'dataroot_gt': 'datasets/gt', 'dataroot_ref': 'datasets/ref'}
    opt['network_g']['aggregator'] |= {'num_feat': 8, 'num_block': [1, 1, 1, 1]}
    opt['path'] = {}
    file = save_options(workspace / 'o.yml', opt)
    output = run_well(workspace, str(REPOSITORY / 'defsr/test.py'), '-opt', file)
    for word in ('bicubic', 'DEF', 'psnr', 'ssim', 'seconds'):
        assert word in output
    folder = workspace / 'results/test_DEF_demo/visualization/demo'
    for end in ('', '_comparison', '_index', '_confidence'):
        assert (folder / f'1_SR{end}.png').is_file()


def test_a_users_mistake_is_one_line(workspace):
    script = str(REPOSITORY / 'defsr/train.py')
    done = run(workspace, script, '-opt', 'none.yml')
    assert done.returncode == 2
    assert done.stderr.startswith('error: ')
    assert 'none.yml' in done.stderr and 'Traceback' not in done.stderr
    traced = run(workspace, script, '-opt', 'none.yml', '--traceback')
    assert 'Traceback' in traced.stderr


def test_demo_data(workspace):
    run_well(workspace, '-m', 'defsr.tools.demo_data')
    folder = workspace / 'datasets/demo'
    assert sorted(p.parent.name for p in folder.rglob('*.png')) == ['gt', 'ref']
    run_well(workspace, '-m', 'defsr.tools.demo_data')


@pytest.mark.slow
def test_the_shipped_weights_beat_bicubic_on_the_demo(tmp_path):
    """The demo's own command, on a crop-free run, must be worth its name."""
    weights = REPOSITORY / 'experiments/pretrained_models/DEF_small_x4.pth'
    assert 'params' in torch.load(weights, weights_only=True)
    run_well(tmp_path, '-m', 'defsr.tools.demo_data')
    (tmp_path / 'experiments').symlink_to(REPOSITORY / 'experiments')
    options = str(REPOSITORY / 'options/test_DEF_demo.yml')
    run_well(tmp_path, str(REPOSITORY / 'defsr/test.py'), '-opt', options)
    lines = (tmp_path / 'results/test_DEF_demo/metrics/demo_test_DEF_demo.csv').read_text()
    header, row = (line.split(',') for line in lines.splitlines())
    values = dict(zip(header, row, strict=True))
    assert float(values['bicubic_psnr']) == pytest.approx(25.36, abs=0.02)
    assert float(values['bicubic_ssim']) == pytest.approx(0.751, abs=0.002)
    assert float(values['psnr']) > float(values['bicubic_psnr']) + 0.3
    assert float(values['ssim']) > float(values['bicubic_ssim'])
