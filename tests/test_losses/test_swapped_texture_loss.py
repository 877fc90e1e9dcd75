"""SwappedTextureLoss by its formula, and in a training of SRNTT; the port's numbers: its network's
tests."""

from __future__ import annotations

import random
from copy import deepcopy

import pytest
import torch
from basicsr.models import build_model
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from workspaces import (
    TRAIN,
    losses_on_one_batch,
    pairs,
    resume_alike,
    run_well,
    save_options,
    train,
    weights,
    with_gan,
)

from defsr.archs.interface import Restoration
from defsr.archs.levels import LEVEL_FACTORS, VGG_CHANNELS
from defsr.archs.vgg import VGGTrunk
from defsr.config.files import load_options
from defsr.losses.swapped_texture_loss import SwappedTextureLoss

TRUNK = {'vgg_type': 'vgg16', 'weights': 'none'}
TEXTURE = {'type': 'SwappedTextureLoss', **TRUNK, 'use_confidence': False, 'loss_weight': 1e-3}


@pytest.fixture
def out(rng) -> Restoration:
    """Two images of 24x36 with textures for them."""
    textures = {
        level: torch.rand(2, VGG_CHANNELS[level], 6 * f, 9 * f, generator=rng)
        for level, f in LEVEL_FACTORS.items()
    }
    confidence = torch.rand(2, 6, 9, generator=rng)
    return Restoration(torch.rand(2, 3, 24, 36, generator=rng), textures, confidence=confidence)


@pytest.mark.parametrize('use_confidence', [True, False])
@pytest.mark.parametrize('criterion', ['l2', 'fro'])
def test_the_original_formula(out, use_confidence, criterion):
    """1 / 4 and the sizes as ZZUTK/SRNTT writes them: 256, 512 and 1024 times the LR positions."""
    loss = SwappedTextureLoss(
        **TRUNK, use_confidence=use_confidence, slope=-3.0, bias=0.5, criterion=criterion
    )
    found = VGGTrunk([*LEVEL_FACTORS], **TRUNK)(out.sr)
    want = 0
    for level, width in (('relu3_1', 256), ('relu2_1', 512), ('relu1_1', 1024)):
        feat, texture = found[level].double(), out.textures[level].double()
        if use_confidence:
            size = feat.shape[-2:]
            gate = F.interpolate(
                out.confidence.double()[:, None], size, mode='bicubic', align_corners=True
            )
            weight = torch.sigmoid(-3 * gate + 0.5)
            feat, texture = feat * weight, texture * weight
        gram = [torch.einsum('nchw,ndhw->ncd', x, x) for x in (feat, texture)]
        difference = gram[0] - gram[1]
        value = difference.square().mean() if criterion == 'l2' else difference.norm()
        want = want + value / 4 / (6 * 9 * width) ** 2 / 3
    assert_close(loss(out, None, nn.Identity()).double(), 1e-4 * want, rtol=1e-4, atol=0)


def test_its_own_maps_cost_nothing(out):
    loss = SwappedTextureLoss(**TRUNK)
    out.textures = loss.vgg(out.sr)
    assert float(loss(out, None, nn.Identity())) == 0
    assert all(not parameter.requires_grad for parameter in loss.parameters())


def test_a_network_without_textures(out):
    out.textures = {}
    with pytest.raises(ValueError, match='train:texture_opt is .*; Identity gives none. Remove'):
        SwappedTextureLoss(**TRUNK)(out, None, nn.Identity())
    with pytest.raises(ValueError, match='train:texture_opt:vgg_type is'):
        SwappedTextureLoss.check('train:texture_opt', {'vgg_type': 'vgg7', 'weights': 'none'})


@pytest.fixture
def srntt(opt) -> dict:
    """A tiny SRNTT with all of its losses."""
    opt = with_gan(opt) | {'model_type': 'RefSRModel', 'match_border': 'inside'}
    opt['network_g'] = {'type': 'SRNTT', 'num_feat': 8, 'num_block': [1, 1, 1, 1]}
    opt['train']['texture_opt'] = dict(TEXTURE)
    return opt


def test_all_of_its_losses(srntt):
    model = build_model(deepcopy(srntt))
    before = weights(model.net_g)
    assert list(train(model, srntt, 1, 1)[0]) == ['l_g_pix']
    (log,) = train(model, srntt, 3, 3)
    assert {'l_g_pix', 'l_g_percep', 'l_g_texture', 'l_g_gan', 'l_d_gp'} < set(log)
    assert not torch.equal(weights(model.net_g), before)
    assert all(parameter.grad is not None for parameter in model.net_g.parameters())


def test_its_training_reduces_the_loss(srntt):
    random.seed(0)
    torch.manual_seed(0)
    srntt['train'] |= {'gan_opt': None, 'perceptual_opt': None, 'texture_opt': None}
    srntt['train']['optim_g']['lr'] = 2e-3
    model = build_model(deepcopy(srntt))
    losses = losses_on_one_batch(model, srntt, 40)
    assert sum(losses[-3:]) < 0.92 * sum(losses[:3])


def test_its_own_command_resumes_to_the_bit(workspace):
    """The small row's file: four iterations, and the last two again."""
    opt = load_options('options/small/SRNTT_x4.yml')
    opt['datasets'] = {'train': opt['datasets']['train'] | pairs(), 'val': pairs(name='pairs')}
    opt['datasets']['train'] |= {'gt_size': 48, 'ref_size': 48, 'batch_size_per_gpu': 2}
    opt['network_g'] |= {'num_feat': 8, 'num_block': [1, 1, 1, 1]}
    opt['network_t'] = {'type': 'VGGTextureExtractor', **TRUNK}
    opt['train'] |= {'texture_opt': TEXTURE, 'total_iter': 4}
    opt['logger'] |= {'print_freq': 1, 'save_checkpoint_freq': 2}
    opt['val'] |= {'val_freq': 4, 'save_maps': True, 'save_img': True}
    file = save_options(workspace / 'o.yml', opt)
    said = run_well(workspace, TRAIN, '-opt', file)
    assert 'l_g_texture' in said and 'psnr' in said
    path = workspace / f'experiments/{opt["name"]}/models/net_g_latest.pth'
    assert torch.load(path, weights_only=True)['trained_with']['match_border'] == 'inside'
    resume_alike(workspace, file)
