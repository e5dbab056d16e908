"""A view of the cache as memory that a step holds, and a budget for all of them.

Pinning a page pins its folio, so a few views can hold all of a small cache, each waiting for memory that the others
hold. In a program that would be a bug of the program; a tester would only stop itself.
"""

from __future__ import annotations

import errno
import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pagecache import View

__all__ = ["Budget", "HeldView"]

COLLECTED_EVERY = 8
"""Refused views before a garbage collection, which frees the views that were left in reference cycles."""


class Budget:
    """Bytes that views may pin together."""

    def __init__(self, most: int, folio: int) -> None:
        self._lock = threading.Lock()
        self._left = most
        self._folio = folio
        self._returned: deque[int] = deque()  # by `give`, which finalizers call anywhere: it takes no lock
        self._refused = 0

    def take(self, length: int) -> Callable[[], None]:
        """Take the budget for a view of `length` bytes; return a function that gives it back.

        Raises:
            OSError: ENOMEM: others hold too much.
        """
        amount = length + self._folio
        with self._lock:
            while self._returned:
                self._left += self._returned.popleft()
            enough = amount <= self._left
            self._left -= amount if enough else 0
            self._refused += not enough
        if not enough:
            if self._refused % COLLECTED_EVERY == 0:
                gc.collect()
            raise OSError(errno.ENOMEM, "the views of the tester hold enough of the cache")
        return lambda: self._returned.append(amount)


class HeldView:
    """A view; see `targets.Held`."""

    def __init__(self, view: View, give: Callable[[], None]) -> None:
        self._view = view
        self._give = give

    @property
    def detached(self) -> bool:
        """Return whether the view was cut off: stores to it are lost."""
        return self._view.detached

    def tobytes(self) -> bytes:
        """Return the current bytes."""
        return self._view.tobytes()

    def segments(self) -> Sequence[memoryview]:
        """Return the memory itself."""
        return self._view.segments

    def store(self, at: int, data: bytes) -> None:
        """Store bytes, across segments."""
        for segment in self._view.segments:
            if at < len(segment) and data:
                part = data[: len(segment) - at]
                segment[at : at + len(part)] = part
                data, at = data[len(part) :], 0
            else:
                at -= len(segment)

    def release(self) -> None:
        """Release the view."""
        self._view.release()
        self._give()

    def leave(self) -> None:
        """Leave the view to the garbage collector, in a reference cycle."""
        weakref.finalize(self._view, self._give).atexit = False
        cycle: list[Any] = [self._view]
        cycle.append(cycle)
        del self._view
