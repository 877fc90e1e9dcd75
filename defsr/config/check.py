"""Option files checked as a whole, before a folder is made, an image read or a network built."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from basicsr.models import lr_scheduler
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
)

from defsr.config.blocks import (
    check_arguments,
    check_texts,
    choose,
    registered,
    required,
)
from defsr.data.triplet_options import TripletOptions
from defsr.methods.build import method_class
from defsr.utils.checks import (
    check_above,
    check_at_least,
    check_between,
    check_block,
    check_choice,
    check_int,
    check_keys,
)
from defsr.utils.paths import find_pretrained

TOP_KEYS = (
    'name', 'model_type', 'scale', 'num_gpu', 'manual_seed', 'check_cache', 'check_trained',
    'datasets', 'path', 'train', 'val', 'logger', 'dist_params',
    'find_unused_parameters', 'network_g', 'network_d',
)  # fmt: skip
FILLED_KEYS = (
    'dist', 'rank', 'world_size', 'auto_resume', 'is_train', 'root_path', 'seed_was_drawn',
)  # fmt: skip
LOGGER_KEYS = (
    'print_freq', 'save_checkpoint_freq', 'use_tb_logger', 'wandb', 'keep_last', 'keep_best',
)  # fmt: skip
PATH_KEYS = (
    'resume_state', 'ignore_resume_networks', 'experiments_root', 'models', 'training_states',
    'log', 'visualization', 'results_root',
)  # fmt: skip
PATH_KEYS_OF_NETWORKS = ('pretrain_network', 'param_key', 'strict_load')
DIST_KEYS = ('backend', 'port', 'timeout')
INNER_NETWORKS = ('transfer', 'aggregator', 'denoiser', 'network')
OPTIMIZERS = {'Adam': torch.optim.Adam}
SCHEDULERS = {
    'MultiStepLR': lr_scheduler.MultiStepRestartLR,
    'MultiStepRestartLR': lr_scheduler.MultiStepRestartLR,
    'CosineAnnealingRestartLR': lr_scheduler.CosineAnnealingRestartLR,
}
# What BasicSR's losses check by an exception of their own, or not at all.
LOSS_CHOICES = {
    ('GANLoss', 'gan_type'): ('vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge'),
    ('PerceptualLoss', 'criterion'): ('l1', 'fro'),
}


def check_options(opt: Mapping[str, object], is_train: bool) -> None:
    """Refuse options that BasicSR's loops and models would stumble over later, or not read.

    Builds nothing and reads no data; of files it only asks whether weights exist.

    Args:
        opt: an option file's content, before or after BasicSR's ``parse_options`` filled it in;
            left as it is.
        is_train: for ``defsr/train.py``; else for ``defsr/test.py``.

    Raises:
        ValueError: for the first mistake, with the option and, where there is one, the nearest
            valid value.
        FileNotFoundError: for weights that do not exist.
    """
    check_texts(opt)
    model_type = required(opt, '', 'model_type')
    model = registered('model_type', model_type, MODEL_REGISTRY)
    _check_networks(opt)
    _check_top(opt, model)
    if getattr(model, 'uses_method', False):
        model.check(opt)
    _check_datasets(opt, is_train)
    if is_train:
        _check_train(opt, model_type)
        _check_logger(check_block('logger', required(opt, '', 'logger')))
    _check_val(opt, is_train, model_type)
    _check_path(opt, is_train)


def _check_top(opt: Mapping[str, object], model: type) -> None:
    method = method_class(opt) if getattr(model, 'uses_method', False) else None
    if method is not None:
        known = (*TOP_KEYS, *method.blocks, *method.options)
        check_keys('', {key: opt[key] for key in opt if key not in FILLED_KEYS}, known)
        for name in method.blocks:
            required(opt, '', name)
        method.check(opt)
    check_run(opt)
    if opt.get('manual_seed') is not None:
        check_between('manual_seed', check_int('manual_seed', opt['manual_seed'], 0), 0, 2**31)
    if method is not None or 'scale' in opt:
        check_int('scale', required(opt, '', 'scale'), 1)
    for key in ('check_cache', 'check_trained'):
        check_choice(key, opt.get(key, True), (True, False))


def check_run(opt: Mapping[str, object]) -> None:
    """Refuse a name, a number of GPUs or settings of several processes that cannot be."""
    name = required(opt, '', 'name')
    if not isinstance(name, str) or not name or '/' in name or name in ('.', '..'):
        raise ValueError(
            f'name is {name!r}, but must be a text that can name a folder. Put it in quotes.'
        )
    if required(opt, '', 'num_gpu') != 'auto':
        check_int('num_gpu', opt['num_gpu'], 0, '; or write auto')
    if opt.get('dist_params') is not None:
        check_keys('dist_params', check_block('dist_params', opt['dist_params']), DIST_KEYS)


def _check_networks(opt: Mapping[str, object]) -> None:
    required(opt, '', 'network_g')
    for name, block in opt.items():
        if name.startswith('network_') and block is not None:
            check_network(name, block)
    texture = opt.get('network_t') or {}
    if 'weights' in texture:
        _check_weights('network_t:weights', texture['weights'])


def check_network(name: str, block: object) -> None:
    """Compare a network's block, and those inside it, with what they are for; builds nothing.

    Raises:
        ValueError: for an unknown type or key, a missing one, and values of another kind.
    """
    check_arguments(name, block, choose(check_block(name, block), name, ARCH_REGISTRY))
    for key, value in block.items():
        if key in INNER_NETWORKS or (isinstance(value, Mapping) and 'type' in value):
            check_network(f'{name}:{key}', value)


def _check_datasets(opt: Mapping[str, object], is_train: bool) -> None:
    datasets = check_block('datasets', required(opt, '', 'datasets'))
    if is_train and 'train' not in datasets:
        raise ValueError('datasets:train is missing. Add the block of the training data.')
    if not datasets:
        raise ValueError('datasets is empty. Add a block such as datasets:test_1.')
    names: dict[str, str] = {}
    for phase, block in datasets.items():
        where, kind = f'datasets:{phase}', phase.split('_')[0]
        known = phase == 'train' or kind == 'val' if is_train else kind in ('val', 'test')
        if not known:
            usual = ('train', 'val', 'val_1', 'val_2') if is_train else ('test', 'test_1', 'test_2')
            check_choice('A block of datasets', phase, usual)
        _check_dataset(where, check_block(where, block), kind, opt.get('scale'))
        name = block['name']
        if kind != 'train' and names.setdefault(name, where) != where:
            raise ValueError(
                f'{where}:name is {name!r}, as is {names[name]}:name, but results are kept by '
                'name. Change one.'
            )


def _check_dataset(where: str, block: Mapping[str, object], phase: str, scale: object) -> None:
    choose(block, where, DATASET_REGISTRY)
    if not isinstance(required(block, where, 'name'), str):
        raise ValueError(f'{where}:name is {block["name"]!r}, but must be a text. Quote it.')
    if phase == 'train':
        for key, minimum in (('batch_size_per_gpu', 1), ('num_worker_per_gpu', 0)):
            check_int(f'{where}:{key}', required(block, where, key), minimum)
        ratio = block.get('dataset_enlarge_ratio', 1)
        check_above(f'{where}:dataset_enlarge_ratio', ratio, 0)
        if block.get('prefetch_mode') is not None:
            check_choice(f'{where}:prefetch_mode', block['prefetch_mode'], ('cpu', 'cuda'))
    if block['type'] == 'RefTripletDataset':
        filled = {'phase': phase} if scale is None else {'phase': phase, 'scale': scale}
        TripletOptions.from_opt(dict(block) | filled)


def _check_train(opt: Mapping[str, object], model_type: str) -> None:
    train = check_block('train', required(opt, '', 'train'))
    check_int('train:total_iter', required(train, 'train', 'total_iter'), 1, or_float=True)
    for key, minimum in (('warmup_iter', -1), ('net_d_iters', 1), ('net_d_init_iters', 0)):
        if key in train:
            check_int(f'train:{key}', train[key], minimum, or_float=True)
    if train.get('ema_decay') is not None:
        check_between('train:ema_decay', train['ema_decay'], 0, 1)
    required(train, 'train', 'optim_g')
    model = registered('model_type', model_type, MODEL_REGISTRY)
    is_gan = train.get('gan_opt') is not None or issubclass(model, SRGANModel)
    if is_gan:
        for name, block in (('gan_opt', train), ('optim_d', train), ('network_d', opt)):
            if not block.get(name):
                where = f'train:{name}' if block is train else name
                raise ValueError(
                    f'{where} is missing, which an adversarial loss needs. Give it, or train '
                    'without: remove train:gan_opt from a DEFModel, or use SRModel.'
                )
    for key in train:
        where = f'train:{key}'
        if key.startswith('optim_'):
            _check_optimizer(where, check_block(where, train[key]))
        elif key.endswith('_opt') and train[key] is not None:
            _check_loss(where, check_block(where, train[key]))
    _check_scheduler(check_block('train:scheduler', required(train, 'train', 'scheduler')))


def _check_optimizer(where: str, block: Mapping[str, object]) -> None:
    kind = check_choice(f'{where}:type', required(block, where, 'type'), tuple(OPTIMIZERS))
    lr = check_above(f'{where}:lr', required(block, where, 'lr'), 0)
    check_between(f'{where}:lr', lr, 0, 1e3)
    own = {key: value for key, value in block.items() if key != 'groups'}
    check_arguments(where, own, OPTIMIZERS[kind], given=('params',))


def _check_scheduler(block: Mapping[str, object]) -> None:
    where = 'train:scheduler'
    kind = check_choice(f'{where}:type', required(block, where, 'type'), tuple(SCHEDULERS))
    check_arguments(where, block, SCHEDULERS[kind], given=('optimizer',))
    for key in ('milestones', 'periods', 'restarts', 'restart_weights'):
        values = block.get(key, [])
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ValueError(f'{where}:{key} is {values!r}, but must be a list. Write [{values}].')
        for value in values:
            check_at_least(f'An entry of {where}:{key}', value, 0)


def _check_loss(where: str, block: Mapping[str, object]) -> None:
    check_arguments(where, block, choose(block, where, LOSS_REGISTRY))
    for (loss, key), choices in LOSS_CHOICES.items():
        if block['type'] == loss and key in block:
            check_choice(f'{where}:{key}', block[key], choices)
    if 'layer_weights' in block:
        check_block(f'{where}:layer_weights', block['layer_weights'])
    if block['type'] == 'TexturePerceptualLoss' and 'weights' in block:
        _check_weights(f'{where}:weights', block['weights'])


def _check_logger(block: Mapping[str, object]) -> None:
    check_keys('logger', block, LOGGER_KEYS)
    for key in ('print_freq', 'save_checkpoint_freq'):
        check_int(f'logger:{key}', required(block, 'logger', key), 1, or_float=True)
    use_tb = check_choice('logger:use_tb_logger', block.get('use_tb_logger', False), (True, False))
    if block.get('wandb') is not None:
        wandb = check_block('logger:wandb', block['wandb'])
        check_keys('logger:wandb', wandb, ('project', 'resume_id'))
        if wandb.get('project') is not None and not use_tb:
            raise ValueError('logger:wandb:project needs logger:use_tb_logger: true. Set it.')


def _check_val(opt: Mapping[str, object], is_train: bool, model_type: str) -> None:
    if is_train and opt.get('val') is None:
        return
    val = check_block('val', required(opt, '', 'val'))
    check_choice('val:save_img', required(val, 'val', 'save_img'), (True, False))
    if is_train:
        check_int('val:val_freq', required(val, 'val', 'val_freq'), 1, or_float=True)
    elif model_type != 'DEFModel' and val['save_img'] and 'suffix' not in val:
        raise ValueError('val:suffix is missing. Add `suffix: ~`, or the end of the file names.')
    if val.get('metrics') is None:
        return
    for name, block in check_block('val:metrics', val['metrics']).items():
        where = f'val:metrics:{name}'
        metric = choose(check_block(where, block), where, METRIC_REGISTRY)
        check_choice(f'{where}:better', block.get('better', 'higher'), ('higher', 'lower'))
        plain = {key: value for key, value in block.items() if key != 'better'}
        # BasicSR's take **kwargs only for `better`, and would swallow a typo
        strict = metric.__module__.startswith('basicsr.')
        check_arguments(where, plain, metric, given=('img', 'img2'), strict=strict)
        if 'crop_border' in block:
            check_int(f'{where}:crop_border', block['crop_border'], 0)


def _check_path(opt: Mapping[str, object], is_train: bool) -> None:
    path = check_block('path', required(opt, '', 'path'))
    labels = [name.removeprefix('network_') for name in opt if name.startswith('network_')]
    known = [f'{kind}_{label}' for kind in PATH_KEYS_OF_NETWORKS for label in labels]
    # null for a network that the file does not have is harmless
    of_others = re.compile(f'({"|".join(PATH_KEYS_OF_NETWORKS)})_[a-z]')
    used = [key for key in path if path[key] is not None or not of_others.fullmatch(key)]
    check_keys('path', {key: path[key] for key in used}, (*PATH_KEYS, *known))
    resumes = is_train and (opt.get('auto_resume') or path.get('resume_state'))
    for key, value in path.items():
        if key.startswith('pretrain_network') and value is not None and not resumes:
            find_pretrained(value, f'path:{key}')
        if key.startswith('strict_load') and value is not None:
            check_choice(f'path:{key}', value, (True, False))


def _check_weights(option: str, weights: object) -> None:
    if weights not in ('torchvision', 'none'):
        find_pretrained(weights, option)
