"""Uncommitted changes without a folio: creation, truncate, holes and discards count wherever stamps count. On a
commit_on_close volume nothing is published without a request of its writer.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pagecache import (
    CachedFile,
    CommitError,
    DataLossError,
    LostRange,
    PageCache,
    UnsavedDataError,
    WritebackError,
    closing,
    loglines,
)
from pagecache.engine.commit import overdue
from pagecache.volume import lifetimes

from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend, failing_commit
from .rig import KEY, ONCE, PAGE, SAVES, Log, Make, Rig, Task, at_gate, beside, eventually, pattern, raises, run_program

OLD = pattern(4 * PAGE)
NO = OSError(errno.EACCES, "no")


def discard_acknowledged(rig: Rig, file: CachedFile) -> None:
    file.pwrite(b"given up", PAGE)
    file.flush()
    assert rig.volume.discard(KEY) == [LostRange(KEY, PAGE, len(b"given up"), 0, "volume")]
    raises(DataLossError, file.flush)


CHANGES: dict[str, Callable[[Rig, CachedFile], Any]] = {
    "create": lambda rig, file: None,
    "truncate down": lambda rig, file: file.truncate(10),
    "truncate up": lambda rig, file: file.truncate(6 * PAGE),
    "truncate to the same size": lambda rig, file: file.truncate(file.size),
    "punch": lambda rig, file: punch(rig, file),
    "discard of acknowledged bytes": discard_acknowledged,
}


def punch(rig: Rig, file: CachedFile) -> None:
    """Punch a hole whose own commit fails: it stays, and waits for the next one."""
    rig.fails("commit", failing_commit(NO, forget=False), CommitError, file.punch_hole, 0, 2 * PAGE)
    assert file.pread(2 * PAGE, 0) == bytes(2 * PAGE)


def changed(make: Make, what: str, **options: Any) -> tuple[Rig, CachedFile]:
    objects = {} if what == "create" else {KEY: OLD}
    rig = make(objects, limits={"punch": True, **options.pop("limits", {})}, retry=ONCE, **options)
    file = rig.open("w+b" if what == "create" else "r+b")
    CHANGES[what](rig, file)
    rig.backend.forget_calls()
    return rig, file


@pytest.mark.parametrize("saving", ["fsync", "sync", "ticket", "cache.sync", "detach", "cache.close"])
@pytest.mark.parametrize("what", CHANGES)
def test_whatever_saves_commits_it(make: Make, what: str, saving: str) -> None:
    """One commit; afterwards there is nothing left to commit. [T-74, 2.17]"""
    rig, file = changed(make, what)
    expected = file.pread(9 * PAGE, 0)
    SAVES[saving](rig, file)
    assert len(rig.backend.seen("commit")) == 1
    assert rig.backend.committed(KEY) == expected
    if saving not in ("detach", "cache.close"):
        SAVES[saving](rig, file)
        assert len(rig.backend.seen("commit")) == 1


@pytest.mark.parametrize("what", CHANGES)
def test_close_commits_it_where_close_commits_bytes(make: Make, what: str) -> None:
    """It does with `sync_on_close`, and only then. [T-74, 2.17, 2.20]"""
    for sync_on_close in (True, False):
        rig, file = changed(make, what, options={"sync_on_close": sync_on_close})
        file.close()
        assert len(rig.backend.seen("commit")) == sync_on_close


@pytest.mark.parametrize("aborted", [False, True])
@pytest.mark.parametrize("what", CHANGES)
def test_a_failed_commit_gives_it_back(make: Make, what: str, aborted: bool) -> None:
    """fsync fails as long as it is not committed; one that an abort overtook has a late answer. [2.17, 2.22, K3]"""
    rig, file = changed(make, what)
    if aborted:
        gate, saving = at_gate(rig.backend.gate("commit"), file.fsync)
        rig.backend = rig.reconnect(lose=False)
        gate.open()
        raises(OSError, saving.result)
        with contextlib.suppress(OSError):  # the loss that a reconnect makes of a hole
            file.fsync()
    else:
        rig.backend.fault("commit", failing_commit(NO), times=2)
        for _ in range(2):
            raises(CommitError, file.fsync)
    assert rig.saved(file) == file.pread(9 * PAGE, 0)
    assert rig.backend.seen("commit")


@pytest.mark.parametrize("aborted", [False, True])
@pytest.mark.parametrize("what", [*CHANGES, "direct write"])
def test_an_end_that_gives_it_up_lists_it(make: Make, what: str, aborted: bool, caplog: Log) -> None:
    """With no bytes, but those of a direct write; the log does not say that all is saved. [2.16]"""
    if what == "direct write":
        rig, file = make({KEY: OLD}, retry=ONCE).written(b"x" * PAGE, PAGE, direct=True)
    else:
        rig, file = changed(make, what)
    size = file.size
    rig.backend.fault("commit", NO, times=math.inf)
    if aborted:
        rig.volume.abort()
    with caplog.at_level(logging.INFO, "pagecache"):
        lost = rig.volume.detach(on_failed="discard")
        loglines.outlast(WAIT_LIMIT_S)
    assert [entry.key for entry in lost] == [KEY]
    if what != "direct write":  # a commit that has failed has lost its bytes before
        assert (lost[0].offset, lost[0].length) == (size, 0)
    assert "everything is saved" not in caplog.text


@pytest.mark.parametrize("what", [what for what in CHANGES if what != "discard of acknowledged bytes"])
def test_with_durable_writes_none_of_this_exists(make: Make, what: str) -> None:
    """No commit is ever needed. [2.17, K2]"""
    objects = {} if what == "create" else {KEY: OLD}
    rig = make(objects, limits={"punch": True, "durable_writes": True})
    file = rig.open("w+b" if what == "create" else "r+b")
    if what == "punch":
        file.punch_hole(0, PAGE)
    else:
        CHANGES[what](rig, file)
    file.fsync()
    rig.volume.sync(20)
    assert rig.backend.seen("commit") == []


@pytest.mark.parametrize("what", CHANGES)
def test_an_older_fsync_is_not_delayed_by_it(make: Make, what: str) -> None:
    """Its stamp is that of its publication, or of the bytes that it removed. [1.3, 2.17]"""
    objects = {KEY: OLD, "first": b""}
    rig, first = make(objects, limits={"punch": True}, retry=ONCE).opened("r+b", key="first")
    first.pwrite(b"x", 0)
    ticket = rig.volume.begin_sync()
    # The other order, files listed after the change, is not covered: then the ticket waits for the running commit.
    eventually(lambda: ticket._taken_up)
    gate = rig.backend.gate("commit", KEY, times=9)
    if what == "punch":
        at_gate(gate, rig.open("r+b").punch_hole, 0, PAGE)
    else:
        CHANGES[what](rig, rig.open("w+b" if what == "create" else "r+b"))
    ticket.wait(20)
    gate.open()


def test_a_truncate_of_written_bytes_carries_their_stamp(make: Make) -> None:
    """A ticket that covers bytes is not done when they were cut off: it waits for the cut. [1.3, 2.17]"""
    rig, file = make({KEY: OLD}).written(b"x" * PAGE, 2 * PAGE)
    ticket = rig.volume.begin_sync()
    file.truncate(10)
    gate, waiting = at_gate(rig.backend.gate("commit"), ticket.wait, 20)
    assert waiting.waits()
    waiting.result(opening=gate)
    assert rig.backend.committed(KEY) == OLD[:10]


@pytest.mark.parametrize("limits", [{"durable_writes": True}, {"commit_on_close": True}])
def test_punch_hole_does_not_commit_where_that_is_not_its_affair(make: Make, limits: dict[str, Any]) -> None:
    """The hole is already durable, or close alone publishes it. [2.17]"""
    rig, file = make({KEY: OLD}, limits={"punch": True, **limits}).opened("r+b")
    file.punch_hole(PAGE, PAGE)
    assert rig.backend.seen("commit") == []
    file.close()
    assert len(rig.backend.seen("commit")) == ("commit_on_close" in limits)


def test_a_hole_in_a_local_tail_keeps_the_size_on_flush_and_reopening(make: Make) -> None:
    """Part of it is stored, part of it is not yet: the rest becomes zeros that carry the size. [T-75, 2.17]"""
    rig, file = make({KEY: OLD[: PAGE + 7]}, limits={"punch": True}).written(b"t" * 3 * PAGE, 2 * PAGE)
    file.punch_hole(100, 5 * PAGE)
    assert file.size == 5 * PAGE
    file.flush()
    file.close()
    rig.volume.sync(20)
    rig.volume.invalidate(KEY)
    with rig.open("rb") as again:
        assert again.size == 5 * PAGE
        assert again.pread(9 * PAGE, 0) == OLD[:100] + bytes(5 * PAGE - 100)


def test_a_backend_without_holes_gets_zeros(make: Make) -> None:
    """punch_hole exists and reports that it is unsupported. [2.17]"""
    rig = make({KEY: OLD}, limits={"punch": True})
    rig.backend.fault("punch_hole", OSError(errno.EOPNOTSUPP, "not on this file system"))
    file = rig.open("r+b")
    file.punch_hole(100, PAGE)
    assert rig.saved(file) == OLD[:100] + bytes(PAGE) + OLD[100 + PAGE :]


def test_discard_beside_an_append_cuts_nothing_of_it(make: Make) -> None:
    """The backend is cut to the size at the discard, not to one seen earlier. [2.18]"""
    rig, file = make({KEY: OLD}).written(b"x" * 10, 4 * PAGE)
    gate, discarding = at_gate(rig.backend.gate("truncate"), rig.volume.discard, KEY)
    file.append(b"appended")
    gate.open()
    assert [(entry.offset, entry.length) for entry in discarding.result()] == [(4 * PAGE, 10)]
    raises(OSError, file.fsync, match="given up")
    assert rig.backend.committed(KEY) == OLD + b"appended"


def test_a_try_of_the_flusher_beside_a_whole_commit_is_none(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep later commits back: the flusher publishes no change that no caller wants published. [2.14]"""
    rig = make(backend=ObjectBackend({KEY: pattern(4 * PAGE)}), retry=ONCE)
    file = rig.dirtied(b"one", 0)
    rig.fails("commit", OSError(errno.EIO, "not carried out"), CommitError, file.fsync)
    begun: list[Task[None]] = []  # it cannot end before the flusher has counted its try
    beside(monkeypatch, overdue, "is_blocked", lambda: begun.append(Task(file.fsync)), after=True)
    rig.volume.retry_failed()
    begun[0].result()
    file.pwrite(b"two", PAGE)
    file.fsync(timeout=10)
    assert rig.backend.committed(KEY) == b"one" + OLD[3:PAGE] + b"two" + OLD[PAGE + 3 :]


