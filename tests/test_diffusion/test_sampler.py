"""The sampler against published numbers, dense matrices and closed-form Gaussian posteriors."""

from __future__ import annotations

import itertools
import math
import weakref

import pytest
import torch
from torch.testing import assert_close

from defsr.diffusion import (
    AveragePoolDownsample,
    BicubicDownsample,
    NoiseSchedule,
    SamplingOptions,
    ddnm_sample,
)
from defsr.diffusion.steps import noisy_shares, renoise, renoise_noisy
from defsr.diffusion.times import sampling_moves, time_grid

SCHEDULE = NoiseSchedule.linear(1e-6, 1e-2)
OPERATOR = BicubicDownsample(4)


def sampled(denoiser, y, *, operator=OPERATOR, **options):
    """``ddnm_sample``, its own arguments and the sampling options in one."""
    own = ('x_T', 'noise', 'generator', 'x0_start', 'progress')
    own = {key: options.pop(key) for key in own if key in options}
    return ddnm_sample(denoiser, y, operator, SamplingOptions(**options), **own)


def pseudo_noise(shape, seed):
    """The same numbers on every machine and with every library version."""
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return (2 * torch.frac(4e4 * torch.sin(n + seed).abs()) - 1).reshape(shape)


def gaussian_denoiser(mean, variance, operator=None, schedule=SCHEDULE):
    """Exact for x0 ~ N(mean, variance), independent per pixel or per spectral coefficient."""

    def denoiser(x_t, t):
        assert t.shape == x_t.shape[:1]
        assert t.is_floating_point()
        alpha_bar = schedule.alpha_bar_at(t).view(-1, 1, 1, 1)
        a, spread = alpha_bar.sqrt(), alpha_bar * variance + 1 - alpha_bar
        error = x_t - a * mean
        if operator is None:
            return (1 - alpha_bar).sqrt() * error / spread
        scaled = operator.to_spectral(error) / spread
        return (1 - alpha_bar).sqrt() * operator.from_spectral(scaled)

    return denoiser


def wavy_denoiser(x_t, t):
    """Not linear, with a variance half that must be ignored."""
    alpha_bar = SCHEDULE.alpha_bar_at(t).view(-1, 1, 1, 1)
    eps = x_t * (1 - alpha_bar).sqrt() / (0.25 * alpha_bar + 1 - alpha_bar)
    eps = eps + 0.1 * torch.sin(3 * x_t + t.view(-1, 1, 1, 1) / 100)
    return torch.cat([eps, x_t], dim=1)


# Made by running wyhuai/DDNM's functions/svd_ddnm.py (ddnm_diffusion, SRConv bicubic x4, 32x32)
# in float64 on the inputs below, with 'cuda' replaced by 'cpu' and randn_like by pseudo_noise.
# Both codes agree to 5e-15; the constants have ten digits.
GOLDEN = {
    (20, (1, 1), 0.85): [
        [0.3077377806, -0.1699152192, 0.4035486752, -0.0842121979],
        [0.5447614142, -0.3221912889, -0.2458014368, 0.3046016413],
        [-0.1057306373, 0.3020411858, 1.0370829217, -0.1317289152],
        [-0.1910042648, 1.8404070144, -0.1213901705, -0.338869225],
        [-0.7919693878, 0.8613391324, 0.4734387269, 0.2857346973],
        [-0.1863005567, 0.9263462977, 0.0217163038, 1.043172743],
    ],
    (10, (2, 3), 0.5): [
        [0.7411585865, -0.603623992, 0.15975873, -1.2146875328],
        [1.0014766063, -0.3582798503, -0.0237403377, 1.1607546379],
        [-0.0322655962, -0.0333470622, 0.6975955107, -0.305468549],
        [0.8304784449, 0.2879940689, -0.458146863, -0.2814316435],
        [-0.4604111401, 0.0011373618, 0.1820042973, -0.3482572178],
        [-0.6987661695, 0.7790115398, -0.1671226867, 0.8828084739],
    ],
}


