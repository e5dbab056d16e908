"""A rename of an object that is replaced as a whole. The base version below its local bytes stays, and a version that
another client stores at either name is never mistaken for it.

A rename may have been carried out and failed for its caller. It stays open until a call for one of its names has looked
at the store; later bytes are stored under the name that the object has there. [2.14, 2.19, 2.20]
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pagecache import CachedFile, ConflictError, Volume, WritebackError
from pagecache.backends import DirectoryBackend
from pagecache.backends.fsspec import FsspecBackend
from pagecache.backends.protocol import close_backend_file
from pagecache.testing import FaultyBackend, Gate, Rule
from pagecache.volume import reconnect

from ..stores import ObjectBackend, PublishingBackend, RecordingBackend
from .rig import ONCE, PAGE, Make, Rig, Task, at_gate, attached, cut_off, eventually, gated, overlay, pattern, raises

KEY = "file"
DATA = pattern(3 * PAGE)
OTHER = pattern(3 * PAGE, seed=1)
MINE = b"mine" * (PAGE // 4)
NEW = "moved"


@pytest.fixture
def backend() -> ObjectBackend:
    return ObjectBackend({KEY: DATA})


def test_a_closed_object_that_could_not_be_opened_by_its_new_name_is_later(make: Make, backend: ObjectBackend) -> None:
    """Its file of the backend was closed since: nothing is owed any longer. [2.20]"""
    rig, file = make(backend=backend, retry=ONCE).opened("rb")
    backend.fault("open", OSError(errno.ENETUNREACH, "no"), key=NEW)
    raises(OSError, rig.volume.rename, KEY, NEW, match="no")
    file.close()
    for backend_file in rig.volume.engine.take_idle(0, turn=None):
        close_backend_file(backend_file)
    assert rig.content(NEW) == DATA


def test_a_hole_behind_the_end_is_zeros_after_a_failed_commit_and_a_rename(make: Make, backend: ObjectBackend) -> None:
    """The file that has taken the bytes behind the hole goes on: a fresh one ends before it. [2.20]"""
    rig = make(backend=backend, retry=ONCE)
    file, end = rig.open(), 9 * PAGE
    file.pwrite(MINE, end)
    backend.fault("commit", OSError(errno.EIO, "not carried out"))
    raises(WritebackError, file.fsync)
    rig.volume.rename(KEY, NEW)
    assert file.pread(PAGE, 5 * PAGE) == bytes(PAGE)
    file.truncate(end - PAGE)  # the bytes behind it are no longer to be saved
    file.fsync()
    assert backend.committed(NEW) == DATA + bytes(end - PAGE - len(DATA))


ANOTHER = pattern(2 * PAGE, seed=1)
SAVED = overlay(DATA, PAGE, MINE)
LOST = OSError(errno.ECONNRESET, "no answer")
ENDED = OSError(errno.ENOTCONN, "no answer")


def opened(rig: Rig) -> CachedFile:
    file = rig.open("r+b")
    file.pread(PAGE, 0)
    return file


def store_object(volume: Volume, key: str, content: bytes) -> None:
    with volume.open(key, "xb") as file:
        file.write(content)


def lose_a_rename(rig: Rig, backend: RecordingBackend, *, landed: bool = True, error: OSError = LOST) -> None:
    backend.fault("rename answer" if landed else "rename", error)
    raises(OSError, rig.volume.rename, KEY, NEW, match="no answer")


CALLS: dict[str, Callable[[Volume], object]] = {
    "open old": lambda volume: raises(FileNotFoundError, volume.open, KEY, "rb"),
    "remove old": lambda volume: raises(FileNotFoundError, volume.remove, KEY),
    "open new": lambda volume: volume.open(NEW, "rb").close(),
    "stat new": lambda volume: volume.stat(NEW),
    "exists old": lambda volume: volume.exists(KEY),
    "rename again": lambda volume: volume.rename(KEY, NEW),
}


@pytest.mark.parametrize("error", [LOST, ENDED], ids=["lost", "connection ended"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_for_either_name_settles_a_rename_that_was_carried_out(
    make: Make, backend: ObjectBackend, call: str, error: OSError
) -> None:
    rig = make(backend=backend, retry=ONCE)
    file = opened(rig)
    lose_a_rename(rig, backend, error=error)
    CALLS[call](rig.volume)
    file.pwrite(MINE, PAGE)
    file.fsync()
    assert (backend.committed(KEY), backend.committed(NEW)) == (None, SAVED)


def test_a_call_that_waited_for_the_names_settles_it_too(make: Make, backend: ObjectBackend) -> None:
    """It began before the rename has failed."""
    rig = make(backend=backend, retry=ONCE)
    file = opened(rig)
    backend.fault("rename answer", LOST)
    gate, renaming = at_gate(backend.gate("rename answer"), rig.volume.rename, KEY, NEW)
    opening, again = Task(rig.volume.open, KEY, "rb"), Task(rig.volume.rename, KEY, "third")
    eventually(lambda: [wait.what for wait in rig.cache.waits()].count("the name") == 2)
    gate.open()
    for task in (renaming, opening, again):
        raises(OSError, task.result)
    file.pwrite(MINE, PAGE)
    file.fsync()
    assert (backend.committed(KEY), backend.committed(NEW)) == (None, SAVED)


def test_a_rename_that_waited_for_the_names_moves_the_object_with_its_name(make: Make, backend: ObjectBackend) -> None:
    """It has found the object that had the name before."""
    backend.put(NEW, ANOTHER)
    rig = make(backend=backend, retry=ONCE)
    file, replaced = opened(rig), rig.open("r+b", key=NEW)
    backend.fault("rename answer", LOST)
    gate, renaming = at_gate(backend.gate("rename answer"), rig.volume.rename, KEY, NEW)
    again = Task(rig.volume.rename, NEW, "third")
    eventually(lambda: [wait.what for wait in rig.cache.waits()].count("the name") == 1)
    gate.open()
    raises(OSError, renaming.result, match="no answer")
    again.result()
    replaced.pwrite(MINE, 0)
    replaced.fsync()
    file.pwrite(MINE, PAGE)
    file.fsync()
    assert (backend.committed(NEW), backend.committed("third")) == (None, SAVED)


@pytest.mark.parametrize("store", [ObjectBackend, RecordingBackend])
def test_a_rename_of_a_missing_object_leaves_one_written_later(make: Make, store: type[RecordingBackend]) -> None:
    """Its stored version is another one than at the rename, by this cache's own commit."""
    rig = make(backend=store({NEW: ANOTHER}), retry=ONCE)
    with rig.volume.open(NEW, "r+b") as file:
        lose_a_rename(rig, rig.backend, landed=False)
        file.pwrite(MINE, 0)
        file.fsync()
        CALLS["open old"](rig.volume)
        file.pwrite(MINE, PAGE)
    assert rig.synced(NEW) == 2 * MINE


