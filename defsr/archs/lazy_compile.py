"""Networks compiled when they are first called, beside the tree of modules."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

COMPILERS = ('torch._dynamo', 'torch._inductor', 'torch._functorch')  # whose errors are about it


class LazyCompile:
    """Calls a network by ``torch.compile``, which takes a minute or more at the first call.

    No module, and not in the tree of one: what it compiles stays here, so that the keys of the
    network's state dict are those of the plain network. Another size compiles once more, for any.

    Args:
        option: that asks for it, for messages.

    Attributes:
        backend: of ``torch.compile``.
    """

    backend = 'inductor'

    def __init__(self, option: str) -> None:
        self.option = option
        self.compiled: tuple[nn.Module, Callable[..., Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are made without the compiled network; they compile their own."""
        return vars(self) | {'compiled': None}

    def __call__(self, net: nn.Module, *args: Any) -> Any:
        """As ``net(*args)``. ValueError if it cannot be compiled."""
        if self.compiled is None or self.compiled[0] is not net:
            self.compiled = net, torch.compile(net, backend=self.backend)
        with compile_errors(self.option):
            return self.compiled[1](*args)


@contextmanager
def compile_errors(option: str) -> Iterator[None]:
    """ValueError with ``option`` for what a compiler raises, there or in the way back."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        if not _is_about_compiling(error):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f'{option} is true, but the network cannot be compiled here ({reason[:120]}). Set '
            'compile: false, or install a C++ compiler.'
        ) from error


def _is_about_compiling(error: Exception) -> bool:
    """By its kind, or because code that was generated does not fit what it calls."""
    if not isinstance(error, AssertionError):
        return type(error).__module__.startswith(COMPILERS)
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return any('_inductor' in file or 'torchinductor' in file for file in files)
