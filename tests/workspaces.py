"""Small workspaces: images on disk, option blocks and files for them, commands run in them.

The fixtures: ``workspace``, three pairs of photographs; ``opt``, a tiny DEF that trains on such;
``triplets`` and ``block``, pairs of odd sizes and a data set of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.data import build_dataloader, build_dataset
from repository import REPOSITORY
from torch import Tensor
from torchvision.utils import save_image
from warm import ENVIRONMENT, Warm

from defsr.archs.enhancer_arch import DDNMEnhancer
from defsr.config.files import dump_options, load_options

SMALL = REPOSITORY / 'options/small'
TRAIN = str(REPOSITORY / 'defsr/train.py')
METRICS = {
    name: {'type': f'calculate_{name}', 'crop_border': 4, 'test_y_channel': True}
    for name in ('psnr', 'ssim')
}
DEF = {
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
}
UPSCALE = {  # a description of networks, as options/upscale.yml is
    'scale': 4,
    'match_key': 'ref_down_up',
    'degradation': 'matlab',
    'network_e': {'type': 'BicubicEnhancer', 'scale': 4},
    'network_t': {'type': 'VGGTextureExtractor', 'vgg_type': 'vgg16', 'weights': 'none'},
    'network_g': DEF,
    'path': {'pretrain_network_g': 'not_there.pth'},
}
DENOISER = {'type': 'UnshuffleUNet', 'num_feat': [4, 4], 'num_block': 1, 'emb_ch': 8}
DIFFUSION = {'num_steps': 3, 'eta': 0.5}
NETWORK_E = {'type': 'DDNMEnhancer', 'denoiser': DENOISER, 'diffusion': DIFFUSION}
SIZES = {  # of gt and ref, by name
    'a': ((50, 61), (70, 91)),
    'b': ((41, 44), (30, 37)),
    'c': ((43, 53), (41, 29)),
}


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


def write_pairs(
    folder: Path,
    stereo: Sequence[Tensor],
    windows: Sequence[tuple[int, int, int, int]],
    prefix: str = '',
    digits: int = 1,
) -> None:
    """Crops of the stereo pair as ``gt/0.png`` and ``ref/0.png``, ``gt/1.png`` and so on.

    Args:
        windows: (top, left, height, width) of each.
        prefix: of the folders' names.
        digits: of the files' names, at least.
    """
    for role, image in zip(('gt', 'ref'), stereo, strict=True):
        (folder / f'{prefix}{role}').mkdir(parents=True, exist_ok=True)
        for i, (top, left, height, width) in enumerate(windows):
            crop = image[..., top : top + height, left : left + width]
            save_image(crop, folder / f'{prefix}{role}' / f'{i:0{digits}}.png')


@pytest.fixture
def workspace(tmp_path, stereo) -> Path:
    """A folder with three small pairs under datasets/."""
    write_pairs(tmp_path / 'datasets', stereo, [(100, 160 * i, 160, 160) for i in range(3)])
    return tmp_path


@pytest.fixture
def write_image():
    """Saves a random image, blurred a little; returns its pixels as (H, W, 3) RGB uint8."""

    def write(path: Path, height: int, width: int, seed: int) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert cv2.imwrite(str(path), cv2.blur(image, (2, 2)))
        stored = cv2.imread(str(path), cv2.IMREAD_COLOR)
        return np.ascontiguousarray(stored[..., ::-1])

    return write


@pytest.fixture
def triplets(tmp_path, write_image) -> Path:
    """``gt`` and ``ref`` with a.png, b.png, c.png, sizes as in SIZES."""
    for seed, (name, sizes) in enumerate(SIZES.items()):
        write_image(tmp_path / 'gt' / f'{name}.png', *sizes[0], seed)
        write_image(tmp_path / 'ref' / f'{name}.png', *sizes[1], 10 + seed)
    return tmp_path


def pairs(folder: Path | str = 'datasets', prefix: str = '', **more: object) -> dict:
    """A data set block of the pairs that ``write_pairs`` writes."""
    roots = {f'dataroot_{role}': f'{folder}/{prefix}{role}' for role in ('gt', 'ref')}
    return {'type': 'RefTripletDataset', 'io_backend': {'type': 'disk'}} | roots | more


@pytest.fixture
def block(triplets):
    """Makes a data set block over ``triplets``; keyword arguments change it."""

    def make(phase: str = 'val', /, **changes: object) -> dict:
        opt = pairs(triplets, name='Tiny', phase=phase, scale=4)
        if phase == 'train':
            opt |= {'gt_size': 32, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}
        opt |= changes
        return {key: value for key, value in opt.items() if value is not None}

    return make


def shrink(name: str) -> dict:
    """A small option file on the workspace's pairs, with networks for seconds."""
    opt = load_options(SMALL / name)
    train = opt['datasets']['train'] | pairs()
    train |= {'num_worker_per_gpu': 0, 'dataset_enlarge_ratio': 1, 'batch_size_per_gpu': 2}
    opt['datasets'] = {'train': train, 'val': pairs(name='pairs')}
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


