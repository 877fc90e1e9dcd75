from __future__ import annotations

import os
import signal
import stat
import sys
import time

import pytest
import torch
from processes import in_processes

from defsr.utils import distributed
from defsr.utils.distributed import LostProcessError


def test_alone_everything_is_ones_own():
    assert not distributed.is_distributed() and distributed.is_main()
    assert distributed.gather('a') == ['a']
    assert distributed.from_main(3) == 3
    assert distributed.any_of([True, False]) == [True, False]
    distributed.leave()


def test_what_processes_agree_on(tmp_path):
    def work(rank):
        own = [rank == 1, False, rank == 2]
        return (
            distributed.gather(rank * 10),
            distributed.from_main(f'of {rank}'),
            distributed.any_of(own),
            distributed.is_main(),
        )

    results = in_processes(3, work, tmp_path)
    for rank, result in enumerate(results):
        assert result == ([0, 10, 20], 'of 0', [True, False, True], rank == 0)


def test_a_process_that_ends_is_named_not_waited_for(tmp_path):
    """The others learn it from the connection, not from a time-out of days."""

    def work(rank):
        distributed.gather(None)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.gather(None)

    begin = time.monotonic()
    survivor, killed = in_processes(2, work, tmp_path)
    assert isinstance(survivor, LostProcessError)
    assert '--auto_resume' in str(survivor)
    assert killed is None
    assert time.monotonic() - begin < 30


def test_what_the_main_process_does_for_all(tmp_path):
    def work(rank):
        done = []
        value = distributed.on_main(lambda: done.append(rank) or 'made')

        def refuse():
            raise FileNotFoundError(f'rank {rank} has no such file')

        try:
            distributed.on_main(refuse)
        except OSError as error:
            return value, done, type(error).__name__, str(error)

    one, two = in_processes(2, work, tmp_path)
    told = ('FileNotFoundError', 'rank 0 has no such file')
    assert one == ('made', [0], *told) and two == ('made', [], *told)
    assert distributed.on_main(lambda: 3) == 3


def test_other_errors_pass(tmp_path):
    with pytest.raises(RuntimeError, match='gloo'), distributed.losses_explained():
        raise RuntimeError('gloo, but there is one process only')


def test_one_gpu_per_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    chosen = []
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    for name, value in {'RANK': '5', 'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '2'}.items():
        monkeypatch.setenv(name, value)
    distributed._take_gpu()
    assert chosen == [1], 'the second process of the third node'
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    with pytest.raises(ValueError, match='4 processes on this node, but 2 GPUs.*nproc_per_node'):
        distributed._take_gpu()


def test_slurm_variables(monkeypatch, tmp_path):
    """The node list goes to scontrol as an argument; no shell reads it."""
    command = tmp_path / 'scontrol'
    command.write_text(f'#!{sys.executable}\nimport sys\nprint("first\\nsecond", sys.argv[1:])\n')
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    for name in ('MASTER_ADDR', 'MASTER_PORT', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.setenv(name, 'x')
        monkeypatch.delenv(name)
    slurm = {'PROCID': '3', 'NTASKS': '4', 'LOCALID': '1', 'NODELIST': 'n[1-2]; touch pwned'}
    for name, value in slurm.items():
        monkeypatch.setenv(f'SLURM_{name}', value)
    monkeypatch.chdir(tmp_path)
    distributed._read_slurm(port=None)
    names = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
    assert [os.environ[name] for name in names] == ['3', '4', '1', 'first', '29500']
    assert not (tmp_path / 'pwned').exists()
