"""advise, prefetch and prefetch_ranges: which pages are fetched, kept and dropped, and that no byte changes."""

from __future__ import annotations

import pytest

from pagecache import Advice, CachedFile

from .rig import KEY, PAGE, Make, Rig, eventually, overlay, pattern, raises

CONTENT = pattern(64 * PAGE)


def settle(rig: Rig) -> None:
    """Wait until no background work is left."""
    eventually(lambda: rig.cache.stats().to_dict()["requests"] == 0)


def cached(file: CachedFile, nr_pages: int) -> list[int]:
    return [page for page in range(nr_pages) if file.try_pread(1, page * PAGE) is not None]


@pytest.mark.parametrize("advice", Advice)
@pytest.mark.parametrize("extent", [(0, None), (0, 0), (PAGE, 5), (5, 3 * PAGE), (2**40, 2**40), (60 * PAGE, 2**60)])
def test_advice_on_any_range_changes_no_byte(make: Make, advice: Advice, extent: tuple[int, int | None]) -> None:
    """Dirty or not; also behind the end, as posix_fadvise. [2.6]"""
    file = make({KEY: CONTENT}).open("r+b")
    file.pwrite(b"dirty", 2 * PAGE)
    file.advise(advice, *extent)
    assert file.pread(len(CONTENT) + 1, 0) == overlay(CONTENT, 2 * PAGE, b"dirty")


def test_dontneed_drops_whole_clean_pages_of_the_range(make: Make) -> None:
    """Pages that the range covers in part stay, except the last of the file: posix_fadvise does the same."""
    file = make({KEY: CONTENT[:-100]}, max_folio=PAGE).open("rb")
    file.prefetch(wait=True)
    file.advise(Advice.DONTNEED, 5, 3 * PAGE)
    assert sorted(set(range(64)) - set(cached(file, 64))) == [1, 2]
    file.advise(Advice.DONTNEED, 60 * PAGE, 4 * PAGE - 100)
    assert sorted(set(range(64)) - set(cached(file, 64))) == [1, 2, 60, 61, 62, 63]
    file.advise(Advice.DONTNEED)
    assert cached(file, 64) == []


def test_dontneed_begins_to_write_back_dirty_bytes(make: Make) -> None:
    """It does not wait. The next call drops the pages stored by then. Dirty data is never dropped."""
    rig, file = make({KEY: CONTENT}, limits={"durable_writes": True}).opened("r+b")
    for page in (1, 3, 9):
        file.pwrite(b"x" * PAGE, page * PAGE)
    with rig.backend.gate("write_from", times=10) as gate:
        file.advise(Advice.DONTNEED, 0, 5 * PAGE)
        gate.wait_entered()
        assert file.try_pread(PAGE, PAGE) == b"x" * PAGE
    eventually(lambda: rig.volume.dirty_ranges(KEY) == [(9 * PAGE, PAGE)])
    file.advise(Advice.DONTNEED, 0, 5 * PAGE)
    assert cached(file, 64) == [9]
    assert rig.backend.seen("commit") == []


@pytest.mark.parametrize("case", ["a handle that cannot write", "an object that commits publish", "an aborted volume"])
def test_dontneed_hands_nothing_over(make: Make, case: str) -> None:
    """If `flush` would not, if a commit decides, or if no backend is there, it only drops clean pages."""
    limits = {"commit_on_close": True} if "publish" in case else {}
    rig, writer = make({KEY: CONTENT}, limits=limits).opened("r+b")
    writer.pread(PAGE, 0)
    writer.pwrite(b"x" * PAGE, 5 * PAGE)
    handle = rig.open("rb") if "cannot" in case else writer
    if "aborted" in case:
        rig.volume.abort()
    rig.backend.forget_calls()
    handle.advise(Advice.DONTNEED)
    assert cached(writer, 64) == [5]
    assert rig.backend.seen("write_from") == []
    if "aborted" in case:
        rig.volume.reconnect(rig.backend, fenced=True)


def test_willneed_fetches_without_waiting(make: Make) -> None:
    """The whole range is fetched in the background."""
    rig, file = make({KEY: CONTENT}).opened("rb")
    with rig.backend.gate("read_into") as gate:
        file.advise(Advice.WILLNEED, 3 * PAGE, 4 * PAGE)
        gate.wait_entered()
    eventually(lambda: cached(file, 64) == [3, 4, 5, 6])


def test_the_windows_of_an_advice(make: Make) -> None:
    """SEQUENTIAL reads twice as far ahead, RANDOM not at all; this affects this handle only."""
    rig = make({KEY: pattern(1024 * PAGE)}, options={"read_ahead": 16 * PAGE})
    file, other = rig.open("rb"), rig.open("rb")

    def ahead(handle: CachedFile) -> int:
        """Pages of the largest window of a sequential read."""
        rig.volume.drop_clean()
        rig.backend.forget_calls()
        for page in range(200):
            handle.pread(PAGE, page * PAGE)
            settle(rig)
        return max(length for _, length in rig.backend.spans("read_into")) // PAGE

    assert ahead(file) == 16
    for advice, pages in ((Advice.SEQUENTIAL, 32), (Advice.RANDOM, 1), (Advice.SEQUENTIAL, 32), (Advice.NORMAL, 16)):
        file.advise(advice)
        assert ahead(file) == pages
    file.advise(Advice.RANDOM)
    assert ahead(other) == 16


