"""The interface of views, over every kind of backend."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

import pagecache
from pagecache import PageCache, View, Volume
from pagecache.backends import DirectoryBackend, MemoryBackend

from ..file.rig import FAST, QUIET, side_by_side
from .conftest import Attach
from .plain import PlainStore

PAGE = 4096
DATA = bytes(i * 7 + (i >> 8) * 13 & 255 for i in range(20 * PAGE + 100))


def make(volume: Volume, data: bytes = DATA, key: str = "f") -> bytes:
    with volume.open(key, "w") as file:
        file.pwrite(data, 0)
        file.fsync()
    return data


def content(volume: Volume, key: str = "f") -> bytes:
    with volume.open(key) as file:
        return file.read()


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (0, 20 * PAGE + 100), (PAGE - 1, 2), (5, 3 * PAGE), (20 * PAGE, 100), (7, 0)]
)
@pytest.mark.parametrize("writable", [False, True])
def test_segments_tile_exactly(volume: Volume, offset: int, length: int, writable: bool) -> None:
    make(volume)
    volume.drop_clean()
    with volume.open("f", "r+") as file, file.view(offset, length, writable=writable) as view:
        assert isinstance(view, View)
        assert isinstance(view.segments, tuple)
        assert sum(map(len, view.segments)) == len(view) == length
        assert b"".join(view.segments) == view.tobytes() == DATA[offset : offset + length]
        for segment in view.segments:
            assert type(segment) is memoryview
            assert segment.format == "B"
            assert segment.itemsize == 1
            assert segment.ndim == 1
            assert segment.contiguous
            assert segment.readonly is not writable
            assert len(segment)
        assert not view.detached


def test_ranges_outside_of_the_file_are_value_errors(volume: Volume) -> None:
    make(volume, b"x" * 100)
    with volume.open("f", "r+") as file:
        for writable in (False, True):
            for offset, length in [(0, 101), (100, 1), (101, 0), (-1, 1), (0, -1), (2**63 - 1, 1), (2**62, 2**62)]:
                with pytest.raises(ValueError):
                    file.view(offset, length, writable=writable)
            with file.view(100, 0, writable=writable) as view:
                assert len(view) == 0
                assert view.tobytes() == b""
                assert b"".join(view.segments) == b""
        with pytest.raises(TypeError):
            file.view("0", 1)  # type: ignore[arg-type]
        assert file.size == 100


def test_a_writable_view_needs_a_handle_that_writes(volume: Volume) -> None:
    make(volume)
    with volume.open("f") as file, pytest.raises(OSError):
        file.view(0, 1, writable=True)
    with volume.open("f", flags=os.O_WRONLY) as file:
        for writable in (False, True):
            with pytest.raises(OSError):
                file.view(0, 1, writable=writable)


def test_stores_of_a_view_are_written_back(volume: Volume) -> None:
    make(volume)
    expected = bytearray(DATA)
    with volume.open("f", "r+") as file:
        view = file.view(PAGE - 10, 2 * PAGE, writable=True)
        at = PAGE - 10
        for segment in view.segments:
            array = numpy.frombuffer(segment, numpy.uint8)
            array += 1
            expected[at : at + len(segment)] = array.tobytes()
            at += len(segment)
            del array
        assert file.pread(len(DATA), 0) == expected
        file.fsync()
        view.segments[0][0] = 77
        expected[PAGE - 10] = 77
        view.release()
        view.release()
        assert volume.dirty_ranges("f") != []
        file.fsync()
        assert volume.dirty_ranges("f") == []
    volume.invalidate()
    assert content(volume) == expected


@pytest.mark.parametrize(
    "end", ["truncate", "shorten into", "invalidate", "discard", "remove", "punch", "direct write"]
)
@pytest.mark.parametrize("writable", [False, True])
def test_a_view_that_is_cut_off(volume: Volume, end: str, writable: bool) -> None:
    """2.21: the memory stays and belongs to no file; later stores are lost."""
    make(volume)
    with volume.open("f", "r+") as file, volume.open("f", "r+", direct=True) as direct:
        view = file.view(PAGE, 2 * PAGE, writable=writable)
        actions: dict[str, Callable[[], object]] = {
            "truncate": lambda: file.truncate(0),
            "shorten into": lambda: file.truncate(PAGE + 100),
            "invalidate": lambda: volume.invalidate("f"),
            "discard": lambda: volume.discard("f"),
            "remove": lambda: volume.remove("f"),
            "punch": lambda: file.punch_hole(0, 10 * PAGE),
            "direct write": lambda: direct.pwrite(b"d" * PAGE, PAGE),
        }
        failed = False
        with contextlib.suppress(BlockingIOError):  # on objects with an open writer, or with a writable view
            failed = True
            actions[end]()
            failed = False
        if end == "invalidate" and (writable or volume.backend.limits.commit_on_close):
            assert not view.detached or not writable
        if end in ("truncate",) or (end == "invalidate" and not failed):
            assert view.detached
        before = view.tobytes()
        assert len(before) == 2 * PAGE
        if end in ("truncate", "invalidate", "remove"):
            assert before == DATA[PAGE : 3 * PAGE]
        if writable and view.detached:
            size, seen = file.size, file.pread(len(DATA), 0)
            view.segments[0][:5] = b"lost!"
            assert file.pread(len(DATA), 0) == seen
            assert file.size == size
        detached = view.detached
        view.release()
        assert view.detached is detached  # still readable after a `with`
        assert file.pread(1, 0) == (b"" if end == "truncate" else b"\0" if end == "punch" else DATA[:1])
        if end == "discard":
            with contextlib.suppress(pagecache.DataLossError):
                file.flush()
            with contextlib.suppress(pagecache.DataLossError):
                direct.flush()


def test_zeros_behind_the_end_whatever_views_stored(volume: Volume) -> None:
    """T-44: truncates go down and up in any order, with views on both sides."""
    make(volume, b"x" * (2 * PAGE))
    with volume.open("f", "r+") as file:
        for size in (PAGE + 100, PAGE - 1, 5, 0):
            whole = file.view(0, file.size, writable=True)
            for segment in whole.segments:
                segment[:] = b"y" * len(segment)
            file.truncate(size)
            for segment in whole.segments:
                segment[:] = b"z" * len(segment)
            file.truncate(2 * PAGE)
            seen = file.pread(3 * PAGE, 0)
            assert seen[size:] == bytes(2 * PAGE - size)
            whole.release()
            assert file.pread(3 * PAGE, 0)[size:] == bytes(2 * PAGE - size)
            file.fsync()
    volume.drop_clean()
    assert content(volume) == bytes(2 * PAGE)


def test_memory_outlives_everything(tmp_path: Path) -> None:
    """T-47: handle, volume and cache go; slices, arrays and segments stay."""
    cache = PageCache("4MiB", **QUIET, retry=FAST)
    volume = cache.attach(DirectoryBackend(tmp_path))
    make(volume)
    file = volume.open("f", "r+")
    view = file.view(0, 5 * PAGE)
    writable = file.view(6 * PAGE, PAGE, writable=True)
    piece = view.segments[0][10:20]
    array = numpy.frombuffer(writable.segments[0], numpy.uint8)
    array[:3] = 1
    file.close()
    view.release()
    cache.close(timeout=20)
    assert writable.detached
    gone = weakref.ref(cache)
    del file, volume, cache
    gc.collect()
    assert bytes(piece) == DATA[10:20]
    assert array[:3].tolist() == [1, 1, 1]
    array[:] = 9
    writable.release()
    assert array.sum() == 9 * PAGE
    del piece, array, view, writable
    gc.collect()
    assert gone() is None
    stored = (tmp_path / "f").read_bytes()
    assert stored == DATA[: 6 * PAGE] + b"\1\1\1" + DATA[6 * PAGE + 3 :]


def test_the_system_reads_into_views(volume: Volume, tmp_path: Path) -> None:
    """socket.recv_into, os.readv, os.preadv, file.readinto, memoryview copies."""
    make(volume, bytes(8 * PAGE))
    source = tmp_path / "source"
    source.write_bytes(DATA[: 8 * PAGE])
    with volume.open("f", "r+") as file:
        left, right = socket.socketpair()
        with left, right, file.view(0, 100, writable=True) as view:
            left.sendall(b"s" * 100)
            assert right.recv_into(view.segments[0], 100) == 100
        with file.view(PAGE, 4 * PAGE, writable=True) as view:
            fd = os.open(source, os.O_RDONLY)
            assert os.readv(fd, view.segments) == 4 * PAGE
            os.close(fd)
        with file.view(5 * PAGE, PAGE, writable=True) as view, source.open("rb", buffering=0) as raw:
            assert raw.readinto(view.segments[0]) == len(view.segments[0])
        with file.view(6 * PAGE, PAGE, writable=True) as view, file.view(PAGE, PAGE) as other:
            view.segments[0][: len(other.segments[0])] = other.segments[0]
        with file.view(PAGE, 4 * PAGE) as view:
            target = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
            assert os.writev(target, view.segments) == 4 * PAGE
            os.close(target)
        assert file.pread(100, 0) == b"s" * 100
        assert file.pread(4 * PAGE, PAGE) == DATA[: 4 * PAGE] == (tmp_path / "out").read_bytes()
        assert file.pread(PAGE, 5 * PAGE) == DATA[:PAGE]
        assert file.pread(PAGE, 6 * PAGE) == DATA[:PAGE]


def test_too_much_is_enomem_and_harms_nothing(attach: Attach) -> None:
    """2.21: write-pinned bytes have their own limit; it is given back by release."""
    volume = attach(MemoryBackend(), capacity="4MiB")
    with volume.open("f", "w+") as file:
        for at in range(0, 6 << 20, 1 << 20):
            file.pwrite(b"x" * (1 << 20), at)
            file.fsync()
        for _turn in range(3):
            views = []
            with pytest.raises(OSError) as raised:
                for at in range(0, 6 << 20, 64 << 10):
                    views.append(file.view(at, 64 << 10, writable=True))
            assert raised.value.errno == errno.ENOMEM
            assert views
            assert file.pwrite(b"y", 5 << 20) == 1  # writers go on
            assert file.pread(1, 5 << 20) == b"y"
            for view in views:
                view.release()
        file.fsync()
        assert volume.cache.stats().pinned == 0


def test_threads_take_and_release_views(volume: Volume) -> None:
    make(volume, bytes(16 * PAGE))
    with volume.open("f", "r+") as file:

        def work(i: int) -> None:
            for turn in range(25):
                with file.view(i * 2 * PAGE, 2 * PAGE, writable=True) as view:
                    for segment in view.segments:
                        segment[:] = bytes([i + 1]) * len(segment)
                with file.view(i * 2 * PAGE, 2 * PAGE) as view:
                    assert view.tobytes() == bytes([i + 1]) * 2 * PAGE
                if turn % 10 == i:
                    file.flush()

        side_by_side(work)
        file.fsync()
    volume.drop_clean()
    assert content(volume) == b"".join(bytes([i + 1]) * 2 * PAGE for i in range(8))


def test_views_collected_at_any_point(volume: Volume) -> None:
    """T-48: cycles with views and handles in them, the collector at every allocation, in several threads."""
    make(volume, bytes(16 * PAGE))

    class Cycle:
        me: object
        view: View

    def work(i: int) -> None:
        with volume.open("f", "r+") as file:
            for _ in range(15):
                cycle = Cycle()
                cycle.me = cycle
                cycle.view = file.view(i * PAGE, PAGE, writable=True)
                cycle.view.segments[0][:4] = bytes([i, i, i, i])
                del cycle
                file.pwrite(b"w", i * PAGE + 10)
                file.pread(10, i * PAGE)
            file.flush()

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        side_by_side(work, 4)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert volume.cache.stats().pinned == 0
    assert content(volume)[: 4 * PAGE : PAGE] == bytes(range(4))


def test_a_view_costs_no_references(volume: Volume) -> None:
    """Released views keep no reference to the handle."""
    make(volume)
    with volume.open("f", "r+") as file:
        with file.view(0, PAGE, writable=True):
            pass
        count = sys.getrefcount(file), sys.getrefcount(volume)
        for _ in range(200):
            file.view(0, 3 * PAGE, writable=True).release()
            file.view(0, 3 * PAGE).release()
        gc.collect()
        assert (sys.getrefcount(file), sys.getrefcount(volume)) == count


def test_writes_show_in_views_and_never_reuse(attach: Attach) -> None:
    """2.21: content may change by writes, never by reuse: other files fill the cache at the same time."""
    volume = attach(PlainStore(), capacity="1MiB")
    make(volume)
    with volume.open("f", "r+") as file, volume.open("g", "w+") as other:
        view = file.view(0, 4 * PAGE)
        for turn in range(8):
            other.pwrite(b"g" * (256 << 10), turn * (256 << 10))
            other.fsync()
        assert view.tobytes() == DATA[: 4 * PAGE]
        file.pwrite(b"new", 0)
        assert view.detached or view.tobytes()[:3] in (b"new", DATA[:3])
        assert file.pread(3, 0) == b"new"
        view.release()
