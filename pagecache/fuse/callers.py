"""Calls by a name that another program has taken, told apart by their second try.

The kernel sends the number of a node, not the name that led to it, and keeps names for a while. Another program may
give a name to another object. Then calls by that name still come to the node that had it, like those by its other names
and by /proc/self/fd/N. A thread whose call has failed with ESTALE makes it once more: after lookups of the whole path
if it came by a path, else at once.

    thread 1    open 9: ESTALE    lookup "a": 12    open 12     by a name that was taken
    thread 2    open 9: ESTALE    lookup "b": 9     open 9      by another name
    thread 3    open 9: ESTALE                      open 9      by /proc/self/fd/N
"""

from __future__ import annotations

import threading

__all__ = ["Callers"]

CALLERS_MAX = 4096
"""Threads that are remembered: more than make calls at once. Those that do not come again are forgotten at last."""
NONE = 0
"""No node has this number."""


class Callers:
    """Threads of programs, by their number, whose last call failed with ESTALE. 0 is a thread that is not known, which
    is not remembered. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the table; held briefly
        self._may_use: dict[int, int] = {}  # thread -> node that its next call may use, whichever name it came by

    def failed(self, thread: int, number: int) -> None:
        """A call about a node fails with ESTALE: if it comes again at once, it did not come by a name."""
        if thread:
            with self._lock:
                self._may_use.pop(thread, None)
                self._may_use[thread] = number
                if len(self._may_use) > CALLERS_MAX:
                    del self._may_use[next(iter(self._may_use))]

    def looks_up(self, thread: int, number: int = NONE) -> None:
        """Note the begin of a lookup, or its result."""
        if thread in self._may_use:
            with self._lock:
                if thread in self._may_use:
                    self._may_use[thread] = number

    def came_again(self, thread: int, number: int) -> bool:
        """Return whether the call of a thread is the second try of one that failed, and is about the right node."""
        if thread not in self._may_use:
            return False
        with self._lock:
            return self._may_use.pop(thread, NONE) == number
