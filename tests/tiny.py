"""A tiny DEF on real crops, for the tests of models and of what keeps their training safe."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from torchvision.utils import save_image

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


@pytest.fixture
def opt(tmp_path, stereo):
    """Options of a tiny DEF on three crops of the stereo pair."""
    for i in range(3):
        window = (..., slice(100, 164), slice(200 + 64 * i, 264 + 64 * i))
        for role, image in zip(('gt', 'ref'), stereo, strict=True):
            (tmp_path / role).mkdir(exist_ok=True)
            save_image(image[window], tmp_path / role / f'{i}.png')
    (tmp_path / 'models').mkdir()
    (tmp_path / 'training_states').mkdir()
    dataset = {
        'type': 'RefTripletDataset',
        'dataroot_gt': str(tmp_path / 'gt'),
        'dataroot_ref': str(tmp_path / 'ref'),
        'io_backend': {'type': 'disk'},
        'scale': 4,
    }
    train = {'name': 'tiny', 'phase': 'train', 'gt_size': 32, 'ref_size': 48, 'use_hflip': True}
    train |= {'use_rot': True, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}
    path = {name: str(tmp_path / name) for name in ('models', 'training_states', 'visualization')}
    return {
        'name': 'tiny',
        'model_type': 'DEFModel',
        'scale': 4,
        'num_gpu': 0,
        'manual_seed': 0,
        'is_train': True,
        'dist': False,
        'rank': 0,
        'world_size': 1,
        'match_key': 'ref_down_up',
        'datasets': {
            'train': dataset | train,
            'val': dataset | {'name': 'tinyval', 'phase': 'val'},
        },
        'network_e': {'type': 'BicubicEnhancer'},
        'network_t': {'type': 'VGGTextureExtractor', 'vgg_type': 'vgg16', 'weights': 'none'},
        'network_g': {
            'type': 'DEFNet',
            'skip': 'bicubic',
            'transfer': {'type': 'DCNTransferArch', 'num_offset_feat': 8},
            'aggregator': {
                'type': 'TTSRAggregator',
                'num_feat': 8,
                'num_block': [1, 1, 1, 1],
                'use_feat_de': True,
                'use_soft_attention': False,
            },
        },
        'path': path | {'log': str(tmp_path), 'results_root': str(tmp_path)},
        'train': {
            'rec_only_epochs': 1,
            'num_iter_per_pass': 2,
            'ema_decay': 0.9,
            'optim_g': adam(),
            'scheduler': {'type': 'MultiStepLR', 'milestones': [], 'gamma': 0.5},
            'total_iter': 10,
            'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
        },
        'val': {'val_freq': 2, 'save_img': True, 'metrics': deepcopy(METRICS)},
    }