@pytest.mark.parametrize("fenced", [False, True])
def test_a_reconnect_settles_it_before_it_opens_files(make: Make, fenced: bool) -> None:
    """Opening the file by its old name would make an object there. [2.22]"""
    old = RecordingBackend({KEY: DATA})
    rig = make(backend=old, retry=ONCE)
    file = opened(rig)
    file.pwrite(MINE, PAGE)
    lose_a_rename(rig, old)
    fresh = rig.reconnect(fenced=fenced, lose=False, shared=not fenced)
    file.fsync()
    with fresh.lock:
        assert {key: bytes(entry.written) for key, entry in fresh.objects.items()} == {NEW: SAVED}


def test_a_reconnect_does_not_depend_on_a_file_of_an_ended_backend(make: Make, backend: ObjectBackend) -> None:
    """Another object has the old name by then, so that file is asked whether it has moved. [2.20, 2.22]"""
    rig = make(backend=backend, retry=ONCE)
    file = opened(rig)
    lose_a_rename(rig, backend, landed=False)
    backend.put(KEY, ANOTHER)
    rig.volume.abort()
    ended = backend.fault("file_stat", OSError(errno.ECONNRESET, "the store is gone"))
    rig.volume.reconnect(backend)
    assert ended.nr_hit == 1
    assert file.pread(PAGE, 0) == DATA[:PAGE]
    assert rig.content()[:PAGE] == ANOTHER[:PAGE]


