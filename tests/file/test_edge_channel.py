"""A loss is reported once to every handle that was open, or to the next opener if no handle has reported it."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import CachedFile, CommitError, DataLossError, WritebackError

from ..stores import failing_commit
from .rig import FAST, KEY, ONCE, PAGE, Rig, eventually, pattern

Make = Callable[..., Rig]
OLD = pattern(2 * PAGE)
NO = OSError(errno.EACCES, "no")

TELLING: dict[str, Callable[[CachedFile], Any]] = {
    "fsync": lambda file: file.fsync(),
    "flush": lambda file: file.flush(),
    "close": lambda file: file.close(),
}


def lose(rig: Rig) -> None:
    """Lose data behind the application's back: no caller gets the list."""
    writer = rig.open("r+b")
    writer.pwrite(b"theirs comes", 0)
    rig.backend.change_remotely(KEY, OLD)
    rig.volume.open(KEY, "rb")._leave()  # which reports to no caller
    writer._leave()


@pytest.fixture
def rig(make: Make) -> Rig:
    return make({KEY: OLD}, options={"on_conflict": "take_remote"}, retry=FAST)


@pytest.mark.parametrize("telling", TELLING)
@pytest.mark.parametrize("mode", ["r+b", "rb"])
def test_each_handle_reports_a_loss_exactly_once(rig: Rig, telling: str, mode: str) -> None:
    """Its next fsync, flush or close reports it, also if it only reads; close closes anyway. [T-16, 2.16]"""
    handles = [rig.open(mode) for _ in range(3)]
    lose(rig)
    for file in handles:
        with pytest.raises(DataLossError) as caught:
            TELLING[telling](file)
        assert caught.value.errno == errno.EIO
        assert sum(lost.length for lost in caught.value.ranges) >= len(b"theirs comes")
        assert file.closed == (telling == "close")
    for file in handles:
        if not file.closed:
            file.fsync()
        file.close()


def test_a_loss_that_no_handle_reported_is_reported_to_the_next_opener(rig: Rig) -> None:
    """No later opener sees it once it was reported. [2.16]"""
    lose(rig)
    with pytest.raises(DataLossError):
        rig.open("rb").close()
    rig.open("rb").close()


def test_an_opener_that_never_asks_has_not_seen_it(rig: Rig) -> None:
    """Opening does not report: two handles opened before the first report both report it. [2.16]"""
    lose(rig)
    first, second = rig.open("rb"), rig.open("r+b")
    for file in (first, second):
        with pytest.raises(DataLossError):
            file.fsync()
    rig.open("rb").close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_collected_handle_has_reported_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Its errors go to the log and on to the next opener. [2.21, 2.16]"""
    handles = [rig.volume.open(KEY, "rb")]
    lose(rig)
    handles.clear()
    gc.collect()
    eventually(lambda: "is lost" in caplog.text)
    with pytest.raises(DataLossError):
        rig.open("rb").close()


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
    with pytest.raises(DataLossError):
        file.fsync()
    assert rig.backend.committed(KEY) == b"new" + OLD[3:]
    file.fsync()


def test_two_losses_are_reported_together_or_one_by_one(rig: Rig) -> None:
    """The report covers all losses since the handle's last report. [2.16]"""
    early, late = rig.open("r+b"), rig.open("r+b")
    for offset in (0, PAGE):
        early.pwrite(b"x", offset)
        rig.volume.discard(KEY)
        with pytest.raises(DataLossError) as caught:
            early.fsync()
        assert [lost.offset for lost in caught.value.ranges] == [offset]
    with pytest.raises(DataLossError) as caught:
        late.fsync()
    assert [lost.offset for lost in caught.value.ranges] == [0, PAGE]


def test_losses_that_every_handle_has_reported_are_forgotten(rig: Rig) -> None:
    """A handle that discards for years keeps no list of them. [2.16]"""
    file = rig.open("r+b")
    for _ in range(50):
        file.pwrite(b"x", 0)
        rig.volume.discard(KEY)
        with pytest.raises(DataLossError):
            file.fsync()
    assert len(file._inode._losses) <= 2


