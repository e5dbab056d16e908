"""Stores for measuring: a device with a known time per write, and a store that counts calls exactly.

`CountingBackend` passes everything on and notes calls, bytes, and the addresses of written pages.
"""

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from cffi import FFI

from pagecache import Backend, BackendFile, BackendLimits, ObjectStat
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.bench.subject import PatternBackend

_ffi = FFI()


def address_of(view: memoryview) -> int:
    """Return the address of the bytes of `view` in memory."""
    return int(_ffi.cast("uintptr_t", _ffi.from_buffer(view)))


def sleep(seconds: float) -> None:
    """Wait as long as a device takes. Short times spin, because a sleep of 5 µs takes 60."""
    if seconds >= 0.0005:
        time.sleep(seconds)
        return
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


class SlowFile(PassingFile):
    """One object of a SlowBackend."""

    def __init__(self, inner: BackendFile, seconds: float) -> None:
        super().__init__(inner)
        self._seconds = seconds

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        sleep(self._seconds)
        return self.inner.write_from(offset, buffers)


class SlowBackend(PassingBackend):
    """Objects of `size` bytes; each write takes `seconds` at least and is dropped."""

    def __init__(self, size: int, seconds: float, limits: BackendLimits | None = None) -> None:
        super().__init__(PatternBackend(size, limits=limits))
        self._seconds = seconds

    def open(self, key: Hashable, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return SlowFile(self.inner.open(key, create=create, exclusive=exclusive), self._seconds)


@dataclass(slots=True)
class Tally:
    """The counts of a CountingBackend since `reset`."""

    reads: int = 0
    read_bytes: int = 0
    writes: int = 0
    write_bytes: int = 0
    commits: int = 0
    write_addresses: dict[int, int] = field(default_factory=dict)  # page of the file → address of its bytes

    def reset(self) -> None:
        """Restart the counts."""
        self.reads = self.read_bytes = self.writes = self.write_bytes = self.commits = 0
        self.write_addresses.clear()


class CountingFile:
    """One object of a CountingBackend."""

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
        inner: The backend that does the work.
        limits: Replacement for the limits of `inner`.
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
