"""A tiny DEF for the tests of models."""

from __future__ import annotations

from copy import deepcopy

import torch
from basicsr.data import build_dataloader, build_dataset

METRICS = {
    'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True},
    'ssim': {'type': 'calculate_ssim', 'crop_border': 4, 'test_y_channel': True},
}


def adam():
    return {'type': 'Adam', 'lr': 1e-3, 'betas': [0.9, 0.99]}


def with_gan(opt):
    opt = deepcopy(opt)
    opt['network_d'] = {'type': 'TTSRDiscriminator', 'num_feat': 4, 'input_size': 32}
    opt['train'] |= {
        'optim_d': adam(),
        'gan_opt': {'type': 'GANLoss', 'gan_type': 'wgan', 'loss_weight': 1e-4},
        'gradient_penalty_weight': 10,
        'perceptual_opt': {
            'type': 'TexturePerceptualLoss',
            'layer_weights': {'relu3_1': 1.0},
            'vgg_type': 'vgg16',
            'weights': 'none',
            'criterion': 'l2',
            'perceptual_weight': 1e-2,
        },
    }
    return opt


def loader_of(opt, phase):
    return build_dataloader(build_dataset(opt['datasets'][phase]), opt['datasets'][phase], 0)


def train(model, opt, first, last):
    logs = []
    for current_iter in range(first, last + 1):
        model.feed_data(next(iter(loader_of(opt, 'train'))))
        model.update_learning_rate(current_iter)
        model.optimize_parameters(current_iter)
        logs.append(model.get_current_log())
    return logs


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])
