"""Patches of BasicSR's option files and loops, each with its reason and the version it concerns.

``read_options_safely()`` runs as soon as these are imported (``defsr/imports.py`` sees to it),
``patch_pipelines()`` changes BasicSR's training and test loops for the two entry points.
"""

from __future__ import annotations

import importlib
import logging
import os
import shlex
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch
import yaml

from defsr.config.files import (
    OptionLoader,
    dump_options,
    load_options,
    override_options,
    split_force_yml,
)
from defsr.images.png import write_png
from defsr.utils.cli import tell
from defsr.utils.devices import has_gpu
from defsr.utils.files import atomic_path
from defsr.utils.paths import find_shipped

Result = TypeVar('Result')


def patch_pipelines(held: ExitStack) -> None:
    """Mend what BasicSR's ``train_pipeline`` and ``test_pipeline`` get wrong.

    basicsr 1.4.2 starts an epoch again on resuming, takes the newest state even when torn, tears
    files itself when killed, wants CUDA to resume or to run several processes, and lets all
    processes but one wait while it validates. Its loops stay; the functions that they call become
    those of a ``TrainingRun`` and models with ``SafeTraining`` in front.

    Args:
        held: takes what the pipeline holds while it runs, the lock of its folder.
    """
    from defsr.running.training_run import TrainingRun, build_safe_model
    from defsr.utils import distributed
    from defsr.utils.stopping import StopRequest

    held.enter_context(distributed.losses_explained())  # also of what goes round while it builds
    train: Any = importlib.import_module('basicsr.train')
    test: Any = importlib.import_module('basicsr.test')
    options = importlib.import_module('basicsr.utils.options')
    train.parse_options = test.parse_options = _with_safe_overrides(options)
    run = TrainingRun(StopRequest())
    train.load_resume_state = _alone(held, 'experiments_root', run.load_resume_state)
    train.init_tb_logger = run.init_tb_logger
    train.create_train_val_dataloader = run.create_train_val_dataloader
    train.build_model = run.build_model
    train.copy_opt_file = _keep_options
    test.build_model = build_safe_model
    make_exp_dirs = importlib.import_module('basicsr.utils').make_exp_dirs
    test.make_exp_dirs = _alone(held, 'results_root', make_exp_dirs)
    _pass_on_errors_of_prefetching()
    # BasicSR's writes by cv2.imwrite: see `write_png`.
    importlib.import_module('basicsr.models.sr_model').__dict__['imwrite'] = write_png
    misc: Any = importlib.import_module('basicsr.utils.misc')
    misc.mkdir_and_rename = train.mkdir_and_rename = _mkdir_and_rename
    # BasicSR counts the learning rates of a critic that waits for its turn from iteration 1 on.
    warnings.filterwarnings('ignore', message='Detected call of `lr_scheduler.step')
    logging.getLogger('basicsr').addFilter(_of_interest)


def _alone(held: ExitStack, root: str, first: Callable[[dict], Result]) -> Callable[[dict], Result]:
    """basicsr 1.4.2 lets two runs of one name work in one folder, which the second renames."""
    from defsr.utils.locks import locked

    def first_in_a_locked_folder(opt: dict) -> Result:
        advice = 'Wait for it, stop it, or choose another `name`.'
        held.enter_context(locked(opt['path'][root], advice))
        return first(opt)

    return first_in_a_locked_folder


def _keep_options(opt_file: str, folder: str) -> None:
    """basicsr 1.4.2 copies the option file alone, without its bases and ``--force_yml``."""
    from defsr.utils import distributed

    if distributed.is_main():
        options = override_options(load_options(opt_file), split_force_yml(sys.argv)[1])
        with atomic_path(Path(folder) / Path(opt_file).name) as path:
            text = dump_options(options, f'All options of: {shlex.join(sys.argv)}')
            path.write_text(text, encoding='utf-8')


