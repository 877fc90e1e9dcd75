"""What every command line of the package shares: a user's mistake ends in one clear line."""

from __future__ import annotations

import logging
import os
import pickle
import re
import select
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from contextlib import suppress

from tqdm import tqdm

from defsr.utils.paths import expanded

SPINS = 1000  # of a thread that waits; GNU's OpenMP has 300,000
SMALL_LIMIT = 8 * 2**30  # of address space: PyTorch for CUDA takes 3.3 GB before it does anything
MISTAKES = (ValueError, OSError, pickle.UnpicklingError, FloatingPointError)
_UNSEEN = ('Cc', 'Cf', 'Cs', 'Zl', 'Zp')
_LONGEST = 2000  # characters of an error
LESS_MEMORY = (
    'Lower datasets:train:batch_size_per_gpu or gt_size; for large inputs set val:tile (--tile).'
)


def visible(text: str) -> str:
    """``text`` as a terminal can take it.

    Names of files and what lies in them may hold anything: control sequences that move the cursor
    or the window, marks that turn the order of letters round, bytes that are no UTF-8.
    """
    return ''.join(
        c.encode('unicode_escape').decode() if unicodedata.category(c) in _UNSEEN else c
        for c in text
    )


def tell(line: str) -> None:
    """One line for the person at the command line, beside any progress bar."""
    tqdm.write(visible(line), file=sys.stderr)


def let_cpu_help(device: str) -> None:
    """What MPS lacks the CPU does, if PyTorch is told so before it is imported."""
    if device.startswith('mps'):
        os.environ.setdefault('PYTORCH_ENABLE_MPS_FALLBACK', '1')


class StageBars:
    """A progress bar with an ETA for each stage of long work, one below the other.

    Inside its ``with``, call it as (stage, done, total); a bar ends when the next stage begins.
    """

    def __init__(self) -> None:
        self._stage: str | None = None
        self._bar: tqdm | None = None

    def __enter__(self) -> StageBars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` of a stage are done."""
        if self._bar is None or stage != self._stage:
            self.__exit__()
            self._stage, self._bar = stage, tqdm(desc=f'{stage:<10}', total=total)
        self._bar.total = total
        self._bar.update(done - self._bar.n)


def run_cli(main: Callable[[], None]) -> None:
    """Run ``main``; a mistake of the user's becomes one line on stderr and exit status 2.

    Mistakes are ValueError, OSError, pickle.UnpicklingError and FloatingPointError, also those
    from a process that loads data, and too little memory. An interrupt (Ctrl-C) is one line and
    status 130. In distributed runs the line says whose it is, except for rank 0's. Everything
    else is a bug of ours and keeps its stack.

    ``--traceback`` anywhere on the command line shows the whole stack instead. Paths may begin with
    ``~`` where no shell replaces it, as in ``--output=~/x.png``. Whoever reads the output may leave
    (``| head -1``), and stdout and stderr may be closed.
    """
    _open_streams()
    if '--traceback' in sys.argv:
        sys.argv.remove('--traceback')
        _begin(main)
        return
    logging.getLogger('basicsr').addFilter(_made_visible)
    try:
        _begin(main)
        sys.stdout.flush()
    except BrokenPipeError as error:
        _stop_unheard(error)
    except KeyboardInterrupt:
        _stop('interrupted', 130)
    except MISTAKES as error:
        _stop(f'error: {message_of(error)} (--traceback shows where)', 2)
    except (MemoryError, RuntimeError) as error:
        line = _of_memory(error)
        if line is None:
            raise
        _stop(f'error: {line} (--traceback shows where)', 2)


def _begin(main: Callable[[], None]) -> None:
    sys.argv[1:] = map(_expanded, sys.argv[1:])
    _check_memory_limit()
    _wait_briefly()
    main()


def _wait_briefly() -> None:
    """PyTorch's threads spin for microseconds between two operations, not for milliseconds.

    A thread that spins takes a core from other programs, and from the other threads as soon as one
    of the cores is not free: docs/speed.md. GNU's OpenMP reads this once, when PyTorch is loaded.
    """
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ.setdefault('GOMP_SPINCOUNT', str(SPINS))


def _open_streams() -> None:
    """A closed stream (``2>&-``) is None, and its number that of the next file: lead it nowhere."""
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115 (till the end)


def _expanded(argument: str) -> str:
    """A path on the command line, alone or behind ``--option=``, without its ``~``."""
    option, is_one, path = argument.partition('=')
    if is_one and option.startswith('-') and path.startswith('~'):
        return f'{option}={expanded(path)}'
    return str(expanded(argument)) if argument.startswith('~') else argument


def _check_memory_limit() -> None:
    """OSError if the limit of the shell (``ulimit -v``) is too small to begin.

    Loading PyTorch would end in an ImportError, a SystemError or an abort: try it in a process of
    its own, with a tenth less.
    """
    if os.name == 'nt' or 'torch' in sys.modules:
        return
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if 0 <= limit < SMALL_LIMIT:
        less = f'import resource as r; r.setrlimit(r.RLIMIT_AS, ({limit * 9 // 10},) * 2)'
        command = [sys.executable, '-c', f'{less}; import defsr.compat, defsr.upscaling']
        if subprocess.run(command, capture_output=True).returncode:
            raise OSError(
                f'{limit / 2**30:.1f} GB of address space (ulimit -v) are too little to load '
                'PyTorch. Raise the limit.'
            )


def _stop(line: str, status: int) -> None:
    rank = os.environ.get('RANK', '0')
    prefix = '' if rank == '0' else f'rank {rank}: '
    with suppress(BrokenPipeError):
        sys.stderr.write(f'{prefix}{visible(line)}\n')
        sys.stderr.flush()
    raise SystemExit(status) from None


def _stop_unheard(error: BrokenPipeError) -> None:
    """Where nobody reads the output any more: end as a program that the signal ends."""
    if os.name != 'nt':
        poll = select.poll()
        for number in (1, 2):
            poll.register(number, 0)
        unread = [number for number, event in poll.poll(0) if event & select.POLLERR]
        for number in unread:  # or Python tells of it at the very end
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        if unread:
            raise SystemExit(128 + signal.SIGPIPE) from None
    _stop(f'error: {message_of(error)} (--traceback shows where)', 2)  # another pipe


def _made_visible(record: logging.LogRecord) -> bool:
    """For what is logged as for what is told, but for the lines of tables and stacks."""
    lines = record.getMessage().split('\n')
    record.msg, record.args = '\n'.join(map(visible, lines)), ()
    return True


def message_of(error: BaseException) -> str:
    """The error's text on one line; of a loader process's error the end of its own stack."""
    name, text = type(error).__name__, str(error)
    if re.match(rf'Caught {name} in \w+ worker process', text):
        starts = [*re.finditer(rf'^(?:\w+\.)*{name}: ', text, flags=re.MULTILINE)]
        text = text[starts[-1].end() :] if starts else text.splitlines()[0]
    line = ' '.join(text.split()) or name
    return line if len(line) <= _LONGEST else f'{line[:_LONGEST]}...'


def _of_memory(error: BaseException) -> str | None:
    """What to do about too little memory; None if the error is about something else."""
    text = str(error)
    if type(error).__name__ == 'OutOfMemoryError':  # PyTorch's, which is slow to import
        return f'the GPU has too little memory. {LESS_MEMORY}'
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate" in text:
        return f'this machine has too little memory. {LESS_MEMORY}'
    if text.startswith('DataLoader worker') and 'killed by signal' in text:
        return (
            'a process that loads data was killed, most likely for want of memory. '
            'Lower datasets:train:num_worker_per_gpu.'
        )
    return None
