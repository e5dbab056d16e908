"""When a direct write is safe: the next commit issued after it. Also failed commits, aborts and reconnects."""

from __future__ import annotations

import errno
import math
from functools import partial
from typing import Any

import pytest

from pagecache import BackendError, DataLossError, LostRange, ShutdownError, loglines
from pagecache.engine.file import EngineFile

from ..stores import WAIT_LIMIT_S, RecordingFile
from .rig import (
    FAST,
    KEY,
    ONCE,
    PAGE,
    SAVES,
    Make,
    Patch,
    Rig,
    Task,
    accepted_before,
    at_gate,
    eventually,
    held,
    overlay,
    pattern,
    raises,
)

DATA = pattern(8 * PAGE)
NEW = b"x" * PAGE


def lost(rig: Rig, start: int, length: int) -> list[LostRange]:
    return [LostRange(KEY, start, length, errno.EIO, "volume")]


@pytest.mark.parametrize("how", ["fsync", "sync", "ticket", "detach"])
def test_direct_bytes_are_committed_by_whatever_commits(make: Make, how: str) -> None:
    """Nothing is dirty, and yet there is something to commit. [T-74, T-75a, 2.15, 2.17]"""
    rig, file, direct = make({KEY: DATA}).both(direct=True)
    direct.pwrite(NEW, PAGE)
    assert rig.backend.committed(KEY) == DATA
    rig.cache.check()
    Task(SAVES[how], rig, file).result()
    assert rig.backend.committed(KEY) == overlay(DATA, PAGE, NEW)
    if how != "detach":
        rig.backend.forget_calls()
        file.fsync()
        assert rig.backend.seen("commit") == []


