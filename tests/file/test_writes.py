"""Writes: which of them need a read, how other handles see them, and which bytes go to the backend. A file may grow
while its end is in flight.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import pagecache
from pagecache import CachedFile, PageCache

from ..stores import Gate, RecordingFile
from .rig import KEY, PAGE, Make, Rig, Task, at_gate, pattern, raises, spread

CONTENT = pattern(8 * PAGE)


@pytest.fixture
def stored(make: Make) -> Rig:
    return make({KEY: CONTENT})


def patched(content: bytes, *changes: tuple[int, bytes]) -> bytes:
    """Content after writes of (offset, bytes)."""
    result = bytearray(content)
    for offset, data in changes:
        result.extend(bytes(max(0, offset + len(data) - len(result))))
        result[offset : offset + len(data)] = data
    return bytes(result)


def test_a_partial_write_to_an_uncached_page_reads_nothing(stored: Rig, file: CachedFile) -> None:
    """A later read fills only what is missing around the bytes. [T-01, M2, M7]"""
    expected = patched(CONTENT, (1000, b"x" * 100))
    assert file.pwrite(b"x" * 100, 1000) == 100
    assert file.pread(100, 1000) == b"x" * 100
    assert file.pread(30, 1050) == b"x" * 30
    assert stored.backend.spans("read_into") == []
    assert file.pread(PAGE, 0) == expected[:PAGE]
    assert all(offset + length <= PAGE for offset, length in stored.backend.spans("read_into"))
    stored.backend.forget_calls()
    assert file.pread(PAGE, 0) == expected[:PAGE]
    assert stored.backend.spans("read_into") == []
    file.fsync()
    assert stored.backend.committed(KEY) == expected


def test_eight_separate_writes_to_an_uncached_page_read_nothing(stored: Rig, file: CachedFile) -> None:
    """Write-back sends the written bytes, not the page around them. [T-03, M7, 2.12]"""
    changes = [(500 * i + 7, bytes([65 + i]) * (100 + i)) for i in range(8)]
    for offset, data in changes:
        file.pwrite(data, offset)
    for offset, data in changes:
        assert file.pread(len(data), offset) == data
    file.fsync()
    assert stored.backend.spans("read_into") == []
    assert set(stored.backend.spans("write_from")) == {(offset, len(data)) for offset, data in changes}
    assert stored.backend.committed(KEY) == patched(CONTENT, *changes)
    more = [(PAGE + offset, data) for offset, data in changes]
    for offset, data in more:
        file.pwrite(data, offset)
    assert file.pread(3 * PAGE, 0) == patched(CONTENT, *changes, *more)[: 3 * PAGE]


def test_many_separate_writes_through_a_write_only_handle(stored: Rig, file: CachedFile) -> None:
    """More gaps than extents on a handle that cannot read. [2.7]"""
    only_writes = stored.volume.open(KEY, flags=1)  # os.O_WRONLY
    changes = [(120 * i + 3, bytes([65 + i]) * 20) for i in range(30)]
    for offset, data in changes:
        only_writes.pwrite(data, offset)
    only_writes.close()
    file.fsync()
    assert stored.backend.committed(KEY) == patched(CONTENT, *changes)


@pytest.mark.parametrize(("stored", "offset", "reads"), [(8 * PAGE, 20 * PAGE + 5, []), (1000, 2000, [(0, 1000)])])
def test_a_write_beyond_the_stored_end_reads_nothing(make: Make, stored: int, offset: int, reads: list[Any]) -> None:
    """The gap is zeros in the cache and on the backend; a read of it reads what is stored of its page. [M8, 2.7]"""
    rig, file = make({KEY: CONTENT[:stored]}).opened("r+b")
    file.pwrite(b"far", offset)
    assert (file.size, rig.backend.spans("read_into")) == (offset + 3, [])
    assert file.pread(30 * PAGE, stored) == bytes(offset - stored) + b"far"
    assert rig.backend.spans("read_into") == reads
    expected = patched(CONTENT[:stored], (offset, b"far"))
    assert file.pread(30 * PAGE, 0) == expected
    file.fsync()
    assert rig.backend.committed(KEY) == expected


def test_the_source_may_change_after_the_call(stored: Rig, file: CachedFile) -> None:
    """A write copies; the caller's buffer is free at return. [2.7]"""
    source = bytearray(b"first" * 1000)
    file.pwrite(source, 0)
    source[:] = b"other" * 1000
    source.append(1)
    file.fsync()
    assert stored.backend.committed(KEY) == patched(CONTENT, (0, b"first" * 1000))


