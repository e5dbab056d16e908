"""The end of local data: of abandoned files, of closed handles beside them, and of removed ones. [2.20, K1, I-22]"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pagecache import CachedFile, ConflictError, DataLossError, PageCache, UnsavedDataError, aio, closing
from pagecache.backends.directory import DirectoryBackend
from pagecache.engine.io import barrier
from pagecache.native import STAMP_MAX
from pagecache.options import OpenMode
from pagecache.testing import Gate
from pagecache.volume import lifetimes
from pagecache.volume.opening import open_again

from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend
from .clock import HandClock
from .rig import (
    KEY,
    ONCE,
    PAGE,
    QUIET,
    Crowd,
    Make,
    Patch,
    Rig,
    Task,
    at_gate,
    eventually,
    held,
    overlay,
    pattern,
    raises,
    wait_for,
)

DATA = pattern(3 * PAGE)
GOOD = b"good" + DATA[4:]


BACKENDS: dict[str, Callable[[], RecordingBackend]] = {
    "a file": lambda: RecordingBackend({KEY: DATA}),
    "an object": lambda: ObjectBackend({KEY: DATA}),
}


@pytest.fixture(params=BACKENDS)
def either(make: Make, request: pytest.FixtureRequest) -> Rig:
    """A volume on a store in place, or on one of objects that are replaced as a whole; one file is open."""
    rig = make(backend=BACKENDS[request.param]())
    rig.open()
    return rig


@pytest.fixture
def store(make: Make) -> Rig:
    """A volume on an object store."""
    return make(backend=ObjectBackend({KEY: DATA}), retry=ONCE)


def test_an_open_beside_an_abandon_gets_what_is_stored(either: Rig) -> None:
    """It reads no byte that was given up, and its own writes are saved. [2.20]"""
    rig, file = either, either.handles[0]
    file.pwrite(b"bad!", 0)
    gate, opening = at_gate(rig.backend.gate("stat"), rig.open)
    Task(file.abandon).result()
    opened = opening.result(opening=gate)
    assert opened.pread(len(DATA), 0) == DATA
    opened.pwrite(b"good", 0)
    assert rig.saved(opened) == GOOD


def upload(file: CachedFile, backend: RecordingBackend) -> None:
    """Write, and have the backend take the bytes."""
    file.pwrite(b"bad!", 0)
    file._inode.flush_start(STAMP_MAX)
    eventually(lambda: backend.seen("write_from"))


def given_up(file: CachedFile, offset: int = 0, before: Callable[[], object] = bool) -> Gate:
    """Write, and abandon the file. Work of its volume holds its token, so its rollback waits for the gate."""
    gate = Gate()
    file._inode.settle(lambda: gate.enter(WAIT_LIMIT_S))
    gate.wait_entered()
    file.pwrite(b"bad!", offset)
    before()
    file.abandon()
    return gate


@pytest.mark.parametrize("mode", ["rb", "r+b", "wb"])
@pytest.mark.parametrize("name", ["file", "link"])
def test_an_open_by_any_name_waits_for_an_abandoned_file(tmp_path: Path, name: str, mode: OpenMode) -> None:
    """The object has one file, and nothing of the abandoned handle is in it. [2.20, I-31]"""
    (tmp_path / KEY).write_bytes(DATA)
    os.link(tmp_path / KEY, tmp_path / "link")
    with PageCache("1MiB", **QUIET) as cache:
        volume = cache.attach(DirectoryBackend(tmp_path), read_ahead=0)
        file = volume.open(KEY, "r+b")
        inode = file._inode
        gate = given_up(file)
        cache.check()
        assert volume.unsaved() == []
        opening = Task(volume.open, name, mode)
        assert opening.waits()
        gate.release()
        with opening.result() as again:
            assert again._inode is inode
            assert list(volume.inodes.objects.values()) == [inode]
            if mode != "wb":
                assert again.read() == DATA
        assert (tmp_path / KEY).read_bytes() == (b"" if mode == "wb" else DATA)
        cache.check()


def test_an_open_sleeps_while_a_change_of_an_abandoned_file_goes_on(make: Make) -> None:
    """It asks for no rollback before. [2.20]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA})).written(b"bad!", 0)
    gate, cutting = at_gate(rig.backend.gate("truncate"), file.truncate, 5)
    file.abandon()
    opening = Task(rig.open)
    wait_for(rig.cache, "a change that was abandoned")
    cutting.result(opening=gate)
    assert opening.result().pread(len(DATA), 0) == DATA


