"""Files that a crash has left in the disk tier, beside other calls, other programs, and a second crash. [2.28]"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from pagecache import CachedFile, CommitError, ConflictError
from pagecache.disk import records
from pagecache.disk.journal import Journal
from pagecache.disk.recovery import Unsaved
from pagecache.native import STAMP_MAX, UNSTABLE
from pagecache.volume.recovered import Recovery
from tests.disk.copying import copy_tier
from tests.disk.test_durability import JOURNALED, OLD, Make, World, changed, make
from tests.file.rig import eventually, raises
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
