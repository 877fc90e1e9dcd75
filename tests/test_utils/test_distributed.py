from __future__ import annotations

import os
import signal
import socket
import stat
import sys
import time
from contextlib import suppress

import pytest
import torch
from processes import free_port, in_processes

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


def test_each_connection_asks_for_a_sign_of_life(tmp_path):
    """What becomes of it when none comes is seen in faults/test_two_nodes.py."""

    def work(rank):
        distributed.gather(rank)  # both have met, and neither leaves before the other has looked
        found = []
        for descriptor, _ in distributed._sockets():
            with socket.socket(fileno=os.dup(descriptor)) as one, suppress(OSError):
                one.getpeername()  # not of those that listen
                idle = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                limit = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                found.append((one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), idle, limit))
        distributed.gather(rank)
        return found

    for found in in_processes(2, work, tmp_path):
        assert len(found) >= 3, 'a store and two groups'
        assert set(found) == {(1, distributed.SILENCE // 4, 1000 * distributed.SILENCE)}


@pytest.mark.parametrize('addresses', [['127.0.1.1'], ['::1', '127.0.0.1'], [], None])
def test_a_node_that_others_cannot_find(monkeypatch, addresses):
    def found(*_):
        if addresses is None:
            raise socket.gaierror('unknown')
        return [(None, None, None, '', (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, 'getaddrinfo', found)
    monkeypatch.setattr(socket, 'gethostname', lambda: 'node7')
    monkeypatch.delenv('GLOO_SOCKET_IFNAME', raising=False)
    for nodes, first in (('1', '10.0.0.1'), ('2', 'localhost')):
        monkeypatch.setenv('NODES', nodes)
        monkeypatch.setenv('MASTER_ADDR', first)
        distributed._check_address('NODES')
    monkeypatch.setenv('MASTER_ADDR', '10.0.0.1')
    told = ', '.join(sorted(addresses or [])) or 'no address'
    with pytest.raises(ValueError, match=f'its name, node7, stands for {told}. Set GLOO_SOCKET'):
        distributed._check_address('NODES')
    (addresses or []).append('fe80::1%eth0')
    if addresses:
        distributed._check_address('NODES')
    monkeypatch.setenv('GLOO_SOCKET_IFNAME', 'eth0')
    distributed._check_address('NODES')


def test_processes_that_do_not_reach_each_other(monkeypatch):
    """Nobody listens where the first one should be."""
    for name, value in {'RANK': '1', 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1'}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('MASTER_PORT', free_port())
    with pytest.raises(OSError, match='do not reach each other: .* Set GLOO_SOCKET_IFNAME'):
        distributed.init_dist('pytorch', use_cuda=False, dist_params={'timeout': 0.02})


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
