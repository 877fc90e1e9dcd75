"""An enhancer of milliseconds, and option files of ``defsr-enhance`` for it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from basicsr.archs import build_network

from defsr.archs.enhancer_arch import DDNMEnhancer

DENOISER = {'type': 'UnshuffleUNet', 'num_feat': [4, 4], 'num_block': 1, 'emb_ch': 8}
DIFFUSION = {'num_steps': 3, 'eta': 0.5}
NETWORK = {'type': 'DDNMEnhancer', 'denoiser': DENOISER, 'diffusion': DIFFUSION}


def write_prior(path: Path, seed: int = 3) -> Path:
    """Weights of DENOISER that do something."""
    torch.manual_seed(seed)
    denoiser = build_network(dict(DENOISER))
    for parameter in denoiser.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    torch.save({'params': denoiser.state_dict()}, path)
    return path


def build(prior: Path | None = None, **diffusion: object) -> DDNMEnhancer:
    """The enhancer of ``options``, with other sampling options."""
    enhancer = DDNMEnhancer(DENOISER, diffusion=DIFFUSION | diffusion)
    if prior is not None:
        enhancer.load_weights(prior)
    return enhancer


def options(prior: Path, **blocks: dict) -> dict:
    """An option file's content; ``blocks`` are its data sets, without what all have."""
    common = {'name': 'pairs', 'type': 'RefTripletDataset', 'io_backend': {'type': 'disk'}}
    return {
        'name': 'tiny',
        'scale': 4,
        'num_gpu': 0,
        'images_per_batch': 2,
        'network_e': deepcopy(NETWORK),
        'path': {'pretrain_network_e': str(prior)},
        'datasets': {phase: common | block for phase, block in blocks.items()},
    }
