"""A direct write that failed, or whose call returns late, may store bytes behind the end; so may the write-back of
bytes that are discarded. Such a tail shows nowhere: every call that makes the object longer or saves it cuts the tail
off first, whatever else of the file is in flight, and no byte of a later write with it. [2.10, 2.17, 2.18, 2.22]
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import BackendError, CachedFile, CommitError, DataLossError, RetryPolicy, ShutdownError, WritebackError
from pagecache.engine.io import direct
from pagecache.native import TOKEN
from pagecache.volume import reconnect

from ..stores import WAIT_LIMIT_S, Fault, Gate, ObjectBackend, RecordingBackend, RecordingFile
from .rig import KEY, ONCE, PAGE, Make, Patch, Rig, Task, at_gate, cut_off, eventually, held, overlay, pattern, raises
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

    def __init__(self, make: Make, holder: str, **limits: Any) -> None:
        self.backend = RecordingBackend({KEY: OLD}, direct_unit=PAGE, parallel_direct_writes=True, **limits)
        self.rig = make(backend=self.backend, retry=ONCE)
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
        engine = self.rig.volume.inodes[KEY]
        eventually(lambda: not engine.direct_count())
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


def extended(at: int = FAR) -> bytes:
    return overlay(MINE + OLD[PAGE:] + bytes(at - len(OLD)), at, LATER)


def sends(file: CachedFile) -> None:
    """A pass takes along bytes that are dirtied while it runs; one that waits for a commit precedes later requests."""
    file.pwrite(LATER, FAR)
    file.sync_range(FAR, PAGE)


def stores(file: CachedFile) -> None:
    """Store into a view in the range that a truncate has added; the pass sends a copy of it."""
    file.truncate(FAR + PAGE)
    with file.view(FAR, PAGE, writable=True) as view:
        view.segments[0][:] = LATER
        file.fsync()


def grows(file: CachedFile) -> None:
    """Make the file longer; it is in line for the token before the cut."""
    file.truncate(FAR)
    file.append(LATER)


@pytest.mark.parametrize(("holder", "durable"), [("pass", False), ("pass", True), ("commit", False)])
@pytest.mark.parametrize("call", [sends, stores, grows])
def test_what_makes_the_object_longer_shows_zeros_before_its_bytes(
    make: Make, call: Callable[[CachedFile], None], holder: str, durable: bool
) -> None:
    story = Left(make, holder, durable_writes=durable)
    story.leave()
    story.tasks.append(Task(call, story.buffered))
    assert story.tasks[-1].waits()
    story.go_on()
    story.check(extended())


def test_a_write_interrupted_between_two_tries_leaves_nothing(make: Make, monkeypatch: Patch) -> None:
    """Its call has failed, and the next has not begun: no other call would cut the stored bytes."""
    backend = RecordingBackend({KEY: OLD}, direct_unit=PAGE)
    rig = make(backend=backend, retry=RetryPolicy(attempts=9, first_delay=60.0, max_delay=60.0, deadline=600.0))
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


@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("grow", ["write", "truncate"])
def test_a_reconnect_in_between_uncovers_nothing(make: Make, grow: str, fenced: bool) -> None:
    """The call returns after the reconnect, or can no longer land; bytes behind it are sent at once."""
    story = Left(make, "pass")
    gate = story.start_tail()
    cut_off(story.rig.volume, gate, story.direct.pwrite, TAIL, len(OLD))
    raises(ShutdownError, lambda: story.tasks.pop().result())
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
    engine = story.rig.volume.inodes[KEY]
    eventually(lambda: not engine.in_old_hands())
    story.buffered.flush()
    story.holder.open()
    gate.open()
    story.backend = fresh
    story.check(extended() if grow == "write" else MINE + OLD[PAGE:] + bytes(FAR + PAGE - len(OLD)))


@pytest.mark.parametrize("offset", [PAGE, len(OLD)], ids=["in place", "extends"])
def test_a_direct_write_waits_for_the_cut(make: Make, offset: int) -> None:
    """A backend sees no truncate beside a write, and no byte that was just stored is cut off."""
    story = Left(make, "pass")
    story.leave()
    engine = story.rig.volume.inodes[KEY]
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
    eventually(lambda: engine.run_if_free(TOKEN, "holding", lambda: None))
    assert writing.result(opening=gate) == PAGE
    story.go_on()
    story.check(overlay(MINE + OLD[PAGE:], offset, LATER))


def test_a_discard_of_what_lies_behind_a_tail_and_a_direct_write_both_end(make: Make) -> None:
    """One has the token and waits for direct writes to end; the other waits for the cut, which needs the token."""
    story = Left(make, "commit")
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


def test_while_the_tail_cannot_be_cut_nothing_behind_it_is_stored(make: Make) -> None:
    """This concerns a pass and a truncate; both report why, and succeed afterwards."""
    story = Left(make, "pass")
    story.leave()
    story.backend.fault("truncate", OSError(errno.EACCES, "not now"), times=1000)
    story.buffered.pwrite(LATER, FAR)
    flushing = Task(story.buffered.flush)
    assert flushing.waits()
    story.holder.open()
    raises(OSError, flushing.result, match="not now")
    raises(OSError, story.buffered.truncate, FAR + 2 * PAGE, match="not now")
    assert story.backend.written(KEY)[len(OLD) :] == TAIL
    story.backend.clear_faults("truncate")
    story.tasks.clear()
    story.buffered.flush()
    story.check(extended())


def test_where_a_commit_makes_bytes_visible_there_is_no_tail(make: Make) -> None:
    """Direct writes go through the cache there: a failed write-back has stored nothing visible."""
    backend = ObjectBackend({KEY: OLD})
    rig: Rig = make(backend=backend, retry=ONCE)
    file = rig.open("r+b", direct=True)

    backend.fault("write_from answer", LOST)
    raises(OSError, file.pwrite, TAIL, len(OLD))
    rig.volume.discard(KEY)
    raises(OSError, file.fsync)
    file.truncate(FAR)
    file.fsync()
    assert backend.committed(KEY) == OLD + bytes(FAR - len(OLD))


# ---------------------------------------------------------------- answers after the end of the backend


LONGER = pattern(3 * PAGE, seed=2)


class Extended:
    """A direct write behind the end whose call does not answer, and lands when its gate opens, or has landed."""

    def __init__(self, make: Make, *, landed: bool, error: OSError | None = None) -> None:
        self.old = RecordingBackend({KEY: OLD}, direct_unit=PAGE)
        self.rig = make(backend=self.old, retry=ONCE)
        self.file = self.rig.open("r+b", direct=True)
        self.gate = self.old.gate("write_from answer" if landed else "write_from")
        if error is not None:
            self.old.fault("write_from answer", error)

    def write(self) -> None:
        _, self.writing = at_gate(self.gate, self.file.pwrite, TAIL, len(OLD))

    def answer(self) -> None:
        ended = self.old.nr_ended
        self.gate.open()
        eventually(lambda: self.old.nr_ended > ended)

    def answer_last(self) -> None:
        """Answer the call after its caller has gone."""
        self.answer()
        eventually(lambda: not self.rig.volume.inodes[KEY].direct_count())


@pytest.mark.parametrize("landed", [False, True], ids=["lands late", "has landed"])
def test_a_sync_after_a_late_answer_leaves_no_tail(make: Make, landed: bool) -> None:
    """The next commit cuts it off first."""
    story = Extended(make, landed=landed)
    story.write()
    fresh = story.rig.reconnect(story.writing, lose=False)
    story.answer_last()
    Task(story.rig.volume.sync).result()
    assert fresh.written(KEY) == OLD


@pytest.mark.parametrize("fenced", [False, True])
def test_bytes_stored_by_a_later_write_are_not_cut_off(make: Make, fenced: bool) -> None:
    """The cut of the first tail comes while the next direct write is stored and not acknowledged yet."""
    story = Extended(make, landed=True)
    story.write()
    fresh = story.rig.reconnect(story.writing, fenced=fenced, lose=False, shared=not fenced)
    story.answer()
    gate, writing = at_gate(fresh.gate("write_from answer"), story.file.pwrite, LONGER, len(OLD))
    file = story.rig.volume.inodes[KEY]
    eventually(lambda: not file.settling and file.run_if_free(TOKEN, "holding", lambda: None))
    assert writing.result(opening=gate) == len(LONGER)
    assert fresh.written(KEY) == OLD + LONGER


def test_a_sync_leaves_no_tail_before_the_writer_has_noticed_that_its_backend_is_gone(
    make: Make, monkeypatch: Patch
) -> None:
    """The volume is live again when the writer resumes: its tail is owed by then."""
    story = Extended(make, landed=True)
    noticed = held(monkeypatch, direct._Sender, "running")
    monkeypatch.setattr(reconnect, "CALLERS", 0.0)  # the reconnect does not wait for the writer
    story.write()
    fresh = story.rig.reconnect(lose=False)
    story.answer()
    Task(story.rig.volume.sync).result()
    assert fresh.written(KEY) == OLD
    raises(ShutdownError, story.writing.result, opening=noticed)


@pytest.mark.parametrize("returns", [True, False])
def test_a_cut_that_a_fenced_reconnect_overtakes_is_made_in_the_new_backend(make: Make, returns: bool) -> None:
    """It is in flight when the backend is lost, does not land, and may never return."""
    story = Extended(make, landed=True, error=OSError(errno.ECONNRESET, "the line went dead"))
    cutting = story.old.gate("truncate")
    story.write()
    story.gate.open()
    cutting.wait_entered()
    story.rig.volume.abort()
    raises(OSError, story.writing.result)
    fresh = story.old.successor(lose=False, shared=False)
    story.rig.volume.reconnect(fresh, fenced=True)
    if returns:
        cutting.open()
    Task(story.rig.volume.sync).result(WAIT_LIMIT_S / 3)
    assert fresh.written(KEY) == OLD
    cutting.open()


def test_a_write_that_extends_is_refused_while_the_tail_of_another_cannot_be_cut(make: Make) -> None:
    """Nothing of it is sent; the cut is owed once, however often it failed."""
    story = Extended(make, landed=True, error=OSError(errno.ECONNRESET, "the line went dead"))
    with ctrl_c(story.gate.entered), pytest.raises(KeyboardInterrupt):
        story.file.pwrite(TAIL, len(OLD))
    story.old.fault("truncate", OSError(errno.EACCES, "not now"), times=100)
    story.answer_last()
    for _ in range(3):
        raises(OSError, story.file.pwrite, LONGER, len(OLD), match="not now")
        raises(OSError, story.file.fsync)
    assert len(story.rig.volume.inodes[KEY].owed) == 1
    assert len(story.old.seen("write_from")) == 1
    story.old.clear_faults("truncate")
    assert story.file.pwrite(LONGER, len(OLD)) == len(LONGER)
    Task(story.rig.volume.sync).result()
    assert story.old.written(KEY) == OLD + LONGER


# ---------------------------------------------------------------- tails that are given up


STORED = pattern(4 * PAGE)
GIVEN_UP = pattern(4 * PAGE, seed=1)
FULL = OSError(errno.ENOSPC, "no room to cut")
FORBIDDEN = BackendError(errno.EACCES, "no cuts today", retry=False)


class Stored:
    """A tail whose write-back failed, although it was stored."""

    def __init__(self, make: Make, **limits: Any) -> None:
        self.rig: Rig = make({KEY: STORED}, retry=ONCE, limits=limits)
        self.file: CachedFile = self.rig.open("r+b")
        self.file.pwrite(GIVEN_UP, len(STORED))

        self.rig.backend.fault("write_from answer", OSError(errno.ECONNRESET, "the line went dead"))
        raises(WritebackError, self.file.fsync)

    def give_up(self, refusal: OSError) -> Fault:
        """The cut is refused until the answer is cleared."""
        fault = self.rig.backend.fault("truncate", refusal, times=float("inf"))
        assert [(lost.offset, lost.length) for lost in self.rig.volume.discard(KEY)] == [(len(STORED), len(GIVEN_UP))]
        self.hear_of_it()
        assert self.rig.backend.written(KEY) == STORED + GIVEN_UP
        return fault

    def hear_of_it(self) -> None:
        raises(DataLossError, self.file.flush)

    def ends_as(self, content: bytes) -> None:
        self.rig.volume.sync(20)
        assert self.rig.backend.written(KEY) == self.rig.backend.committed(KEY) == content
        self.rig.volume.drop_clean(KEY)
        assert self.file.pread(len(content) + 1, 0) == content


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("refusal", [FULL, FORBIDDEN], ids=["no space", "forbidden"])
def test_nothing_counts_as_saved_before_the_cut_is_made(make: Make, refusal: OSError, durable: bool) -> None:
    """Stored bytes can be read: they lie before those that the cut would remove. [2.3]"""
    story = Stored(make, durable_writes=durable)
    fault = story.give_up(refusal)
    raises((CommitError, WritebackError), story.rig.volume.sync, 20)
    story.rig.volume.drop_clean(KEY)
    assert story.file.pread(len(STORED) + 1, 0) == STORED
    fault.clear()
    story.ends_as(STORED)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("how", ["append", "write far behind", "truncate"])
def test_calls_that_make_the_file_longer_show_zeros(make: Make, how: str, durable: bool) -> None:
    story = Stored(make, durable_writes=durable)
    fault = story.give_up(FULL)
    far = len(STORED) + 3 * PAGE
    expected = STORED
    if how == "truncate":
        raises(OSError, story.file.truncate, far, match="no room to cut")
        fault.clear()
        story.file.truncate(far)
        expected += bytes(3 * PAGE)
    else:
        offset = len(STORED) if how == "append" else far
        story.file.pwrite(b"later", offset)
        fault.clear()
        expected = overlay(STORED + bytes(offset - len(STORED)), offset, b"later")
    story.ends_as(expected)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("when", ["refused before", "left behind", "refused after"])
def test_the_next_backend_cuts_it(make: Make, when: str, durable: bool) -> None:
    """The cut was refused before the abort, or had not returned by then, or not even when the discard did."""
    story = Stored(make, durable_writes=durable)
    rig = story.rig
    if when == "refused before":
        story.give_up(FULL)
        rig.volume.abort()
        rig.backend.clear_faults()
    else:
        rig.backend.fault("truncate", FULL)
        gate, discarding = at_gate(rig.backend.gate("truncate"), rig.volume.discard, KEY)
        rig.volume.abort()
        if when == "left behind":
            discarding.result()
        discarding.result(opening=gate)
        eventually(lambda: not rig.volume.inodes[KEY].in_old_hands())
    assert rig.backend.written(KEY) == STORED + GIVEN_UP
    rig.volume.reconnect(rig.backend)
    if when != "refused before":
        story.hear_of_it()
    story.ends_as(STORED)


@pytest.mark.parametrize("durable", [False, True])
def test_the_next_backend_makes_a_cut_that_was_called_off(make: Make, durable: bool) -> None:
    """It had not begun when the volume was aborted: all threads that could have made it hung."""
    story = Stored(make, durable_writes=durable, max_inflight=1)
    rig = story.rig
    # The failed fsync returns before its pass has ended, which needs a thread, and has the token until then.
    eventually(rig.volume.inodes[KEY].pass_idle)
    gate = rig.backend.gate("file_stat", times=2)
    hung = [Task(rig.volume.stat, KEY), Task(rig.volume.stat, KEY)]
    eventually(lambda: gate.nr_entered == 2)
    discarding = Task(rig.volume.discard, KEY)
    eventually(lambda: any(wait.what == "the backend's truncate" for wait in rig.cache.waits()))
    rig.volume.abort()
    discarding.result()
    for task in hung:
        raises(ShutdownError, task.result)
    gate.open()
    eventually(lambda: rig.backend.nr_running == 0)
    assert rig.backend.seen("truncate") == []
    assert rig.backend.written(KEY) == STORED + GIVEN_UP
    rig.volume.reconnect(rig.backend)
    story.hear_of_it()
    story.ends_as(STORED)


def test_a_backend_that_cannot_cut_goes_on_and_the_log_says_so(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    story = Stored(make)
    with caplog.at_level(logging.WARNING):
        story.give_up(OSError(errno.EOPNOTSUPP, "no cuts here"))
    assert "which was given up" in caplog.text
    assert "it may be stored" in caplog.text
    later = pattern(len(GIVEN_UP), seed=2)
    story.file.append(later)
    story.ends_as(STORED + later)
