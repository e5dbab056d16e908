"""Failed data: kept, listed, repaired, or given up on purpose. A loss is reported once to every handle that was open,
or to the next opener if no handle has reported it.
"""

from __future__ import annotations

import errno
import gc
from types import SimpleNamespace
from typing import Any

import pytest

from pagecache import DataLossError, FailedRange, LostRange, WritebackError
from pagecache.native import STAMP_MAX, SYNC_FAILED, NativeInode
from pagecache.native import inode as native_inode
from pagecache.native.extension import lib

from ..stores import failing_commit
from .rig import FAST, KEY, ONCE, PAGE, SAVES, Log, Make, Patch, Rig, Task, at_gate, beside, eventually, pattern, raises

DATA = pattern(6 * PAGE)
FULL = OSError(errno.ENOSPC, "no space left")
FOREVER = float("inf")


@pytest.mark.parametrize(("op", "action"), [("write_from", FULL), ("commit", failing_commit(FULL))])
def test_every_handle_reports_an_error_until_it_is_repaired(dirty: Rig, op: str, action: Any) -> None:
    """Level: each fsync of each handle fails as long as failed bytes exist. [T-16, T-18, 2.15, K3]"""
    handles = [dirty.handles[0], dirty.open("r+b"), dirty.open("r+b")]
    fault = dirty.backend.fault(op, action, times=FOREVER)
    for file in handles + handles:
        assert raises(WritebackError, file.fsync).errno == errno.ENOSPC
    assert raises(WritebackError, dirty.open("r+b").fsync).errno == errno.ENOSPC
    fault.clear()
    for file in handles:
        file.fsync()
    assert dirty.backend.committed(KEY) == DATA


def test_an_error_names_file_ranges_and_cause(dirty: Rig) -> None:
    """errno, filename, and ranges with the details of each. [2.16, T-66]"""
    dirty.backend.fault("write_from", FULL, times=FOREVER)
    error = raises(WritebackError, dirty.handles[0].fsync)
    assert error.filename == KEY
    (failed,) = error.ranges
    assert isinstance(failed, FailedRange)
    assert (failed.key, failed.offset, failed.length, failed.errno) == (KEY, 0, len(DATA), errno.ENOSPC)
    assert (failed.volume, failed.attempts, failed.next_retry) == ("volume", 1, None)
    assert "no space left" in failed.message
    assert isinstance(failed.since, float)


def test_failed_lists_exactly_what_failed(make: Make) -> None:
    """The acknowledged pages are not in it; ranges are cut at the size. [T-20, 2.16]"""
    rig, file = make({KEY: b""}, retry=ONCE, limits={"max_write": 2 * PAGE, "ordered_writes": True}).opened("r+b")
    file.pwrite(DATA[: 5 * PAGE + 100], 0)
    rig.backend.fault("write_from", FULL, skip=1)
    raises(WritebackError, file.fsync)
    listed = [(f.offset, f.length) for f in rig.volume.failed()]
    assert listed == [(2 * PAGE, 2 * PAGE)]
    file.fsync()
    assert rig.volume.failed() == []
    assert rig.backend.committed(KEY) == DATA[: 5 * PAGE + 100]


def test_too_much_failed_data_stops_new_writes_to_the_file(make: Make) -> None:
    """Above `failed_limit` they raise the stored errno at once; other files go on; space repairs all. [T-20, 2.16]"""
    rig, file = make(
        {KEY: b""}, capacity="1MiB", retry=ONCE, dirty_background="300KiB", dirty_limit="400KiB", failed_limit=0.5
    ).written(bytes(250 * 1024), 0)
    fault = rig.backend.fault("write_from", FULL, key=KEY, times=FOREVER)
    raises(WritebackError, file.fsync)
    assert raises(OSError, file.pwrite, b"x" * PAGE, 300 * 1024).errno == errno.ENOSPC
    assert file.size == 250 * 1024
    other = rig.open("w+b", key="other")
    assert other.pwrite(b"fine", 0) == 4
    fault.clear()
    file.fsync()
    assert file.pwrite(b"x" * PAGE, 300 * 1024) == PAGE
    assert rig.saved(file) == bytes(300 * 1024) + b"x" * PAGE


def test_discard_answers_what_was_lost(dirty: Rig) -> None:
    """Bytes, size and lists are those of the store again. [2.16, E12]"""
    lost = dirty.volume.discard(KEY)
    assert all(isinstance(item, LostRange) for item in lost)
    assert [(item.key, item.offset, item.length, item.volume) for item in lost] == [(KEY, 0, len(DATA), "volume")]
    assert dirty.volume.dirty_ranges(KEY) == []
    assert dirty.handles[0].size == 0
    raises(DataLossError, dirty.handles[0].fsync)
    assert dirty.volume.discard(KEY) == []  # all is clean
    dirty.handles[0].fsync()
    assert dirty.synced() == b""


