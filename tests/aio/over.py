"""A blocking backend as an asynchronous one: each call runs in a thread, and the loop waits for it as a task.

So every test backend, with its gates, faults and records, is also an asynchronous backend. The context passes to the
thread (as with `asyncio.to_thread`), and so do the buffers: a cancelled call keeps writing into them.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
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


def awaited(name: str) -> Any:
    """A method that runs the method of the blocking object in a thread."""

    async def call(self: Any, *args: Any, **options: Any) -> Any:
        return await in_thread(getattr(self.inner, name), *args, **options)

    return call


class FileOver(AsyncBackendFile):
    """An object of a blocking backend."""

    def __init__(self, file: Any) -> None:
        self.inner = file

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        return partial(in_thread, found) if name in OPTIONAL_MEMBERS and callable(found) else found

    stat = awaited("stat")
    read_into = awaited("read_into")
    write_from = awaited("write_from")
    truncate = awaited("truncate")
    commit = awaited("commit")


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

    remove = awaited("remove")
    rename = awaited("rename")
    sync = awaited("sync")
    close = awaited("close")

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectStat]:
        for found in await in_thread(lambda: [*self.inner.list(prefix)]):
            yield found

    def canonical(self, key: Key) -> Key:
        return self.inner.canonical(key)
