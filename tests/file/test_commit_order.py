"""The scope of a commit: awaited bytes go first, nothing is half published, and no discarded byte comes back.

A sync asks the C core several questions in turn: has my commit ended, is anything dirty, is a commit needed. A commit
that fails between two of the questions makes bytes dirty, or failed, that were neither when the question was asked.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pagecache import BackendError, CommitError, ConflictError, DataLossError, WritebackError
from pagecache.engine.io.barrier import FileSync

from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend, RecordingFile, failing_commit
from .rig import FAST, KEY, ONCE, PAGE, Make, Patch, Task, eventually, pattern, raises
from .test_conflicts import OTHER, over, uploaded

DATA = pattern(4 * PAGE)
NEW = pattern(PAGE, seed=3)
AGAIN = BackendError(errno.EIO, "made up", retry=True, retry_after=0.0)


class Commits:
    """Record every content that a commit made visible. With an error, the first one runs until a sync is about to query
    the core again, and has failed when it does.
    """

    def __init__(self, backend: RecordingBackend, error: OSError | None = None) -> None:
        self.backend, self.error = backend, error
        self.running, self.fail = threading.Event(), threading.Event()
        self.contents: list[bytes | None] = []
        backend.fault("commit", self.commit, times=float("inf"))

    def commit(self, file: Any) -> str:
        error, self.error = self.error, None
        if error is not None:
            self.running.set()
            assert self.fail.wait(WAIT_LIMIT_S)
            file.forget()
            file.parts = []  # of an object
            self.backend.forget_calls()
            raise error
        version: str = file.make_durable()
        self.contents.append(self.backend.committed(KEY))
        return version

    def before_poll(self, monkeypatch: Patch) -> None:
        poll = FileSync.poll

        def query(sync: FileSync) -> bool:
            if self.running.is_set() and not self.fail.is_set():
                self.fail.set()
                eventually(lambda: not sync.file.commit_running())
            return poll(sync)

        monkeypatch.setattr(FileSync, "poll", query)


def test_bytes_that_a_failed_commit_sent_back_go_before_the_next(make: Make, monkeypatch: Patch) -> None:
    """The creation alone, which needs a commit too, is not visible without them. [T-18, 2.15, 2.17]"""
    backend = ObjectBackend()
    _rig, file = make(backend=backend, retry=FAST).opened("w+b")
    file.pwrite(DATA, 0)
    commits = Commits(backend, AGAIN)
    commits.before_poll(monkeypatch)
    Task(file.fsync).result()
    assert commits.fail.is_set()
    assert commits.contents == [DATA]


def test_work_under_the_token_publishes_no_half_of_an_object(make: Make) -> None:
    """It is requested in the first turn of a pass, and no commit starts between two turns. [T-30, 2.19]"""
    backend = ObjectBackend({KEY: b"old"}, max_write=PAGE)
    rig, file = make(backend=backend, retry=FAST).opened("r+b")
    file.pwrite(pattern(100 * PAGE), 0)

    def store_and_request(stored: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        rig.volume.engine.files()[0].settle_start()
        return stored.store(offset, buffers)

    backend.fault("write_from", store_and_request)
    commits = Commits(backend)
    Task(file.fsync).result()
    assert commits.contents == [pattern(100 * PAGE)]


@pytest.mark.parametrize("how", ["a commit forgets them", "another backend"])
def test_bytes_read_after_a_discard_do_not_outlast_their_upload(make: Make, monkeypatch: Patch, how: str) -> None:
    """No clean byte differs from the store, which has the old bytes again. If it is replaced it shows no versions.
    [T-18, T-75b, 2.17, 2.22]
    """
    stat = RecordingBackend.object_stat
    if how == "another backend":
        monkeypatch.setattr(RecordingBackend, "object_stat", lambda *at: replace(stat(*at), version=None))
    rig, file = make({KEY: DATA}, retry=FAST).opened("r+b")
    file.pwrite(NEW, 0)
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
    backend = ObjectBackend({KEY: DATA})
    rig, file = make(backend=backend, retry=ONCE).opened("r+b")

    backend.fault("write_from answer", OSError(errno.EIO, "the answer got lost"))
    file.pwrite(NEW, 0)
    raises(WritebackError, file.fsync)
    rig.volume.discard(KEY)
    raises(DataLossError, file.fsync)
    file.pwrite(NEW, PAGE)
    file.fsync()
    assert backend.committed(KEY) == DATA[:PAGE] + NEW + DATA[2 * PAGE :]


@pytest.mark.parametrize("fails", ["nothing", "rollback", "file_stat", "truncate", "punch_hole"])
def test_a_discard_of_a_part_loses_nothing_else_whatever_fails(make: Make, fails: str) -> None:
    """Bytes, truncates and holes are made again, or owed; the losses are returned. [T-75b, 2.17, 2.19]"""
    rig, file = make(backend=RecordingBackend({KEY: DATA}, staged=True), retry=FAST).opened("r+b")
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


def test_a_rebase_that_fails_half_way_loses_nothing(make: Make) -> None:
    """The backend has rolled back and cannot be opened then: no byte counts as acknowledged. [T-30, T-75b, 2.19]"""
    rig = uploaded(make)
    raises(ConflictError, rig.handles[0].fsync)
    fault = rig.backend.fault("open", OSError(errno.EIO, "made up"))
    raises(OSError, rig.volume.resolve, KEY, "rebase", match="made up")
    assert fault.nr_hit == len(rig.backend.seen("rollback")) == 1
    rig.volume.resolve(KEY, "rebase")
    Task(rig.handles[0].fsync).result()
    assert rig.backend.committed(KEY) == over(OTHER)


ERRORS = [errno.ENOSPC, errno.ETIMEDOUT]  # bytes are failed after the first, and dirty after the second


@pytest.mark.parametrize("error", ERRORS)
def test_an_fsync_reports_its_commit_and_sends_nothing_before(make: Make, monkeypatch: Patch, error: int) -> None:
    """[T-18, 2.15, 2.16]"""
    rig, file = make({KEY: b""}, retry=ONCE).opened("w+b")
    file.pwrite(DATA, 0)
    Commits(rig.backend, OSError(error, "made up")).before_poll(monkeypatch)
    assert raises(CommitError, lambda: Task(file.fsync).result()).errno == error
    assert rig.backend.seen("write_from") == []
    assert rig.volume.failed()
    file.fsync()
    assert rig.backend.committed(KEY) == DATA
