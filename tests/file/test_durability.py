"""Nothing is clean before it is committed: flush, fsync, sync_range, sync, tickets and close; calls that write back.

A store whose acknowledged writes are durable makes a cut of unknown outcome once: bytes written after it are clean at
once, so repeating the cut with the next backend would remove them. An unpaid cut is passed on to the next backend.
"""

from __future__ import annotations

import contextlib
import errno
import random
from dataclasses import replace
from typing import Any

import pytest

from pagecache import BackendError, CachedFile, CommitError, DataLossError, ShutdownError, WritebackError

from ..stores import RecordingBackend, address, failing_commit
from .rig import KEY, ONCE, PAGE, Make, Rig, Task, at_gate, cut_off, dirty_bytes, eventually, pattern, raises, spread

DATA = pattern(5 * PAGE + 17)


def ops(rig: Rig, *names: str) -> list[str]:
    return [call.op for call in rig.backend.calls if call.op in (names or ("write_from", "commit"))]


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("data_only", [False, True])
def test_fsync_writes_then_commits_once(dirty: Rig, data_only: bool, flushed: bool) -> None:
    """Flushed bytes stay local until then, and are not sent again; fdatasync promises as much. [2.15, I-18, K2]"""
    if flushed:
        dirty.handles[0].flush()
        assert dirty.backend.written(KEY) == DATA
        assert ops(dirty) == ["write_from"]
        assert dirty_bytes(dirty.volume) == len(DATA)
        stats = dirty.cache.stats()
        assert stats.dirty == stats.writeback == 0
        assert stats.unstable > 0
    dirty.handles[0].fsync(data_only=data_only)
    assert ops(dirty) == ["write_from", "commit"]
    assert dirty.backend.committed(KEY) == DATA
    assert dirty.volume.dirty_ranges(KEY) == []
    stats = dirty.cache.stats()
    assert (stats.dirty, stats.writeback, stats.unstable, stats.failed) == (0, 0, 0, 0)


def test_sync_range_hands_over_its_range_only(dirty: Rig) -> None:
    """Distant bytes stay, nothing is committed, and fsync sends only the rest. [2.15]"""
    far = 4 << 20
    dirty.handles[0].pwrite(b"far", far)
    dirty.handles[0].sync_range(PAGE, PAGE)
    sent = dirty.backend.spans("write_from")
    assert set(range(PAGE, 2 * PAGE)) <= spread(far + 3, sent) <= set(range(len(DATA)))
    assert ops(dirty, "commit") == []
    assert dirty.saved(dirty.handles[0]) == DATA + bytes(far - len(DATA)) + b"far"
    # Bytes written once are not sent again; the last page may be sent whole, with the zeros behind its bytes.
    sent = dirty.backend.spans("write_from")
    assert sum(length for _, length in sent) == len(spread(far + 3, sent))
    assert len(DATA) + 3 <= len(spread(far + 3, sent)) < len(DATA) + PAGE + 3


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ETIMEDOUT])
def test_a_failed_commit_fails_fsync_and_makes_the_bytes_dirty_again(dirty: Rig, code: int) -> None:
    """Even if the backend forgot them; the next fsync repairs. Both commits are counted. [T-18, K2, 2.16, 2.27]"""
    dirty.backend.fault("commit", failing_commit(OSError(code, "no room")))
    file = dirty.handles[0]
    assert raises(CommitError, file.fsync).errno == code
    assert ops(dirty) == ["write_from", "commit"]
    assert dirty.volume.dirty_ranges(KEY) == [(0, len(DATA))]
    failed = [(r.offset, r.length, r.errno, r.message) for r in dirty.volume.failed()]
    assert failed == [(0, len(DATA), code, "no room")]
    assert dirty.backend.committed(KEY) == b""
    assert file.pread(len(DATA), 0) == DATA
    dirty.backend.forget_calls()
    file.fsync()
    assert ops(dirty) == ["write_from", "commit"]
    assert dirty.backend.committed(KEY) == DATA
    assert (dirty.volume.dirty_ranges(KEY), dirty.volume.failed()) == ([], [])
    for stats in (file.stats(), dirty.volume.stats(), dirty.cache.stats()):
        assert (stats.commits, stats.failed_commits) == (1, 1)


