"""Inside a run: say which phase it is in, and die or fail at a chosen file operation.

Nothing here changes what the run computes or writes.
"""

from __future__ import annotations

import builtins
import errno
import json
import os
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import tiny_texture  # noqa: F401  (registers it)
import torch
from witness import Witness

from defsr.utils import distributed, locks


class Points:
    """Counts file operations by kind, and acts before or after a chosen one.

    Args:
        witness: told of each.
        plan: ``kind`` of operation, its ``number`` (from 1) or ``file``, and ``edge`` (before,
            after); ``action``: ``kill``, ``enospc`` (fail from there on), or ``limit`` (files
            above ``bytes`` fail from there on). ``counts``: a file that gets the counts when the
            run ends. All optional.
    """

    def __init__(self, witness: Witness, plan: dict) -> None:
        self.witness, self.plan = witness, plan
        self.counts: Counter[str] = Counter()
        self.full = False
        self._owner = os.getpid()

    def around(self, owner: object, name: str, kind: str) -> None:
        """Watch a function."""
        original = getattr(owner, name)

        def watched(*args, **kwargs):
            if os.getpid() != self._owner:
                return original(*args, **kwargs)
            return self.do(kind, _name_of(args), lambda: original(*args, **kwargs))

        setattr(owner, name, watched)

    def do(self, kind: str, name: str, operation: Callable):
        """Do one operation."""
        self.counts[kind] += 1
        self._meet(kind, name, 'before')
        if self.full and kind in ('write', 'fsync'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        result = operation()
        self._meet(kind, name, 'after')
        return result

    def report(self) -> None:
        """Write the counts."""
        if path := self.plan.get('counts'):
            Path(path).write_bytes(json.dumps(self.counts).encode())

    def _meet(self, kind: str, name: str, edge: str) -> None:
        self.witness.pass_by(f'{edge} {kind} {self.counts[kind]} of {name}')
        if kind != self.plan.get('kind') or edge != self.plan.get('edge'):
            return
        if 'file' in self.plan and f'.{self.plan["file"]}.' not in name:
            return
        if 'number' in self.plan and self.counts[kind] != self.plan['number']:
            return
        action = self.plan['action']
        if action == 'kill':
            os.killpg(os.getpgrp(), signal.SIGKILL)
        elif action == 'enospc':
            self.full = True
        elif action == 'limit':
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.plan['bytes'], -1))


class _WatchedFile:
    """A file whose writes are points, and reach the disk one by one."""

    def __init__(self, file, name: str, points: Points) -> None:
        self._file, self._name, self._points = file, name, points

    def write(self, data) -> int:
        def write() -> int:
            number = self._file.write(data)
            self._file.flush()
            return number

        return self._points.do('write', self._name, write)

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()


def observe(work: str, witness: str, plan: dict) -> Points:
    """Watch one of ``harness.SCRIPTS``, from within its process.

    Args:
        work: which one.
        witness: the file of a ``Witness``.
        plan: see ``Points``; ``heartbeat`` and ``silence``, seconds that take long otherwise.
    """
    locks.HEARTBEAT = plan.get('heartbeat', locks.HEARTBEAT)
    distributed.SILENCE = plan.get('silence', distributed.SILENCE)
    watch = {
        'train': _observe_training,
        'create_lmdb': _observe_lmdb,
        'enhance': _observe_enhance,
        'benchmark': Points,  # only counted
        'test': Points,
    }
    return watch[work](Witness(witness), plan)


