"""Hanging calls are reported: which call, since when, and once."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from pagecache import Event

from .clock import HandClock, after_flusher_turn
from .rig import KEY, PAGE, Make, Rig, Task, at_gate, eventually

# ---------------------------------------------------------------------------------------------- stalls


@pytest.mark.parametrize("op", ["write_from", "read_into", "commit"])
def test_a_stall_is_said_once(make: Make, clock: HandClock, caplog: pytest.LogCaptureFixture, op: str) -> None:
    """stall_warn seconds without a completion while calls run: one event and one line; again after progress. [2.27]"""
    rig = make({KEY: bytes(64 * PAGE)}, stall_warn=10.0, flush_interval=1.0)
    events: list[Event] = []
    rig.cache.subscribe(events.append)

    def stalled() -> int:
        return sum(event.kind == "stalled" for event in events)

    file = rig.open()
    for times in (1, 2):
        gate = rig.backend.gate(op)
        file.pwrite(b"x", 0)
        task = Task(file.pread, PAGE, 10 * times * PAGE) if op == "read_into" else Task(file.fsync)
        gate.wait_entered()
        after_flusher_turn(rig.cache)
        clock.advance(9.9)
        after_flusher_turn(rig.cache)
        after_flusher_turn(rig.cache)
        assert stalled() == times - 1
        with caplog.at_level(logging.WARNING, "pagecache"):
            clock.advance(0.2)
            eventually(lambda times=times: stalled() == times)  # type: ignore[misc]
            clock.advance(100.0)
            after_flusher_turn(rig.cache)
            after_flusher_turn(rig.cache)
        assert stalled() == times
        assert sum("none has ended for 10 seconds" in record.getMessage() for record in caplog.records) == times
        task.result(opening=gate)
    assert {event.volume for event in events if event.kind == "stalled"} == {"volume"}


def test_calls_that_end_are_no_stall_and_nothing_that_runs_is_none(make: Make, clock: HandClock) -> None:
    """An idle volume never reports one, nor does a volume with a completion now and then. [2.27]"""
    rig = make({KEY: bytes(64 * PAGE)}, stall_warn=10.0, flush_interval=1.0)
    events: list[Event] = []
    rig.cache.subscribe(events.append)
    file = rig.open()
    after_flusher_turn(rig.cache)
    clock.advance(100.0)
    after_flusher_turn(rig.cache)
    with rig.backend.gate("read_into") as gate:
        _, hung = at_gate(gate, file.pread, PAGE, 0)
        for page in range(2, 12):
            clock.advance(6.0)
            after_flusher_turn(rig.cache)
            file.pread(PAGE, page * PAGE)
        after_flusher_turn(rig.cache)
    hung.result()
    after_flusher_turn(rig.cache)
    assert events == []


NAME_CALLS: dict[str, Callable[[Rig, str], object]] = {
    "open": lambda rig, key: rig.open(key=key),
    "stat": lambda rig, key: rig.volume.stat(key),
    "remove": lambda rig, key: rig.volume.remove(key),
    "rename": lambda rig, key: rig.volume.rename(key, "another"),
    "truncate": lambda rig, key: rig.open(key=key).truncate(10),
    "list": lambda rig, key: [*rig.volume.list()],
}


@pytest.mark.parametrize("call", NAME_CALLS)
def test_a_hanging_call_is_named(make: Make, clock: HandClock, caplog: pytest.LogCaptureFixture, call: str) -> None:
    """Each call is reported once, though other calls end at the same time; quick ones are not reported. [2.24, 2.27]"""
    rig = make({KEY: bytes(64 * PAGE), "one": b"1", "two": b"2"}, stall_warn=10.0, flush_interval=1.0)
    events: list[Event] = []
    rig.cache.subscribe(events.append)
    file = rig.open()
    expected: list[tuple[str, str, str | None]] = []
    lines: list[str] = []
    for key in ("one", "two"):
        gate, task = at_gate(rig.backend.gate(call), NAME_CALLS[call], rig, key)
        after_flusher_turn(rig.cache)
        clock.advance(9.9)
        file.pread(PAGE, 10 * len(lines) * PAGE)
        after_flusher_turn(rig.cache)
        assert len(events) == len(expected)
        expected.append(("stalled", "volume", None if call == "list" else key))
        of = "" if call == "list" else f" of {key!r}"
        next = "nothing is given up; it is waited for until it ends, or `abort`"
        lines.append(f"volume: {call}{of} has run for 10 seconds and has not ended; {next}")
        with caplog.at_level(logging.WARNING, "pagecache"):
            clock.advance(0.2)
            eventually(lambda: len(events) == len(expected))
            clock.advance(100.0)
            after_flusher_turn(rig.cache)
            after_flusher_turn(rig.cache)
        assert [(event.kind, event.volume, event.key) for event in events] == expected
        assert [record.getMessage() for record in caplog.records] == lines
        task.result(opening=gate)
