"""The interface of `open(direct=True)`, over every kind of backend."""

from __future__ import annotations

import ctypes
import io
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import pagecache
from pagecache import ShutdownError, Volume
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.options import OpenMode

from ..file.rig import side_by_side
from .conftest import Attach

PAGE = 4096
BLOCK = bytes(range(256)) * 16


def make(volume: Volume, data: bytes = BLOCK * 4, key: str = "f") -> bytes:
    with volume.open(key, "w") as file:
        file.pwrite(data, 0)
        file.fsync()
    return data


def content(volume: Volume, key: str = "f") -> bytes:
    with volume.open(key) as file:
        return file.read()


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


def test_o_append_goes_to_the_end_whatever_the_position(volume: Volume) -> None:
    """O_APPEND with direct: `write` appends, and two handles never overwrite each other."""
    with (
        volume.open("f", flags=os.O_RDWR | os.O_CREAT | os.O_APPEND, direct=True) as one,
        volume.open("f", flags=os.O_RDWR | os.O_APPEND, direct=True) as two,
    ):
        one.write(b"1" * 10)
        two.write(b"2" * 10)
        one.seek(0)
        one.write(b"3" * 10)
        assert one.tell() == 30
        assert two.pread(100, 0) == b"1" * 10 + b"2" * 10 + b"3" * 10


def test_the_verbs_of_a_raw_file(volume: Volume) -> None:
    data = make(volume)
    with volume.open("f", "r+", direct=True) as file:
        assert file.read(10) == data[:10]
        assert file.tell() == 10
        assert file.readall() == data[10:]
        assert file.seek(-5, os.SEEK_END) == len(data) - 5
        assert file.read() == data[-5:]
        assert file.read(1) == b""
        buffer = bytearray(PAGE)
        file.seek(PAGE)
        assert file.readinto(buffer) == PAGE
        assert buffer == data[PAGE : 2 * PAGE]
        buffered = io.BufferedRandom(file)
        buffered.seek(100)
        buffered.write(b"hello")
        buffered.flush()
        assert file.pread(5, 100) == b"hello"
        buffered.detach()
        parts = [bytearray(100), bytearray(0), bytearray(5000)]
        assert file.preadv(parts, 10) == 5100
        assert file.pwritev([b"ab", b"", b"cd"], 10) == 4
        assert file.pread(4, 10) == b"abcd"


