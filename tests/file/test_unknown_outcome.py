"""Truncate and punch with an unknown outcome: published as done, and owed again before the file's next call."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import BackendError, CachedFile, DataLossError, RetryPolicy, ShutdownError

from .rig import FAST, KEY, ONCE, PAGE, Make, Rig, Task, at_gate, eventually, pattern, raises

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


def test_a_refusal_after_an_unknown_outcome_is_unknown(make: Make) -> None:
    """The first try may have been carried out. [2.17]"""
    rig, file = punching(make, retry=RetryPolicy(attempts=2, first_delay=0.001, max_delay=0.001, failed_retry=None))
    rig.backend.fault("truncate", OSError(errno.ETIMEDOUT, "line"))
    rig.backend.fault("truncate", OSError(errno.EPERM, "second thoughts"), times=1)
    raises(OSError, file.truncate, CUT, match="second thoughts")
    assert file.size == CUT
    file.fsync()
    assert rig.backend.committed(KEY) == OLD[:CUT]


def test_a_transient_error_is_tried_again_within_the_call(make: Make) -> None:
    """The caller gets no error. [2.14]"""
    rig, file = punching(make, retry=FAST)
    rig.backend.fault("truncate", OSError(errno.ECONNRESET, "line"), times=2)
    file.truncate(CUT)
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
    gate, hung = at_gate(rig.backend.gate("truncate"), file.truncate, CUT)
    rig.volume.abort()
    raises(ShutdownError, hung.result)
    rig.volume.reconnect(rig.backend)
    rig.volume.drop_clean(KEY)
    reading = Task(reader.pread, 9 * PAGE, 0)
    assert reading.waits()
    assert len(rig.backend.seen("truncate")) == 1
    assert reading.result(opening=gate) == OLD[:CUT]
    assert len(rig.backend.seen("truncate")) == 3
    assert rig.backend.violations == []
