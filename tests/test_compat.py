"""The patches of BasicSR: what it does wrong alone, it does right here."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack

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
datasets:
  train: {name: x, type: RefTripletDataset, dataroot_gt: gt, dataroot_ref: ref, gt_size: 64,
          batch_size_per_gpu: 1, num_worker_per_gpu: 0}
network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3}
path: {}
train:
  total_iter: 10
  optim_g: {type: Adam, lr: 1}
  scheduler: {type: MultiStepLR, milestones: []}
  pixel_opt: {type: L1Loss}
logger: {print_freq: 1, save_checkpoint_freq: 1, use_tb_logger: false}
"""

PATCHED = (
    'parse_options',
    'load_resume_state',
    'init_tb_logger',
    'create_train_val_dataloader',
    'build_model',
    'copy_opt_file',
    'mkdir_and_rename',
)


@pytest.fixture
def pipelines(tmp_path, monkeypatch):
    """BasicSR's training module, patched, in an empty folder with an option file."""
    import basicsr.test
    import basicsr.train
    import basicsr.utils.options

    for module in (basicsr.train, basicsr.test):
        for name in PATCHED:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'o.yml').write_text(MINIMAL)
    with ExitStack() as held:
        compat.patch_pipelines(held)
        yield basicsr.train


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
    with pytest.raises(ValueError, match='An entry of train:optim_g:betas is .__import__'):
        parse(pipelines, monkeypatch, '--force_yml', f'train:optim_g:betas={code}')
    assert not (tmp_path / 'pwned').exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there(pipelines, monkeypatch):
    with pytest.raises(ValueError, match='num_gpu is 2, but this machine has no CUDA device'):
        parse(pipelines, monkeypatch, '--force_yml', 'num_gpu=2')
    assert parse(pipelines, monkeypatch, '--force_yml', 'num_gpu=auto')['num_gpu'] == 0


def test_a_seed_of_its_own_is_marked(pipelines, monkeypatch, tmp_path):
    assert parse(pipelines, monkeypatch)['seed_was_drawn'] is False
    (tmp_path / 'o.yml').write_text(MINIMAL.replace('manual_seed: 0', ''))
    opt = parse(pipelines, monkeypatch)
    assert opt['seed_was_drawn'] is True and isinstance(opt['manual_seed'], int)


def test_a_launcher_without_its_environment(pipelines, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(ValueError, match='needs RANK, .* Start with `torchrun'):
        parse(pipelines, monkeypatch, '--launcher', 'pytorch')
    with pytest.raises(ValueError, match='needs SLURM_PROCID, SLURM_NTASKS .* `srun`'):
        parse(pipelines, monkeypatch, '--launcher', 'slurm')


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 2:
            raise ValueError('image 2 is torn')
        return index


@pytest.mark.timeout(30)
def test_an_error_while_prefetching_is_no_endless_wait(pipelines):
    from basicsr.data.prefetch_dataloader import PrefetchDataLoader

    loader = iter(PrefetchDataLoader(num_prefetch_queue=1, dataset=Broken()))
    assert [next(loader).item() for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match='image 2 is torn'):
        next(loader)
    whole = PrefetchDataLoader(num_prefetch_queue=1, dataset=range(3))
    assert [batch.item() for batch in whole] == [0, 1, 2]


def test_folders_archived_in_one_second_do_not_collide(pipelines, tmp_path):
    folder = tmp_path / 'experiment'
    for i in range(3):
        pipelines.mkdir_and_rename(str(folder))
        (folder / str(i)).touch()
    names = {path.name for path in tmp_path.glob('experiment*/*')}
    assert names == {'0', '1', '2'} and len(list(tmp_path.glob('experiment*'))) == 3


def test_no_warning_of_what_is_supported(pipelines, caplog):
    logger = logging.getLogger('basicsr')
    with caplog.at_level(logging.INFO, 'basicsr'):
        logger.addHandler(caplog.handler)
        logger.warning('Multiple validation datasets are *only* supported by SRModel.')
        logger.warning('another')
        logger.removeHandler(caplog.handler)
    assert {record.message for record in caplog.records} == {'another'}
