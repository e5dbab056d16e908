"""Writable views that lose their range: cut off from their file, or outliving their handle."""

from __future__ import annotations

import pytest

import pagecache
from pagecache import CachedFile, ShutdownError

from ..stores import RecordingBackend
from .rig import KEY, PAGE, Rig, Task
from .test_writable_views import CONTENT, SIZE, Make, patched, saved


@pytest.fixture
def stored(make: Make) -> Rig:
    return make({KEY: CONTENT}, capacity=128 * PAGE)


def cut_off(rig: Rig, file: CachedFile, how: str) -> bytes:
    """Make the change, and return the file's content afterwards. The view is of pages 10 and 11."""
    match how:
        case "truncate":
            file.truncate(5 * PAGE)
            return CONTENT[: 5 * PAGE]
        case "truncate in it":
            file.truncate(10 * PAGE + 50)
            return patched(CONTENT, 10 * PAGE, b"v" * 50)[: 10 * PAGE + 50]
        case "punch":
            file.punch_hole(0, 16 * PAGE)
            return patched(CONTENT, 0, bytes(16 * PAGE))
        case "discard":
            rig.volume.discard(KEY)
            return CONTENT
        case "discard a part":
            lost = rig.volume.discard(KEY, 11 * PAGE, PAGE)
            assert [(entry.offset, entry.length) for entry in lost] == [(11 * PAGE, PAGE)]
            return patched(CONTENT, 10 * PAGE, b"v" * PAGE)
    raise AssertionError(how)


@pytest.mark.parametrize("folio", ["4KiB", "64KiB"])
@pytest.mark.parametrize("how", ["truncate", "truncate in it", "punch", "discard", "discard a part"])
def test_cut_off_it_keeps_its_memory_and_later_stores_are_lost(make: Make, how: str, folio: str) -> None:
    """`detached` is set; earlier stores that are still in the file stay. [T-47, 2.17, 2.18, 2.21]"""
    rig = make(backend=RecordingBackend({KEY: CONTENT}, punch=True), max_folio=folio)
    file = rig.open("r+b")
    file.pread(SIZE, 0)
    view = file.view(10 * PAGE, 2 * PAGE, writable=True)
    for segment in view.segments:
        segment[:] = b"v" * len(segment)
    expected = cut_off(rig, file, how)
    assert view.detached
    assert view.tobytes() == b"v" * 2 * PAGE
    kept = view.segments
    for segment in kept:
        segment[:] = b"L" * len(segment)
    if folio == "4KiB" and how in ("truncate in it", "discard a part"):
        lost = expected  # the page that stays whole in the file still belongs to the view
        expected = file.pread(SIZE, 0)
        assert expected[: 10 * PAGE] == lost[: 10 * PAGE]
    assert file.pread(SIZE, 0) == expected
    rig.cache.check()
    view.release()
    try:
        file.fsync()
    except pagecache.DataLossError:
        assert how.startswith("discard")
        file.fsync()
    assert saved(rig) == expected
    assert rig.cache.stats().pinned == 0
    rig.cache.check()


def test_a_view_in_front_of_the_new_end_goes_on(make: Make) -> None:
    """Truncate cuts off the views that reach behind the end, and no others. [T-44, T-47]"""
    rig = make({KEY: CONTENT}, max_folio="64KiB")
    file = rig.open("r+b")
    file.pread(SIZE, 0)
    with file.view(100, 50, writable=True) as view:
        file.truncate(150)
        assert not view.detached
        view.segments[0][:] = b"x" * 50
        file.truncate(SIZE)
        assert not view.detached
        assert file.pread(SIZE, 0) == CONTENT[:100] + b"x" * 50 + bytes(SIZE - 150)


