"""sync and tickets: exactly the earlier writes, in order, side by side, and never delayed by a dead backend."""

from __future__ import annotations

import errno
import io
import itertools
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pagecache import ConflictError, DataLossError, ShutdownError, SyncTicket, Volume, WritebackError

from ..stores import Gate, RecordingBackend, failing_commit
from .clock import HandClock
from .rig import KEY, ONCE, PAGE, Make, Patch, Rig, Task, eventually, pattern, raises

DATA = pattern(3 * PAGE)
EVERYTHING = "open stat remove rename list sync read_into write_from truncate commit file_stat file_close"


def hang(backend: RecordingBackend, *ops: str) -> list[Gate]:
    """Hang these calls of the backend from here on."""
    return [backend.gate(op, times=10**6) for op in ops or EVERYTHING.split()]


def test_no_call_started_for_later_writes_is_awaited(make: Make) -> None:
    """Every call that begins after the ticket and is not for its bytes hangs; the ticket still ends. [T-38]"""
    rig = make(dict.fromkeys(("early", "late", "both"), b""))
    early, late, both = (rig.open(key=name) for name in ("early", "late", "both"))
    early.pwrite(DATA, 0)
    both.pwrite(DATA, 0)
    gate = rig.backend.gate("write_from", times=2)
    ticket = rig.volume.begin_sync()
    eventually(lambda: gate.nr_entered == 2)
    late.pwrite(DATA, 0)
    both.pwrite(b"later", 100 * PAGE)
    hung = [rig.backend.gate("write_from", times=100), *hang(rig.backend, "open", "stat", "file_stat", "read_into")]
    flush = Task(late.fsync)
    gate.open()
    Task(ticket.wait, 20).result()
    assert rig.backend.committed("early") == DATA
    assert rig.backend.committed("both") == DATA
    assert rig.backend.committed("late") == b""
    for other in hung:
        other.open()
    flush.result()


@pytest.mark.parametrize("op", ["write_from", "sync"])
def test_a_later_sync_does_not_return_before_the_earlier_writes(make: Make, op: str) -> None:
    """Whichever of them is polled, and also if the later one has nothing to do. [T-39, 2.15]"""
    rig, file = make({"b": b""}).written(DATA, 0, "xb", key="a")
    if op == "sync":
        file.fsync()  # only the name is left to do
    gate = rig.backend.gate(op)
    first = rig.volume.begin_sync()
    gate.wait_entered()
    if op == "write_from":
        rig.open(key="b").pwrite(DATA, 0)
    second = rig.volume.begin_sync()
    waiting = Task(second.wait, 20)
    assert waiting.waits()
    assert not second.done()
    assert not first.done()
    waiting.result(opening=gate)
    assert first.done()
    assert rig.backend.committed("a") == DATA
    assert rig.backend.committed("b") == (DATA if op == "write_from" else b"")


@pytest.mark.parametrize("refusal", [io.UnsupportedOperation("sync"), OSError(errno.ENOSYS, "no sync")])
def test_an_unsupported_sync_is_remembered(make: Make, refusal: OSError) -> None:
    """Asked once, whatever happens to names afterwards. [T-40]"""
    rig = make({KEY: DATA})
    rig.backend.fault("sync", refusal, times=float("inf"))
    for number in range(3):
        rig.volume.sync(20)
        rig.volume.rename(KEY if number == 0 else f"{number - 1}", f"{number}")
    assert len(rig.backend.seen("sync")) == 1


def test_names_are_durable_after_sync(make: Make) -> None:
    """One call after the files' own commits, also for a ticket without a waiter; none if nothing changed. [T-40]"""
    rig = make({"a": DATA, "b": DATA})
    rig.volume.sync(20)
    rig.backend.forget_calls()
    rig.volume.sync(20)
    assert rig.backend.calls == []
    rig.open(key="a").pwrite(b"x", 0)
    rig.volume.rename("b", "c")
    rig.backend.forget_calls()
    ticket = rig.volume.begin_sync()
    eventually(ticket.done)
    assert [call.op for call in rig.backend.calls] == ["write_from", "commit", "sync"]


def test_names_changed_while_backend_sync_runs_need_another(make: Make) -> None:
    """A call that began before the change does not cover it. [T-40, I-19]"""
    rig = make({"a": DATA})
    gate = rig.backend.gate("sync")
    first = rig.volume.begin_sync()
    gate.wait_entered()
    rig.volume.rename("a", "b")
    second = rig.volume.begin_sync()
    gate.open()
    second.wait(20)
    assert first.done()
    assert len(rig.backend.seen("sync")) == 2


