"""The prior that comes with the repository, FFDNet, in the setting that comes with it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from basicsr.archs import build_network
from repository import REPOSITORY

from defsr.config.files import load_options
from defsr.diffusion.degradation import Degradation
from defsr.ops.resize import upsample_bicubic


@pytest.fixture(scope='module')
def enhancer():
    opt = load_options(REPOSITORY / 'options/small/enhance_cufed_small.yml')
    enhancer = build_network(opt['network_e'])
    enhancer.load_weights(opt['path']['pretrain_network_e'])
    return enhancer


def test_it_restores_more_than_interpolation(enhancer, stereo):
    """On a photograph it has never seen: A I_DE = y, and nearer to GT (by 0.36 and 0.83 dB)."""
    gt = stereo[0][..., 200:296, 300:428]
    lq = Degradation('matlab', 4).degrade(gt[0])[None]
    de = enhancer.enhance(lq)
    assert enhancer.residual(de, lq)['unclamped'] < 1e-5
    errors = [
        (image - gt).square().mean().item()
        for image in (de, enhancer.operator.A_pinv(lq), upsample_bicubic(lq, 4))
    ]
    over_a_pinv, over_bicubic = (10 * math.log10(error / errors[0]) for error in errors[1:])
    assert over_a_pinv > 0.25 and over_bicubic > 0.6


def test_nothing_in_the_setting_is_random(enhancer, rng):
    lq = torch.rand(1, 3, 16, 24, generator=rng)
    first = enhancer.enhance(lq)
    setting = enhancer.sampling
    enhancer.sampling = replace(setting, seed=setting.seed + 1)
    assert torch.equal(enhancer.enhance(lq), first)
    enhancer.sampling = setting