@pytest.mark.parametrize("fenced", [False, True])
def test_a_draft_whose_file_could_not_report_the_version_under_its_new_name_replaces_it(fenced: bool) -> None:
    """The object stored there is the one that the rename has replaced, and no change of another client. [2.20, 2.22]"""
    store = PublishingBackend()
    backend = FaultyBackend(store)
    with attached(backend, retry=ONCE) as volume:
        store_object(volume, NEW, DATA)
        file = volume.open(KEY, "x+b")
        file.pwrite(MINE, 0)
        backend.use([Rule("stat", error=errno.ECONNRESET)])
        raises(ConnectionResetError, volume.rename, KEY, NEW)
        volume.reconnect(PublishingBackend(store), fenced=fenced)
        file.fsync()
        assert store.committed(NEW) == MINE
        assert store.committed(KEY) is None


NO_ANSWER = Rule(("rename", "remove"), times=1, done=True, error=errno.ECONNRESET)


@pytest.mark.parametrize("gone", [False, True], ids=["the next call", "a reconnect"])
def test_a_copy_over_a_cached_object_is_found_to_be_carried_out(gone: bool) -> None:
    """The version under the new name is that of neither object. [2.14, 2.20]"""
    fs = MemoryFileSystem(skip_instance_cache=True)
    root = f"copies-{gone}"
    backend = FaultyBackend(FsspecBackend(fs, root))
    with attached(backend, retry=ONCE) as volume:
        store_object(volume, KEY, DATA)
        store_object(volume, NEW, OTHER)
        file, replaced = volume.open(KEY, "r+b"), volume.open(NEW, "r+b")
        file.pwrite(MINE, PAGE)
        replaced.pread(PAGE, 0)
        backend.use([NO_ANSWER])
        raises(ConnectionResetError, volume.rename, KEY, NEW)
        if gone:
            volume.abort()
            backend.fence()  # no file of this backend answers any longer
            volume.reconnect(FsspecBackend(fs, root), fenced=True)
        assert volume.stat(NEW).size == len(DATA)
        file.fsync()
        assert fs.cat(f"{root}/{NEW}") == SAVED
        assert not volume.exists(KEY)


def test_a_draft_that_was_renamed_to_a_free_name_replaces_nothing_that_comes_there() -> None:
    """Its file has reported that nothing is stored there: what comes later is another client's. [2.19, 2.22]"""
    store = PublishingBackend()
    with attached(store) as volume:
        file = volume.open(KEY, "x+b")
        file.pwrite(MINE, 0)
        volume.rename(KEY, NEW)
        volume.abort()
        other = PublishingBackend(store)
        theirs = other.open(NEW, create=True)
        theirs.write_from(0, [memoryview(OTHER)])
        theirs.commit()
        volume.reconnect(PublishingBackend(store), fenced=True)
        raises(ConflictError, file.fsync)
        assert store.committed(NEW) == OTHER
        volume.resolve(NEW, "discard")


@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("removed", [False, True])
def test_the_names_of_a_draft_over_an_object_show_what_was_done(removed: bool, fenced: bool) -> None:
    """A draft that replaces nothing has no record in the store; this one has that of another object. [2.20, 2.22]"""
    store = PublishingBackend()
    backend = FaultyBackend(store)
    with attached(backend, retry=ONCE) as volume:
        store_object(volume, KEY, DATA)
        file = volume.open("draft", "x+b")
        file.pwrite(MINE, 0)
        volume.rename("draft", KEY)
        backend.use([NO_ANSWER])
        raises(ConnectionResetError, *((volume.remove, KEY) if removed else (volume.rename, KEY, NEW)))
        volume.reconnect(PublishingBackend(store), fenced=fenced)
        file.fsync()
        assert store.committed(KEY) is None
        assert store.committed(NEW) == (None if removed else MINE)


