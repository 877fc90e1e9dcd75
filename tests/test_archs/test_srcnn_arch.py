"""SRCNN against a port's numbers, the authors' MATLAB arithmetic, and what colour has to do."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from golden_weights import fill, formula, image, layout
from repository import REPOSITORY
from scipy.io import savemat
from scipy.ndimage import correlate
from torch.testing import assert_close
from workspaces import TRAIN, pairs, run_well, save_options

from defsr.archs.srcnn_arch import SRCNN
from defsr.config.files import load_options
from defsr.ops import upsample_bicubic
from defsr.utils.weights import load_weights

GOLDEN = json.loads((REPOSITORY / 'tests/golden/srcnn.json').read_text())
MATLAB = {'num_ch': 1, 'padding': 'replicate', 'scale': 1}


def golden(name: str) -> torch.Tensor:
    return torch.tensor(GOLDEN[name], dtype=torch.float64)


def filled(**options) -> SRCNN:
    net = SRCNN(**options).double()
    net.load_state_dict(fill(net.state_dict(), 4))
    return net


def test_numbers_of_a_port():
    """yjn870/SRCNN-pytorch at 064dbaa: ``models.py`` and ``utils.py``, in float64.

    One number was replaced: its weight of R in Y, 64.738 / 256, is a slip for 65.738 (MATLAB, ITU),
    a level too dark in red. ``sr`` went through YCbCr and back with coefficients of three decimals.
    """
    net = filled(scale=1)
    assert layout(net.state_dict()) == tuple(GOLDEN['layout'])
    y = golden('y')
    found = net(image(1, 3, 24, 20))
    assert_close(found[0, :, ::6, ::5].flatten(), golden('sr'), rtol=0, atol=2e-5)
    rgb = image(1, 3, 24, 20)
    luma = (rgb * rgb.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1)).sum(1, True) / 255
    luma = luma + 16 / 255
    assert_close(luma[0, 0, ::7, ::5].flatten(), y, rtol=0, atol=1e-5)
    out = net._layers(luma)
    assert_close(out[0, 0, ::5, ::4].flatten(), golden('out'), rtol=0, atol=2e-5)
    (out * formula('loss', out.shape)).sum().backward()
    for name, parameter in net.named_parameters():
        gradient = parameter.grad
        found = torch.cat([gradient.norm().view(1), gradient.flatten()[:3]])
        want = torch.tensor(GOLDEN['grad'][name], dtype=torch.float64)
        assert_close(found, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('second', [1, 5])
def test_the_authors_matlab_file(tmp_path, second):
    """Written and run as SRCNN.m does: correlation, border repeated, columns first."""
    rng = np.random.default_rng(0)
    shapes = {
        'weights_conv1': (81, 6),
        'weights_conv2': (6, second**2, 4),
        'weights_conv3': (4, 25),
    }
    shapes |= {'biases_conv1': (6, 1), 'biases_conv2': (4, 1), 'biases_conv3': (1, 1)}
    model = {name: rng.normal(0, 0.1, shape) for name, shape in shapes.items()}
    savemat(tmp_path / '9-x-5.mat', model | {'note': 'text'}, do_compression=True)
    net = SRCNN(kernel_size=[9, second, 5], num_feat=[6, 4], **MATLAB)
    load_weights(net, tmp_path / '9-x-5.mat', option='path:w', network='network_g')
    net.double()

    def layer(maps: list, number: int, num_out: int) -> list:
        weights = model[f'weights_conv{number}'].reshape(len(maps), -1, num_out)
        side = int(weights.shape[1] ** 0.5)
        kernels = weights.reshape(len(maps), side, side, num_out, order='F')
        return [
            sum(correlate(m, kernels[j, :, :, i], mode='nearest') for j, m in enumerate(maps))
            + model[f'biases_conv{number}'].flat[i]
            for i in range(num_out)
        ]

    grey = rng.random((17, 14))
    maps = [grey]
    for number, num_out in ((1, 6), (2, 4)):
        maps = [np.maximum(m, 0) for m in layer(maps, number, num_out)]
    (want,) = layer(maps, 3, 1)
    found = net._layers(torch.from_numpy(grey)[None, None])
    assert_close(found[0, 0], torch.from_numpy(want), rtol=0, atol=1e-6)


@pytest.mark.parametrize('size', [(9, 13), (16, 7)])
def test_colour_stays_interpolated(size):
    """Whatever is done to Y: differences of R, G and B are those of the interpolation."""
    net, lq = filled(), image(2, 3, *size)
    up, sr = upsample_bicubic(lq, 4), net(lq)
    assert sr.shape == up.shape and float((sr - up).detach().std()) > 0.01
    assert_close(sr.diff(dim=1), up.diff(dim=1), rtol=0, atol=1e-12)


def test_on_rgb_all_channels_mix():
    net = filled(num_ch=3, kernel_size=[9, 1, 5])
    lq = image(2, 3, 9, 13).requires_grad_()
    net(lq)[:, 0].sum().backward()
    assert (lq.grad.abs().amax((0, 2, 3)) > 0).all()


def test_its_block_is_told_from_its_weights():
    for block in ({}, {'num_ch': 3, 'kernel_size': [9, 1, 5], 'num_feat': [8, 4]}):
        net = SRCNN(**block)
        told = SRCNN.official_block(net.state_dict())
        assert layout(SRCNN(**told).state_dict()) == layout(net.state_dict())
    with pytest.raises(KeyError):
        SRCNN.official_block({'conv_first.weight': torch.zeros(1)})


@pytest.mark.parametrize('bad', [{'kernel_size': [9, 4, 5]}])
def test_options_that_cannot_be(bad):
    with pytest.raises(ValueError, match=r'network_g:kernel_size is \[9, 4, 5\], but must be odd'):
        build_network({'type': 'SRCNN', **bad})


@pytest.mark.parametrize('num_ch', [1, 3])
def test_it_trains(workspace, num_ch):
    """By the small recipe, a few steps: the loss falls, and the last layer has its own rate."""
    opt = load_options(REPOSITORY / 'options/small/SRCNN_x4.yml')
    train = opt['datasets']['train'] | pairs() | {'gt_size': 48, 'batch_size_per_gpu': 2}
    opt['datasets'] = {'train': train, 'val': pairs(name='pairs')}
    opt['network_g'] |= {'num_ch': num_ch, 'num_feat': [8, 4]}
    opt['train'] |= {'total_iter': 12}
    opt['train']['optim_g'] = {'type': 'Adam', 'lr': 5e-3, 'groups': {'conv3': 5e-4}}
    opt['logger'] |= {'print_freq': 1, 'save_checkpoint_freq': 12}
    opt['val'] |= {'val_freq': 12, 'tb_images': 0}
    said = run_well(workspace, TRAIN, '-opt', save_options(workspace / 'o.yml', opt))
    losses = [float(value) for value in re.findall(r'l_g_pix: ([\d.e+-]+)', said)]
    assert len(losses) == 12 and sum(losses[-4:]) < 0.9 * sum(losses[:4])
    first = re.search(r'lr:\(([\d.e-]+),([\d.e-]+),\)', said)
    assert float(first[2]) == pytest.approx(0.1 * float(first[1]))
    assert 'psnr' in said
