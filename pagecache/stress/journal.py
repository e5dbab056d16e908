"""The knowledge of a process's workers, in memory that outlives it: a record before each call, another after it.

    file, mapped and shared:  [committed length][record][record][record]....[unfinished record]
                                     │                                      │
                                     └──────────────────────────────────────┘

A record is a pickled tuple, with the time of CLOCK_MONOTONIC, which all processes of a machine share. It is first
written past the committed length, which then moves behind it: so a process may be killed between any two instructions,
and a reader finds all finished records. The kernel keeps the pages; no flush is needed.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["Full", "Journal", "read"]

ROOM = 1 << 30  # bytes; only used ones cost memory
_LENGTH = struct.Struct("<Q")
_HEAD = struct.Struct("<QI")


class Full(Exception):
    """The journal is full: time to end."""


class Journal:
    """A journal for the threads of one process. The reader hands `fd` to that process."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, ROOM)
        self._lock = threading.Lock()  # protects the end of the records
        self._end = _LENGTH.size

    @staticmethod
    def make() -> int:
        """Make a file for a journal; it vanishes with its last descriptor."""
        fd = os.memfd_create("pagecache-stress")
        os.ftruncate(fd, ROOM)
        return fd

    def put(self, *record: Any) -> None:
        """Record an event that has happened, or is about to.

        Raises:
            Full: there are too many records.
        """
        with self._lock:
            data = pickle.dumps(record, pickle.HIGHEST_PROTOCOL)
            end = self._end + _HEAD.size + len(data)
            if end > ROOM:
                raise Full(f"more than {ROOM} bytes of records")
            # The time is taken under the lock: times of one process ascend.
            _HEAD.pack_into(self._map, self._end, time.monotonic_ns(), len(data))
            self._map[self._end + _HEAD.size : end] = data
            self._end = end
            _LENGTH.pack_into(self._map, 0, end)

    def note(self, *record: Any) -> None:
        """Record an event like `put`, without counting it for the moment at which the process dies."""
        Journal.put(self, *record)


def read(fd: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield all finished records, each with its time."""
    with mmap.mmap(fd, ROOM, prot=mmap.PROT_READ) as room:
        (end,) = _LENGTH.unpack_from(room, 0)
        at = _LENGTH.size
        while at < end:
            when, length = _HEAD.unpack_from(room, at)
            at += _HEAD.size
            yield when, pickle.loads(room[at : at + length])
            at += length
