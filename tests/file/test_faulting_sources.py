"""Sources whose memory is served by this very process: a thread that touches them waits for another thread of the
program.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import struct
from collections.abc import Callable, Iterator

import pytest

from ..stores import WAIT_LIMIT_S
from .rig import KEY, PAGE, Rig, Task, pattern

Make = Callable[..., Rig]

SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_COPY = 0xC018AA3F, 0xC020AA00, 0xC028AA03


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
    memory = ServedMemory(3 * PAGE)
    yield memory
    os.close(memory.fd)  # remaining waiters go on with zeros


def test_nothing_is_held_while_the_source_of_a_write_through_is_touched(make: Make, served: ServedMemory) -> None:
    """Readers, writers and fsync of the very pages go on; then all pages are one request. [T-36, 2.8, K11]"""
    rig = make({KEY: bytes(8 * PAGE)})
    file, other = rig.open(write_through=True), rig.open()
    other.pwrite(b"before", PAGE)
    other.fsync()
    rig.backend.forget_calls()
    data = pattern(3 * PAGE, seed=3)
    writer = Task(file.pwrite, served.memory, PAGE)
    for page in range(3):
        offset = served.wait_touched()
        assert offset == page * PAGE
        assert Task(other.pread, 6, PAGE).result() in (b"before", b"beside")
        assert Task(other.pwrite, b"beside", PAGE + offset).result() == 6
        Task(other.fsync).result()
        Task(rig.cache.stats).result()
        assert not writer.finished.is_set()
        rig.backend.forget_calls()
        served.serve(offset, data[offset : offset + PAGE])
    assert writer.result() == 3 * PAGE
    assert [(call.offset, call.length) for call in rig.backend.seen("write_from")] == [(PAGE, 3 * PAGE)]
    assert rig.backend.written(KEY) == bytes(PAGE) + data + bytes(4 * PAGE)
