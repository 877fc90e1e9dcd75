"""DEFModel from construction to results, with networks small enough for seconds."""

from __future__ import annotations

import csv
import logging
import random
from copy import deepcopy

import pytest
import torch
from basicsr.archs import build_network
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from torchvision.utils import save_image

NUM_CH = {'relu1_1': 64, 'relu2_1': 128, 'relu3_1': 256}
METRICS = {
    'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True},
    'ssim': {'type': 'calculate_ssim', 'crop_border': 4, 'test_y_channel': True},
}


def adam():
    return {'type': 'Adam', 'lr': 1e-3, 'betas': [0.9, 0.99]}


@pytest.fixture
def opt(tmp_path, stereo):
    """Options of a tiny DEF on three crops of the stereo pair."""
    for i in range(3):
        window = (..., slice(100, 164), slice(200 + 64 * i, 264 + 64 * i))
        for role, image in zip(('gt', 'ref'), stereo, strict=True):
            (tmp_path / role).mkdir(exist_ok=True)
            save_image(image[window], tmp_path / role / f'{i}.png')
    dataset = {
        'type': 'RefTripletDataset',
        'dataroot_gt': str(tmp_path / 'gt'),
        'dataroot_ref': str(tmp_path / 'ref'),
        'io_backend': {'type': 'disk'},
        'scale': 4,
    }
    train = {'name': 'tiny', 'phase': 'train', 'gt_size': 32, 'ref_size': 48, 'use_hflip': True}
    train |= {'use_rot': True, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}
    path = {name: str(tmp_path / name) for name in ('models', 'training_states', 'visualization')}
    return {
        'name': 'tiny',
        'model_type': 'DEFModel',
        'scale': 4,
        'num_gpu': 0,
        'manual_seed': 0,
        'is_train': True,
        'dist': False,
        'rank': 0,
        'world_size': 1,
        'match_key': 'ref_down_up',
        'datasets': {
            'train': dataset | train,
            'val': dataset | {'name': 'tinyval', 'phase': 'val'},
        },
        'network_e': {'type': 'BicubicEnhancer'},
        'network_t': {'type': 'VGGTextureExtractor', 'vgg_type': 'vgg16', 'weights': 'none'},
        'network_g': {
            'type': 'DEFNet',
            'skip': 'bicubic',
            'transfer': {'type': 'DCNTransferArch', 'num_offset_feat': 8},
            'aggregator': {
                'type': 'TTSRAggregator',
                'num_feat': 8,
                'num_block': [1, 1, 1, 1],
                'use_feat_de': True,
                'use_soft_attention': False,
            },
        },
        'path': path | {'log': str(tmp_path), 'results_root': str(tmp_path)},
        'train': {
            'rec_only_epochs': 1,
            'num_iter_per_pass': 2,
            'ema_decay': 0.9,
            'optim_g': adam(),
            'scheduler': {'type': 'MultiStepLR', 'milestones': [], 'gamma': 0.5},
            'total_iter': 10,
            'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
        },
        'val': {'val_freq': 2, 'save_img': True, 'metrics': METRICS},
    }


def with_gan(opt):
    opt = deepcopy(opt)
    opt['network_d'] = {'type': 'TTSRDiscriminator', 'num_feat': 4, 'input_size': 32}
    opt['train'] |= {
        'optim_d': adam(),
        'gan_opt': {'type': 'GANLoss', 'gan_type': 'wgan', 'loss_weight': 1e-4},
        'gradient_penalty_weight': 10,
        'perceptual_opt': {
            'type': 'TexturePerceptualLoss',
            'layer_weights': {'relu3_1': 1.0},
            'vgg_type': 'vgg16',
            'weights': 'none',
            'criterion': 'l2',
            'perceptual_weight': 1e-2,
        },
    }
    return opt


def loader_of(opt, phase):
    return build_dataloader(build_dataset(opt['datasets'][phase]), opt['datasets'][phase], 0)


