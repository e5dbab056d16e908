"""Write requests, commits and syncs that C makes by the bound methods of a file: each check that comes first."""

from __future__ import annotations

import errno

import pytest

from pagecache import CommitError, ConflictError, WritebackError
from pagecache.engine.file import EngineFile
from pagecache.native import STAMP_MAX

from ..stores import ObjectBackend, RecordingFile
from .clock import HandClock
from .rig import KEY, ONCE, PAGE, Make, Patch, Rig, Task, at_gate, eventually, pattern, raises

NEW = pattern(4 * PAGE, seed=1)
FULL = OSError(errno.ENOSPC, "full")
PASSING = OSError(errno.EIO, "passing")


def test_the_record_of_a_failure_ends_though_the_calls_were_bound_since(make: Make) -> None:
    """As by an open, or a rename. [2.16]"""
    rig, file = make({KEY: b""}, retry=ONCE).opened("r+b")
    engine = rig.volume.inodes[KEY]
    file.pwrite(NEW, 0)
    rig.backend.fault("write_from", FULL)
    raises(WritebackError, file.flush)
    assert not engine.is_troubled()
    engine.bind_calls()
    file.fsync()
    assert list(engine.failures) == []


def test_an_abandoned_file_sends_nothing_more(make: Make) -> None:
    """Its pass goes on, and finds each further request abandoned. [2.11]"""
    rig, file = make(backend=ObjectBackend({KEY: b""}, max_write=PAGE, max_inflight=1)).opened("r+b")
    engine = rig.volume.inodes[KEY]
    file.pwrite(NEW, 0)
    gate = rig.backend.gate("write_from")
    engine.flush_start(STAMP_MAX)
    gate.wait_entered()
    file.abandon()
    engine.bind_calls()
    gate.open()
    eventually(lambda: not engine.has_local())
    assert len(rig.backend.seen("write_from")) == 1


def acknowledged(rig: Rig) -> None:
    """Write every byte back, by no sync."""
    engine = rig.volume.inodes[KEY]
    engine.flush_start(STAMP_MAX)
    eventually(lambda: not engine.flush_pending(STAMP_MAX) and engine.pass_idle())


def test_a_flush_of_acknowledged_bytes_learns_the_version_that_they_made(make: Make) -> None:
    """Otherwise a later foreign change would look like it. One read beside a write may be older. [2.19]"""
    rig, file = make({KEY: b""}).opened("r+b")
    versions = rig.volume.inodes[KEY].versions
    file.pwrite(NEW, 0)
    acknowledged(rig)
    gate, flushing = at_gate(rig.backend.gate("file_stat"), file.flush)
    file.pwrite(NEW[:PAGE], 0)
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
    rig, file = make({KEY: b""}, limits={"prompt": prompt}).opened("r+b")
    file.pwrite(NEW, 0)
    rig.backend.fault(op, OSError(errno.ESTALE, "another version"))
    raises(ConflictError, Task(file.fsync).result)
    raises(ConflictError, Task(file.fsync).result)
    assert len(rig.backend.seen(op)) == 1
    assert rig.backend.committed(KEY) == b""


@pytest.mark.parametrize("prompt", [False, True])
def test_a_failed_commit_is_judged_before_anything_is_sent_again(make: Make, prompt: bool) -> None:
    """By the caller's policy. [2.16]"""
    rig, file = make({KEY: b""}, limits={"prompt": prompt}, retry=ONCE).opened("r+b")
    file.pwrite(NEW, 0)
    rig.backend.fault("commit", PASSING)
    raises(CommitError, Task(file.fsync).result, match="passing")
    assert len(rig.backend.seen("write_from")) == len(rig.backend.seen("commit")) == 1
    Task(file.fsync).result()
    assert rig.backend.committed(KEY) == NEW


def publish(file: RecordingFile) -> str:
    """Commit, and make another version."""
    file.stored.version += 1
    file.stored.committed = bytes(file.stored.written)
    return str(file.stored.version)


def test_an_interrupt_before_a_commits_result_makes_no_foreign_version(make: Make, monkeypatch: Patch) -> None:
    """The version that the commit has made is this cache's own. [2.19, K9]"""
    rig, file = make({KEY: b""}, limits={"prompt": True}).opened("r+b")
    file.pwrite(NEW, 0)
    file.flush()
    rig.backend.fault("commit", publish)

    def strike(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(EngineFile, "committed", strike)
        raises(KeyboardInterrupt, file.fsync)
    rig.open("r+b").fsync()
    assert rig.backend.committed(KEY) == NEW


def test_a_deadline_that_passes_in_a_pass_leaves_no_commit_behind(make: Make, clock: HandClock) -> None:
    """The thread that makes the calls looks around between two of them. [2.15]"""
    rig, file = make({KEY: b""}, limits={"prompt": True}).opened("r+b")
    file.pwrite(NEW, 0)
    gate, syncing = at_gate(rig.backend.gate("write_from"), file.fsync, timeout=5.0)
    clock.advance(6.0)
    raises(TimeoutError, syncing.result, opening=gate)
    assert not rig.backend.seen("commit")
    file.fsync()
    assert rig.backend.committed(KEY) == NEW


@pytest.mark.parametrize("prompt", [False, True])
def test_work_under_the_token_goes_before_the_next_commit(make: Make, prompt: bool) -> None:
    """Such as a cut, or taking another version: it is queued while the commit before it runs. [2.17]"""
    rig, file = make({KEY: b""}, limits={"prompt": prompt}).opened("r+b")
    engine = rig.volume.inodes[KEY]
    done: list[int] = []
    file.pwrite(NEW, 0)
    gate, syncing = at_gate(rig.backend.gate("commit"), file.fsync)
    engine.settle(lambda: done.append(len(rig.backend.seen("commit"))))
    file.pwrite(NEW, 0)
    second = Task(file.fsync)
    syncing.result(opening=gate)
    second.result()
    assert done == [1]
    assert len(rig.backend.seen("commit")) == 2
    assert engine.bound_commit is not None
