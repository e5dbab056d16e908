"""A thread that writes without pause does not keep the engine from writing back."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pagecache import PageCache
from pagecache.backends import MemoryBackend

from .rig import PAGE, QUIET, Task

SWITCH = 1.0
CALLS = 12


class Slow(MemoryBackend):
    """A backend whose calls release the interpreter lock and need it again, as those that wait for a disk do."""

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Any:
        file: Any = super().open(key, create=create, exclusive=exclusive)
        write_from = file.write_from

        def waiting(offset: int, buffers: Sequence[memoryview]) -> int:
            time.sleep(0)
            return int(write_from(offset, buffers))

        file.write_from = waiting
        return file


@pytest.fixture
def patient_threads() -> Iterator[None]:
    """Raise the switch interval: a waiter for the interpreter lock requests it after a second only."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("patient_threads")
def test_a_writer_without_pause_lets_the_engine_write_back() -> None:
    """A dozen calls, each of which would wait for the lock as long as a switch takes. [P22]"""
    with PageCache("8MiB", **QUIET) as cache:
        backend = Slow()
        backend.limits = type(backend.limits)(max_write=PAGE, max_inflight=1)
        file = cache.attach(backend).open("file", "w+b")
        other = cache.volumes()[0].open("other", "w+b")
        for page in range(CALLS):
            file.pwrite(b"x" * PAGE, page * PAGE)
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                other.pwrite(b"y" * 100, 0)

        writer = Task(write)
        try:
            Task(file.flush).result(CALLS * SWITCH / 2)
        finally:
            stop.set()
        writer.result()
        file.close()
        other.close()
