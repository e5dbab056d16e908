"""Which byte ranges of one object are being changed.

Changes of overlapping ranges wait for each other. Reads hold nothing: they wait until no change of their range is going
on, and find out afterwards whether one began meanwhile, in order to read again.

Reads, truncates and holes run in threads of the program, where KeyboardInterrupt can strike nearly everywhere. So a
change goes on for as long as a lock of its own is locked, which `with` locks and unlocks without running any Python:

    going = threading.Lock()
    with going:
        changes.begin(start, end, going)
        ...

What is left of it in the list is not locked any more, and is cleared away by the next one who looks.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque

__all__ = ["EVERYTHING", "Changes"]

EVERYTHING = 1 << 64
RECENT = 4096  # changes that are remembered; a read that more of them overtook is done again


class Changes:
    """The changes of one object."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the rest; held for moments
        self._going: list[tuple[int, int, threading.Lock]] = []
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT)
        self._nr_begun = 0

    def begin(self, start: int, end: int, going: threading.Lock) -> None:
        """[start, end) is being changed for as long as `going` is locked. Blocks: until other changes of it ended."""
        while True:
            with self._lock:
                other = self._other(start, end)
                if other is None:
                    self._going.append((start, end, going))
                    self._recent.append((start, end))
                    self._nr_begun += 1
                    return
            with other:
                pass

    def quiet(self, start: int, end: int) -> int:
        """Return when no change of [start, end) is going on, with a number for `unchanged`."""
        while True:
            with self._lock:
                other = self._other(start, end)
                if other is None:
                    return self._nr_begun
            with other:
                pass

    def unchanged(self, start: int, end: int, since: int) -> bool:
        """Whether no change of [start, end) began since then."""
        with self._lock:
            later = self._nr_begun - since
            if later > len(self._recent):
                return False
            recent = list(itertools.islice(reversed(self._recent), later))
        return not any(start < high and low < end for low, high in recent)

    def _other(self, start: int, end: int) -> threading.Lock | None:
        self._going = [change for change in self._going if change[2].locked()]
        return next((going for low, high, going in self._going if start < high and low < end), None)
