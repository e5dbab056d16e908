"""Retried bytes are divided anew, by the limits at that moment. Every wait for a retry goes on when the retry is due,
not when the flusher wakes for another reason.

The test moves the time to the moment at which the next retry is due, and no further. The flusher's other reasons to
wake lie far behind it.
"""

from __future__ import annotations

import dataclasses
import errno
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pagecache import BackendError, PageCache, RetryPolicy
from pagecache.engine.commit import overdue
from pagecache.engine.file import EngineFile
from pagecache.engine.retryer import decide
from pagecache.native import NativeInode

from ..stores import WAIT_LIMIT_S, RecordingFile
from .clock import HandClock, after_flusher_turn
from .rig import (
    FAST,
    KEY,
    PAGE,
    SAVES,
    Make,
    Patch,
    Rig,
    Task,
    at_gate,
    beside,
    eventually,
    held,
    pattern,
    raises,
    raising,
)

pytestmark = pytest.mark.usefixtures("far_from_retries")

DATA = pattern(16 * PAGE)


def test_a_pass_that_begins_while_the_limits_change_has_the_new_ones(make: Make, monkeypatch: Patch) -> None:
    """It does not begin before the thread that found them has passed them to the C core. [K5]"""
    rig, file = make({KEY: b""}, limits={"max_write": 4 * PAGE}).written(DATA, 0)
    engine = rig.volume.inodes[KEY]
    rig.backend.limits = dataclasses.replace(rig.backend.limits, max_write=PAGE)
    gate, first = at_gate(held(monkeypatch, NativeInode, "set_limits"), engine.refresh_limits)
    second = Task(file.fsync)
    assert second.waits()
    first.result(opening=gate)
    second.result()
    assert {call.length for call in rig.backend.seen("write_from")} == {PAGE}


def test_a_limit_of_one_object_is_its_own(make: Make) -> None:
    """`max_write` of an error counts for that object from then on, not for others. [T-32, 2.14]"""
    rig = make({KEY: b"", "other": b""}, limits={"max_write": 8 * PAGE})
    rig.backend.fault("write_from", BackendError(errno.EFBIG, "smaller", retry=True, max_write=3 * PAGE), key=KEY)
    for _ in range(2):
        rig.backend.forget_calls()
        for key in (KEY, "other"):
            file = rig.dirtied(DATA, 0, key=key)
            assert rig.saved(file, key) == DATA
    assert [call.length for call in rig.backend.seen("write_from", "other")] == [8 * PAGE] * 2
    assert sorted(call.length for call in rig.backend.seen("write_from", KEY)) == [PAGE, *[3 * PAGE] * 5]


