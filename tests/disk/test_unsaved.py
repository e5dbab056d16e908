"""What runs beside unsaved bytes in the journal, and what a recovery meets: no older byte over a newer one, no hang."""

from __future__ import annotations

import contextlib
import errno
import gc
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pagecache import ConflictError, DiskTier, LostRange, PageCache, ShutdownError, UnsavedDataError, Volume, closing
from pagecache import cache as caches
from pagecache.backends import DirectoryBackend, TransformBackend
from pagecache.backends.fsspec import FsspecBackend
from pagecache.disk import tier
from pagecache.disk.device import OS
from pagecache.disk.journal import Journal
from pagecache.engine.commit import journaled
from pagecache.engine.commit.journaled import Journaled, VolumeJournal
from pagecache.engine.file import EngineFile
from pagecache.engine.io import barrier
from pagecache.observe.client import ask
from pagecache.testing import Gate
from pagecache.volume import detach, recovered
from tests.backends.transforms import XorStream
from tests.disk.copying import copy_tier
from tests.file.rig import Task, at_gate, beside, eventually, held, raises, raising
from tests.file.test_interrupts import interrupted_at
from tests.stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend, StoredObject

from .test_durability import IN_PLACE, OLD, WHOLE, Make, World, changed, disk_fails, failing, losing_a_sync
from .test_recovered import conflict
from .test_tier import read

pytestmark = pytest.mark.contract("D1", "D3", "D5", "D10")


@contextlib.contextmanager
def hanging(world: World, *ops: str, key: str | None = None) -> Iterator[None]:
    """Let calls of the store hang."""
    for op in ops:
        world.store.gate(op, key, times=1000)
    try:
        yield
    finally:
        world.store.open_all_gates()


# -- names


@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize("journaled", [True, False])
def test_bytes_of_a_replaced_object_are_not_laid_over_the_one_that_has_its_name(
    world: World, *, journaled: bool, carried_out: bool
) -> None:
    """`journaled`: the object that replaces it has unsaved bytes too."""
    with world.volume.open("a", "x+b") as file:
        file.write(b"A" * 100)
        file.fsync(durability="backend")
    expected = b"A" * 100
    if journaled:
        world.synced(b"new", key="a")
        expected = b"new" + b"A" * 97
    world.synced(b"loser")
    after = world.killed_in("rename", world.volume.rename, "a", "k", carried_out=carried_out)
    assert after.volume.exists("a") != carried_out
    if not carried_out:
        assert after.read("a") == expected
        expected = changed(0, b"loser")
    assert after.read("k") == expected
    after.settles(expected)


