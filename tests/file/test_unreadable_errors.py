"""Unreadable exceptions end each call as any other failure does: by an OSError with an errno. Nothing is lost.

The calls run on separate threads. On the main thread an exception that is no subclass of Exception may come from a
signal handler, and propagates.

Any function of the failure path may raise, too: the test breaks each of them once, for the length of a call. Nothing is
lost: the bytes are listed, and saved when the function works again.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import pagecache
from pagecache import BackendError, aio
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

from ..stores import Key
from .rig import FAST, KEY, PAGE, SAVES, Make, Patch, Rig, Task, dirty_bytes, eventually, pattern, raises

OLD = pattern(8 * PAGE)
NEW = pattern(8 * PAGE, seed=3)


def broken(*_: object) -> Any:
    raise RuntimeError("this raises")


class Odd:
    """An object whose every attribute raises."""

    __getattribute__ = __bool__ = __eq__ = __repr__ = broken
    __hash__ = None  # type: ignore[assignment]


class Stop(BaseException):
    """An exception raised in the middle of `str()`; like KeyboardInterrupt it is no subclass of Exception."""


class Loud(str):
    """A text whose methods raise."""

    __slots__ = ()
    __str__ = __format__ = broken


class Code(int):
    """An errno that equals nothing."""

    __gt__ = __lt__ = broken


class OddError(OSError):
    """An error of EIO whose text raises."""

    __str__ = __repr__ = broken
    strerror = property(broken)


class OddPlain(Exception):
    __str__ = __repr__ = broken


class OddStop(Exception):
    def __str__(self) -> str:
        raise Stop

    __repr__ = __str__


class OddText(Exception):
    def __str__(self) -> Any:
        return 7


class LoudText(Exception):
    def __str__(self) -> str:
        return Loud("loud")


class OddAttributes(BackendError):
    """An error of EIO with attributes that raise."""

    retry = retry_after = max_write = kept = property(broken)

    def __init__(self) -> None:
        OSError.__init__(self, errno.EIO, "odd attributes")


class OddValues(BackendError):
    """An error of EIO with attributes of odd types."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "odd values", retry=True)
        self.retry: Any = Odd()
        self.retry_after: Any = float("nan")
        self.max_write: Any = "8192"
        self.kept: Any = Odd()


class HiddenErrno(OSError):
    errno = property(broken)


def with_errno(code: object) -> OSError:
    error = OSError("with an odd errno")
    error.errno = code  # type: ignore[assignment]
    return error


ERRORS: dict[str, Callable[[], Exception]] = {
    "str() raises": OddPlain,
    "str() and strerror of an OSError raise": lambda: OddError(errno.EIO, "x"),
    "str() raises what is no Exception": OddStop,
    "str() answers a number": OddText,
    "str() answers a subclass": LoudText,
    "str() is huge": lambda: RuntimeError("x" * 3_000_000),
    "OSError()": OSError,
    "OSError of a text": lambda: OSError("only a text"),
    "errno None": lambda: with_errno(None),
    "errno is a text": lambda: with_errno("EIO"),
    "errno is a list": lambda: with_errno([5]),
    "errno compares with nothing": lambda: with_errno(Code(5)),
    "errno is odd": lambda: with_errno(Odd()),
    "errno is negative": lambda: with_errno(-5),
    "errno raises": lambda: HiddenErrno("hidden"),
    "attributes raise": OddAttributes,
    "attributes are odd": OddValues,
}


def odd_rig(make: Make) -> Rig:
    return make({KEY: OLD, "other": OLD}, limits={"punch": True}, retry=FAST)


def raising(rig: Rig, op: str, error: Callable[[], BaseException]) -> None:
    """Let all calls of an operation raise, each an exception of its own."""

    def fail(*_call: object) -> None:
        raise error()

    rig.backend.fault(op, fail, times=math.inf)


def raised(rig: Rig, call: Callable[[], object]) -> OSError:
    caught = raises(OSError, lambda: Task(call).result())
    assert isinstance(caught.errno, int)
    assert caught.errno > 0
    rig.backend.clear_faults()
    return caught


async def read_of_a_task(rig: Rig) -> None:
    file = await aio.open(rig.volume, KEY, "r")
    try:
        await file.pread(PAGE, 0)
    finally:
        await file.close()


COMMITS = ["fsync", "aio fsync", "sync", "ticket"]
FAILING = [("commit", save) for save in COMMITS]
FAILING += [("write_from", save) for save in (*COMMITS, "flush", "sync_range", "write_through")]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("op", "save"), FAILING)
def test_a_wait_for_a_save_ends_with_an_errno_and_keeps_the_bytes(make: Make, op: str, save: str, error: str) -> None:
    """They are listed, and the next fsync sends them. A commit equals any other failed one. [2.14, 2.16, K9]"""
    rig = odd_rig(make)
    rig.open("r+b").pwrite(NEW[:PAGE], 0)
    raising(rig, op, ERRORS[error])
    raised(rig, lambda: SAVES[save](rig, rig.handles[0]))
    assert dirty_bytes(rig.volume) == PAGE
    assert op == "commit" or sum(entry.length for entry in rig.volume.failed()) == PAGE
    assert rig.saved(rig.handles[0]) == NEW[:PAGE] + OLD[PAGE:]


