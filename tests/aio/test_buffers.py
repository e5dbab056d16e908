"""Ways to read and write: each takes the same kinds of buffers, and sees what another one has written."""

from __future__ import annotations

import array
import asyncio
import ctypes
import mmap
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pytest

from pagecache import Volume, aio
from pagecache.backends import MemoryBackend

from ..file.rig import KEY, PAGE, raises
from ..stores import RecordingBackend
from .conftest import Attach

CONTENT = bytes(range(256)) * 64

BUFFERS: dict[str, Callable[[], Any]] = {
    "bytearray": lambda: bytearray(64),
    "array": lambda: array.array("d", bytes(64)),
    "ctypes": lambda: (ctypes.c_uint32 * 16)(),
    "mmap": lambda: mmap.mmap(-1, PAGE),
    "numpy": lambda: numpy.zeros(64, numpy.uint8),
    "numpy 2d": lambda: numpy.zeros((8, 8), numpy.uint8),
    "numpy fortran": lambda: numpy.zeros((8, 8), numpy.uint8, order="F"),
    "numpy foreign order": lambda: numpy.zeros(16, numpy.dtype(">u4")),
    "numpy records": lambda: numpy.zeros(8, numpy.dtype([("a", "<u4"), ("b", "<f4")])),
    "numpy complex": lambda: numpy.zeros(4, numpy.complex128),
    "numpy scalar": lambda: numpy.zeros((), numpy.uint64),
    "numpy empty": lambda: numpy.zeros((0, 3), numpy.uint16),
    "empty": lambda: bytearray(),
    "numpy records empty": lambda: numpy.zeros(0, numpy.dtype([("a", "<u4")])),
    "slice": lambda: memoryview(bytearray(100))[10:74],
}


class Awaited:
    """An asynchronous handle with the interface of a blocking one."""

    def __init__(self, volume: Volume, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.file = self.loop.run_until_complete(aio.open(volume, KEY, "r+", **options).__aenter__())

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self.file, name)
        return lambda *args: self.loop.run_until_complete(verb(*args))

    def close(self) -> None:
        self.loop.run_until_complete(self.file.close())
        self.loop.close()


WAYS: dict[str, Callable[[Volume], Any]] = {
    "buffered": lambda volume: volume.open(KEY, "r+"),
    "direct": lambda volume: volume.open(KEY, "r+", direct=True),
    "awaited": Awaited,
    "awaited direct": lambda volume: Awaited(volume, direct=True),
}


def raw(buffer: Any) -> bytes:
    with memoryview(buffer) as view:
        # In memory order, which is the order in which a read fills them.
        return view.tobytes("A")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", BUFFERS)
def test_any_contiguous_memory_will_do(attach: Attach, kind: str, way: str) -> None:
    volume = attach(MemoryBackend())
    with volume.open(KEY, "w") as file:
        file.pwrite(CONTENT, 0)
        file.fsync()
    file = WAYS[way](volume)
    try:
        if "fortran" in kind:  # not C-contiguous: all of them refuse it as a destination
            raises((TypeError, BufferError, ValueError), file.pread_into, BUFFERS[kind](), 3)
            raises((TypeError, BufferError, ValueError), file.preadv, [BUFFERS[kind]()], 3)
            return
        for _turn in range(2):
            into = BUFFERS[kind]()
            length = memoryview(into).nbytes
            assert file.pread_into(into, 3) == length
            assert raw(into) == CONTENT[3 : 3 + length]
            parts = [BUFFERS[kind](), bytearray(5), BUFFERS[kind]()]
            assert file.preadv(parts, 7) == 2 * length + 5
            assert b"".join(map(raw, parts)) == CONTENT[7 : 7 + 2 * length + 5]
            assert file.pwrite(into, 3) == length
            assert file.pwritev(parts, 7) == 2 * length + 5
            size = file.size if not isinstance(file, Awaited) else file.file.size
            assert size == len(CONTENT)
            volume.drop_clean()
        assert file.append(into) == len(CONTENT)
        assert file.pread(len(CONTENT) + length, 0) == CONTENT + raw(into)
    finally:
        file.close()


class Growing(Sequence[bytearray]):
    """Buffers; when the second is taken to be read into, after the first, another handle appends to the file."""

    def __init__(self, buffers: list[bytearray], append: Callable[[], object]) -> None:
        self.buffers, self.append, self.grown = buffers, append, False

    def __len__(self) -> int:
        return len(self.buffers)

    def __getitem__(self, index: Any) -> Any:
        if index == 1 and any(self.buffers[0]) and not self.grown:
            self.grown = True
            self.append()
        return self.buffers[index]


@pytest.mark.parametrize("way", ["buffered", "direct"])
def test_a_short_segment_ends_a_read_of_several(attach: Attach, way: str) -> None:
    """Bytes appended between two segments are not read into the next as if the first were full. [K13]"""
    volume = attach(MemoryBackend())
    with volume.open(KEY, "w+") as writer:
        writer.pwrite(b"x" * 10, 0)
        first, second = bytearray(20), bytearray(20)
        with WAYS[way](volume) as file:
            assert file.preadv(Growing([first, second], lambda: writer.append(b"y" * 40)), 0) == 10
        assert first == b"x" * 10 + bytes(10)
        assert second == bytes(20)


def test_a_short_segment_ends_an_awaited_read_of_several(attach: Attach) -> None:
    """A task's segments are direct reads here, so the append comes between them."""
    backend = RecordingBackend({KEY: b"x" * 10})
    volume = attach(backend)
    with volume.open(KEY, "r+", direct=True) as writer:

        def grows(stored: Any, offset: int, buffers: Any) -> int:
            count: int = stored.fill(offset, buffers)
            thread = threading.Thread(target=lambda: writer.append(b"y" * 40))
            thread.start()
            thread.join(20)
            return count

        backend.fault("read_into", grows)
        file = Awaited(volume, direct=True)
        first, second = bytearray(20), bytearray(20)
        assert file.preadv([first, second], 0) == 10
        assert first == b"x" * 10 + bytes(10)
        assert second == bytes(20)
        file.close()