def test_errors_of_files_and_of_names_are_collected(make: Make) -> None:
    """Every file is tried, and the names after them; the next sync tries all that failed again. [2.15]"""
    rig = make(retry=ONCE)
    for name in ("good", "bad", "worse"):
        rig.open("w+b", key=name).pwrite(DATA, 0)
    for name in ("bad", "worse"):
        rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), key=name)
    caught = rig.fails("sync", OSError(errno.EROFS, "no names"), WritebackError, rig.volume.sync, 20)
    assert {entry.key for entry in caught.ranges} == {"bad", "worse"}
    assert len(caught.exceptions) == 3
    assert rig.backend.committed("good") == DATA
    rig.volume.sync(20)
    assert len(rig.backend.seen("sync")) == 2


def test_a_file_removed_beside_a_sync_does_not_fail_it(make: Make) -> None:
    """No later call can read its bytes. [2.15, 2.20]"""
    rig, _ = make(backend=RecordingBackend({KEY: b"", "other": b""}, identities=True), retry=ONCE).written(DATA, 0)
    rig.open(key="other").pwrite(DATA, 0)
    rig.backend.fault("write_from", OSError(errno.ENOENT, "gone"), key=KEY)
    gate = rig.backend.gate("write_from", KEY)
    ticket = rig.volume.begin_sync()
    gate.wait_entered()
    rig.volume.remove(KEY)
    gate.open()
    ticket.wait(20)
    assert rig.backend.committed("other") == DATA


@pytest.mark.parametrize("call", ["write_from", "commit"])
@pytest.mark.parametrize("direct", [False, True])
def test_a_removed_object_that_the_store_no_longer_takes_is_not_saved(make: Make, call: str, direct: bool) -> None:
    """The store's error is reported, as that of no other writer; nothing is sent again by itself. [2.14, 2.19, 2.20]"""
    rig = make(backend=RecordingBackend({KEY: DATA}, identities=True), retry=ONCE)
    file = rig.open("r+b", direct=direct)
    if not direct or call == "commit":
        file.pwrite(DATA, 0)
    rig.volume.remove(KEY)
    rig.backend.fault(call, OSError(errno.ESTALE, "stale file handle"), times=10)
    save = partial(file.pwrite, DATA, 0) if direct and call == "write_from" else file.fsync
    error = raises(OSError, Task(save).result, match="stale file handle")
    assert (error.errno, isinstance(error, ConflictError)) == (errno.ESTALE, False)
    assert len(rig.backend.seen(call)) == 1
    rig.backend.clear_faults()
    file.pwrite(DATA[:PAGE], 0)
    if direct and call == "commit":
        raises(DataLossError, file.fsync)
    rig.volume.retry_failed()
    file.fsync()


def other_volume(rig: Rig, name: str, **limits: Any) -> tuple[RecordingBackend, Volume]:
    backend = RecordingBackend({KEY: b""}, **limits)
    return backend, rig.cache.attach(backend, name=name, read_ahead=0)


@pytest.mark.parametrize("timeout", [None, 100.0])
def test_untrusted_volumes_are_waited_for_side_by_side(make: Make, clock: HandClock, timeout: float | None) -> None:
    """Until `sync_timeout`, which is one for all, however long the caller would wait; the I/O goes on. [T-41]"""
    rig = make({KEY: b""})
    dead = [other_volume(rig, f"dead {k}", trusted=False, sync_timeout=0.2) for k in range(8)]
    files, gates = [], []
    for backend, volume in dead:
        gates += hang(backend, "write_from")
        files.append(volume.open(KEY, "r+b"))
        files[-1].pwrite(DATA, 0)
    rig.open().pwrite(DATA, 0)
    syncing = Task(rig.cache.sync, timeout)
    for gate in gates:
        gate.wait_entered()
    clock.advance(0.2)  # once, for all of them
    caught = raises(WritebackError, syncing.result)
    assert sum(isinstance(error, TimeoutError) for error in caught.exceptions) == 8
    assert rig.backend.committed(KEY) == DATA
    for backend, _volume in dead:
        backend.open_all_gates()
        eventually(lambda backend=backend: backend.written(KEY) == DATA)  # type: ignore[misc]
    for file in files:
        file.close()


