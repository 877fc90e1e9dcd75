"""A stand-in for Apple's MPS: tensors that say they are there, and refuse what it refuses.

Values are kept and computed on the CPU. Refused are float64 and operations on tensors of two
devices, as PyTorch refuses them there; nothing is said about speed, rounding or operations that MPS
lacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

MPS = torch.device('meta')
aten = torch.ops.aten


class OnMps(Tensor):
    """A tensor on the device; ``inner`` has its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnMps:
        if inner.dtype in (torch.float64, torch.complex128):
            raise TypeError(f'MPS has no {inner.dtype}.')
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=MPS,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner.detach()
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f'OnMps({self.inner})'

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, _ = tree_flatten((args, kwargs))
    here = [x for x in flat if isinstance(x, OnMps)]
    away = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, OnMps)]
    device = kwargs.get('device')
    target = here[0].device if here and device is None else torch.device(device or 'cpu')
    moves = func in (aten._to_copy.default, aten.copy_.default)
    if here and not moves and any(x.ndim for x in away) and not is_index(func):
        raise RuntimeError(f'{func}: tensors on mps and on cpu.')
    into = args[0] if func is aten.copy_.default else None
    plain_args, plain_kwargs = tree_map(
        lambda x: x.inner if isinstance(x, OnMps) else x, (args, kwargs)
    )
    if device is not None:
        plain_kwargs = plain_kwargs | {'device': torch.device('cpu')}
    found = func(*plain_args, **plain_kwargs)
    if into is not None:
        return into
    if func._schema.is_mutable and here:
        leaves, spec = tree_flatten(found)
        own = {id(x.inner): x for x in here}
        return tree_unflatten([own.get(id(x), x) for x in leaves], spec)
    if target.type == 'meta':
        return tree_map(lambda x: OnMps(x) if isinstance(x, Tensor) else x, found)
    return found


def inner_of(x: Any) -> Any:
    return x.inner if isinstance(x, OnMps) else x


def is_index(func: Any) -> bool:
    """PyTorch takes indices from the CPU."""
    return func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Tensors of numbers, which PyTorch makes past its dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and torch.device(kwargs.get('device') or 'cpu') == MPS:
            return func(*args, **kwargs | {'device': 'cpu'}).to(MPS)
        if func is Tensor.new_tensor and isinstance(args[0], OnMps):
            return torch.tensor(args[1], dtype=kwargs.get('dtype') or args[0].dtype).to(MPS)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnMps):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(x) if isinstance(x, list) else x for x in index)
            return func(args[0], index, *args[2:])
        return func(*args, **kwargs)


@contextmanager
def mps() -> Iterator[None]:
    """Inside, ``'mps'`` is a device."""
    with _Literals(), _Factories():
        yield
