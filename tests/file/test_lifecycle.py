"""The ends of handles, volumes and caches: closed, detached, aborted or collected."""

from __future__ import annotations

import contextlib
import errno
import gc
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import PageCache, ShutdownError, UnsavedDataError
from pagecache.engine.runner import Job
from pagecache.native import NAMES

from ..stores import RecordingBackend
from .rig import KEY, ONCE, PAGE, QUIET, Rig, Task, dirty_bytes, eventually, pattern

Make = Callable[..., Rig]
DATA = pattern(3 * PAGE)
FULL = OSError(errno.ENOSPC, "no room")


@pytest.fixture
def dirty(make: Make) -> Rig:
    """A new file with three dirty pages."""
    rig = make({KEY: b""}, retry=ONCE)
    rig.open("r+b").pwrite(DATA, 0)
    return rig


def test_close_writes_back_and_commits(dirty: Rig) -> None:
    """Open handles are included; it returns the list of losses: empty. [2.22]"""
    assert dirty.cache.close() == []
    assert dirty.backend.committed(KEY) == DATA
    assert len(dirty.backend.seen("close")) == 1


def test_close_may_be_repeated(dirty: Rig) -> None:
    """Idempotent. [2.22]"""
    dirty.cache.close()
    assert dirty.cache.close() == []
    assert dirty.cache.close(on_failed="discard") == []


def test_leaving_a_with_block_closes_the_cache() -> None:
    """It makes everything durable. [2.22]"""
    backend = RecordingBackend({KEY: b""})
    with PageCache("1MiB", **QUIET) as cache:
        file = cache.attach(backend).open(KEY, "r+b")
        file.pwrite(DATA, 0)
    assert backend.committed(KEY) == DATA
    file.close()


def test_the_exception_of_a_with_block_stays_the_primary_one() -> None:
    """This holds even when the data could not be saved. [2.22]"""
    backend = RecordingBackend({KEY: b""})
    fault = backend.fault("write_from", FULL, times=float("inf"))
    cache = PageCache("1MiB", retry=ONCE, **QUIET)
    with pytest.raises(ZeroDivisionError), cache:
        file = cache.attach(backend).open(KEY, "r+b")
        file.pwrite(DATA, 0)
        raise ZeroDivisionError
    fault.clear()
    file.close()
    cache.close(on_failed="discard")


@pytest.mark.parametrize("what", ["cache", "volume"])
def test_unsaved_data_keeps_it_open(dirty: Rig, what: str) -> None:
    """UnsavedDataError lists it, nothing is lost, the next try succeeds. [2.16, 2.22]"""
    end = dirty.cache.close if what == "cache" else dirty.volume.detach
    fault = dirty.backend.fault("write_from", FULL, times=float("inf"))
    with pytest.raises(UnsavedDataError) as caught:
        end()
    assert [(r.key, r.offset, r.length, r.errno) for r in caught.value.ranges] == [(KEY, 0, len(DATA), errno.ENOSPC)]
    assert dirty.handles[0].pread(len(DATA), 0) == DATA
    dirty.handles[0].pwrite(b"still open", 0)
    fault.clear()
    assert end() == []
    assert dirty.backend.committed(KEY) == b"still open" + DATA[10:]


@pytest.mark.parametrize("what", ["cache", "volume"])
def test_discarding_answers_what_was_given_up(dirty: Rig, what: str) -> None:
    """`on_failed="discard"`: closed, and the caller has the list. [2.22]"""
    end = dirty.cache.close if what == "cache" else dirty.volume.detach
    dirty.backend.fault("write_from", FULL, times=float("inf"))
    lost = end(on_failed="discard")
    assert [(item.key, item.offset, item.length, item.volume) for item in lost] == [(KEY, 0, len(DATA), "volume")]
    assert dirty.volume not in dirty.cache.volumes()


def test_close_has_a_deadline(dirty: Rig) -> None:
    """A hung backend: UnsavedDataError at the deadline, and everything is still there. [2.22, K9]"""
    gate = dirty.backend.gate("write_from")
    with pytest.raises(UnsavedDataError):
        Task(dirty.cache.close, timeout=0.1).result()
    assert dirty.handles[0].pread(len(DATA), 0) == DATA
    gate.open()
    assert Task(dirty.cache.close).result() == []
    assert dirty.backend.committed(KEY) == DATA