def train(model, opt, first, last):
    logs = []
    for current_iter in range(first, last + 1):
        model.feed_data(next(iter(loader_of(opt, 'train'))))
        model.update_learning_rate(current_iter)
        model.optimize_parameters(current_iter)
        logs.append(model.get_current_log())
    return logs


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


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
    frozen = {k: v.clone() for k, v in model.net_t.state_dict().items()}
    before, ema = weights(model.net_g), weights(model.net_g_ema)
    train(model, opt, 1, 3)
    assert not torch.equal(weights(model.net_g), before)
    assert not torch.equal(weights(model.net_g_ema), ema)
    assert not torch.equal(weights(model.net_g_ema), weights(model.net_g))
    for key, value in model.net_t.state_dict().items():
        assert torch.equal(value, frozen[key])


def test_training_reduces_the_loss(opt):
    opt['train']['optim_g']['lr'] = 2e-3
    random.seed(0)
    torch.manual_seed(0)
    model = build_model(deepcopy(opt))
    batch = next(iter(loader_of(opt, 'train')))
    losses = []
    for current_iter in range(1, 41):
        model.feed_data(batch)
        model.optimize_parameters(current_iter)
        losses.append(model.get_current_log()['l_g_pix'])
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


@pytest.fixture(autouse=True)
def folders(tmp_path):
    (tmp_path / 'models').mkdir()
    (tmp_path / 'training_states').mkdir()


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


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda o: o['train'].update(rec_only_epoch=1), 'Did you mean `rec_only_epochs`'),
        (lambda o: o['val'].update(save_map=True), 'Did you mean `save_maps`'),
        (lambda o: o['train'].update(gan_opt={'type': 'GANLoss'}), 'gan_opt needs `network_d`'),
        (lambda o: o['train'].pop('num_iter_per_pass'), 'needs train:num_iter_per_pass'),
        (lambda o: o.update(match_key='reff'), 'match_key is .reff.'),
        (lambda o: o['path'].update(pretrain_network_e='x.pt'), 'which has no weights'),
        (lambda o: o['datasets']['val'].update(degradation='pil'), 'degraded in different ways'),
    ],
)
def test_wrong_options_end_in_one_line(opt, change, message):
    change(opt)
    with pytest.raises(ValueError, match=message):
        build_model(opt)


DENOISER = {
    'type': 'ADMUNet',
    'image_size': 32,
    'num_feat': 32,
    'num_res_block': 1,
    'channel_mult': [1, 2],
    'attention_resolutions': [16],
    'num_head_channels': 32,
}


def test_diffusion_in_every_iteration_must_be_asked_for(opt):
    opt['network_e'] = {
        'type': 'DDNMEnhancer',
        'denoiser': DENOISER,
        'diffusion': {'num_steps': 2},
    }
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


def test_a_cache_is_used_in_place_of_the_enhancer(opt, tmp_path, monkeypatch):
    for role in ('de', 'ref_de'):
        folder = 'gt' if role == 'de' else 'ref'
        opt['datasets']['train'][f'dataroot_{role}'] = str(tmp_path / folder)
    opt['match_key'] = 'ref_enhanced'
    model = build_model(deepcopy(opt))

    def refuse(lq):
        raise AssertionError('the enhancer ran')

    monkeypatch.setattr(model.net_e, 'forward', refuse)
    train(model, opt, 1, 1)
    torch.testing.assert_close(model.de, model.gt)
    model.opt['val']['tile'] = 64
    model.test()


def test_weights_of_the_extractor_can_be_given(opt, tmp_path):
    donor = build_network(opt['network_t'])
    other = {key: value + 1 for key, value in donor.state_dict().items()}
    torch.save({'params': other}, tmp_path / 't.pth')
    opt['path']['pretrain_network_t'] = str(tmp_path / 't.pth')
    loaded = build_model(deepcopy(opt)).net_t.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in other.items())


def test_the_log_is_quiet_about_layers(opt, caplog):
    logger = logging.getLogger('basicsr')
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger='basicsr'):
        build_model(deepcopy(opt))
    logger.removeHandler(caplog.handler)
    assert 'trained, ' in caplog.text
    assert 'Conv2d' not in caplog.text
