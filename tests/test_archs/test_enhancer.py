"""The enhancers: consistency at any size, reproducible noise, checkpoints, options."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.testing import assert_close

from defsr.archs.enhancer_arch import BicubicEnhancer, DDNMEnhancer
from defsr.diffusion import NoiseSchedule, SamplingOptions, ddnm_sample, from_signed, to_signed
from defsr.diffusion.options import STRATEGIES
from defsr.diffusion.windows import CanvasNoise, Window, content_key
from defsr.ops import upsample_bicubic

# Stride 32, as the published model has: at scale 4 the LR is padded to multiples of 8.
DENOISER = {
    'type': 'ADMUNet',
    'image_size': 32,
    'num_feat': 32,
    'num_res_block': 1,
    'channel_mult': [1, 1, 1, 1, 1, 1],
    'attention_resolutions': [],
    'num_head_channels': 32,
}


@pytest.fixture
def build(rng):
    """A function that builds an enhancer whose denoiser has seeded random weights."""

    def build_enhancer(diffusion=None, **options):
        enhancer = DDNMEnhancer(DENOISER, diffusion={'num_steps': 4} | (diffusion or {}), **options)
        for parameter in enhancer.denoiser.parameters():
            noise = 0.05 * torch.randn(parameter.shape, generator=rng)
            parameter.data = noise + (parameter.data if parameter.ndim == 1 else 0)
        return enhancer

    return build_enhancer


class GaussianDenoiser(nn.Module):
    """Exact for pixels from N(0, 0.25), in the timesteps of its own training schedule."""

    stride = 8

    def __init__(self) -> None:
        super().__init__()
        self.schedule = NoiseSchedule.linear(1e-4, 2e-2)
        self.seen = []

    def forward(self, x, t):
        self.seen.append(t)
        alpha_bar = self.schedule.alpha_bar_at(t).view(-1, 1, 1, 1).to(x)
        return x * (1 - alpha_bar).sqrt() / (0.25 * alpha_bar + 1 - alpha_bar)


def with_gaussian_denoiser(**options):
    enhancer = DDNMEnhancer(DENOISER, **options)
    enhancer.denoiser = GaussianDenoiser()
    return enhancer


# ------------------------------------------------------------------------------- BicubicEnhancer


def test_bicubic_enhancer_is_the_clamped_baseline(rng):
    lq = torch.rand(2, 3, 5, 9, generator=rng)
    enhancer = ARCH_REGISTRY.get('BicubicEnhancer')(scale=3)
    expected = upsample_bicubic(lq, 3)
    assert expected.max() > 1  # so that the clamp is seen
    assert torch.equal(enhancer(lq), expected.clamp(0, 1))
    assert not enhancer.costly
    assert enhancer.scale == 3


def test_bicubic_enhancer_refuses():
    with pytest.raises(ValueError, match='network_e:scale is 1, but must be at least 2'):
        BicubicEnhancer(1)
    with pytest.raises(ValueError, match=r'lq is torch.float32 of shape \(2, 1, 4, 4\)'):
        BicubicEnhancer()(torch.zeros(2, 1, 4, 4))


# ---------------------------------------------------------------------------------- DDNMEnhancer


@pytest.mark.parametrize('size', [(8, 16), (5, 9), (3, 2), (1, 11)], ids=str)
@pytest.mark.parametrize('degradation', ['matlab', 'pil'])
def test_any_size_degrades_to_the_input(build, size, degradation, rng):
    lq = torch.rand(2, 3, *size, generator=rng)
    enhancer = build(degradation=degradation)
    de = enhancer.enhance(lq)
    assert de.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert_close(enhancer.operator.A(de), lq, rtol=0, atol=1e-4)
    out = enhancer(lq)
    assert torch.equal(out, de.clamp(0, 1))
    assert out.dtype == lq.dtype


def test_scale_two(build, rng):
    lq = torch.rand(2, 3, 5, 9, generator=rng)
    enhancer = build(scale=2)
    assert_close(enhancer.operator.A(enhancer.enhance(lq)), lq, rtol=0, atol=1e-4)


def test_is_the_sampler_on_the_padded_input(rng):
    """One written-out pass: ranges, padding, noise per sample, crop, projection."""
    lq = torch.rand(2, 3, 3, 5, generator=rng)
    enhancer = with_gaussian_denoiser(diffusion={'num_steps': 10, 'seed': 7, 'eta': 0.5})
    padded = np.pad(lq.numpy(), ((0, 0), (0, 0), (0, 1), (0, 1)), mode='reflect')
    table = GaussianDenoiser().schedule.timesteps_at(enhancer.schedule.alpha_bar)
    expected = ddnm_sample(
        lambda x_t, t: GaussianDenoiser()(x_t, table[t.long()].float()),
        to_signed(torch.from_numpy(padded)),
        enhancer.operator,
        SamplingOptions(num_steps=10, eta=0.5),
        noise=CanvasNoise([content_key(7, image) for image in lq]).stream(Window(0, 16, 0, 24)),
    )
    expected = enhancer.operator.project(from_signed(expected[..., :12, :20]), lq)
    assert_close(enhancer.enhance(lq), expected, rtol=0, atol=1e-6)


def test_denoiser_is_asked_in_its_own_timesteps():
    """ADM's schedule has alpha_bar 0.99^(t+1) here, the sampling schedule 0.98^(t+1)."""
    enhancer = with_gaussian_denoiser(
        diffusion={
            'num_steps': 5,
            'schedule': {'beta_start': 0.02, 'beta_end': 0.02, 'num_train_steps': 20},
            'denoiser_schedule': {'beta_start': 0.01, 'beta_end': 0.01, 'num_train_steps': 30},
        }
    )
    enhancer.enhance(torch.full((2, 3, 2, 4), 0.5))
    seen = [t[0].item() for t in enhancer.denoiser.seen]
    exact = [(t + 1) * np.log(0.98) / np.log(0.99) - 1 for t in (16, 12, 8, 4, 0)]
    clamped = np.clip(exact, 0, 29)
    assert clamped[0] == 29
    # Between entries we are linear in log-SNR, not in log alpha_bar: nearly the same.
    np.testing.assert_allclose(seen, clamped, atol=0.05)
    assert all(t.dtype == torch.float32 and t.shape == (2,) for t in enhancer.denoiser.seen)


