"""Objects that a crash has left bytes of: gone, back, replaced, with other names; calls that wait for them. [2.28]"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import math
import os
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem

from pagecache import (
    Advice,
    CachedFile,
    ConflictError,
    DataLossError,
    DiskTier,
    Event,
    PageCache,
    RetryPolicy,
    ShutdownError,
    UnsavedDataError,
    Volume,
)
from pagecache.backends import DirectoryBackend
from pagecache.backends.fsspec import FsspecBackend
from pagecache.cli import main
from pagecache.disk import contents
from pagecache.disk.device import OS
from pagecache.disk.recovery import Unsaved
from pagecache.engine.commit.journaled import Journaled
from pagecache.errors import Key
from pagecache.fuse.namespace import namespace_of
from pagecache.observe import documents
from pagecache.testing import Gate
from pagecache.volume import laying, lifetimes, opening, recovered
from pagecache.volume.recovered import Recovery
from tests import commands
from tests.disk.copying import copy_tier
from tests.disk.test_durability import IN_PLACE, OLD, WHOLE, Make, World, changed, disk_fails, failing, losing_a_sync
from tests.disk.test_recovered import BIG, FOREIGN, before_read
from tests.disk.test_tier import read
from tests.disk.test_unsaved import on_disk
from tests.file.rig import Task, at_gate, beside, eventually, raises, raising, wait_for
from tests.file.rig import held as holding
from tests.stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend, StoredObject

pytestmark = pytest.mark.contract("D1", "D3", "D5", "D10")


# -- gone, back, replaced


@pytest.mark.parametrize("first", ["an open", "an open that is made again", "a rename"])
def test_bytes_of_an_object_that_is_gone_are_not_laid_over_another_one_of_its_name(world: World, first: str) -> None:
    if isinstance(world.store, ObjectBackend):
        world.store.put("o", OLD[::-1])
    else:
        world.store.objects["o"] = StoredObject(OLD[::-1])
    world.synced(b"new")
    world.store.objects.pop("k")
    after = world.crash(on_recovery="hold")
    raises(FileNotFoundError, after.open)
    raises(FileExistsError, after.open, "o", "x+b")
    raises(FileNotFoundError, after.volume.rename, "none", "k")
    assert after.left() == ["k"]
    if first != "a rename":
        if first == "an open that is made again":  # its first try has made the object
            after.store.fault("open answer", OSError(errno.ECONNRESET, "no answer"), skip=0)
        made = after.open(mode="w+b")
        made.pwrite(OLD[::-1], 0)
        raises(DataLossError, made.fsync, durability="backend")
    else:
        after.volume.rename("o", "k")
    assert after.left() == []
    assert after.crash().read() == OLD[::-1]


LAID = changed(9000, b"more", changed(0, b"new"))


@contextmanager
def left(folder: Path, key: str, then: Any = lambda file: None) -> Iterator[Volume]:
    """A volume on a directory, and bytes in its journal that a crash has left of an object."""
    path = folder / "store" / key
    path.parent.mkdir(parents=True)
    path.write_bytes(OLD)
    cache, volume = on_disk(folder / "first", f"dir:{folder}/store", on_recovery="hold")
    file = volume.open(key, "r+b")
    file.pwrite(b"new", 0)
    file.pwrite(b"more", 9000)
    file.fsync()
    then(file)
    copy_tier(folder / "first", folder / "second")
    volume.abort()
    file._leave()
    cache.close(on_failed="discard")
    cache, volume = on_disk(folder / "second", f"dir:{folder}/store", on_recovery="hold")
    yield volume
    cache.close()


def test_bytes_of_a_file_that_gets_a_link_while_it_loses_its_name_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"

    def replaced(file: CachedFile) -> None:
        (store / "b").write_bytes(b"other")
        beside(monkeypatch, DirectoryBackend, "rename", lambda: os.link(store / "k", store / "link"))
        file.volume.rename("b", "k")

    with left(tmp_path, "k", replaced) as volume:
        with volume.open("k") as file:
            assert file.read() == b"other"
        assert listed(volume) == ["k"]
        assert read(volume, "link") == LAID
        assert listed(volume) == ["link"]
        volume.resume()
        volume.sync(durability="backend")
        assert listed(volume) == []
    assert ((store / "k").read_bytes(), (store / "link").read_bytes()) == (b"other", LAID)


def listed(volume: Volume) -> list[Any]:
    """The names of the objects that a crash has left bytes of."""
    return [found.key for found in volume.recovered()]


@pytest.mark.parametrize("source", ["a link that leads nowhere", "a link out", "a file that is removed then"])
@pytest.mark.parametrize("done", [False, True])
def test_a_missing_source_proves_no_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, *, done: bool
) -> None:
    store = tmp_path / "store"
    rename = DirectoryBackend.rename

    def announced(file: CachedFile) -> None:
        if "link" in source:
            (store / "s").symlink_to("nowhere" if "nowhere" in source else "/")
        else:
            (store / "s").write_bytes(FOREIGN)
        monkeypatch.setattr(DirectoryBackend, "rename", killed)
        raises(PermissionError, file.volume.rename, "s", "k")

    def killed(*arguments: Any, **options: Any) -> None:
        if done:
            rename(*arguments, **options)
        copy_tier(tmp_path / "first", tmp_path / "kill")
        raise PermissionError

    with left(tmp_path, "k", announced):
        pass
    if "removed" in source:
        (store / "s").unlink(missing_ok=True)
    cache, volume = on_disk(tmp_path / "kill", f"dir:{store}", on_recovery="hold")
    if done:
        volume.discard("k")
        assert listed(volume) == []
    else:
        assert read(volume, "k") == LAID
    cache.close()


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("name", ["known", "unknown", "unknown, beside another rename", "a link", "an older one"])
def test_bytes_below_a_directory_are_kept_when_a_kill_meets_its_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, name: str, done: bool
) -> None:
    """The rename of another directory makes every name one that may have changed."""
    store, rename = tmp_path / "store", DirectoryBackend.rename
    first = {"a link": "out/k", "an older one": "folder/older"}.get(name, "folder/k")

    def killed(backend: Any, src: str, *arguments: Any, **options: Any) -> None:
        if done or src != "folder":
            rename(backend, src, *arguments, **options)
        if src == "folder":
            if name == "unknown, beside another rename":
                Task(another, volumes.pop()).result()
            copy_tier(tmp_path / "first", tmp_path / "kill")
            raise PermissionError

    def another(volume: Volume) -> None:
        volume.rename("third", "fourth")
        with volume.open("new", "x+b") as new:
            new.fsync()

    volumes: list[Volume] = []

    def renamed(file: CachedFile) -> None:
        volume = file.volume
        volumes.append(volume)
        (store / "folder").mkdir(exist_ok=True)
        for other in ("other", "third"):
            (store / other).mkdir()
        if name == "a link":
            os.link(store / first, store / "folder" / "k")
        elif name == "an older one":
            volume.rename("third", "fourth")
            os.rename(store / first, store / "folder" / "k")
        volume.open("folder/k").close()
        if name != "known":
            volume.rename("other", "another")
        monkeypatch.setattr(DirectoryBackend, "rename", killed)
        raises(PermissionError, volume.rename, "folder", "moved")

    with left(tmp_path, first, renamed):
        pass
    if name == "a link" and done:
        (store / first).unlink()
    cache, volume = on_disk(tmp_path / "kill", f"dir:{store}", on_recovery="hold")
    volume.resume()
    volume.sync(durability="backend")
    cache.close()
    assert (store / ("moved" if done else "folder") / "k").read_bytes() == LAID


def test_a_rename_over_an_object_that_a_kill_has_kept_from_happening_takes_no_bytes(world: World) -> None:
    """Though its source is missing then."""
    world.open("o", "x+b").close()
    world.volume.sync(durability="backend")
    world.synced(b"new")
    after = world.killed_in("rename", world.volume.rename, "o", "k", carried_out=False, on_recovery="hold")
    after.store.objects.pop("o")
    assert after.read() == changed(0, b"new")


@WHOLE
@pytest.mark.parametrize("how", ["copied by the rename", "copied by the rename, and changed", "changed without it"])
def test_a_conflict_says_that_a_rename_at_the_kill_may_have_made_the_other_version(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Its bytes may be those of another program: only the versions could prove whose they are."""
    store, without = world.store, "without" in how
    assert isinstance(store, ObjectBackend)

    def rename(src: str, dst: str, **_options: Any) -> None:
        del store.objects[src]
        store.put(dst, OLD)

    monkeypatch.setattr(store, "rename", rename)
    world.synced(b"new")
    after = world.killed_in("rename", world.volume.rename, "k", "o", carried_out=not without, on_recovery="hold")
    key = "k" if without else "o"
    if "changed" in how:
        assert isinstance(after.store, ObjectBackend)
        after.store.put(key, OLD[::-1])
    error = raises(ConflictError, after.read, key, match="another version than the one below")
    assert ("the rename from 'k', which a crash has met, may have made it" in str(error)) == (not without)
    after.volume.resolve(key, "rebase")
    assert after.read(key) == changed(0, b"new", after.saved(key) or b"")


