"""Files that a crash has left in the disk tier, beside other calls, other programs, and a second crash. [2.28]"""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, partialmethod
from itertools import chain, count
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pagecache import CachedFile, ConflictError, DataLossError, DiskTier, PageCache, RetryPolicy, ShutdownError, Volume
from pagecache.backends.fsspec import FsspecBackend
from pagecache.disk import records
from pagecache.disk.backend import TieredFile
from pagecache.disk.journal import Journal
from pagecache.disk.recovery import Unsaved
from pagecache.disk.tier import Tier
from pagecache.engine import runner
from pagecache.engine.commit.journaled import Journaled, VolumeJournal
from pagecache.engine.commit.overlay import Overlay
from pagecache.engine.io import barrier
from pagecache.engine.park import Deadline
from pagecache.native import STAMP_MAX, UNSTABLE
from pagecache.testing import Gate
from pagecache.volume import detach, laying, reconnect, recovered
from pagecache.volume.namespace import NameChange
from pagecache.volume.recovered import Recovery
from tests.disk.test_durability import (
    IN_PLACE,
    JOURNALED,
    OLD,
    WHOLE,
    Make,
    World,
    changed,
    disk_fails,
    failing,
    losing_a_sync,
)
from tests.file.rig import Task, at_gate, beside, eventually, held, raises, raising
from tests.stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend, StoredObject

pytestmark = pytest.mark.contract("D1", "D3", "D10")

FOREIGN = bytes((at * 7 + 3) % 251 + 1 for at in range(21000))  # of another program, without zeros


def put(world: World, data: bytes) -> None:
    """Store another version, as another program."""
    if isinstance(world.store, ObjectBackend):
        world.store.put("k", data)
    else:
        world.store.change_remotely("k", data)


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
    world: World,
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
    else:
        raises(ConflictError, after.read)
    return after


@WHOLE
@pytest.mark.parametrize("winner", ["rebase", "discard"])
def test_another_version_of_a_whole_object_is_a_conflict(world: World, winner: str) -> None:
    after = foreign(world, (0, b"new"))
    raises(OSError, after.volume.sync, durability="backend")
    assert after.saved() == FOREIGN
    assert after.left() == ["k"]
    after.volume.resolve("k", "rebase") if winner == "rebase" else after.volume.discard("k")
    after.settles(b"new" + FOREIGN[3:] if winner == "rebase" else FOREIGN)


@WHOLE
@pytest.mark.parametrize("stored", [FOREIGN, b"short"])
def test_a_recovered_version_that_is_not_whole_is_not_forced(world: World, stored: bytes) -> None:
    """The bytes below ours are gone with the version that had them: no policy merges two versions. A shorter version
    makes no zeros of them. [2.19]
    """
    after = foreign(world, (0, OLD[:4096][::-1]), (12288, b"more"), stored=stored)
    raises(ConflictError, after.volume.resolve, "k", "force")
    assert after.saved() == stored
    raises(ConflictError, after.read)
    after.volume.discard("k")
    assert after.read() == stored


@WHOLE
@pytest.mark.parametrize("created", [False, True])
def test_a_recovered_version_that_is_whole_is_forced(world: World, *, created: bool) -> None:
    """So is a new object with a gap."""
    after = foreign(world, (9000, b"end") if created else (0, OLD[::-1]), created=created)
    after.volume.resolve("k", "force")
    after.settles(bytes(9000) + b"end" if created else OLD[::-1])


@WHOLE
def test_what_was_read_to_recognise_a_commit_is_no_part_of_the_recovered_version(world: World) -> None:
    """Another program has replaced what the last commit before the crash had stored. [2.19]"""
    world.open().pwrite(b"new", 0)
    world.synced(OLD[4096:][::-1], 4096)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{JOURNALED}._settle", lambda self, journal: None)
        patch.setattr(f"{JOURNALED}.stored", lambda *_: None)  # killed before the answer
        world.volume.sync(durability="backend")
        put(world, b"new" + bytes(len(OLD) - 3))
        after = world.crash()
    raises(ConflictError, after.read)
    raises(ConflictError, after.volume.resolve, "k", "force")
    assert after.saved() == b"new" + bytes(len(OLD) - 3)


@pytest.mark.parametrize("sizes", [(5000,), (5000, 30000), (30000,)])
@pytest.mark.parametrize("way", ["a rebase", "an append between two crashes"])
def test_cuts_after_another_version_came_below_are_recovered(world: World, way: str, sizes: tuple[int, ...]) -> None:
    whole = isinstance(world.store, ObjectBackend)
    file = world.synced(b"new", 10)
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
def test_a_forced_version_is_the_same_after_a_crash(world: World, size: int, *, spilled: bool) -> None:
    """Bytes that it was read from, in memory or in the spool, and the cut of a longer one, which is owed. [2.19]"""
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
    try:
        world.volume.resolve("k", "force")
    except ConflictError:
        assert spilled  # not all of it is in memory or staged
        return
    file.fsync(timeout=10)
    ours = changed(10, b"new")
    expected = ours if whole else changed(0, ours[:4096], stored)[: len(OLD)]  # in place that is a page
    assert world.crash(on_recovery="hold").read() == expected


