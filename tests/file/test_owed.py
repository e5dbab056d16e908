"""Truncate and punch with an unknown outcome: published as done, and owed again before the file's next call, in the
next backend too; a reconnect may come at the moment when a thread pays them.
"""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import BackendError, CachedFile, ConflictError, DataLossError, RetryPolicy, ShutdownError
from pagecache.engine.commit.owed import Owed
from pagecache.engine.file import EngineFile
from pagecache.engine.runner import Job

from ..stores import WAIT_LIMIT_S, RecordingBackend, failing_commit
from .rig import FAST, KEY, ONCE, PAGE, Make, Patch, Rig, Task, at_gate, cut_off, eventually, overlay, pattern, raises

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
@pytest.mark.parametrize("happened", [False, True])
def test_an_unknown_outcome_is_done_and_owed(
    make: Make, change: str, error: str, happened: bool, following: str
) -> None:
    """The call raises, readers see it done, and it is repeated before the file's next call of any kind. [2.17]"""
    rig, file = punching(make)
    rig.backend.fault(f"{change} answer" if happened else change, UNKNOWN[error])
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
    file.fsync()
    assert rig.backend.committed(KEY) == file.pread(9 * PAGE, 0)
    assert file.size == len(expected)


@pytest.mark.parametrize("sends", ["flush", "close"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_flush_and_the_last_close_pay_what_is_owed(make: Make, change: str, sends: str) -> None:
    """With nothing dirty: the store has it when they return. They fail where the call does, which stays owed then, and
    are tried again after a transient error. [2.15, 2.17]
    """
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
def test_a_flush_pays_nothing_into_another_version(make: Make, monkeypatch: Patch, change: str) -> None:
    """Which has come while it waited for its turn. [2.17, 2.19]"""
    rig, file = punching(make)
    file.pwrite(b"ours", 0)
    file.flush()
    rig.backend.fault(change, UNKNOWN["reset"])
    raises(OSError, CHANGES[change][0], file, match="line")
    settled = EngineFile.settled

    def late(self: EngineFile, job: Any, tries: Any = None) -> Any:
        rig.backend.change_remotely(KEY, b"theirs")
        rig.volume.invalidate_remote(KEY, version="another")
        return settled(self, job, tries)

    monkeypatch.setattr(EngineFile, "settled", late)
    raises(ConflictError, file.flush)
    monkeypatch.undo()
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
    rig.backend.fault(change, REFUSED[error])
    raises(OSError, CHANGES[change][0], file, match="line")
    assert file.pread(9 * PAGE, 0) == OLD
    rig.backend.forget_calls()
    file.fsync()
    rig.volume.sync(20)
    assert [call.op for call in rig.backend.calls if call.op in ("truncate", "punch_hole", "commit")] == []


@pytest.mark.parametrize("refused", [False, True])
def test_a_truncate_is_tried_again_within_the_call(make: Make, refused: bool) -> None:
    """If the second try is refused, the first may have been carried out all the same: it is owed. [2.14, 2.17]"""
    rig, file = punching(make, retry=FAST)
    rig.backend.fault("truncate", OSError(errno.ETIMEDOUT, "line"))
    rig.backend.fault("truncate", OSError(errno.EPERM if refused else errno.ECONNRESET, "second thoughts"))
    if refused:
        raises(PermissionError, file.truncate, CUT, match="second thoughts")
    else:
        file.truncate(CUT)
    assert file.size == CUT
    file.fsync()
    assert rig.backend.committed(KEY) == OLD[:CUT]
    assert len(rig.backend.seen("truncate")) == 3


def test_a_truncate_that_waits_for_a_thread_can_be_called_off(make: Make) -> None:
    """It was not sent: nothing has changed, and it is not sent later. [2.17]"""
    rig, file = make({KEY: OLD, "busy": OLD, "also": OLD}, limits={"max_inflight": 1}, retry=ONCE).opened("r+b")
    gate = rig.backend.gate("stat", times=2)
    hung: list[Task[Any]] = [Task(rig.volume.stat, KEY), Task(rig.volume.stat, KEY)]
    eventually(lambda: gate.nr_entered == 2)
    cutting: Task[Any] = Task(file.truncate, CUT)
    assert cutting.waits()
    rig.volume.abort()
    for task in (cutting, *hung):
        raises(ShutdownError, task.result)
    assert file.size == 4 * PAGE
    gate.open()
    eventually(lambda: rig.backend.nr_running == 0)
    rig.volume.reconnect(rig.backend)
    file.fsync()
    assert rig.backend.seen("truncate") == []
    assert rig.backend.written(KEY) == OLD


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
    assert rig.backend.violations == []


TWO = pattern(2 * PAGE)
LATER = pattern(2 * PAGE, seed=1)
ZEROS = bytes(2 * PAGE)


class Holding:
    """Hold a thread that has paid everything, just before it lets reads go to the backend directly."""

    def __init__(self, monkeypatch: Patch) -> None:
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


def test_a_reconnect_owes_again_what_was_just_paid_and_no_read_overtakes_it(make: Make, monkeypatch: Patch) -> None:
    """The new backend has forgotten a truncate: its object ends before the cache's file does. [2.17]"""
    backend = RecordingBackend({KEY: TWO}, direct_unit=PAGE)
    rig, file = make(backend=backend, retry=ONCE).opened("r+b", direct=True)
    backend.fault("truncate", OSError(errno.ECONNRESET, "the line went dead"))
    raises(OSError, file.truncate, 4 * PAGE, match="the line went dead")  # the outcome is unknown: it is owed
    holding = Holding(monkeypatch)
    reading = Task(file.pread, 2 * PAGE, 2 * PAGE)
    assert holding.stands.wait(WAIT_LIMIT_S)
    rig.volume.abort()
    raises(ShutdownError, reading.result)
    fresh = backend.successor()
    cutting = fresh.gate("truncate")
    rig.volume.reconnect(fresh)
    holding.goes_on.set()
    assert holding.bound.wait(WAIT_LIMIT_S)
    _, reading = at_gate(cutting, file.pread, 2 * PAGE, 2 * PAGE)
    assert reading.waits()
    assert reading.result(opening=cutting) == ZEROS


def test_a_payer_that_a_fenced_reconnect_overtakes_makes_no_old_call_in_the_new_backend(
    make: Make, monkeypatch: Patch
) -> None:
    """The payer was about to cut the object; bytes written behind that end are stored by now. [2.17]"""
    backend = RecordingBackend({KEY: TWO}, direct_unit=PAGE)
    rig, file = make(backend=backend, retry=ONCE).opened("r+b", direct=True)
    backend.fault("truncate", OSError(errno.ECONNRESET, "the line went dead"))
    raises(OSError, file.truncate, PAGE, match="the line went dead")
    stands, goes_on, over = threading.Event(), threading.Event(), threading.Event()
    genuine, pay = EngineFile.still_opened, Owed._pay_all

    def opened(self: EngineFile) -> Any:
        if sys._getframe(1).f_code.co_name == "_pay_all" and not stands.is_set():
            stands.set()
            assert goes_on.wait(WAIT_LIMIT_S)
        return genuine(self)

    def pays(owed: Owed, method: str | None) -> None:
        first = not stands.is_set()
        try:
            pay(owed, method)
        finally:
            if first:
                over.set()

    monkeypatch.setattr(EngineFile, "still_opened", opened)
    monkeypatch.setattr(Owed, "_pay_all", pays)
    reading = Task(file.pread, PAGE, 0)
    assert stands.wait(WAIT_LIMIT_S)
    fresh = rig.reconnect(reading, fenced=True, lose=False, shared=False)
    assert Task(file.pwrite, LATER, PAGE).result() == len(LATER)
    goes_on.set()
    assert over.wait(WAIT_LIMIT_S)
    assert fresh.written(KEY) == TWO[:PAGE] + LATER


@pytest.mark.parametrize("fenced", [False, True])
def test_an_error_after_an_abort_is_no_refusal(make: Make, monkeypatch: Patch, fenced: bool) -> None:
    """The truncate is carried out, then the connection is cut; its waiter notices the abort last. [2.14, 2.17]"""
    backend = RecordingBackend({KEY: TWO})
    rig, file = make(backend=backend, retry=ONCE).opened("r+b")
    gate = backend.gate("truncate answer")
    backend.fault("truncate answer", OSError(errno.ENOTCONN, "the line was cut"))

    def late(job: Job[Any], alive: Callable[[], None], *more: Any) -> Any:
        assert job.what != "truncate" or job.join(WAIT_LIMIT_S)
        return wait(job, alive, *more)

    wait = Job.wait
    with monkeypatch.context() as patch:
        patch.setattr(Job, "wait", late)
        _, cutting = at_gate(gate, file.truncate, PAGE)
        rig.volume.abort()
        gate.open()
        raises(OSError, cutting.result, match="the line was cut")
    fresh = backend.successor(lose=False, shared=not fenced)
    rig.volume.reconnect(fresh, fenced=fenced)
    assert file.pread(len(TWO), 0) == TWO[:PAGE]
    file.fsync()
    assert fresh.committed(KEY) == TWO[:PAGE]


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("durable", [False, True])
def test_a_hole_that_is_owed_is_made_in_the_next_backend(
    make: Make, durable: bool, fenced: bool, carried_out: bool
) -> None:
    """Nothing was stored since: it is no loss, and bytes written below it stay below it. [2.17, 2.22]"""
    backend = RecordingBackend({KEY: TWO}, durable_writes=durable, punch=True)
    rig, file = make(backend=backend, retry=ONCE).opened("r+b")
    file.pwrite(LATER[:PAGE], 0)
    backend.fault("punch_hole answer" if carried_out else "punch_hole", OSError(errno.ECONNRESET, "the line went dead"))
    raises(OSError, file.punch_hole, 0, PAGE + 10, match="the line went dead")  # the outcome is unknown: it is owed
    fresh = rig.reconnect(fenced=fenced, lose=not durable, shared=not fenced)
    file.pwrite(LATER[:5], 20)
    file.fsync()
    content = bytes(20) + LATER[:5] + bytes(PAGE - 15) + TWO[PAGE + 10 :]
    assert file.pread(2 * PAGE, 0) == content == fresh.written(KEY)


def test_a_hole_that_was_owed_and_paid_is_a_loss_where_no_commit_followed(make: Make) -> None:
    """[2.16, 2.17]"""
    backend = RecordingBackend({KEY: TWO}, punch=True)
    rig, file = make(backend=backend, retry=ONCE).opened("r+b")
    backend.fault("punch_hole", OSError(errno.ECONNRESET, "the line went dead"))
    raises(OSError, file.punch_hole, 0, PAGE, match="the line went dead")
    rig.volume.abort()
    second = backend.successor()
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
    backend = RecordingBackend({KEY: old}, punch=True)
    rig, file = make(backend=backend, retry=ONCE).opened("r+b")
    backend.fault("commit", failing_commit(OSError(errno.EACCES, "no"), forget=False))
    raises(OSError, file.punch_hole, *first, match="no")
    assert backend.written(KEY) == overlay(old, first[0], bytes(first[1]))
    backend.fault("punch_hole", OSError(errno.ECONNRESET, "the line went dead"))
    raises(OSError, file.punch_hole, *second, match="the line went dead")
    fresh = rig.reconnect(fenced=fenced, shared=not fenced)
    caught = raises(DataLossError, file.fsync)
    lost_pages = [(one.offset + at) // PAGE for one in caught.ranges for at in range(0, one.length, PAGE)]
    assert lost_pages == lost
    content = overlay(old, second[0], bytes(second[1]))
    assert file.pread(6 * PAGE, 0) == content
    file.fsync()
    assert (fresh.written(KEY), fresh.committed(KEY)) == (content, content)


class Watched:
    """A debt whose call waits, and which holds a thread named "looks" while that asks for its method."""

    arguments, behind = (), False

    def __init__(self) -> None:
        self.called, self.returns = threading.Event(), threading.Event()
        self.stands, self.goes_on = threading.Event(), threading.Event()

    @property
    def method(self) -> str:
        if threading.current_thread().name == "looks":
            self.stands.set()
            assert self.goes_on.wait(WAIT_LIMIT_S)
        return "stat"

    def call(self, backend_file: Any) -> None:
        self.called.set()
        assert self.returns.wait(WAIT_LIMIT_S)


def test_a_debt_that_has_been_paid_goes_beside_a_thread_that_looks_for_another(make: Make) -> None:
    """[2.17]"""
    rig = make(backend=RecordingBackend({KEY: TWO}), retry=ONCE)
    rig.open("r+b")
    found: list[bool] = []
    owed, debt, later = Owed(rig.volume.inodes[KEY]), Watched(), Watched()
    for step in (debt, later):
        owed.add(step)
    later.returns.set()
    later.goes_on.set()
    pays = Task(owed.pay_now)
    assert debt.called.wait(WAIT_LIMIT_S)
    looks = threading.Thread(target=lambda: found.append(owed.owes("truncate")), name="looks")
    looks.start()
    assert debt.stands.wait(WAIT_LIMIT_S)
    debt.returns.set()
    assert pays.waits()
    debt.goes_on.set()
    pays.result()
    looks.join(WAIT_LIMIT_S)
    assert found == [False]
    assert len(owed) == 0
