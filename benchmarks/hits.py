"""Hits of 4 KiB beside other caches and ways to memory: `python benchmarks/hits.py [--quick]`.

Each way holds the whole working set in memory and takes its keys in its preferred form, its functions looked up before.
None of the others writes back, checks versions or bounds its memory. They come with the extra `bench`; what is not
installed is skipped. Rows are multiples of the other's speed (median of the rounds within one run, and its spread).
"""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from pagecache.aio import AsyncCachedFile
from pagecache.bench import BLOCK, FOLIO, MIB, PAGE, QUICK, Bench, Run, Settings, Way, each

DATA = BLOCK[:PAGE]
Peer = tuple[Run, Run | None, Callable[[int], Any]]
"""Reads, overwrites, and the key of an offset."""


def mapping(bench: Bench) -> Peer:
    """Slices of a shared mapping."""
    with bench.plain("mapped").open("r+b") as file:
        pages = bench.stack.enter_context(mmap.mmap(file.fileno(), 0))
    for offset in range(0, len(pages), PAGE):
        pages[offset] = pages[offset]  # map each page for writing

    def read(offsets: Sequence[int]) -> None:
        for offset in offsets:
            pages[offset : offset + PAGE]

    def write(offsets: Sequence[int]) -> None:
        for offset in offsets:
            pages[offset : offset + PAGE] = DATA

    return read, write, int


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

    return read, write, int


def diskcache(bench: Bench) -> Peer:
    """Diskcache on tmpfs: SQLite below, one transaction for each write."""
    words: dict[str, Any] = {"size_limit": 8 * bench.settings.size, "eviction_policy": "none", "cull_limit": 0}
    cache = bench.stack.enter_context(import_module("diskcache").Cache(str(bench.folder / "diskcache"), **words))
    with cache.transact():
        for offset in bench.offsets():
            cache.set(offset, DATA)
    return each(cache.get), each(lambda key: cache.set(key, DATA)), int


def lmdb(bench: Bench) -> Peer:
    """py-lmdb on tmpfs without sync: reads in one transaction a slice, its fastest form, each write in its own."""
    map_size = 8 * bench.settings.size + 64 * MIB
    env: Any = import_module("lmdb").open(str(bench.folder / "lmdb"), map_size=map_size, sync=False)
    bench.stack.callback(env.close)

    def read(keys: Sequence[bytes]) -> None:
        with env.begin() as transaction:
            each(transaction.get)(keys)

    def put(key: bytes) -> None:
        with env.begin(write=True) as transaction:
            transaction.put(key, DATA)

    keys = partial(int.to_bytes, length=8, byteorder="big")
    each(put)([keys(offset) for offset in bench.offsets()])
    return read, each(put), keys


def fsspec(bench: Bench) -> Peer:
    """Fsspec's block cache, which its remote files read through: blocks of 64 KiB. It cannot write."""
    size = bench.settings.size
    made = import_module("fsspec.caching").BlockCache
    cache = made(FOLIO, lambda start, end: BLOCK[: end - start], size, maxblocks=size // FOLIO)
    for offset in range(0, size, FOLIO):
        cache._fetch(offset, offset + FOLIO)
    return each(lambda offset: cache._fetch(offset, offset + PAGE)), None, int


PEERS: dict[str, Callable[[Bench], Peer]] = {
    "mmap slice": mapping,
    "cachetools + lock": cachetools,
    "diskcache": diskcache,
    "py-lmdb": lmdb,
    "fsspec block cache": fsspec,
}


def beside_peers(bench: Bench) -> Iterator[str]:
    """Random reads and overwrites in 4 KiB folios beside each peer."""
    file = bench.file(PAGE)
    for name, make in PEERS.items():
        try:
            read, write, key = make(bench)
        except ImportError as error:
            yield f"| {name} | not installed: {error.name} | |"
            continue
        found = []
        for own, other in ((each(file.pread, PAGE), read), (each(file.pwrite, DATA), write)):
            if other is None:
                found.append("–")
                continue
            peer = Way(name="peer", run=other, items=[key(offset) for offset in bench.offsets()])
            value, _, spread = bench.compare(bench.way("cache", own), peer).speed("cache", "peer")
            found.append(f"{value:.2f} ±{100 * spread:.0f} %")
        yield f"| {name} | {' | '.join(found)} |"
    file.fsync()


def other_ways(bench: Bench) -> Iterator[str]:
    """Sequential hits, views and awaited hits, in 64 KiB folios."""
    file, large = bench.file(FOLIO), bench.file(MIB)
    upward, pieces = range(0, bench.settings.size, PAGE), bench.offsets(MIB)

    def view(offset: int) -> None:
        with file.view(offset, MIB) as found:
            for segment in found.segments:
                segment[::PAGE].tobytes()

    for metric, against, own, other, items in (
        ("4 KiB sequential hit", "os.pread", each(file.pread, PAGE), each(os.pread, bench.descriptor(), PAGE), upward),
        ("1 MiB view: open, touch every page, release", "pread of it", each(view), each(large.pread, MIB), pieces),
    ):
        ways = [Way(name=name, run=run, items=items) for name, run in (("own", own), ("other", other))]
        value, _, spread = bench.compare(*ways).speed("own", "other")
        yield f"| {metric} | {against} | {value:.2f} × speed ±{100 * spread:.0f} % |"
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
