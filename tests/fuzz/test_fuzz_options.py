"""Every key of five option files made wrong in every way: refused in a line, or legal.

Legal is what ``LEGAL`` says. ``make fuzz`` trains with more of what passes than the suite does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from fuzzing import LEDGER, Tally, dice, times
from option_mutations import Mutation, mutations
from repository import REPOSITORY
from workspaces import TRAIN, run, save_options, shrink

from defsr.benchmark.options import read_benchmark
from defsr.config.check import check_options
from defsr.config.files import load_options
from defsr.enhance.options import check_enhance_options

TRIED = times(2, 25)  # trainings per file
WEIGHTS = 'experiments/pretrained_models'


def words(text: str) -> list[str]:
    """Names in a list that reads well."""
    return text.split()


HAS_DEFAULT = words("""
    manual_seed match_key io_backend degradation ref_size use_hflip use_rot ref_augment type scale
    dataset_enlarge_ratio prefetch_mode pair_list vgg_type weights skip num_group num_offset_feat
    num_feat num_block use_feat_de use_soft_attention strict_load_g rec_only_epochs ema_decay
    weight_decay betas gamma warmup_iter loss_weight reduction pbar tb_images compare_bicubic
    test_y_channel better project resume_id wandb metrics val psnr ssim criterion gan_opt upscale
    perceptual_opt perceptual_weight style_weight gradient_penalty_weight pixel_opt res_scale
    img_range rgb_mean layer_weights zoom keep_in_memory unshuffle emb_ch prediction schedule
    beta_start beta_end num_train_steps levels min_alpha_bar grad_clip_norm nonfinite sigmas
    restart_weights eta_min keep_last images_per_batch train diffusion num_steps start grid eta
    start_alpha_bar end_alpha_bar temperature denoiser_schedule seed path tile examples number side
    report show center_crop tables groups published loss CUFED5_(126) resume_state
    pretrain_network_g pretrain_network_e t g scenes timed num_in_ch num_conv extrapolation
""")
MAY_BE_SHORTER = words('num_feat sigmas show t published compare_to scenes timed')
MAY_BE_NULL = words("""
    manual_seed io_backend ref_size prefetch_mode pair_list num_offset_feat strict_load_g gan_opt
    perceptual_opt val metrics wandb project resume_id pixel_opt grad_clip_norm nonfinite keep_last
    prediction denoiser_schedule diffusion path tile examples center_crop tables groups published
    report
    loss weights resume_state pretrain_network_g pretrain_network_e scenes timed
""")
ZERO = words("""
    num_gpu manual_seed num_worker_per_gpu num_block rec_only_epochs ema_decay weight_decay
    gamma warmup_iter loss_weight tb_images crop_border perceptual_weight style_weight relu4_1
    gradient_penalty_weight res_scale rgb_mean min_alpha_bar restart_weights eta_min temperature eta
    start_alpha_bar seed CUFED5_(126) extrapolation
""")
FRACTION = words("""
    dataset_enlarge_ratio rec_only_epochs lr weight_decay gamma loss_weight perceptual_weight
    style_weight relu4_1 gradient_penalty_weight res_scale img_range rgb_mean grad_clip_norm sigmas
    restart_weights eta_min CUFED5_(126) extrapolation
