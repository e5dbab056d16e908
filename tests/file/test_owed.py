"""Truncate and punch with an unknown outcome: published as done, and owed again before the file's next call, in the
next backend too; a reconnect may come at the moment when a thread pays them.

A direct write that failed, or whose call returns late, may store bytes behind the end; so may the write-back of bytes
that are discarded. Such a tail shows nowhere: every call that makes the object longer or saves it cuts the tail off
first, whatever else of the file is in flight, and no byte of a later write with it. [2.10, 2.17, 2.18, 2.22]
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import (
    BackendError,
    BackendLimits,
    CachedFile,
    CommitError,
    ConflictError,
    DataLossError,
    RetryPolicy,
    ShutdownError,
    WritebackError,
    loglines,
)
from pagecache.engine.commit.owed import Owed, Step
from pagecache.engine.file import EngineFile
from pagecache.engine.io import direct
from pagecache.engine.runner import Job
from pagecache.native import TOKEN
from pagecache.volume import reconnect

from ..stores import WAIT_LIMIT_S, Fault, Gate, RecordingBackend, RecordingFile, failing_commit
from .rig import KEY, ONCE, PAGE, Make, Rig, Task, at_gate, beside, cut_off, eventually, held, overlay, pattern, raises
from .test_interrupts import ctrl_c

OLD = pattern(4 * PAGE)
CUT = PAGE + 10

CHANGES: dict[str, tuple[Callable[[CachedFile], Any], bytes]] = {
    "truncate": (lambda file: file.truncate(CUT), OLD[:CUT]),
    "punch_hole": (lambda file: file.punch_hole(PAGE, 2 * PAGE), OLD[:PAGE] + bytes(2 * PAGE) + OLD[3 * PAGE :]),
}

UNKNOWN: dict[str, BaseException] = {
    "reset": OSError(errno.ECONNRESET, "line"),
    "timed out": OSError(errno.ETIMEDOUT, "line"),
    "io": OSError(errno.EIO, "line"),
    "may be tried again": BackendError(errno.EIO, "line", retry=True),
}
REFUSED: dict[str, BaseException] = {
    "not allowed": OSError(errno.EPERM, "line"),
    "no space": OSError(errno.ENOSPC, "line"),
    "busy": OSError(errno.EBUSY, "line"),
    "no connection": OSError(errno.ECONNREFUSED, "line"),
    "says so itself": BackendError(errno.EIO, "line", retry=False),
    "bug": ValueError("line"),
}


def punching(make: Make, **options: Any) -> tuple[Rig, CachedFile]:
    rig, file = make({KEY: OLD}, limits={"punch": True}, **{"retry": ONCE, **options}).opened("r+b")
    file.pread(4 * PAGE, 0)
    return rig, file


def hand_over(file: CachedFile) -> None:
    file.pwrite(b"x", 0)
    file.sync_range(0, 1)


NEXT: dict[str, Callable[[Rig, CachedFile], Any]] = {
    "hand-over": lambda rig, file: hand_over(file),
    "commit": lambda rig, file: file.fsync(),
    "truncate": lambda rig, file: file.truncate(file.size),
    "punch": lambda rig, file: file.punch_hole(0, 10),
    "fill": lambda rig, file: (rig.volume.drop_clean(KEY), file.pread(10, 0)),
    "discard": lambda rig, file: (file.pwrite(b"x", file.size), rig.volume.discard(KEY)),
    "sync": lambda rig, file: rig.volume.sync(20),
}


@pytest.mark.parametrize("following", NEXT)
@pytest.mark.parametrize("error", UNKNOWN)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("done", [False, True])
def test_an_unknown_outcome_is_done_and_owed(make: Make, change: str, error: str, done: bool, following: str) -> None:
    """The call raises, readers see it done, and it is repeated before the file's next call of any kind. [2.17]"""
    rig, file = punching(make)
    rig.backend.fault(f"{change} answer" if done else change, UNKNOWN[error])
    call, expected = CHANGES[change]
    raises(OSError, call, file, match="line")
    assert file.pread(9 * PAGE, 0) == expected
    assert rig.volume.stat(KEY).size == len(expected)
    rig.backend.forget_calls()
    NEXT[following](rig, file)
    calls = [c.op for c in rig.backend.calls if c.op in ("truncate", "punch_hole", "write_from", "commit", "read_into")]
    assert calls[0] == change
    if following == "discard":
        raises(DataLossError, file.fsync)
    assert rig.saved(file) == file.pread(9 * PAGE, 0)
    assert file.size == len(expected)