def test_files_below_a_directory_that_is_renamed_are_recovered_before(tmp_path: Path) -> None:
    with left(tmp_path, "d/k") as volume:
        volume.rename("d", "e")
        assert read(volume, "e/k") == LAID
        volume.resume()
        volume.sync(durability="backend")
        assert listed(volume) == []


@pytest.mark.parametrize("way", ["a rename", "a link", "a symbolic link"])
def test_bytes_below_a_directory_that_is_gone_are_not_laid_over_what_gets_its_name(tmp_path: Path, way: str) -> None:
    with left(tmp_path, "e/k") as volume:
        (tmp_path / "store/d").mkdir()
        (tmp_path / "store/d/k").write_bytes(FOREIGN)
        shutil.rmtree(tmp_path / "store/e")
        raises(FileNotFoundError, volume.open, "e/k")
        assert listed(volume) == ["e/k"]
        names = namespace_of(volume)  # as a mount makes them
        if way == "a rename":
            volume.rename("d", "e")
        else:
            names.mkdir("e")
            assert listed(volume) == ["e/k"]
            names.link("d/k", "e/k", "file") if way == "a link" else names.symlink("../d/k", "e/k")
        volume.resume("e/k")
        volume.sync()
        assert read(volume, "e/k") == FOREIGN
        assert listed(volume) == ["e/k"]


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("order", ["first", "beside", "emptied"])
def test_an_open_by_another_name_finds_the_bytes_that_were_left(tmp_path: Path, link: Any, order: str) -> None:
    opened: list[Task[Any]] = []

    def opening(offset: int) -> None:
        if offset and not opened:
            opened.append(Task(volume.open, "other", "r+b"))
            assert opened[-1].waits()

    with left(tmp_path, "k") as volume:
        link(tmp_path / "store/k", tmp_path / "store/other")
        (tmp_path / "store/third").write_bytes(FOREIGN)
        assert read(volume, "third") == FOREIGN
        if order == "beside":
            with before_read(opening):
                volume.open("k").close()
            other = opened[0].result()
        else:
            other = volume.open("other", "r+b" if order == "first" else "w+b")
        with other, volume.open("k") as file:
            assert other.read() == file.read() == (b"" if order == "emptied" else LAID)


@pytest.mark.parametrize("link", [os.link, os.symlink, "of its directory"])
def test_an_open_by_another_name_finds_bytes_of_an_object_without_a_lasting_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: Any
) -> None:
    monkeypatch.setattr(DirectoryBackend, "lasting_identity", lambda *_: None)  # as on NFS and FUSE
    with left(tmp_path, "d/k") as volume:
        name = "other"
        if callable(link):
            link(tmp_path / "store/d/k", tmp_path / "store/other")
        else:
            (tmp_path / "store/other").symlink_to("d")
            name = "other/k"
        with volume.open(name, "r+b") as file:
            assert file.read() == LAID
            file.pwrite(b"last", 0)
            file.fsync(durability="backend")
        volume.resume()
        volume.sync(durability="backend")
        assert listed(volume) == []
    assert (tmp_path / "store/d/k").read_bytes() == changed(0, b"last", LAID)


def looks_fail(patch: pytest.MonkeyPatch, error: OSError, *keys: Key) -> list[Key]:
    """Have the looks for these objects fail, and return the list of those that have."""
    look, failed = DirectoryBackend.stat, list[Key]()

    def stat(backend: DirectoryBackend, key: Key) -> Any:
        if key in keys:
            failed.append(key)
            raise error
        return look(backend, key)

    patch.setattr(DirectoryBackend, "stat", stat)
    return failed


def another(store: Path, first: CachedFile) -> None:
    """Write to a second object, `e/k`, which the store has by the name `other`, too."""
    (store / "e").mkdir()
    (store / "e/k").write_bytes(OLD)
    os.link(store / "e/k", store / "other")
    second = first.volume.open("e/k", "r+b")
    second.pwrite(b"new", 0)
    second.fsync()
    second._leave()


def test_a_look_that_fails_fails_no_open_and_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirectoryBackend, "lasting_identity", lambda *_: None)
    monkeypatch.setattr(recovered, "AGAIN", 0.0)
    with left(tmp_path, "d/k") as volume:
        os.link(tmp_path / "store/d/k", tmp_path / "store/other")
        (tmp_path / "store/free").write_bytes(FOREIGN)
        with monkeypatch.context() as patch:
            looks_fail(patch, TimeoutError(errno.ETIMEDOUT, "the server does not answer"), "d/k")
            assert read(volume, "free") == FOREIGN
        assert read(volume, "other") == LAID


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "refused"), OSError(errno.EIO, "a bad place")])
def test_an_object_whose_look_always_fails_hides_no_bytes_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """An error that may be one of the server ends the round; the next one begins with the others."""
    monkeypatch.setattr(DirectoryBackend, "lasting_identity", lambda *_: None)
    monkeypatch.setattr(recovered, "AGAIN", 3600.0 if error.errno == errno.EACCES else 0.0)
    with left(tmp_path, "d/k", partial(another, tmp_path / "store")) as volume:
        (tmp_path / "store/free").write_bytes(FOREIGN)
        with monkeypatch.context() as patch:
            failed = looks_fail(patch, error, "d/k")
            if error.errno == errno.EIO:
                assert read(volume, "free") == FOREIGN
            assert read(volume, "other") == changed(0, b"new")
            looks = len(failed)
            assert read(volume, "free") == FOREIGN
            assert len(failed) == looks + (error.errno == errno.EIO)


REFUSED = PermissionError(errno.EACCES, "refused")


@contextmanager
def unseen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Volume]:
    """A volume with bytes that were left of `d/k`, which has the name `other`, too: no open by that name finds them."""
    monkeypatch.setattr(DirectoryBackend, "lasting_identity", lambda *_: None)
    monkeypatch.setattr(recovered, "AGAIN", 3600.0)
    with left(folder, "d/k") as volume:
        os.link(folder / "store/d/k", folder / "store/other")
        with monkeypatch.context() as patch:
            looks_fail(patch, REFUSED, "d/k")
            assert read(volume, "other") == OLD
        yield volume


@pytest.mark.parametrize("again", [False, True])
def test_bytes_that_were_left_are_not_laid_over_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    """Those were confirmed by another name. `again`: by a second handle of its file."""
    store = tmp_path / "store/d/k"
    with unseen(tmp_path, monkeypatch) as volume:
        with ExitStack() as handles:
            other: Any = handles.enter_context(volume.open("other", "rb" if again else "r+b"))
            if again:
                monkeypatch.setattr(recovered, "AGAIN", 0.0)
                volume.recovery._see_at = 0.0  # type: ignore[union-attr]
                (tmp_path / "store/free").write_bytes(FOREIGN)
                read(volume, "free")  # a round that finds the object
                other = handles.enter_context(opening.open_again(other, os.O_RDWR))  # type: ignore[arg-type]
            other.pwrite(b"later", 0)
            other.fsync(durability="backend")
        assert raises(OSError, read, volume, "d/k").errno == errno.EBUSY
        volume.resume()
        assert raises(OSError, volume.sync, durability="backend").errno == errno.EBUSY
        assert (listed(volume), store.read_bytes()) == (["d/k"], changed(0, b"later"))
        volume.resume("d/k")  # the program decides
        volume.sync(durability="backend")
        assert (listed(volume), store.read_bytes()) == ([], changed(0, b"newer", LAID))


def test_a_resume_counts_beside_a_laying_that_is_about_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls that wait for it get the outcome of one that begins after that."""
    gate, has_newer = Gate(), Recovery.has_newer

    def held(*args: Any) -> bool:
        found = has_newer(*args)
        gate.enter(WAIT_LIMIT_S)
        return found

    with unseen(tmp_path, monkeypatch) as volume:
        with volume.open("other", "r+b") as other:
            other.pwrite(b"later", 0)
            other.fsync(durability="backend")
        monkeypatch.setattr(Recovery, "has_newer", held)
        _, first = at_gate(gate, read, volume, "d/k")
        volume.resume("d/k")
        calls = Task(volume.sync, durability="backend"), Task(read, volume, "d/k")
        assert all(call.waits() for call in calls)
        gate.release()
        calls[0].result()
        assert first.result() == calls[1].result() == changed(0, b"newer", LAID)


def test_bytes_that_were_left_are_not_laid_over_newer_ones_after_a_reconnect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same tree with other identities: it was restored, or its file system mounted anew."""
    with unseen(tmp_path, monkeypatch) as volume:
        with volume.open("other", "r+b") as other:
            other.pwrite(b"later", 0)
            other.fsync(durability="backend")
        (tmp_path / "next/d").mkdir(parents=True)
        shutil.copy(tmp_path / "store/d/k", tmp_path / "next/d/k")
        os.link(tmp_path / "next/d/k", tmp_path / "next/other")
        volume.abort()
        volume.reconnect(DirectoryBackend(tmp_path / "next"))
        assert raises(OSError, read, volume, "d/k").errno == errno.EBUSY
        assert (tmp_path / "next/d/k").read_bytes() == changed(0, b"later")
        volume.resume("d/k")  # the program decides
        volume.sync(durability="backend")
        assert (listed(volume), (tmp_path / "next/d/k").read_bytes()) == ([], changed(0, b"newer", LAID))


