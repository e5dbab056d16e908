"""Memory that is held by views, and by buffers of finished calls of which a program keeps slices: no other bytes may go
there. A call that needs memory gets the part that the garbage collector can free, and an error for the rest, which can
never be freed. [2.1, 2.21, 2.23, 2.24]
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pagecache import CachedFile, PageCache, PageCacheError, Volume
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


@pytest.fixture(autouse=True)
def collector_off() -> Iterator[None]:
    with without_collector():
        yield


def keeping(rig: Rig, keep: Callable[[list[memoryview]], object]) -> None:
    def store(file: RecordingFile, offset: int, buffers: Any) -> int:
        keep([buffer[:] for buffer in buffers])
        return file.store(offset, buffers)

    rig.backend.fault("write_from", store, times=float("inf"))


def test_a_writer_gets_memory_that_garbage_holds(make: Make) -> None:
    rig = make(capacity=CAPACITY, limits={"durable_writes": True})
    keeping(rig, Cycle)
    file = rig.open("w+b")
    Task(file.write, DATA).result()
    file.flush()
    assert rig.backend.written(KEY) == file.pread(len(DATA), 0) == DATA


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


def leave_views(file: CachedFile, pages: int, *, writable: bool = False, first: int = 0) -> None:
    """Leave unreachable views of that many pages."""
    for page in range(first, first + pages):
        Cycle(file.view(page * PAGE, PAGE, writable=writable))


def test_a_writable_view_is_refused_only_for_views_in_use(make: Make) -> None:
    """A quarter of the cache is held by garbage; views that the program still holds count as before. [2.21]"""
    rig, file = make({KEY: DATA[:CAPACITY]}, capacity=32 * PAGE, max_folio=PAGE).opened()
    leave_views(file, 8, writable=True)
    with file.view(20 * PAGE, 8 * PAGE, writable=True):
        assert raises(OSError, file.view, 40 * PAGE, PAGE, writable=True, match="writable views").errno == errno.ENOMEM
    assert rig.cache.stats().pinned == 0


def test_views_of_one_page_are_refused_only_for_views_in_use(make: Make) -> None:
    """60000 views of one folio, all of them garbage. [2.21]"""
    file = make({KEY: DATA[:CAPACITY]}).open()
    for _ in range(60_000):
        Cycle(file.view(10, 10))
    with file.view(0, PAGE) as view:
        assert view.tobytes() == DATA[:PAGE]


def test_a_writer_gets_memory_that_views_in_garbage_hold(make: Make) -> None:
    """The whole cache is held by views in cycles: no ENOBUFS. [2.23]"""
    file = make({KEY: DATA[:CAPACITY]}, capacity=16 * PAGE, max_folio=PAGE).open()
    leave_views(file, 16)
    Task(file.pwrite, b"new", 40 * PAGE).result()
    assert file.pread(3, 40 * PAGE) == b"new"


def test_invalidate_and_resize_are_refused_only_for_views_in_use(make: Make) -> None:
    """A writable view that is garbage blocks no call. [2.18, T-57]"""
    rig, file = make({KEY: DATA[:CAPACITY]}, capacity=64 * PAGE, max_folio=PAGE).opened()
    leave_views(file, 1, writable=True)
    rig.volume.invalidate(KEY)
    with file.view(0, PAGE, writable=True), pytest.raises(BlockingIOError, match="writable view"):
        rig.volume.invalidate(KEY)
    leave_views(file, 32)
    rig.cache.resize(16 * PAGE, timeout=30)
    assert rig.cache.capacity == 16 * PAGE


@pytest.mark.parametrize("call", ["truncate", "discard"])
def test_room_for_a_copy_of_a_view_is_found_where_garbage_has_it(make: Make, call: str) -> None:
    """A truncate into a writable view needs memory for a copy, and so does a discard of a part of its folio. [2.17]"""
    rig, file = make({KEY: DATA[:CAPACITY]}, capacity=32 * PAGE, max_folio=2 * PAGE).opened()
    with file.view(0, 2 * PAGE, writable=True) as view:
        view.segments[0][:5] = b"first"
        leave_views(file, 30, first=2)
        if call == "truncate":
            file.truncate(PAGE + 7)
        else:
            rig.volume.discard(KEY, PAGE, PAGE)
    assert file.pread(5, 0) == b"first"
