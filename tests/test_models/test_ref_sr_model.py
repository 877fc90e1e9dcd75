"""DEFModel from construction to results, with networks small enough for seconds."""

from __future__ import annotations

import csv
import logging
import random
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.models import build_model
from denoisers import TINY_ADM
from PIL import Image
from workspaces import (
    NETWORK_E,
    enhance_options,
    loader_of,
    losses_on_one_batch,
    train,
    weights,
    with_gan,
    write_prior,
)

from defsr.enhance.job import fill_caches


def test_reconstruction_alone_first_then_all_losses(opt):
    opt = with_gan(opt)
    model = build_model(deepcopy(opt))
    assert model.num_rec_only_iter == 2
    critic = weights(model.net_d)
    warm_up = train(model, opt, 1, 2)
    assert all(list(log) == ['l_g_pix'] for log in warm_up)
    assert torch.equal(weights(model.net_d), critic), 'the critic waits for the warm-up to end'
    (log,) = train(model, opt, 3, 3)
    expected = {'l_g_pix', 'l_g_percep', 'l_g_gan', 'l_d_real', 'l_d_fake', 'l_d_gp'}
    assert expected < set(log)
    assert not torch.equal(weights(model.net_d), critic)


def test_only_network_g_learns(opt):
    model = build_model(deepcopy(opt))
    frozen = {k: v.clone() for k, v in model.method.net_t.state_dict().items()}
    before, ema = weights(model.net_g), weights(model.net_g_ema)
    train(model, opt, 1, 3)
    assert not torch.equal(weights(model.net_g), before)
    assert not torch.equal(weights(model.net_g_ema), ema)
    assert not torch.equal(weights(model.net_g_ema), weights(model.net_g))
    for key, value in model.method.net_t.state_dict().items():
        assert torch.equal(value, frozen[key])


def test_networks_and_images_are_channels_last_on_a_cpu(opt):
    """Every weight that has a layout; and the images that are fed."""
    model = build_model(with_gan(opt))
    nets = (model.net_g, model.net_g_ema, model.net_d, model.method.net_t, model.cri_perceptual)
    model.feed_data(next(iter(loader_of(opt, 'train'))))
    images = [model.lq, model.gt, *[ref.image for ref in model.refs]]
    for x in [p for net in nets for p in net.parameters() if p.ndim == 4] + images:
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_training_reduces_the_loss(opt):
    opt['train']['optim_g']['lr'] = 2e-3
    random.seed(0)
    torch.manual_seed(0)
    model = build_model(deepcopy(opt))
    losses = losses_on_one_batch(model, opt, 40)
    assert sum(losses[-3:]) < 0.92 * sum(losses[:3])


def test_saves_and_resumes(opt, tmp_path):
    opt = with_gan(opt)
    model = build_model(deepcopy(opt))
    train(model, opt, 1, 3)
    model.save(epoch=1, current_iter=3)
    names = {p.name for p in (tmp_path / 'models').iterdir()}
    assert names == {'net_g_3.pth', 'net_d_3.pth'}

    again = deepcopy(opt)
    for net in 'gd':
        again['path'][f'pretrain_network_{net}'] = str(tmp_path / f'models/net_{net}_3.pth')
    resumed = build_model(again)
    state = torch.load(tmp_path / 'training_states/3.state', weights_only=False)
    resumed.resume_training(state)
    assert torch.equal(weights(resumed.net_g), weights(model.net_g))
    assert torch.equal(weights(resumed.net_g_ema), weights(model.net_g_ema))
    assert len(resumed.optimizer_g.state) == len(model.optimizer_g.state) > 0


class Board:
    """A TensorBoard writer that remembers."""

    def __init__(self):
        self.images, self.scalars = {}, {}

    def add_image(self, tag, image, step):
        self.images[tag] = image

    def add_scalar(self, tag, value, step):
        self.scalars[tag] = value