@pytest.mark.parametrize("before", [False, True])
def test_a_sync_that_waits_for_a_laying_keeps_no_volume_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    """The end lays nothing more. `before`: the sync has begun before it. [2.15, 2.28]"""
    with unseen(tmp_path, monkeypatch) as volume:
        with volume.open("other", "r+b") as other:
            other.pwrite(b"later", 0)
            other.fsync(durability="backend")
        volume.resume()  # not by name: each laying fails with EBUSY
        assert raises(OSError, volume.sync, durability="backend").errno == errno.EBUSY
        volume.engine.durability = "backend"
        stop = Recovery.stop
        gate = Gate()

        def held(self: Recovery, *args: Any) -> None:
            if before:
                waiting.append(Task(volume.begin_sync).result())  # the laying has failed, and is not tried again
            stop(self, *args)
            if not before:
                waiting.append(Task(volume.begin_sync).result())
            gate.enter(WAIT_LIMIT_S)

        waiting: list[Any] = []
        monkeypatch.setattr(Recovery, "stop", held)
        _, ending = at_gate(gate, volume.detach)
        sync = Task(waiting[0].wait)
        gate.release()
        raises(UnsavedDataError, ending.result)
        raises(OSError, sync.result)
        volume.resume("d/k")
        volume.sync()


def test_bytes_that_were_left_are_given_up_for_newer_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with unseen(tmp_path, monkeypatch) as volume:
        with volume.open("other", "r+b") as other:
            other.pwrite(b"later", 0)
            other.fsync(durability="backend")
        assert volume.discard("d/k")
        assert (listed(volume), read(volume, "d/k")) == ([], changed(0, b"later"))


def test_an_open_for_writing_by_another_name_waits_for_a_laying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not found the laid bytes."""
    gate = Gate()
    hold = before_read(lambda offset: gate.enter(WAIT_LIMIT_S) if offset else None)
    with unseen(tmp_path, monkeypatch) as volume, hold:
        _, laying = at_gate(gate, read, volume, "d/k")
        other = Task(volume.open, "other", "r+b")
        assert other.waits()
        gate.release()
        with other.result() as file:
            assert file.read() == laying.result() == LAID


@pytest.mark.parametrize("since", [False, True])
def test_bytes_that_were_left_are_not_laid_beside_a_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, since: bool
) -> None:
    """By another name: not before its handle is closed, and the file is resumed once more. `since`: it has opened the
    object after the first time, and closed it.
    """
    store = tmp_path / "store/d/k"
    with unseen(tmp_path, monkeypatch) as volume:
        if since:
            with monkeypatch.context() as patch:
                patch.setattr(recovered.Recovery, "start", lambda _: None)
                volume.resume("d/k")
        with volume.open("other", "r+b") as other:
            if not since:
                volume.resume("d/k")
                assert raises(OSError, volume.sync, durability="backend").errno == errno.EBUSY
            other.pwrite(b"later", 9000)
            other.fsync(durability="backend")
        assert raises(OSError, volume.sync, durability="backend").errno == errno.EBUSY
        assert store.read_bytes()[9000:9005] == b"later"
        volume.resume("d/k")
        volume.sync(durability="backend")
        assert (listed(volume), store.read_bytes()) == ([], changed(9004, b"r", LAID))


def test_a_close_beside_a_laying_that_is_refused_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with unseen(tmp_path, monkeypatch) as volume:
        other = volume.open("other", "r+b")
        other.pwrite(b"later", 0)
        gate, laying = at_gate(holding(monkeypatch, recovered.Recovery, "has_begun"), read, volume, "d/k")
        other.close()
        assert raises(OSError, laying.result, opening=gate).errno == errno.EBUSY
        inode = other._inode
        assert inode.journaled.is_live() or not inode.has_local()


def test_looks_that_have_failed_are_made_again_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And by no open beside another one."""
    monkeypatch.setattr(DirectoryBackend, "lasting_identity", lambda *_: None)
    monkeypatch.setattr(recovered, "AGAIN", 0.0)
    monkeypatch.setattr(recovered, "LOOKS", 1)
    with left(tmp_path, "d/k", partial(another, tmp_path / "store")) as volume:
        (tmp_path / "store/free").write_bytes(FOREIGN)
        with monkeypatch.context() as patch:
            failed = looks_fail(patch, REFUSED, "d/k", "e/k")
            for _ in range(2):
                assert read(volume, "free") == FOREIGN
            assert failed == ["d/k", "e/k", "d/k"]
            patch.setattr(recovered, "AGAIN", 3600.0)
            gate, look = Gate(), DirectoryBackend.stat

            def stat(backend: DirectoryBackend, key: Key) -> Any:
                if key in ("d/k", "e/k"):
                    gate.enter(WAIT_LIMIT_S)
                return look(backend, key)

            patch.setattr(DirectoryBackend, "stat", stat)
            _, first = at_gate(gate, read, volume, "free")
            assert Task(read, volume, "free").result() == FOREIGN
            gate.release()
            assert first.result() == FOREIGN
            assert failed == ["d/k", "e/k", "d/k", "e/k"]


def test_a_round_of_looks_at_a_dead_server_waits_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirectoryBackend, "lasting_identity", lambda *_: None)
    with left(tmp_path, "d/k", partial(another, tmp_path / "store")) as volume:
        (tmp_path / "store/free").write_bytes(FOREIGN)
        with monkeypatch.context() as patch:
            failed = looks_fail(patch, TimeoutError(errno.ETIMEDOUT, "the server does not answer"), "d/k", "e/k")
            assert (read(volume, "free"), failed) == (FOREIGN, ["d/k"])


