"""The whole way from a write to a durable byte: P17, P18, P21 to P24, and write-through.

Two variants differ in one thing: the writing threads, the number of calls in flight, copies of buffers, a concurrent
writer, or a full cache. Times are wall times, since threads and sleeping backends take part; P23 is counted.
"""

import errno
import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from pagecache import BackendFile, BackendLimits, CachedFile, PageCache, RetryPolicy, Volume
from pagecache.backends import DirectoryBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.bench.harness import Variant, shuffled
from pagecache.bench.plain import BLOCK, MIB
from pagecache.bench.subject import KIB, PAGE, PatternBackend, cache_for_hits, made
from pagecache.testing import FaultPlan, FaultyBackend, Rule
from tests.bench.backends import SlowBackend
from tests.bench.rows import Bench, Row, case, comparison_row, exact, timed


def few(bench: Bench) -> int:
    """The number of rounds of slow cases."""
    return min(bench.settings.rounds, 11)


# ---------------------------------------------------------------- P18


def dirty(file: CachedFile, size: int) -> None:
    """Write the file from its start, a MiB at a time."""
    for offset in range(0, size, MIB):
        file.pwrite(BLOCK, offset)


@case("in-flight", "sequential dirty data over a 1 ms backend, 8 calls in flight against one", ("P18",))
def in_flight(bench: Bench) -> Iterator[Row]:
    """P18: 64 requests of 256 KiB. One file may use all calls of a volume but one."""
    size = 16 * MIB
    with ExitStack() as stack:
        variants = []
        for calls in (8, 1):
            limits = BackendLimits(max_write=256 * KIB, max_inflight=calls)
            cache = stack.enter_context(cache_for_hits(64 * MIB, MIB))
            backend = SlowBackend(size, 1e-3, limits)
            file = stack.enter_context(cache.attach(backend, read_ahead=0).open("file", "r+b"))

            def flush(items: Sequence[int], file: CachedFile = file) -> None:
                for _ in items:
                    file.flush()

            variants.append(Variant(name=str(calls), run=flush, items=[0], before=partial(dirty, file, size)))
        result = bench.compare(variants, wall=True, rounds=few(bench), counts={"8": 1, "1": 1})
    yield timed("in-flight", "P18", result, "8", "1")


# ---------------------------------------------------------------- P21


class CopyingFile(PassingFile):
    """An imitation of a write-back with temporary copies: every buffer is copied before it is sent."""

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self.inner.write_from(offset, [memoryview(bytes(buffer)) for buffer in buffers])


