"""Threads that wait for the device: one syncs for all. Failures, interrupts, appends and new segments beside a sync."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pagecache.disk import journal as module
from pagecache.disk import records
from pagecache.disk.journal import Journal, _Attempt
from pagecache.disk.recovery import recover
from pagecache.testing import Gate
from pagecache.testing.disk import PowerCut, SimulatedDisk
from tests.file.rig import Task, at_gate, beside, eventually, held, raises, raising, side_by_side

from .test_journal import opened


class GatedDisk(SimulatedDisk):
    """A simulated disk whose syncs wait at a gate, if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: Gate | None = None
        self.syncs = 0

    def fdatasync(self, fd: int) -> None:
        self.syncs += 1
        if self.gate is not None:
            self.gate.enter(20)
        super().fdatasync(fd)


@pytest.fixture(autouse=True)
def _long_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost wake-up lasts longer than a test."""
    monkeypatch.setattr(module, "SLICE", 60.0)


@pytest.fixture
def disk() -> Iterator[GatedDisk]:
    disk = GatedDisk()
    yield disk
    if disk.gate is not None:
        disk.gate.release()


class Caller(Task[None]):
    """Append a record and confirm it."""

    def __init__(self, journal: Journal, number: int) -> None:
        self.lsn = journal.append(records.data(number, 0, 10), [b"x" * 10])
        super().__init__(journal.confirm, self.lsn)

    def ended(self) -> bool:
        return self.finished.wait(10)


def waiting(journal: Journal, count: int) -> None:
    """Wait until so many callers wait."""
    eventually(lambda: len(journal._waiters) == count, 10)


def prepared(disk: GatedDisk, **settings: Any) -> tuple[Journal, int, Gate]:
    journal = Journal("j", device=disk, **{"segment": 1 << 16, **settings})
    number = opened(journal)
    journal.confirm(journal.append(records.data(number, 0, 1), [b"x"]))
    disk.gate, disk.syncs = Gate(), 0
    return journal, number, disk.gate


def crowded(disk: GatedDisk, count: int) -> tuple[Journal, int, Gate, list[Caller]]:
    """Return a journal with callers of which the first one syncs, and the others wait."""
    journal, number, gate = prepared(disk)
    callers = [Caller(journal, number)]
    gate.wait_entered()
    callers += [Caller(journal, number) for _ in range(count)]
    waiting(journal, count)
    return journal, number, gate, callers


def test_one_sync_is_for_all_that_wait(disk: GatedDisk) -> None:
    _journal, _number, gate, callers = crowded(disk, 15)
    gate.release()
    assert all(caller.ended() and caller.error is None for caller in callers)
    assert disk.syncs == 2


def test_a_record_appended_beside_a_sync_is_not_confirmed_by_it(disk: GatedDisk) -> None:
    journal, number, gate = prepared(disk)
    first = Caller(journal, number)
    gate.wait_entered()
    late = journal.append(records.data(number, 0, 10), [b"y" * 10])
    gate.release()
    assert first.ended()
    assert journal._confirmed == first.lsn < late
    journal.confirm(late)
    assert disk.syncs == 2


def test_a_segment_that_ends_beside_a_sync_is_synced_again(disk: GatedDisk) -> None:
    journal, number, gate = prepared(disk, segment=8192)
    first = Caller(journal, number)
    gate.wait_entered()
    disk.gate = None  # new segments begin with a sync
    last = 0
    for value in range(8):
        last = journal.append(records.data(number, value * 2000, 2000), [bytes([value]) * 2000])
    gate.release()
    assert first.ended()
    journal.confirm(last)
    cut = PowerCut()
    for call in disk.calls:
        cut.after(call)
    (file,) = recover("j", cut.disk(lambda n: 0)).files
    assert file.read(0, 16000) == b"".join(bytes([value]) * 2000 for value in range(8))


def test_a_failed_sync_fails_all_that_wait_and_nothing_of_it_counts(disk: GatedDisk) -> None:
    journal, number, gate, callers = crowded(disk, 5)
    journal.append(records.removing(number))
    disk.fault = lambda name, count: errno.EIO if name == "fdatasync" else 0
    gate.release()
    for caller in callers:
        raises(OSError, caller.result, match="the journal cannot be synced in 'j': Input/output error")
    assert journal.generation == 1
    disk.fault = None
    journal.restate()
    assert journal.owes()  # until that is confirmed
    journal.confirm(journal.append(records.data(number, 0, 3), [b"new"]))
    assert not journal.owes()
    assert [(file.read(0, 3), file.state.removing) for file in recover("j", disk).files] == [(b"new", True)]
    raises(OSError, journal.confirm, callers[0].lsn, match="cannot be synced")


def test_a_disk_whose_sync_times_out_has_failed(disk: GatedDisk) -> None:
    """A caller takes a TimeoutError for its own deadline, after which the work goes on. [D5]"""
    journal, number, gate = prepared(disk)
    disk.fault = lambda name, count: errno.ETIMEDOUT if name == "fdatasync" else 0
    caller = Caller(journal, number)
    gate.release()
    error = raises(OSError, caller.result, match="cannot be synced in 'j': Connection timed out")
    assert error.errno == errno.EIO


def test_an_interrupted_leader_is_followed_by_another(disk: GatedDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _number, gate, callers = crowded(disk, 6)
    beside(monkeypatch, journal, "_sync_all", raising(KeyboardInterrupt()))
    gate.release()
    assert all(caller.ended() for caller in callers)
    assert sorted(type(caller.error).__name__ for caller in callers[1:]) == ["KeyboardInterrupt"] + ["NoneType"] * 5


def test_an_interrupted_waiter_harms_no_other(disk: GatedDisk) -> None:
    journal, number, gate, callers = crowded(disk, 3)
    lsn = journal.append(records.data(number, 0, 10), [b"x" * 10])

    def interrupt() -> None:
        waiting(journal, 4)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = Task(interrupt)
    raises(KeyboardInterrupt, journal.confirm, lsn)
    thread.result()
    assert len(journal._waiters) == 3
    gate.release()
    assert all(caller.ended() and caller.error is None for caller in callers)


def test_a_sync_whose_result_an_interrupt_took_away_is_a_failed_one(disk: GatedDisk) -> None:
    journal, number, gate = prepared(disk)
    gate.release()
    lsn = journal.append(records.data(number, 0, 10), [b"x" * 10])
    disk.fault = lambda name, count: (_ for _ in ()).throw(KeyboardInterrupt) if name == "fdatasync" else 0
    raises(KeyboardInterrupt, journal.confirm, lsn)
    disk.fault = None
    raises(OSError, journal.confirm, lsn, match="cannot be synced")


def test_a_sync_that_ended_before_an_interrupt_counts(disk: GatedDisk) -> None:
    journal, number, gate = prepared(disk)
    gate.release()
    lsn = journal.append(records.data(number, 0, 10), [b"x" * 10])
    journal._attempt = _Attempt(lsn, list(journal._unsynced))
    journal._attempt.done.append(None)
    journal.confirm(lsn)
    assert journal.generation == 0


def test_appends_of_many_threads_are_whole_and_in_their_order() -> None:
    disk = SimulatedDisk()
    journal = Journal("j", segment=1 << 16, limit=1 << 24, device=disk)
    numbers = [opened(journal, str(place)) for place in range(8)]

    def run(place: int) -> None:
        number = numbers[place]
        for value in range(60):
            lsn = journal.append(records.data(number, 0, 300), [bytes([value]) * 100, bytes([value]) * 200])
            if value % 3 == 0:
                journal.confirm(lsn)
            if value % 20 == 10:
                journal.append(records.saved(number, lsn, f"v{value}"))

    side_by_side(run)
    found = recover("j", disk)
    assert [file.read(0, 300) for file in found.files] == [bytes([59]) * 300] * 8
    assert not found.lost
    assert journal.bytes < 8 * 60 * 600  # segments went


def test_two_callers_remove_each_segment_once(disk: GatedDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, number, gate = prepared(disk, segment=8192)
    gate.release()
    last = 0
    while len(journal._segments) < 4:
        last = journal.append(records.data(number, 0, 3000), [b"x" * 3000])
    journal.append(records.saved(number, last, "v2"))
    unlinks, first = at_gate(held(monkeypatch, disk, "unlink"), journal.confirm, journal.last)
    second = Task(journal._remove)
    second.waits(0.2)
    first.result(opening=unlinks)
    second.result()
    assert sorted(disk.listdir("j")) == [f"{segment.number:08d}.journal" for segment in journal._segments]
