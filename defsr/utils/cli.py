"""What every command line of the package shares: a user's mistake ends in one clear line."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tqdm import tqdm


def tell(line: str) -> None:
    """One line for the person at the command line, beside any progress bar."""
    tqdm.write(line, file=sys.stderr)


def run_cli(main: Callable[[], None]) -> None:
    """Run ``main``; a ValueError or OSError becomes one line on stderr and exit status 2.

    ``--traceback`` anywhere on the command line shows the whole stack instead.
    """
    if '--traceback' in sys.argv:
        sys.argv.remove('--traceback')
        main()
        return
    try:
        main()
    except (ValueError, OSError) as error:
        message = ' '.join(str(error).split())
        sys.stderr.write(f'error: {message}\n(--traceback shows where)\n')
        raise SystemExit(2) from None
