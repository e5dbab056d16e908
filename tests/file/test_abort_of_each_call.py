"""The end of each kind of call after `Volume.abort`, while the backend call that it waits for does not return.

Most calls wait for a thread of the volume, and end at once. A few make the backend call on their caller's thread. An
abort cannot take that thread out of the backend, so they end when the backend returns. Both tables show today's state;
a call that moves to a thread of the volume moves from the second table to the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

import pagecache.aio
from pagecache import BackendLimits, CachedFile, DataLossError, PageCache, ShutdownError, Volume
from pagecache.backends import MemoryBackend
from pagecache.testing import AsyncFaultyBackend, FaultyBackend, Gate, Rule

from ..aio.over import Over
from .rig import ONCE, PAGE, QUIET, Task, eventually, pattern

KEY = "object"
DATA = pattern(16 * PAGE)
Call = tuple[str, Callable[[CachedFile], object]]


def wrote(file: CachedFile) -> CachedFile:
    file.pwrite(b"written", 0)
    return file


def through(file: CachedFile) -> object:
    with file.volume.open(KEY, "r+b", write_through=True) as other:
        return other.pwrite(b"x", 0)


def direct_write(file: CachedFile) -> object:
    with file.volume.open(KEY, "r+b", direct=True) as other:
        return other.pwrite(b"x" * PAGE, 0)


def direct_read(file: CachedFile) -> object:
    with file.volume.open(KEY, "rb", direct=True) as other:
        return other.pread(PAGE, PAGE)


def view(file: CachedFile, *, writable: bool = False) -> object:
    with file.view(PAGE, PAGE, writable=writable) as found:
        return found.tobytes()


def read_into(file: CachedFile) -> object:
    buffer = bytearray(PAGE)
    file.pread_into(buffer, PAGE)
    return bytes(buffer)


def run(coroutine: Callable[[Any], Any]) -> Callable[[CachedFile], object]:
    """A call of a task."""

    async def main(file: CachedFile) -> object:
        async with pagecache.aio.open(file.volume, KEY, "r+b") as opened:
            return await coroutine(opened)

    return lambda file: asyncio.run(main(file))


AT_ONCE: dict[str, Call] = {
    "a write-through": ("write", through),
    "fsync": ("write", lambda file: wrote(file).fsync()),
    "fsync, in its commit": ("commit", lambda file: wrote(file).fsync()),
    "flush": ("write", lambda file: wrote(file).flush()),
    "sync_range": ("write", lambda file: wrote(file).sync_range(0, PAGE)),
    "close of a handle": ("write", lambda file: wrote(file).close()),
    "Volume.sync": ("write", lambda file: wrote(file).volume.sync()),
    "Volume.sync, of names": ("sync", lambda file: file.volume.sync()),
    "PageCache.sync": ("write", lambda file: wrote(file).volume.cache.sync()),
    "a ticket": ("write", lambda file: wrote(file).volume.begin_sync().wait()),
    "open": ("open", lambda file: file.volume.open("other")),
    "open of a known object": ("stat", lambda file: file.volume.open(KEY)),
    "stat": ("stat", lambda file: file.volume.stat("other")),
    "exists": ("stat", lambda file: file.volume.exists("other")),
    "list": ("list", lambda file: list(file.volume.list())),
    "remove": ("remove", lambda file: file.volume.remove("other")),
    "rename": ("rename", lambda file: file.volume.rename("other", "another")),
    "truncate": ("truncate", lambda file: file.truncate(5)),
    "Volume.truncate": ("truncate", lambda file: file.volume.truncate(KEY, 5)),
    "punch_hole": ("punch", lambda file: file.punch_hole(0, PAGE)),
    "a direct write": ("write", direct_write),
    "invalidate": ("write", lambda file: wrote(file).volume.invalidate(KEY)),
    "a read of a task": ("read", run(lambda file: file.pread(PAGE, PAGE))),
    "fsync of a task": ("write", run(lambda file: fsynced(file))),
}
"""Calls that wait for a thread of the volume: the operation that hangs, and the call."""

WITH_THE_CALL: dict[str, Call] = {
    "a read that misses": ("read", lambda file: file.pread(PAGE, PAGE)),
    "a read into a buffer": ("read", read_into),
    "a read at the position": ("read", lambda file: (file.seek(PAGE), file.read(PAGE))[1]),
    "a view": ("read", view),
    "a writable view": ("read", lambda file: view(file, writable=True)),
    "a direct read": ("read", direct_read),
}
"""Calls that make the backend's call on the thread of their caller."""


async def fsynced(file: Any) -> None:
    await file.pwrite(b"written", 0)
    await file.fsync()


def attached(cache: PageCache, make: Callable[[Any], Any]) -> tuple[Volume, Any]:
    store = MemoryBackend()
    for key in (KEY, "other"):
        store.put(key, DATA)
    backend = make(store)
    return cache.attach(backend, read_ahead=0), backend