def test_noise_model_uses_the_unit_scale(monkeypatch, rng):
    seen = {}

    def sampler(denoiser, y, operator, sampling, **options):
        seen.update(sampling=sampling, y=y)
        return operator.A_pinv(y)

    monkeypatch.setattr('defsr.diffusion.strategies.ddnm_sample', sampler)
    lq = torch.rand(2, 3, 8, 8, generator=rng)
    enhancer = with_gaussian_denoiser(diffusion={'sigma_y': 0.05, 'travel': [3, 2]})
    de = enhancer.enhance(lq)
    assert seen['sampling'].sigma_y == pytest.approx(0.1)
    assert seen['sampling'].travel == (3, 2)
    assert_close(seen['y'], 2 * lq - 1)
    assert_close(de, enhancer.operator.A_pinv(lq - 0.5) + 0.5, rtol=0, atol=1e-5)


def test_noisy_input_is_not_forced_on_the_result(rng):
    lq = (0.5 + 0.3 * torch.randn(2, 3, 4, 6, generator=rng)).clamp(0, 1)
    results = {
        sigma_y: with_gaussian_denoiser(diffusion={'num_steps': 20, 'sigma_y': sigma_y})
        for sigma_y in (0.0, 0.2)
    }
    residuals = {s: e.residual(e.enhance(lq), lq)['unclamped'] for s, e in results.items()}
    assert residuals[0.0] < 1e-4
    assert residuals[0.2] > 0.1


def test_noise_follows_from_seed_and_content_not_from_the_batch(rng):
    lq = torch.rand(2, 3, 4, 6, generator=rng)
    enhancer = with_gaussian_denoiser(diffusion={'num_steps': 10})
    both = enhancer.enhance(lq)
    assert torch.equal(both, enhancer.enhance(lq))
    assert_close(enhancer.enhance(lq[1:]), both[1:], rtol=0, atol=1e-5)
    assert_close(enhancer.enhance(lq.flip(0)), both.flip(0), rtol=0, atol=1e-5)
    other = with_gaussian_denoiser(diffusion={'num_steps': 10, 'seed': 1})
    assert (other.enhance(lq) - both).abs().max() > 0.1


