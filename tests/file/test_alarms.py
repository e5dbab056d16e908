"""Alarms of docs/live.md: they fire while data cannot be saved, and fall silent when it is saved.

oldest_failed_seconds > 0      a write or commit has failed, and its data is not saved yet
oldest_dirty_seconds > 300     the same, and data whose write or commit does not end

Reads and backend calls count once, whichever thread makes them, and a call for no longer than it lasted.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pagecache import BackendError, ConflictError, DataLossError, RetryPolicy, WritebackError, aio
from pagecache.native import COMMIT_CALL, READ_CALL, WRITE_CALL
from pagecache.observe import documents

from ..aio.stores import Store
from ..stores import Action, ObjectBackend, RecordingBackend, failing_commit
from .clock import HandClock, after_flusher_turn
from .rig import FAST, KEY, PAGE, SAVES, Make, Rig, Task, at_gate, attached, eventually, pattern, raises, side_by_side

pytestmark = pytest.mark.usefixtures("far_from_retries")

DATA = pattern(2 * PAGE)
NEW = pattern(PAGE, 1)
POLICY = RetryPolicy(attempts=3, first_delay=0.1, max_delay=1.0, deadline=None, failed_retry=30.0)
SELDOM: dict[str, Any] = {"flush_interval": 3600.0, "stall_warn": 3600.0, "retry": POLICY}
LATE = 300.0
"""The limit of the second alarm."""

DOWN = OSError(errno.ECONNREFUSED, "down")
FULL = OSError(errno.ENOSPC, "full")
KEPT = BackendError(errno.EIO, "down", retry=True, kept=True)

STORES: dict[str, Callable[[], RecordingBackend]] = {
    "in place": lambda: RecordingBackend({KEY: b""}),
    "whole objects": lambda: ObjectBackend({KEY: b""}),
}

Faults = list[tuple[str, Action]]
FAILURES: dict[str, Faults] = {
    "write, transient": [("write_from", DOWN)],
    "write, permanent": [("write_from", FULL)],
    "commit, transient": [("commit", failing_commit(DOWN, forget=False))],
    "commit, transient, kept": [("commit", failing_commit(KEPT, forget=False))],
    "commit, permanent": [("commit", failing_commit(FULL, forget=False))],
    "both": [("write_from", DOWN), ("commit", failing_commit(DOWN, forget=False))],
}


def alarms(rig: Rig) -> tuple[bool, bool]:
    """Whether the alarms of failed and of old data fire."""
    (volume,) = documents.stats(rig.cache)["volumes"]
    oldest = volume["oldest"]
    return (oldest["failed"] or 0.0) > 0, (oldest["dirty"] or 0.0) > LATE


def is_silent(rig: Rig) -> bool:
    reports = (rig.volume.failed(), rig.volume.stats().failed, rig.cache.stats().failed)
    return alarms(rig) == (False, False) and reports == ([], 0, 0)


def is_reported(rig: Rig) -> bool:
    """Whether all of the data counts as failed."""
    ranges = [(r.key, r.offset, r.length) for r in rig.volume.failed()]
    failed = (rig.volume.stats().failed, rig.cache.stats().failed)
    return ranges == [(KEY, 0, len(DATA))] and failed == (len(DATA), len(DATA))


def fails(rig: Rig, clock: HandClock, save: Callable[[], object]) -> OSError:
    """The error of a save that fails, with the time that its retries take."""
    task = Task(save)
    clock.until(task.finished.is_set)
    return raises(WritebackError, task.result)


def in_time(clock: HandClock, condition: Callable[[], object]) -> None:
    """Let time pass, some seconds at once, until something has happened."""

    def happened() -> object:
        clock.advance(0.5)
        return condition()

    eventually(happened)


def bring_down(rig: Rig, failure: str) -> None:
    for op, action in FAILURES[failure]:
        rig.backend.fault(op, action, times=float("inf"))


@pytest.mark.parametrize("save", ["fsync", "close", "sync", "ticket"])
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("store", STORES)
def test_alarms_fire_until_a_save_succeeds(make: Make, clock: HandClock, store: str, failure: str, save: str) -> None:
    """The cache tries again by itself, without another call of the program. [2.14, 2.16, 2.27]"""
    rig, file = make(backend=STORES[store](), options={"sync_on_close": True}, **SELDOM).written(DATA, 0)
    bring_down(rig, failure)
    fails(rig, clock, partial(SAVES[save], rig, file))
    for seconds in (1.0, 100.0, LATE):
        clock.advance(seconds)
        after_flusher_turn(rig.cache)
        assert alarms(rig)[0]
        eventually(lambda: is_reported(rig))  # the retry of this turn may move bytes between two counters
    assert alarms(rig) == (True, True)
    assert rig.backend.committed(KEY) == b""
    rig.backend.clear_faults()
    in_time(clock, lambda: is_silent(rig))
    assert rig.backend.committed(KEY) == DATA


@pytest.mark.parametrize("op", ["write_from", "commit"])
@pytest.mark.parametrize("store", STORES)
def test_the_alarm_of_old_data_fires_while_a_call_hangs(make: Make, clock: HandClock, store: str, op: str) -> None:
    """Bytes in a running write, or waiting for a running commit, are not saved. [2.27]"""
    rig, file = make(backend=STORES[store](), **SELDOM).written(DATA, 0)
    with rig.backend.gate(op) as gate:
        _, task = at_gate(gate, file.fsync)
        clock.advance(LATE / 2)
        assert alarms(rig) == (False, False)
        clock.advance(LATE)
        assert alarms(rig) == (False, True)
    task.result()
    assert is_silent(rig)


def test_the_alarm_of_old_data_fires_beside_new_data(make: Make, clock: HandClock) -> None:
    """Later writes make bytes in a running call no younger; data that is saved in time is never old. [2.11, 2.27]"""
    rig, file = make(backend=STORES["in place"](), **{**SELDOM, "dirty_expire": 30.0}).opened("r+b")

    def write(page: int) -> None:
        file.pwrite(NEW, page * PAGE)
        after_flusher_turn(rig.cache)
        clock.advance(31.0)
        after_flusher_turn(rig.cache)

    for page in range(20):
        write(page)
        eventually(lambda: alarms(rig) == (False, False))  # once the pass has begun that the turn has asked for
    with rig.backend.gate("write_from") as gate:
        write(0)
        gate.wait_entered()
        for page in range(20):
            write(4 + page)
        assert alarms(rig) == (False, True)
    file.fsync()
    assert is_silent(rig)


@pytest.mark.parametrize("kept", [", kept", ""], ids=["acknowledged", "dirty"])
@pytest.mark.parametrize("how", ["write", "truncate", "view"])
def test_a_changed_object_is_not_published_by_a_retry(make: Make, clock: HandClock, how: str, kept: str) -> None:
    """Changes after the fsync are published by the next one, or by close. Until then the alarm fires. [2.22]"""
    rig, file = make(backend=STORES["whole objects"](), **SELDOM).written(DATA, 0)
    view = file.view(PAGE, PAGE, writable=True) if how == "view" else None
    bring_down(rig, f"commit, transient{kept}")
    fails(rig, clock, file.fsync)
    rig.backend.clear_faults()
    if view is not None:
        view.segments[0][:] = NEW
        view.release()
    elif how == "write":
        file.pwrite(NEW, PAGE)
    else:
        file.truncate(PAGE)
    for _ in range(5):
        clock.advance(POLICY.failed_retry or 0.0)
        after_flusher_turn(rig.cache)
    assert rig.backend.committed(KEY) == b""
    assert alarms(rig)[0]
    (failed, *_) = rig.volume.failed()
    assert failed.next_retry is None
    file.close()
    assert rig.backend.committed(KEY) == (DATA[:PAGE] if how == "truncate" else DATA[:PAGE] + NEW)
    assert is_silent(rig)


@pytest.mark.parametrize("store", STORES)
def test_a_commit_that_fails_after_its_caller_has_gone_is_tried_again(make: Make, clock: HandClock, store: str) -> None:
    """The deadline ends the wait, not the save. [2.14, 2.15]"""
    rig, file = make(backend=STORES[store](), **SELDOM).written(DATA, 0)
    rig.backend.fault("commit", failing_commit(KEPT, forget=False))
    with rig.backend.gate("commit") as gate:
        _, task = at_gate(gate, file.fsync, timeout=1.0)
        clock.advance(2.0)
        raises(TimeoutError, task.result)
    in_time(clock, lambda: rig.backend.committed(KEY) == DATA and is_silent(rig))


@pytest.mark.parametrize("call", ["discard", "remove", "retry_failed"])
@pytest.mark.parametrize("store", STORES)
def test_data_given_up_or_saved_on_request_raises_no_alarm(make: Make, clock: HandClock, store: str, call: str) -> None:
    """Bytes that a store in place has got are committed by the next try. [2.14, 2.16, 2.20]"""
    retry = POLICY if call == "discard" else FAST
    rig, file = make(backend=STORES[store](), **{**SELDOM, "retry": retry}).written(DATA, 0)
    bring_down(rig, "commit, transient, kept")
    fails(rig, clock, file.fsync)
    (failed,) = rig.volume.failed()
    assert (failed.errno, failed.attempts, failed.next_retry is None) == (errno.EIO, retry.attempts, retry is FAST)
    rig.backend.clear_faults()
    getattr(rig.volume, call)(KEY)
    in_time(clock, lambda: is_silent(rig))
    assert call != "retry_failed" or rig.backend.committed(KEY) == DATA


@pytest.mark.parametrize("end", ["rebase", "force", "discard"])
@pytest.mark.parametrize("notice", ["open", "fsync", "announced"])
@pytest.mark.parametrize("store", STORES)
def test_alarms_fire_until_a_conflict_is_over(make: Make, clock: HandClock, store: str, notice: str, end: Any) -> None:
    """Local bytes of a conflict are not saved. [2.16, 2.19, 2.27]"""
    rig, file = make(backend=STORES[store](), **SELDOM).written(DATA, 0)
    if notice == "fsync" and store == "in place":
        rig.backend.fault("write_from", OSError(errno.ESTALE, "another version"))
    getattr(rig.backend, "put", rig.backend.change_remotely)(KEY, NEW)
    with pytest.raises(ConflictError):
        if notice == "open":
            rig.open("rb")
        elif notice == "announced":
            rig.volume.invalidate_remote(KEY)
        file.fsync()
    eventually(lambda: rig.volume.stats().failed == len(DATA))
    clock.advance(2 * LATE)
    assert alarms(rig) == (True, True)
    assert [(r.offset, r.length, r.next_retry) for r in rig.volume.failed()] == [(0, len(DATA), None)]
    rig.volume.resolve(KEY, end)
    if end == "discard":
        raises(DataLossError, file.fsync)
    file.fsync()
    eventually(lambda: is_silent(rig))


NAMES = ("read", "write", "commit")


def counts(volume: Any) -> dict[str, int]:
    """Calls that ended, by kind."""
    return {name: sum(volume.engine.native.latency(call)[0]) for name, call in zip(NAMES, range(3), strict=True)}


OPS = ("read_into", "write_from", "commit")


def test_a_call_counts_for_as_long_as_it_lasts_and_not_before_it_ends(make: Make) -> None:
    """Those of a mirror do not count."""
    mirror = RecordingBackend({KEY: b"x"})
    rig = make({KEY: b"x"}, options={"mirror": mirror})
    for op, call, act in (
        ("read_into", READ_CALL, lambda f: f.pread(1, 0)),
        ("write_from", WRITE_CALL, lambda f: (f.pwrite(b"y", 0), f.flush())),
        ("commit", COMMIT_CALL, lambda f: f.fsync()),
    ):
        began = time.monotonic()
        gate, running = at_gate(rig.backend.gate(op), act, rig.open())
        entered = time.monotonic()
        time.sleep(0.02)  # gives the call a length; no event is awaited
        assert sum(rig.volume.engine.native.latency(call)[0]) == 0
        released = time.monotonic()
        running.result(opening=gate)
        found, total = rig.volume.engine.native.latency(call)
        assert sum(found) == 1
        assert released - entered <= total <= time.monotonic() - began
    eventually(lambda: mirror.seen("write_from"))
    assert counts(rig.volume) == dict.fromkeys(NAMES, 1)


def test_a_call_that_fails_counts_and_the_pause_before_the_next_does_not(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = RetryPolicy(attempts=3, first_delay=10.0, max_delay=10.0, deadline=60.0, failed_retry=None)
    rig = make({KEY: b"x"}, retry=policy)
    paused = 0.0

    def pause(*_: object) -> None:
        nonlocal paused
        began = time.monotonic()
        time.sleep(0.05)  # gives the pause a length; no event is awaited
        paused += time.monotonic() - began

    monkeypatch.setattr(rig.volume.engine, "sleep", pause)
    rig.backend.fault("read_into", OSError(errno.EIO, "later"), times=2)
    file = rig.open()
    began = time.monotonic()
    assert file.pread(1, 0) == b"x"
    calls = time.monotonic() - began - paused
    found, total = rig.volume.engine.native.latency(READ_CALL)
    assert sum(found) == 3
    assert paused > 0.05
    assert total <= calls


@pytest.mark.parametrize("parallel", [False, True])
def test_direct_reads_and_writes_count(make: Make, parallel: bool) -> None:
    rig = make({KEY: b"x" * 4 * PAGE}, limits={"parallel_direct_writes": parallel})
    f = rig.dirtied(b"y" * PAGE, 0, direct=True, parallel_direct_writes=parallel)
    f.pread(PAGE, 2 * PAGE)
    seen = {name: len(rig.backend.seen(op)) for name, op in zip(NAMES, OPS, strict=True)}
    assert counts(rig.volume) == seen
    assert seen["read"] >= 1
    assert seen["write"] >= 1


def test_calls_of_an_asynchronous_backend_count() -> None:
    store = Store({KEY: b"x" * PAGE})
    with attached(store, "8MiB", options={"read_ahead": 0}) as volume:

        async def use() -> None:
            async with aio.open(volume, KEY, "r+") as f:
                await f.pread(PAGE, 0)
                await f.pwrite(b"y" * PAGE, 0)
                await f.fsync()

        asyncio.run(use())
        assert counts(volume) == {name: store.calls.count(op) for name, op in zip(NAMES, OPS, strict=True)}


def test_hits_and_misses_are_exact(make: Make) -> None:
    """Every read counts once, whatever runs beside it. [2.27]"""
    rig, file = make({KEY: pattern(64 * PAGE)}, capacity="1MiB", gil_release=PAGE).opened("rb")

    def read(first: int) -> None:
        for number in range(2000):
            file.pread(PAGE * (1 + number % 2), (first * 7 + number) % 62 * PAGE)

    side_by_side(read)
    stats = rig.volume.stats()
    assert stats.hits + stats.misses == 8 * 2000
    assert stats.misses <= 64 * 8
