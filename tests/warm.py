"""Python command lines that start at once: forked from a process that has imported everything."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from repository import REPOSITORY

PATHS = [str(REPOSITORY), *filter(None, [os.environ.get('PYTHONPATH')])]
ENVIRONMENT = {'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join(PATHS)}


class Warm:
    """``python *command`` in a folder, in a session of its own; as ``subprocess.Popen`` otherwise.

    Args:
        folder: where it runs.
        command: ``-m module`` or the path of a script, and arguments.
        env: added to the environment.
        log: a file for all its output; without one ``out`` and ``err`` tell it.
        more: what ``fork_server.observe`` reads.
    """

    def __init__(
        self,
        folder: Path,
        *command: str,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        **more: object,
    ) -> None:
        self._folder = None if log else tempfile.TemporaryDirectory()
        self._files = [log or Path(self._folder.name, name) for name in ('out', 'err')]
        out, err = map(str, self._files)
        where = {'folder': str(folder), 'out': out, 'err': err}
        where['env'] = {**os.environ, **ENVIRONMENT, **(env or {})}
        self.pid = _ask({'do': 'start', 'command': command} | where | more)
        self.returncode: int | None = None

    @property
    def out(self) -> str:
        """What it has written to stdout so far."""
        return self._files[0].read_text()

    @property
    def err(self) -> str:
        """What it has written to stderr so far."""
        return self._files[1].read_text()

    def poll(self) -> int | None:
        """Its exit code, negative if a signal ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({'do': 'poll', 'pid': self.pid})
        return self.returncode

    def wait(self, seconds: float = 240) -> int:
        """Its exit code. AssertionError if it does not end in time."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise AssertionError(f'no end after {seconds} s:\n{self.err[-3000:]}')
            time.sleep(0.005)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """To it alone, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


@cache
def _server() -> subprocess.Popen:
    server = subprocess.Popen(
        [sys.executable, str(REPOSITORY / 'tests/fork_server.py')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | ENVIRONMENT,
        text=True,
        start_new_session=True,  # an interrupt is for the tests
    )
    assert server.stdout.readline() == 'ready\n'
    # Closing its input would not do: forks of this process hold it open.
    atexit.register(lambda: (_tell(server, {'do': 'stop'}), server.wait(60)))
    return server


def _tell(server: subprocess.Popen, request: Mapping) -> None:
    server.stdin.write(json.dumps(request) + '\n')
    server.stdin.flush()


def _ask(request: Mapping):
    _tell(_server(), request)
    return json.loads(_server().stdout.readline())
