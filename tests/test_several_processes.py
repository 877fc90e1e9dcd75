"""Two processes on one machine, as a user starts them with torchrun."""

from __future__ import annotations

import csv
import json
import sys

import pytest
import torch
from workspaces import TRAIN, run, run_well, save_options, shrink

TWO = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')


@pytest.fixture
def options(workspace):
    """Twenty iterations on three pairs without random augmentation; global batch 2."""

    def make(name, number):
        opt = shrink('train_DEF_small_x4.yml')
        opt['name'] = name
        opt['train'] |= {'total_iter': 20}
        opt['val'] |= {'val_freq': 20}
        opt['logger'] |= {'save_checkpoint_freq': 100, 'use_tb_logger': False}
        train = opt['datasets']['train']
        train |= {'gt_size': 32, 'ref_size': 32, 'use_hflip': False, 'use_rot': False}
        train['batch_size_per_gpu'] = 2 // number
        return save_options(workspace / f'{name}.yml', opt)

    return make


def results(workspace, name):
    folder = workspace / 'experiments' / name
    record = json.loads((folder / 'training_states/validation.json').read_text())
    with open(folder / 'metrics/pairs_20.csv') as file:
        images = [row['image'] for row in csv.DictReader(file)]
    return record['20']['pairs'], images


def test_two_processes_equal_one_with_the_same_batch(workspace, options):
    run_well(workspace, TRAIN, '-opt', options('one', 1))
    file = options('two', 2)
    output = run_well(workspace, *TWO, TRAIN, '-opt', file, '--launcher', 'pytorch', cold=True)
    one, images = results(workspace, 'one')
    two, images_of_two = results(workspace, 'two')
    assert images_of_two == images == ['0', '1', '2'], 'each image once, in order'
    sys.stdout.write(f'PSNR-Y {one["psnr"]:.7f} and {two["psnr"]:.7f} dB\n')  # pytest -s shows it
    assert abs(one['psnr'] - two['psnr']) < 1e-3
    assert abs(one['ssim'] - two['ssim']) < 1e-4
    assert output.count('iter:      20') == 1, 'one process writes the log'

    weights = torch.load(workspace / 'experiments/two/models/net_g_latest.pth', weights_only=True)
    assert not any(key.startswith('module.') for key in weights['params'])


def test_a_mistake_is_told_by_each_process_in_one_line(workspace, options):
    file = options('two', 2)
    wrong = ('--force_yml', 'datasets:train:dataroot_gt=nowhere')
    done = run(workspace, *TWO, TRAIN, '-opt', file, '--launcher', 'pytorch', *wrong, cold=True)
    assert done.returncode != 0
    assert 'error: datasets:cufed_train:dataroot_gt is nowhere' in done.stderr
