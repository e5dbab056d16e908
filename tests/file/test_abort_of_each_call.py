"""The end of each kind of call after `Volume.abort`, while the backend call that it waits for does not return.

A thread of the volume makes the call, so its caller can leave at once. Two calls run on the caller's thread, and end
when the backend returns: any call of a prompt backend, and `canonical`. The same holds for an interrupt.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

import pagecache.aio
from pagecache import BackendLimits, CachedFile, DataLossError, ObjectStat, PageCache, ShutdownError, Volume
from pagecache.backends import MemoryBackend
from pagecache.backends.passing import PassingFile
from pagecache.testing import AsyncFaultyBackend, FaultyBackend, Gate, Rule

from ..aio.over import Over
from .rig import ONCE, PAGE, QUIET, Task, pattern
from .test_interrupts import ctrl_c

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
    "a read that misses": ("read", lambda file: file.pread(PAGE, PAGE)),
    "a read into a buffer": ("read", read_into),
    "a read at the position": ("read", lambda file: (file.seek(PAGE), file.read(PAGE))[1]),
    "a long read": ("read", lambda file: file.pread(8 * PAGE, PAGE)),
    "a view": ("read", view),
    "a writable view": ("read", lambda file: view(file, writable=True)),
    "a direct read": ("read", direct_read),
    "prefetch": ("read", lambda file: file.prefetch(PAGE, PAGE, wait=True)),
    "a read of a task": ("read", run(lambda file: file.pread(PAGE, PAGE))),
    "fsync of a task": ("write", run(lambda file: fsynced(file))),
}
"""The operation of the backend that hangs, and the call that waits for it."""

READS = (
    "a read that misses",
    "a read into a buffer",
    "a read at the position",
    "a view",
    "a writable view",
    "a direct read",
)
"""Those that a prompt backend makes on the thread of its caller, with the bytes of one page."""


async def fsynced(file: Any) -> None:
    await file.pwrite(b"written", 0)
    await file.fsync()


def attached(cache: PageCache, make: Callable[[Any], Any], prompt: bool | None = None) -> tuple[Volume, Any]:
    store = MemoryBackend()
    for key in (KEY, "other"):
        store.put(key, DATA)
    store.put("big", bytes(cache.capacity))
    backend = make(store)
    return cache.attach(backend, read_ahead=0, prompt=prompt), backend


def cache_of_the_test() -> PageCache:
    return PageCache("1MiB", **{**QUIET, "retry": ONCE})


def blocking(store: Any) -> Any:
    return FaultyBackend(store)


def asynchronous(store: Any) -> Any:
    return AsyncFaultyBackend(Over(store))


def aborted(
    call: Call, make: Callable[[Any], Any], check: Callable[[Task[object], Gate], None], *, prompt: bool | None = None
) -> None:
    """Abort a volume while a call hangs in its backend."""
    operation, start = call
    with cache_of_the_test() as cache:
        volume, backend = attached(cache, make, prompt)
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


def ends_at_once(task: Task[Any], _gate: Gate) -> None:
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
def test_an_abort_ends_each_call(call: str, make: Callable[[Any], Any]) -> None:
    """The backend's call goes on without its caller. [T-13, I-23, K9]"""
    aborted(AT_ONCE[call], make, ends_at_once)


@pytest.mark.parametrize("call", READS)
def test_a_read_of_a_prompt_backend_ends_when_the_backend_returns(call: str) -> None:
    """An abort cannot take the thread of the caller out of the backend. [T-13, I-23, K9]"""
    aborted(AT_ONCE[call], blocking, ends_with_the_call, prompt=True)


@pytest.mark.parametrize("make", [blocking, asynchronous])
def test_an_abort_ends_a_read_past_the_cache(make: Callable[[Any], Any]) -> None:
    """Views hold all memory. [T-13, I-23, K9]"""
    with cache_of_the_test() as cache:
        volume, backend = attached(cache, make)
        with volume.open(KEY) as file, volume.open("big") as big, big.view(0, cache.capacity), Gate() as gate:
            backend.use([Rule("read", gate=gate, times=1)])
            task = Task(file.pread, PAGE, PAGE)
            gate.wait_entered()
            volume.abort()
            ends_at_once(task, gate)
        backend.use([])
        volume.reconnect(backend)


libc = ctypes.CDLL(None, use_errno=True)


class HangsInC(MemoryBackend):
    """A backend whose next call of one operation blocks in a system call, until a byte comes through a pipe."""

    def __init__(self, operation: str) -> None:
        super().__init__(BackendLimits(max_inflight=2))
        self.operation = operation
        self.armed = False
        self.entered = threading.Event()
        self.out, self.into = os.pipe()

    def hang(self, operation: str) -> None:
        if self.armed and operation == self.operation:
            self.armed = False
            self.entered.set()
            while libc.read(self.out, ctypes.create_string_buffer(1), 1) != 1:
                pass  # a signal

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Any:
        self.hang("open")
        return HangingFile(super().open(key, create=create, exclusive=exclusive), self)

    def stat(self, key: Any) -> ObjectStat:
        self.hang("stat")
        return super().stat(key)

    def end(self) -> None:
        """Let the call return, and close the pipe."""
        os.write(self.into, b"x")


class HangingFile(PassingFile):
    def __init__(self, inner: Any, backend: HangsInC) -> None:
        super().__init__(inner)
        self.backend = backend

    def read_into(self, offset: int, buffers: Any) -> int:
        self.backend.hang("read")
        return super().read_into(offset, buffers)

    def write_from(self, offset: int, buffers: Any) -> int:
        self.backend.hang("write")
        return super().write_from(offset, buffers)

    def commit(self) -> str | None:
        self.backend.hang("commit")
        return super().commit()


IN_C = ("a read that misses", "a view", "a direct read", "prefetch", "fsync", "fsync, in its commit", "open", "stat")


@pytest.mark.parametrize("how", ["abort", "interrupt"])
@pytest.mark.parametrize("call", IN_C)
def test_a_call_that_waits_for_a_backend_that_hangs_in_c_can_be_ended(call: str, how: str) -> None:
    """No Python code runs in the thread of the backend's call. [I-23, K9]"""
    operation, start = AT_ONCE[call]
    backend = HangsInC(operation)
    for key in (KEY, "other"):
        backend.put(key, DATA)
    with cache_of_the_test() as cache:
        volume = cache.attach(backend, read_ahead=0)
        file = volume.open(KEY, "r+b")
        backend.armed = True
        if how == "interrupt":
            with ctrl_c(backend.entered), pytest.raises(KeyboardInterrupt):
                start(file)
        else:
            task = Task(start, file)
            assert backend.entered.wait(20)
            volume.abort()
            with pytest.raises(ShutdownError):
                task.result()
        backend.end()
        if how == "abort":
            volume.reconnect(backend)
        Task(file.fsync).result()
        assert file.pread(PAGE, 8 * PAGE) == DATA[8 * PAGE : 9 * PAGE]
        file.close()
    os.close(backend.out)
    os.close(backend.into)


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
