"""The stand-ins for the functions that BasicSR's training loop calls."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY

from defsr.methods.build import METHODS
from defsr.methods.single_image import SingleImage
from defsr.running.checkpoints import Checkpoints, save_tensors
from defsr.running.training_run import TrainingRun
from defsr.utils.stopping import StopRequest


@pytest.fixture
def run():
    return TrainingRun(StopRequest())


@pytest.fixture
def opt(tmp_path):
    folders = ('models', 'training_states', 'visualization')
    path = {name: str(tmp_path / name) for name in folders} | {'resume_state': None}
    networks = {'network_g': {'type': 'DEFNet'}, 'network_e': {}, 'network_t': {}}
    run = {'auto_resume': True, 'num_gpu': 0, 'path': path, 'manual_seed': 0}
    return run | {'model_type': 'DEFModel', **networks}


def write(opt, current_iter, **more):
    """A checkpoint of BasicSR alone: a network and a state."""
    store = Checkpoints(opt['path']['models'], opt['path']['training_states'])
    save_tensors({'params': {'w': torch.ones(2)}}, store.models / f'net_g_{current_iter}.pth')
    state = {'iter': current_iter, 'epoch': 1, 'optimizers': []}
    state['schedulers'] = [{'milestones': Counter([5])}]
    save_tensors(state | more, store.state_path(current_iter))
    return store


def test_resume_without_cuda_takes_the_newest_state(run, opt):
    opt['path']['pretrain_network_e'] = 'denoiser.pt'
    for current_iter in (8, 16):
        write(opt, current_iter)
    assert run.load_resume_state(opt)['iter'] == 16
    assert opt['path']['resume_state'].endswith('16.state')
    assert opt['path']['pretrain_network_g'].endswith('net_g_16.pth')
    assert opt['path']['pretrain_network_e'] == 'denoiser.pt', 'frozen networks are never saved'
    assert 'pretrain_network_t' not in opt['path']


def test_what_is_frozen_the_method_says(run, opt, monkeypatch):
    """A network of another method's own is no more looked for in the checkpoint."""

    class Guided(SingleImage):
        blocks = ('network_c',)

    monkeypatch.setitem(METHODS, 'guided', Guided)
    monkeypatch.setattr(ARCH_REGISTRY.get('DEFNet'), 'reads', 'guided')
    opt['network_c'] = {}
    del opt['network_e'], opt['network_t']
    write(opt, 16)
    run.load_resume_state(opt)
    assert 'pretrain_network_c' not in opt['path']
    assert opt['path']['pretrain_network_g'].endswith('net_g_16.pth')


def test_a_torn_one_is_passed_over_with_a_warning(run, opt):
    write(opt, 8)
    torn = write(opt, 16).state_path(16)
    torn.write_bytes(torn.read_bytes()[:100])
    assert run.load_resume_state(opt)['iter'] == 8
    assert '16.state is torn' in run.warnings[0]


def test_none_whole_is_an_error_not_a_new_start(run, opt):
    write(opt, 8).state_path(8).write_bytes(b'')
    with pytest.raises(ValueError, match='no checkpoint in .* is whole.*8.state is torn'):
        run.load_resume_state(opt)


def test_nothing_to_resume(run, opt):
    assert run.load_resume_state(opt) is None
    opt['auto_resume'] = False
    opt['path']['resume_state'] = 'none.state'
    with pytest.raises(FileNotFoundError, match='path:resume_state is none.state'):
        run.load_resume_state(opt)


def test_the_state_that_was_asked_for_must_be_whole(run, opt):
    store = write(opt, 8)
    write(opt, 16)
    opt |= {'auto_resume': False}
    opt['path']['resume_state'] = str(store.state_path(8))
    assert run.load_resume_state(opt)['iter'] == 8
    (store.models / 'net_g_8.pth').unlink()
    with pytest.raises(ValueError, match='8.state, which cannot be resumed: net_.*Name its folder'):
        run.load_resume_state(opt)


def test_of_a_folder_the_newest_whole_state_is_taken(run, opt, tmp_path):
    store = write(opt, 8)
    write(opt, 16)
    store.state_path(16).write_bytes(store.state_path(16).read_bytes()[:100])
    opt |= {'auto_resume': False}
    for folder in (store.states, tmp_path):  # that of the states, and the experiment's
        opt['path']['resume_state'] = str(folder)
        assert run.load_resume_state(opt)['iter'] == 8
        assert '16 is damaged' in run.warnings[0]
    opt['path']['resume_state'] = str(store.models)
    with pytest.raises(ValueError, match='models, a folder without a whole checkpoint'):
        run.load_resume_state(opt)


