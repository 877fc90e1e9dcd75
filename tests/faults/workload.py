"""What is trained while it is being killed: networks and images so small that it takes seconds."""

from __future__ import annotations

from pathlib import Path

import yaml
from torch import Tensor
from workspaces import METRICS, pairs, write_pairs

NUM_PAIRS = 5
SIDE = 40
TOTAL_ITER = 12
CHANNELS = {'relu1_1': 4, 'relu2_1': 4, 'relu3_1': 8}


def make_images(root: Path, stereo: tuple[Tensor, Tensor]) -> None:
    """Crops of the stereo pair under datasets/gt and datasets/ref, three of them as val_*."""
    windows = [(100, 60 * i, SIDE, SIDE) for i in range(NUM_PAIRS)]
    write_pairs(root / 'datasets', stereo, windows)
    write_pairs(root / 'datasets', stereo, windows[:3], prefix='val_')


def options(model: str) -> dict:
    """Options of ``DEF`` (reconstruction), ``DEF_GAN`` (second epoch on) or ``SR`` (BasicSR's)."""
    adam = {'type': 'Adam', 'lr': 2e-3, 'weight_decay': 0, 'betas': [0.9, 0.99]}
    train = {
        'ema_decay': 0.9,
        'optim_g': dict(adam),
        'scheduler': {'type': 'MultiStepLR', 'milestones': [5, 9], 'gamma': 0.5},
        'total_iter': TOTAL_ITER,
        'warmup_iter': -1,
        'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
    }
    opt = {
        'name': model,
        'model_type': 'SRModel' if model == 'SR' else 'DEFModel',
        'scale': 4,
        'num_gpu': 0,
        'manual_seed': 3,
        'datasets': {'train': pairs(name='train'), 'val': pairs(prefix='val_', name='pairs')},
        'path': {'strict_load_g': True},
        'train': train,
        'val': {'val_freq': 4, 'save_img': False, 'pbar': False, 'metrics': METRICS},
        'logger': {
            'print_freq': 1,
            'save_checkpoint_freq': 3,
            'use_tb_logger': True,
            'keep_best': 'psnr',
        },
    }
    opt['datasets']['train'] |= {
        'gt_size': 32,
        'ref_size': 32,
        'use_hflip': True,
        'use_rot': True,
        'ref_augment': 'independent',
        'batch_size_per_gpu': 2,
        'num_worker_per_gpu': 0,
        'dataset_enlarge_ratio': 1.5,
    }
    if model == 'SR':
        opt['network_g'] = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8}
        opt['network_g'] |= {'num_block': 1, 'upscale': 4}
        return opt
    opt['match_key'] = 'ref_down_up'
    opt['network_e'] = {'type': 'BicubicEnhancer', 'scale': 4}
    opt['network_t'] = {'type': 'TinyTexture'}
    opt['network_g'] = {
        'type': 'DEFNet',
        'skip': 'bicubic',
        'transfer': {
            'type': 'DCNTransferArch',
            'num_ch': CHANNELS,
            'num_offset_feat': 4,
            'num_group': 2,
        },
        'aggregator': {
            'type': 'TTSRAggregator',
            'num_ch': CHANNELS,
            'num_feat': 4,
            'num_block': [1, 1, 1, 1],
        },
    }
    opt['val'] |= {'compare_bicubic': True, 'tb_images': 1}
    if model == 'DEF_GAN':
        opt['network_d'] = {'type': 'TTSRDiscriminator', 'input_size': 32, 'num_feat': 4}
        train |= {
            'optim_d': dict(adam),
            'rec_only_epochs': 1,
            'gan_opt': {'type': 'GANLoss', 'gan_type': 'wgan', 'loss_weight': 0.1},
            'gradient_penalty_weight': 10,
        }
    return opt


def write_options(root: Path) -> None:
    """One option file per model in ``root``."""
    for model in ('DEF', 'DEF_GAN', 'SR'):
        (root / f'{model}.yml').write_text(yaml.safe_dump(options(model)))
