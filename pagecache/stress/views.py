"""A view of the cache as memory that a step holds, and how much of the cache all of them may hold.

What pins a page pins its folio, so a few views can hold all of a small cache, each waiting for memory that the others
hold. A program that does this has itself to blame; a tester would only stop itself.
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
        """For a view of a length; returns what gives it back.

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
    """See `targets.Held`."""

    def __init__(self, view: View, give: Callable[[], None]) -> None:
        self._view = view
        self._give = give

    @property
    def detached(self) -> bool:
        """It was cut off: what is stored to it is lost."""
        return self._view.detached

    def tobytes(self) -> bytes:
        """What is there now."""
        return self._view.tobytes()

    def segments(self) -> Sequence[memoryview]:
        """The memory itself."""
        return self._view.segments

    def store(self, at: int, data: bytes) -> None:
        """Put bytes into it, across segments."""
        for segment in self._view.segments:
            if at < len(segment) and data:
                part = data[: len(segment) - at]
                segment[at : at + len(part)] = part
                data, at = data[len(part) :], 0
            else:
                at -= len(segment)

    def release(self) -> None:
        """Give it back."""
        self._view.release()
        self._give()
