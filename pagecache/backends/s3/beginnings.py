"""The first bytes of objects, which come with the answer that opens them.

The first open of an object is a GET of its beginning: size, version, properties and bytes in one answer. The file keeps
these bytes until they are read, since the cache reads them next. They are no part of the cache's memory, so there is a
limit for all files of a backend together: the oldest are dropped, and read again if they are needed.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Sequence

from ..spool import dealt

LENGTH = 1 << 20
"""Most bytes of a beginning: an object that has no more is opened and read by one request."""
KEPT = 16 << 20
"""Most bytes of all beginnings that were not read yet."""
LEAST = 4 << 10
"""Bytes that each of them counts at least, as it takes memory of its own."""


class Beginning:
    """The first bytes of one version. Any thread may read them."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def fill(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill buffers with the bytes from an offset on; return their number. They are dropped with the last one."""
        data = self.data
        done = dealt(memoryview(data)[offset:], buffers)
        if done and offset + done >= len(data):
            self.data = b""
        return done


class Beginnings:
    """The beginnings of all files of one backend. `_lock` guards the fields."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[tuple[weakref.ref[Beginning], int]] = deque()
        self._bytes = 0

    def keep(self, data: bytes) -> Beginning:
        """Keep the first bytes of an object; drop those of others where there are too many."""
        made, counted = Beginning(data), max(len(data), LEAST)
        with self._lock:
            self._kept.append((weakref.ref(made), counted))
            self._bytes += counted
            while self._bytes > KEPT:
                oldest, counted = self._kept.popleft()
                self._bytes -= counted
                if (dropped := oldest()) is not None:
                    dropped.data = b""
        return made