def test_discarding_close_leaves_a_hung_backend_behind(make: Make) -> None:
    """The deadline ends the wait, never the call. [2.22, K7]"""
    rig = make({KEY: b""})
    rig.open("r+b").pwrite(DATA, 0)
    gate = rig.backend.gate("write_from")
    lost = Task(rig.cache.close, timeout=0.1, on_failed="discard").result()
    assert sum(item.length for item in lost) == len(DATA)
    gate.open()


def test_a_detached_volume_refuses_and_the_others_go_on(make: Make) -> None:
    """One backend less. [2.1]"""
    rig = make({KEY: DATA})
    other = rig.cache.attach(RecordingBackend({KEY: DATA}), name="other")
    rig.volume.detach()
    with pytest.raises(ShutdownError):
        rig.volume.open(KEY)
    assert rig.cache.volumes() == (other,)
    with other.open(KEY, "r+b") as file:
        assert file.pread(10, 0) == DATA[:10]
        file.pwrite(b"x", 0)
        file.fsync()


def test_a_volume_name_is_unique_and_free_after_detach(make: Make) -> None:
    """The second of the same name is a ValueError that names it."""
    rig = make()
    with pytest.raises(ValueError, match="volume"):
        rig.cache.attach("memory:", name="volume")
    rig.volume.detach()
    rig.cache.attach("memory:", name="volume").detach()


def test_write_back_is_not_over_before_the_backend_answered(dirty: Rig) -> None:
    """A request in flight stays in flight after its waiter has gone. [T-13, K7]"""
    gate = dirty.backend.gate("write_from")
    with pytest.raises(TimeoutError):
        Task(dirty.handles[0].fsync, timeout=0.05).result()
    gate.wait_entered()
    assert dirty.cache.stats().writeback >= len(DATA)
    gate.open()
    eventually(lambda: dirty.cache.stats().writeback == 0)


def test_no_commit_is_made_after_an_abort(dirty: Rig) -> None:
    """A commit that waited for the token when the volume was aborted is not made. [2.22]"""
    file = dirty.handles[0]
    file.flush()
    gate = dirty.backend.gate("write_from")
    file.pwrite(b"more", 0)
    flush = Task(file.flush)
    gate.wait_entered()
    native = file._inode.native
    native.start_commit()  # queues behind the pass
    dirty.volume.abort()
    with pytest.raises(ShutdownError):
        flush.result()
    gate.open()
    eventually(native.pass_idle)
    done = dirty.volume.engine.runner.submit(NAMES, Job(dirty.volume.engine.park, lambda: None, None))
    done.wait(lambda: None)  # all work queued before this has run
    assert dirty.backend.seen("commit") == []
    assert dirty_bytes(dirty.volume) == len(DATA)


def test_a_sync_beside_a_reconnect_ignores_answers_of_the_old_backend(dirty: Rig) -> None:
    """The bytes acknowledged by the old backend are dirty again before anything can be committed. [T-75b, 2.22]"""
    file = dirty.handles[0]
    file.flush()
    fresh = RecordingBackend({KEY: b""})
    dirty.volume.abort()
    with fresh.gate("open") as gate:
        reconnect = Task(dirty.volume.reconnect, fresh)
        gate.wait_entered()
        sync = Task(file.fsync)
        sync.waits()
        gate.open()
        reconnect.result()
    with contextlib.suppress(OSError):  # it came too early
        sync.result()
    file.fsync()
    assert fresh.committed(KEY) == DATA


def test_an_unclosed_handle_warns_and_saves(make: Make) -> None:
    """ResourceWarning from the collector; its bytes are written by the cache. [2.21]"""
    rig = make({KEY: b""})
    handles = [rig.volume.open(KEY, "r+b")]
    handles[0].pwrite(DATA, 0)
    with pytest.warns(ResourceWarning) as seen:
        forget(handles, seen)
    rig.volume.sync(20)
    assert rig.backend.committed(KEY) == DATA


def forget(things: list[Any], seen: pytest.WarningsRecorder) -> None:
    """Drop the last references, and collect until the warning comes."""
    things.clear()
    eventually(lambda: gc.collect() >= 0 and any(issubclass(found.category, ResourceWarning) for found in seen.list))
