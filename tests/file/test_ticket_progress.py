"""Progress of a sync: the values that a display reads from a ticket, in time that only the test moves."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pagecache import ShutdownError, SyncTicket, WritebackError

from ..stores import Gate, RecordingBackend, failing_commit
from .clock import HandClock
from .rig import KEY, ONCE, PAGE, Make, Rig, Task, eventually, pattern, raises

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
    rig = make({KEY: b""}, limits={**STEPS, **limits}, max_folio="4KiB")
    rig.open().pwrite(pattern(COUNT * PAGE), 0)
    return rig


def test_rate_and_expected_end_follow_what_the_backend_acknowledges(make: Make, clock: HandClock) -> None:
    """Nothing is known at first; then bytes of the ticket over the seconds since. [2.15]"""
    rig = written(make, durable_writes=True)
    gates = stepping(rig.backend)
    ticket = rig.volume.begin_sync()
    gates[0].wait_entered()
    assert (ticket.rate, ticket.expected, ticket.errors) == (0.0, None, ())
    clock.advance(2.0)
    gone_through(gates, 4)
    assert (ticket.remaining, ticket.rate, ticket.expected) == (4 * PAGE, 2.0 * PAGE, 2.0)
    clock.advance(2.0)
    gone_through(gates, 7)
    assert (ticket.remaining, ticket.rate, ticket.expected) == (PAGE, 7 * PAGE / 4.0, 4 / 7)
    gates[7].open()
    ticket.wait(20)
    assert (ticket.remaining, ticket.expected, ticket.errors) == (0, 0.0, ())


def test_a_rate_is_of_the_last_seconds(make: Make, clock: HandClock) -> None:
    """A hanging backend has no rate, and no end can be expected."""
    rig = written(make, durable_writes=True)
    gates = stepping(rig.backend)
    ticket = rig.volume.begin_sync()
    gone_through(gates, 4)
    rates = []
    for _ in range(8):
        clock.advance(1.0)
        rates.append(ticket.rate)
    assert rates[0] == 4 * PAGE
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0.0
    assert ticket.expected is None
    assert ticket.remaining == 4 * PAGE


def test_bytes_count_before_the_commit_that_makes_them_safe(make: Make, clock: HandClock) -> None:
    """If an object appears by commit, all of it remains until then, and yet it moves. [2.15]"""
    rig = written(make, commit_on_close=True)
    gates, commit = stepping(rig.backend), rig.backend.gate("commit")
    ticket = rig.volume.begin_sync()
    gone_through(gates, 4)
    clock.advance(1.0)
    assert (ticket.remaining, ticket.rate, ticket.expected) == (COUNT * PAGE, 4 * PAGE, 1.0)
    for gate in gates:
        gate.open()
    until(ticket, lambda: commit.nr_entered)
    clock.advance(1.0)
    assert (ticket.remaining, ticket.rate, ticket.expected) == (COUNT * PAGE, 4 * PAGE, None)
    commit.open()
    ticket.wait(20)
    assert (ticket.remaining, ticket.expected) == (0, 0.0)


def test_a_commit_that_fails_takes_no_progress_back(make: Make, clock: HandClock) -> None:
    """All of it remains until one succeeds; bytes sent again count as in flight once more. [2.15, E7]"""
    rig = written(make)
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


def test_unsaved_bytes_remain(make: Make, clock: HandClock) -> None:
    """They remain while the rest goes on, and afterwards; the error is reported as soon as it is known. [2.15, 2.16]"""
    rig = make({"bad": b"", "good": b""}, limits={**STEPS, "durable_writes": True}, retry=ONCE, max_folio="4KiB")
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
    assert (ticket.remaining, ticket.rate, ticket.expected) == (7 * PAGE, 4 * PAGE, 1.0)
    for gate in gates:
        gate.open()
    raises(WritebackError, ticket.wait, 20)
    assert (ticket.total, ticket.remaining, ticket.expected) == (11 * PAGE, 3 * PAGE, 0.0)
    rig.volume.sync(20)
    assert ticket.remaining == 3 * PAGE  # of this ticket: it has ended


def test_a_ticket_of_an_aborted_volume_keeps_what_remains(make: Make, clock: HandClock) -> None:
    """The outcome of the running call is unknown; the earlier error is still there. [2.22]"""
    rig = make({"bad": b"", KEY: b""}, limits=STEPS, retry=ONCE, max_folio="4KiB")
    rig.open(key="bad").pwrite(pattern(PAGE), 0)
    rig.open().pwrite(pattern(COUNT * PAGE), 0)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), key="bad")
    gates = stepping(rig.backend)
    ticket = rig.volume.begin_sync()
    until(ticket, lambda: ticket.errors)
    gone_through(gates, 2)
    clock.advance(1.0)
    assert ticket.rate == 2 * PAGE
    rig.volume.abort(OSError(errno.ENODEV, "unplugged"))
    assert ticket.done()
    # The acknowledged bytes are not committed, so all of it remains.
    assert (ticket.remaining, ticket.rate, ticket.expected) == (ticket.total, 2 * PAGE, 0.0)
    assert [type(error) for error in ticket.errors] == [WritebackError, ShutdownError]
    raises(ShutdownError, ticket.wait, 20, match="unplugged")
    for gate in gates:
        gate.open()


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