def test_validation_in_training(opt, tmp_path):
    model = build_model(deepcopy(opt))
    board = Board()
    model.opt['val'] |= {'tb_images': 2, 'compare_bicubic': True}
    model.validation(loader_of(opt, 'val'), 2, board, save_img=True)
    assert (tmp_path / 'visualization/1/1_2.png').is_file()
    assert list(board.images) == ['tinyval/0', 'tinyval/1']
    assert board.images['tinyval/0'].shape == (3, 64, 4 * 64), 'LR, I_DE, SR, GT'
    with open(tmp_path / 'metrics/tinyval_2.csv') as file:
        rows = list(csv.DictReader(file))
    assert [row['image'] for row in rows] == ['0', '1', '2']
    mean = sum(float(row['psnr']) for row in rows) / 3
    assert board.scalars['metrics/tinyval/psnr'] == pytest.approx(mean, abs=1e-3)
    for row in rows:
        assert float(row['psnr']) == pytest.approx(float(row['bicubic_psnr']), abs=1e-3), (
            'untrained, the network adds nothing to its skip'
        )
    assert model.net_g.training


def test_pictures_and_suffix_in_testing(opt, tmp_path):
    opt |= {'is_train': False}
    opt['val'] = {'save_img': True, 'suffix': 'x', 'save_maps': True, 'save_comparison': True}
    model = build_model(deepcopy(opt))
    model.validation(loader_of(opt, 'val'), 'tiny', None, save_img=True)
    names = {p.name for p in (tmp_path / 'visualization/tinyval').iterdir()}
    for end in ('', '_comparison', '_index', '_confidence'):
        assert f'2_x{end}.png' in names


def test_matches_that_point_into_a_map_of_unknown_size_are_not_drawn(opt, tmp_path, monkeypatch):
    opt |= {'is_train': False}
    opt['val'] = {'save_img': True, 'suffix': 'x', 'save_maps': True, 'save_comparison': True}
    model = build_model(deepcopy(opt))
    known = model.method.super_resolve
    monkeypatch.setattr(
        model.method, 'super_resolve', lambda *a, **k: replace(known(*a, **k), key_size=None)
    )
    model.validation(loader_of(opt, 'val'), 'tiny', None, save_img=True)
    names = {p.name for p in (tmp_path / 'visualization/tinyval').iterdir()}
    assert '2_x_confidence.png' in names and '2_x_index.png' not in names


def test_the_result_of_a_real_input_has_no_metrics(opt, tmp_path):
    block = opt['datasets']['val']
    block['dataroot_lq'] = block.pop('dataroot_gt')
    opt |= {'is_train': False}
    model = build_model(deepcopy(opt))
    model.validation(loader_of(opt, 'val'), 'tiny', None, save_img=False)
    with open(tmp_path / 'metrics/tinyval_tiny.csv') as file:
        assert 'psnr' not in csv.DictReader(file).fieldnames


def test_tiles_do_not_change_a_result_they_cover_at_once(opt):
    opt |= {'is_train': False}
    model = build_model(deepcopy(opt))
    torch.nn.init.normal_(model.net_g.aggregator.tail[-1].weight)
    model.feed_data(next(iter(loader_of(opt, 'val'))))
    model.test()
    whole, index = model.output, model.restoration.index
    model.opt['val']['tile'] = 64
    model.test()
    torch.testing.assert_close(model.output, whole)
    assert torch.equal(model.restoration.index, index)


