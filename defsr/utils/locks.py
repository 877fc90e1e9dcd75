"""One process at a time in a folder: a lock that says who holds it, and outlives nobody for long.

Beside the folder lies a file ``.<name>.lock``. Who holds it is asked the system where that can
know (the same machine, boot and process namespace). Elsewhere, as on a file system that several
machines share, the file is watched for a sign of life, which its holder gives every few seconds;
no clock is read, since machines' clocks differ and jump.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

from defsr.utils import distributed
from defsr.utils.cli import tell

HEARTBEAT = 10.0  # seconds between two signs of life
MISSED = 3.5  # of them in a row, after which a process that cannot be asked for counts as dead


@dataclass(frozen=True)
class Owner:
    """A process that holds a lock.

    Attributes:
        host: name of its machine.
        space: the boot and the process namespace in which ``pid`` means something.
        pid: its number.
        born: when it started, by the kernel's count: numbers are given out again.
        since: when it took the lock, for people.
        command: what it does, for people.
        token: of this lock alone.
    """

    host: str
    space: str
    pid: int
    born: str
    since: str
    command: str
    token: str

    @classmethod
    def me(cls) -> Owner:
        """This process, with a new token."""
        return cls(
            socket.gethostname(),
            _space(),
            os.getpid(),
            _birth(os.getpid()),
            datetime.now().astimezone().isoformat(' ', 'seconds'),
            shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])[:80],
            secrets.token_hex(8),
        )

    @classmethod
    def read(cls, text: str) -> Owner | None:
        """What ``write`` wrote; None for anything else, such as a file that was cut off."""
        try:
            content = json.loads(text)
            return cls(**{field.name: content[field.name] for field in fields(cls)})
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def write(self) -> str:
        return json.dumps(asdict(self))

    def lives(self) -> bool | None:
        """Whether the process is there; None where this machine cannot know."""
        if not self.space or self.space != _space():
            return None
        return _birth(self.pid) == self.born


class FolderLock:
    """The right to work in ``folder``, until ``release`` or the end of the process.

    Args:
        folder: what is locked. It need not be there; the lock lies beside it.
        advice: what a user can do when somebody else has it, for the message.
        heartbeat: seconds between two signs of life.

    Attributes:
        path: the file.
    """

    def __init__(self, folder: str | Path, advice: str, heartbeat: float = HEARTBEAT) -> None:
        folder = Path(os.path.abspath(folder))
        self.folder, self.advice, self.heartbeat = folder, advice, heartbeat
        self.path = folder.with_name(f'.{folder.name}.lock')
        self.me = Owner.me()
        self._released = threading.Event()
        self._changing = threading.Lock()  # of the file, by this process

    def acquire(self) -> None:
        """Take the lock; a dead process's is taken over.

        Waits, at most ``MISSED`` heartbeats, for a sign of life from another machine's process.

        Raises:
            ValueError: if a living process has it.
            OSError: if the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._create():
            seen = self._look()
            if seen is None:
                continue  # it was given back meanwhile
            if self._lives(seen):
                raise ValueError(self._refusal(seen[0]))
            self._clear(seen)
        threading.Thread(target=self._beat, name=f'{self.path.name}', daemon=True).start()
        atexit.register(self.release)

    def release(self) -> None:
        """Give it back. Without having it, or in a child of its process, this does nothing."""
        if os.getpid() != self.me.pid or self._released.is_set():
            return
        self._released.set()
        atexit.unregister(self.release)
        with self._changing, suppress(OSError):
            if self._is_mine():
                self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(file, 'w', encoding='utf-8') as lock:
            lock.write(self.me.write())
        return True

    def _look(self) -> tuple[Owner | None, int] | None:
        """The holder and the time of its last sign of life; opening makes NFS ask its server."""
        try:
            with open(self.path, encoding='utf-8', errors='replace') as lock:
                return Owner.read(lock.read(65536)), os.fstat(lock.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None

    def _lives(self, seen: tuple[Owner | None, int]) -> bool:
        owner = seen[0]
        if owner is not None and owner.lives() is not None:
            return bool(owner.lives())
        patience = MISSED * self.heartbeat
        if patience > 1:
            tell(f'{self.path}: waiting up to {patience:.0f} s for a sign of life of its holder')
        end = time.monotonic() + patience
        while time.monotonic() < end:
            time.sleep(min(self.heartbeat / 4, 1.0))
            now = self._look()
            if now is None:
                return False
            if now != seen:
                return True
        return False

    def _clear(self, seen: tuple[Owner | None, int]) -> None:
        """Remove the lock of a dead process, and no other: one process at a time does that."""
        if self.path.name.endswith('.lock.lock.lock'):
            raise ValueError(f'{self.path} is left of a process that died. Remove it.')
        clearing = FolderLock(self.path, '', self.heartbeat)
        try:
            clearing.acquire()
        except ValueError:  # another one is at it
            time.sleep(0.05)
            return
        try:
            if self._look() == seen:
                self.path.unlink(missing_ok=True)
        finally:
            clearing.release()

    def _is_mine(self) -> bool:
        seen = self._look()
        return seen is not None and seen[0] == self.me

    def _beat(self) -> None:
        while not self._released.wait(self.heartbeat):
            with self._changing, suppress(OSError):  # what does not answer now may do so later
                if self._released.is_set():
                    return
                if self._is_mine() or (self._look() is None and self._create()):
                    os.utime(self.path)
                    continue
                holder = (self._look() or (None,))[0]
                sys.stderr.write(f'error: {self._refusal(holder)}\n')
                sys.stderr.flush()
                os._exit(2)  # what is written from now on would mix with the other's

    def _refusal(self, owner: Owner | None) -> str:
        who = 'another process'
        if owner is not None:
            who = f'{owner.command} (process {owner.pid} on {owner.host}, since {owner.since})'
        return f'{self.folder} is in use by {who}. {self.advice}'.rstrip()


@contextmanager
def locked(folder: str | Path, advice: str) -> Iterator[None]:
    """Work in ``folder`` alone; collective, the main process has the lock.

    Errors as ``FolderLock.acquire``, in all processes.
    """
    lock = FolderLock(folder, advice, HEARTBEAT)
    distributed.on_main(lock.acquire)
    try:
        yield
    finally:
        lock.release()


def _space() -> str:
    """This machine since it was started, and what its process numbers are relative to."""
    with suppress(OSError):
        boot = Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()
        return f'{boot} {os.readlink("/proc/self/ns/pid")}'
    return ''


def _birth(pid: int) -> str:
    """When a process started, in ticks of the kernel; '' without such a process."""
    try:
        stat = Path(f'/proc/{pid}/stat').read_text(encoding='utf-8', errors='replace')
    except (OSError, ValueError):
        return ''
    words = stat.rpartition(')')[2].split()
    return '' if words[0] in 'ZX' else words[19]  # a zombie works no more
