"""What BasicSR reads of an option file, as types: it looks at nothing before it stumbles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from defsr.running.safe_options import LOGGER_KEYS
from defsr.utils.checks import check_between, check_int
from defsr.utils.kinds import (
    Count,
    Flag,
    Iterations,
    Name,
    NotNegative,
    Positive,
    Share,
    Whole,
    above,
    between,
    entries,
    whole,
)

Three = Annotated[Sequence[float], entries(3, 3)]
Seed = Annotated[int, between(0, 2**31)]


def _beta(option: str, value: float) -> None:
    check_between(option, value, 0, 1)
    if not isinstance(value, float) or value == 1:  # PyTorch wants both alike, and below 1
        raise ValueError(f'{option} is {value}, but must be a number such as 0.0 or 0.9.')


def _gpus(option: str, value: object) -> None:
    if value != 'auto':
        check_int(option, value, 0, '; or write auto')


# Arguments of its networks, losses, metrics and schedulers and of PyTorch's optimizers: what a
# name stands for is the same in all of them.
ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(('num_in_ch', 'num_out_ch', 'num_feat', 'num_grow_ch', 'num_group'), Count),
    **dict.fromkeys(('num_block', 'num_conv'), Whole),
    **dict.fromkeys(('upscale', 'scale', 'squeeze_factor', 'input_size', 'out_size'), Count),
    'res_scale': float,
    'img_range': Positive,
    'rgb_mean': Three,
    'rgb_std': Three,
    **dict.fromkeys(('loss_weight', 'perceptual_weight', 'style_weight'), NotNegative),
    'reduction': Literal['mean', 'sum'],
    'gan_type': Literal['vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge'],
    'layer_weights': Mapping[str, NotNegative],
    'criterion': Literal['l1', 'fro'],
    'crop_border': Whole,
    'input_order': Literal['HWC', 'CHW'],
    'convert_to': Literal['y', 'gray'],
    'lr': Annotated[float, above(0), between(0, 1e3)],
    'momentum': Share,
    'dampening': Share,
    'alpha': Share,
    'lambd': NotNegative,
    't0': NotNegative,
    'etas': Annotated[Sequence[Positive], entries(2, 2)],
    'step_sizes': Annotated[Sequence[Positive], entries(2, 2)],
    **dict.fromkeys(('nesterov', 'centered', 'decoupled_weight_decay'), Flag),
    'betas': Annotated[Sequence[Annotated[Any, _beta]], entries(2, 2)],
    'eps': NotNegative,
    'weight_decay': NotNegative,
    **dict.fromkeys(('amsgrad', 'maximize', 'capturable', 'differentiable'), Flag),
    **dict.fromkeys(('foreach', 'fused'), Flag | None),
    'milestones': Sequence[Annotated[Any, whole(0)]],
    'gamma': NotNegative,
    'periods': Annotated[Sequence[Iterations], entries(1)],
    'restarts': Sequence[Annotated[Any, whole(0)]],
    'restart_weights': Sequence[NotNegative],
    'eta_min': NotNegative,
}  # fmt: skip

# Blocks of the option file, but for the blocks in them.
RUN = {
    'name': Name,
    'num_gpu': Annotated[Any, _gpus],
    'manual_seed': Seed | None,
    'scale': Count,
    'find_unused_parameters': Flag,
}
TRAIN = {
    'total_iter': Iterations,
    'warmup_iter': Annotated[Any, whole(-1)],
    'ema_decay': Share,
    'net_d_iters': Iterations,
    'net_d_init_iters': Annotated[Any, whole(0)],
    'scheduler': Mapping,
    'optim_g': Mapping,
}
LOGGER = {
    'print_freq': Iterations,
    'save_checkpoint_freq': Iterations,
    'use_tb_logger': Flag,
    'wandb': Mapping | None,
    **dict.fromkeys(LOGGER_KEYS, Any),
}
WANDB = {'project': str | None, 'resume_id': str | None}
VAL = {
    'val_freq': Iterations,
    'save_img': Flag,
    'suffix': Name | None,
    'pbar': Flag,
    'metrics': Mapping | None,
}
DIST = {'backend': str, 'port': Annotated[int, between(0, 2**16 - 1)], 'timeout': Positive}
PATH = {  # by the start of the key
    'pretrain_network': str,
    'param_key': str,
    'strict_load': Flag,
    'resume_state': str,
    'ignore_resume_networks': Sequence[str] | str,
}
# Of any data set, and what training has to say.
TRAIN_LOADER = {'batch_size_per_gpu': Count, 'num_worker_per_gpu': Annotated[int, between(0, 1024)]}
LOADER = {
    'name': Name,
    'dataset_enlarge_ratio': Positive,
    'prefetch_mode': Literal['cpu', 'cuda'] | None,
    'num_prefetch_queue': Count,
    **dict.fromkeys(('use_shuffle', 'pin_memory', 'persistent_workers'), Flag),
    **TRAIN_LOADER,
}
# Of BasicSR's data sets of images: keys, and those that have to be there.
CROPPED = {'gt_size': Count, 'use_hflip': Flag, 'use_rot': Flag}  # in training
SINGLE = {
    'dataroot_lq': str,
    'io_backend': Mapping,
    'meta_info_file': str,
    'color': Literal['y'] | None,
    'mean': Three | None,
    'std': Three | None,
}
PAIRED = {
    **SINGLE,
    **CROPPED,
    'dataroot_gt': str,
    'filename_tmpl': str,
    'meta_info_file': str | None,
}
IMAGE_SETS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    'SingleImageDataset': (SINGLE, ('dataroot_lq', 'io_backend')),
    'PairedImageDataset': (PAIRED, ('dataroot_gt', 'dataroot_lq', 'io_backend')),
}
IO_BACKEND = {'type': Literal['disk', 'lmdb', 'memcached']}
GIVES = {'SingleImageDataset': ('lq',), 'PairedImageDataset': ('lq', 'gt')}  # with each image