def test_calls_by_name_see_nothing_that_was_abandoned(either: Rig) -> None:
    """They see the stored object before the file has gone back; an open ends at its deadline. [2.20]"""
    file, volume = either.handles[0], either.volume
    gate = given_up(file, 5 * PAGE)
    assert [volume.stat(KEY).size, *(found.size for found in volume.list())] == [len(DATA)] * 2
    assert [volume.unsaved(), volume.unsaved(KEY), volume.dirty_ranges(KEY), volume.failed()] == [[]] * 4
    volume.sync(20)
    raises(TimeoutError, either.open, timeout=0.05)
    gate.release()
    assert either.content() == DATA


def test_an_object_that_was_never_stored_is_gone_once_it_is_abandoned(make: Make) -> None:
    """No call finds it, before or after its rollback. [2.20]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA})).opened("wb", key="new")
    gate = given_up(file)
    assert not rig.volume.exists("new")
    calls = Task(rig.open, "rb", key="new"), Task(rig.volume.remove, "new")
    assert all(call.waits() for call in calls)
    gate.release()
    for call in calls:
        raises(FileNotFoundError, call.result)
    with rig.volume.open("new", "xb") as again:
        again.pwrite(b"good", 0)
    assert rig.backend.committed("new") == b"good"


@pytest.mark.parametrize("reading", [False, True])
@pytest.mark.parametrize("down", [False, True])
def test_an_object_whose_rollback_fails_is_opened_anew(store: Rig, reading: bool, down: bool) -> None:
    """No later handle uses the file of the backend that may have its bytes; an earlier one reads none. [2.20]"""
    rig, file = store.opened()
    backend = rig.backend
    reader = rig.open("rb") if reading else None
    upload(file, backend)
    for op in ("rollback", *["open"] * down):
        backend.fault(op, OSError(errno.ECONNREFUSED, "down"))
    file.abandon()
    if down:
        raises(ConnectionRefusedError, rig.open)
    again = rig.open()
    assert again.pread(len(DATA), 0) == DATA
    again.pwrite(b"good", 0)
    again.fsync()
    assert backend.committed(KEY) == GOOD
    if reader is not None:
        raises(ConflictError, reader.read)
        reader.close()
    eventually(lambda: not rig.volume.orphans)


def test_a_foreign_version_below_abandoned_bytes_is_not_mixed_with_the_opened_one(make: Make) -> None:
    """The file goes back to the version that it was opened with; the next open finds the other one. [2.19, 2.20]"""
    rig, file, reader = make(backend=ObjectBackend({KEY: DATA})).both("rb")
    assert reader.pread(10, 0) == DATA[:10]
    upload(file, rig.backend)
    rig.backend.change_remotely(KEY, b"theirs")
    file.abandon()
    again = rig.open()
    raises(ConflictError, reader.pread, 10, 2 * PAGE)
    assert again.read() == b"theirs"
    again.pwrite(b"good", 0)
    assert rig.saved(again) == b"goodrs"


def test_an_abandon_ends_a_conflict(either: Rig) -> None:
    """No local byte is left that could be in one. [2.19, 2.20]"""
    rig, file = either, either.handles[0]
    file.pwrite(b"bad!", 0)
    rig.backend.change_remotely(KEY, b"theirs")
    raises(ConflictError, rig.open)
    file.abandon()
    with rig.volume.open(KEY, "r+b") as again:
        assert again.read() == b"theirs"
        again.pwrite(b"good", 0)
    assert rig.synced() == b"goodrs"


@pytest.mark.parametrize("end", ["abandon", "resolve"])
def test_a_rollback_waits_for_a_truncate_that_a_read_makes(store: Rig, end: str) -> None:
    """No other call of an object may run beside it: the truncate would be of what was stored before. [2.17, 2.20]"""
    _, file, reader = store.both("rb")
    upload(file, store.backend)
    store.fails("truncate", OSError(errno.ETIMEDOUT, "no"), OSError, file.truncate, PAGE)
    store.fails("truncate", OSError(errno.ETIMEDOUT, "no"), OSError, file.truncate, 2 * PAGE)
    gate, reading = at_gate(store.backend.gate("truncate"), reader.pread, PAGE, 0)
    if end == "resolve":
        store.backend.change_remotely(KEY, b"theirs")
        store.volume.invalidate_remote(KEY)
    ending = Task(file.abandon if end == "abandon" else partial(store.volume.resolve, KEY, "rebase"))
    wait_for(store.cache, "what the file owes the backend")
    assert not store.backend.seen("rollback")
    ending.result(opening=gate)
    reading.finished.wait(WAIT_LIMIT_S)
    with store.open("rb") as again:
        assert again.read() == (DATA if end == "abandon" else b"bad!rs")


@pytest.mark.parametrize("call", ["fsync", "open again"])
def test_a_call_beside_the_rollback_of_an_abandoned_object_waits_for_it(make: Make, call: str) -> None:
    """An fsync publishes nothing of it; what a handle writes that is opened again is not given up with it. [2.20]"""
    rig, file, reader = make(backend=ObjectBackend({KEY: DATA})).both("rb")
    upload(file, rig.backend)
    gate = given_up(file)
    waiting: Task[Any] = Task(reader.fsync) if call == "fsync" else Task(open_again, reader, os.O_RDWR)
    assert waiting.waits()
    gate.release()
    again = waiting.result()
    if call == "fsync":
        assert rig.backend.committed(KEY) == reader.read() == DATA
        return
    with again:
        again.pwrite(b"good", 0)
    assert rig.backend.committed(KEY) == GOOD


def test_an_abandoned_file_is_opened_anew_after_a_reconnect(either: Rig) -> None:
    """Nothing of it is sent to the new backend. [2.20, 2.22]"""
    rig, file = either, either.handles[0]
    given_up(file, before=rig.volume.abort).release()
    rig.volume.reconnect(rig.backend)
    again = rig.open()
    assert again.read() == DATA
    again.pwrite(b"good", 0)
    assert rig.saved(again) == GOOD


def test_a_detach_beside_an_abandoned_file_that_does_not_go_back_saves_the_other_files(make: Make) -> None:
    """Its deadline passes. The next call waits, and saves the creation of the object, which is empty. [2.20, 2.22]"""
    rig = make({})
    file, other = rig.open("wb", key="new"), rig.open("wb", key="other")
    other.pwrite(b"saved", 0)
    gate = given_up(file)
    raises(UnsavedDataError, rig.volume.detach, timeout=0.3, match="the deadline passed")
    assert rig.backend.committed("other") == b"saved"
    closing = Task(rig.cache.close)
    assert closing.waits()
    gate.release()
    assert closing.result() == []
    assert rig.backend.committed("new") == b""


def test_an_abandoned_file_that_is_freed_beside_a_detach_does_not_stop_it(
    store: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = store.open()
    inode = file._inode
    file.pwrite(b"bad!", 0)
    gate, _ = at_gate(store.backend.gate("write_from"), file.flush)
    file.abandon()
    outlast = inode.outlast

    def free(*arguments: Any) -> None:
        gate.open()
        eventually(lambda: not inode.abandoned)
        store.volume.invalidate()
        monkeypatch.setattr(lifetimes, "hollow_max", lambda capacity: 0)
        lifetimes.prune(store.volume)
        outlast(*arguments)

    monkeypatch.setattr(inode, "outlast", free)
    assert store.volume.detach() == []
    assert store.backend.committed(KEY) == DATA


MINE = b"mine" * 1000


def kept(store: Rig, key: str = KEY) -> None:
    """Leave an unsaved object: the commit of its close fails."""
    store.backend.fault("commit", OSError(errno.ENOSPC, "no space"))
    file = store.volume.open(key, "wb")
    file.pwrite(MINE, 0)
    raises(OSError, file.close, match="no space")
    assert store.backend.committed(KEY) == DATA


def check_kept(store: Rig, key: str = KEY) -> None:
    """The bytes are there, listed, and saved by the next sync."""
    assert [(found.key, found.size) for found in store.volume.unsaved()] == [(key, len(MINE))]
    assert store.content(key)[: len(DATA) + len(MINE)] == MINE
    assert store.synced(key) == MINE


@pytest.mark.parametrize("key", [KEY, "new"])
@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_RDWR | os.O_TRUNC])
def test_an_open_whose_truncate_is_refused_leaves_unsaved_bytes(store: Rig, flags: int, key: str) -> None:
    """A definite refusal changes nothing. [2.17, 2.20]"""
    kept(store, key)
    store.fails("truncate", OSError(errno.ENOSPC, "no space"), OSError, store.volume.open, key, flags=flags)
    check_kept(store, key)


def test_an_open_that_times_out_before_its_truncate_leaves_unsaved_bytes(store: Rig) -> None:
    """It waits for bytes in flight until its deadline, and has changed nothing. [2.20]"""
    kept(store)
    gate = store.backend.gate("write_from")
    ticket = store.volume.begin_sync()
    gate.wait_entered()
    raises(TimeoutError, store.volume.open, KEY, "wb", timeout=0.05)
    gate.open()
    ticket.wait(20)
    assert store.backend.committed(KEY) == MINE


GIVEN_UP: dict[str, Callable[[Rig], Any]] = {
    "open": lambda rig: rig.volume.open(KEY, "wb", timeout=0.5),
    "truncate": lambda rig: rig.volume.truncate(KEY, 2 * PAGE, timeout=0.5),
}


@pytest.mark.parametrize("calls", [("open",), ("truncate",), ("open", "open"), ("open", "truncate")], ids="+".join)
@pytest.mark.parametrize("whole", [True, False], ids=["an object", "a file"])
def test_a_close_beside_opens_that_are_given_up_publishes(
    make: Make, whole: bool, calls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for bytes in flight until their deadline, and publish nothing. [2.20]"""
    count, counted = lifetimes.Use.write, threading.Semaphore(0)

    def write(use: lifetimes.Use) -> None:
        count(use)
        counted.release()

    rig = make(backend=BACKENDS["an object" if whole else "a file"](), retry=ONCE)
    file = rig.volume.open(KEY, "r+b")
    file.pwrite(b"mine", 0)
    gate = rig.backend.gate("write_from")
    ticket = rig.volume.begin_sync()
    gate.wait_entered()
    file.pwrite(b"more", PAGE)
    inode = rig.volume.inodes[KEY]
    monkeypatch.setattr(lifetimes.Use, "write", write)
    given_up = [Task(GIVEN_UP[call], rig) for call in calls]
    assert all(counted.acquire(timeout=WAIT_LIMIT_S) for _ in calls)
    closing = Task(file.close)
    for call in given_up:
        raises(TimeoutError, call.result)
    closing.result(opening=gate)
    assert rig.backend.written(KEY) == overlay(overlay(DATA, 0, b"mine"), PAGE, b"more")
    ticket.wait(20)
    assert not whole or (rig.volume.unsaved() == [] and rig.backend.committed(KEY) == rig.backend.written(KEY))
    assert (inode.writers, inode.opening) == (0, 0)


