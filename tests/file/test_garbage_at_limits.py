"""Limits on memory held by views count the reachable views: garbage is collected before a call is refused."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from pagecache import CachedFile

from .rig import KEY, PAGE, Make, Task, pattern, raises, without_collector
from .test_held_memory import Cycle

CONTENT = pattern(64 * PAGE)


@pytest.fixture(autouse=True)
def collector_off() -> Iterator[None]:
    with without_collector():
        yield


def leave_views(file: CachedFile, pages: int, *, writable: bool = False, first: int = 0) -> None:
    """Leave unreachable views of that many pages."""
    for page in range(first, first + pages):
        Cycle(file.view(page * PAGE, PAGE, writable=writable))


def test_a_writable_view_is_refused_only_for_views_in_use(make: Make) -> None:
    """A quarter of the cache is held by garbage; views that the program still holds count as before. [2.21]"""
    rig, file = make({KEY: CONTENT}, capacity=32 * PAGE, max_folio=PAGE).opened()
    leave_views(file, 8, writable=True)
    with file.view(20 * PAGE, 8 * PAGE, writable=True):
        assert raises(OSError, file.view, 40 * PAGE, PAGE, writable=True, match="writable views").errno == errno.ENOMEM
    assert rig.cache.stats().pinned == 0


def test_views_of_one_page_are_refused_only_for_views_in_use(make: Make) -> None:
    """60000 views of one folio, all of them garbage. [2.21]"""
    file = make({KEY: CONTENT}).open()
    for _ in range(60_000):
        Cycle(file.view(10, 10))
    with file.view(0, PAGE) as view:
        assert view.tobytes() == CONTENT[:PAGE]


def test_a_writer_gets_memory_that_views_in_garbage_hold(make: Make) -> None:
    """The whole cache is held by views in cycles: no ENOBUFS. [2.23]"""
    file = make({KEY: CONTENT}, capacity=16 * PAGE, max_folio=PAGE).open()
    leave_views(file, 16)
    Task(file.pwrite, b"new", 40 * PAGE).result()
    assert file.pread(3, 40 * PAGE) == b"new"


def test_invalidate_and_resize_are_refused_only_for_views_in_use(make: Make) -> None:
    """A writable view that is garbage blocks no call. [2.18, T-57]"""
    rig, file = make({KEY: CONTENT}, capacity=64 * PAGE, max_folio=PAGE).opened()
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
    rig, file = make({KEY: CONTENT}, capacity=32 * PAGE, max_folio=2 * PAGE).opened()
    with file.view(0, 2 * PAGE, writable=True) as view:
        view.segments[0][:5] = b"first"
        leave_views(file, 30, first=2)
        if call == "truncate":
            file.truncate(PAGE + 7)
        else:
            rig.volume.discard(KEY, PAGE, PAGE)
    assert file.pread(5, 0) == b"first"
