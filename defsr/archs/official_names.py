"""Published state dicts by our names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def renamed(state: Mapping[str, Tensor], starts: Mapping[str, str]) -> dict[str, Tensor]:
    """A state dict with the start of each name replaced, the longest that fits.

    Args:
        starts: start of a published name -> start of ours.

    Raises:
        KeyError: for a name that begins with none of them.
    """
    made = {}
    for name, value in state.items():
        fitting = [start for start in starts if name.startswith(start)]
        if not fitting:
            raise KeyError(name)
        start = max(fitting, key=len)
        made[starts[start] + name.removeprefix(start)] = value
    return made


def count_blocks(state: Mapping[str, Tensor], start: str) -> int:
    """How many blocks ``<start>.0.``, ``<start>.1.``, ... there are."""
    inside = [name for name in state if name.startswith(f'{start}.')]
    return len({name.removeprefix(f'{start}.').split('.')[0] for name in inside})
