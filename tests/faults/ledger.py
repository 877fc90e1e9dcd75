"""How many runs are killed, and the table of what came of it.

``DEFSR_FAULTS=long`` (``make faults``) kills many more times than the suite does;
``DEFSR_FAULTS_SEED`` chooses other moments.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

LONG = os.environ.get('DEFSR_FAULTS') == 'long'
SEED = int(os.environ.get('DEFSR_FAULTS_SEED', 20))
UNSEEN = 'not observed'
TABLES = {
    'training': (
        'starting',
        'loading',
        'iteration',
        'checkpoint',
        'validation',
        'between',
        UNSEEN,
    ),
    'create_lmdb': ('starting', 'clearing', 'reading', 'writing', 'between', 'publishing'),
    'enhance': (
        'starting',
        'planning',
        'between',
        'enhancing',
        'writing',
        'packing',
        'publishing',
        UNSEEN,
    ),
}


class Ledger:
    """What was killed, in which phase, and what came of it: tables at the end of the tests."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Counter]] = {name: {} for name in TABLES}

    def note(self, what: str, phase: str, *, table: str = 'training') -> None:
        """One kill."""
        phase = phase if phase in TABLES[table] else UNSEEN
        self.rows[table].setdefault(what, Counter()).update(['kills', phase])

    def judge(self, what: str, *, equal: bool, table: str = 'training') -> None:
        """One run that was carried on to its end."""
        self.rows[table].setdefault(what, Counter()).update({'runs': 1, 'equal': int(equal)})

    def lines(self) -> Iterator[str]:
        """The tables in Markdown."""
        for table, phases in TABLES.items():
            rows = self.rows[table] | {'all': sum(self.rows[table].values(), Counter())}
            header = [table, 'kills', *phases, 'ended well', 'equal to undisturbed']
            yield f'| {" | ".join(header)} |'
            yield f'| --- |{" ---: |" * (len(header) - 1)}'
            for what, row in rows.items():
                cells = [row[key] for key in ('kills', *phases, 'runs', 'equal')]
                yield f'| {what} | {" | ".join(str(cell or "") for cell in cells)} |'
            yield ''
