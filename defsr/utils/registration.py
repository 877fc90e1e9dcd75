"""Registration by file name, as BasicSR does it for its own folders."""

from __future__ import annotations

import importlib
import pkgutil


def import_modules(package: str, suffix: str) -> None:
    """Import each module of ``package`` whose name ends in ``suffix``, in alphabetical order."""
    path = importlib.import_module(package).__path__
    for module in sorted(info.name for info in pkgutil.iter_modules(path)):
        if module.endswith(suffix):
            importlib.import_module(f'{package}.{module}')