def test_several_references(opt, tmp_path):
    lines = '0.png 0.png 1.png 2.png\n'
    (tmp_path / 'list.txt').write_text(lines)
    opt['datasets']['val']['pair_list'] = str(tmp_path / 'list.txt')
    opt |= {'is_train': False, 'match_key': 'ref'}
    model = build_model(deepcopy(opt))
    model.feed_data(next(iter(loader_of(opt, 'val'))))
    assert len(model.refs) == 3
    model.test()
    assert model.restoration.key_size == (3 * 16 + 2, 16)
    assert model.output.shape == (1, 3, 64, 64)
    winner = model.restoration.winner
    assert winner.shape == (1, 16, 16) and set(winner.unique().tolist()) <= {0, 1, 2}
    model.opt['val'] |= {'save_maps': True}
    model.validation(loader_of(opt, 'val'), 'tiny', None, save_img=True)
    colours = np.asarray(Image.open(next((tmp_path / 'visualization').rglob('*_winner.png'))))
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == len(winner.unique())


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda o: o['train'].update(rec_only_epoch=1), 'Did you mean `rec_only_epochs`'),
        (lambda o: o['val'].update(save_map=True), 'Did you mean `save_maps`'),
        (lambda o: o['train'].update(gan_opt={'type': 'GANLoss'}), 'optim_d is missing'),
        (lambda o: o['train'].pop('num_iter_per_pass'), 'needs train:num_iter_per_pass'),
        (lambda o: o['train'].pop('pixel_opt'), 'train:pixel_opt is missing'),
        (lambda o: o.update(match_key='reff'), 'match_key is .reff.'),
        (lambda o: o['path'].update(pretrain_network_e='x.pt'), 'BicubicEnhancer. has no weights'),
        (lambda o: o['datasets']['val'].update(degradation='pil'), 'degraded in different ways'),
    ],
)
def test_wrong_options_end_in_one_line(opt, change, message):
    change(opt)
    with pytest.raises(ValueError, match=message):
        build_model(opt)


def test_diffusion_in_every_iteration_must_be_asked_for(opt, tmp_path):
    opt['network_e'] = deepcopy(NETWORK_E)
    opt['path']['pretrain_network_e'] = str(write_prior(tmp_path / 'prior.pth'))
    with pytest.raises(ValueError, match='dataroot_de is not set.*allow_online: true'):
        build_model(deepcopy(opt))
    opt['network_e']['degradation'] = 'pil'
    with pytest.raises(ValueError, match='network_e:degradation is pil'):
        build_model(deepcopy(opt))
    opt['network_e']['degradation'] = 'matlab'
    opt['train']['allow_online'] = True
    opt['match_key'] = 'ref_enhanced'
    model = build_model(deepcopy(opt))
    assert 'l_g_pix' in train(model, opt, 1, 1)[0]


def test_a_denoiser_that_brings_its_weights_needs_none(opt, diffusers_pipeline):
    """One without is of no use, unless caches hold all that it would be asked for."""
    complete = {'type': 'DiffusersUNet', 'folder': str(diffusers_pipeline)}
    opt['train']['allow_online'] = True
    opt['network_e'] = {'type': 'DDNMEnhancer', 'denoiser': complete}
    build_model(deepcopy(opt))
    untrained = opt | {'network_e': {'type': 'DDNMEnhancer', 'denoiser': TINY_ADM}}
    with pytest.raises(ValueError, match='pretrain_network_e is missing: DDNMEnhancer is of no'):
        build_model(deepcopy(untrained))
    for block in untrained['datasets'].values():
        block['dataroot_de'] = block['dataroot_gt']
    build_model(deepcopy(untrained) | {'check_cache': False})
    for block in untrained['datasets'].values():
        del block['dataroot_de']
    opt['path']['pretrain_network_e'] = 'w.pth'
    with pytest.raises(ValueError, match='pretrain_network_e is w.pth, but .*has its weights'):
        build_model(deepcopy(opt))


def test_a_cache_is_used_in_place_of_the_enhancer(opt, tmp_path, monkeypatch):
    for role in ('de', 'ref_de'):
        folder = 'gt' if role == 'de' else 'ref'
        opt['datasets']['train'][f'dataroot_{role}'] = str(tmp_path / folder)
    opt |= {'match_key': 'ref_enhanced', 'check_cache': False}
    model = build_model(deepcopy(opt))

    def refuse(lq):
        raise AssertionError('the enhancer ran')

    monkeypatch.setattr(model.method.net_e, 'forward', refuse)
    train(model, opt, 1, 1)
    torch.testing.assert_close(model.de, model.gt)
    model.opt['val']['tile'] = 64
    model.test()


