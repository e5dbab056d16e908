"""Sources and destinations whose memory is served by this very process: a thread that touches them waits for another
thread of the program, which answers from the same cached file. A fault that is waited for with the interpreter lock,
the inode lock or a folio lock held waits for itself.

A mapped file of a private file system is one. Its programs run in a child each, and have to end in time.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagecache

from ..stores import WAIT_LIMIT_S
from .fuse import unmount
from .rig import KEY, PAGE, Make, Task, pattern

PRELUDE = """
import faulthandler, mmap, os, sys
import pagecache
from tests.file.fuse import Server

PAGE, SIZE = 4096, 64 * 4096
CONTENT = bytes(k * 7 % 251 for k in range(SIZE))
faults = sys.argv[2]
cache = pagecache.PageCache("1MiB")
volume = cache.attach("memory:", source_may_fault=faults, read_ahead=0)
cached = volume.open("object", "w+b")
cached.write(CONTENT)
cached.fsync()
volume.drop_clean()
server = Server(sys.argv[1], SIZE, lambda offset, length: cached.pread(length, offset), lambda offset, data: None)
fd = os.open(server.file, os.O_RDWR)
mapped = mmap.mmap(fd, SIZE)

def done():
    assert server.requests
    mapped.close()
    os.close(fd)
    cache.check()
    print("done", flush=True)
    os._exit(0)
"""


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mount"
    path.mkdir()
    yield path
    unmount(str(path))


def run(body: str, mountpoint: Path, *, faults: str = "auto", timeout: float = 60) -> None:
    """Run a program against a new mount; skip if nothing can be mounted."""
    program = mountpoint.with_name("program.py")
    program.write_text(textwrap.dedent(PRELUDE) + textwrap.dedent(body) + "\ndone()\n")
    place = str(Path(pagecache.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([place, *filter(None, sys.path)])}
    child = subprocess.Popen(
        [sys.executable, program, str(mountpoint), faults],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        unmount(str(mountpoint))  # waiters for the server get an error
        child.kill()
        child.communicate(timeout=60)
        raise
    if any(
        name in err for name in ("PermissionError", "FileNotFoundError: [Errno 2] No such file or directory: '/dev")
    ):
        pytest.skip("no file system can be mounted here")
    assert out == "done\n", err[-2000:]


SOURCES = {
    "the same pages": "assert cached.pwrite(mapped, 0) == SIZE; expected = CONTENT",
    "other pages": "assert cached.pwrite(mapped, 100) == SIZE; expected = CONTENT[:100] + CONTENT",
    "an append": "assert cached.append(mapped) == SIZE; expected = CONTENT + CONTENT",
    "several": "assert cached.pwritev([mapped, mapped], SIZE) == 2 * SIZE; expected = CONTENT * 3",
    "a slice": "cached.pwrite(memoryview(mapped)[5:900], 3); expected = CONTENT[:3] + CONTENT[5:900] + CONTENT[898:]",
    "a try": "assert cached.try_pwrite(memoryview(mapped)[:PAGE], SIZE) in (PAGE, None); expected = CONTENT",
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_mapping_that_the_cache_serves_is_a_source(mountpoint: Path, source: str) -> None:
    """Its pages come from the very pages that are being written, and are not cached. [T-04, T-65, K11, 2.7]"""
    run(f"{SOURCES[source]}\nassert cached.pread(len(expected), 0) == expected", mountpoint)


DESTINATIONS = {
    "pread_into": "n = cached.pread_into(mapped, 0)",
    "readinto": "cached.seek(0); n = cached.readinto(mapped)",
    "preadv": "n = cached.preadv([memoryview(mapped)[:5000], memoryview(mapped)[5000:]], 0)",
}


@pytest.mark.parametrize("destination", DESTINATIONS)
def test_a_mapping_that_the_cache_serves_is_a_destination(mountpoint: Path, destination: str) -> None:
    """The destination page is read first, from the cache. [T-65, K11]"""
    body = f"{DESTINATIONS[destination]}\nassert n == SIZE\nassert os.pread(fd, SIZE, 0) == CONTENT"
    run(body, mountpoint)


def test_a_view_is_the_destination_of_a_read_that_it_serves(mountpoint: Path) -> None:
    """The system reads the served file into a view of the file that serves it. [T-65, 2.21]"""
    body = """
    with cached.view(0, SIZE, writable=True) as view:
        position = 0
        for segment in view.segments:
            position += os.preadv(fd, [segment], position)
        assert position == SIZE
    assert cached.pread(SIZE, 0) == CONTENT
    """
    run(textwrap.dedent(body), mountpoint)


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
    assert rig.backend.spans("write_from") == [(PAGE, 3 * PAGE)]
    assert rig.backend.written(KEY) == bytes(PAGE) + data + bytes(4 * PAGE)
