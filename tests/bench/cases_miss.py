"""The bookkeeping of misses and evictions: P12, P13, and lookups in large indexes.

P12 is visible from Python only in part: a range of pages is prefetched from a backend that does nothing, so that the
rest is evicting, inserting, locking and dispatching. Divided by the pages this is an upper bound of the bookkeeping.
The frames are never touched, so a cache of 1e6 pages needs no memory but its metadata.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from pagecache import PageCache
from pagecache.bench.cases import pread_hits
from pagecache.bench.harness import Variant, shuffled
from pagecache.bench.plain import MIB
from pagecache.bench.subject import KIB, PAGE, PatternBackend, made, read_nothing
from tests.bench.rows import Bench, Row, case, comparison_row, exact, skipped, timed

STREAMED = 256  # pages of one prefetch: 1 MiB
SMALLEST = 4096  # pages; a prefetch of 1 MiB has to be small beside it


class Streamer:
    """A cache of `pages` pages, full, that streams through a file twice as long without touching its memory."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.cache = made(PageCache(pages * PAGE, max_folio=PAGE))
        size = 2 * pages * PAGE
        self.file = self.cache.attach(PatternBackend(size, read=read_nothing), read_ahead=0).open("file", "rb")
        self.items = range(0, size - STREAMED * PAGE + 1, STREAMED * PAGE)
        self.run(self.items)

    def run(self, offsets: Sequence[int]) -> None:
        """Prefetch 256 pages at each offset."""
        for offset in offsets:
            self.file.prefetch(offset, STREAMED * PAGE, wait=True)

    def close(self) -> None:
        """Close file and cache."""
        self.file.close()
        self.cache.close()


class OrderedPages:
    """The bookkeeping of an LRU cache as Python programs write it: evict the oldest, insert the newest."""

    def __init__(self, pages: int) -> None:
        self.pages: OrderedDict[int, int] = OrderedDict((index, index) for index in range(pages))
        self.items = range(0, 2 * pages - STREAMED + 1, STREAMED)
        self.first = pages

    def run(self, starts: Sequence[int]) -> None:
        """Stream 256 pages from each start."""
        pages = self.pages
        for start in starts:
            base = start + self.first
            for index in range(base, base + STREAMED):
                if index not in pages:
                    _, frame = pages.popitem(last=False)
                    pages[index] = frame


@case(
    "stream-misses", "evict and insert while streaming, against an OrderedDict LRU; growth", ("P12/lru", "P12/growth")
)
def streaming(bench: Bench) -> Iterator[Row]:
    """P12, the part that is visible from Python."""
    note = "with locking and hand-over: an upper bound"
    ordered = OrderedPages(bench.settings.size // PAGE)
    streamer = Streamer(bench.settings.size // PAGE)
    try:
        result = bench.compare(
            [
                Variant(name="cache", run=streamer.run, items=streamer.items),
                Variant(name="ordered", run=ordered.run, items=ordered.items),
            ],
            wall=True,
        )
    finally:
        streamer.close()
    yield timed("stream-misses", "P12/lru", result, "cache", "ordered", note)

    sizes = [pages for pages in (SMALLEST, 65_536, 1_000_000) if pages <= max(bench.settings.most_pages, SMALLEST)]
    streamers = [Streamer(pages) for pages in sizes]
    try:
        result = bench.compare(
            [Variant(name=str(each.pages), run=each.run, items=each.items) for each in streamers], wall=True
        )
    finally:
        for each in streamers:
            each.close()
    smallest, largest = str(sizes[0]), str(sizes[-1])
    yield timed("stream-misses", "P12/growth", result, largest, smallest, f"{smallest} → {largest} pages")


@case("index", "one byte of a random page, from 1e3 to 1e6 pages")
def index_growth(bench: Bench) -> Iterator[Row]:
    """Lookups in indexes of growing size; frames are not touched before, so the bytes all lie in the same zero page."""
    sizes = [pages for pages in (1_000, 10_000, 100_000, 1_000_000) if pages <= bench.settings.most_pages]
    streamers = [Streamer(max(pages, STREAMED)) for pages in sizes]
    try:
        variants = []
        for each in streamers:
            for start in range(0, each.pages, STREAMED):
                each.file.prefetch(start * PAGE, STREAMED * PAGE, wait=True)
            offsets = shuffled(range(0, each.pages * PAGE, PAGE), bench.rng)
            read = pread_hits(each.file, 1)
            read(offsets)
            variants.append(Variant(name=str(each.pages), run=read, items=offsets))
        result = bench.compare(variants)
    finally:
        for each in streamers:
            each.close()
    base = variants[0].name
    for variant in variants[1:]:
        metric = f"1 byte of a random page, {int(variant.name):,} pages"
        yield comparison_row("index", metric, f"{int(base):,} pages", result, variant.name, base)


@case("eviction", "most folios examined by one eviction call, in states that make it hard", ("P13",))
def eviction(bench: Bench) -> Iterator[Row]:
    """P13: streaming through caches full of dirty, of pinned, of hot pages; the worst call counts."""
    pages = min(bench.settings.size, 64 * MIB) // PAGE
    worst = 0
    for state in ("clean", "hot", "dirty", "pinned"):
        backend = PatternBackend(8 * pages * PAGE, read=read_nothing)
        with made(PageCache(pages * PAGE, max_folio=PAGE)) as cache:
            file = cache.attach(backend, read_ahead=0).open("file", "r+b")
            half = pages // 2
            for index in range(half):
                if state == "dirty":
                    file.pwrite(b"x" * 16, index * PAGE)
                else:
                    file.pread(16, index * PAGE)
            if state == "hot":
                for _ in range(3):
                    pread_hits(file, 16)(range(0, half * PAGE, PAGE))
            views = [file.view(index * PAGE, PAGE) for index in range(1024)] if state == "pinned" else []
            pread_hits(file, 16)(range(half * PAGE, 4 * pages * PAGE, PAGE))
            for view in views:
                view.release()
            counters = cache.stats().to_dict()
            file.close()
            if "evict_examined_max" not in counters:
                yield skipped("eviction", "P13", "the library does not count it")
                return
            worst = max(worst, int(counters["evict_examined_max"]))
    yield exact("eviction", "P13", worst, f"clean, hot, dirty and pinned caches of {pages * PAGE // KIB} KiB")
