"""Objects that a crash has left bytes of: gone, back, replaced, with other names; calls that wait for them. [2.28]"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pagecache import CachedFile, DiskTier, PageCache, RetryPolicy, ShutdownError, Volume
from pagecache.backends import DirectoryBackend
from pagecache.cli import main
from pagecache.disk.device import OS
from pagecache.disk.recovery import Unsaved
from pagecache.engine.park import start_thread
from pagecache.fuse.namespace import namespace_of
from pagecache.volume import lifetimes
from pagecache.volume.recovered import Recovery
from tests.disk.copying import copy_tier
from tests.disk.test_durability import OLD, Make, World, changed, make
from tests.disk.test_recovered import BIG, FOREIGN, IN_PLACE, WHOLE, before_read
from tests.file.rig import Task, eventually, raises
from tests.stores import WAIT_LIMIT_S, ObjectBackend

__all__ = ["make"]  # a fixture

pytestmark = pytest.mark.contract("D1", "D3", "D5", "D10")


# -- gone, back, replaced


@pytest.mark.parametrize("first", ["an open", "an open that is made again", "a rename"])
def test_bytes_of_an_object_that_is_gone_are_not_laid_over_another_one_of_its_name(make: Make, first: str) -> None:
    world = make()
    if isinstance(world.store, ObjectBackend):
        world.store.put("o", OLD[::-1])
    else:
        world.store.objects["o"] = type(world.store.objects["k"])(OLD[::-1])
    file = world.open()
    file.pwrite(b"new", 0)
    file.fsync()
    world.store.objects.pop("k")
    after = world.crash(on_recovery="hold")
    with pytest.raises(FileNotFoundError):
        after.open()
    with pytest.raises(FileExistsError):
        after.open("o", "x+b")
    with pytest.raises(FileNotFoundError):
        after.volume.rename("none", "k")
    assert [found.key for found in after.volume.recovered()] == ["k"]
    if first != "a rename":
        if first == "an open that is made again":  # its first try has made the object
            after.store.fault("open answer", OSError(errno.ECONNRESET, "no answer"), skip=0)
        with after.open(mode="w+b") as made:
            made.pwrite(OLD[::-1], 0)
            made.fsync(durability="backend")
    else:
        after.volume.rename("o", "k")
    assert after.volume.recovered() == []
    assert after.crash().read() == OLD[::-1]


@contextmanager
def left(folder: Path, key: str, then: Any = lambda file: None) -> Iterator[Volume]:
    """A volume on a directory, and bytes in its journal that a crash has left of an object."""
    path = folder / "store" / key
    path.parent.mkdir(parents=True)
    path.write_bytes(OLD)

    def attached(tier: str) -> Any:
        cache = PageCache("16MiB", disk=DiskTier(folder / tier, size="16MiB", segment="1MiB"), dirty_expire=3600.0)
        options: dict[str, Any] = {"durability": "disk", "volume_id": "store", "on_recovery": "hold"}
        return cache, cache.attach(f"dir:{folder}/store", **options)

    cache, volume = attached("first")
    file = volume.open(key, "r+b")
    file.pwrite(b"new", 0)
    file.pwrite(b"more", 9000)
    file.fsync()
    then(file)
    copy_tier(folder / "first", folder / "second")
    volume.abort()
    file._leave()
    cache.close(on_failed="discard")
    cache, volume = attached("second")
    yield volume
    cache.close()


def before_giving_up(patch: pytest.MonkeyPatch, call: Any) -> None:
    give_up = Recovery.give_up

    def beside(self: Recovery, *names: Any, **how: Any) -> None:
        call()
        give_up(self, *names, **how)

    patch.setattr(Recovery, "give_up", beside)


@pytest.mark.parametrize("way", ["a rename", "a link", "a symbolic link"])
def test_bytes_below_a_directory_that_is_gone_are_not_laid_over_what_gets_its_name(tmp_path: Path, way: str) -> None:
    with left(tmp_path, "e/k") as volume:
        (tmp_path / "store/d").mkdir()
        (tmp_path / "store/d/k").write_bytes(FOREIGN)
        shutil.rmtree(tmp_path / "store/e")
        with pytest.raises(FileNotFoundError):
            volume.open("e/k")
        assert [found.key for found in volume.recovered()] == ["e/k"]
        names = namespace_of(volume)  # as a mount makes them
        if way == "a rename":
            volume.rename("d", "e")
        else:
            names.mkdir("e")
            assert [found.key for found in volume.recovered()] == ["e/k"]
            names.link("d/k", "e/k", "file") if way == "a link" else names.symlink("../d/k", "e/k")
        volume.resume("e/k")
        volume.sync()
        with volume.open("e/k") as file:
            assert file.read() == FOREIGN
        assert [found.key for found in volume.recovered()] == ["e/k"]


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
        with volume.open("third") as third:
            assert third.read() == FOREIGN
        if order == "beside":
            with before_read(opening):
                volume.open("k").close()
            other = opened[0].result()
        else:
            other = volume.open("other", "r+b" if order == "first" else "w+b")
        expected = b"" if order == "emptied" else changed(9000, b"more", changed(0, b"new"))
        with other, volume.open("k") as file:
            assert other.read() == file.read() == expected


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
        volume.sync()
        assert [found.key for found in volume.recovered()] == ["k"]
    assert (tmp_path / folder / "k").read_bytes() == b"last" + FOREIGN[4:]


def gone(make: Make, **options: Any) -> tuple[World, Any]:
    """A world after a crash that has left bytes of `k`, which another program has taken away, and what it has taken."""
    world = make()
    world.open("o", "x+b").fsync(durability="backend")
    file = world.open()
    file.pwrite(b"new", 0)
    file.pwrite(b"more", 9000)
    file.fsync()
    after = world.crash(on_recovery="hold", **options)
    taken = after.store.objects.pop("k")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            after.read()
    assert [found.key for found in after.volume.recovered()] == ["k"]
    return after, taken


def test_an_object_that_is_replaced_after_the_look_at_it_gets_no_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, new = DirectoryBackend.stat, tmp_path / "store/new"

    def replacing(self: DirectoryBackend, key: Any) -> Any:
        found = stat(self, key)
        if new.exists():
            new.replace(tmp_path / "store/k")
        return found

    with left(tmp_path, "k") as volume:
        new.write_bytes(FOREIGN)
        monkeypatch.setattr(DirectoryBackend, "stat", replacing)
        with volume.open("k") as file:
            assert file.read() == FOREIGN


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


@pytest.mark.parametrize("beside", [False, True])
def test_bytes_of_an_object_that_comes_back_are_laid_before_it_is_open(
    make: Make, monkeypatch: pytest.MonkeyPatch, *, beside: bool
) -> None:
    after, taken = gone(make)
    if beside:  # it was looked for, and is opened now
        first = Recovery.first

        def back(self: Recovery, *names: Any) -> None:
            first(self, *names)
            after.store.objects["k"] = taken

        monkeypatch.setattr(Recovery, "first", back)
    else:
        after.store.objects["k"] = taken
    file = after.open()
    monkeypatch.undo()
    assert file.read() == changed(9000, b"more", changed(0, b"new"))
    file.pwrite(b"last", 0)
    after.volume.resume("k")
    file.fsync()
    expected = changed(9000, b"more", changed(0, b"last"))
    assert after.crash().read() == expected


@pytest.mark.parametrize("resumed", [False, True])
def test_a_look_for_a_gone_object_beside_its_creation_ends(
    make: Make, monkeypatch: pytest.MonkeyPatch, *, resumed: bool
) -> None:
    after, _ = gone(make)
    looks: list[Task[Any]] = []

    def looking() -> None:
        if resumed:
            after.volume.resume("k")
        looks.append(Task(after.read))
        assert looks[-1].waits()

    before_giving_up(monkeypatch, looking)
    with after.open(mode="x+b") as made:
        assert looks[0].result() == made.read() == b""
    assert after.volume.recovered() == []


@pytest.mark.parametrize("settled", [False, True])
def test_a_rename_to_the_name_of_a_gone_object_whose_result_is_unknown_gives_its_bytes_up(
    make: Make, *, settled: bool
) -> None:
    after, _ = gone(make, retry=RetryPolicy(attempts=1))
    if settled:
        after.open("o")
    after.store.fault("rename answer", OSError(errno.ECONNRESET, "no answer"))
    with pytest.raises(ConnectionResetError):
        after.volume.rename("o", "k")
    assert after.volume.recovered() == []
    assert after.read() == b""


@pytest.mark.parametrize("first", ["an open", "a rename", "a remove that was carried out"])
def test_a_full_disk_fails_no_call_that_gives_bytes_up(make: Make, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later start looks again. [D5]"""
    world = make()
    world.open("o", "x+b").fsync(durability="backend")
    file = world.open()
    file.pwrite(b"new", 0)
    file.fsync()
    if first == "a remove that was carried out":
        file._inode.journaled.removing()
        file.fsync()
    after = world.crash(on_recovery="hold")
    after.store.objects.pop("k")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "the disk is full")

    for call in ("fallocate", "pwritev", "fdatasync"):
        monkeypatch.setattr(OS, call, full)
    with pytest.raises(FileNotFoundError):
        after.open()
    if first == "an open":
        made = after.open(mode="x+b")
        made.write(FOREIGN)
        with pytest.raises(OSError):  # a crash might bring the old bytes back
            made.fsync(durability="backend")
    elif first == "a rename":
        after.volume.rename("o", "k")
    assert after.volume.exists("k") == (not first.startswith("a remove"))


