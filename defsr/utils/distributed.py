"""Several processes: starting them on GPUs or on the CPU, and what they have to agree on.

Gradients travel through DistributedDataParallel. Everything else, flags, numbers of a validation,
goes through a second, gloo group whose time-out is days: it never waits on a GPU, and the end of
a process shows there at once as a closed connection.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from ipaddress import ip_address
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from basicsr.utils.dist_util import get_dist_info

Item = TypeVar('Item')
Result = TypeVar('Result')
CONTROL_TIMEOUT = timedelta(days=7)
DEFAULT_TIMEOUT = 30  # minutes
DEFAULT_PORT = 29500
SILENCE = 120  # seconds without a sign of another machine, after which it counts as lost
INTERFACE = (
    'Set GLOO_SOCKET_IFNAME, for GPUs NCCL_SOCKET_IFNAME too, to the network interface between '
    'the nodes, as `ip address` names it.'
)
_LOST = ('gloo', 'nccl', 'connection closed by peer', 'connection reset by peer', 'broken pipe')


class LostProcessError(OSError):
    """Another process of the run has ended while this one needed it."""


def init_dist(launcher: str, *, use_cuda: bool, dist_params: Mapping[str, Any]) -> None:
    """Join the process group: gloo on the CPU, nccl on GPUs, one GPU per process.

    Args:
        launcher: ``pytorch`` (torchrun) or ``slurm``.
        use_cuda: train on GPUs.
        dist_params: the option block; ``backend`` (for GPUs), ``port`` (slurm), ``timeout`` in
            minutes for gradients and parameters.

    Raises:
        ValueError: if the launcher's environment is missing, a node has fewer GPUs than
            processes, or one of several nodes would tell the others an address of its own.
        OSError: if the processes do not reach each other.
    """
    if launcher == 'slurm':
        _read_slurm(dist_params.get('port'))
    missing = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR') if name not in os.environ]
    if missing:
        raise ValueError(
            f'--launcher {launcher} needs {", ".join(missing)} in the environment. Start with '
            '`torchrun --nproc_per_node=N defsr/train.py -opt ... --launcher pytorch`, '
            'or leave --launcher out for one process.'
        )
    backend = 'gloo'
    if use_cuda:
        backend = str(dist_params.get('backend') or 'nccl')
        _take_gpu()
    if mp.get_start_method(allow_none=True) is None:
        mp.set_start_method('spawn')
    timeout = timedelta(minutes=float(dist_params.get('timeout') or DEFAULT_TIMEOUT))
    _check_address('SLURM_NNODES' if launcher == 'slurm' else 'GROUP_WORLD_SIZE')
    before = _sockets()
    try:
        dist.init_process_group(backend=backend, timeout=timeout)
        control_group()
    except RuntimeError as error:
        raise OSError(
            f'The processes of this run do not reach each other: {str(error).splitlines()[0]} '
            f'{INTERFACE}'
        ) from error
    _end_in_silence(_sockets() - before)


def _check_address(nodes: str) -> None:
    """Gloo gives the address of a machine's name to the others; many name themselves 127.0.1.1."""
    is_local = os.environ['MASTER_ADDR'] in ('localhost', '127.0.0.1', '::1')
    if int(os.environ.get(nodes, 1)) < 2 or is_local or 'GLOO_SOCKET_IFNAME' in os.environ:
        return
    name = socket.gethostname()
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    except OSError:
        found = set()
    if all(ip_address(address.partition('%')[0]).is_loopback for address in found):
        raise ValueError(
            f'Other nodes cannot find this one: its name, {name}, stands for '
            f'{", ".join(sorted(found)) or "no address"}. {INTERFACE}'
        )


def _sockets() -> set[tuple[int, str]]:
    """Descriptor and inode of each that this process has; none where the system does not say."""
    found = set()
    with suppress(OSError):
        for name in os.listdir('/proc/self/fd'):
            with suppress(OSError):  # one that listed the folder is closed by now
                found.add((int(name), os.readlink(f'/proc/self/fd/{name}')))
    return {(descriptor, inode) for descriptor, inode in found if inode.startswith('socket:')}