def test_one_tiny_image_through_a_narrow_network(build, rng):
    """1x1 features at the coarsest level, one value per group of the normalisation."""
    lq = torch.rand(1, 3, 2, 2, generator=rng)
    assert bool(build()(lq).isfinite().all())


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('size', [(9, 21), (24, 8)], ids=str)
def test_every_strategy_degrades_to_the_input(strategy, size, rng):
    """Windows of 32x32 on images of 36x84 and 96x32 pixels; stride 8."""
    lq = torch.rand(2, 3, *size, generator=rng)
    diffusion = {'num_steps': 5, 'strategy': strategy, 'tile': 32, 'overlap': 16}
    enhancer = with_gaussian_denoiser(diffusion=diffusion)
    de = enhancer.enhance(lq)
    assert de.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert enhancer.residual(de, lq)['unclamped'] < 1e-4
    assert_close(enhancer.enhance(lq[1:]), de[1:], rtol=0, atol=1e-5)


def test_a_tile_must_fit_the_denoiser():
    diffusion = {'strategy': 'blend', 'tile': 40}
    with pytest.raises(ValueError, match='tile is 40, but must be a multiple of 32.*Nearest: 32'):
        DDNMEnhancer(DENOISER, diffusion=diffusion)
    with pytest.raises(ValueError, match='strategy is .mask-shift.*Did you mean `mask_shift`'):
        DDNMEnhancer(DENOISER, diffusion={'strategy': 'mask-shift'})


def test_residual_of_each_form(rng):
    enhancer = BicubicEnhancer(4)
    de = 1.4 * torch.rand(2, 3, 16, 24, generator=rng) - 0.2
    lq = enhancer.operator.A(de)
    found = enhancer.residual(de, lq)
    assert list(found) == ['unclamped', 'clamped', 'rounded']
    assert found['unclamped'] == 0
    clamped = np.clip(de.numpy(), 0, 1)
    for key, form in [('clamped', clamped), ('rounded', np.rint(clamped * 255) / 255)]:
        expected = (enhancer.operator.A(torch.from_numpy(form)) - lq).abs().max().item()
        assert found[key] == pytest.approx(expected, abs=1e-6)
    assert found['clamped'] > 0.01


def test_is_frozen_and_stays_in_eval_mode(build, rng):
    enhancer = build()
    assert enhancer.costly
    enhancer.train()
    assert not any(module.training for module in enhancer.modules())
    assert not any(p.requires_grad for p in enhancer.parameters())
    lq = torch.rand(2, 3, 4, 4, generator=rng).requires_grad_()
    before = lq.detach().clone()
    assert not enhancer(lq).requires_grad
    assert torch.equal(lq.detach(), before)
    assert all(key.startswith('denoiser.') for key in enhancer.state_dict())


def test_progress_and_options_are_left_alone(rng):
    block = deepcopy(DENOISER)
    diffusion = {'num_steps': 3, 'travel': [1, 1], 'schedule': {'beta_end': 0.02}}
    given = deepcopy(diffusion)
    for _ in range(2):  # the second build would fail if the first had taken the type away
        enhancer = ARCH_REGISTRY.get('DDNMEnhancer')(denoiser=block, diffusion=diffusion)
    assert (block, diffusion) == (DENOISER, given)
    expected = NoiseSchedule.linear(1e-6, 0.02).alpha_bar
    assert torch.equal(enhancer.schedule.alpha_bar, expected)
    reports = []
    enhancer.enhance(torch.rand(2, 3, 2, 4, generator=rng), lambda *at: reports.append(at))
    assert reports == [(1, 3), (2, 3), (3, 3)]


def test_denoiser_may_have_another_precision_than_the_image(build, rng):
    enhancer = build()
    lq = torch.rand(2, 3, 4, 4, generator=rng)
    enhancer.denoiser.double()
    assert enhancer(lq).dtype == torch.float32


# ----------------------------------------------------------------------------------- checkpoints


