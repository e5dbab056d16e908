"""Failed data: kept, listed, repaired, or given up on purpose and reported once."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import DataLossError, FailedRange, LostRange, WritebackError
from pagecache.native import FAILED, NativeInode

from ..stores import failing_commit
from .rig import KEY, ONCE, PAGE, Rig, Task, eventually, pattern

Make = Callable[..., Rig]
DATA = pattern(6 * PAGE)
FULL = OSError(errno.ENOSPC, "no space left")
FOREVER = float("inf")


@pytest.fixture
def dirty(make: Make) -> Rig:
    """Six dirty pages of an empty file; one try per call."""
    rig = make({KEY: b""}, retry=ONCE)
    rig.open("r+b").pwrite(DATA, 0)
    return rig


def fails(call: Callable[[], object]) -> WritebackError:
    with pytest.raises(WritebackError) as caught:
        call()
    return caught.value


def test_every_handle_reports_an_error_until_it_is_repaired(dirty: Rig) -> None:
    """Level: each fsync of each handle fails as long as failed bytes exist. [T-16, 2.15]"""
    handles = [dirty.handles[0], dirty.open("r+b"), dirty.open("r+b")]
    fault = dirty.backend.fault("write_from", FULL, times=FOREVER)
    for file in handles + handles:
        assert fails(file.fsync).errno == errno.ENOSPC
    assert fails(dirty.open("r+b").fsync).errno == errno.ENOSPC
    fault.clear()
    for file in handles:
        file.fsync()
    assert dirty.backend.committed(KEY) == DATA


def test_an_error_names_file_ranges_and_cause(dirty: Rig) -> None:
    """errno, filename, and ranges with the details of each. [2.16, T-66]"""
    dirty.backend.fault("write_from", FULL, times=FOREVER)
    error = fails(dirty.handles[0].fsync)
    assert error.filename == KEY
    (failed,) = error.ranges
    assert isinstance(failed, FailedRange)
    assert (failed.key, failed.offset, failed.length, failed.errno) == (KEY, 0, len(DATA), errno.ENOSPC)
    assert (failed.volume, failed.attempts, failed.next_retry) == ("volume", 1, None)
    assert "no space left" in failed.message
    assert isinstance(failed.since, float)


def test_failed_lists_exactly_what_failed(make: Make) -> None:
    """The acknowledged pages are not in it; ranges are cut at the size. [T-20, 2.16]"""
    rig = make({KEY: b""}, retry=ONCE, limits={"max_write": 2 * PAGE, "ordered_writes": True})
    file = rig.open("r+b")
    file.pwrite(DATA[: 5 * PAGE + 100], 0)
    rig.backend.fault("write_from", FULL, skip=1)
    fails(file.fsync)
    listed = [(f.offset, f.length) for f in rig.volume.failed()]
    assert listed == [(2 * PAGE, 2 * PAGE)]
    file.fsync()
    assert rig.volume.failed() == []
    assert rig.backend.committed(KEY) == DATA[: 5 * PAGE + 100]


def test_failed_data_is_readable_and_not_evicted(make: Make) -> None:
    """Under memory pressure too. [K1, 2.16]"""
    rig = make({KEY: b"", "other": pattern(64 * PAGE)}, capacity="128KiB", retry=ONCE)
    file = rig.open("r+b")
    file.pwrite(DATA, 0)
    rig.backend.fault("write_from", FULL, times=FOREVER)
    fails(file.fsync)
    other = rig.open("rb", key="other")
    for page in range(64):
        other.pread(PAGE, page * PAGE)
    assert file.pread(len(DATA), 0) == DATA
    assert rig.cache.stats().failed >= len(DATA)


def test_no_space_then_space(dirty: Rig) -> None:
    """Failed, retried on request, clean. [T-20]"""
    fault = dirty.backend.fault("write_from", FULL, times=FOREVER)
    fails(dirty.handles[0].flush)
    dirty.volume.retry_failed()
    eventually(lambda: fault.nr_hit >= 2)
    assert dirty.handles[0].pread(len(DATA), 0) == DATA
    fault.clear()
    dirty.volume.retry_failed(KEY)
    eventually(lambda: dirty.backend.written(KEY) == DATA)
    dirty.handles[0].fsync()
    assert dirty.volume.failed() == []
    assert dirty.backend.committed(KEY) == DATA
    assert dirty.cache.stats().failed == 0


def test_failed_data_is_tried_again_after_a_while(make: Make) -> None:
    """`failed_retry` needs no request. [2.14]"""
    rig = make({KEY: b""}, flush_interval=0.02, retry=ONCE.__class__(attempts=1, failed_retry=0.05))
    file = rig.open("r+b")
    file.pwrite(DATA, 0)
    rig.backend.fault("write_from", FULL)
    fails(file.flush)
    eventually(lambda: rig.backend.written(KEY) == DATA)
    file.fsync()


def test_parked_data_costs_no_calls(dirty: Rig) -> None:
    """With `failed_retry=None` nothing is retried without a request. [2.14]"""
    fault = dirty.backend.fault("write_from", FULL, times=FOREVER)
    fails(dirty.handles[0].flush)
    before = fault.nr_hit
    assert Task(threading.Event().wait, 0.2).waits(0.15)
    assert fault.nr_hit == before


def test_too_much_failed_data_stops_new_writes_to_the_file(make: Make) -> None:
    """Above `failed_limit` they raise the stored errno at once; other files go on; space repairs all. [T-20, 2.16]"""
    rig = make(
        {KEY: b""}, capacity="1MiB", retry=ONCE, dirty_background="300KiB", dirty_limit="400KiB", failed_limit=0.5
    )
    file = rig.open("r+b")
    file.pwrite(bytes(250 * 1024), 0)
    fault = rig.backend.fault("write_from", FULL, key=KEY, times=FOREVER)
    fails(file.fsync)
    with pytest.raises(OSError) as caught:
        file.pwrite(b"x" * PAGE, 300 * 1024)
    assert caught.value.errno == errno.ENOSPC
    assert file.size == 250 * 1024
    other = rig.open("w+b", key="other")
    assert other.pwrite(b"fine", 0) == 4
    fault.clear()
    file.fsync()
    assert file.pwrite(b"x" * PAGE, 300 * 1024) == PAGE
    file.fsync()
    assert rig.backend.committed(KEY) == bytes(300 * 1024) + b"x" * PAGE


def test_a_little_failed_data_does_not_stop_writes(dirty: Rig) -> None:
    """Below the limit the writer goes on. [2.16]"""
    dirty.backend.fault("write_from", FULL, times=2)
    fails(dirty.handles[0].fsync)
    dirty.handles[0].pwrite(b"more", 6 * PAGE)
    assert dirty.handles[0].pread(4, 6 * PAGE) == b"more"


def test_close_reports_and_keeps(dirty: Rig) -> None:
    """The handle is closed anyway; the data stays in the cache and is found by the next opener. [2.16, 2.20]"""
    dirty.backend.fault("write_from", FULL)
    file = dirty.handles[0]
    assert fails(file.close).errno == errno.ENOSPC
    assert file.closed
    file.close()
    assert [f.key for f in dirty.volume.failed()] == [KEY]
    again = dirty.open("r+b")
    assert again.pread(len(DATA), 0) == DATA
    again.fsync()
    assert dirty.backend.committed(KEY) == DATA


def test_discard_answers_what_was_lost(dirty: Rig) -> None:
    """Bytes, size and lists are those of the store again. [2.16, E12]"""
    lost = dirty.volume.discard(KEY)
    assert all(isinstance(item, LostRange) for item in lost)
    assert [(item.key, item.offset, item.length, item.volume) for item in lost] == [(KEY, 0, len(DATA), "volume")]
    assert dirty.volume.dirty_ranges(KEY) == []
    assert dirty.handles[0].size == 0
    with pytest.raises(DataLossError):
        dirty.handles[0].fsync()
    dirty.volume.sync(20)
    assert dirty.backend.committed(KEY) == b""


def test_discard_of_a_part_leaves_the_rest(make: Make) -> None:
    """Only the range is given up; the store's bytes are read again there. [2.18]"""
    rig = make({KEY: pattern(6 * PAGE, seed=9)}, retry=ONCE)
    file = rig.open("r+b")
    file.pwrite(DATA, 0)
    rig.volume.discard(KEY, 2 * PAGE, PAGE)
    expected = DATA[: 2 * PAGE] + pattern(6 * PAGE, seed=9)[2 * PAGE : 3 * PAGE] + DATA[3 * PAGE :]
    assert file.pread(6 * PAGE, 0) == expected
    with pytest.raises(DataLossError):
        file.fsync()
    file.fsync()
    assert rig.backend.committed(KEY) == expected