@pytest.mark.parametrize("kept", [False, True])
def test_a_transient_commit_error_is_repaired_within_fsync(make: Make, kept: bool) -> None:
    """The bytes are sent again first, unless the error says that they were `kept`. [T-18, M5, 2.14, 2.15]"""
    rig, file = make({KEY: b""}).written(DATA, 0)
    error = BackendError(errno.EIO, "flaky", retry=True, kept=kept)
    rig.backend.fault("commit", failing_commit(error, forget=not kept))
    file.fsync()
    assert ops(rig) == ["write_from", "commit", *([] if kept else ["write_from"]), "commit"]
    assert rig.backend.committed(KEY) == DATA


def test_no_fsync_succeeds_while_a_commit_runs(dirty: Rig) -> None:
    """The others wait for the first one's commit and share it. [2.15]"""
    file = dirty.handles[0]
    gate, first = at_gate(dirty.backend.gate("commit"), file.fsync)
    others = [Task(dirty.open("r+b").fsync) for _ in range(7)]
    assert others[-1].waits()
    assert not any(other.finished.is_set() for other in others)
    gate.open()
    for task in (first, *others):
        task.result()
    assert len(dirty.backend.seen("commit")) == 1


def test_invalidate_writes_back_commits_and_drops(dirty: Rig) -> None:
    """Nothing is cached afterwards. If a write fails, WritebackError, and nothing is lost. [2.18]"""
    dirty.fails("write_from", OSError(errno.ENOSPC, "no room"), WritebackError, dirty.volume.invalidate, KEY)
    assert dirty.handles[0].pread(len(DATA), 0) == DATA
    dirty.volume.invalidate(KEY)
    assert dirty.backend.committed(KEY) == DATA
    assert dirty.handles[0].try_pread(1, 0) is None
    assert dirty.handles[0].pread(len(DATA), 0) == DATA


def test_drop_clean_leaves_local_bytes(dirty: Rig) -> None:
    """It returns the number of freed bytes, and never calls the backend. [2.18]"""
    dirty.backend.forget_calls()
    assert dirty.volume.drop_clean() == 0
    dirty.handles[0].flush()
    assert dirty.volume.drop_clean(KEY) == 0
    dirty.handles[0].fsync()
    dirty.backend.forget_calls()
    assert dirty.volume.drop_clean(KEY, 0, PAGE) >= 0
    assert dirty.volume.drop_clean() > 0
    assert dirty.handles[0].try_pread(1, 0) is None
    assert dirty.backend.calls == []
    assert dirty.handles[0].pread(len(DATA), 0) == DATA


MIB = 1 << 20