@pytest.mark.parametrize("other", GIVEN_UP)
def test_an_abandon_beside_an_open_that_is_given_up_publishes_nothing(store: Rig, other: str) -> None:
    """Both have given up what they made: nobody publishes the abandoned bytes. [2.20]"""
    file = store.volume.open(KEY, "r+b")
    inode, gate = file._inode, Gate()
    inode.settle(lambda: gate.enter(WAIT_LIMIT_S))  # work of the volume has the token
    gate.wait_entered()
    with pytest.raises(KeyError), file:
        file.pwrite(b"half", 0)
        task = Task(GIVEN_UP[other], store)
        eventually(lambda: inode.writers == 2)
        raise KeyError
    raises(TimeoutError, task.result)
    gate.release()
    store.cache.close()
    assert store.backend.committed(KEY) == DATA  # has b"half" in front


def test_an_open_that_is_given_up_beside_another_one_empties_no_object(store: Rig) -> None:
    """Volume.truncate has not begun. [2.20]"""
    gate, opening = at_gate(store.backend.gate("truncate"), store.volume.open, KEY, "wb", timeout=0.5)
    cutting = Task(store.volume.truncate, KEY, 2 * PAGE, timeout=1.5)
    inode = store.volume.inodes[KEY]
    eventually(lambda: inode.writers == 2)
    raises(TimeoutError, opening.result)
    raises(TimeoutError, cutting.result)
    gate.open()
    store.cache.close()
    assert store.backend.committed(KEY) == DATA  # is b""


