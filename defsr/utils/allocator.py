"""Keeps freed memory in the process: large activations are taken and given back all the time."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Let glibc serve later allocations from what was freed, whatever their size.

    By default it maps each block above 32 MiB anew and unmaps it when it is freed, so that the
    kernel has to clear every page of it again in each training iteration. The process then stays
    at its peak size. Results are the same.

    Returns:
        False where the C library is not glibc; nothing is changed there.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL('libc.so.6').mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
