"""Any function of the failure path may raise, and each wait still ends: with an error, or because the bytes are saved.

The test breaks each of them once, for the length of a call. Nothing is lost: the bytes are listed, and saved when the
function works again.
"""

from __future__ import annotations

import errno
import itertools
import logging
from dataclasses import replace
from typing import Any

import pytest

import pagecache
from pagecache.engine import attempts, failures, namesync, volume
from pagecache.engine.commit import remote
from pagecache.engine.commit.staging import Staging
from pagecache.engine.commit.versions import Versions
from pagecache.engine.failures import Failures
from pagecache.engine.file import EngineFile
from pagecache.engine.io import barrier, collector, direct, issuer, reader, sizes
from pagecache.engine.report.events import Feed
from pagecache.engine.report.notices import Notices
from pagecache.engine.report.trouble import Troubles
from pagecache.engine.volume import EngineVolume

from .rig import FAST, KEY, PAGE, SAVES, Make, Patch, Task, dirty_bytes, eventually, pattern, raises
from .test_unreadable_errors import CALLS, odd_rig

OLD = pattern(8 * PAGE)
NEW = pattern(8 * PAGE, seed=3)


class Broken(RuntimeError):
    """Raised by a broken function."""


class BrokenHard(BaseException):
    """An exception of a broken function that is no subclass of Exception."""


FUNCTIONS: list[tuple[Any, str]] = [
    *((collector, name) for name in ("text_of", "cause", "errno_of", "as_os_error", "tried_again", "spans")),
    *((collector, name) for name in ("max_write_of", "is_transient", "_emit_failed", "_log_failed")),
    *((collector, name) for name in ("_parked", "_late", "_late_commit")),
    *((collector, name) for name in ("failed", "commit_failed", "acknowledged", "committed", "fault")),
    *((collector, name) for name in ("_note_write_fault", "_note_commit_fault")),
    *((issuer, name) for name in ("_not_sent", "_target", "_taken")),
    *((barrier, name) for name in ("text_of", "errno_of", "_writeback_error")),
    *((remote, name) for name in ("is_remote_change",)),
    *((issuer, name) for name in ("_not_committed", "is_kept")),
    (Versions, "commit"),
    *((Staging, name) for name in ("forgotten", "sent", "put", "send_again")),
    *((Failures, name) for name in ("add", "clear", "overlapping")),
    *((EngineVolume, name) for name in ("emit", "judge", "say", "retry_by", "retry_planned")),
    *((failures, name) for name in ("ensure_retry", "failed_ranges", "worst")),
    *((EngineFile, name) for name in ("refresh_limits", "lose_direct")),
    *((Troubles, name) for name in ("add", "failing", "failures_since")),
    (Notices, "say"),
    (Notices, "check"),
    (Feed, "emit"),
    (logging.Logger, "log"),
    (logging.Logger, "exception"),
]
"""Functions between the answer of a backend and a thread that waits for it, by owner and name."""

RETRIES: list[tuple[Any, str]] = [
    *((Failures, name) for name in ("next_retry", "postpone")),
    *((EngineVolume, name) for name in ("take_retries", "next_retry")),
    *((failures, name) for name in ("due", "follow", "is_parked")),
]
"""Functions that make a retry. Each raises at one call; a waiter for the missing retry waits until the deadline."""

SETTINGS: dict[str, tuple[str, int]] = {
    "writes fail": ("write_from", 1000),
    "a write fails once": ("write_from", 1),
    "commits fail": ("commit", 1000),
    "a commit fails once": ("commit", 1),
    "nothing fails": ("write_from", 0),
}


READS = [
    *((reader, name) for name in ("cause", "text_of", "as_os_error", "named", "_judge", "_refusal")),
    *((direct, name) for name in ("as_os_error", "named", "max_write_of", "_again")),
    *((remote, name) for name in ("is_remote_change", "refused")),
    *((EngineVolume, name) for name in ("judge", "say")),
    (logging.Logger, "log"),
]
CHANGES = [
    *((sizes, name) for name in ("errno_of", "is_refusal", "cause", "_unsupported")),
    *((attempts, name) for name in ("as_os_error", "cause", "is_refusal")),
    (EngineVolume, "judge"),
]
NAMES = [(namesync, "as_os_error"), (namesync, "errno_of"), (volume, "raised_by")]
OF_CALLS: list[tuple[str, tuple[Any, str]]] = [
    *((what, function) for what in ("read", "read by a task", "direct read", "direct write") for function in READS),
    *((what, function) for what in ("truncate", "punch_hole") for function in CHANGES),
    *((what, function) for what in ("list", "remove", "rename", "sync of names") for function in NAMES),
]
"""Reads, direct I/O, changes of the size, names: a call, and a function between it and its answer."""


