"""Several processes in one test, forked, so that nothing has to be imported again."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from defsr.utils import distributed


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def in_processes(number: int, work: Callable[[int], object], folder: Path) -> list[object]:
    """``work(rank)`` in ``number`` gloo processes -> what each returned or raised."""
    port, children = free_port(), []
    for rank in range(number):
        child = os.fork()
        if child == 0:
            _run(rank, number, work, folder, port)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    files = [folder / f'{rank}.result' for rank in range(number)]
    return [pickle.loads(file.read_bytes()) if file.is_file() else None for file in files]


def _run(rank: int, number: int, work: Callable, folder: Path, port: str) -> None:
    code = 1
    try:
        torch.set_num_threads(1)  # OpenMP does not survive a fork
        os.environ |= {
            'RANK': str(rank),
            'WORLD_SIZE': str(number),
            'MASTER_ADDR': '127.0.0.1',
            'MASTER_PORT': port,
        }
        distributed.init_dist('pytorch', use_cuda=False, dist_params={'timeout': 1})
        try:
            result = work(rank)
        except Exception as error:
            result = error
        (folder / f'{rank}.result').write_bytes(pickle.dumps(result))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def outcome_in_fork(work: Callable[[], object]) -> object:
    """What ``work`` returns in a forked process; what it raises is raised here."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            outcome = (True, work())
        except BaseException as error:
            outcome = (False, error)
        try:
            content = pickle.dumps(outcome)
        except Exception:
            content = pickle.dumps((False, RuntimeError(repr(outcome[1]))))
        with open(writing, 'wb') as pipe:
            pipe.write(content)
        os._exit(0)
    os.close(writing)
    with open(reading, 'rb') as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    well, result = pickle.loads(content)
    if not well:
        raise result
    return result