@pytest.mark.parametrize(
    ("call", "later"),
    [
        *[(call, later) for call in ("fsync", "sync") for later in ("nothing", "bytes", "bytes of a file to describe")],
        ("sync at the store", "nothing"),
        ("close", "nothing"),
    ],
)
def test_what_a_commit_has_stored_is_not_confirmed_by_older_records(world: World, call: str, later: str) -> None:
    """The commit has its answer, and its end is not recorded yet."""
    file = world.open()
    inode = file._inode
    calls: dict[str, Callable[[], None]] = {
        "fsync": file.fsync,
        "sync": world.volume.sync,
        "sync at the store": partial(world.volume.sync, durability="backend"),
        "close": file.close,
    }
    file.pwrite(b"old", 10)
    file.fsync()
    file.pwrite(b"new", 10)
    with inode.loses():  # so long no end of a commit counts
        saving = Task(barrier.drive, barrier.FileSync(inode), None, "fsync")
        eventually(lambda: not inode.has_local())
        expected = changed(10, b"new")
        if later != "nothing":
            file.pwrite(b"later", 9000)
            expected = changed(9000, b"later", expected)
            inode.journaled._whole = later != "bytes"  # as after a hole beside a view
        confirmed = Task(calls[call])
        killed = None if confirmed.waits() else world.copied()
    saving.result()
    confirmed.result()
    assert (killed or world.crash()).read() == expected


