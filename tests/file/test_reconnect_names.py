"""A remove or a rename is in flight when the backend is lost. Its files go on by the name that they have in the store
once the call has returned, whatever its answer and time. No name is made without a request. [2.20, 2.22]
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pagecache import CachedFile, PageCache, RetryPolicy, ShutdownError, loglines, testing
from pagecache.backends import BackendLimits, DirectoryBackend
from pagecache.backends.fsspec import FsspecBackend
from pagecache.backends.passing import PassingBackend
from pagecache.testing import FaultyBackend, Rule
from pagecache.volume import opening
from pagecache.volume.inode import Inode

from ..stores import WAIT_LIMIT_S, Key, ObjectBackend, RecordingBackend
from .rig import FAST, KEY, ONCE, PAGE, Make, Task, at_gate, beside, cut_off, eventually, held, overlay, pattern, raises

OLD = pattern(3 * PAGE)
MINE = b"mine" * (PAGE // 4)
LATER = b"late" * (PAGE // 4)
NEW = "moved"
OTHER = pattern(2 * PAGE, seed=3)

REFUSED = OSError(errno.EACCES, "no")


class Story:
    """A file with dirty bytes, a call that changes its name and hangs, and a backend that is lost."""

    def __init__(
        self, make: Make, call: str, *, landed: bool, objects: dict[str, bytes] | None = None, retry: RetryPolicy = ONCE
    ) -> None:
        content: dict[Key, bytes] = {KEY: OLD}
        content.update(objects or {})
        self.old = RecordingBackend(content)
        self.rig = make(backend=self.old, retry=retry)
        self.file = self.rig.open("r+b")
        self.beside = [self.rig.open("r+b", key=key) for key in objects or {}]
        self.file.pwrite(MINE, PAGE)
        gate = self.old.gate(f"{call} answer" if landed else call)
        arguments = (KEY, NEW) if call == "rename" else (KEY,)
        self.gate = cut_off(self.rig.volume, gate, getattr(self.rig.volume, call), *arguments)

    def reconnect(self, *, fenced: bool = False) -> RecordingBackend:
        fresh = self.old.successor(lose=False, shared=not fenced)
        Task(self.rig.volume.reconnect, fresh, fenced=fenced).result(WAIT_LIMIT_S / 3)
        return fresh

    def answer(self) -> None:
        ended = self.old.nr_ended
        self.gate.open()
        eventually(lambda: self.old.nr_ended > ended)


def stored(backend: RecordingBackend) -> dict[Key, bytes]:
    with backend.lock:
        return {key: bytes(entry.written) for key, entry in backend.objects.items()}


def save_later(file: CachedFile) -> Task[None]:
    """Write bytes after the reconnect, and save them."""
    file.pwrite(LATER, 0)
    return Task(file.fsync)


SAVED = overlay(overlay(OLD, PAGE, MINE), 0, LATER)


@pytest.mark.parametrize("first", ["answer", "reconnect"])
@pytest.mark.parametrize("answer", ["lands later", "has landed", "refused"])
@pytest.mark.parametrize(
    ("call", "objects"),
    [("remove", {}), ("rename", {}), ("rename", {NEW: OTHER})],
    ids=["remove", "rename", "rename over an open file"],
)
def test_a_file_goes_on_by_the_name_in_the_store(
    make: Make, call: str, objects: dict[str, bytes], answer: str, first: str
) -> None:
    """In both orders of answer and reconnect; the old name is not made again."""
    story = Story(make, call, landed=answer == "has landed", objects=objects)
    refused = answer == "refused"
    names = [key for key in (KEY, NEW) if call == "rename" or key == KEY]
    if refused:
        story.old.fault(call, REFUSED)
    if first == "answer":
        story.answer()
        eventually(lambda: not any(key in story.rig.volume.busy for key in names))
    fresh = story.reconnect()
    saving = save_later(story.file)
    if first == "reconnect":
        assert not [call for call in fresh.calls if call.key in names]
        story.answer()
    saving.result()
    if call == "remove" and not refused:
        story.file.abandon()
        story.rig.volume.sync()
        assert stored(fresh) == {}
        assert not story.rig.volume.exists(KEY)
    else:
        for target in story.beside:
            if refused:
                assert target.pread(len(OTHER), 0) == OTHER
            else:
                assert target.try_pread(PAGE, 0) is None  # no page of the new object is mistaken for it
        assert stored(fresh) == ({KEY: SAVED} | objects if refused else {NEW: SAVED})
        assert story.rig.volume.stat(KEY if refused else NEW).size == len(SAVED)


@pytest.mark.parametrize("call", ["rename", "remove"])
@pytest.mark.parametrize("landed", [False, True], ids=["not landed", "has landed"])
def test_a_fence_finds_out_what_a_call_has_done_that_never_returns(make: Make, call: str, landed: bool) -> None:
    """The names are free, the file is saved by its actual name, and the answer changes nothing."""
    story = Story(make, call, landed=landed)
    fresh = story.reconnect(fenced=True)
    gone = call == "remove" and landed
    if not gone:
        save_later(story.file).result(WAIT_LIMIT_S / 3)
    name = NEW if landed else KEY
    assert stored(fresh) == ({} if gone else {name: SAVED})
    for key in (KEY, NEW):
        again = Task(story.rig.volume.exists, key)
        assert again.result(WAIT_LIMIT_S / 3) == (key in stored(fresh))
    if not gone:
        again_open = Task(story.rig.open, "rb", key=name).result(WAIT_LIMIT_S / 3)
        assert again_open.pread(len(SAVED), 0) == SAVED
    story.answer()
    eventually(lambda: story.old.nr_running == 0)
    assert set(story.rig.volume.inodes) == (set() if gone else {name})


def test_an_answer_between_the_look_of_a_reconnect_and_its_end_is_not_missed(make: Make) -> None:
    """The reconnect has left the file closed, and still opens others, when the call returns."""
    story = Story(make, "rename", landed=True, objects={"other": OTHER})
    fresh = story.old.successor(lose=False)
    gate, reconnecting = at_gate(fresh.gate("open", "other"), story.rig.volume.reconnect, fresh)
    story.answer()
    eventually(lambda: NEW not in story.rig.volume.busy)
    reconnecting.result(opening=gate)
    save_later(story.file).result()
    assert stored(fresh) == {NEW: SAVED, "other": OTHER}


def test_reading_goes_on_from_what_is_cached_while_the_name_is_not_sure(make: Make) -> None:
    """A read of uncached pages is refused until the call has returned."""
    story = Story(make, "rename", landed=True)
    fresh = story.reconnect()
    assert story.file.pread(PAGE, PAGE) == MINE
    raises(ShutdownError, lambda: Task(story.file.pread, PAGE, 0).result())
    story.answer()
    eventually(lambda: story.rig.volume.inodes[NEW].backend_file is not None)
    assert story.file.pread(PAGE, 0) == OLD[:PAGE]
    assert KEY not in stored(fresh)


def test_a_file_that_is_not_opened_for_a_moment_is_opened_then(make: Make) -> None:
    """Transient errors are retried."""
    story = Story(make, "rename", landed=True, retry=RetryPolicy())
    fresh = story.reconnect()
    fault = fresh.fault("open", OSError(errno.EIO, "for a moment"), key=NEW)
    saving = save_later(story.file)
    story.answer()
    saving.result()
    assert fault.nr_hit == 1
    assert stored(fresh) == {NEW: SAVED}


def test_a_file_that_is_not_opened_keeps_its_bytes_until_it_is(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The log reports that it is closed, and why."""
    story = Story(make, "rename", landed=True)
    fresh = story.reconnect()
    fresh.fault("open", OSError(errno.EACCES, "not yours"), key=NEW)
    story.answer()
    eventually(lambda: NEW not in story.rig.volume.busy)
    loglines.outlast(20.0)
    assert "not opened by the new backend: EACCES (not yours)" in caplog.text
    again = story.rig.open("r+b", key=NEW)
    save_later(again).result()
    assert stored(fresh) == {NEW: SAVED}


