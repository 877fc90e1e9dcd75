"""What goes wrong and what is said: the table behind ``test_refusals.py`` and its page.

``python tests/refusals.py`` writes the table into ``docs/refusals.md``.
"""

from __future__ import annotations

import defsr  # noqa: F401  (before BasicSR, which does not import without)

# isort: split
import io
import os
import pickle
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from basicsr.archs import build_network
from basicsr.data import build_dataset
from PIL import Image
from repository import REPOSITORY

from defsr.config.check import check_options
from defsr.config.files import dump_options, load_options, override_options
from defsr.data import cache_record, lmdb_writer
from defsr.enhance.job import fill_caches
from defsr.tools import create_lmdb, upscale

PAGE = REPOSITORY / 'docs/refusals.md'
START, END = '<!-- table: python tests/refusals.py -->\n', '<!-- end of the table -->\n'
PIXELS = np.random.default_rng(3).integers(0, 256, (48, 64, 3), np.uint8)
ABSENT = object()


class Workspace:
    """A folder with three pairs and an option file that is in order.

    Attributes:
        opt: the options; what a case changes here is written before the case runs.
        arguments: of the command line.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for role in ('gt', 'ref'):
            (folder / role).mkdir()
            for i in range(3):
                self.image(f'{role}/{i}.png', 48, 64)
        self.opt = load_options(REPOSITORY / 'options/small/train_DEF_small_x4.yml')
        data = {'type': 'RefTripletDataset', 'dataroot_gt': 'gt', 'dataroot_ref': 'ref'}
        train_block = self.opt['datasets']['train'] | data
        train_block |= {'num_worker_per_gpu': 0, 'batch_size_per_gpu': 2, 'gt_size': 32}
        train_block['ref_size'] = 32
        self.opt['datasets'] = {'train': train_block, 'val': data | {'name': 'v'}}
        self.arguments: list[str] = []

    def image(self, name: str, height: int, width: int) -> None:
        """A photograph of noise, of any size."""
        pixels = np.resize(PIXELS, (height, width, 3))
        assert cv2.imwrite(str(self.folder / name), pixels)

    def set(self, option: str, value: object) -> None:
        """Give an option by its path another value, or take it away."""
        *blocks, key = option.split(':')
        node = self.opt
        for block in blocks:
            node = node.setdefault(block, {})
        if value is ABSENT:
            del node[key]
        else:
            node[key] = value

    def tear(self, name: str, keep: float, filler: bytes = b'') -> None:
        """Cut a file off, as an interrupted copy does."""
        path = self.folder / name
        content = path.read_bytes()
        path.write_bytes(content[: round(len(content) * keep)] + filler)

    def save(self) -> Path:
        """Write the option file."""
        path = self.folder / 'o.yml'
        if not path.exists():
            path.write_text(dump_options(self.opt, 'of a test'))
        return path


# -- ways to run into a mistake ------------------------------------------------------------------


def check(workspace: Workspace, *, is_train: bool = True) -> None:
    """As both entry points do before anything else."""
    opt = override_options(load_options(workspace.save()), workspace.arguments)
    check_options(opt, is_train)


def read(workspace: Workspace) -> None:
    """The data of a training run: every item of every set."""
    check(workspace)
    for phase, block in workspace.opt['datasets'].items():
        dataset = build_dataset(dict(block) | {'phase': phase, 'scale': 4})
        for i in range(len(dataset)):
            dataset[i]


def build(workspace: Workspace) -> None:
    """The frozen networks of a training run, with their weights."""
    check(workspace)
    enhancer = build_network(workspace.opt['network_e'])
    if workspace.opt['path'].get('pretrain_network_e'):
        enhancer.load_weights(workspace.opt['path']['pretrain_network_e'])
    build_network(workspace.opt['network_t'])


def enhance(workspace: Workspace) -> None:
    """The enhancer on a small image, on the CPU."""
    check(workspace)
    build_network(workspace.opt['network_e'])(torch.zeros(1, 3, 4, 4))


def run_tool(main: Callable[[], None], *arguments: str) -> Callable[[Workspace], None]:
    """A tool's own function behind its command line."""

    def run(workspace: Workspace) -> None:
        sys.argv = ['tool', *arguments, *workspace.arguments]
        main()

    return run


def fill(workspace: Workspace) -> None:
    """``defsr-enhance`` on the workspace's pairs, with an enhancer that needs no weights."""
    if 'model_type' in workspace.opt:
        to_enhance(workspace)
    fill_caches(override_options(load_options(workspace.save()), workspace.arguments))


def to_enhance(workspace: Workspace) -> None:
    """Turns the options into those of ``defsr-enhance``."""
    data = {'name': 'v', 'type': 'RefTripletDataset', 'dataroot_gt': 'gt', 'dataroot_ref': 'ref'}
    workspace.opt = {
        'name': 'x',
        'scale': 4,
        'num_gpu': 0,
        'network_e': {'type': 'BicubicEnhancer'},
        'datasets': {'val': data | {'out': 'de'}},
    }


def use_cache(workspace: Workspace) -> None:
    """The check of a model's caches."""
    enhancer = {'type': 'DDNMEnhancer', 'num_steps': 20}
    cache_record.check_caches(workspace.opt['datasets'], enhancer)


UPSCALE = ('defsr-upscale', '-i', 'gt/0.png', '-r', 'ref/0.png', '-o', 'sharp.png')
test = partial(check, is_train=False)
sharpen = run_tool(upscale.upscale, *UPSCALE[1:])
pack = run_tool(create_lmdb.run, '--gt', 'gt', '--out', 'packed')


def as_test(workspace: Workspace) -> None:
    """Turns the options into those of a test."""
    workspace.opt['datasets'] = {'test_1': workspace.opt['datasets']['val']}


@dataclass(frozen=True)
class Case:
    """One kind of mistake.

    Attributes:
        kind: in words.
        spoil: what makes it.
        message: what is said; ``…`` stands for anything.
        run: where it is noticed.
    """

    kind: str
    spoil: Callable[[Workspace], object]
    message: str
    run: Callable[[Workspace], None] = check

    @property
    def test_id(self) -> str:
        """``kind`` as pytest's ``-k`` takes it."""
        return re.sub(r'\W+', '_', self.kind).strip('_')

    def matches(self, line: str) -> bool:
        """Whether ``line`` is the message."""
        return bool(re.search('.*'.join(map(re.escape, self.message.split('…'))), line))