def test_errors_of_different_ranges_do_not_add_up(make: Make) -> None:
    """Every request fails once, and none fails for good. [2.14]"""
    rig = make({KEY: b""}, limits={"max_write": PAGE}, retry=dataclasses.replace(FAST, attempts=2))
    failed: set[int] = set()

    def answer(file: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        if offset not in failed:
            failed.add(offset)
            raise OSError(errno.EAGAIN, "passing")
        return file.store(offset, buffers)

    rig.backend.fault("write_from", answer, times=float("inf"))
    file = rig.dirtied(DATA, 0)
    assert rig.saved(file) == DATA


@pytest.mark.parametrize(
    ("deadline", "asked", "delay"),
    [
        *[(120.0, 60.0, 60.0), (120.0, 1e300, 90.0), (120.0, -1.0, 0.0), (None, 5.0, 5.0), (None, 1e300, 10.0)],
        *[(120.0, asked, 0.05) for asked in (math.nan, math.inf, -math.inf)],
    ],
)
def test_a_delay_a_backend_asks_for_ends_within_the_policy(deadline: float | None, asked: float, delay: float) -> None:
    """Thirty seconds have passed. A huge one is bounded; what is no number of seconds is ignored. [2.14]"""
    error = BackendError(errno.EBUSY, "slow down", retry=True, retry_after=asked)
    assert decide(RetryPolicy(deadline=deadline), error, 2, 30.0, 0.5) == delay


PATIENT = RetryPolicy(attempts=9, first_delay=1.0, max_delay=20.0, deadline=None, failed_retry=3000.0)
SELDOM: dict[str, Any] = {"flush_interval": 3600.0, "stall_warn": 3600.0, "retry": PATIENT}
WAITS = SAVES | {"truncate and fsync": lambda rig, file: (file.truncate(PAGE), file.fsync())}


def attempts(rig: Rig, key: str = KEY) -> int:
    return max((failure.attempts for failure in rig.volume.inodes[key].failures), default=0)


def next_retry(rig: Rig, key: str = KEY) -> float:
    engine = rig.volume.inodes[key]
    with engine.lock:
        found = engine.failures.next_retry()
    assert found is not None
    return found


def fail_in_time(rig: Rig, clock: HandClock, failures: int, waiting: Callable[[], Task[Any]], *, late: bool) -> None:
    """Make that many writes of KEY fail, and let time pass until each retry is due, no further.

    Args:
        late: a write fails when the flusher sleeps again, not at once.
    """
    rig.backend.fault("write_from", OSError(errno.EIO, "passing"), key=KEY, times=failures)
    gate = rig.backend.gate("write_from", KEY)
    task = waiting()
    for number in range(1, failures + 1):
        gate.wait_entered()
        gate, entered = rig.backend.gate("write_from", KEY), gate
        if late:
            after_flusher_turn(rig.cache)
        entered.open()
        eventually(lambda number=number: attempts(rig) == number)  # type: ignore[misc]
        clock.time = max(clock.time, next_retry(rig))
    task.result(opening=gate)


@pytest.mark.parametrize("late", [False, True], ids=["fails at once", "fails when the flusher sleeps"])
@pytest.mark.parametrize("failures", [2, 3])
@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_ends_when_the_retry_is_due(make: Make, clock: HandClock, wait: str, failures: int, late: bool) -> None:
    """Every kind of retry begins when its delay has passed. [2.14, 2.26]"""
    rig, file = make({KEY: b""}, **SELDOM).written(DATA, 0)
    fail_in_time(rig, clock, failures, lambda: Task(WAITS[wait], rig, file), late=late)


@pytest.mark.parametrize("jitter", [1e-5, 5e-4, 0.9])
def test_a_delay_that_is_nearly_nothing_is_not_rounded_up(make: Make, clock: HandClock, jitter: float) -> None:
    """A random delay may be shorter than the flusher's shortest pause. [2.14]"""
    rig = make({KEY: b""}, **SELDOM)
    rig.volume.engine.random = lambda: jitter
    file = rig.dirtied(DATA, 0)
    fail_in_time(rig, clock, 2, lambda: Task(file.fsync), late=False)


def test_a_file_is_tried_again_beside_one_that_is_parked(make: Make, clock: HandClock) -> None:
    """The flusher sleeps until the first of all retries, however late the others are. [2.14]"""
    rig = make({KEY: b"", "parked": b""}, **SELDOM)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), key="parked", times=float("inf"))
    rig.open("r+b", key="parked").pwrite(DATA, 0)
    raises(OSError, rig.handles[0].fsync, match="full")
    file = rig.dirtied(DATA, 0)
    fail_in_time(rig, clock, 3, lambda: Task(file.fsync), late=True)


def test_a_retry_that_the_flusher_was_not_told_does_not_wait_for_a_later_one_of_its_file(
    make: Make, clock: HandClock, monkeypatch: Patch
) -> None:
    """An interrupt or an internal error may come in between: whoever waits for the bytes tells it. [2.14]"""
    rig, file = make({KEY: b""}, **SELDOM).written(DATA, 0)
    engine = rig.volume.engine
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"))
    raises(OSError, file.fsync, match="full")
    assert engine.next_retry() == clock.now() + 3000.0
    rig.backend.fault("write_from", OSError(errno.EIO, "passing"))
    beside(monkeypatch, engine, "retry_by", raising(RuntimeError("broken")))
    file.pwrite(DATA, len(DATA))
    saving = Task(file.sync_range, len(DATA), len(DATA))
    eventually(lambda: (engine.next_retry() or 0.0) < clock.now() + 1000.0, timeout=10)
    clock.until(saving.finished.is_set)
    saving.result()


def test_a_save_that_fails_beside_the_end_of_an_earlier_failure_is_tried_again(
    make: Make, clock: HandClock, monkeypatch: Patch
) -> None:
    """The flusher has seen that what failed before was saved. [2.14, 2.16]"""
    rig, file = make({KEY: b""}, **SELDOM).written(DATA, 0)
    rig.backend.fault("commit", OSError(errno.ENOSPC, "full"))
    raises(OSError, file.fsync, match="full")
    genuine, failed_again = overdue.stands, threading.Event()

    def stands(engine: EngineFile) -> bool:
        if failed_again.is_set():
            return genuine(engine)
        Task(file.fsync).result()
        found = genuine(engine)
        failed_again.set()
        rig.backend.fault("commit", OSError(errno.ENOSPC, "full"))
        file.pwrite(DATA, len(DATA))
        raises(OSError, Task(file.fsync).result, match="full")
        return found

    monkeypatch.setattr(overdue, "stands", stands)
    clock.advance(3000.0)
    rig.cache.flusher.wake()
    assert failed_again.wait(WAIT_LIMIT_S)
    after_flusher_turn(rig.cache)
    clock.advance(3000.0)
    rig.cache.flusher.wake()
    eventually(lambda: rig.backend.committed(KEY) == DATA + DATA, timeout=10)


