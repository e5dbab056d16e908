"""The scope of a commit: no discarded byte comes back, the rest is saved, and a late one takes nothing back."""

from __future__ import annotations

import errno
import threading
from dataclasses import replace
from typing import Any

import pytest

from pagecache import BackendError, CachedFile, ConflictError, DataLossError, ShutdownError, Volume, WritebackError
from pagecache.engine.file import EngineFile
from pagecache.engine.io import reader
from pagecache.native import FAILED, STAMP_MAX
from pagecache.volume import lifetimes
from pagecache.volume import reconnect as reconnecting
from pagecache.volume.inode import Inode

from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend, RecordingFile, failing_commit
from .clock import HandClock
from .rig import (
    KEY,
    ONCE,
    PAGE,
    Make,
    Patch,
    Rig,
    Task,
    at_gate,
    content_of,
    cut_off,
    eventually,
    held,
    overlay,
    pattern,
    raises,
)

DATA = pattern(4 * PAGE)
NEW = pattern(PAGE, seed=3)
AGAIN = BackendError(errno.EIO, "made up", retry=True, retry_after=0.0)


@pytest.mark.parametrize("how", ["a commit forgets them", "another backend"])
def test_bytes_read_after_a_discard_do_not_outlast_their_upload(make: Make, monkeypatch: Patch, how: str) -> None:
    """No clean byte differs from the store, which has the old bytes again. [T-18, T-75b, 2.17, 2.22]"""
    stat = RecordingBackend.object_stat
    if how == "another backend":  # of a store that shows no versions
        monkeypatch.setattr(RecordingBackend, "object_stat", lambda *at: replace(stat(*at), version=None))
    rig, file = make({KEY: DATA}).written(NEW, 0)
    file.flush()
    rig.volume.discard(KEY)
    raises(DataLossError, file.flush)
    assert file.pread(PAGE, 0) == NEW  # the backend has acknowledged it
    if how == "another backend":
        rig.backend = rig.reconnect()
    else:
        rig.backend.fault("commit", failing_commit(AGAIN))
        file.fsync()
    assert file.pread(PAGE, 0) == (rig.backend.committed(KEY) or b"")[:PAGE] == DATA[:PAGE]


