"""The byte ranges of one object that are being changed.

Changes of overlapping ranges wait for each other. Reads hold nothing: they wait until no change of their range is
running, and check afterwards whether one began during the read, in which case they read again.

Reads, truncates and holes run in threads of the program, where KeyboardInterrupt can strike nearly everywhere. So a
change lasts while its own lock is locked, which `with` locks and unlocks without running any Python:

    going = threading.Lock()
    with going:
        changes.begin(start, end, going)
        ...

The next call removes entries whose lock is unlocked from the list.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque

EVERYTHING = 1 << 64
RECENT = 4096  # remembered changes; a read during which more than that began is repeated


class Changes:
    """The running and recent changes of one object."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the fields below; held briefly
        self._going: list[tuple[int, int, threading.Lock]] = []
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT)
        self._nr_begun = 0

    def begin(self, start: int, end: int, going: threading.Lock | None) -> int:
        """Wait until no change of [start, end) is running, and begin one, which lasts while `going` is locked; None:
        begin none. Return the number of changes.
        """
        while True:
            with self._lock:
                other = self._other(start, end)
                if other is None:
                    if going is not None:
                        self._going.append((start, end, going))
                        self._recent.append((start, end))
                        self._nr_begun += 1
                    return self._nr_begun
            with other:
                pass

    def quiet(self, start: int, end: int) -> int:
        """Wait until no change of [start, end) is running; return a number for `unchanged`."""
        return self.begin(start, end, None)

    def unchanged(self, start: int, end: int, since: int) -> bool:
        """Return whether no change of [start, end) began since then."""
        with self._lock:
            later = self._nr_begun - since
            if later > len(self._recent):
                return False
            recent = list(itertools.islice(reversed(self._recent), later))
        return not any(start < high and low < end for low, high in recent)

    def _other(self, start: int, end: int) -> threading.Lock | None:
        self._going = [change for change in self._going if change[2].locked()]
        return next((going for low, high, going in self._going if start < high and low < end), None)
