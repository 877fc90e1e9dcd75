"""Every file in options/: parsed, understood by who reads it, explained, and built."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from basicsr.archs import build_network
from denoisers import TINY_ADM
from repository import REPOSITORY

from defsr.config.files import load_options
from defsr.diffusion.schedule import ADM_SCHEDULE
from defsr.enhance.options import check_enhance_options
from defsr.enhance.rectified import check_rectify_options

FOLDER = REPOSITORY / 'options'
FILES = sorted(FOLDER.rglob('*.yml'))
CACHES = sorted(FOLDER.rglob('enhance_*.yml'))
RECTIFIED = sorted(FOLDER.rglob('rectify_*.yml'))
BENCHMARKS = sorted(FOLDER.rglob('benchmark_*.yml'))
METHODS = [  # nothing to train or test
    FOLDER / 'upscale.yml',
    FOLDER / 'small/null_space_x4.yml',
    FOLDER / 'small/null_space_ddnm_x4.yml',
]
EXPERIMENTS = [p for p in FILES if p not in [*METHODS, *CACHES, *RECTIFIED, *BENCHMARKS]]
ANNOTATED = [
    FOLDER / f'{name}.yml'
    for name in ('train_DEF_x4', 'test_DEF', 'train_prior_256', 'enhance_CUFED')
]
# BasicSR's words, explained in its own documentation.
BASICSR_WORDS = {
    'name', 'type', 'io_backend', 'optim_g', 'optim_d', 'scheduler', 'lr', 'weight_decay',
    'betas', 'milestones', 'gamma', 'loss_weight', 'reduction', 'gan_type', 'layer_weights',
    'criterion', 'perceptual_weight', 'style_weight', 'print_freq', 'save_checkpoint_freq',
    'use_tb_logger', 'logger', 'wandb', 'dist_params', 'backend', 'port', 'path', 'datasets',
    'train', 'val', 'psnr', 'ssim', 'crop_border', 'test_y_channel', 'better', 'scale',
    'strict_load_g', 'model_type', 'manual_seed', 'network_g', 'num_gpu', 'save_img',
    'num_feat', 'vgg_type', 'weights', 'dataroot_gt', 'dataroot_ref', 'pair_list',
    'degradation', 'transfer', 'aggregator', 'denoiser', 'diffusion',
}  # fmt: skip


def short(path: Path) -> str:
    return str(path.relative_to(FOLDER))


def keys_of(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from keys_of(value)


@pytest.mark.parametrize('path', EXPERIMENTS, ids=short)
def test_the_first_comment_is_the_command(path):
    entry = 'defsr/test.py' if path.name.startswith('test') else 'defsr/train.py'
    first = path.read_text().splitlines()[0]
    assert f'python {entry} -opt options/{short(path)}' in first


@pytest.mark.parametrize('path', EXPERIMENTS, ids=short)
def test_the_name_is_the_files(path):
    assert load_options(path)['name'] in (path.stem, f'{path.parent.name}_{path.stem}')


@pytest.mark.parametrize('path', [p for p in FILES if p not in BENCHMARKS], ids=short)
def test_networks_are_built(path):
    """On the meta device: sizes without memory; nothing to download."""
    opt = load_options(path)
    names = [key for key in opt if key.startswith('network_')]
    assert ('network_e' if path in [*CACHES, *RECTIFIED] else 'network_g') in names
    for name in names:
        block = dict(opt[name])
        if block.get('weights') == 'torchvision':
            block['weights'] = 'none'
        if 'denoiser' in block:
            with torch.device('meta'):
                build_network(block['denoiser'])
            block['denoiser'] = TINY_ADM
        if block['type'] == 'ADMUNet':
            with torch.device('meta'):
                assert isinstance(build_network(block), torch.nn.Module)
            continue
        assert isinstance(build_network(block), torch.nn.Module)


@pytest.mark.parametrize('path', CACHES, ids=short)
def test_caches_that_are_asked_for(path):
    """All but the weights, which users bring."""
    assert path.read_text().startswith(f'# defsr-enhance -opt options/{short(path)}\n')
    opt = load_options(path)
    assert opt['name'] == path.stem
    assert opt['path'].pop('pretrain_network_e')
    requests = check_enhance_options(opt)
    blocks = [block['enhance'] for block in opt['datasets'].values()]
    assert [request.kind for request in requests] == sum(blocks, [])
    assert blocks[0][0] == 'de' and all(set(kinds) <= {'de', 'ref_de'} for kinds in blocks)


@pytest.mark.parametrize('path', RECTIFIED, ids=short)
def test_rectified_references_that_are_asked_for(path):
    assert path.read_text().startswith(f'# defsr-rectify -opt options/{short(path)}\n')
    assert [*check_rectify_options(load_options(path))] == ['datasets:train', 'datasets:val']


def test_training_reads_the_caches_that_are_made():
    opt, train = (load_options(FOLDER / f'{n}.yml') for n in ('enhance_CUFED', 'train_DEF_x4'))
    for key in ('network_e', 'scale'):
        assert opt[key] == train[key]
    assert opt['path']['pretrain_network_e'] == train['path']['pretrain_network_e']
    for phase in ('train', 'val'):
        made, read = opt['datasets'][phase], train['datasets'][phase]
        assert made['out']['de'] == read['dataroot_de']
        shared = set(made) & set(read)
        assert {'dataroot_gt', 'dataroot_ref', 'io_backend', 'degradation'} <= shared
        assert all(made[key] == read[key] for key in shared)


def test_the_papers_settings():
    """Section 4.5 of the paper, number by number."""
    opt = load_options(FOLDER / 'train_DEF_x4.yml')
    train, diffusion = opt['train'], opt['network_e']['diffusion']
    assert opt['match_key'] == 'ref'
    assert opt['datasets']['train']['batch_size_per_gpu'] == 9
    assert opt['datasets']['train']['gt_size'] == 160
    assert diffusion['num_steps'] == 1000
    assert diffusion['schedule'] == {
        'beta_start': 1e-6,
        'beta_end': 1e-2,
        'num_train_steps': 1000,
    }
    assert opt['network_e']['denoiser']['image_size'] == 256
    assert train['optim_g'] == {
        'type': 'Adam',
        'lr': 1e-4,
        'weight_decay': 0,
        'betas': [0.9, 0.999],
    }
    assert train['rec_only_epochs'] == 2
    assert train['pixel_opt']['loss_weight'] == 1
    assert train['perceptual_opt']['perceptual_weight'] == 1e-2
    assert train['gan_opt']['loss_weight'] == 1e-4
    names = [block['name'] for block in load_options(ANNOTATED[1])['datasets'].values()]
    assert names == ['CUFED5', 'WR-SR', 'Urban100', 'Manga109', 'Sun80']


def test_the_prior_of_the_papers_scale_is_adms():
    """Layout, schedule and training of 256x256_diffusion_uncond, but for the variance head."""
    opt = load_options(FOLDER / 'train_prior_256.yml')
    train, block = opt['train'], opt['network_g']
    with torch.device('meta'):
        net = build_network(block)
        published = build_network({'type': 'ADMUNet'}).state_dict()
    state = net.state_dict()
    assert state.keys() == published.keys()
    differing = {key for key in state if state[key].shape != published[key].shape}
    assert differing == {'out.2.weight', 'out.2.bias'} and len(state['out.2.bias']) == 3
    for phase in ('train', 'val'):
        assert opt['datasets'][phase]['gt_size'] == block['image_size'] == 256
        assert opt['datasets'][phase]['gt_size'] % net.stride == 0
    assert (train['prediction'], train['ema_decay'], train['precision']) == ('eps', 0.9999, 'bf16')
    assert train['schedule'] == ADM_SCHEDULE
    assert train['channels_last'] is True
    assert train['optim_g'] == {
        'type': 'Adam',
        'lr': 1e-4,
        'weight_decay': 0,
        'betas': [0.9, 0.999],
    }


ROWS = {
    'ablation/table2_Base_x4': ('BicubicEnhancer', 'HardTransferArch', 'ref_down_up'),
    'ablation/table2_DEF_x4': ('DDNMEnhancer', 'HardTransferArch', 'ref'),
    'ablation/table2_DCN_x4': ('BicubicEnhancer', 'DCNTransferArch', 'ref'),
    'train_DEF_x4': ('DDNMEnhancer', 'DCNTransferArch', 'ref'),
    'ablation/controlled_Base_x4': ('BicubicEnhancer', 'HardTransferArch', 'ref_down_up'),
    'ablation/controlled_DEF_x4': ('DDNMEnhancer', 'HardTransferArch', 'ref_down_up'),
    'ablation/controlled_DCN_x4': ('BicubicEnhancer', 'DCNTransferArch', 'ref_down_up'),
    'ablation/controlled_DCN_DEF_x4': ('DDNMEnhancer', 'DCNTransferArch', 'ref_down_up'),
    'small/table2_Base_x4': ('BicubicEnhancer', 'HardTransferArch', 'ref_down_up'),
    'small/table2_DEF_x4': ('DDNMEnhancer', 'HardTransferArch', 'ref'),
    'small/table2_DCN_x4': ('BicubicEnhancer', 'DCNTransferArch', 'ref'),
    'small/table2_DCN_DEF_x4': ('DDNMEnhancer', 'DCNTransferArch', 'ref'),
    'small/controlled_Base_x4': ('BicubicEnhancer', 'HardTransferArch', 'ref'),
}


@pytest.mark.parametrize('row', ROWS)
def test_rows_of_the_ablations(row):
    opt = load_options(FOLDER / f'{row}.yml')
    found = opt['network_e']['type'], opt['network_g']['transfer']['type'], opt['match_key']
    assert found == ROWS[row]


def test_small_rows_enhance_as_their_cache_does():
    opt, cache = (
        load_options(FOLDER / f'small/{n}.yml') for n in ('table2_DEF_x4', 'enhance_pairs')
    )
    assert opt['network_e'] == cache['network_e']
    assert opt['datasets']['train']['dataroot_de'] == cache['datasets']['train']['out']['de']


@pytest.mark.parametrize('path', ANNOTATED, ids=short)
def test_every_key_of_ours_is_explained(path):
    """Somewhere in the annotated files: its line, or the block it opens, carries a comment."""
    explained = set()
    for annotated in ANNOTATED:
        explained |= set(re.findall(r'^\s*(\w+):.*#', annotated.read_text(), flags=re.M))
        explained |= set(re.findall(r'^#.*\n(\w+):', annotated.read_text(), flags=re.M))
    bare = sorted(set(keys_of(load_options(path))) - explained - BASICSR_WORDS)
    allowed = {'resume_id', 'project', 'beta_start', 'beta_end', 'num_train_steps', 'schedule',
               'denoiser_schedule', 'num_out_ch', 'use_scale_shift_norm', 'resblock_updown',
               'network_e', 'network_t', 'network_d', 'relu5_1'}  # fmt: skip
    numbered = {key for key in bare if re.fullmatch(r'test_\d', key)}
    assert set(bare) <= allowed | numbered