BEFORE = pattern(PAGE)
NEW = pattern(3 * PAGE, seed=1)


@pytest.fixture
def objects(make: Make) -> Rig:
    return make({KEY: BEFORE}, limits={"commit_on_close": True})


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_handle_that_is_collected_publishes_nothing(objects: Rig) -> None:
    """Nor do an exception, resize, the flusher and invalidate. An explicit sync does. [T-77, 2.18, 2.21]"""
    handles = [objects.volume.open(KEY, "r+b")]
    handles[0].pwrite(NEW, 0)
    held = handles[0]._inode
    handles.clear()
    gc.collect()
    eventually(lambda: held.handles == 0)
    objects.cache.resize("4MiB")
    objects.cache.configure(dirty_expire=0.001, flush_interval=0.01, dirty_background=PAGE)
    objects.cache.flusher.wake()
    raises(BlockingIOError, objects.volume.invalidate, KEY)  # it would have to be committed first
    for inode in lifetimes.withhold(objects.volume):
        assert inode is held
    caught = raises(UnsavedDataError, objects.cache.close, timeout=20)
    held.set_aside(withheld=False)
    assert [(r.key, r.offset, r.length) for r in caught.ranges] == [(KEY, 0, len(NEW))]
    assert objects.backend.seen("commit") == []
    assert objects.backend.committed(KEY) == BEFORE
    assert objects.synced() == NEW


