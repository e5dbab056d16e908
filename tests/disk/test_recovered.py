"""Files that a crash has left in the disk tier, beside other calls, other programs, and a second crash. [2.28]"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pagecache import CachedFile, CommitError, ConflictError, DiskTier, PageCache, RetryPolicy, ShutdownError, Volume
from pagecache.backends import DirectoryBackend
from pagecache.disk import records
from pagecache.disk.device import OS
from pagecache.disk.journal import Journal
from pagecache.disk.recovery import Unsaved
from pagecache.engine.park import start_thread
from pagecache.fuse.namespace import namespace_of
from pagecache.native import STAMP_MAX, UNSTABLE
from pagecache.volume import lifetimes
from pagecache.volume.recovered import Recovery
from tests.disk.copying import copy_tier
from tests.disk.test_durability import JOURNALED, OLD, Make, World, changed, make
from tests.file.rig import Task, eventually, raises
from tests.stores import WAIT_LIMIT_S, ObjectBackend

__all__ = ["make"]  # a fixture

pytestmark = pytest.mark.contract("D1", "D3", "D10")

FOREIGN = bytes((at * 7 + 3) % 251 + 1 for at in range(21000))  # of another program, without zeros
WHOLE = pytest.mark.parametrize("make", ["whole"], indirect=True)
IN_PLACE = pytest.mark.parametrize("make", ["in place"], indirect=True)


def put(world: World, data: bytes) -> None:
    """Store another version, as another program."""
    if isinstance(world.store, ObjectBackend):
        world.store.put("k", data)
    else:
        stored = world.store.objects["k"]
        stored.written[:] = stored.safe[:] = stored.committed = data
        stored.version += 1


def conflict(world: World, file: CachedFile, data: bytes) -> None:
    """Store another version below the unsaved bytes of a file, which meets it."""
    put(world, data)
    if not isinstance(world.store, ObjectBackend):  # one in place has to be announced
        world.volume.invalidate_remote("k", 0, 100, version=str(world.store.objects["k"].version))
    with suppress(ConflictError):
        file.fsync(durability="backend")


def settled(world: World, how: Any) -> CachedFile:
    """A handle on the object, after a conflict was resolved in this way, if there is one."""
    with suppress(ConflictError):
        return world.open()
    world.volume.resolve("k", how)
    return world.open()


@contextmanager
def before_read(call: Any) -> Iterator[None]:
    """Context in which `call` gets the offset of each read of bytes that are laid, before that."""
    read = Unsaved.read

    def beside(self: Unsaved, offset: int, length: int) -> bytes:
        call(offset)
        return read(self, offset, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Unsaved, "read", beside)
        yield


# -- another version below


def foreign(
    make: Make,
    *writes: tuple[int, bytes],
    stored: bytes = FOREIGN,
    created: bool = False,
    end: int = 0,
    first: Any = "",
) -> World:
    """A world with these bytes in the journal, and another version of the object in the store, which is a conflict.
    `created`: they are of a new object. `end`: of the file, which it is extended to. `first`: the conflict is resolved
    in this way by the first call for the file.
    """
    world = make()
    if created:
        world.volume.remove("k")
    file = world.open(mode="x+b") if created else world.open()
    for offset, data in writes:
        file.pwrite(data, offset)
    file.fsync()
    if end:
        file.truncate(end)
        file.fsync()
    put(world, stored)
    after = world.crash(on_recovery="hold" if first else "resume")
    if first:
        after.volume.resolve("k", first)
        return after
    with pytest.raises(ConflictError):
        after.read()
    return after


@WHOLE
@pytest.mark.parametrize("winner", ["rebase", "discard"])
def test_another_version_of_a_whole_object_is_a_conflict(make: Make, winner: str) -> None:
    after = foreign(make, (0, b"new"))
    with pytest.raises(OSError):
        after.volume.sync(durability="backend")
    assert after.saved() == FOREIGN
    assert [found.key for found in after.volume.recovered()] == ["k"]
    after.volume.resolve("k", "rebase") if winner == "rebase" else after.volume.discard("k")
    after.volume.sync(durability="backend")
    assert after.volume.recovered() == []
    assert after.saved() == (b"new" + FOREIGN[3:] if winner == "rebase" else FOREIGN)


@WHOLE
def test_a_recovered_version_that_is_not_whole_is_not_forced(make: Make) -> None:
    """The bytes below ours are gone with the version that had them: no policy merges two versions. [2.19]"""
    after = foreign(make, (0, b"new"), (9000, b"more"))
    with pytest.raises(ConflictError):
        after.volume.resolve("k", "force")
    assert after.saved() == FOREIGN
    with pytest.raises(ConflictError):
        after.read()
    after.volume.discard("k")
    assert after.read() == FOREIGN


@WHOLE
def test_a_shorter_version_of_another_program_makes_no_zeros_of_the_recovered_one(make: Make) -> None:
    after = foreign(make, (0, OLD[:4096][::-1]), (12288, b"more"), stored=b"short")
    with pytest.raises(ConflictError):
        after.volume.resolve("k", "force")
    assert after.saved() == b"short"


@WHOLE
def test_a_new_object_with_a_gap_is_forced_over_another_program_s(make: Make) -> None:
    after = foreign(make, (9000, b"end"), created=True)
    after.volume.resolve("k", "force")
    after.volume.sync(durability="backend")
    assert after.saved() == bytes(9000) + b"end"


@WHOLE
def test_what_was_read_to_recognise_a_commit_is_no_part_of_the_recovered_version(make: Make) -> None:
    """Another program has replaced what the last commit before the crash had stored. [2.19]"""
    world = make()
    file = world.open()
    file.pwrite(b"new", 0)
    file.pwrite(OLD[4096:][::-1], 4096)
    file.fsync()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{JOURNALED}._settle", lambda self, journal: None)
        patch.setattr(f"{JOURNALED}.stored", lambda self, version: None)  # killed before the answer
        world.volume.sync(durability="backend")
        put(world, b"new" + bytes(len(OLD) - 3))
        after = world.crash()
    with pytest.raises(ConflictError):
        after.read()
    with pytest.raises(ConflictError):
        after.volume.resolve("k", "force")
    assert after.saved() == b"new" + bytes(len(OLD) - 3)


@WHOLE
def test_a_recovered_version_that_is_whole_is_forced(make: Make) -> None:
    after = foreign(make, (0, OLD[::-1]))
    after.volume.resolve("k", "force")
    after.volume.sync(durability="backend")
    assert after.volume.recovered() == []
    assert after.saved() == OLD[::-1]


@pytest.mark.parametrize("sizes", [(5000,), (5000, 30000), (30000,)])
@pytest.mark.parametrize("way", ["a rebase", "an append between two crashes"])
def test_cuts_after_another_version_came_below_are_recovered(make: Make, way: str, sizes: tuple[int, ...]) -> None:
    world = make()
    whole = isinstance(world.store, ObjectBackend)
    file = world.open()
    file.pwrite(b"new", 10)
    file.fsync()
    if way == "a rebase":
        conflict(world, file, stored := FOREIGN)
        world.volume.resolve("k", "rebase")
    elif whole:
        return  # a conflict
    else:
        put(world, stored := OLD + FOREIGN)
        world = world.crash(on_recovery="hold")
    file = world.open()
    expected = changed(10, b"new", stored)
    assert file.pread(1 << 20, 0) == expected
    for size in sizes:
        file.truncate(size)
        expected = expected[:size].ljust(size, b"\0")
    file.fsync()
    assert world.crash(on_recovery="hold", lose=not whole).read() == expected


@pytest.mark.parametrize("size", [100, 16384, 21000])
@pytest.mark.parametrize("spilled", [False, True])
def test_a_forced_version_is_the_same_after_a_crash(make: Make, size: int, *, spilled: bool) -> None:
    """Bytes that it was read from, in memory or in the spool, and the cut of a longer one, which is owed. [2.19]"""
    world = make()
    whole = isinstance(world.store, ObjectBackend)
    file = world.open()
    assert file.read() == OLD
    file.pwrite(b"new", 10)
    file.fsync()
    if spilled and whole:
        assert world.volume.engine.spills is not None
        world.volume.engine.spills.make_room(file._inode, locked=False)
        world.volume.drop_clean("k")
    conflict(world, file, stored := FOREIGN[:size])
    for op in ("write_from", "commit", "truncate"):
        world.store.gate(op, times=100)
    try:
        world.volume.resolve("k", "force")
    except ConflictError:
        assert spilled  # not all of it is in memory or staged
        return
    file.fsync(timeout=10)
    ours = changed(10, b"new")
    expected = ours if whole else changed(0, ours[:4096], stored)[: len(OLD)]  # in place that is a page
    assert world.crash(on_recovery="hold").read() == expected


@pytest.mark.parametrize("way", ["a rebase", "an announced change", "an append between two crashes"])
def test_a_longer_version_that_bytes_were_laid_over_is_whole_after_the_next_crash(make: Make, way: str) -> None:
    world = make()
    whole = isinstance(world.store, ObjectBackend)
    if whole and way != "a rebase":
        return  # a conflict
    file = world.open()
    file.pwrite(b"new", 0)
    file.fsync()
    stored = FOREIGN if whole else OLD + FOREIGN
    put(world, stored)
    if way == "an append between two crashes":
        world = world.crash(on_recovery="hold")
    elif way == "an announced change":
        world.volume.invalidate_remote("k", len(OLD), version=world.store.object_stat(world.store.objects["k"]).version)
        world.read()
    file = settled(world, "rebase")
    file.pwrite(b"x", 100)
    file.fsync()
    expected = changed(100, b"x", changed(0, b"new", stored))
    assert file.pread(1 << 20, 0) == expected
    after = world.crash()
    assert after.read() == expected
    after.volume.sync(durability="backend")
    assert after.stored() == expected


@pytest.mark.parametrize("sent", [False, True])
def test_the_written_bytes_of_a_page_alone_are_laid_over_another_version(make: Make, *, sent: bool) -> None:
    """Also those that the store has and has not committed. [2.19]"""
    world = make()
    file = world.open()
    assert file.read() == OLD
    file.pwrite(b"one", 100)
    if sent:
        file._inode.flush_start(STAMP_MAX)
        eventually(lambda: file._inode.range_local(0, 4096) == UNSTABLE)
    file.pwrite(b"two", 200)
    file.fsync()
    put(world, FOREIGN)
    after = world.crash()
    assert settled(after, "rebase").read() == changed(100, b"one", changed(200, b"two", FOREIGN))


def test_a_discarded_tail_stays_discarded_after_a_crash(make: Make) -> None:
    world = make()
    file = world.open()
    file.pwrite(b"y" * 20000, 0)
    file.fsync()
    world.volume.discard("k", 8192, 1 << 20)
    expected = file.pread(1 << 20, 0)
    after = world.crash()
    assert after.read() == expected
    after.volume.sync(durability="backend")
    assert after.stored() == expected


@WHOLE
def test_an_extension_is_no_written_byte_for_a_rebase_after_a_crash(make: Make) -> None:
    after = foreign(make, (0, b"new"), end=20000)
    after.volume.resolve("k", "rebase")
    assert after.read() == changed(0, b"new", FOREIGN)


@WHOLE
def test_the_first_call_for_a_recovered_file_may_resolve_its_conflict(make: Make) -> None:
    after = foreign(make, (0, b"new"), first="rebase")
    assert after.read() == changed(0, b"new", FOREIGN)


@WHOLE
def test_an_append_that_fails_after_a_rebase_is_made_again_as_a_whole(make: Make) -> None:
    """Neither the disk nor the store takes the first one."""
    world = make()
    file = world.open()
    file.pwrite(b"new", 0)
    file.fsync()
    put(world, FOREIGN)
    file = settled(world, "rebase")
    file.pwrite(b"x", 100)
    append = Journal.append

    def failing(self: Journal, record: records.Record, *more: Any) -> int:
        if record.kind == records.Kind.SAVED:
            raise OSError(errno.EIO, "the disk")
        return append(self, record, *more)

    world.store.fault("commit", OSError(errno.EACCES, "refused"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", failing)
        with pytest.raises(CommitError):
            file.fsync()
    world.store.clear_faults()
    world.store.gate("commit", times=100)
    file.fsync()
    assert world.crash().read() == changed(100, b"x", changed(0, b"new", FOREIGN))


@IN_PLACE
def test_a_cut_that_the_store_has_not_committed_is_committed_after_a_crash(make: Make) -> None:
    world = make()
    file = world.open()
    file.truncate(1670)
    file.fsync()
    assert world.saved() == OLD
    after = world.crash()
    assert after.read() == OLD[:1670]
    after.volume.sync(durability="backend")
    assert after.crash(lose=True).read() == OLD[:1670]


# -- names


@IN_PLACE
@pytest.mark.parametrize("call", ["discard", "resume"])
@pytest.mark.parametrize("name", ["o", "k"])
def test_a_call_beside_a_rename_that_was_not_carried_out_concerns_the_named_object_alone(
    make: Make, name: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    world.store.objects["o"] = type(world.store.objects["k"])(b"other" * 100)
    for key, data in (("k", b"new"), ("o", b"XX")):
        file = world.open(key)
        file.pwrite(data, 0)
        file.fsync()
    left: list[Any] = []

    def crash(*_: Any, **_more: Any) -> None:
        copy_tier(world.tier, world.folder / "tier1")
        left.append(world._after())
        raise OSError(errno.EACCES, "refused")

    monkeypatch.setattr(world.store, "rename", crash)
    with pytest.raises(OSError, match="refused"):
        world.volume.rename("k", "o")
    after = World(world.folder, left[0], 1, on_recovery="hold")
    try:
        getattr(after.volume, call)(name)
        if call == "resume":
            eventually(lambda: len(after.volume.recovered()) == 1)
        key, expected = ("o", changed(0, b"XX", b"other" * 100)) if name == "k" else ("k", changed(0, b"new"))
        assert after.read(key) == expected
        assert [found.key for found in after.volume.recovered()] == [key]
    finally:
        after.end()


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
        cache = PageCache("16MiB", disk=DiskTier(folder / tier, size="16MiB", segment="1MiB"))
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
        volume.resume()
        with volume.open("k", "r+b") as file:
            assert file.read() == FOREIGN
            file.pwrite(b"last", 0)
        volume.sync()
        assert [found.key for found in volume.recovered()] == ["k"]
    assert (tmp_path / folder / "k").read_bytes() == b"last" + FOREIGN[4:]


@pytest.mark.parametrize("beside", [False, True])
def test_bytes_of_an_object_that_comes_back_are_laid_before_it_is_open(
    make: Make, monkeypatch: pytest.MonkeyPatch, *, beside: bool
) -> None:
    world = make()
    file = world.open()
    file.pwrite(b"new", 0)
    file.pwrite(b"more", 9000)
    file.fsync()
    after = world.crash(on_recovery="hold")
    gone = after.store.objects.pop("k")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            after.read()
    assert [found.key for found in after.volume.recovered()] == ["k"]
    if beside:  # it was looked for, and is opened now
        first = Recovery.first

        def back(self: Recovery, *names: Any) -> None:
            first(self, *names)
            after.store.objects["k"] = gone

        monkeypatch.setattr(Recovery, "first", back)
    else:
        after.store.objects["k"] = gone
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
    world = make()
    file = world.open()
    file.pwrite(b"new", 0)
    file.fsync()
    after = world.crash(on_recovery="hold")
    after.store.objects.pop("k")
    with pytest.raises(FileNotFoundError):
        after.read()
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
    world = make()
    world.open("o", "x+b").fsync(durability="backend")
    file = world.open()
    file.pwrite(b"new", 0)
    file.fsync()
    after = world.crash(on_recovery="hold", retry=RetryPolicy(attempts=1))
    after.store.objects.pop("k")
    with pytest.raises(FileNotFoundError):
        after.read()
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
        after.open(mode="x+b")
    elif first == "a rename":
        after.volume.rename("o", "k")
    assert after.volume.exists("k") == (not first.startswith("a remove"))


# -- beside the laying


@pytest.mark.parametrize("at", [1, 2])
def test_an_abort_beside_the_laying_of_a_file_leaves_it_to_the_next_call(make: Make, at: int) -> None:
    world = make()
    file = world.open()
    file.truncate(5000)
    file.pwrite(b"1" * 10, 100)
    file.fsync()
    file.pwrite(b"2" * 10, 12300)
    file.truncate(30000)
    file.fsync()
    expected = file.pread(1 << 20, 0)
    after = world.crash(on_recovery="hold")
    reads: list[int] = []

    def aborting(offset: int) -> None:
        reads.append(offset)
        if len(reads) == at:
            after.volume.abort()

    with before_read(aborting), pytest.raises(OSError):
        after.read()
    after.store = after._after()
    after.volume.reconnect(after.store)
    assert after.read() == expected
    after.volume.resume()
    after.volume.sync(durability="backend")
    assert after.saved() == expected
    assert after.volume.recovered() == []


@IN_PLACE
def test_an_object_that_grew_after_a_recovery_had_failed_keeps_its_size(make: Make) -> None:
    world = make()
    file = world.open()
    file.pwrite(b"new", 0)
    file.pwrite(b"more", 9000)
    file.fsync()
    after = world.crash(on_recovery="hold")

    def failing(offset: int) -> None:
        if offset:
            raise OSError(errno.EIO, "the disk")

    with before_read(failing), pytest.raises(OSError):
        after.read()
    put(after, OLD + FOREIGN)
    assert after.read() == changed(9000, b"more", changed(0, b"new", OLD + FOREIGN))


def test_what_was_left_is_saved_after_an_abort_and_a_reconnect(make: Make) -> None:
    world = make()
    file = world.open()
    file.pwrite(b"new", 0)
    file.fsync()
    after = world.crash()
    after.volume.abort()
    recovery = after.volume.recovery
    assert recovery is not None
    eventually(lambda: recovery._thread is None)
    after.store = after._after()
    after.volume.reconnect(after.store)
    eventually(lambda: after.saved() == changed(0, b"new"))
    eventually(lambda: after.volume.recovered() == [])


BIG = b"1" * (1 << 20) + b"2" * 400_000  # more than half of the dirty limit of 3 MiB


def test_a_sync_beside_the_laying_of_a_large_file_gives_it_no_second_place_in_the_journal(make: Make) -> None:
    world = make()
    file = world.open("big", "w+b")
    file.write(BIG)
    file.fsync()
    after = world.crash(memory="3MiB", on_recovery="hold")
    recovery = after.volume.recovery
    assert recovery is not None
    recovery._left[0].held = False  # as with "resume", but no thread runs beside this test

    def syncing(offset: int) -> None:
        if offset == 1 << 20:
            other = threading.Thread(target=after.volume.sync)
            other.start()
            other.join()

    with before_read(syncing):
        assert after.read("big") == BIG
    file = after.open("big")
    file.pwrite(b"new", 0)
    file.fsync()
    last = after.crash()
    assert len(last.volume.recovered()) <= 1
    assert last.read("big") == changed(0, b"new", BIG)


def test_an_end_beside_the_laying_of_a_large_file_leaves_it_whole(make: Make) -> None:
    world = make()
    file = world.open("big", "w+b")
    file.write(BIG)
    file.fsync()
    begun, ends = threading.Event(), threading.Event()

    def until_the_end(_offset: int) -> None:
        begun.set()
        assert ends.wait(WAIT_LIMIT_S)

    with before_read(until_the_end), pytest.MonkeyPatch.context() as patch:
        after = world.crash(memory="3MiB")
        stop = Recovery.stop

        def stopping(self: Recovery, deadline: Any) -> None:
            self._stop.set()
            ends.set()
            stop(self, deadline)

        patch.setattr(Recovery, "stop", stopping)
        assert begun.wait(WAIT_LIMIT_S)
        after.cache.close(timeout=WAIT_LIMIT_S)
    copy_tier(after.tier, after.folder / "tier9")
    last = World(after.folder, after._after(), 9)
    try:
        assert last.read("big") == BIG
    finally:
        last.end()


def test_an_interrupted_end_leaves_the_recovery_going(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make()
    file = world.open()
    file.pwrite(b"new", 0)
    file.fsync()
    after = world.crash()
    stop = Recovery.stop

    def interrupted(self: Recovery, deadline: Any) -> None:
        stop(self, deadline)
        raise KeyboardInterrupt

    monkeypatch.setattr(Recovery, "stop", interrupted)
    raises(KeyboardInterrupt, after.cache.close)
    monkeypatch.undo()
    eventually(lambda: after.saved() == changed(0, b"new"))


def test_a_close_that_saves_in_the_store_saves_what_is_held(make: Make) -> None:
    world = make(durability="backend")
    world.open().pwrite(b"new", 0)
    world.files[0].fsync(durability="disk")
    after = world.crash(durability="backend", on_recovery="hold")
    file = after.open()
    file.pwrite(b"x", 100)
    file.close()
    after.volume.sync(durability="backend")
    assert after.saved() == changed(100, b"x", changed(0, b"new"))
    assert after.volume.recovered() == []


def test_what_was_left_is_saved_after_a_reconnect_beside_the_laying(make: Make) -> None:
    """The thread that lays it finds the end of the store only then."""
    world = make()
    file = world.open()
    file.pwrite(b"new", 0)
    file.fsync()
    after = world.crash(flush_interval=0.5)
    gate = after.store.gate("open")
    gate.wait_entered()
    store = after._after()
    after.volume.abort()
    after.volume.reconnect(store)
    gate.open()
    after.store = store
    eventually(lambda: not after.volume.recovered())
    assert after.stored() == changed(0, b"new")


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
        assert names.status("e/k").size == len(OLD)
        assert [(name, found.size) for name, found in names.entries("e")] == [("k", len(OLD))]


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
    world.store.put("k", bytes(len(BIG)))  # type: ignore[attr-defined]
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


def test_a_discard_that_the_disk_has_refused_is_made_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    after = left_in_two(make)

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "the disk")

    monkeypatch.setattr(OS, "fdatasync", failing)
    with pytest.raises(OSError):
        after.volume.discard("k")
    monkeypatch.undo()
    after.volume.discard("k")
    assert [found.key for found in after.volume.recovered()] == ["o"]
    assert after.read() == OLD


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
    journal = after.cache.tier.journal()  # type: ignore[union-attr]
    number = after.volume.recovery._left[0].unsaved.number  # type: ignore[union-attr]
    for _ in range(2):
        journal.forget(number)


@IN_PLACE
def test_a_creation_without_an_answer_gives_up_what_was_left_of_a_gone_object(make: Make) -> None:
    world = make()
    file = world.open()
    file.pwrite(b"new", 0)
    file.fsync()
    after = world.crash(on_recovery="hold", retry=RetryPolicy(attempts=1))
    after.store.objects.pop("k")
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
