"""Views: cache memory without a copy. Bytes stored through a writable one belong to the file until it is released or
cut off; it may outlive its handle.
"""

from __future__ import annotations

import gc
import io
from collections.abc import Callable
from typing import Any

import numpy
import pytest

from pagecache import CachedFile, DataLossError, ShutdownError, View

from ..stores import RecordingBackend
from .rig import KEY, PAGE, Make, Rig, Task, at_gate, eventually, overlay, pattern, raises, without_collector

CONTENT = pattern(64 * PAGE + 100)


@pytest.fixture
def stored(make: Make) -> Rig:
    """A file of 64 pages and a bit on a cache that holds 128 pages."""
    return make({KEY: CONTENT}, capacity=128 * PAGE)


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
        *((0, len(CONTENT) + 1), (len(CONTENT), 1), (len(CONTENT) + 1, 0)),
        *((1 << 40, 1), (-1, 5), (5, -1), (1 << 62, 1 << 62)),
    ],
)
def test_a_range_outside_the_file_is_a_value_error(stored: Rig, offset: int, length: int, writable: bool) -> None:
    """A view extends nothing; the refused call pins nothing. [T-59, 2.21]"""
    raises(ValueError, lambda: stored.open("r+b").view(offset, length, writable=writable))
    assert (stored.cache.stats().pinned, stored.volume.dirty_ranges(KEY)) == (0, [])


@pytest.mark.parametrize(
    "keep", [lambda segment: segment[:], lambda segment: numpy.frombuffer(segment, "u1")], ids=["slice", "array"]
)
@pytest.mark.parametrize("writable", [False, True])
def test_content_stays_under_memory_pressure(stored: Rig, writable: bool, keep: Callable[[memoryview], Any]) -> None:
    """Pinned pages are neither evicted nor reused, until the last slice or array is gone. [T-47, 2.21, I-8]"""
    view = stored.open("r+b").view(100, 6 * PAGE, writable=writable)
    kept = keep(view.segments[0][10:20])
    press(stored)
    assert view.tobytes() == CONTENT[100 : 100 + 6 * PAGE]
    for _ in range(2):  # it may be repeated
        view.release()
        raises(ValueError, view.tobytes)
    press(stored)
    assert bytes(kept) == CONTENT[110:120]
    assert stored.cache.stats().pinned > 0
    del view, kept
    gc.collect()
    assert stored.cache.stats().pinned == 0


SIZE = len(CONTENT)


@pytest.mark.parametrize(("offset", "length"), [(0, 100), (4000, 200), (PAGE, 16 * PAGE), (64 * PAGE, 100), (SIZE, 0)])
def test_stores_are_the_files_bytes(stored: Rig, file: CachedFile, offset: int, length: int) -> None:
    """They are seen by reads at once, saved by the next fsync, and nothing around them has changed. [2.21]"""
    expected = overlay(CONTENT, offset, b"\xee" * length)
    with file.view(offset, length, writable=True) as view:
        assert not any(segment.readonly for segment in view.segments)
        for segment in view.segments:
            segment[:] = b"\xee" * len(segment)
        assert file.pread(SIZE, 0) == expected
        assert view.tobytes() == b"\xee" * length
        assert stored.saved(file) == expected
    assert stored.saved(file) == expected
    assert stored.volume.dirty_ranges(KEY) == []
    assert stored.cache.stats().pinned == 0


def test_it_is_dirty_while_it_is_held_and_its_last_content_is_saved(stored: Rig, file: CachedFile) -> None:
    """Each fsync covers earlier stores; later ones need another. [2.21, 1.3]"""
    view = file.view(10, 5, writable=True)
    for text in (b"first", b"other", b"third"):
        view.segments[0][:] = text
        file.fsync()
        assert (stored.backend.committed(KEY) or b"")[10:15] == text
        assert stored.volume.dirty_ranges(KEY) == [(0, PAGE)]
    view.segments[0][:] = b"final"
    view.release()
    assert stored.volume.dirty_ranges(KEY) == [(0, PAGE)]
    file.close()
    assert stored.backend.written(KEY)[10:15] == b"final"


def test_the_bytes_of_a_running_call_do_not_change(make: Make) -> None:
    """The buffers of a running call are a copy; the next store waits for nothing. [2.13, 2.21]"""
    rig, file = make({KEY: CONTENT}).opened("r+b")
    with file.view(0, 10, writable=True) as view:
        view.segments[0][:] = b"0123456789"
        gate, saving = at_gate(rig.backend.gate("write_from"), file.flush)
        view.segments[0][:] = b"abcdefghij"
        assert Task(file.pwrite, b"beside", 20).result() == 6
        saving.result(opening=gate)
        assert rig.backend.written(KEY)[:10] == b"0123456789"
    assert rig.saved(file) == b"abcdefghij" + CONTENT[10:20] + b"beside" + CONTENT[26:]


