"""Nothing is clean before it is committed: flush, fsync, sync_range, sync, tickets and close."""

from __future__ import annotations

import errno

import pytest

from pagecache import BackendError, CommitError, SyncTicket, WritebackError

from ..stores import failing_commit
from .rig import KEY, PAGE, Make, Rig, Task, at_gate, dirty_bytes, eventually, pattern, raises, spread

DATA = pattern(5 * PAGE + 17)


def ops(rig: Rig, *names: str) -> list[str]:
    return [call.op for call in rig.backend.calls if call.op in (names or ("write_from", "commit"))]


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("data_only", [False, True])
def test_fsync_writes_then_commits_once(dirty: Rig, data_only: bool, flushed: bool) -> None:
    """Acknowledged is not durable: flushed bytes stay local, and are not sent again. Afterwards nothing is local;
    fdatasync is a full promise for the bytes. [2.15, I-18, K2]
    """
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
    dirty.handles[0].fsync()
    assert dirty.backend.committed(KEY) == DATA + bytes(far - len(DATA)) + b"far"
    # Bytes written once are not sent again; the last page may be sent whole, with the zeros behind its bytes.
    sent = dirty.backend.spans("write_from")
    assert sum(length for _, length in sent) == len(spread(far + 3, sent))
    assert len(DATA) + 3 <= len(spread(far + 3, sent)) < len(DATA) + PAGE + 3


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ETIMEDOUT])
def test_a_failed_commit_fails_fsync_and_makes_the_bytes_dirty_again(dirty: Rig, code: int) -> None:
    """Even if the backend forgot them; the next fsync repairs. [T-18, K2, 2.16]"""
    dirty.backend.fault("commit", failing_commit(OSError(code, "no room")))
    file = dirty.handles[0]
    assert raises(CommitError, file.fsync).errno == code
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


@pytest.mark.parametrize("kept", [False, True])
def test_a_transient_commit_error_is_repaired_within_fsync(make: Make, kept: bool) -> None:
    """The bytes are sent again first, unless the error says that they were `kept`. [T-18, M5, 2.14, 2.15]"""
    rig, file = make({KEY: b""}).opened("r+b")
    file.pwrite(DATA, 0)
    error = BackendError(errno.EIO, "flaky", retry=True, kept=kept)
    rig.backend.fault("commit", failing_commit(error, forget=not kept))
    file.fsync()
    assert ops(rig) == ["write_from", "commit", *([] if kept else ["write_from"]), "commit"]
    assert rig.backend.committed(KEY) == DATA


def test_fsync_does_not_wait_for_later_writes(dirty: Rig) -> None:
    """Bytes written again while it runs belong to the next one. [T-42, 2.15]"""
    file = dirty.handles[0]
    gate, sync = at_gate(dirty.backend.gate("write_from"), file.fsync)
    file.pwrite(b"later", 0)
    sync.result(opening=gate)
    assert dirty.backend.committed(KEY) == DATA
    assert dirty_bytes(dirty.volume) > 0
    file.fsync()
    assert dirty.backend.committed(KEY) == b"later" + DATA[5:]


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


def test_fsync_with_a_deadline_ends_and_the_io_goes_on(dirty: Rig) -> None:
    """TimeoutError; nothing is lost, the request stays in flight and completes later. [2.15, T-13, K7]"""
    gate = dirty.backend.gate("write_from")
    raises(TimeoutError, lambda: Task(dirty.handles[0].fsync, timeout=0.05).result())
    gate.wait_entered()
    assert dirty.cache.stats().writeback >= len(DATA)
    gate.open()
    eventually(lambda: dirty.cache.stats().writeback == 0)
    dirty.handles[0].fsync()
    assert dirty.backend.committed(KEY) == DATA
    assert len(dirty.backend.seen("write_from")) == 1


def test_close_flushes_and_leaves_the_commit_to_sync(dirty: Rig) -> None:
    """The last writable handle writes back; `sync_on_close` is off for such a backend. [2.20]"""
    other = dirty.open("r+b")
    dirty.handles[0].close()
    assert ops(dirty) == []
    other.close()
    assert dirty.backend.written(KEY) == DATA
    assert ops(dirty) == ["write_from"]
    dirty.volume.sync()
    assert dirty.backend.committed(KEY) == DATA


def test_the_remainder_of_a_ticket_is_counted_by_folio(make: Make) -> None:
    """Later writes to other pages of the file do not hide its progress. [2.15]"""
    limits = {"durable_writes": True, "max_write": PAGE, "max_inflight": 4}
    rig, file = make({KEY: bytes(64 * PAGE)}, capacity="4MiB", limits=limits, max_folio="4KiB").opened("r+b")
    file.pwrite(b"a" * 4 * PAGE, 0)
    gate = rig.backend.gate("write_from")
    ticket: SyncTicket = rig.volume.begin_sync()
    assert ticket.total == 4 * PAGE
    gate.wait_entered()
    file.pwrite(b"b" * 32 * PAGE, 16 * PAGE)
    eventually(lambda: ticket.remaining == PAGE)
    assert not ticket.done()
    assert dirty_bytes(rig.volume) > 32 * PAGE
    gate.open()
    ticket.wait(20)
    assert ticket.remaining == 0
    assert dirty_bytes(rig.volume) == 32 * PAGE


def test_invalidate_writes_back_commits_and_drops(dirty: Rig) -> None:
    """Nothing is cached afterwards. If a write fails, WritebackError, and nothing is lost. [2.18]"""
    dirty.backend.fault("write_from", OSError(errno.ENOSPC, "no room"))
    raises(WritebackError, dirty.volume.invalidate, KEY)
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