@pytest.mark.parametrize("sends", ["flush", "close"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_flush_and_the_last_close_pay_what_is_owed(make: Make, change: str, sends: str) -> None:
    """With nothing dirty. They fail where the call does, and are tried again after a transient error. [2.15, 2.17]"""
    rig, file = punching(make, retry=RetryPolicy(attempts=2, first_delay=0.001, max_delay=0.001, failed_retry=None))
    call, expected = CHANGES[change]
    rig.backend.fault(change, UNKNOWN["reset"], times=2)
    raises(OSError, call, file, match="line")
    rig.backend.fault(change, UNKNOWN["reset"], times=2)
    raises(OSError, getattr(file, sends), match="line")
    rig.backend.fault(change, REFUSED["bug"])
    assert raises(OSError, getattr(rig.open("r+b"), sends), match="line").errno == errno.EIO
    assert rig.backend.written(KEY) == OLD
    last = rig.open("r+b")
    rig.backend.fault(change, UNKNOWN["reset"])
    getattr(last, sends)()
    assert rig.backend.written(KEY) == expected
    assert len(rig.backend.seen(change)) == 7


@pytest.mark.parametrize("change", CHANGES)
def test_a_flush_pays_nothing_into_another_version(make: Make, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Which has come while it waited for its turn. [2.17, 2.19]"""
    rig, file = punching(make)
    file.pwrite(b"ours", 0)
    file.flush()
    rig.fails(change, UNKNOWN["reset"], OSError, CHANGES[change][0], file, match="line")

    def another() -> None:
        rig.backend.change_remotely(KEY, b"theirs")
        rig.volume.invalidate_remote(KEY, version="another")

    beside(monkeypatch, EngineFile, "settled", another)
    raises(ConflictError, file.flush)
    assert len(rig.backend.seen(change)) == 1
    assert rig.backend.written(KEY) == b"theirs"
    rig.volume.resolve(KEY, "discard")


def test_a_close_whose_debt_fails_reports_a_loss(make: Make) -> None:
    """The handle makes no other call that could. [2.16, 2.17]"""
    rig, file = punching(make)
    file.pwrite(b"given up", 0)
    rig.volume.discard(KEY)
    rig.backend.fault("truncate", UNKNOWN["reset"], times=2)
    raises(OSError, CHANGES["truncate"][0], file, match="line")
    loss = raises(DataLossError, file.close)
    assert "line" in str(loss.__context__)


@pytest.mark.parametrize("error", REFUSED)
@pytest.mark.parametrize("change", CHANGES)
def test_a_definite_refusal_changes_nothing(make: Make, change: str, error: str) -> None:
    """Nothing is owed, nothing waits for a commit. [2.17]"""
    rig, file = punching(make)
    rig.fails(change, REFUSED[error], OSError, CHANGES[change][0], file, match="line")
    assert file.pread(9 * PAGE, 0) == OLD
    rig.backend.forget_calls()
    file.fsync()
    rig.volume.sync(20)
    assert [call.op for call in rig.backend.calls if call.op in ("truncate", "punch_hole", "commit")] == []


def test_a_hole_that_no_try_could_make_is_written_as_zeros(make: Make) -> None:
    """The first try had no answer; the second says that there is no such call: so the first did nothing. [2.17]"""
    rig, file = punching(make, retry=RetryPolicy(first_delay=0.001, max_delay=0.005))
    rig.backend.fault("punch_hole", UNKNOWN["timed out"])
    rig.backend.fault("punch_hole", OSError(errno.EOPNOTSUPP, "not on this file system"))
    file.punch_hole(PAGE, 2 * PAGE)
    assert not len(rig.volume.inodes[KEY].owed)
    assert rig.saved(file) == CHANGES["punch_hole"][1]
    assert len(rig.backend.seen("punch_hole")) == 2


@pytest.mark.parametrize("kind", ["absent", "unsupported"])
@pytest.mark.parametrize("unit", [1, 64, 2 * PAGE])
@pytest.mark.parametrize(
    "extent", [(PAGE - 10, PAGE + 30), (PAGE, PAGE), (3 * PAGE + 5, PAGE), (7, 9), (len(OLD) - 10, 13)]
)
def test_an_owed_hole_that_the_next_backend_cannot_make_is_made_of_zeros(
    make: Make, extent: tuple[int, int], unit: int, kind: str
) -> None:
    """In whole units, within the limits of the store, with short answers. Later bytes are saved. [2.17, 2.22]"""
    old = OLD + b"end"
    size = {"max_write": max(unit, 1024), "max_read": max(unit, 1024), "boundary": unit * 1024}
    rig = make({KEY: old}, limits={"punch": True, "write_unit": unit, "read_unit": unit, **size}, retry=ONCE)
    file = rig.open("r+b")
    rig.fails("punch_hole", LOST, OSError, file.punch_hole, *extent, match="dead")
    rig.volume.abort()
    fresh = rig.backend.successor()
    if kind == "absent":
        fresh.punch = False
    else:
        fresh.fault("punch_hole", OSError(errno.ENOSYS, "no holes here"), times=float("inf"))
    rig.volume.reconnect(fresh)
    content = overlay(old, extent[0], bytes(extent[1]))[: len(old)]
    fresh.fault("write_from", lambda file, offset, buffers: file.store(offset, buffers, unit))
    assert file.pread(len(old), 0) == content
    file.pwrite(b"later", 2 * PAGE)
    file.fsync()
    assert fresh.committed(KEY) == overlay(content, 2 * PAGE, b"later")
    assert fresh.violations == []


@pytest.mark.parametrize("refused", [False, True])
def test_a_truncate_is_tried_again_within_the_call(make: Make, refused: bool) -> None:
    """If the second try is refused, the first may have been carried out all the same: it is owed. [2.14, 2.17]"""
    rig, file = punching(make, retry=RetryPolicy(first_delay=0.001, max_delay=0.005))
    rig.backend.fault("truncate", OSError(errno.ETIMEDOUT, "line"))
    rig.backend.fault("truncate", OSError(errno.EPERM if refused else errno.ECONNRESET, "second thoughts"))
    if refused:
        raises(PermissionError, file.truncate, CUT, match="second thoughts")
    else:
        file.truncate(CUT)
    assert file.size == CUT
    assert rig.saved(file) == OLD[:CUT]
    assert len(rig.backend.seen("truncate")) == 3


@pytest.mark.parametrize("direct", [False, True])
def test_a_read_waits_for_a_truncate_that_was_left_behind(make: Make, direct: bool) -> None:
    """The owed truncate is repeated after it, so it cannot land later; and bytes are read after that. [2.17, 2.22]"""
    rig, file = punching(make)
    reader = rig.open("rb", direct=direct)
    gate = cut_off(rig.volume, rig.backend.gate("truncate"), file.truncate, CUT)
    rig.volume.reconnect(rig.backend)
    rig.volume.drop_clean(KEY)
    reading = Task(reader.pread, 9 * PAGE, 0)
    assert reading.waits()
    assert len(rig.backend.seen("truncate")) == 1
    assert reading.result(opening=gate) == OLD[:CUT]
    assert len(rig.backend.seen("truncate")) == 3


TWO = pattern(2 * PAGE)
TAIL = pattern(2 * PAGE, seed=1)
LOST = OSError(errno.ECONNRESET, "the line went dead")


class Holding:
    """Hold a thread that has paid everything, just before it lets reads go to the backend directly."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stands, self.goes_on, self.bound = threading.Event(), threading.Event(), threading.Event()
        self._thread = 0
        self._wait, self._bind = Owed.reads_wait, EngineFile.bind_calls
        monkeypatch.setattr(Owed, "reads_wait", lambda owed: self._looked(owed))
        monkeypatch.setattr(EngineFile, "bind_calls", lambda file: self._binds(file))

    def _looked(self, owed: Owed) -> bool:
        found = self._wait(owed)
        if not found and sys._getframe(2).f_code.co_name == "bind_calls" and not self.stands.is_set():
            self._thread = threading.get_ident()
            self.stands.set()
            self.goes_on.wait(2.0)  # a limit: threads that would overtake it may have to wait for it
        return found

    def _binds(self, file: EngineFile) -> None:
        self._bind(file)
        if threading.get_ident() == self._thread:
            self.bound.set()


def test_a_reconnect_owes_again_what_was_paid_before_any_read(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new backend has forgotten a truncate: its object ends before the cache's file does. [2.17]"""
    rig, file = make({KEY: TWO}, limits={"direct_unit": PAGE}, retry=ONCE).opened("r+b", direct=True)
    rig.fails("truncate", LOST, OSError, file.truncate, 4 * PAGE, match="went dead")  # it is owed
    holding = Holding(monkeypatch)
    reading = Task(file.pread, 2 * PAGE, 2 * PAGE)
    assert holding.stands.wait(WAIT_LIMIT_S)
    rig.volume.abort()
    raises(ShutdownError, reading.result)
    fresh = rig.backend.successor()
    cutting = fresh.gate("truncate")
    rig.volume.reconnect(fresh)
    holding.goes_on.set()
    assert holding.bound.wait(WAIT_LIMIT_S)
    _, reading = at_gate(cutting, file.pread, 2 * PAGE, 2 * PAGE)
    assert reading.waits()
    assert reading.result(opening=cutting) == bytes(2 * PAGE)


def test_a_payer_that_a_fenced_reconnect_overtakes_makes_no_old_call_in_the_new_backend(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The payer was about to cut the object; bytes written behind that end are stored by now. [2.17]"""
    rig, file = make({KEY: TWO}, limits={"direct_unit": PAGE}, retry=ONCE).opened("r+b", direct=True)
    rig.fails("truncate", LOST, OSError, file.truncate, PAGE, match="went dead")
    stands, goes_on, over = threading.Event(), threading.Event(), threading.Event()
    genuine, pay = EngineFile.still_opened, Owed._pay_all

    def opened(self: EngineFile) -> Any:
        if sys._getframe(1).f_code.co_name == "_pay_all" and not stands.is_set():
            stands.set()
            assert goes_on.wait(WAIT_LIMIT_S)
        return genuine(self)

    def pays(owed: Owed, *arguments: Any) -> None:
        first = not stands.is_set()
        try:
            pay(owed, *arguments)
        finally:
            if first:
                over.set()

    monkeypatch.setattr(EngineFile, "still_opened", opened)
    monkeypatch.setattr(Owed, "_pay_all", pays)
    reading = Task(file.pread, PAGE, 0)
    assert stands.wait(WAIT_LIMIT_S)
    fresh = rig.reconnect(reading, fenced=True, lose=False, shared=False)
    assert Task(file.pwrite, TAIL, PAGE).result() == len(TAIL)
    goes_on.set()
    assert over.wait(WAIT_LIMIT_S)
    assert fresh.written(KEY) == TWO[:PAGE] + TAIL


class Fenced:
    """The turn of a payer that a reconnect fences, and another payer overtakes, as the payer gets it."""

    def __init__(self, owed: Owed, overtake: Callable[[], object]) -> None:
        self._owed, self._overtake = owed, overtake

    def acquire(self, **_options: object) -> bool:
        self._owed.fence()
        self._overtake()
        return True

    def release(self) -> None:
        """It is nobody's any longer."""


def test_a_payer_whose_turn_was_fenced_makes_no_call_beside_the_next_payer(make: Make) -> None:
    """Each call is made once, in order. [2.17, 2.22]"""
    rig, file = make({KEY: OLD}).opened("r+b")
    inode = file._inode
    for size in (PAGE, 3 * PAGE):
        inode.owe(Step("truncate", (size,)))
    gate, later = rig.backend.gate("truncate"), list[Task[None]]()

    def overtake() -> None:
        later.append(Task(inode.owed.pay))
        gate.wait_entered()

    turn: Any = Fenced(inode.owed, overtake)
    inode.owed._paying = turn
    first = Task(inode.owed.pay)
    gate.wait_entered()
    assert first.waits()
    gate.open()
    first.result()
    later[0].result()
    assert [call.offset for call in rig.backend.seen("truncate")] == [PAGE, 3 * PAGE]


def test_a_cut_that_is_paid_beside_a_reconnect_makes_nothing_of_the_next_backend_uncommitted(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its acknowledged bytes are durable. [2.17, 2.22]"""
    rig, file = make({KEY: OLD}, retry=ONCE).opened("r+b")
    rig.fails("truncate", LOST, OSError, file.truncate, CUT, match="went dead")
    fresh, coming = rig.backend.successor(), list[Task[None]]()
    fresh.limits = BackendLimits(durable_writes=True)

    def reconnect() -> None:
        rig.volume.abort()
        rig.volume.reconnect(fresh, fenced=True)

    def come() -> None:
        coming.append(Task(reconnect))
        coming[0].waits(2.0)

    beside(monkeypatch, EngineFile, "cut_paid", come)
    raises(ShutdownError, file.pread, PAGE, 0)
    coming[0].result()
    file.pread(PAGE, 0)
    file.pwrite(TAIL, CUT)
    file.flush()
    assert file.stats().unstable == 0
    assert fresh.written(KEY) == OLD[:CUT] + TAIL


def test_a_call_that_waits_for_a_payer_ends_though_it_looks_after_the_reconnect(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The payer hangs in the earlier backend. [2.22, K9]"""
    rig, file = make({KEY: TWO}, limits={"direct_unit": PAGE}, retry=ONCE).opened("r+b", direct=True)
    rig.fails("truncate", LOST, OSError, file.truncate, PAGE, match="went dead")
    genuine, reconnected = Job.wait, threading.Event()

    def wait(job: Job[Any], *args: Any) -> Any:
        if job.what == "truncate":
            assert reconnected.wait(WAIT_LIMIT_S)
        return genuine(job, *args)

    monkeypatch.setattr(Job, "wait", wait)
    gate, writing = at_gate(rig.backend.gate("truncate"), file.pwrite, TAIL[:PAGE], 0)
    fresh = rig.backend.successor()
    rig.volume.reconnect(fresh, fenced=True)
    reconnected.set()
    raises(ShutdownError, writing.result)
    gate.open()
    assert Task(file.pwrite, TAIL[:PAGE], 0).result() == PAGE
    assert fresh.written(KEY) == TAIL[:PAGE]


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("durable", [False, True])
def test_a_hole_that_is_owed_is_made_in_the_next_backend(make: Make, durable: bool, fenced: bool, done: bool) -> None:
    """Nothing was stored since: it is no loss, and bytes written below it stay below it. [2.17, 2.22]"""
    rig, file = make({KEY: TWO}, limits={"durable_writes": durable, "punch": True}, retry=ONCE).written(TAIL[:PAGE], 0)
    rig.fails("punch_hole answer" if done else "punch_hole", LOST, OSError, file.punch_hole, 0, PAGE + 10, match="dead")
    fresh = rig.reconnect(fenced=fenced, lose=not durable, shared=not fenced)
    file.pwrite(TAIL[:5], 20)
    file.fsync()
    content = bytes(20) + TAIL[:5] + bytes(PAGE - 15) + TWO[PAGE + 10 :]
    assert file.pread(2 * PAGE, 0) == content == fresh.written(KEY)


def test_a_hole_that_was_owed_and_paid_is_a_loss_where_no_commit_followed(make: Make) -> None:
    """[2.16, 2.17]"""
    rig, file = make({KEY: TWO}, limits={"punch": True}, retry=ONCE).opened("r+b")
    rig.fails("punch_hole", LOST, OSError, file.punch_hole, 0, PAGE, match="went dead")
    rig.volume.abort()
    second = rig.backend.successor()
    second.fault("commit", failing_commit(OSError(errno.EACCES, "no"), forget=False), times=2)
    rig.volume.reconnect(second)
    raises(OSError, file.fsync, match="no")
    assert second.written(KEY) == bytes(PAGE) + TWO[PAGE:]
    rig.volume.reconnect(second.successor())
    assert [(lost.offset, lost.length) for lost in raises(DataLossError, file.fsync).ranges] == [(0, PAGE)]
    assert file.pread(2 * PAGE, 0) == TWO


@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("where", ["end", "begin", "middle"])
def test_only_the_parts_of_a_paid_hole_that_are_not_owed_again_are_a_loss(make: Make, where: str, fenced: bool) -> None:
    """No commit followed the first; the second covers a part of it, and its outcome is unknown. [2.16, 2.17]"""
    old = pattern(6 * PAGE)
    first = (PAGE, 4 * PAGE)  # pages 1 to 4
    page, lost = {"end": (4, [1, 2, 3]), "begin": (0, [2, 3, 4]), "middle": (2, [1, 4])}[where]
    second = (page * PAGE, 2 * PAGE)
    rig, file = make({KEY: old}, limits={"punch": True}, retry=ONCE).opened("r+b")
    refused = failing_commit(OSError(errno.EACCES, "no"), forget=False)
    rig.fails("commit", refused, OSError, file.punch_hole, *first, match="no")
    assert rig.backend.written(KEY) == overlay(old, first[0], bytes(first[1]))
    rig.fails("punch_hole", LOST, OSError, file.punch_hole, *second, match="went dead")
    fresh = rig.reconnect(fenced=fenced, shared=not fenced)
    caught = raises(DataLossError, file.fsync)
    lost_pages = [(one.offset + at) // PAGE for one in caught.ranges for at in range(0, one.length, PAGE)]
    assert lost_pages == lost
    content = overlay(old, second[0], bytes(second[1]))
    assert file.pread(6 * PAGE, 0) == content
    file.fsync()
    assert (fresh.written(KEY), fresh.committed(KEY)) == (content, content)


MINE = pattern(PAGE, seed=3)
LATER = pattern(PAGE, seed=2)
FAR = 6 * PAGE


class Left:
    """A file of two pages. Page 0 is written once more and in flight to the backend, or to be committed: that call
    stands at a gate and has the token. `leave` makes an interrupted direct write store two pages behind the end.
    """

    def __init__(self, make: Make, holder: str, **limits: Any) -> None:
        self.backend = RecordingBackend({KEY: TWO}, direct_unit=PAGE, parallel_direct_writes=True, **limits)
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

    def leave(self, offset: int = len(TWO), data: bytes = TAIL) -> None:
        gate = self.start_tail()
        with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
            self.direct.pwrite(data, offset)
        gate.open()
        engine = self.rig.volume.inodes[KEY]
        eventually(lambda: not engine.direct_count())
        assert self.backend.written(KEY)[len(TWO) :] == TAIL

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


EXTENDED = MINE + TWO[PAGE:] + bytes(FAR - len(TWO)) + LATER


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
    story.check(EXTENDED)


def test_a_write_interrupted_between_two_tries_leaves_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call has failed, and the next has not begun: no other call would cut the stored bytes."""
    backend = RecordingBackend({KEY: TWO}, direct_unit=PAGE)
    rig = make(backend=backend, retry=RetryPolicy(attempts=9, first_delay=60.0, max_delay=60.0, deadline=600.0))
    file, direct = rig.open("r+b"), rig.open("r+b", direct=True)
    waits = threading.Event()
    backend.fault("write_from answer", LOST)
    beside(monkeypatch, rig.volume.engine, "sleep", waits.set)
    with ctrl_c(waits), pytest.raises(KeyboardInterrupt):
        direct.pwrite(TAIL, len(TWO))
    assert backend.seen("write_from")
    file.pwrite(LATER, FAR)
    file.flush()
    content = TWO + bytes(FAR - len(TWO)) + LATER
    assert direct.pread(FAR + PAGE, 0) == content
    file.fsync()
    assert backend.committed(KEY) == content


@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("grow", ["write", "truncate"])
def test_a_reconnect_in_between_uncovers_nothing(make: Make, grow: str, fenced: bool) -> None:
    """The call returns after the reconnect, or can no longer land; bytes behind it are sent at once."""
    story = Left(make, "pass")
    gate = story.start_tail()
    cut_off(story.rig.volume, gate, story.direct.pwrite, TAIL, len(TWO))
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
    story.check(EXTENDED if grow == "write" else MINE + TWO[PAGE:] + bytes(FAR + PAGE - len(TWO)))


@pytest.mark.parametrize("offset", [PAGE, len(TWO)], ids=["in place", "extends"])
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
    story.check(overlay(MINE + TWO[PAGE:], offset, LATER))


def test_a_discard_of_what_lies_behind_a_tail_and_a_direct_write_both_end(make: Make) -> None:
    """One has the token and waits for direct writes to end; the other waits for the cut, which needs the token."""
    story = Left(make, "commit")
    story.leave()
    story.buffered.pwrite(LATER, FAR)
    discarding = Task(story.rig.volume.discard, KEY, FAR)
    assert discarding.waits()
    writing = Task(story.direct.pwrite, TAIL, len(TWO))
    assert writing.waits()
    story.holder.open()
    discarding.result()
    assert writing.result() == len(TAIL)
    for told in (story.tasks.pop().result, story.buffered.fsync, story.direct.fsync):
        with contextlib.suppress(DataLossError):  # of the discarded bytes: each handle once
            told()
    story.check(MINE + TWO[PAGE:] + TAIL)


LONGER = pattern(3 * PAGE, seed=2)


class Extended:
    """A direct write behind the end whose call does not answer, and lands when its gate opens, or has landed."""

    def __init__(self, make: Make, *, landed: bool, error: OSError | None = None) -> None:
        self.old = RecordingBackend({KEY: TWO}, direct_unit=PAGE)
        self.rig = make(backend=self.old, retry=ONCE)
        self.file = self.rig.open("r+b", direct=True)
        self.gate = self.old.gate("write_from answer" if landed else "write_from")
        if error is not None:
            self.old.fault("write_from answer", error)

    def write(self) -> None:
        _, self.writing = at_gate(self.gate, self.file.pwrite, TAIL, len(TWO))

    def answer(self) -> None:
        ended = self.old.nr_ended
        self.gate.open()
        eventually(lambda: self.old.nr_ended > ended)

    def answer_last(self) -> None:
        """Answer the call after its caller has gone."""
        self.answer()
        eventually(lambda: not self.rig.volume.inodes[KEY].direct_count())


@pytest.mark.parametrize("how", ["lands late", "has landed", "has landed unnoticed"])
def test_a_sync_after_a_late_answer_leaves_no_tail(make: Make, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The next commit cuts it off first. It is owed before the writer has noticed that its backend is gone."""
    story, unnoticed = Extended(make, landed=how != "lands late"), how == "has landed unnoticed"
    noticed = held(monkeypatch, direct._Sender, "running") if unnoticed else None
    if unnoticed:
        monkeypatch.setattr(reconnect, "CALLERS", 0.0)  # the reconnect does not wait for the writer
    story.write()
    fresh = story.rig.reconnect(*([] if unnoticed else [story.writing]), lose=False)
    (story.answer if unnoticed else story.answer_last)()
    Task(story.rig.volume.sync).result()
    assert fresh.written(KEY) == TWO
    if unnoticed:
        raises(ShutdownError, story.writing.result, opening=noticed)


@pytest.mark.parametrize("fenced", [False, True])
def test_bytes_stored_by_a_later_write_are_not_cut_off(make: Make, fenced: bool) -> None:
    """The cut of the first tail comes while the next direct write is stored and not acknowledged yet."""
    story = Extended(make, landed=True)
    story.write()
    fresh = story.rig.reconnect(story.writing, fenced=fenced, lose=False, shared=not fenced)
    story.answer()
    gate, writing = at_gate(fresh.gate("write_from answer"), story.file.pwrite, LONGER, len(TWO))
    file = story.rig.volume.inodes[KEY]
    eventually(lambda: not file.settling and file.run_if_free(TOKEN, "holding", lambda: None))
    assert writing.result(opening=gate) == len(LONGER)
    assert fresh.written(KEY) == TWO + LONGER


@pytest.mark.parametrize("returns", [True, False])
def test_a_cut_that_a_fenced_reconnect_overtakes_is_made_in_the_new_backend(make: Make, returns: bool) -> None:
    """It is in flight when the backend is lost, does not land, and may never return."""
    story = Extended(make, landed=True, error=LOST)
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
    assert fresh.written(KEY) == TWO
    cutting.open()


def test_a_write_that_extends_is_refused_while_the_tail_of_another_cannot_be_cut(make: Make) -> None:
    """Nothing of it is sent; the cut is owed once, however often it failed."""
    story = Extended(make, landed=True, error=LOST)
    with ctrl_c(story.gate.entered), pytest.raises(KeyboardInterrupt):
        story.file.pwrite(TAIL, len(TWO))
    story.old.fault("truncate", OSError(errno.EACCES, "not now"), times=100)
    story.answer_last()
    for _ in range(3):
        raises(OSError, story.file.pwrite, LONGER, len(TWO), match="not now")
        raises(OSError, story.file.fsync)
    assert len(story.rig.volume.inodes[KEY].owed) == 1
    assert len(story.old.seen("write_from")) == 1
    story.old.clear_faults("truncate")
    assert story.file.pwrite(LONGER, len(TWO)) == len(LONGER)
    Task(story.rig.volume.sync).result()
    assert story.old.written(KEY) == TWO + LONGER


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
        self.rig.fails("write_from answer", LOST, WritebackError, self.file.fsync)

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
@pytest.mark.parametrize("then", ["sync", "append", "write far behind", "truncate"])
def test_the_cut_comes_before_all_that_would_show_the_tail(
    make: Make, then: str, refusal: OSError, durable: bool
) -> None:
    """Nothing counts as saved before, and a longer file shows zeros. Stored bytes can be read. [2.3]"""
    story = Stored(make, durable_writes=durable)
    fault, far = story.give_up(refusal), len(STORED) + 3 * PAGE
    offset = {"append": len(STORED), "write far behind": far}.get(then)
    if offset is not None:
        story.file.pwrite(b"later", offset)
    elif then == "truncate":
        raises(OSError, story.file.truncate, far, match="no room to cut|no cuts today")
    else:
        raises((CommitError, WritebackError), story.rig.volume.sync, 20)
        story.rig.volume.drop_clean(KEY)
        assert story.file.pread(len(STORED) + 1, 0) == STORED
    fault.clear()
    if then == "truncate":
        story.file.truncate(far)
    longer = STORED + bytes(3 * PAGE) if then == "truncate" else STORED
    story.ends_as(longer if offset is None else overlay(STORED + bytes(offset - len(STORED)), offset, b"later"))


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("when", ["refused before", "left behind", "refused after", "called off"])
def test_the_next_backend_cuts_it(make: Make, when: str, durable: bool) -> None:
    """The cut was refused before the abort, or had not returned by then, or not even when the discard did; or it had
    not begun: all threads that could have made it hung.
    """
    story = Stored(make, durable_writes=durable, max_inflight=1 if when == "called off" else 8)
    rig = story.rig
    if when == "refused before":
        story.give_up(FULL)
        rig.volume.abort()
        rig.backend.clear_faults()
    elif when == "called off":
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


@pytest.mark.parametrize("of", ["a direct write", "a discard", "a discard whose cut had no answer"])
def test_a_cut_that_the_backend_does_not_have_is_owed_no_longer(
    make: Make, caplog: pytest.LogCaptureFixture, of: str
) -> None:
    story: Any = Extended(make, landed=True, error=LOST) if of == "a direct write" else Stored(make)
    old: RecordingBackend = story.rig.backend
    if of == "a discard whose cut had no answer":
        old.fault("truncate", LOST)
    old.fault("truncate", OSError(errno.ENOSYS, "no cuts here"), times=float("inf"))
    with caplog.at_level(logging.WARNING):
        if of == "a direct write":
            with ctrl_c(story.gate.entered), pytest.raises(KeyboardInterrupt):
                story.file.pwrite(TAIL, len(TWO))
            story.answer_last()
        else:
            story.rig.volume.discard(KEY)
            story.hear_of_it()
        before = len(old.seen("truncate"))
        for _ in range(3):
            story.file.pwrite(LATER, 0)
            story.file.fsync()
    loglines.outlast(20.0)
    assert len(old.seen("truncate")) <= before + 1
    said = "which was given up" if of == "a discard" else "the backend cannot cut off stored bytes from"
    assert caplog.text.count(said) == 1
    assert ("it may be stored" in caplog.text) == (of == "a discard")
    assert not len(story.rig.volume.inodes[KEY].owed)
