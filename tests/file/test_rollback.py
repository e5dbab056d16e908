"""Rollbacks that hang, are refused, or lose their answer: no caller is stuck in the backend, and no data is lost. A
read beside one leaves no byte of the old state, and is not refused. [K12]
"""

from __future__ import annotations

import errno
import threading

import pytest

from pagecache import BackendError, CachedFile, DataLossError, ShutdownError
from pagecache.engine.commit.staging import Staging
from pagecache.engine.io.direct import _Sender

from ..stores import ObjectBackend, RecordingBackend
from .clock import HandClock
from .rig import KEY, ONCE, PAGE, Make, Patch, Rig, Task, at_gate, ended_or_behind, eventually, held, pattern, raises

DATA = pattern(4 * PAGE)
MINE = b"m" * PAGE


def uploaded(make: Make) -> tuple[Rig, CachedFile, ObjectBackend]:
    """Two pages are acknowledged and not committed."""
    backend = ObjectBackend({KEY: DATA}, max_write=PAGE)
    rig, file = make(backend=backend, retry=ONCE).opened()
    file.pwrite(MINE, 0)
    file.pwrite(MINE, 2 * PAGE)
    file.flush()
    eventually(lambda: rig.cache.stats().unstable == 2 * PAGE)
    return rig, file, backend


ALL = MINE + DATA[PAGE : 2 * PAGE] + MINE + DATA[3 * PAGE :]


def test_discard_rolls_back_on_a_thread_of_the_volume(make: Make) -> None:
    """All backend calls run there but fills and `canonical`. [2.1, 2.19]"""
    rig, _file, backend = uploaded(make)
    caller = Task(lambda: (threading.get_ident(), rig.volume.discard(KEY, 0, PAGE)))
    ident, lost = caller.result()
    assert [(entry.offset, entry.length) for entry in lost] == [(0, PAGE)]
    assert [call.thread == ident for call in backend.seen("rollback")] == [False]


def test_an_abort_ends_a_discard_whose_rollback_hangs_and_a_reconnect_saves_the_data(make: Make) -> None:
    """Nothing is given up; bytes that the old backend may have forgotten are sent to the new one. [2.22, K7, K9]"""
    rig, file, backend = uploaded(make)
    gate, discarding = at_gate(backend.gate("rollback"), rig.volume.discard, KEY, 0, PAGE)
    rig.volume.abort(ConnectionError("cable pulled"))
    raises(ShutdownError, discarding.result, match="cable pulled")
    assert rig.volume.dirty_ranges(KEY) == [(0, PAGE), (2 * PAGE, PAGE)]
    rig.cache.check()
    gate.open()
    fresh = ObjectBackend({KEY: DATA}, max_write=PAGE)
    rig.volume.reconnect(fresh)
    file.fsync()
    assert fresh.committed(KEY) == ALL
    assert file.pread(4 * PAGE, 0) == ALL


def test_a_discard_waits_for_a_direct_write_whose_bytes_are_acknowledged(make: Make, monkeypatch: Patch) -> None:
    """The rollback forgets them, and they are reported: otherwise the write would count them as stored. [2.10, 2.19]"""
    backend = RecordingBackend({KEY: DATA}, staged=True, commit_on_close=False)
    rig, file, direct = make(backend=backend, retry=ONCE).both(direct=True)
    file.pwrite(MINE, 0)
    file.flush()
    gate, writing = at_gate(held(monkeypatch, _Sender, "send", after=True), direct.pwrite, MINE, 2 * PAGE)
    discarding = Task(rig.volume.discard, KEY, 0, PAGE)
    assert discarding.waits()
    assert writing.result(opening=gate) == PAGE
    assert [(entry.offset, entry.length) for entry in discarding.result()] == [(0, PAGE)]
    for handle in (file, direct):
        lost = raises(DataLossError, handle.fsync).ranges
        assert (2 * PAGE, PAGE) in [(entry.offset, entry.length) for entry in lost]
        handle.fsync()
    assert backend.committed(KEY) == DATA


@pytest.mark.parametrize(
    ("op", "error", "rollbacks"),
    [("rollback", errno.EACCES, 1), ("rollback", errno.ECONNRESET, 2), ("file_stat", errno.EACCES, 2)],
)
def test_a_discard_that_fails_gives_up_nothing(make: Make, op: str, error: int, rollbacks: int) -> None:
    """Refused: nothing has changed. Of unknown outcome, or done and not looked at: all is sent again. [2.17, 2.19]"""
    rig, file, backend = uploaded(make)
    backend.fault(op, OSError(error, "injected"))
    raises(OSError, rig.volume.discard, KEY, 0, PAGE, match="injected")
    rig.cache.check()
    assert file.pread(4 * PAGE, 0) == ALL
    file.fsync()
    assert backend.committed(KEY) == ALL
    assert len(backend.seen("rollback")) == rollbacks
    file.fsync()  # no loss is reported


