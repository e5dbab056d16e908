"""The caches under test: full of one file, warm and aged.

    1. The file is touched in random order, one folio's worth at a time, so that frames that follow each other in
       memory belong to offsets far apart, as in a cache that has been in use for a while. An unaged arena flatters
       small folios up to 2.3×.
    2. Every page is read once more: no page fault is left to happen in a measured slice.

The capacity is twice the file: overwrites make all of it dirty without reaching the limits that slow writers down,
and nothing is evicted behind a row that measures hits. Memory that is not touched is not used.
"""

import random
from types import TracebackType
from typing import Self

from pagecache import CachedFile, PageCache, Volume
from pagecache.bench.backends import PatternBackend
from pagecache.bench.harness import shuffled
from pagecache.bench.traces import made

PAGE = 4096
KIB = 1024
MIB = 1024 * 1024


def cache_for_hits(capacity: int, folio: int) -> PageCache:
    """A cache that writes nothing back by itself, with folios of at most `folio` bytes."""
    return made(
        PageCache(
            capacity,
            max_folio=folio,
            dirty_background=0.90,
            dirty_limit=0.95,
            dirty_expire=3600.0,
            flush_interval=600.0,
        )
    )


class Subject:
    """One cache holding one file completely. A context manager.

    Args:
        size: Bytes of the file.
        folio: Bytes of its folios: 4096, or a power of two above.
        rng: The order in which pages are touched.
    """

    def __init__(self, size: int, folio: int, rng: random.Random) -> None:
        self.size = size
        self.folio = folio
        self.cache = cache_for_hits(2 * size, folio)
        self.volume: Volume = self.cache.attach(PatternBackend(size), read_ahead=0)
        self.file: CachedFile = self.volume.open("file", "r+b")
        for offset in shuffled(range(0, size, folio), rng):
            self.file.pread(folio, offset)
        for offset in range(0, size, MIB):
            self.file.pread(MIB, offset)

    def note(self) -> str:
        """Say so if the folios are not those that were asked for; "" when all is as intended."""
        expected = self.size // self.folio
        found = self.cache.stats().folios
        if abs(found - expected) <= expected // 50:
            return ""
        return f"{found} folios instead of {expected}"

    def clean(self) -> None:
        """Write everything back."""
        self.file.fsync()

    def close(self) -> None:
        """Close the file and the cache."""
        self.file.close()
        self.cache.close(on_failed="discard")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
