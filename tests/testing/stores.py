"""A faulty backend of either kind, and a way to call one of coroutines like a blocking one."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from pagecache.backends import MemoryBackend
from pagecache.testing import AsyncFaultyBackend, FaultyBackend

from ..aio.over import Over

DATA = memoryview(bytes(range(100)))


class Plainly:
    """A backend or file of coroutines with the interface of a blocking one."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not callable(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            async def called() -> Any:
                got = found(*args, **options)
                return await got if inspect.isawaitable(got) else got

            got = asyncio.run(called())
            return Plainly(got) if hasattr(got, "read_into") else got

        return call


class Store:
    """An object "a" of 100 bytes in a backend of either kind, with faults."""

    def __init__(self, kind: str) -> None:
        self.memory = MemoryBackend()
        self.memory.put("a", bytes(DATA))
        self.faulty: FaultyBackend | AsyncFaultyBackend
        if kind == "blocking":
            self.faulty = FaultyBackend(self.memory)
            self.backend: Any = self.faulty
        else:
            self.faulty = AsyncFaultyBackend(Over(self.memory))
            self.backend = Plainly(self.faulty)
        self.file = self.backend.open("a")
        self.faulty.clear_calls()

    def content(self) -> bytes:
        return self.memory.snapshot("a")

    def write(self, data: bytes = b"new", offset: int = 0) -> int:
        return int(self.file.write_from(offset, [memoryview(data)]))
