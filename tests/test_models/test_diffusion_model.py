from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from torch import distributed as dist
from workspaces import adam, loader_of, resumed_at, weights

from defsr.running.training_run import build_safe_model
from defsr.utils.seeding import seed_generators


@pytest.fixture
def opt(opt):
    """A tiny denoiser on the three crops of the stereo pair."""
    gt = {'type': 'ImageCropDataset', 'scale': 4, 'gt_size': 32, 'io_backend': {'type': 'disk'}}
    gt['dataroot_gt'] = opt['datasets']['train']['dataroot_gt']
    train = gt | {'name': 'crops', 'phase': 'train', 'batch_size_per_gpu': 2}
    run = {key: opt[key] for key in ('is_train', 'dist', 'rank', 'world_size', 'path', 'num_gpu')}
    return run | {
        'name': 'prior',
        'model_type': 'DiffusionModel',
        'manual_seed': 0,
        'datasets': {
            'train': train | {'num_worker_per_gpu': 0},
            'val': gt | {'name': 'centres', 'phase': 'val'},
        },
        'network_g': {'type': 'UnshuffleUNet', 'num_feat': [8, 8], 'num_block': 1},
        'train': {
            'ema_decay': 0.5,
            'optim_g': adam(),
            'scheduler': {'type': 'MultiStepLR', 'milestones': [], 'gamma': 0.5},
            'total_iter': 10,
            'pixel_opt': {'type': 'MSELoss', 'loss_weight': 1.0, 'reduction': 'mean'},
        },
        'val': {'val_freq': 2, 'save_img': False, 'sigmas': [15, 50]},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 1, 'keep_best': 'psnr_15'},
    }


def seeded(opt):
    """A model with the same weights each time; ``opt`` stays as it is."""
    torch.manual_seed(20)
    return build_safe_model(deepcopy(opt))


def losses_of(model, opt, number, batch=None, first=1):
    seed_generators('crops')
    batch = batch or next(iter(loader_of(opt, 'train')))
    losses = []
    for current_iter in range(first, first + number):
        model.update_learning_rate(current_iter)
        model.feed_data(batch)
        model.optimize_parameters(current_iter)
        losses.append(model.get_current_log()['l_pix'])
    return losses


@pytest.mark.parametrize(
    'change', [{}, {'prediction': 'v'}, {'prediction': 'x0', 'min_snr_gamma': 5.0}], ids=str
)
def test_learns(opt, change):
    """The same images, levels and noise each round (these follow from the iteration)."""
    opt['train'] |= change
    opt['train']['optim_g']['lr'] = 5e-3
    model = build_safe_model(opt)
    batch = next(iter(loader_of(opt, 'train')))
    rounds = [sum(losses_of(model, opt, 25, batch)) for _ in range(4)]
    assert rounds[-1] < 0.95 * rounds[0]


def test_only_levels_above_a_limit_are_trained(opt):
    opt['train'] |= {'min_alpha_bar': 0.5, 'schedule': {'type': 'cosine', 'num_train_steps': 200}}
    model = build_safe_model(opt)
    seen = []
    forward = model.net_g.forward
    model.net_g.forward = lambda x_t, t: seen.extend(t.tolist()) or forward(x_t, t)
    losses_of(model, opt, 20)
    levels = model.schedule.alpha_bar_at(torch.tensor(seen))
    assert levels.min() >= 0.5 and len(set(seen)) > 20


def test_levels_drawn_evenly_in_log_snr(opt):
    opt['train'] |= {'min_alpha_bar': 0.005, 'levels': 'log_snr'}
    model = build_safe_model(opt)
    levels = model.schedule.alpha_bar_at(model._draw_timesteps(20000)).logit()
    low, high = model.schedule.alpha_bar[[model.num_levels - 1, 0]].logit()
    share = (levels - low) / (high - low)
    quarters = torch.histc(share, 4, 0, 1) / len(share)
    torch.testing.assert_close(quarters, torch.full_like(quarters, 0.25), rtol=0, atol=0.02)


def conv_weights(net):
    """Those whose layout in memory can be told: kernels larger than 1x1."""
    return [p for p in net.parameters() if p.ndim == 4 and p.shape[2] > 1 and p.shape[1] > 1]


def is_channels_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_trains_the_same_network(opt):
    """The same sums in another order: a difference of rounding, also in Adam's steps."""
    plain = seeded(opt)
    expected = losses_of(plain, opt, 5)
    opt['train'] |= {'channels_last': True}
    model = seeded(opt)
    for net in (model.net_g, model.net_g_ema):
        assert all(is_channels_last(p) and not p.is_contiguous() for p in conv_weights(net))
    seen = []
    model.net_g.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    found = losses_of(model, opt, 5)
    assert all(is_channels_last(x_t) for x_t in seen) and len(seen) == 5
    assert found == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(weights(model.net_g), weights(plain.net_g), rtol=0, atol=1e-4)
    assert model.denoise(model.gt, 25, torch.Generator().manual_seed(0)).shape == model.gt.shape