def test_a_hole_in_a_part_of_a_folio_is_seen_through_the_view(make: Make) -> None:
    """A mapping behaves alike; later stores are saved. [2.17]"""
    rig = make(backend=RecordingBackend({KEY: CONTENT}, punch=True), max_folio="64KiB")
    file = rig.open("r+b")
    file.pread(SIZE, 0)
    with file.view(10 * PAGE, 2 * PAGE, writable=True) as view:
        file.punch_hole(10 * PAGE, PAGE)
        assert not view.detached
        assert view.tobytes() == bytes(PAGE) + CONTENT[11 * PAGE : 12 * PAGE]
        view.segments[0][:3] = b"new"
        file.fsync()
        assert saved(rig)[10 * PAGE : 10 * PAGE + 5] == b"new\0\0"


def test_invalidate_is_refused_while_one_is_open(stored: Rig) -> None:
    """Its pages are dirty again at once: BlockingIOError; once it is closed, invalidate succeeds. [2.18]"""
    file = stored.open("r+b")
    with file.view(0, PAGE, writable=True) as view:
        view.segments[0][:3] = b"new"
        with pytest.raises(BlockingIOError, match="view"):
            stored.volume.invalidate(KEY)
        assert not view.detached
    stored.volume.invalidate(KEY)
    assert stored.cache.stats().used == 0
    assert file.pread(5, 0) == b"new" + CONTENT[3:5]


def test_a_removed_files_view(stored: Rig) -> None:
    """It belongs to the file until the last handle goes, and to no file after that. [T-47, 2.20]"""
    file = stored.open("r+b")
    view = file.view(0, PAGE, writable=True)
    view.segments[0][:3] = b"new"
    stored.volume.remove(KEY)
    assert file.pread(3, 0) == b"new"
    file.close()
    stored.cache.flusher.turn()
    view.segments[0][:3] = b"old"
    view.release()
    assert stored.volume.dirty_ranges(KEY) == []
    stored.cache.check()


def test_closing_the_cache_saves_what_was_stored(make: Make) -> None:
    """A view that is still open loses the file; its memory stays. [T-47, 2.22]"""
    rig = make({KEY: CONTENT})
    view = rig.open("r+b").view(0, 3 * PAGE, writable=True)
    for segment in view.segments:
        segment[:] = b"v" * len(segment)
    rig.cache.close()
    assert view.detached
    view.segments[0][:1] = b"L"
    assert saved(rig) == patched(CONTENT, 0, b"v" * 3 * PAGE)
    assert view.tobytes()[:2] == b"Lv"
    view.release()


def test_a_volume_that_is_closed_has_no_new_ones(stored: Rig) -> None:
    """Its stores after the last sync could not be saved; those of existing views are. [2.22]"""
    file = stored.open("r+b")
    view = file.view(0, 5, writable=True)
    view.segments[0][:] = b"early"
    gate = stored.backend.gate("commit")
    closing = Task(stored.volume.detach)
    gate.wait_entered()
    with pytest.raises(ShutdownError):
        file.view(PAGE, 5, writable=True)
    gate.open()
    closing.result()
    assert view.detached
    assert saved(stored)[:5] == b"early"


def test_a_view_outlives_its_handle(stored: Rig) -> None:
    """Stores after the close are saved like any others. [T-47]"""
    file = stored.open("r+b")
    view = file.view(0, 5, writable=True)
    file.close()
    view.segments[0][:] = b"later"
    view.release()
    stored.volume.sync()
    assert saved(stored)[:5] == b"later"


def test_memory_pressure_leaves_it_alone(stored: Rig) -> None:
    """It is neither evicted nor waited for. [T-47, I-8]"""
    file = stored.open("r+b")
    with file.view(0, 30 * PAGE, writable=True) as view:
        view.segments[0][:5] = b"hello"
        with stored.open("w+b", key="new") as other:
            for _ in range(4):
                other.write(bytes(60 * PAGE))
        assert view.tobytes() == b"hello" + CONTENT[5 : 30 * PAGE]
    assert file.pread(5, 0) == b"hello"