# -- beside calls that wait for it


@contextmanager
def held_up(after: World) -> Iterator[threading.Event]:
    """Context in which the laying of `k` hangs in the disk, until the event is set."""
    going, begun, read = threading.Event(), threading.Event(), Unsaved.read

    def hanging(self: Unsaved, offset: int, length: int) -> bytes:
        if self.state.key == "k":
            begun.set()
            assert going.wait(WAIT_LIMIT_S)
        return read(self, offset, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Unsaved, "read", hanging)
        task = Task(after.read)
        assert begun.wait(WAIT_LIMIT_S)
        try:
            yield going
        finally:
            going.set()
            task.finished.wait(WAIT_LIMIT_S)


def left_in_two(make: Make, **options: Any) -> World:
    """A world after a crash that has left bytes of `k` and `o`."""
    world = make()
    world.open("o", "x+b").fsync(durability="backend")
    for file in (world.open(), world.open("o")):
        file.pwrite(b"new", 0)
        file.fsync()
    return world.crash(on_recovery="hold", **options)


def test_no_call_waits_longer_than_it_may_for_the_laying_of_a_file(make: Make) -> None:
    after = left_in_two(make, timeout=0.2)
    with held_up(after):
        for call in (after.open, partial(after.volume.discard, "k"), partial(after.volume.exists, "k")):
            raises(TimeoutError, call)
        after.volume.resume()
        eventually(lambda: after.stored("o") == b"new")
        waiting = Task(after.volume.open, "k", timeout=WAIT_LIMIT_S)
        eventually(lambda: any(wait.what == "the recovery of the object" for wait in after.cache.waits()))
        after.volume.abort()
        raises(ShutdownError, waiting.result)


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
        with pytest.raises(NotADirectoryError):
            volume.stat("e/k")
        volume.rename("e", "f")
        assert [found.key for found in volume.recovered()] == ["e/k"]


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
        with volume.open("d/k") as file:
            assert file.read() == (b"" if way == "a creation" else FOREIGN)
        assert [found.key for found in volume.recovered()] == ["d/k"]


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
        with volume.open("k") as file:
            assert file.read() == changed(9000, b"more", changed(0, b"new"))


