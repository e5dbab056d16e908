"""Saves of an object of an object store beside the remove of its name, or a rename over it. [2.20]"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import CachedFile, ShutdownError

from ..stores import ObjectBackend
from .rig import KEY, ONCE, PAGE, Make, Rig, Task, at_gate, pattern, raises, stored, wait_for

DATA = pattern(3 * PAGE)

SAVES: dict[str, Callable[[Rig, CachedFile], Any]] = {
    "fsync": lambda _store, file: file.fsync(),
    "close": lambda _store, file: file.close(),
    "sync": lambda store, _file: store.volume.sync(),
}


@pytest.fixture
def store(make: Make) -> Rig:
    """A volume on an object store."""
    return make(backend=ObjectBackend({KEY: DATA}, max_write=PAGE), retry=ONCE)


@pytest.mark.parametrize(("key", "change"), [(KEY, "remove"), ("new", "remove"), (KEY, "rename over")])
@pytest.mark.parametrize("op", ["write_from", "commit"])
@pytest.mark.parametrize("save", SAVES)
def test_a_save_ends_when_its_object_loses_the_name(store: Rig, save: str, op: str, key: str, change: str) -> None:
    """Nothing publishes bytes after the change, which waits for those in flight. [2.20, I-23]"""
    stored(store.volume, "other", b"new", "xb")
    file = store.open("r+b" if key == KEY else "xb", key)
    file.pwrite(DATA[::-1], 0)
    gate, saving = at_gate(store.backend.gate(op, key), SAVES[save], store, file)
    changing = Task(store.volume.remove, key) if change == "remove" else Task(store.volume.rename, "other", key)
    wait_for(store.cache, "the file's token")
    assert changing.waits()
    assert store.backend.seen("remove") == store.backend.seen("rename") == []
    changing.result(opening=gate)
    saving.result()
    file.close()
    store.volume.sync(20)
    assert len(store.backend.seen("commit", key)) == (op == "commit")
    assert store.backend.committed(key) == (None if change == "remove" else b"new")
    assert store.volume.exists(key) == (change != "remove")


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("save", SAVES)
def test_no_commit_begins_beside_a_remove(store: Rig, save: str, refused: bool) -> None:
    """A save waits for the remove; it commits if the remove has failed. [2.20]"""
    file = store.open("r+b")
    file.pwrite(DATA[::-1], 0)
    gate = store.backend.gate("remove")
    if refused:
        store.backend.fault("remove", PermissionError(errno.EACCES, "refused"))
    _, removing = at_gate(gate, store.volume.remove, KEY)
    saving = Task(SAVES[save], store, file)
    assert saving.waits()
    assert store.backend.seen("commit") == []
    gate.open()
    if refused:
        raises(PermissionError, removing.result)
        saving.result()
        assert store.backend.committed(KEY) == DATA[::-1]
    else:
        removing.result()
        saving.result()
        assert store.backend.committed(KEY) is None


def test_no_commit_begins_between_two_tries_of_a_remove(make: Make) -> None:
    """The first try may have been carried out, so a commit would make another object of the name. [2.14, 2.20]"""
    store, file = make(backend=ObjectBackend({KEY: DATA})).opened("r+b")
    file.pwrite(b"x", 0)

    store.backend.fault("remove", ConnectionResetError(errno.ECONNRESET, "the answer is lost"))
    gate, removing = at_gate(store.backend.gate("remove"), store.volume.remove, KEY)
    saving = Task(file.fsync)
    assert saving.waits()
    removing.result(opening=gate)
    saving.result()
    assert store.backend.seen("commit") == []
    assert store.backend.committed(KEY) is None


def test_a_remove_beside_a_hanging_commit_ends_by_its_deadline(store: Rig) -> None:
    """The backend is not called then; a later remove works. [2.20, K9]"""
    file = store.open("r+b")
    file.pwrite(b"x", 0)
    gate, saving = at_gate(store.backend.gate("commit"), file.fsync)
    raises(TimeoutError, store.volume.remove, KEY, timeout=0.05, match="remove")
    saving.result(opening=gate)
    file.pwrite(b"y", 0)
    file.fsync()
    assert store.backend.committed(KEY) == b"y" + DATA[1:]
    assert store.backend.seen("remove") == []
    store.volume.remove(KEY)
    assert store.backend.committed(KEY) is None


def test_an_abort_ends_a_remove_that_waits_for_a_commit(store: Rig) -> None:
    """With a fence, the names of the new backend do not wait for the hanging call. [2.22, K9]"""
    file = store.open("r+b")
    file.pwrite(b"x", 0)
    gate, saving = at_gate(store.backend.gate("commit"), file.fsync)
    removing = Task(store.volume.remove, KEY)
    wait_for(store.cache, "the file's token")
    store.volume.abort()
    for task in (saving, removing):
        raises(ShutdownError, task.result)
    after = ObjectBackend({KEY: DATA})
    store.volume.reconnect(after, fenced=True)
    store.volume.remove(KEY)
    assert after.committed(KEY) is None
    gate.open()
