"""Shared by the tests: a cache with one recorded volume, threads with bounded waits, quiet settings."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy
import pytest

import pagecache
from pagecache import CachedFile, PageCache, RetryPolicy, ShutdownError, Volume, aio
from pagecache.options import OpenMode
from pagecache.testing import Gate as Gates
from pagecache.testing import Rule

from ..stores import WAIT_LIMIT_S, Action, Gate, RecordingBackend

T = TypeVar("T")
G = TypeVar("G", Gate, Gates)
E = TypeVar("E", bound=BaseException)

PAGE = 4096
KEY = "file"

# Nothing is written back unless the test asks for it.
QUIET: dict[str, Any] = {"dirty_background": 0.8, "dirty_limit": 0.9, "dirty_expire": 3600.0, "flush_interval": 3600.0}
# Retries that cost no noticeable time.
FAST = RetryPolicy(attempts=3, first_delay=0.001, max_delay=0.005, deadline=20.0, failed_retry=None)
# One attempt, then the failure is permanent.
ONCE = RetryPolicy(attempts=1, first_delay=0.001, max_delay=0.005, deadline=20.0, failed_retry=None)


@dataclass(slots=True)
class Rig:
    """A cache, its backend and one volume on it."""

    cache: PageCache
    volume: Volume
    backend: RecordingBackend
    handles: list[CachedFile] = field(default_factory=list)

    def open(self, mode: str = "r+b", key: Hashable = KEY, **options: Any) -> CachedFile:
        """Open a file of the volume; closed with the rig."""
        handle = self.volume.open(key, cast(OpenMode, mode), **options)
        self.handles.append(handle)
        return handle

    def opened(self, mode: str = "r+b", key: Hashable = KEY, **options: Any) -> tuple[Rig, CachedFile]:
        """Return the rig, and a file of it that this opens."""
        return self, self.open(mode, key, **options)

    def dirtied(
        self, data: bytes, offset: int = 0, mode: str = "r+b", key: Hashable = KEY, **options: Any
    ) -> CachedFile:
        """Open a file, and write to it."""
        handle = self.open(mode, key, **options)
        handle.pwrite(data, offset)
        return handle

    def written(
        self, data: bytes, offset: int = 0, mode: str = "r+b", key: Hashable = KEY, **options: Any
    ) -> tuple[Rig, CachedFile]:
        """Return the rig, and a file of it that this opens and writes to."""
        return self, self.dirtied(data, offset, mode, key, **options)

    def fails(self, op: str, error: Action, kind: type[E], call: Callable[..., object], *args: Any, **more: Any) -> E:
        """Make a call that raises because the next call of the backend of that kind fails."""
        self.backend.fault(op, error)
        return raises(kind, call, *args, **more)

    def saved(self, file: CachedFile, key: Hashable = KEY) -> bytes | None:
        """Call fsync, and return the committed content."""
        file.fsync()
        return self.backend.committed(key)

    def synced(self, key: Hashable = KEY) -> bytes | None:
        """Call sync of the volume, and return the committed content."""
        self.volume.sync(20)
        return self.backend.committed(key)

    def both(self, mode: str = "r+b", key: Hashable = KEY, **options: Any) -> tuple[Rig, CachedFile, CachedFile]:
        """Return the rig, a handle that reads and writes, and another one of this kind."""
        return self, self.open(), self.open(mode, key, **options)

    def content(self, key: Hashable = KEY) -> bytes:
        """Return what a new handle reads."""
        return content_of(self.volume, key)

    def reconnect(self, *hung: Task[Any], fenced: bool = False, **successor: bool) -> RecordingBackend:
        """Abort the volume, which ends these calls, and reconnect it to the same store after a crash."""
        self.volume.abort()
        for call in hung:
            raises(ShutdownError, call.result)
        fresh = self.backend.successor(**successor)
        self.volume.reconnect(fresh, fenced=fenced)
        return fresh

    def finish(self) -> None:
        """Close everything whatever the test did to it, and check that the backend has seen no breach of its rules."""
        self.backend.open_all_gates()
        self.backend.clear_faults()
        with suppress(ShutdownError):  # closed by the test
            self.cache.check()
        for handle in self.handles:
            with suppress(OSError):  # the test has checked the errors that it provoked
                handle.close()
        with suppress(ShutdownError):
            self.cache.check()
        self.cache.close(timeout=WAIT_LIMIT_S, on_failed="discard")
        assert self.backend.violations == []


def make_rig(
    objects: dict[Hashable, bytes] | None = None,
    capacity: str | int = "8MiB",
    *,
    backend: RecordingBackend | None = None,
    limits: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **config: Any,
) -> Rig:
    """A quiet cache without readahead, unless the options say otherwise."""
    if backend is None:
        backend = RecordingBackend(objects, **(limits or {}))
    cache = PageCache(capacity, **{**QUIET, "retry": FAST, **config})
    try:
        volume = cache.attach(backend, name="volume", **{"read_ahead": 0, **(options or {})})
    except BaseException:
        cache.close()
        raise
    return Rig(cache, volume, backend)


@contextmanager
def attached(backend: Any, size: str = "16MiB", options: Any = None, **config: Any) -> Iterator[Volume]:
    """A volume on a cache that is closed at the end, as `PageCache` as a context does."""
    with PageCache(size, **config) as cache:
        yield cache.attach(backend, **(options or {}))


def content_of(volume: Volume, key: Hashable) -> bytes:
    """Return what a new handle reads."""
    with volume.open(key) as file:
        return file.readall()


def stored(volume: Volume, key: Hashable, data: Any, mode: OpenMode = "wb") -> None:
    """Write to a new handle, and close it."""
    with volume.open(key, mode) as file:
        file.pwrite(data, 0)


async def fsync_of_a_task(volume: Volume) -> None:
    file = await aio.open(volume, KEY, "r+")
    try:
        await file.fsync()
    finally:
        await file.close()


SAVES: dict[str, Callable[[Rig, CachedFile], object]] = {
    "flush": lambda rig, file: file.flush(),
    "sync_range": lambda rig, file: file.sync_range(0, PAGE),
    "write_through": lambda rig, file: rig.open("r+b", write_through=True).pwrite(file.pread(PAGE, 0), 0),
    "fsync": lambda rig, file: file.fsync(),
    "aio fsync": lambda rig, file: asyncio.run(fsync_of_a_task(rig.volume)),
    "close": lambda rig, file: file.close(),
    "sync": lambda rig, file: rig.volume.sync(),
    "ticket": lambda rig, file: rig.volume.begin_sync().wait(),
    "cache.sync": lambda rig, file: rig.cache.sync(),
    "detach": lambda rig, file: rig.volume.detach(),
    "cache.close": lambda rig, file: rig.cache.close(),
}
"""Each way to save what a handle has written to KEY; the first three do not commit."""

NAME_CALLS: dict[str, Callable[..., Any]] = {
    "open": lambda volume, key, **more: volume.open(key, **more).close(),
    "stat": lambda volume, key, **more: volume.stat(key, **more),
    "list": lambda volume, key, **more: list(volume.list(**more)),
    "remove": lambda volume, key, **more: volume.remove(key, **more),
    "rename": lambda volume, key, **more: volume.rename(key, "another", **more),
    "truncate": lambda volume, key, **more: volume.truncate(key, 5, **more),
}
"""Calls of a volume, by the operation of the backend that each makes."""

Make = Callable[..., Rig]
"""The fixture `make`."""
Patch = pytest.MonkeyPatch
"""The fixture `monkeypatch`."""
Log = pytest.LogCaptureFixture
"""The fixture `caplog`."""


class Task(Generic[T]):
    """A function on a separate thread."""

    def __init__(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> None:
        self.value: T
        self.error: BaseException | None = None
        self.finished = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(function, args, kwargs), daemon=True)
        self.thread.start()

    def run(self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self.value = function(*args, **kwargs)
        except BaseException as error:
            self.error = error
        finally:
            self.finished.set()

    def result(self, timeout: float = WAIT_LIMIT_S, *, opening: Gate | None = None) -> T:
        """Open the gate that holds the call, and return the function's value, or raise its exception."""
        if opening is not None:
            opening.open()
        assert self.finished.wait(timeout), "the call did not come back"
        self.thread.join(timeout)
        if self.error is not None:
            raise self.error
        return self.value

    def waits(self, moment: float = 0.1) -> bool:
        """Return whether the task is still busy after a moment, which gives a call that should wait the chance to be
        wrong.
        """
        return not self.finished.wait(moment)


