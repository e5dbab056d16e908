"""fsync at "disk": its bytes survive the process, and reach the store later."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, Self

import pytest

import pagecache.aio
from pagecache import (
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
from pagecache.disk import records
from pagecache.disk.device import OS
from pagecache.disk.journal import Journal
from pagecache.engine.commit import journaled
from pagecache.engine.commit.journaled import Journaled, VolumeJournal
from pagecache.engine.commit.staging import Staging
from pagecache.engine.io import barrier
from pagecache.engine.park import SLICE, Deadline
from pagecache.native import LOCK
from pagecache.testing import Gate
from pagecache.volume import detach, lifetimes
from tests.disk.copying import copy_tier
from tests.file.rig import Patch, Task, at_gate, beside, eventually, held, raises, raising, run_program
from tests.file.test_interrupts import ctrl_c, interrupted_at
from tests.stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend, StoredObject

pytestmark = pytest.mark.contract("D1", "D2", "D3", "D5", "D6", "D8", "D10")

QUIET = {"dirty_expire": 3600.0, "flush_interval": 0.02, "throttle_timeout": 10.0}
OLD = bytes(range(256)) * 64  # 16 KiB
WHOLE = pytest.mark.parametrize("make", ["whole"], indirect=True)
IN_PLACE = pytest.mark.parametrize("make", ["in place"], indirect=True)


failing = raising(OSError(errno.EIO, "the disk fails"))


@contextlib.contextmanager
def disk_fails(*calls: str, error: int = errno.EIO) -> Iterator[None]:
    """Context in which these calls of the disk fail."""
    with pytest.MonkeyPatch.context() as patch:
        for call in calls:
            patch.setattr(OS, call, raising(OSError(error, "the disk fails")))
        yield


class World:
    """A store, and a cache with a tier on it, which can be killed."""

    made: ClassVar[list[World]] = []
    """Worlds that the fixture `ended` ends."""

    def __init__(self, folder: Path, store: RecordingBackend, number: int = 0, **options: Any) -> None:
        self.folder, self.store, self.number = folder, store, number
        self.tier = folder / f"tier{number}"
        config = {**QUIET, **{name: options.pop(name) for name in list(options) if name in QUIET}}
        limit = options.pop("journal_limit", None)
        tier = DiskTier(self.tier, size=options.pop("size", "16MiB"), segment="1MiB", journal_limit=limit)
        self.cache = PageCache(options.pop("memory", "16MiB"), disk=tier, **config)
        attach: dict[str, Any] = {"durability": "disk", "volume_id": "store", "read_ahead": 0, **options}
        self.volume: Volume = self.cache.attach(store, **attach)
        self.files: list[CachedFile] = []
        self.made.append(self)

    def open(self, key: str = "k", mode: Any = "r+b", **options: Any) -> CachedFile:
        self.files.append(self.volume.open(key, mode, **options))
        return self.files[-1]

    def synced(self, data: bytes, offset: int = 0, key: str = "k", mode: str = "r+b") -> CachedFile:
        """Write to an open file, and return it after an fsync."""
        file = self.open(key, mode)
        file.pwrite(data, offset)
        file.fsync()
        return file

    def read(self, key: str = "k") -> bytes:
        with self.volume.open(key) as file:
            return file.read()

    def left(self) -> list[str]:
        """The names of the objects that a crash has left bytes of."""
        return [str(found.key) for found in self.volume.recovered()]

    def settles(self, content: bytes | None, key: str = "k") -> None:
        """Check that a sync at the store leaves nothing unsaved, and this content."""
        self.volume.sync(durability="backend")
        assert self.left() == []
        assert self.saved(key) == content

    def journal(self) -> Any:
        assert self.cache.tier is not None
        return self.cache.tier.journal()

    def copied(self, **options: Any) -> Self:
        """Start another process over the present content of the disk and the store."""
        copy_tier(self.tier, self.folder / f"tier{self.number + 1}")
        return type(self)(self.folder, self._after(), self.number + 1, **options)

    def killed_in(self, what: str, call: Callable[..., Any], *names: str, carried_out: bool, **options: Any) -> World:
        """Kill the process in a call of the store, before or after it is carried out."""
        seen: list[World] = []
        real = getattr(self.store, what)

        def crash(*arguments: Any, **more: Any) -> None:
            if carried_out:
                with contextlib.suppress(FileNotFoundError):  # of a draft
                    real(*arguments, **more)
            seen.append(self.copied(**options))
            raise OSError(errno.EACCES, "refused")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.store, what, crash)
            raises(OSError, call, *names)
        return seen[0]

    def crash(self, *, lose: bool = False, **options: Any) -> World:
        """Kill the process, and start another one over what is on disk and in the store. `lose`: cut the power of a
        store in place: what it has not committed is lost.
        """
        found: list[RecordingBackend] = []

        def snapshot() -> bool:
            with self.store.lock:
                if any(file.commit_running() for file in self.volume.engine.files()):
                    return False  # a commit may be in the store, and its answer not recorded
                copy_tier(self.tier, self.folder / f"tier{self.number + 1}")
                found.append(self._after(lose=lose))
                return True

        eventually(snapshot)
        (store,) = found
        self.end()
        return World(self.folder, store, self.number + 1, **options)

    def _after(self, *, lose: bool = False) -> RecordingBackend:
        before = self.store
        if not isinstance(before, ObjectBackend):
            return before.successor(lose=lose, shared=False)
        after = ObjectBackend()
        after.objects = {key: copy.copy(stored) for key, stored in before.objects.items()}
        after.versions = before.versions
        return after

    def hang(self) -> None:
        """Have all calls of the store hang that carry bytes or commit."""
        for call in ("write_from", "commit", "truncate"):
            self.store.gate(call, times=10_000)

    def end(self) -> None:
        self.store.open_all_gates()
        self.store.clear_faults()
        self.volume.abort()
        for file in self.files:
            file._leave()
        self.cache.close(on_failed="discard")
        shutil.rmtree(self.tier, ignore_errors=True)

    def saved(self, key: str = "k") -> bytes | None:
        return self.store.committed(key)

    def has_saved(self, content: bytes, key: str) -> bool:
        return self.saved(key) == content

    def stored(self, key: str = "k") -> bytes | None:
        whole = isinstance(self.store, ObjectBackend)
        return self.saved(key) if whole else bytes(self.store.objects[key].written)


Make = Callable[..., World]


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """End all worlds of a test."""
    yield
    while World.made:
        World.made.pop().end()


@pytest.fixture(params=["in place", "whole"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def made(**options: Any) -> World:
        if request.param == "in place":
            return World(tmp_path, RecordingBackend({"k": OLD}, punch=True), **options)
        store = ObjectBackend()
        store.put("k", OLD)
        return World(tmp_path, store, **options)

    return made


@pytest.fixture
def world(make: Make) -> World:
    return make()


@contextlib.contextmanager
def losing_a_sync(world: World) -> Iterator[list[int]]:
    """Context in which the first sync of the journal fails, and loses the records of it."""
    journal, lost, sync = world.journal(), list[int](), OS.fdatasync
    end = journal._current.used

    def fail_once(fd: int) -> None:
        if not lost:
            lost.append(fd)
            os.pwrite(fd, bytes(8192), end)
            failing()
        sync(fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OS, "fdatasync", fail_once)
        yield lost


def clean(world: World) -> list[Path]:
    """The segments of clean data, the oldest first."""
    return sorted(world.tier.glob("*.clean"))


def changed(offset: int, data: bytes, content: bytes = OLD) -> bytes:
    return content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]


# -- an fsync


def test_bytes_that_an_fsync_has_put_on_disk_survive_a_crash_and_later_ones_are_not_promised(world: World) -> None:
    world.synced(b"new", 5000).pwrite(b"later", 100)
    assert world.saved() == OLD
    after = world.crash(on_recovery="hold")
    (found,) = after.volume.recovered()
    assert (found.key, found.size, found.created) == ("k", len(OLD), False)
    assert any(begin <= 5000 and begin + length >= 5003 for begin, length in found.ranges)
    assert after.read() == changed(5000, b"new")
    after.volume.resume()
    after.settles(changed(5000, b"new"))
    assert after.cache.stats().journal_bytes == 0


@WHOLE
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["open", "fallocate", "pwritev"])
def test_on_a_full_disk_clean_data_gives_way_to_an_fsync_while_the_store_hangs(
    world: World, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    big = random.Random(1).randbytes(4 << 20)
    assert isinstance(world.store, ObjectBackend)
    world.store.put("big", big)
    assert world.read("big") == big
    eventually(lambda: len(clean(world)) > 2)
    world.hang()
    (first, second, *_), real = clean(world), getattr(OS, call)

    def full(*arguments: Any) -> Any:
        if call == "open" and not arguments[1] & os.O_CREAT:
            return real(*arguments)
        if first in clean(world):
            raise OSError(error, os.strerror(error))
        return real(*arguments)

    monkeypatch.setattr(OS, call, full)
    file = world.open()
    for number in range(5):
        file.pwrite(b"%d" % number, number)
        file.fsync(timeout=10)
    assert file._inode.journaled.is_live()
    assert world.saved() == OLD
    assert first not in clean(world)
    assert second in clean(world)
    assert world.read("big") == big
    monkeypatch.undo()
    assert world.crash(on_recovery="hold").read() == changed(0, b"01234")


@IN_PLACE
def test_on_a_full_disk_clean_data_gives_way_to_what_a_failed_sync_has_stated_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.store.objects["big"] = StoredObject(random.Random(1).randbytes(4 << 20))
    world.read("big")
    eventually(lambda: len(clean(world)) > 2)
    file, (first, *_), fallocate = world.synced(b"new"), clean(world), OS.fallocate

    def full(fd: int, size: int) -> None:
        if first in clean(world):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fallocate(fd, size)

    with losing_a_sync(world):  # of SAVED
        monkeypatch.setattr(OS, "fallocate", full)
        file.fsync(durability="backend")
    assert first not in clean(world)


def test_each_folder_that_a_start_has_made_is_synced_before_an_fsync_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = set[str](), os.fsync

    def noted(fd: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    tier = DiskTier(tmp_path / "a/b/c", size="16MiB", segment="1MiB")
    with PageCache("4MiB", disk=tier) as cache:
        volume = cache.attach(ObjectBackend(), volume_id="store", durability="disk")
        with volume.open("k", "x+b") as file:
            file.write(b"new")
            file.fsync()
            made = ("", "a", "a/b", "a/b/c", "a/b/c/tier", "a/b/c/journal")
            assert {str(tmp_path / each) for each in made} <= synced


def test_a_save_in_the_background_that_hangs_keeps_no_sync_and_no_detach(world: World) -> None:
    gate = world.store.gate("write_from", times=1)
    world.synced(b"new").close()
    gate.wait_entered()
    world.open("other", "w+b").pwrite(b"other", 0)
    world.volume.sync(timeout=10)
    world.volume.begin_sync(durability="disk").wait(10)
    assert world.volume.detach(timeout=10) == []
    assert set(world.copied(on_recovery="hold").left()) == {"k", "other"}
    gate.open()


def test_a_later_fsync_appends_only_what_was_written_since(world: World) -> None:
    file = world.synced(b"a" * 8192)
    before = world.journal()._current.used
    file.pwrite(b"b" * 10, 100)
    for _ in range(3):
        file.fsync()
        assert world.journal()._current.used - before < 1024
    assert world.crash().read() == changed(100, b"b" * 10, changed(0, b"a" * 8192))


def test_a_new_file_survives(world: World) -> None:
    world.synced(b"created", key="new", mode="x+b")
    world.open("empty", "x+b").fsync()
    after = world.crash(on_recovery="hold")
    found = {found.key: (found.size, found.created) for found in after.volume.recovered()}
    assert found == {"new": (7, True), "empty": (0, True)}
    assert (after.read("new"), after.read("empty")) == (b"created", b"")
    after.volume.resume()
    after.settles(b"created", "new")
    assert after.saved("empty") == b""


def test_truncates_extensions_and_holes_are_recovered_in_their_order(world: World) -> None:
    file = world.synced(b"x" * 12288)
    file.truncate(5000)
    file.truncate(9000)
    file.pwrite(b"y" * 100, 12000)
    file.fsync()
    file.punch_hole(4096, 500)
    file.pwrite(b"z", 4100)
    file.fsync()
    expected = file.pread(1 << 20, 0)
    assert len(expected) == 12100
    assert world.crash().read() == expected


@pytest.mark.parametrize("call", ["truncate", "truncate answer"])
@pytest.mark.parametrize("size", [100, 5000, 20000])
def test_truncates_that_fail_leave_the_size_that_a_crash_leaves(make: Make, call: str, size: int) -> None:
    """The first one is owed. The next one changes nothing, as the store refuses what is owed."""
    world = make(retry=RetryPolicy(attempts=1))
    file = world.synced(b"more", 9000)
    world.store.fault(call, OSError(errno.EIO, "no answer"), times=10_000)
    for each in (size, 7000):
        raises(OSError, file.truncate, each, match="no answer")
        assert file.size == size
        file.fsync(durability="disk")
    expected = changed(9000, b"more")[:size].ljust(size, b"\0")
    assert world.crash(on_recovery="hold").read() == expected


# -- saved


def test_a_journal_that_fails_is_an_event_once_and_counted_and_so_is_its_next_success(world: World) -> None:
    events: list[Event] = []
    world.cache.subscribe(events.append)
    file = world.open()
    with disk_fails("pwritev", "fallocate", error=errno.ENOSPC):
        for data in (b"first", b"again"):
            file.pwrite(data, 0)
            file.fsync()
    assert world.saved() == b"again" + OLD[5:]
    assert world.cache.stats().disk_errors >= 1
    eventually(lambda: "disk" in [each.kind for each in events])
    (event,) = (each for each in events if each.kind == "disk")
    assert (event.error is not None, event.next) == (True, "fsync saves in the store for a while")
    assert event.error is not None
    assert event.error.errno == errno.ENOSPC
    for data in (b"third", b"fourth"):
        file.pwrite(data, 0)
        file.fsync()
    eventually(lambda: len([each for each in events if each.kind == "disk"]) > 1)
    file.fsync()
    (again,) = (each for each in events if each.kind == "disk" and each is not event)
    assert again.error is None
    assert again.message == f"the journal in {str(world.tier)!r} is written again"


def test_a_full_journal_is_no_failure_of_the_disk(make: Make) -> None:
    world = make(journal_limit="1MiB", size="8MiB")
    events: list[Event] = []
    world.cache.subscribe(events.append)
    file = world.open("new", "w+b")
    for at in range(8):
        file.pwrite(bytes([at]) * (1 << 18), at << 18)
        file.fsync()
    assert world.cache.stats().disk_errors == 0
    assert "disk" not in [each.kind for each in events]


@pytest.mark.parametrize("key", ["new", "k"])
@WHOLE
def test_what_an_end_gives_up_is_listed_by_no_attach(make: Make, key: str) -> None:
    """Neither its creation nor its size."""
    world = make(durability="backend")
    file = world.open(key, "w+b" if key == "new" else "r+b")
    file.pwrite(b"n" * 5000, 0)
    file.truncate(20000)
    file.fsync(durability="disk")
    if key == "k":
        assert isinstance(world.store, ObjectBackend)
        world.store.put("k", b"other")  # a conflict
    world.store.fault("commit", OSError(errno.ENOSPC, "full"), times=1000)
    lost = world.volume.detach(on_failed="discard")
    assert [entry.key for entry in lost] == [key]
    after = world.crash()
    assert after.left() == []
    after.settles(None if key == "new" else b"other", key)


def test_what_is_due_is_saved_while_the_disk_fails(make: Make) -> None:
    world = make(dirty_expire=0.5)
    other = world.open("other", "x+b")
    other.write(b"other")
    world.synced(b"new")
    with disk_fails("fdatasync", "fallocate"):
        with contextlib.suppress(OSError):
            other.fsync()
        eventually(lambda: world.saved() == changed(0, b"new"))


def test_a_disk_that_does_not_take_that_a_file_is_saved_is_left_alone_for_a_while(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the flusher save it again and again; what the journal has of later bytes is saved."""
    world = make(dirty_expire=0.02)
    gate = world.store.gate("write_from")
    file = world.synced(b"new")
    gate.wait_entered()
    file.pwrite(b"newer", 100)
    file.fsync()
    journal = world.volume.engine.journal
    assert journal is not None
    monkeypatch.setattr(journaled, "AGAIN", 3600.0)
    turns, refused, saves = list[Any](), list[Any](), list[Any]()
    settle, poll = Journaled.settle, journal.poll

    def noted(calls: list[Any], call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def noting(argument: Any) -> Any:
            calls.append(argument)
            return call(argument)

        return noting

    def settles(*arguments: Any) -> OSError | None:
        if (error := settle(*arguments)) is not None:
            refused.append(error)
        return error

    monkeypatch.setattr(journal, "poll", noted(turns, poll))
    monkeypatch.setattr(journal, "begin_saving", noted(saves, journal.begin_saving))
    monkeypatch.setattr(Journaled, "settle", settles)
    with disk_fails("pwritev"):
        gate.open()
        eventually(lambda: world.saved() == changed(100, b"newer", changed(0, b"new")))
        turns.clear()
        eventually(lambda: len(turns) >= 100)
        assert len(refused) <= 2
        assert len(saves) <= 2
    poll(world.volume.engine.clock.now() + 3600.0)
    eventually(lambda: not file._inode.journaled.is_live())


# -- attach, detach, resume


@pytest.mark.parametrize(("step", "on_failed"), [("_give_up", "raise"), ("_unsaved", "discard")])
@pytest.mark.parametrize("keys", ["k", "kl"])
def test_a_detach_gives_up_nothing_of_a_file_whose_record_waits_for_the_disk(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, on_failed: Any, keys: str
) -> None:
    """Another file is given up on request: the journal has no keys like its own."""
    for op in ("write_from", "commit"):
        world.store.fault(op, PermissionError(errno.EACCES, "refused"), times=float("inf"))
    files = [world.synced(b"new", key=key, mode="a+b") for key in keys]
    lock, gate = files[0]._inode.journaled._lock, Gate()
    others: list[Any] = [7] if on_failed == "discard" else []
    for key in others:
        world.open(key, "a+b").pwrite(b"lost", 0)

    def record() -> None:
        with lock:
            gate.enter(WAIT_LIMIT_S)

    beside(monkeypatch, detach, step, lambda: at_gate(gate, record))
    ending = Task(world.volume.detach, on_failed=on_failed)
    if step == "_unsaved":
        assert ending.waits(3 * SLICE)
        gate.release()
    assert [entry.key for entry in ending.result()] == others
    gate.release()
    world.store.clear_faults()
    world.store = world._after()
    world.volume = world.cache.attach(world.store, durability="disk", volume_id="store")
    assert world.left() == [*keys]
    world.settles(changed(0, b"new"))


@pytest.mark.parametrize("by", ["detach", "close"])
@pytest.mark.parametrize("newer", [False, True])
def test_a_commit_on_its_way_at_the_end_of_a_volume_is_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch, by: str, *, newer: bool
) -> None:
    """Otherwise the next attach would save again what another program may have removed since."""
    monkeypatch.setattr(detach, "END_TIMEOUT_S", WAIT_LIMIT_S)
    gate = world.store.gate("commit answer", times=1)
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"new", 0)
    gate.wait_entered()
    if newer:
        world.synced(b"newer", 9000)
    ending = Task(world.volume.detach if by == "detach" else world.cache.close)
    eventually(lambda: world.volume.engine.aborted)
    assert ending.result(opening=gate) == []
    saved = changed(0, b"new")
    assert world.saved() == saved
    after = again(world)
    assert after.left() == ["k"] * newer
    after.settles(changed(9000, b"newer", saved) if newer else saved)


