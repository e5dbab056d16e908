"""Asynchronous backends as targets: the cache uses one on its own loop, the tester reads stored bytes through another.

    factory() ──▶ one for the cache, unchanged: PageCache.attach, coroutines on the cache's loop
    factory() ──▶ one for the tester, on a separate loop: makes files, and reads stored bytes

Both must use one store. If the factory makes a new store each time, or if a blocking layer must lie in between (a
store that forgets), one backend serves both: it stays on the tester's loop, and the cache gets an `Elsewhere` around
it, whose coroutines wait for a thread. The cache then still takes its code path for asynchronous backends, and
`skipped` records that the backend's own coroutines do not run on the cache's loop.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from pagecache.backends.passing import PassingBackend
from pagecache.backends.protocol import (
    OPTIONAL_MEMBERS,
    AsyncBackend,
    AsyncBackendFile,
    Backend,
    BackendFile,
    BackendLimits,
    ObjectStat,
)
from pagecache.engine.blocking import Blocking, blocking, is_async, original
from pagecache.engine.loop import CacheLoop
from pagecache.engine.park import Park
from pagecache.errors import Key

__all__ = ["Elsewhere", "for_the_cache", "for_threads", "on_a_loop"]

T = TypeVar("T")

SKIPPED = "coroutines on the event loop of the cache"
SHARED = "the factory gives a store of its own each time: its coroutines run on the tester's loop"
BETWEEN = "something that blocks lies in between: its coroutines run on the tester's loop"
SAME = "the factory gives one and the same object: its coroutines run on the tester's loop"


def for_threads(factory: Callable[[], Any]) -> Callable[[], Backend]:
    """Return a factory of blocking backends, for backends of either kind; asynchronous ones share a loop."""
    loop: list[CacheLoop] = []

    def running() -> CacheLoop:
        if not loop or not loop[0].alive():
            loop[:] = [CacheLoop("stress", Park())]
        return loop[0]

    return lambda: blocking(factory(), running)


def on_a_loop(backend: Backend) -> bool:
    """Return whether `for_threads` made this backend from an asynchronous one."""
    return isinstance(_inner(backend), Blocking)


def _inner(backend: Backend) -> Backend:
    return backend.inner if isinstance(backend, PassingBackend) else backend


def for_the_cache(
    backend: Backend, beneath: Backend, factory: Callable[[], Backend], key: Key, skipped: dict[str, str]
) -> AsyncBackend | None:
    """Return another asynchronous backend for the cache, unchanged; None if that is impossible, with the reason in
    `skipped`.

    Args:
        backend: the tester's own.
        beneath: the tester's own, or the layers that the round puts over it.
        factory: makes asynchronous backends.
        key: of an existing object.
        skipped: left-out feature -> reason.
    """
    if beneath is not backend:
        skipped[SKIPPED] = BETWEEN
        return None
    if _inner(backend) is not backend:
        skipped[SKIPPED] = SAME
        return None
    probe = factory()
    try:
        probe.stat(key)
    except FileNotFoundError:
        skipped[SKIPPED] = SHARED
        return None
    finally:
        probe.close()
    fresh: AsyncBackend = original(factory())
    assert is_async(fresh)
    return fresh


async def _in_a_thread(call: Callable[[], T]) -> T:
    """Return the result of a blocking call. It ends only when the thread ends, even if the task is cancelled: until
    then the buffers are in use, and the store may still change.
    """
    running = asyncio.ensure_future(asyncio.to_thread(call))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        running.exception()  # marks the exception as retrieved
        raise cancelled
    return running.result()


class Elsewhere(AsyncBackend):
    """A blocking backend as an asynchronous one: each coroutine waits for a thread."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    @property
    def limits(self) -> BackendLimits:  # type: ignore[override]
        """Return the current limits of the inner backend."""
        return self.inner.limits

    async def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> AsyncBackendFile:
        return _File(await _in_a_thread(partial(self.inner.open, key, create=create, exclusive=exclusive)))

    async def stat(self, key: Key) -> ObjectStat:
        return await _in_a_thread(partial(self.inner.stat, key))

    async def remove(self, key: Key) -> None:
        await _in_a_thread(partial(self.inner.remove, key))

    async def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        await _in_a_thread(partial(self.inner.rename, src, dst, replace=replace))

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectStat]:
        found: builtins.list[ObjectStat] = await _in_a_thread(lambda: [*self.inner.list(prefix)])
        for stat in found:
            yield stat

    def canonical(self, key: Key) -> Key:
        return self.inner.canonical(key)

    async def sync(self) -> None:
        await _in_a_thread(self.inner.sync)

    async def close(self) -> None:
        await _in_a_thread(self.inner.close)


class _File(AsyncBackendFile):
    """An object of `Elsewhere`. It lacks the optional methods that the inner object lacks."""

    def __init__(self, inner: BackendFile) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name not in OPTIONAL_MEMBERS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        found = getattr(self.inner, name)
        return found if not callable(found) else partial(self._call, found)

    @staticmethod
    async def _call(method: Callable[..., Any], *args: Any) -> Any:
        return await _in_a_thread(partial(method, *args))

    async def stat(self) -> ObjectStat:
        return await _in_a_thread(self.inner.stat)

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return await _in_a_thread(partial(self.inner.read_into, offset, buffers))

    async def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return await _in_a_thread(partial(self.inner.write_from, offset, buffers))

    async def truncate(self, size: int) -> None:
        await _in_a_thread(partial(self.inner.truncate, size))

    async def commit(self) -> str | None:
        return await _in_a_thread(self.inner.commit)
