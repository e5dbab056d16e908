"""Abort and reconnect: files blocked by an old call, and bytes that are sent again, owed or lost."""

from __future__ import annotations

import contextlib
import errno
import gc
import signal
import stat
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pytest

import pagecache
from pagecache import (
    CachedFile,
    CommitError,
    ConflictError,
    DataLossError,
    PageCache,
    RetryPolicy,
    ShutdownError,
    Volume,
    loglines,
)
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.engine.attempts import AGAIN, insisting
from pagecache.engine.runner import Job
from pagecache.native import NativeVolume
from pagecache.testing import FaultyBackend, Gate, Rule
from pagecache.volume import opening, reconnect
from pagecache.volume.inode import Inode

from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend, RecordingFile, failing_commit
from .rig import (
    KEY,
    ONCE,
    PAGE,
    Make,
    Patch,
    Task,
    at_gate,
    attached,
    beside,
    eventually,
    overlay,
    pattern,
    raises,
    wait_for,
)
from .test_prompt import handled

OLD = pattern(4 * PAGE)
NEW = pattern(4 * PAGE, seed=1)
NEWER = pattern(PAGE, seed=2)


def outlived(volume: Volume, call: Callable[[], Any], op: str, new: Any, *, fenced: bool, **rule: Any) -> Gate:
    """Make a call that hangs in the backend over an abort and a reconnect; return its gate."""
    gate, old = Gate(), cast(FaultyBackend, volume.backend)
    old.use([Rule(op, gate=gate, **rule)])
    _, task = at_gate(gate, call)
    volume.abort()
    raises(ShutdownError, task.result)
    volume.reconnect(FaultyBackend(new), fenced=fenced)
    return gate


def answered(volume: Volume, gate: Gate) -> None:
    """Let it return, and wait until no thread of the old backend has a call."""
    former = volume.engine.runner._former
    gate.release()
    eventually(lambda: not any(thread.is_alive() for thread in former))


@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("on_conflict", ["fail", "take_remote"])
@pytest.mark.parametrize("op", ["write", "commit"])
def test_an_earlier_backend_that_refuses_a_version_late_loses_nothing(op: str, on_conflict: str, fenced: bool) -> None:
    """It is no foreign change of what the next backend has. [2.19, 2.22]"""
    store = MemoryBackend(prompt=False, commit_on_close=op == "commit")
    options = {"on_conflict": on_conflict}
    with attached(FaultyBackend(store), options=options) as volume, volume.open("k", "w+") as file:
        file.pwrite(NEW[:PAGE], 0)
        gate = outlived(volume, file.fsync, op, store, fenced=fenced, nth=1, error=errno.ESTALE)
        file.pwrite(NEWER, PAGE)
        if fenced:
            file.fsync()
            file.pwrite(NEWER, 2 * PAGE)
        answered(volume, gate)
        file.fsync(timeout=WAIT_LIMIT_S)
        assert store.snapshot("k") == NEW[:PAGE] + NEWER * (1 + fenced)


@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("how", ["rebase", "force"])
def test_a_version_opened_in_an_earlier_backend_is_not_written(how: Literal["rebase", "force"], fenced: bool) -> None:
    """A `resolve` hangs there in its open; the bytes after the reconnect go to the next backend. [2.19, 2.22]"""
    one, two = (MemoryBackend(prompt=False, commit_on_close=True) for _ in range(2))
    one.put("k", OLD[: 2 * PAGE])
    with attached(FaultyBackend(one)) as volume, volume.open("k", "r+") as file:
        file.pwrite(NEW[:PAGE], 0)
        one.put("k", NEWER * 2)  # another program
        raises(ConflictError, volume.open, "k")
        two.put("k", one.snapshot("k"))
        gate = outlived(volume, lambda: volume.resolve("k", how), "open", two, fenced=fenced)
        answered(volume, gate)
        with contextlib.suppress(ConflictError):
            volume.resolve("k", how)
        file.pwrite(NEW[PAGE : 2 * PAGE], PAGE)
        file.fsync(timeout=WAIT_LIMIT_S)
        assert two.snapshot("k") == NEW[: 2 * PAGE]
        assert one.snapshot("k") == NEWER * 2