CALLS: dict[str, tuple[str, Callable[[Rig], object]]] = {
    "open": ("open", lambda rig: rig.open("r+b", key="other")),
    "open creates": ("open", lambda rig: rig.open("w+b", key="new")),
    "stat of an open file": ("file_stat", lambda rig: rig.open("r+b", key="other")),
    "stat": ("stat", lambda rig: rig.volume.stat("other")),
    "read": ("read_into", lambda rig: rig.handles[0].pread(PAGE, 0)),
    "read by a task": ("read_into", lambda rig: asyncio.run(read_of_a_task(rig))),
    "long read": ("read_into", lambda rig: rig.handles[0].pread(8 * PAGE, 0)),
    "direct read": ("read_into", lambda rig: rig.open("r+b", direct=True).pread(PAGE, 0)),
    "direct write": ("write_from", lambda rig: rig.open("r+b", direct=True).pwrite(OLD[:PAGE], 0)),
    "truncate": ("truncate", lambda rig: rig.handles[0].truncate(PAGE)),
    "punch_hole": ("punch_hole", lambda rig: rig.handles[0].punch_hole(0, PAGE)),
    "list": ("list", lambda rig: [*rig.volume.list()]),
    "remove": ("remove", lambda rig: rig.volume.remove("other")),
    "rename": ("rename", lambda rig: rig.volume.rename("other", "new")),
    "sync of names": ("sync", lambda rig: rig.volume.sync()),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("what", CALLS)
def test_a_call_ends_with_an_errno(make: Make, what: str, error: str) -> None:
    """This holds for every method of a backend; the file keeps the backend's state. [2.14]"""
    rig = odd_rig(make)
    rig.open("r+b")
    op, call = CALLS[what]
    raising(rig, op, ERRORS[error])
    raised(rig, lambda: call(rig))
    rig.handles[0].fsync()
    assert rig.handles[0].pread(8 * PAGE, 0) == rig.backend.objects[KEY].written


@pytest.mark.parametrize("error", ERRORS)
def test_a_close_that_fails_loses_nothing_and_ends(make: Make, error: str) -> None:
    """The backend's own close is only logged; bytes that cannot be saved are listed by the error. [2.20, 2.22]"""
    rig = odd_rig(make)
    rig.open("r+b").pwrite(NEW[:PAGE], 0)
    raising(rig, "write_from", ERRORS[error])
    failed = raised(rig, rig.cache.close)
    assert [(entry.offset, entry.length) for entry in getattr(failed, "ranges", [])] == [(0, PAGE)]
    for op in ("file_close", "close"):
        raising(rig, op, ERRORS[error])
    Task(rig.cache.close).result()
    assert rig.backend.committed(KEY) == NEW[:PAGE] + OLD[PAGE:]


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError])
def test_an_error_of_a_class_that_says_it_keeps_its_class_and_gets_its_errno(make: Make, error: type[OSError]) -> None:
    """A hurried backend writes `raise FileNotFoundError(key)`. [2.14]"""
    rig = odd_rig(make)
    raising(rig, "stat", lambda: error("other"))
    found = raised(rig, lambda: rig.volume.stat("other"))
    assert type(found) is error
    assert isinstance(OSError(found.errno, ""), error)


def test_a_canonical_that_raises_is_an_error_with_an_errno(make: Make, monkeypatch: Patch) -> None:
    """ValueError and TypeError pass unchanged: they say that the caller's key is invalid. [2.20]"""
    rig = odd_rig(make)
    for error in ERRORS.values():

        def canonical(key: Key, error: Callable[[], Exception] = error) -> Key:
            raise error()

        monkeypatch.setattr(rig.backend, "canonical", canonical)
        raised(rig, lambda: rig.volume.stat("other"))
        monkeypatch.undo()


class Broken(RuntimeError):
    """Raised by a broken function."""


class BrokenHard(BaseException):
    """An exception of a broken function that is no subclass of Exception."""


FUNCTIONS: list[tuple[Any, str]] = [
    *((collector, name) for name in ("text_of", "cause", "errno_of", "as_os_error", "tried_again", "spans")),
    *((collector, name) for name in ("max_write_of", "is_transient", "_report_failed")),
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
    *((sizes, name) for name in ("is_refusal", "cause", "is_unsupported")),
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


def breaking(monkeypatch: Patch, function: tuple[Any, str], error: type[BaseException]) -> None:
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
    rig, _ = make({KEY: OLD}, retry=FAST).written(NEW[:PAGE], 0)
    rig.cache.subscribe(lambda event: None)
    op, times = SETTINGS[setting]
    file = rig.open("r+b") if wait == "close" else rig.handles[0]
    rig.backend.fault(op, OSError(errno.EIO, "passing"), times=times)
    with monkeypatch.context() as patch:
        breaking(patch, function, BrokenHard if wait == "flush" else Broken)
        waiting: Task[object] = Task(SAVES[wait], rig, file)
        assert waiting.finished.wait(20), "the call did not come back"
    rig.backend.clear_faults()
    saved = rig.backend.committed(KEY) == NEW[:PAGE] + OLD[PAGE:]
    assert saved or dirty_bytes(rig.volume) == PAGE
    assert rig.saved(rig.handles[0]) == NEW[:PAGE] + OLD[PAGE:]


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
        breaking(patch, function, Broken)
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
        breaking(patch, (collector, "failed"), Broken)
        raises(pagecache.WritebackError, lambda: Task(handle.flush).result())
    eventually(lambda: rig.backend.objects[KEY].written == NEW[:PAGE] + OLD[PAGE:])
