"""The numbers that must not change, and how they are made anew.

They are those of the code of 2026-11-25, commit 65edcfe, before its modules were moved (PyTorch
2.14.1, a processor with AVX-512). A guard that fails says that what users get has changed. Only
such a change on purpose is a reason to freeze again; the commit then says which numbers moved, and
why.

    DEFSR_FREEZE=1 python -m pytest tests/guards -k "benchmark or upscale"

``-k`` names the tests whose numbers moved; what they own of ``frozen.json``, ``upscaled.png`` and
``state.zip`` (of the training from scratch) is written anew. A row of the benchmark or an option
file that is new is not compared until it is frozen.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

FOLDER = Path(__file__).parent
FREEZING = bool(os.environ.get('DEFSR_FREEZE'))


def expected(key: str, found: Mapping[str, object]) -> dict[str, object]:
    """The frozen values under ``key``; while freezing what is found becomes them."""
    values = _read()
    if FREEZING:
        values[key] = dict(found)
        (FOLDER / 'frozen.json').write_text(json.dumps(values, indent=1) + '\n')
    return values[key]


def names(key: str, present: Iterable[str]) -> list[str]:
    """What is frozen under ``key``; while freezing all that is there."""
    return list(present if FREEZING else _read()[key])


def _read() -> dict[str, dict]:
    return json.loads((FOLDER / 'frozen.json').read_text())
