"""Retried bytes are divided anew, by the limits at that moment."""

from __future__ import annotations

import dataclasses
import errno
import math
from collections.abc import Sequence

import pytest

from pagecache import BackendError, RetryPolicy, WritebackError
from pagecache.engine.retryer import decide
from pagecache.native import NativeInode

from ..stores import RecordingFile
from .clock import HandClock
from .rig import FAST, KEY, ONCE, PAGE, Make, Patch, Rig, Task, at_gate, eventually, held, pattern, raises

DATA = pattern(16 * PAGE)
REQUEST = 4 * PAGE
AGAIN = range(REQUEST, 3 * REQUEST)  # the second and the third request fail
LAST = 3 * REQUEST
PATIENT = dataclasses.replace(FAST, attempts=100, deadline=3600.0)


class Changing:
    """A backend whose second and third request fail until the last one of the pass is over; then it has another
    limit.
    """

    def __init__(self, rig: Rig, max_write: int) -> None:
        self.rig, self.max_write = rig, max_write
        self.sent_before: int | None = None

    def __call__(self, file: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        if offset in AGAIN and self.sent_before is None:
            raise OSError(errno.EIO, "passing")
        if offset == LAST and self.sent_before is None:
            self.rig.backend.limits = dataclasses.replace(self.rig.backend.limits, max_write=self.max_write)
            self.sent_before = len(self.rig.backend.seen("write_from"))
        return file.store(offset, buffers)

    def sent_again(self) -> list[int]:
        """Lengths of the requests after the change: only failed bytes, and each once."""
        calls = self.rig.backend.spans("write_from")[self.sent_before :]
        assert {offset for offset, _length in calls} <= set(AGAIN)
        assert sum(length for _offset, length in calls) == len(AGAIN)
        return [length for _offset, length in calls]


def written(make: Make, max_write: int, retry: RetryPolicy) -> tuple[Rig, Changing]:
    rig = make({KEY: b""}, limits={"max_write": REQUEST, "ordered_writes": True}, retry=retry)
    changing = Changing(rig, max_write)
    rig.backend.fault("write_from", changing, times=float("inf"))
    rig.open("r+b").pwrite(DATA, 0)
    return rig, changing


@pytest.mark.parametrize(
    ("max_write", "lengths"),
    [(PAGE, [1] * 8), (3 * PAGE, [3, 3, 2]), (REQUEST, [4, 4]), (6 * PAGE, [6, 2]), (64 * PAGE, [8])],
    ids=["a page", "smaller, and no divisor", "equal", "larger", "larger than all"],
)
def test_retried_bytes_are_divided_by_the_current_limits(make: Make, max_write: int, lengths: list[int]) -> None:
    """They are divided or joined anew; bytes acknowledged beside them are not sent again. [T-32, K5]"""
    rig, changing = written(make, max_write, ONCE)
    raises(WritebackError, rig.handles[0].fsync)
    rig.handles[0].fsync()
    assert rig.backend.committed(KEY) == DATA
    assert changing.sent_again() == [pages * PAGE for pages in lengths]


@pytest.mark.parametrize("max_write", [PAGE, 3 * PAGE, REQUEST, 64 * PAGE])
def test_a_retry_of_the_flusher_obeys_them_too(make: Make, clock: HandClock, max_write: int) -> None:
    """This happens within one fsync; whether neighbours join again depends on when each is due. Time stands still until
    the limit changes: requests that were due before, and are in flight, have the old limits. [T-32, K5, 2.26]
    """
    rig, changing = written(make, max_write, PATIENT)
    saving = Task(rig.handles[0].fsync)
    eventually(lambda: changing.sent_before is not None)
    clock.until(saving.finished.is_set)
    saving.result()
    assert rig.backend.committed(KEY) == DATA
    assert max(changing.sent_again()) <= max_write


def test_a_pass_that_begins_while_the_limits_change_has_the_new_ones(make: Make, monkeypatch: Patch) -> None:
    """It does not begin before the thread that found them has passed them to the C core. [K5]"""
    rig, file = make({KEY: b""}, limits={"max_write": REQUEST}).opened("r+b")
    file.pwrite(DATA, 0)
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
            file = rig.open("r+b", key=key)
            file.pwrite(DATA, 0)
            file.fsync()
            assert rig.backend.committed(key) == DATA
    assert [call.length for call in rig.backend.seen("write_from", "other")] == [8 * PAGE] * 2
    assert sorted(call.length for call in rig.backend.seen("write_from", KEY)) == [PAGE, *[3 * PAGE] * 5]


def test_bytes_acknowledged_before_an_error_are_not_sent_again(make: Make) -> None:
    """A short answer, then a failure of the rest: the rest is retried, from the block where it began. [T-32, T-17]"""
    rig = make({KEY: b""}, limits={"max_write": 16 * PAGE})
    answers: list[int | OSError] = [PAGE + 7, OSError(errno.EIO, "passing"), 1, OSError(errno.EIO, "passing")]

    def answer(file: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        now = answers.pop(0) if answers else None
        if isinstance(now, OSError):
            raise now.with_traceback(None)
        return file.store(offset, buffers, now)

    rig.backend.fault("write_from", answer, times=float("inf"))
    file = rig.open("r+b")
    file.pwrite(DATA, 0)
    file.fsync()
    assert rig.backend.committed(KEY) == DATA
    first, second, third, fourth, fifth = rig.backend.spans("write_from")
    assert first == (0, 16 * PAGE)
    assert second == (PAGE + 7, 15 * PAGE - 7)
    assert third == (PAGE, 15 * PAGE)
    assert fourth == (PAGE + 1, 15 * PAGE - 1)
    assert fifth == (PAGE, 15 * PAGE)


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
    file = rig.open("r+b")
    file.pwrite(DATA, 0)
    file.fsync()
    assert rig.backend.committed(KEY) == DATA


@pytest.mark.parametrize(
    ("deadline", "asked", "delay"),
    [
        *[(120.0, 60.0, 60.0), (120.0, 1e300, 90.0), (120.0, -1.0, 0.0), (None, 5.0, 5.0), (None, 1e300, 10.0)],
        *[(120.0, asked, 0.05) for asked in (math.nan, math.inf, -math.inf)],
    ],
)
def test_a_delay_a_backend_asks_for_ends_within_the_policy(deadline: float | None, asked: float, delay: float) -> None:
    """Thirty seconds have passed. A huge number would stop the retries of a file for good; one that is no number of
    seconds is ignored. [2.14]
    """
    error = BackendError(errno.EBUSY, "slow down", retry=True, retry_after=asked)
    assert decide(RetryPolicy(deadline=deadline), error, 2, 30.0, 0.5) == delay