@pytest.fixture
def cached(opt, tmp_path):
    """The options with a diffusion enhancer, and caches of it for both data sets."""
    opt['network_e'] = deepcopy(NETWORK_E)
    opt['path']['pretrain_network_e'] = str(write_prior(tmp_path / 'prior.pth'))
    roots = {f'dataroot_{role}': str(tmp_path / role) for role in ('gt', 'ref')}
    outs = {kind: str(tmp_path / kind) for kind in ('de', 'ref_de')}
    wanted = {'enhance': ['de', 'ref_de'], 'out': outs}
    fill_caches(enhance_options(tmp_path / 'prior.pth', train=roots | wanted))
    for block in opt['datasets'].values():
        block |= {f'dataroot_{kind}': out for kind, out in outs.items()}
    return opt


@pytest.mark.parametrize('is_train', [True, False])
def test_caches_of_its_own_enhancer(cached, is_train, monkeypatch):
    model = build_model(deepcopy(cached) | {'is_train': is_train, 'match_key': 'ref_enhanced'})
    batch = next(iter(loader_of(cached, 'val')))
    model.feed_data(batch)
    restore = model.method.super_resolve
    cached_sr = restore(model.net_g, model.lq, model.refs, de=model.de)
    plain = [replace(ref, enhanced=None) for ref in model.refs]
    online_sr = restore(model.net_g, model.lq, plain)
    assert (cached_sr.de - online_sr.de).abs().max() <= 0.5 / 255 + 1e-6
    monkeypatch.setattr(model.method.net_e, 'forward', None)
    if is_train:
        assert 'l_g_pix' in train(model, cached, 1, 1)[0]


@pytest.mark.parametrize('is_train', [True, False])
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda o: o['network_e']['diffusion'].update(num_steps=4), 'datasets:train:dataroot_de is '
         '.*another enhancer made: diffusion:num_steps 4 here, 3 in the cache.*check_cache: false'),
        (lambda o: write_prior(o['path']['pretrain_network_e'], seed=9),
         'another enhancer made: denoiser_sha256 '),
        (lambda o: o['datasets']['val'].update(dataroot_de=o['datasets']['val']['dataroot_ref_de']),
         'datasets:val:dataroot_de is .*which holds ref_de images'),
        (lambda o: o['datasets']['val'].update(dataroot_ref_de=o['datasets']['val']['dataroot_de']),
         'datasets:val:dataroot_ref_de is .*which holds de images'),
        (lambda o: o['datasets']['val'].update(dataroot_de=o['datasets']['val']['dataroot_gt']),
         'datasets:val:dataroot_de is .*no enhancer.json.*check_cache: false'),
    ],
    ids=['steps', 'weights', 'references', 'inputs', 'no record'],
)  # fmt: skip
def test_caches_of_another_one_are_refused(cached, is_train, change, message):
    change(cached)
    cached['is_train'] = is_train
    with pytest.raises(ValueError, match=message):
        build_model(deepcopy(cached))
    build_model(deepcopy(cached) | {'check_cache': False})


def test_weights_of_the_extractor_can_be_given(opt, tmp_path):
    donor = build_network(opt['network_t'])
    other = {key: value + 1 for key, value in donor.state_dict().items()}
    torch.save({'params': other}, tmp_path / 't.pth')
    opt['path']['pretrain_network_t'] = str(tmp_path / 't.pth')
    loaded = build_model(deepcopy(opt)).method.net_t.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in other.items())


def test_the_log_is_quiet_about_layers(opt, caplog):
    logger = logging.getLogger('basicsr')
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger='basicsr'):
        build_model(deepcopy(opt))
    logger.removeHandler(caplog.handler)
    assert 'trained, ' in caplog.text
    assert 'Conv2d' not in caplog.text


def test_a_ground_truth_too_small_for_a_metric(opt):
    opt['val']['metrics']['ssim']['crop_border'] = 30
    model = build_model(deepcopy(opt))
    with pytest.raises(ValueError, match='64x64 .*val:metrics:ssim needs at least 71 pixels'):
        model.validation(loader_of(opt, 'val'), 2, None, save_img=False)