@pytest.mark.parametrize("call", ["fsync", "sync"])
def test_what_a_sync_has_saved_is_recorded_beside_the_end_of_a_later_commit(
    world: World, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """That end hides for a moment what the sync has seen."""
    file = world.synced(b"old", 10)
    file.pwrite(b"new", 10)

    def beside(self: Any, call: Any, *arguments: Any) -> Any:
        with self.file.loses():
            return call(self, *arguments)

    for name in ("_settle", "is_saved"):
        monkeypatch.setattr(Journaled, name, partialmethod(beside, getattr(Journaled, name)))
    (file.fsync if call == "fsync" else world.volume.sync)(durability="backend")
    assert world.copied().read() == changed(10, b"new")


@pytest.mark.parametrize("durability", ["disk", "backend"])
def test_a_close_confirms_what_another_call_has_saved(make: Make, durability: Any) -> None:
    """A power cut brings nothing back that it was saved from."""
    world = make(durability=durability, sync_on_close=True)
    file, journal = world.open(), world.journal()
    file.pwrite(b"old", 10)
    file.fsync(durability="disk")
    file.pwrite(b"new", 10)
    barrier.drive(barrier.FileSync(file._inode), None, "fsync")
    file._inode.journaled.settle(Deadline(world.volume.engine.clock, None))
    assert journal._confirmed < journal.last
    file.close()
    assert journal._confirmed == journal.last


def test_a_close_without_changes_raises_no_error_of_other_files(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk took no record of those. [D5]"""
    world = make(durability="backend", sync_on_close=True)
    world.synced(b"new").fsync(durability="disk")
    refused = OSError(errno.EIO, "the disk fails")
    monkeypatch.setattr(VolumeJournal, "settle_refused", lambda self: refused)
    world.files.pop().close()
    world.open().close()


@IN_PLACE
def test_a_file_that_is_freed_beside_a_sync_is_recorded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file = world.synced(b"old", 10)
    file.pwrite(b"new", 10)
    inode = file._inode
    monkeypatch.setattr(VolumeJournal, "poll", lambda self, now: math.inf)
    with monkeypatch.context() as patch:
        patch.setattr(Journaled, "_settle", lambda self, journal: None)
        patch.setattr(Journaled, "freed", lambda self: None)  # not reached yet
        barrier.drive(barrier.FileSync(inode), None, "fsync")
        file.close()
        world.volume.drop_clean("k")
        eventually(lambda: inode.freed or world.volume.engine.free(inode))
    world.volume.sync()
    assert world.copied().read() == changed(10, b"new")


@pytest.mark.parametrize("way", ["a rebase", "an announced change", "an append between two crashes"])
def test_a_longer_version_that_bytes_were_laid_over_is_whole_after_the_next_crash(world: World, way: str) -> None:
    whole = isinstance(world.store, ObjectBackend)
    if whole and way != "a rebase":
        return  # a conflict
    world.synced(b"new")
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
    after.settles(expected)


@IN_PLACE
@pytest.mark.parametrize("size", [500, 21000])
def test_a_gap_takes_no_bytes_that_another_program_has_appended(world: World, size: int) -> None:
    """A hole behind the former end does."""
    file = world.open()
    file.pwrite(b"new", 50000)
    file.punch_hole(len(OLD) + 200, 100)
    file.fsync()
    put(world, stored := OLD + FOREIGN[:size])
    world.crash().settles(changed(50000, b"new", changed(len(OLD) + 200, bytes(100), stored)))


@pytest.mark.parametrize("sent", [False, True])
def test_the_written_bytes_of_a_page_alone_are_laid_over_another_version(world: World, *, sent: bool) -> None:
    """Also those that the store has and has not committed. [2.19]"""
    file = world.open()
    assert file.read() == OLD
    file.pwrite(b"one", 100)
    if sent:
        file._inode.flush_start(STAMP_MAX)
        eventually(lambda: file._inode.range_local(0, 4096) == UNSTABLE)
    file.pwrite(b"two", 200)
    file.fsync()
    put(world, FOREIGN)
    assert settled(world.crash(), "rebase").read() == changed(100, b"one", changed(200, b"two", FOREIGN))


@WHOLE
def test_an_extension_is_no_written_byte_for_a_rebase_after_a_crash(world: World) -> None:
    after = foreign(world, (0, b"new"), end=20000)
    after.volume.resolve("k", "rebase")
    assert after.read() == changed(0, b"new", FOREIGN)


@WHOLE
def test_the_first_call_for_a_recovered_file_may_resolve_its_conflict(world: World) -> None:
    assert foreign(world, (0, b"new"), first="rebase").read() == changed(0, b"new", FOREIGN)


@contextmanager
def before_call(owner: Any, name: str, call: Callable[[], object]) -> Iterator[None]:
    """Context in which the first call of a method waits for `call` on another thread, at most a second."""
    begun: list[Task[object]] = []

    def begin() -> None:
        begun.append(Task(call))
        begun[0].waits(1)

    with pytest.MonkeyPatch.context() as patch:
        beside(patch, owner, name, begin)
        yield
    begun[0].result()


@WHOLE
@pytest.mark.parametrize("before", [False, True])
def test_an_fsync_beside_a_rebase_takes_no_size_of_the_version_before(world: World, *, before: bool) -> None:
    """`before`: the journal has had bytes of the file."""
    file = world.synced(b"new") if before else world.open()
    file.pwrite(b"new", 0)
    conflict(world, file, FOREIGN)
    with before_call(Overlay, "put", file.fsync):
        world.volume.resolve("k", "rebase")
    world.crash().settles(changed(0, b"new", FOREIGN))


@IN_PLACE
@pytest.mark.parametrize("before", [False, True])
def test_another_version_that_comes_below_beside_an_fsync_is_whole_after_a_crash(world: World, *, before: bool) -> None:
    file = world.synced(b"one") if before else world.open()
    file.pwrite(b"new", 0)
    put(world, stored := OLD + FOREIGN)
    world.volume.invalidate_remote("k", len(OLD), version=world.store.object_stat(world.store.objects["k"]).version)
    with before_call(Journal, "append", world.read):
        file.fsync()
    world.crash().settles(changed(0, b"new", stored))


@IN_PLACE
def test_a_version_that_was_taken_is_whole_after_a_crash(world: World) -> None:
    file = world.synced(b"one", mode="w+b")
    conflict(world, file, FOREIGN)
    world.volume.resolve("k", "discard")
    after = world.crash()
    assert after.left() == []
    assert after.read() == FOREIGN
    after.settles(FOREIGN)


@IN_PLACE
def test_a_cut_of_before_another_version_is_not_made_again_by_a_reconnect(world: World) -> None:
    """Nor a hole."""
    file = world.open(mode="w+b")
    file.pwrite(b"one", 0)
    file.truncate(9000)
    file.punch_hole(5000, 100)
    conflict(world, file, FOREIGN)
    world.volume.resolve("k", "rebase")
    world.volume.abort()
    world.volume.reconnect(world.store)
    file.fsync(durability="backend")
    assert world.stored() == changed(0, b"one", FOREIGN)


@IN_PLACE
@pytest.mark.parametrize("change", ["a write", "a cut"])
def test_what_another_program_has_appended_to_a_recovered_file_stays(world: World, change: str) -> None:
    world.synced(b"new")
    put(world, OLD + FOREIGN[:5000])
    world = world.crash(on_recovery="hold")
    file = world.open()
    expected = changed(0, b"new", OLD + FOREIGN)
    if change == "a write":
        file.pwrite(b"x", 100)
        expected = changed(100, b"x", expected)
    else:
        file.truncate(len(OLD) + 3000)
    file.fsync()
    stored = world.saved() or b""
    put(world, stored + (OLD + FOREIGN)[len(stored) :])
    world.crash().settles(expected)


def test_bytes_that_are_written_beside_a_discard_survive(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file = world.synced(b"one")
    file.pwrite(b"two", 8192)
    beside(monkeypatch, file._inode, "discard", lambda: Task(file.pwrite, b"late", 8192).result(), after=True)
    world.volume.discard("k", 8192, 4096)
    raises(DataLossError, file.fsync)
    file.fsync()
    assert world.crash().read() == changed(8192, b"late", changed(0, b"one"))


@IN_PLACE
def test_bytes_that_were_given_up_and_read_again_are_not_recovered(world: World) -> None:
    """Another program may have replaced them."""
    file = world.synced(b"one")
    file.pwrite(b"two", 8192)
    world.volume.discard("k", 8192, 4096)
    file.pread(1, 8192)
    with suppress(DataLossError):
        file.fsync()
    file.fsync()
    put(world, changed(8192, b"three", changed(0, b"one")))
    assert world.crash().read() == changed(8192, b"three", changed(0, b"one"))


@WHOLE
@pytest.mark.parametrize("by", ["a commit", "a look"])
def test_a_version_that_is_found_beside_a_rename_of_the_directory_leaves_that_announced(world: World, by: str) -> None:
    """Such a rename lends no token of the file."""
    inode = world.synced(b"one")._inode
    inode.journaled.renaming("b")
    if by == "a commit":
        inode.has_committed("v", inode.opened())
    else:
        inode.versions.follow(inode.versions.base, "v")
        inode.journaled.follows()
    (found,) = world.journal().read().files
    assert found.state.renaming == "b"


@WHOLE
@pytest.mark.parametrize("call", ["a commit", "a rename", "a look"])
def test_records_of_another_version_are_never_those_of_a_later_one(world: World, call: str) -> None:
    """The commit of what was laid over another version, or a rename of it, has made that one."""
    file = world.synced(b"one")
    inode = file._inode
    inode.journaled.set_sent(True)  # no save begins
    with inode.rebasing():
        inode.versions.replace("v2")
    if call == "a commit":
        inode.has_committed("v3", inode.opened())
    elif call == "a rename":
        inode.journaled.renamed("k")
    else:
        inode.journaled.follows()
    (found,) = world.journal().read().files
    assert found.state.base == "100"


@WHOLE
@pytest.mark.parametrize("lost", [False, True])
def test_a_commit_that_failed_before_the_first_fsync_makes_no_other_version_ours(world: World, *, lost: bool) -> None:
    """`lost`: the disk loses the first records of the file."""
    world.synced(b"x", key="other", mode="x+b")  # the journal is in use
    file = world.open()
    file.pwrite(b"one", 100)
    world.store.fault("commit", PermissionError(errno.EACCES, "refused"), key="k", times=float("inf"))
    raises(OSError, file.fsync, durability="backend")
    if lost:
        with losing_a_sync(world):
            raises(OSError, file.fsync)
    file.fsync()
    put(world, FOREIGN[: len(OLD)])
    raises(ConflictError, world.crash().read)


def test_a_version_that_comes_back_lies_below_as_before(tmp_path: Path) -> None:
    """Versions of stores that make them of the content: that before a commit of ours is that of a later one."""
    store = ObjectBackend()
    store.put("k", OLD)
    store.versions = chain([101, 100], count(200))
    world = World(tmp_path, store)
    file = world.synced(b"ours")
    file.fsync(durability="backend")
    put(world, OLD)
    file.pwrite(b"two", 100)
    raises(ConflictError, world.open)
    world.volume.resolve("k", "rebase")
    file.fsync()
    assert world.crash().read() == changed(100, b"two")


# -- names


@WHOLE
@pytest.mark.parametrize(("call", "names"), [("rename", ("k", "g")), ("remove", ("k",))])
def test_a_refused_call_for_a_name_changes_no_version_below(world: World, call: str, names: tuple[str, ...]) -> None:
    world.synced(b"new")
    world.store.fault(call, PermissionError(errno.EACCES, "refused"))
    raises(PermissionError, getattr(world.volume, call), *names)
    put(world, FOREIGN)
    raises(ConflictError, world.crash().read)


@pytest.mark.parametrize("by", ["a read", "an open", "a reconnect"])
def test_a_rename_over_a_file_that_was_not_carried_out_takes_none_of_its_bytes(make: Make, by: str) -> None:
    """Also if its source is gone by the crash."""
    world = make(retry=RetryPolicy(attempts=1))
    world.open("a", "x+b").close()
    world.volume.sync(durability="backend")
    file = world.synced(b"one", 5000)
    world.store.fault("rename", ConnectionResetError(errno.ECONNRESET, "no answer"), times=float("inf"))
    raises(ConnectionResetError, world.volume.rename, "a", "k")
    world.store.clear_faults()
    assert world.volume.unsettled
    if by == "a read":
        file.pread(100, 12288)
    elif by == "an open":
        world.open()
    else:
        world.volume.abort()
        world.store = world._after()
        world.volume.reconnect(world.store)
    assert not world.volume.unsettled
    file.pwrite(b"new", 0)
    file.fsync()
    world.volume.remove("a")
    assert world.crash(on_recovery="hold").read() == changed(0, b"new", changed(5000, b"one"))


@IN_PLACE
@pytest.mark.parametrize("call", ["discard", "resume"])
@pytest.mark.parametrize("name", ["o", "k"])
def test_a_call_beside_a_rename_that_was_not_carried_out_concerns_the_named_object_alone(
    world: World, name: str, call: str
) -> None:
    world.store.objects["o"] = StoredObject(b"other" * 100)
    world.synced(b"new")
    world.synced(b"XX", key="o")
    after = world.killed_in("rename", world.volume.rename, "k", "o", carried_out=False, on_recovery="hold")
    getattr(after.volume, call)(name)
    if call == "resume":
        eventually(lambda: len(after.left()) == 1)
    key, expected = ("o", changed(0, b"XX", b"other" * 100)) if name == "k" else ("k", changed(0, b"new"))
    assert after.read(key) == expected
    assert after.left() == [key]


@pytest.mark.parametrize("settled", [False, True])
def test_a_rename_that_was_carried_out_is_known_after_a_power_cut(make: Make, *, settled: bool) -> None:
    """Though another object has the old name by then. `settled`: its answer was lost, and the names were looked at."""
    world = make(retry=RetryPolicy(attempts=1))
    world.synced(b"new")
    if settled:
        world.store.fault("rename answer", ConnectionResetError(errno.ECONNRESET, "no answer"))
        raises(ConnectionResetError, world.volume.rename, "k", "g")
        assert world.volume.exists("g")
    else:
        world.volume.rename("k", "g")
    assert not world.journal().is_behind()
    world.store.objects["k"] = StoredObject(FOREIGN)
    after = world.copied(on_recovery="hold")
    assert after.read() == FOREIGN
    assert after.read("g") == changed(0, b"new")


@WHOLE
def test_an_interrupt_while_a_refused_call_is_recorded_keeps_no_commit_from_beginning(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(retry=RetryPolicy(attempts=100, first_delay=5.0, max_delay=5.0))
    file = world.synced(b"new")
    world.store.fault("rename", OSError(errno.ECONNREFUSED, "no server"), times=float("inf"))
    keep, struck = NameChange._confirm_names, list[None]()

    def interrupted(self: NameChange, files: Any) -> None:
        keep(self, files)
        if self.over and not struck:
            struck.append(None)
            raise KeyboardInterrupt

    monkeypatch.setattr(NameChange, "_confirm_names", interrupted)
    raises(KeyboardInterrupt, world.volume.rename, "k", "z", timeout=0.2)
    world.store.clear_faults()
    file.fsync(durability="backend", timeout=20)


# -- late answers of commits


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set after each commit of a file of a backend below the tier."""
    event, genuine = threading.Event(), TieredFile.commit

    def commit(self: TieredFile) -> str | None:
        try:
            return genuine(self)
        finally:
            event.set()

    monkeypatch.setattr(TieredFile, "commit", commit)
    return event


@WHOLE
def test_a_late_answer_of_a_fenced_commit_changes_no_version_below(world: World, answered: threading.Event) -> None:
    file, old, fresh = world.synced(b"one"), world.store, ObjectBackend()
    assert isinstance(old, ObjectBackend)
    gate, saving = at_gate(old.gate("commit answer"), file.fsync, durability="backend")
    world.volume.abort()
    raises(OSError, saving.result)
    for name in ("objects", "versions", "made_by", "attempts"):
        setattr(fresh, name, getattr(old, name))
    world.volume.reconnect(fresh, fenced=True)
    world.store = fresh
    file.pwrite(b"two", 100)
    file.fsync(durability="backend")
    file.pwrite(b"three", 200)
    file.fsync()
    answered.clear()
    gate.open()
    assert answered.wait(WAIT_LIMIT_S)
    assert world.crash().read() == changed(200, b"three", changed(100, b"two", changed(0, b"one")))


def test_a_commit_that_answers_while_a_reconnect_opens_files_is_no_version_of_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: threading.Event
) -> None:
    store = MemoryFileSystem(skip_instance_cache=True)
    store.pipe_file("/store/k", OLD)

    def answer() -> None:
        gate.open()
        assert answered.wait(WAIT_LIMIT_S)

    with PageCache("16MiB", disk=DiskTier(tmp_path, size="16MiB", segment="1MiB")) as cache:
        volume = cache.attach(FsspecBackend(store, "/store"), volume_id="store")
        with volume.open("k", "r+b") as file:
            file.pwrite(b"new", 0)
            gate, saving = at_gate(held(monkeypatch, store, "cp_file"), file.fsync)
            volume.abort()
            raises(OSError, saving.result)
            beside(monkeypatch, reconnect, "_open_all", answer, after=True)
            volume.reconnect(FsspecBackend(store, "/store"))
            file.fsync(timeout=20)
    assert store.cat_file("/store/k") == changed(0, b"new")


# -- beside the laying


@pytest.mark.parametrize("at", [1, 2])
def test_an_abort_beside_the_laying_of_a_file_leaves_it_to_the_next_call(world: World, at: int) -> None:
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

    with before_read(aborting):
        raises(OSError, after.read)
    after.store = after._after()
    after.volume.reconnect(after.store)
    assert after.read() == expected
    after.volume.resume()
    after.settles(expected)


@WHOLE
def test_a_laying_beside_a_reconnect_finds_another_version(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had compared the earlier one, and nothing was local yet: the reconnect compares nothing. [2.19]"""
    world.synced(b"a" * 8192)  # whole pages: none of them is filled
    after = world.crash(on_recovery="hold")
    gate, reading = at_gate(held(monkeypatch, Unsaved, "read"), after.read)
    after.volume.abort()
    raises(OSError, reading.result)
    put(after, FOREIGN)
    after.volume.reconnect(after.store)
    gate.open()
    after.volume.resume()
    raises(ConflictError, after.volume.sync, durability="backend")
    assert after.saved() == FOREIGN


def test_a_sync_beside_a_detach_confirms_no_recovered_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not laid yet, and no longer: it raises. [2.15]"""
    world.synced(b"new")
    after = world.crash(flush_interval=0.5)
    gate = after.store.gate("open")
    gate.wait_entered()
    ends, ending = at_gate(held(monkeypatch, detach, "_save"), after.volume.detach)
    raises(ShutdownError, Task(after.volume.sync, durability="backend").result)
    assert after.saved() == OLD
    gate.open()
    ends.open()
    ending.result()


def test_a_call_that_joins_a_laying_of_before_a_reconnect_gets_no_error_of_the_abort(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The laying has failed, and has not ended yet. [2.17, 2.28]"""
    world.synced(b"new")
    after = world.crash(on_recovery="hold")
    failed, end, lay = threading.Event(), threading.Event(), laying._lay

    def late(*arguments: Any) -> Any:
        try:
            return lay(*arguments)
        except ShutdownError:
            failed.set()
            assert end.wait(WAIT_LIMIT_S)
            raise

    monkeypatch.setattr(laying, "_lay", late)
    with before_read(lambda offset: after.volume.abort()):
        raises(ShutdownError, after.read)
        assert failed.wait(WAIT_LIMIT_S)
    after.store = after._after()
    after.volume.reconnect(after.store)
    joined = Task(after.read)
    eventually(lambda: any("recovery" in str(wait) for wait in after.cache.waits()))
    end.set()
    assert joined.result() == changed(0, b"new")


@IN_PLACE
def test_an_object_that_grew_after_a_recovery_had_failed_keeps_its_size(world: World) -> None:
    world.open().pwrite(b"new", 0)
    world.synced(b"more", 9000)
    after = world.crash(on_recovery="hold")
    with before_read(lambda offset: offset and failing()):
        raises(OSError, after.read)
    put(after, OLD + FOREIGN)
    assert after.read() == changed(9000, b"more", changed(0, b"new", OLD + FOREIGN))


@WHOLE
def test_what_a_held_file_has_cut_off_below_its_end_stays_cut_after_a_reconnect(world: World) -> None:
    """It was extended again, by zeros; nothing is stored before a resume. [2.17, 2.22, 2.28]"""
    file = world.open()
    file.truncate(5000)
    file.truncate(12000)
    file.pwrite(b"new", 100)
    file.fsync()
    expected = changed(100, b"new", OLD[:5000] + bytes(7000))
    after = world.crash(on_recovery="hold")
    reader = after.open(mode="rb")
    after.volume.abort()
    after.volume.reconnect(after.store)
    assert reader.pread(1 << 20, 0) == expected
    assert after.saved() == OLD
    writer = after.open()
    writer.pwrite(b"x", 6000)
    writer.fsync(durability="backend")
    assert after.saved() == changed(6000, b"x", expected)


def test_what_was_left_is_saved_after_an_abort_and_a_reconnect(world: World) -> None:
    world.synced(b"new")
    after = world.crash()
    after.volume.abort()
    recovery = after.volume.recovery
    assert recovery is not None
    eventually(lambda: recovery._thread is None)
    after.store = after._after()
    after.volume.reconnect(after.store)
    eventually(lambda: after.saved() == changed(0, b"new"))
    eventually(lambda: after.left() == [])


BIG = b"1" * (1 << 20) + b"2" * 400_000  # more than half of the dirty limit of 3 MiB


def test_a_sync_beside_the_laying_of_a_large_file_gives_it_no_second_place_in_the_journal(world: World) -> None:
    world.synced(BIG, key="big", mode="w+b")
    after = world.crash(memory="3MiB", on_recovery="hold")
    recovery = after.volume.recovery
    assert recovery is not None
    recovery._left[0].held = False  # as with "resume", but no thread runs beside this test

    def syncing(offset: int) -> None:
        if offset == 1 << 20:
            Task(after.volume.sync).result()

    with before_read(syncing):
        assert after.read("big") == BIG
    after.synced(b"new", key="big")
    last = after.crash()
    assert len(last.left()) <= 1
    assert last.read("big") == changed(0, b"new", BIG)


def test_a_file_is_laid_beside_a_volume_that_has_most_of_the_memory(world: World) -> None:
    """By its completions: that of a volume whose only file is being laid has none."""
    expected = changed(0, b"new" * (1 << 19))
    world.synced(b"new" * (1 << 19))
    after = world.crash(on_recovery="hold")
    with after.cache.attach("memory:").open("busy", "w+b") as busy:
        busy.write(bytes(4 << 20))
        busy.fsync()
        eventually(lambda: after.volume.engine.pace.share[0] < 1 << 20)
        after.volume.resume()
        after.settles(expected)


@IN_PLACE
def test_held_files_are_laid_beside_a_dead_volume_that_has_most_of_the_memory(world: World) -> None:
    """Nor does a writer of their volume wait for it. [2.24]"""
    expected = changed(0, b"new" * (1 << 19))
    world.synced(b"new" * (1 << 19))
    after = world.crash(on_recovery="hold")
    store = RecordingBackend({"busy": b""})
    busy = after.cache.attach(store).open("busy", "r+b")
    busy.write(bytes(4 << 20))
    busy.fsync()
    eventually(lambda: after.volume.engine.pace.share[0] < 1 << 20)
    store.gate("write_from", times=10_000)
    writing = Task(busy.pwrite, bytes(12 << 20), 0)
    eventually(lambda: after.cache.native.usage()["local"] > 7 << 20)
    try:
        assert after.read() == expected
        after.synced(b"more", key="other", mode="x+b")
    finally:
        store.open_all_gates()
    writing.result()
    busy.close()


def test_held_files_have_half_of_the_memory_for_dirty_bytes_whatever_other_volumes_do(world: World) -> None:
    """All volumes of a cache together; another one has all completions. Resumed bytes take nothing from others."""
    options: dict[str, Any] = {"durability": "disk", "volume_id": "other", "on_recovery": "hold"}
    other = RecordingBackend()
    with world.cache.attach(other, **options).open("o", "x+b") as file:
        file.pwrite(b"old" * (1 << 18), 0)
        file.fsync()
        world.synced(b"new" * (1 << 19))
        after = world.crash(on_recovery="hold", memory="8MiB")
    second = after.cache.attach(RecordingBackend(), **options)
    with after.cache.attach("memory:").open("busy", "w+b") as busy:
        busy.write(bytes(4 << 20))
        busy.fsync()
        eventually(lambda: after.volume.engine.pace.share[0] < 1 << 19)
        assert after.read() == changed(0, b"new" * (1 << 19))
        with pytest.raises(OSError, match="recovered bytes are held, and memory has room for") as full:
            second.open("o")
        assert full.value.errno == errno.ENOBUFS
        after.volume.resume()
        with second.open("o") as file:
            assert file.read() == b"old" * (1 << 18)
        assert after.volume.engine.withheld_bytes == 0


@pytest.mark.parametrize("call", ["configure", "resize"])
def test_a_limit_below_the_held_bytes_lets_other_volumes_go_on(world: World, call: str) -> None:
    world.synced(b"new" * (1 << 19))
    after = world.crash(on_recovery="hold", memory="8MiB")
    assert after.read() == changed(0, b"new" * (1 << 19))
    store = RecordingBackend({"busy": b""})
    with after.cache.attach(store).open("busy", "r+b") as busy:
        after.cache.configure(dirty_expire=0.05)
        after.cache.resize("2MiB") if call == "resize" else after.cache.configure(dirty_limit="512KiB")
        busy.pwrite(b"written", 0)
        eventually(lambda: store.seen("write_from"))


def test_an_end_beside_the_laying_of_a_large_file_leaves_it_whole(world: World) -> None:
    world.synced(BIG, key="big", mode="w+b")
    gate = Gate()
    with before_read(lambda _: gate.enter(WAIT_LIMIT_S)), pytest.MonkeyPatch.context() as patch:
        after = world.crash(memory="3MiB")
        recovery = after.volume.recovery
        assert recovery is not None

        def stopping() -> None:
            recovery._stop.set()
            gate.release()

        beside(patch, Recovery, "stop", stopping)
        gate.wait_entered()
        after.cache.close(timeout=WAIT_LIMIT_S)
    assert after.copied().read("big") == BIG


def test_an_interrupted_end_leaves_the_recovery_going(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.synced(b"new")
    after = world.crash()
    beside(monkeypatch, Recovery, "stop", raising(KeyboardInterrupt()), after=True)
    raises(KeyboardInterrupt, after.cache.close)
    eventually(lambda: after.saved() == changed(0, b"new"))


@pytest.mark.parametrize(
    ("of", "name", "error"),
    [
        (recovered, "start_thread", BlockingIOError(errno.EAGAIN, "no thread")),
        (laying, "_memory", OSError(errno.EIO, "the disk fails")),
        (Recovery, "start", KeyboardInterrupt()),
        (Journal, "read", KeyboardInterrupt()),
    ],
    ids=["no thread", "the disk", "an interrupt", "an interrupt of the disk"],
)
def test_an_attach_that_failed_can_be_made_again(world: World, of: Any, name: str, error: BaseException) -> None:
    world.synced(b"new")
    world.volume.detach()
    world.store = world._after()

    def attach() -> Volume:
        return world.cache.attach(world.store, name="again", durability="disk", volume_id="store", read_ahead=0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of, name, raising(error))
        raises(type(error), attach)
    assert world.cache.volumes() == ()
    world.volume = attach()
    world.settles(changed(0, b"new"))


def ended_by_force(world: World) -> Callable[[], None]:
    """End the volume, and let no call of its store land any more. Return what attaches the next one."""
    world.volume.abort()
    world.volume.detach(on_failed="discard")
    world.store.clear_faults()
    world.store = world._after()

    def attach() -> None:
        options: dict[str, Any] = {"durability": "disk", "volume_id": "store", "read_ahead": 0, "on_recovery": "hold"}
        world.volume = world.cache.attach(world.store, **options)

    return attach


def test_the_next_volume_finds_nothing_that_a_failed_sync_has_taken(world: World) -> None:
    file = world.synced(b"base")
    world.store.fault("write_from", OSError(errno.EACCES, "refused"), times=math.inf)
    file.pwrite(b"lost", 8192)
    with disk_fails("fdatasync"):
        raises(OSError, file.fsync, timeout=10)
    ended_by_force(world)()
    world.hang()
    found = world.open("k", "r+b")
    seen = found.pread(len(OLD), 0)
    assert seen == changed(0, b"base")
    found.pwrite(b"c", 100)
    found.fsync()
    assert world.copied(on_recovery="hold").read() == changed(100, b"c", seen)


def test_the_next_volume_saves_on_disk_what_was_appended_after_a_failed_sync(world: World) -> None:
    file = world.synced(b"base")
    file.pwrite(b"x", 8192)
    with losing_a_sync(world):
        file.fsync()
    file.pwrite(b"more", 0)
    file.fsync()
    ended_by_force(world)()
    world.hang()
    found = world.open("k", "r+b")
    found.pwrite(b"c", 100)
    found.fsync(timeout=WAIT_LIMIT_S)
    assert world.copied(on_recovery="hold").read() == changed(0, b"more", changed(100, b"c", changed(8192, b"x")))


@pytest.mark.parametrize("before", [False, True])
def test_what_a_failed_sync_takes_of_a_file_before_it_is_laid_is_no_longer_confirmed(
    world: World, *, before: bool
) -> None:
    world.synced(b"base").truncate(100)
    attach = ended_by_force(world)
    if not before:
        attach()
    with disk_fails("fdatasync"):
        raises(OSError, world.journal().confirm, world.journal().last)
    if before:
        attach()
    found = world.open("k", "r+b")
    seen = found.read()
    assert before or seen == changed(0, b"base")[:100]
    found.pwrite(b"c", 50)
    found.fsync()
    assert world.copied(on_recovery="hold").read() == changed(50, b"c", seen)


@pytest.mark.parametrize("closed", [False, True])
def test_a_running_call_of_a_volume_that_has_ended_lands_before_later_bytes(world: World, *, closed: bool) -> None:
    """Also if the cache was closed, and its tier has ended."""
    gate = world.store.gate("write_from", times=1)
    world.synced(b"first").close()  # saved in the background
    gate.wait_entered()
    for _ in range(2):
        if closed:
            world.cache.close(timeout=0.5, on_failed="discard")
            world = World(world.folder, world.store)
        else:
            world.volume.detach(timeout=0.5, on_failed="discard")
            world.volume = world.cache.attach(world.store, durability="disk", volume_id="store", read_ahead=0)
        raises(TimeoutError, world.volume.open, "k", "r+b", timeout=0.2)
        raises(TimeoutError, world.volume.remove, "k", timeout=0.2)
        raises(OSError, world.volume.discard, "k", match="still runs")
        world.open("other", "w+b").fsync(durability="backend")
    gate.open()
    with world.open() as file:
        assert file.read() == changed(0, b"first")
        file.pwrite(b"newer", 0)
        file.fsync(durability="backend")
    world.settles(changed(0, b"newer"))


def test_a_sync_goes_on_when_the_call_of_a_volume_that_has_ended_returns(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recovered, "AGAIN", 3600.0)
    monkeypatch.setattr(recovered, "PAUSE", 0.0)
    gate = world.store.gate("commit", times=1)
    world.synced(b"first").close()
    gate.wait_entered()
    world.cache.close(timeout=0.5, on_failed="discard")
    world = World(world.folder, world.store)
    syncing = Task(world.volume.sync, durability="backend", timeout=20.0)
    recovery = world.volume.recovery
    assert recovery is not None
    (left,) = recovery._left
    looks: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tier, "is_left_busy", noting(looks, Tier.is_left_busy))
        recovery._hurry.set()
        eventually(lambda: bool(looks) and not recovery._hurry.is_set())
    gate.open()
    syncing.result()
    assert left.over
    world.settles(changed(0, b"first"))
    assert "made anew" not in caplog.text


def noting(looks: list[int], is_left_busy: Callable[[Tier, int], bool]) -> Callable[[Tier, int], bool]:
    def noted(tier: Tier, number: int) -> bool:
        busy = is_left_busy(tier, number)
        looks.append(number)
        return busy

    return noted


@IN_PLACE
@pytest.mark.parametrize("call", ["a remove", "a cut that a read makes"])
def test_a_running_call_that_holds_no_file_of_a_volume_that_has_ended_lands_before_later_bytes(
    make: Make, call: str
) -> None:
    """A remove of an object with identity, and a call that the file owes the store, leave write-back alone."""
    world = make(retry=RetryPolicy(attempts=1))
    world.store.identities = True
    world.store.fault("write_from", OSError(errno.ECONNREFUSED, "no server"), times=float("inf"))
    file = world.synced(b"first")
    if call == "a remove":
        gate = world.store.gate("remove", times=1)
        raises(TimeoutError, world.volume.remove, "k", timeout=0.2)
    else:
        world.store.fault("truncate", OSError(errno.ECONNRESET, "the answer is lost"), times=1)
        raises(OSError, file.truncate, 8192, match="lost")
        gate = world.store.gate("truncate", times=1)
        reading = Task(file.pread, 10, 4096)
    gate.wait_entered()
    world.volume.detach(timeout=0.5, on_failed="discard")
    world.store.clear_faults()
    world.volume = world.cache.attach(world.store, durability="disk", volume_id="store", read_ahead=0)
    raises(TimeoutError, world.volume.open, "k", "r+b", timeout=0.2)
    gate.open()
    if call == "a remove":
        raises(FileNotFoundError, world.volume.open, "k")
        return
    raises(OSError, reading.result)
    with world.open() as file:
        file.pwrite(b"newer", 16000)
        file.fsync(durability="backend")
        content = file.read()
    assert content[:5] == b"first"
    world.settles(content)


@IN_PLACE
def test_a_running_call_of_a_laying_that_has_ended_lands_before_later_bytes(world: World) -> None:
    world.synced(BIG, key="big", mode="w+b")
    after = world.crash(memory="3MiB", on_recovery="hold")
    ends = threading.Event()

    def until_the_end(offset: int) -> None:
        assert offset < 1 << 20 or ends.wait(WAIT_LIMIT_S)

    with after.store.gate("write_from", times=1) as gate:
        with before_read(until_the_end):
            after.volume.resume()
            gate.wait_entered()
            after.volume.detach(timeout=0.5, on_failed="discard")
            ends.set()
        after.volume = after.cache.attach(after.store, durability="disk", volume_id="store", read_ahead=0)
        raises(TimeoutError, after.volume.open, "big", "r+b", timeout=0.2)
    with after.open("big") as file:
        assert file.read() == BIG
        file.pwrite(b"newer", 0)
        file.fsync(durability="backend")
    after.settles(changed(0, b"newer", BIG), "big")


@IN_PLACE
def test_a_running_direct_write_of_a_volume_that_has_ended_lands_before_later_bytes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if its caller has not left it yet."""
    monkeypatch.setattr(runner, "SLICE", 2.0)
    world.synced(b"first")
    direct = world.open(direct=True)
    gate, write = at_gate(world.store.gate("write_from", times=1), direct.pwrite, b"D" * 4096, 8192)
    world.volume.detach(timeout=0.5, on_failed="discard")
    world.volume = world.cache.attach(world.store, durability="disk", volume_id="store", read_ahead=0)
    raises(TimeoutError, world.volume.open, "k", "r+b", timeout=0.2)
    gate.open()
    raises(OSError, write.result)
    world.synced(b"newer", 8192)
    world.settles(changed(8192, b"newer" + b"D" * 4091, changed(0, b"first")))


@IN_PLACE
@pytest.mark.parametrize("hangs", [False, True])
def test_an_append_of_a_volume_that_has_ended_comes_after_no_newer_bytes(
    world: World, monkeypatch: pytest.MonkeyPatch, *, hangs: bool
) -> None:
    """`hangs`: a write-back of the file beside it, which lands before later bytes as well."""
    appending, put, at = Gate(), Journaled._put, 1 << 18

    def pausing(self: Journaled, journal: Journal, record: records.Record, *more: Any) -> None:
        if record.kind == records.Kind.DATA and record.offset == at:
            appending.enter(WAIT_LIMIT_S)
        put(self, journal, record, *more)

    monkeypatch.setattr(Journaled, "_put", pausing)
    file = world.open()
    file.pwrite(b"a" * (1 << 20), 0)
    gate = world.store.gate("write_from", times=1)
    if hangs:
        sync = Task(world.volume.sync, durability="backend")
        gate.wait_entered()
    _, fsync = at_gate(appending, file.fsync)
    world.volume.detach(timeout=0.5, on_failed="discard")
    if hangs:
        world.volume = world.cache.attach(world.store, durability="disk", volume_id="store", read_ahead=0)
        raises(TimeoutError, world.volume.open, "k", "r+b", timeout=0.2)
        appending.release()
        gate.open()
        for each in (fsync, sync):
            raises(OSError, each.result)
        return
    world.store = world._after()
    world.volume = world.cache.attach(world.store, durability="disk", volume_id="store", read_ahead=0)
    world.synced(b"newer", at + 1000)
    appending.release()
    raises(OSError, fsync.result)
    assert world.copied().read()[at + 1000 : at + 1005] == b"newer"


def test_a_close_that_saves_in_the_store_saves_what_is_held(make: Make) -> None:
    world = make(durability="backend")
    world.open().pwrite(b"new", 0)
    world.files[0].fsync(durability="disk")
    after = world.crash(durability="backend", on_recovery="hold")
    file = after.open()
    file.pwrite(b"x", 100)
    file.close()
    after.settles(changed(100, b"x", changed(0, b"new")))


def test_what_was_left_is_saved_after_a_reconnect_beside_the_laying(world: World) -> None:
    """The thread that lays it finds the end of the store only then."""
    world.synced(b"new")
    after = world.crash(flush_interval=0.5)
    gate = after.store.gate("open")
    gate.wait_entered()
    store = after._after()
    after.volume.abort()
    after.volume.reconnect(store)
    gate.open()
    after.store = store
    eventually(lambda: not after.left())
    assert after.stored() == changed(0, b"new")
