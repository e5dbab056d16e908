"""Two write-back caches as written in an afternoon: everything works, and failed uploads are lost.

They are backends over a directory, so that the tester can be pointed at them as at any backend:
`python:tests.stress.naive:forgiving`. In both, reads of the writing process see its writes.
"""

from __future__ import annotations

import errno
import hashlib
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

    def __init__(self, path: Path, fails: bool) -> None:
        super().__init__(bytearray(path.read_bytes()), threading.Lock())
        self.path, self.fails = path, fails
        self.uploads = 0

    def commit(self) -> str | None:
        """Do nothing for an fsync: the data is safe in the cache."""
        return None

    def upload(self) -> None:
        """Upload everything; the network fails one time in two, or never."""
        self.uploads += 1
        dice = hashlib.blake2b(f"{self.path.name} {self.uploads}".encode(), digest_size=1).digest()[0]
        if self.fails and dice < 128:
            raise OSError(errno.ETIMEDOUT, "the network was away", str(self.path))
        fresh = self.path.with_suffix(".part")
        fresh.write_bytes(self.content)
        fresh.rename(self.path)


class Naive(Backend):
    """Files are in memory from their first open to `close`, which uploads them."""

    limits: ClassVar[BackendLimits] = BackendLimits()  # type: ignore[misc]

    def __init__(self, *, fails: bool, syncs: bool) -> None:
        self.root = Path(os.environ[WHERE])
        self.fails, self.syncs = fails, syncs
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
                self.files[str(key)] = (Synced if self.syncs else Local)(path, self.fails)
            return self.files[str(key)]

    def stat(self, key: Key) -> ObjectStat:
        return self.open(key).stat()

    def remove(self, key: Key) -> None:
        with self.lock:
            self.files.pop(str(key), None)
            (self.root / str(key)).unlink()

    def close(self) -> None:
        for file in self.files.values():
            try:
                file.upload()
            except OSError:
                pass  # logged, in the spirit of the afternoon
        self.files.clear()


class Synced(Local):
    """fsync uploads too, and like close it ignores errors."""

    def commit(self) -> str | None:
        try:
            self.upload()
        except OSError:
            pass
        return None


def forgiving() -> Backend:
    """Uploads at fsync and close, and loses the errors."""
    return Naive(fails=True, syncs=True)


def hasty() -> Backend:
    """Keep closed files safe; fsync does nothing."""
    return Naive(fails=False, syncs=False)
