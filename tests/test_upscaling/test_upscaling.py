"""``defsr.upscale``: kinds in, the same kinds out; tiles; references; what is refused."""

from __future__ import annotations

import logging
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from references import references
from workspaces import DENOISER, UPSCALE, save_options, write_prior

from defsr.config.files import load_options
from defsr.diffusion.degradation import Degradation
from defsr.images.photo import from_levels, to_grey
from defsr.methods.base import STAGES
from defsr.ops.resize import upsample_bicubic
from defsr.upscaling import NETWORK, Upscaler, limit_references, upscale


@pytest.fixture(autouse=True)
def small_network(network, monkeypatch):
    monkeypatch.setattr(Upscaler.__init__, '__defaults__', (None, 'auto', network))


def test_the_network_does_something_with_the_references(upscaler, lq, refs, sr):
    bicubic = upsample_bicubic(lq, 4).clamp(0, 1)
    assert sr.shape == (1, 3, 80, 104)
    assert sr.min() >= 0 and sr.max() <= 1
    assert (sr - bicubic).abs().mean() > 0.01
    assert (sr - upscaler(lq, refs[:1], tile=None)).abs().max() > 0.01


def test_one_tile_is_no_tiling(upscaler, lq, refs, sr):
    restorer = upscaler.restorer
    whole = restorer.method.super_resolve(restorer.net_g, lq, references(refs)).sr.clamp(0, 1)
    torch.testing.assert_close(sr, whole, rtol=0, atol=0)
    torch.testing.assert_close(upscaler(lq, refs, tile=26), whole, rtol=0, atol=0)


def test_one_piece_however_large(upscaler, refs):
    seen = []
    upscaler(torch.zeros(3, 4, 104), refs, tile=None, progress=lambda *state: seen.append(state))
    assert seen[-1] == ('restore', 1, 1)


def test_tiles_agree_with_the_whole(upscaler, lq, refs, sr):
    """The context of 16 pixels covers what a one-block network sees: rounding alone is left."""
    tiled = upscaler(lq, refs, tile=16, overlap=16)
    torch.testing.assert_close(tiled, sr, rtol=0, atol=1e-4)
    bare = upscaler(lq, refs, tile=16, overlap=0)
    assert (bare - sr).abs().max() > 1e-3  # without context the seams would show


def test_progress_goes_through_the_stages_in_order(upscaler, lq, refs):
    seen = []
    upscaler(lq, refs, tile=16, overlap=4, progress=lambda *state: seen.append(state))
    stages = [stage for stage in STAGES if stage != 'rectify']
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == stages
    for stage in stages:
        counts = [(done, total) for name, done, total in seen if name == stage]
        assert counts[0][0] == 0 and counts[-1][0] == counts[-1][1]
    assert [done for stage, done, total in seen if stage == 'restore' and total == 4] == [*range(5)]


def test_without_training_it_is_bicubic(tmp_path, network, lq, refs):
    net = build_network(load_options(network)['network_g'])
    torch.save(net.state_dict(), tmp_path / 'bare.pth')
    result = upscale(lq, refs, weights=tmp_path / 'bare.pth')
    torch.testing.assert_close(result, upsample_bicubic(lq, 4).clamp(0, 1))


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (5, 2)])
@pytest.mark.parametrize('ref_size', [(4, 4), (7, 33)])
def test_tiny_images(upscaler, rng, size, ref_size):
    lq, ref = torch.rand(1, 3, *size, generator=rng), torch.rand(1, 3, *ref_size, generator=rng)
    result = upscaler(lq, [ref])
    assert result.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert result.isfinite().all()


# -- kinds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float16', 'float32', 'float64'])
@pytest.mark.parametrize('channels', [0, 3, 4])
def test_numpy_kinds(upscaler, weights, refs, dtype, channels):
    top = np.iinfo(dtype).max if dtype.startswith('u') else 1
    generator = np.random.default_rng(4)
    shape = (9, 13, channels) if channels else (9, 13)
    values = generator.random(shape)
    lq = np.round(values * top).astype(dtype) if top > 1 else values.astype(dtype)
    result = upscale(lq, refs[0], weights=weights)
    assert result.dtype == lq.dtype
    assert result.shape == (36, 52, *shape[2:])

    exact = torch.from_numpy(np.atleast_3d(lq).astype(np.float64) / top).float()
    exact = exact.permute(2, 0, 1)[None]
    want = upscaler(exact[:, :3].expand(-1, 3, -1, -1), refs[:1])
    if channels == 4:
        want = torch.cat((want, upsample_bicubic(exact[:, 3:], 4).clamp(0, 1)), dim=1)
    want = to_grey(want) if channels == 0 else want
    want = want[0].permute(1, 2, 0).numpy().reshape(result.shape)
    # half a level after rounding; half precision has steps of 2^-11 below 1
    tolerance = 0.5 / top if top > 1 else 2**-11 if dtype == 'float16' else 1e-5
    np.testing.assert_allclose(result / top, want, rtol=0, atol=tolerance + 1e-6)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('num_dims', [3, 4])
def test_tensor_kinds(weights, lq, refs, sr, dtype, num_dims):
    given = (lq if num_dims == 4 else lq[0]).to(dtype)
    before = given.clone()
    result = upscale(given, [refs[0], refs[1][0].numpy().transpose(1, 2, 0)], weights=weights)
    assert result.dtype == dtype
    torch.testing.assert_close(result, (sr if num_dims == 4 else sr[0]).to(dtype))
    torch.testing.assert_close(given, before, rtol=0, atol=0)


