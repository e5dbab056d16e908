"""Stores for measuring: nothing below them takes time that was not asked for, and their calls can be counted exactly.

`PatternBackend` answers reads from one small block (or not at all) and forgets writes, so a file of any size costs no
memory. `CountingBackend` passes everything on and notes what was handed over: how many calls, how many bytes, at
which addresses.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from cffi import FFI

from pagecache import Backend, BackendFile, BackendLimits, ObjectStat

BLOCK = bytes(range(256)) * 4096  # 1 MiB; what a reader sees has to be something

_ffi = FFI()


def address_of(view: memoryview) -> int:
    """Where the bytes of `view` lie in memory."""
    return int(_ffi.cast("uintptr_t", _ffi.from_buffer(view)))


def sleep(seconds: float) -> None:
    """Wait as a device would make us wait: short times spinning, because a sleep of 5 µs takes 60."""
    if seconds >= 0.0005:
        time.sleep(seconds)
        return
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@dataclass(slots=True)
class PatternFile:
    """One object of a PatternBackend."""

    size: int
    read: Callable[[int, Sequence[memoryview]], int]
    write_seconds: float

    def stat(self) -> ObjectStat:
        return ObjectStat(size=self.size, version="1")

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self.read(offset, buffers)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        if self.write_seconds:
            sleep(self.write_seconds)
        length = sum([len(buffer) for buffer in buffers])
        self.size = max(self.size, offset + length)
        return length

    def truncate(self, size: int) -> None:
        self.size = size

    def commit(self) -> str | None:
        return "1"


def read_nothing(offset: int, buffers: Sequence[memoryview]) -> int:
    """Claim to have read everything: the cheapest backend that can be."""
    length = 0
    for buffer in buffers:
        length += len(buffer)
    return length


def read_pattern(offset: int, buffers: Sequence[memoryview]) -> int:
    """Copy from one block: the cheapest backend that delivers bytes."""
    length = 0
    for buffer in buffers:
        part = len(buffer)
        for start in range(0, part, len(BLOCK)):
            piece = min(part - start, len(BLOCK))
            buffer[start : start + piece] = BLOCK[:piece] if piece != len(BLOCK) else BLOCK
        length += part
    return length


class PatternBackend(Backend):
    """Objects of a given size whose content is a pattern; writes are forgotten.

    Args:
        size: Bytes of every object; objects that are created start empty.
        read: `read_pattern` or `read_nothing`.
        write_seconds: Each write takes at least this long.
        limits: What the cache may ask of it.
    """

    def __init__(
        self,
        size: int,
        *,
        read: Callable[[int, Sequence[memoryview]], int] = read_pattern,
        write_seconds: float = 0.0,
        limits: BackendLimits | None = None,
    ) -> None:
        self.limits = limits or BackendLimits()
        self._size = size
        self._read = read
        self._write_seconds = write_seconds
        self._files: dict[Hashable, PatternFile] = {}

    def open(self, key: Hashable, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        if key not in self._files:
            self._files[key] = PatternFile(0 if create else self._size, self._read, self._write_seconds)
        return self._files[key]

    def stat(self, key: Hashable) -> ObjectStat:
        if key not in self._files:
            return ObjectStat(size=self._size, version="1")
        return self._files[key].stat()


@dataclass(slots=True)
class Tally:
    """What was handed to a CountingBackend since `reset`."""

    reads: int = 0
    read_bytes: int = 0
    writes: int = 0
    write_bytes: int = 0
    commits: int = 0
    write_addresses: dict[int, int] = field(default_factory=dict)  # page of the file → address of its bytes

    def reset(self) -> None:
        """Start counting anew."""
        self.reads = self.read_bytes = self.writes = self.write_bytes = self.commits = 0
        self.write_addresses.clear()


class CountingFile:
    """One object of a CountingBackend: counts, then passes on."""

    def __init__(self, inner: BackendFile, tally: Tally, page: int) -> None:
        self._inner = inner
        self._tally = tally
        self._page = page

    def stat(self) -> ObjectStat:
        return self._inner.stat()

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        length = self._inner.read_into(offset, buffers)
        self._tally.reads += 1
        self._tally.read_bytes += length
        return length

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        position = offset
        for buffer in buffers:
            address = address_of(buffer)
            first = -position % self._page
            for start in range(first, len(buffer), self._page):
                self._tally.write_addresses[(position + start) // self._page] = address + start
            position += len(buffer)
        length = self._inner.write_from(offset, buffers)
        self._tally.writes += 1
        self._tally.write_bytes += length
        return length

    def truncate(self, size: int) -> None:
        self._inner.truncate(size)

    def commit(self) -> str | None:
        self._tally.commits += 1
        return self._inner.commit()


class CountingBackend(Backend):
    """Counts the calls to `inner`, one thread at a time (`max_inflight` of its limits should be 1 for exact counts).

    Args:
        inner: Does the work.
        limits: Instead of those of `inner`.
        page: Bytes of the pages whose addresses are noted.
    """

    def __init__(self, inner: Backend, *, limits: BackendLimits | None = None, page: int = 4096) -> None:
        self.limits = limits or inner.limits
        self.tally = Tally()
        self._inner = inner
        self._page = page

    def open(self, key: Hashable, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        inner = self._inner.open(key, create=create, exclusive=exclusive)
        return CountingFile(inner, self.tally, self._page)

    def stat(self, key: Hashable) -> ObjectStat:
        return self._inner.stat(key)
