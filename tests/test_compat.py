"""The patches of BasicSR: what it does wrong alone, it does right here."""

from __future__ import annotations

import logging
import pickle
import sys

import pytest
import torch
from basicsr.utils.options import ordered_yaml

from defsr import compat

MINIMAL = """
name: compat
model_type: SRModel
scale: 4
num_gpu: 0
manual_seed: 0
datasets: {train: {name: x, type: RefTripletDataset, dataroot_gt: gt}}
path: {}
train: {total_iter: 10, optim_g: {lr: 1}}
logger: {print_freq: 1, save_checkpoint_freq: 1}
"""


@pytest.fixture
def pipelines(tmp_path, monkeypatch):
    """BasicSR's training module, patched, in an empty folder with an option file."""
    import basicsr.test
    import basicsr.train
    import basicsr.utils.options

    for module in (basicsr.train, basicsr.test):
        for name in ('parse_options', 'load_resume_state', 'create_train_val_dataloader'):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'o.yml').write_text(MINIMAL)
    compat.patch_pipelines()
    return basicsr.train


def parse(pipelines, monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', 'o.yml', *arguments])
    return pipelines.parse_options('.', is_train=True)[0]


def test_basicsr_reads_options_with_the_safe_loader():
    import yaml

    assert issubclass(ordered_yaml()[0], yaml.SafeLoader)


def test_an_option_file_cannot_run_code(pipelines, monkeypatch, tmp_path):
    bad = MINIMAL + 'x: !!python/object/apply:os.mkdir ["pwned"]\n'
    (tmp_path / 'o.yml').write_text(bad)
    with pytest.raises(ValueError, match='is not safe, valid YAML'):
        parse(pipelines, monkeypatch)
    assert not (tmp_path / 'pwned').exists()


def test_overrides_are_applied_before_anything_reads_them(pipelines, monkeypatch):
    arguments = ['--force_yml', 'train:optim_g:lr=2e-4', 'name=other', '--debug']
    opt = parse(pipelines, monkeypatch, *arguments)
    assert opt['train']['optim_g']['lr'] == 2e-4
    assert opt['name'] == 'debug_other'
    assert opt['path']['log'].endswith('debug_other')
    assert sys.argv[-1] == '--debug'


def test_an_override_is_no_code(pipelines, monkeypatch, tmp_path):
    code = '[__import__("os").mkdir("pwned")]'
    opt = parse(pipelines, monkeypatch, '--force_yml', f'train:x={code}')
    assert opt['train']['x'] == [code[1:-1]]
    assert not (tmp_path / 'pwned').exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there(pipelines, monkeypatch):
    with pytest.raises(ValueError, match='num_gpu is 2, but this machine has no CUDA device'):
        parse(pipelines, monkeypatch, '--force_yml', 'num_gpu=2')
    assert parse(pipelines, monkeypatch, '--force_yml', 'num_gpu=auto')['num_gpu'] == 0


def resume_options(tmp_path, **networks):
    states = tmp_path / 'states'
    states.mkdir(exist_ok=True)
    path = {'training_states': str(states), 'models': 'models', 'resume_state': None}
    return {'auto_resume': True, 'num_gpu': 0, 'path': path, **networks}, states


def test_resume_without_cuda_takes_the_newest_state(pipelines, tmp_path):
    from collections import Counter

    opt, states = resume_options(tmp_path, network_g={}, network_e={}, network_t={})
    opt['path']['pretrain_network_e'] = 'denoiser.pt'
    for iteration in (8, 16):
        scheduler = {'milestones': Counter([5])}
        state = {'iter': iteration, 'epoch': 1, 'optimizers': [], 'schedulers': [scheduler]}
        torch.save(state, states / f'{iteration}.state')
    state = pipelines.load_resume_state(opt)
    assert state['iter'] == 16
    assert opt['path']['pretrain_network_g'].endswith('net_g_16.pth')
    assert opt['path']['pretrain_network_e'] == 'denoiser.pt', 'frozen networks are never saved'
    assert 'pretrain_network_t' not in opt['path']


def test_nothing_to_resume(pipelines, tmp_path):
    opt, _ = resume_options(tmp_path)
    assert pipelines.load_resume_state(opt) is None
    opt['auto_resume'] = False
    opt['path']['resume_state'] = 'none.state'
    with pytest.raises(FileNotFoundError, match='path:resume_state is none.state'):
        pipelines.load_resume_state(opt)


class Attack:
    def __reduce__(self):
        import os

        return os.mkdir, ('pwned',)


def test_a_state_cannot_run_code(pipelines, tmp_path):
    opt, states = resume_options(tmp_path)
    torch.save({'iter': 1, 'x': Attack()}, states / '1.state')
    with pytest.raises(pickle.UnpicklingError):
        pipelines.load_resume_state(opt)
    assert not (tmp_path / 'pwned').exists()


class Images(torch.utils.data.Dataset):
    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, i):
        return i


def loader_options(train):
    """What BasicSR reads to make its loaders: one process, 200 iterations."""
    return {
        'datasets': {'train': train},
        'train': {'total_iter': 200},
        'num_gpu': 0,
        'dist': False,
        'world_size': 1,
        'rank': 0,
        'manual_seed': 0,
    }


@pytest.mark.parametrize(
    ('images', 'batch', 'enlarge', 'per_epoch', 'per_pass'),
    [(10, 9, 1, 1, 2), (10, 9, 20, 22, 2), (20, 4, 3, 15, 5)],
)
def test_every_iteration_is_run(
    pipelines, monkeypatch, images, batch, enlarge, per_epoch, per_pass
):
    """BasicSR alone stops ten images at batch 9 after 101 of 200 iterations."""
    monkeypatch.setattr(pipelines, 'build_dataset', lambda opt: Images(images))
    train = {'phase': 'train', 'num_worker_per_gpu': 0, 'batch_size_per_gpu': batch}
    opt = loader_options({**train, 'dataset_enlarge_ratio': enlarge})
    logger = logging.getLogger('silent')
    loader, _, _, epochs, total = pipelines.create_train_val_dataloader(opt, logger)
    assert len(loader) == per_epoch
    assert epochs * len(loader) >= total == 200
    assert opt['train']['num_iter_per_pass'] == per_pass


def test_fewer_images_than_a_batch(pipelines, monkeypatch):
    monkeypatch.setattr(pipelines, 'build_dataset', lambda opt: Images(5))
    train = {'phase': 'train', 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 9}
    opt = loader_options(train)
    with pytest.raises(ValueError, match='has 5 images, fewer than one batch of 9'):
        pipelines.create_train_val_dataloader(opt, logging.getLogger('silent'))
