"""A file grows while its end is in flight, in both orders and with every outcome of the request: nothing is lost."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

import pytest

from pagecache import CachedFile

from ..stores import Gate, RecordingFile
from .rig import KEY, PAGE, Rig, Task, pattern

Make = Callable[..., Rig]
HEAD = pattern(PAGE + 100, seed=1)  # ends within a page
TAILS = {"same page": 0, "next page": PAGE, "far": 40 * PAGE}


@pytest.mark.parametrize("answer", ["stored", "short", "failed"])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("how", ["pwrite", "append", "truncate"])
def test_a_file_that_grows_in_flight_keeps_its_tail(make: Make, how: str, tail: str, answer: str) -> None:
    """The call sees the size at its start; later bytes are dirty after it has returned. [T-43, T-19, 2.7]"""
    rig = make({KEY: b""})
    file = rig.open("r+b")
    file.pwrite(HEAD, 0)
    gate = rig.backend.gate("write_from")

    def respond(stored: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        if answer == "failed":
            raise OSError(errno.EIO, "passing")
        return stored.store(offset, buffers, 50 if answer == "short" else None)

    rig.backend.fault("write_from", respond)
    flush = Task(file.flush)
    gate.wait_entered()
    expected = grow(file, how, TAILS[tail], gate)
    gate.open()
    flush.result()
    assert file.pread(100 * PAGE, 0) == expected
    assert file.size == len(expected)
    file.fsync()
    assert rig.backend.committed(KEY) == expected
    assert rig.volume.stat(KEY).size == len(expected)
    rig.cache.check()


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
    gate.open()
    growing.result()
    return HEAD + bytes(distance + 300)


@pytest.mark.parametrize("tail", TAILS)
def test_a_tail_written_first_goes_with_its_size(make: Make, tail: str) -> None:
    """In the other order, it grows before the write-back, is acknowledged in part, and grows again before the rest.
    [T-43]
    """
    rig = make({KEY: b""}, limits={"ordered_writes": True})
    file = rig.open("r+b")
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
    rig.cache.check()
