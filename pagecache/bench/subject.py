"""The caches under test: full of one file, warm and aged, over a store without latency.

The file is touched in random order, one folio's worth at a time, so that frames that follow each other in memory
belong to offsets far apart, as in a cache that has been in use for a while. An unaged arena flatters small folios up
to 2.3×. Then every page is read once more: no page fault is left for a measured slice.

The capacity is twice the file: overwrites make all of it dirty without reaching the limits that slow writers down,
and nothing is evicted during a row that measures hits. Untouched memory is not used.
"""

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from pagecache import Backend, BackendFile, BackendLimits, CachedFile, ObjectStat, PageCache
from pagecache.bench.harness import shuffled
from pagecache.bench.plain import BLOCK, MIB

PAGE = 4096
KIB = 1024

Read = Callable[[int, Sequence[memoryview]], int]


def read_nothing(offset: int, buffers: Sequence[memoryview]) -> int:
    """Claim to have read everything: the cheapest possible backend."""
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


@dataclass(slots=True)
class PatternFile:
    """One object of a PatternBackend."""

    size: int
    read: Read

    def stat(self) -> ObjectStat:
        return ObjectStat(size=self.size, version="1")

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self.read(offset, buffers)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        length = sum([len(buffer) for buffer in buffers])
        self.size = max(self.size, offset + length)
        return length

    def truncate(self, size: int) -> None:
        self.size = size

    def commit(self) -> str | None:
        return "1"


class PatternBackend(Backend):
    """Objects of a given size whose content is a pattern; writes are dropped, so a file of any size costs no memory.

    Objects that are created start empty. `read` is `read_pattern` or `read_nothing`.
    """

    def __init__(self, size: int, *, read: Read = read_pattern, limits: BackendLimits | None = None) -> None:
        self.limits = limits or BackendLimits()
        self._size, self._read = size, read
        self._files: dict[Hashable, PatternFile] = {}

    def open(self, key: Hashable, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        if key not in self._files:
            self._files[key] = PatternFile(0 if create else self._size, self._read)
        return self._files[key]

    def stat(self, key: Hashable) -> ObjectStat:
        return self._files[key].stat() if key in self._files else ObjectStat(size=self._size, version="1")


on_cache: list[Callable[[PageCache], object]] = []  # called with each cache that a case makes


def made(cache: PageCache) -> PageCache:
    """Announce a new cache to `on_cache`, and return it."""
    for call in on_cache:
        call(cache)
    return cache


def cache_for_hits(capacity: int, folio: int) -> PageCache:
    """Return a cache that writes nothing back by itself, with folios of at most `folio` bytes."""
    limits: dict[str, Any] = {
        "dirty_background": 0.90,
        "dirty_limit": 0.95,
        "dirty_expire": 3600.0,
        "flush_interval": 600.0,
    }
    return made(PageCache(capacity, max_folio=folio, **limits))


class Subject:
    """One cache that holds one file of `size` bytes completely, in folios of `folio` bytes."""

    def __init__(self, size: int, folio: int, rng: random.Random) -> None:
        self.cache = cache_for_hits(2 * size, folio)
        self.file: CachedFile = self.cache.attach(PatternBackend(size), read_ahead=0).open("file", "r+b")
        self._folios = size // folio
        for offset in shuffled(range(0, size, folio), rng):
            self.file.pread(folio, offset)
        for offset in range(0, size, MIB):
            self.file.pread(MIB, offset)

    def note(self) -> str:
        """Return a remark if the folios do not have the intended size, else ""."""
        found = self.cache.stats().folios
        return f"{found} folios instead of {self._folios}" if abs(found - self._folios) > self._folios // 50 else ""

    def close(self) -> None:
        """Close the file and the cache."""
        self.file.close()
        self.cache.close(on_failed="discard")
