"""``train:precision: bf16``: every method's network under autocast, all else as without it."""

from __future__ import annotations

import pytest
import torch
from basicsr.models import build_model
from torch import nn
from workspaces import SMALL, weights

from defsr.archs.interface import Restoration
from defsr.archs.network_call import NetworkCall
from defsr.config.files import load_options
from defsr.ops import deform_conv_at

ROWS = ('table2_Base', 'table2_DCN', 'best', 'SRNTT', 'TTSR', 'MASA', 'C2', 'DATSR')


@pytest.mark.parametrize('row', ROWS)
def test_a_step_is_that_of_float32_nearly(row, rng, tmp_path):
    opt = load_options(SMALL / f'{row}_x4.yml')
    opt |= {'dist': False, 'is_train': True, 'rank': 0, 'world_size': 1, 'num_gpu': 0}
    opt['path'] |= {'models': str(tmp_path), 'training_states': str(tmp_path)}
    images = {
        'lq': torch.rand(2, 3, 16, 16, generator=rng),
        'gt': torch.rand(2, 3, 64, 64, generator=rng),
        'ref': torch.rand(2, 3, 64, 64, generator=rng),
    }
    told, moved, images_made = [], [], []
    for precision in ('fp32', 'bf16'):
        opt['train']['precision'] = precision
        torch.manual_seed(0)
        model = build_model(opt)
        before = weights(model.net_g)
        model.feed_data(images)
        for number in (1, 2):  # the first image of some networks is what they start from
            model.optimize_parameters(number)
        assert model.output.dtype == torch.float32
        told.append(model.log_dict['l_g_pix'])
        images_made.append(model.output.detach())
        moved.append((weights(model.net_g) - before).sign())
    assert told[1] == pytest.approx(told[0], rel=0.02)
    assert not torch.equal(*images_made)
    assert float((moved[0] == moved[1]).float().mean()) > 0.7


def test_is_called_as_the_network_that_it_holds():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, lq, more):
            x = self.conv(lq)
            assert x.dtype == torch.bfloat16 and more == 1
            return Restoration(x, {'relu1_1': x}, attention=x)

    net = Net()
    found = NetworkCall(net, net, torch.bfloat16)(torch.rand(1, 3, 4, 4), 1)
    for image in (found.sr, found.textures['relu1_1'], found.attention):
        assert image.dtype == torch.float32
    assert NetworkCall(net.eval(), net).training is False


def test_deformable_sampling_stays_float32(rng):
    shapes = {'feat': (1, 4, 9, 8), 'offset_yx': (1, 18, 5, 6), 'mask': (1, 9, 5, 6)}
    args = {name: torch.randn(*shape, generator=rng) for name, shape in shapes.items()}
    args |= {
        'base_yx': torch.randint(0, 8, (1, 2, 5, 6), generator=rng),
        'weight': torch.randn(6, 4, 3, 3, generator=rng),
    }
    plain = deform_conv_at(**args)
    for backend in ('gather', 'torchvision'):
        with torch.autocast('cpu', torch.bfloat16):
            found = deform_conv_at(**args, backend=backend)
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)