def test_a_file_mapping_of_the_same_file_can_be_written(tmp_path: Path) -> None:
    """The source may fault while it is copied, and is the stored file itself. [T-04, K11]"""
    (tmp_path / KEY).write_bytes(CONTENT)
    with PageCache("1MiB") as cache, cache.attach(f"dir:{tmp_path}").open(KEY, "r+b") as file:
        with (
            (tmp_path / KEY).open("rb") as stored_file,
            mmap.mmap(stored_file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
        ):
            assert Task(file.pwrite, mapped, 100).result() == len(CONTENT)
        assert file.pread(10 * PAGE, 0) == patched(CONTENT, (100, CONTENT))
    assert (tmp_path / KEY).read_bytes() == patched(CONTENT, (100, CONTENT))


def test_an_anonymous_mapping_can_be_written_and_read_into(file: CachedFile) -> None:
    """Memory that may fault works as source and destination. [K11]"""
    with mmap.mmap(-1, 2 * PAGE) as mapped:
        mapped[:5] = b"hello"
        file.pwrite(mapped, 10)
        assert file.pread(5, 10) == b"hello"
        assert file.pread_into(mapped, 2 * PAGE) == 2 * PAGE
        assert mapped[:] == patched(CONTENT, (10, b"hello" + bytes(2 * PAGE - 5)))[2 * PAGE : 4 * PAGE]


@pytest.mark.parametrize("pieces", [1, 32])
def test_a_write_cut_by_the_throttle_says_what_it_accepted(make: Make, pieces: int) -> None:
    """`characters_written` bytes of all buffers are dirty and readable, nothing beyond them is. [T-05, 2.7, 2.24]"""
    rig, file = make(
        {KEY: bytes(100)}, capacity="256KiB", dirty_background="32KiB", dirty_limit="64KiB", throttle_timeout=0.05
    ).opened("r+b")
    data, length = pattern(1 << 20), (1 << 20) // pieces
    buffers = [data[at : at + length] for at in range(0, len(data), length)]
    with rig.backend.gate("write_from", times=1000):
        caught = raises(BlockingIOError, lambda: Task(file.pwritev, buffers, 0).result())
        accepted = caught.characters_written
        assert 0 < accepted < len(data)
        assert file.size == max(accepted, 100)
        assert file.pread(1 << 20, 0) == data[:accepted]
        assert spread(1 << 20, rig.volume.dirty_ranges(KEY)) == set(range(accepted))
    rig.cache.sync(timeout=20)
    assert rig.backend.committed(KEY) == data[:accepted]


@pytest.mark.parametrize("fails", [False, True])
def test_bytes_written_again_in_flight_win_however_the_call_ends(stored: Rig, fails: bool) -> None:
    """The older request neither cleans nor resurrects anything. [T-11, T-19, M5]"""
    stored.backend.capture = True
    file = stored.open("r+b")
    file.pwrite(b"old" * 1000, 0)
    gate = stored.backend.gate("write_from")
    if fails:
        stored.backend.fault("write_from", OSError(28, "full"))
    _, flush = at_gate(gate, file.flush)
    assert Task(file.pwrite, b"new" * 500, 0).result() == 1500
    gate.open()
    if fails:
        raises(pagecache.WritebackError, flush.result)
    else:
        flush.result()
    assert stored.backend.seen("write_from")[0].data == b"old" * 1000
    assert stored.volume.dirty_ranges(KEY) != []
    assert file.pread(3000, 0) == b"new" * 500 + b"old" * 500
    file.fsync()
    assert stored.backend.committed(KEY) == patched(CONTENT, (0, b"new" * 500 + b"old" * 500))
    assert stored.volume.dirty_ranges(KEY) == []


# ---------------------------------------------------------------- at the end of a file


HEAD = pattern(PAGE + 100, seed=1)  # ends within a page
TAILS = {"same page": 0, "next page": PAGE, "far": 40 * PAGE}


@pytest.mark.parametrize("answer", ["stored", "short", "failed"])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("how", ["pwrite", "append", "truncate"])
def test_a_file_that_grows_in_flight_keeps_its_tail(make: Make, how: str, tail: str, answer: str) -> None:
    """The call sees the size at its start; later bytes are dirty after it has returned. [T-43, T-19, 2.7]"""
    rig, file = make({KEY: b""}).opened("r+b")
    file.pwrite(HEAD, 0)
    gate = rig.backend.gate("write_from")

    def respond(stored: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        if answer == "failed":
            raise OSError(errno.EIO, "passing")
        return stored.store(offset, buffers, 50 if answer == "short" else None)

    rig.backend.fault("write_from", respond)
    _, flush = at_gate(gate, file.flush)
    expected = grow(file, how, TAILS[tail], gate)
    flush.result(opening=gate)
    assert file.pread(100 * PAGE, 0) == expected
    assert file.size == len(expected)
    file.fsync()
    assert rig.backend.committed(KEY) == expected
    assert rig.volume.stat(KEY).size == len(expected)


def grow(file: CachedFile, how: str, distance: int, gate: Gate) -> bytes:
    """Make the file longer beside the request in flight, and return its content then. A truncate waits for the
    request.
    """
    data = pattern(300, seed=2)
    if how == "append":
        assert Task(file.append, data).result() == len(HEAD)
        return HEAD + data
    if how == "pwrite":
        Task(file.pwrite, data, len(HEAD) + distance).result()
        return HEAD + bytes(distance) + data
    size = len(HEAD) + distance + 300
    growing = Task(file.truncate, size)
    assert growing.waits(0.05)
    growing.result(opening=gate)
    return HEAD + bytes(distance + 300)


@pytest.mark.parametrize("tail", TAILS)
def test_a_tail_written_first_goes_with_its_size(make: Make, tail: str) -> None:
    """In the other order: acknowledged in part, it grows again before the rest. [T-43]"""
    rig, file = make({KEY: b""}, limits={"ordered_writes": True}).opened("r+b")
    file.pwrite(HEAD, 0)
    file.flush()
    start = len(HEAD) + TAILS[tail]
    file.pwrite(b"tail" * 100, start)
    grown: list[int] = []

    def respond(stored: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        if not grown:
            grown.append(Task(file.append, b"more").result())
        return stored.store(offset, buffers, 30)

    rig.backend.fault("write_from", respond, times=2)
    file.fsync()
    file.fsync()
    expected = HEAD + bytes(TAILS[tail]) + b"tail" * 100 + b"more"
    assert grown == [len(expected) - 4]
    assert rig.backend.committed(KEY) == expected
