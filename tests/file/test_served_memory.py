"""Sources and destinations whose memory is served by this very process: a thread that touches them waits for another
thread of the program, which answers from the same cached file. A fault that is waited for with the interpreter lock,
the inode lock or a folio lock held waits for itself.

Others are views of the file itself, or have disappeared.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import select
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pagecache import CachedFile, DeadlockError

from ..stores import WAIT_LIMIT_S
from .rig import KEY, PAGE, Make, Rig, Task, accepted_before, overlay, pattern, raises

SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_COPY = 0xC018AA3F, 0xC020AA00, 0xC028AA03
SERVED = 3  # of the served memory
OLD, DATA = pattern(8 * PAGE), pattern(SERVED * PAGE, seed=3)


class ServedMemory:
    """Anonymous memory without content, until `serve` provides a page to its waiter."""

    def __init__(self, length: int) -> None:
        number = SYS_USERFAULTFD.get(os.uname().machine)
        self.fd = -1 if number is None else ctypes.CDLL(None, use_errno=True).syscall(number, os.O_CLOEXEC)
        if self.fd < 0:
            pytest.skip("userfaultfd is not to be had here")
        self.memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        anchor = ctypes.c_char.from_buffer(self.memory)
        self.start = ctypes.addressof(anchor)
        del anchor
        fcntl.ioctl(self.fd, UFFDIO_API, struct.pack("QQQ", 0xAA, 0, 0))
        fcntl.ioctl(self.fd, UFFDIO_REGISTER, struct.pack("QQQQ", self.start, length, 1, 0))

    def wait_touched(self) -> int:
        """The offset of the page that a thread waits for."""
        ready, _, _ = select.select([self.fd], [], [], WAIT_LIMIT_S)
        assert ready, "the memory was not touched"
        (address,) = struct.unpack_from("Q", os.read(self.fd, 32), 16)
        return int(address - self.start) & -PAGE

    def serve(self, offset: int, content: bytes) -> None:
        source = ctypes.create_string_buffer(content, PAGE)
        request = struct.pack("QQQQq", self.start + offset, ctypes.addressof(source), PAGE, 0, 0)
        fcntl.ioctl(self.fd, UFFDIO_COPY, request)


@pytest.fixture
def served() -> Iterator[ServedMemory]:
    memory = ServedMemory(SERVED * PAGE)
    yield memory
    os.close(memory.fd)  # remaining waiters go on with zeros


def serve(served: ServedMemory, rig: Rig, call: Task[int], beside: Callable[[int], bytes]) -> None:
    """Provide the pages one by one. Reads, writes and fsyncs of the very pages of the file go on."""
    other = rig.handles[0]
    for offset in range(0, SERVED * PAGE, PAGE):
        assert served.wait_touched() == offset
        assert len(Task(other.pread, PAGE, PAGE + offset).result()) == PAGE
        assert Task(other.pwrite, beside(offset), PAGE + offset).result() == 6
        Task(other.fsync).result()
        Task(rig.cache.stats).result()
        assert not call.finished.is_set()
        rig.backend.forget_calls()
        served.serve(offset, DATA[offset : offset + PAGE])
    assert call.result() == SERVED * PAGE


SOURCES: dict[str, tuple[int, Callable[[CachedFile, memoryview], int]]] = {
    "the same pages": (PAGE, lambda file, memory: file.pwrite(memory, PAGE)),
    "other pages": (PAGE + 100, lambda file, memory: file.pwrite(memory, PAGE + 100)),
    "an append": (8 * PAGE, lambda file, memory: file.append(memory) - 5 * PAGE),
    "several": (PAGE, lambda file, memory: file.pwritev([memory[:100], memory[100:]], PAGE)),
    "at the position": (PAGE, lambda file, memory: file.seek(PAGE) and file.write(memory)),
}


@pytest.mark.parametrize("through", [False, True], ids=["cached", "write-through"])
@pytest.mark.parametrize("source", SOURCES)
def test_nothing_is_held_as_a_source_is_touched(make: Make, served: ServedMemory, source: str, through: bool) -> None:
    """All pages of a write-through are one request then. [T-04, T-36, T-65, 2.7, 2.8, K11]"""
    rig, other, file = make({KEY: OLD}).both(write_through=through)
    at, write = SOURCES[source]
    serve(served, rig, Task(write, file, memoryview(served.memory)), lambda _offset: b"beside")
    assert [length >= SERVED * PAGE for _offset, length in rig.backend.spans("write_from")] == [True] * through
    expected = OLD
    for page in range(SERVED):
        expected = overlay(expected, PAGE + page * PAGE, b"beside")
    assert other.pread(20 * PAGE, 0) == overlay(expected, at, DATA)


DESTINATIONS: dict[str, Callable[[CachedFile, memoryview], int]] = {
    "pread_into": lambda file, memory: file.pread_into(memory, PAGE),
    "readinto": lambda file, memory: file.seek(PAGE) and file.readinto(memory),
    "preadv": lambda file, memory: file.preadv([memory[:5000], memory[5000:]], PAGE),
}


@pytest.mark.parametrize("destination", DESTINATIONS)
def test_nothing_is_held_as_a_destination_is_touched(make: Make, served: ServedMemory, destination: str) -> None:
    """[T-65, 2.5, K11]"""
    rig, _other, file = make({KEY: OLD}).both("rb")
    reading = Task(DESTINATIONS[destination], file, memoryview(served.memory))
    serve(served, rig, reading, lambda offset: OLD[PAGE + offset :][:6])
    assert served.memory[:] == OLD[PAGE : 4 * PAGE]


PAGES = 24
SIZE = PAGES * PAGE
CONTENT = pattern(SIZE)


def moved(content: bytes, start: int, length: int, to: int) -> bytes:
    """The result of memmove."""
    data = content[start : start + length]
    grown = content.ljust(to + len(data), b"\0") if data else content
    return grown[:to] + data + grown[to + len(data) :]


@pytest.mark.parametrize("pieces", ["one", "many"])
@pytest.mark.parametrize("shift", [1, 100, PAGE, 3 * PAGE - 1, SIZE])
def test_a_long_view_moves_up(make: Make, shift: int, pieces: str) -> None:
    """Mostly by less than its length: the write is taken piece by piece, and the first must not change what the next is
    made of. An append goes to the end. [T-04, 2.7]
    """
    limits = {"dirty_limit": 16 * PAGE, "dirty_background": 8 * PAGE} if pieces == "many" else {}
    file = make({KEY: CONTENT}, capacity="2MiB", max_folio="64KiB", **limits).open("r+b")
    with file.view(0, 16 * PAGE) as view:
        (segment,) = view.segments
        if shift == SIZE:
            assert file.append(segment) == SIZE
        else:
            assert file.pwrite(segment, shift) == 16 * PAGE
    assert file.pread(2 * SIZE, 0) == moved(CONTENT, 0, 16 * PAGE, shift)


def test_a_view_written_to_its_own_range_changes_nothing(make: Make) -> None:
    """It copies nothing aside, nor does a write of a view in pieces to another part of the file. [T-04, 2.7]"""
    file = make({KEY: CONTENT}, max_folio="64KiB").open("r+b")
    with file.view(0, 16 * PAGE, writable=True) as view:
        view.segments[0][:5] = b"hello"
        assert file.pwrite(view.segments[0], 0) == 16 * PAGE
        assert file.stats().staged_copies == 0
    assert file.pread(SIZE, 0) == b"hello" + CONTENT[5:]
    file = make({KEY: CONTENT}, capacity="2MiB", max_folio=PAGE).open("r+b")
    with file.view(0, 4 * PAGE) as view:
        file.pwritev(view.segments, 0)
        file.pwritev(view.segments, 8 * PAGE)
        assert file.stats().staged_copies == 0
    assert file.pread(SIZE, 0) == moved(CONTENT, 0, 4 * PAGE, 8 * PAGE)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("shift", [-2 * PAGE, -PAGE, -100, 0, 1, PAGE, 4 * PAGE, 5 * PAGE])
def test_a_view_in_pieces_moves_as_one(make: Make, direct: bool, shift: int) -> None:
    """The number of a view's segments makes no difference to pwritev and preadv. [T-04, T-65, 2.5, 2.7]"""
    rig, file, other = make({KEY: CONTENT}, capacity="2MiB", max_folio=PAGE).both(direct=direct)
    start, length = 2 * PAGE + 50, 5 * PAGE
    with file.view(start, length) as view:
        assert len(view.segments) == 6
        assert other.pwritev(view.segments, start + shift) == length
    model = moved(CONTENT, start, length, start + shift)
    assert file.pread(SIZE, 0) == model
    rig.volume.sync(20)
    with file.view(start, length, writable=True) as view:
        if direct and shift in (0, 1):  # each piece into itself
            raises(DeadlockError, other.preadv, view.segments, start + shift)
            return
        assert other.preadv(view.segments, start + shift) == length
    assert file.pread(SIZE, 0) == moved(model, start + shift, length, start)