@pytest.mark.parametrize("length", [PAGE, 1000, 5 * PAGE], ids=["pages", "parts of pages", "several pages"])
@pytest.mark.parametrize("verb", ["pread", "read", "try_pread"])
def test_noreuse_leaves_the_pages_of_others(make: Make, length: int, verb: str) -> None:
    """A scan of many times the cache evicts nothing that was read before; without the advice, much."""
    rig, hot = make({KEY: CONTENT, "large": pattern(500 * PAGE)}, capacity=100 * PAGE, max_folio=PAGE).opened("rb")

    def scan(advice: Advice) -> None:
        with rig.volume.open("large", "rb", read_ahead="16KiB") as file:
            file.advise(advice)
            for offset in range(0, 500 * PAGE, length):
                if verb == "try_pread":
                    file.prefetch(offset, length, wait=True)
                    file.try_pread(length, offset)
                elif verb == "pread":
                    file.pread(length, offset)
                else:
                    file.read(length)

    def warm() -> None:
        hot.pread(64 * PAGE, 0)  # once: on probation like the pages of the scan

    warm()
    rig.backend.forget_calls()
    scan(Advice.NOREUSE)
    scan(Advice.NOREUSE)
    assert cached(hot, 64) == list(range(64))
    assert sum(n for _, n in rig.backend.spans("read_into")) <= 2 * 500 * PAGE * 1.05
    scan(Advice.NORMAL)
    assert len(cached(hot, 64)) < 64


def test_noreuse_spares_what_others_use(make: Make) -> None:
    """A page that another handle has also read keeps its place; NORMAL ends the advice."""
    rig = make({KEY: CONTENT, "other": pattern(200 * PAGE)}, capacity=100 * PAGE, max_folio=PAGE)
    once, other = rig.open("rb"), rig.open("rb")
    once.advise(Advice.NOREUSE)
    for page in range(10):
        for _ in range(3):
            other.pread(PAGE, page * PAGE)
    once.pread(20 * PAGE, 0)
    once.advise(Advice.NORMAL)
    once.pread(20 * PAGE, 20 * PAGE)
    filler = rig.open("rb", "other")
    for page in range(70):  # makes room ten times
        filler.pread(PAGE, page * PAGE)
    assert cached(other, 40) == [*range(10), *range(20, 40)]


def test_a_prefetch_raises_what_a_read_would_if_it_waits(make: Make) -> None:
    """One error for all the ranges. Without a wait, the next reader meets them. Then it works as before. [2.6]"""
    rig, file = make({KEY: CONTENT}).opened("rb")
    fault = rig.backend.fault("read_into", OSError(19, "no device"), times=1)
    file.prefetch()
    file.prefetch_ranges([(0, PAGE)])
    eventually(lambda: fault.nr_hit)
    settle(rig)
    assert file.pread(PAGE, 0) == CONTENT[:PAGE]
    rig.volume.drop_clean()
    rig.backend.fault("read_into", OSError(19, "no device"), times=float("inf"))
    raises(OSError, file.prefetch, wait=True, match="no device")
    raises(OSError, file.prefetch_ranges, [(0, 5), (30 * PAGE, 5)], wait=True, match="no device")
    rig.backend.clear_faults()
    file.prefetch_ranges([(0, 5), (30 * PAGE, 5)], wait=True)
    assert {0, 30} <= set(cached(file, 64))


# Ranges of a file of 1024 pages, and the calls that fetch them.
RANGES: dict[str, tuple[list[tuple[int, int | None]], list[tuple[int, int]]]] = {
    "near ones are one call with the gaps": ([(page * PAGE, 100) for page in range(0, 16, 2)], [(0, 15 * PAGE)]),
    "distant ones are fetched in their order": (
        [(page * PAGE, 10) for page in (700, 100, 900, 902, 300)],
        [(700 * PAGE, PAGE), (100 * PAGE, PAGE), (900 * PAGE, 3 * PAGE), (300 * PAGE, PAGE)],
    ),
    "one without a length goes to the end": ([(1020 * PAGE, None), (2**40, None)], [(1020 * PAGE, 4 * PAGE)]),
    "empty ones, and those behind the end": ([(7, 0), (2**40, 5)], []),
    "none": ([], []),
}


@pytest.mark.parametrize("which", RANGES)
def test_ranges_are_fetched(make: Make, which: str) -> None:
    """With one call at a time. [2.6]"""
    rig, file = make({KEY: pattern(1024 * PAGE)}, limits={"max_inflight": 1}).opened("rb")
    ranges, calls = RANGES[which]
    file.prefetch_ranges(iter(ranges), wait=True)
    assert rig.backend.spans("read_into") == calls


@pytest.mark.parametrize(
    "ranges", [[(0, 5), (-1, 5)], [(0, 5), (5, -1)], [(0, 5), (2**63, 1)], [(0, 5), ("a", 1)], [5]]
)
def test_a_range_that_is_none_is_refused_before_anything_is_read(make: Make, ranges: list[tuple[int, int]]) -> None:
    """It is a ValueError or TypeError, as for any offset."""
    rig, file = make({KEY: CONTENT}).opened("rb")
    raises((ValueError, TypeError), file.prefetch_ranges, ranges)
    assert rig.backend.spans("read_into") == []