@pytest.mark.parametrize(('num_steps', 'travel', 'eta'), GOLDEN, ids=str)
def test_published_ddnm(num_steps, travel, eta):
    out = sampled(
        wavy_denoiser,
        0.8 * pseudo_noise((2, 3, 8, 8), 1),
        num_steps=num_steps,
        eta=eta,
        travel=travel,
        x_T=1.7 * pseudo_noise((2, 3, 32, 32), 2),
        noise=(1.7 * pseudo_noise((2, 3, 32, 32), seed) for seed in itertools.count(3)),
    )
    golden = torch.tensor(GOLDEN[num_steps, travel, eta], dtype=torch.float64)
    assert_close(out[:, :, 7::16, 3::16].reshape(6, 4), golden, rtol=0, atol=1e-8)


# From get_schedule_jump of wyhuai/DDNM's functions/svd_ddnm.py: (T_sampling, length, repeat).
# fmt: off
PUBLISHED_TIMES = {
    (5, 1, 1): [4, 3, 2, 1, 0, -1],
    (5, 1, 2): [4, 3, 4, 3, 2, 3, 2, 1, 2, 1, 0, 1, 0, -1],
    (12, 3, 2): [11, 10, 9, 8, 7, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0, 1, 2,
                 3, 2, 1, 0, -1],
    (7, 2, 4): [6, 5, 4, 5, 6, 5, 4, 5, 6, 5, 4, 5, 6, 5, 4, 3, 2, 3, 4, 3, 2, 3, 4, 3, 2, 3, 4,
                3, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0, -1],
    (10, 10, 5): [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, -1],
}
# fmt: on


@pytest.mark.parametrize('settings', PUBLISHED_TIMES, ids=str)
def test_times_are_the_published_ones(settings):
    num_steps, *travel = settings
    moves = sampling_moves(range(num_steps), travel)
    assert [moves[0][0], *(t_next for _, t_next in moves)] == PUBLISHED_TIMES[settings]
    assert all(moves[i][1] == moves[i + 1][0] for i in range(len(moves) - 1))


def test_grid_starts_below_the_last_timestep():
    moves = sampling_moves(time_grid(SCHEDULE, 20))
    assert moves[:2] == [(950, 900), (900, 850)]
    assert moves[-1] == (0, -1)


def test_denoiser_sees_the_expected_times_and_progress_counts_its_calls(rng):
    seen, reports = [], []

    def denoiser(x_t, t):
        assert t.dtype == torch.float32
        seen.append(t.tolist())
        return 0.5 * x_t

    y = torch.zeros(2, 3, 2, 3)
    options = {'num_steps': 5, 'generator': rng, 'progress': lambda *at: reports.append(at)}
    sampled(denoiser, y, travel=(1, 2), **options)
    assert [t[0] for t in seen] == [800, 800, 600, 600, 400, 400, 200, 200, 0]
    assert all(a == b for a, b in seen)
    assert reports == [(i, 9) for i in range(1, 10)]


def test_last_noise_draw_is_made_and_weightless(rng):
    y = torch.rand(2, 3, 2, 3, generator=rng)
    draws = [torch.randn(2, 3, 8, 12, generator=rng) for _ in range(5)]
    run = {'num_steps': 4, 'eta': 1.0}
    out = sampled(wavy_denoiser, y, noise=iter(draws), **run)
    changed = sampled(wavy_denoiser, y, noise=[*draws[:4], 9 * draws[4]], **run)
    assert torch.equal(out, changed)
    # The first item was x_T:
    given = sampled(wavy_denoiser, y, noise=draws[1:], x_T=draws[0], **run)
    assert torch.equal(out, given)
    with pytest.raises(ValueError, match='noise ran out'):
        sampled(wavy_denoiser, y, noise=draws[:4], **run)


@pytest.mark.parametrize('operator', [OPERATOR, AveragePoolDownsample(4)], ids=repr)
@pytest.mark.parametrize('size', [(4, 10), (3, 1)], ids=str)
def test_result_degrades_to_the_measurement(operator, size, rng):
    y = 2 * torch.rand(2, 3, *size, generator=rng) - 1
    out = sampled(wavy_denoiser, y, operator=operator, num_steps=7, generator=rng)
    assert out.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert out.dtype == y.dtype
    assert_close(operator.A(out), y, rtol=0, atol=1e-4)  # float32 at values up to about 4