def test_discard_lists_a_burst_of_writes_beside_it(dirty: Rig, monkeypatch: Patch) -> None:
    """All bytes that it gives up are on its list, however many ranges come after its begin. [2.18, E12]"""
    (file,), pages = dirty.handles, range(8, 1000, 2)
    library = SimpleNamespace(**{name: getattr(lib, name) for name in dir(lib)})

    def burst() -> None:
        for page in pages:
            file.pwrite(bytes(PAGE), page * PAGE)

    beside(monkeypatch, library, "pc_discard", lambda: Task(burst).result())
    monkeypatch.setattr(native_inode, "lib", library)
    lost = [(item.offset, item.length) for item in dirty.volume.discard(KEY)]
    assert lost == [(0, len(DATA)), *((page * PAGE, PAGE) for page in pages)]
    assert dirty.volume.discard(KEY) == []


def test_statistics_are_exact_when_nothing_runs(dirty: Rig) -> None:
    """Bytes by state, requests and bytes sent and read; the same for cache, volume and file. [I-25, I-26, 2.27]"""
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
    dirty.volume.drop_clean()
    before = dirty.volume.stats()
    for _ in range(2):
        file.pread(PAGE, 0)
    after = dirty.volume.stats()
    assert (before.read_requests, after.read_requests, after.read_bytes) == (0, 1, PAGE)
    assert (after.misses, after.hits) == (before.misses + 1, before.hits + 1)


def test_bytes_repaired_while_an_fsync_finds_them_failed_are_no_error(make: Make, monkeypatch: Patch) -> None:
    """The fsync raises for data that is failed now, not for data that was. [2.15]"""
    rig, file = make({KEY: b""}, retry=ONCE).written(b"new", 0)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), times=1)
    advance = NativeInode.advance
    repaired: list[int] = []

    def repairing(native: NativeInode, *args: Any) -> int:
        found = advance(native, *args)
        if found == SYNC_FAILED and not repaired:
            repaired.append(found)
            rig.volume.retry_failed()
            eventually(lambda: not native.flush_pending(STAMP_MAX) and rig.volume.failed() == [])
        return found

    monkeypatch.setattr(NativeInode, "advance", repairing)
    file.fsync()
    assert repaired == [SYNC_FAILED]
    assert rig.backend.committed(KEY) == b"new"


OLD = pattern(2 * PAGE)
NO = OSError(errno.EACCES, "no")


def lose(rig: Rig) -> None:
    """Lose data behind the application's back: no caller gets the list."""
    writer = rig.dirtied(b"theirs comes", 0)
    rig.backend.change_remotely(KEY, OLD)
    rig.volume.open(KEY, "rb")._leave()  # which reports to no caller
    writer._leave()


@pytest.fixture
def rig(make: Make) -> Rig:
    return make({KEY: OLD}, options={"on_conflict": "take_remote"}, retry=FAST)


@pytest.mark.parametrize("telling", ["fsync", "flush", "close"])
@pytest.mark.parametrize("mode", ["r+b", "rb"])
def test_each_handle_reports_a_loss_exactly_once(rig: Rig, telling: str, mode: str) -> None:
    """Its next fsync, flush or close reports it, also if it only reads; close closes anyway. [T-16, 2.16]"""
    handles = [rig.open(mode) for _ in range(3)]
    lose(rig)
    for file in handles:
        caught = raises(DataLossError, SAVES[telling], rig, file)
        assert caught.errno == errno.EIO
        assert sum(lost.length for lost in caught.ranges) >= len(b"theirs comes")
        assert file.closed == (telling == "close")
    for file in handles:
        if not file.closed:
            file.fsync()
        file.close()


def test_a_loss_that_no_handle_reported_is_reported_to_the_next_opener(rig: Rig) -> None:
    """Opening does not report: all handles opened before the first report do it, and no later one does. [2.16]"""
    lose(rig)
    first, second = rig.open("rb"), rig.open("r+b")
    raises(DataLossError, first.close)
    raises(DataLossError, second.fsync)
    rig.open("rb").close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_collected_handle_has_reported_nothing(rig: Rig, caplog: Log) -> None:
    """Its errors go to the log and on to the next opener. [2.21, 2.16]"""
    handles = [rig.volume.open(KEY, "rb")]
    lose(rig)
    handles.clear()
    gc.collect()
    eventually(lambda: "is lost" in caplog.text)
    raises(DataLossError, lambda: rig.open("rb").close())