@pytest.mark.parametrize("during", [True, False], ids=["during it", "after it"])
def test_a_rename_that_ends_without_an_answer_beside_a_reconnect_is_settled_before_its_file_is_opened(
    during: bool,
) -> None:
    """The reconnect has left the file closed. Opened by its old name, it would be in conflict. [2.20, 2.22]"""
    store = PublishingBackend()
    backend, fresh = FaultyBackend(store), FaultyBackend(PublishingBackend(store))
    with attached(backend, retry=ONCE) as volume:
        store_object(volume, KEY, DATA)
        store_object(volume, "another", DATA)
        file, _another = volume.open(KEY, "r+b"), volume.open("another", "r+b")
        file.pwrite(MINE, PAGE)
        answer = gated(backend, "rename", done=True, error=errno.ECONNRESET)
        renames = cut_off(volume, answer, volume.rename, KEY, NEW)
        opens, reconnecting = at_gate(gated(fresh, "open"), volume.reconnect, fresh)
        if during:
            renames.release()
            eventually(lambda: bool(volume.unsettled))
        opens.release()
        reconnecting.result()
        renames.release()
        file.fsync()
        assert store.committed(NEW) == SAVED
        assert store.committed(KEY) is None


def test_a_missing_source_was_not_renamed_over_a_draft_of_unknown_version() -> None:
    """The draft replaces a stored object, whose version only its file could have reported. [2.14, 2.20]"""
    store = PublishingBackend()
    backend = FaultyBackend(store)
    with attached(backend, retry=ONCE) as volume:
        store_object(volume, NEW, DATA)
        file = volume.open(KEY, "x+b")
        file.pwrite(MINE, 0)
        backend.use([Rule("stat", error=errno.EACCES), Rule("rename", nth=2, error=errno.ECONNRESET)])
        volume.rename(KEY, NEW)
        raises(ConnectionResetError, volume.rename, "missing", NEW)
        volume.reconnect(PublishingBackend(store), fenced=True)
        file.fsync()
        assert store.committed(NEW) == MINE


def test_a_file_that_could_not_report_its_renamed_version_is_compared_again_when_it_is_opened(tmp_path: Path) -> None:
    """A reconnect leaves it closed, since nobody has it open: its next open takes the version found. [2.19, 2.22]"""
    fs = MemoryFileSystem(skip_instance_cache=True)
    backend = FaultyBackend(FsspecBackend(fs, "closed"))
    with attached(backend, retry=ONCE) as volume:
        store_object(volume, KEY, DATA)
        backend.use([NO_ANSWER])
        raises(ConnectionResetError, volume.rename, KEY, NEW)
        volume.abort()
        backend.fence()
        volume.reconnect(FsspecBackend(fs, "closed"), fenced=True)
        for content in (DATA, OTHER, MINE):
            fs.pipe(f"closed/{NEW}", content)
            with volume.open(NEW, "rb") as file:
                assert file.read() == content


def test_a_source_that_was_there_and_is_gone_was_renamed_over_an_object_of_unknown_version(make: Make) -> None:
    """The store knows names only, and could not report which versions writes have made of the two. [2.14]"""
    backend = RecordingBackend({KEY: DATA, NEW: OTHER}, by_name=True)
    rig, file, replaced = make(backend=backend, retry=ONCE).both(key=NEW)
    unread = backend.fault("file_stat", OSError(errno.EIO, "no version"), times=2)
    for handle in (file, replaced):
        handle.pwrite(MINE, PAGE)
        handle.flush()
    eventually(lambda: unread.nr_hit == 2)
    lose_a_rename(rig, backend)
    file.fsync()
    assert backend.committed(NEW) == SAVED
    assert backend.committed(KEY) is None


def test_a_commit_that_ends_after_a_reconnect_is_recognised_by_the_next_one(tmp_path: Path) -> None:
    """The file that the first reconnect has opened, and could not open again, does not know that commit. [2.22]"""
    fs = MemoryFileSystem(skip_instance_cache=True)
    backends = [FaultyBackend(FsspecBackend(fs, "late")) for _ in range(3)]
    with attached(backends[0], retry=ONCE) as volume:
        store_object(volume, KEY, DATA)
        file = volume.open(KEY, "r+b")
        file.pwrite(MINE, PAGE)
        commits = cut_off(volume, gated(backends[0], "commit"), file.fsync)
        backends[1].use([Rule("open", key=KEY, nth=2, dies=True)])
        volume.reconnect(backends[1])
        commits.release()
        eventually(lambda: backends[1].dead)
        eventually(lambda: not volume.late)
        volume.reconnect(backends[2], fenced=True)
        file.fsync()
        assert fs.cat(f"late/{KEY}") == SAVED


