"""A file of the cache is the object of its identity, whatever names that has, or had. Names are hints: an open asks the
store which object has the name. The state of files behind names of directories and links stays with these files.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecache import CachedFile, ConflictError, ObjectStat, PageCache, Volume
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.backends.directory import DirectoryFile
from pagecache.backends.protocol import close_backend_file
from pagecache.engine.file import EngineFile
from pagecache.errors import WritebackError
from pagecache.testing import FaultyBackend, Gate, Rule
from pagecache.volume import lifetimes
from pagecache.volume.inode import Inode

from ..planted.settings import Factory, store_by_name, whole_objects
from .rig import ONCE, Patch, Task, at_gate, attached, beside, content_of, eventually, gated, held, raises, stored


@pytest.fixture
def backend(tmp_path: Path) -> Any:
    """A backend of a directory, with its methods outside of the protocol."""
    return FaultyBackend(DirectoryBackend(tmp_path))


@pytest.fixture
def volume(backend: Any) -> Iterator[Volume]:
    """A volume of a directory that writes nothing back unless a test asks for it."""
    with PageCache("1MiB", flush_interval=3600, dirty_expire=3600) as cache:
        yield cache.attach(backend, read_ahead=0)
        cache.check()


def test_unsaved_bytes_without_a_name_are_reached_by_the_last_one(tmp_path: Path) -> None:
    """If the object that has it now has none. They are listed and retried until then. [2.20, K1]"""
    backend = FaultyBackend(DirectoryBackend(tmp_path))
    full = Rule("write", error=errno.ENOSPC)
    with PageCache("1MiB", retry=ONCE, flush_interval=3600, dirty_expire=3600) as cache:
        volume = cache.attach(backend, read_ahead=0)
        backend.use([full])
        for length in (1, 2):
            file = volume.open("f", "w")
            file.pwrite(bytes(length), 0)
            raises(WritebackError, file.close)
            (tmp_path / "f").rename(tmp_path / f"gone {length}")
            (tmp_path / f"gone {length}").unlink()
        (tmp_path / "f").write_bytes(b"other")
        with volume.open("f", "r+") as now:
            now.pwrite(b"O", 0)
            assert volume.dirty_ranges("f") == [(0, 1)]
            assert [(stat.key, stat.size) for stat in volume.unsaved("f")] == [("f", 5)]
            assert sorted(each.length for each in volume.failed()) == [1, 2]
            backend.use([])
            now.fsync()
            backend.use([full])
            volume.retry_failed("f")
            for length in (1, 2):
                assert volume.dirty_ranges("f") == [(0, length)]
                assert [(lost.key, lost.length) for lost in volume.discard("f")] == [("f", length)]
            assert [*volume.failed(), *volume.discard("f"), *volume.dirty_ranges("f")] == []
            assert now.pread(10, 0) == (tmp_path / "f").read_bytes() == b"Other"
        cache.check()


def disputed(volume: Volume, backend: Any) -> CachedFile:
    """Return a handle of "a" with an unsaved byte over another version than another program has stored since."""
    stored(volume, "a", b"old")
    file = volume.open("a", "r+")
    file.pwrite(b"O", 0)
    backend.change("a")
    raises(ConflictError, volume.open, "a")
    return file


def test_a_conflict_without_known_name_is_settled_by_the_last_one(volume: Volume, backend: Any, tmp_path: Path) -> None:
    """Though the object that has it now has unsaved bytes. [2.16, 2.20]"""
    file = disputed(volume, backend)
    os.link(tmp_path / "a", tmp_path / "b")
    volume.remove("a")
    with volume.open("a", "w+") as now:
        raises(ConflictError, volume.sync)
        now.pwrite(b"new", 0)
        assert volume.resolve("a", "force") == []
        volume.sync()
    file.close()
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"new", b"Old"]


@pytest.mark.parametrize("how", ["force", "rebase", "discard"])
def test_a_conflict_of_a_removed_object_is_over(volume: Volume, backend: Any, monkeypatch: Patch, how: Any) -> None:
    """With its last handle, too. [2.16, 2.20]"""
    file = disputed(volume, backend)
    inode = file._inode

    def removed() -> None:
        volume.remove("a")
        file.close()
        stored(volume, "b", b"takes the place of a file that was freed")

    beside(monkeypatch, EngineFile, "settle", removed)
    Task(volume.resolve, "a", how).result()
    eventually(lambda: inode.freed)


def test_a_burial_that_comes_late_touches_no_other_file(volume: Volume, monkeypatch: Patch) -> None:
    """Of two threads that bury an object, one may be late; its place goes to no other file before that. [2.20]"""
    stored(volume, "a", b"read only")
    volume.sync()
    file, bury, others = volume.open("a"), lifetimes.bury, []

    def twice(volume: Volume, inode: Inode) -> None:
        monkeypatch.setattr(lifetimes, "bury", bury)
        bury(volume, inode)
        eventually(lambda: inode.freed)
        others.append(volume.open("b", "w+"))
        assert others[0]._inode.address != inode.address
        others[0].pwrite(b"unsaved", 0)
        bury(volume, inode)

    monkeypatch.setattr(lifetimes, "bury", twice)
    volume.remove("a")
    file.close()
    assert others[0].pread(7, 0) == b"unsaved"
    others[0].close()
    assert content_of(volume, "b") == b"unsaved"


def test_a_file_is_not_freed_before_its_job_has_run(volume: Volume, monkeypatch: Patch) -> None:
    """It loses its name and its last handle before the job asks for the token. [2.20]"""
    stored(volume, "a", b"read only")
    volume.sync()
    file = volume.open("a")
    inode = file._inode

    def removed() -> None:
        volume.remove("a")
        file.close()

    beside(monkeypatch, EngineFile, "settle_start", removed)
    assert Task(inode.settled, lambda: inode.freed).result() is False
    eventually(lambda: inode.freed)


def test_attributes_are_set_though_the_file_is_forgotten(volume: Volume, tmp_path: Path, monkeypatch: Patch) -> None:
    """It is known by another name, which the call does not hold. [2.20]"""
    (tmp_path / "a").write_bytes(b"read only")
    os.link(tmp_path / "a", tmp_path / "b")
    for name in "ab":
        volume.open(name).close()
    look, found = volume._inode_at, [volume.inodes["a"]]

    def late(key: Hashable) -> Inode | None:
        assert look(key) is found[0]
        with monkeypatch.context() as patch:
            patch.setattr(lifetimes, "hollow_max", lambda _capacity: 0)
            lifetimes.prune(volume)
        return found[0]

    monkeypatch.setattr(volume, "_inode_at", late)
    volume.setattr("b", mtime_ns=10**9)
    assert found[0].freed
    assert os.stat(tmp_path / "b").st_mtime_ns == 10**9


def test_a_discard_beside_a_remove_drops_nothing_of_another_file(volume: Volume, monkeypatch: Patch) -> None:
    """The object, which loses its last handle too, goes on to the end of the call. [2.18, 2.20]"""
    file, others = volume.open("a", "w+"), list[CachedFile]()
    file.pwrite(b"given up", 0)

    def late() -> None:
        volume.remove("a")
        file.close()
        others.append(volume.open("b", "w+"))
        others[0].pwrite(b"unsaved", 0)

    beside(monkeypatch, lifetimes, "drop_local", late)
    volume.discard("a")
    others[0].close()
    assert content_of(volume, "b") == b"unsaved"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_is_gone_with_its_last_name(volume: Volume, backend: Any, replaced: bool) -> None:
    """Its first name was that of a directory by then. [2.20]"""
    held = volume.open("b", "w+")
    held.pwrite(b"dead", 0)
    backend.link("b", "y")
    volume.remove("b")
    backend.mkdir("b")
    assert content_of(volume, "y") == b"dead"
    if replaced:
        stored(volume, "new", b"new")
        volume.rename("new", "y")
    else:
        volume.remove("y")
    backend.rmdir("b")
    assert not volume.exists("b")
    assert held._inode.removed
    assert held.pread(100, 0) == b"dead"
    held.close()


@pytest.mark.parametrize("over", [False, True])
def test_a_link_beside_a_change_of_names_keeps_a_file(volume: Volume, backend: Any, tmp_path: Path, over: bool) -> None:
    """The store had one name of it when the call looked. [2.20]"""
    stored(volume, "new", b"new")
    held = volume.open("a", "w+")
    held.pwrite(b"linked", 0)
    link = Rule(("remove", "rename"), change=lambda *_call: os.link(tmp_path / "a", tmp_path / "b"))
    backend.use([link])
    if over:
        volume.rename("new", "a")
    else:
        volume.remove("a")
    assert not held._inode.removed
    with volume.open("b", "r+") as again:
        assert again.pread(100, 0) == b"linked"
        again.pwrite(b"L", 0)
    assert held.pread(100, 0) == b"Linked"
    held.close()


@pytest.mark.parametrize("make", [store_by_name, whole_objects])
@pytest.mark.parametrize("local", [False, True])
def test_an_exclusive_open_asks_a_store_that_knows_names_only(make: Callable[[], Factory], local: bool) -> None:
    """Another program has removed the object; unsaved bytes alone answer for its name. [2.19, 2.20]"""
    backend = make()
    with attached(backend(), "1MiB", flush_interval=3600) as volume:
        stored(volume, "a", b"old bytes")
        volume.sync(20)
        raises(FileExistsError, volume.open, "a", "x")
        held = volume.open("a", "r+", read_ahead=0)
        assert held.pread(100, 0) == b"old bytes"
        if local:
            held.pwrite(b"unsaved", 0)
        backend().remove("a")
        if local:
            raises(FileExistsError, volume.open, "a", "x")
        else:
            with volume.open("a", "x+") as file:
                file.pwrite(b"new", 0)
            assert held.pread(100, 0) == b"old bytes"
            assert content_of(volume, "a") == b"new"
        held.abandon()


@pytest.mark.parametrize("where", ["itself", "outside", "nowhere", "elsewhere", "there"])
@pytest.mark.parametrize("held", [True, False])
def test_a_link_of_another_program_over_a_name_takes_it(volume: Volume, tmp_path: Path, held: bool, where: str) -> None:
    """An exclusive open follows no link. Through a link that leads to the file, that stays the file. [2.20]"""
    stored(volume, "elsewhere", b"another")
    handle = volume.open("a", "w+")
    handle.pwrite(b"unsaved", 0)
    if not held:
        handle.close()
    if where == "there":
        os.rename(tmp_path / "a", tmp_path / "there")
    leads = {"itself": "a", "outside": str(tmp_path.parent / "x")}
    os.symlink(leads.get(where, where), tmp_path / "link")
    os.rename(tmp_path / "link", tmp_path / "a")
    assert raises(FileExistsError, volume.open, "a", "x").filename == "a"
    assert os.path.islink(tmp_path / "a")
    assert bool(volume.dirty_ranges("a"))
    handle.close()


@pytest.mark.parametrize("keep", [False, True])
def test_an_object_that_another_program_has_renamed_keeps_its_file(volume: Volume, tmp_path: Path, keep: bool) -> None:
    """The new name has its unsaved bytes; an open that keeps the cache uses the old one. [2.20]"""
    stored(volume, "a", b"stored")
    held = volume.open("a", "r+")
    held.pwrite(b"unsaved", 0)
    os.rename(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").write_bytes(b"another")
    with volume.open("a", keep_cache=keep) as again:
        assert again.pread(100, 0) == (b"unsaved" if keep else b"another")
    assert content_of(volume, "b") == b"unsaved"
    assert volume.stat("b").size == len(b"unsaved")
    assert volume.stat("a").size == len(b"another")
    assert {str(found.key): found.size for found in volume.list()} == {"a": 7, "b": 7}
    assert volume.dirty_ranges("b")
    assert keep or [*volume.discard("a"), *volume.dirty_ranges("a")] == []
    held.close()
    volume.sync(20)
    assert (tmp_path / "a").read_bytes() == b"another"
    assert (tmp_path / "b").read_bytes() == b"unsaved"


def test_an_open_beside_writes_by_another_name_takes_no_old_status(tmp_path: Path, monkeypatch: Patch) -> None:
    """The file was closed in the store again when the open finds out that its object is known."""
    (tmp_path / "a").touch()
    os.link(tmp_path / "a", tmp_path / "b")
    with attached(DirectoryBackend(tmp_path, prompt=False), "1MiB") as volume:
        gate, opening = at_gate(held(monkeypatch, DirectoryFile, "stat", after=True), volume.open, "b")
        stored(volume, "a", b"written by the other name")
        volume.sync(20)
        for backend_file in volume.engine.take_idle(0):
            close_backend_file(backend_file)
        with opening.result(opening=gate) as file:
            assert file.pread(100, 0) == b"written by the other name"


def beside_an_open(call: Callable[[], object]) -> Rule:
    """Make a call just after the next open, before the status of its file."""
    return Rule("stat", nth=1, change=lambda *_call: Task(call).result())


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_an_open_beside_its_rename_ends(volume: Volume, backend: Any, tmp_path: Path, own: bool, taken: bool) -> None:
    """The object is known by another name, and its file was opened by the name that it then loses. [2.20]"""
    (tmp_path / "d").mkdir()
    (tmp_path / "l").symlink_to("d")
    (tmp_path / "d" / "a").write_bytes(b"renamed")
    (tmp_path / "other").write_bytes(b"other")
    held = volume.open("d/a", "r+")

    def rename() -> None:
        if own:
            volume.rename("d/a", "d/b")
        else:
            os.rename(tmp_path / "d" / "a", tmp_path / "d" / "b")
        if taken:
            os.rename(tmp_path / "other", tmp_path / "d" / "a")

    backend.use([beside_an_open(rename)])
    opening = Task(volume.open, "l/a", timeout=20)
    if taken:
        with opening.result() as file:
            assert file.pread(100, 0) == b"other"
    else:
        raises(FileNotFoundError, opening.result)
    assert held.pread(100, 0) == b"renamed"
    held.close()


def test_the_open_that_has_made_an_object_is_its_creator(tmp_path: Path) -> None:
    """Another open has found it by another name before, and may have written to a copy in the mirror. [2.13, 2.20]"""
    (tmp_path / "d").mkdir()
    (tmp_path / "l").symlink_to("d")
    backend, mirror = FaultyBackend(DirectoryBackend(tmp_path)), MemoryBackend()
    mirror.open("d/new", create=True).write_from(0, [memoryview(b"earlier")])
    with attached(backend, "1MiB", options={"mirror": mirror}, flush_interval=3600) as volume:
        others: list[CachedFile] = []
        backend.use([beside_an_open(lambda: others.append(volume.open("d/new", "r+")))])
        with volume.open("l/new", "x") as file:
            assert volume.unsaved("l/new")  # its name is not committed
            file.pwrite(b"new", 0)
            assert others[0].pread(100, 0) == b"new"
        others[0].close()
        raises(FileExistsError, volume.open, "l/new", "x")
    raises(FileNotFoundError, mirror.open, "d/new")


@pytest.mark.parametrize("mode", ["x", "w+"])
@pytest.mark.parametrize("reopened", [False, True])
def test_an_open_makes_a_single_object(volume: Volume, backend: Any, tmp_path: Path, reopened: bool, mode: Any) -> None:
    """Another program renames it while the open runs, and an open by the new name is faster. [2.20]"""
    others: list[CachedFile] = []

    def rename() -> None:
        os.rename(tmp_path / "new", tmp_path / "renamed")
        others.append(volume.open("renamed", "r+"))
        if reopened:
            others.pop().close()

    backend.use([beside_an_open(rename)])
    with volume.open("new", mode) as file:
        file.pwrite(b"new", 0)
        assert content_of(volume, "renamed") == b"new"
    assert os.listdir(tmp_path) == ["renamed"]
    for other in others:
        other.close()


def test_a_reconnect_writes_nothing_to_another_object_of_the_name(volume: Volume, backend: Any, tmp_path: Path) -> None:
    """The version of the own last write is not known, so versions are of no use. [2.22]"""
    held = volume.open("a", "w+")
    held.pwrite(b"A" * 8192, 0)
    held.fsync()
    held.pwrite(b"B" * 4096, 0)
    held.sync_range(0, 4096)
    held.pwrite(b"CC", 0)
    os.rename(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").write_bytes(b"other")
    volume.abort()
    volume.reconnect(backend)
    raises(OSError, held.fsync, match="not open in the backend")
    assert (tmp_path / "a").read_bytes() == content_of(volume, "a") == b"other"
    with volume.open("b", "r+"):
        held.fsync()
    assert (tmp_path / "b").read_bytes() == b"CC" + b"B" * 4094 + b"A" * 4096
    assert (tmp_path / "a").read_bytes() == b"other"
    held.close()


@pytest.mark.parametrize("place", ["d/a", "d", "loop"])
@pytest.mark.parametrize("own", [True, False])
def test_a_file_whose_name_is_taken_delays_no_reconnect(volume: Volume, tmp_path: Path, own: bool, place: str) -> None:
    """The bytes of all other files are saved. [2.22]"""
    (tmp_path / "d").mkdir()
    stored(volume, "d/a", b"stored")
    volume.sync(20)
    held, other = volume.open("d/a", "r+"), volume.open("other", "w+")
    other.pwrite(b"saved", 0)
    if own:
        os.link(tmp_path / "d" / "a", tmp_path / "b")
        volume.remove("d/a")
    else:
        os.rename(tmp_path / "d" / "a", tmp_path / "b")
    if place == "d/a":
        (tmp_path / "d" / "a").mkdir()
    else:
        (tmp_path / "d").rmdir()
        (tmp_path / "d").touch() if place == "d" else (tmp_path / "d").symlink_to("d")
    volume.abort()
    volume.reconnect(DirectoryBackend(tmp_path))
    other.fsync()
    assert (tmp_path / "other").read_bytes() == b"saved"
    assert content_of(volume, "b") == b"stored"
    other.close()
    held.close()


@pytest.mark.parametrize("how", ["remove", "rename over"])
@pytest.mark.parametrize("held", [True, False], ids=["held", "closed"])
def test_an_open_through_a_link_makes_no_second_file_of_a_removed_object(
    volume: Volume, backend: Any, tmp_path: Path, how: str, held: bool
) -> None:
    """Its unsaved bytes went with its last name; the open finds what the link leads to now. [2.20]"""
    os.symlink("a", tmp_path / "link")
    stored(volume, "a", b"stored")
    stored(volume, "new", b"another object")
    file = volume.open("a", "r+")
    file.pwrite(b"local bytes", 0)

    def lose() -> None:
        if how == "remove":
            volume.remove("a")
        else:
            volume.rename("new", "a")
        if not held:
            file.close()

    backend.use([beside_an_open(lose)])
    if how == "remove":
        raises(FileNotFoundError, volume.open, "link", "r+")
    else:
        with volume.open("link", "r+") as found:
            assert found.pread(100, 0) == b"another object"
    if held:
        assert file.pread(100, 0) == b"local bytes"
    volume.cache.check()
    file.close()


@pytest.mark.parametrize("call", ["remove", "rename away", "rename over"])
def test_a_name_leads_by_the_present_link(volume: Volume, backend: Any, tmp_path: Path, call: str) -> None:
    """An open that trusts the cache finds no file that the name led to before the link changed. [2.20]"""
    for folder in ("one", "two"):
        os.mkdir(tmp_path / folder)
        stored(volume, f"{folder}/file", folder.encode())
    backend.symlink("one", "link")
    with volume.open("link/file", keep_cache=True) as file:
        assert file.pread(100, 0) == b"one"
    if call == "remove":
        volume.remove("link")
        backend.symlink("two", "link")
    elif call == "rename away":
        volume.rename("link", "other")
        backend.symlink("two", "link")
    else:
        backend.symlink("two", "new")
        volume.rename("new", "link")
    with volume.open("link/file", keep_cache=True) as file:
        assert file.pread(100, 0) == b"two"


def test_a_status_has_bytes_that_were_written_back_after_a_look_that_did_not_know_the_object(tmp_path: Path) -> None:
    """A rename beside the look gives the name to an object with unsaved bytes. [2.20]"""
    looks, saved = Gate(), Gate()

    class Late(DirectoryBackend):
        def stat(self, key: Hashable, **how: bool) -> ObjectStat:
            late = key == "published" and not looks.entered
            if late:
                looks.enter()
            found = super().stat(key, **how)
            if late:
                saved.enter()
            return found

    with attached(Late(tmp_path), dirty_expire=3600, flush_interval=3600) as volume:
        file = volume.open("new", "w+")
        file.pwrite(b"bytes", 0)
        _, looking = at_gate(looks, volume.stat, "published")
        volume.rename("new", "published")
        looks.release()
        saved.wait_entered()
        assert (tmp_path / "published").stat().st_size == 0
        file.fsync()
        saved.release()
        assert looking.result().size == 5
        file.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with files in it and below it."""
    (tmp_path / "old" / "sub").mkdir(parents=True)
    (tmp_path / "old" / "a").write_bytes(b"a stored")
    (tmp_path / "old" / "sub" / "b").write_bytes(b"b stored")
    (tmp_path / "target").write_bytes(b"stored")
    return tmp_path