def spectral_prior(height, width):
    """A Gaussian whose coefficients in the operator's basis are independent, all different."""
    variance = 0.05 + pseudo_noise((height, width), 5).abs()
    return pseudo_noise((1, 1, height, width), 6), variance


def test_deterministic_sampling_of_a_gaussian_follows_the_exact_flow(rng):
    """With eta = 0 the null space is transported by DDIM's flow, which has a closed form.

    A coefficient with mean m and variance v keeps its distance from a * m in units of
    sqrt(alpha_bar * v + 1 - alpha_bar). Range space: A_pinv y. 250 Euler steps: 2 %.
    """
    mean, variance = spectral_prior(16, 40)
    x_t = torch.randn(2, 3, 16, 40, generator=rng, dtype=torch.float64)
    y = torch.randn(2, 3, 4, 10, generator=rng, dtype=torch.float64)
    denoiser = gaussian_denoiser(mean, variance, OPERATOR)
    out = sampled(denoiser, y, num_steps=250, eta=0, x_T=x_t)
    alpha_bar = float(SCHEDULE.alpha_bar_at(996))
    mean_z, start_z = OPERATOR.to_spectral(mean), OPERATOR.to_spectral(x_t)
    unit = (alpha_bar * variance + 1 - alpha_bar).sqrt()
    expected = mean_z + variance.sqrt() / unit * (start_z - alpha_bar**0.5 * mean_z)
    null = OPERATOR.singular_values(16, 40) == 0
    assert_close(OPERATOR.to_spectral(out)[..., null], expected[..., null], rtol=0, atol=0.06)
    error = (OPERATOR.to_spectral(out) - expected)[..., null].square().mean().sqrt()
    assert error < 0.02 * expected[..., null].std()
    assert_close(OPERATOR.A(out), y, rtol=0, atol=1e-10)


def sampled_variance(variance, num_steps, eta, rule='ddnm', start_alpha_bar=0.0):
    """The variance the recursion of the sampler gives a coefficient that no one measures."""
    times = time_grid(SCHEDULE, num_steps, start_alpha_bar=start_alpha_bar)
    # A warm start has noise alone there, since A_pinv y is 0 in the null space.
    spread = 1 - float(SCHEDULE.alpha_bar_at(times[-1])) if start_alpha_bar else 1.0
    for t, t_next in sampling_moves(times):
        now, then = (float(SCHEDULE.alpha_bar_at(at)) for at in (t, t_next))
        eps = (1 - now) ** 0.5 / (now * variance + 1 - now)
        x0 = (1 - (1 - now) ** 0.5 * eps) / now**0.5
        if rule == 'ddnm':
            fresh = (1 - then) ** 0.5 * eta
            factor = then**0.5 * x0 + (1 - then) ** 0.5 * (1 - eta**2) ** 0.5 * eps
        else:
            posterior = ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
            fresh = posterior if rule == 'ddpm' else eta * posterior
            factor = then**0.5 * x0 + (1 - then - fresh**2) ** 0.5 * eps
        spread = factor**2 * spread + fresh**2
    return spread


@pytest.mark.parametrize(
    ('rule', 'eta'), [*itertools.product(('ddnm', 'ddim'), (0.0, 0.85, 1.0)), ('ddpm', 0.3)]
)
def test_variance_of_a_gaussian_posterior(rule, eta, rng):
    """8640 unmeasured coefficients: their variance has a standard error of 1.5 %."""
    variance, num_steps = 0.25, 60
    y = torch.randn(2, 3, 8, 12, generator=rng)
    denoiser = gaussian_denoiser(0.0, variance)
    options = {'num_steps': num_steps, 'eta': eta, 'generator': rng, 'rule': rule}
    out = sampled(denoiser, y, **options)
    null = OPERATOR.to_spectral(out)[..., OPERATOR.singular_values(32, 48) == 0]
    expected = sampled_variance(variance, num_steps, eta, rule)
    assert null.var().item() == pytest.approx(expected, rel=0.06)
    assert abs(null.mean().item()) < 4 * (variance / null.numel()) ** 0.5
    assert_close(OPERATOR.A(out), y, rtol=0, atol=1e-4)