def test_writers_do_not_wait_for_what_a_view_reads_first(stored: Rig) -> None:
    """Missing bytes are fetched before the lock of writers is taken. [2.21]"""
    file, other = stored.open("r+b"), stored.open("r+b")
    gate, opening = at_gate(stored.backend.gate("read_into"), file.view, 0, 4 * PAGE, writable=True)
    assert Task(other.pwrite, b"w" * PAGE, 20 * PAGE).result() == PAGE
    assert not opening.finished.is_set()
    gate.open()
    with opening.result() as view:
        assert view.tobytes() == CONTENT[: 4 * PAGE]


@pytest.mark.parametrize("pages", [16, 64, 256])
def test_an_aligned_range_that_is_not_cached_is_one_segment(make: Make, pages: int) -> None:
    """64 KiB to max_folio: one folio, one segment. [2.21]"""
    rig = make({KEY: pattern(512 * PAGE)}, capacity="16MiB", max_folio="1MiB")
    for writable in (False, True):
        rig.volume.drop_clean()
        with rig.open("r+b").view(pages * PAGE, pages * PAGE, writable=writable) as view:
            assert len(view.segments) == 1


def test_only_a_handle_that_reads_and_writes_has_them(stored: Rig) -> None:
    """Others raise UnsupportedOperation and pin nothing. [2.21]"""
    for mode in ("rb", "ab"):
        raises(io.UnsupportedOperation, stored.open(mode).view, 0, 10, writable=True)
    assert stored.cache.stats().pinned == 0


def test_a_range_that_a_running_truncate_cuts_off_is_a_value_error(stored: Rig, file: CachedFile) -> None:
    """The view waits for the lock of the object, and compares with the size that the truncate leaves. [2.21]"""
    gate, truncate = at_gate(stored.backend.gate("truncate", KEY), file.truncate, 10 * PAGE)
    view = Task(file.view, 10 * PAGE, PAGE, writable=True)
    assert view.waits()
    truncate.result(opening=gate)
    raises(ValueError, view.result, match=rf"is not inside the file of {10 * PAGE} bytes")
    assert stored.cache.stats().pinned == 0


class Cycle:
    """An object that only the collector frees."""

    def __init__(self, *held: Any) -> None:
        self.held = held
        self.itself = self


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_collector_releases_anywhere(make: Make) -> None:
    """At every allocation of four threads that read, write, cut and save. [T-48, 2.21]"""
    rig = make({KEY: CONTENT, "other": CONTENT}, capacity="16MiB")

    def churn(seed: int) -> None:
        file = rig.volume.open(KEY, "r+b")
        for turn in range(60):
            offset = (turn * 7 + seed * 13) % 50 * PAGE
            Cycle(file.view(offset, 2 * PAGE, writable=turn % 2 == 0))
            Cycle(rig.volume.open("other", "r+b").view(offset, 100, writable=True))
            match turn % 5:
                case 0:
                    file.pwrite(b"w" * 5000, offset)
                case 1:
                    file.fsync()
                case 2:
                    rig.volume.drop_clean()
                case 3:
                    file.pread(20 * PAGE, offset)
                case 4:
                    file.truncate(SIZE)
        file.close()

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for task in [Task(churn, seed) for seed in range(4)]:
            task.result()
    finally:
        gc.set_threshold(*threshold)
    # While a thread of the volume collects, `gc.collect` does nothing.
    eventually(lambda: gc.collect() >= 0 and rig.cache.stats().pinned == 0)
    rig.cache.flusher.turn()
    rig.volume.sync()
    assert rig.volume.dirty_ranges(KEY) == rig.volume.dirty_ranges("other") == []


