"""Runs that are killed: the folder they run in, and the table at the end of ``make faults``."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest
from harness import Alone, Runs
from ledger import LONG, SEED, Ledger
from workload import make_images, write_options

LEDGER = Ledger()


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the table after ``make faults``."""
    if LONG:
        terminalreporter.section(f'faults, seed {SEED}')
        for line in LEDGER.lines():
            terminalreporter.write_line(line)


@pytest.fixture(scope='session')
def ledger() -> Ledger:
    """The table that all tests write to."""
    return LEDGER


@pytest.fixture
def dice(request) -> random.Random:
    """Chosen moments; each test its own, the same every time."""
    return random.Random(f'{SEED} {request.node.name}')


@pytest.fixture(scope='session')
def runs(tmp_path_factory, stereo) -> Runs:
    """A folder with images and option files, and what starts runs there."""
    folder = tmp_path_factory.mktemp('faults')
    make_images(folder, stereo)
    write_options(folder)
    return Runs(folder)


@pytest.fixture(scope='session')
def undisturbed(runs) -> Callable[[str], Alone]:
    """Model -> its run that was left alone; made once."""
    return cache(partial(Alone, runs))


@pytest.fixture(scope='session')
def alone(runs, stereo):
    """What an undisturbed ``defsr-enhance`` makes."""
    from test_enhance_killed import enhance_alone

    return enhance_alone(runs, stereo)


@pytest.fixture
def small_disk(runs) -> Iterator[Path]:
    """A tmpfs with option files and data, as root only."""
    folder = runs.folder / 'small_disk'
    folder.mkdir(exist_ok=True)
    command = ['mount', '-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f'no mount: {error}')
    if done.returncode:
        pytest.skip(f'mount: {done.stderr.strip()}')
    try:
        for name in ('SR.yml', 'datasets'):
            (folder / name).symlink_to(runs.folder / name)
        yield folder
    finally:
        subprocess.run(['umount', '--lazy', str(folder)], check=True)