@pytest.mark.parametrize("fenced", [False, True])
def test_a_version_that_was_read_in_an_earlier_backend_is_no_base(fenced: bool) -> None:
    """The `stat` after a write-back hangs there; nobody has changed the object. [2.19, 2.22]"""
    one, two = (MemoryBackend(prompt=False, durable_writes=True) for _ in range(2))
    one.put("k", OLD)
    for content in (NEWER, NEWER, OLD):  # other versions than those of the first
        two.put("k", content)
    with attached(FaultyBackend(one)) as volume, volume.open("k", "r+") as file:
        file.pwrite(NEW[:PAGE], 0)
        gate = outlived(volume, file.flush, "stat", two, fenced=fenced)
        with volume.open("k", "r+") as other:
            other.read()
            answered(volume, gate)
            other.pwrite(b"new", PAGE)
            volume.open("k").close()
            other.fsync(timeout=WAIT_LIMIT_S)


def test_a_change_of_attributes_does_not_reach_an_earlier_backend(tmp_path: Path) -> None:
    """It waits for the file over an abort and a reconnect, as a program that is slow to notice. [2.22]"""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "k").write_bytes(OLD)
        (tmp_path / name / "k").chmod(0o644)
    old, new = FaultyBackend(DirectoryBackend(tmp_path / "one")), DirectoryBackend(tmp_path / "two")
    with PageCache("8MiB") as cache, Gate() as gate:
        volume = cache.attach(old, prompt=False)
        old.use([Rule("commit", gate=gate)])
        file = volume.open("k", "r+")
        file.pwrite(NEW, 0)
        _, saving = at_gate(gate, file.fsync)
        changing = Task(volume.setattr, "k", mode=0o600)
        eventually(lambda: file._inode.settling)
        volume.reconnect(new, fenced=True)
        for task in (changing, saving):
            raises(ShutdownError, task.result)
        gate.release()
        file.fsync()
        assert stat.S_IMODE((tmp_path / "one" / "k").stat().st_mode) == 0o644
        file.close()


@pytest.mark.parametrize("first", ["the detach", "the reconnect", "a signal handler's detach"])
def test_a_detach_at_the_end_of_a_reconnect_closes_both_backends(make: Make, monkeypatch: Patch, first: str) -> None:
    """Whichever comes first; that of a signal handler waits for nothing of its own thread. [2.22]"""
    rig, file = make({KEY: OLD}).opened("rb")
    rig.volume.abort()
    fresh, detach = rig.backend.successor(), partial(rig.volume.detach, on_failed="discard")
    lost: list[Any] = []
    if first == "the detach":
        beside(monkeypatch, reconnect, "_open_all", lambda: lost.append(Task(detach).result()), after=True)
        raises(ShutdownError, rig.volume.reconnect, fresh)
    elif first == "the reconnect":

        def begins() -> None:
            lost.append(Task(detach))
            assert lost[0].waits()  # for the files to be those of the next backend

        beside(monkeypatch, reconnect, "_adopt", begins)
        rig.volume.reconnect(fresh)
        lost = [lost[0].result()]
        assert fresh.seen("close")
    else:
        beside(monkeypatch, reconnect, "_adopt", partial(signal.raise_signal, signal.SIGUSR1))
        with handled(signal.SIGUSR1, lambda *_: lost.append(detach())), contextlib.suppress(ShutdownError):
            rig.volume.reconnect(fresh)
        assert fresh.seen("close")
    assert len(fresh.seen("file_close")) == len(fresh.seen("open")) == 1
    assert (lost, rig.volume.detached) == ([[]], True)
    raises(ShutdownError, file.pread, PAGE, 0)
    assert fresh.violations == []


