"""Options as a whole: the repository's files pass, and nothing crashes the check."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
from repository import REPOSITORY
from workspaces import TRAIN, run, save_options, shrink

from defsr.config.check import check_options
from defsr.config.files import load_options

FOLDER = REPOSITORY / 'options'
# Of experiments; the others are for tools, which check theirs themselves.
TOOLS = ('upscale', 'enhance', 'rectify', 'benchmark', 'null_space')
FILES = [p for p in sorted(FOLDER.rglob('*.yml')) if not p.name.startswith(TOOLS)]
SMALL = FOLDER / 'small/train_DEF_GAN_small_x4.yml'


def load(path: Path, folder: Path, monkeypatch) -> dict:
    """The options, in a folder where the weights that they name exist."""
    monkeypatch.chdir(folder)
    opt = load_options(path)
    files = [v for key, v in opt['path'].items() if key.startswith('pretrain_network') and v]
    losses = [v for key, v in opt.get('train', {}).items() if key.endswith('_opt') and v]
    for value in [*files, *(block.get('weights', '') for block in losses)]:
        if '/' in value:
            Path(value).parent.mkdir(parents=True, exist_ok=True)
            Path(value).touch()
    return opt


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_every_option_file_passes(path, tmp_path, monkeypatch):
    opt = load(path, tmp_path, monkeypatch)
    before = deepcopy(opt)
    check_options(opt, is_train=not path.stem.startswith('test'))
    assert opt == before


def test_options_that_others_read_pass(tmp_path, monkeypatch):
    opt = load(SMALL, tmp_path, monkeypatch)
    opt['logger'] |= {'keep_last': 3, 'keep_best': 'psnr', 'save_checkpoint_freq': 5e3}
    opt['dist_params'] = {'backend': 'gloo', 'port': 29500, 'timeout': 60}
    opt['train'] |= {'grad_clip_norm': 1.0, 'nonfinite': 'skip', 'max_nonfinite': 3}
    opt['path'] |= {'pretrain_network_x': None, 'param_key_g': 'params_ema', 'strict_load_d': True}
    check_options(opt, is_train=True)


def test_a_model_of_basicsrs_may_have_options_of_its_own(tmp_path, monkeypatch):
    opt = load(FOLDER / 'train_ESRGAN_x4.yml', tmp_path, monkeypatch)
    with pytest.raises(ValueError, match='Unknown option `queue_size`'):
        check_options(opt | {'queue_size': 180}, is_train=True)
    opt['train'] |= {'ema_deca': 0.9, 'nonfinite': 'skip', 'grad_clip_norm': 1.0}
    other = {'model_type': 'RealESRGANModel', 'queue_size': 180}
    check_options(opt | other, is_train=True)  # nobody knows its keys
    with pytest.raises(ValueError, match='Unknown option `train:ema_deca`'):
        check_options(opt, is_train=True)


def test_the_enhancer_of_a_test_fits_the_data(tmp_path, monkeypatch):
    opt = load(FOLDER / 'test_DEF.yml', tmp_path, monkeypatch)
    opt['network_e']['degradation'] = 'pil'
    with pytest.raises(ValueError, match='network_e:degradation is pil, but datasets'):
        check_options(opt, is_train=False)
    opt['network_e'] = {'type': 'BicubicEnhancer'}  # of which nobody asks consistency
    check_options(opt, is_train=False)


MISTAKES = {
    'train:rec_only_epoch=2': 'Did you mean `rec_only_epochs`',
    'val:save_map=true': 'Did you mean `save_maps`',
    'train:grad_clip_norm=-1': 'train:grad_clip_norm is -1, but must be above 0',
    'network_t:layers=[relu1_2]': 'one layer at each of the strides',
}


@pytest.mark.parametrize('entry', MISTAKES)
def test_a_mistake_leaves_no_folder_behind(entry, workspace):
    opt = shrink('train_DEF_small_x4.yml')
    opt['logger']['use_tb_logger'] = True
    save_options(workspace / 'o.yml', opt)
    before = sorted(workspace.iterdir())
    done = run(workspace, TRAIN, '-opt', 'o.yml', '--force_yml', entry)
    assert done.returncode == 2 and MISTAKES[entry] in done.stderr
    assert sorted(workspace.iterdir()) == before


def test_weights_need_not_be_there_to_resume(tmp_path, monkeypatch):
    opt = load_options(SMALL)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='path:pretrain_network_g is'):
        check_options(opt, is_train=True)
    check_options(opt | {'auto_resume': True}, is_train=True)
    check_options(opt | {'path': opt['path'] | {'resume_state': '5.state'}}, is_train=True)
