"""Backends that take whole units only: the cache widens dirty ranges and reads the missing bytes."""

from __future__ import annotations

import errno

import pytest

from pagecache import PageCache, WritebackError
from pagecache.backends import MemoryBackend
from pagecache.testing import FaultPlan, FaultyBackend, Rule

from ..stores import ObjectBackend
from .rig import FAST, KEY, ONCE, PAGE, QUIET, Make, Task, content_of, eventually, pattern, raises

# Size of the stored file, unit, a write as (offset, length), and the calls that must follow.
UNITS: list[tuple[int, int, tuple[int, int], list[tuple[int, int]]]] = [
    (4 * PAGE, PAGE, (100, 10), [(0, PAGE)]),
    (16 * PAGE, 4 * PAGE, (5 * PAGE + 1, 10), [(4 * PAGE, 4 * PAGE)]),
    (PAGE, 512, (600, 1000), [(512, 1536)]),
    (4 * PAGE, PAGE, (PAGE - 1, 2), [(0, 2 * PAGE)]),
    (5 * PAGE + 10, 4 * PAGE, (5 * PAGE, 5), [(4 * PAGE, PAGE + 10)]),
]


@pytest.mark.parametrize(("size", "unit", "write", "expected"), UNITS)
def test_calls_are_whole_units(
    make: Make, size: int, unit: int, write: tuple[int, int], expected: list[tuple[int, int]]
) -> None:
    """They are widened to units, the end of the file aside; the bytes around are those of the store. [T-09, 2.12]"""
    content = bytearray(pattern(size))
    rig, file = make({KEY: bytes(content)}, limits={"write_unit": unit}).opened("r+b")
    data = pattern(write[1], seed=1)
    file.pwrite(data, write[0])
    content[write[0] : sum(write)] = data
    file.fsync()
    assert rig.backend.spans("write_from") == expected
    assert rig.backend.committed(KEY) == bytes(content)


def test_widening_reads_only_what_is_missing_and_dirties_nothing_else(make: Make) -> None:
    """The clean bytes around are referenced for the call; they never become dirty. [2.12]"""
    rig, file = make({KEY: pattern(64 * PAGE)}, capacity="1MiB", limits={"write_unit": 16 * PAGE}).opened("r+b")
    file.pwrite(b"x", 17 * PAGE)
    assert sum(length for _offset, length in rig.volume.dirty_ranges(KEY)) <= PAGE
    file.flush()
    assert sum(length for _offset, length in rig.volume.dirty_ranges(KEY)) <= PAGE
    file.fsync()
    assert rig.backend.spans("write_from") == [(16 * PAGE, 16 * PAGE)]


def test_a_unit_that_was_stored_in_part_is_no_remote_change() -> None:
    """It is not acknowledged and has made the object longer; the next open still finds no conflict. [2.14, 2.20]"""
    rules = [Rule("write", span=(2 * PAGE, 3 * PAGE), short=100)]
    store = FaultyBackend(MemoryBackend(write_unit=2 * PAGE, max_write=2 * PAGE), FaultPlan(rules))
    cache = PageCache("1MiB", **{**QUIET, "retry": ONCE})
    volume = cache.attach(store, read_ahead=0)
    with volume.open(KEY, "w+b") as file:
        file.pwrite(pattern(3 * PAGE), 0)
        raises(WritebackError, file.sync_range, 0, 3 * PAGE)
        file._inode.start_commit()
        eventually(lambda: cache.stats().unstable == 0)
        assert store.stat(KEY).size == 2 * PAGE + 100
        assert content_of(volume, KEY)[: 3 * PAGE] == pattern(3 * PAGE)
        store.use([])
        file.fsync()
    assert cache.close(timeout=20) == []


def test_gaps_between_missing_bytes_of_a_unit_are_read_along_if_a_call_is_expensive() -> None:
    """The gap between local bytes counts, not the read length. [2.12]"""
    content = bytearray(pattern(64 * PAGE))
    store = ObjectBackend({KEY: bytes(content)}, write_unit=16 * PAGE, max_read=16 * PAGE, max_write=16 * PAGE)
    with PageCache("1MiB", **QUIET) as cache, cache.attach(store, read_ahead=0).open(KEY, "r+b") as file:
        for round, pages in enumerate(((17, 19, 22, 31), (20,), (18, 21, 30))):
            for page in pages:
                data = bytes([100 + page + round]) * 50
                file.pwrite(data, page * PAGE + 7)
                content[page * PAGE + 7 : page * PAGE + 57] = data
            file.sync_range(16 * PAGE, 16 * PAGE)  # unstable from here on: the store still has the old bytes
            assert len(store.spans("read_into")) == 1
            cache.volumes()[0].drop_clean()
            store.calls.clear()
        file.fsync()
    assert store.content(KEY) == bytes(content)


def test_distant_gaps_in_a_unit_are_read_separately() -> None:
    """Other backends read gaps separately too, as their calls are cheap. [2.12]"""
    unit = 256 * PAGE
    for whole, reads in ((True, 2), (False, 3)):
        store = ObjectBackend(
            {KEY: pattern(unit)}, write_unit=unit, max_read=unit, max_write=unit, commit_on_close=whole
        )
        with PageCache("16MiB", **QUIET) as cache, cache.attach(store, read_ahead=0).open(KEY, "r+b") as file:
            file.pwrite(pattern(100 * PAGE, seed=3), 50 * PAGE)
            file.pwrite(b"x" * PAGE, 200 * PAGE)
            file.fsync()
        assert len(store.spans("read_into")) == reads


def test_the_error_of_a_read_around_dirty_bytes_names_its_range(make: Make) -> None:
    """A wrong answer to the read of the rest of a unit is a failed write-back. [2.12, 2.14]"""
    rig, file = make({KEY: pattern(8 * PAGE)}, limits={"write_unit": 2 * PAGE}, retry=ONCE).opened()
    file.pwrite(b"x" * PAGE, 2 * PAGE)
    rig.backend.fault("read_into", lambda *_: None)
    raises(WritebackError, file.fsync, match=rf"read_into\({3 * PAGE}, {PAGE} bytes\) did not answer")


def test_a_transient_read_around_parked_bytes_is_made_again(make: Make) -> None:
    """It fails the whole request, also behind dirty bytes: none of them is accepted before it. [2.12, 2.14]"""
    rig, file = make({KEY: pattern(8 * PAGE)}, limits={"write_unit": 2 * PAGE}, retry=FAST).opened()
    file.pwrite(b"x" * PAGE, 2 * PAGE)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "no room"))
    raises(WritebackError, file.fsync)
    rig.volume.drop_clean()  # what was read around them
    passing = rig.backend.fault("read_into", OSError(errno.EIO, "passing"))
    Task(file.fsync).result()
    assert passing.nr_hit == 1
    stored = rig.backend.committed(KEY)
    assert stored is not None
    assert stored[2 * PAGE : 3 * PAGE] == b"x" * PAGE


def test_a_removed_object_grows_without_a_read_of_its_last_unit(make: Make) -> None:
    """None of its units is stored any longer. [2.12, 2.20]"""
    rig, file = make({KEY: b"a"}, limits={"write_unit": PAGE}).opened()
    rig.volume.remove(KEY)
    assert file.pwrite(b"b", PAGE) == 1
    assert file.pread(1, PAGE) == b"b"
    file.abandon()