@pytest.mark.parametrize("hung", ["write_from", "commit", "truncate"])
def test_a_file_in_old_hands_waits_for_the_old_call_and_others_do_not(make: Make, hung: str) -> None:
    """It is not written, truncated or committed before the call returned; other files go on at once. [2.22]"""
    rig, file, other = make({KEY: OLD, "other": OLD}, retry=ONCE).both(key="other")
    file.pwrite(NEW[PAGE : 2 * PAGE], PAGE)
    other.pwrite(NEW[:PAGE], 0)
    gate = rig.backend.gate(hung, KEY)
    _, stuck = at_gate(gate, file.fsync if hung != "truncate" else lambda: file.truncate(3 * PAGE))
    fresh = rig.reconnect(stuck)
    Task(other.fsync).result()
    assert fresh.committed("other") == NEW[:PAGE] + OLD[PAGE:]
    file.pwrite(NEWER, 0)
    saving = Task(file.fsync)
    cutting = Task(file.truncate, 2 * PAGE)
    assert saving.waits()
    assert not cutting.finished.is_set()
    assert not [call for call in fresh.calls if call.key == KEY and call.op in ("write_from", "truncate", "commit")]
    saving.result(opening=gate)
    cutting.result()
    file.fsync()
    assert fresh.committed(KEY) == NEWER + NEW[PAGE : 2 * PAGE]
    assert fresh.violations == []


@pytest.mark.parametrize("named", [False, True], ids=["identities", "by name"])
def test_a_removed_file_that_is_open_is_out_of_reach_of_the_new_backend(make: Make, named: bool) -> None:
    """Its cached bytes stay readable and can be changed; no sync and no retry writes it back. [2.22]"""
    rig = make(backend=RecordingBackend({KEY: OLD, "other": OLD}, identities=not named), retry=ONCE)
    file, other = rig.open("r+b"), rig.open("r+b", key="other")
    file.pwrite(NEW[:PAGE], 0)
    rig.volume.remove(KEY)
    fresh = rig.reconnect()
    assert file.pread(PAGE, 0) == NEW[:PAGE]
    raises(FileNotFoundError, file.pread, PAGE, 2 * PAGE)
    file.pwrite(NEWER, PAGE)
    assert file.pread(2 * PAGE, 0) == NEW[:PAGE] + NEWER
    other.pwrite(NEWER, 0)
    rig.volume.sync()
    rig.volume.retry_failed()
    assert (rig.volume.unsaved(), rig.volume.failed()) == ([], [])
    assert fresh.committed("other") == NEWER + OLD[PAGE:]
    file.close()
    assert not [call for call in fresh.calls if call.key == KEY and call.op in ("write_from", "truncate", "commit")]


def test_a_fence_frees_files_whose_calls_never_return(make: Make) -> None:
    """Writes of every thread and a commit hang for good: all files can be saved in the new backend. [2.22]"""
    keys = [f"file {k}" for k in range(8)]
    rig = make(dict.fromkeys([*keys, "committing", "cut"], OLD), retry=ONCE, limits={"max_inflight": 8})
    files = [rig.open("r+b", key=key) for key in keys]
    committing, cut = rig.open("r+b", key="committing"), rig.open("r+b", key="cut")
    committing.pwrite(NEW, 0)
    gates = [rig.backend.gate("commit", "committing")]
    stuck = [Task(committing.fsync)]
    gates[0].wait_entered()
    for key, file in zip(keys, files, strict=True):
        file.pwrite(NEW, 0)
        gates.append(rig.backend.gate("write_from", key))
        stuck.append(Task(file.fsync))
        gates[-1].wait_entered()
    fresh = Task(rig.reconnect, *stuck, fenced=True, shared=False).result(WAIT_LIMIT_S / 3)  # before the gates give up
    for file in (*files, committing):
        file.pwrite(NEWER, PAGE)
        Task(file.fsync).result(WAIT_LIMIT_S / 3)
    cut.truncate(10)
    Task(rig.volume.sync).result(WAIT_LIMIT_S / 3)
    assert rig.backend.nr_running == len(gates)
    for key in (*keys, "committing"):
        assert fresh.committed(key) == overlay(NEW, PAGE, NEWER)
    assert fresh.committed("cut") == OLD[:10]
    rig.cache.check()


