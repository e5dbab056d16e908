"""Workers in step: all begin an operation together, and when all have finished, the state is checked while nothing
runs.

    operation ─┐       ┌─ operation ─┐       ┌─ ...
    operation ─┼ check ┼─ operation ─┼ check ┼─ ...
    operation ─┘       └─ operation ─┘       └─ ...

Damage that two calls do together is seen before a third call repairs it: a size that is too large becomes right again
with the next write at the end. Calls that start together also overlap more often than those of free-running workers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Bar"]

CHECK_S = 0.05  # seconds between checks of `stopped`: some thread may never arrive


class Bar:
    """A barrier for threads that may leave it.

    Args:
        threads: number of threads.
        check: called by one thread each time all remaining threads have arrived; must not raise.
        stopped: when set, waits end.
    """

    def __init__(self, threads: int, check: Callable[[], None], stopped: threading.Event) -> None:
        self._changed = threading.Condition()
        self._left = threads
        self._there = 0
        self._turn = 0
        self._check_state = check
        self._stopped = stopped

    def wait(self) -> None:
        """Wait until all other remaining threads have arrived."""
        with self._changed:
            turn = self._turn
            self._there += 1
            self._pass()
            while self._turn == turn and not self._stopped.is_set():
                self._changed.wait(CHECK_S)

    def leave(self) -> None:
        """Remove the calling thread from the barrier."""
        with self._changed:
            self._left -= 1
            self._pass()

    def _pass(self) -> None:
        """Release all waiters if every thread has arrived. `_changed` is held."""
        if self._there and self._there == self._left and not self._stopped.is_set():
            self._check_state()
            self._there = 0
            self._turn += 1
            self._changed.notify_all()