def test_which_rules_converge_to_the_posterior():
    """DDNM's eta is a share per step: the published rule contracts, however fine the steps.

    DDIM and DDPM converge to the prior's variance of 0.25 whatever the noise.
    """
    assert sampled_variance(0.25, 1000, 0.0) == pytest.approx(0.25, rel=0.01)
    assert sampled_variance(0.25, 1000, 0.85) == pytest.approx(0.188, abs=0.001)
    assert sampled_variance(0.25, 1000, 1.0) == pytest.approx(0.123, abs=0.001)
    for rule, eta in (('ddim', 0.0), ('ddim', 0.85), ('ddim', 1.0), ('ddpm', 0.0)):
        assert sampled_variance(0.25, 1000, eta, rule) == pytest.approx(0.25, rel=0.015)


def test_covariance_of_a_correlated_gaussian(rng):
    """A prior with a spectrum: every unmeasured coefficient gets its own variance.

    20 x 3 samples of each: the ratio to theory, averaged over 84 coefficients, has a standard
    error of 2 %; two neighbours are uncorrelated within 1 / sqrt(5040).
    """
    mean, variance = spectral_prior(8, 12)
    y = OPERATOR.A(OPERATOR.from_spectral(mean.expand(20, 3, 8, 12).clone()))
    denoiser = gaussian_denoiser(0.0, variance, OPERATOR)
    options = {'num_steps': 500, 'eta': 1.0, 'rule': 'ddim', 'generator': rng}
    out = OPERATOR.to_spectral(sampled(denoiser, 0 * y, **options))
    null = OPERATOR.singular_values(8, 12) == 0
    scaled = out[..., null] / variance[null].sqrt()
    assert scaled.square().mean().item() == pytest.approx(1, abs=0.06)
    neighbours = (scaled[..., 1:] * scaled[..., :-1]).mean().item()
    assert abs(neighbours) < 4 / 5040**0.5
    measured = out[..., ~null]
    assert measured.abs().max() < 1e-4, 'what is measured has no freedom left'


def test_a_warm_start_sees_the_lower_levels_only(rng):
    seen = []

    def denoiser(x_t, t):
        seen.append(float(t[0]))
        return gaussian_denoiser(0.0, 0.25)(x_t, t)

    y = torch.randn(2, 3, 8, 12, generator=rng)
    options = {'num_steps': 40, 'eta': 0.0, 'generator': rng}
    options |= {'start': 'lq', 'start_alpha_bar': 0.6, 'x_T': torch.zeros(2, 3, 32, 48)}
    sampled(denoiser, y, **options)
    levels = SCHEDULE.alpha_bar_at(torch.tensor(seen))
    assert 0.6 <= levels.min() < 0.7 and len(seen) == 40
    options['x_T'] = None
    out = sampled(denoiser, y, **options)
    null = OPERATOR.to_spectral(out)[..., OPERATOR.singular_values(32, 48) == 0]
    expected = sampled_variance(0.25, 40, 0.0, start_alpha_bar=0.6)
    assert null.var().item() == pytest.approx(expected, rel=0.06)
    assert_close(OPERATOR.A(out), y, rtol=0, atol=1e-4)


@pytest.mark.parametrize('rule', ['ddnm', 'ddim', 'ddpm'])
@pytest.mark.parametrize('temperature', [0.0, 0.6])
def test_temperature_scales_all_noise(temperature, rule, rng):
    """For a Gaussian prior the sampler is linear: with mean 0 each sample is just scaled."""
    y = torch.zeros(2, 3, 4, 6)
    draws = torch.randn(60, 2, 3, 16, 24, generator=rng)
    options = {'num_steps': 20, 'eta': 0.5, 'travel': (5, 2), 'start': 'lq', 'rule': rule}
    denoiser = gaussian_denoiser(0.0, 0.25)
    full, cool = (
        sampled(denoiser, y, noise=draws, temperature=factor, **options)
        for factor in (1.0, temperature)
    )
    assert full.std() > 0.2, 'there is something to scale'
    assert_close(cool, temperature * full, rtol=0, atol=1e-5)