@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("owed", [None, 3 * PAGE, 6 * PAGE], ids=["nothing", "a cut", "a size"])
def test_a_read_waits_for_an_old_commit_only_if_something_is_owed(make: Make, owed: int | None, fenced: bool) -> None:
    """Of bytes that are not cached; cached ones are read, and after a fence everything is. [2.22]"""
    rig, file = make({KEY: OLD}, retry=ONCE).written(NEW[PAGE : 2 * PAGE], PAGE)
    if owed is not None:
        file.truncate(owed)
    gate, stuck = at_gate(rig.backend.gate("commit"), file.fsync)
    rig.reconnect(stuck, fenced=fenced)
    assert Task(file.pread, PAGE, PAGE).result() == NEW[PAGE : 2 * PAGE]
    reading = Task(file.pread, PAGE, 0)
    assert reading.waits() == (owed is not None and not fenced)
    if not reading.finished.is_set():
        gate.open()
    assert reading.result() == OLD[:PAGE]
    gate.open()
    file.fsync()
    assert file.size == (len(OLD) if owed is None else owed)


def test_newest_bytes_win_after_a_deadline_without_abort(make: Make) -> None:
    """The page is not sent a second time before the first call has returned. [T-63, T-13, 2.15, I-20, K7]"""
    rig, file = make({KEY: OLD}, retry=ONCE).written(NEW[:PAGE], 0)
    gate = rig.backend.gate("write_from")
    raises(TimeoutError, lambda: Task(file.fsync, timeout=0.05).result())
    gate.wait_entered()
    file.pwrite(NEWER, 0)
    saving = Task(file.fsync)
    assert saving.waits()
    assert len(rig.backend.seen("write_from")) == 1
    saving.result(opening=gate)
    assert rig.backend.committed(KEY) == overlay(OLD, 0, NEWER)


def test_a_fill_that_hangs_in_the_old_backend_gets_out_of_the_way(make: Make) -> None:
    """Its folios are filled again; bytes that it writes into its buffers later are never read. [2.22, K7]"""
    rig, file = make({KEY: OLD}).opened("r+b")
    gate = rig.backend.gate("read_into")
    kept: list[memoryview] = []

    def foreign(stored: RecordingFile, offset: int, buffers: list[memoryview]) -> int:
        for buffer in kept:
            buffer[:] = b"\xee" * len(buffer)
        return sum(map(len, buffers))

    rig.backend.fault("read_into", foreign)
    rig.backend.keep_buffers = kept
    _, hung = at_gate(gate, file.pread, PAGE, 0)
    rig.reconnect()
    assert Task(file.pread, PAGE, 0).result(WAIT_LIMIT_S / 3) == OLD[:PAGE]
    gate.open()
    try:
        assert hung.result() == OLD[:PAGE]
    except ShutdownError:
        pass  # either is an answer for a caller of the old backend
    kept.clear()
    assert file.pread(PAGE, 0) == OLD[:PAGE]


def test_a_reconnect_ends_waits_before_it_opens_a_file(make: Make) -> None:
    """It aborts a volume that lives. No such wait goes on with the new backend. [2.22, I-23]"""
    rig, file = make({KEY: OLD}).written(NEWER, 0)
    gate, syncing = at_gate(rig.backend.gate("write_from"), file.fsync)
    ticket, fresh = rig.volume.begin_sync(), rig.backend.successor()
    opening, reconnecting = at_gate(fresh.gate("open"), rig.volume.reconnect, fresh)
    raises(ShutdownError, syncing.result)
    raises(ShutdownError, ticket.wait, 20)
    reconnecting.result(opening=opening)
    gate.open()
    raises(ShutdownError, ticket.wait, 20)
    file.fsync()
    assert fresh.committed(KEY) == overlay(OLD, 0, NEWER)


@pytest.mark.parametrize("moment", ["in the call", "in the sleep"])
def test_a_call_that_is_to_be_made_again_ends_though_the_reconnect_is_over(make: Make, moment: str) -> None:
    """It slept with the token, for which the reconnect waits. [2.22]"""
    slow = RetryPolicy(first_delay=3600.0, max_delay=3600.0, deadline=7200.0)
    rig, file = make({KEY: pattern(PAGE)}, retry=slow).opened()
    engine = rig.volume.engine

    def call() -> None:
        engine.reconnects += moment == "in the call"
        raise OSError(errno.EIO, "for a moment")

    calling = Task(insisting, file._inode, call)
    if moment == "in the sleep":
        wait_for(rig.cache, AGAIN)
        engine.reconnects += 1
    raises(ShutdownError, calling.result)


