"""A failed direct write may store bytes behind the end. They show nowhere: every call that makes the object longer cuts
them off first, whatever else of the file was in flight at that time. [2.10, 2.17]
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import DataLossError, RetryPolicy, ShutdownError

from ..stores import Gate, ObjectBackend, RecordingBackend, RecordingFile
from .rig import KEY, ONCE, PAGE, Rig, Task, eventually, make_rig, overlay, pattern
from .test_interrupts import ctrl_c

OLD = pattern(2 * PAGE)
MINE = pattern(PAGE, seed=3)
TAIL = pattern(2 * PAGE, seed=1)
LATER = pattern(PAGE, seed=2)
FAR = 6 * PAGE
LOST = OSError(errno.ECONNRESET, "the line went dead")


class Left:
    """A file of two pages. Page 0 is written once more and in flight to the backend, or to be committed: that call
    stands at a gate and has the token. `leave` makes an interrupted direct write store two pages behind the end.
    """

    def __init__(self, holder: str, **limits: Any) -> None:
        self.backend = RecordingBackend({KEY: OLD}, direct_unit=PAGE, parallel_direct_writes=True, **limits)
        self.rig = make_rig(backend=self.backend, retry=ONCE)
        self.buffered = self.rig.open("r+b")
        self.direct = self.rig.open("r+b", direct=True)
        self.tasks: list[Task[Any]] = []
        self.begin(holder)

    def begin(self, holder: str) -> None:
        self.buffered.pwrite(MINE, 0)
        self.holder = self.backend.gate("write_from" if holder == "pass" else "commit", KEY)
        self.tasks.append(Task(self.buffered.flush if holder == "pass" else self.buffered.fsync))
        self.holder.wait_entered()

    def start_tail(self) -> Gate:
        """The direct write's call has stored everything when its gate is entered, and fails when that opens."""
        self.backend.fault("write_from answer", LOST)
        return self.backend.gate("write_from answer")

    def leave(self, offset: int = len(OLD), data: bytes = TAIL) -> None:
        gate = self.start_tail()
        with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
            self.direct.pwrite(data, offset)
        gate.open()
        engine = self.rig.volume.inodes[KEY].engine
        eventually(lambda: not engine.native.direct_count())
        assert self.backend.written(KEY)[len(OLD) :] == TAIL

    def go_on(self) -> None:
        """Release the token for its next holder."""
        self.holder.open()
        for task in self.tasks:
            task.result()

    def check(self, content: bytes) -> None:
        assert self.buffered.pread(len(content) + 1, 0) == content
        Task(self.rig.volume.sync).result()
        self.rig.volume.drop_clean(KEY)
        assert self.direct.pread(len(content) + 1, 0) == content
        assert self.buffered.pread(len(content) + 1, 0) == content
        assert self.backend.written(KEY) == self.backend.committed(KEY) == content
        self.rig.finish()


def extended(at: int = FAR) -> bytes:
    return overlay(MINE + OLD[PAGE:] + bytes(at - len(OLD)), at, LATER)


@pytest.mark.parametrize(("holder", "durable"), [("pass", False), ("pass", True), ("commit", False)])
def test_a_pass_that_makes_the_object_longer_leaves_zeros_before_what_it_sends(holder: str, durable: bool) -> None:
    """A pass takes along bytes that are dirtied while it runs; one that waits for a commit precedes later requests."""
    story = Left(holder, durable_writes=durable)
    story.leave()
    story.buffered.pwrite(LATER, FAR)
    story.tasks.append(Task(story.buffered.sync_range, FAR, PAGE))
    assert story.tasks[-1].waits()
    story.go_on()
    story.check(extended())


@pytest.mark.parametrize("holder", ["pass", "commit"])
def test_a_truncate_that_makes_the_file_longer_shows_zeros(holder: str) -> None:
    """It is in line for the token before the cut."""
    story = Left(holder)
    story.leave()
    story.tasks.append(Task(story.buffered.truncate, FAR))
    assert story.tasks[-1].waits()
    story.go_on()
    story.check(MINE + OLD[PAGE:] + bytes(FAR - len(OLD)))


def test_stores_of_a_writable_view_behind_the_tail_do_not_uncover_it() -> None:
    """The view lies in the range that a truncate has added; the pass sends a copy of it."""
    story = Left("commit")
    story.leave()
    growing = Task(story.buffered.truncate, FAR + PAGE)
    assert growing.waits()
    story.holder.open()
    growing.result()
    with story.buffered.view(FAR, PAGE, writable=True) as view:
        view.segments[0][:] = LATER
        story.buffered.fsync()
    story.go_on()
    story.check(extended())


def test_an_append_behind_a_truncate_beside_the_tail_shows_zeros() -> None:
    story = Left("pass")
    story.leave()
    growing = Task(story.buffered.truncate, FAR)
    assert growing.waits()
    story.tasks += [growing, Task(story.buffered.append, LATER)]
    story.go_on()
    story.check(extended())