@pytest.mark.parametrize("aborted", [False, True])
def test_close_with_discard_is_reported_once_by_open_handles(make: Make, aborted: bool) -> None:
    """The caller has the list, each handle raises DataLossError from close. [2.16, 2.22]"""
    rig = make({KEY: OLD}, retry=ONCE)
    file, reader = rig.open("r+b"), rig.open("rb")
    file.pwrite(b"given up", 0)
    if aborted:
        rig.volume.abort()
    else:
        rig.backend.fault("write_from", NO, times=99)
    lost = rig.cache.close(on_failed="discard", timeout=20)
    assert [(entry.offset, entry.length) for entry in lost] == [(0, 8)]
    for handle in (file, reader):
        with pytest.raises(DataLossError):
            handle.close()
        handle.close()


# -------------------------------------------------------------------- 2.16.3, 2.16.4


@pytest.mark.parametrize("code", [errno.EACCES, errno.ETIMEDOUT])
def test_after_a_failed_commit_bytes_are_dirty_and_failed(make: Make, code: int) -> None:
    """A transient error that outlasts the policy is reported like a permanent one. [2.16]"""
    rig = make({KEY: b""}, retry=ONCE)
    file = rig.open("r+b")
    file.pwrite(OLD, 0)
    rig.backend.fault("commit", failing_commit(OSError(code, "no")))
    with pytest.raises(CommitError):
        file.fsync()
    assert rig.volume.dirty_ranges(KEY) == [(0, len(OLD))]
    failed = [(r.offset, r.length, r.errno, r.message) for r in rig.volume.failed()]
    assert failed == [(0, len(OLD), code, "no")]
    assert file.pread(len(OLD), 0) == OLD
    file.fsync()
    assert rig.volume.failed() == []
    assert rig.volume.dirty_ranges(KEY) == []
    assert rig.backend.committed(KEY) == OLD


def test_data_parked_by_a_commit_costs_no_calls_and_is_resumed_on_request(make: Make) -> None:
    """Neither age nor memory pressure sends it again. [2.14, 2.16]"""
    rig = make({KEY: b""}, retry=ONCE)
    file = rig.open("r+b")
    file.pwrite(OLD, 0)
    fault = rig.backend.fault("commit", failing_commit(NO), times=99)
    with pytest.raises(CommitError):
        file.fsync()
    rig.backend.forget_calls()
    rig.cache.configure(dirty_expire=0.001, flush_interval=0.005, dirty_background=PAGE)
    turns = rig.cache.flusher
    for _ in range(20):
        turns.turn()
    assert rig.backend.calls == []
    fault.clear()
    rig.volume.retry_failed(KEY)
    eventually(lambda: rig.volume.failed() == [])
    rig.volume.sync(20)
    assert rig.backend.committed(KEY) == OLD


def test_ranges_lie_inside_the_size_and_inside_valid_bytes(make: Make) -> None:
    """This concerns failed, dirty_ranges, errors and discard. [2.16]"""
    rig = make({KEY: b""}, retry=ONCE)
    file = rig.open("r+b")
    file.pwrite(b"a" * 10, 100)
    file.pwrite(b"b" * 10, 3000)
    file.pwrite(b"c" * 10, 3 * PAGE - 5)
    rig.backend.fault("write_from", NO, times=9)
    with pytest.raises(WritebackError) as caught:
        file.fsync()
    lists = [
        [(r.offset, r.length) for r in caught.value.ranges],
        [(r.offset, r.length) for r in rig.volume.failed()],
        rig.volume.dirty_ranges(KEY),
    ]
    rig.backend.clear_faults()
    lists.append([(lost.offset, lost.length) for lost in rig.volume.discard(KEY)])
    valid = set(range(PAGE)) | set(range(2 * PAGE, 3 * PAGE + 5))
    for ranges in lists:
        covered = {at for offset, length in ranges for at in range(offset, offset + length)}
        assert {100, 109, 3000, 3009, 3 * PAGE - 5, 3 * PAGE + 4} <= covered <= valid