def test_an_abort_ends_a_reconnect_that_opens_a_file(make: Make) -> None:
    """The volume stays aborted until the next reconnect, whatever the backend answers. [2.22, K9]"""
    rig, file = make({KEY: OLD}).written(NEWER, 0)
    fresh = rig.backend.successor()
    opening, task = at_gate(fresh.gate("open"), rig.volume.reconnect, fresh)
    rig.volume.abort()
    raises(ShutdownError, task.result)
    opening.open()
    eventually(lambda: fresh.seen("file_close"))
    raises(ShutdownError, file.fsync)
    last = rig.reconnect()
    file.fsync()
    assert last.committed(KEY) == overlay(OLD, 0, NEWER)
    assert fresh.seen("commit") == []


@pytest.mark.parametrize("step", ["_bind", "name_sync.reset", "native.resume"])
def test_an_abort_beside_the_end_of_a_reconnect_is_not_lost(make: Make, monkeypatch: Patch, step: str) -> None:
    """The backend that was connected is gone, too. [2.22]"""
    rig, file = make({KEY: OLD}).written(b"new", 0)
    rig.volume.abort()
    engine: Any = rig.volume.engine
    *above, name = step.split(".")
    owner = getattr(engine, above[0]) if above else engine
    with monkeypatch.context() as patched:
        beside(patched, type(owner), name, lambda: rig.volume.abort(OSError(errno.EIO, "unplugged")))
        with contextlib.suppress(ShutdownError):
            rig.volume.reconnect(rig.backend)
    raises(ShutdownError, file.fsync)
    rig.volume.reconnect(rig.backend)
    assert rig.saved(file) == b"new" + OLD[3:]


def test_a_reconnect_beside_a_collection_of_garbage_takes_no_memory_of_a_call(make: Make) -> None:
    """An allocation for the call's buffers collects, and a finaliser runs code there. [2.22, I-13]"""
    rig = make({KEY: OLD, "other": b""}, capacity="64KiB", options={"read_ahead": 0})
    file, other = rig.open("rb"), rig.open("r+b", key="other")
    collecting, over = threading.Event(), threading.Event()

    def collect(phase: str, _: object) -> None:
        on_a_thread = threading.current_thread().name.startswith("pagecache-volume")
        if phase == "start" and on_a_thread and sys._getframe(1).f_code.co_name == "work":
            gc.callbacks.remove(collect)
            collecting.set()
            over.wait(WAIT_LIMIT_S)

    before = gc.get_threshold()
    gc.callbacks.append(collect)
    gc.set_threshold(1)
    try:
        for _ in range(200):  # which allocation collects, depends on those before
            reading = Task(file.pread, 4 * PAGE, 0)
            eventually(lambda: collecting.is_set() or reading.finished.is_set())  # noqa: B023
            if collecting.is_set() and not reading.finished.wait(0.1):
                break
            if collecting.is_set():  # behind the end of the call
                over.set()
                eventually(lambda: collect not in gc.callbacks)
                collecting.clear()
                over.clear()
                gc.callbacks.append(collect)
            rig.volume.drop_clean()
        assert collecting.is_set()
    finally:
        gc.set_threshold(*before)
    rig.volume.reconnect(rig.backend, fenced=True)
    other.pwrite(NEW * 3, 0)
    over.set()
    raises(ShutdownError, reading.result)
    assert other.pread(12 * PAGE, 0) == NEW * 3
    assert file.pread(4 * PAGE, 0) == OLD


@pytest.mark.parametrize("ended", [errno.ENOTCONN, errno.ESHUTDOWN, errno.EPIPE, errno.ENETRESET])
@pytest.mark.parametrize("landed", [False, True])
def test_a_commit_behind_which_the_connection_ends_leaves_no_conflict(make: Make, ended: int, landed: bool) -> None:
    """It has failed before the volume is aborted. [2.14, 2.19, 2.22]"""
    backend = ObjectBackend({KEY: OLD})
    rig, file = make(backend=backend).written(NEW[:PAGE], 0)
    rig.fails("commit answer" if landed else "commit", OSError(ended, "injected"), CommitError, file.fsync)
    rig.volume.reconnect(backend)
    file.pwrite(NEW[:PAGE], PAGE)
    file.fsync()
    assert backend.committed(KEY) == NEW[:PAGE] * 2 + OLD[2 * PAGE :]


