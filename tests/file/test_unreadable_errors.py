"""Unreadable exceptions end each call as any other failure does: by an OSError with an errno. Nothing is lost.

The calls run on separate threads. On the main thread an exception that is no subclass of Exception may come from a
signal handler, and propagates.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from pagecache import aio

from ..stores import Key
from .rig import FAST, KEY, PAGE, SAVES, Make, Patch, Rig, Task, dirty_bytes, pattern, raises
from .unreadable import ERRORS

OLD = pattern(8 * PAGE)
NEW = pattern(8 * PAGE, seed=3)


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
    rig.handles[0].fsync()
    assert rig.backend.committed(KEY) == NEW[:PAGE] + OLD[PAGE:]


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