def test_a_sync_that_has_failed_for_a_file_leaves_its_tries_to_the_flusher(make: Make, clock: HandClock) -> None:
    """It goes on for another file, and makes no commit of the failed one. [2.14]"""
    rig, file = make({KEY: b"", "slow": b""}, **SELDOM).written(DATA, 0)
    file.flush()
    rig.dirtied(DATA, 0, key="slow")
    gate = rig.backend.gate("write_from", "slow")
    rig.backend.fault("commit", OSError(errno.EIO, "passing"), key=KEY)
    full = rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), key=KEY)
    ticket = rig.volume.begin_sync()
    clock.until(lambda: ticket.errors)
    assert not ticket.done()
    full.clear()
    clock.advance(3000.0)
    rig.cache.flusher.wake()
    eventually(lambda: rig.backend.committed(KEY) == DATA, timeout=10)
    gate.open()


def test_parked_data_is_tried_again_by_the_policy_of_now(make: Make, clock: HandClock) -> None:
    """A shorter `failed_retry` also counts for parked data; None ends the retries without a request. [2.14]"""
    rig = make({KEY: b""}, **SELDOM)
    fault = rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), times=float("inf"))
    rig.open("r+b").pwrite(DATA, 0)
    raises(OSError, rig.handles[0].fsync, match="full")
    assert [entry.next_retry for entry in rig.volume.failed()] == [3000.0]
    rig.cache.configure(retry=RetryPolicy(failed_retry=None))
    assert [entry.next_retry for entry in rig.volume.failed()] == [None]
    rig.cache.configure(retry=RetryPolicy(failed_retry=5.0))
    assert [entry.next_retry for entry in rig.volume.failed()] == [5.0]
    fault.clear()
    clock.advance(5.0)
    eventually(lambda: rig.backend.objects[KEY].written == DATA)


def test_a_commit_that_failed_is_tried_again_when_it_is_due(make: Make, clock: HandClock) -> None:
    """This includes a commit without a waiter, if acknowledged bytes fill the limit. [2.11, 2.14]"""
    rig = make({KEY: b""}, **SELDOM, dirty_limit="2MiB", dirty_background="1.9MiB")
    commits = rig.backend.fault("commit", OSError(errno.EIO, "passing"), times=1)
    file = rig.dirtied(bytes(3 << 19), 0)
    file.flush()
    after_flusher_turn(rig.cache)
    engine = rig.volume.inodes[KEY]
    eventually(lambda: commits.nr_hit == 1 and engine.commits.not_before > clock.now())
    file.flush()
    after_flusher_turn(rig.cache)
    clock.time = engine.commits.not_before
    eventually(lambda: rig.backend.committed(KEY) == bytes(3 << 19))


def test_a_reconnected_volume_is_looked_at_at_once(make: Make, clock: HandClock) -> None:
    """Data that grew old while the volume was aborted goes when it is live again. [2.11, 2.17]"""
    rig, _ = make({KEY: b""}, **SELDOM | {"flush_interval": 5.0}, dirty_expire=1.0).written(DATA, 0)
    rig.volume.abort()
    clock.advance(2.0)
    after_flusher_turn(rig.cache)
    rig.backend.forget_calls()
    rig.volume.reconnect(rig.backend)
    eventually(lambda: rig.backend.objects[KEY].written == DATA)


def test_a_wake_of_the_flusher_by_time_is_never_lost(make: Make, clock: HandClock) -> None:
    """It may come before, during or after a turn: a turn begins by the requested time. [2.26]"""
    rig = make({KEY: b""}, **SELDOM)
    cache: PageCache = rig.cache
    after_flusher_turn(cache)
    flusher, turns, plain = cache.flusher, [0], cache.flusher.turn

    def turn() -> float:
        turns[0] += 1
        if turns[0] == 1:
            asked = Task(flusher.wake_by, clock.now() + 1.0)
            asked.result()  # while a turn goes on that does not include it
        return plain()

    flusher.turn = turn  # type: ignore[method-assign]
    flusher.wake()
    eventually(lambda: turns[0] >= 2)
    del flusher.turn
    after_flusher_turn(cache)
    assert flusher.next_turn > clock.now() + 3000.0
    flusher.wake_by(clock.now() + 3601.0)  # after the next turn: no extra turn for it


def test_work_that_a_turn_of_the_flusher_puts_off_is_done_in_the_next_one(make: Make, monkeypatch: Patch) -> None:
    """That begins shortly, at whatever point of the turn it was put off. [2.26]"""
    rig, done = make(**SELDOM), threading.Event()
    cache: Any = rig.cache
    after_flusher_turn(cache)
    beside(monkeypatch, cache, "_prune", lambda: cache.flusher.defer_again(done.set))
    cache.flusher.wake()
    assert done.wait(10)
