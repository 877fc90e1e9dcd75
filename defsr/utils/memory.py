"""The most memory that a piece of work takes: of the GPU if there is one, else of the process."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

import torch

STATUS = Path('/proc/self/status')


def resident(field: str = 'VmRSS') -> int:
    """Bytes of memory of this process: now (``VmRSS``) or the most so far (``VmHWM``); Linux only.

    From the kernel's status file, since ``ru_maxrss`` of a new process begins with its parent's. 0
    where there is none.
    """
    if not STATUS.exists():
        return 0
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Give freed memory back to the system, and let ``VmHWM`` start anew."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL('libc.so.6').malloc_trim(0)
    with suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')


class PeakMemory:
    """Measures what is added to the memory in use, at the most, inside a ``with`` block.

    Attributes:
        bytes: that number, after the block; on a GPU what tensors took there, else what the
            process grew by; 0 where nobody knows.

    Example:
        >>> with PeakMemory() as peak:
        ...     _ = torch.ones(4_000_000).sum()
        >>> peak.bytes > 0
        True
    """

    bytes = 0

    def __enter__(self) -> PeakMemory:
        self.on_gpu = torch.cuda.is_initialized()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            forget_peak()
            self.before = resident()
        return self

    def __exit__(self, *_: object) -> None:
        peak = torch.cuda.max_memory_allocated() if self.on_gpu else resident('VmHWM')
        self.bytes = max(0, peak - self.before)
