"""A user's mistake ends in one line and exit status 2; a bug keeps its stack."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from repository import REPOSITORY
from torch.utils.data import DataLoader, Dataset

from defsr.utils.cli import run_cli, tell, visible


def fail(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.fixture
def line_of(capsys, monkeypatch):
    """Runs ``main`` as a command line would; returns (exit status, its line on stderr)."""

    def run(main, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, 'argv', ['tool', *arguments])
        with pytest.raises(SystemExit) as stop:
            run_cli(main)
        text = capsys.readouterr().err
        assert text.count('\n') == 1 and 'Traceback' not in text
        return stop.value.code, text.strip()

    return run


@pytest.mark.parametrize(
    'error',
    [
        ValueError('gt is 3x4,\n  expected 8x8'),
        OSError('disk full'),
        pickle.UnpicklingError('torn'),
        FloatingPointError('the loss is NaN'),
    ],
)
def test_a_mistake_is_one_line(error, line_of):
    code, line = line_of(fail(error))
    assert code == 2
    assert line == f'error: {" ".join(str(error).split())} (--traceback shows where)'


def test_an_error_without_words_has_its_name(line_of):
    assert 'error: PermissionError (' in line_of(fail(PermissionError()))[1]


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        (MemoryError(), ('this machine', 'batch_size_per_gpu', 'gt_size', 'val:tile')),
        (torch.OutOfMemoryError('CUDA out of memory'), ('the GPU', 'batch_size_per_gpu')),
        (RuntimeError("[x] DefaultCPUAllocator: can't allocate memory"), ('this machine',)),
        (
            RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.'),
            ('loads data', 'num_worker_per_gpu'),
        ),
    ],
)
def test_too_little_memory(error, words, line_of):
    code, line = line_of(fail(error))
    assert code == 2
    for word in words:
        assert word in line


def test_an_interrupt(line_of):
    assert line_of(fail(KeyboardInterrupt())) == (130, 'interrupted')


def test_other_processes_say_who_they_are(line_of, monkeypatch):
    monkeypatch.setenv('RANK', '3')
    assert line_of(fail(ValueError('no')))[1].startswith('rank 3: error: no')
    monkeypatch.setenv('RANK', '0')
    assert line_of(fail(ValueError('no')))[1].startswith('error: no')


class Broken(Dataset):
    """Fails as a data set does, from inside another error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        try:
            raise KeyError('inner')
        except KeyError:
            raise self.error  # noqa: B904 (the chain is the point)


@pytest.mark.parametrize(
    ('error', 'line'),
    [
        (ValueError('a.png is cut off:\n  copy it.'), 'a.png is cut off: copy it.'),
        (FileNotFoundError(2, 'No such file', 'b.png'), "[Errno 2] No such file: 'b.png'"),
        (pickle.UnpicklingError('torn'), 'torn'),
    ],
)
def test_a_loader_process_is_quoted_by_its_message(error, line, line_of):
    """The real thing: PyTorch puts the other process's whole stack into the message."""

    def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            items = iter(DataLoader(Broken(error), num_workers=1))
            try:
                list(items)
            finally:
                items._shutdown_workers()  # the garbage collector would wait for them, five seconds

    assert line_of(main) == (2, f'error: {line} (--traceback shows where)')


