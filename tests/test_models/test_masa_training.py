"""MASA through the real command: all losses, the critic's relativistic; resumed to the bit."""

from __future__ import annotations

import re

import torch
from basicsr.models import build_model
from workspaces import (
    SMALL,
    TRAIN,
    adam,
    losses_on_one_batch,
    pairs,
    resume_alike,
    run_well,
    save_options,
)

from defsr.config.files import load_options

TINY = {'num_feat': 8, 'num_block': [1] * 3, 'num_block_decoder': [1] * 6}


def small() -> dict:
    """The small row's options with a critic, on the workspace's pairs, for seconds."""
    opt = load_options(SMALL / 'MASA_x4.yml')
    train = opt['datasets']['train'] | pairs() | {'gt_size': 64, 'ref_size': 48}
    opt['datasets'] = {'train': train | {'batch_size_per_gpu': 2}}
    opt['datasets']['val'] = pairs(name='pairs', center_crop=40)
    opt['network_g'] |= TINY
    opt['network_d'] = {'type': 'TTSRDiscriminator', 'num_feat': 4, 'input_size': 64}
    opt['train'] |= {
        'total_iter': 6,
        'optim_d': adam(),
        'gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 5e-3},
        'gan_relativistic': True,
    }
    opt['logger'] |= {'print_freq': 1, 'save_checkpoint_freq': 3, 'keep_last': None}
    opt['val'] |= {'val_freq': 6, 'tile': 16}
    return opt


def test_the_loss_falls(opt):
    """One batch, forty times."""
    opt = {key: opt[key] for key in opt if key not in ('match_key', 'network_e', 'network_t')}
    opt |= {'model_type': 'RefSRModel', 'network_g': {'type': 'MASA', **TINY}}
    opt['train']['optim_g']['lr'] = 2e-3
    torch.manual_seed(0)
    model = build_model(opt)
    losses = losses_on_one_batch(model, opt, 40)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_trains_and_resumes_to_the_bit(workspace):
    file = save_options(workspace / 'o.yml', small())
    said = run_well(workspace, TRAIN, '-opt', file)
    losses = [float(value) for value in re.findall(r'l_g_pix: ([\d.e+-]+)', said)]
    assert len(losses) == 6
    gan = [float(value) for value in re.findall(r'l_d_real: ([\d.e+-]+)', said)]
    assert abs(gan[0] - 0.3466) < 0.05, 'half of log 2: at the start neither kind looks more real'
    assert re.search(r'\nSR +\d+\.\d{4}', said)
    resume_alike(workspace, file)