class CopyingBackend(PassingBackend):
    """The switch of P21."""

    def open(self, key: Hashable, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return CopyingFile(self.inner.open(key, create=create, exclusive=exclusive))


SEED_COPIES = {KIB: "-3 %", 4 * KIB: "+23 %", MIB: "+45 %"}


@case("copies", "write-back without temporary copies against the same engine with them", group="writeback")
def copies(bench: Bench) -> Iterator[Row]:
    """P21: writes of 1 KiB, 4 KiB and 1 MiB, then flush, over dir: on tmpfs."""
    size = 16 * MIB
    folder = bench.folder / "copies"
    folder.mkdir(exist_ok=True)
    for piece in (KIB, 4 * KIB, MIB):
        with ExitStack() as stack:
            variants = []
            for name in ("without", "with"):
                cache = stack.enter_context(cache_for_hits(64 * MIB, MIB))
                store = DirectoryBackend(folder)
                volume = cache.attach(store if name == "without" else CopyingBackend(store), read_ahead=0)
                file = stack.enter_context(volume.open(f"{name}-{piece}", "w+b"))

                def write(items: Sequence[int], file: CachedFile = file, piece: int = piece) -> None:
                    for _ in items:
                        data = BLOCK[:piece]
                        for offset in range(0, size, piece):
                            file.pwrite(data, offset)
                        file.flush()

                write([0])
                variants.append(Variant(name=name, run=write, items=[0]))
            result = bench.compare(variants, wall=True, rounds=few(bench), counts={"without": 1, "with": 1})
        metric = f"{piece // KIB} KiB writes and flush, no temporary copies"
        note = f"P21; the seed's kernel change gave {SEED_COPIES[piece]}"
        yield comparison_row("copies", metric, "the same engine with them", result, "without", "with", note)


# ---------------------------------------------------------------- S1: several pages in one write-through request


@case("write-through", "1 MiB written through in one call against page by page", group="writeback")
def write_through(bench: Bench) -> Iterator[Row]:
    """A request of many pages against requests of one page, sequential and random, 20 µs a call."""
    for order in ("sequential", "random"):
        offsets = list(range(0, MIB, PAGE))
        if order == "random":
            offsets = shuffled(offsets, bench.rng)
        with ExitStack() as stack:
            cache = stack.enter_context(cache_for_hits(64 * MIB, PAGE))
            volume = cache.attach(SlowBackend(MIB, 20e-6), read_ahead=0)
            whole = stack.enter_context(volume.open("whole", "r+b", write_through=True))
            pages = stack.enter_context(volume.open("pages", "r+b", write_through=True))

            def one(items: Sequence[int], whole: CachedFile = whole) -> None:
                for _ in items:
                    whole.pwrite(BLOCK, 0)

            def many(items: Sequence[int], pages: CachedFile = pages, offsets: list[int] = offsets) -> None:
                page = BLOCK[:PAGE]
                for _ in items:
                    for offset in offsets:
                        pages.pwrite(page, offset)

            result = bench.compare(
                [Variant(name="one", run=one, items=[0]), Variant(name="many", run=many, items=[0])],
                wall=True,
                rounds=few(bench),
                counts={"one": 1, "many": 1},
            )
        yield comparison_row(
            "write-through", "1 MiB written through in one call", f"256 pages, {order}", result, "one", "many"
        )


# ---------------------------------------------------------------- P22


class BusyWriter:
    """Writes pages of the upper half of a file without pause while a slice runs."""

    def __init__(self, file: CachedFile, size: int) -> None:
        self.file, self.size = file, size
        self.stop = threading.Event()
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write."""
        self.stop.clear()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        offset, page = 0, BLOCK[:PAGE]
        while not self.stop.is_set():
            self.file.pwrite(page, offset % self.size)
            offset += PAGE

    def end(self) -> None:
        """Stop writing."""
        self.stop.set()
        if self.thread is not None:
            self.thread.join()


@case("sync", "sync while another thread writes without pause, against an idle file", ("P22",))
def sync_beside_a_writer(bench: Bench) -> Iterator[Row]:
    """P22: 16 MiB are dirty when the sync begins, over 1 ms a MiB; the writer goes on over the same pages."""
    size = 16 * MIB
    with ExitStack() as stack:
        variants = []
        for name in ("busy", "idle"):
            limits = BackendLimits(max_write=MIB, max_inflight=2)
            cache = stack.enter_context(cache_for_hits(256 * MIB, 64 * KIB))
            volume = cache.attach(SlowBackend(size, 1e-3, limits), read_ahead=0)
            file = stack.enter_context(volume.open("file", "r+b"))
            writer = BusyWriter(file, size)

            def before(name: str = name, file: CachedFile = file, writer: BusyWriter = writer) -> None:
                file.fsync()
                dirty(file, size)
                if name == "busy":
                    writer.start()

            def sync(items: Sequence[int], volume: Volume = volume) -> None:
                for _ in items:
                    volume.sync()

            variants.append(Variant(name=name, run=sync, items=[0], before=before, after=writer.end))
        result = bench.compare(variants, wall=True, rounds=few(bench), counts={"busy": 1, "idle": 1})
    yield timed("sync", "P22", result, "busy", "idle")


# ---------------------------------------------------------------- P23


def sent_for(percent: int, seed: int) -> tuple[float, int]:
    """Bytes given to the backend for each byte needed, and the number of requests sent again."""
    size = 256 * MIB
    plan = FaultPlan([Rule("write", chance=percent / 100, error=errno.EIO)], seed=seed)
    limits = BackendLimits(max_write=256 * KIB, max_inflight=1)
    faulty = FaultyBackend(PatternBackend(size, limits=limits), plan)
    retry = RetryPolicy(attempts=50, first_delay=0.0005, max_delay=0.001)
    with made(PageCache(2 * size, dirty_background=0.9, dirty_limit=0.95, retry=retry, max_folio=64 * KIB)) as cache:
        volume = cache.attach(faulty, read_ahead=0)
        with volume.open("file", "r+b") as file:
            dirty(file, size)
            file.fsync()
        retries = volume.stats().retries
    return sum(call.length or 0 for call in faulty.calls_of("write")) / size, retries


@case("resent", "bytes sent for each byte needed while requests fail", ("P23/1%", "P23/10%"))
def resent(bench: Bench) -> Iterator[Row]:
    """P23: 256 MiB in requests of 256 KiB; each call fails with the given chance."""
    for percent in (1, 10):
        value, retries = sent_for(percent, bench.settings.seed)
        yield exact("resent", f"P23/{percent}%", value, f"{retries} requests sent again")


# ---------------------------------------------------------------- P24


class Fresh:
    """New pages at ever new offsets of a file; written pages are clean before the next slice.

    Both variants walk through equally many frames: an empty cache that returned a few frames again and again would have
    them in the processor's cache.
    """

    def __init__(self, stack: ExitStack, capacity: int, frames: int, fill: int) -> None:
        limits = BackendLimits(max_inflight=1, durable_writes=True)
        self.frames = frames
        self.written = 0
        self.cache = stack.enter_context(made(PageCache(capacity, max_folio=64 * KIB, dirty_limit=0.9)))
        volume = self.cache.attach(PatternBackend(1 << 40, limits=limits), read_ahead=0)
        self.file = stack.enter_context(volume.open("written", "r+b"))
        other = stack.enter_context(volume.open("clean", "rb"))
        for offset in range(0, fill, MIB):
            other.pread(MIB, offset)
        for _ in range(2):
            dirty(self.file, frames)
            self.settle()
        if fill:
            dirty(self.file, frames // 5)
        else:
            self.file.volume.drop_clean()
        self.offset = frames

    def write(self, items: Sequence[int]) -> None:
        """Write 64 KiB for each item."""
        data = BLOCK[: 64 * KIB]
        for _ in items:
            self.file.pwrite(data, self.offset)
            self.offset += len(data)
            self.written += len(data)

    def settle(self) -> None:
        """Make the pages of this slice clean before the next one."""
        self.file.sync_range(self.frames, 1 << 40)

    def empty(self) -> None:
        """Clean the pages and drop them, once every frame had its turn."""
        self.settle()
        if self.written >= self.frames:
            self.file.volume.drop_clean()
            self.written = 0


@case("full", "writes into a full cache, a fifth of it dirty, against an empty one", ("P24",))
def full(bench: Bench) -> Iterator[Row]:
    """P24: the cost of evicting clean pages while writing, with write-back going on."""
    capacity = min(bench.settings.size, 128 * MIB)
    with ExitStack() as stack:
        filled, empty = Fresh(stack, capacity, capacity, capacity), Fresh(stack, 2 * capacity, capacity, 0)
        items = list(range(capacity // 16 // (64 * KIB)))
        result = bench.compare(
            [
                Variant(name="full", run=filled.write, items=items, after=filled.settle),
                Variant(name="empty", run=empty.write, items=items, after=empty.empty),
            ],
            wall=True,
            counts={"full": len(items), "empty": len(items)},
        )
    yield timed("full", "P24", result, "full", "empty")
