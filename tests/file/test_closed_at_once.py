"""Handles that several threads close at once: exactly one of them is the last, and does the work of the last one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest

from pagecache import CachedFile

from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend
from .rig import KEY, PAGE, Rig, Task, eventually, pattern

Make = Callable[..., Rig]
OLD = pattern(3 * PAGE)
NEW = pattern(2 * PAGE, seed=2)
BACKENDS: dict[str, Callable[[], RecordingBackend]] = {
    "a file": lambda: RecordingBackend({KEY: OLD}),
    "an object": lambda: ObjectBackend({KEY: OLD}),
}


class Crowd:
    """Replace a lock; report when that many threads have come to it."""

    def __init__(self, lock: threading.Lock, number: int) -> None:
        self._lock, self._missing = lock, number
        self._count = threading.Lock()
        self.here = threading.Event()

    def __enter__(self) -> None:
        with self._count:
            self._missing -= 1
            if not self._missing:
                self.here.set()
        self._lock.acquire()

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._lock.release()


def at_once(rig: Rig, *calls: Callable[[], Any]) -> None:
    """All of them reach the lock of the inode table before one goes on."""
    lock: Any = rig.volume.inodes_lock
    crowd: Any = Crowd(lock, len(calls))
    rig.volume.inodes_lock = crowd
    with lock:
        tasks = [Task(call) for call in calls]
        assert crowd.here.wait(WAIT_LIMIT_S)
    for task in tasks:
        task.result()
    rig.volume.inodes_lock = lock


def written(rig: Rig) -> list[CachedFile]:
    """Two handles that have written."""
    files = [rig.open("r+b"), rig.open("r+b")]
    for number, file in enumerate(files):
        file.pwrite(NEW[number * PAGE : (number + 1) * PAGE], number * PAGE)
    return files


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_two_that_are_closed_at_once_one_hands_over(make: Make, backend: str) -> None:
    """Each had seen the other one, and left the work to it. [2.20]"""
    rig = make(backend=BACKENDS[backend]())
    first, other = written(rig)
    at_once(rig, first.close, other.close)
    assert rig.backend.written(KEY) == NEW + OLD[2 * PAGE :]


def test_of_two_that_abandon_an_object_at_once_one_gives_it_up(make: Make) -> None:
    """No part of the object is left that no handle would ever publish. [2.20]"""
    rig = make(backend=BACKENDS["an object"]())
    first, other = written(rig)
    at_once(rig, first.abandon, other.abandon)
    eventually(lambda: rig.volume.dirty_ranges(KEY) == [])
    assert rig.open("rb").read() == OLD


def test_an_object_that_one_closes_while_the_other_abandons_it_is_published_or_unsaved(make: Make) -> None:
    """The last of them decides; the bytes of the closed one are there in any case. [2.20, I-22]"""
    rig = make(backend=BACKENDS["an object"]())
    first, other = written(rig)
    at_once(rig, first.close, other.abandon)
    content = NEW + OLD[2 * PAGE :]
    if rig.backend.committed(KEY) == OLD:
        assert [found.key for found in rig.volume.unsaved()] == [KEY]
    assert rig.open("rb").read() == content
    rig.volume.sync(20)
    assert rig.backend.committed(KEY) == content


def test_a_writer_beside_the_last_close_becomes_the_last_one_again(make: Make) -> None:
    """Its own close writes back its bytes, whatever the other close does. [2.20]"""
    rig = make({KEY: OLD})
    first = rig.open("r+b")
    first.pwrite(NEW[:PAGE], 0)
    gate = rig.backend.gate("write_from")
    closing = Task(first.close)
    gate.wait_entered()
    second = rig.open("r+b", keep_cache=True)
    second.pwrite(NEW[PAGE:], PAGE)
    again = Task(second.close)
    gate.open()
    closing.result()
    again.result()
    assert rig.backend.written(KEY) == NEW + OLD[2 * PAGE :]