def test_files_of_a_renamed_directory_keep_what_is_not_written_back(volume: Volume, root: Path) -> None:
    """Open or not: an open by the new name finds it, and the old name leads to another directory. [2.20]"""
    held = volume.open("old/a", "r+")
    held.pwrite(b"A", 0)
    stored(volume, "old/sub/b", b"B", "r+")
    volume.rename("old", "new")
    assert not volume.exists("old/a")
    (root / "old").mkdir()
    with volume.open("old/a", "x+") as other:
        other.pwrite(b"other", 0)
    with volume.open("new/a", "r+") as again:
        assert again.pread(100, 0) == b"A stored"
        again.pwrite(b"!", 1)
    assert held.pread(100, 0) == b"A!stored"
    held.close()
    assert content_of(volume, "new/sub/b") == b"B stored"
    volume.sync(20)
    assert (root / "old" / "a").read_bytes() == b"other"
    assert (root / "new" / "a").read_bytes() == b"A!stored"
    assert (root / "new" / "sub" / "b").read_bytes() == b"B stored"


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("first", ["rename", "open"])
def test_an_open_and_a_rename_above_it_wait_for_each_other(volume: Volume, backend: FaultyBackend, first: str) -> None:
    """The open finds the name gone, or the rename takes the opened file along: never a second object. [2.20]"""
    calls: list[Callable[[], Any]] = [lambda: volume.rename("old", "new"), lambda: volume.open("old/a", "r+")]
    order = (0, 1) if first == "rename" else (1, 0)
    gate, one = at_gate(gated(backend, first), calls[order[0]])
    other = Task(calls[order[1]])
    assert other.waits(0.02)
    gate.release()
    one.result()
    if first == "rename":
        raises(FileNotFoundError, other.result)
        return
    other.result()
    with one.result() as file:
        file.pwrite(b"A", 0)
        assert content_of(volume, "new/a") == b"A stored"