def test_at_temperature_0_the_denoiser_sees_no_noise(rng):
    """Plug-and-play: it is asked at a falling level, and gets the rectified image itself."""
    y = torch.rand(2, 3, 4, 6, generator=rng)
    seen = []

    def denoiser(x_t, t):
        alpha_bar = SCHEDULE.alpha_bar_at(t).view(-1, 1, 1, 1).to(x_t)
        seen.append((float(alpha_bar[0]), x_t / alpha_bar.sqrt()))
        return (x_t - 0.9 * x_t.mean()) * (1 - alpha_bar).sqrt()

    options = {'num_steps': 5, 'start': 'lq', 'end_alpha_bar': 0.99, 'temperature': 0, 'eta': 1.0}
    out = sampled(denoiser, y, generator=rng, **options)
    levels = [level for level, _ in seen]
    assert levels == sorted(levels) and levels[0] >= 0.5 and levels[-1] <= 0.99
    assert_close(seen[0][1], OPERATOR.A_pinv(y), rtol=0, atol=1e-5)
    for _, image in seen:
        assert_close(OPERATOR.A(image), y, rtol=0, atol=1e-5)
    other = sampled(denoiser, y, generator=rng, **options)
    assert torch.equal(out, other), 'nothing in it is random'


def test_a_warm_start_from_another_image(rng):
    """With the smallest step it comes back, made consistent; of the wrong shape it is refused."""
    y = torch.randn(2, 3, 4, 6, generator=rng, dtype=torch.float64)
    image = torch.randn(2, 3, 16, 24, generator=rng, dtype=torch.float64)
    options = {'num_steps': 1, 'start': 'lq', 'start_alpha_bar': 1 - 2e-6, 'generator': rng}
    options |= {'x0_start': image}
    out = sampled(lambda x_t, t: 0 * x_t, y, **options)
    assert_close(out, OPERATOR.project(image, y), rtol=0, atol=0.02)
    options['x0_start'] = image[:1]
    with pytest.raises(ValueError, match=r'x0_start is \(1, 3, 16, 24\), but must be'):
        sampled(lambda x_t, t: 0 * x_t, y, **options)


