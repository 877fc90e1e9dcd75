"""Every patch of other people's packages, each with its reason and the version it concerns.

``apply()`` must run before BasicSR is imported (``defsr/__init__.py`` does);
``patch_pipelines()`` changes BasicSR's training and test loops for the two entry points.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import types
from collections import Counter, OrderedDict
from collections.abc import Sequence
from os import path as osp
from typing import TextIO

import torch
import yaml

from defsr.utils.options import OptionLoader, load_options, override_options, split_force_yml

FROZEN_NETWORKS = ('network_e', 'network_t')


def apply() -> None:
    """Make ``import basicsr`` work and its option reader safe. Harmless when called twice."""
    _restore_functional_tensor()
    _read_options_safely()


def patch_pipelines() -> None:
    """Mend what BasicSR's ``train_pipeline`` and ``test_pipeline`` get wrong."""
    train = importlib.import_module('basicsr.train')
    test = importlib.import_module('basicsr.test')
    options = importlib.import_module('basicsr.utils.options')
    train.parse_options = test.parse_options = _with_safe_overrides(options)
    train.load_resume_state = _load_resume_state
    train.create_train_val_dataloader = _with_exact_epochs(train)


def _restore_functional_tensor() -> None:
    """basicsr 1.4.2 imports ``rgb_to_grayscale`` from a module that torchvision 0.17 removed."""
    name = 'torchvision.transforms.functional_tensor'
    if name in sys.modules:
        return
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        functional = importlib.import_module('torchvision.transforms.functional')
        module = types.ModuleType(name)
        module.rgb_to_grayscale = functional.rgb_to_grayscale
        sys.modules[name] = module


def _read_options_safely(entries: Sequence[str] = ()) -> None:
    """basicsr 1.4.2 reads option files with PyYAML's unsafe loader: a file could run code.

    Its ``yaml.load(file, Loader=...)`` becomes ours, which applies the overrides as well.
    """
    options = importlib.import_module('basicsr.utils.options')

    def load(file: TextIO, Loader: type | None = None):  # noqa: N803 (PyYAML's name)
        return override_options(load_options(file.name), entries)

    options.yaml = types.SimpleNamespace(load=load)
    options.ordered_yaml = lambda: (OptionLoader, yaml.SafeDumper)


def _with_safe_overrides(options: types.ModuleType):
    """basicsr 1.4.2 passes ``--force_yml`` to ``exec`` and ``eval``: take the flag away from it."""
    original = options.parse_options

    def parse_options(root_path: str, is_train: bool = True):
        argv = sys.argv
        sys.argv, entries = split_force_yml(argv)
        _read_options_safely(entries)
        try:
            opt, args = original(root_path, is_train)
        finally:
            sys.argv = argv
            _read_options_safely()
        if opt['num_gpu'] and not torch.cuda.is_available():
            raise ValueError(
                f'num_gpu is {opt["num_gpu"]}, but this machine has no CUDA device. '
                'Set `num_gpu: 0` in the option file, or `num_gpu: auto`.'
            )
        return opt, args

    return parse_options


def _load_resume_state(opt: dict) -> dict | None:
    """basicsr 1.4.2 resumes on CUDA only, and looks for checkpoints of frozen networks."""
    state_path = opt['path'].get('resume_state')
    if opt['auto_resume']:
        folder = opt['path']['training_states']
        states = [f for f in _listdir(folder) if f.endswith('.state')]
        if states:
            newest = max(states, key=lambda name: float(name.removesuffix('.state')))
            state_path = osp.join(folder, newest)
            opt['path']['resume_state'] = state_path
    if state_path is None:
        return None
    if not osp.isfile(state_path):
        raise FileNotFoundError(f'path:resume_state is {state_path}, which does not exist.')
    with torch.serialization.safe_globals([Counter, OrderedDict]):
        device = torch.device('cuda' if opt['num_gpu'] else 'cpu')
        state = torch.load(state_path, map_location=device, weights_only=True)
    frozen = [name for name in FROZEN_NETWORKS if name in opt]
    ignored = opt['path'].get('ignore_resume_networks') or []
    opt['path']['ignore_resume_networks'] = [*ignored, *frozen]
    importlib.import_module('basicsr.utils').check_resume(opt, state['iter'])
    return state


def _with_exact_epochs(train: types.ModuleType):
    """basicsr 1.4.2 rounds iterations per epoch up while its loader drops the last batch.

    Ten pairs at batch 9 and ``total_iter: 200`` then stop after 101 iterations without a word.
    The number of iterations in one un-enlarged pass goes to ``opt['train']``, where the model
    finds what an epoch is.
    """
    original = train.create_train_val_dataloader

    def create_train_val_dataloader(opt: dict, logger):
        loader, sampler, val_loaders, _, total_iters = original(opt, logger)
        iters_per_epoch = len(loader)
        if iters_per_epoch == 0:
            raise ValueError(
                f'datasets:train has {len(loader.dataset)} images, fewer than one batch of '
                f'{loader.batch_size}. Lower batch_size_per_gpu or raise dataset_enlarge_ratio.'
            )
        total_epochs = math.ceil(total_iters / iters_per_epoch)
        per_pass = math.ceil(len(loader.dataset) / (loader.batch_size * opt['world_size']))
        opt['train']['num_iter_per_pass'] = per_pass
        logger.info(
            f'Iterations: {iters_per_epoch} per epoch of the loader, {per_pass} per pass over '
            f'the data; {total_epochs} epochs for {total_iters} iterations.'
        )
        return loader, sampler, val_loaders, total_epochs, total_iters

    return create_train_val_dataloader


def _listdir(folder: str) -> list[str]:
    return sorted(os.listdir(folder)) if osp.isdir(folder) else []
