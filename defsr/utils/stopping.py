"""SIGTERM, SIGHUP, Ctrl-C as a request that work answers where nothing is half done."""

from __future__ import annotations

import signal
import time
from types import FrameType

# A terminal that closes sends SIGHUP, which Windows does not know.
STOPPING = (signal.SIGTERM, signal.SIGINT, *filter(None, [getattr(signal, 'SIGHUP', None)]))
PATIENCE = 1.0  # seconds after which a second Ctrl-C is one (a launcher may pass the first on)


class StopRequest:
    """Remembers the first signal that asked the process to stop.

    Attributes:
        signal: one of ``STOPPING``; None while nobody has asked.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0

    def listen(self) -> None:
        """Take the signals from now on. A second, later Ctrl-C interrupts at once."""
        for number in STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), now
        elif number == signal.SIGINT and now - self._since > PATIENCE:
            raise KeyboardInterrupt
