"""Memory that finished calls have left to buffers: a program keeps slices of them, so no other bytes may go there. A
writer waiting for memory gets the part that the garbage collector can free, and an error for the rest. [2.1, 2.24]
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import PageCacheError
from pagecache.backends import MemoryBackend
from pagecache.engine.mirror import SHARE
from pagecache.testing import FaultyBackend, Gate, Rule

from ..stores import RecordingFile
from .rig import KEY, PAGE, Rig, Task, pattern, without_collector

Make = Callable[..., Rig]
CAPACITY = 64 * PAGE
DATA = pattern(4 * CAPACITY)


class Cycle:
    """An error as a client keeps it: it references the variables of all calls it went through, one of which holds the
    error.
    """

    def __init__(self, slices: list[memoryview]) -> None:
        self.slices, self.itself = slices, self


def keeping(rig: Rig, keep: Callable[[list[memoryview]], object]) -> None:
    def store(file: RecordingFile, offset: int, buffers: Any) -> int:
        keep([buffer[:] for buffer in buffers])
        return file.store(offset, buffers)

    rig.backend.fault("write_from", store, times=float("inf"))


def test_a_writer_gets_memory_that_garbage_holds(make: Make) -> None:
    rig = make(capacity=CAPACITY, limits={"durable_writes": True})
    keeping(rig, Cycle)
    file = rig.open("w+b")
    with without_collector():
        Task(file.write, DATA).result()
        file.flush()
        assert rig.backend.written(KEY) == DATA
        assert file.pread(len(DATA), 0) == DATA


def test_a_writer_gets_an_error_for_memory_that_a_program_keeps(make: Make) -> None:
    """ENOBUFS instead of an endless wait; accepted bytes are safe, and there is room once the slices are released."""
    rig = make(capacity=CAPACITY, limits={"durable_writes": True})
    kept: list[list[memoryview]] = []
    keeping(rig, kept.append)
    file = rig.open("w+b")
    with pytest.raises(PageCacheError, match=r"\d+ bytes are held by .* slices of buffers") as caught:
        Task(file.write, DATA).result()
    error: Any = caught.value
    assert error.errno == errno.ENOBUFS
    done = error.characters_written
    assert 0 < done < len(DATA)
    rig.backend.clear_faults()
    kept.clear()
    file.pwrite(DATA[done:], done)
    file.fsync()
    assert rig.backend.written(KEY) == DATA


def test_a_writer_waits_for_memory_that_a_mirror_has_still_to_send(make: Make) -> None:
    """The mirror frees it after sending it: no reason to give up, though views hold all the rest."""
    mirror = FaultyBackend(MemoryBackend())
    pinned, mirrored = CAPACITY - CAPACITY // SHARE, CAPACITY // SHARE
    rig = make({"pinned": DATA[:pinned]}, capacity=CAPACITY, options={"mirror": mirror}, max_folio=PAGE)
    with Gate() as gate, rig.volume.open("pinned") as other:
        mirror.use([Rule("write", gate=gate)])
        file = rig.open("w+b")
        file.write(DATA[:mirrored])
        file.fsync()
        gate.wait_entered()
        views = other.view(0, pinned)
        writing = Task(file.pwrite, DATA[:PAGE], mirrored)
        assert writing.waits(1.0)
        gate.release()
        writing.result()
        views.release()
    file.fsync()
    assert rig.backend.written(KEY) == DATA[:mirrored] + DATA[:PAGE]
