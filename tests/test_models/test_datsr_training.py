"""DATSR through the real command: all losses, paths dropped; resumed to the bit."""

from __future__ import annotations

import re

import torch
from basicsr.models import build_model
from workspaces import (
    SMALL,
    TRAIN,
    losses_on_one_batch,
    pairs,
    resume_alike,
    run_well,
    save_options,
    with_gan,
)

from defsr.config.files import load_options

TINY = {'num_feat': 8, 'depths': [2], 'num_heads': [2], 'window_size': 4}
TINY |= {'num_offset_feat': 4, 'num_texture_feat': 8, 'drop_path_rate': 0.5}


def small() -> dict:
    """The small row's options with a critic, on the workspace's pairs, for seconds."""
    opt = with_gan(load_options(SMALL / 'DATSR_x4.yml'))
    train = opt['datasets']['train'] | pairs() | {'gt_size': 32, 'ref_size': 48}
    opt['datasets'] = {'train': train | {'batch_size_per_gpu': 2}}
    opt['datasets']['val'] = pairs(name='pairs', center_crop=40)
    opt['network_g'] |= TINY
    opt['network_t']['weights'] = 'none'
    opt['train']['total_iter'] = 6
    opt['logger'] |= {'print_freq': 1, 'save_checkpoint_freq': 3, 'keep_last': None}
    opt['val'] |= {'val_freq': 6, 'tile': 16}
    return opt


def test_the_loss_falls(opt):
    """One batch, fifty times."""
    opt = {key: opt[key] for key in opt if key not in ('match_key', 'network_e')}
    opt |= {
        'model_type': 'RefSRModel',
        'network_m': {'type': 'ContrastiveExtractor', 'weights': 'none'},
        'network_g': {'type': 'DATSR', 'num_group': 4, **TINY, 'drop_path_rate': 0.0},
    }
    opt['path']['pretrain_network_m'] = 'experiments/pretrained_models/small_C2_student.pth'
    opt['datasets']['train']['ref_size'] = 32
    opt['train']['optim_g']['lr'] = 2e-3
    torch.manual_seed(0)
    losses = losses_on_one_batch(build_model(opt), opt, 50)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_trains_and_resumes_to_the_bit(workspace):
    file = save_options(workspace / 'o.yml', small())
    said = run_well(workspace, TRAIN, '-opt', file)
    for name in ('pix', 'percep', 'gan'):
        assert len(re.findall(rf'l_g_{name}: (\S+)', said)) == 6, name
    rates = re.search(r'lr:\(([^)]*)\)', said)[1].split(',')
    assert len([rate for rate in rates if rate]) == 4, 'three groups of offsets'
    assert re.search(r'\nSR +\d+\.\d{4}', said)
    resume_alike(workspace, file)
