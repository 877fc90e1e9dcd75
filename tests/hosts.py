"""Hosts on one machine: namespaces, each with a name, process numbers and a network of its own.

For root only. They end with the process that made them, and all that runs in them ends with them.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

INTERFACE = 'wire'
# Of the holder's /proc/<pid>/ns; mounts last, since that one's /proc knows its own processes only.
SPACES = {'net': 0x40000000, 'uts': 0x04000000, 'mnt': 0x00020000}
NEW_PID = 0x20000000
SPACES_OF_ITS_OWN = ('--net', '--uts', '--mount', '--pid', '--mount-proc')


class Host:
    """One of them, until ``end``.

    Attributes:
        name: what its processes call the machine.
        address: in the network of ``two_hosts``.
        holder: process id of what holds its namespaces.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        # It reads until this process, in whatever way, is gone.
        script = f'hostname {name} && ip link set lo up && echo ready && exec cat'
        self._process = subprocess.Popen(
            ['unshare', *SPACES_OF_ITS_OWN, '--fork', '--kill-child', 'sh', '-c', script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.holder = self._process.pid
        if self._process.stdout.readline() != 'ready\n':
            reason = self._process.communicate()[1].strip()
            pytest.skip(f'no namespaces: {reason}')

    def inside(self, folder: Path, *command: str) -> list[str]:
        """A command line that runs another one there."""
        paths = {'net': 'net', 'uts': 'uts', 'mount': 'mnt', 'pid': 'pid_for_children'}
        options = [f'--{kind}=/proc/{self.holder}/ns/{file}' for kind, file in paths.items()]
        return ['nsenter', *options, f'--wd={folder}', *command]

    def do(self, *command: str) -> None:
        """Run a command there."""
        subprocess.run(self.inside(Path('/'), *command), check=True)

    def end(self) -> None:
        """SIGKILL to all its processes, as if the machine went off; its network goes with them."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two, with a wire between them and to nothing else. Skips the test where that cannot be."""
    if not sys.platform.startswith('linux') or os.geteuid():
        pytest.skip('network namespaces are for root on Linux')
    with ExitStack() as made:
        hosts = []
        for number in (1, 2):
            try:
                hosts.append(Host(f'node{number}', f'10.77.0.{number}'))
            except OSError as error:
                pytest.skip(f'no namespaces: {error}')
            made.callback(hosts[-1].end)
        ends = [f'{INTERFACE} netns {host.holder}'.split() for host in hosts]
        command = ['ip', 'link', 'add', *ends[0], 'type', 'veth', 'peer', 'name', *ends[1]]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f'no network between namespaces: {done.stderr.strip()}')
        for host in hosts:
            host.do('ip', 'address', 'add', f'{host.address}/24', 'dev', INTERFACE)
            host.do('ip', 'link', 'set', INTERFACE, 'up')
        yield hosts[0], hosts[1]


@contextmanager
def children_in(holder: int | None) -> Iterator[None]:
    """Children of this process are born into a host's process numbers."""
    if holder is None:
        yield
        return
    _enter(f'/proc/{holder}/ns/pid_for_children', NEW_PID)
    try:
        yield
    finally:
        _enter('/proc/self/ns/pid', NEW_PID)


def enter(holder: int) -> None:
    """Be on a host, but for the process numbers."""
    files = {kind: os.open(f'/proc/{holder}/ns/{kind}', os.O_RDONLY) for kind in SPACES}
    for kind, file in files.items():
        _set(file, SPACES[kind])
        os.close(file)


def _enter(path: str, kind: int) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        _set(file, kind)
    finally:
        os.close(file)


def _set(file: int, kind: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(file, kind):  # os.setns came with Python 3.12
        raise OSError(ctypes.get_errno(), 'setns')