def test_a_failed_commit_is_the_loss_of_direct_bytes(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and each handle reports it once; cached pages are read again. [T-75a, 2.16, 2.17]"""
    rig, file, direct = make({KEY: DATA}, retry=ONCE).both(direct=True)
    direct.pwrite(NEW, PAGE)
    assert file.pread(PAGE, PAGE) == NEW
    rig.fails("commit", forgetting_commit, OSError, file.fsync, match="forgot")
    assert file.pread(8 * PAGE, 0) == DATA
    loglines.outlast(20.0)
    said = [record.getMessage() for record in caplog.records if record.name == "pagecache.loss"]
    assert said == [
        "volume: 'file': what direct writes had sent was not committed, and cannot be sent again; "
        "[4096, 8192) given up, 4096 bytes; each handle raises DataLossError once"
    ]
    for handle in (file, direct):
        assert raises(DataLossError, handle.fsync).ranges == lost(rig, PAGE, PAGE)
        handle.fsync()


def forgetting_commit(file: RecordingFile) -> str:
    file.forget()
    raise BackendError(errno.EIO, "the commit forgot what it had", retry=False)


@pytest.mark.parametrize("change", ["written over", "cut off"])
def test_bytes_that_are_changed_after_a_direct_write_are_not_lost_with_it(make: Make, change: str) -> None:
    """Buffered bytes over them are dirty again and arrive; those that are cut off are no loss. [2.16, 2.17]"""
    rig, file, direct = make({KEY: DATA}, retry=ONCE).both(direct=True)
    direct.pwrite(b"x" * 3 * PAGE, 0)
    if change == "cut off":
        file.truncate(PAGE)
        file.truncate(8 * PAGE)
    else:
        file.pwrite(b"y" * PAGE, PAGE)
        file.flush()
    rig.fails("commit", forgetting_commit, OSError, file.fsync, match="forgot")
    rig.volume.retry_failed()
    found = lost(rig, 0, PAGE) + (lost(rig, 2 * PAGE, PAGE) if change == "written over" else [])
    assert raises(DataLossError, file.fsync).ranges == found
    if change == "written over":
        assert rig.backend.committed(KEY) == overlay(DATA, PAGE, b"y" * PAGE)


def test_bytes_around_those_that_are_written_over_a_direct_write_are_lost_with_it(make: Make) -> None:
    """A read has got the page anew, with the older bytes: those do not count as written. [2.16, 2.17]"""
    rig, file, direct = make({KEY: DATA}, retry=ONCE).both(direct=True)
    direct.pwrite(NEW, PAGE)
    stored: Any = rig.volume.inodes[KEY].backend_file
    stored.forget()  # the commit will report it
    assert file.pread(PAGE, PAGE) == DATA[PAGE : 2 * PAGE]
    file.pwrite(b"y" * 10, PAGE + 100)
    rig.fails("commit", forgetting_commit, OSError, file.fsync, match="forgot")
    found = lost(rig, PAGE, 100) + lost(rig, PAGE + 110, PAGE - 110)
    assert raises(DataLossError, file.fsync).ranges == found
    assert rig.backend.committed(KEY) == overlay(DATA, PAGE + 100, b"y" * 10)


def test_a_write_beside_a_failing_commit_is_sent_again(make: Make) -> None:
    """The commit may have forgotten what the write had stored before it returned. [T-75a, 2.10, 2.17]"""
    rig = make({KEY: DATA}, limits={"parallel_direct_writes": True}, retry=ONCE)
    direct = rig.dirtied(NEW, 4 * PAGE, direct=True, parallel_direct_writes=True)
    answered, writer = at_gate(rig.backend.gate("write_from answer"), direct.pwrite, NEW, PAGE)
    rig.fails("commit", forgetting_commit, OSError, direct.fsync, match="forgot")
    assert rig.backend.written(KEY) == DATA
    writer.result(opening=answered)
    assert raises(DataLossError, direct.fsync).ranges == lost(rig, 4 * PAGE, PAGE)
    assert rig.backend.committed(KEY) == overlay(DATA, PAGE, NEW)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_write_that_ends_beside_the_report_of_a_failed_commit_is_sent_again(
    make: Make, monkeypatch: Patch, earlier: bool
) -> None:
    """With the loss of an earlier direct write, or of none. [2.10, 2.17]"""
    rig = make({KEY: DATA}, limits={"parallel_direct_writes": True}, retry=ONCE)
    direct = rig.open("r+b", direct=True, parallel_direct_writes=True)
    (direct if earlier else rig.open("r+b")).pwrite(NEW, 4 * PAGE)
    rig.open("r+b").flush()
    answered, writer = at_gate(rig.backend.gate("write_from answer"), direct.pwrite, NEW, PAGE)
    rig.backend.fault("commit", forgetting_commit)
    losing, saver = at_gate(held(monkeypatch, EngineFile, "lose_direct", after=True), direct.fsync)
    writer.result(opening=answered)
    raises(OSError, partial(saver.result, opening=losing), match="forgot")
    if earlier:
        assert raises(DataLossError, direct.fsync).ranges == lost(rig, 4 * PAGE, PAGE)
    direct.fsync()
    expected = DATA if earlier else overlay(DATA, 4 * PAGE, NEW)
    assert rig.backend.committed(KEY) == overlay(expected, PAGE, NEW)


@pytest.mark.parametrize("how", ["fill", "read-ahead"])
def test_old_bytes_of_a_racing_read_do_not_stay(make: Make, how: str) -> None:
    """A fill, or readahead, has got the old bytes from storage when a direct write replaces them. [T-26, T-75a, K12]"""
    rig, file, direct = make({KEY: DATA}).both(direct=True)
    read = (lambda: file.pread(PAGE, PAGE)) if how == "fill" else (lambda: file.prefetch(0, 8 * PAGE, wait=True))
    gate, reader = at_gate(rig.backend.gate("read_into answer"), read)
    Task(direct.pwrite, NEW, PAGE).result()
    reader.result(opening=gate)
    assert file.pread(PAGE, PAGE) == NEW
    assert file.pread(8 * PAGE, 0) == overlay(DATA, PAGE, NEW)


def test_a_reconnect_loses_uncommitted_direct_bytes(make: Make) -> None:
    """The new backend has only the committed bytes. The size stays, and is owed to it. [T-75b, 2.17, 2.22]"""
    rig, file, direct = make({KEY: DATA}).both(direct=True)
    direct.pwrite(NEW, 0)
    direct.fsync()
    direct.pwrite(NEW, PAGE)
    direct.append(NEW)
    assert file.pread(PAGE, PAGE) == NEW
    rig.backend = rig.reconnect()
    assert raises(DataLossError, file.fsync).ranges == lost(rig, PAGE, PAGE) + lost(rig, 8 * PAGE, PAGE)
    expected = overlay(DATA, 0, NEW) + bytes(PAGE)
    assert file.pread(10 * PAGE, 0) == direct.pread(10 * PAGE, 0) == rig.backend.committed(KEY) == expected
    direct.pwrite(NEW, 2 * PAGE)
    raises(DataLossError, direct.fsync)
    direct.fsync()


@pytest.mark.parametrize("fenced", [False, True])
def test_a_write_that_the_old_backend_never_answers(make: Make, fenced: bool) -> None:
    """Its caller gets an error; users of the file wait until it has returned, or for a fence. [2.22]"""
    rig = make({KEY: DATA}, limits={"max_inflight": 2})
    old = rig.backend
    file, direct = rig.open("r+b"), rig.open("r+b", direct=True)
    gate, writer = at_gate(old.gate("write_from"), direct.pwrite, NEW, PAGE)
    rig.volume.abort()
    rig.backend = old.successor(shared=not fenced)
    rig.volume.reconnect(rig.backend, fenced=fenced)
    raises(ShutdownError, writer.result)
    later = Task(file.pwrite, b"later", PAGE)
    if fenced:
        later.result(WAIT_LIMIT_S / 3)
        gate.open()
    else:
        assert later.waits()
        later.result(opening=gate)
    eventually(lambda: file._inode.direct_count() == 0)
    file.fsync()
    expected = overlay(DATA, PAGE, b"later") if fenced else overlay(DATA, PAGE, b"later" + NEW[5:])
    assert rig.backend.committed(KEY) == expected == file.pread(8 * PAGE, 0)


def test_a_write_that_an_abort_leaves_in_a_call_counts_nothing(make: Make) -> None:
    """A later reconnect forgets its acknowledged pieces, and reports only writes that have ended. [2.10, 2.22]"""
    rig = make({KEY: DATA}, limits={"max_write": PAGE, "max_inflight": 1}, retry=FAST)
    old, answers = rig.backend, iter(["stored", "again", "hangs"])
    file, direct = rig.open("r+b"), rig.open("r+b", direct=True)
    hangs = old.gate("hang")

    def answer(stored: RecordingFile, offset: int, buffers: Any) -> int:
        how = next(answers)
        if how == "again":  # the next round sends the second piece alone
            raise BlockingIOError(errno.EAGAIN, "again")
        if how == "hangs":
            with old.call("hang", KEY):
                pass
        return stored.store(offset, buffers)

    old.fault("write_from", answer, times=3)
    _, writer = at_gate(hangs, direct.pwrite, 2 * NEW, PAGE)
    rig.volume.abort()
    assert accepted_before(raises(ShutdownError, writer.result)) == 0
    rig.backend = old.successor()  # has the committed bytes only
    rig.volume.reconnect(rig.backend, fenced=False)
    hangs.open()
    eventually(lambda: file._inode.direct_count() == 0)
    file.fsync()
    assert rig.backend.committed(KEY) == overlay(DATA, 2 * PAGE, NEW)  # the piece that has landed


def test_an_error_beside_a_failing_commit_counts_nothing(make: Make) -> None:
    """The acknowledged part of the write may have been forgotten with the rest. [2.10, 2.17]"""
    rig = make({KEY: DATA}, limits={"max_write": PAGE, "max_inflight": 1, "parallel_direct_writes": True}, retry=ONCE)
    direct = rig.dirtied(NEW, 6 * PAGE, direct=True)
    answered = rig.backend.gate("answer")

    def fails(_stored: RecordingFile, _offset: int, _buffers: Any) -> int:
        with rig.backend.call("answer", KEY):
            raise OSError(errno.ENOSPC, "full")

    rig.backend.fault("write_from", fails, skip=1)
    _, writer = at_gate(answered, direct.pwrite, 2 * NEW, PAGE)
    rig.fails("commit", forgetting_commit, OSError, direct.fsync, match="forgot")
    answered.open()
    assert accepted_before(raises(OSError, writer.result, match="full")) == 0


def test_a_write_given_up_beside_failing_commits_counts_nothing(make: Make) -> None:
    """Each has forgotten its stored bytes, and none reports that: the write was to be sent again. [2.10, 2.17]"""
    rig = make({KEY: DATA}, limits={"parallel_direct_writes": True}, retry=ONCE)
    direct = rig.dirtied(NEW, 6 * PAGE, direct=True, parallel_direct_writes=True)
    saver = rig.open("r+b")
    rig.backend.fault("commit", forgetting_commit, times=math.inf)
    # Before the answer to each store of the write.
    rig.backend.fault("write_from answer", lambda: Task(raises, OSError, saver.fsync).result(), times=math.inf)
    assert accepted_before(raises(OSError, direct.pwrite, NEW, PAGE, match="commits failed beside")) == 0
    rig.backend.clear_faults()
    assert raises(DataLossError, direct.fsync).ranges == lost(rig, 6 * PAGE, PAGE)
    direct.fsync()
    assert rig.backend.committed(KEY) == DATA


def refusing_commit(file: RecordingFile) -> str:
    file.forget()
    raise OSError(errno.ESTALE, "another version, and the commit forgot the bytes of this one")


@pytest.mark.parametrize("beside", [False, True])
def test_a_commit_that_meets_another_version_loses_direct_bytes(make: Make, *, beside: bool) -> None:
    """That version is taken. A direct write beside the commit is sent again. [2.10, 2.16, 2.19]"""
    limits, options = {"parallel_direct_writes": True}, {"on_conflict": "take_remote"}
    rig = make({KEY: DATA}, limits=limits, options=options, retry=ONCE)
    direct = rig.dirtied(NEW, 4 * PAGE, direct=True, parallel_direct_writes=True)
    if beside:
        gate, writer = at_gate(rig.backend.gate("write_from answer"), direct.pwrite, NEW, PAGE)
    rig.backend.fault("commit", refusing_commit)
    assert raises(DataLossError, Task(direct.fsync).result).ranges == lost(rig, 4 * PAGE, PAGE)
    if beside:
        writer.result(opening=gate)
    direct.fsync()
    assert rig.backend.committed(KEY) == (overlay(DATA, PAGE, NEW) if beside else DATA)