def test_the_stack_on_demand(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool', '--traceback', '-x'])
    with pytest.raises(ValueError, match='wrong'):
        run_cli(fail(ValueError('wrong')))
    assert sys.argv == ['tool', '-x']


@pytest.mark.parametrize('error', [ZeroDivisionError(), RuntimeError('shapes differ')])
def test_a_bug_is_not_hidden(error, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool'])
    with pytest.raises(type(error)):
        run_cli(fail(error))


def test_tell(capsys):
    tell('one line')
    assert capsys.readouterr().err == 'one line\n'


HOSTILE = 'a\x1b]0;owned\x07\x1b[2Jb\u202ec\udcff\x9b1m'


def test_no_control_sequence_reaches_the_terminal(line_of, capsys):
    assert line_of(fail(ValueError(HOSTILE)))[1] == (
        r'error: a\x1b]0;owned\x07\x1b[2Jb\u202ec\udcff\x9b1m (--traceback shows where)'
    )
    tell(HOSTILE)
    logger = logging.getLogger('basicsr')
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    try:
        logger.warning('%s\n%s', HOSTILE, 'second')
    finally:
        logger.removeHandler(handler)
    told = capsys.readouterr().err.splitlines()
    assert told == [r'a\x1b]0;owned\x07\x1b[2Jb\u202ec\udcff\x9b1m'] * 2 + ['second']
    assert visible('caf\u00e9 \u5b57\u3000\U0001f600') == 'caf\u00e9 \u5b57\u3000\U0001f600'


def test_a_line_ends_somewhere(line_of):
    assert len(line_of(fail(ValueError('x' * 100_000)))[1]) < 2100


PRINTING = """
import sys
from defsr.utils.cli import run_cli, tell

def main():
    tell('begun')
    for i in range(50000):
        print(sys.argv[1])
    if sys.argv[1] == 'bad':
        raise ValueError('of a test')

run_cli(main)
"""


@pytest.mark.parametrize(
    ('command', 'status'),
    [
        ('python printing.py good 2>&- >&-', 0),
        ('python printing.py bad 2>&-', 2),
        ('python printing.py good | head -1', 141),
        ('python printing.py good 2>&1 | head -1', 141),
    ],
)
def test_nobody_need_listen(command, status, tmp_path):
    (tmp_path / 'printing.py').write_text(PRINTING)
    script = f'{command.replace("python", sys.executable)}; exit ${{PIPESTATUS[0]}}'
    shell = ['bash', '-c', script]
    env = os.environ | {'PYTHONPATH': str(REPOSITORY)}
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == status
    assert 'Error' not in done.stderr and done.stderr.strip() in ('', 'begun')


def test_home_folders_are_put_into_arguments(monkeypatch):
    monkeypatch.setenv('HOME', '/home/me')
    given = ['~/a.png', '--output=~/x.png', 'val:tile=~', '--force_yml=val:tile=~', './~', 'a~']
    monkeypatch.setattr(sys, 'argv', ['tool', *given])
    run_cli(lambda: None)
    expected = ['/home/me/a.png', '--output=/home/me/x.png', *given[2:]]
    assert sys.argv[1:] == expected


def test_a_home_folder_of_nobody(line_of):
    code, line = line_of(lambda: None, '--output=~nosuchuser/x.png')
    assert code == 2 and 'home folder of a user who is not known' in line


@pytest.mark.parametrize('module', ['defsr.train', 'defsr.tools.upscale'])
def test_too_little_address_space_is_one_line(module, tmp_path):
    """PyTorch for CUDA maps 3.3 GB, for the CPU half a gigabyte."""
    command = f'ulimit -v 300000; exec {sys.executable} -m {module} -opt x -i x -r x -o x'
    env = os.environ | {'PYTHONPATH': str(REPOSITORY)}
    done = subprocess.run(['bash', '-c', command], capture_output=True, text=True, env=env)
    assert done.returncode == 2 and done.stderr.count('\n') == 1
    assert done.stderr.startswith('error: 0.3 GB of address space (ulimit -v) are too little')


@pytest.mark.parametrize(
    ('given', 'spins'),
    [({}, '1000'), ({'GOMP_SPINCOUNT': '5'}, '5'), ({'OMP_WAIT_POLICY': 'ACTIVE'}, None)],
)
def test_threads_wait_briefly_unless_told_otherwise(given, spins, monkeypatch):
    """Set before PyTorch is loaded, which test_imports.py sees to, or it is not heard."""
    for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'):
        monkeypatch.setenv(name, 'taken away again at the end')
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = []
    run_cli(lambda: found.append(os.environ.get('GOMP_SPINCOUNT')))
    assert found == [spins]