@pytest.mark.parametrize("commit_failed", [False, True])
def test_truncates_that_were_not_committed_are_made_again(make: Make, commit_failed: bool) -> None:
    """The smallest size is set, then the size: no byte that was cut comes back. [2.17]"""
    rig, file = make({KEY: OLD}, retry=ONCE).opened("r+b")
    file.truncate(100)
    if commit_failed:
        rig.fails("commit", failing_commit(OSError(errno.EACCES, "no")), pagecache.CommitError, file.fsync)
    file.truncate(2 * PAGE)
    assert rig.backend.successor().written(KEY) == OLD
    fresh = rig.reconnect()
    assert file.pread(4 * PAGE, 0) == OLD[:100] + bytes(2 * PAGE - 100)
    assert [call.offset for call in fresh.seen("truncate")] == [100, 2 * PAGE]
    file.fsync()
    assert fresh.committed(KEY) == OLD[:100] + bytes(2 * PAGE - 100)


def test_owed_calls_are_made_once_before_anything_else(make: Make) -> None:
    """Readers, writers and commits at the same moment: each truncate is one call, before any other. [2.17]"""
    rig, file = make({KEY: OLD}).opened("r+b")
    file.truncate(3 * PAGE)
    fresh = rig.reconnect()
    file.pwrite(NEWER, 0)
    gate = fresh.gate("truncate")
    tasks = [Task(file.pread, PAGE, k * PAGE) for k in (1, 2)] + [Task(file.fsync), Task(file.flush)]
    gate.wait_entered()
    assert all(task.waits(0.05) for task in tasks)
    gate.open()
    for task in tasks:
        task.result()
    calls = [
        call.op
        for call in fresh.calls
        if call.key == KEY and call.op in ("truncate", "read_into", "write_from", "commit")
    ]
    assert calls[:2] == ["truncate", "truncate"]
    assert calls.count("truncate") == 2
    assert fresh.committed(KEY) == NEWER + OLD[PAGE : 3 * PAGE]