def option(path: str, value: object, message: str, kind: str = '', run: Callable = check) -> Case:
    """A case of one option with a wrong value, or without one."""
    if not kind:
        shown = '' if value is ABSENT else yaml.safe_dump(value).splitlines()[0]
        kind = f'`{path}: {shown}`' if shown else f'no `{path}`'
    return Case(kind, lambda w: w.set(path, value), message, run)


def of_file(file: str, path: str, value: object, message: str) -> Case:
    """A case of one option in another file of the repository."""
    made = option(path, value, message)

    def spoil(workspace: Workspace) -> None:
        workspace.opt = load_options(REPOSITORY / 'options' / file)
        workspace.set(path, value)

    return replace(made, kind=f'{made.kind} in `{file}`', spoil=spoil)


def force(entry: str, message: str) -> Case:
    """A case of one ``--force_yml`` entry."""
    return Case(f'`--force_yml {entry}`', lambda w: w.arguments.append(entry), message)


# -- option files --------------------------------------------------------------------------------


def text(content: str | bytes) -> Callable[[Workspace], object]:
    """Replaces the option file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda w: (w.folder / 'o.yml').write_bytes(data)


def alias_bomb() -> str:
    """Ten lists of which each holds the one before nine times."""
    lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x]']
    lines += [f'a{i + 1}: &a{i + 1} [{", ".join([f"*a{i}"] * 9)}]' for i in range(9)]
    return '\n'.join(lines)


OPTION_FILES = [
    Case('option file that runs code', text('a: !!python/object/apply:os.system [ls]'),
         'o.yml is not safe, valid YAML: …'),
    Case('option file that is no YAML', text('a: [1, 2'), 'o.yml is not safe, valid YAML: …'),
    Case('option file of bytes', text(bytes(range(128, 255))), 'o.yml is no text file in UTF-8.'),
    Case('empty option file', text(''), 'o.yml holds no options: expected `key: value` lines.'),
    Case('a key twice', text('name: a\nname: b'), 'Option `name` is given twice in one block'),
    Case('number as text', text('train: {optim_g: {lr: 1e-4}}'),
         "Option `train:optim_g:lr` is '1e-4', which YAML reads as text. Write `!!float 1e-4`"),
    Case('key that is no text', lambda w: w.opt['train'].update({True: 3}),
         'The key True is no text. Quote it …'),
    Case('aliases that stand for a billion values', text(alias_bomb()),
         'There are more than 10000 values, aliases written out, or 50 blocks …See …o.yml.'),
    Case('brackets 5,000 deep', text('a: ' + '[' * 5000),
         'or 50 blocks one in another. See …o.yml'),
    Case('`!!bool` of something else', text('a: !!bool abc'),
         "'abc' is no bool in line 1. Quote it, or correct it. See …o.yml."),
    Case('date without quotes', text('name: 2024-12-13'),
         'Option `name` is a date, but must be a text, a number, true, false or null. Quote it in'),
    Case('number beyond 64 bits', text('scale: 1' + 30 * '0'),
         'Option `scale` is beyond 64 bits, more than any option can be. See …o.yml.'),
    Case('option file of megabytes', text('a: b\n' * 50000),
         'o.yml has more than 100000 characters: no option file.'),
    Case('base that is not there', text('base: no.yml'),
         "`base` is 'no.yml' in …o.yml, but must be a file that is there. Tried: …"),
    Case('base that is no text', text('base: ~'),
         '`base` is None in …o.yml, but must be the path of an option file, as seen from that'),
    Case('base in another folder', text('base: ../no.yml'),
         "`base` is '../no.yml' in …o.yml, but must be a relative path that stays in …"),
    Case('base of itself', text('base: o.yml'),
         '`base` goes in a circle: o.yml -> o.yml. Take it out of one of them.'),
    force('base=no.yml', '--force_yml base=no.yml: only an option file can have a base.'),
    force('scale', "--force_yml got 'scale', expected `block:key=value`."),
    force('trian:total_iter=3', 'there is no block `trian` to change.'),
]  # fmt: skip

# -- options -------------------------------------------------------------------------------------

SMALL_DENOISER = {'type': 'ADMUNet', 'image_size': 32, 'num_feat': 32, 'num_res_block': 1,
                  'channel_mult': [1], 'attention_resolutions': [],
                  'num_head_channels': 32}  # fmt: skip
DDNM = {'type': 'DDNMEnhancer', 'denoiser': SMALL_DENOISER}
OPTIONS = [
    *(option(name, ABSENT, f'{name} is missing.') for name in (
        'name', 'model_type', 'num_gpu', 'datasets', 'datasets:train', 'path', 'network_g',
        'network_e', 'train', 'train:total_iter', 'train:optim_g', 'train:optim_g:type',
        'train:optim_g:lr', 'train:scheduler', 'logger', 'logger:print_freq',
        'logger:save_checkpoint_freq', 'val:val_freq', 'val:save_img',
        'datasets:train:batch_size_per_gpu', 'datasets:val:name',
    )),
    option('network_g:aggregator', ABSENT, 'network_g:aggregator is missing, which DEFNet needs.'),
    option('name', 7, 'name is 7, but must be a text. Put it in quotes.'),
    option('name', '../x', "name is '../x', but must be a text that can name a folder."),
    option('datasets:val:name', '../../x',
           "datasets:val:name is '../../x', but must be a text that can name a folder."),
    option('datasets:val:name', 'x' * 101, 'but must have at most 100 bytes: files are named by it',
           'name of 101 letters'),
    option('val:suffix', '/../x', "val:suffix is '/../x', but must be a text that can name a"),
    option('model_type', 'DEFMoodel', "model_type is 'DEFMoodel', …Did you mean `DEFModel`?"),
    option('num_gpu', -1, 'num_gpu is -1, but must be at least 0.'),
    option('num_gpu', 'two', "num_gpu is 'two', but must be a whole number; or write auto."),
    option('manual_seed', 'x', "manual_seed is 'x', but must be a whole number."),
    option('scale', ABSENT, 'scale is None, but must be a whole number. Set it.'),
    *(option('scale', scale, f'scale is {scale}, but DEFNet works with 4 only.')
      for scale in (2, 8)),
    option('scale', 4.0, 'scale is 4.0, but must be a whole number.'),
    option('match_search', 'fast', "match_search is 'fast', but must be one of ['exact', "),
    option('match_check', 'soft', "match_check is 'soft', but must be one of ['none', 'mask', "),
    option('match_patch_size', 4, 'match_patch_size is 4, but must be odd. Nearest: 5.'),
    option('match_key', {'ref': 0}, 'match_key:ref is 0, but must be above 0.',
           '`match_key` with a weight of 0'),
    option('network_e', {'type': 'SISREnhancer', 'network': {'type': 'EDSR', 'num_blok': 4}},
           'Unknown option `network_e:network:num_blok`. Did you mean `num_block`?',
           'typo in the network of `SISREnhancer`'),
    option('match_kye', 'ref', 'Unknown option `match_kye`. Did you mean `match_key`?'),
    option('datasets:vall_1', {'name': 'a', 'type': 'RefTripletDataset'},
           "A block of datasets is 'vall_1', but …Did you mean `val_1`?", 'unknown data set phase'),
    option('datasets:test', {'name': 'a', 'type': 'RefTripletDataset'},
           "A block of datasets is 'test', but must be one of ['train', 'val', 'val_1', 'val_2'].",
           'test set in a training file'),
    option('datasets:val:type', 'RefTripletDatset',
           "datasets:val:type is 'RefTripletDatset', …Did you mean `RefTripletDataset`?"),
    option('datasets:val:dataroot_fg', 'x',
           'Unknown option `datasets:val:dataroot_fg`. Did you mean `dataroot_gt`?'),
    option('datasets:val:dataroot_gt', 3, 'datasets:val:dataroot_gt is 3, but must be a folder.'),
    option('datasets:val:pair_list', ['0.png'],
           "pair_list is ['0.png'], but must be the path of a file."),
    option('datasets:train:io_backend', 'disk',
           "io_backend is 'disk', but must be a block of `key: value` lines."),
    option('datasets:train:gt_size', 33, 'gt_size is 33, but must be a multiple of scale=4. …32.'),
    option('datasets:train:batch_size_per_gpu', 0,
           'batch_size_per_gpu is 0, but must be at least 1.'),
    option('datasets:train:prefetch_mode', 'cuda',
           'datasets:train:prefetch_mode is cuda, but num_gpu is 0. Remove it or set cpu.'),
    Case('a data set without references', lambda w: w.opt['datasets']['val'].update(
        type='PairedImageDataset', dataroot_lq='ref', io_backend={'type': 'disk'},
        dataroot_gt='gt') or w.opt['datasets']['val'].pop('dataroot_ref'),
         'datasets:val:type is PairedImageDataset, but DEFModel needs references: RefTrip…'),
    option('datasets:train:prefetch_mode', 'gpu', "prefetch_mode is 'gpu', but must be one of"),
    option('network_g', 'DEFNet', "network_g is 'DEFNet', but must be a block"),
    option('network_g:type', 'DEFnet', "network_g:type is 'DEFnet', …Did you mean `DEFNet`?"),
    option('network_g:skipp', 'none', 'Unknown option `network_g:skipp`. Did you mean `skip`?'),
    option('network_g:transfer:num_groups', 4,
           'Unknown option `network_g:transfer:num_groups`. Did you mean `num_group`?'),
    option('network_g:transfer:num_group', 7, 'network_g:transfer:num_group is 7, but must divide '
           'the 64 channels of relu1_1.'),
    option('network_g:skip', 'bicubc', "network_g:skip is 'bicubc', …Did you mean `bicubic`?"),
    option('network_g:aggregator:num_block', [1, 2],
           'network_g:aggregator:num_block is [1, 2], but must have 4 entries.',
           '`network_g:aggregator:num_block` of two'),
    option('network_g:aggregator:num_feat', 'wide',
           "network_g:aggregator:num_feat is 'wide', but must be a whole number."),
    option('network_g:aggregator:num_block', [None] * 4,
           'An entry of network_g:aggregator:num_block is None, but must be a whole number.',
           '`network_g:aggregator:num_block` of nulls'),
    option('network_g:transfer:num_group', 0,
           'network_g:transfer:num_group is 0, but must be at least 1.'),
    option('network_g:aggregator:num_feat', 10**5,
           'network_g:aggregator:num_feat is 100000, but must be at most 65536.'),
    option('train:optim_g:weight_decay', 1e30,
           'train:optim_g:weight_decay is above 1e+12, which no option may be.'),
    option('network_g:aggregator:num_in_ch', 1,
           'network_g:aggregator:num_in_ch is 1, but must be 3: so many channels have the images'),
    option('network_g:aggregator:num_block', 4,
           'network_g:aggregator:num_block is 4, but must be a list, such as [4].'),
    option('network_e:denoiser', {'type': 'ADMUNet'}, 'Unknown option `network_e:denoiser`.'),
    option('network_e', DDNM | {'precision': 'half'},
           "network_e:precision is 'half', but must be one of ['fp32', 'fp16', 'bf16'].",
           '`network_e:precision: half`', build),
    option('network_e', DDNM | {'precision': 'fp16'},
           'network_e:precision is fp16, but the denoiser runs on the CPU, where that is slower '
           'than fp32. Set fp32', '`network_e:precision: fp16` on the CPU', enhance),
    option('network_e', DDNM | {'channels_last': 'yes'},
           "network_e:channels_last is 'yes', but must be true or false.",
           '`network_e:channels_last: yes` as a text'),
    option('network_e', DDNM | {'degradation': 'pil'},
           'network_e:degradation is pil, but datasets:*:degradation is matlab. Set both to the '
           'same.', '`network_e:degradation: pil` with data of MATLAB'),
    option('network_e', DDNM | {'diffusion': {'num_step': 20}},
           'Unknown option `network_e:diffusion:num_step`. Did you mean `num_steps`?',
           '`network_e:diffusion:num_step: 20`'),
    option('network_e', DDNM | {'diffusion': {'num_steps': -1}},
           'diffusion:num_steps is -1, but must be at least 1',
           '`network_e:diffusion:num_steps: -1`'),
    option('network_t:layers', ['relu1_2'],
           "network_t:layers is ['relu1_2'], at strides [1], but must have one layer at each of "
           'the strides [1, 2, 4], from fine to coarse', 'one layer for three levels'),
    option('network_t:weights', 'vgg.pth', 'network_t:weights is vgg.pth, which does not exist.'),
    option('path:pretrain_network_g', 'w.pth',
           'path:pretrain_network_g is w.pth, which does not exist. Tried: w.pth, …'),
    option('path:pretrain_network_g', 'gt', 'path:pretrain_network_g is gt, which is a folder.'),
    option('path:pretrained_network_g', 'w.pth',
           'Unknown option `path:pretrained_network_g`. Did you mean `pretrain_network_g`?'),
    option('path', None, 'path is missing.'),
    option('train:total_iter', 0, 'train:total_iter is 0, but must be at least 1.'),
    option('train:total_iter', 'many', "train:total_iter is 'many', but must be a whole number."),
    option('train:total_iter', 10.5, 'train:total_iter is 10.5, but must be a whole number.'),
    option('train:rec_only_epoch', 2,
           'Unknown option `train:rec_only_epoch`. Did you mean `rec_only_epochs`?'),
    option('train:rec_only_epochs', -1, 'train:rec_only_epochs is -1, but must be at least 0.'),
    option('train:grad_clip_norm', -1, 'train:grad_clip_norm is -1, but must be above 0.'),
    option('train:nonfinite', 'skp', "train:nonfinite is 'skp', …Did you mean `skip`?"),
    option('train:max_nonfinite', 'x', "train:max_nonfinite is 'x', but must be a whole number."),
    option('train:net_d_iters', 0, 'train:net_d_iters is 0, but must be at least 1.'),
    option('train:ema_decay', None, 'train:ema_decay is None …, but must be a number.'),
    option('train:optim_g:betas', [0.9], 'train:optim_g:betas is [0.9], but must have 2 entries.',
           'one beta'),
    option('train:optim_g:betas', [0, 0.9], 'An entry of train:optim_g:betas is 0, but must be a '
           'number such as 0.0', 'a beta without a point'),
    option('train:scheduler', {'type': 'CosineAnnealingRestartLR', 'periods': [4]},
           'train:scheduler:periods sum to 4, less than train:total_iter=200. Make them as long.',
           'periods shorter than the training'),
    option('train:scheduler', {'type': 'CosineAnnealingRestartLR', 'periods': [100, 100]},
           'train:scheduler:periods has 2 entries, but train:scheduler:restart_weights 1.',
           'periods without weights'),
    option('train:ema_decay', 2, 'train:ema_decay is 2, but must be at most 1.'),
    option('train:precision', 'fp16',
           'train:precision is fp16, which is for GPUs, but num_gpu is 0. Set bf16, which has'),
    option('train:precision', 'half',
           "train:precision is 'half', but must be one of ['fp32', 'bf16', 'fp16']."),
    option('train:optim_g', 'Adam', "train:optim_g is 'Adam', but must be a block"),
    option('train:optim_g:type', 'Adan', "train:optim_g:type is 'Adan', …Did you mean `Adam`?"),
    option('network_g', {'type': 'EDSR', 'num_in_ch': 1, 'num_out_ch': 1},
           'network_g:num_in_ch is 1, but must be 3: so many channels have the images of the data '
           'sets. Grey ones are read as three equal channels.', 'one channel'),
    option('train:optim_g:momentum', 0.9, 'Unknown option `train:optim_g:momentum`.',
           'momentum of Adam'),
    option('train:optim_g', {'type': 'SGD', 'lr': 0.1, 'momentum': 2},
           'train:optim_g:momentum is 2, but must be at most 1.', 'momentum above 1'),
    option('train:optim_g', {'type': 'SGD', 'lr': 0.1, 'nesterov': True},
           'train:optim_g: SGD cannot have these options: Nesterov momentum requires a momentum',
           'Nesterov without momentum'),
    option('train:optim_g', {'type': 'Adam', 'lr': 0.1, 'fused': True, 'foreach': True},
           'train:optim_g: Adam cannot have these options: `fused` and `foreach` cannot be',
           'fused and foreach'),
    option('train:optim_g:lr', 0, 'train:optim_g:lr is 0, but must be above 0.'),
    option('train:optim_g:lr', float('nan'),
           'train:optim_g:lr is nan (float), but must be a number.'),
    option('train:optim_g:groups', {'transfer': 0},
           'train:optim_g:groups:transfer is 0, but must be above 0.', 'a learning rate of 0'),
    option('train:optim_g:beta', [0, 1], 'Unknown option `train:optim_g:beta`. …`betas`?'),
    option('train:scheduler:type', 'StepLR', "train:scheduler:type is 'StepLR', …`MultiStepLR`?"),
    option('train:scheduler:milestones', 100,
           'train:scheduler:milestones is 100, but must be a list, such as [100].'),
    option('train:pixel_opt:type', 'L1', "train:pixel_opt:type is 'L1', …Did you mean `L1Loss`?"),
    option('train:pixel_opt:weight', 1, 'Unknown option `train:pixel_opt:weight`.'),
    option('train:gan_opt', {'type': 'GANLoss', 'gan_type': 'wgan'},
           'train:optim_d is missing, which an adversarial loss needs.',
           'adversarial loss without `optim_d`'),
    option('train:perceptual_opt',
           {'type': 'TexturePerceptualLoss', 'layer_weights': {'relu1_1': 1}, 'weights': 'no.pth'},
           'train:perceptual_opt:weights is no.pth, which does not exist.',
           'perceptual loss with weights that are not there'),
    option('val:val_freq', 0, 'val:val_freq is 0, but must be at least 1.'),
    option('val:save_img', 'no way', "val:save_img is 'no way', but must be true or false."),
    option('val:save_map', True, 'Unknown option `val:save_map`. Did you mean `save_maps`?'),
    option('val:tile', 1.5, 'val:tile is 1.5, but must be a whole number.'),
    option('val:tb_images', -1, 'val:tb_images is -1, but must be at least 0.'),
    option('val:metrics:psnr:type', 'psnr',
           "val:metrics:psnr:type is 'psnr', …Did you mean `calculate_psnr`?"),
    option('val:metrics:psnr:test_y_chanel', True,
           'Unknown option `val:metrics:psnr:test_y_chanel`. Did you mean `test_y_channel`?'),
    option('logger:print_freq', 0, 'logger:print_freq is 0, but must be at least 1.'),
    option('logger:save_freq', 5, 'Unknown option `logger:save_freq`. '),
    option('logger:use_tb_logger', ABSENT, 'logger:use_tb_logger is missing.'),
    option('logger:keep_last', 0, 'logger:keep_last is 0, but must be at least 1.'),
    option('logger:keep_best', 'pnsr', "logger:keep_best is 'pnsr', …Did you mean `psnr`?"),
    option('logger:keep_best', 'CUFED/psnr',
           "The data set of logger:keep_best is 'CUFED', but must be one of ['', 'v']."),
    option('logger:wandb', {'project': 'x', 'id': 3}, 'Unknown option `logger:wandb:id`.'),
    option('dist_params', {'backened': 'nccl'},
           'Unknown option `dist_params:backened`. …`backend`?'),
    option('logger:wandb', {'project': 'x'},
           'logger:wandb:project needs the package wandb: pip install wandb, or set it to ~.',
           'wandb that is not installed'),
    of_file('train_EDSR_x4.yml', 'network_g:num_in_ch', 1,
            'network_g:num_in_ch is 1, but must be 3: so many channels have the images'),
    of_file('train_EDSR_x4.yml', 'network_g:upscale', 2,
            'network_g:upscale is 2, but scale is 4. Set both to the same.'),
    of_file('train_EDSR_x4.yml', 'network_g:num_feat', 7.5,
            'network_g:num_feat is 7.5, but must be a whole number.'),
    of_file('train_EDSR_x4.yml', 'match_key', 'ref', 'Unknown option `match_key`.'),
    of_file('train_ESRGAN_x4.yml', 'network_d:input_size', 256,
            'network_d:input_size is 256, but datasets:train:gt_size is 128. Set both to the '
            'same.'),
    of_file('train_EDSR_x4.yml', 'train:ema_deca', 0.9,
            'Unknown option `train:ema_deca`. Did you mean `ema_decay`?'),
    of_file('train_EDSR_x4.yml', 'train:totl_iter', 9,
            'Unknown option `train:totl_iter`. Did you mean `total_iter`?'),
    of_file('train_ESRGAN_x4.yml', 'train:net_d_iter', 1,
            'Unknown option `train:net_d_iter`. Did you mean `net_d_iters`?'),
    of_file('train_ESRGAN_x4.yml', 'network_d', ABSENT,
            'network_d is missing, which an adversarial loss needs.'),
    of_file('small/train_prior_small.yml', 'datasets:train:zom', 1,
            'Unknown option `datasets:train:zom`. Did you mean `zoom`?'),
    of_file('small/train_prior_small.yml', 'train:level', 'log_snr',
            'Unknown option `train:level`. Did you mean `levels`?'),
    Case('a test without `val`', lambda w: [as_test(w), w.set('val', None)],
         'val is missing.', test),
    option('datasets', {}, 'datasets is empty. Add a block such as datasets:test_1.', run=test),
    Case('`datasets:train` in a test', lambda w: None,
         "A block of datasets is 'train', but must be one of ['test', 'test_1', 'test_2'].", test),
]  # fmt: skip

# -- weight files --------------------------------------------------------------------------------


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (os.system, ('echo run',))


def weights(content: object, keep: float = 1) -> Callable[[Workspace], object]:
    """A weight file w.pth for ``defsr-upscale``."""

    def spoil(workspace: Workspace) -> None:
        workspace.arguments += ['--weights', 'w.pth']
        if isinstance(content, bytes):
            (workspace.folder / 'w.pth').write_bytes(content)
        else:
            torch.save(content, workspace.folder / 'w.pth')
        workspace.tear('w.pth', keep)

    return spoil


def denoiser(workspace: Workspace) -> None:
    """Weights of something else for the enhancer."""
    workspace.set('network_e', DDNM)
    workspace.set('path:pretrain_network_e', 'w.pth')
    torch.save({'conv.weight': torch.ones(1)}, workspace.folder / 'w.pth')


def diffusers(**files: str) -> Callable[[Workspace], object]:
    """A denoiser of diffusers in the folder ``unet``, of which some files are changed."""
    good = {'config.json': '{"_class_name": "UNet2DModel", "block_out_channels": [8]}',
            'diffusion_pytorch_model.safetensors': ''}  # fmt: skip

    def spoil(workspace: Workspace) -> None:
        workspace.set('network_e', DDNM | {'denoiser': {'type': 'DiffusersUNet', 'folder': 'unet'}})
        if files:
            (workspace.folder / 'unet').mkdir()
        for name, content in (good | files if files else {}).items():
            if content is not ABSENT:
                (workspace.folder / 'unet' / name).write_text(content)

    return spoil


def trunk(workspace: Workspace) -> None:
    """Weights of something else for the texture extractor."""
    workspace.set('network_t:weights', 'w.pth')
    torch.save({'conv.weight': torch.ones(1)}, workspace.folder / 'w.pth')


FOLDER = 'network_e:denoiser:folder'
PLAIN = 'weights is w.pth, which is no PyTorch file of plain tensors: '
WEIGHTS = [
    Case('weights that are not there', lambda w: w.arguments.extend(['--weights', 'w.pth']),
         'weights is w.pth, which does not exist. Tried: …', sharpen),
    Case('weights that would run code', weights(pickle.dumps(Trap(), 2)),
         f'{PLAIN}it asks for the Python object …system, which weights do not need.', sharpen),
    Case('torn weights', weights({'params': {'a': torch.ones(99)}}, keep=0.6),
         f'{PLAIN}it is torn or of another kind.', sharpen),
    Case('empty weights', weights(b''), PLAIN, sharpen),
    Case('a list as weights', weights([1, 2]), 'w.pth, which holds a list, expected a state dict.',
         sharpen),
    Case('a training state as weights', weights({'iter': 3, 'epoch': 1}),
         "w.pth, which holds no state dict; its keys are ['epoch', 'iter'].", sharpen),
    Case('weights of another network', weights({'params': {'a': torch.ones(1)}}),
         'w.pth, which is of another architecture than network_g of upscale.yml: … missing '
         '(…); 1 unexpected (a).', sharpen),
    Case("another network's weights for the denoiser", denoiser,
         'path:pretrain_network_e is w.pth, which is of another architecture than '
         'network_e:denoiser: … missing (…); 1 unexpected (conv.weight).', build),
    Case('denoiser in a folder that is not there', diffusers(),
         f'{FOLDER} is unet, which is not an existing folder. Download the model first', build),
    Case('denoiser of diffusers as a pickle',
         diffusers(**{'diffusion_pytorch_model.safetensors': ABSENT, 'x.bin': 'x'}),
         f'{FOLDER}: unet cannot be used: it has no diffusion_pytorch_model.safetensors, and '
         'pickles (.bin) are not read.', build),
    Case('denoiser of diffusers that wants a text',
         diffusers(**{'config.json': '{"_class_name": "UNet2DConditionModel"}'}),
         f"{FOLDER}: unet cannot be used: _class_name is 'UNet2DConditionModel' in its "
         'config.json, but only unconditional models in pixel space fit.', build),
    Case('denoiser of diffusers with four channels',
         diffusers(**{'config.json': '{"_class_name": "UNet2DModel", "in_channels": 4}'}),
         f'{FOLDER}: unet cannot be used: in_channels is 4 in its config.json, but x_t is RGB.',
         build),
    Case('denoiser of diffusers on latents',
         diffusers(**{'model_index.json': '{"vqvae": ["diffusers", "VQModel"]}'}),
         f'{FOLDER}: unet cannot be used: its model works on the latents of a vqvae.', build),
    Case('denoiser of diffusers with an unknown schedule',
         diffusers(**{'scheduler_config.json': '{"beta_schedule": "sigmoid"}'}),
         f"{FOLDER}: unet/scheduler_config.json cannot be used: beta_schedule is 'sigmoid', not "
         'linear or squaredcos_cap_v2.', build),
    Case("another network's weights for the extractor", trunk,
         'The weights are no VGG trunk: expected …', build),
]  # fmt: skip

# -- images and LMDBs ----------------------------------------------------------------------------


def write(name: str, content: bytes) -> Callable[[Workspace], object]:
    """Replaces a file."""
    return lambda w: (w.folder / name).write_bytes(content)


def encode(kind: str, **options: object) -> bytes:
    """The usual image in another format."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG whose header says 30,000x30,000."""
    content = bytearray(encode('PNG'))
    content[16:24] = (30000).to_bytes(4, 'big') * 2
    return bytes(content)


