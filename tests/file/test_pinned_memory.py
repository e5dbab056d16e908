"""A cache held by views reports it: no call waits for memory that can never be freed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import PageCache, PageCacheError, Volume
from pagecache.backends import MemoryBackend
from pagecache.testing import FaultyBackend, Gate, Rule

from .rig import PAGE, Task, eventually

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
    """Its pages stay dirty while the views are held: a request for memory gets an error, while they are sent and
    committed again and again. [2.21, 2.23]
    """
    store = MemoryBackend()
    store.put("k", bytes(200 * PAGE))
    backend = FaultyBackend(store)
    with PageCache(PAGES * PAGE, max_folio=PAGE, flush_interval=60, dirty_expire=60) as cache, Gate() as gate:
        file, *views = held(cache.attach(backend))
        backend.use([Rule(operation, gate=gate)])
        saving = Task(file.fsync)
        gate.wait_entered()
        with pytest.raises(PageCacheError, match="pinned by views") as caught:
            Task(wants, file).result()
        assert caught.value.errno == errno.ENOBUFS
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
        first = Task(file.pread, PAGE, 40 * PAGE)
        gate.wait_entered()
        second = Task(file.view, 60 * PAGE, PAGE)
        eventually(lambda: any(wait.what == "memory" for wait in cache.waits()))
        gate.release()
        assert first.result() == b"x" * PAGE
        with second.result() as view:
            assert view.tobytes() == b"x" * PAGE
        for view in views:
            view.release()
        file.close()
