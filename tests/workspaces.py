"""A small workspace, option files that fit it, and the commands that a user types in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from warm import ENVIRONMENT, Warm

from defsr.config.files import dump_options, load_options
from defsr.utils.paths import REPOSITORY

SMALL = REPOSITORY / 'options/small'
TRAIN = str(REPOSITORY / 'defsr/train.py')


def run(folder: Path, *command: str, cold: bool = False) -> subprocess.CompletedProcess:
    """``python *command`` in ``folder``; ``cold``: not forked, as a user starts it, in seconds."""
    if cold:
        return subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=240,
            env=os.environ | ENVIRONMENT,
        )
    process = Warm(folder, *command)
    return subprocess.CompletedProcess(command, process.wait(), process.out, process.err)


def run_well(folder: Path, *command: str, cold: bool = False) -> str:
    """What it says; the test fails if the command does."""
    done = run(folder, *command, cold=cold)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def save_options(path: Path, opt) -> str:
    path.write_text(dump_options(opt, 'of a test'))
    return str(path)


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
        if net['transfer']['type'] == 'DCNTransferArch':
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
