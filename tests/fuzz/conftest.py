"""The table at the end of ``make fuzz``."""

from __future__ import annotations

from fuzzing import LONG, SEED, table


def pytest_terminal_summary(terminalreporter) -> None:
    """Print it."""
    if LONG:
        terminalreporter.section(f'fuzz, seed {SEED}')
        for line in table():
            terminalreporter.write_line(line)