@pytest.mark.parametrize("how", ["fsync", "sync", "write"])
def test_a_later_success_clears_nothing(rig: Rig, how: str) -> None:
    """New bytes are saved; the loss is still reported. [2.16]"""
    file = rig.open("r+b")
    lose(rig)
    with rig.volume.open(KEY, "rb") as other, pytest.raises(DataLossError):
        other.fsync()
    file.pwrite(b"new", 0)
    if how == "sync":
        rig.volume.sync(20)
    elif how == "write":
        file.sync_range(0, PAGE)
    raises(DataLossError, file.fsync)
    assert rig.backend.committed(KEY) == b"new" + OLD[3:]
    file.fsync()


def test_two_report_to_handles_reported_together_or_one_by_one(rig: Rig) -> None:
    """The report covers all losses since the handle's last report. [2.16]"""
    early, late = rig.open("r+b"), rig.open("r+b")
    for offset in (0, PAGE):
        early.pwrite(b"x", offset)
        rig.volume.discard(KEY)
        assert [lost.offset for lost in raises(DataLossError, early.fsync).ranges] == [offset]
    assert [lost.offset for lost in raises(DataLossError, late.fsync).ranges] == [0, PAGE]


@pytest.mark.parametrize("aborted", [False, True])
@pytest.mark.parametrize("end", ["close", "detach"])
def test_an_end_with_discard_is_reported_once_by_open_handles(make: Make, end: str, aborted: bool) -> None:
    """The caller has the list, each handle raises DataLossError from close. [2.16, 2.22]"""
    rig, file, reader = make({KEY: OLD}, retry=ONCE).both("rb")
    file.pwrite(b"given up", 0)
    if aborted:
        rig.volume.abort()
    else:
        rig.backend.fault("write_from", NO, times=99)
    lost = (rig.cache.close if end == "close" else rig.volume.detach)(on_failed="discard", timeout=20)
    assert [(entry.key, entry.offset, entry.length, entry.volume) for entry in lost] == [(KEY, 0, 8, "volume")]
    assert rig.cache.volumes() == ()
    for handle in (file, reader):
        raises(DataLossError, handle.close)
        handle.close()


def test_an_fsync_beside_a_discard_reports_the_loss(make: Make) -> None:
    """The bytes are given up, and the cut of their tail takes as long as the store. [2.15, 2.16]"""
    rig, file = make({KEY: b""}).written(OLD, 0)
    gate, discard = at_gate(rig.backend.gate("truncate"), rig.volume.discard, KEY)
    raises(DataLossError, Task(file.fsync).result)
    assert [entry.length for entry in discard.result(opening=gate)] == [len(OLD)]


@pytest.mark.parametrize("op", ["write_from", "commit"])
def test_parked_data_costs_no_calls_and_is_resumed_on_request(make: Make, op: str) -> None:
    """Neither age nor memory pressure sends it again. [2.14, 2.16]"""
    rig, file = make({KEY: b""}, retry=ONCE).written(OLD, 0)
    fault = rig.backend.fault(op, failing_commit(NO) if op == "commit" else NO, times=99)
    raises(WritebackError, file.fsync)
    rig.backend.forget_calls()
    rig.cache.configure(dirty_expire=0.001, flush_interval=0.005, dirty_background=PAGE)
    turns = rig.cache.flusher
    for _ in range(20):
        turns.turn()
    assert rig.backend.calls == []
    fault.clear()
    rig.volume.retry_failed(KEY)
    eventually(lambda: rig.volume.failed() == [])
    assert rig.synced() == OLD


def test_ranges_lie_inside_the_size_and_inside_valid_bytes(make: Make) -> None:
    """This concerns failed, dirty_ranges, errors and discard. [2.16]"""
    rig, file = make({KEY: b""}, retry=ONCE).written(b"a" * 10, 100)
    file.pwrite(b"b" * 10, 3000)
    file.pwrite(b"c" * 10, 3 * PAGE - 5)
    rig.backend.fault("write_from", NO, times=9)
    caught = raises(WritebackError, file.fsync)
    lists = [
        [(r.offset, r.length) for r in caught.ranges],
        [(r.offset, r.length) for r in rig.volume.failed()],
        rig.volume.dirty_ranges(KEY),
    ]
    rig.backend.clear_faults()
    lists.append([(lost.offset, lost.length) for lost in rig.volume.discard(KEY)])
    valid = set(range(PAGE)) | set(range(2 * PAGE, 3 * PAGE + 5))
    for ranges in lists:
        covered = {at for offset, length in ranges for at in range(offset, offset + length)}
        assert {100, 109, 3000, 3009, 3 * PAGE - 5, 3 * PAGE + 4} <= covered <= valid
