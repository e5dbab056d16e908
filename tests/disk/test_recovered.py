"""Files that a crash has left in the disk tier, beside other calls, other programs, and a second crash. [2.28]"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from pagecache import CachedFile, ConflictError
from pagecache.disk.recovery import Unsaved
from tests.disk.copying import copy_tier
from tests.disk.test_durability import OLD, Make, World, changed, make
from tests.file.rig import eventually
from tests.stores import ObjectBackend

__all__ = ["make"]  # a fixture

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
    world = make()
    file = world.open()
    file.pwrite(b"new", 0)
    file.fsync()
    file.truncate(20000)
    file.fsync()
    put(world, FOREIGN)
    after = world.crash()
    with pytest.raises(ConflictError):
        after.read()
    after.volume.resolve("k", "rebase")
    assert after.read() == changed(0, b"new", FOREIGN)


@WHOLE
def test_the_first_call_for_a_recovered_file_may_resolve_its_conflict(make: Make) -> None:
    world = make()
    file = world.open()
    file.pwrite(b"new", 0)
    file.fsync()
    put(world, FOREIGN)
    after = world.crash(on_recovery="hold")
    after.volume.resolve("k", "rebase")
    assert after.read() == changed(0, b"new", FOREIGN)


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
@pytest.mark.parametrize("name", ["o", "k"])
def test_a_discard_beside_a_rename_that_was_not_carried_out_gives_up_the_named_object_alone(
    make: Make, name: str, monkeypatch: pytest.MonkeyPatch
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
        after.volume.discard(name)
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
    begun = threading.Event()

    def slow(_offset: int) -> None:
        begun.set()
        time.sleep(0.2)

    with before_read(slow):
        after = world.crash(memory="3MiB")
        assert begun.wait(30)
        after.cache.close(timeout=30)
    copy_tier(after.tier, after.folder / "tier9")
    last = World(after.folder, after._after(), 9)
    try:
        assert last.read("big") == BIG
    finally:
        last.end()
