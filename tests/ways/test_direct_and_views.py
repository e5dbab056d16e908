"""Direct handles and views over every kind of store: one test for each promise that a store could break."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy
import pytest

from pagecache import View, Volume
from pagecache.options import OpenMode

from .awaiting import PAGE, content

DATA = bytes(i * 7 + (i >> 8) * 13 & 255 for i in range(20 * PAGE + 100))


def make(volume: Volume, data: bytes) -> None:
    with volume.open("f", "w") as file:
        file.pwrite(data, 0)
        file.fsync()


@pytest.mark.parametrize("mode", ["r", "r+", "w", "w+", "x", "x+", "a", "a+"])
def test_every_mode(volume: Volume, mode: OpenMode) -> None:
    if "x" not in mode:
        make(volume, b"old" * 1000)
    with volume.open("f", mode, direct=True) as file:
        assert file.readable() == ("r" in mode or "+" in mode)
        assert file.writable() == (mode != "r")
        if file.writable():
            assert file.write(b"new") == 3
            assert file.tell() == (3 if "a" not in mode else 3003)
            assert file.append(b"end") == file.size - 3
        else:
            for call in (
                lambda: file.write(b"x"),
                lambda: file.pwrite(b"x", 0),
                lambda: file.append(b"x"),
                lambda: file.truncate(0),
                lambda: file.punch_hole(0, 1),
            ):
                with pytest.raises(io.UnsupportedOperation):
                    call()
        if not file.readable():
            reads: list[Callable[[], Any]] = [
                lambda: file.read(1),
                lambda: file.pread(1, 0),
                lambda: file.pread_into(bytearray(1), 0),
            ]
            for read in reads:
                with pytest.raises(io.UnsupportedOperation):
                    read()
    expected = {"r": b"old" * 1000, "r+": b"new" + b"old" * 999 + b"end", "a": b"old" * 1000 + b"newend"}
    assert content(volume) == expected.get(mode, expected["a"] if "a" in mode else b"newend")


def test_size_and_space(volume: Volume) -> None:
    make(volume, b"x" * 3 * PAGE)
    with volume.open("f", "r+", direct=True) as file:
        file.truncate(PAGE + 5)
        assert file.pread(PAGE * 3, 0) == b"x" * (PAGE + 5)
        file.truncate(2 * PAGE)
        assert file.pread(PAGE, PAGE) == b"x" * 5 + bytes(PAGE - 5)
        file.punch_hole(10, 20)
        file.zero_range(100, 5)
        assert file.pread(110, 0) == b"x" * 10 + bytes(20) + b"x" * 70 + bytes(5) + b"x" * 5
        file.seek(7)
        assert file.truncate() == 7
        file.fsync()
    assert content(volume) == b"x" * 7


@pytest.mark.parametrize("first", ["buffered", "direct", "view", "append"])
@pytest.mark.parametrize("second", ["buffered", "direct", "view", "append"])
def test_each_way_of_writing_is_seen_by_each_way_of_reading(volume: Volume, first: str, second: str) -> None:
    """T-27: every reader sees the last write, whatever wrote before, dirty or clean or flushed."""
    expected = bytearray(b"o" * (2 * PAGE + 100))
    make(volume, bytes(expected))

    def write(how: str, data: bytes, offset: int) -> None:
        if how == "append":
            assert buffered.append(data) == len(expected)
            expected.extend(data)
            return
        if how == "view":
            with buffered.view(offset, len(data), writable=True) as view:
                at = 0
                for segment in view.segments:
                    segment[:] = data[at : at + len(segment)]
                    at += len(segment)
        else:
            assert {"buffered": buffered, "direct": direct}[how].pwrite(data, offset) == len(data)
        expected[offset : offset + len(data)] = data

    def look() -> None:
        size = len(expected)
        assert buffered.size == direct.size == size
        assert direct.pread(size + 10, 0) == expected
        assert buffered.pread(size + 10, 0) == expected
        assert direct.pread(size + 10, 0) == expected
        with buffered.view(0, size) as view:
            assert view.tobytes() == expected

    with volume.open("f", "r+") as buffered, volume.open("f", "r+", direct=True) as direct:
        for between in (lambda: None, buffered.flush, buffered.fsync, volume.drop_clean):
            write(first, b"1" * PAGE, PAGE)
            between()
            look()
            write(second, b"2" * 600, PAGE + 300)
            look()
            between()
            write(first, b"3" * 10, PAGE + 500)
            between()
            look()
    assert content(volume) == expected


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (0, 20 * PAGE + 100), (PAGE - 1, 2), (5, 3 * PAGE), (20 * PAGE, 100), (7, 0)]
)
@pytest.mark.parametrize("writable", [False, True])
def test_segments_tile_exactly(volume: Volume, offset: int, length: int, writable: bool) -> None:
    make(volume, DATA)
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


def test_stores_of_a_view_are_written_back(volume: Volume) -> None:
    make(volume, DATA)
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
