"""Loops that become machine code, by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """The loop over NumPy arrays as machine code, without Python's lock while it runs.

    Made at its first call, in a second or two, and kept on disk: beside the module, or in numba's
    folder of the user's cache. Where neither can be written, each process makes its own. Sums may
    be added up in another order.
    """
    options: dict[str, Any] = {
        'nogil': True,
        'error_model': 'numpy',
        'fastmath': {'reassoc', 'contract', 'nsz'},
    }
    try:
        return numba.njit(cache=True, **options)(loop)
    except RuntimeError:  # no place to keep it
        return numba.njit(**options)(loop)
