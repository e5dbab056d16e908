"""One file, many threads: P25 and P26.

P25 sends 64 KiB direct writes by eight threads to a backend that takes a millisecond for each, once with a handle that
shares the file's lock and once with one that does not. P26 reads valid pages of a file whose lock is held exclusively
and whose pages are all in flight in a write that does not return, against those of an idle file.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from pagecache import BackendFile, BackendLimits, CachedFile
from pagecache.bench.harness import Variant, shuffled
from pagecache.bench.plain import BLOCK, MIB
from pagecache.bench.subject import KIB, PAGE, PatternBackend, cache_for_hits
from pagecache.native import LOCK
from tests.bench.backends import SlowBackend
from tests.bench.rows import Bench, Row, case, timed

THREADS = 8
PIECE = 64 * KIB
WAIT_LIMIT_S = 60.0


class DirectWriters:
    """Threads that write to one file directly."""

    def __init__(self, stack: ExitStack, *, parallel: bool) -> None:
        limits = BackendLimits(parallel_direct_writes=True, max_inflight=THREADS)
        cache = stack.enter_context(cache_for_hits(16 * MIB, PAGE))
        volume = cache.attach(SlowBackend(64 * MIB, 1e-3, limits), read_ahead=0)
        handle = volume.open("file", "r+b", direct=True, parallel_direct_writes=parallel)
        self.file = stack.enter_context(handle)
        self._pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        self.run(range(0, THREADS * PIECE, PIECE))  # threads start with their first work

    def _write(self, offsets: Sequence[int]) -> None:
        for offset in offsets:
            self.file.pwrite(BLOCK[:PIECE], offset)

    def run(self, offsets: Sequence[int]) -> None:
        """Write a piece at each offset, all threads together."""
        for done in [self._pool.submit(self._write, offsets[k::THREADS]) for k in range(THREADS)]:
            done.result(WAIT_LIMIT_S)


@case("direct", "parallel 64 KiB direct writes by 8 threads, 1 ms backend: shared lock against exclusive", ("P25",))
def direct(bench: Bench) -> Iterator[Row]:
    """P25: how far direct writes scale."""
    offsets = [*range(0, 16 * THREADS * PIECE, PIECE)]
    with ExitStack() as stack:
        shared, exclusive = (DirectWriters(stack, parallel=parallel) for parallel in (True, False))
        result = bench.compare(
            [
                Variant(name="shared", run=shared.run, items=offsets),
                Variant(name="exclusive", run=exclusive.run, items=offsets),
            ],
            wall=True,
            rounds=min(bench.settings.rounds, 11),
            counts={"shared": len(offsets), "exclusive": len(offsets)},
        )
    yield timed("direct", "P25", result, "shared", "exclusive")


class _StuckFile:
    """A file whose writes do not return before a test releases them."""

    def __init__(self, inner: BackendFile, entered: threading.Event, release: threading.Event) -> None:
        self._inner = inner
        self._entered = entered
        self._release = release

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        self._entered.set()
        self._release.wait(WAIT_LIMIT_S)
        return self._inner.write_from(offset, buffers)


class _StuckBackend(PatternBackend):
    def __init__(self, size: int) -> None:
        super().__init__(size, limits=BackendLimits(max_write=size, max_vectors=size // PAGE))
        self.entered, self.release = threading.Event(), threading.Event()

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        inner = super().open(key, create=create, exclusive=exclusive)
        return _StuckFile(inner, self.entered, self.release)


def _read(file: CachedFile, offsets: Sequence[int]) -> None:
    pread = file.pread
    for offset in offsets:
        pread(PAGE, offset)


@case("locked-reads", "4 KiB reads of a file that is locked and written back, against an idle one", ("P26",))
def locked_reads(bench: Bench) -> Iterator[Row]:
    """P26: a reader of valid pages does not wait."""
    size = 4 * MIB
    offsets = shuffled(range(0, size, PAGE), bench.rng)
    with ExitStack() as stack:
        files = []
        for name in ("idle", "busy"):
            cache = stack.enter_context(cache_for_hits(4 * size, PAGE))
            backend = _StuckBackend(size)
            stack.callback(backend.release.set)
            file = stack.enter_context(cache.attach(backend, read_ahead=0).open(name, "r+b"))
            for offset in offsets:
                file.pwrite(BLOCK[:PAGE], offset)
            files.append((file, backend))
        (idle, free), (busy, stuck) = files
        free.release.set()
        idle.fsync()
        flush = threading.Thread(target=busy.flush, daemon=True)
        flush.start()
        stuck.entered.wait(WAIT_LIMIT_S)
        holder = threading.Thread(target=_hold, args=(busy, stuck.release), daemon=True)
        holder.start()
        result = bench.compare(
            [
                Variant(name="busy", run=partial(_read, busy), items=offsets),
                Variant(name="idle", run=partial(_read, idle), items=offsets),
            ]
        )
        stuck.release.set()
        flush.join(WAIT_LIMIT_S)
        holder.join(WAIT_LIMIT_S)
    yield timed("locked-reads", "P26", result, "busy", "idle")


def _hold(file: CachedFile, until: threading.Event) -> None:
    """Keep the file's lock, as a waiting write does."""
    file._inode.native.run(LOCK, "holding", lambda: until.wait(WAIT_LIMIT_S))
