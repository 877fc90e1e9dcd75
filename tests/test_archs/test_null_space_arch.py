"""A diffusion prior with the reference inside: its two ends, its weights, what it gains."""

from __future__ import annotations

import math

import pytest
import torch
from basicsr.archs import build_network
from repository import REPOSITORY
from torch.testing import assert_close

from defsr.archs.null_space_arch import ReferenceDDNM
from defsr.config.files import load_options
from defsr.diffusion.degradation import Degradation
from defsr.diffusion.reference_null_space import NullSpaces
from defsr.methods.build import Restorer
from defsr.ops.evidence import Evidence

OPTIONS = REPOSITORY / 'options/small/null_space_ddnm_x4.yml'
MATLAB = Degradation('matlab', 4)
OPERATOR = MATLAB.operator


@pytest.fixture(scope='module')
def restorer() -> Restorer:
    opt = load_options(OPTIONS) | {'rectify': {'matcher': 'sift'}}
    return Restorer.build(opt, torch.device('cpu'), MATLAB)


def spaces_of(lq, image, trusted: float) -> NullSpaces:
    level = torch.full((len(lq), 1, *lq.shape[-2:]), trusted)
    return NullSpaces.of(lq, image, Evidence(level, level, torch.ones_like(level)), OPERATOR)


def test_both_ends(rng):
    """Nothing trusted: the prior to the bit. All: A_pinv y and the null space of the reference."""
    net = build_network(load_options(OPTIONS)['network_g'])
    lq, image = (torch.rand(2, 3, *size, generator=rng) for size in ((7, 10), (28, 40)))
    assert torch.equal(net(lq, image, spaces_of(lq, image, 0.0)), net.prior.enhance(lq))
    spaces = spaces_of(lq, image, 1.0)
    assert_close(net(lq, image, spaces), spaces.pinv + spaces.other, rtol=0, atol=2e-5)
    between = net(lq, image, spaces_of(lq, image, 0.8))
    assert_close(OPERATOR.A(between), lq, rtol=0, atol=1e-5)


def test_both_ends_of_a_padded_image(rng):
    """For a stride of 8 an LR side of 21 becomes 22, and what lies about that border is another."""
    block = load_options(OPTIONS)['network_g']
    block['denoiser'] = {'type': 'DRUNet', 'num_feat': (4, 6, 8, 10), 'num_block': 1}
    block['diffusion'] |= {'start_alpha_bar': 0.868}
    net = build_network(block)
    lq, image = (torch.rand(2, 3, *size, generator=rng) for size in ((21, 10), (84, 40)))
    assert torch.equal(net(lq, image, spaces_of(lq, image, 0.0)), net.prior.enhance(lq))
    spaces = spaces_of(lq, image, 1.0)
    out = net(lq, image, spaces)
    assert_close(OPERATOR.A(out), lq, rtol=0, atol=1e-5)
    inner = (out - spaces.pinv - spaces.other)[..., :48, :]
    assert float(inner.abs().max()) < 1e-3


def test_the_denoiser_s_file_is_its_weights(restorer, tmp_path):
    """Its own names, those of its authors, and those of the whole."""
    net, denoiser = restorer.net_g, restorer.net_g.prior.denoiser
    published = {
        f'model.{2 * i}.{kind}': getattr(conv, kind)
        for i, conv in enumerate(denoiser.convs)
        for kind in ('weight', 'bias')
    }
    for state in (published, denoiser.state_dict(), net.state_dict()):
        torch.save(dict(state), tmp_path / 'weights.pth')
        opt = load_options(OPTIONS)
        opt['path']['pretrain_network_g'] = str(tmp_path / 'weights.pth')
        again = Restorer.build(opt, torch.device('cpu'), MATLAB).net_g
        assert all(
            torch.equal(value, net.state_dict()[k]) for k, value in again.state_dict().items()
        )
    torch.save({'other.weight': torch.zeros(1)}, tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match='pretrain_network_g'):
        Restorer.build(opt, torch.device('cpu'), MATLAB)


def test_its_share_is_an_option(restorer, rng):
    net = restorer.net_g
    lq, image = (torch.rand(1, 3, *size, generator=rng) for size in ((7, 10), (28, 40)))
    block = load_options(OPTIONS)['network_g']
    none = build_network(block | {'most': 0.0})
    none.load_state_dict(net.state_dict())
    spaces = spaces_of(lq, image, 1.0)
    assert torch.equal(none(lq, image, spaces), net(lq, image, spaces_of(lq, image, 0.0)))
    half = build_network(block | {'most': 0.5})
    half.load_state_dict(net.state_dict())
    trusted = spaces_of(lq, image, 0.5 ** (1 / 6))  # (rho fine)^3 is a half
    assert_close(half(lq, image, spaces), net(lq, image, trusted), rtol=0, atol=1e-5)


def test_options_are_checked_where_they_stand():
    block = load_options(OPTIONS)['network_g']
    with pytest.raises(ValueError, match='network_g:diffusion:eta is 2'):
        ReferenceDDNM.check('network_g', block | {'diffusion': {'eta': 2}})
    opt = load_options(OPTIONS) | {'network_g': block | {'degradation': 'pil'}}
    with pytest.raises(ValueError, match='network_g:degradation is pil, but degradation is matlab'):
        Restorer.build(opt, torch.device('cpu'), MATLAB)


def test_a_reference_that_explains_the_input_helps_the_prior(restorer, stereo):
    """The other eye's photograph: 1.5 dB are left of some 2.5 by the learned matcher."""
    left, right = stereo
    gt = left[..., 120:312, 200:440]
    lq = MATLAB.degrade(gt[0])[None]
    found = restorer.restore(lq, [right])
    errors = [(x - gt).square().mean().item() for x in (found.sr, restorer.net_g.prior(lq))]
    assert 10 * math.log10(errors[1] / errors[0]) > 1.5
    assert float((OPERATOR.A(found.sr) - lq).abs().mean()) < 1e-3  # but for clamping
