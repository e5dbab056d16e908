"""Other caches and stores that a Python program could use instead: P9, and a dictionary of pages.

They hold pages of 4 KiB, and the goals are for folios of that size (the cache's slower form here); fsspec's cache holds
blocks of 64 KiB, and its goal is for folios of that size. Each peer is built and filled alone, measured beside the
cache, and freed before the next: together they would not fit into a small machine.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from pagecache.bench.subject import PAGE
from tests.bench.cases_hits import peer_variant, read_variant, write_variant
from tests.bench.peers import (
    CachetoolsPages,
    DiskcachePages,
    FsspecBlocks,
    LmdbPages,
    PageDict,
    Peer,
    Unavailable,
)
from tests.bench.rows import Bench, Row, case, comparison_row, skipped, timed

MAKERS: dict[str, Callable[[Path, int], Peer]] = {
    "dict": lambda folder, size: PageDict(size, PAGE),
    "cachetools": lambda folder, size: CachetoolsPages(size, PAGE),
    "diskcache": lambda folder, size: DiskcachePages(folder / "diskcache", size, PAGE),
    "lmdb": lambda folder, size: LmdbPages(folder / "lmdb", size, PAGE),
    "lmdb-writemap": lambda folder, size: LmdbPages(folder / "lmdb-writemap", size, PAGE, writemap=True),
    "fsspec": lambda folder, size: FsspecBlocks(size),
}
TITLES = {"dict": "dictionary of pages", "lmdb": "py-lmdb", "lmdb-writemap": "py-lmdb, writemap"}
LARGE_BLOCKS = ("fsspec",)
READS = ("diskcache", "lmdb", "cachetools", "fsspec")
WRITES = ("diskcache", "lmdb", "cachetools")
GOAL_KEYS = [f"P9/read-{name}" for name in READS] + [f"P9/write-{name}" for name in WRITES]


@case("peers", "4 KiB reads and writes against diskcache, py-lmdb, cachetools, fsspec and a dictionary", GOAL_KEYS)
def peers(bench: Bench) -> Iterator[Row]:
    """P9: one peer after the other."""
    for name, make in MAKERS.items():
        keys = [key for key in GOAL_KEYS if key.endswith(f"-{name}")]
        try:
            peer = make(bench.folder, bench.settings.size)
        except Unavailable as reason:
            yield from [skipped("peers", key, str(reason)) for key in keys]
            continue
        try:
            yield from beside(bench, name, peer)
        finally:
            peer.close()


def beside(bench: Bench, name: str, peer: Peer) -> Iterator[Row]:
    """Measure reads, then writes, beside one peer."""
    small, large = bench.subject(PAGE), bench.subject(64 * 1024)
    title = TITLES.get(name, name)
    for write, verb, names in ((False, "read", READS), (True, "write", WRITES)):
        own = write_variant if write else read_variant
        try:
            opponent = peer_variant(bench, name, peer, PAGE, write=write)
        except Unavailable:
            continue
        result = bench.compare([own(bench, "4K", small, PAGE), own(bench, "64K", large, PAGE), opponent])
        gated, other = ("64K", "4K") if name in LARGE_BLOCKS else ("4K", "64K")
        if name in names:
            yield timed("peers", f"P9/{verb}-{name}", result, gated, name)
        else:
            yield comparison_row("peers", f"4 KiB random {verb}, {gated} folios", title, result, gated, name)
        yield comparison_row("peers", f"4 KiB random {verb}, {other} folios", title, result, other, name)
    small.file.fsync()
    large.file.fsync()