def cache_of_the_test() -> PageCache:
    return PageCache("8MiB", **{**QUIET, "retry": ONCE})


def blocking(store: Any) -> Any:
    return FaultyBackend(store)


def asynchronous(store: Any) -> Any:
    return AsyncFaultyBackend(Over(store))


def aborted(call: Call, make: Callable[[Any], Any], check: Callable[[Task[object], Gate], None]) -> None:
    """Abort a volume while a call hangs in its backend."""
    operation, start = call
    with cache_of_the_test() as cache:
        volume, backend = attached(cache, make)
        file = volume.open(KEY, "r+b")
        volume.sync(20)
        with Gate() as gate:
            if operation == "sync":
                volume.open("new", "wb").close()
            backend.use([Rule(operation, gate=gate, times=1)])
            task = Task(start, file)
            gate.wait_entered()
            volume.abort()
            check(task, gate)
        backend.use([])
        volume.reconnect(backend)
        with contextlib.suppress(DataLossError):  # a direct write that was not committed
            file.close()
        with volume.open(KEY, "rb") as again:
            assert again.pread(PAGE, 8 * PAGE) in (DATA[8 * PAGE : 9 * PAGE], b"")


def ends_at_once(task: Task[object], _gate: Gate) -> None:
    with pytest.raises(ShutdownError):
        task.result()


def ends_with_the_call(task: Task[object], gate: Gate) -> None:
    """It ends with the bytes it has got, or with ShutdownError."""
    assert task.waits(0.3)
    gate.release()
    with contextlib.suppress(ShutdownError):
        assert task.result() == DATA[PAGE : 2 * PAGE]


@pytest.mark.parametrize("call", AT_ONCE)
@pytest.mark.parametrize("make", [blocking, asynchronous])
def test_an_abort_ends_a_call_that_a_thread_of_the_volume_makes(call: str, make: Callable[[Any], Any]) -> None:
    """The backend's call goes on without its caller. [T-13, I-23, K9]"""
    aborted(AT_ONCE[call], make, ends_at_once)


@pytest.mark.parametrize("call", WITH_THE_CALL)
def test_a_call_on_the_thread_of_its_caller_ends_when_the_backend_returns(call: str) -> None:
    """An abort cannot take that thread out of the backend. [T-13, I-23, K9]"""
    aborted(WITH_THE_CALL[call], blocking, ends_with_the_call)


@pytest.mark.parametrize("call", WITH_THE_CALL)
def test_an_abort_ends_a_read_of_an_asynchronous_backend(call: str) -> None:
    """Its coroutine runs on the cache's loop, and is cancelled. [T-13, I-23, K9]"""
    aborted(WITH_THE_CALL[call], asynchronous, ends_at_once)


READERS: dict[str, Callable[[CachedFile], object]] = {
    "a read": lambda file: file.pread(PAGE, PAGE),
    "a view": lambda file: file.view(PAGE, PAGE),
    "prefetch": lambda file: file.prefetch(PAGE, PAGE, wait=True),
    "prefetch_ranges": lambda file: file.prefetch_ranges([(PAGE, PAGE)], wait=True),
}


@pytest.mark.parametrize("reader", READERS)
def test_an_abort_ends_a_read_that_waits_for_the_fill_of_another_thread(reader: str) -> None:
    """The fill belongs to readahead, to a prefetch, or to another reader. [T-13, I-23, K9]"""
    with cache_of_the_test() as cache:
        volume, backend = attached(cache, blocking)
        with volume.open(KEY, "rb") as file, Gate() as gate:
            backend.use([Rule("read", gate=gate)])
            file.prefetch(PAGE, PAGE)
            gate.wait_entered()
            task = Task(READERS[reader], file)
            eventually(lambda: any(wait.thread == task.thread.ident for wait in cache.waits()))
            volume.abort()
            ends_at_once(task, gate)
        backend.use([])
        volume.reconnect(backend)


@pytest.mark.parametrize("call", ["open", "stat"])
def test_canonical_runs_on_the_thread_of_the_caller(call: str) -> None:
    """The call ends when `canonical` returns. [2.1, I-23]"""

    class Slow(MemoryBackend):
        limits = BackendLimits()
        entered, leave = threading.Event(), threading.Event()

        def canonical(self, key: Any) -> Any:
            if key == "slow":
                self.entered.set()
                assert self.leave.wait(20)
            return key

    backend = Slow()
    backend.entered.clear()
    backend.leave.clear()
    with cache_of_the_test() as cache:
        volume = cache.attach(backend)
        task = Task(volume.open, "slow") if call == "open" else Task(volume.stat, "slow")
        assert backend.entered.wait(20)
        volume.abort()
        assert task.waits(0.3)
        backend.leave.set()
        with pytest.raises(ShutdownError):
            task.result()
        volume.reconnect(backend)
