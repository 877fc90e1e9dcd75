"""What a run was doing when it was killed: a page of shared memory that outlives it."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LAYOUT = struct.Struct('16s 96s q')


class Witness:
    """A run writes where it is, the harness reads it at any time.

    Args:
        path: the file behind the memory; made if it does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(descriptor, mmap.PAGESIZE)
        self._memory = mmap.mmap(descriptor, mmap.PAGESIZE)
        os.close(descriptor)
        self._owner = os.getpid()
        self._phase, self._point, self._iteration = 'starting', '', 0

    def read(self) -> tuple[str, str, int]:
        """Phase, the last file operation and the last iteration begun."""
        phase, point, iteration = _LAYOUT.unpack_from(self._memory)
        return phase.rstrip(b'\0').decode() or 'starting', point.rstrip(b'\0').decode(), iteration

    def begin(self, iteration: int) -> None:
        """Note the iteration that begins."""
        self._iteration = iteration
        self._write()

    def pass_by(self, point: str) -> None:
        """Note a file operation."""
        self._point = point
        self._write()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note a phase; the one around it comes back at its end, unless that is an error."""
        first = self._phase == 'starting' and name in ('loading', 'planning', 'enhancing')
        before = 'between' if first else self._phase
        self._phase = name
        self._write()
        yield
        self._phase = before
        self._write()

    def _write(self) -> None:
        if os.getpid() == self._owner:  # not the data workers
            values = self._phase.encode(), self._point.encode()[:96], self._iteration
            _LAYOUT.pack_into(self._memory, 0, *values)
