"""Hits of 4 KiB beside other caches and ways to memory: `python benchmarks/hits.py [--quick]`.

Each way holds the whole working set in memory, its functions looked up before. None of the others writes back, checks
versions or bounds its memory. They come with the extra `bench`; what is not installed is skipped. Rows are multiples of
the other's speed (median of the rounds within one run, and its spread).
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from pagecache.aio import AsyncCachedFile
from pagecache.bench import BLOCK, FOLIO, MIB, PAGE, QUICK, Bench, Run, Settings, Way, each

DATA = BLOCK[:PAGE]
Peer = tuple[Run, Run]
"""Reads and overwrites."""


def cachetools(bench: Bench) -> Peer:
    """A bounded dictionary of pages with a lock and a set of dirty pages: what a program builds first."""
    pages = import_module("cachetools").LRUCache(bench.settings.size // PAGE)
    for offset in bench.offsets():
        pages[offset] = bytearray(DATA)
    lock, dirty = threading.Lock(), set()

    def read(offsets: Sequence[int]) -> None:
        for offset in offsets:
            with lock:
                bytes(pages[offset])

    def write(offsets: Sequence[int]) -> None:
        for offset in offsets:
            with lock:
                pages[offset][:] = DATA
                dirty.add(offset)

    return read, write


def diskcache(bench: Bench) -> Peer:
    """Diskcache on tmpfs: SQLite below, one transaction for each write."""
    words: dict[str, Any] = {"size_limit": 8 * bench.settings.size, "eviction_policy": "none", "cull_limit": 0}
    cache = bench.stack.enter_context(import_module("diskcache").Cache(str(bench.folder / "diskcache"), **words))
    with cache.transact():
        for offset in bench.offsets():
            cache.set(offset, DATA)
    return each(cache.get), each(lambda key: cache.set(key, DATA))


PEERS: dict[str, Callable[[Bench], Peer]] = {"cachetools + lock": cachetools, "diskcache": diskcache}


def beside_peers(bench: Bench) -> Iterator[str]:
    """Random reads and overwrites in 4 KiB folios beside each peer."""
    file = bench.file(PAGE)
    for name, make in PEERS.items():
        try:
            read, write = make(bench)
        except ImportError as error:
            yield f"| {name} | not installed: {error.name} | |"
            continue
        found = []
        for own, other in ((each(file.pread, PAGE), read), (each(file.pwrite, DATA), write)):
            value, _, spread = bench.compare(bench.way("cache", own), bench.way("peer", other)).speed("cache", "peer")
            found.append(f"{value:.2f} ±{100 * spread:.0f} %")
        yield f"| {name} | {' | '.join(found)} |"
    file.fsync()


def other_ways(bench: Bench) -> Iterator[str]:
    """Views and awaited hits, in 64 KiB folios."""
    file, large, pieces = bench.file(FOLIO), bench.file(MIB), bench.offsets(MIB)

    def view(offset: int) -> None:
        with file.view(offset, MIB) as found:
            for segment in found.segments:
                segment[::PAGE].tobytes()

    ways = [Way(name="own", run=each(view), items=pieces), Way(name="other", run=each(large.pread, MIB), items=pieces)]
    value, _, spread = bench.compare(*ways).speed("own", "other")
    metric = "1 MiB view: open, touch every page, release"
    yield f"| {metric} | pread of it | {value:.2f} × speed ±{100 * spread:.0f} % |"
    awaited, runner = AsyncCachedFile(file), bench.stack.enter_context(asyncio.Runner())

    async def hits(offsets: Sequence[int]) -> None:
        for offset in offsets:
            await awaited.pread(PAGE, offset)

    async def constant() -> bytes:
        return b""

    async def constants(offsets: Sequence[int]) -> None:
        for _ in offsets:
            await constant()

    ways = [bench.way("hit", lambda some: runner.run(hits(some)))]
    found = bench.compare(*ways, bench.way("other", lambda some: runner.run(constants(some))))
    more = [hit - other for hit, other in zip(found["hit"], found["other"], strict=True)]
    yield f"| awaited 4 KiB hit, less a coroutine that returns a constant | | {1e6 * median(more):.2f} µs |"


def main() -> None:
    settings = replace(QUICK, rounds=5) if "--quick" in sys.argv[1:] else Settings()
    with TemporaryDirectory(dir="/dev/shm") as folder, ExitStack() as stack:
        bench = Bench(settings, Path(folder), random.Random(settings.seed), stack)
        print("| 4 KiB at random offsets, beside | reads, × speed | overwrites, × speed |\n|---|---|---|")
        for line in beside_peers(bench):
            print(line, flush=True)
        print("\n| hits in 64 KiB folios | beside | |\n|---|---|---|")
        for line in other_ways(bench):
            print(line, flush=True)


if __name__ == "__main__":
    main()
