"""``train:precision: fp16``: the loss scale, its overflows, its state. On the CPU, which has it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from workspaces import train, weights, with_gan

from defsr.archs.denoiser_runtime import PRECISIONS
from defsr.models import mixed_precision
from defsr.running.loss_scale import LossScale, step_on
from defsr.running.safe_training import NonFiniteError
from defsr.running.states import check_state, read_state
from defsr.running.training_run import build_safe_model
from defsr.utils.seeding import seed_generators


@pytest.fixture
def opt(opt, monkeypatch):
    """As if the CPU were the GPU that fp16 wants. Its float16 is slow: bfloat16, but for one."""
    monkeypatch.setattr(mixed_precision, 'has_gpu', lambda opt: True)
    monkeypatch.setitem(PRECISIONS, 'fp16', torch.bfloat16)
    opt['train'] |= {'precision': 'fp16', 'rec_only_epochs': 0}
    return opt | {'logger': {'print_freq': 1, 'save_checkpoint_freq': 1}}


def grown(model, scale: float, factor: float = 2.0**10) -> None:
    """Another scale than the first, and a larger loss, so that some steps overflow."""
    model.loss_scale.load(model.loss_scale.state() | {'scale': scale})
    loss = model.cri_pix.forward
    model.cri_pix.forward = lambda *args, **more: loss(*args, **more) * factor


@pytest.mark.parametrize('kind', [{'type': 'SGD', 'lr': 0.1}, {'type': 'Adam', 'lr': 0.1}])
def test_a_step_is_that_without_a_scale(kind):
    nets = [nn.Linear(3, 1), nn.Linear(3, 1)]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.tensor([[1.0, -2.0, 0.5]])
    scale = LossScale('cpu')
    for net, own in zip(nets, (None, scale), strict=True):
        options = dict(kind)
        optimizer = getattr(torch.optim, options.pop('type'))(net.parameters(), **options)
        for _ in range(3):
            step_on(net(x).square().sum(), optimizer, own)
    torch.testing.assert_close(weights(nets[1]), weights(nets[0]), rtol=1e-6, atol=0)
    assert scale.scale == 2**16 and scale.num_overflows == 0


def test_an_overflow_leaves_the_step_out_and_halves_the_scale():
    net, scale = nn.Linear(2, 1), LossScale('cpu')
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    before = weights(net)
    step_on(net(torch.full((1, 2), 3e37)).sum(), optimizer, scale)  # times 65536: infinite
    assert torch.equal(weights(net), before)
    assert (scale.scale, scale.num_overflows) == (2**15, 1)
    step_on(net(torch.ones(1, 2)).sum(), optimizer, scale)
    assert not torch.equal(weights(net), before) and scale.num_overflows == 1


def test_the_network_runs_in_float16_and_learns(opt, monkeypatch):
    monkeypatch.setitem(PRECISIONS, 'fp16', torch.float16)
    model = build_safe_model(opt)
    seen = []
    conv = next(m for m in model.net_g.modules() if isinstance(m, nn.Conv2d))
    conv.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    before = weights(model.net_g)
    train(model, opt, 1, 1)
    assert {*seen} == {torch.float16} and model.output.dtype == torch.float32
    assert not torch.equal(weights(model.net_g), before)
    assert weights(model.net_g).dtype == torch.float32


def test_overflows_are_counted_in_the_log_and_are_no_fault(opt):
    model = build_safe_model(opt)
    grown(model, 2.0**127)
    before = weights(model.net_g)
    first, *_, last = train(model, opt, 1, 20)
    assert first['num_overflows'] == 1 and model.num_nonfinite == 0
    assert 1 < last['num_overflows'] < 20
    assert not torch.equal(weights(model.net_g), before)


def test_with_a_critic_whose_steps_are_not_scaled(opt):
    opt = with_gan(opt)
    model = build_safe_model(opt)
    before = weights(model.net_d)
    train(model, opt, 1, 3)
    assert not torch.equal(weights(model.net_d), before)
    assert torch.isfinite(weights(model.net_g)).all()


def test_a_gradient_that_overflows_at_any_scale_stops_the_run(opt):
    model = build_safe_model(opt)
    grown(model, 1.0)
    next(model.net_g.parameters()).register_hook(lambda gradient: gradient * float('inf'))
    with pytest.raises(NonFiniteError, match='beyond float16 at a loss scale of 0.5.*bf16'):
        train(model, opt, 1, 9)


def test_a_loss_that_is_no_number_still_is_one(opt):
    model = build_safe_model(opt)
    loss = model.cri_pix.forward
    model.cri_pix.forward = lambda *args, **more: loss(*args, **more) * float('nan')
    with pytest.raises(NonFiniteError, match='Iteration 1: l_g_pix is nan'):
        train(model, opt, 1, 1)


def test_gradients_are_clipped_as_they_are_not_as_they_are_scaled(opt):
    opt['train']['grad_clip_norm'] = 1e-3
    model, norms = build_safe_model(opt), []

    def note(optimizer, *_):
        found = [p.grad for g in optimizer.param_groups for p in g['params'] if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(found).item())

    model.optimizer_g.register_step_pre_hook(note)
    train(model, opt, 1, 2)
    assert norms and norms == pytest.approx([1e-3] * len(norms), rel=1e-3)


def test_resumed_it_goes_on_exactly(opt, tmp_path):
    model = build_safe_model(opt)
    grown(model, 2.0**121)
    train(model, opt, 1, 4)
    model.save(epoch=0, current_iter=4)
    saved = weights(model.net_g)
    state = read_state(tmp_path / 'training_states/4.state', torch.device('cpu'))
    assert state['defsr']['loss_scale'] == model.loss_scale.state()
    assert state['defsr']['loss_scale']['num_overflows'] > 0
    seed_generators('batches')
    train(model, opt, 5, 10)
    assert not torch.equal(weights(model.net_g), saved)
    opt['path']['pretrain_network_g'] = str(tmp_path / 'models/net_g_4.pth')
    again = build_safe_model(opt)
    grown(again, 1.0)
    again.resume_training(state)
    seed_generators('batches')
    train(again, opt, 5, 10)
    assert torch.equal(weights(again.net_g), weights(model.net_g))
    assert again.loss_scale.state() == model.loss_scale.state()


def test_a_run_goes_on_in_another_precision_and_back(opt, tmp_path):
    states = []
    for precision in ('fp32', 'fp16'):
        opt['train']['precision'] = precision
        model = build_safe_model(opt)
        train(model, opt, 1, 1)
        model.save(epoch=0, current_iter=1)
        states.append(read_state(tmp_path / 'training_states/1.state', torch.device('cpu')))
    model.resume_training(states[0])
    assert model.loss_scale.scale == 2**16
    opt['train']['precision'] = 'fp32'
    model = build_safe_model(opt)
    model.resume_training(states[1])
    assert model.loss_scale is None


@pytest.mark.parametrize(
    'change', [{'scale': float('nan')}, {'scale': 0.0}, {'scale': 'x'}, {'num_overflows': -1}, None]
)
def test_a_state_with_another_scale_is_refused(opt, tmp_path, change):
    model = build_safe_model(opt)
    train(model, opt, 1, 1)
    model.save(epoch=0, current_iter=1)
    state = read_state(tmp_path / 'training_states/1.state', torch.device('cpu'))
    scale = state['defsr']['loss_scale']
    state['defsr']['loss_scale'] = [] if change is None else scale | change
    with pytest.raises(ValueError, match='cannot be resumed: its loss_scale is of another kind'):
        check_state(state, model.optimizers, model.schedulers)


def test_without_a_gpu_it_is_refused():
    for num_gpu, why in ((0, 'num_gpu is 0'), (1, 'this machine has no CUDA device')):
        opt = {'num_gpu': num_gpu, 'train': {'precision': 'fp16'}}
        if num_gpu and torch.cuda.is_available():
            continue
        with pytest.raises(ValueError, match=f'is for GPUs, but {why}. Set bf16.*or fp32'):
            mixed_precision.train_precision(opt)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('more', [{}, {'fused': True}], ids=str)
def test_on_a_gpu(opt, monkeypatch, more):
    monkeypatch.undo()
    opt['num_gpu'] = 1
    opt['train']['optim_g'] |= more
    model = build_safe_model(opt)
    grown(model, 2.0**39)
    before = weights(model.net_g)
    *_, last = train(model, opt, 1, 40)
    assert 1 <= last['num_overflows'] < 40 and model.num_nonfinite == 0
    assert not torch.equal(weights(model.net_g), before)
    assert torch.isfinite(weights(model.net_g)).all()