@pytest.mark.parametrize("call", ["fsync", "flush", "close"])
def test_loss_is_reported_once_per_handle(dirty: Rig, call: str) -> None:
    """Each handle open at that time reports it from its next fsync, flush or close; later ones do not. [T-16, 2.16]"""
    handles = [dirty.handles[0], dirty.open("r+b")]
    dirty.volume.discard(KEY, PAGE, PAGE)
    later = dirty.open("r+b")
    for file in handles:
        with pytest.raises(DataLossError) as caught:
            getattr(file, call)()
        assert caught.value.errno == errno.EIO
        assert [(lost.offset, lost.length) for lost in caught.value.ranges] == [(PAGE, PAGE)]
        if call != "close":
            file.fsync()
        file.close()
    later.fsync()
    later.close()


def test_discard_of_clean_data_loses_nothing(make: Make) -> None:
    """An empty list and no error anywhere. [2.18]"""
    rig = make({KEY: DATA})
    file = rig.open("r+b")
    file.pread(PAGE, 0)
    assert rig.volume.discard(KEY) == []
    file.fsync()
    assert file.pread(len(DATA), 0) == DATA


def test_dirty_ranges_follow_the_bytes(make: Make) -> None:
    """Dirty, in flight and unstable, cut at the size, in order. [2.16]"""
    rig = make({KEY: b""}, retry=ONCE)
    file = rig.open("r+b")
    assert rig.volume.dirty_ranges(KEY) == []
    file.pwrite(b"a" * PAGE, 0)
    file.pwrite(b"b" * 100, 4 * PAGE)
    expected = [(0, PAGE), (4 * PAGE, 100)]
    assert rig.volume.dirty_ranges(KEY) == expected
    gate = rig.backend.gate("write_from", times=10)
    flush = Task(file.flush)
    gate.wait_entered()
    assert rig.volume.dirty_ranges(KEY) == expected
    gate.open()
    flush.result()
    assert rig.volume.dirty_ranges(KEY) == expected
    rig.backend.fault("commit", failing_commit(FULL))
    fails(file.fsync)
    assert rig.volume.dirty_ranges(KEY) == expected
    file.fsync()
    assert rig.volume.dirty_ranges(KEY) == []