@pytest.mark.parametrize("how", ["hangs", "fails", "abort"])
def test_a_commit_at_the_end_of_a_volume_that_does_not_count_leaves_its_bytes_unsaved(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how != "hangs":
        monkeypatch.setattr(detach, "END_TIMEOUT_S", WAIT_LIMIT_S)
    gate = world.store.gate("commit", times=1)
    if how == "fails":
        world.store.fault("commit", OSError(errno.EIO, "lost"))
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"new", 0)
    gate.wait_entered()
    began, ending = time.monotonic(), Task(world.cache.close)
    eventually(lambda: world.volume.engine.aborted)
    if how == "abort":
        world.volume.abort()
    if how != "hangs":
        gate.open()
    assert ending.result() == []
    assert how != "hangs" or time.monotonic() - began < 5 * detach.END_TIMEOUT_S
    gate.open()
    after = again(world)
    assert after.left() == ["k"]
    after.settles(changed(0, b"new"))


@WHOLE
def test_a_commit_that_the_end_of_a_volume_has_stopped_is_not_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detach, "END_TIMEOUT_S", WAIT_LIMIT_S)
    gate = held(monkeypatch, Staging, "send_again")
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"new", 0)
    gate.wait_entered()
    ending = Task(world.cache.close)
    eventually(lambda: world.volume.engine.aborted)
    assert ending.result(opening=gate) == []
    assert world.saved() == OLD
    after = again(world)
    assert after.left() == ["k"]
    after.settles(changed(0, b"new"))


