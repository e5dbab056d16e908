"""An open that has found the file when its last writer abandons it: it gets the file after the rollback. [2.20]"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pagecache import CachedFile, ConflictError, PageCache
from pagecache.backends.directory import DirectoryBackend
from pagecache.native import STAMP_MAX
from pagecache.options import OpenMode
from pagecache.testing import Gate
from pagecache.volume.opening import open_again

from ..stores import WAIT_LIMIT_S, ObjectBackend
from .rig import KEY, ONCE, PAGE, QUIET, Rig, Task, eventually, pattern

Make = Callable[..., Rig]
DATA = pattern(3 * PAGE)
GOOD = b"good" + DATA[4:]


@pytest.mark.parametrize("whole", [False, True])
def test_an_open_beside_an_abandon_gets_what_is_stored(make: Make, whole: bool) -> None:
    """It reads no byte that was given up, and its own writes are saved. [2.20]"""
    rig = make(backend=ObjectBackend({KEY: DATA})) if whole else make({KEY: DATA})
    file = rig.open()
    file.pwrite(b"bad!", 0)
    gate = rig.backend.gate("stat")
    opening = Task(rig.open)
    gate.wait_entered()
    Task(file.abandon).result()
    gate.open()
    opened = opening.result()
    assert opened.pread(len(DATA), 0) == DATA
    opened.pwrite(b"good", 0)
    opened.fsync()
    assert rig.backend.committed(KEY) == GOOD
    rig.cache.check()


def test_an_open_beside_an_abandon_waits_for_the_rollback(make: Make) -> None:
    """No earlier call of the file may follow a write of the new handle. [2.20]"""
    backend = ObjectBackend({KEY: DATA})
    rig = make(backend=backend)
    file = rig.open()
    file.pwrite(b"bad!", 0)
    looked, rolling = backend.gate("stat", KEY), backend.gate("rollback")
    opening, other = Task(rig.open), Task(rig.volume.exists, "other")
    looked.wait_entered()
    file.abandon()
    rolling.wait_entered()
    looked.open()
    assert opening.waits()
    other.result()
    rolling.open()
    assert opening.result().pread(len(DATA), 0) == DATA
    assert not rig.volume.busy._busy


def test_a_writer_that_came_first_keeps_what_another_one_abandons(make: Make) -> None:
    """The abandoning handle is not the last. [2.20]"""
    rig = make({KEY: DATA})
    file = rig.open()
    opened = rig.open()
    file.pwrite(b"good", 0)
    file.abandon()
    opened.fsync()
    assert rig.backend.committed(KEY) == GOOD


def hold(file: CachedFile) -> Gate:
    """Hold the token of a file with work of its volume, before any other."""
    gate = Gate()
    file._inode.engine.settle(lambda: gate.enter(WAIT_LIMIT_S))
    gate.wait_entered()
    return gate


@pytest.mark.parametrize("mode", ["rb", "r+b", "wb"])
@pytest.mark.parametrize("name", ["file", "link"])
def test_an_open_by_any_name_waits_for_an_abandoned_file(tmp_path: Path, name: str, mode: OpenMode) -> None:
    """The object has one file, and nothing of the abandoned handle is in it. [2.20, I-31]"""
    (tmp_path / KEY).write_bytes(DATA)
    os.link(tmp_path / KEY, tmp_path / "link")
    with PageCache("1MiB", **QUIET) as cache:
        volume = cache.attach(DirectoryBackend(tmp_path), read_ahead=0)
        file = volume.open(KEY, "r+b")
        inode = file._inode
        gate = hold(file)
        file.pwrite(b"bad!", 0)
        file.abandon()
        cache.check()
        assert volume.unsaved() == []
        opening = Task(volume.open, name, mode)
        assert opening.waits()
        gate.release()
        with opening.result() as again:
            assert again._inode is inode
            assert list(volume.inodes.objects.values()) == [inode]
            if mode != "wb":
                assert again.read() == DATA
        assert (tmp_path / KEY).read_bytes() == (b"" if mode == "wb" else DATA)
        cache.check()


def test_a_handle_is_opened_again_after_the_rollback_of_its_file(make: Make) -> None:
    """Nothing that it writes is given up with the earlier bytes. [2.20]"""
    rig = make(backend=ObjectBackend({KEY: DATA}))
    file, reader = rig.open(), rig.open("rb")
    gate = hold(file)
    file.pwrite(b"bad!", 0)
    file.abandon()
    opening = Task(open_again, reader, os.O_RDWR)
    assert opening.waits()
    gate.release()
    again = opening.result()
    assert again is not None
    with again:
        again.pwrite(b"good", 0)
    assert rig.backend.committed(KEY) == GOOD


def test_an_open_of_an_abandoned_file_ends_at_its_deadline(make: Make) -> None:
    """The name is free then, and the file goes back all the same. [2.20]"""
    rig = make(backend=ObjectBackend({KEY: DATA}))
    file = rig.open()
    gate = hold(file)
    file.pwrite(b"bad!", 0)
    file.abandon()
    with pytest.raises(TimeoutError):
        rig.open(timeout=0.05)
    gate.release()
    assert rig.open().pread(len(DATA), 0) == DATA


@pytest.mark.parametrize("whole", [False, True])
def test_calls_by_name_see_nothing_that_was_abandoned(make: Make, whole: bool) -> None:
    """They see what is stored, also before the file has gone back. [2.20]"""
    rig = make(backend=ObjectBackend({KEY: DATA})) if whole else make({KEY: DATA})
    file, volume = rig.open(), rig.volume
    gate = hold(file)
    file.pwrite(b"late", 5 * PAGE)
    file.abandon()
    assert [volume.stat(KEY).size, *(found.size for found in volume.list())] == [len(DATA)] * 2
    assert [volume.unsaved(), volume.unsaved(KEY), volume.dirty_ranges(KEY), volume.failed()] == [[]] * 4
    volume.sync(20)
    gate.release()
    with volume.open(KEY) as again:
        assert again.read() == DATA


def test_an_object_that_was_never_stored_is_gone_once_it_is_abandoned(make: Make) -> None:
    """No call finds it, before or after its rollback. [2.20]"""
    rig = make(backend=ObjectBackend({KEY: DATA}))
    file = rig.open("wb", key="new")
    gate = hold(file)
    file.pwrite(b"bad!", 0)
    file.abandon()
    assert not rig.volume.exists("new")
    calls = Task(rig.open, "rb", key="new"), Task(rig.volume.remove, "new")
    assert all(call.waits() for call in calls)
    gate.release()
    for call in calls:
        with pytest.raises(FileNotFoundError):
            call.result()
    with rig.volume.open("new", "xb") as again:
        again.pwrite(b"good", 0)
    assert rig.backend.committed("new") == b"good"
    rig.cache.check()


@pytest.mark.parametrize("reading", [False, True])
def test_an_object_whose_rollback_fails_is_opened_anew(make: Make, reading: bool) -> None:
    """No later handle uses the file of the backend that may have its bytes; an earlier handle reads none. [2.20]"""
    backend = ObjectBackend({KEY: DATA})
    rig = make(backend=backend, retry=ONCE)
    file = rig.open()
    reader = rig.open("rb") if reading else None
    file.pwrite(b"bad!", 0)
    file._native.flush_start(STAMP_MAX)
    eventually(lambda: backend.seen("write_from"))
    backend.fault("rollback", OSError(errno.EACCES, "no"))
    file.abandon()
    again = rig.open()
    assert again.pread(len(DATA), 0) == DATA
    again.pwrite(b"good", 0)
    again.fsync()
    assert backend.committed(KEY) == GOOD
    if reader is not None:
        with pytest.raises(ConflictError):
            reader.read()
        reader.close()
    eventually(lambda: not rig.volume.orphans)
    rig.cache.check()


def test_a_store_that_is_down_fails_the_open_of_an_abandoned_object(make: Make) -> None:
    """Nor does a later one read a byte that was given up. [2.20]"""
    backend = ObjectBackend({KEY: DATA})
    rig = make(backend=backend, retry=ONCE)
    file = rig.open()
    file.pwrite(b"bad!", 0)
    file._native.flush_start(STAMP_MAX)
    eventually(lambda: backend.seen("write_from"))
    for op in ("rollback", "open"):
        backend.fault(op, OSError(errno.ECONNREFUSED, "down"))
    file.abandon()
    with pytest.raises(ConnectionRefusedError):
        rig.open()
    assert rig.open().pread(len(DATA), 0) == DATA


def test_a_foreign_version_below_abandoned_bytes_is_not_mixed_with_the_opened_one(make: Make) -> None:
    """The file goes back to the version that it was opened with; the next open finds the other one. [2.19, 2.20]"""
    backend = ObjectBackend({KEY: DATA})
    rig = make(backend=backend)
    file, reader = rig.open(), rig.open("rb")
    assert reader.pread(10, 0) == DATA[:10]
    file.pwrite(b"bad!", 0)
    file._native.flush_start(STAMP_MAX)
    eventually(lambda: backend.seen("write_from"))
    backend.change_remotely(KEY, b"theirs")
    file.abandon()
    again = rig.open()
    with pytest.raises(ConflictError):
        reader.pread(10, 2 * PAGE)
    assert again.read() == b"theirs"
    again.pwrite(b"good", 0)
    again.fsync()
    assert backend.committed(KEY) == b"goodrs"


@pytest.mark.parametrize("whole", [False, True])
def test_an_abandon_ends_a_conflict(make: Make, whole: bool) -> None:
    """No local byte is left that could be in one. [2.19, 2.20]"""
    rig = make(backend=ObjectBackend({KEY: DATA})) if whole else make({KEY: DATA})
    file = rig.open()
    file.pwrite(b"bad!", 0)
    rig.backend.change_remotely(KEY, b"theirs")
    with pytest.raises(ConflictError):
        rig.open()
    file.abandon()
    with rig.volume.open(KEY, "r+b") as again:
        assert again.read() == b"theirs"
        again.pwrite(b"good", 0)
    rig.volume.sync(20)
    assert rig.backend.committed(KEY) == b"goodrs"


def test_acknowledged_bytes_of_closed_handles_are_durable_after_an_abandon_and_a_sync(make: Make) -> None:
    """The store has them already, and they cannot be taken back. [2.15, 2.20]"""
    rig = make({KEY: DATA})
    rig.open().pwrite(b"good", 0)
    rig.handles[0].close()
    late = rig.open()
    late.pwrite(b"bad!", PAGE)
    late.abandon()
    with rig.volume.open(KEY) as again:
        assert again.read() == GOOD
    rig.volume.sync(20)
    assert rig.backend.committed(KEY) == GOOD


def test_an_fsync_beside_the_rollback_of_an_abandoned_object_publishes_nothing(make: Make) -> None:
    """It has nothing to wait for afterwards. [2.20]"""
    backend = ObjectBackend({KEY: DATA})
    rig = make(backend=backend)
    file, reader = rig.open(), rig.open("rb")
    file.pwrite(b"bad!", 0)
    file._native.flush_start(STAMP_MAX)
    eventually(lambda: backend.seen("write_from"))
    gate = hold(file)
    file.abandon()
    saving = Task(reader.fsync)
    assert saving.waits()
    gate.release()
    saving.result()
    assert backend.committed(KEY) == DATA
    assert reader.read() == DATA


@pytest.mark.parametrize("whole", [False, True])
def test_an_abandoned_file_is_opened_anew_after_a_reconnect(make: Make, whole: bool) -> None:
    """Nothing of it is sent to the new backend. [2.20, 2.22]"""
    rig = make(backend=ObjectBackend({KEY: DATA})) if whole else make({KEY: DATA})
    file = rig.open()
    gate = hold(file)
    file.pwrite(b"bad!", 0)
    rig.volume.abort()
    file.abandon()
    gate.release()
    rig.volume.reconnect(rig.backend)
    again = rig.open()
    assert again.read() == DATA
    again.pwrite(b"good", 0)
    again.fsync()
    assert rig.backend.committed(KEY) == GOOD
    rig.cache.check()


def test_a_cache_that_closes_beside_an_abandoned_file_saves_the_creation_of_the_object(make: Make) -> None:
    """It waits until the file has gone back: the empty object is there, and is durable. [2.20, 2.22]"""
    rig = make({})
    file = rig.open("wb", key="new")
    gate = hold(file)
    file.pwrite(b"bad!", 0)
    file.abandon()
    closing = Task(rig.cache.close)
    assert closing.waits()
    gate.release()
    assert closing.result() == []
    assert rig.backend.committed("new") == b""