def test_a_rename_opens_a_file_again_that_waits_for_it(tmp_path: Path) -> None:
    """The commit that the file has to recognise had no answer; a copy has another version. [2.20, 2.22]"""
    fs = MemoryFileSystem(skip_instance_cache=True)
    backend = FaultyBackend(FsspecBackend(fs, "again"))
    with attached(backend, retry=ONCE) as volume:
        file = volume.open(KEY, "x+b")
        file.pwrite(DATA, 0)
        commits = cut_off(volume, gated(backend, "commit", done=True, error=errno.ECONNRESET), file.fsync)
        volume.reconnect(FaultyBackend(FsspecBackend(fs, "again")))
        renaming = Task(volume.rename, KEY, NEW)
        eventually(lambda: KEY in volume.busy)
        commits.release()
        renaming.result()
        file.pwrite(MINE, PAGE)
        file.fsync()
        assert fs.cat(f"again/{NEW}") == SAVED


def test_an_open_by_a_link_keeps_its_file_at_a_late_reconnect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That looks for the removed name, and finds nothing. [2.20, 2.22]"""
    backend, open_late, gate = FaultyBackend(DirectoryBackend(tmp_path)), reconnect._open_late, Gate()

    def found_late(*arguments: Any) -> Any:
        found = open_late(*arguments)
        gate.enter()
        return found

    with attached(backend, retry=ONCE) as volume:
        store_object(volume, KEY, DATA)
        (tmp_path / "link").hardlink_to(tmp_path / KEY)
        file = volume.open(KEY, "r+b")
        file.pwrite(MINE, 0)
        removing = cut_off(volume, gated(backend, "remove"), volume.remove, KEY)
        volume.reconnect(DirectoryBackend(tmp_path))
        monkeypatch.setattr(reconnect, "_open_late", found_late)
        removing.release()
        gate.wait_entered()
        with volume.open("link", "r+b") as other:
            gate.release()
            other.fsync()
        assert (tmp_path / "link").read_bytes() == overlay(DATA, 0, MINE)


def replaced_without_an_answer(volume: Volume, backend: FaultyBackend, root: Path) -> None:
    """A rename over the name; the backend cannot be asked any longer."""
    backend.use([Rule("rename", dies=True, done=True)])
    raises(OSError, volume.rename, "other", KEY, match="gone")
    volume.reconnect(DirectoryBackend(root), fenced=True)


def removed_beside_a_reconnect(volume: Volume, backend: FaultyBackend, root: Path) -> None:
    """The reconnect has left its file closed: the number of its names before the remove decides."""
    gate = cut_off(volume, gated(backend, "remove"), volume.remove, KEY)
    volume.reconnect(DirectoryBackend(root))
    gate.release()
    eventually(lambda: KEY not in volume.busy)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("lose", [replaced_without_an_answer, removed_beside_a_reconnect])
def test_an_object_that_loses_its_name_beside_a_reconnect_keeps_no_sync_waiting(
    tmp_path: Path, lose: Callable[[Volume, FaultyBackend, Path], None], linked: bool
) -> None:
    """If it had one name, nothing of it is saved; else its bytes are those of the other name. [2.20, 2.22]"""
    backend = FaultyBackend(DirectoryBackend(tmp_path))
    with attached(backend, retry=ONCE) as volume:
        store_object(volume, KEY, DATA)
        store_object(volume, "other", OTHER)
        if linked:
            (tmp_path / "link").hardlink_to(tmp_path / KEY)
        file = volume.open(KEY, "r+b")
        file.pwrite(MINE, 0)
        lose(volume, backend, tmp_path)
        if linked:
            with volume.open("link", "r+b") as other:
                other.fsync()
            assert (tmp_path / "link").read_bytes() == overlay(DATA, 0, MINE)
        volume.sync()
        assert file.pread(PAGE, 0) == MINE
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "link"} == (
            {KEY: OTHER} if lose is replaced_without_an_answer else {"other": OTHER}
        )
