"""The cost of a call does not grow with the number of objects, and an object lives as long as its pages. A file without
open handles is freed, but not while a thread iterates over the files of its volume.

Costs are counted as Python and C calls of the thread, so that they are exact. Loops within the C code are bounded
elsewhere.
"""

from __future__ import annotations

import errno
import gc
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pagecache import CachedFile, DataLossError, LostRange, ShutdownError
from pagecache.backends import DirectoryBackend
from pagecache.engine import flusher
from pagecache.engine.file import EngineFile
from pagecache.engine.volume import EngineVolume
from pagecache.native import TOKEN
from pagecache.testing import Gate
from pagecache.volume import lifetimes, opening, ticket
from pagecache.volume.inode import Inode

from ..stores import ObjectBackend, RecordingBackend
from .rig import KEY, PAGE, Make, Patch, Rig, Task, at_gate, attached, beside, eventually, held, pattern, raises


def calls_of(work: Callable[[], object]) -> int:
    """Count the functions that this thread calls for it."""
    count = 0

    def seen(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def objects(count: int, size: int = 200) -> dict[Any, bytes]:
    return {f"o{k}": bytes([k % 251]) * size for k in range(count)}


def walk(rig: Rig, count: int) -> None:
    for k in range(count):
        assert rig.content(f"o{k}")[:200] == bytes([k % 251]) * 200


def visit(rig: Rig, key: str) -> None:
    with rig.volume.open(key) as file:
        file.pread(200, 0)


def dirty(rig: Rig, count: int, start: int = 0) -> list[Any]:
    """Make that many new objects with a dirty page each, and return their handles."""
    handles = [rig.open("w+b", key=f"d{start + k}") for k in range(count)]
    for handle in handles:
        handle.pwrite(b"x" * 100, 0)
    return handles


def cached(rig: Rig, count: int, start: int) -> Callable[[], object]:
    walk(rig, start + count)
    return lambda: visit(rig, "o1")


def left_open(rig: Rig, count: int, start: int) -> Callable[[], object]:
    """Make objects that only their writer may publish: they stay open in the backend."""
    for handle in dirty(rig, count, start):
        lifetimes.release(handle._use)
        handle._shut()
    return lambda: visit(rig, "o1")


def counted(rig: Rig, count: int, start: int) -> Callable[[], object]:
    """Read the sums that the volume keeps; `check` compares them with those of the objects."""
    walk(rig, start + count)
    rig.cache.check()
    return rig.volume.stats


def unsaved(rig: Rig, count: int, start: int) -> Callable[[], object]:
    dirty(rig, count, start)
    return rig.volume.begin_sync


def waited_for(rig: Rig, count: int, start: int) -> Callable[[], object]:
    """Have a ticket wait for them: each step polls the files that have changed."""
    dirty(rig, count, start)
    return rig.volume.begin_sync().done


def above_background(rig: Rig, count: int, start: int) -> Callable[[], object]:
    dirty(rig, count, start)
    return rig.cache.flusher.make_room


def renamed(rig: Rig, count: int, start: int) -> Callable[[], object]:
    walk(rig, start + count)

    def there_and_back() -> None:
        rig.volume.rename("o1", "moved")
        rig.volume.rename("moved", "o1")

    return there_and_back


@pytest.mark.parametrize(
    ("more", "config", "slack"),
    [
        (cached, {}, 5),
        (renamed, {}, 20),  # how often it asks whether another thread has ended its call
        (counted, {}, 5),
        (left_open, {"limits": {"commit_on_close": True}}, 5),
        (unsaved, {"limits": {"max_inflight": 1}}, 40),  # there is one more ticket
        (waited_for, {"limits": {"max_inflight": 2}}, 40),
        (above_background, {"dirty_background": 0.0}, 5),
    ],
)
def test_a_call_costs_the_same_beside_many_objects(
    make: Make,
    monkeypatch: Patch,
    more: Callable[[Rig, int, int], Callable[[], object]],
    config: dict[str, Any],
    slack: int,
) -> None:
    """An open and a close, a rename, counters, a ticket, a step of it, a turn of the flusher; no write of them ends."""
    monkeypatch.setattr(flusher, "TURN", 8)
    rig = make(objects(600), "64MiB", **config)
    gate = rig.backend.gate("write_from", times=1000)
    costs = []
    for start, count in ((0, 200), (200, 400)):
        work = more(rig, count, start)
        work()
        costs.append(min(calls_of(work) for _ in range(5)))
    gate.open()
    assert costs[1] <= costs[0] + slack


def few_hollow(monkeypatch: Patch, count: int) -> None:
    """Let the cache keep that many objects without pages."""
    monkeypatch.setattr(lifetimes, "HOLLOW_MIN", count)
    monkeypatch.setattr(lifetimes, "HOLLOW_PART", 1 << 30)


def test_objects_without_pages_are_forgotten_when_there_are_many(make: Make, monkeypatch: Patch) -> None:
    """The oldest ones go; those with pages stay, and a close forgets a few at most."""
    few_hollow(monkeypatch, 20)
    rig = make(objects(400), 128 * PAGE)
    walk(rig, 400)
    cached = [key for key, inode in rig.volume.inodes.items() if inode.number("cached")]
    assert len(cached) == 128
    assert len(rig.volume.inodes) <= 128 + 20 + 1
    assert "o200" not in rig.volume.inodes
    assert rig.cache.native.hollow() == len(rig.volume.inodes) - 128
    freed = rig.volume.drop_clean()
    assert freed == 128 * PAGE
    known = len(rig.volume.inodes)
    visit(rig, "o399")
    assert known - lifetimes.PRUNED <= len(rig.volume.inodes) < known
    while rig.cache._prune():
        pass
    assert len(rig.volume.inodes) <= 21


def test_objects_that_lose_their_last_page_are_forgotten_by_the_flusher(make: Make, monkeypatch: Patch) -> None:
    """No handle is opened or closed."""
    few_hollow(monkeypatch, 5)
    rig = make(objects(100))
    walk(rig, 100)
    rig.volume.drop_clean()
    rig.cache.flusher.wake()
    eventually(lambda: len(rig.volume.inodes) == 5)
    assert set(rig.volume.inodes) == {f"o{k}" for k in range(95, 100)}


def test_objects_with_views_unsaved_data_or_a_loss_to_report_are_not_forgotten(make: Make, monkeypatch: Patch) -> None:
    """The next opener gets the loss. [2.16]"""
    few_hollow(monkeypatch, 0)
    rig = make(objects(50), limits={"commit_on_close": True})
    walk(rig, 50)
    rig.volume.inodes["o0"].report_to_handles([LostRange("o0", 0, 10, errno.EIO, "volume")])
    with rig.volume.open("o1") as file:
        view = file.view(0, 100)
    unsaved = rig.dirtied(b"new", 0, key="o2")
    created = rig.open("w+b", key="created")
    rig.volume.drop_clean()
    for _ in range(100):
        rig.cache._prune()
    assert {"o0", "o1", "o2", "created"} <= set(rig.volume.inodes)
    assert len(rig.volume.inodes) <= 5
    view.release()
    created.abandon()
    unsaved.abandon()
    with rig.volume.open("o0", "r+b") as file, pytest.raises(DataLossError):
        file.fsync()


@pytest.mark.parametrize("first", ["open", "prune"])
def test_an_object_that_is_being_opened_is_not_forgotten(make: Make, monkeypatch: Patch, first: str) -> None:
    """The open locks the name first, and finds the inode; or it waits until that is gone, and makes another one."""
    few_hollow(monkeypatch, 0)
    rig = make(objects(3))
    visit(rig, "o0")
    inode = rig.volume.inodes["o0"]
    if first == "open":
        gate, opener = at_gate(rig.backend.gate("stat", "o0"), rig.volume.open, "o0")
        rig.volume.drop_clean()
        for _ in range(5):
            rig.cache._prune()
        assert rig.volume.inodes["o0"] is inode
        gate.open()
    else:
        rig.volume.drop_clean()
        gate, pruner = at_gate(held(monkeypatch, EngineVolume, "free"), lifetimes.prune, rig.volume)
        opener = Task(rig.volume.open, "o0")
        assert opener.waits()
        pruner.result(opening=gate)
    with opener.result() as file:
        assert file.pread(200, 0) == objects(1)["o0"]
    assert (rig.volume.inodes["o0"] is inode) == (first == "open")


@pytest.mark.parametrize("whole", [False, True])
def test_an_idle_file_that_changed_after_the_look_stays_open(make: Make, monkeypatch: Patch, whole: bool) -> None:
    """A use has begun and ended between that look and the lock: its bytes can be saved. [2.20]"""
    rig = make(backend=(ObjectBackend if whole else RecordingBackend)({KEY: b"stored"}))
    rig.open("r+b").close()
    inode = rig.volume.inodes[KEY]

    def used() -> None:
        handle = rig.dirtied(b"new", 0)
        lifetimes.release(handle._use)
        handle._shut()

    beside(monkeypatch, EngineFile, "has_local", used, after=True)
    assert rig.volume.engine.take_idle(0) == []
    assert inode.backend_file is not None
    assert rig.synced() == b"newred"


def test_a_rename_keeps_its_file_open_beside_closes_of_idle_files(make: Make, monkeypatch: Patch) -> None:
    """It asks its file whether it follows; the new name can be opened afterwards. [2.20]"""
    rig = make(backend=ObjectBackend({KEY: b"stored"}))
    rig.open("r+b").close()
    idle = list[Any]()
    beside(monkeypatch, opening._Following, "goes_on", lambda: idle.append(rig.volume.engine.take_idle(0)))
    rig.volume.rename(KEY, "new")
    assert idle == [[]]
    with rig.volume.open("new", "r+b") as file:
        assert file.read() == b"stored"


@pytest.mark.parametrize("turn", [1, 3, 1024])
def test_a_ticket_saves_all_files_of_its_moment_some_at_a_time(make: Make, monkeypatch: Patch, turn: int) -> None:
    """[2.15]"""
    monkeypatch.setattr(ticket, "TURN", turn)
    rig = make()
    dirty(rig, 10)
    found = rig.volume.begin_sync()
    found.wait(20)
    assert (found.remaining, found.errors, found.expected) == (0, (), 0.0)
    assert rig.volume.unsaved() == []
    assert {call.key for call in rig.backend.seen("commit")} == {f"d{k}" for k in range(10)}


def test_a_ticket_does_not_wait_for_writes_before_it_takes_up_its_files(make: Make) -> None:
    """The epoch is that of `begin_sync`. [2.15]"""
    rig = make()
    dirty(rig, 2)
    stop = Gate()

    def hold() -> None:
        with rig.volume.engine._advancing:
            stop.enter()

    _, holder = at_gate(stop, hold)
    found = rig.volume.begin_sync()
    late = rig.open("w+b", key="late")
    gate = rig.backend.gate("write_from", "late")
    late.pwrite(b"x", 0)
    assert found.total == 2 * PAGE
    stop.release()
    holder.result()
    found.wait(20)
    assert not gate.nr_entered
    assert [stat.key for stat in rig.volume.unsaved()] == ["late"]
    gate.open()


@pytest.mark.parametrize("reconnected", [False, True])
def test_a_ticket_that_an_abort_overtook_before_it_took_up_its_files_raises(make: Make, reconnected: bool) -> None:
    """It raises the same error as a ticket that had begun. [K9]"""
    rig = make()
    dirty(rig, 3)
    engine = rig.volume.engine
    with engine._advancing:  # no other thread advances it
        found = rig.volume.begin_sync()
        engine._tickets.remove(found)
    rig.volume.abort(OSError(errno.EIO, "gone"))
    if reconnected:
        rig.volume.reconnect(RecordingBackend())
    rig.volume.engine.add_ticket(found)
    raises(ShutdownError, found.wait, 20)


def test_an_idle_object_takes_no_more_memory_than_its_bound_counts(tmp_path: Path) -> None:
    """A third of that is CORE's, which is not traced. [2.20]"""
    for k in range(600):
        (tmp_path / f"o{k}").touch()
    tracemalloc.start()
    try:
        with attached(DirectoryBackend(tmp_path)) as volume:
            for k in range(600):
                if k == 100:
                    before, _ = tracemalloc.get_traced_memory()
                volume.open(f"o{k}").close()
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 500 < lifetimes.OBJECT_BYTES * 2 / 3


OLD = pattern(4 * PAGE)


def removed(make: Make) -> tuple[Rig, CachedFile, Inode]:
    """A handle of a file without a name and without unsaved bytes."""
    rig, file = make({KEY: OLD, "gone": OLD}).opened("r+b", key="gone")
    inode = rig.volume.inodes["gone"]
    rig.volume.remove("gone")
    return rig, file, inode


@pytest.mark.parametrize("fenced", [False, True])
def test_a_reconnect_meets_no_file_that_is_freed_beside_it(make: Make, fenced: bool) -> None:
    """It iterates over files whose handles other threads close. [2.22]"""
    rig, file, inode = removed(make)
    kept = rig.dirtied(OLD[PAGE : 2 * PAGE], 0)
    rig.volume.abort()
    fresh = rig.backend.successor()
    gate, reconnecting = at_gate(fresh.gate("open", KEY), lambda: rig.volume.reconnect(fresh, fenced=fenced))
    file.close()
    assert not inode.freed
    reconnecting.result(opening=gate)
    eventually(lambda: inode.freed and inode not in rig.volume.orphans)
    kept.fsync()
    assert fresh.committed(KEY) == OLD[PAGE : 2 * PAGE] + OLD[PAGE:]


def test_unsaved_bytes_of_a_removed_file_are_given_up_by_the_reconnect_after_its_last_close(make: Make) -> None:
    """It was closed while the volume was aborted: then it could not be given up. [2.20, 2.22]"""
    rig, file, inode = removed(make)
    file.pwrite(OLD[:PAGE], PAGE)
    rig.volume.abort()
    file.close()
    rig.volume.reconnect(rig.backend.successor())
    eventually(lambda: inode.freed and inode not in rig.volume.orphans)
    assert rig.cache.stats().dirty == 0


@pytest.mark.parametrize("busy", [False, True])
def test_unsaved_bytes_of_a_removed_file_go_with_its_last_handle(tmp_path: Path, busy: bool) -> None:
    """At once, unless another call has the file's token: then after that. [2.20]"""
    with attached(DirectoryBackend(tmp_path)) as volume, Gate() as gate:
        file = volume.open("gone", "w+b")
        file.pwrite(OLD, 0)
        file.flush()
        file.pwrite(b"dirty", PAGE)
        inode = volume.inodes["gone"]
        volume.remove("gone")
        if busy:
            at_gate(gate, inode.run, TOKEN, "holding", gate.enter)
        file.close()
        assert inode.freed is not busy
        gate.release()
        eventually(lambda: inode.freed and inode not in volume.orphans)
        assert volume.stats().to_dict()["local"] == 0