def test_statistics_are_exact_when_nothing_runs(dirty: Rig) -> None:
    """Bytes by state, requests and bytes sent; the same for cache, volume and file. [I-25, 2.27]"""
    file = dirty.handles[0]
    for stats in (dirty.cache.stats(), dirty.volume.stats(), file.stats()):
        assert (stats.dirty, stats.writeback, stats.unstable) == (len(DATA), 0, 0)
        assert stats.clean == 0
    file.fsync()
    file.pread(PAGE, 0)
    for stats in (dirty.cache.stats(), dirty.volume.stats(), file.stats()):
        assert (stats.dirty, stats.writeback, stats.unstable, stats.failed, stats.pinned) == (0, 0, 0, 0, 0)
        assert stats.clean >= len(DATA)
        assert (stats.write_requests, stats.write_bytes, stats.commits) == (1, len(DATA), 1)
        assert stats.hits >= 1
        assert stats.folios >= 1
        assert stats.to_dict()["write_bytes"] == len(DATA)
    stats = dirty.cache.stats()
    assert stats.capacity == 8 << 20
    assert len(DATA) <= stats.used <= stats.capacity


def test_reads_are_counted(make: Make) -> None:
    """Misses, requests and bytes read. [I-26, 2.27]"""
    rig = make({KEY: DATA})
    file = rig.open("rb")
    file.pread(PAGE, 0)
    file.pread(PAGE, 0)
    stats = rig.volume.stats()
    assert (stats.read_requests, stats.read_bytes) == (1, PAGE)
    assert stats.misses >= 1
    assert stats.hits >= 1


def test_stat_shows_local_extensions(dirty: Rig) -> None:
    """Size as a reader sees it, how much is local and how much cached. [2.20]"""
    stat = dirty.volume.stat(KEY)
    assert (stat.size, stat.dirty) == (len(DATA), len(DATA))
    assert stat.cached >= len(DATA)
    dirty.handles[0].fsync()
    stat = dirty.volume.stat(KEY)
    assert (stat.size, stat.dirty) == (len(DATA), 0)
    assert stat.cached >= len(DATA)


def test_bytes_repaired_while_an_fsync_finds_them_failed_are_no_error(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fsync raises for data that is failed now, not for data that was. [2.15]"""
    rig = make({KEY: b""}, retry=ONCE)
    file = rig.open()
    file.pwrite(b"new", 0)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), times=1)
    pending = NativeInode.flush_pending
    repaired: list[int] = []

    def repairing(native: NativeInode, *args: Any) -> int:
        found = pending(native, *args)
        if found & FAILED and len(args) == 3 and not repaired:  # the last check, which has no cursor
            repaired.append(found)
            rig.volume.retry_failed()
            eventually(lambda: not pending(native, *args) and rig.volume.failed() == [])
        return found

    monkeypatch.setattr(NativeInode, "flush_pending", repairing)
    file.fsync()
    assert repaired == [FAILED]
    assert rig.backend.committed(KEY) == b"new"
