"""Hostile files, one after another in a forked process, and the table of what came of them.

``DEFSR_FUZZ=long`` (``make fuzz``) tries many times as many as the suite does;
``DEFSR_FUZZ_SEED`` chooses others.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from defsr.utils.cli import run_cli, visible
from defsr.utils.memory import forget_peak, resident

LONG = os.environ.get('DEFSR_FUZZ') == 'long'
SEED = int(os.environ.get('DEFSR_FUZZ_SEED', 20))
SECONDS, MEMORY = 5, 4 * 2**30
COLUMNS = ('files', 'clear lines', 'results', 'tracebacks', 'hangs', 'files outside', 'peak MB')


def dice(name: str) -> random.Random:
    """Each fuzzer its own, the same every time."""
    return random.Random(f'{SEED} {name}')


def times(short: int, long: int) -> int:
    """How many files."""
    return long if LONG else short


@dataclass
class Tally:
    """What came of the files of one fuzzer.

    Attributes:
        counts: by the columns of the table.
        faults: what should not have been, with the number of the file.
    """

    name: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLUMNS, 0))
    faults: list[str] = field(default_factory=list)

    def note(self, number: int, outcome: tuple[str, str, int]) -> None:
        column, text, peak = outcome
        self.counts['files'] += 1
        self.counts[column] += 1
        self.counts['peak MB'] = max(self.counts['peak MB'], peak // 10**6)
        if column in ('tracebacks', 'hangs'):
            self.faults.append(f'{self.name} {number}: {text}')


LEDGER: list[Tally] = []


def table() -> Iterator[str]:
    """In Markdown."""
    yield f'| fuzzer | {" | ".join(COLUMNS)} |'
    yield f'| --- |{" ---: |" * len(COLUMNS)}'
    for tally in LEDGER:
        yield f'| {tally.name} | {" | ".join(map(str, tally.counts.values()))} |'


def fuzz(name: str, folder: Path, cases: Sequence[Callable[[], object]]) -> Tally:
    """Run every case in ``folder/work``, as a command line would.

    Raises:
        AssertionError: for a traceback, a death, a hang, a new file in ``folder`` outside of
            ``work``, and for more than 4 GB.
    """
    tally = Tally(name)
    LEDGER.append(tally)
    work = folder / 'work'
    work.mkdir(exist_ok=True)
    before = _files(folder, work)
    number = 0
    while number < len(cases):
        number = _one_worker(work, cases, number, tally)
    outside = _files(folder, work) - before
    tally.counts['files outside'] = len(outside)
    assert not tally.faults, '\n'.join([f'{len(tally.faults)} faults', *tally.faults[:5]])
    assert not outside
    assert tally.counts['peak MB'] * 1e6 < MEMORY
    return tally


def _files(folder: Path, but: Path) -> set[Path]:
    return {path for path in folder.rglob('*') if not path.is_relative_to(but)}


def _one_worker(work: Path, cases: Sequence[Callable], first: int, tally: Tally) -> int:
    """Fork a process for the cases from ``first`` on; the number of the one that comes next."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _serve(work, cases[first:], writing)
    os.close(writing)
    number = first
    with open(reading, 'rb') as pipe:
        while number < len(cases):
            ready, _, _ = select.select([pipe], [], [], SECONDS)
            if not ready:
                tally.note(number, ('hangs', f'more than {SECONDS} s', 0))
                break
            try:
                tally.note(number, pickle.load(pipe))
            except EOFError:
                tally.note(number, ('tracebacks', 'the process died', 0))
                break
            number += 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return number if number == len(cases) else number + 1


def _serve(work: Path, cases: Sequence[Callable], writing: int) -> None:
    """Be the process that runs cases; never returns."""
    try:
        torch.set_num_threads(1)  # OpenMP does not survive a fork
        os.chdir(work)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # of libpng, which nothing can silence
        used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        forget_peak()
        sys.argv = ['tool']
        with open(writing, 'wb') as pipe:
            for case in cases:
                column, text = outcome_of(case)
                pickle.dump((column, text, resident('VmHWM')), pipe)
                pipe.flush()
    finally:
        os._exit(0)


def outcome_of(case: Callable[[], object]) -> tuple[str, str]:
    """Column of the table, and text, of one case run as a command line runs."""
    told, sys.stderr = sys.stderr, io.StringIO()
    try:
        run_cli(case)
    except SystemExit as stop:
        line = sys.stderr.getvalue().splitlines()[-1:]
        if (
            stop.code == 2
            and line
            and line[0].startswith('error: ')
            and visible(line[0]) == line[0]
        ):
            return 'clear lines', line[0]
        return 'tracebacks', f'ended with {stop.code}: {sys.stderr.getvalue()[-300:]!r}'
    except BaseException:
        return 'tracebacks', traceback.format_exc()[-1500:]
    finally:
        sys.stderr = told
    return 'results', ''