PAGES = [(page * PAGE, PAGE) for page in random.Random(4).sample(range(MIB // PAGE), MIB // PAGE)]
"""A MiB, in pages without order."""

# Writes as (offset, length) into a file of `size` bytes, limits, and the calls that must follow.
SPLITS: dict[str, tuple[int, dict[str, object], list[tuple[int, int]], list[tuple[int, int]]]] = {
    "1 MiB is one call": (0, {"max_write": "1MiB"}, PAGES, [(0, MIB)]),
    "1 MiB in 64 KiB": (0, {"max_write": "64KiB"}, PAGES, [(at, MIB // 16) for at in range(0, MIB, MIB // 16)]),
    "a gap ends a call": (0, {}, [(0, PAGE), (2 * PAGE, PAGE)], [(0, PAGE), (2 * PAGE, PAGE)]),
    "neighbours share a call": (0, {}, [(PAGE, PAGE), (0, PAGE), (2 * PAGE, PAGE)], [(0, 3 * PAGE)]),
    "a gap of one byte": (2 * PAGE, {}, [(0, 100), (101, 100)], [(0, 100), (101, 100)]),
    "max_write": (0, {"max_write": 2 * PAGE}, [(0, 5 * PAGE)], [(0, 2 * PAGE), (2 * PAGE, 2 * PAGE), (4 * PAGE, PAGE)]),
    "boundary": (0, {"boundary": "16KiB"}, [(2 * PAGE, 6 * PAGE)], [(2 * PAGE, 2 * PAGE), (4 * PAGE, 4 * PAGE)]),
    "the end of the file": (0, {}, [(0, 10_001)], [(0, 10_001)]),
    "a partial head and tail": (4 * PAGE, {}, [(100, 2 * PAGE)], [(100, 2 * PAGE)]),
    "two pieces of one page": (PAGE, {}, [(10, 10), (3000, 10)], [(10, 10), (3000, 10)]),
    "a part of a unit of a page": (4 * PAGE, {"write_unit": PAGE}, [(100, 10)], [(0, PAGE)]),
    "a part of a unit": (16 * PAGE, {"write_unit": 4 * PAGE}, [(5 * PAGE + 1, 10)], [(4 * PAGE, 4 * PAGE)]),
    "units below a page": (PAGE, {"write_unit": 512}, [(600, 1000)], [(512, 1536)]),
    "parts of two units": (4 * PAGE, {"write_unit": PAGE}, [(PAGE - 1, 2)], [(0, 2 * PAGE)]),
    "a unit at the end": (5 * PAGE + 10, {"write_unit": 4 * PAGE}, [(5 * PAGE, 5)], [(4 * PAGE, PAGE + 10)]),
}


@pytest.mark.parametrize("case", SPLITS)
def test_requests_end_where_they_must(make: Make, case: str) -> None:
    """One contiguous range a call; it ends at gaps, limits, boundaries and the end of the file, and is widened to units
    by the bytes of the store. [T-08, T-09, 2.12]
    """
    size, limits, writes, expected = SPLITS[case]
    content = bytearray(pattern(size))
    rig, file = make({KEY: bytes(content)}, limits=limits).opened("r+b")
    for seed, (offset, length) in enumerate(writes, 1):
        data = pattern(length, seed)
        file.pwrite(data, offset)
        content.extend(bytes(max(0, offset + length - len(content))))
        content[offset : offset + length] = data
    file.fsync()
    assert sorted(rig.backend.spans("write_from")) == expected
    assert rig.backend.committed(KEY) == bytes(content)


def test_buffers_lie_in_cache_memory(make: Make) -> None:
    """The backend gets the memory that a view shows, not a copy of it. [T-10]"""
    rig = make({KEY: b""})
    rig.backend.capture = True
    file = rig.open("r+b")
    data = pattern(MIB)
    for offset, length in PAGES:
        file.pwrite(data[offset : offset + length], offset)
    with file.view(0, MIB) as view:
        shown = {start + at for start, length in map(address, view.segments) for at in range(0, length, PAGE)}
    file.fsync()
    (call,) = rig.backend.seen("write_from")
    assert call.data == data
    assert {start + at for start, length in call.addresses for at in range(0, length, PAGE)} == shown
    stats = rig.cache.stats()
    assert (stats.staged_copies, stats.cow_copies) == (0, 0)


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


@pytest.mark.parametrize("change", ["truncate", "punch_hole"])
def test_bytes_written_after_a_paid_change_stay(make: Make, change: str) -> None:
    """They stay with the next backend and the one after it; a paid hole is no loss. [2.17, 2.22, I-18]"""
    rig, file = opened(make)
    unknown(rig, file, change)
    stored_in_a_moment(rig, file)
    for _ in range(2):
        fresh = next_backend(rig)
        assert file.pread(9 * PAGE, 0) == OLD[:PAGE] + NEW
        assert fresh.seen(change) == []
    file.fsync()
    assert fresh.written(KEY) == OLD[:PAGE] + NEW


@pytest.mark.parametrize("durable", [True, False], ids=["not paid", "not committed"])
def test_a_cut_that_was_not_made_for_good_is_made_with_the_next_backend(make: Make, durable: bool) -> None:
    """It is made before anything else is sent, and only once. [2.17, 2.22]"""
    rig, file = opened(make, durable=durable)
    if durable:
        gate = cut_off(rig.volume, rig.backend.gate("truncate"), file.truncate, CUT)
        rig.backend.fault("truncate", OSError(errno.EPERM, "too late"))
        gate.open()
    else:
        file.truncate(CUT)
    fresh = next_backend(rig, lose=not durable)
    assert file.pread(9 * PAGE, 0) == OLD[:CUT]
    assert [call.offset for call in fresh.seen("truncate")] == ([CUT] if durable else [CUT, CUT])
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
