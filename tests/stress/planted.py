"""Backends and targets with one planted mistake each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from pagecache import Backend
from pagecache.backends import BackendFile, MemoryBackend
from pagecache.backends.memory import MemoryFile
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import Key
from pagecache.stress.cached import CachedTarget

Buffers = Sequence[memoryview]


class Planted(PassingBackend):
    """Memory, with files of a class that is wrong in one way."""

    def __init__(self, kind: type[PassingFile]) -> None:
        super().__init__(MemoryBackend())
        self._kind = kind

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return self._kind(self.inner.open(key, create=create, exclusive=exclusive))


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


class DropsTail(PassingFile):
    """Stores zeros for the part beyond the last whole sector."""

    def write_from(self, offset: int, buffers: Buffers) -> int:
        data = b"".join(buffers)
        kept = len(data) - len(data) % 512 or len(data)
        return self.inner.write_from(offset, [memoryview(data[:kept] + bytes(len(data) - kept))])


class ReadsOld(PassingFile):
    """Keeps the first page as it was first read."""

    def __init__(self, inner: BackendFile) -> None:
        super().__init__(inner)
        self._old: bytes | None = None

    def read_into(self, offset: int, buffers: Buffers) -> int:
        count = self.inner.read_into(offset, buffers)
        if offset == 0 and count >= 4096 and len(buffers[0]) >= 4096:
            if self._old is None:
                self._old = bytes(buffers[0][:4096])
            buffers[0][:4096] = self._old
        return count


class HangsInCommit(PassingFile):
    """The fifth commit does not return before `free` is set."""

    _commits = 0
    free = threading.Event()

    def commit(self) -> str | None:
        HangsInCommit._commits += 1
        if HangsInCommit._commits == 5:
            HangsInCommit.free.wait(60)
        return self.inner.commit()


class TearsWrites(CachedTarget):
    """The last bytes of a long write are lost."""

    def write(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None:
        super().write(file, way, offset, data[:-100] if len(data) > 5000 else data, extra)


class NoFsync(CachedTarget):
    """fsync does nothing."""

    def fsync(self, file: int, way: str = "buffered") -> None:
        pass


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


BACKENDS: dict[str, Callable[[], Backend]] = {kind.__name__: partial(Planted, kind) for kind in (DropsTail, ReadsOld)}
TARGETS: dict[str, type[CachedTarget]] = {
    kind.__name__: kind for kind in (TearsWrites, NoFsync, AppendsOver, LeavesTail)
}