def test_an_abandon_beside_the_rename_of_its_directory(volume: Volume, root: Path, monkeypatch: Patch) -> None:
    """The store has made the rename, and has not answered yet: the others follow the directory. [2.20]"""
    abandoned, held_file = volume.open("old/a", "r+"), volume.open("old/sub/b", "r+")
    abandoned.pwrite(b"A", 0)
    held_file.pwrite(b"B", 0)
    gate, renaming = at_gate(held(monkeypatch, DirectoryBackend, "rename", after=True), volume.rename, "old", "new")
    abandoned.abandon()
    renaming.result(opening=gate)
    assert content_of(volume, "new/a") == b"a stored"
    assert content_of(volume, "new/sub/b") == b"B stored"
    held_file.close()
    assert (root / "new" / "sub" / "b").read_bytes() == b"B stored"


@pytest.mark.usefixtures("root")
def test_no_file_is_freed_beside_a_rename_above_it(volume: Volume, monkeypatch: Patch) -> None:
    """A close of another file frees objects that nothing needs, and leaves those with busy names. [2.20]"""
    for key in ("old/a", "old/sub/b"):
        volume.open(key).close()
    gate, renaming = at_gate(held(monkeypatch, DirectoryBackend, "rename", after=True), volume.rename, "old", "new")
    monkeypatch.setattr(lifetimes, "hollow_max", lambda capacity: 0)
    volume.open("target").close()
    renaming.result(opening=gate)
    assert content_of(volume, "new/a") == b"a stored"
    assert content_of(volume, "new/sub/b") == b"b stored"