def test_a_hole_that_was_not_committed_is_a_loss(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and each handle reports its hull; the bytes are read again. [2.17, 2.16]"""
    rig, file, other = make({KEY: OLD}, limits={"punch": True}, retry=ONCE).both()
    rig.backend.fault("commit", failing_commit(OSError(errno.EACCES, "no"), forget=False), times=2)
    for offset in (PAGE + 10, 3 * PAGE):
        raises(pagecache.CommitError, file.punch_hole, offset, 20)
    rig.reconnect()
    loglines.outlast(20.0)
    said = [record.getMessage() for record in caplog.records if record.name == "pagecache.loss"]
    assert len(said) == 1
    assert "holes were not committed when the backend was lost; [4106, 12308) given up" in said[0]
    for handle in (file, other):
        caught = raises(DataLossError, handle.fsync)
        assert [(lost.offset, lost.length) for lost in caught.ranges] == [(PAGE + 10, 2 * PAGE + 10)]
        handle.fsync()
    assert file.pread(4 * PAGE, 0) == OLD


def test_holes_of_an_object_that_is_replaced_as_a_whole_are_made_again(make: Make) -> None:
    """All bytes that were written after a hole are sent again after it: nothing is lost. [2.17, 2.22]"""
    rig, file = make(backend=RecordingBackend({KEY: OLD}, staged=True)).opened("r+b")
    file.punch_hole(PAGE, 2 * PAGE)
    file.pwrite(NEW[:PAGE], PAGE + 100)
    file.sync_range(0, len(OLD))
    rig.volume.abort()
    fresh = RecordingBackend({KEY: OLD}, staged=True)
    rig.volume.reconnect(fresh)
    file.fsync()
    expected = OLD[:PAGE] + bytes(100) + NEW[:PAGE] + bytes(PAGE - 100) + OLD[3 * PAGE :]
    assert fresh.committed(KEY) == file.pread(len(OLD), 0) == expected


@pytest.mark.parametrize("aborted", [True, False])
@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError(errno.ECONNREFUSED, "still down"), OSError), (KeyError("still down"), pagecache.BackendProtocolError)],
)
def test_reconnect_that_fails_changes_nothing(make: Make, error: Exception, kind: type[OSError], aborted: bool) -> None:
    """The volume is aborted, by the reconnect if it worked before; data stays, another try works. [2.22]"""
    rig, file = make({KEY: OLD}).written(NEWER, 0)
    if aborted:
        rig.volume.abort()
    fresh = rig.backend.successor()
    fresh.fault("open", error)
    raises(kind, rig.volume.reconnect, fresh, match="still down")
    raises(ShutdownError, file.fsync)
    assert rig.volume.dirty_ranges(KEY) == [(0, PAGE)]
    rig.volume.reconnect(fresh)
    file.fsync()
    assert fresh.committed(KEY) == overlay(OLD, 0, NEWER)
    assert rig.backend.seen("write_from") == []


@pytest.mark.parametrize("answered", [True, False])
def test_clean_pages_of_a_store_that_changed_are_read_again(make: Make, monkeypatch: Patch, answered: bool) -> None:
    """By another client, also if the store does not answer when the two are compared. [2.19, 2.22]"""
    rig, file, same = make({KEY: OLD, "same": OLD}).both(key="same")
    compare = opening.compare

    def compares(volume: Volume, inode: Inode, *arguments: Any) -> bool:
        if inode.key == KEY and not answered:
            raise OSError(errno.EIO, "no answer")
        return compare(volume, inode, *arguments)

    monkeypatch.setattr(reconnect, "compare", compares)
    file.pread(4 * PAGE, 0)
    same.pread(4 * PAGE, 0)
    rig.volume.abort()
    fresh = rig.backend.successor(lose=False)
    fresh.change_remotely(KEY, NEW[: 2 * PAGE])
    rig.volume.reconnect(fresh)
    reader = file if answered else rig.open()  # which compares
    assert reader.pread(4 * PAGE, 0) == file.pread(4 * PAGE, 0) == NEW[: 2 * PAGE]
    assert same.pread(4 * PAGE, 0) == OLD
    assert fresh.seen("read_into", "same") == []


LATE: dict[str, tuple[Callable[[CachedFile], object], bytes]] = {
    "longer": (lambda file: file.pwrite(NEWER, 4 * PAGE), OLD + NEWER),
    "shorter": (lambda file: file.truncate(100), OLD[:100]),
    "over another version": (lambda file: file.pwrite(NEWER, 0), NEWER + NEW[PAGE:]),
}


@pytest.mark.parametrize("how", LATE)
def test_a_commit_as_soon_as_the_volume_lives_is_no_remote_change(make: Make, monkeypatch: Patch, how: str) -> None:
    """Its bytes and size stay, and no page of another version. [2.19, 2.22, T-75b]"""
    rig, file = make({KEY: OLD}).opened("r+b")
    file.pread(len(OLD), 0)
    rig.volume.abort()
    fresh = rig.backend.successor(lose=False)
    if how == "over another version":
        fresh.change_remotely(KEY, NEW)
    change, content = LATE[how]

    def late() -> None:
        change(file)
        file.fsync()
        eventually(lambda: rig.volume.inodes[KEY].versions.quiet() is not None)

    beside(monkeypatch, reconnect, "_check_version", late)
    rig.volume.reconnect(fresh)
    assert (file.size, file.pread(8 * PAGE, 0)) == (len(content), content)
    assert fresh.committed(KEY) == content


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "the connection ends"])
@pytest.mark.parametrize("fenced", [False, True])
def test_a_caller_that_has_not_noticed_the_abort_is_waited_for(
    make: Make, monkeypatch: Patch, fenced: bool, lost: bool
) -> None:
    """Its truncate was carried out, and is not published: the store is shorter. An error is no refusal. [2.14, 2.17]"""
    rig, file = make({KEY: OLD}, retry=ONCE).opened("r+b")
    gate = rig.backend.gate("truncate")
    if lost:
        rig.backend.fault("truncate answer", OSError(errno.ENOTCONN, "the line was cut"))
    waited_for, genuine = threading.Event(), Job.wait

    def late(job: Job[Any], alive: Callable[[], None], *more: Any) -> Any:
        if job.what == "truncate":
            assert waited_for.wait(WAIT_LIMIT_S)
            assert job.join(WAIT_LIMIT_S)
        return genuine(job, alive, *more)

    def stragglers(native: NativeVolume) -> int:
        found = asked(native)
        if found:
            waited_for.set()
        return found

    asked = NativeVolume.stragglers
    monkeypatch.setattr(Job, "wait", late)
    monkeypatch.setattr(NativeVolume, "stragglers", stragglers)
    _, cutting = at_gate(gate, file.truncate, PAGE)
    rig.volume.abort()
    gate.open()
    eventually(lambda: rig.backend.nr_running == 0)
    rig.volume.reconnect(rig.backend.successor(lose=False, shared=not fenced), fenced=fenced)
    try:
        assert file.pread(len(OLD), 0) == OLD[:PAGE]
    finally:
        waited_for.set()
    if lost:
        raises(OSError, cutting.result, match="the line was cut")
    else:
        cutting.result()
    file.fsync()


BEFORE = overlay(OLD, PAGE, NEW[PAGE : 2 * PAGE])
HUNG: dict[str, tuple[Callable[[CachedFile], object], bytes]] = {
    "write_from": (lambda file: file.fsync(), BEFORE),
    "commit": (lambda file: file.fsync(), BEFORE),
    "truncate": (lambda file: file.truncate(2 * PAGE + 5), BEFORE[: 2 * PAGE + 5]),
    "punch_hole": (lambda file: file.punch_hole(PAGE, PAGE), overlay(BEFORE, PAGE, bytes(PAGE))),
}


@pytest.mark.long
@pytest.mark.parametrize("order", ["abort, answer, reconnect", "abort, reconnect, answer"])
@pytest.mark.parametrize(("lose", "fenced"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("answer", ["done", "refused", "done, answer lost", "done long before"])
@pytest.mark.parametrize("hung", HUNG)
def test_abort_reconnect_and_late_answers_in_every_order(
    make: Make, hung: str, answer: str, lose: bool, fenced: bool, order: str
) -> None:
    """Nothing is clean that is not stored; the newest bytes arrive. [T-75b, 2.22]"""
    call, content = HUNG[hung]
    rig = make({KEY: OLD}, limits={"max_write": PAGE, "punch": True}, retry=ONCE)
    file, old, now = rig.dirtied(NEW[PAGE : 2 * PAGE], PAGE), rig.backend, rig.backend
    if hung in ("truncate", "punch_hole"):
        file.fsync()
    if answer == "refused":
        old.fault(hung, OSError(errno.EACCES, "no"))
    elif answer == "done, answer lost":
        old.fault(f"{hung} answer", OSError(errno.ECONNRESET, "the line went dead"))
    gate, waiting = at_gate(old.gate(f"{hung} answer" if answer == "done long before" else hung), call, file)
    for event in order.split(", "):
        if event == "abort":
            rig.volume.abort()
            raises(ShutdownError, waiting.result)
        elif event == "reconnect":
            now = old.successor(lose=lose, shared=not fenced)
            rig.volume.reconnect(now, fenced=fenced)
        else:
            gate.open()
            eventually(lambda: old.nr_running == 0)
    assert rig.volume.failed() == []  # a late error is ignored
    assert file.size == len(content)
    local = [range(offset, offset + length) for offset, length in rig.volume.dirty_ranges(KEY)]
    stored = now.committed(KEY) or b""
    for start in range(0, len(OLD) if content == BEFORE else 0, PAGE):
        cached = file.try_pread(PAGE, start)
        assert cached in (None, stored[start : start + PAGE]) or any(start in each for each in local)
    rig.cache.check()
    file.pwrite(NEWER, 0)
    Task(file.fsync).result()
    assert file.pread(5 * PAGE, 0) == now.committed(KEY) == overlay(content, 0, NEWER)
    assert rig.volume.dirty_ranges(KEY) == []
    assert now.violations == []