@WHOLE
def test_what_was_laid_in_part_is_not_saved_before_it_is_taken_back(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    assert isinstance(world.store, ObjectBackend)
    world.store.put("k", bytes(len(BIG)))
    file = world.open()
    file.write(BIG)
    file.fsync()
    after = world.crash(memory="3MiB", on_recovery="hold")

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "an end comes in between")

    def in_the_middle(offset: int) -> None:
        if offset:
            failing()

    recovery = after.volume.recovery
    assert recovery is not None
    recovery._left[0].held = False  # as with "resume", but no thread runs beside this test
    with before_read(in_the_middle):
        monkeypatch.setattr(lifetimes, "drop_local", failing)
        with pytest.raises(OSError):
            after.open()
        monkeypatch.undo()
    for call in ("open", "stat"):
        after.store.fault(call, PermissionError(errno.EACCES, "refused"), times=1000)
    raises(OSError, after.volume.sync, durability="backend")
    assert after.saved() == bytes(len(BIG))
    after.store.clear_faults()
    after.volume.resume()
    eventually(lambda: after.saved() == BIG)


@pytest.mark.parametrize("again", [False, True])
def test_a_discard_that_the_disk_has_refused_has_not_happened(
    make: Make, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    after = left_in_two(make)

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "the disk")

    monkeypatch.setattr(OS, "fdatasync", failing)
    with pytest.raises(OSError):
        after.volume.discard("k")
    monkeypatch.undo()
    if again:
        after.volume.discard("k")
        assert [found.key for found in after.volume.recovered()] == ["o"]
    assert after.read() == (OLD if again else changed(0, b"new"))