class Crowd:
    """A lock that counts the threads that come to it."""

    def __init__(self, lock: Any) -> None:
        self.lock, self.came = lock, threading.Semaphore(0)
        self.release = lock.release

    def acquire(self, *, timeout: float = WAIT_LIMIT_S) -> bool:
        self.came.release()
        return bool(self.lock.acquire(timeout=timeout))

    def __enter__(self) -> None:
        assert self.acquire(), "another thread has kept the lock"

    def __exit__(self, *_exc: object) -> None:
        self.release()


def raises(
    kind: type[E] | tuple[type[E], ...],
    call: Callable[..., object],
    *args: Any,
    match: str | None = None,
    **kwargs: Any,
) -> E:
    """Make a call that raises, and return the exception."""
    with pytest.raises(kind, match=match) as caught:
        call(*args, **kwargs)
    try:
        return caught.value
    finally:
        del caught  # with the exception's traceback, a cycle that keeps the memory of the call


def at_gate(gate: G, call: Callable[..., T], *args: Any, **kwargs: Any) -> tuple[G, Task[T]]:
    """Start a call on a separate thread, and wait until it has reached a gate of the backend."""
    task = Task(call, *args, **kwargs)
    gate.wait_entered()
    return gate, task


def cut_off(volume: Volume, gate: G, call: Callable[..., object], *args: Any) -> G:
    """Abort the volume while the gate holds a call in its backend. The call raises."""
    _, task = at_gate(gate, call, *args)
    volume.abort()
    raises(ShutdownError, task.result)
    return gate


