"""Memory that is held by views, and by buffers of finished calls of which a program keeps slices: no other bytes may go
there. A call that needs memory gets the part that the garbage collector can free, and an error for the rest, which can
never be freed. A detached volume gives its memory, objects and place back; its handles and views
keep the memory that they need. [2.1, 2.21, 2.23, 2.24]
"""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecache import CachedFile, PageCache, PageCacheError, ShutdownError, Volume
from pagecache.backends import MemoryBackend
from pagecache.native import NativeVolume
from pagecache.testing import FaultyBackend, Gate, Rule

from ..stores import RecordingFile
from .rig import (
    KEY,
    PAGE,
    Make,
    Rig,
    Task,
    at_gate,
    eventually,
    overlay,
    pattern,
    raises,
    run_program,
    stored,
    without_collector,
)
from .test_views import Cycle

CAPACITY = 64 * PAGE
DATA = pattern(4 * CAPACITY)


@pytest.fixture(autouse=True)
def collector_off() -> Iterator[None]:
    with without_collector():
        yield


def keeping(rig: Rig, keep: Callable[[list[memoryview]], object]) -> None:
    def store(file: RecordingFile, offset: int, buffers: Any) -> int:
        keep([buffer[:] for buffer in buffers])
        return file.store(offset, buffers)

    rig.backend.fault("write_from", store, times=float("inf"))


def test_a_writer_gets_an_error_for_memory_that_a_program_keeps(make: Make) -> None:
    """ENOBUFS instead of an endless wait; accepted bytes are safe, and there is room once the slices are garbage."""
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
    keeping(rig, Cycle)
    kept.clear()
    Task(file.pwrite, DATA[done:], done).result()
    file.fsync()
    assert rig.backend.written(KEY) == file.pread(len(DATA), 0) == DATA


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


# The cache in pages, views of a page each, a call that needs their memory, and its error while they are in use.
NEEDS: dict[str, tuple[int, int, bool, Callable[[Rig, CachedFile], object], int, str]] = {
    "a writable view": (32, 8, True, lambda _, file: file.view(8 * PAGE, 9, writable=True), errno.ENOMEM, "writable v"),
    "a write": (16, 16, False, lambda rig, file: file.pwrite(b"new", 40 * PAGE), errno.ENOBUFS, "pinned by views"),
    "invalidate": (64, 1, True, lambda rig, file: rig.volume.invalidate(KEY), errno.EAGAIN, "writable view"),
    "resize": (64, 32, False, lambda rig, file: rig.cache.resize(16 * PAGE, timeout=5), errno.EAGAIN, "pinned"),
}


@pytest.mark.parametrize("call", NEEDS)
def test_a_call_is_refused_only_for_views_in_use(make: Make, call: str) -> None:
    """Views that are garbage hold no memory. [2.18, 2.21, 2.23, T-57]"""
    capacity, pages, writable, run, code, words = NEEDS[call]
    rig, file = make({KEY: DATA[:CAPACITY]}, capacity=capacity * PAGE, max_folio=PAGE).opened()
    views = [file.view(page * PAGE, PAGE, writable=writable) for page in range(pages)]
    assert raises(OSError, Task(run, rig, file).result, match=words).errno == code
    while views:
        Cycle(views.pop())
    Task(run, rig, file).result()
    assert rig.cache.stats().pinned == 0
    expected = overlay(DATA[:CAPACITY], 40 * PAGE, b"new" if call == "a write" else b"")
    assert file.pread(CAPACITY, 0) == expected


def test_too_many_views_of_one_page_are_refused_while_they_are_in_use(make: Make) -> None:
    """An OSError that says what to do; nothing else has changed, and a release, or garbage, makes room. [2.21, T-59]"""
    rig, file = make({KEY: DATA[:CAPACITY]}).opened("rb")
    views = [file.view(10, 10) for _ in range(60_000)]
    for _ in range(2):
        assert raises(OSError, file.view, 0, 3 * PAGE, match="release").errno == errno.ENOMEM
    assert rig.cache.stats().pinned == PAGE
    assert file.pread(CAPACITY, 0) == DATA[:CAPACITY]
    views.pop().release()
    with file.view(0, 3 * PAGE) as view:
        assert view.tobytes() == DATA[: 3 * PAGE]
    views.append(file.view(10, 10))
    while views:
        Cycle(views.pop())
    with file.view(0, 3 * PAGE) as view:
        assert view.tobytes() == DATA[: 3 * PAGE]


@pytest.mark.parametrize("call", ["truncate", "discard"])
def test_room_for_a_copy_of_a_view_is_found_where_garbage_has_it(make: Make, call: str) -> None:
    """A truncate into a writable view needs memory for a copy, and so does a discard of a part of its folio. [2.17]"""
    rig, file = make({KEY: DATA[:CAPACITY]}, capacity=32 * PAGE, max_folio=2 * PAGE).opened()
    with file.view(0, 2 * PAGE, writable=True) as view:
        view.segments[0][:5] = b"first"
        for page in range(2, 32):
            Cycle(file.view(page * PAGE, PAGE))
        if call == "truncate":
            file.truncate(PAGE + 7)
        else:
            rig.volume.discard(KEY, PAGE, PAGE)
    assert file.pread(5, 0) == b"first"


