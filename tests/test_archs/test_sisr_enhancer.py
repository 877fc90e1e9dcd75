"""The enhancer without diffusion: consistency, tiles, weights, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network
from torch import nn
from torch.testing import assert_close

from defsr.archs.sisr_enhancer_arch import SISREnhancer
from defsr.ops import upsample_bicubic

EDSR = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1}


@pytest.fixture
def build():
    """A function that builds an enhancer of a small EDSR with seeded weights."""

    def build_enhancer(**options):
        torch.manual_seed(0)
        return SISREnhancer(EDSR, **options)

    return build_enhancer


class Remembered(nn.Module):
    """Answers with parts of a known image: the truth, whatever it is shown."""

    def __init__(self, gt):
        super().__init__()
        self.gt = gt

    def forward(self, lq):
        assert lq.shape[-1] * 4 == self.gt.shape[-1]
        return self.gt


@pytest.mark.parametrize('size', [(8, 16), (5, 9), (3, 2), (1, 11)], ids=str)
@pytest.mark.parametrize('degradation', ['matlab', 'pil'])
def test_any_size_degrades_to_the_input(build, size, degradation, rng):
    lq = torch.rand(2, 3, *size, generator=rng)
    enhancer = build(degradation=degradation)
    de = enhancer.enhance(lq)
    assert de.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert_close(enhancer.operator.A(de), lq, rtol=0, atol=1e-5)
    assert enhancer.residual(de, lq)['unclamped'] < 1e-5
    assert torch.equal(enhancer(lq), de.clamp(0, 1))


def test_the_null_space_is_the_network_s(build, rng):
    """I_DE - A_pinv A I_DE is that of the answer; of the truth's own LR image it is the truth."""
    gt = torch.rand(2, 3, 20, 36, generator=rng)
    enhancer = build()
    enhancer.network = Remembered(gt)
    lq = enhancer.operator.A(gt)
    assert_close(enhancer.enhance(lq), gt, rtol=0, atol=1e-5)
    other = torch.rand(lq.shape, generator=rng)
    de = enhancer.enhance(other)
    for image in (de, gt):
        image -= enhancer.operator.A_pinv(enhancer.operator.A(image))
    assert_close(de, gt, rtol=0, atol=1e-5)


def test_tiles_change_nothing(build, rng):
    """The small EDSR reads no farther than 9 LR pixels."""
    lq = torch.rand(1, 3, 33, 41, generator=rng)
    whole = build().enhance(lq)
    assert_close(build(tile=12, overlap=10).enhance(lq), whole, rtol=0, atol=1e-6)
    assert not torch.allclose(build(tile=12, overlap=1).enhance(lq), whole, atol=1e-6)


def test_weights_come_from_a_training(build, tmp_path, rng):
    """A checkpoint of BasicSR's SRModel, of which the moving average is taken."""
    enhancer = build()
    torch.manual_seed(1)
    trained = build_network(dict(EDSR)).state_dict()
    plain = {name: torch.zeros_like(value) for name, value in trained.items()}
    torch.save({'params': plain, 'params_ema': trained}, tmp_path / 'net_g_latest.pth')
    before = enhancer.fingerprint()
    enhancer.load_weights(tmp_path / 'net_g_latest.pth')
    assert_close(enhancer.network.state_dict(), trained)
    after = enhancer.fingerprint()
    assert before['network_sha256'] != after['network_sha256']
    assert before['network'] == after['network'] and after['network']['num_block'] == 1
    assert enhancer.needs_weights and not enhancer.costly and enhancer.consistent


def test_half_precision_weights_are_taken(build, tmp_path):
    state = {name: value.half() for name, value in build().network.state_dict().items()}
    torch.save({'params': state}, tmp_path / 'w.pth')
    enhancer = build()
    enhancer.load_weights(tmp_path / 'w.pth')
    assert {value.dtype for value in enhancer.network.state_dict().values()} == {torch.float32}


def test_stays_frozen_in_eval_mode(build):
    enhancer = build().train()
    assert not enhancer.training and not enhancer.network.training
    assert not any(parameter.requires_grad for parameter in enhancer.parameters())


def test_refuses(build, tmp_path, rng):
    with pytest.raises(ValueError, match='network_e:network has no `type`; name an arch, such as'):
        SISREnhancer({'num_feat': 8})
    with pytest.raises(ValueError, match='network_e:network:type'):
        SISREnhancer({'type': 'EDRS'})
    with pytest.raises(ValueError, match='network_e:tile is 0, but must be at least 1'):
        build(tile=0)
    with pytest.raises(ValueError, match=r'lq is torch.float32 of shape \(2, 1, 4, 4\)'):
        build()(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match='but network_e:scale is 4. Give it `upscale: 4`'):
        SISREnhancer(EDSR | {'upscale': 2})(torch.zeros(1, 3, 4, 4))
    state = {'params': build_network(EDSR | {'num_feat': 16}).state_dict()}
    torch.save(state, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match='network_e:network'):
        build().load_weights(tmp_path / 'w.pth')


def test_starts_from_the_input(rng):
    """A network that interpolates gives the interpolated image, made consistent."""

    class Bicubic(nn.Module):
        def forward(self, lq):
            return upsample_bicubic(lq, 4)

    enhancer = SISREnhancer(EDSR)
    enhancer.network = Bicubic()
    lq = torch.rand(2, 3, 6, 7, generator=rng)
    expected = enhancer.operator.project(upsample_bicubic(lq, 4), lq)
    assert_close(enhancer.enhance(lq), expected)