def test_closing_with_a_deadline_ends_though_the_rollback_hangs(make: Make, clock: HandClock) -> None:
    """Unsaved data is given up at the deadline, and listed. [2.22, K9]"""
    rig, _file, backend = uploaded(make)
    backend.fault("commit", BackendError(errno.EACCES, "no", retry=False, kept=True), times=9)
    gate, closing = at_gate(backend.gate("rollback", times=9), rig.cache.close, timeout=60.0, on_failed="discard")
    clock.advance(60.0)
    lost = closing.result()
    assert sum(entry.length for entry in lost) == 2 * PAGE
    assert gate.nr_entered == 1
    gate.open()


# ---------------------------------------------------------------- reads beside it


LOCAL = pattern(4 * PAGE, seed=1)


def staged(make: Make) -> tuple[Rig, RecordingBackend]:
    # a call for each page, whichever thread begins to write back
    backend = RecordingBackend({KEY: DATA}, staged=True, max_write=PAGE)
    rig, file = make(backend=backend, capacity="1MiB", dirty_background=0.0, dirty_limit=1 / 64).opened()
    file.pwrite(LOCAL, 0)
    file.sync_range(0, 4 * PAGE)
    rig.volume.drop_clean(KEY)
    # the last two; the share of bytes that have to stay in memory is full before
    assert file.stats().to_dict()["staged"] == 2 * PAGE
    return rig, backend


def test_a_read_of_staged_bytes_beside_their_discard_needs_no_backend(make: Make) -> None:
    """The backend has forgotten them, and the cache has not noticed yet: the spool has them. [2.19]"""
    rig, backend = staged(make)
    file = rig.handles[0]
    rolled_back, discarding = at_gate(backend.gate("file_stat"), rig.volume.discard, KEY)
    assert Task(file.pread, PAGE, 3 * PAGE).result() == LOCAL[3 * PAGE :]
    rolled_back.open()
    assert [(lost.offset, lost.length) for lost in discarding.result()] == [(0, 4 * PAGE)]
    assert file.pread(4 * PAGE, 0) == DATA
    assert len(backend.seen("rollback")) == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_read_that_got_staged_bytes_before_their_discard_leaves_none_of_them(
    make: Make, monkeypatch: Patch, late: bool
) -> None:
    """Its answer comes between the rollback and the cache's own discard, or after both. [2.19, K12]"""
    rig, backend = staged(make)
    file = rig.handles[0]
    rolled_back = backend.gate("file_stat")
    answer, reading = at_gate(held(monkeypatch, Staging, "read", after=True), file.pread, PAGE, 3 * PAGE)
    _, discarding = at_gate(rolled_back, rig.volume.discard, KEY)
    if not late:
        assert reading.result(opening=answer) == LOCAL[3 * PAGE :]
    discarding.result(opening=rolled_back)
    assert reading.result(opening=answer) == (DATA if late else LOCAL)[3 * PAGE :]
    assert file.pread(4 * PAGE, 0) == DATA


def test_a_read_of_a_gap_beside_a_rollback_is_made_again(make: Make) -> None:
    """The object is shorter than the cache assumes: the read returns no bytes where zeros belong. [2.19, 2.3]"""
    backend = ObjectBackend({KEY: DATA})
    rig, file = make(backend=backend).opened()
    file.pwrite(LOCAL[:PAGE], 0)
    file.pwrite(LOCAL[:PAGE], 10 * PAGE)
    file.flush()
    eventually(lambda: rig.cache.stats().unstable == 2 * PAGE)
    read, rolled_back = backend.gate("read_into"), backend.gate("file_stat")
    _, reading = at_gate(read, file.pread, PAGE, 6 * PAGE)
    _, discarding = at_gate(rolled_back, rig.volume.discard, KEY, 0, PAGE)
    read.open()
    ended_or_behind(rig.cache, reading, discarding.thread)
    assert not reading.finished.is_set()
    discarding.result(opening=rolled_back)
    assert reading.result() == bytes(PAGE)
    assert file.pread(PAGE, 10 * PAGE) == LOCAL[:PAGE]