@pytest.mark.parametrize("place", ["set_aside", "removed"])
def test_an_fsync_beside_a_remove_does_not_bring_the_object_back(
    world: World, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """It appends before the file counts as removed, or after that and before the record of its removal."""
    file = world.open("a", "x+b")
    file.write(b"new")
    inode, journal = file._inode, world.volume.engine.journal
    assert journal is not None
    begun: list[list[Any]] = []

    def beside(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *arguments: Any, **more: Any) -> Any:
            if not begun and (place == "removed" or more.get("removed")):
                begun.append([])
                begun[0] += Task(lambda: journal.append([inode])).result(10)
            return real(self, *arguments, **more)

        return call

    owner: type = EngineFile if place == "set_aside" else Journaled
    monkeypatch.setattr(owner, place, beside(getattr(owner, place)))
    world.volume.remove("a")
    assert begun
    after = world.crash()
    assert after.left() == []
    assert not after.volume.exists("a")


@pytest.mark.parametrize("names", [("a", "b"), ("a",)])
def test_a_file_that_was_new_and_stored_once_is_not_made_anew_after_its_name_has_changed(
    world: World, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    file = world.synced(b"A" * 100, key="a", mode="x+b")
    monkeypatch.setattr(Journaled, "_saved", failing)  # the commit is recorded, and not yet that all is saved
    raises(OSError, file.fsync, durability="backend", match="the disk fails")
    call = "rename" if len(names) == 2 else "remove"
    after = world.killed_in(call, getattr(world.volume, call), *names, carried_out=True)
    monkeypatch.undo()
    assert not after.volume.exists("a")
    if call == "rename":
        assert after.read("b") == b"A" * 100


def test_a_name_that_was_found_after_a_crash_stays_after_the_next_one(world: World) -> None:
    world.synced(b"new")
    second = world.killed_in("rename", world.volume.rename, "k", "b", carried_out=True)
    assert second.read("b") == changed(0, b"new")
    with hanging(second, "write_from", "commit"):
        second.open("k", "x+b").write(b"other")
        copy_tier(second.tier, second.folder / "tier2")
        with contextlib.suppress(KeyError):
            second.store.objects.pop("k", None)
    store = second._after()
    if isinstance(store, ObjectBackend):
        store.put("k", b"other")
    else:
        store.objects["k"] = StoredObject(b"other")
    third = World(second.folder, store, 2)
    assert third.read("b") == changed(0, b"new")
    assert third.read("k") == b"other"


@pytest.mark.parametrize("names", [("k", "b"), ("k",)])
def test_a_name_that_changes_beside_the_first_append_is_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    file = world.open()
    file.pwrite(b"new" + bytes(100_000), 0)
    expected = file.pread(1 << 20, 0)
    gate, write = Gate(), OS.pwritev

    def slow(fd: int, buffers: Any, offset: int) -> int:
        done = write(fd, buffers, offset)
        if done > 50_000:
            gate.enter(10)
        return done

    monkeypatch.setattr(OS, "pwritev", slow)
    _, append = at_gate(gate, file.fsync)
    change = Task(getattr(world.volume, "rename" if len(names) == 2 else "remove"), *names)
    gate.release()
    append.result()
    change.result()
    after = world.crash(on_recovery="hold")
    assert not after.volume.exists("k")
    assert after.left() == [*names[1:]]
    for name in names[1:]:
        assert after.read(name) == expected


def test_a_first_append_beside_a_rename_records_both_names(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it ends before the rename."""
    file = world.open()
    file.pwrite(b"new", 0)
    after: list[World] = []
    beside(monkeypatch, world.store, "rename", lambda: after.append(world.copied()), after=True)
    beside(monkeypatch, world.store, "rename", lambda: Task(file.fsync).result())
    world.volume.rename("k", "b")
    assert after[0].read("b") == changed(0, b"new")
    assert not after[0].volume.exists("k")


@pytest.mark.parametrize("fails", ["pwritev", "fdatasync"])
def test_what_was_given_up_and_not_recorded_is_recorded_later(world: World, fails: str) -> None:
    file = world.synced(b"old")
    with disk_fails(fails):
        world.volume.discard("k")
    file.pwrite(b"newer", 0)
    world.volume.sync(durability="backend")
    after = world.crash()
    assert after.left() == []
    assert after.read() == changed(0, b"newer")


@pytest.mark.parametrize("call", ["discard", "a part", "resolve", "detach"])
def test_what_was_given_up_is_on_record_when_the_call_returns(world: World, call: str) -> None:
    """Else it would come back after a power cut."""
    file = world.synced(b"given up")
    file.pwrite(b"more", 8192)
    file.fsync()
    if call == "resolve":
        conflict(world, file, b"foreign" * 1000)
        assert world.volume.resolve("k", "discard")
    elif call == "detach":
        assert world.volume.discard("k", 8192, 4096)
        world.store.fault("write_from", OSError(errno.EACCES, "refused"), times=math.inf)
        assert world.volume.detach(on_failed="discard")
    else:
        assert world.volume.discard("k", *((8192, 4096) if call == "a part" else ()))
    assert not world.journal().is_behind()


# -- what the journal lacks


@pytest.mark.parametrize("what", ["hole", "cut"])
@pytest.mark.parametrize("how", ["refused", "lost"])
def test_a_change_that_the_journal_lacks_is_saved_by_the_next_fsync(world: World, what: str, how: str) -> None:
    """Else older bytes would come back over it. `lost`: by a failed sync of another file."""
    file, other = world.synced(b"x" * 8192), world.open("other", "x+b")
    other.write(b"other")
    with disk_fails("pwritev") if how == "refused" else losing_a_sync(world) as lost:
        if what == "hole":
            file.punch_hole(0, 4096)
        else:
            file.truncate(100)
        if how == "lost":
            other.fsync()
            assert lost
    file.pwrite(b"y", 9000)
    file.fsync()
    expected = file.pread(1 << 20, 0)
    assert world.crash().read() == expected


def test_a_sync_at_the_store_records_what_an_append_beside_it_would_have(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.synced(b"one")
    file.pwrite(b"two", 0)
    gate = Gate()

    def fail(*_: Any) -> Any:
        gate.enter(10)
        failing()

    monkeypatch.setattr(OS, "pwritev", fail)
    _, append = at_gate(gate, file.fsync)
    sync = Task(world.volume.sync, durability="backend")
    eventually(lambda: world.saved() == changed(0, b"two"))
    raises(TimeoutError, Task(world.volume.sync, 0.1, durability="backend").result)
    monkeypatch.undo()
    gate.release()
    sync.result()
    append.result()
    after = world.crash()
    assert after.left() == []
    assert after.read() == changed(0, b"two")


def test_bytes_that_an_fsync_has_put_on_disk_are_not_given_up_with_the_handle(world: World) -> None:
    modes: dict[str, Any] = {"new": "wb", "k": "r+b"}
    for key, mode in modes.items():
        with contextlib.suppress(ZeroDivisionError), world.volume.open(key, mode) as file:
            file.write(b"kept")
            file.fsync()
            raise ZeroDivisionError
        assert world.read(key).startswith(b"kept")
    after = world.crash()
    assert (after.read("new"), after.read()) == (b"kept", changed(0, b"kept"))


@pytest.mark.parametrize("later", [b"", b"l", b"later"])
def test_bytes_that_an_fsync_has_put_on_disk_are_not_given_up_with_the_cache(tmp_path: Path, later: bytes) -> None:
    """It is dropped unclosed with an open handle. Later bytes are published by none. [2.22]"""
    store = ObjectBackend({"k": OLD})

    def program() -> None:
        file = on_disk(tmp_path, store)[1].open("k", "r+b")
        file.pwrite(b"kept", 0)
        file.fsync()
        file.pwrite(later, 0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        program()
        eventually(lambda: gc.collect() >= 0 and os.path.realpath(tmp_path) not in tier._running)
    assert store.committed("k") == OLD
    cache, volume = on_disk(tmp_path, store)
    volume.sync(durability="backend")
    assert store.committed("k") == changed(0, b"kept")
    cache.close()


@pytest.mark.parametrize("beside", [False, True])
def test_bytes_that_a_discarding_detach_has_listed_do_not_come_back(world: World, *, beside: bool) -> None:
    """`beside`: bytes of another file stay in the disk tier."""
    world.synced(b"given up").pwrite(b"more", 8192)
    assert world.volume.discard("k", 8192, 4096)  # since then all of it is saved in the store alone
    if beside:
        world.synced(b"kept", key="other", mode="w+b")
    for op in ("write_from", "commit"):
        world.store.fault(op, OSError(errno.EACCES, "refused"), times=math.inf)
    lost = world.volume.detach(timeout=10, on_failed="discard")
    assert {entry.key for entry in lost} == {"k"}
    assert world.copied(on_recovery="hold").read() == OLD


def test_what_an_fsync_has_confirmed_outlives_a_discarding_detach_of_an_aborted_volume(world: World) -> None:
    """Later bytes did not reach the journal because of the abort; the list has both."""
    file = world.synced(b"new")
    file.pwrite(b"later", 8192)
    world.volume.abort()
    assert world.volume.detach(on_failed="discard")
    assert world.copied(on_recovery="hold").read() == changed(0, b"new")


@WHOLE
@pytest.mark.parametrize("timeout", [None, 1000.0])
def test_a_discarding_detach_beside_a_file_that_stays_on_disk_waits_for_no_rollback(
    world: World, timeout: float | None
) -> None:
    world.synced(b"stays", key="other", mode="w+b")
    file = world.synced(b"ours")
    conflict(world, file, b"foreign" * 1000)
    file.pwrite(b"more", 100)
    with hanging(world, "rollback", "write_from", "commit"):
        lost = Task(world.volume.detach, timeout=timeout, on_failed="discard").result()
        assert {entry.key for entry in lost} == {"k"}
        assert "other" in world.copied(on_recovery="hold").left()


@WHOLE
@pytest.mark.parametrize("offset", [8192, 0], ids=["another page", "a dirty page"])
@pytest.mark.parametrize("fsync", ["", "beside the end", "after it"])
def test_an_exception_puts_no_bytes_on_disk_that_their_writer_has_not_saved(
    world: World, fsync: str, offset: int
) -> None:
    """They are listed, and their writer may still save them. [T-77, 2.22]"""
    file = world.synced(b"save" * 1024)
    file.pwrite(b"half", offset)
    if fsync == "beside the end":
        assert closing.withhold(world.cache)
    else:
        with pytest.raises(ZeroDivisionError), world.cache:
            raise ZeroDivisionError
        assert [entry.key for entry in world.volume.unsaved()] == ["k"]
    if fsync:
        file.fsync()
        assert world.saved() == OLD
    saved = changed(0, b"save" * 1024)
    world.crash().settles(changed(offset, b"half", saved) if fsync else saved)


# -- recovery


def test_bytes_of_an_encrypted_file_are_not_laid_over_the_one_that_another_program_has_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a new file that gets the name, as editors do."""
    # The file system may keep no birth times; both files exist at once, and have different numbers.
    monkeypatch.setattr(DirectoryBackend, "lasting_identity", lambda _, identity: str(identity[1]))
    stored = tmp_path / "store" / "k"
    stored.parent.mkdir()

    def begin(tier: str) -> tuple[PageCache, Volume]:
        return on_disk(tmp_path / tier, TransformBackend(DirectoryBackend(stored.parent), XorStream()))

    cache, volume = begin("first")
    with volume.open("k", "x+b") as file:
        file.write(OLD)
        file.fsync(durability="backend")
        file.pwrite(b"new", 0)
        file.fsync()
        copy_tier(tmp_path / "first", tmp_path / "second")
        old = stored.read_bytes()
        volume.abort()
        file.abandon()
    cache.close(on_failed="discard")
    (tmp_path / "fresh").write_bytes(old)
    (tmp_path / "fresh").replace(stored)

    cache, volume = begin("second")
    with volume.open("k") as file:
        assert file.read() == OLD
    assert [each.key for each in volume.recovered()] == ["k"]
    cache.close(on_failed="discard")
    assert stored.read_bytes() == old


def left(world: World, **options: Any) -> World:
    world.open().pwrite(b"kept", 0)
    world.synced(b"gone", 8192)
    return world.crash(**options)


def on_disk(tier: Path, store: Any, **options: Any) -> tuple[PageCache, Volume]:
    """Return a cache with this tier, and a volume on the store that saves there."""
    cache = PageCache("16MiB", disk=DiskTier(tier, size="16MiB", segment="1MiB"), dirty_expire=3600)
    return cache, cache.attach(store, durability="disk", volume_id="store", **options)


@pytest.mark.parametrize("which", [(), (8192, 4096)])
def test_recovered_bytes_that_are_given_up_are_reported(world: World, which: tuple[int, ...]) -> None:
    """All, or a part."""
    after = left(world, on_recovery="hold")
    lost = after.volume.discard("k", *which)
    assert lost
    assert all(isinstance(each, LostRange) and each.key == "k" for each in lost)
    assert not which or [each.offset for each in lost] == [8192]
    assert after.read() == (changed(0, b"kept") if which else OLD)


@IN_PLACE  # else another version than they were written over: a conflict
@pytest.mark.parametrize("recorded", [True, False])
def test_bytes_that_two_volumes_have_left_of_an_object_are_all_saved(
    world: World, monkeypatch: pytest.MonkeyPatch, *, recorded: bool
) -> None:
    """`recorded`: the journal knows that the first ones are saved before the others are laid."""
    world.synced(b"one")
    store = world.store.successor(lose=False, shared=False)
    second = world.cache.attach(store, durability="disk", volume_id="store")
    with second.open("k", "r+b") as other:
        other.pwrite(b"two", 100)
        other.fsync()
        monkeypatch.setattr(VolumeJournal, "poll", lambda *_: math.inf)  # the flusher saves nothing
        after = world.crash()
    with monkeypatch.context() as patch:
        if not recorded:
            patch.setattr(Journaled, "_settle", lambda *_: None)
        with contextlib.suppress(OSError):  # the others are laid before the first ones are saved
            after.volume.sync(durability="backend")
    after.settles(changed(100, b"two", changed(0, b"one")))


def test_a_hole_whose_commit_failed_before_the_first_fsync_survives_the_loss_of_power(world: World) -> None:
    """A store in place has it uncommitted, and the journal no record of it: then fsync at disk is one at the store."""
    file = world.open()
    world.store.fault("commit", OSError(errno.ECONNREFUSED, "down"), times=math.inf)
    with contextlib.suppress(OSError):
        file.punch_hole(4096, 4096)
    file.pwrite(b"x", 0)
    try:
        file.fsync(timeout=10)
    except OSError:
        world.store.clear_faults()
        file.fsync()
    after = world.crash(lose=True)
    assert after.read() == b"x" + OLD[1:4096] + bytes(4096) + OLD[8192:]


def test_a_hole_that_is_on_disk_is_made_again_in_the_store_that_comes_back(world: World) -> None:
    """The journal has it: a reconnect does not lose it, and later bytes within it stay."""
    file = world.synced(b"x")
    world.store.fault("commit", OSError(errno.EACCES, "no"), times=math.inf)
    for offset in (4100, 12000):
        with contextlib.suppress(OSError):
            file.punch_hole(offset, 2000)
    file.pwrite(b"later", 5000)
    file.fsync()
    world.volume.abort()
    world.store.clear_faults()
    fresh = world._after(lose=True)
    world.volume.reconnect(fresh)
    file.fsync(durability="backend", timeout=30)
    holes = OLD[1:4100] + bytes(2000) + OLD[6100:12000] + bytes(2000) + OLD[14000:]
    assert fresh.committed("k") == file.pread(len(OLD), 0) == changed(5000, b"later", b"x" + holes)


@IN_PLACE
def test_a_new_object_whose_name_a_larger_one_has_after_a_power_cut_is_recovered_alone(world: World) -> None:
    """The store in place lost the rename."""
    file = world.synced(b"1", key="n", mode="x+b")
    older = world.store.objects["k"]
    world.volume.rename("n", "k")
    file.fsync()
    world.store.objects["k"] = older
    assert world.crash().read() == b"1"


@pytest.mark.parametrize("call", ["sync", "detach", "close", "discard"])
def test_a_call_that_holds_a_file_keeps_no_other_one_from_the_disk(world: World, call: str) -> None:
    ways: dict[str, Callable[[], Any]] = {
        "sync": partial(world.volume.sync, timeout=0.3),
        "detach": partial(world.volume.detach, timeout=0.3),
        "close": partial(world.cache.close, timeout=0.3),
        "discard": partial(world.cache.close, timeout=0.3, on_failed="discard"),
    }
    file = world.open()
    file.pwrite(b"new", 0)
    with hanging(world, "truncate", "write_from", "commit"):
        gate = next(gate for gate in world.store.gates if gate.op == "truncate")
        cut = Task(file.truncate, 10)
        gate.wait_entered()
        other = world.open("other", "x+b")
        other.pwrite(b"kept", 0)
        end = Task(ways[call])
        if call == "discard":
            assert [lost.key for lost in end.result(10)] == ["k"]
        else:
            raises((TimeoutError, UnsavedDataError), end.result)
        assert other._inode.journaled.has_all()
        assert world.journal()._confirmed == world.journal().last
    with contextlib.suppress(OSError):
        cut.result()


def test_a_sync_at_the_disk_ends_once_no_call_holds_a_file(world: World) -> None:
    file = world.open()
    file.pwrite(b"new", 0)
    with hanging(world, "write_from", "commit"), hanging(world, "truncate"):
        gate = world.store.gates[-1]
        cut = Task(file.truncate, 10)
        gate.wait_entered()
        sync, ticket = Task(world.volume.sync), world.volume.begin_sync()
        assert sync.waits(0.3)
        assert not ticket.done()
        gate.open()
        cut.result()
        sync.result(10)
        ticket.wait(10)
        assert file._inode.journaled.has_all()
    assert world.crash().read() == b"new" + OLD[3:10]


def test_a_sync_at_the_store_that_hangs_delays_none_at_the_disk(world: World) -> None:
    with hanging(world, "write_from", "commit"):
        file = world.open()
        file.pwrite(b"new", 0)
        ticket = world.volume.begin_sync(durability="backend")
        world.volume.sync(timeout=10)
        assert file._inode.journaled.has_all()
        assert not ticket.done()


@pytest.mark.parametrize("call", ["sync", "close"])
def test_recovered_files_of_a_store_that_hangs_keep_no_other_volume_from_being_saved(make: Make, call: str) -> None:
    after = left(make(), durability="backend", flush_interval=5.0)
    store = RecordingBackend({"x": b"old"})
    other = after.cache.attach(store)
    with hanging(after, "open", "stat"):
        with other.open("x", "r+b") as file:
            file.pwrite(b"new", 0)
        raises((TimeoutError, UnsavedDataError), Task(getattr(after.cache, call), timeout=0.5).result)
        assert store.committed("x") == b"new"
        store.open_all_gates()


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_recovered_files_of_a_store_that_hangs_keep_no_close_at_the_disk(make: Make, timeout: float | None) -> None:
    after = left(make(), flush_interval=5.0)
    with hanging(after, "open", "stat"):
        after.volume.begin_sync(durability="backend")
        eventually(lambda: any(gate.nr_entered for gate in after.store.gates))
        assert Task(after.cache.close, timeout=timeout).result(10) == []
    assert after.copied(on_recovery="hold").left() == ["k"]


def test_a_sync_is_begun_at_once_beside_recovered_files_of_a_store_that_hangs(make: Make, tmp_path: Path) -> None:
    """Also by `pagecache drain`: the live server answers others, and ends."""
    after = left(make(), flush_interval=5.0)
    path = str(tmp_path / "socket")
    after.cache.serve_stats(path)
    with hanging(after, "open", "stat"):
        ticket = Task(after.volume.begin_sync, durability="backend").result(5)
        for method, document in (("POST", "/v1/sync"), ("GET", "/v1/stats")):
            ask(path, document, method=method, timeout=5)
        assert not ticket.done()
        live = after.cache.live
        assert live is not None
        Task(live.stop).result(5)
    ticket.wait(10)
    assert after.saved() == changed(8192, b"gone", changed(0, b"kept"))


@IN_PLACE
def test_a_sync_at_the_store_is_polled_beside_a_disk_that_hangs(world: World) -> None:
    """Also by an abort, from a signal handler of a thread that appends."""
    file, engine = world.synced(b"new"), world.volume.engine
    gate = world.store.gate("commit", times=1)
    ticket = world.volume.begin_sync(durability="backend")
    gate.wait_entered()
    with world.journal()._lock:
        gate.open()
        eventually(lambda: not file._inode.has_local())
        Task(engine.poll_tickets).result(5)
    ticket.wait(10)
    assert world.left() == []


@IN_PLACE
def test_a_system_that_refuses_a_thread_keeps_no_other_file_from_the_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call holds one file. Its bytes are an error of that sync, and saved by the next one."""
    file = world.open()
    file.pwrite(b"one", 0)
    world.open("other", "w+b").pwrite(b"two", 0)
    gate, holding = at_gate(world.store.gate("truncate", times=1), file.truncate, 5000)
    with monkeypatch.context() as patch:
        patch.setattr(journaled, "start_thread", raising(BlockingIOError(errno.EAGAIN, "no thread")))
        ticket = world.volume.begin_sync()
    raises(BlockingIOError, ticket.wait)
    assert [found.state.key for found in world.journal().read().files] == ["other"]
    holding.result(opening=gate)
    world.volume.sync()
    assert world.copied().read() == changed(0, b"one")[:5000]


@pytest.mark.parametrize("on_failed", ["raise", "discard"])
def test_an_abort_beside_the_begin_of_a_detach_is_no_error_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch, on_failed: Any
) -> None:
    world.open().pwrite(b"new", 0)
    beside(monkeypatch, world.volume, "_begin_sync", world.volume.abort)
    if on_failed == "raise":
        raises(UnsavedDataError, world.volume.detach, on_failed=on_failed)
    assert [lost.key for lost in world.volume.detach(on_failed="discard")] == ["k"]


def test_the_recovery_goes_on_after_a_detach_that_is_refused_just_as_it_stops(make: Make) -> None:
    make().synced(b"new")
    world = World.made[-1].crash(on_recovery="hold", flush_interval=0.5)
    recovery = world.volume.recovery
    assert recovery is not None
    seen = threading.Event()

    class Stop(threading.Event):
        def is_set(self) -> bool:
            found = super().is_set()
            if found and threading.current_thread().name == "pagecache-recovery":
                seen.set()
                eventually(lambda: not super(Stop, self).is_set())
            return found

    recovery._stop = Stop()
    world.volume.resume()
    recovery._stop.set()
    assert seen.wait(10)
    recovery.go_on()
    eventually(lambda: world.left() == [])


def test_a_system_that_refuses_a_thread_replaces_no_error_of_a_detach(make: Make) -> None:
    """So does Python from 3.12 on while it ends. A later sync starts the thread."""
    after = left(make(), durability="backend", flush_interval=5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovered, "start_thread", raising(BlockingIOError(errno.EAGAIN, "no thread")))
        raises(UnsavedDataError, after.volume.detach, match="no thread")
    after.volume.sync(durability="backend")
    assert after.left() == []


def test_a_signal_handler_ends_the_cache_beside_the_laying_of_its_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.synced(b"new")
    after = world.crash(flush_interval=5.0)
    ended: list[object] = []
    beside(monkeypatch, recovered, "start_thread", lambda: ended.append(after.cache.close()))
    raises(OSError, Task(after.volume.open, "k", "r+b").result)
    assert ended == [[]]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_beside_a_check_of_the_room_of_held_files_leaves_no_lock() -> None:
    gate = Gate()

    def check() -> None:
        with recovered._taking:
            gate.enter(10)

    _, checking = at_gate(gate, check)
    child = os.fork()
    if child == 0:
        os._exit(not recovered._taking.acquire(timeout=5))
    gate.release()
    checking.result()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("op", ["write_from", "commit", "refused"])
def test_an_object_that_hangs_keeps_no_other_one_from_being_saved(make: Make, op: str) -> None:
    """Nor does one that the store refuses."""
    world = make(dirty_expire=0.02)
    refused = world.store.fault("write_from", PermissionError(errno.EACCES, "refused"), key="k", times=math.inf)
    if op != "refused":
        refused.clear()
    with hanging(world, op, key="k"):
        world.synced(b"new")
        if op != "refused":
            world.store.gates[-1].wait_entered()
        for content in (b"one", b"two"):
            with world.volume.open("other", "w+b") as other:
                other.write(content)
            eventually(lambda content=content: world.saved("other") == content)  # type: ignore[misc]
            eventually(lambda: len(world.volume.engine.journal.numbers) == 1)  # type: ignore[union-attr]
    refused.clear()
    world.volume.retry_failed()
    eventually(lambda: world.saved() == changed(0, b"new"))


@pytest.mark.parametrize("hung", [("k",), ("k", "a", "b")])
def test_a_recovered_object_whose_open_hangs_keeps_no_other_one_from_being_saved(
    world: World, monkeypatch: pytest.MonkeyPatch, hung: tuple[str, ...]
) -> None:
    """A sync at the store has its late error."""
    monkeypatch.setattr(recovered, "VISIT", 0.2)
    for key in (*hung, "other"):
        world.synced(b"new", key=key, mode="r+b" if key == "k" else "w+b")
    after = world.crash(flush_interval=5.0)
    with contextlib.ExitStack() as stack:
        for key in hung:
            stack.enter_context(hanging(after, "open", "stat", key=key))
        ticket = after.volume.begin_sync(durability="backend")
        eventually(lambda: after.saved("other") == b"new", 10)
        assert not ticket.done()
        after.store.fault("open", PermissionError(errno.EACCES, "refused"), key="k", times=1)
    raises(OSError, ticket.wait, 10, match="refused")
    after.settles(changed(0, b"new"))


@pytest.mark.filterwarnings("ignore:.*CachedFile.__del__:pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_recovery_of_a_file_is_made_again(make: Make) -> None:
    """An interrupt while its open returns leaves the handle of the recovery to the collector, which closes it."""

    def within(frame: FrameType) -> bool:
        code = frame.f_code
        return f"{os.sep}pagecache{os.sep}" in code.co_filename and code.co_name not in ("<genexpr>", "__init__")

    world = left(make(), on_recovery="hold")
    expected = changed(8192, b"gone", changed(0, b"kept"))
    for step in range(1, 2000, 97):
        interrupted_at(step, lambda world=world: world.volume.stat("k"), within)  # type: ignore[misc]
        assert world.read() == expected
        world = world.crash(on_recovery="hold")
    world.volume.resume()
    world.settles(expected)


def test_zeros_behind_the_end_take_no_time_at_recovery(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    for number in range(2):
        cache, volume = on_disk(tmp_path / f"tier{number}", f"dir:{tmp_path}/store", on_recovery="hold")
        with cache, volume.open("k", "a+b", timeout=10) as file:
            if number == 1:
                assert file.pread(10, 0) == b"kept" + bytes(6)
                assert file.size == 1 << 40
                break
            file.write(b"kept")
            file.fsync()
            file.truncate(1 << 40)
            file.fsync()
            copy_tier(tmp_path / "tier0", tmp_path / "tier1")


@pytest.mark.parametrize("hold", [False, True])
def test_small_pieces_whose_pages_fill_the_memory_are_recovered(world: World, *, hold: bool) -> None:
    file = world.open("n", "x+b")
    file.write(bytes(2 << 20))
    file.fsync(durability="backend")
    file.pwrite(b"x", 0)
    file.fsync()
    for offset in range(0, 2 << 20, 8192):
        file.pwrite(b"x", offset)  # of these the journal has one byte each
    file.fsync()
    after = world.crash(memory="1MiB", on_recovery="hold" if hold else "resume")
    if hold:
        raises(OSError, after.open, "n", match="1048576 recovered bytes are held")
        after.volume.resume()
    assert after.read("n") == (b"x" + bytes(8191)) * 256


def test_many_small_pieces_are_recovered_in_linear_time(world: World) -> None:
    file = world.synced(OLD * 4)
    for number in range(0, 20_000, 2):
        file.pwrite(b"%d" % (number % 10), number)
    file.fsync()
    expected = file.pread(1 << 20, 0)
    after = world.crash()
    before = monotonic()
    assert after.read() == expected
    assert monotonic() - before < 15


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("over", ["a stored object", "nothing"])
def test_a_new_object_that_was_renamed_is_there_after_a_kill(tmp_path: Path, over: str, *, refused: bool) -> None:
    """Programs replace a file by a rename over it. `refused`: the disk takes no record of that; the next fsync does."""
    fs = MemoryFileSystem(skip_instance_cache=True)
    root = f"/{tmp_path.name}-{over[:1]}"
    fs.makedirs(root)
    if over != "nothing":
        fs.pipe_file(f"{root}/k", OLD)
    cache, volume = on_disk(tmp_path / "tier", FsspecBackend(fs, root))
    file = volume.open("new", "x+b")
    file.write(b"new" * 1000)
    file.fsync()
    with disk_fails(*["pwritev"] * refused):
        volume.rename("new", "k")
    if refused:
        file.fsync()
    copy_tier(tmp_path / "tier", tmp_path / "after")
    volume.abort()
    file._leave()
    cache.close(on_failed="discard")
    cache, volume = on_disk(tmp_path / "after", FsspecBackend(fs, root))
    with cache:
        assert [found.key for found in volume.recovered()] == ["k"]
        assert read(volume, "k") == b"new" * 1000
        volume.sync(durability="backend")
        assert fs.cat_file(f"{root}/k") == b"new" * 1000
        assert not volume.exists("new")


def test_a_rename_of_a_new_object_over_unsaved_bytes_is_atomic_beside_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, append = MemoryFileSystem(skip_instance_cache=True), Journal.append
    root, new, copies = f"/{tmp_path.name}", b"new" * 1000, list[Path]()
    fs.pipe_file(f"{root}/k", OLD)
    cache, volume = on_disk(tmp_path / "tier", FsspecBackend(fs, root))
    files = [volume.open("k", "r+b"), volume.open("new", "x+b")]
    for file, data in zip(files, (b"loser", new), strict=True):
        file.write(data)
        file.fsync()

    def killed(self: Journal, *arguments: Any, **by: Any) -> int:
        lsn = append(self, *arguments, **by)
        copies.append(tmp_path / f"after {len(copies)}")
        copy_tier(tmp_path / "tier", copies[-1])
        return lsn

    monkeypatch.setattr(Journal, "append", killed)
    volume.rename("new", "k")
    monkeypatch.undo()
    volume.abort()
    for file in files:
        file._leave()
    cache.close(on_failed="discard")
    for number, copy in enumerate(copies):
        cache, volume = on_disk(copy, FsspecBackend(fs, root), on_recovery="hold")
        with cache:
            renamed = not volume.exists("new")
            with contextlib.suppress(ConflictError):  # the version below is recorded after the name
                assert read(volume, "k") == (new if renamed else changed(0, b"loser"))
            assert renamed or read(volume, "new") == new
            assert renamed == (number > 1)
            assert [found.key for found in volume.recovered()] == (["k"] if renamed else ["k", "new"])


@pytest.mark.parametrize("cut", [True, False])
def test_bytes_that_the_store_has_and_the_journal_never_had_stay_when_a_later_change_is_recovered(
    make: Make, *, cut: bool
) -> None:
    """They lie behind the end that the journal has, or over a cut that it has."""
    world = make(flush_interval=60.0)  # only the call below records a save
    file = world.synced(b"one")
    if cut:
        file.truncate(1000)
    file.pwrite(b"end", 20000)
    inode = file._inode
    barrier.drive(barrier.FileSync(inode), None, "fsync")
    stored = changed(20000, b"end", changed(0, b"one")[: 1000 if cut else None])
    assert world.stored() == stored
    file.truncate(30000)
    inode.journaled.settle()
    after = world.crash(lose=True)
    assert [found.size for found in after.volume.recovered()] == [30000]
    assert after.read() == stored.ljust(30000, b"\0")


@IN_PLACE  # a commit of a whole object waits
def test_bytes_that_a_commit_saves_while_a_file_is_described_stay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are local no longer, and so not in the journal: what it says of the store has to be newer than that."""
    file = world.open()
    file.pwrite(b"end", 20000)
    original = EngineFile.written_ranges

    def commit() -> None:
        Task(barrier.drive, barrier.FileSync(file._inode), None, "fsync").result()

    monkeypatch.setattr(Journaled, "_settle", lambda *_: None)  # else the flusher may record in time that all is saved
    beside(monkeypatch, EngineFile, "written_ranges", commit)
    file.fsync()
    assert EngineFile.written_ranges is original
    assert world.crash(lose=True).read() == changed(20000, b"end")


# -- an attach beside the end of another volume of the store


def leaving(folder: Path, store: str, *, fsync: bool = True) -> PageCache:
    """Return a cache that leaves bytes on disk which the store does not have. Not `fsync`: its end puts them there."""
    cache, volume = on_disk(folder, store)
    file = volume.open("k", "r+b")
    file.pwrite(b"older", 0)
    if fsync:
        file.close()  # as its fsync
    return cache


def stored_in(folder: Path) -> str:
    (folder / "store").mkdir()
    (folder / "store" / "k").write_bytes(OLD)
    return f"dir:{folder}/store"


def ended(tier: Path, store: str, *, dropped: bool) -> tuple[PageCache, Task[Any] | None]:
    """Return a cache that left bytes on disk and is being closed, or was dropped unclosed: no task ends that."""
    if not dropped:
        cache = leaving(tier, store)
        return cache, Task(cache.close)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        leaving(tier, store, fsync=False)
        eventually(lambda: gc.collect() >= 0 and closing._dropped)
    return next(iter(closing._dropped)), None


def attached_beside(other: PageCache, tier: Path, store: str, gate: Gate) -> tuple[PageCache, Volume]:
    """Attach a store while the gate holds the end of another volume. The gate opens when that is attached, or waits."""
    gate.wait_entered()
    task = Task(on_disk, tier, store)
    what = "the end of another volume of the store"
    eventually(lambda: task.finished.is_set() or what in [wait.what for wait in other.waits()])
    gate.release()
    return task.result()


@pytest.mark.parametrize("dropped", [False, True])
def test_an_attach_beside_the_end_of_another_volume_finds_what_that_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, dropped: bool
) -> None:
    """`dropped`: its cache was dropped unclosed, and the thread that ends it has not begun."""
    store, gate = stored_in(tmp_path), Gate()
    if dropped:
        beside(monkeypatch, PageCache, "_end", gate.enter)
    else:
        beside(monkeypatch, VolumeJournal, "end", gate.enter)
    first, ending = ended(tmp_path / "tier", store, dropped=dropped)
    second, volume = attached_beside(first, tmp_path / "tier", store, gate)
    if ending is not None:
        ending.result()
    assert read(volume, "k") == changed(0, b"older")
    with volume.open("k", "r+b") as file:
        file.pwrite(b"newer", 0)
        file.fsync(durability="backend")
    second.close()
    third, volume = on_disk(tmp_path / "tier", store)
    assert read(volume, "k") == changed(0, b"newer")
    third.close()


@pytest.mark.parametrize("dropped", [False, True])
def test_an_attach_goes_on_beside_a_volume_whose_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, dropped: bool
) -> None:
    store, gate = stored_in(tmp_path), Gate()

    def refused() -> None:
        gate.enter()
        raise UnsavedDataError("refused")

    beside(monkeypatch, detach, "_save", refused)
    first, ending = ended(tmp_path / "tier", store, dropped=dropped)
    second, _ = attached_beside(first, tmp_path / "tier", store, gate)
    if ending is not None:
        raises(UnsavedDataError, ending.result)
    assert [volume.detached for volume in first.volumes()] == [False]
    second.close()
    first.close()


def test_an_attach_completes_the_end_of_another_volume_that_an_interrupt_struck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored_in(tmp_path)
    first = leaving(tmp_path / "tier", store)
    volume = first.volumes()[0]
    beside(monkeypatch, detach, "_quiet", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        volume.detach()
    assert volume.detached
    assert not volume.ended
    second, other = on_disk(tmp_path / "tier", store)
    assert volume.ended
    assert read(other, "k") == changed(0, b"older")
    second.close()
    first.close()


def test_an_attach_on_the_thread_that_ends_another_volume_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler may make it, which the end waits for."""
    store = stored_in(tmp_path)
    first = leaving(tmp_path / "tier", store)
    errors: list[OSError] = []
    with PageCache("1MiB", disk=DiskTier(tmp_path / "tier", size="16MiB", segment="1MiB")) as second:
        attach = partial(second.attach, store, volume_id="store")
        beside(monkeypatch, VolumeJournal, "end", lambda: errors.append(raises(OSError, attach)))
        first.close()
        assert [error.errno for error in errors] == [errno.EBUSY]
        assert read(attach(), "k") == changed(0, b"older")


def test_an_attach_beside_an_end_that_hangs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, gate = stored_in(tmp_path), Gate()
    monkeypatch.setattr(caches, "ENDING_S", 0.0)
    first = leaving(tmp_path / "tier", store)
    beside(monkeypatch, VolumeJournal, "end", gate.enter)
    ending = Task(first.close)
    gate.wait_entered()
    with PageCache("1MiB", disk=DiskTier(tmp_path / "tier", size="16MiB", segment="1MiB")) as second:
        assert raises(OSError, second.attach, store, volume_id="store").errno == errno.EBUSY
        gate.release()
        ending.result()
        assert read(second.attach(store, volume_id="store"), "k") == changed(0, b"older")


# -- an attach while the disk hangs


@pytest.fixture
def beside_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Beside:
    """A cache, its attach of a store of which the tier has bytes, and the store. Records have followed the start."""
    monkeypatch.setattr(VolumeJournal, "_save_due", lambda _self, _now: 5.0)
    store = stored_in(tmp_path)
    cache = PageCache("1MiB", disk=DiskTier(tmp_path / "tier", size="16MiB", segment="1MiB"))
    leaving(tmp_path / "tier", store).close()
    return cache, partial(cache.attach, store, volume_id="store", on_recovery="hold"), store


Beside = tuple[PageCache, Callable[..., Volume], str]


def nothing_waits(cache: PageCache) -> None:
    """Check that no lock is held for which the flusher, other caches, or the exit wait."""
    Task(cache._engine_volumes).result()
    Task(closing.caches).result()
    Task(lambda: PageCache("1MiB").close()).result()


@pytest.mark.contract("T-52")
def test_nothing_waits_for_an_attach_that_reads_the_journal_or_waits_for_an_append(
    beside_left: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, attach, _ = beside_left
    with cache.attach(ObjectBackend(), durability="disk", volume_id="other").open("o", "xb") as file:
        file.write(b"o")
        gate, task = at_gate(held(monkeypatch, Journal, "read", after=True), attach)
        nothing_waits(cache)
        tried = threading.Event()
        beside(monkeypatch, Journal, "unsaved_now", tried.set, after=True)
        append, fsync = at_gate(held(monkeypatch, Journal, "_write_all"), file.fsync)
        gate.open()
        assert tried.wait(WAIT_LIMIT_S)
        nothing_waits(cache)
        assert not task.finished.is_set()
        fsync.result(opening=append)
    assert read(task.result(), "k") == changed(0, b"older")
    cache.close()


def test_a_cache_is_closed_beside_an_attach_that_reads_the_journal(
    beside_left: Beside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache, attach, store = beside_left
    gate, task = at_gate(held(monkeypatch, Journal, "read"), attach)
    Task(cache.close).result()
    raises(ShutdownError, task.result, opening=gate)
    after, volume = on_disk(tmp_path / "tier", store)
    assert read(volume, "k") == changed(0, b"older")
    after.close()


@pytest.mark.parametrize("ends", [False, True])
def test_an_attach_finds_what_is_left_when_it_has_read_the_journal(
    beside_left: Beside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, ends: bool
) -> None:
    """Another volume of the store is attached, changes it, and goes on or ends meanwhile."""
    cache, attach, store = beside_left
    gate, task = at_gate(held(monkeypatch, Journal, "read", after=True), attach)
    other, volume = on_disk(tmp_path / "tier", store)
    with volume.open("k", "r+b") as file:
        file.pwrite(b"newer", 10)
    if ends:
        other.close()
    found = task.result(opening=gate)
    assert [each.key for each in found.recovered()] == (["k"] if ends else [])
    assert not ends or read(found, "k") == changed(10, b"newer", changed(0, b"older"))
    other.close()
    cache.close()