def test_fsync_beside_a_writer_that_dirties_a_large_folio_again_and_again_ends(make: Make) -> None:
    """Bytes dirtied beside the write-back of a folio count as later. [T-76]"""
    rig, file = make({KEY: b""}, "32MiB", limits={"max_write": "64KiB"}).written(bytes(2 << 20), 0)
    file.fsync()
    assert rig.cache.stats().folios == 1
    over = threading.Event()

    def write() -> None:
        for k in itertools.takewhile(lambda _: not over.is_set(), itertools.count()):
            file.pwrite(pattern(1000, 5), k % 2000 * 1000)

    writing = Task(write)
    for _ in range(5):
        Task(file.fsync).result()
    over.set()
    writing.result()


@pytest.mark.parametrize("end", ["fsync", "close"])
def test_an_extending_writer_loses_no_byte_to_fsync_and_close(make: Make, end: str) -> None:
    """Neither ever cuts the file at a size that it saw before. [T-45a]"""
    rig, writer = make({KEY: b""}, limits={"max_write": "16KiB"}).opened("r+b")
    record = pattern(700)

    def extend() -> None:
        for _ in range(800):
            writer.append(record)

    task = Task(extend)
    while not task.finished.is_set():
        other = rig.volume.open(KEY, "r+b")
        other.fsync() if end == "fsync" else None
        other.close()
    task.result()
    if end == "close":
        writer.close()
        rig.volume.sync(20)
    else:
        writer.fsync()
    assert rig.backend.committed(KEY) == record * 800
    assert rig.backend.seen("truncate") == []


def test_a_dead_volume_stops_no_other_volume(make: Make) -> None:
    """All its calls hang; another volume opens, reads, writes, syncs, and its old data is written back. [T-62]"""
    dead = make(dict.fromkeys((KEY, "dirty", "abandoned"), DATA), dirty_expire=0.05, flush_interval=0.02)
    dirty, abandoned = (dead.dirtied(DATA, 0, key=key) for key in ("dirty", "abandoned"))
    clean = dead.open("rb")
    hang(dead.backend)
    users: list[Task[Any]] = [
        Task(clean.pread, 10, 2 * PAGE),
        Task(dirty.fsync),
        Task(dead.volume.sync),
        Task(lambda: dead.volume.open("another", "w+b").close()),
        Task(dead.volume.stat, KEY),
        Task(dead.volume.begin_sync().wait),
        Task(dead.volume.rename, "nobody", "nowhere"),
    ]
    abandoned.abandon()
    backend, volume = other_volume(dead, "healthy")

    def use() -> None:
        with volume.open(KEY, "r+b") as file:
            file.pwrite(DATA, 0)
            eventually(lambda: backend.written(KEY) == DATA)  # by the flusher
            file.pwrite(b"x", 0)
            file.fsync()
            volume.drop_clean()
            assert file.pread(len(DATA), 0) == b"x" + DATA[1:]
            file.pwrite(b"y", 0)
            volume.sync()
            volume.rename(KEY, "renamed")
            volume.begin_sync().wait()
        volume.detach()

    Task(use).result()
    assert backend.committed("renamed") == b"y" + DATA[1:]
    assert not any(user.finished.is_set() for user in users)
    dead.backend.open_all_gates()
    for user in users:
        user.finished.wait(30)


def test_two_syncs_a_rename_and_a_hung_file_side_by_side(make: Make) -> None:
    """Healthy files go on, nothing deadlocks, and the syncs end when the file does. [T-72]"""
    rig = make(dict.fromkeys(("hung", "a", "b"), b""))
    files = {name: rig.open(key=name) for name in ("hung", "a", "b")}
    for file in files.values():
        file.pwrite(DATA, 0)
    gate = rig.backend.gate("write_from", "hung")
    syncs = [Task(rig.volume.sync), Task(rig.volume.sync)]
    gate.wait_entered()
    renames = [Task(rig.volume.rename, "a", "moved"), Task(rig.volume.rename, "hung", "hung too")]
    renames[0].result()
    files["a"].pwrite(b"after", 0)
    Task(files["a"].fsync).result()
    files["b"].pwrite(b"b", 0)
    Task(files["b"].fsync).result()
    assert rig.backend.committed("moved") == b"after" + DATA[5:]
    assert all(sync.waits(0.02) for sync in syncs)
    gate.open()
    for task in (*syncs, *renames):
        task.result()
    assert rig.backend.committed("hung too") == DATA


