"""Calls by a name that another program has taken, recognised by their second try.

The kernel sends the number of a node, not the name that led to it, and keeps names for a while. Another program may
give a name to another object. Then calls by that name still come to the node that had it, like those by its other names
and by /proc/self/fd/N. A thread whose call has failed with ESTALE makes it once more: after lookups of the whole path
if it came by a path, else at once.

    thread 1    open 9: ESTALE    lookup "a": 12    open 12     by a name that was taken
    thread 2    open 9: ESTALE    lookup "b": 9     open 9      by another name
    thread 3    open 9: ESTALE                      open 9      by /proc/self/fd/N

So an open or a truncate that may have come by a name that was taken fails once, and not again.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

CALLERS_MAX = 4096
"""Threads that are remembered: more than make calls at once."""
AGAIN_S = 1.0
"""Seconds after its failure, or its last lookup, within which a thread comes again."""
UNKNOWN_AGAIN_S = 5.0
"""Seconds within which an open of a thread that is not known may come again (answers.py)."""
STATUS, STATUS_S = "getattr", 0.05
"""A failed status is one on the way to an open, or of a stat: that ends with a lookup, and other calls may follow."""
LOOKUP = "lookup"
ON_THE_WAY = (LOOKUP, STATUS, "getxattr", "readlink")
"""Requests that a second try makes before its last one."""
BESIDE = ("release", "releasedir", "read", "read_ahead", "write", "forget")
"""Requests that the kernel makes beside the call in which a thread is: they may come late."""
NONE = 0
"""No node has this number."""


@dataclass(slots=True)
class _Caller:
    """A thread that comes again: the node of the call that failed, until a lookup leads to another one."""

    number: int
    until: float  # by time.monotonic
    patience: float


class Callers:
    """Threads of programs, by their number, whose last call failed with ESTALE. 0 is a thread that is not known, which
    is not remembered. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the table; held briefly
        self._callers: dict[int, _Caller] = {}

    def knows(self, thread: int) -> bool:
        """Return whether the last call of a thread has failed so, and it may come again."""
        caller = self._callers.get(thread)
        return caller is not None and time.monotonic() < caller.until

    def comes(self, thread: int, op: str, number: int) -> bool:
        """Note a request. Return whether it is the second try of a call, and about the node that this one is about."""
        if thread not in self._callers or op in ON_THE_WAY or op in BESIDE:
            return False
        with self._lock:
            caller = self._callers.pop(thread, None)
        return caller is not None and caller.number == number and time.monotonic() < caller.until

    def found(self, thread: int, number: int, *, passing: bool) -> None:
        """Note the result of a lookup, before its reply. `passing`: of a directory or a link, on the way to it."""
        if thread in self._callers:
            with self._lock:
                caller, now = self._callers.get(thread), time.monotonic()
                if caller is not None and now < caller.until:
                    caller.until = now + caller.patience
                    if not passing:
                        caller.number = number

    def failed(self, thread: int, op: str, number: int, *, stale: bool, again: bool) -> None:
        """Note an error, before its reply. `number`: of the node of a call that may come again without a lookup, by a
        descriptor; of other calls: NONE. `stale`: the error is ESTALE. `again`: this was a second try, and there is no
        third one.
        """
        if thread == 0 or op in BESIDE or not (stale or thread in self._callers):
            return
        with self._lock:
            known, now = self._callers.pop(thread, None), time.monotonic()
            if known is not None and now >= known.until:
                known = None
            if known is not None and op == LOOKUP and not stale:  # the kernel may repeat it, under the directory's lock
                known.number = NONE
                self._callers[thread] = known
            elif stale and not again and not (known is not None and op in ON_THE_WAY):
                patience = STATUS_S if op == STATUS else AGAIN_S
                self._callers[thread] = _Caller(number, now + patience, patience)
                if len(self._callers) > CALLERS_MAX:
                    del self._callers[next(iter(self._callers))]
