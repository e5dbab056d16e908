"""Workers in step: all begin an operation together, and when all have ended theirs, nothing runs and somebody looks.

    operation ─┐      ┌─ operation ─┐      ┌─ ...
    operation ─┼ look ┼─ operation ─┼ look ┼─ ...
    operation ─┘      └─ operation ─┘      └─ ...

What two calls break between them is seen before a third one mends it: a size that is too large is right again with the
next write behind it. And calls that begin together meet more often than those of workers that go on for themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Bar"]

LOOK = 0.05  # seconds between two looks whether all are to stop: somebody may never come


class Bar:
    """Where threads wait for each other.

    Args:
        threads: how many there are.
        look: called whenever all that are left have come, by one of them; it raises nothing.
        stopped: nobody waits any more.
    """

    def __init__(self, threads: int, look: Callable[[], None], stopped: threading.Event) -> None:
        self._changed = threading.Condition()
        self._left = threads
        self._there = 0
        self._turn = 0
        self._look = look
        self._stopped = stopped

    def wait(self) -> None:
        """Until all others that are left have come, too."""
        with self._changed:
            turn = self._turn
            self._there += 1
            self._pass()
            while self._turn == turn and not self._stopped.is_set():
                self._changed.wait(LOOK)

    def leave(self) -> None:
        """A thread comes no more."""
        with self._changed:
            self._left -= 1
            self._pass()

    def _pass(self) -> None:
        """Let all go on, if nobody is missing. The lock is held."""
        if self._there and self._there == self._left and not self._stopped.is_set():
            self._look()
            self._there = 0
            self._turn += 1
            self._changed.notify_all()