# One call for each page, one after the other, so that a gate can release them one by one.
STEPS = {"max_write": PAGE, "ordered_writes": True, "max_inflight": 2}
COUNT = 8


def stepping(backend: RecordingBackend, key: str = KEY, count: int = COUNT) -> list[Gate]:
    return [backend.gate("write_from", key) for _ in range(count)]


def gone_through(gates: list[Gate], number: int) -> None:
    """Let that many calls go on; the next one has come, so all of them have been answered."""
    for gate in gates[:number]:
        gate.open()
    gates[number].wait_entered()


def until(ticket: SyncTicket, condition: Callable[[], object]) -> None:
    """Wait while time stands still, so that no other thread moves the ticket on."""
    eventually(lambda: ticket.done() or condition())
    assert condition()


def written(make: Make, **limits: object) -> Rig:
    rig, _ = make({KEY: b""}, limits={**STEPS, **limits}, max_folio="4KiB").written(pattern(COUNT * PAGE), 0)
    return rig


def test_rate_and_expected_end_follow_what_the_backend_acknowledges(make: Make, clock: HandClock) -> None:
    """Nothing is known at first; then bytes over the last seconds. A backend that hangs has no rate. Later writes to
    other pages of the file do not count. [2.15]
    """
    rig = written(make, durable_writes=True)
    gates = stepping(rig.backend)
    ticket = rig.volume.begin_sync()
    gates[0].wait_entered()
    rig.handles[0].pwrite(b"later" * PAGE, 2 * COUNT * PAGE)
    assert (ticket.rate, ticket.expected, ticket.errors) == (0.0, None, ())
    clock.advance(2.0)
    gone_through(gates, 4)
    assert (ticket.remaining, ticket.rate, ticket.expected) == (4 * PAGE, 2.0 * PAGE, 2.0)
    clock.advance(2.0)
    gone_through(gates, 7)
    assert (ticket.remaining, ticket.rate, ticket.expected) == (PAGE, 7 * PAGE / 4.0, 4 / 7)
    rates = []
    for _ in range(8):  # the backend hangs
        clock.advance(1.0)
        rates.append(ticket.rate)
    assert rates == sorted(rates, reverse=True)
    assert (rates[0] > PAGE, rates[-1], ticket.expected) == (True, 0.0, None)
    gates[7].open()
    ticket.wait(20)
    assert (ticket.remaining, ticket.expected, ticket.errors) == (0, 0.0, ())
    assert rig.volume.dirty_ranges(KEY) == [(2 * COUNT * PAGE, 5 * PAGE)]


@pytest.mark.parametrize("whole", [False, True])
def test_a_commit_that_fails_takes_no_progress_back(make: Make, clock: HandClock, whole: bool) -> None:
    """All of it remains until one succeeds; bytes sent again count as in flight once more. [2.15, E7]"""
    rig = written(make, commit_on_close=whole)
    rig.backend.fault("commit", failing_commit(OSError(errno.EIO, "no")))
    commit = rig.backend.gate("commit")
    ticket = rig.volume.begin_sync()
    until(ticket, lambda: commit.nr_entered)
    clock.advance(1.0)
    assert (ticket.remaining, ticket.rate, ticket.expected) == (COUNT * PAGE, COUNT * PAGE, None)
    again = rig.backend.gate("write_from")
    commit.open()

    def sent_again() -> bool:
        clock.advance(0.01)  # after a delay
        return again.nr_entered > 0

    until(ticket, sent_again)
    clock.advance(1.0)
    assert ticket.remaining == COUNT * PAGE
    assert ticket.expected == pytest.approx(COUNT * PAGE / ticket.rate)
    again.open()
    ticket.wait(20)
    assert (ticket.total, ticket.remaining) == (COUNT * PAGE, 0)