def filled_with(model, value):
    return {key: torch.full_like(tensor, value) for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ('wrap', 'expected'),
    [
        (lambda make: make(1), 1),
        (lambda make: {'params': make(2)}, 2),
        (lambda make: {'params': make(1), 'params_ema': make(3)}, 3),
        (lambda make: {'ema': make(4), 'step': 7}, 4),
        (lambda make: {f'module.{key}': value for key, value in make(5).items()}, 5),
    ],
    ids=['bare', 'params', 'params_ema', 'ema', 'distributed'],
)
def test_containers_are_detected(tmp_path, wrap, expected):
    enhancer = DDNMEnhancer(DENOISER)
    torch.save(wrap(lambda value: filled_with(enhancer.denoiser, value)), tmp_path / 'w.pth')
    enhancer.load_weights(tmp_path / 'w.pth')
    assert all(bool((p == expected).all()) for p in enhancer.denoiser.parameters())


def test_container_can_be_chosen(tmp_path):
    enhancer = DDNMEnhancer(DENOISER)
    content = {key: filled_with(enhancer.denoiser, i) for i, key in enumerate(['params', 'ema'])}
    torch.save(content, tmp_path / 'w.pth')
    enhancer.load_weights(str(tmp_path / 'w.pth'), param_key='params')
    assert bool((enhancer.denoiser.out[2].bias == 0).all())
    with pytest.raises(ValueError, match='no state dict `params_ema`, but ema, params. Set'):
        enhancer.load_weights(tmp_path / 'w.pth', param_key='params_ema')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('out.2.bias'), r'1 missing \(out.2.bias\)'),
        (lambda s: s.update(extra=torch.zeros(1)), r'1 unexpected \(extra\)'),
        (
            lambda s: s.update({'out.2.bias': torch.zeros(3)}),
            r'1 of another shape \(out.2.bias \(3,\) for \(6,\)\)',
        ),
    ],
    ids=['missing', 'unexpected', 'shape'],
)
def test_another_architecture_is_refused_and_leaves_no_trace(tmp_path, change, message):
    enhancer = DDNMEnhancer(DENOISER)
    before = deepcopy(enhancer.denoiser.state_dict())
    state = filled_with(enhancer.denoiser, 1)
    change(state)
    torch.save({'params': state}, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=f'w.pth, which is of another architecture.*{message}'):
        enhancer.load_weights(tmp_path / 'w.pth')
    for key, value in enhancer.denoiser.state_dict().items():
        assert torch.equal(value, before[key])


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (exec, ('raise SystemError',))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (Trap(), 'path:pretrain_network_e is .*is no PyTorch file of plain tensors.*exec'),
        ([torch.zeros(2)], 'holds a list, expected a state dict'),
        ({'iter': 3, 'epoch': 1}, r"holds no state dict; its keys are \['epoch', 'iter'\]"),
        ({}, 'holds no state dict'),
    ],
    ids=['code', 'list', 'training state', 'empty'],
)
def test_other_files_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=message):
        DDNMEnhancer(DENOISER).load_weights(tmp_path / 'w.pth')


