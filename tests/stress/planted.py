"""Backends and targets with one planted mistake each."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pagecache import Backend
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.backends.memory import MemoryFile
from pagecache.backends.passing import PassingFile
from pagecache.config import Durability
from pagecache.errors import Key
from pagecache.stress.cached import CachedTarget

from ..check_backend.backends import Mistaken, files

Buffers = Sequence[memoryview]


class MakesTwo(MemoryBackend):
    """A backend that accepts two objects before files are made, and refuses any others."""

    def __init__(self, refusal: Exception) -> None:
        super().__init__()
        self._refusal, self._left = refusal, 2

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> MemoryFile:
        self._left -= create
        if self._left < 0:
            raise self._refusal
        return super().open(key, create=create, exclusive=exclusive)


def drops_tail(file: Any, offset: int, buffers: Buffers) -> int:
    """Stores zeros for the part beyond the last whole sector."""
    data = b"".join(buffers)
    kept = len(data) - len(data) % 512 or len(data)
    return int(file.inner.write_from(offset, [memoryview(data[:kept] + bytes(len(data) - kept))]))


def reads_old(file: Any, offset: int, buffers: Buffers) -> int:
    """Keeps the first page as it was first read."""
    count = int(file.inner.read_into(offset, buffers))
    if offset == 0 and count >= 4096 and len(buffers[0]) >= 4096:
        buffers[0][:4096] = vars(file).setdefault("old", bytes(buffers[0][:4096]))
    return count


WHERE, HOME = "PAGECACHE_TEST_WHERE", "PAGECACHE_TEST_HOME"
"""Variables of the environment, where processes that are started later find a directory, and the first process."""


class Hasty(MemoryBackend):
    """A write-back cache as written in an afternoon: fsync does nothing, and `close` stores all files."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(os.environ[WHERE])
        for path in self.root.iterdir():
            self.put(path.name, path.read_bytes())

    def remove(self, key: Key) -> None:
        super().remove(key)
        (self.root / str(key)).unlink(missing_ok=True)

    def close(self) -> None:
        for stat in self.list():
            (self.root / str(stat.key)).write_bytes(self.snapshot(stat.key))


def commit_elsewhere(file: Any) -> str | None:
    """Commits of a cache do not return in any process but the first."""
    main = threading.current_thread() is threading.main_thread()  # checks which keys the backend takes
    if not main and str(os.getpid()) != os.environ[HOME]:
        threading.Event().wait(1000.0)
    found: str | None = file.inner.commit()
    return found


def hangs_elsewhere() -> Backend:
    return Mistaken(
        type("Elsewhere", (PassingFile,), {"commit": commit_elsewhere}), DirectoryBackend(os.environ[WHERE])
    )


class TearsWrites(CachedTarget):
    """The last bytes of a long write are lost."""

    def write(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None:
        super().write(file, way, offset, data[:-100] if len(data) > 5000 else data, extra)


class NoFsync(CachedTarget):
    """fsync does nothing."""

    def fsync(self, file: int, way: str = "buffered", level: Durability = "backend") -> None:
        pass


class FlushesOnly(CachedTarget):
    """fsync writes back, and does not commit. Without a crash this stays unseen: all read bytes are in the store."""

    def fsync(self, file: int, way: str = "buffered", level: Durability = "backend") -> None:
        self.handle(file, "buffered").flush()


class AppendsOver(CachedTarget):
    """Appends are writes at the size that was read before."""

    def append(self, file: int, way: str, data: bytes) -> int:
        handle = self.handle(file, way)
        offset = handle.size
        threading.Event().wait(0.0005)
        handle.pwrite(data, offset)
        return offset


class LeavesTail(CachedTarget):
    """A truncate keeps the last 50 bytes that it should cut off."""

    def truncate(self, file: int, way: str, size: int) -> None:
        handle = self.handle(file, "buffered")
        kept = handle.pread(50, size)
        handle.truncate(size)
        if len(kept) == 50:
            handle.pwrite(kept, size)
            handle.truncate(size + 50)
            handle.truncate(size + 60)


BACKENDS = {"DropsTail": files(write_from=drops_tail), "ReadsOld": files(read_into=reads_old)}
TARGETS: dict[str, type[CachedTarget]] = {
    kind.__name__: kind for kind in (TearsWrites, NoFsync, AppendsOver, LeavesTail)
}
