"""A cut or a hole of unknown outcome, over a store whose acknowledged writes are durable: once is enough.

Bytes written after it are durable and clean at once, so repeating the cut with the next backend would remove them. An
unpaid cut is passed on to the next backend.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import replace
from typing import Any

import pytest

from pagecache import CachedFile, DataLossError, ShutdownError

from ..stores import RecordingBackend
from .rig import KEY, ONCE, PAGE, Make, Rig, Task, at_gate, cut_off, dirty_bytes, eventually, pattern, raises

OLD = pattern(4 * PAGE)
NEW = pattern(4 * PAGE, seed=1)
CUT = PAGE + 10
LOST = OSError(errno.ETIMEDOUT, "line")


def opened(make: Make, *, durable: bool = True, **limits: Any) -> tuple[Rig, CachedFile]:
    rig, file = make({KEY: OLD}, limits={"durable_writes": durable, "punch": True, **limits}, retry=ONCE).opened("r+b")
    file.pread(4 * PAGE, 0)
    return rig, file


def next_backend(rig: Rig, *, durable: bool = True, lose: bool = False) -> RecordingBackend:
    """The store after a crash, with all acknowledged bytes, or without the uncommitted ones if it `lose`s them."""
    rig.volume.abort()
    fresh = rig.backend.successor(lose=lose)
    fresh.limits = replace(fresh.limits, durable_writes=durable)
    rig.volume.reconnect(fresh)
    rig.backend = fresh
    return fresh


def unknown(rig: Rig, file: CachedFile, change: str) -> None:
    rig.backend.fault(change, LOST)
    with pytest.raises(OSError, match="line"):
        file.truncate(CUT) if change == "truncate" else file.punch_hole(PAGE, 2 * PAGE)


def stored_in_a_moment(rig: Rig, file: CachedFile) -> None:
    """Write more than there was; it is clean without a commit."""
    file.pwrite(NEW, PAGE)
    file.sync_range(0, 5 * PAGE)
    assert dirty_bytes(rig.volume) == 0


def test_bytes_written_after_a_paid_cut_stay(make: Make) -> None:
    """They stay with the next backend and the one after it. [2.17, 2.22, I-18]"""
    rig, file = opened(make)
    unknown(rig, file, "truncate")
    stored_in_a_moment(rig, file)
    for _ in range(2):
        fresh = next_backend(rig)
        assert file.pread(9 * PAGE, 0) == OLD[:PAGE] + NEW
        assert fresh.seen("truncate") == []
    file.fsync()
    assert fresh.written(KEY) == OLD[:PAGE] + NEW


def test_a_cut_that_is_not_paid_is_made_with_the_next_backend(make: Make) -> None:
    """It is made before anything else is sent, and only once. [2.17, 2.22]"""
    rig, file = opened(make)
    gate = cut_off(rig.volume, rig.backend.gate("truncate"), file.truncate, CUT)
    rig.backend.fault("truncate", OSError(errno.EPERM, "too late"))
    gate.open()
    fresh = next_backend(rig)
    assert file.pread(9 * PAGE, 0) == OLD[:CUT]
    assert [call.offset for call in fresh.seen("truncate")] == [CUT]
    stored_in_a_moment(rig, file)
    assert next_backend(rig).seen("truncate") == []
    assert file.pread(9 * PAGE, 0) == OLD[:PAGE] + NEW


def test_a_cut_of_a_store_that_commits_is_over_with_one_that_is_durable(make: Make) -> None:
    """It was not committed, so it is made again, once. [2.17, 2.22]"""
    rig, file = opened(make, durable=False)
    file.truncate(CUT)
    fresh = next_backend(rig, durable=True, lose=True)
    assert file.pread(9 * PAGE, 0) == OLD[:CUT]
    assert [call.offset for call in fresh.seen("truncate")] == [CUT, CUT]
    stored_in_a_moment(rig, file)
    assert next_backend(rig).seen("truncate") == []
    assert file.pread(9 * PAGE, 0) == OLD[:PAGE] + NEW


def test_a_cut_that_is_paid_where_writes_are_committed_waits_for_a_commit(make: Make) -> None:
    """It came from a durable store, to which it was not paid. [2.17, 2.22]"""
    rig, file = opened(make)
    unknown(rig, file, "truncate")
    fresh = next_backend(rig, durable=False)
    assert file.pread(9 * PAGE, 0) == OLD[:CUT]
    assert [call.offset for call in fresh.seen("truncate")] == [CUT]
    again = next_backend(rig, durable=False, lose=True)
    assert file.pread(9 * PAGE, 0) == OLD[:CUT]
    assert [call.offset for call in again.seen("truncate")] == [CUT, CUT]
    file.fsync()
    assert again.committed(KEY) == OLD[:CUT]


def test_a_hole_that_was_paid_is_no_loss(make: Make) -> None:
    """The bytes written into it since are there. [2.17, 2.22]"""
    rig, file = opened(make)
    unknown(rig, file, "punch_hole")
    file.pwrite(NEW[:PAGE], PAGE)
    file.sync_range(0, 4 * PAGE)
    next_backend(rig)
    file.fsync()
    assert file.pread(9 * PAGE, 0) == OLD[:PAGE] + NEW[:PAGE] + bytes(PAGE) + OLD[3 * PAGE :]


@pytest.mark.parametrize("durable", [False, True])
def test_the_tail_of_a_direct_write_at_an_abort_is_cut_by_the_next_backend(make: Make, durable: bool) -> None:
    """The file is locked by another call, so the cut never became owed. [2.10, 2.17]"""
    rig, file = opened(make, durable=durable, max_write=PAGE)
    direct = rig.open("r+b", direct=True)
    file.pwrite(b"y", 0)
    handing_over, saving = at_gate(rig.backend.gate("write_from"), file.fsync)
    rig.backend.fault("write_from", LOST, skip=1, times=1)  # one call stores a page behind the end, the next one fails
    writing = Task(raises, OSError, direct.pwrite, NEW[: 2 * PAGE], 4 * PAGE, match=r"line|abort")
    eventually(lambda: [call.offset for call in rig.backend.seen("write_from")][-1] == 5 * PAGE)
    assert writing.waits()
    rig.volume.abort()
    writing.result()
    raises(ShutdownError, saving.result)
    end = direct.size
    handing_over.open()
    fresh = next_backend(rig, durable=durable)
    assert file.pread(9 * PAGE, 0) == b"y" + (OLD + NEW)[1:end]
    with contextlib.suppress(DataLossError):  # of the page that was stored, if it was not durable
        file.fsync()
    file.fsync()
    assert fresh.seen("truncate")[-1].offset == end
    assert fresh.written(KEY) == b"y" + (OLD + NEW)[1:end]
    with contextlib.suppress(DataLossError):
        direct.close()


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("durable", [True, False])
def test_bytes_written_after_a_cut_stay_if_the_store_became_durable(make: Make, durable: bool, committed: bool) -> None:
    """Later writes wait for a commit, as the cut does. From the commit on nothing is made again. [2.17, 2.22]"""
    rig, file = opened(make, durable=False)
    file.truncate(CUT)
    rig.backend.limits = replace(rig.backend.limits, durable_writes=True)
    if committed:
        file.fsync()
    file.pwrite(NEW, PAGE)
    file.sync_range(0, 5 * PAGE)
    assert bool(dirty_bytes(rig.volume)) == (not committed)
    fresh = next_backend(rig, durable=durable)
    assert file.pread(9 * PAGE, 0) == OLD[:PAGE] + NEW
    assert bool(fresh.seen("truncate")) == (not committed)
    file.fsync()
    assert committed or fresh.committed(KEY) == OLD[:PAGE] + NEW


def test_a_cut_that_waits_is_made_again_with_a_shorter_one_of_a_durable_time(make: Make) -> None:
    """The two are one cut to the shorter size. [2.17, 2.22]"""
    rig, file = opened(make, durable=False)
    file.truncate(3 * PAGE)
    rig.backend.limits = replace(rig.backend.limits, durable_writes=True)
    file.truncate(CUT)
    file.pwrite(b"end", 4 * PAGE)
    expected = OLD[:CUT].ljust(4 * PAGE, b"\0") + b"end"
    file.flush()
    fresh = next_backend(rig, lose=True)
    assert file.pread(9 * PAGE, 0) == expected
    file.fsync()
    assert fresh.committed(KEY) == expected