def run_program(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own process, from a file in that folder, with this package; a hang fails."""
    path = folder / "program.py"
    path.write_text(textwrap.dedent(text))
    place = str(Path(pagecache.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([place, *filter(None, sys.path)])}
    return subprocess.run(
        [sys.executable, "-W", "ignore", path, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env=env,
        check=False,
    )


def held(monkeypatch: Patch, owner: Any, name: str, *, after: bool = False) -> Gate:
    """Hold the first call of a function of the engine or of a backend, before or after its work."""
    gate, genuine = Gate(name, None, 1), getattr(owner, name)

    def late(*args: Any, **more: Any) -> Any:
        found = genuine(*args, **more) if after else None
        if not gate.entered.is_set():
            gate.entered.set()
            assert gate.release.wait(WAIT_LIMIT_S), "the test has not opened its gate"
        return found if after else genuine(*args, **more)

    monkeypatch.setattr(owner, name, late)
    return gate


def beside(monkeypatch: Patch, owner: Any, name: str, change: Callable[[], object], *, after: bool = False) -> None:
    """Make a change just before, or after, the work of the next call of a function."""
    genuine = getattr(owner, name)

    def once(*args: Any, **more: Any) -> Any:
        monkeypatch.setattr(owner, name, genuine)
        found = genuine(*args, **more) if after else None
        change()
        return found if after else genuine(*args, **more)

    monkeypatch.setattr(owner, name, once)


def raising(error: BaseException) -> Callable[..., Any]:
    """Return a function that raises."""

    def call(*_args: object, **_more: object) -> Any:
        raise copy.copy(error)  # a kept traceback would keep what the caller has

    return call


def gated(backend: Any, operation: str, **rule: Any) -> Gates:
    """Hold calls of a backend of `pagecache.testing`, all or those that the rule names."""
    gate = Gates()
    backend.use([Rule(operation, gate=gate, **rule)])
    return gate


def side_by_side(work: Callable[[int], object], threads: int = 8, timeout: float = 60.0) -> None:
    """Run `work(number)` on that many threads, and raise here the first exception of one of them."""
    for task in [Task(work, number) for number in range(threads)]:
        task.result(timeout)


@contextmanager
def no_memory(rig: Rig, pages: int = 16, key: Hashable = "other") -> Iterator[None]:
    """Pin that many pages, all that the cache has, by views of another file."""
    file = rig.open("rb", key=key)
    views = [file.view(page * PAGE, PAGE) for page in range(pages)]
    yield
    for view in views:
        view.release()


@contextmanager
def without_collector() -> Iterator[None]:
    """Imitate a program with many objects: its garbage collector runs next to never."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def eventually(condition: Callable[[], object], timeout: float = WAIT_LIMIT_S) -> None:
    """Wait for a condition that has no event."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def ended_or_behind(cache: PageCache, task: Task[Any], thread: threading.Thread) -> None:
    """Wait until a call has ended, or it or a thread that works for it waits for a lock, or for a call that another
    thread makes: then it can get no further.
    """
    locks = {"the file's lock", "the file's lock, shared", "the file's token", "the name"}
    locks.add("the commit or rollback that runs")

    def behind() -> bool:
        waits = cache.waits()
        keys = {wait.key for wait in waits if wait.thread == task.thread.ident}
        owned = [wait for wait in waits if wait.key in keys]
        return any(wait.what in locks or (wait.owner and wait.owner.thread == thread.ident) for wait in owned)

    eventually(lambda: task.finished.is_set() or behind())


async def until_all_wait(cache: PageCache, *tasks: asyncio.Task[Any]) -> None:
    """Wait until each of these tasks waits for something of the cache."""
    names = {task.get_name() for task in tasks}
    async with asyncio.timeout(WAIT_LIMIT_S):
        while not names <= {wait.name for wait in cache.waits() if wait.task}:
            await asyncio.sleep(0)


def wait_for(cache: PageCache, what: str) -> None:
    """Wait until a thread waits for this."""
    eventually(lambda: any(wait.what == what for wait in cache.waits()))


def quiet(volume: Volume, key: Hashable = KEY) -> None:
    """Wait until none of the cache's passes and commits runs: before that an open does not compare versions."""
    engine = volume.inodes[key]
    eventually(lambda: engine.versions.quiet() is not None)


def pattern(length: int, seed: int = 0) -> bytes:
    """Bytes in which every position differs from its neighbours and from the same position in the next page."""
    i = numpy.arange(length, dtype=numpy.uint64)
    return bytes((7 * i + 13 * (i >> 8) + 101 * (i >> 12) + seed * 31).astype(numpy.uint8).tobytes())


def overlay(content: bytes, offset: int, data: bytes) -> bytes:
    """The content with `data` written over it at `offset`."""
    return content[:offset] + data + content[offset + len(data) :]


def accepted_before(error: OSError) -> Any:
    """`characters_written`, which every OSError may have; typeshed gives it to BlockingIOError only."""
    return getattr(error, "characters_written", None)


def dirty_bytes(volume: Volume, key: Hashable = KEY) -> int:
    """Bytes that are not safe yet."""
    return sum(length for _offset, length in volume.dirty_ranges(key))


def spread(total: int, ranges: list[tuple[int, int]]) -> set[int]:
    """The offsets below `total` that (offset, length) ranges cover."""
    return {i for offset, length in ranges for i in range(offset, min(offset + length, total))}
