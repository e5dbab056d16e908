"""Concurrent changes of names: busy keys, tokens of both files, last closes, abandoned files, saves.

Times are a part of the version of many stores: setting the times of a name changes the version of its object, and the
cache does not mistake that for a remote change. [2.19, 2.20]
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pagecache import PageCache
from pagecache.backends import DirectoryBackend
from pagecache.backends.protocol import ObjectStat
from pagecache.engine import volume as engine_volume
from pagecache.errors import Key

from ..stores import ObjectBackend, ObjectFile, PublishingBackend, RecordingBackend, stale
from .rig import KEY, ONCE, PAGE, SAVES, Make, Patch, Rig, Task, at_gate, eventually, held, pattern, raises, wait_for
from .test_interrupts import ctrl_c

DATA = pattern(3 * PAGE)


@pytest.mark.parametrize("verb", ["remove", "rename from", "rename to"])
def test_an_open_waits_for_its_key_while_names_change(make: Make, verb: str) -> None:
    """It sees the name before or after, never in between; other keys go on. [2.20]"""
    rig = make({"a": b"A", "b": b"B", "other": b"O"})
    gate = rig.backend.gate("remove" if verb == "remove" else "rename")
    change = Task(rig.volume.remove, "a") if verb == "remove" else Task(rig.volume.rename, "a", "b")
    gate.wait_entered()
    opening = Task(rig.volume.open, "b" if verb == "rename to" else "a")
    assert opening.waits()
    assert rig.content("other")[:1] == b"O"
    change.result(opening=gate)
    if verb == "rename to":
        with opening.result() as file:
            assert file.pread(1, 0) == b"A"
    else:
        raises(FileNotFoundError, opening.result)


@pytest.mark.parametrize("whole", [False, True], ids=["in place", "whole objects"])
def test_nothing_is_handed_over_while_a_rename_runs(make: Make, whole: bool) -> None:
    """Write-back, fsync and truncate wait for the token, and end under the new name. [2.20]"""
    kind = ObjectBackend if whole else RecordingBackend
    rig, file = make(backend=kind({KEY: pattern(PAGE)})).written(DATA, 0)
    gate, renaming = at_gate(rig.backend.gate("rename"), rig.volume.rename, KEY, "moved")
    syncing, cutting = Task(file.fsync), Task(file.truncate, 100)
    assert syncing.waits()
    assert cutting.waits()
    assert rig.backend.seen("write_from") == rig.backend.seen("truncate") == []
    gate.open()
    for task in (renaming, syncing, cutting):
        task.result()
    assert rig.saved(file, "moved") == DATA[:100]
    raises(FileNotFoundError, rig.volume.open, KEY)


@pytest.fixture
def store(make: Make) -> Rig:
    return make(backend=ObjectBackend({KEY: DATA}, max_write=PAGE), retry=ONCE)


def test_a_created_object_is_there_for_this_cache_before_it_is_committed(store: Rig) -> None:
    """It is there for open, stat and exists of this cache; not in list, and not for other clients. [2.20]"""
    file = store.dirtied(b"12345", 0, "xb", key="new")
    assert store.volume.exists("new")
    assert store.volume.stat("new").size == 5
    assert store.content("new")[:10] == b"12345"
    assert [stat.key for stat in store.volume.list()] == [KEY]
    file.close()
    assert store.backend.committed("new") == b"12345"
    assert [stat.key for stat in store.volume.list()] == [KEY, "new"]


def test_unused_files_are_closed_by_the_volume_and_no_call_waits_for_that(make: Make, monkeypatch: Patch) -> None:
    """A backend whose close hangs delays no open and no close. [2.20, T-62]"""
    monkeypatch.setattr(engine_volume, "IDLE_FILES_MAX", 64)
    rig = make({f"f{k}": DATA for k in range(100)})
    gate = rig.backend.gate("file_close", times=3)

    def use() -> None:
        for k in range(100):
            rig.volume.open(f"f{k}").close()

    Task(use).result()
    gate.wait_entered()
    gate.open()
    eventually(lambda: len(rig.backend.seen("file_close")) >= 36)
    assert rig.content("f0")[:10] == DATA[:10]


@pytest.mark.parametrize(("error", "replace"), [(PermissionError, True), (FileExistsError, False)])
def test_a_refused_rename_changes_nothing(make: Make, error: type[OSError], replace: bool) -> None:
    """By the store, or since the new name is taken: both names lead to their previous files. [2.20]"""
    rig, file = make({"a": b"A", "b": b"B"}).written(b"dirty", 0, key="a")
    if replace:
        rig.backend.fault("rename", OSError(errno.EACCES, "no"))
    raises(error, rig.volume.rename, "a", "b", replace=replace)
    assert rig.saved(file, "a") == b"dirty"
    assert rig.backend.committed("b") == b"B"


@pytest.mark.parametrize("known", [False, True], ids=["not cached", "cached"])
@pytest.mark.parametrize("whole", [False, True], ids=["in place", "whole objects"])
def test_the_objects_below_the_name_of_a_renamed_object_keep_theirs(make: Make, whole: bool, known: bool) -> None:
    """A store without directories can have "a" and "a/b". [2.20, I-24]"""
    kind = ObjectBackend if whole else RecordingBackend
    rig = make(backend=kind({"a": b"A", "a/b": b"below a", "c/b": b"below c"}))
    if known:
        rig.volume.open("a").close()
    with rig.open("r+b", key="a/b") as file:
        file.pwrite(b"B", 0)
        rig.volume.rename("a", "c")
        assert rig.content("c/b")[:10] == b"below c"
        assert rig.content("a/b")[:10] == b"Below a"
        file.fsync()
    assert rig.content("c")[:10] == b"A"


def test_an_object_that_is_renamed_before_its_first_commit_is_no_directory() -> None:
    """The store has no record of its name. [2.20]"""
    with PageCache("1MiB") as cache:
        volume = cache.attach(PublishingBackend())
        with volume.open("a/b", "wb") as stored:
            stored.write(b"below a")
        with volume.open("a", "wb") as created, volume.open("a/b", "r+b") as below:
            created.pwrite(b"A", 0)
            below.pwrite(b"B", 0)
            volume.rename("a", "c")
            assert not volume.exists("c/b")
            assert volume.stat("a/b").dirty
        assert [(each.key, each.size) for each in volume.list()] == [("a/b", 7), ("c", 1)]


@pytest.mark.parametrize("kind", [RecordingBackend, ObjectBackend])
@pytest.mark.parametrize("size", [1, 3 * PAGE])
def test_a_commit_after_a_page_of_a_listing_shows_its_size(make: Make, kind: type[RecordingBackend], size: int) -> None:
    """Before the listing begins, while the backend lists, and before the entry is returned. [2.20]"""
    rig = make(backend=kind({"a": b"a", "b": pattern(2 * PAGE), "c": b"c"}))

    def save(size: int) -> None:
        file.truncate(size)
        file.pwrite(b"x", size - 1)
        file.fsync()

    def looks() -> int:
        return len(rig.backend.seen("stat")) + len(rig.backend.seen("file_stat"))

    with rig.volume.open("b", "r+b") as file:
        save(size + 5)
        before = looks()
        assert [stat.size for stat in rig.volume.list()] == [1, size + 5, 1]
        assert looks() == before
        with rig.backend.gate("list answer") as gate:
            listing = Task(lambda: list(rig.volume.list()))
            gate.wait_entered()
            save(size + 3)
            gate.open()
            assert [stat.size for stat in listing.result()] == [1, size + 3, 1]
        entries = rig.volume.list()
        assert next(entries).key == "a"
        before = looks()
        save(size)
        found = next(entries)
        assert (found.key, found.size, found.dirty) == ("b", size, 0)
        assert found.version == rig.volume.stat("b").version
        assert next(entries).size == 1
        assert looks() - before <= 3  # one of them is the commit's


def test_an_object_that_is_removed_after_its_commit_beside_a_listing_is_not_listed(make: Make) -> None:
    """Its entry is older than the commit. [2.20]"""
    rig = make(backend=ObjectBackend({"a": b"a", "b": b"b", "c": b"c"}))
    entries = rig.volume.list()
    assert next(entries).key == "a"
    with rig.volume.open("b", "wb") as file:
        file.write(DATA)
    rig.backend.remove("b")
    assert [stat.key for stat in entries] == ["c"]


@pytest.mark.parametrize(("key", "change"), [(KEY, "remove"), ("new", "remove"), (KEY, "rename over")])
@pytest.mark.parametrize("op", ["write_from", "commit"])
@pytest.mark.parametrize("save", ["fsync", "close", "sync"])
def test_a_save_ends_when_its_object_loses_the_name(store: Rig, save: str, op: str, key: str, change: str) -> None:
    """Nothing publishes bytes after the change, which waits for those in flight. [2.20, I-23]"""
    with store.volume.open("other", "xb") as other:
        other.write(b"new")
    file = store.dirtied(DATA[::-1], 0, "r+b" if key == KEY else "xb", key)
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


@pytest.mark.parametrize("outcome", ["done", "refused", "done, and tried again"])
@pytest.mark.parametrize("save", ["fsync", "close", "sync"])
def test_no_commit_begins_beside_a_remove(make: Make, save: str, outcome: str) -> None:
    """A save waits for it, also between two tries, and commits only if the remove has failed. [2.14, 2.20]"""
    store, file = make(backend=ObjectBackend({KEY: DATA}, max_write=PAGE)).written(DATA[::-1], 0)
    if outcome == "refused":
        store.backend.fault("remove", PermissionError(errno.EACCES, "refused"))
    elif outcome != "done":
        store.backend.fault("remove", ConnectionResetError(errno.ECONNRESET, "the answer is lost"))
    gate, removing = at_gate(store.backend.gate("remove"), store.volume.remove, KEY)
    saving = Task(SAVES[save], store, file)
    assert saving.waits()
    assert store.backend.seen("commit") == []
    gate.open()
    if outcome == "refused":
        raises(PermissionError, removing.result)
        saving.result()
        assert store.backend.committed(KEY) == DATA[::-1]
    else:
        removing.result()
        saving.result()
        assert store.backend.committed(KEY) is None
        assert store.backend.seen("commit") == []


SECOND = 10**9


@pytest.mark.parametrize("first", ["rename", "setattr"])
@pytest.mark.parametrize("known", ["both", "neither"])
def test_times_that_are_set_beside_a_rename_are_no_remote_change(
    tmp_path: Path, monkeypatch: Patch, first: str, known: str
) -> None:
    """A file with unsaved bytes is renamed over another while the times of that name are set."""
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode() * 10)
    backend = DirectoryBackend(tmp_path)
    with PageCache("1MiB", flush_interval=3600, dirty_expire=3600) as cache:
        volume = cache.attach(backend)
        if known == "both":
            volume.open("a", "r+").close()
            with volume.open("b", "r+") as file:
                file.pwrite(b"unsaved", 0)
                file._leave()
        calls: dict[str, Callable[[], Any]] = {
            "rename": lambda: volume.rename("b", "a"),
            "setattr": lambda: volume.setattr("a", mtime_ns=5 * SECOND, atime_ns=5 * SECOND),
        }
        gate, one = at_gate(held(monkeypatch, backend, first), calls.pop(first))
        other = Task(*calls.values())
        assert other.waits()
        one.result(opening=gate)
        other.result()
        changed = os.stat(tmp_path / "a").st_mtime_ns == 5 * SECOND
        assert changed == (first == "rename")
        with volume.open("a", "r+") as file:
            assert file.pread(20, 0) == (b"unsavedbbb" if known == "both" else b"b" * 10)
            file.fsync()
            cache.check()
    assert (tmp_path / "a").read_bytes() == (b"unsavedbbb" if known == "both" else b"b" * 10)


def test_times_that_were_left_behind_are_set_before_a_rename(tmp_path: Path, monkeypatch: Patch) -> None:
    """Ctrl-C ends the wait, not the call: it applies to the object that had the name."""
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode() * 10)
    backend = DirectoryBackend(tmp_path)
    with PageCache("1MiB", flush_interval=3600, dirty_expire=3600) as cache:
        volume = cache.attach(backend)
        with volume.open("a", "r+") as old, volume.open("b", "r+") as new:
            new.pwrite(b"unsaved", 0)
            gate = held(monkeypatch, backend, "setattr")
            with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
                volume.setattr("a", mtime_ns=5 * SECOND, atime_ns=5 * SECOND)
            renaming = Task(volume.rename, "b", "a")
            assert renaming.waits()
            renaming.result(opening=gate)
            assert os.stat(tmp_path / "a").st_mtime_ns != 5 * SECOND
            with volume.open("a") as again:
                assert again.pread(20, 0) == b"unsavedbbb"
            new.fsync()
            assert old.pread(20, 0) == b"a" * 10
            cache.check()
    assert (tmp_path / "a").read_bytes() == b"unsavedbbb"


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
def refusing(request: pytest.FixtureRequest, make: Make) -> Rig:
    """A volume on an object store that refuses reads of versions that it does not have under that name."""
    return make(backend=Refusing({KEY: DATA}, max_write=PAGE), retry=ONCE, options={"on_conflict": request.param})


def refused(read: Callable[[], Any], code: int) -> None:
    assert raises(OSError, read).errno == code


@pytest.mark.parametrize("dirty", [False, True])
def test_a_read_beside_a_remove_is_no_conflict(refusing: Rig, dirty: bool) -> None:
    """It waits for the remove, and finds nothing afterwards, whatever has the name then. [2.20, I-24]"""
    file = refusing.open("r+b" if dirty else "rb", read_ahead=0)
    if dirty:
        file.pwrite(b"local", 0)
    gate, removing = at_gate(refusing.backend.gate("remove answer"), refusing.volume.remove, KEY)
    reading = Task(file.pread, 10, PAGE)
    assert reading.waits()
    wait_for(refusing.cache, NAMES)
    removing.result(opening=gate)
    refused(reading.result, errno.ENOENT)
    refused(lambda: file.pread(10, PAGE), errno.ENOENT)
    with refusing.open("xb") as other:
        other.pwrite(b"new object" * PAGE, 0)
    refused(lambda: file.pread(10, PAGE), errno.ENOENT)
    if dirty:
        assert file.pread(5, 0) == b"local"
    file.close()
    assert refusing.backend.committed(KEY) == b"new object" * PAGE
    assert not refusing.volume.unsaved()


@pytest.mark.parametrize(("dirty", "fails"), [(False, False), (True, False), (False, True)])
def test_a_read_beside_a_rename_is_no_conflict(refusing: Rig, dirty: bool, fails: bool) -> None:
    """It waits, and continues with the object under its new name, or its old one if the rename is refused. [2.20]"""
    file = refusing.open("r+b" if dirty else "rb", read_ahead=0)
    if dirty:
        file.pwrite(b"local", 0)
    if fails:
        refusing.backend.fault("rename", PermissionError(errno.EACCES, "refused"))
        refusing.backend.fault("read_into", stale(), times=1)
    gate = refusing.backend.gate("rename" if fails else "rename answer")
    _, renaming = at_gate(gate, refusing.volume.rename, KEY, "new")
    reading = Task(file.pread, 10, PAGE)
    wait_for(refusing.cache, NAMES)
    gate.open()
    refused(renaming.result, errno.EACCES) if fails else renaming.result()
    assert reading.result() == DATA[PAGE : PAGE + 10]
    assert file.pread(10, PAGE) == DATA[PAGE : PAGE + 10]
    file.close()
    assert refusing.backend.committed(KEY if fails else "new") == (b"local" + DATA[5:] if dirty else DATA)


def test_readahead_beside_a_rename_gives_up(refusing: Rig) -> None:
    """It waits for nothing, and reports nothing; the read itself finds its bytes. [2.6, 2.20]"""
    file = refusing.open("rb", read_ahead=2 * PAGE)
    gate, renaming = at_gate(refusing.backend.gate("rename answer"), refusing.volume.rename, KEY, "new")
    file.prefetch(0, 3 * PAGE)
    eventually(lambda: len(refusing.backend.seen("read_into")) and not refusing.volume.engine.native.inflight())
    assert not refusing.cache.waits() or all(wait.what != NAMES for wait in refusing.cache.waits())
    renaming.result(opening=gate)
    assert file.pread(10, PAGE) == DATA[PAGE : PAGE + 10]


@pytest.mark.parametrize("change", ["created", "truncated", "written directly"])
def test_a_removed_object_whose_changes_no_commit_had_is_no_loss_of_a_detach(make: Make, change: str) -> None:
    """It ends with its last handle, without a word. [2.16, 2.20]"""
    rig = make({} if change == "created" else {KEY: pattern(4 * PAGE)})
    file = rig.open("w+b" if change == "created" else "r+b", direct=change == "written directly")
    if change == "truncated":
        file.truncate(PAGE)
    elif change == "written directly":
        file.pwrite(bytes(PAGE), 0)
    rig.volume.remove(KEY)
    assert rig.volume.detach() == []
    file.close()
