"""Write requests that C sends by the bound method of a file, and syncs whose state is in C: what has to be looked at
first is looked at, in files that trouble has met before, and in those that it meets beside the call.
"""

from __future__ import annotations

import errno

from pagecache import RetryPolicy, ShutdownError, WritebackError
from pagecache.native import BACKOFF, DIRTY, END, STAMP_MAX

from ..stores import ObjectBackend
from .clock import HandClock
from .rig import KEY, ONCE, PAGE, Make, Rig, Task, at_gate, eventually, pattern, raises

NEW = pattern(4 * PAGE, seed=1)
FULL = OSError(errno.ENOSPC, "full")
PASSING = OSError(errno.EIO, "passing")


def test_the_record_of_a_failure_ends_though_the_calls_were_bound_since(make: Make) -> None:
    """As by an open, or a rename. [2.16]"""
    rig, file = make({KEY: b""}, retry=ONCE).opened("r+b")
    engine = rig.volume.inodes[KEY].engine
    file.pwrite(NEW, 0)
    rig.backend.fault("write_from", FULL)
    raises(WritebackError, file.flush)
    assert not engine.is_troubled()
    engine.bind_calls()
    file.fsync()
    assert list(engine.failures) == []
    rig.cache.check()


def test_an_abandoned_file_sends_nothing_more(make: Make) -> None:
    """Its pass goes on, and finds each further request abandoned. [2.11]"""
    rig, file = make(backend=ObjectBackend({KEY: b""}, max_write=PAGE, max_inflight=1)).opened("r+b")
    engine = rig.volume.inodes[KEY].engine
    file.pwrite(NEW, 0)
    gate = rig.backend.gate("write_from")
    engine.native.flush_start(STAMP_MAX)
    gate.wait_entered()
    file.abandon()
    engine.bind_calls()
    gate.open()
    eventually(lambda: not engine.native.has_local())
    assert len(rig.backend.seen("write_from")) == 1


def acknowledged(rig: Rig) -> None:
    """Write every byte back, by no sync."""
    engine = rig.volume.inodes[KEY].engine
    engine.native.flush_start(STAMP_MAX)
    eventually(lambda: not engine.native.flush_pending(STAMP_MAX) and engine.native.pass_idle())


def test_a_flush_of_acknowledged_bytes_learns_the_version_that_they_made(make: Make) -> None:
    """Otherwise a later change by another program would look like it. [2.19]"""
    rig, file = make({KEY: b""}).opened("r+b")
    file.pwrite(NEW, 0)
    acknowledged(rig)
    versions = rig.volume.inodes[KEY].engine.versions
    assert versions.stale
    file.flush()
    assert not versions.stale
    assert versions.base == rig.backend.stat(KEY).version


def test_a_version_that_was_read_beside_a_write_is_not_taken(make: Make) -> None:
    """It may be older than the bytes. [2.19]"""
    rig, file = make({KEY: b""}).opened("r+b")
    versions = rig.volume.inodes[KEY].engine.versions
    file.pwrite(NEW, 0)
    acknowledged(rig)
    gate, flushing = at_gate(rig.backend.gate("file_stat"), file.flush)
    file.pwrite(NEW[:PAGE], 0)
    acknowledged(rig)
    flushing.result(opening=gate)
    assert versions.stale
    file.flush()
    assert not versions.stale


def test_an_answer_after_an_abort_leaves_bytes_that_wait_for_nothing(make: Make) -> None:
    """They go to the next backend with the others. [2.22]"""
    rig, file = make({KEY: b""}).opened("r+b")
    native = rig.volume.inodes[KEY].engine.native
    file.pwrite(NEW, 0)
    gate = rig.backend.gate("write_from")
    native.flush_start(STAMP_MAX)
    gate.wait_entered()
    rig.volume.abort(OSError(errno.ENODEV, "unplugged"))
    gate.open()
    eventually(lambda: not native.in_old_hands() and native.pass_idle())
    assert native.range_next(0, END, BACKOFF) == END
    assert native.range_next(0, END, DIRTY) == 0


def test_a_sync_ends_after_a_loss_is_recorded(make: Make) -> None:
    """Nothing is left to be saved, but the bytes that are given up have no record yet. [2.15, 2.16]"""
    rig, file = make({KEY: NEW}).opened("r+b")
    with rig.volume.inodes[KEY].engine.loses():
        syncing = Task(file.fsync)
        assert syncing.waits()
    syncing.result()


def test_a_range_of_an_aborted_volume_is_not_synced(make: Make) -> None:
    """Also if nothing of it is left to be saved. [2.22]"""
    rig, file = make({KEY: NEW}).opened("r+b")
    rig.volume.abort(OSError(errno.ENODEV, "unplugged"))
    raises(ShutdownError, file.sync_range, 0, PAGE, match="unplugged")


def test_an_fsync_has_bytes_retried_that_wait_without_a_record(make: Make, clock: HandClock) -> None:
    """An interrupt leaves such bytes, and no time of a retry. [2.14, 2.15]"""
    rig, file = make({KEY: b""}, retry=RetryPolicy(attempts=5, first_delay=9.0)).opened("r+b")
    engine, volume = rig.volume.inodes[KEY].engine, rig.volume.engine
    rig.backend.fault("write_from", PASSING)
    file.pwrite(NEW, 0)
    engine.native.flush_start(STAMP_MAX)
    eventually(lambda: engine.native.range_next(0, END, BACKOFF) == 0)
    eventually(lambda: engine in volume._retries)
    with engine.lock:
        engine.failures.forget()
    volume._retries.forget(engine)
    Task(file.fsync).result(20)
    assert rig.backend.committed(KEY) == NEW