def test_a_volume_that_is_lost_twice_during_the_call_is_caught_up_with_once(make: Make) -> None:
    """Two reconnects go by while the call hangs: the file is opened in the last backend."""
    story = Story(make, "rename", landed=True)
    between = story.reconnect()
    story.rig.volume.abort()
    fresh = between.successor(lose=False)
    story.rig.volume.reconnect(fresh)
    saving = save_later(story.file)
    story.answer()
    saving.result()
    assert stored(fresh) == {NEW: SAVED}
    assert not between.seen("open")


@pytest.mark.parametrize("known", [False, True], ids=["never open before", "closed"])
def test_an_open_that_a_reconnect_overtakes_leaves_no_old_file(
    make: Make, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """The backend has opened it, but the volume gets another backend before it counts."""
    old = RecordingBackend({KEY: OLD})
    rig = make(backend=old, retry=ONCE)
    if known:
        rig.volume.open(KEY, "rb").close()
        [closed] = rig.volume.engine.take_idle(0)
        rig.volume.engine.close_later(closed, KEY)
    fresh = old.successor(lose=False, shared=False)

    def overtaken() -> None:
        Task(rig.volume.abort).result()
        Task(rig.volume.reconnect, fresh).result()

    beside(monkeypatch, opening, "open_backend", overtaken, after=True)
    raises(ShutdownError, rig.open, "r+b", match="reconnected since")
    file = rig.open("r+b")
    save_later(file).result()
    assert stored(fresh) == {KEY: overlay(OLD, 0, LATER)}
    eventually(lambda: len(old.seen("file_close")) == len(old.seen("open")))


def test_a_fenced_reconnect_overtakes_the_call_that_catches_up_with_the_one_before(make: Make) -> None:
    """The file that the call has opened by then is closed again, and not used."""
    story = Story(make, "rename", landed=True)
    between = story.reconnect()
    gate = between.gate("open", NEW)
    story.gate.open()
    gate.wait_entered()
    story.rig.volume.abort()
    fresh = between.successor(lose=False, shared=False)
    Task(story.rig.volume.reconnect, fresh, fenced=True).result(WAIT_LIMIT_S / 3)
    gate.open()
    eventually(lambda: between.seen("file_close"))
    save_later(story.file).result()
    assert stored(fresh) == {NEW: SAVED}


@pytest.mark.parametrize("when", ["left closed before", "both names are gone"])
def test_a_fenced_reconnect_asks_no_file_of_a_store_that_hangs(make: Make, when: str) -> None:
    """Neither for its version, nor for its name; without an answer nothing is known. [2.22]"""
    story = Story(make, "rename", landed=when == "left closed before")
    fresh = story.old.successor(lose=False, shared=False)
    if when == "left closed before":
        story.reconnect()
        story.rig.volume.abort()
    else:
        del fresh.objects[KEY]
    gate = story.old.gate("file_stat")
    try:
        Task(story.rig.volume.reconnect, fresh, fenced=True).result(WAIT_LIMIT_S / 3)
    finally:
        gate.open()
    save_later(story.file).result()
    assert (KEY in stored(fresh)) == (when == "both names are gone")
    if KEY not in stored(fresh):
        assert stored(fresh) == {NEW: SAVED}
    story.answer()


def test_a_fenced_reconnect_does_not_ask_the_removed_file_of_a_store_that_hangs(tmp_path: Path) -> None:
    """Without its number of links, that of before the call counts. [2.20, 2.22]"""
    (tmp_path / KEY).write_bytes(OLD)
    backend = FaultyBackend(DirectoryBackend(tmp_path, prompt=False))
    with testing.Gate() as gate, PageCache("1MiB") as cache:
        volume = cache.attach(backend)
        with volume.open(KEY, "r+b"):
            backend.use([Rule("remove", gate=gate)])
            removing = Task(volume.remove, KEY)
            gate.wait_entered()
            backend.use([Rule("stat", gate=gate)])
            volume.abort()
            raises(ShutdownError, removing.result)
            (tmp_path / KEY).unlink()
            Task(volume.reconnect, DirectoryBackend(tmp_path), fenced=True).result(WAIT_LIMIT_S / 3)
            assert not volume.exists(KEY)


@pytest.mark.parametrize("call", ["rename", "remove"])
def test_a_fenced_reconnect_that_cannot_ask_for_a_name_changes_nothing(make: Make, call: str) -> None:
    """It raises the error of the new backend, and the next one finds out."""
    story = Story(make, call, landed=False)
    fresh = story.old.successor(lose=False, shared=False)
    fresh.fault("stat", OSError(errno.EIO, "for a moment"))
    raises(OSError, story.rig.volume.reconnect, fresh, fenced=True, match="for a moment")
    raises(ShutdownError, story.file.fsync)
    Task(story.rig.volume.reconnect, fresh, fenced=True).result(WAIT_LIMIT_S / 3)
    save_later(story.file).result(WAIT_LIMIT_S / 3)
    assert stored(fresh) == {KEY: SAVED}
    story.answer()


@pytest.mark.parametrize("call", ["remove", "rename over"])
def test_a_fenced_reconnect_leaves_the_object_of_an_alias_that_is_gone(tmp_path: Path, call: str) -> None:
    """The object has its other name, so its unsaved bytes are saved there. [2.20, 2.22]"""
    for name in ("target", "other"):
        (tmp_path / name).write_bytes(OLD)
    os.link(tmp_path / "target", tmp_path / "alias")
    backend = FaultyBackend(DirectoryBackend(tmp_path, prompt=False))
    with testing.Gate() as gate, PageCache("1MiB") as cache:
        volume = cache.attach(backend)
        with volume.open("target", "r+b") as file:
            file.pwrite(MINE, PAGE)
            backend.use([Rule("remove" if call == "remove" else "rename", gate=gate)])
            calling = Task(volume.remove, "alias") if call == "remove" else Task(volume.rename, "other", "alias")
            gate.wait_entered()
            volume.abort()
            raises(ShutdownError, calling.result)
            if call == "remove":
                (tmp_path / "alias").unlink()
            else:
                (tmp_path / "other").rename(tmp_path / "alias")
            Task(volume.reconnect, DirectoryBackend(tmp_path), fenced=True).result(WAIT_LIMIT_S / 3)
            file.pwrite(LATER, 0)
            file.fsync()
        assert (tmp_path / "target").read_bytes() == SAVED


LOSSES: dict[str, Callable[[Any, Path], object]] = {
    "removed": lambda volume, _root: volume.remove("folder/first"),
    "replaced": lambda volume, _root: volume.rename("other", "folder/first"),
    "renamed and removed": lambda volume, _root: (volume.rename("folder/first", "3"), volume.remove("3")),
    "removed and moved": lambda volume, _root: (volume.remove("folder/first"), volume.rename("folder", "moved")),
    "removed by another program": lambda _volume, root: (root / "folder" / "first").unlink(),
}


@pytest.mark.parametrize(
    ("lose", "same"),
    [(lose, same) for lose in LOSSES for same in (True, False) if same or lose != "removed by another program"],
)
def test_a_file_goes_on_by_another_name_that_it_was_opened_by(tmp_path: Path, lose: str, same: bool) -> None:
    """It is found by its identity, and no name is made for it. [2.20, 2.22]"""
    (tmp_path / "folder").mkdir()
    for name in ("folder/first", "other"):
        (tmp_path / name).write_bytes(OLD)
    os.link(tmp_path / "folder" / "first", tmp_path / "folder" / "second")
    with PageCache("1MiB") as cache:
        volume = cache.attach(DirectoryBackend(tmp_path))
        with volume.open("folder/first", "r+b") as file, volume.open("folder/second", "rb"):
            file.pwrite(MINE, PAGE)
            LOSSES[lose](volume, tmp_path)
            before = sorted(tmp_path.rglob("*"))
            for _ in range(2):  # the name that was found is the last known one then
                volume.reconnect(volume.backend if same else DirectoryBackend(tmp_path))
                file.fsync()
                file.pwrite(LATER, 0)
            file.fsync()
            assert sorted(tmp_path.rglob("*")) == before
    folder = "moved" if lose == "removed and moved" else "folder"
    assert (tmp_path / folder / "second").read_bytes() == overlay(overlay(OLD, PAGE, MINE), 0, LATER)


def test_a_created_name_that_the_store_has_lost_was_not_removed_by_a_call_that_a_fence_has_ended(make: Make) -> None:
    """Nothing shows that the remove was carried out: the crash explains that the name is gone. [2.20, 2.22]"""
    backend = RecordingBackend()
    rig = make(backend=backend, retry=ONCE)
    file = rig.volume.open(KEY, "xb")
    file.pwrite(MINE, 0)
    gate, removing = at_gate(backend.gate("remove"), rig.volume.remove, KEY)
    fresh = rig.reconnect(removing, fenced=True, shared=False)
    file.fsync()
    assert stored(fresh) == {KEY: MINE}
    gate.open()
    file.close()


def test_a_created_object_that_has_replaced_another_takes_no_byte_of_it_behind_a_reconnect() -> None:
    """Nothing of it was committed: the new backend finds the other object under its name. [2.17, 2.20]"""
    store = MemoryFileSystem(skip_instance_cache=True)
    store.pipe_file("/replaced/name", pattern(8 * PAGE))
    with PageCache(capacity="1MiB") as cache:
        volume = cache.attach(FsspecBackend(store, "/replaced"))
        file = volume.open("new", "x+b")
        file.pwrite(MINE, 5 * PAGE)
        file.sync_range(0, 6 * PAGE)
        volume.rename("new", "name")
        volume.reconnect(FsspecBackend(store, "/replaced"))
        expected = bytes(5 * PAGE) + MINE
        assert file.pread(6 * PAGE, 0) == expected
        file.fsync()
    assert store.cat_file("/replaced/name") == expected


def test_a_rename_that_a_fence_has_ended_is_why_its_source_is_gone(make: Make) -> None:
    """Neither version is known, so the object of the new name could be the one that was there before. [2.20, 2.22]"""
    backend = RecordingBackend({KEY: OLD, NEW: OTHER})
    rig, file, target = make(backend=backend, retry=ONCE).both("r+b", key=NEW)
    for each in (file, target):
        each.pwrite(MINE, PAGE)
        backend.fault("file_stat", REFUSED, times=math.inf)  # the version behind its bytes stays unknown
        with suppress(OSError):
            each.flush()
    backend.clear_faults()
    gate, renaming = at_gate(backend.gate("rename answer"), rig.volume.rename, KEY, NEW)
    fresh = rig.reconnect(renaming, fenced=True, lose=False, shared=False)
    save_later(file).result()
    assert stored(fresh) == {NEW: SAVED}
    gate.open()


def test_a_file_behind_a_link_being_renamed_is_not_opened_by_a_reconnect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name through the link is gone: it would be made, or refuse the reconnect. [2.20, 2.22]"""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(OLD)
    (tmp_path / "link").symlink_to("folder")
    backend = DirectoryBackend(tmp_path, prompt=False)
    with PageCache("1MiB") as cache, cache.attach(backend).open("link/file", "r+b") as file:
        volume = file.volume
        file.pwrite(MINE, PAGE)
        gate = cut_off(volume, held(monkeypatch, backend, "rename", after=True), volume.rename, "link", "moved")
        volume.reconnect(DirectoryBackend(tmp_path))
        gate.open()
        eventually(lambda: "link" not in volume.busy)
        with volume.open("moved/file", "r+b"):
            file.fsync()
    assert (tmp_path / "folder" / "file").read_bytes() == overlay(OLD, PAGE, MINE)


@pytest.mark.parametrize("landed", [True, False])
def test_a_file_without_a_known_name_follows_its_directory_beside_a_reconnect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    """The rename of another directory has made its name a guess. [2.20, 2.22]"""
    for name in ("folder", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder" / "file").write_bytes(OLD)
    backend = DirectoryBackend(tmp_path, prompt=False)
    with PageCache("1MiB") as cache, cache.attach(backend).open("folder/file", "r+b") as file:
        volume = file.volume
        file.pwrite(MINE, PAGE)
        volume.rename("other", "another")
        gate = cut_off(volume, held(monkeypatch, backend, "rename", after=landed), volume.rename, "folder", "moved")
        volume.reconnect(DirectoryBackend(tmp_path))
        gate.open()
        eventually(lambda: "folder" not in volume.busy)
        file.fsync()
        assert not volume.failed()
    assert (tmp_path / "moved" / "file").read_bytes() == overlay(OLD, PAGE, MINE)
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("landed", [True, False])
def test_a_link_without_a_known_name_follows_its_directory_beside_a_reconnect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    """Though the file was opened by a name elsewhere before, which another program has removed since. [2.20, 2.22]"""
    for name in ("folder", "other", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder" / "file").write_bytes(OLD)
    (tmp_path / "out" / "link").hardlink_to(tmp_path / "folder" / "file")
    backend = DirectoryBackend(tmp_path, prompt=False)
    with PageCache("1MiB") as cache, cache.attach(backend).open("out/link", "r+b") as file:
        volume = file.volume
        volume.open("folder/file").close()
        file.pwrite(MINE, PAGE)
        volume.rename("other", "another")
        gate = cut_off(volume, held(monkeypatch, backend, "rename", after=landed), volume.rename, "folder", "moved")
        (tmp_path / "out" / "link").unlink()
        volume.reconnect(DirectoryBackend(tmp_path))
        gate.open()
        eventually(lambda: "folder" not in volume.busy)
        file.fsync()
        assert not volume.failed()
    assert (tmp_path / "moved" / "file").read_bytes() == overlay(OLD, PAGE, MINE)
    assert not (tmp_path / "out" / "link").exists()


@pytest.mark.parametrize("fenced", [False, True])
def test_a_reconnect_beside_a_rename_whose_replaced_file_cannot_be_asked_goes_on_by_the_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fenced: bool
) -> None:
    """Its status hangs, after the rename was answered. [2.20, 2.22]"""
    (tmp_path / "a").write_bytes(OLD)
    (tmp_path / "b").write_bytes(OTHER)
    backend = DirectoryBackend(tmp_path, prompt=False)
    with PageCache("1MiB") as cache, cache.attach(backend).open("a", "r+b") as file, file.volume.open("b"):
        volume = file.volume
        file.pwrite(MINE, PAGE)
        gate = cut_off(volume, held(monkeypatch, Inode, "stat_open"), volume.rename, "a", "b")
        volume.reconnect(DirectoryBackend(tmp_path, prompt=False), fenced=fenced)
        if fenced:
            file.fsync()
        gate.open()
        eventually(lambda: "a" not in volume.busy and file._inode.naming is None)
        file.fsync()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"b": overlay(OLD, PAGE, MINE)}


@pytest.mark.parametrize("first", ["a", "b"])
def test_two_files_that_had_one_last_name_follow_the_renames_of_their_directories(tmp_path: Path, first: str) -> None:
    """Another program has moved the directory of one of them. [2.20, 2.22]"""
    for name in ("a", "b", "p", "r"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "f").write_bytes(OLD)
    (tmp_path / "b" / "f").write_bytes(OTHER)
    with PageCache("1MiB") as cache:
        volume = cache.attach(DirectoryBackend(tmp_path, prompt=False))
        for name in (first, "b"):
            volume.open(f"{name}/f").close()
        with volume.open("a/f", "r+b") as file:
            file.pwrite(MINE, PAGE)
            volume.rename("p", "q")  # no name is known since
            (tmp_path / "b").rename(tmp_path / "old")
            volume.rename("a", "b")
            volume.rename("r", "s")
            volume.rename("b", "c")
            volume.reconnect(DirectoryBackend(tmp_path, prompt=False))
            file.fsync()
    assert (tmp_path / "c" / "f").read_bytes() == overlay(OLD, PAGE, MINE)
    assert (tmp_path / "old" / "f").read_bytes() == OTHER


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_a_file_below_a_name_follows_its_rename_behind_a_reconnect(tmp_path: Path, kind: str) -> None:
    (tmp_path / "folder").mkdir()
    if kind == "link":
        (tmp_path / "folder").rename(tmp_path / "real")
        (tmp_path / "folder").symlink_to("real")
    (tmp_path / "folder" / "file").write_bytes(OLD)
    backend = DirectoryBackend(tmp_path, prompt=False)
    with PageCache("1MiB") as cache, cache.attach(backend).open("folder/file", "r+b") as file:
        file.pwrite(MINE, PAGE)
        file.volume.rename("folder", "moved")
        file.volume.reconnect(DirectoryBackend(tmp_path, prompt=False))
        file.fsync()
    assert (tmp_path / "moved" / "file").read_bytes() == overlay(OLD, PAGE, MINE)


def test_a_removed_file_whose_call_returns_after_a_reconnect_is_like_any_removed_one(make: Make) -> None:
    """No name leads to it in the new backend: it keeps what is cached, and nothing of it fails. [2.20, 2.22]"""
    backend = RecordingBackend({KEY: OLD}, identities=True)
    rig, file = make(backend=backend, retry=ONCE).written(MINE, PAGE)
    gate = cut_off(rig.volume, backend.gate("remove answer"), rig.volume.remove, KEY)
    rig.volume.reconnect(backend.successor(lose=False))
    gate.open()
    eventually(lambda: file._inode.removed and file._inode.naming is None)
    raises(FileNotFoundError, file.pread, PAGE, 0)
    file.fsync()
    assert not rig.volume.failed()


def test_a_remove_that_lands_beside_its_second_try_has_succeeded(make: Make) -> None:
    """Its first answer was lost, and the store is asked twice before the second one. [2.14, 2.20]"""
    backend = ObjectBackend({KEY: OLD})
    rig = make(backend=backend, retry=FAST)
    rig.volume.abort()
    rig.volume.reconnect(backend)
    before: list[int] = []

    def look() -> None:
        before.append(0)
        if len(before) == 2:
            backend.objects.pop(KEY)

    backend.fault("remove", OSError(errno.ETIMEDOUT, "no answer"))
    backend.fault("stat", look, skip=1, times=math.inf)
    rig.volume.remove(KEY)
    assert len(before) == 2
    assert not rig.volume.exists(KEY)


class WholeFiles(PassingBackend):
    """A directory whose files are replaced as a whole."""

    @property
    def limits(self) -> BackendLimits:  # type: ignore[override]
        return replace(self.inner.limits, commit_on_close=True)


@pytest.mark.parametrize("call", ["remove", "rename"])
def test_a_link_that_leads_nowhere_has_a_name_after_a_reconnect(tmp_path: Path, call: str) -> None:
    """The store is asked for the link, not for what it leads to."""
    (tmp_path / KEY).symlink_to("nowhere")
    backend = WholeFiles(DirectoryBackend(tmp_path))
    with PageCache("1MiB") as cache:
        volume = cache.attach(backend)
        volume.abort()
        volume.reconnect(backend)
        getattr(volume, call)(KEY, *([NEW] if call == "rename" else []))
        assert os.listdir(tmp_path) == ([NEW] if call == "rename" else [])
        raises(FileNotFoundError, volume.remove, KEY)