@pytest.mark.parametrize("call", ["an open by its name", "resume"])
def test_a_call_beside_a_look_that_is_over_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The look was for the former name."""
    opened: list[Task[Any]] = []
    former, name = tmp_path / "store/k", tmp_path / "store/m"

    def beside_it() -> None:
        if call == "resume":
            name.rename(former)
            volume.resume("k")
        else:
            opened.append(Task(volume.open, "m", "r+b"))
            assert opened[0].waits()

    with left(tmp_path, "k") as volume:
        former.rename(name)  # by another program
        beside(monkeypatch, recovered, "cause", beside_it)
        raises(FileNotFoundError, volume.rename, "none", "k")
        for each in opened:
            with each.result() as file:
                assert file.read() == LAID
                file.pwrite(b"last", 0)
                file.fsync(durability="backend")
        volume.sync(durability="backend")
        assert listed(volume) == []
        volume.open("m" if opened else "k").close()
        volume.sync(durability="backend")
    assert (name if opened else former).read_bytes() == (changed(0, b"last", LAID) if opened else LAID)


@pytest.mark.parametrize("folder", ["store", "next"])
def test_bytes_that_were_left_belong_to_an_object_and_not_to_its_name(tmp_path: Path, folder: str) -> None:
    with left(tmp_path, "k") as volume:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "new").write_bytes(FOREIGN)
        os.replace(tmp_path / folder / "new", tmp_path / folder / "k")
        if folder == "next":
            volume.abort()
            volume.reconnect(DirectoryBackend(tmp_path / folder))
        assert {found.key: found.size for found in volume.list()}["k"] == len(FOREIGN)
        volume.resume()
        with volume.open("k", "r+b") as file:
            assert file.read() == FOREIGN
            file.pwrite(b"last", 0)
        volume.sync(durability="backend")
        assert listed(volume) == ["k"]
    assert (tmp_path / folder / "k").read_bytes() == b"last" + FOREIGN[4:]


def gone(world: World, **options: Any) -> tuple[World, Any]:
    """A world after a crash that has left bytes of `k`, which another program has taken away, and the taken object."""
    world.open("o", "x+b").fsync(durability="backend")
    world.open().pwrite(b"new", 0)
    world.synced(b"more", 9000)
    after = world.crash(on_recovery="hold", **options)
    taken = after.store.objects.pop("k")
    for _ in range(2):
        raises(FileNotFoundError, after.read)
    assert after.left() == ["k"]
    return after, taken


@pytest.mark.parametrize("why", ["held", "laid and held", "gone", "down"])
def test_files_that_only_the_tier_has_are_not_said_to_be_saved(
    world: World, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    """`down`: the store refuses each open, of two files."""
    caplog.set_level(logging.INFO)
    world.synced(b"more", 0, "l", "x+b")
    world.synced(b"new")
    after = world.crash(on_recovery="hold", retry=RetryPolicy(attempts=1))
    if why == "laid and held":
        assert after.read() == changed(0, b"new")
    elif why == "gone":
        after.store.objects.pop("k")
        raises(FileNotFoundError, after.read)
    elif why == "down":
        after.store.fault("open", OSError(errno.EIO, "down"), times=math.inf)
        after.volume.resume()
    after.cache.serve_stats(socket := after.folder / "s")
    (one,) = documents.stats(after.cache)["volumes"]
    assert (one["clean_in"], one["recovered"]) == (None, {"files": 2, "bytes": 7})
    top, drain = (
        commands.call(*words, str(socket)).stdout for words in (("top", "--once"), ("drain", "--deadline", "20"))
    )
    assert ("all saved" in top, "2 recovered files not saved" in top) == (False, True)
    saying, *failed = drain.splitlines()
    assert saying.endswith("NOT SAVED: 2 files, 7 B, that an earlier process left, only in the disk tier")
    assert len(failed) == (2 if why == "down" else 0)
    assert commands.call("drain", str(socket)).exit_code == 1
    after.cache.close()
    assert caplog.messages[-1].endswith("detached; unsaved bytes of 2 files stay in the disk tier")


def test_an_object_that_is_replaced_after_the_look_at_it_gets_no_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "store/new"
    with left(tmp_path, "k") as volume:
        new.write_bytes(FOREIGN)
        beside(monkeypatch, DirectoryBackend, "stat", lambda: new.replace(tmp_path / "store/k"), after=True)
        assert read(volume, "k") == FOREIGN


def test_a_look_at_another_object_of_the_name_keeps_no_close_from_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Volume._open

    def closing(*arguments: Any, lays: bool = False, **options: Any) -> CachedFile:
        handle = opened(*arguments, lays=lays, **options)
        if lays:
            file.close()
        return handle

    with left(tmp_path, "k") as volume:
        (tmp_path / "store/new").write_bytes(FOREIGN)
        os.replace(tmp_path / "store/new", tmp_path / "store/k")
        file = volume.open("k", "r+b")
        file.pwrite(b"last", 0)
        monkeypatch.setattr(Volume, "_open", closing)
        assert volume.exists("k")
        monkeypatch.undo()
        file.close()
        eventually(lambda: (tmp_path / "store/k").read_bytes() == b"last" + FOREIGN[4:])


@pytest.mark.parametrize("looked", [False, True])
def test_bytes_of_an_object_that_comes_back_are_laid_before_it_is_open(
    world: World, monkeypatch: pytest.MonkeyPatch, *, looked: bool
) -> None:
    after, taken = gone(world)
    back = partial(after.store.objects.__setitem__, "k", taken)
    if looked:  # it was looked for, and is opened now
        beside(monkeypatch, Recovery, "first", back, after=True)
    else:
        back()
    file = after.open()
    assert file.read() == LAID
    file.pwrite(b"last", 0)
    after.volume.resume("k")
    file.fsync()
    assert after.crash().read() == changed(0, b"last", LAID)


@pytest.mark.parametrize("by", ["x+b", "w+b", "a+b", "a rename"])
def test_given_up_bytes_of_a_gone_object_are_a_loss_of_the_next_handle_of_its_name(world: World, by: str) -> None:
    after, _ = gone(world)
    events: list[Event] = []
    end = after.cache.subscribe(events.append)
    if by == "a rename":
        after.volume.rename("o", "k")
    file = after.open(mode=by if "+" in by else "a+b")
    file.pwrite(b"mine", 0)
    error = raises(DataLossError, file.fsync)
    assert [(lost.key, lost.offset, lost.length) for lost in error.ranges] == [("k", 0, 3), ("k", 9000, 4)]
    file.fsync(durability="backend")
    file.close()
    after.open().close()
    assert (after.left(), after.saved()) == ([], b"mine")
    eventually(lambda: any(event.kind == "disk" for event in events))
    end()
    assert [(each.key, each.ranges) for each in events if each.kind == "disk"] == [("k", ((0, 3), (9000, 4)))]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_look_for_a_gone_object_beside_its_creation_ends(
    world: World, monkeypatch: pytest.MonkeyPatch, *, resumed: bool
) -> None:
    after, _ = gone(world)
    looks: list[Task[Any]] = []

    def looking() -> None:
        if resumed:
            after.volume.resume("k")
        looks.append(Task(after.read))
        assert looks[-1].waits()

    beside(monkeypatch, Recovery, "give_up", looking)
    made = after.open(mode="x+b")
    raises(DataLossError, looks[0].result)
    assert made.read() == b""
    raises(DataLossError, made.close)
    assert after.left() == []


@pytest.mark.parametrize("call", ["a rename", "a rename of an open file", "a creation"])
def test_a_call_for_the_name_of_a_gone_object_whose_result_is_unknown_gives_its_bytes_up(
    world: World, call: str
) -> None:
    if call == "a creation" and isinstance(world.store, ObjectBackend):
        pytest.skip("the store has nothing of it")
    after, _ = gone(world, retry=RetryPolicy(attempts=1))
    if call == "a rename of an open file":
        after.open("o")
    after.store.fault(f"{'open' if call == 'a creation' else 'rename'} answer", OSError(errno.ECONNRESET, "no answer"))
    if call == "a creation":
        raises(ConnectionResetError, after.open, mode="x+b")
    else:
        raises(ConnectionResetError, after.volume.rename, "o", "k")
    assert after.left() == []
    raises(DataLossError, after.read)
    assert after.read() == b""


@pytest.mark.parametrize("first", ["an open", "a rename", "a remove that was carried out"])
def test_a_full_disk_fails_no_call_that_gives_bytes_up(world: World, first: str) -> None:
    """A later start looks again. [D5]"""
    world.open("o", "x+b").fsync(durability="backend")
    file = world.synced(b"new")
    if first == "a remove that was carried out":
        file._inode.journaled.removing()
        file.fsync()
    after = world.crash(on_recovery="hold")
    after.store.objects.pop("k")
    with disk_fails("fallocate", "pwritev", "fdatasync", error=errno.ENOSPC):
        raises(FileNotFoundError, after.open)
        if first == "an open":
            made = after.open(mode="x+b")
            made.write(FOREIGN)
            raises(OSError, made.fsync, durability="backend")  # a crash might bring the old bytes back
        elif first == "a rename":
            after.volume.rename("o", "k")
        assert after.volume.exists("k") == (not first.startswith("a remove"))


# -- beside calls that wait for it


def left_in_two(world: World, **options: Any) -> World:
    """A world after a crash that has left bytes of `k` and `o`."""
    world.open("o", "x+b").fsync(durability="backend")
    for key in ("k", "o"):
        world.synced(b"new", key=key)
    return world.crash(on_recovery="hold", **options)


def test_no_call_waits_longer_than_it_may_for_the_laying_of_a_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = left_in_two(world, timeout=0.2)
    gate, first = at_gate(holding(monkeypatch, Unsaved, "read"), after.read)
    with gate:
        for call in (after.open, partial(after.volume.discard, "k"), partial(after.volume.exists, "k")):
            raises(TimeoutError, call)
        after.volume.resume()
        eventually(lambda: after.stored("o") == b"new")
        waiting = Task(after.volume.open, "k", timeout=WAIT_LIMIT_S)
        wait_for(after.cache, "the recovery of the object")
        after.volume.abort()
        raises(ShutdownError, waiting.result)
    raises(OSError, first.result)


def test_a_directory_or_a_file_above_is_no_object_that_bytes_were_left_of(tmp_path: Path) -> None:
    with left(tmp_path, "e/k") as volume:
        (tmp_path / "store/e/k").unlink()
        (tmp_path / "store/e/k").mkdir()
        volume.resume()
        volume.sync()
        assert volume.stat("e/k").kind == "dir"
        (tmp_path / "store/e/k").rmdir()
        (tmp_path / "store/e").rmdir()
        (tmp_path / "store/e").write_bytes(FOREIGN)
        volume.sync()
        raises(NotADirectoryError, volume.stat, "e/k")
        volume.rename("e", "f")
        assert listed(volume) == ["e/k"]


@pytest.mark.parametrize("way", ["a creation", "a link", "a rename"])
def test_a_link_to_its_directory_makes_no_other_object_that_of_the_bytes(tmp_path: Path, way: str) -> None:
    with left(tmp_path, "d/k") as volume:
        (tmp_path / "store/d/k").unlink()
        (tmp_path / "store/sd").symlink_to("d")
        (tmp_path / "store/o").write_bytes(FOREIGN)
        if way == "a creation":
            volume.open("sd/k", "x+b").close()
        elif way == "a link":
            namespace_of(volume).link("o", "sd/k", "file")
        else:
            volume.rename("o", "sd/k")
        volume.resume()
        assert read(volume, "d/k") == (b"" if way == "a creation" else FOREIGN)
        assert listed(volume) == ["d/k"]


def test_the_names_of_a_mount_have_the_size_of_what_was_left(tmp_path: Path) -> None:
    with left(tmp_path, "e/k") as volume:
        os.truncate(tmp_path / "store/e/k", 100)
        names = namespace_of(volume)
        for _ in range(2):
            assert [(name, found.size) for name, found in names.entries("e")] == [("k", len(OLD))]
            assert names.status("e/k").size == len(OLD)


def test_a_link_over_the_name_that_an_object_was_about_to_get_gives_nothing_up(tmp_path: Path) -> None:
    def about_to_rename(file: CachedFile) -> None:
        file._inode.journaled.renaming("m")
        file.fsync()

    with left(tmp_path, "k", about_to_rename) as volume:
        (tmp_path / "store/x").write_bytes(FOREIGN)
        namespace_of(volume).link("x", "m", "file")
        assert read(volume, "k") == LAID


@WHOLE
def test_what_was_laid_in_part_is_not_saved_before_it_is_taken_back(world: World) -> None:
    assert isinstance(world.store, ObjectBackend)
    world.store.put("k", bytes(len(BIG)))
    world.synced(BIG)
    after = world.crash(memory="3MiB", on_recovery="hold")
    recovery = after.volume.recovery
    assert recovery is not None
    recovery._left[0].held = False  # as with "resume", but no thread runs beside this test
    # An end comes in between.
    with before_read(lambda offset: offset and failing()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifetimes, "drop_local", failing)
        raises(OSError, after.open)
    for call in ("open", "stat"):
        after.store.fault(call, PermissionError(errno.EACCES, "refused"), times=1000)
    raises(OSError, after.volume.sync, durability="backend")
    assert after.saved() == bytes(len(BIG))
    after.store.clear_faults()
    after.volume.resume()
    eventually(lambda: after.saved() == BIG)


@pytest.mark.parametrize("again", [False, True])
def test_a_discard_that_the_disk_has_refused_has_not_happened(world: World, *, again: bool) -> None:
    after = left_in_two(world)
    with disk_fails("fdatasync"):
        raises(OSError, after.volume.discard, "k")
    if again:
        after.volume.discard("k")
        assert after.left() == ["o"]
    assert after.read() == (OLD if again else changed(0, b"new"))


@pytest.mark.parametrize("call", ["fdatasync", "pwritev"])
def test_bytes_of_a_discard_that_the_disk_has_refused_survive_a_kill_after_an_fsync(world: World, call: str) -> None:
    world.open("o", "x+b").fsync(durability="backend")
    for key in ("o", "k"):  # of "o" is the record that keeps the segment
        world.synced(b"new", key=key)
    after = world.crash(on_recovery="hold")
    with disk_fails(call):
        raises(OSError, after.volume.discard, "k")
    after.hang()
    file = after.open("k", "r+b")
    assert file.pread(3, 0) == b"new"
    file.fsync()
    eventually(lambda: not after.journal().lacks())
    assert after.copied(on_recovery="hold").read() == changed(0, b"new")


def test_files_that_were_saved_leave_room_for_others_that_are_held(world: World) -> None:
    for number in range(3):
        world.synced(BIG[:600_000], key=f"{number}", mode="x+b")
    after = world.crash(memory="3MiB", on_recovery="hold")
    for number in range(3):
        with after.open(f"{number}", "r+b") as file:
            assert file.read() == BIG[:600_000]
            file.fsync(durability="backend")


def test_an_interrupt_before_a_laying_begins_leaves_it_to_the_next_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = left_in_two(world)
    beside(monkeypatch, recovered, "start_thread", raising(KeyboardInterrupt()))
    raises(KeyboardInterrupt, after.read)
    assert after.read() == changed(0, b"new")
    beside(monkeypatch, recovered, "start_thread", raising(KeyboardInterrupt()))
    raises(KeyboardInterrupt, after.read, "o")
    assert Task(after.cache.close, on_failed="discard").result() is not None


@contextmanager
def taken_by_a_power_cut(folder: Path) -> Iterator[Volume]:
    """As `left`; the store has lost a new object "n" besides."""
    made: list[CachedFile] = []

    def making(file: CachedFile) -> None:
        made.append(file.volume.open("n", "x+b"))
        made[0].write(b"made")
        made[0].fsync()

    with left(folder, "k", making) as volume:
        made[0]._leave()
        (folder / "store/n").unlink(missing_ok=True)
        yield volume


def test_a_new_object_that_a_power_cut_took_is_made_again_before_a_link_takes_its_name(tmp_path: Path) -> None:
    with taken_by_a_power_cut(tmp_path) as volume:
        (tmp_path / "store/x").write_bytes(FOREIGN)
        raises(FileExistsError, namespace_of(volume).link, "x", "n", "file")
        assert read(volume, "n") == b"made"


@pytest.mark.parametrize("when", ["its bytes are laid", "a try has failed", "the cache is closed"])
def test_a_new_object_that_is_made_again_is_that_of_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    kill = partial(copy_tier, tmp_path / "second", tmp_path / "third")
    with taken_by_a_power_cut(tmp_path) as volume:
        if when == "a try has failed":
            beside(monkeypatch, laying, "_write", failing)
            raises(OSError, volume.open, "n")
        assert read(volume, "n") == b"made"
        if when == "its bytes are laid":
            kill()
    if not (tmp_path / "third").exists():
        kill()
    cache, volume = on_disk(tmp_path / "third", f"dir:{tmp_path}/store", on_recovery="hold")
    assert read(volume, "n") == b"made"
    volume.resume()
    volume.sync(durability="backend")
    assert listed(volume) == []
    cache.close()
    assert (tmp_path / "store/n").read_bytes() == b"made"


def test_an_object_that_is_made_again_by_another_program_gets_no_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with taken_by_a_power_cut(tmp_path) as volume:
        beside(monkeypatch, DirectoryBackend, "open", lambda: (tmp_path / "store/n").write_bytes(FOREIGN))
        raises(FileExistsError, volume.open, "n")
        assert read(volume, "n") == FOREIGN
    cache, volume = on_disk(tmp_path / "second", f"dir:{tmp_path}/store", on_recovery="hold")
    assert read(volume, "n") == FOREIGN
    assert sorted(listed(volume)) == ["k", "n"]
    cache.close()


@pytest.mark.parametrize("whole", [False, True])
def test_a_new_object_whose_place_is_back_is_made_again_with_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, whole: bool
) -> None:
    monkeypatch.setattr(DirectoryBackend, "lasting_identity", lambda *_: None)  # as on NFS and FUSE
    fs, root, store = MemoryFileSystem(), f"/{tmp_path.name}", tmp_path / "store"
    (store / "d").mkdir(parents=True)
    fs.makedirs(root)

    def backend() -> Any:
        return FsspecBackend(fs, root) if whole else DirectoryBackend(store)

    cache, volume = on_disk(tmp_path / "first", backend())
    file = volume.open("d/k", "x+b")
    file.write(b"made")
    file.fsync()
    copy_tier(tmp_path / "first", tmp_path / "second")
    volume.abort()
    file._leave()
    cache.close(on_failed="discard")
    shutil.rmtree(store / "d")
    fs.pipe(f"{root}/d/k/other", b"a directory has the name")
    cache, volume = on_disk(tmp_path / "second", backend(), on_recovery="hold")
    raises(IsADirectoryError if whole else FileNotFoundError, volume.open, "d/k")
    assert listed(volume) == ["d/k"]
    fs.rm(f"{root}/d", recursive=True)
    (store / "d").mkdir()
    volume.resume("d/k")
    volume.sync(durability="backend")
    assert (read(volume, "d/k"), listed(volume)) == (b"made", [])
    cache.close()


@pytest.mark.parametrize("same", [True, False])
def test_a_new_object_that_a_reconnect_makes_again_is_that_of_the_bytes(tmp_path: Path, *, same: bool) -> None:
    (tmp_path / "store").mkdir()
    cache, volume = on_disk(tmp_path / "first", f"dir:{tmp_path}/store")
    file = volume.open("n", "x+b")
    file.write(b"made")
    file.fsync()
    volume.abort()
    (tmp_path / "store/n").unlink()
    volume.reconnect(volume.backend if same else DirectoryBackend(tmp_path / "store"))
    copy_tier(tmp_path / "first", tmp_path / "second")
    volume.abort()
    file._leave()
    cache.close(on_failed="discard")
    cache, volume = on_disk(tmp_path / "second", f"dir:{tmp_path}/store", on_recovery="hold")
    assert read(volume, "n") == b"made"
    cache.close()


def test_bytes_of_a_lost_object_are_not_laid_over_what_was_saved_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    cache, volume = on_disk(tmp_path / "first", f"dir:{tmp_path}/store")
    files = [volume.open(key, "x+b") for key in ("n", "o")]
    for file in files:
        file.write(b"older")
        file.fsync()  # at "disk"
    volume.abort()
    (tmp_path / "store/n").unlink()  # by another program
    real = DirectoryBackend.open

    def opening(backend: DirectoryBackend, key: Key, **more: Any) -> Any:
        if key == "o":
            raise OSError(errno.EACCES, "no")
        return real(backend, key, **more)

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryBackend, "open", opening)
        raises(OSError, volume.reconnect, volume.backend)  # "n" is made, "o" fails
    volume.reconnect(volume.backend)  # "n" has another identity than its file: not taken
    with volume.open("n", "w+b") as again:
        again.write(b"newer")
        again.fsync(durability="backend")
    copy_tier(tmp_path / "first", tmp_path / "second")  # a kill
    volume.abort()
    for file in files:
        file._leave()
    cache.close(on_failed="discard")
    cache, volume = on_disk(tmp_path / "second", f"dir:{tmp_path}/store", on_recovery="hold")
    with volume.open("n") as file:
        assert file.read() == b"newer"
    cache.close(on_failed="discard")


def test_bytes_that_were_synced_before_a_reconnect_are_those_of_the_object_that_was_found_then(tmp_path: Path) -> None:
    (tmp_path / "next").mkdir()
    (tmp_path / "next/k").write_bytes(OLD)

    def reconnecting(file: CachedFile) -> None:
        file.volume.abort()
        file.volume.reconnect(DirectoryBackend(tmp_path / "next"))
        assert file.volume.cache.tier is not None
        assert not file.volume.cache.tier.journal().is_behind()  # a power cut changes nothing

    with left(tmp_path, "k", reconnecting) as volume:
        assert read(volume, "k") == OLD
        volume.abort()
        volume.reconnect(DirectoryBackend(tmp_path / "next"))
        assert read(volume, "k") == LAID


@pytest.mark.parametrize("doubtful", [False, True])
def test_a_name_is_free_again_when_giving_up_bytes_has_failed(
    world: World, monkeypatch: pytest.MonkeyPatch, *, doubtful: bool
) -> None:
    after, _ = gone(world, timeout=WAIT_LIMIT_S, retry=RetryPolicy(attempts=1))
    beside(monkeypatch, Recovery, "give_up", raising(RuntimeError()))
    if doubtful:
        after.store.fault("rename answer", OSError(errno.ECONNRESET, "no answer"))
    raises((RuntimeError, OSError), after.volume.rename, "o", "k")
    assert after.volume.exists("k")


# -- what is held

HELD = changed(5000, b"new")


def held(world: World, **options: Any) -> World:
    """What a crash has left of a file, held."""
    world.synced(b"new", 5000)
    return world.crash(**{"on_recovery": "hold", **options})


LOOKS: dict[str, Any] = {
    "a sync": lambda after, file: after.volume.sync(durability="backend"),
    "a sync at disk": lambda after, file: after.volume.sync(durability="disk"),
    "an fsync at disk": lambda after, file: file.fsync(durability="disk"),
    "a sync of a range": lambda after, file: file.sync_range(0, 9000),
    "an invalidation": lambda after, file: after.volume.invalidate(),
    "advice": lambda after, file: file.advise(Advice.DONTNEED),
    "an announcement": lambda after, file: after.volume.invalidate_remote("k", 0, 100, version="77"),
    "a lack of descriptors": lambda after, file: (
        file.close(),
        after.store.fault("open", OSError(errno.EMFILE, "too many"), key="o"),
        after.read("o"),
    ),
    "many idle files": lambda after, file: (file.close(), after.read("o"), after.volume.engine.close_idle()),
}


@pytest.mark.parametrize("options", [{"on_recovery": "hold"}, {"read_only": True}], ids=["held", "read-only"])
@pytest.mark.parametrize("look", [*LOOKS, "a failed sync of another file", "an fsync that fails for another file"])
def test_a_look_at_a_held_file_saves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, look: str, options: dict[str, Any]
) -> None:
    world.open("o", "x+b").fsync(durability="backend")
    after, other = held(world, durability="backend", **options), RecordingBackend({"o": OLD})
    file = after.open(mode="rb")
    if look in LOOKS:
        if look == "many idle files":
            monkeypatch.setattr("pagecache.engine.volume.IDLE_FILES_MAX", 0)
        LOOKS[look](after, file)
    else:
        beside = after.cache.attach(other, durability="disk", volume_id="other")
        with beside.open("o", "r+b") as one:
            one.pwrite(b"new", 0)
            one.fsync()
            one.truncate(100)
            with losing_a_sync(after):
                (one if look.startswith("a failed") else file).fsync(durability="disk")
    after.volume.sync()
    assert after.stored() == OLD
    assert after.volume.detach(on_failed="discard") == []
    assert (after.stored(), World(after.folder, after._after(), after.number, on_recovery="hold").read()) == (OLD, HELD)


@IN_PLACE
@pytest.mark.parametrize("options", [{"on_recovery": "hold"}, {"read_only": True}], ids=["held", "read-only"])
@pytest.mark.parametrize("what", ["cut", "gone"])
def test_a_reconnect_and_a_read_change_nothing_below_a_held_file(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr("pagecache.engine.volume.IDLE_FILES_MAX", 0)
    file = world.synced(b"new", 50)
    if what == "cut":
        file.truncate(9000)
        file.fsync()
    after = world.crash(lose=True, **options)
    expected = after.read()
    after.volume.engine.close_idle()
    after.volume.sync()
    assert after.stored() == OLD
    after.volume.abort()
    after.store = after._after()
    if what == "gone":
        after.store.objects.pop("k")
    after.volume.reconnect(after.store)
    after.volume.drop_clean()
    if what == "cut":
        assert after.read() == expected
        assert after.stored() == OLD
    elif "read_only" in options:
        assert "k" not in after.store.objects


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda file: file.pwrite(b"mine", 100), changed(100, b"mine", HELD)),
        (lambda file: file.truncate(6000), HELD[:6000]),
        (lambda file: file.punch_hole(0, 4096), bytes(4096) + HELD[4096:]),
    ],
    ids=["bytes", "a truncate", "a hole"],
)
@pytest.mark.parametrize("durability", ["backend", "disk"])
@pytest.mark.parametrize("by", [lambda world: world.volume, lambda world: world.cache], ids=["volume", "cache"])
def test_an_open_for_writing_ends_the_hold_of_a_file(
    world: World, by: Any, durability: str, change: Any, expected: bytes
) -> None:
    after = held(world, durability=durability)
    change(after.open())
    by(after).sync()
    assert durability == "disk" or (after.saved(), after.left()) == (expected, [])
    assert after.cache.close(timeout=WAIT_LIMIT_S) == []
    assert World(after.folder, after._after(), after.number).read() == expected


def test_another_handle_for_writing_of_an_open_object_ends_the_hold_too(world: World) -> None:
    after = held(world, durability="backend")
    again = opening.open_again(after.open(mode="rb"), os.O_RDWR)
    assert again is not None
    after.files.append(again)
    again.pwrite(b"mine", 100)
    after.volume.sync()
    assert after.saved() == changed(100, b"mine", HELD)


@WHOLE
@pytest.mark.parametrize("beside", ["", "write_from", "commit"], ids=["before", "in its write", "in its commit"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda file: file.pwrite(b"half", 100), changed(100, b"half", HELD)),
        (lambda file: file.truncate(10), HELD[:10]),
        (lambda file: file.truncate(30_000), HELD.ljust(30_000, b"\0")),
        (lambda file: file.punch_hole(0, 8192), bytes(8192) + HELD[8192:]),
    ],
    ids=["bytes", "a cut", "an extension", "a hole"],
)
def test_a_save_in_the_background_publishes_nothing_that_a_writer_has_not_saved(
    make: Make, change: Any, expected: bytes, beside: str
) -> None:
    """[2.22]"""
    world = make(dirty_expire=0.1 if not beside else 0.02)
    with world.store.gate(beside) as gate:
        file = world.synced(b"new", 5000)
        if beside:
            gate.wait_entered()
        running = Task(change, file)
        running.waits()
    running.result()
    for key in ("o", "p"):  # its turns come later
        world.synced(b"other", key=key, mode="x+b")
        eventually(partial(world.has_saved, b"other", key))
    assert world.saved() in (OLD, HELD)
    file.fsync()
    eventually(lambda: world.saved() == expected)


@WHOLE
@pytest.mark.parametrize(
    "change", [lambda file: file.truncate(10), lambda file: file.pwrite(b"new" * 1000, 4096)], ids=["cut", "overwrite"]
)
def test_a_change_as_a_save_in_the_background_begins_is_not_published(
    make: Make, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    """An overwrite of dirty bytes is one. [2.22]"""
    world, begun = make(dirty_expire=0.1), threading.Event()
    file, real = world.open(), Journaled.may_be_saved

    def may_be_saved(self: Journaled) -> bool:
        found = real(self)
        if found and not begun.is_set():
            Task(change, file).result()
            begun.set()
        return found

    monkeypatch.setattr(Journaled, "may_be_saved", may_be_saved)
    file.pwrite(b"asks" * 1024, 4096)
    file.fsync()
    assert begun.wait(WAIT_LIMIT_S)
    world.synced(b"other", key="o", mode="x+b")
    eventually(partial(world.has_saved, b"other", "o"))
    assert world.saved() == OLD


def test_an_fsync_beside_one_that_fails_has_no_bytes_that_do_not_count(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, sync = world.synced(b"base", 12000), OS.fdatasync
    journal, gate = world.journal(), Gate()
    end, generation = journal._current.used, journal.generation

    def fail_once(fd: int) -> None:
        if not gate.entered:
            gate.enter(WAIT_LIMIT_S)
            os.pwrite(fd, bytes(16384), end)
            failing()
        sync(fd)

    def fails_now() -> None:
        gate.release()
        eventually(lambda: journal.generation > generation)

    def fsync_and_read_after_a_crash() -> bytes:
        file.fsync()
        return world.copied(on_recovery="hold").read()

    monkeypatch.setattr(OS, "fdatasync", fail_once)
    world.hang()
    file.pwrite(b"one", 0)
    _, first = at_gate(gate, file.fsync)
    file.pwrite(b"two", 8192)
    beside(monkeypatch, Journaled, "_counts", fails_now, after=True)
    second = Task(fsync_and_read_after_a_crash)
    assert second.waits()  # both are saved in the store
    world.store.open_all_gates()
    assert second.result() == changed(0, b"one", changed(8192, b"two", changed(12000, b"base")))
    first.result()


def test_bytes_that_are_laid_below_a_writer_are_not_held(tmp_path: Path) -> None:
    with left(tmp_path, "k") as volume:
        os.rename(tmp_path / "store/k", tmp_path / "store/m")
        with volume.open("m", "r+b") as file:
            os.rename(tmp_path / "store/m", tmp_path / "store/k")
            assert read(volume, "k") == LAID
            file.pwrite(b"mine", 100)
            volume.sync(durability="backend")
            assert (tmp_path / "store/k").read_bytes() == changed(100, b"mine", LAID)


def test_a_failed_sync_beside_a_rename_keeps_no_volume_from_ending(world: World) -> None:
    after = held(world)
    after.read()
    after.volume.rename("k", "m")
    with losing_a_sync(after), suppress(OSError):
        after.volume.rename("m", "k")
    after.volume.sync()
    assert after.volume.detach() == []


@WHOLE
@pytest.mark.parametrize(("call", "names"), [("remove", ["a"]), ("rename", ["a", "k"]), ("rename", ["a", "z"])])
def test_a_start_on_a_read_only_volume_leaves_a_new_object_as_it_was(
    make: Make, call: str, names: list[str], tmp_path: Path
) -> None:
    world = make()
    world.synced(b"made", key="a", mode="x+b")
    after = world.killed_in(call, getattr(world.volume, call), *names, carried_out=False, read_only=True)
    assert (after.read("a"), after.read("k")) == (b"made", OLD)
    again = after.crash(on_recovery="hold")
    assert (again.read("a"), again.read("k")) == (b"made", OLD)


def test_an_fsync_does_not_return_if_the_store_has_become_read_only_before(make: Make) -> None:
    world = make(durability="backend")
    file = world.open()
    file.pwrite(b"mine", 0)
    world.volume.abort()
    world.store = world._after()
    world.store.limits = dataclasses.replace(world.store.limits, read_only=True)
    world.store.fault("write_from", OSError(errno.EROFS, "read-only"), times=1000)
    world.volume.reconnect(world.store)
    raises(OSError, file.fsync)
    world.store.clear_faults()


@IN_PLACE
@pytest.mark.parametrize("settled", [False, True])
def test_a_close_confirms_a_hole_over_all_that_was_unsaved(world: World, *, settled: bool) -> None:
    """`settled`: the flusher has recorded before that it is saved."""
    file = world.synced(b"x" * 4096, 4096)
    file.punch_hole(4096, 4096)
    if settled:
        file._inode.journaled.settle()
    with disk_fails("fdatasync"):
        raises(OSError, file.close)  # a crash might bring the old bytes back


def test_a_sync_beside_the_end_of_a_laying_waits_for_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make()
    world.synced(b"new", 5000)
    gate = holding(monkeypatch, recovered, "_release")
    after = world.crash(dirty_expire=0.02)
    gate.wait_entered()
    sync = Task(after.volume.sync, durability="backend")
    wait_for(after.cache, "the recovery of the object")
    sync.result(opening=gate)
    assert after.saved() == HELD


@WHOLE
def test_a_sync_past_its_deadline_publishes_nothing_of_a_file_that_is_being_laid(world: World) -> None:
    world.synced(BIG)
    after, gate = world.crash(memory="3MiB"), Gate()
    with before_read(lambda offset: gate.enter(WAIT_LIMIT_S) if offset else None):
        _, look = at_gate(gate, after.read)
        for key in ("o", "p"):  # the ticket goes on, and so does the next one
            after.open(key, "x+b").pwrite(b"other", 0)
            raises(TimeoutError, after.volume.sync, 0.05, durability="backend")
            eventually(partial(after.has_saved, b"other", key))
        assert after.saved() == OLD
        gate.release()
        assert look.result() == BIG
    after.settles(BIG)


def test_a_close_of_the_cache_has_a_deadline_beside_an_append_that_hangs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.synced(b"new", 5000)
    file.pwrite(b"mine", 0)
    gate, fsync = at_gate(holding(monkeypatch, OS, "pwritev"), file.fsync)
    raises((TimeoutError, UnsavedDataError), Task(world.cache.close, timeout=0.2).result)
    fsync.result(opening=gate)


def test_tries_to_lay_a_held_file_take_its_memory_once(world: World) -> None:
    world.synced(BIG[:600_000], key="n", mode="x+b")
    after = world.crash(on_recovery="hold", memory="4MiB")
    after.store.fault("open", PermissionError(errno.EACCES, "refused"), times=6)
    for _ in range(6):
        raises(PermissionError, after.read, "n")
    assert after.read("n") == BIG[:600_000]


GIVEN_UP: dict[str, Any] = {
    "grown": lambda file: file.pwrite(b"new", len(OLD) + 10),
    "cut": lambda file: (file.pwrite(b"new", 50), file.truncate(60)),
    "inside": lambda file: file.pwrite(b"new", 50),
}


@pytest.mark.parametrize("options", [{"on_recovery": "hold"}, {"read_only": True}], ids=["held", "read-only"])
@pytest.mark.parametrize("what", [*GIVEN_UP, "created"])
@pytest.mark.parametrize("then", ["a detach", "a kill", "a resume", "a writer"])
def test_nothing_is_owed_of_a_held_file_once_all_of_its_bytes_are_discarded(
    world: World, what: str, then: str, options: dict[str, Any]
) -> None:
    key = "n" if what == "created" else "k"
    file = world.open(key, "xb" if what == "created" else "r+b")
    GIVEN_UP.get(what, GIVEN_UP["inside"])(file)
    file.fsync()
    after = world.crash(**options)
    whole = isinstance(after.store, ObjectBackend)
    expected = None if what == "created" else after.stored()  # a truncate in place has cut it
    with after.open(key, "rb") as look:
        assert look.read()
        assert after.volume.discard(key)
        if not whole or expected:
            assert look.pread(len(OLD) + 100, 0) == (expected or b"")
        raises(DataLossError, look.close)
    assert after.left() == []
    assert after.volume.exists(key) == (not whole or expected is not None)
    assert not after.volume.unsaved()
    if then == "a resume" and "read_only" not in options:
        after.volume.resume()
        after.volume.sync(durability="backend")
    elif then == "a writer" and "read_only" not in options:
        expected = changed(70, b"mine", expected or b"")
        after.open(key, "a+b").pwrite(b"mine", 70)
        after.volume.sync(durability="backend")
    elif then == "a kill":
        after = after.crash(on_recovery="hold")
        assert after.left() == []
    assert after.volume.detach() == []
    assert after.stored(key) == expected if whole or expected else not after.stored(key)


def test_a_part_of_a_held_file_that_is_not_discarded_stays_held(world: World) -> None:
    file = world.synced(b"new", 5000)
    file.pwrite(b"end", len(OLD) + 9000)
    file.fsync()
    after = world.crash(on_recovery="hold")
    assert after.read() == changed(len(OLD) + 9000, b"end", HELD)
    assert after.volume.discard("k", len(OLD))
    after.volume.sync(durability="backend")
    assert (after.left(), after.read()[:5004], after.stored()) == (["k"], HELD[:5004], OLD)
    assert after.copied(on_recovery="hold").read() == HELD
    assert after.volume.detach() == []


def test_parts_of_a_held_file_that_are_discarded_one_by_one_leave_the_rest_held(world: World) -> None:
    world.synced(OLD[::-1])
    after = world.crash(on_recovery="hold")
    after.read()
    for at in (0, 8192):
        assert after.volume.discard("k", at, 4096)
    content = OLD[:4096] + OLD[::-1][4096:8192] + OLD[8192:12288] + OLD[::-1][12288:]
    assert (after.left(), after.read(), after.stored()) == (["k"], content, OLD)
    assert after.volume.detach() == []
    assert after.copied(on_recovery="hold").read() == content


def test_an_open_for_writing_beside_a_discard_of_a_held_file_keeps_what_it_writes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.synced(b"new", len(OLD) + 10)
    after = world.crash(on_recovery="hold")
    after.read()
    beside(monkeypatch, after.volume.inodes["k"], "drop", lambda: Task(after.open).result(), after=True)
    assert after.volume.discard("k")
    after.files[-1].pwrite(b"mine", 100)
    after.settles(changed(100, b"mine"))


@pytest.mark.parametrize("then", ["a detach", "a reconnect", "a discard"])
def test_an_abort_in_the_middle_of_a_laying_loses_nothing(world: World, then: str) -> None:
    world.synced(BIG)
    after = world.crash(on_recovery="hold", memory="32MiB")
    with before_read(lambda offset: after.volume.abort() if offset else None):
        raises(ShutdownError, after.read)
    if then == "a detach":
        assert after.volume.detach(on_failed="discard") == []
        assert World(after.folder, after._after(), after.number, memory="32MiB").read() == BIG
        return
    after.store = after._after()
    if then == "a discard":
        after.volume.reconnect(after.store)
        assert after.volume.discard("k")
        after.open().pwrite(b"mine", 100)
        after.settles(changed(100, b"mine"))
    elif isinstance(after.store, ObjectBackend):
        after.store.put("k", FOREIGN)
        after.volume.reconnect(after.store)
        after.store.fault("open", PermissionError(errno.EACCES, "refused"), times=1)
        raises(PermissionError, after.read)
        raises(ConflictError, after.read)
        after.volume.resolve("k", "discard")
        assert after.read() == FOREIGN
    else:
        after.store.change_remotely("k", OLD[::-1])
        events: list[Event] = []
        end = after.cache.subscribe(events.append)
        after.volume.reconnect(after.store)
        assert after.read() == BIG
        end()
        assert not [event for event in events if event.kind in ("conflict", "loss")]


def test_a_held_file_is_resumed_by_the_name_that_it_has_now(world: World) -> None:
    after = held(world)
    after.volume.rename("k", "there")
    after.volume.resume("k")
    after.volume.sync(durability="backend")
    assert after.saved("there") == OLD
    after.volume.resume("there")
    eventually(lambda: not after.left())
    assert after.saved("there") == HELD


def test_a_resume_of_a_name_that_nothing_was_left_of_raises(world: World) -> None:
    """What `recovered` has listed may be saved, or given up, before a program resumes it: that is no error."""
    raises(FileNotFoundError, world.volume.resume, "k", match="no file that `recovered` has listed")
    world.synced(b"more", 7, key="other", mode="xb")
    after = held(world)
    raises(FileNotFoundError, after.volume.resume, "typo", match="no file that `recovered` has listed")
    assert after.left() == ["other", "k"]
    after.volume.rename("k", "there")
    names = after.left()
    after.volume.discard("other")
    after.volume.resume()
    eventually(lambda: not after.left())
    after.volume.remove("there")
    for name in names:
        after.volume.resume(name)
    assert not after.volume.exists("there")


def test_a_read_only_volume_saves_nothing_that_was_left(world: World) -> None:
    world.synced(b"made", key="n", mode="x+b")
    world.store.objects.pop("n", None)  # by a power cut
    world.synced(b"new", 5000)
    after = world.crash(read_only=True)
    if isinstance(world.store, ObjectBackend):
        assert after.read("n") == b"made"
    else:
        raises(FileNotFoundError, after.read, "n")
    assert "n" not in after.store.objects
    with after.volume.open("k") as file:
        assert file.read() == HELD
        file.fsync(durability="backend")
    raises(PermissionError, after.volume.resume)
    raises(PermissionError, after.volume.resume, "k")
    after.volume.sync(durability="backend")
    assert after.cache.close(timeout=WAIT_LIMIT_S) == []
    assert after.saved() == OLD


@pytest.mark.parametrize(
    "stores", [["store"], ["store", "\udce9" * 300, ".", "..", "../x"]], ids=["one store", "several"]
)
def test_unsaved_files_are_exported_whatever_their_names_are(tmp_path: Path, stores: list[str]) -> None:
    names = ["a", "x" * 300, "d", "d/e", "long/" + "y" * 256 + "/z", "caf\udce9", "\udce9" * 300, "\ud800", "../out"]
    tier = DiskTier(tmp_path / "tier", size="16MiB", segment="1MiB")
    with PageCache("4MiB", disk=tier) as cache, ExitStack() as gates:
        for volume_id in stores:
            store = ObjectBackend()
            store.gate("commit", times=100)
            gates.callback(store.open_all_gates)
            volume = cache.attach(store, volume_id=volume_id, durability="disk")
            for number, name in enumerate(names):
                with volume.open(name, "x+b") as file:
                    file.write(b"%d" % number)
                    file.fsync()
        copy_tier(tmp_path / "tier", tmp_path / "copy")
    command = ["disk", str(tmp_path / "copy"), "--json", "--export", str(tmp_path / "export")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    files = json.loads(done.stdout)["files"]
    assert {(file["volume"], file["key"]): Path(file["path"]).read_bytes() for file in files} == {
        (volume_id, name): b"%d" % number for volume_id in stores for number, name in enumerate(names)
    }
    assert all(Path(file["path"]).resolve().is_relative_to(tmp_path / "export") for file in files)
    raises(FileExistsError, contents.contents, str(tmp_path / "copy"), export=str(tmp_path / "export"))


def test_an_export_reports_bytes_that_it_cannot_read_and_writes_all_others(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could be read when the files were listed."""
    content = random.Random(1).randbytes(300 << 12)
    for key in ("k", "later"):
        file = world.open(key, "w+b")
        file.write(content)
        file.fsync()
    copy_tier(world.tier, tmp_path / "copy")

    def damage() -> None:
        for segment in sorted((tmp_path / "copy").rglob("*.journal"))[:1]:
            at = segment.read_bytes().index(content[4096:8192])
            with segment.open("r+b") as opened:
                opened.seek(at + 100)
                opened.write(b"damage")

    beside(monkeypatch, contents, "recover", damage, after=True)
    done = CliRunner().invoke(main, ["disk", str(tmp_path / "copy"), "--json", "--export", str(tmp_path / "export")])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["damaged"] == 4096
    assert [(file["key"], file["bytes"], file["damaged"]) for file in found["files"]] == [
        ("k", len(content) - 4096, [[4096, 4096]]),
        ("later", len(content), []),
    ]
    assert (tmp_path / "export/k").read_bytes() == content[:4096] + bytes(4096) + content[8192:]
    assert (tmp_path / "export/later").read_bytes() == content


