"""Concurrent changes of names: busy keys, tokens of both files, last closes, abandoned files."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from pagecache import PageCache
from pagecache.engine import volume as engine_volume

from ..publishing import PublishingBackend
from ..stores import ObjectBackend, RecordingBackend
from .rig import KEY, ONCE, PAGE, Make, Patch, Rig, Task, at_gate, eventually, pattern, raises, wait_for

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


def test_renames_in_both_directions_at_once_do_not_deadlock(make: Make) -> None:
    """Keys are locked all at once, tokens are taken in one order. [2.20]"""
    rig = make({name: b"%d" % k for k, name in enumerate("abcd")})
    files = [rig.open(key=name) for name in "abcd"]
    stop = threading.Event()

    def write(number: int) -> None:
        while not stop.is_set():
            files[number].pwrite(pattern(5000, number), 0)
            files[number].flush()

    def rename(one: str, two: str) -> None:
        for _ in range(60):
            for src, dst in ((one, "x" + one + two), (two, one), ("x" + one + two, two)):
                try:
                    rig.volume.rename(src, dst)
                except FileNotFoundError:
                    pass  # another thread moved it

    writers = [Task(write, number) for number in range(4)]
    renamers = [Task(rename, *pair) for pair in ("ab", "ba", "bc", "ca", "cd", "da")]
    for task in renamers:
        task.result(60)
    stop.set()
    for task in writers:
        task.result()


@pytest.mark.parametrize("busy", ["src", "dst"])
def test_rename_waits_for_what_is_in_flight_of_both_files(make: Make, busy: str) -> None:
    """The rename has both tokens: no write and no commit of either file runs beside it. [2.20]"""
    rig = make({"src": b"", "dst": b""})
    files = {name: rig.open(key=name) for name in ("src", "dst")}
    for file in files.values():
        file.pwrite(DATA, 0)
    gate, flushing = at_gate(rig.backend.gate("write_from", busy), files[busy].flush)
    renaming = Task(rig.volume.rename, "src", "dst")
    assert renaming.waits()
    assert rig.backend.seen("rename") == []
    gate.open()
    for task in (flushing, renaming):
        task.result()
    files["src"].fsync()
    assert rig.backend.committed("dst") == DATA


@pytest.mark.parametrize("whole", [False, True], ids=["in place", "whole objects"])
def test_nothing_is_handed_over_while_a_rename_runs(make: Make, whole: bool) -> None:
    """Write-back, fsync and truncate wait for the token, and end under the new name. [2.20]"""
    kind = ObjectBackend if whole else RecordingBackend
    rig, file = make(backend=kind({KEY: pattern(PAGE)})).opened()
    file.pwrite(DATA, 0)
    gate, renaming = at_gate(rig.backend.gate("rename"), rig.volume.rename, KEY, "moved")
    syncing, cutting = Task(file.fsync), Task(file.truncate, 100)
    assert syncing.waits()
    assert cutting.waits()
    assert rig.backend.seen("write_from") == rig.backend.seen("truncate") == []
    gate.open()
    for task in (renaming, syncing, cutting):
        task.result()
    file.fsync()
    assert rig.backend.committed("moved") == DATA[:100]
    raises(FileNotFoundError, rig.volume.open, KEY)


def test_the_last_close_of_a_removed_file_makes_no_call_for_its_bytes(make: Make) -> None:
    """Dropped silently, whatever other handles did before. [2.20]"""
    rig, one, two = make({KEY: DATA}).both()
    one.pwrite(b"x" * PAGE, 0)
    rig.volume.remove(KEY)
    one.close()
    assert two.pread(PAGE, 0) == b"x" * PAGE
    rig.backend.forget_calls()
    two.close()
    eventually(lambda: rig.volume.engine.native.usage()["local"] == 0)
    eventually(lambda: rig.backend.seen("file_close"))
    assert {call.op for call in rig.backend.calls} == {"file_close"}


def test_a_file_removed_while_it_is_in_flight_is_dropped_later(make: Make) -> None:
    """Neither the remove nor the last close waits for the hung call. [2.20, K7]"""
    rig, file = make(backend=RecordingBackend({KEY: DATA}, identities=True)).opened()
    file.pwrite(b"x" * PAGE, 0)
    gate = rig.backend.gate("write_from")
    file._inode.flush_start(1 << 40)
    gate.wait_entered()
    Task(rig.volume.remove, KEY).result()
    Task(file.close).result()
    with rig.volume.open(KEY, "xb") as new:
        new.write(b"new")
    gate.open()
    eventually(lambda: rig.volume.engine.native.usage()["local"] <= PAGE)
    rig.volume.sync(20)
    assert rig.backend.committed(KEY) == b"new"


@pytest.fixture
def store(make: Make) -> Rig:
    """A volume on an object store."""
    return make(backend=ObjectBackend({KEY: DATA}, max_write=PAGE), retry=ONCE)


def test_a_created_object_is_there_for_this_cache_before_it_is_committed(store: Rig) -> None:
    """It is there for open, stat and exists of this cache; not in list, and not for other clients. [2.20]"""
    file = store.open("xb", key="new")
    file.pwrite(b"12345", 0)
    assert store.volume.exists("new")
    assert store.volume.stat("new").size == 5
    assert store.content("new")[:10] == b"12345"
    assert [stat.key for stat in store.volume.list()] == [KEY]
    file.close()
    assert store.backend.committed("new") == b"12345"
    assert [stat.key for stat in store.volume.list()] == [KEY, "new"]


def test_abandon_never_waits_and_an_open_of_the_file_waits_until_it_is_over(make: Make) -> None:
    """Calls in flight end first, then the upload is rolled back, then the open has the same file. [2.20]"""
    store, file = make(backend=ObjectBackend({KEY: DATA}, max_write=PAGE, max_inflight=1), retry=ONCE).opened("r+b")
    file.pwrite(DATA[::-1], 0)
    gate = store.backend.gate("write_from")
    file._inode.flush_start(1 << 40)
    gate.wait_entered()
    Task(file.abandon).result()
    opening = Task(store.volume.open, KEY, "r+b")
    wait_for(store.cache, "the backend's work under the token")
    assert store.backend.seen("rollback") == []
    store.volume.open("other", "wb").abandon()
    gate.open()
    with opening.result() as again:
        assert again.pread(len(DATA), 0) == DATA
    ops = [call.op for call in store.backend.calls if call.op in ("write_from", "rollback", "open") and call.key == KEY]
    assert ops == ["open", "write_from", "rollback"]
    assert store.backend.committed(KEY) == DATA
    assert store.volume.dirty_ranges(KEY) == []


def test_an_object_that_was_never_committed_can_be_removed(store: Rig) -> None:
    """It is there for this cache, though not for the store; once it is removed, it is gone. [2.20]"""
    file = store.open("xb", "new")
    file.pwrite(b"x", 0)
    store.volume.remove("new")
    assert not store.volume.exists("new")
    raises(FileNotFoundError, store.volume.remove, "new")
    file.close()
    store.volume.sync(20)
    assert store.backend.committed("new") is None


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


def test_a_failed_rename_changes_nothing(make: Make) -> None:
    """Both names lead to their previous files. [2.20]"""
    rig, file = make({"a": b"A", "b": b"B"}).opened(key="a")
    file.pwrite(b"dirty", 0)
    rig.backend.fault("rename", OSError(errno.EACCES, "no"))
    raises(PermissionError, rig.volume.rename, "a", "b")
    file.fsync()
    assert rig.backend.committed("a") == b"dirty"
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


def test_an_object_that_is_renamed_before_its_first_commit_is_no_directory(tmp_path: Path) -> None:
    """The store has no record of its name. [2.20]"""
    with PageCache("1MiB") as cache:
        volume = cache.attach(PublishingBackend(tmp_path))
        with volume.open("a/b", "wb") as stored:
            stored.write(b"below a")
        with volume.open("a", "wb") as created, volume.open("a/b", "r+b") as below:
            created.pwrite(b"A", 0)
            below.pwrite(b"B", 0)
            volume.rename("a", "c")
            assert not volume.exists("c/b")
            assert volume.stat("a/b").dirty
        assert [(each.key, each.size) for each in volume.list()] == [("a/b", 7), ("c", 1)]