def test_a_commit_beside_an_interrupted_end_does_not_count_for_the_next_backend(world: World) -> None:
    gate = world.store.gate("commit answer", times=1)
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"new", 0)
    gate.wait_entered()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detach, "_finish", raising(KeyboardInterrupt()))
        raises(KeyboardInterrupt, world.volume.detach)
    (inode,) = world.volume.engine.files()
    world.store = type(world.store)({"k": OLD})
    opening = world.store.gate("open", times=1)
    reconnecting = Task(world.volume.reconnect, world.store)
    opening.wait_entered()
    gate.open()
    eventually(lambda: not inode.commit_running())
    reconnecting.result(opening=opening)
    world.settles(changed(0, b"new"))


@WHOLE
def test_the_version_of_a_commit_at_the_end_of_a_volume_lies_below_what_was_written_beside_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal had nothing of the file before that commit, and later has its bytes too: none of it is saved."""
    monkeypatch.setattr(detach, "END_TIMEOUT_S", WAIT_LIMIT_S)
    world.synced(b"first").close()
    world.volume.sync(durability="backend")
    gate, file = world.store.gate("commit answer", times=1), world.open()
    file.pwrite(b"new", 0)
    saving = Task(file.fsync, durability="backend")
    gate.wait_entered()
    file.pwrite(b"newer", 9000)
    file.fsync()
    ending = Task(world.cache.close)
    eventually(lambda: world.volume.engine.aborted)
    assert ending.result(opening=gate) == []
    raises(ShutdownError, saving.result)
    after = again(world)
    assert after.left() == ["k"]
    after.settles(changed(9000, b"newer", changed(0, b"newst")))


@pytest.mark.parametrize("by", ["detach", "close"])
def test_an_fsync_at_a_prompt_store_that_outlasts_its_volume_says_so(
    make: Make, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The journal cannot record any longer what it has saved."""
    monkeypatch.setattr(detach, "END_TIMEOUT_S", 0.2)
    world = make(prompt=True)
    file, gate = world.synced(b"new"), world.store.gate("commit", times=1)
    saving = Task(file.fsync, durability="backend")
    gate.wait_entered()
    assert (world.volume.detach if by == "detach" else world.cache.close)() == []
    gate.open()
    raises(ShutdownError, saving.result)
    after = again(world)
    assert after.left() == ["k"]
    after.settles(changed(0, b"new"))


def again(world: World) -> World:
    """Attach what the end of a volume has left."""
    world.cache.close()
    return World(world.folder, world._after(), world.number)


@IN_PLACE
def test_a_detach_waits_for_the_names_of_new_objects(world: World) -> None:
    """The disk tier does not have them. It is a second, without a deadline."""
    world.synced(b"new", key="new", mode="xb")
    gate = world.store.gate("sync")
    ending = Task(world.volume.detach)
    gate.wait_entered()
    assert ending.waits(3 * SLICE)
    assert not world.volume.engine.aborted
    assert ending.result(opening=gate) == []


def test_what_is_held_is_readable_and_is_saved_only_after_resume(world: World) -> None:
    for key in ("k", "other"):
        file = world.open(key, "a+b")
        file.write(b"new")
        file.fsync()
    after = world.crash(on_recovery="hold", dirty_expire=0.05)
    assert after.read() == OLD + b"new"
    after.volume.sync(durability="backend")
    assert after.saved() == OLD
    again = after.crash(on_recovery="hold")
    assert again.left() == ["k", "other"]
    again.volume.resume("k")
    again.volume.sync(durability="backend")
    assert again.saved() == OLD + b"new"
    assert again.left() == ["other"]
    again.volume.resume()
    eventually(lambda: again.saved("other") == b"new")
    eventually(lambda: again.left() == [])


@pytest.mark.parametrize("size", [5000, 60000])
def test_a_recovery_that_fails_in_the_middle_is_made_again(make: Make, size: int) -> None:
    """A stored object that has grown is cut by the first save, and not while the file is held or laid in part."""
    world = make()
    file = world.open()
    file.truncate(5000)
    file.fsync(durability="backend")
    file.pwrite(b"x", 100)
    file.fsync()
    file.truncate(size)
    file.fsync()
    if not isinstance(world.store, ObjectBackend):
        world.store.objects["k"].written[5000:] = b"sent in the background" * 4000
    after = world.crash(on_recovery="hold")
    before = after.stored()
    with disk_fails("preadv"):
        for _ in range(2):
            raises(OSError, after.read, match="has other bytes than were written")
    assert after.read() == changed(100, b"x")[:5000].ljust(size, b"\0")
    assert after.stored() == before
    after.volume.resume()
    eventually(lambda: not after.left())
    assert after.read() == after.saved() == changed(100, b"x")[:5000].ljust(size, b"\0")