def name_of(function: tuple[Any, str]) -> str:
    return f"{function[0].__name__.removeprefix('pagecache.engine.')}.{function[1]}"


def broken(monkeypatch: Patch, function: tuple[Any, str], error: type[BaseException]) -> None:
    plain, calls = getattr(*function), itertools.count()

    def fail(*args: object, **options: object) -> object:
        if function in RETRIES and next(calls):
            return plain(*args, **options)
        raise error(function[1])

    monkeypatch.setattr(*function, fail)


OTHERS = ["sync_range", "sync", "flush", "write_through", "aio fsync", "close"]
WAITS = [("fsync", setting) for setting in SETTINGS] + [(wait, "writes fail") for wait in OTHERS]


@pytest.mark.parametrize(("wait", "setting"), WAITS)
@pytest.mark.parametrize("function", [*FUNCTIONS, *RETRIES], ids=name_of)
def test_a_wait_ends_whatever_of_the_failure_path_raises(
    make: Make, monkeypatch: Patch, wait: str, function: tuple[Any, str], setting: str
) -> None:
    """Unsaved bytes stay dirty, and are saved when the function works again. [2.14, 2.16, K9]"""
    rig = make({KEY: OLD}, retry=FAST)
    rig.open("r+b").pwrite(NEW[:PAGE], 0)
    rig.cache.subscribe(lambda event: None)
    op, times = SETTINGS[setting]
    file = rig.open("r+b") if wait == "close" else rig.handles[0]
    rig.backend.fault(op, OSError(errno.EIO, "passing"), times=times)
    with monkeypatch.context() as patch:
        broken(patch, function, BrokenHard if wait == "flush" else Broken)
        waiting: Task[object] = Task(SAVES[wait], rig, file)
        assert waiting.finished.wait(20), "the call did not come back"
    rig.backend.clear_faults()
    saved = rig.backend.committed(KEY) == NEW[:PAGE] + OLD[PAGE:]
    assert saved or dirty_bytes(rig.volume) == PAGE
    rig.handles[0].fsync()
    assert rig.backend.committed(KEY) == NEW[:PAGE] + OLD[PAGE:]


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of a fill that a thread makes for a task
@pytest.mark.parametrize(
    ("what", "function"), OF_CALLS, ids=lambda value: value if isinstance(value, str) else name_of(value)
)
def test_a_call_ends_whatever_raises(make: Make, monkeypatch: Patch, what: str, function: tuple[Any, str]) -> None:
    """It ends with an error, and the file can be used when the function works again. [2.14, K9]"""
    rig = odd_rig(make)
    rig.open("r+b")
    op, call = CALLS[what]
    rig.backend.fault(op, OSError(errno.EIO, "passing"), times=1000)
    with monkeypatch.context() as patch:
        broken(patch, function, Broken)
        waiting = Task(call, rig)
        assert waiting.finished.wait(20), "the call did not come back"
    assert waiting.error is not None
    rig.backend.clear_faults()
    Task(rig.handles[0].fsync).result()
    assert rig.handles[0].pread(8 * PAGE, 0) == rig.backend.objects[KEY].written


def test_bytes_are_sent_again_without_a_call_after_a_fault(make: Make, monkeypatch: Patch) -> None:
    """The flusher learns when to retry, although the function that plans the retry raised. [2.14]"""
    rig, handle = make({KEY: OLD}, retry=replace(FAST, failed_retry=0.05), flush_interval=1000.0).opened("r+b")
    handle.pwrite(NEW[:PAGE], 0)
    rig.backend.fault("write_from", OSError(errno.EIO, "passing"), times=1)
    with monkeypatch.context() as patch:
        broken(patch, (collector, "failed"), Broken)
        raises(pagecache.WritebackError, lambda: Task(handle.flush).result())
    eventually(lambda: rig.backend.objects[KEY].written == NEW[:PAGE] + OLD[PAGE:])