def test_a_range_of_an_object_that_an_exit_withholds_is_sent_for_its_writer(objects: Rig) -> None:
    """[2.22]"""
    file = objects.volume.open(KEY, "r+b")
    file.pwrite(NEW, 0)
    assert lifetimes.withhold(objects.volume) == [file._inode]
    raises(BlockingIOError, objects.volume.invalidate, KEY)
    file.sync_range(0, len(NEW))
    assert objects.backend.seen("write_from")
    assert objects.backend.committed(KEY) == BEFORE
    file.close()


BEFORE_THE_END = ["no writer", "a writer that calls fsync", "a volume that is attached"]


def leave(cache: PageCache) -> None:
    """End a `with` block by an exception."""
    with contextlib.suppress(ZeroDivisionError), cache:
        raise ZeroDivisionError


@pytest.mark.parametrize("before", BEFORE_THE_END)
@pytest.mark.parametrize("end", [PageCache._at_exit, leave])
def test_a_writer_that_begins_beside_an_end_publishes_nothing(
    make: Make, end: Callable[[PageCache], None], before: str
) -> None:
    """The end waits for another volume. An exception withholds nothing after it. [T-77, 2.22]"""
    rig = make({KEY: b"old"}, backend=ObjectBackend({KEY: b"old"}), exit_timeout=60.0)
    file = rig.dirtied(b"saved") if before == "a writer that calls fsync" else None
    other = RecordingBackend({"slow": b""})  # it ends first
    slow = rig.cache.attach(other, name="slow").open("slow", "r+b")
    slow.pwrite(b"x", 0)
    gate, leaving = at_gate(other.gate("write_from"), end, rig.cache)
    eventually(lambda: slow.volume.turn)
    backend, volume = rig.backend, rig.volume
    if file is not None:
        file.fsync()  # ends the withholding
    if before == "a volume that is attached":
        backend = ObjectBackend({KEY: b"old"})
        volume = rig.cache.attach(backend, name="late")
    file = file or volume.open(KEY, "r+b")
    stored = backend.committed(KEY)
    file.pwrite(b"half", 100)
    leaving.result(opening=gate)
    assert backend.committed(KEY) == stored
    assert file._inode.withheld == (end is not leave)
    if end is leave:
        volume.sync(20)
        assert backend.committed(KEY) != stored
    file.close()
    slow.close()