def test_reference_alpha_and_channel_order(weights, lq, sr, refs):
    """RGB order in, RGB order out; what a reference's alpha says does not matter."""
    levels = [(ref[0].permute(1, 2, 0).numpy() * 65535).round().astype(np.uint16) for ref in refs]
    levels[0] = np.dstack((levels[0], np.zeros_like(levels[0][..., :1])))
    result = upscale(lq, levels, weights=weights)
    torch.testing.assert_close(result, sr, rtol=0, atol=1e-3)


# -- references -----------------------------------------------------------------------------------


def test_references_share_the_limit(caplog, monkeypatch):
    small, large = torch.full((1, 3, 100, 50), 0.25), torch.full((1, 3, 200, 300), 0.75)
    monkeypatch.setattr(logging.getLogger('basicsr'), 'propagate', True)
    limited = limit_references([small, large], 0.03)
    assert limited[0] is small
    assert limited[1].shape == (1, 3, 100, 150)
    torch.testing.assert_close(limited[1], torch.full_like(limited[1], 0.75))
    assert 'Reference 2 is reduced from 200x300 to 100x150 (HxW)' in caplog.text


# -- options, weights, device ---------------------------------------------------------------------


def test_ema_weights_come_first(tmp_path, weights, lq, refs, sr):
    good = torch.load(weights, weights_only=True)['params']
    bad = {key: torch.zeros_like(value) for key, value in good.items()}
    torch.save({'params': bad, 'params_ema': good}, tmp_path / 'both.pth')
    torch.testing.assert_close(upscale(lq, refs, weights=tmp_path / 'both.pth'), sr)


def test_weights_that_cannot_be_used(tmp_path, network):
    net = build_network(load_options(network)['network_g'])
    state = net.state_dict()
    state.popitem()
    torch.save({'params': state}, tmp_path / 'short.pth')
    message = 'weights is .*of another architecture than network_g of .*: 1 missing'
    with pytest.raises(ValueError, match=message):
        Upscaler(tmp_path / 'short.pth', 'cpu', network)
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match='weights is .*holds a list, expected a state dict'):
        Upscaler(tmp_path / 'list.pth', 'cpu', network)
    torch.save({'params': Path('x')}, tmp_path / 'code.pth')
    (tmp_path / 'text.pth').write_text('hello')
    for name in ('code.pth', 'text.pth'):
        with pytest.raises(ValueError, match='is no PyTorch file of plain tensors'):
            Upscaler(tmp_path / name, 'cpu', network)
    with pytest.raises(FileNotFoundError, match='pretrain_network_g is not_there.pth, which does'):
        Upscaler()


def test_network_description(tmp_path, weights):
    with pytest.raises(FileNotFoundError, match='options is .*none.yml, which does not exist'):
        Upscaler(weights, options=tmp_path / 'none.yml')
    save_options(tmp_path / 'odd.yml', UPSCALE | {'match_keys': 'ref'})
    with pytest.raises(ValueError, match='Unknown option `odd.yml:match_keys`.*`match_key`'):
        Upscaler(weights, options=tmp_path / 'odd.yml')
    misspelt = UPSCALE['network_t'] | {'vgg_typ': 'vgg16'}
    save_options(tmp_path / 'odd.yml', UPSCALE | {'network_t': misspelt})
    with pytest.raises(ValueError, match='Unknown option `network_t:vgg_typ`.*`vgg_type`'):
        Upscaler(weights, options=tmp_path / 'odd.yml')


def test_a_diffusion_enhancer_brings_its_weights(tmp_path, weights, lq, refs):
    """Without, it is refused; with them, its steps are reported as the first stage."""
    opt = deepcopy(UPSCALE)
    opt['network_e'] = {'type': 'DDNMEnhancer', 'denoiser': DENOISER, 'diffusion': {'num_steps': 2}}
    file = save_options(tmp_path / 'ddnm.yml', opt)
    with pytest.raises(ValueError, match='path:pretrain_network_e is missing: DDNMEnhancer'):
        Upscaler(weights, 'cpu', file)
    opt['path']['pretrain_network_e'] = str(write_prior(tmp_path / 'prior.pth'))
    save_options(tmp_path / 'ddnm.yml', opt)
    seen = []
    upscaler = Upscaler(weights, 'cpu', file)
    result = upscaler(lq, refs, progress=lambda *state: seen.append(state))
    assert result.shape == (1, 3, 80, 104)
    assert ('enhance', 1, 2) in seen and ('enhance', 2, 2) in seen


def test_the_repositorys_network(tmp_path, rng, random_weights):
    net = random_weights(load_options(NETWORK)['network_g'])
    torch.save({'params_ema': net.state_dict()}, tmp_path / 'random.pth')
    upscaler = Upscaler(tmp_path / 'random.pth', 'cpu', NETWORK)
    lq = from_levels(np.arange(108, dtype=np.uint8).reshape(4, 9, 3))
    result = upscaler(lq, [torch.rand(1, 3, 24, 20, generator=rng)])
    assert result.shape == (1, 3, 16, 36)


def test_matches_tell_references_of_the_scene_from_others(stereo):
    left, right = (image.reshape(1, *image.shape[-3:]) for image in stereo)
    lq = Degradation('matlab', 4).degrade(left[0, ..., 120:312, 260:516])[None]
    shipped = Upscaler(None, 'cpu', NETWORK)
    related, other = right[..., 110:330, 200:500], right[..., :200, :200].flip(-2)
    of_scene, of_other = shipped.confirmed(lq, [related, other])
    assert of_scene > 3 * of_other + 20