def two_widths() -> bytes:
    """A TIFF that says to one decoder 50 pixels, and to another 40,000."""
    entries = [(256, 50), (256, 40000), (257, 40000)]
    tags = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in entries)
    return b'II*\0' + struct.pack('<IH', 8, len(entries)) + tags + bytes(8)


def flip(name: str) -> Callable[[Workspace], object]:
    """Changes a byte in the middle."""

    def spoil(workspace: Workspace) -> None:
        content = bytearray((workspace.folder / name).read_bytes())
        content[len(content) // 2] ^= 8
        (workspace.folder / name).write_bytes(content)

    return spoil


def floats(workspace: Workspace) -> None:
    """A TIFF of floating point numbers under a PNG's name."""
    done, content = cv2.imencode('.tif', PIXELS.astype(np.float32))
    assert done
    (workspace.folder / 'gt/0.png').write_bytes(content.tobytes())


def tear(name: str, keep: float, filler: bytes = b'') -> Callable[[Workspace], object]:
    """Cuts a file off."""
    return lambda w: w.tear(name, keep, filler)


def small(name: str, height: int, width: int) -> Callable[[Workspace], object]:
    """Replaces an image by one of another size."""
    return lambda w: w.image(name, height, width)


def lmdb(spoil: Callable[[Workspace], object]) -> Callable[[Workspace], object]:
    """Packs the validation set into LMDBs, of which gt.lmdb is spoilt."""

    def pack_and_spoil(workspace: Workspace) -> None:
        folders = {role: workspace.folder / role for role in ('gt', 'ref')}
        lmdb_writer.create_lmdb(folders, workspace.folder)
        roots = {f'dataroot_{role}': str(workspace.folder / f'{role}.lmdb') for role in folders}
        workspace.opt['datasets']['val'] |= roots | {'io_backend': {'type': 'lmdb'}}
        spoil(workspace)

    return pack_and_spoil


def remove(name: str) -> Callable[[Workspace], object]:
    """Removes a file."""
    return lambda w: (w.folder / name).unlink()


PAIRS = 'datasets:val:pair_list'


def pairs(content: bytes) -> Callable[[Workspace], object]:
    """Gives the validation set a pair list."""
    return lambda w: [w.set(PAIRS, 'pairs.txt'), write('pairs.txt', content)(w)]


IMAGES = [
    Case('text under the name of an image', write('gt/1.png', b'hello'),
         'gt/1.png cannot be read as an image (BMP, JPEG, PNG, TIFF, WEBP).', read),
    Case('empty image', write('ref/1.png', b''), 'ref/1.png cannot be read as an image', read),
    Case('cut PNG', tear('gt/1.png', 0.7), 'gt/1.png is cut off: the file ends before', read),
    Case('cut JPEG', write('gt/1.png', encode('JPEG')[:-300]), 'gt/1.png is cut off: ', read),
    Case('JPEG that ends in zeros', write('gt/1.png', encode('JPEG')[:900] + bytes(9000)),
         'gt/1.png is cut off: ', read),
    Case('cut BMP', write('gt/1.png', encode('BMP')[:900]), 'gt/1.png is damaged and cannot', read),
    Case('cut WebP', write('gt/1.png', encode('WEBP')[:900]), 'gt/1.png is cut off: ', read),
    Case('PNG with a flipped byte', flip('gt/1.png'), 'gt/1.png is damaged and cannot', read),
    Case('floating point TIFF', floats, 'gt/0.png has float32 pixels, but must have 8 or 16', read),
    Case('header of 900 megapixels', write('gt/1.png', bomb()),
         'gt/1.png has 900.0 megapixels (30000x30000, HxW), more than '
         'datasets:cufed_train:max_megapixels=128. Reduce the image or raise the limit.', read),
    Case('TIFF with two widths', write('gt/1.png', two_widths()),
         'gt/1.png cannot be read as an image (BMP, JPEG, PNG, TIFF, WEBP).', read),
    Case('run-length BMP of nothing', write('gt/1.png', encode('BMP')[:18] + b'\xff\xff\0\0' * 2
                                            + encode('BMP')[26:]),
         'gt/1.png is cut off: the file ends before the image does.', read),
    Case('image name with a line break', lambda w: w.image('gt/a\nb.png', 48, 64),
         "the name of an image is 'a\\nb.png', but must be UTF-8 without line breaks and control",
         read),
    Case('image name that is not UTF-8', lambda w: (w.folder / 'gt/0.png').rename(
        w.folder / 'gt' / os.fsdecode(b'\xff.png')),
         "the name of an image is '\\udcff.png', but must be UTF-8", read),
    Case('input smaller than the crop', small('gt/1.png', 20, 30), 'gt/1.png is 20x28 (HxW, a '
         'multiple of scale), smaller than datasets:cufed_train:gt_size=32.', read),
    Case('input of 1x1', small('gt/1.png', 1, 1),
         'gt/1.png is 1x1 (HxW), but both sides must be at least scale=4.', read),
    Case('reference of 1x1', small('ref/1.png', 1, 1),
         'The reference ref/1.png of datasets:cufed_train is 1x1 (HxW), but both sides must be at '
         'least 4.', read),
    Case('folder that is not there', lambda w: w.set('datasets:val:dataroot_gt', 'no'),
         'datasets:v:dataroot_gt is no, which is not an existing folder.', read),
    Case("a folder in nobody's home", lambda w: w.set('datasets:val:dataroot_gt', '~nosuchuser/gt'),
         '~nosuchuser/gt begins with the home folder of a user who is not known here. Write ./~',
         read),
    Case('pair list that is not there', lambda w: w.set(PAIRS, 'no.txt'),
         'datasets:v:pair_list is no.txt, which does not exist.', read),
    Case('pair list of bytes', pairs(b'\xff\xfe'),
         'datasets:v:pair_list is pairs.txt, which is no text file in UTF-8.', read),
    Case('pair list with an open quote', pairs(b'"my photo.png 0.png'),
         'datasets:v:pair_list is pairs.txt, whose line 1 has a quote without an end.', read),
    Case('empty pair list', pairs(b'# nothing'),
         'pairs.txt, which has no lines `gt ref1 [ref2 ...]`.', read),
    Case('pair without a reference', pairs(b'0.png'),
         'datasets:v:pair_list has no reference for 0.png. Write `gt ref1 [ref2 ...]`', read),
    Case('pair of an image that is not there', pairs(b'7.png 0.png'),
         'datasets:v:dataroot_gt is gt, which has no image 7.png.', read),
    Case('reference that is not there', remove('ref/1.png'),
         'dataroot_ref is ref, which has no image 1.png.', read),
    Case('cut image in `create_lmdb`', tear('gt/1.png', 0.7), 'gt/1.png is cut off: ', pack),
    Case('text as a photo to sharpen', write('gt/0.png', b'hello'),
         'gt/0.png is no image that can be read.', sharpen),
    Case('cut photo to sharpen', tear('gt/0.png', 0.7), 'gt/0.png is damaged: …', sharpen),
    Case('photo to sharpen that ends in zeros',
         write('gt/0.png', encode('JPEG')[:900] + bytes(9000)), 'gt/0.png is cut off: ', sharpen),
    Case('output in HEIC', lambda w: w.arguments.extend(['-o', 'x.heic']),
         "Output x.heic has extension '.heic', but must be one of .png, .jpg, .jpeg, .tif, .tiff, "
         '.webp.', sharpen),
    Case('output of unknown kind', lambda w: w.arguments.extend(['-o', 'x.gif']),
         "Output x.gif has extension '.gif', but must be one of .png, …", sharpen),
]  # fmt: skip

VAL = 'datasets:v:dataroot_gt'
LMDBS = [
    Case('folder of images as LMDB',
         lambda w: w.opt['datasets']['val'].update(io_backend={'type': 'lmdb'}),
         f'{VAL} is gt, but with io_backend lmdb it must end in .lmdb.', read),
    Case('LMDB without `meta_info.txt`', lmdb(remove('gt.lmdb/meta_info.txt')),
         f'{VAL} is …gt.lmdb, which has no meta_info.txt. Build it anew with', read),
    Case('damaged `meta_info.txt`', lmdb(tear('gt.lmdb/meta_info.txt', 0.9)),
         f'{VAL}: …meta_info.txt has the line …, expected `name.png (h,w,c) level`.', read),
    Case('empty `meta_info.txt`', lmdb(write('gt.lmdb/meta_info.txt', b'')),
         'gt.lmdb, whose meta_info.txt lists no images.', read),
    Case('`meta_info.txt` that lists too much',
         lmdb(write('gt.lmdb/meta_info.txt', b'0.png (48,64,3) 1\nx.png (48,64,3) 1\n')),
         'dataroot_ref is …ref.lmdb, which has no image x.png', read),
    Case('LMDB without a listed image',
         lmdb(lambda w: [write(f'{r}.lmdb/meta_info.txt', b'x.png (48,64,3) 1\n')(w)
                         for r in ('gt', 'ref')]),
         'gt.lmdb, whose meta_info.txt lists x, but its data.mdb has no such image.', read),
    Case('LMDB without `data.mdb`', lmdb(remove('gt.lmdb/data.mdb')),
         'gt.lmdb, which has no data.mdb. Build it anew with', read),
    Case('torn `data.mdb`', lmdb(tear('gt.lmdb/data.mdb', 0.5)),
         'gt.lmdb, whose data.mdb cannot be read (it is cut off: … bytes of …).', read),
    Case('`data.mdb` of text', lmdb(write('gt.lmdb/data.mdb', b'hello' * 9999)),
         'gt.lmdb, whose data.mdb cannot be read (MDB_INVALID: File is not an LMDB file).', read),
    Case('`data.mdb` of zeros', lmdb(tear('gt.lmdb/data.mdb', 0, bytes(10**6))),
         'gt.lmdb, whose data.mdb cannot be read (MDB_INVALID: …', read),
]  # fmt: skip

# -- caches of enhanced images -------------------------------------------------------------------


def enhancing(path: str, value: object, message: str, kind: str = '') -> Case:
    """A case of one option of ``defsr-enhance``."""
    made = option(path, value, message, kind, fill)
    return replace(made, spoil=lambda w: [to_enhance(w), w.set(path, value)])


def cache(record: dict | None) -> Callable[[Workspace], object]:
    """A folder ``de`` with three images, and a record or none."""

    def make(workspace: Workspace) -> None:
        workspace.set('datasets:train:dataroot_de', 'de')
        (workspace.folder / 'gt').rename(workspace.folder / 'de')
        if record is not None:
            cache_record.write_record(workspace.folder / 'de', record)

    return make


def begun(workspace: Workspace) -> None:
    """Another enhancer has begun the cache."""
    (workspace.folder / 'de').mkdir()
    other = {'format': 1, 'type': 'BicubicEnhancer', 'scale': 2, 'degradation': 'matlab'}
    made = cache_record.make_record('de', 'matlab', other)
    cache_record.write_record(workspace.folder / 'de', made)


MADE_BY = {'type': 'DDNMEnhancer', 'num_steps': 100}
DE = 'datasets:train:dataroot_de is de, which '
OUT = 'datasets:val:out:de is de, which '
CACHES = [
    Case('cache without a record', cache(None),
         f'{DE}has no enhancer.json, so nobody knows which enhancer made it. Make it with '
         'defsr-enhance, or set check_cache: false.', use_cache),
    Case('cache of another enhancer', cache(cache_record.make_record('de', 'matlab', MADE_BY)),
         f'{DE}another enhancer made: num_steps 20 here, 100 in the cache. …set check_cache: false',
         use_cache),
    Case('cache of references as one of inputs',
         cache(cache_record.make_record('ref_de', 'matlab', MADE_BY)),
         f'{DE}holds ref_de images (references, degraded and enhanced), not de.', use_cache),
    Case('cache of images degraded in another way',
         cache(cache_record.make_record('de', 'pil', MADE_BY)),
         f'{DE}was made of images degraded by pil, not by matlab.', use_cache),
    Case('cache with a damaged record',
         lambda w: [cache(None)(w), write('de/enhancer.json', b'{"kind"')(w)],
         f'{DE.removesuffix("which ")}whose enhancer.json is damaged. Make the cache anew.',
         use_cache),
    option('datasets:train:dataroot_de', 'de',
           f'{DE}is not an existing folder. Make it with defsr-enhance.',
           'cache that is not there', use_cache),
    option('check_cache', 'no way', "check_cache is 'no way', but must be true or false."),
    enhancing('images_per_bach', 2, 'Unknown option `images_per_bach`. …`images_per_batch`?'),
    enhancing('datasets:val:out', ABSENT, 'datasets:val:out is missing.',
              'nowhere to put the cache'),
    enhancing('datasets:val:enhance', ['dee'], 'An entry of datasets:val:enhance is …`de`?'),
    enhancing('datasets:val:dataroot_de', 'de', 'datasets:val:dataroot_de names a cache that is '
              'there already. Write `out: {de: ...}` for one that is to be made.'),
    enhancing('network_e', {'type': 'DDNMEnhancer', 'denoiser': {'type': 'UnshuffleUNet'}},
              'path:pretrain_network_e is missing: DDNMEnhancer is of no use without the weights '
              'of its network. Name their file.', 'enhancer without weights'),
    enhancing('datasets:val:dataroot_gt', 'no', 'dataroot_gt is no, which is not an existing',
              'inputs to enhance that are not there'),
    Case('cache that another enhancer began', begun,
         f'{OUT}another enhancer made: scale 4 here, 2 in the cache. Remove the folder, or change '
         'out.', fill),
    Case('a folder of images as `out`', lambda w: w.image('de.png', 9, 9) or [
        (w.folder / 'de').mkdir(), (w.folder / 'de.png').rename(w.folder / 'de/1.png')],
         f'{OUT}has files but no enhancer.json: it is no cache. ', fill),
]  # fmt: skip

GROUPS = {
    'Option files': OPTION_FILES,
    'Options': OPTIONS,
    'Weight files': WEIGHTS,
    'Images': IMAGES,
    'LMDBs': LMDBS,
    'Caches of enhanced images': CACHES,
}
CASES = {case.test_id: case for cases in GROUPS.values() for case in cases}


def page() -> str:
    """The table for ``docs/refusals.md``."""
    lines = []
    for title, cases in GROUPS.items():
        lines += [f'### {title}', '', '| bad input | message | test id |', '| --- | --- | --- |']
        for case in cases:
            message = case.message.replace('|', '\\|').replace('`', "'")
            lines.append(f'| {case.kind} | `{message}` | {case.test_id} |')
        lines.append('')
    return '\n'.join(lines)


def main() -> None:
    """Write the page."""
    before, _, rest = PAGE.read_text(encoding='utf-8').partition(START)
    PAGE.write_text(f'{before}{START}\n{page()}\n{END}{rest.partition(END)[2]}', encoding='utf-8')


if __name__ == '__main__':
    main()