def test_torn_and_absent_files(tmp_path):
    enhancer = DDNMEnhancer(DENOISER)
    torch.save(filled_with(enhancer.denoiser, 1), tmp_path / 'w.pth')
    content = (tmp_path / 'w.pth').read_bytes()
    (tmp_path / 'torn.pth').write_bytes(content[: len(content) // 2])
    (tmp_path / 'empty.pth').touch()
    for name in ('torn.pth', 'empty.pth'):
        with pytest.raises(ValueError, match=f'{name}, which is no PyTorch file of plain tensors'):
            enhancer.load_weights(tmp_path / name)
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        enhancer.load_weights('nowhere.pth')


# --------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ('diffusion', 'message'),
    [
        ({'num_step': 5}, 'network_e:diffusion:num_step`. Did you mean `num_steps`'),
        ({'num_steps': 0}, 'diffusion:num_steps is 0'),
        ({'eta': -1}, 'diffusion:eta is -1'),
        ({'sigma_y': -1}, 'diffusion:sigma_y is -1'),
        ({'travel': [1]}, r'diffusion:travel is \(1,\), but must be two integers'),
        ({'seed': -1}, 'network_e:diffusion:seed is -1'),
        ({'schedule': {'beta_stop': 1}}, 'network_e:diffusion:schedule:beta_stop`. Did you mean'),
        ({'denoiser_schedule': 'adm'}, "network_e:diffusion:denoiser_schedule is 'adm'"),
        ({'strategy': 'blend', 'tile': 30}, 'network_e:diffusion:tile is 30, .* multiple of '),
        ({'strategy': 'blend', 'tile': 2}, 'network_e:diffusion:tile is 2, .*Nearest: (4|32)'),
        ({'strategy': 'blend', 'tile': 64, 'overlap': 62}, 'overlap is 62, .* at most 60'),
        (
            {'num_steps': 50, 'schedule': {'num_train_steps': 20}},
            'num_steps is 50, but the schedule has 20 levels',
        ),
    ],
    ids=str,
)
def test_bad_diffusion_options(diffusion, message):
    with pytest.raises(ValueError, match=message):
        DDNMEnhancer(DENOISER, diffusion=diffusion)
    where = 'methods:DEF:network_e'
    with pytest.raises(ValueError, match=message.replace('network_e', where)):
        DDNMEnhancer.check(where, {'denoiser': DENOISER, 'diffusion': diffusion})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'denoiser': {'image_size': 32}}, 'network_e:denoiser has no `type`'),
        ({'denoiser': None}, 'network_e:denoiser has no `type`'),
        ({'denoiser': {'type': 'ADMUnet'}}, "type is 'ADMUnet'.*Did you mean `ADMUNet`"),
        ({'degradation': 'bicubic'}, "network_e:degradation is 'bicubic'"),
        ({'scale': 1}, 'network_e:scale is 1'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DDNMEnhancer(**({'denoiser': DENOISER} | options))


@pytest.mark.parametrize(
    'block', [{'scale': 2.5}, {'degradation': 'pill'}, {'precision': 'fp8'}, {'compile': 1.5}]
)
def test_a_block_is_refused_without_a_denoiser(block):
    key, value = next(iter(block.items()))
    with pytest.raises(ValueError, match=f'a:b:{key} is {value!r}'):
        DDNMEnhancer.check('a:b', block)
    DDNMEnhancer.check('a:b', {'denoiser': None, 'diffusion': None})


def test_bad_image():
    with pytest.raises(ValueError, match=r'lq is torch.float32 of shape \(3, 4, 4\)'):
        DDNMEnhancer(DENOISER)(torch.zeros(3, 4, 4))


def test_sampling_options_reach_the_sampler(rng):
    """Each changes the result and leaves the data consistency alone."""
    lq = torch.rand(1, 3, 8, 12, generator=rng)
    changes = [
        {},
        {'rule': 'ddim', 'eta': 0.5},
        {'rule': 'ddpm'},
        {'grid': 'trailing'},
        {'start': 'lq', 'start_alpha_bar': 0.9},
        {'schedule': {'type': 'cosine', 'num_train_steps': 500}},
        {'denoiser_schedule': {'type': 'cosine'}},
    ]
    results = []
    for change in changes:
        enhancer = with_gaussian_denoiser(diffusion={'num_steps': 10} | change)
        results.append(enhancer.enhance(lq))
        assert enhancer.residual(results[-1], lq)['unclamped'] < 1e-4
    for i, result in enumerate(results):
        assert all((result - other).abs().max() > 1e-3 for other in results[:i])


def test_rounding_to_8_bit_is_a_noise_level(rng):
    """The standard deviation of an error that is uniform within half a level."""
    sigma = 1 / (255 * 12**0.5)
    lq = torch.rand(1, 3, 8, 8, generator=rng)
    noisy, named, clean = (
        with_gaussian_denoiser(diffusion={'num_steps': 10, 'sigma_y': value}).enhance(lq)
        for value in (sigma, 'quantization', 0.0)
    )
    assert torch.equal(noisy, named) and not torch.equal(noisy, clean)
    with pytest.raises(ValueError, match="sigma_y is 'quantisation'"):
        with_gaussian_denoiser(diffusion={'sigma_y': 'quantisation'})