@pytest.mark.parametrize('share', [0.5, 1.0])
def test_an_extrapolation_goes_on_from_the_one_before(share, rng):
    """One step after the other by hand; the result degrades to the measurement."""
    y = torch.rand(2, 3, 5, 6, generator=rng, dtype=torch.float64) - 0.5
    options = {'start': 'lq', 'start_alpha_bar': 0.8, 'temperature': 0.0, 'eta': 1.0}
    options |= {'num_steps': 3, 'grid': 'log_snr', 'generator': torch.Generator()}
    asked = []

    def denoiser(x_t, t):
        asked.append((x_t, SCHEDULE.alpha_bar_at(t)[0]))
        return wavy_denoiser(x_t, t)

    made = sampled(denoiser, y, extrapolation=share, **options)
    before = carried = OPERATOR.A_pinv(y)
    for x_t, alpha_bar in asked:
        assert_close(x_t, alpha_bar.sqrt() * carried)
        eps = wavy_denoiser(x_t, torch.full((2,), float(SCHEDULE.timesteps_at(alpha_bar))))[:, :3]
        x0 = (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
        rectified = OPERATOR.project(x0, y)
        carried, before = rectified + share * (rectified - before), rectified
    assert_close(made, carried)
    assert_close(OPERATOR.A(made), y)


def test_the_smallest_warm_start_gives_a_pinv_back(rng):
    y = torch.randn(2, 3, 4, 6, generator=rng, dtype=torch.float64)
    options = {'num_steps': 1, 'start': 'lq', 'start_alpha_bar': 1 - 2e-6, 'generator': rng}
    out = sampled(lambda x_t, t: 0 * x_t, y, **options)
    assert_close(out, OPERATOR.A_pinv(y), rtol=0, atol=0.01)


def dense_ddnm_plus(y, x_t, noises, *, num_steps, eta, sigma_y):
    """DDNM+ of one single-channel image by loops over the singular vectors of a dense A."""
    height, width = x_t.shape
    basis = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    left, singular, right_t = torch.linalg.svd(OPERATOR.A(basis).flatten(1).T)
    coefficients = {'fits': 0, 'weakened': 0}
    state = x_t
    for (t, t_next), noise in zip(
        sampling_moves(time_grid(SCHEDULE, num_steps)), noises, strict=True
    ):
        now, then = (float(SCHEDULE.alpha_bar_at(at)) for at in (t, t_next))
        eps = wavy_denoiser(state[None, None], torch.tensor([float(t)]))[0, 0]
        x0 = (state - math.sqrt(1 - now) * eps) / math.sqrt(now)
        a, sigma = math.sqrt(then), math.sqrt(1 - then)
        z0, z_eps, z_noise = (right_t @ part.flatten() for part in (x0, eps, noise))
        z_y = left.T @ y.flatten()
        after = torch.empty_like(z0)
        for i in range(height * width):
            if i >= len(singular):
                mixture = eta * z_noise[i] + math.sqrt(1 - eta**2) * z_eps[i]
                after[i] = a * z0[i] + sigma * mixture
                continue
            s = float(singular[i])
            if sigma >= a * sigma_y / s:
                weight, fresh = 1.0, math.sqrt(sigma**2 - (a * sigma_y / s) ** 2)
                coefficients['fits'] += 1
            else:
                weight = s * sigma * math.sqrt(1 - eta**2) / (a * sigma_y)
                fresh = sigma * eta
                coefficients['weakened'] += 1
            after[i] = a * (z0[i] - weight * (z0[i] - z_y[i] / s)) + fresh * z_noise[i]
        state = (right_t.T @ after).view(height, width)
    assert min(coefficients.values()) > 20  # both branches were needed
    return state


def test_ddnm_plus_is_the_paper_in_dense_loops(rng):
    settings = {'num_steps': 10, 'eta': 0.6, 'sigma_y': 0.3}
    y = torch.randn(2, 1, 2, 4, generator=rng, dtype=torch.float64)
    x_t, *noises = torch.randn(11, 2, 1, 8, 16, generator=rng, dtype=torch.float64)
    out = sampled(wavy_denoiser, y, x_T=x_t, noise=noises, **settings)
    for i in range(2):
        expected = dense_ddnm_plus(y[i], x_t[i, 0], [n[i, 0] for n in noises], **settings)
        assert_close(out[i, 0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('eta', [0.0, 0.85, 1.0])
@pytest.mark.parametrize('alpha_bar_next', [0.01, 0.5, 0.99, 1.0])
def test_noise_of_every_coefficient_adds_up(eta, alpha_bar_next):
    """Noise of y, let through by the correction, plus ours is sigma_t^2 (DDNM's condition)."""
    sigma_y = 0.3
    singular = torch.tensor([[1.2, 0.9], [0.35, 0.0]], dtype=torch.float64)
    correction, fresh, kept = noisy_shares(singular, alpha_bar_next, eta, sigma_y)
    through = correction * alpha_bar_next**0.5 * sigma_y / singular
    through = torch.where(singular > 0, through, 0)
    total = through**2 + fresh**2 + kept**2
    assert_close(total, torch.full_like(total, 1 - alpha_bar_next), rtol=0, atol=1e-12)
    sigma_t = (1 - alpha_bar_next) ** 0.5
    assert fresh[1, 1] == pytest.approx(sigma_t * eta)
    assert kept[1, 1] == pytest.approx(sigma_t * (1 - eta**2) ** 0.5)
    if alpha_bar_next == 1.0:
        assert bool((correction[singular > 0] == 0).all())  # the last step corrects nothing


def test_spectral_noise_with_ddnm_shares_is_ddnm(rng):
    x0, eps, noise = torch.randn(3, 2, 3, 16, 40, generator=rng, dtype=torch.float64)
    sigma_t, ones = 0.6**0.5, torch.ones(16, 40, dtype=torch.float64)
    shares = (sigma_t * 0.85 * ones, sigma_t * (1 - 0.85**2) ** 0.5 * ones)
    result = renoise_noisy(x0, eps, noise, 0.4, OPERATOR, shares)
    assert_close(result, renoise(x0, eps, noise, 0.4, 0.85), rtol=0, atol=1e-10)


def test_without_noise_ddnm_plus_is_ddnm(rng):
    y = torch.rand(2, 3, 4, 10, generator=rng, dtype=torch.float64)
    draws = torch.randn(21, 2, 3, 16, 40, generator=rng, dtype=torch.float64)

    def sample(**options):
        return sampled(wavy_denoiser, y, num_steps=20, noise=draws, **options)

    plain = sample(eta=0.85)
    assert torch.equal(plain, sample(eta=0.85, sigma_y=0.0))
    # Limit: for tiny noise only the last step differs, which starts at a noise std of 1e-3.
    limit = sample(eta=1.0, sigma_y=1e-9)
    assert_close(limit, sample(eta=1.0), rtol=0, atol=0.02)
    assert not torch.equal(limit, sample(eta=1.0))


def test_noise_model_improves_a_noisy_measurement(rng):
    """Prior N(0.1, 0.25), y with noise: the posterior is known per spectral coefficient."""
    mean, variance, sigma_y = 0.1, 0.25, 0.3
    x = mean + variance**0.5 * torch.randn(2, 3, 32, 48, generator=rng, dtype=torch.float64)
    clean = OPERATOR.A(x)
    y = clean + sigma_y * torch.randn(clean.shape, generator=rng, dtype=torch.float64)
    singular = OPERATOR.singular_values(32, 48)
    seen = singular > 0
    post_variance = 1 / (1 / variance + singular[seen] ** 2 / sigma_y**2)
    prior_z = OPERATOR.to_spectral(torch.full_like(x, mean))[..., seen]
    y_z = OPERATOR.to_spectral(OPERATOR.A_pinv(y))[..., seen]
    gain = post_variance * singular[seen] ** 2 / sigma_y**2
    post_mean = prior_z + gain * (y_z - prior_z)

    def sample(sigma):
        out = sampled(
            gaussian_denoiser(mean, variance),
            y,
            num_steps=100,
            sigma_y=sigma,
            generator=torch.Generator().manual_seed(3),
        )
        deviation = (OPERATOR.to_spectral(out)[..., seen] - post_mean) / post_variance.sqrt()
        return out, deviation.square().mean().item()

    trusting, off = sample(0.0)
    careful, calibrated = sample(sigma_y)
    # A perfect sampler has 1 (576 coefficients: +- 0.06); believing the noise gives about 9.
    assert 0.7 < calibrated < 1.2
    assert off > 5
    assert (careful - x).square().mean() < 0.9 * (trusting - x).square().mean()


def test_a_sample_does_not_depend_on_its_batch(rng):
    y = torch.rand(2, 3, 4, 6, generator=rng)

    def sample(indices):
        generators = [torch.Generator().manual_seed(40 + i) for i in indices]
        return sampled(wavy_denoiser, y[indices], num_steps=8, generator=generators)

    both = sample([0, 1])
    assert_close(both[:1], sample([0]), rtol=0, atol=1e-5)
    assert_close(both[1:], sample([1]), rtol=0, atol=1e-5)
    assert_close(both.flip(0), sample([1, 0]), rtol=0, atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 0.1


def test_a_seed_means_the_same_noise_in_every_dtype(rng):
    y = torch.rand(2, 3, 4, 6, generator=rng)
    single, double = (
        sampled(
            gaussian_denoiser(0.0, 0.3),
            y.to(dtype),
            num_steps=8,
            generator=torch.Generator().manual_seed(0),
        )
        for dtype in (torch.float32, torch.float64)
    )
    assert double.dtype == torch.float64
    assert_close(single.double(), double, rtol=0, atol=1e-4)


def test_inputs_are_left_alone_and_no_gradient_is_kept(rng):
    y = torch.rand(2, 3, 4, 6, generator=rng).requires_grad_()
    x_t = torch.randn(2, 3, 16, 24, generator=rng)
    before = x_t.clone()
    out = sampled(wavy_denoiser, y, num_steps=3, x_T=x_t, generator=rng)
    assert not out.requires_grad
    assert torch.equal(x_t, before)


@pytest.mark.parametrize('sigma_y', [0.0, 0.1])
def test_memory_does_not_grow_with_the_steps(sigma_y, rng):
    states, alive = [], []

    def denoiser(x_t, t):
        alive.append(sum(state() is not None for state in states))
        eps = 0.5 * x_t
        states.extend((weakref.ref(x_t), weakref.ref(eps)))
        return eps

    options = {'num_steps': 30, 'travel': (2, 2), 'sigma_y': sigma_y, 'generator': rng}
    sampled(denoiser, torch.zeros(2, 3, 2, 3), **options)
    assert len(alive) > 30
    assert max(alive) <= 4


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'num_steps': 0}, 'diffusion:num_steps is 0, but must be at least 1'),
        ({'num_steps': 1001}, 'diffusion:num_steps is 1001, but the schedule has 1000 levels'),
        ({'num_steps': 900, 'start': 'lq'}, 'num_steps is 900.*with alpha_bar in 0.5 '),
        ({'start': 'lr'}, "diffusion:start is 'lr'"),
        ({'start_alpha_bar': 2}, 'start_alpha_bar is 2'),
        ({'extrapolation': 1.0}, 'extrapolation is 1.0, but a start from noise has nothing'),
        ({'extrapolation': -1, 'start': 'lq'}, 'extrapolation is -1, but must be at least 0'),
        ({'grid': 'linear'}, "diffusion:grid is 'linear'"),
        ({'rule': 'ddimm'}, 'Did you mean `ddim`'),
        ({'rule': 'ddim', 'sigma_y': 0.1}, 'rule is ddim, but a noisy input .sigma_y = 0.1'),
        ({'num_steps': 2.5}, 'diffusion:num_steps is 2.5, but must be a whole number'),
        ({'eta': 1.2}, 'diffusion:eta is 1.2, but must be at most 1'),
        ({'sigma_y': -0.1}, 'diffusion:sigma_y is -0.1'),
        ({'travel': 3}, 'diffusion:travel is 3, but must be two integers'),
        ({'travel': (0, 2)}, 'diffusion:travel length is 0'),
        ({'travel': (1, 0.5)}, 'diffusion:travel repeats is 0.5, but must be a whole number'),
        ({'x_T': torch.zeros(2, 3, 8, 8)}, r'x_T is \(2, 3, 8, 8\), but must be \(2, 3, 8, 12\)'),
        ({'noise': [torch.zeros(1)]}, r'noise is \(1,\), but must be \(2, 3, 8, 12\)'),
        ({'noise': [], 'generator': torch.Generator()}, 'Both noise and generator'),
        ({'generator': [torch.Generator()]}, '1 generators for 2 samples'),
    ],
)
def test_bad_options(change, message):
    options = {'num_steps': 4} | change
    with pytest.raises(ValueError, match=message):
        sampled(wavy_denoiser, torch.zeros(2, 3, 2, 3), **options)


def test_bad_tensors():
    with pytest.raises(ValueError, match=r'y is torch.int64 of shape \(2, 3, 2, 3\)'):
        y = torch.zeros(2, 3, 2, 3, dtype=torch.int64)
        sampled(wavy_denoiser, y, num_steps=4)
    with pytest.raises(ValueError, match=r'The denoiser made \(2, 4, 8, 12\).*num_out_ch'):
        sampled(
            lambda x_t, t: x_t.new_zeros(2, 4, 8, 12),
            torch.zeros(2, 3, 2, 3),
            num_steps=4,
        )