def test_two_opens_that_are_given_up_report_what_the_first_has_cut_off(store: Rig) -> None:
    """[2.16, 2.20]"""
    kept(store)  # MINE of a closed handle; its commit has failed
    gate, first = at_gate(store.backend.gate("truncate"), store.volume.open, KEY, "wb", timeout=0.5)
    second = Task(store.volume.open, KEY, "wb", timeout=1.5)
    inode = store.volume.inodes[KEY]
    eventually(lambda: inode.writers == 2)
    raises(TimeoutError, first.result)
    raises(TimeoutError, second.result)
    gate.open()
    with store.volume.open(KEY, "r+b") as file:
        assert file.pread(len(DATA), 0) == DATA  # MINE is gone
        assert [lost.length for lost in raises(DataLossError, file.fsync).ranges] == [len(MINE)]  # nothing is raised


def test_an_open_that_has_not_returned_withholds_nothing(store: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit, or the end of a mount, saves the bytes of closed handles. [2.22]"""
    kept(store)
    gate, opening = at_gate(held(monkeypatch, CachedFile, "_empty"), store.volume.open, KEY, "wb")
    withheld = closing.withhold(store.cache)
    opening.result(opening=gate).close()
    assert withheld == []


def test_an_open_beside_which_a_close_has_published_publishes_its_own_changes(store: Rig) -> None:
    """It returns after the close. [2.20]"""
    file = store.volume.open(KEY, "r+b")
    file.pwrite(b"mine", 0)
    gate = store.backend.gate("write_from")
    ticket = store.volume.begin_sync()
    gate.wait_entered()
    inode = store.volume.inodes[KEY]
    opening = Task(store.volume.open, KEY, "wb")
    eventually(lambda: inode.writers == 2)
    closing = Task(file.close)
    eventually(lambda: inode.writers == 1)
    other = opening.result(opening=gate)
    closing.result()
    other.pwrite(b"theirs", 0)
    other.close()
    ticket.wait(20)
    assert store.backend.committed(KEY) == b"theirs"


def test_a_close_publishes_no_object_that_an_open_has_emptied(store: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The open may be given up still. [2.20]"""
    file = store.dirtied(b"mine")
    gate, opening = at_gate(held(monkeypatch, CachedFile, "_empty", after=True), store.volume.open, KEY, "wb")
    file.pwrite(b"more", PAGE)
    file.close()
    assert store.backend.committed(KEY) == DATA
    other = opening.result(opening=gate)
    other.pwrite(b"theirs", 0)
    other.close()
    assert store.backend.committed(KEY) == b"theirs" + bytes(PAGE - 6) + b"more"


@pytest.mark.parametrize("how", ["timed out", "cancelled"])
def test_an_open_that_is_given_up_in_its_truncate_reports_the_bytes_that_it_has_cut_off(store: Rig, how: str) -> None:
    """The truncate is taken back. The bytes that it cut off are a loss, reported to the next opener. [2.16, 2.20]"""
    kept(store)
    gate = store.backend.gate("truncate")

    async def cancelled() -> None:
        opening = asyncio.ensure_future(aio.open(store.volume, KEY, "wb"))
        await asyncio.to_thread(gate.wait_entered)
        opening.cancel()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await opening

    if how == "cancelled":
        asyncio.run(cancelled())
        eventually(store.volume.inodes[KEY].has_unreported_loss)
    else:
        raises(TimeoutError, store.volume.open, KEY, "wb", timeout=0.2)
        gate.open()
    with store.volume.open(KEY, "r+b") as file:
        assert [(lost.offset, lost.length) for lost in raises(DataLossError, file.fsync).ranges] == [(0, len(MINE))]
        assert file.pread(len(DATA), 0) == DATA


def test_a_close_beside_an_open_that_is_given_up_reports_what_that_has_cut_off(make: Make, clock: HandClock) -> None:
    """The close waits for the truncate. [2.16, 2.20]"""
    rig = make(backend=ObjectBackend({KEY: DATA}), retry=ONCE)
    file = rig.volume.open(KEY, "r+b")
    file.pwrite(MINE, 0)
    gate, opening = at_gate(rig.backend.gate("truncate"), rig.volume.open, KEY, "wb", timeout=7.0)
    closing, inode = Task(file.close), file._inode
    eventually(lambda: inode.writers == 1)
    clock.advance(8.0)
    raises(TimeoutError, opening.result)
    assert [lost.length for lost in raises(DataLossError, closing.result, opening=gate).ranges] == [len(MINE)]
    eventually(lambda: not inode.abandoned)
    assert rig.content() == rig.backend.committed(KEY) == DATA


Leave = Callable[[CachedFile], Any]


def raising(file: CachedFile) -> None:
    with pytest.raises(KeyError), file:
        raise KeyError


@pytest.mark.parametrize("leave", [CachedFile.abandon, raising])
@pytest.mark.parametrize(
    ("mine", "half"),
    [(MINE, b""), (MINE, b"half"), (b"", b"half")],
    ids=["the closed one has written", "both have written", "the abandoned one has written"],
)
def test_bytes_of_a_closed_handle_stay_beside_an_abandon(store: Rig, leave: Leave, mine: bytes, half: bytes) -> None:
    """They are unsaved, listed, and saved by a sync; bytes of both are not kept apart. [2.20, 2.22, T-77]"""
    closed, other = store.volume.open(KEY, "r+b"), store.volume.open(KEY, "r+b")
    closed.pwrite(mine, 0)
    other.pwrite(half, 0)
    closed.close()
    leave(other)
    stay = overlay(overlay(DATA, 0, mine), 0, half) if mine else DATA
    assert store.backend.committed(KEY) == DATA
    assert store.content() == stay
    assert [found.key for found in store.volume.unsaved()] == ([KEY] if mine else [])
    assert store.volume.inodes[KEY].unclosed or not (mine and half)
    assert store.synced() == stay


def test_bytes_that_were_written_at_once_stay_beside_an_abandoned_handle(store: Rig) -> None:
    """A write that waits for nothing is a change like any other. [2.20]"""
    other = store.volume.open(KEY, "r+b")
    assert other.pread(len(DATA), 0) == DATA
    with store.volume.open(KEY, "r+b") as file:
        assert file.try_pwrite(MINE, 0) == len(MINE)
    raising(other)
    assert store.content() == overlay(DATA, 0, MINE)
    assert store.synced() == overlay(DATA, 0, MINE)


def test_a_truncate_of_a_name_that_has_timed_out_stays_beside_an_abandoned_handle(store: Rig) -> None:
    """Its call had begun: it is done, and owed. [2.17, 2.20]"""
    gate = store.backend.gate("truncate")
    raises(TimeoutError, store.volume.truncate, KEY, 3, timeout=0.2)
    gate.open()
    eventually(lambda: store.volume.stat(KEY).size == 3)
    raising(store.volume.open(KEY, "r+b"))
    assert store.content() == DATA[:3]
    assert store.synced() == DATA[:3]


@pytest.mark.parametrize("leave", [CachedFile.abandon, raising])
@pytest.mark.parametrize("saved", [True, False])
def test_an_abandoned_handle_gives_up_what_it_has_made(store: Rig, leave: Leave, saved: bool) -> None:
    """None of its bytes stay with late committed ones of a closed handle; its open may have emptied these. [2.20]"""
    kept(store)
    if saved:
        store.volume.sync(20)
    file = store.volume.open(KEY, "r+b" if saved else "wb")
    file.pwrite(b"half", 0)
    leave(file)
    assert store.content() == (MINE if saved else DATA)
    assert store.volume.unsaved() == []
    store.volume.sync(20)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize(("changed", "end"), [(True, "close"), (False, "close"), (True, "abandon")])
def test_a_handle_collected_unclosed_keeps_its_bytes(store: Rig, changed: bool, end: str, released: bool) -> None:
    """A close beside it publishes, for no later one would; an abandon leaves its bytes. [2.20, 2.21, 2.22]"""
    with Gate() as gate:
        store.cache.flusher.defer(gate.enter)
        gate.wait_entered()
        dropped, file = store.volume.open(KEY, "r+b"), store.volume.open(KEY, "r+b")
        if changed:
            dropped.pwrite(MINE, PAGE)
        del dropped
        gc.collect()
        if released:
            gate.release()
            eventually(lambda: store.volume.inodes[KEY].handles == 1)
        if end == "close":
            file.pwrite(MINE, 0)
        getattr(file, end)()
        if end == "close":
            assert store.backend.committed(KEY) == overlay(overlay(DATA, 0, MINE), PAGE, MINE if changed else b"")
    eventually(lambda: not store.volume.handles)
    assert [found.key for found in store.volume.unsaved()] == ([KEY] if end == "abandon" else [])
    if end == "abandon":
        assert store.synced() == overlay(DATA, PAGE, MINE)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_writer_that_is_collected_beside_an_fsync_publishes_nothing_at_the_exit(store: Rig) -> None:
    """The fsync is about its earlier bytes. One after it publishes the others. [2.22, T-77]"""
    reader, inode = store.open("rb"), store.volume.inodes[KEY]
    writers = [store.volume.open(KEY, "r+b")]
    writers[0].pwrite(b"one", 0)
    gate, saving = at_gate(store.backend.gate("commit"), reader.fsync)
    writers[0].pwrite(b"two", 2 * PAGE)
    writers.clear()
    gc.collect()
    eventually(lambda: not inode.collected and not inode.writers)
    saving.result(opening=gate)
    assert b"two" not in (store.backend.committed(KEY) or b"")
    assert lifetimes.withhold(store.volume) == [inode]
    reader.fsync()
    assert b"two" in (store.backend.committed(KEY) or b"")
    assert not inode.unclosed


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_bytes_of_a_close_beside_an_fsync_that_fails_are_not_withheld(store: Rig, monkeypatch: Patch) -> None:
    """Those of a collected writer are among them: the close was to publish both. [2.22]"""
    reader, inode = store.open("rb"), store.volume.inodes[KEY]
    writers = [store.volume.open(KEY, "r+b")]
    writers[0].pwrite(b"one", 0)
    writers.clear()
    gc.collect()
    eventually(lambda: not inode.collected and not inode.writers)
    assert inode.unclosed
    writer = store.volume.open(KEY, "r+b")
    writer.pwrite(b"two", 2 * PAGE)
    closes = [writer.close]

    def refused(*_: object) -> None:
        if closes:
            raises(OSError, closes.pop())
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(barrier, "fsync", refused)
        raises(OSError, reader.fsync)
    assert lifetimes.withhold(store.volume) == []


def test_dirty_bytes_of_a_closed_handle_stay_on_a_store_in_place(make: Make) -> None:
    """Its close left them to the other writer. Once they are acknowledged, an abandon gives its own bytes up. [2.20]"""
    rig = make({KEY: DATA})
    closed, other = rig.volume.open(KEY, "r+b"), rig.volume.open(KEY, "r+b")
    closed.pwrite(MINE, 0)
    closed.close()
    other.abandon()
    with rig.volume.open(KEY, "r+b") as file:
        assert file.pread(len(MINE), 0) == MINE
        file.flush()
    assert rig.backend.written(KEY) == overlay(DATA, 0, MINE)
    late = rig.volume.open(KEY, "r+b")
    late.pwrite(b"half", 0)
    late.abandon()
    eventually(lambda: not rig.volume.orphans)
    assert rig.content() == overlay(DATA, 0, MINE)
    assert rig.synced() == overlay(DATA, 0, MINE)


def test_an_abandon_beside_the_commit_of_a_close_gives_up_none_of_its_bytes(store: Rig) -> None:
    """The close is not over, and its commit fails. [2.16, 2.20]"""
    file = store.volume.open(KEY, "r+b")
    file.truncate(0)
    file.pwrite(MINE, 0)
    store.backend.fault("commit", OSError(errno.ENOSPC, "no space"))
    gate, closing = at_gate(store.backend.gate("commit"), file.close)
    store.volume.open(KEY, "r+b", keep_cache=True).abandon()
    gate.open()
    raises(OSError, closing.result, match="no space")
    check_kept(store)


NEW = pattern(2 * PAGE, seed=2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ends", ["close close", "close abandon", "abandon abandon"])
def test_of_two_that_end_a_file_at_once_one_does_the_work_of_the_last(make: Make, ends: str, backend: str) -> None:
    """The last close hands over or publishes; bytes that both abandon are given up. [2.20, I-22]"""
    rig, *files = make(backend=BACKENDS[backend]()).both()
    for number, file in enumerate(files):
        file.pwrite(NEW[number * PAGE : (number + 1) * PAGE], number * PAGE)
    lock: Any = rig.volume.inodes_lock
    crowd: Any = Crowd(lock)
    rig.volume.inodes_lock = crowd
    with lock:  # both reach it before one goes on
        tasks = [Task(getattr(file, end)) for file, end in zip(files, ends.split(), strict=True)]
        assert all(crowd.came.acquire(timeout=WAIT_LIMIT_S) for _ in tasks)
    for task in tasks:
        task.result()
    rig.volume.inodes_lock = lock
    content = NEW + DATA[2 * PAGE :]
    if ends == "close close":
        assert rig.backend.written(KEY) == content
    elif backend == "an object":
        if ends == "abandon abandon":
            eventually(lambda: rig.volume.dirty_ranges(KEY) == [])
            content = DATA
        elif rig.backend.committed(KEY) == DATA:
            assert [found.key for found in rig.volume.unsaved()] == [KEY]
        assert rig.open("rb").read() == content
        assert rig.synced() == content


def test_a_writer_beside_the_last_close_becomes_the_last_one_again(make: Make) -> None:
    """Its own close writes back its bytes, whatever the other close does. [2.20]"""
    rig, first = make({KEY: DATA}).opened("r+b")
    first.pwrite(NEW[:PAGE], 0)
    gate, closing = at_gate(rig.backend.gate("write_from"), first.close)
    second = rig.dirtied(NEW[PAGE:], PAGE, keep_cache=True)
    again = Task(second.close)
    closing.result(opening=gate)
    again.result()
    assert rig.backend.written(KEY) == NEW + DATA[2 * PAGE :]


LATE: dict[str, tuple[Callable[[], RecordingBackend], Callable[[CachedFile], Any]]] = {
    "truncate of an object": (lambda: ObjectBackend({KEY: DATA}), lambda file: file.truncate(5)),
    "truncate": (lambda: RecordingBackend({KEY: DATA}), lambda file: file.truncate(5)),
    "punch_hole": (lambda: RecordingBackend({KEY: DATA}, punch=True), lambda file: file.punch_hole(0, PAGE)),
    "a direct pwrite": (lambda: RecordingBackend({KEY: DATA}), lambda file: file.pwrite(b"late", 0)),
    "a direct append": (lambda: RecordingBackend({KEY: DATA}), lambda file: file.append(b"late")),
}


@pytest.mark.parametrize("change", LATE)
def test_a_change_between_its_look_and_its_turn_does_not_land(
    make: Make, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change raises ValueError and the file keeps its content: abandoned means abandoned. [2.20, 2.22]"""
    backend, call = LATE[change]
    rig, file = make(backend=backend()).opened("r+b", direct="direct" in change)

    def between(ask: Callable[..., None], *arguments: Any) -> None:
        file.abandon()
        ask(*arguments)

    for method in ("run", "run_owning"):  # by which a change asks for the file's locks
        monkeypatch.setattr(file._inode, method, partial(between, getattr(file._inode, method)))
    raises(ValueError, call, file, match="closed")
    eventually(lambda: not rig.volume.orphans)
    assert rig.content()[: len(DATA) + 9] == DATA
    assert rig.synced() == DATA
