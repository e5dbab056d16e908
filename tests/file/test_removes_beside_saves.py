"""Saves of an object of an object store beside the remove of its name, or a rename over it. [2.20]"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import CachedFile, ShutdownError

from ..stores import ObjectBackend
from .rig import KEY, ONCE, PAGE, Rig, Task, eventually, pattern

Make = Callable[..., Rig]
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


def wait_for(store: Rig, what: str) -> None:
    """Wait until a thread waits for this."""
    eventually(lambda: any(wait.what == what for wait in store.cache.waits()))


@pytest.mark.parametrize("key", [KEY, "new"])
@pytest.mark.parametrize("save", SAVES)
def test_a_save_ends_when_the_name_is_removed(store: Rig, save: str, key: str) -> None:
    """The remove waits for the bytes in flight; afterwards nothing publishes them. [2.20, I-23]"""
    file = store.open("r+b" if key == KEY else "xb", key)
    file.pwrite(DATA[::-1], 0)
    gate = store.backend.gate("write_from")
    saving = Task(SAVES[save], store, file)
    gate.wait_entered()
    removing = Task(store.volume.remove, key)
    wait_for(store, "the file's token")
    assert store.backend.seen("remove") == []
    gate.open()
    removing.result()
    saving.result()
    file.close()
    store.volume.sync(20)
    assert store.backend.seen("commit", key) == []
    assert store.backend.committed(key) is None


@pytest.mark.parametrize("save", SAVES)
def test_a_save_ends_when_an_object_is_renamed_over_it(store: Rig, save: str) -> None:
    """The rename waits for bytes in flight; afterwards the old object has no name to be published under.
    [2.20, I-23]
    """
    with store.volume.open("new", "xb") as new:
        new.pwrite(b"new", 0)
    file = store.open("r+b")
    file.pwrite(DATA[::-1], 0)
    gate = store.backend.gate("write_from", KEY)
    saving = Task(SAVES[save], store, file)
    gate.wait_entered()
    renaming = Task(store.volume.rename, "new", KEY)
    wait_for(store, "the file's token")
    gate.open()
    renaming.result()
    saving.result()
    file.close()
    assert store.backend.seen("commit", KEY) == []
    assert store.backend.committed(KEY) == b"new"


@pytest.mark.parametrize("key", [KEY, "new"])
@pytest.mark.parametrize("save", SAVES)
def test_an_object_that_is_removed_beside_its_commit_does_not_come_back(store: Rig, save: str, key: str) -> None:
    """The commit may store the object after any look at the store: the remove waits for it. [2.20]"""
    file = store.open("r+b" if key == KEY else "xb", key)
    file.pwrite(DATA[::-1], 0)
    gate = store.backend.gate("commit")
    saving = Task(SAVES[save], store, file)
    gate.wait_entered()
    removing = Task(store.volume.remove, key)
    wait_for(store, "the file's token")
    assert removing.waits()
    assert store.backend.seen("remove") == []
    gate.open()
    removing.result()
    saving.result()
    file.close()
    assert not store.volume.exists(key)
    assert store.backend.committed(key) is None


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("save", SAVES)
def test_no_commit_begins_beside_a_remove(store: Rig, save: str, refused: bool) -> None:
    """A save waits for the remove; it commits if the remove has failed. [2.20]"""
    file = store.open("r+b")
    file.pwrite(DATA[::-1], 0)
    gate = store.backend.gate("remove")
    if refused:
        store.backend.fault("remove", PermissionError(errno.EACCES, "refused"))
    removing = Task(store.volume.remove, KEY)
    gate.wait_entered()
    saving = Task(SAVES[save], store, file)
    assert saving.waits()
    assert store.backend.seen("commit") == []
    gate.open()
    if refused:
        with pytest.raises(PermissionError):
            removing.result()
        saving.result()
        assert store.backend.committed(KEY) == DATA[::-1]
    else:
        removing.result()
        saving.result()
        assert store.backend.committed(KEY) is None


def test_no_commit_begins_between_two_tries_of_a_remove(make: Make) -> None:
    """The first try may have been carried out, so a commit would make another object of the name. [2.14, 2.20]"""
    store = make(backend=ObjectBackend({KEY: DATA}))
    file = store.open("r+b")
    file.pwrite(b"x", 0)
    gate = store.backend.gate("remove")

    store.backend.fault("remove", ConnectionResetError(errno.ECONNRESET, "the answer is lost"))
    removing = Task(store.volume.remove, KEY)
    gate.wait_entered()
    saving = Task(file.fsync)
    assert saving.waits()
    gate.open()
    removing.result()
    saving.result()
    assert store.backend.seen("commit") == []
    assert store.backend.committed(KEY) is None


def test_a_remove_beside_a_hanging_commit_ends_by_its_deadline(store: Rig) -> None:
    """The backend is not called then; a later remove works. [2.20, K9]"""
    file = store.open("r+b")
    file.pwrite(b"x", 0)
    gate = store.backend.gate("commit")
    saving = Task(file.fsync)
    gate.wait_entered()
    with pytest.raises(TimeoutError, match="remove"):
        store.volume.remove(KEY, timeout=0.05)
    gate.open()
    saving.result()
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
    gate = store.backend.gate("commit")
    saving = Task(file.fsync)
    gate.wait_entered()
    removing = Task(store.volume.remove, KEY)
    wait_for(store, "the file's token")
    store.volume.abort()
    for task in (saving, removing):
        with pytest.raises(ShutdownError):
            task.result()
    after = ObjectBackend({KEY: DATA})
    store.volume.reconnect(after, fenced=True)
    store.volume.remove(KEY)
    assert after.committed(KEY) is None
    gate.open()
    file.close()