SMALL_UNITS = """
from pagecache import PageCache
from pagecache.backends import MemoryBackend
from pagecache.backends.protocol import BackendLimits

backend, size = MemoryBackend(), 2 << 20
backend.limits = BackendLimits(write_unit=16)
with PageCache("64MiB") as cache, cache.attach(backend).open("file", "w+b") as file:
    file.pwrite(bytes(size), 0)
    with file.view(0, size, writable=True) as view:
        (segment,) = view.segments
        segment[:4] = b"late"
        file.fsync()
        stored = bytearray(8)
        backend.open("file").read_into(0, [memoryview(stored)])
        print(stored)
"""


def test_a_large_folio_of_small_units_is_saved_while_a_view_shows_it(tmp_path: Path) -> None:
    """131,072 units; a folio counts up to 65,519 references. [2.12, 2.21]"""
    done = run_program(tmp_path, SMALL_UNITS)
    assert (done.returncode, done.stdout) == (0, f"{bytearray(b'late' + bytes(4))}\n"), done.stderr


def objects(cache: PageCache) -> int:
    """The objects for which CORE has a place, after a collection."""
    gc.collect()
    return int(cache.stats().details["inodes"])


def filled(cache: PageCache, count: int = 10) -> Volume:
    volume = cache.attach("memory:")
    for number in range(count):
        stored(volume, f"f{number}", b"x" * 5000)
    return volume


def test_a_cache_takes_more_volumes_in_its_life_than_at_one_time() -> None:
    """Ended volumes that were not collected yet make room; only those in use count, and the error names the limit."""
    with PageCache("1MiB") as cache:
        for _ in range(5000):
            native: Any = NativeVolume(cache.native, 1)
            native.end()
            circle = [native]
            circle.append(circle)
        del native, circle
        held = []
        with pytest.raises(OSError, match="at most 4096 volumes at one time") as caught:
            while True:
                held.append(NativeVolume(cache.native, 1))
        assert (caught.value.errno, len(held)) == (errno.ENFILE, 4096)
        for each in held:
            each.end()
        del each, held
        cache.check()


def test_a_handle_that_outlives_the_detach_keeps_its_object_and_no_other() -> None:
    """It never sees an object of a later volume, which has the places of all others. [I-24, 2.22]"""
    with PageCache("1MiB") as cache:
        volume = filled(cache)
        handle, closed = volume.open("f3", "r+b"), volume.open("f1", "rb")
        closed.close()
        assert objects(cache) == 10
        volume.detach()
        del closed
        assert objects(cache) == 1
        assert volume.stats().dirty == 0
        del volume
        other = filled(cache, 20)
        assert objects(cache) == 21
        calls: dict[str, tuple[Any, ...]] = {"pread": (10, 0), "pwrite": (b"y", 0), "fsync": ()}
        for name, arguments in calls.items():
            with pytest.raises(ShutdownError):
                getattr(handle, name)(*arguments)
        handle.close()
        del handle
        assert objects(cache) == 20
        with other.open("f3", "rb") as file:
            assert file.read() == b"x" * 5000
        cache.check()


def test_views_that_outlive_the_detach_keep_their_memory() -> None:
    """Even the last slice, when the volume, the file and the view are collected. [2.21, I-27]"""
    with PageCache("1MiB") as cache:
        volume = filled(cache)
        handle = volume.open("f3", "r+b")
        views = [handle.view(0, 100), handle.view(200, 100, writable=True)]
        volume.detach()
        del volume, handle
        assert objects(cache) == 1
        slices = [view.segments[0][:50] for view in views]
        del views
        assert objects(cache) == 0
        filled(cache, 250).detach()  # more than the cache holds
        assert [bytes(each) for each in slices] == [b"x" * 50] * 2
        cache.check()
        del slices
        gc.collect()
        assert cache.stats().details["frames_allocated"] == cache.stats().details["frames_freed"]


def test_bytes_that_are_given_up_with_an_aborted_volume_take_no_memory() -> None:
    """They would fill the cache: bytes without a volume cannot be written back. [2.22]"""
    with PageCache("1MiB", flush_interval=3600) as cache:
        for _ in range(5):
            volume = cache.attach("memory:")
            handle = volume.open("f", "wb")
            handle.write(b"x" * 300_000)
            volume.abort()
            assert sum(lost.length for lost in volume.detach(on_failed="discard")) == 300_000
            del volume, handle
            assert objects(cache) == 0
            assert cache.stats().details["frames_allocated"] == cache.stats().details["frames_freed"]
        cache.check()


def test_a_call_that_hangs_in_the_backend_keeps_what_it_uses() -> None:
    """The volume is detached without it. Its memory is not reused, before and after the call returns. [K7]"""
    with PageCache("1MiB", flush_interval=3600) as cache, Gate() as gate:
        backend = FaultyBackend(MemoryBackend())
        volume = cache.attach(backend)
        handle = volume.open("f", "wb")
        handle.write(b"x" * 5000)
        backend.use([Rule("write", gate=gate)])
        _, syncing = at_gate(gate, handle.fsync)
        volume.detach(timeout=0.1, on_failed="discard")
        raises(OSError, syncing.result)
        del volume, handle, syncing
        assert objects(cache) == 1
        filled(cache, 100).detach()
        cache.check()
        gate.release()
        filled(cache, 100).detach()
        cache.check()