def _end_in_silence(sockets: Iterable[tuple[int, str]]) -> None:
    """Let the kernel ask the other side for a sign of life, also while nothing is sent.

    A process that ends closes its connections. A machine without power or network does not, and
    gloo would wait for it as long as the group's time-out: days.
    """
    for descriptor, _ in sockets:
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (
                (socket.TCP_KEEPIDLE, max(SILENCE // 4, 1)),
                (socket.TCP_KEEPINTVL, max(SILENCE // 8, 1)),
                (socket.TCP_KEEPCNT, 6),
                (socket.TCP_USER_TIMEOUT, 1000 * SILENCE),  # of what was sent and not answered
            ):
                connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _take_gpu() -> None:
    local_rank = int(os.environ.get('LOCAL_RANK', os.environ['RANK']))
    local_size = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    num_gpu = torch.cuda.device_count()
    if max(local_rank + 1, local_size) > num_gpu:
        raise ValueError(
            f'{max(local_rank + 1, local_size)} processes on this node, but {num_gpu} GPUs. '
            'Lower --nproc_per_node (or --ntasks-per-node), or set `num_gpu: 0` for the CPU.'
        )
    torch.cuda.set_device(local_rank)


def _read_slurm(port: object) -> None:
    """SLURM's variables -> those that PyTorch reads. No shell sees the node list."""
    missing = [name for name in ('SLURM_PROCID', 'SLURM_NTASKS') if name not in os.environ]
    if missing:
        raise ValueError(
            f'--launcher slurm needs {", ".join(missing)} in the environment. Start with `srun`.'
        )
    if 'MASTER_ADDR' not in os.environ:
        nodes = os.environ['SLURM_NODELIST']
        command = ['scontrol', 'show', 'hostnames', nodes]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        os.environ['MASTER_ADDR'] = done.stdout.split()[0]
    if port is not None:
        os.environ['MASTER_PORT'] = str(port)
    os.environ.setdefault('MASTER_PORT', str(DEFAULT_PORT))
    os.environ['RANK'] = os.environ['SLURM_PROCID']
    os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
    os.environ['LOCAL_RANK'] = os.environ.get('SLURM_LOCALID', '0')


@cache
def control_group() -> dist.ProcessGroup:
    """The gloo group for everything but gradients. The first call is collective."""
    group = dist.new_group(backend='gloo', timeout=CONTROL_TIMEOUT)
    assert isinstance(group, dist.ProcessGroup)  # of all processes, so of this one too
    return group


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_distributed() -> bool:
    """More than one process takes part."""
    return get_dist_info()[1] > 1


def is_main() -> bool:
    """This process writes the files and the log."""
    return get_dist_info()[0] == 0


def any_of(flags: Sequence[bool]) -> list[bool]:
    """Each flag as soon as one process has it; collective."""
    if not is_distributed():
        return list(flags)
    values = torch.tensor(flags, dtype=torch.uint8)
    with losses_explained():
        dist.all_reduce(values, dist.ReduceOp.MAX, group=control_group())
    return values.bool().tolist()


def gather(item: Item) -> list[Item]:
    """Every process's ``item``, in the order of ranks, in every process; collective."""
    if not is_distributed():
        return [item]
    items: list[Any] = [None] * get_dist_info()[1]
    with losses_explained():
        dist.all_gather_object(items, item, group=control_group())
    return items


def from_main(item: Item) -> Item:
    """The main process's ``item``, in every process; collective."""
    return gather(item)[0]


def on_main(work: Callable[[], Result]) -> Result:
    """What ``work()`` of the main process returns, in every process; collective.

    A mistake (ValueError, OSError) that it raises is raised in all of them.
    """
    values: list[Result] = []
    error: Exception | None = None
    if is_main():
        try:
            values.append(work())
        except (ValueError, OSError) as raised:
            error = raised
    values, error = from_main((values, error))
    if error is not None:
        raise error
    return values[0]


@contextmanager
def losses_explained() -> Iterator[None]:
    """Turn a broken connection into a LostProcessError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if is_distributed() and any(word in text for word in _LOST):
            raise LostProcessError(
                'Another process of this run has ended, or its machine does not answer; look at '
                'its last message. Start all of them again with --auto_resume.'
            ) from error
        raise
