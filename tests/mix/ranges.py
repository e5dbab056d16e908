"""Who may change which bytes of a file: one owner at a time, but for appends, which share the end.

A claim of several ranges is granted as a whole, so nobody waits while he owns anything. Who waits is not overtaken by
later claims on the same bytes.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["END", "Claim", "Ranges"]

END = 1 << 62  # a range that goes on to here has the end of the file too


class Claim:
    __slots__ = ("appends", "ranges")

    def __init__(self, ranges: list[tuple[int, int]], *, appends: bool = False) -> None:
        self.ranges = ranges
        self.appends = appends

    def meets(self, other: Claim) -> bool:
        return not (self.appends and other.appends) and any(
            a < d and c < b for a, b in self.ranges for c, d in other.ranges
        )


class Ranges:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: list[Claim] = []
        self._queue: list[Claim] = []

    def attempt(self, wanted: Callable[[], Claim | None]) -> Claim | None:
        """What `wanted` says, if it is free now. `wanted` is asked when no claim can change."""
        with self._changed:
            claim = wanted()
            if claim is None or any(claim.meets(other) for other in (*self._held, *self._queue)):
                return None
            self._held.append(claim)
            return claim

    def obtain(self, wanted: Callable[[], Claim | None], patience: float) -> Claim | None:
        """The same, after a wait; None: `wanted` wants nothing any more. Nobody owns a range for `patience`."""
        end = time.monotonic() + patience
        with self._changed:
            ticket: Claim | None = None
            while True:
                before = self._queue if ticket is None else self._queue[: self._queue.index(ticket)]
                claim = wanted()
                free = claim is not None and not any(claim.meets(other) for other in (*self._held, *before))
                if claim is None or free or time.monotonic() > end:
                    break
                if ticket is None:
                    ticket = claim
                    self._queue.append(ticket)
                ticket.ranges = claim.ranges
                self._changed.wait(end - time.monotonic())
            if ticket is not None:
                self._queue.remove(ticket)
                self._changed.notify_all()
            if claim is None:
                return None
            if not free:
                faulthandler.dump_traceback(all_threads=True)
                owners = [other.ranges for other in self._held if claim.meets(other)]
                raise AssertionError(f"{claim.ranges} are owned for {patience} seconds and more, by {owners}")
            self._held.append(claim)
            return claim

    def release(self, claim: Claim) -> None:
        with self._changed:
            self._held.remove(claim)
            self._changed.notify_all()

    @contextmanager
    def owning(self, claim: Claim | None) -> Iterator[Claim | None]:
        try:
            yield claim
        finally:
            if claim is not None:
                self.release(claim)
