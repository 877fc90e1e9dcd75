"""Option files checked as a whole, before a folder is made, an image read or a network built.

This walks over the file. What is legal in a block, the class that reads it says, by a classmethod
``check``: archs, data sets and losses as ``check(where, block)``, see ``ask``; models as
``check(opt)``, the file's content. What BasicSR reads itself stands here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from basicsr.models import lr_scheduler
from basicsr.models.esrgan_model import ESRGANModel
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils.registry import (
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
)

from defsr.config.blocks import (
    ask,
    check_adversarial,
    check_arguments,
    check_networks,
    check_path,
    check_run,
    choose,
    registered,
    required,
    surprises_explained,
)
from defsr.running.safe_options import LOGGER_KEYS, SafeOptions, model_options
from defsr.utils.checks import (
    check_above,
    check_at_least,
    check_between,
    check_block,
    check_choice,
    check_int,
    check_keys,
    check_list,
    check_name,
)

# What BasicSR's models read of `train` and `val`. Of a model of somebody else nobody knows.
SR_KEYS = (
    'total_iter', 'warmup_iter', 'optim_g', 'scheduler', 'ema_decay', 'pixel_opt', 'perceptual_opt',
)  # fmt: skip
GAN_KEYS = (*SR_KEYS, 'optim_d', 'gan_opt', 'ldl_opt', 'net_d_iters', 'net_d_init_iters')
TRAIN_KEYS = {SRModel: SR_KEYS, SRGANModel: GAN_KEYS, ESRGANModel: GAN_KEYS}
VAL_KEYS = ('val_freq', 'save_img', 'suffix', 'metrics', 'pbar')
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


def check_options(opt: Mapping[str, Any], is_train: bool) -> None:
    """Refuse options that BasicSR's loops and models would stumble over later, or not read.

    Builds nothing and reads no data; of files it only asks whether weights exist.

    Args:
        opt: an option file's content, before BasicSR fills it in; left as it is.
        is_train: for ``defsr/train.py``; else for ``defsr/test.py``.

    Raises:
        ValueError: for the first mistake, with the option and, where there is one, the nearest
            valid value.
        FileNotFoundError: for weights that do not exist.
    """
    model = registered('model_type', required(opt, '', 'model_type'), MODEL_REGISTRY)
    check_run(opt)
    if opt.get('manual_seed') is not None:
        check_between('manual_seed', check_int('manual_seed', opt['manual_seed'], 0), 0, 2**31)
    if 'scale' in opt:
        check_int('scale', required(opt, '', 'scale'), 1)
    needed = ('network_g', 'datasets', 'path', *(('train', 'logger') if is_train else ('val',)))
    for name in (*needed, 'train', 'logger', 'val'):
        if name in needed or opt.get(name) is not None:
            check_block(name, required(opt, '', name))
    check_networks(opt)
    _check_datasets(opt, is_train)
    if is_train:
        _check_train(opt['train'], getattr(model, 'optimizer_keys', ()))
        _check_logger(opt['logger'])
    if opt.get('val') is not None:
        _check_val(opt['val'], is_train)
    _check_model(opt, model, is_train)
    resumes = is_train and (opt.get('auto_resume') or opt['path'].get('resume_state'))
    check_path(opt, ('resume_state', 'ignore_resume_networks'), look=not resumes)


def _check_model(opt: Mapping[str, Any], model: type, is_train: bool) -> None:
    own = model_options(opt)
    train, val = own.get('train') or {}, own.get('val') or {}
    if hasattr(model, 'check'):
        with surprises_explained(f'An option of {model.__name__}'):
            model.check(own)
    else:
        if model in TRAIN_KEYS:
            check_keys('train', train, TRAIN_KEYS[model])
            check_keys('val', val, VAL_KEYS)
        if is_train and (train.get('gan_opt') is not None or issubclass(model, SRGANModel)):
            check_adversarial(opt)
        if not is_train and val['save_img'] and 'suffix' not in val:
            raise ValueError('val:suffix is missing. Add `suffix: ~`, or an end of file names.')
    if is_train:
        names = getattr(model, 'metric_names', lambda opt: val.get('metrics') or {})
        SafeOptions.from_opt(opt, names(opt))


def _check_datasets(opt: Mapping[str, Any], is_train: bool) -> None:
    datasets = opt['datasets']
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


def _check_dataset(where: str, block: Mapping[str, Any], phase: str, scale: object) -> None:
    dataset = choose(block, where, DATASET_REGISTRY)
    check_name(f'{where}:name', required(block, where, 'name'))
    if phase == 'train':
        for key, minimum in (('batch_size_per_gpu', 1), ('num_worker_per_gpu', 0)):
            check_int(f'{where}:{key}', required(block, where, key), minimum)
        ratio = block.get('dataset_enlarge_ratio', 1)
        check_above(f'{where}:dataset_enlarge_ratio', ratio, 0)
        if block.get('prefetch_mode') is not None:
            check_choice(f'{where}:prefetch_mode', block['prefetch_mode'], ('cpu', 'cuda'))
    if hasattr(dataset, 'check'):
        with surprises_explained(where):
            dataset.check(where, {**block, 'phase': phase, 'scale': block.get('scale', scale)})


def _check_train(train: Mapping[str, Any], of_optimizer: Collection[str]) -> None:
    check_int('train:total_iter', required(train, 'train', 'total_iter'), 1, or_float=True)
    for key, minimum in (('warmup_iter', -1), ('net_d_iters', 1), ('net_d_init_iters', 0)):
        if key in train:
            check_int(f'train:{key}', train[key], minimum, or_float=True)
    if train.get('ema_decay') is not None:
        check_between('train:ema_decay', train['ema_decay'], 0, 1)
    required(train, 'train', 'optim_g')
    for key in train:
        where = f'train:{key}'
        if key.startswith('optim_'):
            block = check_block(where, train[key])
            _check_optimizer(where, {k: block[k] for k in block if k not in of_optimizer})
        elif key.endswith('_opt') and train[key] is not None:
            _check_loss(where, check_block(where, train[key]))
    _check_scheduler(check_block('train:scheduler', required(train, 'train', 'scheduler')))


def _check_optimizer(where: str, block: Mapping[str, Any]) -> None:
    kind = check_choice(f'{where}:type', required(block, where, 'type'), tuple(OPTIMIZERS))
    lr = check_above(f'{where}:lr', required(block, where, 'lr'), 0)
    check_between(f'{where}:lr', lr, 0, 1e3)
    check_arguments(where, block, OPTIMIZERS[kind], given=('params',))


def _check_scheduler(block: Mapping[str, Any]) -> None:
    where = 'train:scheduler'
    kind = check_choice(f'{where}:type', required(block, where, 'type'), tuple(SCHEDULERS))
    check_arguments(where, block, SCHEDULERS[kind], given=('optimizer',))
    for key in ('milestones', 'periods', 'restarts', 'restart_weights'):
        values = block.get(key, [])
        for value in check_list(f'{where}:{key}', values, f', such as [{values}]'):
            check_at_least(f'An entry of {where}:{key}', value, 0)


def _check_loss(where: str, block: Mapping[str, Any]) -> None:
    ask(choose(block, where, LOSS_REGISTRY), where, block)
    for (name, key), choices in LOSS_CHOICES.items():
        if block['type'] == name and key in block:
            check_choice(f'{where}:{key}', block[key], choices)
    if 'layer_weights' in block:
        check_block(f'{where}:layer_weights', block['layer_weights'])


def _check_logger(block: Mapping[str, Any]) -> None:
    frequencies = ('print_freq', 'save_checkpoint_freq')
    check_keys('logger', block, (*frequencies, 'use_tb_logger', 'wandb', *LOGGER_KEYS))
    for key in frequencies:
        check_int(f'logger:{key}', required(block, 'logger', key), 1, or_float=True)
    use_tb = check_choice('logger:use_tb_logger', block.get('use_tb_logger', False), (True, False))
    if block.get('wandb') is not None:
        wandb = check_block('logger:wandb', block['wandb'])
        check_keys('logger:wandb', wandb, ('project', 'resume_id'))
        if wandb.get('project') is not None and not use_tb:
            raise ValueError('logger:wandb:project needs logger:use_tb_logger: true. Set it.')


def _check_val(val: Mapping[str, Any], is_train: bool) -> None:
    check_choice('val:save_img', required(val, 'val', 'save_img'), (True, False))
    if val.get('suffix') is not None:
        check_name('val:suffix', val['suffix'])
    if is_train:
        check_int('val:val_freq', required(val, 'val', 'val_freq'), 1, or_float=True)
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