def test_any_memory_is_source_and_destination(volume: Volume, tmp_path: Path) -> None:
    """The test uses numpy, mmap, array, ctypes, slices, other dtypes."""
    make(volume)
    with volume.open("f", "r+", direct=True) as file:
        array: Any = numpy.arange(2 * PAGE, dtype=numpy.uint8)
        assert file.pwrite(array, 0) == 2 * PAGE
        back: Any = numpy.zeros(2 * PAGE // 8, dtype=numpy.uint64)
        assert file.pread_into(back, 0) == 2 * PAGE
        assert back.tobytes() == array.tobytes()
        anonymous = mmap.mmap(-1, PAGE)
        anonymous[:] = b"m" * PAGE
        assert file.pwrite(anonymous, PAGE) == PAGE
        anonymous[:] = bytes(PAGE)
        assert file.pread_into(anonymous, PAGE) == PAGE
        assert anonymous[:] == b"m" * PAGE
        path = tmp_path / "of-a-map"
        path.write_bytes(bytes(PAGE))
        with path.open("r+b") as real, mmap.mmap(real.fileno(), PAGE) as mapped:
            assert file.pread_into(mapped, PAGE) == PAGE
            assert mapped[:] == b"m" * PAGE
            mapped[:] = b"n" * PAGE
            assert file.pwrite(mapped, 0) == PAGE
        assert file.pread(2, 0) == b"nn"
        raw = (ctypes.c_char * 100)()
        assert file.pread_into(raw, 0) == 100
        assert raw.raw == b"n" * 100
        assert file.pwrite(memoryview(b"0123456789")[2:5], 0) == 3
        with pytest.raises((BufferError, ValueError, TypeError)):
            file.pread_into(memoryview(bytearray(100))[::2], 0)
        with pytest.raises((BufferError, ValueError, TypeError)):
            file.pread_into(b"read-only", 0)
        with pytest.raises(TypeError):
            file.pwrite("text", 0)  # type: ignore[arg-type]
        assert file.pread(3, 0) == b"234"


def test_zero_bytes_and_the_end_of_the_file(volume: Volume) -> None:
    data = make(volume, BLOCK + b"tail")
    with volume.open("f", "r+", direct=True) as file:
        assert file.pwrite(b"", 10**9) == 0
        assert file.size == len(data)
        assert file.pwritev([], 5) == 0
        assert file.pread(0, 0) == b""
        assert file.pread_into(bytearray(0), 0) == 0
        assert file.append(b"") == len(data)
        assert file.pread(100, PAGE) == b"tail"
        assert file.pread(100, len(data)) == b""
        assert file.pread(1, 10**12) == b""
        buffer = bytearray(b"*" * 100)
        assert file.pread_into(buffer, PAGE) == 4
        assert buffer[:4] == b"tail"
        assert buffer[4:] == b"*" * 96
        for bad in (
            lambda: file.pread(-1, 0),
            lambda: file.pread(1, -1),
            lambda: file.pwrite(b"x", -1),
            lambda: file.truncate(-1),
        ):
            with pytest.raises(ValueError):
                bad()
        with pytest.raises((ValueError, OSError)):
            file.pwrite(b"xy", 2**63 - 2)
        assert file.size == len(data)


def test_a_gap_reads_as_zeros(volume: Volume) -> None:
    with volume.open("f", "w+", direct=True) as file:
        file.pwrite(b"far", 10 * PAGE + 5)
        assert file.size == 10 * PAGE + 8
        assert file.pread(20 * PAGE, 0) == bytes(10 * PAGE + 5) + b"far"
    assert content(volume) == bytes(10 * PAGE + 5) + b"far"


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


def test_views_hints_and_tries_on_a_direct_handle(volume: Volume) -> None:
    """A direct handle has all the verbs; a view of it is a view of the cache."""
    data = make(volume)
    with volume.open("f", "r+", direct=True) as file:
        with file.view(0, PAGE) as view:
            assert view.tobytes() == data[:PAGE]
        with file.view(0, PAGE, writable=True) as view:
            view.segments[0][:4] = b"view"
            assert file.pread(4, 0) == b"view"
        file.advise(pagecache.Advice.RANDOM)
        file.prefetch(0, PAGE, wait=True)
        file.prefetch_ranges([(0, 1)], wait=True)
        tried = file.try_pread(4, 0)
        assert tried is None or tried == b"view"
        tried_write = file.try_pwrite(b"x", 0)
        assert tried_write in (None, 1)
        file.sync_range(0, PAGE)
        file.flush()
        file.fsync()
        assert file.stats().capacity >= 0


def test_a_read_only_volume(attach: Attach, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(BLOCK)
    volume = attach(DirectoryBackend(tmp_path), read_only=True)
    with volume.open("f", direct=True) as file:
        assert file.pread(PAGE, 0) == BLOCK
    for mode in ("r+", "w", "a", "x"):
        with pytest.raises(PermissionError):
            volume.open("f" if mode != "x" else "new", mode, direct=True)


def test_a_closed_handle(volume: Volume) -> None:
    make(volume)
    file = volume.open("f", "r+", direct=True)
    file.close()
    file.close()
    file.abandon()
    for call in (
        lambda: file.pread(1, 0),
        lambda: file.pread(0, 0),
        lambda: file.pread_into(bytearray(1), 0),
        lambda: file.pwrite(b"x", 0),
        lambda: file.pwrite(b"", 0),
        lambda: file.append(b"x"),
        lambda: file.read(1),
        lambda: file.write(b"x"),
        lambda: file.try_pread(1, 0),
        lambda: file.try_pwrite(b"x", 0),
        lambda: file.view(0, 1),
        lambda: file.fsync(),
        lambda: file.flush(),
        lambda: file.truncate(0),
    ):
        with pytest.raises(ValueError):
            call()


def test_after_abort_reconnect_and_detach(attach: Attach, tmp_path: Path) -> None:
    volume = attach(DirectoryBackend(tmp_path))
    make(volume)
    file = volume.open("f", "r+", direct=True)
    volume.drop_clean()
    volume.abort()
    for call in (
        lambda: file.pread(1, 0),
        lambda: file.pwrite(b"x", 0),
        lambda: file.append(b"x"),
        lambda: file.fsync(),
    ):
        with pytest.raises(ShutdownError):
            call()
    volume.reconnect(DirectoryBackend(tmp_path))
    assert file.pwrite(b"again", 0) == 5
    assert file.pread(5, 0) == b"again"
    file.fsync()
    other = volume.open("f", "r+", direct=True)
    file.close()
    volume.detach(timeout=20)
    for call in (lambda: other.pread(1, 0), lambda: other.pwrite(b"x", 0)):
        with pytest.raises((ShutdownError, ValueError)):
            call()
    assert (tmp_path / "f").read_bytes()[:5] == b"again"


def test_direct_bytes_go_to_the_backend_and_stay_out_of_memory(attach: Attach) -> None:
    backend = MemoryBackend()
    volume = attach(backend)
    make(volume)
    volume.drop_clean()
    with volume.open("f", "r+", direct=True, parallel_direct_writes=True) as file:
        file.pwrite(b"d" * PAGE, PAGE)
        stored = bytearray(PAGE)
        assert backend.open("f").read_into(PAGE, [memoryview(stored)]) == PAGE
        assert stored == b"d" * PAGE
        assert file.pread(4 * PAGE, 0) == BLOCK + b"d" * PAGE + BLOCK * 2
        assert volume.stat("f").cached == 0
        file.fsync()
        assert volume.dirty_ranges("f") == []


@pytest.mark.parametrize("first", ["buffered", "direct", "view", "append"])
@pytest.mark.parametrize("second", ["buffered", "direct", "view", "append"])
def test_each_way_of_writing_is_seen_by_each_way_of_reading(volume: Volume, first: str, second: str) -> None:
    """T-27: every reader sees the last write, whatever wrote before, dirty or clean or flushed."""
    expected = bytearray(make(volume, b"o" * (2 * PAGE + 100)))

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


def test_a_view_of_the_very_bytes_is_no_destination(volume: Volume) -> None:
    """2.9: DeadlockError; a view of other bytes is accepted, and so is a view of another file."""
    if volume.backend.limits.commit_on_close:
        return  # reads are buffered there, and copied aside
    data = make(volume)
    make(volume, b"g" * PAGE * 2, "g")
    with volume.open("f", "r+", direct=True) as file, volume.open("g", "r+") as other:
        with file.view(0, PAGE, writable=True) as view:
            with pytest.raises(pagecache.DeadlockError):
                file.pread_into(view.segments[0], 0)
            with pytest.raises(pagecache.DeadlockError):
                file.pread_into(view.segments[0][100:200], 50)
            assert file.pread_into(view.segments[0], 2 * PAGE) == PAGE
            assert view.tobytes() == data[2 * PAGE : 3 * PAGE]
            assert file.pread_into(view.segments[0][:100], 100) == 100
            assert view.tobytes()[:100] == data[2 * PAGE + 100 : 2 * PAGE + 200]
            with pytest.raises(pagecache.DeadlockError):
                file.pread_into(view.segments[0][:101], 100)
            assert file.pread_into(view.segments[0], 2**63 - 1) == 0
        with other.view(0, PAGE, writable=True) as view:
            assert file.pread_into(view.segments[0], PAGE) == PAGE
        assert other.pread(PAGE, 0) == data[PAGE : 2 * PAGE]
        with other.view(0, PAGE) as view:
            assert file.pwrite(view.segments[0], 3 * PAGE) == PAGE
        with file.view(PAGE, PAGE) as view:  # a source of this file, of these bytes
            assert file.pwrite(view.segments[0], PAGE) == PAGE
            assert file.pwrite(view.segments[0], PAGE + 512) == PAGE
        assert file.pread(PAGE, PAGE + 512) == data[PAGE : 2 * PAGE]


def test_threads_share_a_handle(attach: Attach) -> None:
    """T-25."""
    volume = attach(MemoryBackend())
    make(volume, bytes(64 * PAGE))
    with volume.open("f", "r+", direct=True, parallel_direct_writes=True) as file, volume.open("f", "r+") as buffered:

        def work(i: int) -> None:
            for turn in range(30):
                way: Any = buffered if (i + turn) % 5 == 0 else file
                data = bytes([i * 30 + turn & 255]) * PAGE
                assert way.pwrite(data, (i * 8 + turn % 8) * PAGE) == PAGE
                assert file.pread(PAGE, (i * 8 + turn % 8) * PAGE) == data
                assert buffered.pread(PAGE, (i * 8 + turn % 8) * PAGE) == data

        side_by_side(work)
