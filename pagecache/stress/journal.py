"""What the workers of a process knew, in memory that survives it: a record before each call, another after it.

    file, mapped and shared:  [committed length][record][record][record]....[record that was not finished]
                                     │                                      │
                                     └──────────────────────────────────────┘

A record is a tuple, pickled, with the time of CLOCK_MONOTONIC, which all processes of a machine share. It is written
behind the committed length first, which is moved over it then: so a process may be killed between any two of its
instructions, and who reads has all records that it finished. The kernel keeps the pages; nothing needs to be flushed.
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

ROOM = 1 << 30  # bytes; of them only those that are used cost anything
_LENGTH = struct.Struct("<Q")
_HEAD = struct.Struct("<QI")


class Full(Exception):
    """There is no room for more: time to end."""


class Journal:
    """Written by the threads of one process. `fd` is handed to it by who reads."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, ROOM)
        self._lock = threading.Lock()  # the end of the records
        self._end = _LENGTH.size

    @staticmethod
    def make() -> int:
        """A file for one; it vanishes with its last descriptor."""
        fd = os.memfd_create("pagecache-stress")
        os.ftruncate(fd, ROOM)
        return fd

    def put(self, *record: Any) -> None:
        """It has happened, or is about to.

        Raises:
            Full: there are too many.
        """
        with self._lock:
            data = pickle.dumps(record, pickle.HIGHEST_PROTOCOL)
            end = self._end + _HEAD.size + len(data)
            if end > ROOM:
                raise Full(f"more than {ROOM} bytes of records")
            # The time within the lock: times of one process ascend.
            _HEAD.pack_into(self._map, self._end, time.monotonic_ns(), len(data))
            self._map[self._end + _HEAD.size : end] = data
            self._end = end
            _LENGTH.pack_into(self._map, 0, end)

    def note(self, *record: Any) -> None:
        """Like `put`; for what says nothing of the moment at which a process is to die."""
        Journal.put(self, *record)


def read(fd: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """All records that were finished, each with its time."""
    with mmap.mmap(fd, ROOM, prot=mmap.PROT_READ) as room:
        (end,) = _LENGTH.unpack_from(room, 0)
        at = _LENGTH.size
        while at < end:
            when, length = _HEAD.unpack_from(room, at)
            at += _HEAD.size
            yield when, pickle.loads(room[at : at + length])
            at += length
