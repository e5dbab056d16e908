"""The cache's verbs for tasks: coroutines of `pagecache.aio`, and threads for calls that have no coroutine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from pagecache import aio
from pagecache.errors import Key
from pagecache.options import OpenMode
from pagecache.stress.targets import FileVerbs
from pagecache.stress.views import HeldView

if TYPE_CHECKING:
    from pagecache.stress.cached import CachedTarget

__all__ = ["CachedTasks"]


class CachedTasks(FileVerbs):
    """Verbs as coroutines. Used on one loop, between `open` and `close`."""

    def __init__(self, target: CachedTarget) -> None:
        self._target = target
        self.call_timeout = target.call_timeout
        self._files: list[dict[str, aio.AsyncCachedFile]] = []

    async def open(self) -> None:
        """Open separate handles on each file."""
        target = self._target
        many = target.volume.backend.limits.parallel_direct_writes
        for number in range(len(target.files)):
            key = target.key(number)
            handles: dict[str, aio.AsyncCachedFile] = {}
            self._files.append(handles)  # first: if one open fails, the others must be closed
            handles["buffered"] = await self._open(key)
            handles["direct"] = await self._open(key, direct=True)
            handles["parallel"] = await self._open(key, direct=True, parallel_direct_writes=many)
            handles["through"] = await self._open(key, write_through=True)

    async def _open(self, key: Key, **options: Any) -> aio.AsyncCachedFile:
        """Open a file; retry while faults refuse it, until the timeout of a call."""
        time = asyncio.get_running_loop().time
        end = time() + self._target.call_timeout
        while True:
            try:
                return await aio.open(self._target.volume, key, "r+b", **options)
            except OSError as error:
                if time() >= end or error.errno not in self._target.explained | self._target.contested:
                    raise
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        """Close all handles."""
        for ways in self._files:
            for handle in ways.values():
                with contextlib.suppress(OSError):
                    # The handle is closed even so; the rest checks for bytes that were not saved.
                    await handle.close()
        self._files.clear()

    async def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Run a verb, as a coroutine if there is one."""
        if (own := getattr(self, name, None)) is None:
            return await asyncio.to_thread(getattr(self._target, name), *arguments)
        result = own(*arguments)
        return await result if isawaitable(result) else result

    def handle(self, file: int, way: str, extra: int = 0) -> aio.AsyncCachedFile:
        return self._files[file][way or "buffered"]

    async def then(self, result: Any, use: Callable[[Any], Any]) -> Any:
        return use(await result)

    async def read_cancelled(self, file: int, way: str, offset: int, length: int, extra: int) -> bytes | None:
        """Begin a read, and cancel it after up to two turns of the loop; None: it was cancelled."""
        read = asyncio.ensure_future(self.call("read", (file, way, offset, length, extra)))
        for _ in range(extra % 3):
            await asyncio.sleep(0)
        read.cancel()
        await asyncio.wait([read])
        return None if read.cancelled() else read.result()

    async def view(self, file: int, offset: int, length: int, writable: bool) -> HeldView:
        give = self._target.budget.take(length)
        try:
            return HeldView(await self.handle(file, "buffered").view(offset, length, writable=writable), give)
        except BaseException:
            give()
            raise

    async def enter(self, name: str, way: str, mode: OpenMode) -> aio.AsyncCachedFile:
        target = self._target
        before = target.quiet(name)
        handle = await aio.open(target.volume, target.key(name), mode, **target.options_of(name, way))
        target.entered(handle._file, before)
        return handle

    async def act(self, handle: aio.AsyncCachedFile, call: str, *arguments: Any) -> Any:
        if call == "close":
            self._target.left(handle._file)
        return await getattr(handle, call)(*arguments)

    async def ticket(self) -> None:
        async with asyncio.timeout(self._target.call_timeout):
            await self._target.volume.begin_sync()
