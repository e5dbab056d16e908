"""A blocking backend as an asynchronous one: each call runs in a thread, and the loop waits for it as a task.

So every test backend, with its gates, faults and records, is also an asynchronous backend. The context passes to the
thread (as with `asyncio.to_thread`), and so do the buffers: a cancelled call keeps writing into them.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from pagecache import AsyncBackend, AsyncBackendFile, Backend, BackendLimits, ObjectStat
from pagecache.backends.protocol import OPTIONAL_MEMBERS
from pagecache.errors import Key

T = TypeVar("T")

threads = ThreadPoolExecutor(128, thread_name_prefix="over")


async def in_thread(call: Callable[..., T], *args: Any, **options: Any) -> T:
    context = contextvars.copy_context()
    run = partial(context.run, call, *args, **options)
    return await asyncio.get_running_loop().run_in_executor(threads, run)


class FileOver(AsyncBackendFile):
    """An object of a blocking backend."""

    def __init__(self, file: Any) -> None:
        self.inner = file

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        return partial(in_thread, found) if name in OPTIONAL_MEMBERS and callable(found) else found

    async def stat(self) -> ObjectStat:
        return await in_thread(self.inner.stat)

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return await in_thread(self.inner.read_into, offset, buffers)

    async def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return await in_thread(self.inner.write_from, offset, buffers)

    async def truncate(self, size: int) -> None:
        await in_thread(self.inner.truncate, size)

    async def commit(self) -> str | None:
        return await in_thread(self.inner.commit)


class Over(AsyncBackend):
    """A blocking backend, asynchronous."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @property
    def limits(self) -> BackendLimits:  # type: ignore[override]
        return self.inner.limits

    async def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> AsyncBackendFile:
        file: Any = await in_thread(self.inner.open, key, create=create, exclusive=exclusive)
        return FileOver(file) if hasattr(file, "read_into") else file

    async def stat(self, key: Key) -> ObjectStat:
        return await in_thread(self.inner.stat, key)

    async def remove(self, key: Key) -> None:
        await in_thread(self.inner.remove, key)

    async def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        await in_thread(self.inner.rename, src, dst, replace=replace)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectStat]:
        for found in await in_thread(lambda: [*self.inner.list(prefix)]):
            yield found

    def canonical(self, key: Key) -> Key:
        return self.inner.canonical(key)

    async def sync(self) -> None:
        await in_thread(self.inner.sync)

    async def close(self) -> None:
        await in_thread(self.inner.close)