def test_channels_last_goes_on_exactly(opt):
    opt['train'] |= {'channels_last': True}
    whole = seeded(opt)
    losses_of(whole, opt, 4)
    half = seeded(opt)
    losses_of(half, opt, 2)
    half.save(0, 2)
    resumed = resumed_at(opt, 2, build_safe_model)
    losses_of(resumed, opt, 2, first=3)
    assert torch.equal(weights(resumed.net_g), weights(whole.net_g))
    assert torch.equal(weights(resumed.net_g_ema), weights(whole.net_g_ema))
    assert all(is_channels_last(p) for p in conv_weights(resumed.net_g))


@pytest.fixture
def one_process_group(tmp_path):
    """A distributed run of one process."""
    dist.init_process_group('gloo', f'file://{tmp_path / "group"}', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_channels_last_before_the_gradients_are_bucketed(opt, one_process_group, recwarn):
    """DistributedDataParallel wants the strides of the weights as it first saw them."""
    opt['train'] |= {'channels_last': True}
    model = build_safe_model(opt | {'dist': True})
    assert isinstance(model.net_g, torch.nn.parallel.DistributedDataParallel)
    assert all(is_channels_last(p) for p in conv_weights(model.net_g.module))
    losses_of(model, opt, 2)
    assert not [w for w in recwarn if 'strides' in str(w.message)]


def test_bf16_is_for_the_network_alone(opt):
    """Answers of 8 bits; loss, gradients, weights and moments stay float32."""
    expected = losses_of(seeded(opt), opt, 2)
    opt['train'] |= {'precision': 'bf16'}
    model = seeded(opt)
    seen = []
    model.net_g.register_forward_hook(lambda net, args, answer: seen.append(answer.dtype))
    model.cri_pix.register_forward_pre_hook(lambda cri, args: seen.append(args[0].dtype))
    found = losses_of(model, opt, 2)
    assert seen == [torch.bfloat16, torch.float32] * 2
    assert found != expected and found == pytest.approx(expected, rel=2e-2)
    kept = [*model.net_g.parameters(), *(p.grad for p in model.net_g.parameters())]
    kept += [state['exp_avg'] for state in model.optimizer_g.state.values()]
    assert {x.dtype for x in kept} == {torch.float32}


class PerfectDenoiser(torch.nn.Module):
    """Knows the clean image."""

    def __init__(self, model):
        super().__init__()
        self.model = [model]

    def forward(self, x_t, t):
        model = self.model[0]
        alpha_bar = model.schedule.alpha_bar_at(t).view(-1, 1, 1, 1).to(x_t)
        x0 = 2 * model.gt - 1 + 0.02
        return (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()


def test_validation_measures_the_denoised_image(opt, tmp_path):
    """An error of 0.01 everywhere is 40 dB, whatever the noise."""
    model = build_safe_model(opt)
    model.net_g_ema = PerfectDenoiser(model)
    model.current_iter = 2
    model.validation(loader_of(opt, 'val'), 2, None)
    record = json.loads((tmp_path / 'training_states/validation.json').read_text())
    assert record['2']['centres']['psnr_15'] == pytest.approx(40, abs=0.15)
    assert record['2']['centres']['psnr_50'] == pytest.approx(40, abs=0.15)
    assert (tmp_path / 'models/net_g_best.pth').is_file()


def test_validation_has_the_same_noise_each_time(opt):
    model = build_safe_model(opt)
    results = []
    for current_iter in (2, 4):
        model.current_iter = current_iter
        model.validation(loader_of(opt, 'val'), current_iter, None)
        results.append(dict(model.metric_results))
    assert results[0] == results[1] and 5 < results[0]['psnr_50'] < 40


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda o: o['train'].update(prediction='noise'), "train:prediction is 'noise'"),
        (lambda o: o['train'].update(predicton='v'), 'Did you mean `prediction`'),
        (lambda o: o['train'].update(min_alpha_bar=1), 'above every level'),
        (lambda o: o['train'].update(min_snr_gamma=0), 'min_snr_gamma is 0'),
        (lambda o: o['train'].update(levels='snr'), "train:levels is 'snr'"),
        (lambda o: o['train'].update(precision='fp16'), 'is for GPUs, but .*Set bf16'),
        (lambda o: o['train'].update(precision='half'), "train:precision is 'half'"),
        (lambda o: o['train'].update(channels_last=1.5), 'train:channels_last is 1.5'),
        (lambda o: o['val'].update(sigmas=[0]), 'val:sigmas'),
        (lambda o: o['train'].update(schedule={'type': 'cos'}), 'train:schedule:type is .cos.'),
    ],
)
def test_wrong_options_end_in_one_line(opt, change, message):
    opt = deepcopy(opt)
    change(opt)
    with pytest.raises(ValueError, match=message):
        build_safe_model(opt)
