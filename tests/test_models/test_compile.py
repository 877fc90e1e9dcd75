"""``train:compile``: the same steps, the same keys, one line where it cannot be."""

from __future__ import annotations

import shutil
from copy import deepcopy

import pytest
import torch
from basicsr.models import build_model
from workspaces import SMALL, train

from defsr.archs.lazy_compile import LazyCompile, compile_errors
from defsr.config.files import load_options
from defsr.models.mixed_precision import train_compile
from defsr.running.safe_options import model_options
from defsr.running.training_run import build_safe_model
from defsr.utils.seeding import seed_generators

LARGE = ('table2_Base', 'best', 'MASA')  # of each way to read references one
ROWS = ['SRCNN', *(pytest.param(row, marks=pytest.mark.slow) for row in LARGE)]


@pytest.fixture(autouse=True)
def _without_the_code_generator(monkeypatch):
    """PyTorch's tracer and its gradient, without the minute that the rest takes."""
    monkeypatch.setattr(LazyCompile, 'backend', 'aot_eager')
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def options(row, folder):
    opt = load_options(SMALL / f'{row}_x4.yml')
    opt |= {'dist': False, 'is_train': True, 'rank': 0, 'world_size': 1, 'num_gpu': 0}
    opt['path'] |= {'models': str(folder), 'training_states': str(folder)}
    return opt


@pytest.mark.parametrize('row', ROWS)
def test_a_step_is_that_without(row, rng, tmp_path, monkeypatch):
    if row != 'SRCNN':  # whose gradients are traced, too, which takes minutes for others
        monkeypatch.setattr(LazyCompile, 'backend', 'eager')
    opt = options(row, tmp_path)
    images = {
        'lq': torch.rand(2, 3, 16, 16, generator=rng),
        'gt': torch.rand(2, 3, 64, 64, generator=rng),
        'ref': torch.rand(2, 3, 64, 64, generator=rng),
    }
    found = []
    for use_compile in (False, True):
        opt['train']['compile'] = use_compile
        torch.manual_seed(0)
        model = build_model(deepcopy(opt))
        model.feed_data(images)
        model.optimize_parameters(1)
        gradients = {name: p.grad for name, p in model.net_g.named_parameters()}
        found.append((model.output.detach(), gradients))
    assert not any('_orig_mod' in key for key in model.net_g.state_dict())
    assert model.called.compiled.compiled is not None, 'it was called so'
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


def test_files_have_the_same_keys(tmp_path):
    opt = options('SRCNN', tmp_path) | {'logger': {'print_freq': 1, 'save_checkpoint_freq': 1}}
    opt['train'] |= {'ema_decay': 0.9, 'precision': 'bf16'}
    images = {'lq': torch.rand(1, 3, 8, 8), 'gt': torch.rand(1, 3, 32, 32)}
    keys = []
    for use_compile in (False, True):
        opt['train']['compile'] = use_compile
        model = build_safe_model(opt)
        model.feed_data(images)
        model.optimize_parameters(1)
        assert model.output.dtype == torch.float32
        model.save(epoch=0, current_iter=1)
        file = torch.load(tmp_path / 'net_g_1.pth', weights_only=True)
        keys.append([{*file['params']}, {*file['params_ema']}])
    assert keys[0] == keys[1]


def test_a_denoiser_is_trained_so_and_validated_as_it_is(tmp_path):
    opt = load_options(SMALL / 'train_prior_small.yml')
    opt |= {'dist': False, 'is_train': True, 'rank': 0, 'world_size': 1, 'num_gpu': 0}
    opt['network_g'] = {'type': 'UnshuffleUNet', 'num_feat': [8], 'num_block': 1, 'emb_ch': 8}
    opt['train'] = model_options(opt)['train']
    opt['path'] = {'models': str(tmp_path), 'training_states': str(tmp_path)}
    gt = torch.rand(2, 3, 16, 16)
    losses = []
    for use_compile in (False, True):
        opt['train']['compile'] = use_compile
        torch.manual_seed(0)
        model = build_model(deepcopy(opt))
        torch.manual_seed(1)
        model.gt = gt
        model.optimize_parameters(1)
        losses.append(model.log_dict['l_pix'])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    compiled = model.runtime.compile.compiled
    assert compiled[0] is model.net_g
    model.denoise(gt, 25, torch.Generator())
    assert model.runtime.compile.compiled is compiled
    assert model.plain_runtime.compile.compiled is None


def test_several_processes_are_refused():
    opt = {'dist': True, 'train': {'compile': True}}
    with pytest.raises(ValueError, match='train:compile is true, but is for one process'):
        train_compile(opt)


@pytest.mark.parametrize('at', ['call', 'backward'])
def test_what_cannot_be_compiled_ends_in_one_line(opt, monkeypatch, at):
    class CompilerError(RuntimeError):
        pass

    CompilerError.__module__ = 'torch._inductor.exc'

    def fail(*_):
        raise CompilerError('No working C++ compiler\nmore')

    def compile_(net, backend):
        if at == 'call':
            return fail

        def call(*args):
            out = net(*args)
            (out if isinstance(out, torch.Tensor) else out.sr).register_hook(fail)
            return out

        return call

    monkeypatch.setattr(torch, 'compile', compile_)
    opt['train']['compile'] = True
    opt['logger'] = {'print_freq': 1, 'save_checkpoint_freq': 1}
    model = build_safe_model(opt)
    message = r'train:compile is true, but .* \(No working C\+\+ compiler\). Set compile: false'
    with pytest.raises(ValueError, match=message):
        train(model, opt, 1, 1)


def test_generated_code_that_does_not_fit_is_about_compiling():
    def fail(file):
        with compile_errors('train:compile'):
            exec(compile('assert False, "expected size 3"', file, 'exec'))

    with pytest.raises(ValueError, match=r'cannot be compiled here \(expected size 3\)'):
        fail('/tmp/torchinductor_me/x.py')
    with pytest.raises(AssertionError):
        fail('/home/me/my_loss.py')


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('g++'), reason='no C++ compiler')
def test_by_the_code_generator(opt, monkeypatch):
    monkeypatch.undo()
    opt['logger'] = {'print_freq': 1, 'save_checkpoint_freq': 1}
    found = []
    for use_compile in (False, True):
        opt['train']['compile'] = use_compile
        torch.manual_seed(0)
        model = build_safe_model(opt)
        seed_generators('batch')
        train(model, opt, 1, 1)
        found.append(model.output.detach())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-4)
