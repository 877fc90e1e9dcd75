"""The option file of ``defsr-enhance``, checked before a network is built or an image read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from defsr.config.blocks import check_networks, check_path, check_run, required
from defsr.data.cache_record import KINDS
from defsr.data.triplet_options import BASICSR_KEYS, OWN_KEYS, TripletOptions
from defsr.methods.networks import check_enhancer
from defsr.utils.checks import check_block, check_choice, check_int, check_keys, check_list
from defsr.utils.devices import has_gpu
from defsr.utils.kinds import check_kind
from defsr.utils.paths import expanded

TOP_KEYS = (
    'name', 'scale', 'num_gpu', 'images_per_batch', 'datasets', 'network_e', 'path', 'dist_params',
)  # fmt: skip
CACHE_KEYS = {'dataroot_de', 'dataroot_ref_de'}
BLOCK_KEYS = (BASICSR_KEYS | OWN_KEYS | {'enhance', 'out'}) - CACHE_KEYS
IMAGES_PER_BATCH = 8


@dataclass(frozen=True)
class CacheRequest:
    """One cache that an option file asks for.

    Attributes:
        options: of the data set it belongs to.
        kind: ``de`` or ``ref_de``.
        out: folder, or LMDB if it ends in ``.lmdb``.
        option: the option that holds ``out``, for messages.
    """

    options: TripletOptions
    kind: str
    out: str
    option: str


def check_enhance_options(opt: Mapping[str, Any]) -> list[CacheRequest]:
    """Read an option file of ``defsr-enhance``, which is left as it is.

    Returns:
        The caches it asks for, in its order.

    Raises:
        ValueError: for the first mistake; the message names the option.
        FileNotFoundError: for weights that do not exist.
    """
    check_keys('', opt, TOP_KEYS)
    check_run(opt)
    scale = check_int('scale', required(opt, '', 'scale'), 2)
    check_int('images_per_batch', opt.get('images_per_batch', IMAGES_PER_BATCH), 1)
    required(opt, '', 'network_e')
    check_networks(opt)
    check_path({'path': {}} | {key: opt[key] for key in opt if opt[key] is not None})
    datasets = check_block('datasets', required(opt, '', 'datasets'))
    if not datasets:
        raise ValueError('datasets is empty. Add a block such as datasets:train.')
    requests = []
    for phase, block in datasets.items():
        where = f'datasets:{phase}'
        requests += _requests(where, check_block(where, block), scale)
    for request in requests:
        check_enhancer('network_e', opt, request.options.degradation)
    _check_outs(requests)
    return requests


def device_of(opt: Mapping[str, Any]) -> torch.device:
    """What ``num_gpu`` of an option file asks for. ValueError for a GPU that is not there."""
    use_cuda = has_gpu(opt['num_gpu'])
    if opt['num_gpu'] not in (0, 'auto') and not use_cuda:
        raise ValueError(
            f'num_gpu is {opt["num_gpu"]}, but this machine has no CUDA device. '
            'Set `num_gpu: 0` in the option file, or `num_gpu: auto`.'
        )
    return torch.device('cuda' if use_cuda else 'cpu')


def _requests(where: str, block: Mapping[str, Any], scale: int) -> list[CacheRequest]:
    for key in CACHE_KEYS & set(block):
        raise ValueError(
            f'{where}:{key} names a cache that is there already. Write '
            f'`out: {{{key.removeprefix("dataroot_")}: ...}}` for one that is to be made.'
        )
    check_keys(where, block, BLOCK_KEYS)
    check_choice(f'{where}:type', block.get('type'), ('RefTripletDataset',))
    check_kind(f'{where}:name', required(block, where, 'name'), str)
    kinds = check_list(f'{where}:enhance', block.get('enhance', ['de']), ', such as [de]', 1)
    for kind in kinds:
        check_choice(f'An entry of {where}:enhance', kind, tuple(KINDS))
    if 'ref_de' in kinds:
        required(block, where, 'dataroot_ref')
    plain = {key: value for key, value in block.items() if key not in ('enhance', 'out')}
    filled = {'dataroot_ref': 'lq'} | plain | {'phase': 'test', 'scale': scale}
    options = TripletOptions.from_opt(filled)
    outs = _outs(where, block, kinds)
    for kind, out in outs.items():
        if options.backend == 'lmdb' and not out.endswith('.lmdb'):
            raise ValueError(
                f'{where}:out:{kind} is {out}, but with io_backend lmdb the data set reads only '
                'caches that end in .lmdb. Let it end so.'
            )
    return [CacheRequest(options, kind, outs[kind], f'{where}:out:{kind}') for kind in outs]


def _outs(where: str, block: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, str]:
    out = required(block, where, 'out')
    if isinstance(out, str) and len(kinds) == 1:
        out = {kinds[0]: out}
    outs = check_block(f'{where}:out', out)
    check_keys(f'{where}:out', outs, kinds)
    for kind in kinds:
        value = required(outs, f'{where}:out', kind)
        if not isinstance(value, str) or not value.strip('/. '):
            raise ValueError(f'{where}:out:{kind} is {value!r}, but must be the path of a folder.')
    return {kind: outs[kind].rstrip('/') for kind in dict.fromkeys(kinds)}


def _check_outs(requests: list[CacheRequest]) -> None:
    seen: dict[str, str] = {}
    for request in requests:
        path = os.path.abspath(expanded(request.out))
        other = seen.setdefault(path, request.option)
        if other != request.option:
            raise ValueError(
                f'{request.option} is {request.out}, as is {other}. Give each cache its own; one '
                'pair list may name all images (CUFED5_all_refs.txt).'
            )
