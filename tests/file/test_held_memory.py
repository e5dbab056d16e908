"""Memory that is held by views, and by buffers of finished calls of which a program keeps slices: no other bytes may go
there. A call that needs memory gets the part that the garbage collector can free, and an error for the rest, which can
never be freed. [2.1, 2.21, 2.23, 2.24]
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import PageCache, PageCacheError, Volume
from pagecache.backends import MemoryBackend
from pagecache.engine.mirror import SHARE
from pagecache.testing import FaultyBackend, Gate, Rule

from ..stores import RecordingFile
from .rig import KEY, PAGE, Make, Rig, Task, at_gate, eventually, pattern, raises, without_collector

CAPACITY = 64 * PAGE
DATA = pattern(4 * CAPACITY)


class Cycle:
    """Keep something alive until the garbage collector runs, as an error does that refers to variables of its calls."""

    def __init__(self, kept: object) -> None:
        self.kept, self.itself = kept, self


def keeping(rig: Rig, keep: Callable[[list[memoryview]], object]) -> None:
    def store(file: RecordingFile, offset: int, buffers: Any) -> int:
        keep([buffer[:] for buffer in buffers])
        return file.store(offset, buffers)

    rig.backend.fault("write_from", store, times=float("inf"))


def test_a_writer_gets_memory_that_garbage_holds(make: Make) -> None:
    rig = make(capacity=CAPACITY, limits={"durable_writes": True})
    keeping(rig, Cycle)
    file = rig.open("w+b")
    with without_collector():
        Task(file.write, DATA).result()
        file.flush()
        assert rig.backend.written(KEY) == DATA
        assert file.pread(len(DATA), 0) == DATA


def test_a_writer_gets_an_error_for_memory_that_a_program_keeps(make: Make) -> None:
    """ENOBUFS instead of an endless wait; accepted bytes are safe, and there is room once the slices are released."""
    rig = make(capacity=CAPACITY, limits={"durable_writes": True})
    kept: list[list[memoryview]] = []
    keeping(rig, kept.append)
    file = rig.open("w+b")
    caught = raises(PageCacheError, Task(file.write, DATA).result, match=r"\d+ bytes are held by .* slices of buffers")
    error: Any = caught
    assert error.errno == errno.ENOBUFS
    done = error.characters_written
    assert 0 < done < len(DATA)
    rig.backend.clear_faults()
    kept.clear()
    file.pwrite(DATA[done:], done)
    file.fsync()
    assert rig.backend.written(KEY) == DATA


def test_what_a_mirror_has_still_to_send_takes_no_memory_from_a_writer(make: Make) -> None:
    """Though views hold all the rest."""
    mirror = FaultyBackend(MemoryBackend())
    pinned, mirrored = CAPACITY - CAPACITY // SHARE, CAPACITY // SHARE
    rig = make({"pinned": DATA[:pinned]}, capacity=CAPACITY, options={"mirror": mirror}, max_folio=PAGE)
    with Gate() as gate, rig.volume.open("pinned") as other:
        mirror.use([Rule("write", gate=gate)])
        file = rig.open("w+b")
        file.write(DATA[:mirrored])
        file.fsync()
        gate.wait_entered()
        views = other.view(0, pinned)
        Task(file.pwrite, DATA[:PAGE], mirrored).result()
        gate.release()
        views.release()
    file.fsync()
    assert rig.backend.written(KEY) == DATA[:mirrored] + DATA[:PAGE]


PAGES = 16  # of the cache


def held(volume: Volume) -> list[Any]:
    """All of the cache: three quarters by read-only views, one by writable views."""
    file = volume.open("k", "r+", read_ahead=0)
    read_views = [file.view(page * PAGE, PAGE) for page in range(PAGES - PAGES // 4)]
    stored = [file.view((100 + page) * PAGE, PAGE, writable=True) for page in range(PAGES // 4)]
    return [file, *read_views, *stored]


@pytest.mark.parametrize("operation", ["write", "commit"])
@pytest.mark.parametrize(
    "wants",
    [
        lambda file: file.view(50 * PAGE, PAGE),
        lambda file: file.view(50 * PAGE, 3 * PAGE),
        lambda file: file.pwrite(b"more", 50 * PAGE),
    ],
    ids=["a view", "a larger view", "a write"],
)
def test_write_back_of_writable_views_frees_no_memory(operation: str, wants: Callable[[Any], object]) -> None:
    """Their pages stay dirty, however often they are sent: a request for memory fails. [2.21, 2.23]"""
    store = MemoryBackend()
    store.put("k", bytes(200 * PAGE))
    backend = FaultyBackend(store)
    with PageCache(PAGES * PAGE, max_folio=PAGE, flush_interval=60, dirty_expire=60) as cache, Gate() as gate:
        file, *views = held(cache.attach(backend))
        backend.use([Rule(operation, gate=gate)])
        _, saving = at_gate(gate, file.fsync)
        assert raises(PageCacheError, Task(wants, file).result, match="pinned by views").errno == errno.ENOBUFS
        gate.release()
        saving.result()
        for view in views:
            view.release()
        wants(file)
        file.close()


def test_memory_that_is_being_filled_is_hope() -> None:
    """A read that waits for the backend passes its memory on to the next one. [2.23]"""
    store = MemoryBackend()
    store.put("k", b"x" * (200 * PAGE))
    backend = FaultyBackend(store)
    with PageCache(PAGES * PAGE, max_folio=PAGE) as cache, Gate() as gate:
        file, *views = held(cache.attach(backend))
        views.pop(0).release()
        backend.use([Rule("read", nth=1, gate=gate)])
        _, first = at_gate(gate, file.pread, PAGE, 40 * PAGE)
        second = Task(file.view, 60 * PAGE, PAGE)
        eventually(lambda: any(wait.what == "memory" for wait in cache.waits()))
        gate.release()
        assert first.result() == b"x" * PAGE
        with second.result() as view:
            assert view.tobytes() == b"x" * PAGE
        for view in views:
            view.release()
        file.close()