def _observe_training(witness: Witness, plan: dict) -> Points:
    """Watch a training run: its phases, and what it does to files."""
    from basicsr.data.prefetch_dataloader import CPUPrefetcher

    from defsr.models import validation
    from defsr.running import checkpoints
    from defsr.running.safe_training import SafeTraining

    begin = SafeTraining.update_learning_rate

    def noted(self, current_iter: int, warmup_iter: int = -1) -> None:
        witness.begin(current_iter)
        with witness.phase('iteration'):
            begin(self, current_iter, warmup_iter)

    SafeTraining.update_learning_rate = noted
    for owner, name, phase in (
        (SafeTraining, 'feed_data', 'iteration'),
        (SafeTraining, 'optimize_parameters', 'iteration'),
        (SafeTraining, 'save', 'checkpoint'),
        (SafeTraining, 'validation', 'validation'),
        (CPUPrefetcher, '__init__', 'loading'),
        (CPUPrefetcher, 'reset', 'loading'),
        (CPUPrefetcher, 'next', 'loading'),
    ):
        setattr(owner, name, _in_phase(witness, getattr(owner, name), phase))
    points = _watch_files(witness, plan)
    points.around(torch, 'save', 'save')
    for module in (checkpoints, validation):
        module.open = _watched_open(points)
    return points


def _observe_lmdb(witness: Witness, plan: dict) -> Points:
    """Watch ``create_lmdb``: reading, writing, publishing."""
    from defsr.data import lmdb_writer

    points = _watch_files(witness, plan)
    points.around(shutil, 'rmtree', 'rmtree')
    points.around(lmdb_writer, '_put', 'put')
    lmdb_writer.open = _watched_open(points)
    for name, phase in (
        ('_encode', 'reading'),
        ('_put', 'writing'),
        ('sync_folder', 'writing'),
        ('publish_folder', 'publishing'),
        ('clear_remains', 'clearing'),
    ):
        setattr(lmdb_writer, name, _in_phase(witness, getattr(lmdb_writer, name), phase))
    return points


def _observe_enhance(witness: Witness, plan: dict) -> Points:
    """Watch ``defsr-enhance``: planning, enhancing, writing, packing, publishing."""
    from defsr.data import lmdb_writer
    from defsr.enhance import cache, job

    points = _watch_files(witness, plan)
    points.around(lmdb_writer, '_put', 'put')
    points.around(shutil, 'rmtree', 'rmtree')
    cache.open = lmdb_writer.open = _watched_open(points)
    for owner, name, phase in (
        (job.Job, 'make_plan', 'planning'),
        (job.Job, 'enhance', 'enhancing'),
        (cache.EnhancedCache, 'put', 'writing'),
        (job.Job, 'pack', 'packing'),
        (job, 'publish_folder', 'publishing'),
    ):
        setattr(owner, name, _in_phase(witness, getattr(owner, name), phase))
    return points


def _watch_files(witness: Witness, plan: dict) -> Points:
    points = Points(witness, plan)
    points.around(os, 'replace', 'replace')
    points.around(os, 'fsync', 'fsync')
    points.around(Path, 'unlink', 'unlink')
    original = Path.write_text

    def write_text(self, data: str, *args, **kwargs) -> int:
        if os.getpid() != points._owner:
            return original(self, data, *args, **kwargs)
        with _watched_open(points)(self, 'w', *args, **kwargs) as file:
            half = len(data) // 2
            return file.write(data[:half]) + file.write(data[half:])

    Path.write_text = write_text
    return points


def _watched_open(points: Points) -> Callable:
    def watched(path, mode: str = 'r', *args, **kwargs):
        file = builtins.open(path, mode, *args, **kwargs)  # noqa: SIM115 (closed by who asked)
        return _WatchedFile(file, os.path.basename(path), points) if 'w' in mode else file

    return watched


def _in_phase(witness: Witness, function: Callable, phase: str) -> Callable:
    def within(*args, **kwargs):
        with witness.phase(phase):
            return function(*args, **kwargs)

    return within


def _name_of(args: tuple) -> str:
    for arg in args:
        if isinstance(arg, int):
            return os.path.basename(os.readlink(f'/proc/self/fd/{arg}'))
        if isinstance(arg, bytes):
            return arg.decode()
        if isinstance(arg, (str, Path)):
            return os.path.basename(arg)
        if hasattr(arg, '_name'):
            return arg._name
    return '?'