def test_files_that_were_saved_leave_room_for_others_that_are_held(make: Make) -> None:
    world = make()
    for number in range(3):
        file = world.open(f"{number}", "x+b")
        file.write(BIG[:600_000])
        file.fsync()
    after = world.crash(memory="3MiB", on_recovery="hold")
    for number in range(3):
        with after.open(f"{number}", "r+b") as file:
            assert file.read() == BIG[:600_000]
            file.fsync(durability="backend")


def test_two_calls_may_forget_a_file_of_the_journal(make: Make) -> None:
    after = left_in_two(make)
    tier, recovery = after.cache.tier, after.volume.recovery
    assert tier is not None
    assert recovery is not None
    for _ in range(2):
        tier.journal().forget(recovery._left[0].unsaved.number)


@IN_PLACE
def test_a_creation_without_an_answer_gives_up_what_was_left_of_a_gone_object(make: Make) -> None:
    after, _ = gone(make, retry=RetryPolicy(attempts=1))
    after.store.fault("open answer", OSError(errno.ECONNRESET, "no answer"), skip=0)
    with pytest.raises(ConnectionResetError):
        after.open(mode="x+b")
    assert after.read() == b""
    assert after.volume.recovered() == []


def test_an_interrupt_before_a_laying_begins_leaves_it_to_the_next_call(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = left_in_two(make)
    interrupts = [KeyboardInterrupt()]

    def starting(*thread: Any) -> None:
        if interrupts:
            raise interrupts.pop()
        start_thread(*thread)

    monkeypatch.setattr("pagecache.volume.recovered.start_thread", starting)
    raises(KeyboardInterrupt, after.read)
    assert after.read() == changed(0, b"new")
    interrupts.append(KeyboardInterrupt())
    raises(KeyboardInterrupt, after.read, "o")
    assert Task(after.cache.close, on_failed="discard").result() is not None


def test_a_new_object_that_a_power_cut_took_is_made_again_before_a_link_takes_its_name(tmp_path: Path) -> None:
    made: list[CachedFile] = []

    def making(file: CachedFile) -> None:
        made.append(file.volume.open("n", "x+b"))
        made[0].write(b"made")
        made[0].fsync()

    with left(tmp_path, "k", making) as volume:
        made[0]._leave()
        (tmp_path / "store/n").unlink(missing_ok=True)
        (tmp_path / "store/x").write_bytes(FOREIGN)
        raises(FileExistsError, namespace_of(volume).link, "x", "n", "file")
        with volume.open("n") as file:
            assert file.read() == b"made"


def test_bytes_that_were_synced_before_a_reconnect_are_those_of_the_object_that_was_found_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "next").mkdir()
    (tmp_path / "next/k").write_bytes(OLD)
    calls: list[str] = []

    def seen(name: str) -> Any:
        real = getattr(OS, name)

        def call(*arguments: Any) -> Any:
            calls.append(name)
            return real(*arguments)

        return call

    for name in ("pwritev", "fdatasync"):
        monkeypatch.setattr(OS, name, seen(name))

    def reconnecting(file: CachedFile) -> None:
        file.volume.abort()
        file.volume.reconnect(DirectoryBackend(tmp_path / "next"))
        assert calls[-1] == "fdatasync"  # a power cut changes nothing

    with left(tmp_path, "k", reconnecting) as volume:
        with volume.open("k") as file:
            assert file.read() == OLD
        volume.abort()
        volume.reconnect(DirectoryBackend(tmp_path / "next"))
        with volume.open("k") as file:
            assert file.read() == changed(9000, b"more", changed(0, b"new"))


