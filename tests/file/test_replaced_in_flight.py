"""Calls of handles of a version that another program replaces, while a new handle opens the new version: none of them
reads or changes it. [2.19]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pagecache import CachedFile, ConflictError
from pagecache.volume.inode import Inode

from ..stores import ObjectBackend
from .rig import KEY, ONCE, PAGE, Make, Patch, Rig, Task, at_gate, pattern, raises

OLD, NEWER = pattern(3 * PAGE), pattern(PAGE + 77, 9)


@pytest.fixture
def backend() -> ObjectBackend:
    return ObjectBackend({KEY: OLD})


@pytest.fixture
def rig(make: Make, backend: ObjectBackend) -> Rig:
    return make(backend=backend, retry=ONCE)


def test_a_read_that_runs_returns_the_old_version_or_none(rig: Rig, backend: ObjectBackend) -> None:
    file = rig.open()
    gate, reading = at_gate(backend.gate("read_into"), file.pread, 10, 0)
    backend.put(KEY, NEWER)
    fresh = rig.open("rb")
    gate.open()
    raises(ConflictError, reading.result)
    assert fresh.pread(10 * PAGE, 0) == NEWER
    raises(ConflictError, file.pread, 10, 0)


CHANGES: dict[str, Callable[[CachedFile], Any]] = {
    "pwrite": lambda file: file.pwrite(b"mine", 10),
    "a long pwrite": lambda file: file.pwrite(b"mine" * 3 * PAGE, 10),
    "append": lambda file: file.append(b"mine"),
    "truncate": lambda file: file.truncate(5),
    "punch_hole": lambda file: file.punch_hole(0, PAGE),
}
BY_CHANGE = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@BY_CHANGE
def test_a_change_that_waits_meanwhile_is_refused(
    rig: Rig, backend: ObjectBackend, change: Callable[[CachedFile], Any], monkeypatch: Patch
) -> None:
    """It has passed every check of its handle but the last one, under the lock of the file."""
    file = rig.open()
    genuine: Callable[[Inode], None] = Inode.replaced
    changing: list[Task[Any]] = []

    def later(inode: Inode) -> None:
        """The change begins before its handle is marked."""
        changing.append(Task(change, file))
        assert changing[0].waits()
        genuine(inode)

    monkeypatch.setattr(Inode, "replaced", later)
    backend.put(KEY, NEWER)
    fresh = rig.open("rb")
    raises(ConflictError, changing[0].result)
    assert fresh.pread(10 * PAGE, 0) == NEWER
    fresh.close()
    rig.volume.sync(20)
    assert backend.content(KEY) == NEWER


@BY_CHANGE
def test_a_change_that_is_over_makes_the_replacement_a_conflict(
    rig: Rig, backend: ObjectBackend, change: Callable[[CachedFile], Any], monkeypatch: Patch
) -> None:
    """The open has found the new version, and nothing was local then. Nothing is lost."""
    file = rig.open()
    genuine = type(file._inode).run

    def run(native: Any, holds: int, method: str, argument: object, deadline: float | None = None) -> None:
        if method == "holding":
            monkeypatch.setattr(type(native), "run", genuine)
            change(file)
        genuine(native, holds, method, argument, deadline)

    monkeypatch.setattr(type(file._inode), "run", run)
    backend.put(KEY, NEWER)
    raises(ConflictError, rig.open, "rb")
    assert backend.content(KEY) == NEWER
    raises(ConflictError, file.fsync)
