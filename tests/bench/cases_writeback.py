"""Write-back: P15 by exact counts, P16 by time.

P15 compares addresses: a page that is given to the backend has to lie where an earlier view of that page showed it. Any
other page was copied. P16 writes the same pages back twice, once with requests of a megabyte and once with requests of
a page, one call at a time: only the number of calls differs. Pages are dirtied untimed, in random order, so they are
scattered in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pagecache import Backend, BackendLimits, CachedFile
from pagecache.backends import DirectoryBackend
from pagecache.bench.harness import Variant, shuffled
from pagecache.bench.plain import BLOCK, MIB
from pagecache.bench.subject import PAGE, PatternBackend, cache_for_hits
from tests.bench.backends import CountingBackend, SlowBackend, address_of
from tests.bench.rows import Bench, Row, case, exact, timed

MEBIBYTES = 16
SCATTERED = 256  # pages: 1 MiB of the file


def dirty_in_random_order(bench: Bench, file: CachedFile, pages: int) -> None:
    """Overwrite the first `pages` pages, each once."""
    for offset in shuffled(range(0, pages * PAGE, PAGE), bench.rng):
        file.pwrite(BLOCK[:PAGE], offset)


def addresses(file: CachedFile, pages: int) -> dict[int, int]:
    """The place of each page in the cache's memory, found by views."""
    found = {}
    for index in range(pages):
        with file.view(index * PAGE, PAGE) as view:
            found[index] = address_of(view.segments[0])
    return found


@case("counts", "backend calls and copies of the write-back of contiguous dirty data", ("P15/calls", "P15/copies"))
def counts(bench: Bench) -> Iterator[Row]:
    """P15: 16 MiB of dirty 4 KiB pages, then fsync."""
    pages = MEBIBYTES * MIB // PAGE
    backend = CountingBackend(PatternBackend(MEBIBYTES * MIB), limits=BackendLimits(max_write=MIB, max_inflight=1))
    with cache_for_hits(8 * MEBIBYTES * MIB, PAGE) as cache:
        file = cache.attach(backend, read_ahead=0).open("file", "r+b")
        dirty_in_random_order(bench, file, pages)
        expected = addresses(file, pages)
        backend.tally.reset()
        file.fsync()
        tally = backend.tally
        copied = sum(PAGE for page, address in expected.items() if tally.write_addresses.get(page) != address)
        note = f"{tally.writes} calls, {tally.write_bytes // MIB} MiB"
        if tally.write_bytes != MEBIBYTES * MIB:
            note += f" instead of {MEBIBYTES} MiB"
        file.close()
    yield exact("counts", "P15/calls", tally.writes / MEBIBYTES, note)
    yield exact("counts", "P15/copies", copied / MEBIBYTES)


class Writeback:
    """256 dirty pages and the backend they go to, with a given size of a request."""

    def __init__(self, bench: Bench, stack: ExitStack, backend: Backend, max_write: int) -> None:
        limits = replace(backend.limits, max_write=max_write, max_inflight=1)
        cache = stack.enter_context(cache_for_hits(64 * MIB, PAGE))
        volume = cache.attach(CountingBackend(backend, limits=limits), read_ahead=0)
        self.file = stack.enter_context(volume.open(f"file-{max_write}", "w+b"))
        self._bench = bench
        self.dirty()
        self.file.flush()

    def dirty(self) -> None:
        """Make every page dirty."""
        dirty_in_random_order(self._bench, self.file, SCATTERED)

    def write_back(self, items: Sequence[int]) -> None:
        """Write everything back and wait."""
        for _ in items:
            self.file.flush()


def stores(bench: Bench, disk: Path) -> dict[str, Callable[[], Backend]]:
    """The backends of P16 by the part of the goal's key."""

    def folder(path: Path) -> Backend:
        path.mkdir(exist_ok=True)
        return DirectoryBackend(path)

    return {
        "tmpfs": lambda: folder(bench.folder / "scattered"),
        "disk": lambda: folder(disk),
        "5us": lambda: SlowBackend(0, 5e-6),
        "20us": lambda: SlowBackend(0, 20e-6),
        "1ms": lambda: SlowBackend(0, 1e-3),
    }


SCATTERED_KEYS = ("P16/tmpfs", "P16/disk", "P16/5us", "P16/20us", "P16/1ms")


@case("scattered", "write-back of 256 scattered pages as one call against 256 calls", SCATTERED_KEYS)
def scattered(bench: Bench) -> Iterator[Row]:
    """P16: only the number of calls matters."""
    with TemporaryDirectory(prefix="pagecache-bench-") as disk:
        for part, make in stores(bench, Path(disk)).items():
            with ExitStack() as stack:
                whole = Writeback(bench, stack, make(), MIB)
                pages = Writeback(bench, stack, make(), PAGE)
                result = bench.compare(
                    [
                        Variant(name="one call", run=whole.write_back, items=[0], before=whole.dirty),
                        Variant(name="256 calls", run=pages.write_back, items=[0], before=pages.dirty),
                    ],
                    wall=True,
                    rounds=min(bench.settings.rounds, 11),
                    counts={"one call": 1, "256 calls": 1},
                )
            yield timed("scattered", f"P16/{part}", result, "one call", "256 calls")
