"""SIGTERM and Ctrl-C as a request that work answers at a point where nothing is half done."""

from __future__ import annotations

import signal
import time
from types import FrameType

PATIENCE = 1.0  # seconds after which a second Ctrl-C is one (a launcher may pass the first on)


class StopRequest:
    """Remembers the first signal that asked the process to stop.

    Attributes:
        signal: SIGTERM or SIGINT; None while nobody has asked.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0

    def listen(self) -> None:
        """Take SIGTERM and Ctrl-C from now on. A second, later Ctrl-C interrupts at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), now
        elif number == signal.SIGINT and now - self._since > PATIENCE:
            raise KeyboardInterrupt