@pytest.mark.parametrize("method", ["read_into", "write_from", "commit"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_collector_releases_inside_a_backend_call(make: Make, method: str) -> None:
    """They cover the call's own folios, and those of an unclosed handle. [T-48, 2.21]"""
    rig, file = make({KEY: CONTENT}).written(b"dirty", 3 * PAGE)

    def collecting(*call: Any) -> Any:
        gc.collect()
        match method:
            case "read_into":
                return call[0].fill(*call[1:])
            case "write_from":
                return call[0].store(*call[1:])
        return call[0].make_durable()

    rig.backend.fault(method, collecting)
    with without_collector():
        Cycle(file.view(3 * PAGE, PAGE, writable=True), file.view(0, PAGE))
        Cycle(rig.volume.open(KEY, "r+b"))
    Task(file.pread, SIZE, 0).result()
    Task(file.fsync).result()
    gc.collect()
    assert rig.cache.stats().pinned == 0
    file.fsync()
    assert rig.volume.dirty_ranges(KEY) == []


def test_stores_of_a_view_are_not_held_back_forever(make: Make) -> None:
    """Background write-back skips a view until its data is older than `dirty_expire`. [2.11]"""
    rig = make({KEY: CONTENT}, dirty_expire=0.05, flush_interval=0.01)
    with rig.open("r+b").view(0, 5, writable=True) as view:
        for text in (b"first", b"other"):
            view.segments[0][:] = text
            eventually(lambda text=text: rig.backend.written(KEY).startswith(text))  # type: ignore[misc]


# A cut of a file with a view of pages 10 and 11, and the file's content afterwards.
CUTS: dict[str, tuple[Callable[[Rig, CachedFile], object], bytes]] = {
    "truncate": (lambda rig, file: file.truncate(5 * PAGE), CONTENT[: 5 * PAGE]),
    "truncate in it": (lambda rig, file: file.truncate(10 * PAGE + 50), CONTENT[: 10 * PAGE] + b"v" * 50),
    "punch": (lambda rig, file: file.punch_hole(0, 16 * PAGE), overlay(CONTENT, 0, bytes(16 * PAGE))),
    "discard": (lambda rig, file: rig.volume.discard(KEY), CONTENT),
    "discard a part": (
        lambda rig, file: rig.volume.discard(KEY, 11 * PAGE, PAGE),
        overlay(CONTENT, 10 * PAGE, b"v" * PAGE),
    ),
}


@pytest.mark.parametrize("folio", ["4KiB", "64KiB"])
@pytest.mark.parametrize("how", CUTS)
def test_cut_off_it_keeps_its_memory_and_later_stores_are_lost(make: Make, how: str, folio: str) -> None:
    """`detached` is set; earlier stores that are still in the file stay. [T-47, 2.17, 2.18, 2.21]"""
    rig, file = make(backend=RecordingBackend({KEY: CONTENT}, punch=True), max_folio=folio).opened("r+b")
    file.pread(SIZE, 0)
    view = file.view(10 * PAGE, 2 * PAGE, writable=True)
    for segment in view.segments:
        segment[:] = b"v" * len(segment)
    cut, expected = CUTS[how]
    cut(rig, file)
    assert view.detached
    assert view.tobytes() == b"v" * 2 * PAGE
    for segment in view.segments:
        segment[:] = b"L" * len(segment)
    if folio == "4KiB" and how in ("truncate in it", "discard a part"):
        expected = file.pread(SIZE, 0)  # the page that stays whole in the file still belongs to the view
        assert expected[: 10 * PAGE] == CONTENT[: 10 * PAGE]
    assert file.pread(SIZE, 0) == expected
    rig.cache.check()
    view.release()
    if how.startswith("discard"):
        raises(DataLossError, file.fsync)
    assert rig.saved(file) == expected
    assert rig.cache.stats().pinned == 0


def test_a_removed_files_view(stored: Rig, file: CachedFile) -> None:
    """It belongs to the file until the last handle goes, and to no file after that. [T-47, 2.20]"""
    view = file.view(0, PAGE, writable=True)
    view.segments[0][:3] = b"new"
    stored.volume.remove(KEY)
    assert file.pread(3, 0) == b"new"
    file.close()
    stored.cache.flusher.turn()
    view.segments[0][:3] = b"old"
    view.release()
    assert stored.volume.dirty_ranges(KEY) == []


def test_a_volume_that_is_closed_has_no_new_ones(stored: Rig, file: CachedFile) -> None:
    """Its stores after the last sync could not be saved; those of existing views are. [2.22]"""
    view = file.view(0, 5, writable=True)
    view.segments[0][:] = b"early"
    gate, closing = at_gate(stored.backend.gate("commit"), stored.volume.detach)
    raises(ShutdownError, file.view, PAGE, 5, writable=True)
    closing.result(opening=gate)
    assert view.detached
    assert (stored.backend.committed(KEY) or b"")[:5] == b"early"


def test_a_view_outlives_its_handle(stored: Rig, file: CachedFile) -> None:
    """Stores after the close are saved like any others, also through an array that outlives the view. [T-47, 2.21]"""
    view = file.view(0, 5, writable=True)
    file.close()
    array = numpy.frombuffer(view.segments[0], dtype=numpy.uint8)
    view.release()
    assert stored.cache.stats().pinned == PAGE
    array[:] = list(b"later")
    del array
    stored.volume.sync()
    assert (stored.backend.committed(KEY) or b"")[:5] == b"later"
