"""Option files checked as a whole, before a folder is made, an image read or a network built.

This walks over the file. What is legal in a block, the class that reads it says, by a classmethod
``check``: archs, data sets and losses as ``check(where, block)``, see ``ask``; models as
``check(opt)``, the file's content. What BasicSR reads itself stands here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from typing import Any

from basicsr.models import lr_scheduler
from basicsr.models.esrgan_model import ESRGANModel
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
)

from defsr.archs.blocks import check_factor
from defsr.config.basicsr_options import (
    CROPPED,
    GIVES,
    IMAGE_SETS,
    IO_BACKEND,
    LOADER,
    LOGGER,
    TRAIN,
    TRAIN_LOADER,
    VAL,
    WANDB,
)
from defsr.config.blocks import (
    FILLED_KEYS,
    RUN_KEYS,
    ask,
    check_adversarial,
    check_arguments,
    check_block_of,
    check_networks,
    check_path,
    check_run,
    choose,
    is_foreign,
    registered,
    required,
    surprises_explained,
)
from defsr.data.triplet_options import BASICSR_KEYS
from defsr.running.optimizers import OPTIMIZERS, check_optimizer
from defsr.running.safe_options import SafeOptions, model_options
from defsr.utils.checks import check_block, check_choice, check_keys
from defsr.utils.devices import why_no_gpu
from defsr.utils.fingerprints import with_defaults

# What BasicSR's models read of `train`. Of a model of somebody else nobody knows.
SR_KEYS = (
    'total_iter', 'warmup_iter', 'optim_g', 'scheduler', 'ema_decay', 'pixel_opt', 'perceptual_opt',
)  # fmt: skip
GAN_KEYS = (*SR_KEYS, 'optim_d', 'gan_opt', 'ldl_opt', 'net_d_iters', 'net_d_init_iters')
TRAIN_KEYS = {SRModel: SR_KEYS, SRGANModel: GAN_KEYS, ESRGANModel: GAN_KEYS}
SCHEDULERS = {
    'MultiStepLR': lr_scheduler.MultiStepRestartLR,
    'MultiStepRestartLR': lr_scheduler.MultiStepRestartLR,
    'CosineAnnealingRestartLR': lr_scheduler.CosineAnnealingRestartLR,
}
WORDS = {
    'lq': 'LR images',
    'gt': 'ground truth',
    'refs': 'references',
    'ranks': 'ranked images',
    'homography': 'planted homographies',
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
    needed = ('network_g', 'datasets', 'path', *(('train', 'logger') if is_train else ('val',)))
    for name in (*needed, 'train', 'logger', 'val'):
        if name in needed or opt.get(name) is not None:
            check_block(name, required(opt, '', name))
    check_networks(opt, _channels(opt['datasets']))
    _check_datasets(opt, is_train)
    if is_train:
        _check_train(opt['train'], getattr(model, 'optimizer_keys', ()))
        _check_logger(opt['logger'])
        _check_prefetching(opt)
    if opt.get('val') is not None:
        _check_val(opt['val'], is_train)
    _check_model(opt, model, is_train)
    resumes = is_train and (opt.get('auto_resume') or opt['path'].get('resume_state'))
    check_path(opt, ('resume_state', 'ignore_resume_networks'), look=not resumes)


def _channels(datasets: Mapping[str, Any]) -> int:
    """Of the images: one where BasicSR's data sets take the luminance only."""
    blocks = [block for block in datasets.values() if isinstance(block, Mapping)]
    return 1 if any(block.get('color') == 'y' for block in blocks) else 3


def _check_prefetching(opt: Mapping[str, Any]) -> None:
    if opt['datasets']['train'].get('prefetch_mode') == 'cuda':
        why = why_no_gpu(opt['num_gpu'])
        if why:
            raise ValueError(
                f'datasets:train:prefetch_mode is cuda, but {why}. Remove it or set cpu.'
            )


def _check_model(opt: Mapping[str, Any], model: type, is_train: bool) -> None:
    own = model_options(opt)
    train, val = own.get('train') or {}, own.get('val') or {}
    if hasattr(model, 'check'):
        with surprises_explained(f'An option of {model.__name__}'):
            model.check(own)
    else:
        if model in TRAIN_KEYS:
            given = [k for k, v in own.items() if v is not None and k not in FILLED_KEYS]
            check_keys('', dict.fromkeys(given), RUN_KEYS)
            check_keys('train', train, TRAIN_KEYS[model])
            check_keys('val', val, VAL)
            if is_train and not (train.get('pixel_opt') or train.get('perceptual_opt')):
                raise ValueError('train has no loss. Give pixel_opt, or perceptual_opt.')
        if is_train and (train.get('gan_opt') is not None or issubclass(model, SRGANModel)):
            check_adversarial(opt)
        if not is_train and val['save_img'] and 'suffix' not in val:
            raise ValueError('val:suffix is missing. Add `suffix: ~`, or an end of file names.')
    _check_factor(opt)
    needed = getattr(model, 'reads_of_data', lambda opt, is_train: ('lq', 'gt')[: 1 + is_train])
    _check_given(opt, model, needed(opt, is_train))
    if is_train:
        _check_critic(opt)
        names = getattr(model, 'metric_names', lambda opt: val.get('metrics') or {})
        SafeOptions.from_opt(opt, names(opt))