@pytest.fixture
def cut_mapping(tmp_path: Path) -> mmap.mmap:
    """A mapping of two pages of a file that has only one left."""
    path = tmp_path / "mapped"
    path.write_bytes(b"m" * 2 * PAGE)
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 2 * PAGE)
        file.truncate(PAGE)
    return mapping


def test_memory_that_faults_is_an_error_and_leaves_nothing_behind(make: Make, cut_mapping: mmap.mmap) -> None:
    """EFAULT, where the system would end the process; nothing of a source is in the file. [T-05, T-65]"""
    rig, file = make({KEY: CONTENT}).opened("r+b")
    for offset in (0, 100, SIZE, None):
        with pytest.raises(OSError) as caught:
            file.append(cut_mapping) if offset is None else file.pwrite(cut_mapping, offset)
        assert (caught.value.errno, accepted_before(caught.value)) == (errno.EFAULT, 0)
    assert rig.volume.dirty_ranges(KEY) == []
    assert (file.size, rig.cache.stats().used) == (SIZE, 0)
    assert raises(OSError, file.pread_into, cut_mapping, 0).errno == errno.EFAULT


def test_buffers_before_the_source_that_faults_are_accepted(make: Make, cut_mapping: mmap.mmap) -> None:
    """The buffers before it are in the file and count; nothing behind them has changed. [T-05, K13]"""
    rig, file = make({KEY: CONTENT}).opened("r+b")
    caught = raises(OSError, file.pwritev, [b"a" * 1000, b"b" * PAGE, cut_mapping, b"c"], 10)
    assert (caught.errno, accepted_before(caught)) == (errno.EFAULT, 1000 + PAGE)
    assert rig.volume.dirty_ranges(KEY) == [(10, 1000 + PAGE)]
    assert file.pread(SIZE, 0) == CONTENT[:10] + b"a" * 1000 + b"b" * PAGE + CONTENT[10 + 1000 + PAGE :]
