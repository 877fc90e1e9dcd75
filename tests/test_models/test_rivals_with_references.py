"""Rivals that read references, trained by the command: the loss falls, and resuming is exact."""

from __future__ import annotations

import re
from copy import deepcopy

import pytest
from workspaces import TRAIN, resume_alike, run_well, save_options, shrink

TEXTURE = {'type': 'TTSRDiscriminator', 'num_feat': 4, 'input_size': 32}
PERCEPTUAL = {
    'type': 'TexturePerceptualLoss',
    'layer_weights': {'relu3_1': 1.0},
    'vgg_type': 'vgg16',
    'weights': 'none',
    'criterion': 'l2',
    'perceptual_weight': 1e-3,
}
ROWS = {
    'TTSR_x4.yml': (
        {'num_feat': 8, 'num_block': [1, 1, 1, 1], 'skip': 'none'},
        {'transferal_opt': {'type': 'TransferalPerceptualLoss', 'loss_weight': 1e-3}},
        {'lte': 5e-5},
    ),
}


def logged(output: str, name: str) -> list[float]:
    return [float(value) for value in re.findall(rf'{name}: (\S+)', output)]


@pytest.mark.parametrize('name', ROWS)
def test_training_goes_on_to_the_bit(workspace, name):
    """Reconstruction for 9 passes of two iterations, then all losses; resumed at 12."""
    network, losses, rates = ROWS[name]
    opt = shrink(name)
    opt['network_g'] |= network
    opt['network_d'] = deepcopy(TEXTURE)
    opt['datasets']['train'] |= {'gt_size': 32, 'ref_size': 40}
    train = opt['train']
    assert train['optim_g']['groups'] == rates
    train |= losses | {
        'rec_only_epochs': 9,
        'total_iter': 24,
        'perceptual_opt': deepcopy(PERCEPTUAL),
        'gan_opt': {'type': 'GANLoss', 'gan_type': 'wgan', 'loss_weight': 1e-4},
        'gradient_penalty_weight': 10,
        'optim_d': {'type': 'Adam', 'lr': 1e-4, 'betas': [0.0, 0.9]},
    }
    opt['logger'] |= {'save_checkpoint_freq': 12, 'keep_last': None}
    opt['val'] |= {'val_freq': 24}
    file = save_options(workspace / 'o.yml', opt)
    output = run_well(workspace, TRAIN, '-opt', file)
    pixel = logged(output, 'l_g_pix')
    assert len(pixel) == 24 and sum(pixel[14:18]) < 0.8 * sum(pixel[:4])
    for key in [*losses, 'perceptual_opt', 'gan_opt']:
        label = {'perceptual_opt': 'percep'}.get(key, key.removesuffix('_opt'))
        assert len(logged(output, f'l_g_{label}')) == 6, key
    assert 'psnr' in output
    assert logged(resume_alike(workspace, file), 'l_g_pix') == pixel[12:]