def _check_factor(opt: Mapping[str, Any]) -> None:
    block, scale = opt['network_g'], opt.get('scale')
    if is_foreign(ARCH_REGISTRY.get(block['type'])):
        check_factor('network_g', block, 'scale', scale)


def _check_critic(opt: Mapping[str, Any]) -> None:
    """A critic for one size of image against the crops of training."""
    if opt.get('network_d') is not None:
        block = opt['network_d']
        side = with_defaults(ARCH_REGISTRY.get(block['type']), block).get('input_size')
        crop = opt['datasets']['train'].get('gt_size')
        if isinstance(side, int) and isinstance(crop, int) and side != crop:
            raise ValueError(
                f'network_d:input_size is {side}, but datasets:train:gt_size is {crop}. '
                'Set both to the same.'
            )


def _check_given(opt: Mapping[str, Any], model: type, needed: Collection[str]) -> None:
    """What the items of a data set have against what the model takes of them."""
    gives = {name: getattr(kind, 'gives', GIVES.get(name)) for name, kind in DATASET_REGISTRY}
    fitting = [name for name, has in gives.items() if has and {*needed} <= {*has}]
    for phase, block in opt['datasets'].items():
        given = gives.get(block['type'])  # of somebody else's nobody knows
        if given and not {*needed} <= {*given}:
            words = ' and '.join(WORDS[name] for name in needed if name not in given)
            raise ValueError(
                f'datasets:{phase}:type is {block["type"]}, but {model.__name__} needs {words}: '
                f'{" or ".join(fitting)}.'
            )


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
    check_block_of(where, block, LOADER, ('name', *(TRAIN_LOADER if phase == 'train' else ())))
    if hasattr(dataset, 'check'):
        with surprises_explained(where):
            dataset.check(where, {**block, 'phase': phase, 'scale': block.get('scale', scale)})
    if block['type'] in IMAGE_SETS:
        kinds, needed = IMAGE_SETS[block['type']]
        check_keys(where, block, {*kinds, *BASICSR_KEYS})
        check_block_of(where, block, kinds, (*needed, *(CROPPED if phase == 'train' else ())))
        check_block_of(f'{where}:io_backend', block['io_backend'], IO_BACKEND, ('type',))


def _check_train(train: Mapping[str, Any], of_optimizer: Collection[str]) -> None:
    check_block_of('train', train, TRAIN, ('total_iter', 'optim_g', 'scheduler'))
    for key in train:
        where = f'train:{key}'
        if key.startswith('optim_'):
            block = check_block(where, train[key])
            _check_optimizer(where, {k: block[k] for k in block if k not in of_optimizer})
        elif key.endswith('_opt') and train[key] is not None:
            block = check_block(where, train[key])
            ask(choose(block, where, LOSS_REGISTRY), where, block)
    _check_scheduler(train['scheduler'], train['total_iter'])


def _check_optimizer(where: str, block: Mapping[str, Any]) -> None:
    kind = check_choice(f'{where}:type', required(block, where, 'type'), tuple(OPTIMIZERS))
    required(block, where, 'lr')
    check_arguments(where, block, OPTIMIZERS[kind], given=('params',))
    check_optimizer(where, block)


def _check_scheduler(block: Mapping[str, Any], total_iter: float) -> None:
    where = 'train:scheduler'
    kind = check_choice(f'{where}:type', required(block, where, 'type'), tuple(SCHEDULERS))
    check_arguments(where, block, SCHEDULERS[kind], given=('optimizer', 'last_epoch'))
    made = with_defaults(SCHEDULERS[kind], block)
    starts = 'periods' if 'periods' in made else 'restarts'
    if len(made[starts]) != len(made['restart_weights']):
        raise ValueError(
            f'{where}:{starts} has {len(made[starts])} entries, but {where}:restart_weights '
            f'{len(made["restart_weights"])}. Give one weight for each.'
        )
    if starts == 'periods' and sum(made['periods']) < total_iter:
        raise ValueError(
            f'{where}:periods sum to {sum(made["periods"])}, less than train:total_iter='
            f'{total_iter}. Make them as long.'
        )


def _check_logger(block: Mapping[str, Any]) -> None:
    needed = ('print_freq', 'save_checkpoint_freq', 'use_tb_logger')
    check_block_of('logger', block, LOGGER, needed, only=True)
    if block.get('wandb') is not None:
        wandb = check_block_of('logger:wandb', block['wandb'], WANDB, only=True)
        if wandb.get('project') is not None:
            if not block['use_tb_logger']:
                raise ValueError('logger:wandb:project needs logger:use_tb_logger: true. Set it.')
            if importlib.util.find_spec('wandb') is None:
                raise ValueError(
                    'logger:wandb:project needs the package wandb: pip install wandb, or set it '
                    'to ~.'
                )


def _check_val(val: Mapping[str, Any], is_train: bool) -> None:
    check_block_of('val', val, VAL, ('save_img', *(('val_freq',) if is_train else ())))
    for name, block in (val.get('metrics') or {}).items():
        where = f'val:metrics:{name}'
        metric = choose(check_block(where, block), where, METRIC_REGISTRY)
        check_choice(f'{where}:better', block.get('better', 'higher'), ('higher', 'lower'))
        plain = {key: value for key, value in block.items() if key != 'better'}
        check_arguments(where, plain, metric, given=('img', 'img2'))
