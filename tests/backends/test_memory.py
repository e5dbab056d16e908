"""Objects in memory: sparse, versioned, and usable behind the cache's back."""

from __future__ import annotations

import itertools
import os
import resource
from functools import partial
from pathlib import PurePosixPath

import pytest

from pagecache.backends import MemoryBackend, memory
from pagecache.backends.memory import CHUNK

from ..file.test_interrupts import interrupted_at


def test_holes_cost_nothing() -> None:
    backend = MemoryBackend()
    file = backend.open("sparse", create=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(200):
        file.write_from(i * (1 << 40) + 70_000, [memoryview(b"x")])
    assert file.stat().size == 199 * (1 << 40) + 70_001
    file.truncate(1 << 50)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000, "KiB"
    buffer = bytearray(3)
    assert file.read_into(70_000 - 1, [memoryview(buffer)]) == 3
    assert buffer == b"\0x\0"


@pytest.mark.parametrize("offset", [0, 1, CHUNK - 3, CHUNK, 3 * CHUNK - 1])
@pytest.mark.parametrize("length", [1, 7, 5000, CHUNK + 5])
def test_ranges_across_chunks(offset: int, length: int) -> None:
    backend, data = MemoryBackend(), os.urandom(length)
    file = backend.open("a", create=True)
    file.write_from(offset, [memoryview(data)[: length // 2], memoryview(data)[length // 2 :]])
    assert backend.snapshot("a") == bytes(offset) + data
    file.punch_hole(offset + 1, length)
    assert backend.snapshot("a") == bytes(offset) + data[:1] + bytes(length - 1)


def test_an_interrupted_write_leaves_nothing_behind_the_end() -> None:
    """Bytes there would come back with the next write behind them."""
    for nth in itertools.count(1):
        file = MemoryBackend().open("a", create=True)
        write = partial(file.write_from, 0, [memoryview(b"x" * 3000), memoryview(b"y" * 3000)])
        place = interrupted_at(nth, write, lambda frame: frame.f_code.co_filename == memory.__file__)
        file.truncate(0)
        file.write_from(8000, [memoryview(b"z")])
        buffer = bytearray(8001)
        assert file.read_into(0, [memoryview(buffer)]) == 8001, place
        assert buffer == bytes(8000) + b"z", place
        if not place:
            assert nth > 5
            return


def test_put_is_a_change_that_open_files_see() -> None:
    backend = MemoryBackend()
    backend.put("a", b"a long content")
    version = backend.stat("a").version
    file = backend.open("a")
    backend.put("a", b"short")
    assert (file.stat().size, backend.snapshot("a")) == (5, b"short")
    assert backend.stat("a").version != version


def test_any_hashable_is_a_key_and_paths_are_their_text() -> None:
    backend = MemoryBackend()
    for key in (("bucket", 1), 17, frozenset("ab"), "dir/text"):
        backend.put(key, repr(key).encode())
        assert backend.snapshot(key) == repr(key).encode()
    assert backend.snapshot(PurePosixPath("dir/text")) == b"'dir/text'"
    assert len(list(backend.list())) == 4
    assert [found.key for found in backend.list("dir/")] == ["dir/text"]


def test_child_after_fork_writes_into_its_own_copy() -> None:
    backend = MemoryBackend()
    backend.put("a", bytes(1 << 20))
    file = backend.open("a")
    if (child := os.fork()) == 0:
        file.write_from(0, [memoryview(b"child")])
        os._exit(0)
    os.waitpid(child, 0)
    assert backend.snapshot("a")[:5] == bytes(5)