@WHOLE
def test_an_export_has_the_holes_of_a_file_and_is_synced(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hang()
    file = world.open("d/new", "x+b")
    file.pwrite(b"x", 64 << 20)
    file.fsync()
    copy_tier(world.tier, tmp_path / "copy")
    (tmp_path / "copy/else").symlink_to("nowhere")  # of another user
    synced, fsync = set[str](), os.fsync

    def noted(fd: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    found = contents.contents(str(tmp_path / "copy"), export=str(tmp_path / "to/export"))
    saved = os.stat(tmp_path / "to/export/d/new")
    assert saved.st_size == (64 << 20) + 1
    assert saved.st_blocks * 512 < 1 << 20
    assert found.unsaved == 1
    made = ("", "to", "to/export", "to/export/d", "to/export/d/new")
    assert {str(tmp_path / each) for each in made} <= synced


@WHOLE
def test_a_file_that_cannot_be_exported_keeps_no_other_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hang()
    for key in ("a", "b"):
        world.synced(b"new", key=key, mode="x+b")
    copy_tier(world.tier, tmp_path / "copy")
    pieces = contents._pieces

    def full(unsaved: Unsaved, *arguments: Any) -> Any:
        if unsaved.state.key == "a":
            raise OSError(errno.ENOSPC, "the disk is full")
        return pieces(unsaved, *arguments)

    monkeypatch.setattr(contents, "_pieces", full)
    found = contents.contents(str(tmp_path / "copy"), export=str(tmp_path / "export"))
    assert found.troubles == ["'a' of 'store' could not be exported: the disk is full"]
    assert [file.path for file in found.files] == [None, str(tmp_path / "export/b")]
    assert [path.read_bytes() for path in (tmp_path / "export").iterdir()] == [b"new"]
