"""Signals of the commands: SIGTERM unwinds the stack as Ctrl-C does.

For the command line only: a library leaves its program the signal handlers that it has.
"""

import signal
from types import FrameType
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT  # exit status after Ctrl-C, as in shells


def leave_on_sigterm() -> None:
    """Make SIGTERM end the program like an exit, so that temporary files are removed."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