def test_a_write_interrupted_between_two_tries_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call has failed, and the next has not begun: no other call would cut the stored bytes."""
    backend = RecordingBackend({KEY: OLD}, direct_unit=PAGE)
    rig = make_rig(backend=backend, retry=RetryPolicy(attempts=9, first_delay=60.0, max_delay=60.0, deadline=600.0))
    file, direct = rig.open("r+b"), rig.open("r+b", direct=True)
    waits = threading.Event()

    backend.fault("write_from answer", LOST)
    sleep = rig.volume.engine.sleep

    def told(*args: Any) -> None:
        waits.set()
        sleep(*args)

    monkeypatch.setattr(rig.volume.engine, "sleep", told)
    with ctrl_c(waits), pytest.raises(KeyboardInterrupt):
        direct.pwrite(TAIL, len(OLD))
    assert backend.seen("write_from")
    file.pwrite(LATER, FAR)
    file.flush()
    content = OLD + bytes(FAR - len(OLD)) + LATER
    assert direct.pread(FAR + PAGE, 0) == content
    file.fsync()
    assert backend.committed(KEY) == content
    rig.finish()


@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("grow", ["write", "truncate"])
def test_a_reconnect_in_between_uncovers_nothing(grow: str, fenced: bool) -> None:
    """The call returns after the reconnect, or can no longer land; bytes behind it are sent at once."""
    story = Left("pass")
    gate = story.start_tail()
    writing = Task(story.direct.pwrite, TAIL, len(OLD))
    gate.wait_entered()
    story.rig.volume.abort()
    with pytest.raises(ShutdownError):
        writing.result()
    with pytest.raises(ShutdownError):
        story.tasks.pop().result()
    fresh = story.backend.successor(lose=False, shared=not fenced)
    story.rig.volume.reconnect(fresh, fenced=fenced)
    grows: Callable[[], object] = (
        (lambda: story.buffered.pwrite(LATER, FAR))
        if grow == "write"
        else (lambda: story.buffered.truncate(FAR + PAGE))
    )
    growing = Task(grows)
    if not fenced:
        assert growing.waits()
        story.holder.open()
        gate.open()
    growing.result()
    engine = story.rig.volume.inodes[KEY].engine
    eventually(lambda: not engine.native.in_old_hands())
    story.buffered.flush()
    story.holder.open()
    gate.open()
    story.backend = fresh
    story.check(extended() if grow == "write" else MINE + OLD[PAGE:] + bytes(FAR + PAGE - len(OLD)))


@pytest.mark.parametrize("offset", [PAGE, len(OLD)], ids=["in place", "extends"])
def test_a_direct_write_waits_for_the_cut(offset: int) -> None:
    """A backend sees no truncate beside a write, and no byte that was just stored is cut off."""
    story = Left("pass")
    story.leave()
    engine = story.rig.volume.inodes[KEY].engine
    gate = Gate("write_from", KEY, 0)

    def slowly(file: RecordingFile, offset: int, buffers: Any) -> int:
        taken = file.store(offset, buffers)
        if offset:
            gate.entered.set()
            assert gate.release.wait(60)
        return taken

    story.backend.fault("write_from", slowly, times=2)  # the holder's, and the direct one
    writing = Task(story.direct.pwrite, LATER, offset)
    eventually(lambda: gate.entered.is_set() or engine.settling)
    story.holder.open()
    gate.wait_entered()
    eventually(lambda: not engine.native.locks()["token"])
    gate.open()
    assert writing.result() == PAGE
    story.go_on()
    story.check(overlay(MINE + OLD[PAGE:], offset, LATER))


def test_a_discard_of_what_lies_behind_a_tail_and_a_direct_write_both_end() -> None:
    """One has the token and waits for direct writes to end; the other waits for the cut, which needs the token."""
    story = Left("commit")
    story.leave()
    story.buffered.pwrite(LATER, FAR)
    discarding = Task(story.rig.volume.discard, KEY, FAR)
    assert discarding.waits()
    writing = Task(story.direct.pwrite, TAIL, len(OLD))
    assert writing.waits()
    story.holder.open()
    discarding.result()
    assert writing.result() == len(TAIL)
    for told in (story.tasks.pop().result, story.buffered.fsync, story.direct.fsync):
        with contextlib.suppress(DataLossError):  # of the discarded bytes: each handle once
            told()
    story.check(MINE + OLD[PAGE:] + TAIL)


def test_while_the_tail_cannot_be_cut_nothing_behind_it_is_stored() -> None:
    """This concerns a pass and a truncate; both report why, and succeed afterwards."""
    story = Left("pass")
    story.leave()
    story.backend.fault("truncate", OSError(errno.EACCES, "not now"), times=1000)
    story.buffered.pwrite(LATER, FAR)
    flushing = Task(story.buffered.flush)
    assert flushing.waits()
    story.holder.open()
    with pytest.raises(OSError, match="not now"):
        flushing.result()
    with pytest.raises(OSError, match="not now"):
        story.buffered.truncate(FAR + 2 * PAGE)
    assert story.backend.written(KEY)[len(OLD) :] == TAIL
    story.backend.clear_faults("truncate")
    story.tasks.clear()
    story.buffered.flush()
    story.check(extended())


def test_where_a_commit_makes_bytes_visible_there_is_no_tail() -> None:
    """Direct writes go through the cache there: a failed write-back has stored nothing visible."""
    backend = ObjectBackend({KEY: OLD})
    rig: Rig = make_rig(backend=backend, retry=ONCE)
    file = rig.open("r+b", direct=True)

    backend.fault("write_from answer", LOST)
    with pytest.raises(OSError):
        file.pwrite(TAIL, len(OLD))
    rig.volume.discard(KEY)
    with pytest.raises(OSError):
        file.fsync()
    file.truncate(FAR)
    file.fsync()
    assert backend.committed(KEY) == OLD + bytes(FAR - len(OLD))
    rig.finish()
