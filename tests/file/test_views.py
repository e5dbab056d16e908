"""Read-only views: cache memory without a copy."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable
from typing import Any

import numpy
import pytest

from pagecache import CachedFile, View

from .rig import KEY, PAGE, Make, Rig, pattern, raises

CONTENT = pattern(64 * PAGE + 100)


@pytest.fixture
def stored(make: Make) -> Rig:
    """A file of 64 pages and a bit on a cache that holds 32 pages."""
    return make({KEY: CONTENT}, capacity=32 * PAGE)


def press(rig: Rig) -> None:
    """Read enough other data to evict every evictable folio."""
    rig.volume.open("other", "w+b").close()
    with rig.volume.open("other", "r+b") as other:
        other.truncate(200 * PAGE)
        for page in range(200):
            other.pread(PAGE, page * PAGE)
    with rig.volume.open(KEY, "rb") as file:
        for page in range(20, 64):
            file.pread(PAGE, page * PAGE)


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, PAGE), (0, 10 * PAGE), (5, 1), (4090, 20), (7000, 30_000), (64 * PAGE, 100), (0, 0), (len(CONTENT), 0)],
)
def test_segments_are_the_range(stored: Rig, offset: int, length: int) -> None:
    """Ascending, together exactly the range, read-only; no bytes are a range, too. [2.1, 2.21]"""
    with stored.open("rb").view(offset, length) as view:
        assert isinstance(view, View)
        assert len(view) == length
        assert b"".join(view.segments) == view.tobytes() == CONTENT[offset : offset + length]
        assert isinstance(view.segments, tuple)
        assert all(isinstance(segment, memoryview) and segment.readonly for segment in view.segments)
        assert not view.detached


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, len(CONTENT) + 1),
        (len(CONTENT), 1),
        (len(CONTENT) + 1, 0),
        (1 << 40, 1),
        (-1, 5),
        (5, -1),
        (1 << 62, 1 << 62),
    ],
)
def test_a_range_outside_the_file_is_a_value_error(stored: Rig, offset: int, length: int, writable: bool) -> None:
    """A view extends nothing; the refused call pins nothing. [T-59, 2.21]"""
    raises(ValueError, lambda: stored.open("r+b").view(offset, length, writable=writable))
    assert (stored.cache.stats().pinned, stored.volume.dirty_ranges(KEY)) == (0, [])


def test_a_view_costs_no_copy_of_what_is_cached(stored: Rig) -> None:
    """Two views of the same bytes show the same memory. [2.21]"""
    file = stored.open("rb")
    with file.view(PAGE, PAGE) as one, file.view(PAGE, PAGE) as two:
        arrays = [numpy.frombuffer(view.segments[0], dtype=numpy.uint8) for view in (one, two)]
        assert arrays[0].__array_interface__["data"] == arrays[1].__array_interface__["data"]
        del arrays


@pytest.mark.parametrize("writable", [False, True])
def test_content_stays_under_memory_pressure(stored: Rig, writable: bool) -> None:
    """Pinned pages are neither evicted nor reused, nor waited for. [T-47, 2.21, I-8]"""
    view = stored.open("r+b").view(100, 6 * PAGE, writable=writable)
    press(stored)
    assert view.tobytes() == CONTENT[100 : 100 + 6 * PAGE]
    assert stored.cache.stats().pinned > 0
    view.release()
    assert stored.cache.stats().pinned == 0


@pytest.mark.parametrize(
    "keep", [lambda segment: segment[:], lambda segment: numpy.frombuffer(segment, "u1")], ids=["slice", "array"]
)
def test_what_shows_the_memory_keeps_it_after_release(stored: Rig, keep: Callable[[memoryview], Any]) -> None:
    """The memory stays valid until the last slice or array is gone; release of the view does not raise. [T-47, 2.21]"""
    view = stored.open("rb").view(0, PAGE)
    kept = keep(view.segments[0][10:20])
    for _ in range(2):  # it may be repeated
        view.release()
        raises(ValueError, view.tobytes)
    press(stored)
    assert bytes(kept) == CONTENT[10:20]
    del view, kept
    gc.collect()
    assert stored.cache.stats().pinned == 0


def test_a_view_that_is_dropped_lets_go(stored: Rig) -> None:
    """Without a release, the collector does it. [T-48, 2.21]"""
    file = stored.open("rb")
    for _ in range(100):
        file.view(0, 3 * PAGE)
    gc.collect()
    assert stored.cache.stats().pinned == 0
    assert file.pread(len(CONTENT), 0) == CONTENT


def test_a_view_shows_later_writes_but_never_other_bytes(file: CachedFile) -> None:
    """Content may change by writes to the same range. [2.21]"""
    with file.view(0, 100) as view:
        file.pwrite(b"changed", 10)
        seen = view.tobytes()
        assert seen[:10] + seen[17:] == CONTENT[:10] + CONTENT[17:100]
        assert file.pread(100, 0) == CONTENT[:10] + b"changed" + CONTENT[17:100]


@pytest.mark.parametrize("cut", ["truncate", "invalidate", "remove"])
def test_a_view_cut_off_keeps_its_bytes(stored: Rig, file: CachedFile, cut: str) -> None:
    """`detached` is set; the memory keeps its content. [T-47, 2.21]"""
    view = file.view(10 * PAGE, PAGE)
    if cut == "truncate":
        file.truncate(PAGE)
        assert view.detached
    elif cut == "invalidate":
        stored.volume.invalidate(KEY)
        assert view.detached
    else:
        stored.volume.remove(KEY)
    press_other = stored.open("w+b", key="new")
    press_other.truncate(100 * PAGE)
    for page in range(100):
        press_other.pread(PAGE, page * PAGE)
    assert view.tobytes() == CONTENT[10 * PAGE : 11 * PAGE]
    view.release()


def test_a_view_of_dirty_bytes_through_write_back(stored: Rig, file: CachedFile) -> None:
    """Pinned for reading, a page is still written back and cleaned. [2.21]"""
    file.pwrite(b"d" * PAGE, 0)
    with file.view(0, PAGE) as view:
        file.fsync()
        assert stored.volume.dirty_ranges(KEY) == []
        assert view.tobytes() == b"d" * PAGE
    assert stored.backend.committed(KEY) == b"d" * PAGE + CONTENT[PAGE:]


def test_more_views_than_memory_is_an_error_not_a_hang(stored: Rig) -> None:
    """Pinning everything fails in the end with an OSError; pinned bytes stay right. [2.21]"""
    file = stored.open("rb")
    views: list[View] = []
    with pytest.raises(OSError):
        for page in range(64):
            views.append(file.view(page * PAGE, PAGE))
    for page, view in enumerate(views):
        assert view.tobytes() == CONTENT[page * PAGE : (page + 1) * PAGE]
    for view in views:
        view.release()
    views.clear()
    assert file.pread(len(CONTENT), 0) == CONTENT


def test_too_many_views_of_one_page_are_refused(stored: Rig) -> None:
    """An OSError that says what to do; nothing else has changed, and a release makes room. [2.21, T-59]"""
    file = stored.open("rb")
    views = [file.view(10, 10) for _ in range(60_000)]
    for _ in range(2):
        assert raises(OSError, file.view, 0, 3 * PAGE, match="release").errno == errno.ENOMEM
    assert stored.cache.stats().pinned == PAGE
    assert file.pread(len(CONTENT), 0) == CONTENT
    views.pop().release()
    with file.view(0, 3 * PAGE) as view:
        assert view.tobytes() == CONTENT[: 3 * PAGE]
    for view in views:
        view.release()
    views.clear()
    assert stored.cache.stats().pinned == 0


def test_a_view_uses_its_object_without_a_handle(make: Make) -> None:
    """So the object is not freed, whatever leaves the cache. [2.8]"""
    rig, file = make({KEY: pattern(PAGE)}).opened("r+b")
    inode = rig.volume.inodes[KEY]
    view, other = file.view(0, PAGE), file.view(0, 1)
    file.close()
    assert not inode.idle()
    view.release()
    assert not inode.idle()
    other.release()
    assert inode.idle()
