"""The commands of the README as a user types them, on a small pair, in a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from repository import REPOSITORY
from workspaces import TRAIN, run, run_well, save_options, shrink

from defsr.config.files import load_options


@pytest.mark.parametrize(
    ('name', 'losses'),
    [
        ('train_DEF_GAN_small_x4.yml', ('l_g_pix', 'l_g_percep', 'l_g_gan', 'l_d_gp')),
        ('train_ESRGAN_small_x4.yml', ('l_g_pix', 'l_g_percep', 'l_g_gan', 'l_d_fake')),
    ],
)
def test_train_and_resume(workspace, name, losses):
    """BasicSR's own models and ours, through the same script and data set.

    SRModel: ``faults/test_kill_training.py``, where what comes of it is compared bit for bit.
    The experiment keeps all that its file says, with its base and ``--force_yml``.
    """
    opt = shrink(name)
    if 'GAN' in name and opt['model_type'] == 'DEFModel':
        opt['train']['rec_only_epochs'] = 1
    save_options(workspace / 'whole.yml', opt)
    file = str(workspace / 'o.yml')
    Path(file).write_text('base: whole.yml\n')
    script = TRAIN
    output = run_well(workspace, script, '-opt', file)
    assert 'iter:       4' in output
    assert 'iter:       5' not in output
    for loss in losses:
        assert loss in output
    assert 'psnr' in output and 'ssim' in output
    experiment = workspace / 'experiments' / opt['name']
    assert (experiment / 'models/net_g_latest.pth').is_file()
    assert any((workspace / 'tb_logger' / opt['name']).iterdir())

    output = run_well(
        workspace, script, '-opt', file, '--auto_resume', '--force_yml', 'train:total_iter=6'
    )
    assert 'Resuming training from epoch: ' in output
    assert 'iter: 4.' in output
    assert 'iter:       6' in output
    assert 'iter:       4' not in output
    kept = experiment / 'o.yml'
    assert kept.read_text().splitlines()[0].endswith('--force_yml train:total_iter=6')
    opt['train']['total_iter'] = 6
    assert load_options(kept) == opt


def test_the_same_seed_gives_the_same_weights_twice(workspace):
    """Bit for bit, moving average included; another seed gives others."""
    found = []
    for name, seed in (('one', 7), ('two', 7), ('three', 8)):
        opt = shrink('table2_DCN_x4.yml') | {'name': name, 'manual_seed': seed}
        opt['train']['total_iter'] = 2
        file = save_options(workspace / f'{name}.yml', opt)
        run_well(workspace, TRAIN, '-opt', file)
        path = workspace / 'experiments' / name / 'models/net_g_latest.pth'
        found.append(torch.load(path, weights_only=True))
    for container in ('params', 'params_ema'):
        one, two, three = (content[container] for content in found)
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert not all(torch.equal(one[key], three[key]) for key in one)


def test_debug_mode(workspace):
    opt = shrink('train_DEF_small_x4.yml')
    opt['train']['total_iter'] = 1
    file = save_options(workspace / 'o.yml', opt)
    run_well(workspace, TRAIN, '-opt', file, '--debug', cold=True)
    assert (workspace / f'experiments/debug_{opt["name"]}').is_dir()
    assert not (workspace / 'tb_logger').exists()


def test_test(workspace):
    opt = load_options(REPOSITORY / 'options/test_DEF_demo.yml')
    opt['datasets']['test'] |= {'dataroot_gt': 'datasets/gt', 'dataroot_ref': 'datasets/ref'}
    opt['network_g']['aggregator'] |= {'num_feat': 8, 'num_block': [1, 1, 1, 1]}
    opt['path'] = {'pretrain_network_e': 'upscale_EDSR.pth'}
    file = save_options(workspace / 'o.yml', opt)
    output = run_well(workspace, str(REPOSITORY / 'defsr/test.py'), '-opt', file)
    for word in ('bicubic', 'DEF', 'psnr', 'ssim', 'seconds'):
        assert word in output
    folder = workspace / 'results/test_DEF_demo/visualization/demo'
    for end in ('', '_comparison', '_index', '_confidence'):
        assert (folder / f'1_SR{end}.png').is_file()


def test_a_users_mistake_is_one_line(workspace):
    """Unless its stack is asked for; other commands: ``test_refusals.py``."""
    done = run(workspace, TRAIN, '-opt', 'none.yml')
    assert done.returncode == 2
    assert done.stderr.startswith('error: ')
    assert 'none.yml' in done.stderr and 'Traceback' not in done.stderr
    traced = run(workspace, TRAIN, '-opt', 'none.yml', '--traceback')
    assert 'Traceback' in traced.stderr


def test_a_torn_image_in_a_worker_ends_the_run(workspace):
    """In one line, and at once: the workers must not keep the process alive."""
    opt = shrink('train_EDSR_small_x4.yml')
    opt['datasets']['train'] |= {'num_worker_per_gpu': 2, 'prefetch_mode': 'cpu'}
    image = workspace / 'datasets/gt/1.png'
    image.write_bytes(image.read_bytes()[:-100])
    done = run(workspace, TRAIN, '-opt', save_options(workspace / 'o.yml', opt))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if 'error: ' in line]
    assert 'datasets/gt/1.png is cut off' in line and 'Traceback' not in done.stderr


def test_demo_data(workspace):
    run_well(workspace, '-m', 'defsr.tools.demo_data')
    folder = workspace / 'datasets/demo'
    assert sorted(p.parent.name for p in folder.rglob('*.png')) == ['gt', 'ref']