""")
LEGAL = {
    'deleted': HAS_DEFAULT,
    'renamed': words('val psnr ssim t g CUFED5_(126) train pretrain_network_g resume_state tile'),
    'null': MAY_BE_NULL,
    'text': words("""
        name dataroot_gt dataroot_ref pair_list resume_state resume_id de ref_de options weights
        label loss
    """),
    'zero': ZERO,
    'negative': words('warmup_iter res_scale rgb_mean'),
    'fraction': FRACTION,
}  # the others nothing may be: huge, not a number, infinite, a list of null, a block


def is_legal(mutation: Mutation) -> bool:
    """Whether it may pass; it need not, since another option may need the key."""
    *_, name = (part for part in mutation.option.split(':') if not part.isdecimal())
    is_entry = mutation.option.rpartition(':')[2].isdecimal()
    if mutation.way == 'true':
        return isinstance(mutation.before, bool)
    if mutation.way == 'deleted' and is_entry:
        return name in MAY_BE_SHORTER
    return name.replace(' ', '_') in LEGAL.get(mutation.way, ())


def trained(name: str) -> tuple[dict, Callable]:
    return shrink(name), partial(check_options, is_train=True)


def gan() -> tuple[dict, Callable]:
    opt, check = trained('train_DEF_GAN_small_x4.yml')
    opt['train']['perceptual_opt']['weights'] = 'none'
    return opt, check


def prior() -> tuple[dict, Callable]:
    opt = load_options(REPOSITORY / 'options/small/train_prior_small.yml')
    for block in opt['datasets'].values():
        block |= {'dataroot_gt': 'datasets/gt', 'gt_size': 32}
    opt['datasets']['train'] |= {'batch_size_per_gpu': 2, 'dataset_enlarge_ratio': 2}
    opt['network_g'] |= {'num_feat': [8, 8], 'num_block': 1, 'emb_ch': 8}
    opt['train'] |= {'total_iter': 4}
    opt['train']['scheduler']['periods'] = [4]
    opt['val'] |= {'val_freq': 4, 'sigmas': [5, 15]}
    opt['logger'] |= {'print_freq': 1, 'save_checkpoint_freq': 2}
    return opt, partial(check_options, is_train=True)


def enhance() -> tuple[dict, Callable]:
    opt = load_options(REPOSITORY / 'options/small/enhance_cufed_small.yml')
    opt['path']['pretrain_network_e'] = f'{WEIGHTS}/small_EDSR.pth'
    return opt, check_enhance_options


def benchmark() -> tuple[dict, Callable]:
    opt = load_options(REPOSITORY / 'options/benchmark_small.yml')
    sets = opt['datasets']
    opt['datasets'] = {name: sets[name] for name in ('cufed5_ref1', 'urban100')}
    opt |= {'groups': {'g': ['cufed5_ref1']}, 'tables': {'t': ['cufed5_ref1', 'urban100']}}
    opt['methods'] = {'bicubic': {'method': 'bicubic'}, 'EDSR': {'options': 'own.yml'}}
    save_options(Path('own.yml'), {'network_g': {'type': 'BicubicEnhancer'}})
    opt['examples'] |= {'method': 'EDSR', 'show': ['bicubic', 'EDSR']}
    opt['report'] = {'number': 2, 'side': 64, 'show': ['bicubic', 'EDSR']}
    scores = {'CUFED5 (126)': [25.53, 0.765]}
    opt['published'] = [{'label': 'Base', 'loss': 'L1', 'scores': scores}]
    opt |= {'compare_to': ['EDSR', 'bicubic'], 'scenes': ['urban100'], 'timed': ['urban100']}
    return opt, read_benchmark


FILES = {
    'train_DEF_GAN_small_x4': gan,
    'train_EDSR_small_x4': partial(trained, 'train_EDSR_small_x4.yml'),
    'train_prior_small': prior,
    'enhance_cufed_small': enhance,
    'benchmark_small': benchmark,
}
TRAINED = FILES | {'train_DEF_small_x4': partial(trained, 'train_DEF_small_x4.yml')}


def passing(opt: dict, check: Callable) -> tuple[list[Mutation], int]:
    """The mutations that the check lets pass, and how many it refuses, each in one line."""
    let_pass, refused = [], 0
    check(opt)
    for mutation in mutations(opt):
        try:
            check(mutation.opt)
            let_pass.append(mutation)
        except (ValueError, OSError) as error:
            assert str(error) and '\n' not in str(error), (mutation.option, mutation.way)
            refused += 1
    return let_pass, refused


def note(name: str, results: int, refused: int) -> None:
    """In the table."""
    tally = Tally(name)
    tally.counts |= {'files': results + refused, 'clear lines': refused, 'results': results}
    LEDGER.append(tally)


@pytest.mark.parametrize('file', FILES)
def test_what_is_not_legal_is_refused(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opt, check = FILES[file]()
    let_pass, refused = passing(opt, check)
    note(file, len(let_pass), refused)
    wrong = Counter(f'{m.option}: {m.way}' for m in let_pass if not is_legal(m))
    assert not wrong
    assert refused > 3 * len(let_pass) > 100


@pytest.mark.slow
@pytest.mark.parametrize('file', ['train_DEF_small_x4', 'train_EDSR_small_x4', 'train_prior_small'])
def test_what_passes_trains_or_is_refused(file, workspace, monkeypatch):
    """In a line: folders that are not there, weights that cannot be fetched."""
    monkeypatch.chdir(workspace)
    let_pass, _ = passing(*TRAINED[file]())
    chosen = dice(file).sample(let_pass, min(TRIED, len(let_pass)))
    refused = 0
    for number, mutation in enumerate(chosen):
        folder = workspace / str(number)
        folder.mkdir()
        (folder / 'datasets').symlink_to(workspace / 'datasets')
        save_options(folder / 'o.yml', mutation.opt)
        done = run(folder, TRAIN, '-opt', 'o.yml')
        said = f'{mutation.option} {mutation.way}: {done.stderr[-2000:]}'
        assert done.returncode in (0, 2) and 'Traceback' not in done.stderr, said
        refused += done.returncode == 2
    note(f'{file}, trained', len(chosen) - refused, refused)
