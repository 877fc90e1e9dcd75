"""Locks of folders: living and dead holders, here and on machines that cannot be asked."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from defsr.utils.locks import FolderLock, Owner, locked

BEAT = 0.05
IDS = ['nobody', 'dead', 'elsewhere']
ELSEWHERE = replace(Owner.me(), host='node7', space='another boot', pid=1, token='theirs')


def lock_of(folder: Path) -> FolderLock:
    return FolderLock(folder, 'Choose another `name`.', BEAT)


def with_lock(folder: Path) -> None:
    lock = lock_of(folder)
    lock.acquire()
    lock.release()


def leave(folder: Path, owner: Owner | str) -> Path:
    path = lock_of(folder).path
    path.write_text(owner if isinstance(owner, str) else owner.write())
    return path


def in_child(work) -> int:
    """Fork, run ``work`` and leave with its status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = work() or 0
        finally:
            os._exit(status)
    return child


def test_a_living_holder_is_named_and_may_give_it_back(tmp_path):
    folder = tmp_path / 'experiments/run'
    first = lock_of(folder)
    first.acquire()
    with pytest.raises(ValueError, match=rf'run is in use by .* \(process {os.getpid()} on .*'
                       r', since 20.*\)\. Choose another `name`\.'):  # fmt: skip
        lock_of(folder).acquire()
    first.release()
    first.release()
    with locked(folder, ''), pytest.raises(ValueError, match='in use'):
        lock_of(folder).acquire()
    assert os.listdir(tmp_path / 'experiments') == []


def test_a_killed_holder_is_replaced_at_once(tmp_path):
    ready, told = os.pipe()

    def hold() -> None:
        FolderLock(tmp_path / 'run', '').acquire()  # with the usual heartbeat, which nobody awaits
        os.write(told, b'.')
        time.sleep(60)

    child = in_child(hold)
    os.read(ready, 1)
    with pytest.raises(ValueError, match=f'process {child} on'):
        lock_of(tmp_path / 'run').acquire()
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # a zombie now, which is dead enough
    start = time.monotonic()
    with_lock(tmp_path / 'run')
    assert time.monotonic() - start < BEAT * 3
    os.waitpid(child, 0)


def test_a_number_that_was_given_out_again_is_another_process(tmp_path):
    leave(tmp_path / 'run', replace(Owner.me(), born='1'))
    with_lock(tmp_path / 'run')


@pytest.mark.parametrize('text', ['', '{', '[]', '{"host": 1}', '[' * 9999, '\0' * 100_000])
def test_a_lock_that_cannot_be_read_is_watched_like_a_stranger(tmp_path, text):
    leave(tmp_path / 'run', text)
    start = time.monotonic()
    with_lock(tmp_path / 'run')
    assert time.monotonic() - start > 3 * BEAT


@pytest.mark.parametrize('clock', [-1e9, -3600.0, 0.0, 3600.0, 1e9], ids=str)
@pytest.mark.parametrize('beats', [True, False])
def test_a_holder_elsewhere_lives_by_its_signs_of_life_and_by_no_clock(tmp_path, beats, clock):
    path, end = leave(tmp_path / 'run', ELSEWHERE), threading.Event()

    def beat() -> None:
        jump = clock
        while not end.wait(BEAT):
            jump = -jump  # the clock there jumps to and fro
            os.utime(path, (max(0.0, time.time() + jump),) * 2)

    os.utime(path, (max(0.0, time.time() + clock),) * 2)
    thread = threading.Thread(target=beat)
    if beats:
        thread.start()
    try:
        if beats:
            with pytest.raises(ValueError, match='on node7'):
                lock_of(tmp_path / 'run').acquire()
        else:
            with_lock(tmp_path / 'run')
    finally:
        end.set()
        if beats:
            thread.join()


@pytest.mark.parametrize('left', [None, replace(Owner.me(), born='1'), ELSEWHERE], ids=IDS)
def test_of_many_at_once_one_gets_it(tmp_path, left):
    """Also where a dead process's lock has to be cleared first, while another clears it."""
    if left is not None:
        leave(tmp_path / 'run', left)
    go, start = os.pipe()

    def race() -> int:
        os.close(start)
        os.read(go, 1)  # all at once: when the parent closes its end
        try:
            lock_of(tmp_path / 'run').acquire()
        except ValueError:
            return 3
        time.sleep(1.5)  # it is held until all others have seen it
        return 0

    children = [in_child(race) for _ in range(12)]
    os.close(start)
    ends = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert ends == [0] + [3] * 11


def test_who_has_lost_the_lock_ends_before_it_writes_more(tmp_path, capfd):
    def lose() -> None:
        lock = lock_of(tmp_path / 'run')
        lock.acquire()
        leave(tmp_path / 'run', ELSEWHERE)
        time.sleep(60)
        lock.release()

    child = in_child(lose)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert 'run is in use by' in capfd.readouterr().err
    assert json.loads(lock_of(tmp_path / 'run').path.read_text()) == asdict(ELSEWHERE)


def test_a_lock_that_was_deleted_is_made_again(tmp_path):
    lock = lock_of(tmp_path / 'run')
    lock.acquire()
    lock.path.unlink()
    end = time.monotonic() + 5
    while not lock.path.exists() and time.monotonic() < end:
        time.sleep(BEAT)
    with pytest.raises(ValueError, match='in use'):
        lock_of(tmp_path / 'run').acquire()
    child = in_child(lock.release)  # a child's end is not its parent's
    os.waitpid(child, 0)
    assert lock.path.exists()
    lock.release()
    assert not lock.path.exists()
