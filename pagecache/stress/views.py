"""A view of the cache as memory that a step holds, and a budget for all of them.

Pinning a page pins its folio, so a few views can hold all of a small cache, each waiting for memory that the others
hold. In a program that would be a bug of the program; a tester would only stop itself.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence

from pagecache import View

__all__ = ["Budget", "HeldView"]


class Budget:
    """Bytes that views may pin together."""

    def __init__(self, most: int, folio: int) -> None:
        self._lock = threading.Lock()
        self._left = most
        self._folio = folio

    def take(self, length: int) -> Callable[[], None]:
        """Take the budget for a view of `length` bytes; return a function that gives it back.

        Raises:
            OSError: ENOMEM: others hold too much.
        """
        amount = length + self._folio
        with self._lock:
            if amount > self._left:
                raise OSError(errno.ENOMEM, "the views of the tester hold enough of the cache")
            self._left -= amount

        def give() -> None:
            with self._lock:
                self._left += amount

        return give


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