def _of_interest(record: logging.LogRecord) -> bool:
    """basicsr 1.4.2 warns at every validation of several sets, which all models here support."""
    return 'Multiple validation datasets' not in str(record.msg)


def _mkdir_and_rename(path: str) -> None:
    """basicsr 1.4.2 names an archived folder by the second: a second one in it is an error."""
    from basicsr.utils import get_time_str

    if os.path.exists(path):
        archive = base = f'{path}_archived_{get_time_str()}'
        number = 1
        while os.path.exists(archive):
            number += 1
            archive = f'{base}_{number}'
        os.rename(path, archive)
        tell(f'{path} exists already: it is kept as {archive}.')
    os.makedirs(path, exist_ok=True)


def _pass_on_errors_of_prefetching() -> None:
    """basicsr 1.4.2 loses an error in its prefetching thread, and the run waits for ever."""
    prefetching: Any = importlib.import_module('basicsr.data.prefetch_dataloader')

    def run(self: Any) -> None:
        try:
            for item in self.generator:
                self.queue.put(item)
            self.queue.put(StopIteration())
        except BaseException as error:
            self.queue.put(error)

    def next_item(self: Any) -> dict:
        item = self.queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    prefetching.PrefetchGenerator.run = run
    prefetching.PrefetchGenerator.__next__ = next_item


def read_options_safely(
    entries: Sequence[str] = (), check: Callable[[dict], None] | None = None
) -> dict:
    """basicsr 1.4.2 reads option files with PyYAML's unsafe loader: a file could run code.

    Its ``yaml.load(file, Loader=...)`` becomes ours, which applies the overrides as well, and
    checks the result before BasicSR meets it.

    Returns:
        A dict that will hold what is read next.
    """
    options: Any = importlib.import_module('basicsr.utils.options')
    read: dict = {}

    def load(file: TextIO, Loader: type | None = None) -> dict:  # noqa: N803 (PyYAML's name)
        opt = override_options(load_options(file.name), entries)
        if check:
            check(opt)
        read.update(opt)
        return opt

    # It opens the file by the name that was given, and on Windows not as UTF-8.
    options.open = lambda file, mode: find_shipped(file, '-opt').open(mode, encoding='utf-8')
    options.yaml = types.SimpleNamespace(load=load)
    options.ordered_yaml = lambda: (OptionLoader, yaml.SafeDumper)
    return read


def _with_safe_overrides(options: Any) -> Callable[..., tuple]:
    """basicsr 1.4.2 passes ``--force_yml`` to ``exec`` and ``eval``: take the flag away from it.

    Its ``init_dist`` calls CUDA on machines without, and each process draws a seed of its own.
    """
    from defsr.config.check import check_options
    from defsr.utils import distributed

    original, original_init_dist = options.parse_options, options.init_dist

    def parse_options(root_path: str, is_train: bool = True) -> tuple:
        argv = sys.argv
        sys.argv, entries = split_force_yml(argv)
        resuming = {'auto_resume': '--auto_resume' in argv}
        read = read_options_safely(entries, lambda opt: check_options(opt | resuming, is_train))

        def init_dist(launcher: str, **kwargs: object) -> None:
            use_cuda, dist_params = has_gpu(read.get('num_gpu')), read.get('dist_params') or {}
            distributed.init_dist(launcher, use_cuda=use_cuda, dist_params=dist_params)

        options.init_dist = init_dist
        try:
            opt, args = original(root_path, is_train)
        finally:
            sys.argv = argv
            options.init_dist = original_init_dist
            read_options_safely()
        if opt['num_gpu'] and not torch.cuda.is_available():
            raise ValueError(
                f'num_gpu is {opt["num_gpu"]}, but this machine has no CUDA device. '
                'Set `num_gpu: 0` in the option file, or `num_gpu: auto`.'
            )
        opt['manual_seed'] = distributed.from_main(opt['manual_seed'])
        opt['seed_was_drawn'] = read.get('manual_seed') is None
        return opt, args

    return parse_options
