"""advise, prefetch and prefetch_ranges: which pages are fetched, kept and dropped, and that no byte changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pagecache import Advice, CachedFile

from .rig import KEY, PAGE, Make, Rig, eventually, pattern, raises

CONTENT = pattern(64 * PAGE)


def settle(rig: Rig) -> None:
    """Wait until no background work is left."""
    eventually(lambda: rig.cache.stats().to_dict()["requests"] == 0)


def cached(file: CachedFile, nr_pages: int) -> list[int]:
    return [page for page in range(nr_pages) if file.try_pread(1, page * PAGE) is not None]


@pytest.mark.parametrize("advice", Advice)
@pytest.mark.parametrize("extent", [(0, None), (0, 0), (PAGE, 5), (5, 3 * PAGE), (2**40, 2**40), (60 * PAGE, 2**60)])
def test_advice_is_taken_where_posix_fadvise_takes_it(
    make: Make, tmp_path: Path, advice: Advice, extent: tuple[int, int | None]
) -> None:
    """Any range is accepted, also behind the end; no byte changes, dirty or not."""
    file = make({KEY: CONTENT}).open("r+b")
    file.pwrite(b"dirty", 2 * PAGE)
    expected = CONTENT[: 2 * PAGE] + b"dirty" + CONTENT[2 * PAGE + 5 :]
    (tmp_path / "f").write_bytes(expected)
    real = os.open(tmp_path / "f", os.O_RDWR)
    try:
        os.posix_fadvise(real, extent[0], extent[1] or 0, getattr(os, f"POSIX_FADV_{advice.name}"))
        assert os.pread(real, len(expected) + 1, 0) == expected
    finally:
        os.close(real)
    file.advise(advice, *extent)
    assert file.pread(len(expected) + 1, 0) == expected


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


def test_near_ranges_are_one_call(make: Make) -> None:
    """The call also reads the gap between them, up to the size limit of a call; distant ranges are separate calls."""
    rig, file = make({KEY: pattern(1024 * PAGE)}).opened("rb")
    file.prefetch_ranges(((page * PAGE, 100) for page in range(0, 16, 2)), wait=True)
    assert rig.backend.spans("read_into") == [(0, 15 * PAGE)]
    rig.backend.forget_calls()
    file.prefetch_ranges([(900 * PAGE, 10), (100 * PAGE, 10), (902 * PAGE, 10)], wait=True)
    assert sorted(rig.backend.spans("read_into")) == [(100 * PAGE, PAGE), (900 * PAGE, 3 * PAGE)]


def test_ranges_are_fetched_in_their_order(make: Make) -> None:
    """The range named first is fetched first, with one call at a time."""
    rig, file = make({KEY: pattern(1024 * PAGE)}, limits={"max_inflight": 1}).opened("rb")
    places = [700, 100, 900, 300]
    file.prefetch_ranges([(page * PAGE, PAGE) for page in places])
    eventually(lambda: len(rig.backend.spans("read_into")) == 4)
    assert [offset // PAGE for offset, _ in rig.backend.spans("read_into")] == places


@pytest.mark.parametrize(
    "ranges", [[(0, 5), (-1, 5)], [(0, 5), (5, -1)], [(0, 5), (2**63, 1)], [(0, 5), ("a", 1)], [5]]
)
def test_a_range_that_is_none_is_refused_before_anything_is_read(make: Make, ranges: list[tuple[int, int]]) -> None:
    """It is a ValueError or TypeError, as for any offset."""
    rig, file = make({KEY: CONTENT}).opened("rb")
    raises((ValueError, TypeError), file.prefetch_ranges, ranges)
    assert rig.backend.spans("read_into") == []


def test_ranges_without_a_length_go_to_the_end(make: Make) -> None:
    """A length of None reaches to the end, as everywhere; empty ranges and those behind the end are skipped."""
    file = make({KEY: CONTENT}).open("rb")
    file.prefetch_ranges([(60 * PAGE, None), (2**40, None), (2**40, 5), (7, 0)], wait=True)
    assert cached(file, 64) == [60, 61, 62, 63]
    file.prefetch_ranges([], wait=True)


def test_no_more_is_fetched_than_the_cache_holds(make: Make) -> None:
    """The end of a large range does not evict its beginning."""
    rig, file = make({KEY: pattern(1024 * PAGE)}, capacity=64 * PAGE).opened("rb")
    file.prefetch(wait=True)
    assert sum(length for _, length in rig.backend.spans("read_into")) <= 64 * PAGE
    assert cached(file, 8) == list(range(8))
