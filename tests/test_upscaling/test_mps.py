"""``device='mps'``, on a stand-in: nothing there is float64 or meets a tensor of the CPU."""

from __future__ import annotations

import os
from contextlib import nullcontext

import pytest
import torch
from mps import MPS, OnMps, mps
from torch.testing import assert_close
from workspaces import NETWORK_E, UPSCALE, save_options, write_prior

from defsr import upscaling
from defsr.ops.exact import WITHOUT_FLOAT64
from defsr.tools import upscale
from defsr.upscaling import Upscaler, pick_device


@pytest.fixture
def stand_in(monkeypatch):
    """The stand-in's device has another name, as PyTorch here was built without MPS."""
    autocast, is_enabled = torch.autocast, torch.is_autocast_enabled
    monkeypatch.setattr(upscaling, 'pick_device', torch.device)
    monkeypatch.setitem(vars(torch), 'autocast', lambda device_type, *args, **more: (
        nullcontext() if device_type == MPS.type else autocast(device_type, *args, **more)
    ))  # fmt: skip
    monkeypatch.setattr(
        torch, 'is_autocast_enabled', lambda name: name != MPS.type and is_enabled(name)
    )
    WITHOUT_FLOAT64.add(MPS.type)
    yield
    WITHOUT_FLOAT64.discard(MPS.type)


def test_the_stand_in_refuses_what_mps_does():
    with mps():
        x = torch.rand(2, 3).to(MPS)
        assert isinstance(x, OnMps) and x.device == MPS
        assert_close((2 * x + 1).cpu(), 2 * x.cpu() + 1)
        with pytest.raises(TypeError, match='no torch.float64'):
            x.double()
        with pytest.raises(RuntimeError, match='on mps and on cpu'):
            x + torch.ones(3)
        assert isinstance(torch.tensor([1], device=MPS), OnMps)
        x[0] = 5
        assert x.cpu()[0].tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    'change',
    [{}, {'network_e': NETWORK_E}, {'match_check': 'mask', 'match_search': 'coarse_to_fine'}],
    ids=['plain', 'diffusion', 'checked'],
)
def test_results_are_those_of_the_cpu(tmp_path, weights, lq, refs, stand_in, change):
    opt = {**UPSCALE, **change}
    if change.get('network_e'):
        prior = write_prior(tmp_path / 'prior.pth')
        opt['path'] = {**opt['path'], 'pretrain_network_e': str(prior)}
    path = tmp_path / 'upscale.yml'
    save_options(path, opt)
    plain = Upscaler(weights, 'cpu', path)(lq, refs)
    with mps():
        found = Upscaler(weights, MPS.type, path)(lq, refs)
    assert not isinstance(found, OnMps)
    assert_close(found, plain, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_what_the_command_does_with_a_noisy_photo(stand_in, stereo):
    """All of it: cleaning, enhancing, rectifying, matching, restoring."""
    left, right = stereo
    lq = torch.nn.functional.avg_pool2d(left[..., 100:260, 100:300], 4)
    generator = torch.Generator().manual_seed(0)
    lq = (lq + 0.03 * torch.randn(lq.shape, generator=generator)).clamp(0, 1)
    refs = [right[..., 90:270, 80:310]]
    plain = Upscaler(device='cpu')(lq, refs)
    with mps():
        found = Upscaler(device=MPS.type)(lq, refs)
    # Another layout in memory rounds otherwise, and of flows, OpenCV's in 8 bit, that moves pixels.
    assert float((found - plain).square().mean()) < 1e-5, '50 dB'


def test_how_it_is_chosen(monkeypatch):
    with pytest.raises(ValueError, match="device is 'mps', but this machine has none"):
        pick_device('mps')
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: True)
    assert pick_device('mps') == pick_device('mps:0') == torch.device('mps')
    assert pick_device('auto').type != 'mps'


def test_the_command_lets_the_cpu_help(monkeypatch):
    monkeypatch.delenv('PYTORCH_ENABLE_MPS_FALLBACK', raising=False)
    arguments = ['defsr-upscale', '-i', 'a', '-r', 'b', '-o', 'c']
    monkeypatch.setattr('sys.argv', [*arguments, '--device', 'cpu'])
    upscale.parse_arguments()
    assert 'PYTORCH_ENABLE_MPS_FALLBACK' not in os.environ
    monkeypatch.setattr('sys.argv', [*arguments, '--device', 'mps'])
    upscale.parse_arguments()
    assert os.environ.pop('PYTORCH_ENABLE_MPS_FALLBACK') == '1'
