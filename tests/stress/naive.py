"""A write-back cache as written in an afternoon: everything works, and fsync does nothing.

It is a backend over a directory, in a module, so that other processes find it: `python:tests.stress.naive:hasty`. Reads
of the writing process see its writes.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import ClassVar

from pagecache import Backend, BackendLimits, ObjectStat
from pagecache.backends import BackendFile
from pagecache.errors import Key

from ..plain import Blob

WHERE = "PAGECACHE_TEST_NAIVE"
"""The directory, in the environment: a process that is started later finds it there."""


class Local(Blob):
    """A file in memory, whole; uploaded, whole, when it is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(bytearray(path.read_bytes()), threading.Lock())
        self.path = path

    def commit(self) -> str | None:
        """Do nothing for an fsync: the data is safe in the cache."""
        return None

    def upload(self) -> None:
        fresh = self.path.with_suffix(".part")
        fresh.write_bytes(self.content)
        fresh.rename(self.path)


class Naive(Backend):
    """Files are in memory from their first open to `close`, which uploads them."""

    limits: ClassVar[BackendLimits] = BackendLimits()  # type: ignore[misc]

    def __init__(self) -> None:
        self.root = Path(os.environ[WHERE])
        self.files: dict[str, Local] = {}
        self.lock = threading.Lock()

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        path = self.root / str(key)
        with self.lock:
            if not path.exists():
                if not create:
                    raise FileNotFoundError(errno.ENOENT, "no such file", key)
                path.touch()
            if str(key) not in self.files:
                self.files[str(key)] = Local(path)
            return self.files[str(key)]

    def stat(self, key: Key) -> ObjectStat:
        return self.open(key).stat()

    def remove(self, key: Key) -> None:
        with self.lock:
            self.files.pop(str(key), None)
            (self.root / str(key)).unlink()

    def close(self) -> None:
        for file in self.files.values():
            file.upload()
        self.files.clear()


def hasty() -> Backend:
    """Keep closed files safe; fsync does nothing."""
    return Naive()
