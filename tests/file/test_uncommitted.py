"""Uncommitted changes without a folio: creation, truncate, holes and discards count wherever stamps count."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import CachedFile, CommitError, DataLossError, LostRange
from pagecache.engine.commit import overdue
from pagecache.engine.file import EngineFile

from ..stores import ObjectBackend, failing_commit
from .rig import FAST, KEY, ONCE, PAGE, Make, Patch, Rig, Task, at_gate, eventually, overlay, pattern, raises

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
    rig.backend.fault("commit", failing_commit(NO, forget=False))
    raises(CommitError, file.punch_hole, 0, 2 * PAGE)
    assert file.pread(2 * PAGE, 0) == bytes(2 * PAGE)


def changed(make: Make, what: str, **options: Any) -> tuple[Rig, CachedFile]:
    objects = {} if what == "create" else {KEY: OLD}
    rig = make(objects, limits={"punch": True, **options.pop("limits", {})}, retry=ONCE, **options)
    file = rig.open("w+b" if what == "create" else "r+b")
    CHANGES[what](rig, file)
    rig.backend.forget_calls()
    return rig, file


SAVING: dict[str, Callable[[Rig, CachedFile], Any]] = {
    "fsync": lambda rig, file: file.fsync(),
    "sync": lambda rig, file: rig.volume.sync(20),
    "ticket": lambda rig, file: rig.volume.begin_sync().wait(20),
    "cache.sync": lambda rig, file: rig.cache.sync(20),
    "detach": lambda rig, file: rig.volume.detach(timeout=20),
    "cache.close": lambda rig, file: rig.cache.close(timeout=20),
}


@pytest.mark.parametrize("saving", SAVING)
@pytest.mark.parametrize("what", CHANGES)
def test_whatever_saves_commits_it(make: Make, what: str, saving: str) -> None:
    """One commit; afterwards there is nothing left to commit. [T-74, 2.17]"""
    rig, file = changed(make, what)
    expected = file.pread(9 * PAGE, 0)
    SAVING[saving](rig, file)
    assert len(rig.backend.seen("commit")) == 1
    assert rig.backend.committed(KEY) == expected
    if saving not in ("detach", "cache.close"):
        SAVING[saving](rig, file)
        assert len(rig.backend.seen("commit")) == 1


@pytest.mark.parametrize("what", CHANGES)
def test_close_commits_it_where_close_commits_bytes(make: Make, what: str) -> None:
    """It does with `sync_on_close`, and only then. [T-74, 2.17, 2.20]"""
    for sync_on_close in (True, False):
        rig, file = changed(make, what, options={"sync_on_close": sync_on_close})
        file.close()
        assert len(rig.backend.seen("commit")) == sync_on_close


@pytest.mark.parametrize("what", CHANGES)
def test_a_failed_commit_gives_it_back(make: Make, what: str) -> None:
    """fsync fails as long as it is not committed. [2.17, K3]"""
    rig, file = changed(make, what)
    rig.backend.fault("commit", failing_commit(NO), times=2)
    for _ in range(2):
        raises(CommitError, file.fsync)
    file.fsync()
    assert rig.backend.committed(KEY) == file.pread(9 * PAGE, 0)


@pytest.mark.parametrize("what", CHANGES)
def test_a_commit_that_an_abort_overtook_gives_it_back(make: Make, what: str) -> None:
    """Its answer comes late and is ignored. [2.17, 2.22]"""
    rig, file = changed(make, what)
    gate, saving = at_gate(rig.backend.gate("commit"), file.fsync)
    fresh = rig.reconnect(lose=False)
    gate.open()
    raises(OSError, saving.result)
    again(file)
    assert len(fresh.seen("commit")) >= 1
    assert fresh.committed(KEY) == file.pread(9 * PAGE, 0)


def again(file: CachedFile) -> None:
    """Call fsync again, past the loss that a reconnect makes of a hole."""
    try:
        file.fsync()
    except OSError:
        file.fsync()


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
    rig, file = make({KEY: OLD}).opened("r+b")
    file.pwrite(b"x" * PAGE, 2 * PAGE)
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
    rig, file = make({KEY: OLD[: PAGE + 7]}, limits={"punch": True}).opened("r+b")
    file.pwrite(b"t" * 3 * PAGE, 2 * PAGE)
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
    file.fsync()
    assert rig.backend.committed(KEY) == OLD[:100] + bytes(PAGE) + OLD[100 + PAGE :]


def test_discard_beside_an_append_cuts_nothing_of_it(make: Make) -> None:
    """The backend is cut to the size at the discard, not to one seen earlier. [2.18]"""
    rig, file = make({KEY: OLD}, retry=FAST).opened("r+b")
    file.pwrite(b"x" * 10, 4 * PAGE)
    gate, discarding = at_gate(rig.backend.gate("truncate"), rig.volume.discard, KEY)
    file.append(b"appended")
    gate.open()
    assert [(entry.offset, entry.length) for entry in discarding.result()] == [(4 * PAGE, 10)]
    raises(OSError, file.fsync, match="given up")
    assert rig.backend.committed(KEY) == OLD + b"appended"


def test_a_try_of_the_flusher_beside_a_commit_that_saves_everything_is_none(make: Make, monkeypatch: Patch) -> None:
    """It would keep later commits back: the flusher publishes no change that no caller wants published. [2.14]"""
    rig = make(backend=ObjectBackend({KEY: pattern(4 * PAGE)}), retry=ONCE)
    file, genuine = rig.open("r+b"), overdue.is_blocked
    file.pwrite(b"one", 0)
    rig.backend.fault("commit", OSError(errno.EIO, "not carried out"))
    raises(CommitError, file.fsync)

    def beside(engine: EngineFile) -> bool:
        monkeypatch.undo()
        blocked = genuine(engine)
        Task(file.fsync).result()
        return blocked

    monkeypatch.setattr(overdue, "is_blocked", beside)
    rig.volume.retry_failed()
    file.pwrite(b"two", PAGE)
    file.fsync(timeout=10)
    expected = overlay(overlay(pattern(4 * PAGE), 0, b"one"), PAGE, b"two")
    assert rig.backend.committed(KEY) == expected