@pytest.mark.parametrize("aborted", [False, True])
def test_unsaved_bytes_remain(make: Make, clock: HandClock, aborted: bool) -> None:
    """While the rest goes on, and afterwards; the error is reported at once, and stays after an abort. [2.15, 2.22]"""
    limits = {**STEPS, "durable_writes": not aborted}
    rig = make({"bad": b"", "good": b""}, limits=limits, retry=ONCE, max_folio="4KiB")
    rig.open(key="bad").pwrite(pattern(3 * PAGE), 0)
    rig.open(key="good").pwrite(pattern(COUNT * PAGE), 0)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), key="bad", times=3)
    gates = stepping(rig.backend, "good")
    ticket = rig.volume.begin_sync()
    until(ticket, lambda: ticket.errors)
    gone_through(gates, 4)
    clock.advance(1.0)
    assert not ticket.done()
    assert [type(error) for error in ticket.errors] == [WritebackError]
    assert ticket.rate == 4 * PAGE
    if aborted:
        rig.volume.abort(OSError(errno.ENODEV, "unplugged"))
        assert ticket.done()
        # The acknowledged bytes are not committed, so all of it remains.
        assert (ticket.remaining, ticket.rate, ticket.expected) == (ticket.total, 4 * PAGE, 0.0)
        assert [type(error) for error in ticket.errors] == [WritebackError, ShutdownError]
        raises(ShutdownError, ticket.wait, 20, match="unplugged")
    else:
        assert (ticket.remaining, ticket.expected) == (7 * PAGE, 1.0)
    for gate in gates:
        gate.open()
    if not aborted:
        raises(WritebackError, ticket.wait, 20)
        assert (ticket.total, ticket.remaining, ticket.expected) == (11 * PAGE, 3 * PAGE, 0.0)
        rig.volume.sync(20)
        assert ticket.remaining == 3 * PAGE  # of this ticket: it has ended


def test_a_file_that_is_removed_no_longer_counts_as_remaining(make: Make, clock: HandClock) -> None:
    """Its remaining bytes are no progress: they were not acknowledged. [2.15, 2.20]"""
    rig = make({"gone": b"", KEY: b""}, limits={**STEPS, "durable_writes": True}, max_folio="4KiB")
    rig.open(key="gone").pwrite(pattern(100 * PAGE), 0)
    rig.open().pwrite(pattern(COUNT * PAGE), 0)
    held, gates = rig.backend.gate("write_from", "gone"), stepping(rig.backend)
    ticket = rig.volume.begin_sync()
    held.wait_entered()
    gone_through(gates, 2)
    removing = Task(rig.volume.remove, "gone")  # waits for the call in flight, which finds the object by its name
    held.open()
    removing.result()
    until(ticket, lambda: ticket.remaining <= 6 * PAGE)
    clock.advance(1.0)
    assert ticket.rate <= 4 * PAGE
    for gate in gates:
        gate.open()
    ticket.wait(20)
    assert ticket.remaining == 0


def handled(rig: Rig, monkeypatch: Patch, handler: Callable[[], object]) -> None:
    """Sync, with a signal handler inside the first advance of a ticket by this thread."""
    gate, genuine = rig.backend.gate("write_from"), SyncTicket._advance
    ran: list[bool] = []

    def advance(ticket: SyncTicket, *, first: bool) -> bool:
        if threading.current_thread() is threading.main_thread() and not ran:
            ran.append(True)
            gate.open()
            handler()
        return genuine(ticket, first=first)

    monkeypatch.setattr(SyncTicket, "_advance", advance)
    rig.volume.sync(20)
    assert ran


def test_a_ticket_that_is_begun_beside_a_signal_handler_ends(make: Make, monkeypatch: Patch) -> None:
    """The handler's sync ends the interrupted one, too. [2.15]"""
    rig, file = make({KEY: bytes(2 * PAGE)}).written(b"first", 0)
    later: list[SyncTicket] = []

    def handler() -> None:
        rig.volume.sync(20)
        file.pwrite(b"later", PAGE)
        later.append(rig.volume.begin_sync())  # as another thread does

    handled(rig, monkeypatch, handler)
    later[0].wait(20)


def test_a_signal_handler_syncs_bytes_that_fail_once(make: Make, monkeypatch: Patch) -> None:
    """The flusher, which retries, does not wait for the interrupted thread. [2.14, 2.15]"""
    rig, file = make({KEY: bytes(2 * PAGE)}).written(b"first", 0)

    def handler() -> None:
        rig.volume.sync(20)
        file.pwrite(b"later", PAGE)
        rig.backend.fault("write_from", OSError(errno.EIO, "once"))
        rig.volume.sync(20)

    handled(rig, monkeypatch, handler)