def test_a_sync_beside_an_end_raises_for_an_object_that_is_left_to_its_writer(make: Make) -> None:
    """The syncs of the end itself leave it out. [2.22]"""
    rig, file = make({KEY: b"old"}, limits={"commit_on_close": True}).written(b"new")
    closing.withhold(rig.cache)
    for sync in (rig.volume.begin_sync().wait, rig.volume.sync, rig.cache.sync):
        assert [(r.key, r.offset, r.length) for r in raises(WritebackError, sync, 20).ranges] == [(KEY, 0, 3)]
    assert not raises(UnsavedDataError, rig.cache.close, timeout=20).exceptions
    assert rig.backend.committed(KEY) == b"old"
    file.fsync()
    assert rig.synced() == b"new"


def test_a_sync_that_began_before_an_end_publishes(make: Make) -> None:
    """[2.22]"""
    rig, _ = make({KEY: b"old"}, limits={"commit_on_close": True}).written(b"new")
    with rig.backend.gate("write_from") as gate:
        ticket = rig.volume.begin_sync()
        gate.wait_entered()
        closing.withhold(rig.cache)
    ticket.wait(20)
    assert rig.backend.committed(KEY) == b"new"


def test_resize_leaves_objects_uncommitted(make: Make) -> None:
    """This holds even if uncommitted data does not fit: BlockingIOError. [T-77, 2.22]"""
    options = {"spool": None}
    rig, file = make({KEY: b""}, capacity=256 * PAGE, limits={"commit_on_close": True}, options=options).opened("r+b")
    file.pwrite(bytes(100 * PAGE), 0)
    raises(BlockingIOError, lambda: Task(rig.cache.resize, 32 * PAGE).result())
    assert rig.backend.seen("commit") == []
    file.close()
    assert rig.backend.committed(KEY) == bytes(100 * PAGE)
    rig.cache.resize(32 * PAGE)


@pytest.mark.parametrize("asking", ["fsync", "close", "sync", "ticket", "cache.sync", "detach", "cache.close", "with"])
def test_each_request_of_the_writer_publishes(objects: Rig, asking: str) -> None:
    """fsync, close, sync and tickets, close of the volume or the cache. [T-77, 2.22]"""
    file = objects.dirtied(NEW, 0)
    if asking == "with":
        objects.cache.__exit__(None, None, None)
    else:
        SAVES[asking](objects, file)
    assert objects.backend.committed(KEY) == NEW


STORE = """
    import gc, os, sys, time
    from pagecache import PageCache
    from pagecache.backends import MemoryBackend
    from pagecache.testing import FaultyBackend, Rule
    published = Rule("commit", change=lambda _store, key: os.write(1, f"published {key}\\n".encode()))
    cache = PageCache("1MiB", exit_timeout=5, flush_interval=3600, dirty_expire=3600)
    volume = cache.attach(FaultyBackend(MemoryBackend(commit_on_close=True), [published]), name="store")
    closed = volume.open("closed", "wb")
    closed.pwrite(b"x" * 5000, 0)
    closed.close()
    file = volume.open("halfway", "wb")
    file.pwrite(b"x" * 5000, 0)
    """


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("", 0),
        ("sys.exit(4)", 4),
        ("1 / 0", 1),
        ("del file; gc.collect()\nwhile volume.inodes['halfway'].handles: time.sleep(0.001)", 0),
        ("with cache:\n    1 / 0", 1),
    ],
)
def test_exit_publishes_nothing(tmp_path: Path, ending: str, status: int) -> None:
    """The object is listed on stderr; the exit status is the program's. [T-77, T-52, 2.22]"""
    done = run_program(tmp_path, textwrap.dedent(STORE) + ending + "\n")
    assert done.returncode == status
    assert done.stdout == "published closed\n"
    assert "not saved: store: 'halfway' [0, 5000)" in done.stderr