def test_a_possible_upload_of_a_failed_call_is_rolled_back_with_a_discard(make: Make) -> None:
    """No later commit contains it. [2.18, 2.19]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA}), retry=ONCE).opened("r+b")

    rig.backend.fault("write_from answer", OSError(errno.EIO, "the answer got lost"))
    file.pwrite(NEW, 0)
    raises(WritebackError, file.fsync)
    rig.volume.discard(KEY)
    raises(DataLossError, file.fsync)
    file.pwrite(NEW, PAGE)
    assert rig.saved(file) == DATA[:PAGE] + NEW + DATA[2 * PAGE :]


def test_what_was_sent_along_in_the_unit_of_other_bytes_is_rolled_back_with_a_discard(make: Make) -> None:
    """It is dirty, and no later commit contains it. [2.12, 2.18]"""
    old = pattern(12 * PAGE)
    store = ObjectBackend({KEY: old}, write_unit=3 * PAGE, max_write=6 * PAGE)
    rig, file = make(backend=store, retry=ONCE, max_folio=16 * PAGE).opened()
    file.pwrite(b"f" * 4 * PAGE, 4 * PAGE)  # one folio, which begins before the unit of pages 6 to 8
    file.pwrite(NEW, 8 * PAGE)
    file.sync_range(8 * PAGE, PAGE)
    assert rig.cache.stats().dirty == 4 * PAGE
    lost = rig.volume.discard(KEY, 4 * PAGE, 4 * PAGE)
    assert sum(entry.length for entry in lost) == 4 * PAGE
    assert file.pread(4 * PAGE, 4 * PAGE) == old[4 * PAGE : 8 * PAGE]
    raises(DataLossError, file.fsync)
    assert rig.saved(file) == file.pread(12 * PAGE, 0) == overlay(old, 8 * PAGE, NEW)


def test_what_was_sent_along_is_rolled_back_though_the_other_bytes_of_the_unit_are_cut_off(make: Make) -> None:
    """They were in the spool, and nothing in memory tells that they were sent. [2.17, 2.18]"""
    old = pattern(24 * PAGE)
    store = ObjectBackend({KEY: old}, write_unit=3 * PAGE, max_write=6 * PAGE)
    room = {"capacity": 64 * PAGE, "dirty_limit": 0.3, "dirty_background": 0.29}
    rig, file = make(backend=store, retry=ONCE, max_folio=16 * PAGE, **room).opened()
    file.pwrite(b"u" * 9 * PAGE, 0)
    file.flush()
    eventually(lambda: rig.cache.stats().unstable == 9 * PAGE)
    file.pwrite(b"f" * 4 * PAGE, 16 * PAGE)
    file.pwrite(NEW, 20 * PAGE)
    file.sync_range(20 * PAGE, PAGE)
    assert file.stats().to_dict()["staged"] == PAGE
    file.truncate(20 * PAGE)
    rig.volume.discard(KEY, 16 * PAGE, 4 * PAGE)
    assert file.pread(4 * PAGE, 16 * PAGE) == old[16 * PAGE : 20 * PAGE]
    raises(DataLossError, file.fsync)
    assert rig.saved(file) == file.pread(24 * PAGE, 0) == b"u" * 9 * PAGE + old[9 * PAGE : 20 * PAGE]


@pytest.mark.parametrize("fails", ["nothing", "rollback", "file_stat", "truncate", "punch_hole"])
def test_a_discard_of_a_part_loses_nothing_else_whatever_fails(make: Make, fails: str) -> None:
    """Bytes, truncates and holes are made again, or owed; the losses are returned. [T-75b, 2.17, 2.19]"""
    rig, file = make(backend=RecordingBackend({KEY: DATA}, staged=True)).opened("r+b")
    file.truncate(3 * PAGE)
    file.truncate(4 * PAGE)
    file.punch_hole(PAGE, 100)
    file.pwrite(b"later", PAGE + 50)
    file.pwrite(NEW, 0)
    file.pwrite(b"given up", 2 * PAGE)
    file.flush()
    eventually(lambda: rig.cache.stats().unstable == 3 * PAGE)
    rig.backend.fault(fails, OSError(errno.EIO, "made up"))
    lost = rig.volume.discard(KEY, 2 * PAGE, PAGE)
    assert [(entry.offset, entry.length) for entry in lost] == [(2 * PAGE, len(b"given up"))]
    raises(DataLossError, file.fsync)
    file.fsync()
    changed = NEW + bytes(50) + b"later" + bytes(45) + DATA[PAGE + 100 : 3 * PAGE] + bytes(PAGE)
    assert rig.backend.committed(KEY) == file.pread(4 * PAGE, 0) == changed


def test_an_abandoned_file_sends_nothing_more(make: Make) -> None:
    """Its pass goes on, and finds each further request abandoned. [2.11]"""
    rig, file = make(backend=ObjectBackend({KEY: b""}, max_write=PAGE, max_inflight=1)).opened("r+b")
    engine = rig.volume.inodes[KEY]
    file.pwrite(DATA, 0)
    gate = rig.backend.gate("write_from")
    engine.flush_start(STAMP_MAX)
    gate.wait_entered()
    file.abandon()
    engine.bind_calls()
    gate.open()
    eventually(lambda: not engine.has_local())
    assert len(rig.backend.seen("write_from")) == 1


@pytest.mark.parametrize("call", ["sync", "fsync"])
def test_an_abandon_beside_a_sync_does_not_fail_it(make: Make, monkeypatch: Patch, call: str) -> None:
    """Nobody wants its bytes saved any longer; they are there until the file goes back. [2.15, 2.20]"""
    rig, file = make(backend=ObjectBackend({KEY: b""}, max_write=PAGE, max_inflight=1)).opened("r+b")
    reader = rig.open("rb")
    engine = rig.volume.inodes[KEY]
    file.pwrite(DATA, 0)
    gate = rig.backend.gate("write_from")
    syncing = Task(rig.volume.sync if call == "sync" else reader.fsync)
    gate.wait_entered()
    back = held(monkeypatch, lifetimes, "_go_back")
    file.abandon()
    gate.open()
    back.wait_entered()
    eventually(lambda: engine.flush_pending(STAMP_MAX) & FAILED)
    if call == "sync":
        syncing.result()  # it is none of its files
    else:
        assert syncing.waits()
    syncing.result(opening=back)


def acknowledged(rig: Rig) -> None:
    """Write every byte back, by no sync."""
    engine = rig.volume.inodes[KEY]
    engine.flush_start(STAMP_MAX)
    eventually(lambda: not engine.flush_pending(STAMP_MAX) and engine.pass_idle())


def test_a_flush_of_acknowledged_bytes_learns_the_version_that_they_made(make: Make) -> None:
    """Otherwise a later foreign change would look like it. One read beside a write may be older. [2.19]"""
    rig, file = make({KEY: b""}).opened("r+b")
    versions = rig.volume.inodes[KEY].versions
    file.pwrite(DATA, 0)
    acknowledged(rig)
    gate, flushing = at_gate(rig.backend.gate("file_stat"), file.flush)
    file.pwrite(DATA[:PAGE], 0)
    acknowledged(rig)
    flushing.result(opening=gate)
    assert versions.stale
    file.flush()
    assert not versions.stale
    assert versions.base == rig.backend.stat(KEY).version


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("op", ["write_from", "commit"])
def test_the_conflict_that_a_call_meets_is_the_error_of_the_fsync(make: Make, op: str, prompt: bool) -> None:
    """And nothing is committed over the foreign version. [2.19, 2.20]"""
    rig, file = make({KEY: b""}, limits={"prompt": prompt}).written(DATA, 0)
    rig.backend.fault(op, OSError(errno.ESTALE, "another version"))
    raises(ConflictError, Task(file.fsync).result)
    raises(ConflictError, Task(file.fsync).result)
    assert len(rig.backend.seen(op)) == 1
    assert rig.backend.committed(KEY) == b""


def publish(file: RecordingFile) -> str:
    """Commit, and make another version."""
    file.stored.version += 1
    file.stored.committed = bytes(file.stored.written)
    return str(file.stored.version)


def test_an_interrupt_before_a_commits_result_makes_no_foreign_version(make: Make, monkeypatch: Patch) -> None:
    """The version that the commit has made is this cache's own. [2.19, K9]"""
    rig, file = make({KEY: b""}, limits={"prompt": True}).written(DATA, 0)
    file.flush()
    rig.backend.fault("commit", publish)

    def strike(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(EngineFile, "committed", strike)
        raises(KeyboardInterrupt, file.fsync)
    rig.open("r+b").fsync()
    assert rig.backend.committed(KEY) == DATA


def test_a_deadline_that_passes_in_a_pass_leaves_no_commit_behind(make: Make, clock: HandClock) -> None:
    """The thread that makes the calls looks around between two of them. [2.15]"""
    rig, file = make({KEY: b""}, limits={"prompt": True}).written(DATA, 0)
    gate, syncing = at_gate(rig.backend.gate("write_from"), file.fsync, timeout=5.0)
    clock.advance(6.0)
    raises(TimeoutError, syncing.result, opening=gate)
    assert not rig.backend.seen("commit")
    assert rig.saved(file) == DATA


def clients() -> list[ObjectBackend]:
    """Three clients of one store with an object."""
    first, *others = found = [ObjectBackend({KEY: b"a" * (8 * PAGE)}), ObjectBackend(), ObjectBackend()]
    for other in others:
        for name in ("lock", "objects", "versions", "made_by", "attempts"):
            setattr(other, name, getattr(first, name))
    return found


def aborted_beside_a_commit(make: Make, old: ObjectBackend) -> tuple[Volume, CachedFile]:
    """A file whose first page is changed: its commit by the backend is held, and its volume is aborted."""
    rig, file = make(backend=old, capacity="1MiB", max_folio=PAGE).written(b"b" * PAGE, 0)
    cut_off(rig.volume, old.gate("commit"), file.fsync)
    return rig.volume, file


@pytest.mark.parametrize("answered", [False, True])
def test_a_read_beside_a_late_commit_of_a_former_backend_waits(make: Make, monkeypatch: Patch, answered: bool) -> None:
    """Its version is none of another program. [2.22]"""
    judge, refused = reader._judge, threading.Event()

    def judged(*arguments: Any) -> Any:
        try:
            return judge(*arguments)
        finally:
            refused.set()

    old, new, _last = clients()
    volume, file = aborted_beside_a_commit(make, old)
    volume.reconnect(new)
    opening, answer = new.gate("open"), old.gate("commit answer")
    old.gates[0].open()
    answer.wait_entered()
    if answered:
        answer.open()
        opening.wait_entered()
    monkeypatch.setattr(reader, "_judge", judged)
    reading = Task(file.pread, PAGE, 4 * PAGE)
    assert refused.wait(WAIT_LIMIT_S)
    answer.open()
    assert reading.result(opening=opening) == b"a" * PAGE
    file.fsync()
    assert new.committed(KEY) == b"b" * PAGE + b"a" * (7 * PAGE)


@pytest.mark.parametrize("opened", ["before the abort", "after the abort", "after the reconnect"])
@pytest.mark.parametrize("reached", [False, True], ids=["not begun", "begun"])
def test_a_file_that_an_earlier_reconnect_opens_late_is_of_the_last_one(make: Make, opened: str, reached: bool) -> None:
    """An abort and another reconnect come before its late opening, beside it or after it. [2.22]"""
    old, new, last = clients()
    volume, file = aborted_beside_a_commit(make, old)
    volume.reconnect(new)
    opening = new.gate("open")

    def reach(moment: str) -> None:
        if reached and moment == "before the abort":
            old.gates[0].open()
            opening.wait_entered()
        if opened == moment:
            opening.open()
            old.gates[0].open()
            if reached or not volume.engine.aborted:  # otherwise it begins after the reconnect
                eventually(lambda: file._inode not in volume.engine.settling)

    reach("before the abort")
    volume.abort()
    reach("after the abort")
    Task(volume.reconnect, last).result()
    reach("after the reconnect")
    file.pwrite(b"c" * PAGE, PAGE)
    Task(file.fsync).result()
    assert (len(new.seen("commit")), len(last.seen("commit"))) == (0, 1)
    assert file.pread(3 * PAGE, 0) == b"b" * PAGE + b"c" * PAGE + b"a" * PAGE
    assert last.committed(KEY) == content_of(volume, KEY) == b"b" * PAGE + b"c" * PAGE + b"a" * (6 * PAGE)


def test_an_abort_in_a_reconnect_leaves_no_file_that_waits_to_be_opened_again(make: Make, monkeypatch: Patch) -> None:
    """Otherwise writers would wait for room that nothing makes. [2.22]"""
    old, new, last = clients()
    volume, file = aborted_beside_a_commit(make, old)

    def aborted(inode: Inode, *, known: bool) -> None:
        volume.abort()
        raise ShutdownError("aborted beside it", inode.key)

    with monkeypatch.context() as patch:
        patch.setattr(reconnecting, "_send_again", aborted)
        raises(ShutdownError, volume.reconnect, new)
    old.gates[0].open()
    eventually(lambda: old.nr_running == 0)
    eventually(lambda: not file._inode.publications)
    volume.reconnect(last)
    eventually(lambda: not volume.engine.settling)
    file.fsync()
    assert content_of(volume, KEY)[:PAGE] == b"b" * PAGE