@pytest.mark.parametrize("first", [False, True], ids=["another name", "the name that it was opened by"])
@pytest.mark.parametrize("change", ["remove", "rename over"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_the_loss_of_one_name_takes_nothing_from_the_object(
    volume: Volume, root: Path, link: Callable[[Path, Path], None], change: str, first: bool
) -> None:
    """The object keeps its other name; one that is renamed over the first has that. [2.20]"""
    if first and link is os.symlink:
        pytest.skip("the link leads to that name")
    link(root / "target", root / "alias")
    lost, kept = ("target", "alias") if first else ("alias", "target")
    file = volume.open("target", "r+")
    file.pwrite(b"S", 0)
    if change == "remove":
        volume.remove(lost)
        assert not volume.exists(lost)
    else:
        volume.rename("old/a", lost)
        assert content_of(volume, lost) == b"a stored"
    assert content_of(volume, kept) == b"Stored"
    file.close()
    assert (root / kept).read_bytes() == b"Stored"


@pytest.mark.parametrize("target", ["old/a", "old"])
def test_a_renamed_link_that_leads_elsewhere_takes_no_file_along(volume: Volume, root: Path, target: str) -> None:
    """Nothing is where it leads to then, and a file made there is another one. [2.20]"""
    made = os.path.join("deep", target, "" if target == "old/a" else "a").rstrip("/")
    (root / "alias").symlink_to(target)
    (root / "deep" / "old").mkdir(parents=True)
    file = volume.open("old/a", "r+")
    file.pwrite(b"A", 0)
    volume.rename("alias", "deep/alias")
    assert os.readlink(root / "deep" / "alias") == target
    assert not volume.exists(made)
    with volume.open(made, "x+") as other:
        other.pwrite(b"other", 0)
    assert content_of(volume, "old/a") == file.pread(100, 0) == b"A stored"
    file.close()
    assert (root / "old" / "a").read_bytes() == b"A stored"
    assert (root / made).read_bytes() == b"other"


def test_a_change_of_a_link_does_not_wait_for_its_file(volume: Volume, backend: FaultyBackend, root: Path) -> None:
    """The file is being opened by a slow call. [2.20]"""
    for name in ("one", "two"):
        (root / name).symlink_to("target")
    gate, opening = at_gate(gated(backend, "open"), volume.open, "target", "r+")
    volume.rename("one", "three", timeout=20)
    volume.remove("two", timeout=20)
    gate.release()
    with opening.result():
        assert sorted(path.name for path in root.iterdir() if path.is_symlink()) == ["three"]