@pytest.mark.parametrize("doubtful", [False, True])
def test_a_name_is_free_again_when_giving_up_bytes_has_failed(
    make: Make, monkeypatch: pytest.MonkeyPatch, *, doubtful: bool
) -> None:
    after, _ = gone(make, timeout=WAIT_LIMIT_S, retry=RetryPolicy(attempts=1))

    def failing() -> None:
        raise RuntimeError("a fault of the cache")

    before_giving_up(monkeypatch, failing)
    if doubtful:
        after.store.fault("rename answer", OSError(errno.ECONNRESET, "no answer"))
    with pytest.raises((RuntimeError, OSError)):
        after.volume.rename("o", "k")
    assert after.volume.exists("k")


# -- what is held


def held(world: World, **options: Any) -> World:
    """What a crash has left of a file, held; it has "new" at 5000."""
    file = world.open()
    file.pwrite(b"new", 5000)
    file.fsync()
    return world.crash(on_recovery="hold", **options)


@pytest.mark.parametrize("by", [lambda world: world.volume, lambda world: world.cache], ids=["volume", "cache"])
def test_a_sync_at_the_store_saves_a_held_file_that_was_changed_since_and_no_other(make: Make, by: Any) -> None:
    after = held(make(), durability="backend")
    file = after.open()
    by(after).sync()
    assert after.saved() == OLD
    file.pwrite(b"mine", 100)
    by(after).sync()
    assert after.saved() == changed(100, b"mine", changed(5000, b"new"))
    assert after.volume.recovered() == []


@pytest.mark.parametrize("durability", ["backend", "disk"])
def test_a_cache_with_a_held_file_that_was_changed_can_be_closed(make: Make, durability: str) -> None:
    after = held(make(), durability=durability)
    after.open().pwrite(b"mine", 100)
    assert after.cache.close(timeout=WAIT_LIMIT_S) == []
    expected = changed(100, b"mine", changed(5000, b"new"))
    assert after.saved() == (OLD if durability == "disk" else expected)
    if durability == "disk":
        last = World(after.folder, after._after(), after.number)
        assert last.read() == expected
        last.end()


def test_a_held_file_is_resumed_by_the_name_that_it_has_now(make: Make) -> None:
    after = held(make())
    after.volume.rename("k", "there")
    after.volume.resume("k")
    assert [found.key for found in after.volume.recovered()] == ["there"]
    after.volume.resume("there")
    eventually(lambda: after.volume.recovered() == [])
    assert after.saved("there") == changed(5000, b"new")


def test_a_read_only_volume_saves_nothing_that_was_left(make: Make) -> None:
    after = held(make(), read_only=True)
    assert after.read() == changed(5000, b"new")
    raises(PermissionError, after.volume.resume)
    raises(PermissionError, after.volume.resume, "k")
    after.volume.sync(durability="backend")
    assert after.cache.close(timeout=WAIT_LIMIT_S) == []
    assert after.saved() == OLD


def test_unsaved_files_are_exported_whatever_their_names_are(tmp_path: Path) -> None:
    names: list[Any] = ["a", "x" * 300, "d", "d/e", "long/" + "y" * 256 + "/z", "caf\udce9", "b"]
    store = ObjectBackend()
    store.gate("commit", times=100)
    with PageCache("4MiB", disk=DiskTier(tmp_path / "tier", size="16MiB", segment="1MiB")) as cache:
        volume = cache.attach(store, volume_id="store", durability="disk")
        for number, name in enumerate(names):
            with volume.open(name, "x+b") as file:
                file.write(b"%d" % number)
                file.fsync()
        copy_tier(tmp_path / "tier", tmp_path / "copy")
        store.open_all_gates()
    command = ["disk", str(tmp_path / "copy"), "--json", "--export", str(tmp_path / "export")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    files = json.loads(done.stdout)["files"]
    assert {file["key"]: Path(file["path"]).read_bytes() for file in files} == {
        name: b"%d" % number for number, name in enumerate(names)
    }
