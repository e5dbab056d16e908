"""A rename that may have been carried out, and failed for its caller. It stays open until a call for one of its names
has looked at the store; later bytes are stored under the name that the object has there. [2.14, 2.20]
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pagecache import CachedFile, Volume

from ..stores import ObjectBackend, RecordingBackend
from .rig import KEY, ONCE, PAGE, Rig, Task, eventually, make_rig, overlay, pattern

Make = Callable[..., Rig]
DATA = pattern(3 * PAGE)
OTHER = pattern(2 * PAGE, seed=1)
MINE = b"mine" * (PAGE // 4)
SAVED = overlay(DATA, PAGE, MINE)
NEW = "moved"
LOST = OSError(errno.ECONNRESET, "no answer")


@pytest.fixture
def backend() -> ObjectBackend:
    return ObjectBackend({KEY: DATA})


def opened(rig: Rig) -> CachedFile:
    """A handle that has read a page, in a volume that does not retry."""
    file = rig.open("r+b")
    file.pread(PAGE, 0)
    return file


def lose_a_rename(rig: Rig, backend: RecordingBackend, *, landed: bool = True) -> None:
    backend.fault("rename answer" if landed else "rename", LOST)
    with pytest.raises(OSError, match="no answer"):
        rig.volume.rename(KEY, NEW)


def fail_to_open(volume: Volume) -> None:
    with pytest.raises(FileNotFoundError):
        volume.open(KEY, "rb")


def fail_to_remove(volume: Volume) -> None:
    with pytest.raises(FileNotFoundError):
        volume.remove(KEY)


CALLS: list[Callable[[Volume], object]] = [
    fail_to_open,
    fail_to_remove,
    lambda volume: volume.open(NEW, "rb").close(),
    lambda volume: volume.stat(NEW),
    lambda volume: volume.exists(KEY),
    lambda volume: volume.rename(KEY, NEW),
]
IDS = ["open old", "remove old", "open new", "stat new", "exists old", "rename again"]


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_a_call_for_either_name_settles_a_rename_that_was_carried_out(
    make: Make, backend: ObjectBackend, call: Callable[[Volume], object]
) -> None:
    rig = make(backend=backend, retry=ONCE)
    file = opened(rig)
    lose_a_rename(rig, backend)
    call(rig.volume)
    file.pwrite(MINE, PAGE)
    file.fsync()
    assert (backend.committed(KEY), backend.committed(NEW)) == (None, SAVED)


def test_a_call_that_waited_for_the_names_settles_it_too(make: Make, backend: ObjectBackend) -> None:
    """It began before the rename has failed."""
    rig = make(backend=backend, retry=ONCE)
    file = opened(rig)
    gate = backend.gate("rename answer")
    backend.fault("rename answer", LOST)
    renaming = Task(rig.volume.rename, KEY, NEW)
    gate.wait_entered()
    opening, again = Task(rig.volume.open, KEY, "rb"), Task(rig.volume.rename, KEY, "third")
    eventually(lambda: [wait.what for wait in rig.cache.waits()].count("the name") == 2)
    gate.open()
    for task in (renaming, opening, again):
        with pytest.raises(OSError):
            task.result()
    file.pwrite(MINE, PAGE)
    file.fsync()
    assert (backend.committed(KEY), backend.committed(NEW)) == (None, SAVED)


def test_a_rename_that_waited_for_the_names_moves_the_object_that_has_got_its_name(
    make: Make, backend: ObjectBackend
) -> None:
    """It has found the object that had the name before."""
    backend.put(NEW, OTHER)
    rig = make(backend=backend, retry=ONCE)
    file, replaced = opened(rig), rig.open("r+b", key=NEW)
    gate = backend.gate("rename answer")
    backend.fault("rename answer", LOST)
    renaming = Task(rig.volume.rename, KEY, NEW)
    gate.wait_entered()
    again = Task(rig.volume.rename, NEW, "third")
    eventually(lambda: [wait.what for wait in rig.cache.waits()].count("the name") == 1)
    gate.open()
    with pytest.raises(OSError, match="no answer"):
        renaming.result()
    again.result()
    replaced.pwrite(MINE, 0)
    replaced.fsync()
    file.pwrite(MINE, PAGE)
    file.fsync()
    assert (backend.committed(NEW), backend.committed("third")) == (None, SAVED)


@pytest.mark.parametrize("store", [ObjectBackend, RecordingBackend])
def test_a_rename_of_a_missing_object_leaves_the_name_of_one_that_is_written_later(
    store: type[RecordingBackend],
) -> None:
    """Its stored version is another one than at the rename, by this cache's own commit."""
    rig = make_rig(backend=store({NEW: OTHER}), retry=ONCE)
    with rig.volume.open(NEW, "r+b") as file:
        lose_a_rename(rig, rig.backend, landed=False)
        file.pwrite(MINE, 0)
        file.fsync()
        fail_to_open(rig.volume)
        file.pwrite(MINE, PAGE)
    rig.volume.sync()
    assert rig.backend.committed(NEW) == 2 * MINE
    rig.cache.close()


@pytest.mark.parametrize("fenced", [False, True])
def test_a_reconnect_settles_it_before_it_opens_files(fenced: bool) -> None:
    """Opening the file by its old name would make an object there. [2.22]"""
    old = RecordingBackend({KEY: DATA})
    rig = make_rig(backend=old, retry=ONCE)
    file = opened(rig)
    file.pwrite(MINE, PAGE)
    lose_a_rename(rig, old)
    rig.volume.abort()
    fresh = old.successor(lose=False, shared=not fenced)
    rig.volume.reconnect(fresh, fenced=fenced)
    file.fsync()
    with fresh.lock:
        assert {key: bytes(entry.written) for key, entry in fresh.objects.items()} == {NEW: SAVED}
    rig.finish()


def test_a_reconnect_does_not_depend_on_a_file_of_an_ended_backend(make: Make, backend: ObjectBackend) -> None:
    """Another object has the old name meanwhile, so that file is asked whether it has moved. [2.20, 2.22]"""
    rig = make(backend=backend, retry=ONCE)
    file = opened(rig)
    lose_a_rename(rig, backend, landed=False)
    backend.put(KEY, OTHER)
    rig.volume.abort()
    ended = backend.fault("file_stat", OSError(errno.ECONNRESET, "the store is gone"))
    rig.volume.reconnect(backend)
    assert ended.nr_hit == 1
    assert file.pread(PAGE, 0) == DATA[:PAGE]
    with rig.volume.open(KEY, "rb") as other:
        assert other.pread(PAGE, 0) == OTHER[:PAGE]