def damage(world: World, part: bytes) -> None:
    """Change bytes of the journal in place."""
    (segment,) = (world.tier / "journal").iterdir()
    at = segment.read_bytes().index(part)
    with segment.open("r+b") as opened:
        opened.seek(at + len(part) // 2)
        opened.write(b"!")


@pytest.mark.parametrize("place", [0, 1])
def test_a_segment_that_is_gone_is_a_loss_and_an_event(world: World, place: int) -> None:
    file, piece = world.open(), 1 << 18  # three in a segment
    for at in range(12):
        file.pwrite(bytes([at + 1]) * piece, at * piece)
        file.fsync()
    segments = sorted((world.tier / "journal").iterdir())
    assert len(segments) == 4
    segments[place].unlink()
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PageCache, "attach", noting(events, PageCache.attach))
        after = world.crash(on_recovery="hold")
    assert after.cache.stats().disk_errors == 1
    file = after.open()
    error = raises(DataLossError, file.fsync)
    lost = (0, (place + 1) * 3 * piece)
    assert [(entry.offset, entry.length, entry.errno) for entry in error.ranges] == [(*lost, errno.EIO)]
    assert file.pread(6 * piece, 6 * piece) == b"".join(bytes([at + 1]) * piece for at in range(6, 12))
    eventually(
        lambda: [(each.key, each.ranges) for each in events if each.kind == "disk"] == [(None, ()), ("k", (lost,))]
    )


def noting(events: list[Event], attach: Callable[..., Volume]) -> Callable[..., Volume]:
    def attached(cache: PageCache, *arguments: Any, **options: Any) -> Volume:
        cache.subscribe(events.append)
        return attach(cache, *arguments, **options)

    return attached


def test_damage_of_the_journal_is_a_loss_of_these_bytes(world: World) -> None:
    file = world.synced(b"a" * 4096 + b"b" * 4096 + b"c" * 4096)
    file.pwrite(b"last", 15000)
    file.fsync()
    damage(world, b"b" * 4096)
    after = world.crash(on_recovery="hold")
    events: list[Event] = []
    after.cache.subscribe(events.append)
    raises(DataLossError, after.read, match="4096 bytes of 'k'")
    eventually(lambda: [(each.kind, each.key, each.ranges) for each in events] == [("disk", "k", ((4096, 4096),))])
    found = after.read()
    assert found[:4096] + found[8192:12288] + found[15000:15004] == b"a" * 4096 + b"c" * 4096 + b"last"
    assert found[4096:8192] == OLD[4096:8192]
    (left,) = after.volume.recovered()
    assert not any(begin < 8192 and begin + length > 4096 for begin, length in left.ranges)
    assert after.cache.stats().disk_errors == 1


@pytest.mark.parametrize("by", ["a start", "an attach"])
def test_damage_of_the_journal_after_it_was_read_is_a_loss_of_these_bytes(world: World, by: str) -> None:
    world.synced(b"a" * 4096 + b"b" * 4096 + b"c" * 4096)
    after = world
    if by == "a start":
        after = world.crash(on_recovery="hold")
    else:
        world.volume.detach()
        world.store = world._after()
        options: dict[str, Any] = {"durability": "disk", "volume_id": "store", "read_ahead": 0, "on_recovery": "hold"}
        world.volume = world.cache.attach(world.store, **options)
    damage(after, b"b" * 4096)
    raises(DataLossError, after.read, match="4096 bytes of 'k'")
    assert after.read() == b"a" * 4096 + OLD[4096:8192] + b"c" * 4096 + OLD[12288:]
    assert after.cache.stats().disk_errors == 1
    after.volume.resume()
    after.settles(b"a" * 4096 + OLD[4096:8192] + b"c" * 4096 + OLD[12288:])


def test_damage_of_the_last_record_is_a_loss_at_the_next_attach(world: World) -> None:
    """No later record calls it confirmed."""
    file = world.synced(b"first")
    file.pwrite(b"a" * 4096, 0)
    file.fsync()
    world.volume.detach()
    world.store = world._after()
    damage(world, b"a" * 4096)
    options: dict[str, Any] = {"durability": "disk", "volume_id": "store", "read_ahead": 0, "on_recovery": "hold"}
    world.volume = world.cache.attach(world.store, **options)
    raises(DataLossError, world.read, match="4096 bytes of 'k'")