@pytest.mark.parametrize('beside', ['models', 'training_states'])
def test_another_runs_state_brings_its_own_networks(run, opt, tmp_path, beside):
    """Into an experiment of another name, which may have networks of the same iteration."""
    write(opt, 8)
    other = {
        'path': {name: str(tmp_path / 'other' / name) for name in ('models', 'training_states')}
    }
    store = write(other, 8)
    opt |= {'auto_resume': False}
    opt['path'] |= {'resume_state': str(store.state_path(8)), 'param_key_g': 'params_ema'}
    run.load_resume_state(opt)
    assert opt['path']['pretrain_network_g'] == str(store.models / 'net_g_8.pth')
    assert opt['path']['param_key_g'] is None
    if beside == 'training_states':  # both were copied into one folder
        opt['path']['resume_state'] = str(store.states.rename(tmp_path / 'copied') / '8.state')
        (store.models / 'net_g_8.pth').rename(tmp_path / 'copied/net_g_8.pth')
        run.load_resume_state(opt)
        assert opt['path']['pretrain_network_g'] == str(tmp_path / 'copied/net_g_8.pth')
    Path(opt['path']['pretrain_network_g']).unlink()
    with pytest.raises((FileNotFoundError, ValueError), match='net_.*8.pth'):
        run.load_resume_state(opt)


def test_a_drawn_seed_is_kept(run, opt):
    write(opt, 8, defsr={'images_done': 0, 'manual_seed': 77, 'num_nonfinite': 0})
    run.load_resume_state(opt | {'seed_was_drawn': False})
    assert opt['manual_seed'] == 0
    opt['seed_was_drawn'] = True
    run.load_resume_state(opt)
    assert opt['manual_seed'] == 77


class Images(torch.utils.data.Dataset):
    def __init__(self, opt):
        self.opt = opt

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return index


def batches_after(monkeypatch, run, opt, state, batch=2):
    """What is left of the state's epoch, and the log."""
    from defsr.running import loaders

    monkeypatch.setattr(loaders, 'build_dataset', Images)
    train = {'phase': 'train', 'name': 'x', 'num_worker_per_gpu': 0, 'batch_size_per_gpu': batch}
    opt |= {'datasets': {'train': train}, 'train': {'total_iter': 100}}
    opt |= {'dist': False, 'world_size': 1, 'rank': 0}
    run.state = state
    logger = logging.getLogger('test_training_run')
    loader, sampler, _, num_epochs, total_iter = run.create_train_val_dataloader(opt, logger)
    epoch = state['epoch'] if state else 0
    sampler.set_epoch(epoch)
    return [batch.tolist() for batch in loader], num_epochs, total_iter


def state_with(images_done, seed=0):
    return {'iter': 13, 'epoch': 1, 'defsr': {'images_done': images_done, 'manual_seed': seed}}


def test_the_data_go_on_where_they_stopped(monkeypatch, run, opt):
    whole, num_epochs, total_iter = batches_after(monkeypatch, run, opt, state_with(0))
    assert len(whole) == 10 and total_iter == 100
    assert opt['train']['num_iter_per_pass'] == 10
    rest, num_epochs, _ = batches_after(monkeypatch, run, opt, state_with(6))
    assert rest == whole[3:] and num_epochs == 10
    assert run.loaders.clock.epoch_of(13) == 1 and run.loaders.clock.epoch_of(21) == 2


@pytest.mark.parametrize(
    ('state', 'batch', 'left', 'warning'),
    [
        (state_with(6), 4, 4, 'of this epoch 4 are done, 2 come again'),
        (state_with(6, seed=5), 2, 7, 'manual_seed is 0, but was 5'),
        ({'iter': 13, 'epoch': 1}, 2, 10, 'its epoch is started again'),
    ],
)
def test_what_has_changed_is_said(monkeypatch, run, opt, caplog, state, batch, left, warning):
    rest, *_ = batches_after(monkeypatch, run, opt, state, batch)
    assert len(rest) == left and warning in caplog.text


def test_what_was_logged_after_the_resumed_iteration_is_hidden(run, tmp_path, monkeypatch):
    writers = []
    monkeypatch.setattr(
        'defsr.running.training_run.SummaryWriter',
        lambda **kwargs: writers.append(kwargs) or 'writer',
    )
    run.init_tb_logger(str(tmp_path))
    run.state = {'iter': 7}
    assert run.init_tb_logger(str(tmp_path)) == run.tb_logger == 'writer'
    assert [writer['purge_step'] for writer in writers] == [None, 8]