def losses_on_one_batch(model, opt, number) -> list[float]:
    """``l_g_pix`` of so many iterations, all on the first batch."""
    batch = next(iter(loader_of(opt, 'train')))
    losses = []
    for current_iter in range(1, number + 1):
        model.feed_data(batch)
        model.optimize_parameters(current_iter)
        losses.append(model.get_current_log()['l_g_pix'])
    return losses


def resumed_at(opt, iteration, build):
    """A model built anew from what another one of the same options saved."""
    again = deepcopy(opt)
    again['path']['pretrain_network_g'] = f'{opt["path"]["models"]}/net_g_{iteration}.pth'
    model = build(again)
    state = Path(opt['path']['training_states'], f'{iteration}.state')
    model.resume_training(torch.load(state, weights_only=True))
    return model


def resume_alike(workspace: Path, file: str) -> str:
    """What a run of an option file says that goes on from its last checkpoint but one.

    Its end is deleted first; every network and optimizer has to become the same again to the bit.
    """
    opt = load_options(file)
    folder, last = workspace / 'experiments' / opt['name'], opt['train']['total_iter']
    ends = [*folder.glob(f'models/*_{last}.pth'), folder / f'training_states/{last}.state']
    whole = {path: torch.load(path, weights_only=True) for path in ends}
    for path in folder.rglob('*'):
        if re.search(rf'(_{last}|/{last}|_latest|_best)\.\w+$', str(path)):
            path.unlink()
    said = run_well(workspace, TRAIN, '-opt', file, '--auto_resume')
    assert 'Resuming training' in said
    for path, content in whole.items():
        again = torch.load(path, weights_only=True)
        for part in [key for key in content if key.startswith(('params', 'optimizers'))]:
            assert same(again[part], content[part]), (path.name, part)
    return said


def same(one: object, other: object) -> bool:
    """Equal to the last bit, tensors in containers included."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


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
    write_pairs(tmp_path, stereo, [(100, 200 + 64 * i, 64, 64) for i in range(3)])
    (tmp_path / 'models').mkdir()
    (tmp_path / 'training_states').mkdir()
    dataset = pairs(tmp_path, scale=4)
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
        'network_g': deepcopy(DEF),
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


def write_prior(path: Path, seed: int = 3) -> Path:
    """Weights of DENOISER that do something."""
    torch.manual_seed(seed)
    denoiser = build_network(dict(DENOISER))
    for parameter in denoiser.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    torch.save({'params': denoiser.state_dict()}, path)
    return path


def build_enhancer(prior: Path | None = None, **diffusion: object) -> DDNMEnhancer:
    """The enhancer of ``enhance_options``, with other sampling options."""
    made = DDNMEnhancer(DENOISER, diffusion=DIFFUSION | diffusion)
    if prior is not None:
        made.load_weights(prior)
    return made


def enhance_options(prior: Path, **blocks: dict) -> dict:
    """An option file of ``defsr-enhance``; ``blocks`` are changes of ``pairs()``, by data set."""
    return {
        'name': 'tiny',
        'scale': 4,
        'num_gpu': 0,
        'images_per_batch': 2,
        'network_e': deepcopy(NETWORK_E),
        'path': {'pretrain_network_e': str(prior)},
        'datasets': {phase: pairs(name='pairs') | block for phase, block in blocks.items()},
    }