def test_an_attach_reports_files_that_it_cannot_read(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.synced(b"new")
    world.volume.detach()
    world.store = world._after()
    damage(world, b"store")
    world.volume = world.cache.attach(world.store, durability="disk", volume_id="store")
    assert world.left() == []
    assert world.cache.stats().disk_errors == 1
    eventually(lambda: "1 files in the disk tier cannot be read" in caplog.text)


def test_an_object_that_is_gone_stays_listed(world: World) -> None:
    world.synced(b"new")
    del world.store.objects["k"]
    after = world.crash()
    raises(FileNotFoundError, after.read)
    assert after.left() == ["k"]
    after.volume.sync(durability="backend")
    after.volume.discard("k")
    assert after.left() == []
    assert after.crash().left() == []


# -- versions


JOURNALED = "pagecache.engine.commit.journaled.Journaled"


@pytest.mark.parametrize("recorded", [True, False])
def test_a_commit_before_the_crash_is_recognised(world: World, *, recorded: bool) -> None:
    """By its record whatever it had, else by its bytes."""
    file = world.synced(b"new")
    if recorded:
        file.pwrite(b"xyz", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{JOURNALED}._settle", lambda self, journal: None)
        patch.setattr(f"{JOURNALED}._foresees", lambda *_: False)  # newer bytes are not in the journal
        if not recorded:
            patch.setattr(f"{JOURNALED}.stored", lambda *_: None)  # killed before the answer
        world.volume.sync(durability="backend")
        assert world.saved() == changed(0, b"xyz" if recorded else b"new")
        after = world.crash()
    assert after.read() == changed(0, b"new")  # as of the fsync
    after.settles(changed(0, b"new"))


@WHOLE
@pytest.mark.parametrize("newer", ["elsewhere", "over it", "behind the end"])
def test_a_commit_of_ours_is_recognised_below_bytes_that_were_synced_since(world: World, newer: str) -> None:
    """The process died before it knew the version that the commit had made."""
    at = {"elsewhere": 9000, "over it": 2, "behind the end": len(OLD) + 10}[newer]
    file = world.synced(b"one")
    with world.store.gate("commit answer") as gate:
        saving = Task(file.fsync, durability="backend", timeout=30)
        gate.wait_entered()
        file.pwrite(b"two", at)
        file.fsync()
        assert world.saved() == changed(0, b"one")
        after = world.copied()
    saving.result()
    assert after.read() == changed(at, b"two", changed(0, b"one"))
    after.settles(changed(at, b"two", changed(0, b"one")))


@WHOLE
@pytest.mark.parametrize("call", ["fsync", "sync"])
@pytest.mark.parametrize("carried_out", [True, False])
def test_a_commit_of_ours_is_recognised_with_bytes_that_no_fsync_at_disk_was_asked_for(
    world: World, call: str, *, carried_out: bool
) -> None:
    """The process died before it knew the version that the commit had made, or before the commit."""
    file = world.synced(b"one")
    file.pwrite(b"newer", 1)
    file.pwrite(b"end", len(OLD) + 5)
    content = changed(len(OLD) + 5, b"end", changed(1, b"newer", changed(0, b"one")))
    with world.store.gate("commit answer" if carried_out else "commit") as gate:
        saving = Task(file.fsync if call == "fsync" else world.volume.sync, durability="backend", timeout=30)
        gate.wait_entered()
        assert world.saved() == (content if carried_out else OLD)
        after = world.copied()
    saving.result()
    assert after.read() == content
    after.settles(content)


@WHOLE
@pytest.mark.parametrize("ours", [True, False])
def test_a_conflict_says_if_it_may_be_with_newer_bytes_of_this_program(world: World, *, ours: bool) -> None:
    """What the journal does not take before the commit is in the store alone."""
    file = world.synced(b"one")
    file.pwrite(b"two", 2)
    with pytest.MonkeyPatch.context() as patch, world.store.gate("commit answer") as gate:
        patch.setattr(f"{JOURNALED}._foresees", lambda *_: False)
        saving = Task(file.fsync, durability="backend", timeout=30) if ours else None
        if saving is None:
            assert isinstance(world.store, ObjectBackend)
            world.store.put("k", b"foreign")
        else:
            gate.wait_entered()
        after = world.copied()
    if saving is not None:
        saving.result()
    error = raises(ConflictError, after.read)
    assert ("perhaps newer bytes of this program, killed in a commit: 'discard' keeps them" in str(error)) is ours
    after.volume.resolve("k", "discard")
    assert after.left() == []
    assert after.read() == after.saved() == (changed(2, b"two", changed(0, b"one")) if ours else b"foreign")


@WHOLE
@pytest.mark.parametrize("what", ["written again", "held", "much", "refused"])
def test_a_commit_puts_in_the_journal_only_what_it_stores(
    make: Make, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """And little, beside no call that holds the file; what the disk refuses is no error of the commit."""
    world = make(memory="32MiB")
    file = world.synced(b"one")
    file.pwrite(b"newer", 4096)
    if what == "much":
        file.pwrite(bytes(1 << 20), 8192)
    seen: list[None] = []
    real, holding = Journaled.saving, Gate()

    def saving(self: Journaled) -> None:
        seen.append(None)
        before, holder = self._content, None
        if what == "written again" and len(seen) == 1:
            Task(file.pwrite, b"again", 9000).result()
        if what == "held":
            holder = Task(file._inode.run, LOCK, "holding", holding.enter)
            holding.wait_entered()
        with disk_fails("pwritev") if what == "refused" else contextlib.nullcontext():
            real(self)
        assert self._content == before
        holding.release()
        if holder is not None:
            holder.result()

    monkeypatch.setattr(Journaled, "saving", saving)
    file.fsync(durability="backend")
    assert seen
    assert (world.saved() or b"")[:4101] == changed(4096, b"newer", changed(0, b"one"))[:4101]


@WHOLE
def test_a_conflict_keeps_a_volume_from_its_end(world: World) -> None:
    """Its bytes stay in the journal all the same."""
    file = world.synced(b"new")
    assert isinstance(world.store, ObjectBackend)
    world.store.put("k", b"foreign")
    raises(ConflictError, file.fsync, durability="backend")
    raises(UnsavedDataError, world.volume.detach, timeout=5, match="another version")
    assert world.crash().left() == ["k"]


# -- beside other things


def test_an_interrupted_fsync_is_made_again_by_the_next_one(world: World) -> None:
    file = world.open()
    content = file.pread(1 << 20, 0)

    def within(frame: FrameType) -> bool:
        code = frame.f_code
        return f"{os.sep}pagecache{os.sep}" in code.co_filename and code.co_name != "<genexpr>"

    for number in range(1, 300):
        data = bytes([number % 256]) * 5000
        content = changed(7 * number % 9000, data, content)
        file.pwrite(data, 7 * number % 9000)
        interrupted_at(number, file.fsync, within)
    file.fsync()
    world.cache.check()
    after = world.crash()
    assert after.read() == content
    after.settles(content)


@pytest.mark.parametrize("call", ["fdatasync", "pwritev"])
@pytest.mark.parametrize("what", ["close", "sync", "fsync of another file", "stats"])
def test_a_signal_handler_in_an_fsync_does_not_wait_for_its_own_thread(tmp_path: Path, what: str, call: str) -> None:
    calls = {
        "close": "cache.close(timeout=0.5)",
        "sync": "volume.sync(timeout=0.5)",
        "fsync of another file": "other.fsync()",
        "stats": "cache.stats()",
    }
    ended = run_program(
        tmp_path,
        f"""
        import contextlib, faulthandler, signal
        from pagecache import PageCache
        from pagecache.disk.device import OS
        faulthandler.dump_traceback_later({WAIT_LIMIT_S}, exit=True)
        cache = PageCache("4MiB", disk={str(tmp_path / "tier")!r})
        volume = cache.attach("memory:", durability="disk")
        file, other = volume.open("k", "w+b"), volume.open("other", "w+b")
        file.fsync()
        for each in (file, other):
            each.pwrite(b"new", 0)
        plain, handled = OS.{call}, []

        def handler(*_):
            handled.append(None)
            with contextlib.suppress(OSError):  # it may be refused
                {calls[what]}

        def interrupted(*arguments):
            OS.{call} = plain
            signal.raise_signal(signal.SIGUSR1)
            return plain(*arguments)

        signal.signal(signal.SIGUSR1, handler)
        OS.{call} = interrupted
        with contextlib.suppress(OSError):  # the cache may be closed within it
            file.fsync()
        assert handled
        cache.close()
        print("done")
    """,
    )
    assert "done" in ended.stdout, ended.stderr


@pytest.mark.parametrize("where", ["an append", "a sync", "an append beside a save"])
def test_ctrl_c_ends_a_call_that_waits_for_another_thread_in_a_call_of_the_disk(
    tmp_path: Path, monkeypatch: Patch, where: str
) -> None:
    with PageCache("4MiB", disk=DiskTier(tmp_path / "tier", size="16MiB", segment="1MiB")) as cache:
        volume = cache.attach("memory:", durability="disk")
        file, other = volume.open("k", "w+b"), volume.open("other", "w+b")
        file.fsync()
        file.pwrite(b"new", 0)
        other.pwrite(b"new", 0)
        gate = held(monkeypatch, OS, "pwritev" if "append" in where else "fdatasync")
        tasks: list[Task[None]] = []

        def hang() -> None:
            tasks.append(at_gate(gate, other.fsync)[1])

        if where == "a sync":
            beside(monkeypatch, Journal, "_lead", hang)  # no thread was in one before
        else:
            hang()
        with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
            file.fsync(durability="backend" if "save" in where else None)
        gate.open()
        tasks[0].result()
        file.fsync()


def test_an_fsync_of_a_task_ends_at_the_disk(world: World) -> None:
    async def run() -> None:
        async with pagecache.aio.open(world.volume, "k", "r+") as file:
            await file.pwrite(b"new", 0)
            await file.fsync()
            assert world.saved() == OLD

    world.open()  # nothing is saved before the last writer closes
    asyncio.run(run())
    assert world.crash().read() == changed(0, b"new")


# -- names


@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize("what", ["rename", "rename over", "remove"])
@pytest.mark.parametrize("key", ["k", "made"])
def test_a_name_that_was_being_changed_is_looked_up(world: World, what: str, key: str, *, carried_out: bool) -> None:
    """Also that of an object which the store has had for a moment only, and over one whose bytes are unsaved too."""
    if key == "made" and isinstance(world.store, ObjectBackend):
        pytest.skip("the store has nothing of it")
    for name in (key, *(["other"] if what == "rename over" else [])):
        world.synced(name.encode(), key=name, mode="r+b" if name == "k" else "w+b")
    expected = changed(0, b"k") if key == "k" else b"made"
    method = what.removesuffix(" over")
    names = (key,) if what == "remove" else (key, "other")
    after = world.killed_in(method, getattr(world.volume, method), *names, carried_out=carried_out)
    if not carried_out:
        assert after.read(key) == expected
        assert what != "rename over" or after.read("other") == b"other"
    elif what == "remove":
        eventually(lambda: after.left() == [])
        assert not after.volume.exists(key)
    else:
        assert after.read("other") == expected
        assert not after.volume.exists(key)
        assert after.left() in ([], ["other"])  # perhaps saved by now
    eventually(lambda: after.left() == [])


@pytest.mark.parametrize("change", ["remove", "discard", "rename"])
@pytest.mark.parametrize("level", ["backend", "disk"])
def test_a_change_of_a_name_that_the_disk_refuses_to_record_is_recorded_later(
    world: World, monkeypatch: pytest.MonkeyPatch, change: str, level: Any
) -> None:
    """Else a crash lays unsaved bytes of the former object over the next one of that name."""
    world.synced(b"former").close()
    append = Journal.append

    def fail(self: Journal, record: records.Record, *more: Any, **by: Any) -> int:
        if record.kind in (records.Kind.REMOVED, records.Kind.DISCARDED, records.Kind.RENAMED):
            with disk_fails("pwritev"):
                return append(self, record, *more, **by)
        return append(self, record, *more, **by)

    monkeypatch.setattr(Journal, "append", fail)
    if change == "rename":
        world.volume.rename("k", "g")
    else:
        if change == "discard":
            world.volume.discard("k")
        world.volume.remove("k")
    monkeypatch.undo()
    file = world.open("k", "x+b")
    file.write(b"next")
    file.fsync(durability=level)
    after = world.crash()
    assert after.read() == b"next"
    if change == "rename":
        assert after.read("g") == changed(0, b"former")
    eventually(lambda: after.left() == [])


@pytest.mark.parametrize("by_task", [True, False])
@pytest.mark.parametrize("level", ["disk", "backend"])
def test_an_fsync_of_a_clean_file_confirms_that_it_is_saved(world: World, level: Any, *, by_task: bool) -> None:
    """Else a power cut brings the records back that it was saved from, over what the store has since."""
    file = world.synced(b"older")
    inode, journal = file._inode, world.journal()
    barrier.drive(barrier.FileSync(inode), None, "fsync")
    inode.journaled.settle(Deadline(world.volume.engine.clock, None))  # also if the flusher does so at the moment
    assert not inode.journaled.is_live()
    assert journal._confirmed < journal.last

    async def save() -> None:
        async with await pagecache.aio.open(world.volume, "k") as opened:
            await opened.fsync(durability=level)

    if by_task:
        asyncio.run(save())
    else:
        file.fsync(durability=level)
    assert journal._confirmed == journal.last


@pytest.mark.parametrize(("level", "before"), [("backend", True), ("backend", False), ("disk", True)])
def test_a_sync_is_over_once_what_it_has_saved_is_confirmed(world: World, level: Any, *, before: bool) -> None:
    """Also without a wait for it, and for files that were saved before it."""
    file, journal = world.synced(b"older"), world.journal()
    file.pwrite(b"newer", 0)
    if before:
        barrier.drive(barrier.FileSync(file._inode), None, "fsync")
    ticket = world.volume.begin_sync(durability=level)
    eventually(ticket.done)
    assert not ticket.errors
    assert not journal.has_unsaved()
    assert journal._confirmed == journal.last


def test_a_sync_whose_save_the_disk_cannot_record_has_its_error(world: World) -> None:
    world.synced(b"older").pwrite(b"newer", 0)
    with disk_fails("fdatasync", "fallocate"):
        ticket = world.volume.begin_sync(durability="backend")
        eventually(ticket.done)
        assert "the journal" in str(ticket.errors)


def free(world: World) -> None:
    """Wait until a file without handles is freed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifetimes, "hollow_max", lambda _capacity: 0)

        def is_freed() -> bool:
            world.volume.drop_clean()
            lifetimes.prune(world.volume)
            return world.volume.inodes.get("k") is None

        eventually(is_freed)


def save_and_free(world: World) -> None:
    """Have a file saved and freed, and none of that confirmed."""
    gate = world.store.gate("write_from", times=1)  # a save that ends before the close is confirmed by it
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"older", 0)  # the close puts it into the journal, the background into the store
    gate.release.set()
    free(world)
    journal = world.journal()
    assert not journal.has_unsaved()
    assert journal._confirmed < journal.last


def test_a_save_fails_while_the_disk_cannot_say_that_the_file_before_was_saved(world: World) -> None:
    gate = world.store.gate("write_from", times=1)
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"older", 0)
    with disk_fails("pwritev"):
        gate.release.set()
        free(world)
        later = world.open()
        later.pwrite(b"newer", 0)
        raises(OSError, later.fsync, durability="backend", match="the disk fails|journal")
        raises(OSError, world.volume.sync, durability="backend", match="the disk fails|journal")
    later.fsync(durability="backend")
    assert world.crash(lose=True).read()[:5] == b"newer"


@IN_PLACE
@pytest.mark.parametrize("whole_volume", [False, True])
def test_a_clean_object_is_not_confirmed_while_the_disk_cannot_say_that_the_file_before_was_saved(
    world: World, *, whole_volume: bool
) -> None:
    """By an fsync, or a sync of the volume, at "disk"."""
    gate = world.store.gate("write_from", times=1)
    with world.volume.open("k", "r+b") as file:
        file.pwrite(b"older", 0)
    later = None
    with disk_fails("pwritev"):
        gate.release.set()
        free(world)
        later = world.open()
        later.pwrite(b"newer", 0)
        barrier.drive(barrier.FileSync(later._inode), None, "fsync")  # as the background does
        raises(OSError, world.volume.sync if whole_volume else later.fsync, match="the disk fails|journal")
    later.fsync()
    assert world.crash(lose=True).read()[:5] == b"newer"


@pytest.mark.parametrize("how", ["fsync", "close"])
def test_a_save_of_an_object_confirms_what_was_saved_of_the_file_that_it_had_before(world: World, how: str) -> None:
    """Else a power cut brings the bytes of the former file back over those of this one."""
    save_and_free(world)
    journal = world.journal()
    file = world.volume.open("k", "r+b")
    file.pwrite(b"newer", 0)
    if how == "fsync":
        file.fsync(durability="backend")
    else:
        barrier.drive(barrier.FileSync(file._inode), None, "fsync")
    file.close()
    assert journal._confirmed == journal.last


@pytest.mark.parametrize("former", [False, True])
def test_a_close_by_a_task_confirms_on_another_thread_that_the_file_is_saved(
    world: World, monkeypatch: pytest.MonkeyPatch, *, former: bool
) -> None:
    """A disk that hangs keeps no other task waiting. `former`: the file that the object had before."""
    sync, threads = OS.fdatasync, set[int]()

    def noted(fd: int) -> None:
        threads.add(threading.get_ident())
        sync(fd)

    async def run() -> None:
        file = await pagecache.aio.open(world.volume, "k", "r+b")
        inode = file._file._inode
        if not former:
            await file.pwrite(b"new", 0)
            await file.fsync()
            barrier.drive(barrier.FileSync(inode), None, "fsync")
            inode.journaled.settle(Deadline(world.volume.engine.clock, None))
        assert not inode.has_local()
        monkeypatch.setattr(OS, "fdatasync", noted)
        await file.close()

    if former:
        save_and_free(world)
    asyncio.run(run())
    journal = world.journal()
    assert journal._confirmed == journal.last
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("former", [False, True])
def test_a_close_waits_for_no_records_of_other_files_after_a_failed_sync(world: World, *, former: bool) -> None:
    """What was saved of the file, or of the one that the object had before, is stated anew and confirmed by then."""
    journal, volume_journal = world.journal(), world.volume.engine.journal
    assert volume_journal is not None
    if former:
        save_and_free(world)
        file = world.open()
    else:
        file = world.synced(b"new")
        barrier.drive(barrier.FileSync(file._inode), None, "fsync")
        file._inode.journaled.settle(Deadline(world.volume.engine.clock, None))
    with losing_a_sync(world) as lost:
        assert volume_journal.confirm_all() is None
    assert lost
    world.open("other", "x+b").pwrite(b"x", 0)
    world.files[-1]._inode.journal().begin()
    assert journal._confirmed < journal.last
    file.close()
    assert journal._confirmed < journal.last


@IN_PLACE
def test_a_flush_of_a_saved_file_succeeds_on_an_aborted_volume(world: World) -> None:
    """As that of any clean file: it makes no call."""
    file = world.synced(b"new")
    file.fsync(durability="backend")
    world.volume.abort()
    file.flush()


# -- given up


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ((), OLD),
        ((8192, 4096), b"y" * 8192 + OLD[8192:12288] + b"y" * 7712),
        ((8192, 1 << 20), b"y" * 8192 + OLD[8192:]),
        ((6277,), b"y" * 4096 + OLD[4096:]),  # whole blocks
    ],
    ids=["all", "a part", "the tail", "more"],
)
@pytest.mark.parametrize("fsync", [True, False])
def test_discarded_bytes_are_not_recovered(
    world: World, which: tuple[int, ...], expected: bytes, *, fsync: bool
) -> None:
    """`fsync`: it saves the rest in the store; else the process is killed before."""
    file = world.synced(b"y" * 20000)
    longer = which == (8192, 4096) and not fsync
    if longer:
        file.pwrite(b"later", 40000)
    world.volume.discard("k", *which)
    if fsync:
        raises(DataLossError, file.fsync)
        file.fsync()
    assert file.pread(1 << 20, 0) == (changed(40000, b"later", expected) if longer else expected)
    after = world.crash()
    assert after.read() == expected
    after.settles(expected)


# -- what the journal cannot take


def test_stores_to_a_writable_view_are_saved_by_fsync(world: World) -> None:
    file = world.open()
    with file.view(0, 4096, writable=True) as view:
        view.segments[0][:3] = b"new"
        file.fsync()
        assert world.saved() == changed(0, b"new")
        view.segments[0][:3] = b"two"
    file.fsync()
    assert world.crash().read() == changed(0, b"two")


@IN_PLACE
@pytest.mark.parametrize("released", ["later", "beside the hole"])
@pytest.mark.parametrize("before", [b"", b"one"], ids=["described anew", "with records"])
def test_stores_to_a_view_over_a_hole_are_on_disk_after_an_fsync(
    world: World, monkeypatch: pytest.MonkeyPatch, before: bytes, released: str
) -> None:
    """The view goes on over a hole of a part of its folio. [2.21, D1]"""
    file = world.synced(before) if before else world.open()
    with file.view(0, 4096, writable=True) as view:

        def store() -> None:
            view.segments[0][150:153] = b"new"

        if released == "later":
            file.punch_hole(100, 200)
            assert not view.detached
            store()
        else:  # after the file has the hole, and before the journal

            def punched(self: Journaled, *arguments: Any) -> None:
                store()
                view.release()
                punched_by(self, *arguments)

            punched_by = Journaled.punched
            monkeypatch.setattr(Journaled, "punched", punched)
            file.punch_hole(100, 200)
    file.fsync()
    expected = changed(150, b"new", changed(100, bytes(200), changed(0, before)))
    assert file.pread(len(expected), 0) == expected
    assert world.crash().read() == expected


@IN_PLACE
def test_the_journal_takes_bytes_again_after_a_direct_write_just_as_all_was_saved(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.synced(b"one")
    live, settle = Journaled.is_live, Journaled.settle
    monkeypatch.setattr(Journaled, "settle", lambda *_: None)
    world.volume.sync(durability="backend")

    def just_before(journaled: Journaled) -> bool:
        found = live(journaled)
        if sys._getframe(1).f_code is Journaled.outdate.__code__:
            assert found
            settle(journaled)
        return found

    monkeypatch.setattr(Journaled, "is_live", just_before)
    with world.open(direct=True) as direct:
        direct.pwrite(b"two" + bytes(4093), 0)
    monkeypatch.undo()
    file.fsync(durability="backend")
    file.pwrite(b"three", 0)
    file.fsync()
    assert file._inode.journaled.is_live()


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("offset", [0, len(OLD)])
def test_a_direct_write_over_bytes_on_disk_survives(tmp_path: Path, offset: int, *, durable: bool) -> None:
    """It is committed at once, or by a hole, while other bytes are still on disk alone."""
    world = World(tmp_path, RecordingBackend({"k": OLD}, punch=True, durable_writes=durable))
    file = world.open()
    file.pwrite(b"one" * 1000, 0)
    file.pwrite(b"later" * 100, 8192)
    file.fsync()
    with world.open(direct=True) as direct:
        direct.pwrite(b"direct" + bytes(4090), offset)
        file.punch_hole(4096, 100)
        assert not file._inode.direct_ranges()
        assert file._inode.usage()["dirty"]
        file.fsync()
    expected = file.pread(1 << 20, 0)
    assert world.crash().read() == expected


def test_what_the_disk_has_lost_and_takes_no_more_is_a_loss_of_a_discarding_end(world: World) -> None:
    file = world.synced(b"one")
    file.pwrite(b"two", 100)
    world.store.fault("write_from", PermissionError(errno.EACCES, "refused"), times=float("inf"))
    with losing_a_sync(world):
        raises(OSError, file.fsync)
    with disk_fails("pwritev"):
        raises(OSError, file.fsync)
        lost = world.volume.detach(on_failed="discard")
    assert [(each.key, each.offset) for each in lost][:1] == [("k", 0)]


def test_a_full_journal_after_a_restart_learns_what_the_store_has(make: Make) -> None:
    """Else the next restart would bring older bytes back."""
    world = make(journal_limit="1MiB")
    file = world.open()
    number = 0

    def is_full() -> bool:
        nonlocal number
        number += 1
        file.pwrite(number.to_bytes(4, "little") * 1024, 0)
        file.fsync()
        return world.store.seen("commit") != []

    while not is_full():
        pass
    world.hang()
    journal = world.journal()
    while journal.bytes + journal.segment <= journal.limit or journal._current.used < journal.segment * 7 // 8:
        is_full()
    world.store.open_all_gates()
    for _ in range(4):
        world = world.crash(journal_limit="1MiB")
        file = world.open()
        assert file.pread(4096, 0) == number.to_bytes(4, "little") * 1024
        is_full()
        is_full()


@pytest.mark.parametrize("calls", [("pwritev",), ("fdatasync", "fallocate")])
def test_an_fsync_raises_while_the_disk_cannot_say_that_older_bytes_are_saved(
    world: World, calls: tuple[str, ...]
) -> None:
    """Else a crash brings them back over the newer ones that the store has."""
    file = world.synced(b"one")
    file.pwrite(b"two", 0)
    with disk_fails(*calls):
        for level in ("disk", "backend") if calls == ("pwritev",) else ("backend", "disk", "disk"):
            raises(OSError, file.fsync, durability=level, match="the journal")
    assert world.saved() == changed(0, b"two")
    file.fsync()
    after = world.crash()
    assert after.left() == []
    assert after.read() == changed(0, b"two")


def test_what_the_disk_has_lost_of_a_save_is_recorded_again(world: World) -> None:
    """A failed sync drops the record that the store has the bytes."""
    file = world.synced(b"one")
    file.pwrite(b"two", 0)
    with losing_a_sync(world) as lost:
        while True:
            try:
                file.fsync(durability="backend")
                break
            except OSError:
                assert lost
    assert lost
    after = world.crash()
    assert after.left() == []
    assert after.read() == changed(0, b"two")


@pytest.mark.parametrize("whole_volume", [False, True])
def test_records_of_a_failed_sync_do_not_return_over_what_was_saved_since(world: World, *, whole_volume: bool) -> None:
    """The disk has them all the same. The journal was full before it had all, and the sync of the others failed."""
    file, journal = world.open(), world.journal()
    world.synced(b"x", key="other", mode="x+b")
    content = b"new" * (1 << 20)
    file.truncate(3)
    file.pwrite(content, 0)
    sync, failed = OS.fdatasync, list[int]()

    def fail_once(fd: int) -> None:
        if not failed:
            failed.append(fd)
            failing()
        sync(fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OS, "fdatasync", fail_once)
        patch.setattr(journal, "_limit", journal.bytes)
        (world.volume.sync if whole_volume else file.fsync)(durability="disk")
    assert failed
    assert "k" not in (after := world.crash()).left()
    assert after.read() == content


def append_fails(monkeypatch: pytest.MonkeyPatch, kind: records.Kind, taken: int) -> list[str]:
    """Let the next append of a record of this kind fail once the disk has taken so many bytes: all of it, but for the
    zeros behind it. Return what has happened.
    """
    put, write, met = Journal._put, OS.pwritev, list[str]()

    def noted(self: Journal, segment: Any, record: Any, *rest: Any) -> int:
        if record.kind == kind and not met:
            met.append("next")
        return put(self, segment, record, *rest)

    def fail_once(fd: int, parts: Any, offset: int) -> int:
        if met == ["next"]:
            met.append("failed")
            write(fd, [b"".join(parts)[:taken]], offset)
            failing()
        return write(fd, parts, offset)

    monkeypatch.setattr(Journal, "_put", noted)
    monkeypatch.setattr(OS, "pwritev", fail_once)
    return met


@IN_PLACE
def test_a_cut_whose_append_has_failed_cuts_off_nothing_that_the_store_has(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has all of that record, but for the zeros behind it."""
    world.synced(b"x", key="other", mode="x+b")  # its segment stays
    file = world.synced(b"old")
    file.fsync(durability="backend")
    file.truncate(3)
    file.pwrite(b"new", 3)
    met = append_fails(monkeypatch, records.Kind.SIZE, 2 * records.HEAD)
    file.fsync()
    assert met == ["next", "failed"]
    monkeypatch.undo()
    after = world.crash()
    assert after.read() == b"oldnew"
    assert "k" not in after.left()


@IN_PLACE
def test_a_creation_whose_append_has_failed_empties_nothing_that_the_store_has(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.synced(b"x", key="other", mode="x+b")  # its segment stays
    file = world.open("new", "x+b")
    file.pwrite(b"content", 0)
    met = append_fails(monkeypatch, records.Kind.FILE, 4096)
    file.fsync()
    assert met == ["next", "failed"]
    monkeypatch.undo()
    after = world.crash()
    assert "new" not in after.left()
    assert after.read("new") == b"content"


@IN_PLACE
@pytest.mark.parametrize("how", ["backend", "disk", "discard"])
def test_a_write_whose_append_has_failed_returns_over_none_of_a_later_file(
    world: World, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    """The file is freed, or its bytes are given up, before the disk can say that they do not count."""
    world.synced(b"x", key="other", mode="x+b")
    file = world.open()
    file.pwrite(b"older", 0)
    if how == "discard":
        world.store.fault("write_from", PermissionError(errno.EACCES, "refused"), key="k", times=float("inf"))
    append_fails(monkeypatch, records.Kind.DATA, 2048)
    with disk_fails("fallocate"):
        raises(OSError, file.fsync)
        if how != "discard":
            raises(OSError, file.close)
            free(world)
            file = world.open()
            file.pwrite(b"newer", 0)
            raises(OSError, file.fsync, durability=how, match="the journal")
    if how == "discard":
        assert world.volume.discard("k")
        assert world.crash().read() == OLD
    else:
        file.fsync(durability=how)
        assert world.crash().read()[:5] == b"newer"


@IN_PLACE
def test_a_cut_counts_though_a_sync_fails_among_the_records_of_its_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store refuses, and those behind it count: no fsync takes them for all. [D1]"""
    world.synced(b"x", key="other", mode="x+b")
    file, journal = world.open(), world.journal()
    refused = world.store.fault("write_from", PermissionError(errno.EACCES, "refused"), key="k", times=float("inf"))
    file.truncate(8192)
    file.pwrite(b"new", 50)

    def lose() -> None:
        with disk_fails("fdatasync"):
            raises(OSError, journal.confirm, journal.last)

    beside(monkeypatch, Journaled, "_bytes", lose)
    for _ in range(2):
        raises(OSError, file.fsync, match="refused")
    refused.clear()
    file.fsync()
    assert world.crash(lose=True).read() == changed(50, b"new", OLD[:8192])


@pytest.mark.parametrize("who", ["sync", "flusher", "another file"])
def test_a_sync_and_the_flusher_say_that_records_do_not_count(world: World, who: str) -> None:
    """Another file needs no such record: its fsync succeeds though the disk takes none. [D3, D5]"""
    another, file, journal = world.synced(b"x", key="other", mode="x+b"), world.open(), world.journal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_limit", 0)
        with disk_fails("fallocate"):
            file.pwrite(b"new", 0)
            another.pwrite(b"x", 0)
            journal._may_return = True  # as after a failed sync, or an append that failed
            if who == "another file":
                another.fsync(durability="backend")
            assert journal._may_return
        match who:
            case "sync":
                world.volume.sync(durability="backend")  # nothing else is to be recorded
                journal._may_return = True
                file.pwrite(b"newer", 0)
                world.volume.sync(durability="backend")
            case "flusher":
                world.volume.engine.cache.flusher.wake()
                eventually(lambda: not journal._may_return)
    assert journal._may_return is (who == "another file")


def test_what_the_disk_has_lost_before_it_was_marked_is_appended_again(world: World) -> None:
    """By a sync for another file. The fsync that has appended it fails; a later one appends it."""
    file, journal = world.synced(b"one"), world.journal()
    world.store.fault("write_from", PermissionError(errno.EACCES, "refused"), key="k", times=float("inf"))
    file.pwrite(b"two", 100)
    with losing_a_sync(world), pytest.MonkeyPatch.context() as patch:
        beside(patch, Journaled, "_add_asked_mark", lambda: raises(OSError, journal.confirm, journal.last))
        raises(OSError, file.fsync, match="refused")
    file.fsync()
    assert world.crash().read() == changed(100, b"two", changed(0, b"one"))


def beside_its_record(patch: Patch, journal: Any, place: str, change: Callable[[], object]) -> None:
    """Make a change while a failed sync is recorded: of its files, or as its segments are closed."""
    changes, due = journal._changes, [change]

    def counted() -> Iterator[int]:
        while True:
            if journal._void and due:
                due.pop()()
            yield next(changes)

    if place == "files":
        patch.setattr(journal, "_changes", counted())
    else:
        beside(patch, Journal, "_finish", change)


@pytest.mark.parametrize("place", ["files", "segments"])
def test_an_fsync_beside_the_record_of_a_failed_sync_is_not_confirmed(world: World, place: str) -> None:
    """That of another file. It has appended its bytes before."""
    file, journal, appended = world.synced(b"one"), world.journal(), threading.Event()
    world.store.fault("write_from", PermissionError(errno.EACCES, "refused"), key="k", times=float("inf"))
    file.pwrite(b"two", 100)

    def goes_on() -> None:
        gate.release()
        assert appended.wait(WAIT_LIMIT_S)

    with losing_a_sync(world), pytest.MonkeyPatch.context() as patch, Gate() as gate:
        beside(patch, Journaled, "begin", lambda: gate.enter(WAIT_LIMIT_S), after=True)
        beside(patch, VolumeJournal, "append", appended.set, after=True)
        _, fsync = at_gate(gate, file.fsync)
        beside_its_record(patch, journal, place, goes_on)
        raises(OSError, journal.confirm, journal.last)
        raises(OSError, fsync.result, match="refused")
    file.fsync()
    assert world.crash().read() == changed(100, b"two", changed(0, b"one"))


@pytest.mark.parametrize("place", ["files", "segments"])
def test_names_are_not_confirmed_beside_the_record_of_a_failed_sync(world: World, place: str) -> None:
    file, journal, stated = world.synced(b"one"), world.journal(), threading.Event()
    assert world.volume.engine.journal is not None
    confirm_all = world.volume.engine.journal.confirm_all
    file.pwrite(b"two", 100)
    file._inode.journal().begin()
    file._inode.journaled.renamed("m")
    tasks: list[Task[OSError | None]] = []

    def look() -> None:
        tasks.append(Task(confirm_all))
        eventually(lambda: stated.is_set() or tasks[0].finished.is_set())

    with losing_a_sync(world), pytest.MonkeyPatch.context() as patch:
        beside(patch, Journal, "restate", stated.set)
        beside_its_record(patch, journal, place, look)
        raises(OSError, journal.confirm, journal.last)
        assert (tasks[0].result(), journal.owes()) == (None, False)
    assert world.crash(on_recovery="hold").left() == ["m"]


@pytest.mark.parametrize("size", [100, 20000])
def test_a_size_that_the_disk_has_lost_before_any_other_record_is_recorded_again(world: World, size: int) -> None:
    """The store refuses it."""
    world.synced(b"x", key="other", mode="x+b")  # there is a segment
    file = world.open()
    file.truncate(size)
    world.store.fault("commit", PermissionError(errno.EACCES, "refused"), key="k", times=float("inf"))
    with losing_a_sync(world) as lost:
        raises(OSError, file.fsync, match="refused")
    assert lost
    file.fsync()
    assert world.crash().read() == OLD[:size].ljust(size, b"\0")


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["fdatasync", "pwritev", "fallocate"])
def test_a_disk_that_fails_sends_fsync_to_the_store(world: World, call: str, error: int) -> None:
    file = world.open()
    file.pwrite(b"two", 100)
    with disk_fails(call, error=error):
        file.fsync()
    assert world.saved() == changed(100, b"two")
    file.pwrite(b"three", 200)
    file.fsync()
    assert world.crash().read() == changed(200, b"three", changed(100, b"two"))


# -- bad input


def test_a_wrong_level_is_refused(tmp_path: Path) -> None:
    with PageCache("4MiB") as cache:
        with pytest.raises(ValueError, match="durability: 'disk', but this cache has no disk tier"):
            cache.attach(RecordingBackend(), durability="disk")
        with pytest.raises(ValueError, match="durability: 'all'"):
            cache.attach(RecordingBackend(), durability="all")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="on_recovery: 'ask'"):
            cache.attach(RecordingBackend(), on_recovery="ask")  # type: ignore[arg-type]
        volume = cache.attach(RecordingBackend({"k": OLD}))
        with volume.open("k", "r+b") as file, pytest.raises(ValueError, match="has no disk tier"):
            file.fsync(durability="disk")
        with pytest.raises(ValueError, match="durability: 'cloud'"):
            volume.sync(durability="cloud")  # type: ignore[arg-type]
        assert volume.recovered() == []


def test_a_single_call_may_choose_the_level(make: Make) -> None:
    world = make(durability="backend")
    file = world.synced(b"one")
    assert world.saved() == changed(0, b"one")
    file.pwrite(b"two", 100)
    file.fsync(durability="disk")
    file.pwrite(b"three", 200)
    world.volume.sync(durability="disk")
    assert world.saved() == changed(0, b"one")
    assert world.crash().read() == changed(200, b"three", changed(100, b"two", changed(0, b"one")))


# -- any order


def change_names(world: World, rng: random.Random) -> None:
    """Make calls for names after which the object has its name."""
    what = rng.choice(["there and back", "refused", "over it, without an answer"])
    if what == "there and back":
        world.volume.rename("k", "g")
        world.volume.rename("g", "k")
        return
    world.store.fault("rename", PermissionError() if what == "refused" else ConnectionResetError())
    world.open("a", "w+b").fsync(durability="backend")
    raises(OSError, world.volume.rename, *(("k", "g") if what == "refused" else ("a", "k")))
    world.store.clear_faults()
    if rng.randrange(2):
        world.volume.remove("a")


@pytest.mark.parametrize("seed", range(40))
def test_whatever_came_before_a_crash_each_byte_is_that_of_the_last_fsync_or_a_later_one(make: Make, seed: int) -> None:
    rng = random.Random(seed)
    lose = rng.random() < 0.5
    once = RetryPolicy(attempts=1)
    world = make(dirty_expire=rng.choice([0.02, 3600.0]), retry=once)
    for _ in range(3):
        file = world.open()
        model = bytearray(file.pread(1 << 20, 0))
        states = [bytes(model)]
        for _ in range(rng.randrange(1, 25)):
            choice = rng.randrange(13)
            offset, length = rng.randrange(0, 30000), rng.randrange(1, 9000)
            if choice < 5:
                data = rng.randbytes(length)
                file.pwrite(data, offset)
                model = bytearray(changed(offset, data, bytes(model)))
            elif choice == 5:
                file.truncate(offset)
                model = model[:offset].ljust(offset, b"\0")
            elif choice == 6:
                file.punch_hole(offset, length)
                for at in range(offset, min(offset + length, len(model))):
                    model[at] = 0
            elif choice == 7:
                data, offset = rng.randbytes(4096), offset - offset % 4096
                with world.open(direct=True) as direct:
                    direct.pwrite(data, offset)
                model = bytearray(changed(offset, data, bytes(model)))
            elif choice == 8:
                change_names(world, rng)
            else:
                if choice == 9:
                    world.volume.sync(durability=rng.choice(["disk", "backend", None]))
                else:
                    file.fsync(durability=rng.choice(["disk", "disk", "disk", "backend"]))
                states = []
            states.append(bytes(model))
        world = world.crash(lose=lose, dirty_expire=0.02, retry=once)
        found = world.read()
        sizes = [len(state) for state in states]
        assert min(sizes) <= len(found) <= max(sizes)  # bytes are stored in any order
        for at, byte in enumerate(found):
            values = {state[at] if at < len(state) else 0 for state in states}
            assert byte in values, f"byte {at} is {byte}, not one of {values}"
        if rng.randrange(2):
            world.volume.sync(durability="backend")
            assert world.store.written("k") == found
