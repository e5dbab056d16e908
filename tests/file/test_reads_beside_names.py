"""Reads of an object beside the remove or rename of its name, in a store that refuses reads of versions that it does
not have under that name. [2.20]
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import ShutdownError
from pagecache.backends.protocol import ObjectStat
from pagecache.errors import Key

from ..stores import ObjectBackend, ObjectFile, stale
from .rig import FAST, KEY, ONCE, PAGE, Make, Rig, Task, at_gate, eventually, pattern, raises, wait_for

DATA = pattern(3 * PAGE)
NAMES = "the call that changes the name of the object"


class RefusingFile(ObjectFile):
    """It has no status once its object has lost the name."""

    def stat(self) -> ObjectStat:
        if self.stored.committed is not None and self.objects.committed_object(self.key) is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self.key))
        return super().stat()


class Refusing(ObjectBackend):
    """An open file finds its object by the name that it was opened by."""

    def version(self, key: Key) -> str | None:
        return super().version(key) or "gone"

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> ObjectFile:
        return RefusingFile(self, key, super().open(key, create=create, exclusive=exclusive).stored)

    def stat(self, key: Key) -> ObjectStat:
        found = super().stat(key)
        return ObjectStat(size=found.size, version=super().version(key))


@pytest.fixture(params=["fail", "take_remote"])
def store(request: pytest.FixtureRequest, make: Make) -> Rig:
    """A volume on an object store."""
    return make(backend=Refusing({KEY: DATA}, max_write=PAGE), retry=ONCE, options={"on_conflict": request.param})


def refused(read: Callable[[], Any], code: int) -> None:
    assert raises(OSError, read).errno == code


@pytest.mark.parametrize("dirty", [False, True])
def test_a_read_beside_a_remove_is_no_conflict(store: Rig, dirty: bool) -> None:
    """It waits for the remove, and finds nothing afterwards, whatever has the name then. [2.20, I-24]"""
    file = store.open("r+b" if dirty else "rb", read_ahead=0)
    if dirty:
        file.pwrite(b"local", 0)
    gate, removing = at_gate(store.backend.gate("remove answer"), store.volume.remove, KEY)
    reading = Task(file.pread, 10, PAGE)
    wait_for(store.cache, NAMES)
    removing.result(opening=gate)
    refused(reading.result, errno.ENOENT)
    refused(lambda: file.pread(10, PAGE), errno.ENOENT)
    with store.open("xb") as other:
        other.pwrite(b"new object" * PAGE, 0)
    refused(lambda: file.pread(10, PAGE), errno.ENOENT)
    if dirty:
        assert file.pread(5, 0) == b"local"
    file.close()
    assert store.backend.committed(KEY) == b"new object" * PAGE
    assert not store.volume.unsaved()


@pytest.mark.parametrize("dirty", [False, True])
def test_a_read_beside_a_rename_is_no_conflict(store: Rig, dirty: bool) -> None:
    """It waits for the rename, and continues with the object under its new name. [2.20]"""
    file = store.open("r+b" if dirty else "rb", read_ahead=0)
    if dirty:
        file.pwrite(b"local", 0)
    gate, renaming = at_gate(store.backend.gate("rename answer"), store.volume.rename, KEY, "new")
    reading = Task(file.pread, 10, PAGE)
    wait_for(store.cache, NAMES)
    renaming.result(opening=gate)
    assert reading.result() == DATA[PAGE : PAGE + 10]
    assert file.pread(10, PAGE) == DATA[PAGE : PAGE + 10]
    file.close()
    assert store.backend.committed("new") == (b"local" + DATA[5:] if dirty else DATA)


def test_a_read_that_waits_for_a_rename_that_fails_reads_the_object(store: Rig) -> None:
    """The rename was refused after all: the object has its name. [2.20]"""
    file = store.open("rb", read_ahead=0)
    store.backend.fault("rename", PermissionError(errno.EACCES, "refused"))
    store.backend.fault("read_into", stale(), times=1)
    gate, renaming = at_gate(store.backend.gate("rename"), store.volume.rename, KEY, "new")
    reading = Task(file.pread, 10, PAGE)
    wait_for(store.cache, NAMES)
    gate.open()
    refused(renaming.result, errno.EACCES)
    assert reading.result() == DATA[PAGE : PAGE + 10]


def test_an_abort_ends_a_read_that_waits_for_a_remove(store: Rig) -> None:
    """As it ends all other waits. [2.22, I-23]"""
    file = store.open("rb", read_ahead=0)
    _gate, removing = at_gate(store.backend.gate("remove answer"), store.volume.remove, KEY)
    reading = Task(file.pread, 10, PAGE)
    wait_for(store.cache, NAMES)
    store.volume.abort()
    for task in (reading, removing):
        raises(ShutdownError, task.result)


def test_readahead_beside_a_rename_gives_up(store: Rig) -> None:
    """It waits for nothing, and reports nothing; the read itself finds its bytes. [2.6, 2.20]"""
    file = store.open("rb", read_ahead=2 * PAGE)
    gate, renaming = at_gate(store.backend.gate("rename answer"), store.volume.rename, KEY, "new")
    file.prefetch(0, 3 * PAGE)
    eventually(lambda: len(store.backend.seen("read_into")) and not store.volume.engine.native.inflight())
    assert not store.cache.waits() or all(wait.what != NAMES for wait in store.cache.waits())
    renaming.result(opening=gate)
    assert file.pread(10, PAGE) == DATA[PAGE : PAGE + 10]


def test_a_rename_opens_the_file_by_its_new_name_after_a_transient_error(make: Make) -> None:
    """The rename was carried out: its handles continue, and their bytes are saved under the new name. [2.14, 2.20]"""
    store, file = make(backend=ObjectBackend({KEY: DATA}), retry=FAST).opened("r+b")
    file.pwrite(b"local", 0)
    store.backend.fault("open", OSError(errno.EIO, "once"), key="new")
    store.volume.rename(KEY, "new")
    file.fsync()
    assert file.pread(10, PAGE) == DATA[PAGE : PAGE + 10]
    file.close()
    assert store.backend.committed("new") == b"local" + DATA[5:]
    assert not store.volume.unsaved()
