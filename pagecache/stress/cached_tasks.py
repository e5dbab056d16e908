"""Views of the cache as memory that a step holds; and the cache's verbs for tasks: coroutines of `pagecache.aio`, and
threads for calls that have no coroutine.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from pagecache import View, aio
from pagecache.config import Durability
from pagecache.errors import Key
from pagecache.options import OpenMode
from pagecache.stress.profiles import IO
from pagecache.stress.targets import FileVerbs

if TYPE_CHECKING:
    from pagecache.stress.cached import CachedTarget


class Budget:
    """Bytes that views may pin together.

    Pinning a page pins its folio, so a few views can hold all of a small cache, each waiting for memory that the others
    hold. In a program that would be a bug of the program; a tester would only stop itself.
    """

    def __init__(self, most: int, folio: int) -> None:
        self._lock = threading.Lock()
        self._left = most
        self._folio = folio

    def take(self, length: int) -> Callable[[], None]:
        """Take the budget for a view of `length` bytes; return a function that gives it back.

        Raises:
            OSError: ENOMEM: others hold too much.
        """
        amount = length + self._folio
        with self._lock:
            if amount > self._left:
                raise OSError(errno.ENOMEM, "the views of the tester hold enough of the cache")
            self._left -= amount

        def give() -> None:
            with self._lock:
                self._left += amount

        return give


class HeldView:
    """A view, with its methods; see `targets.Held`."""

    def __init__(self, view: View, give: Callable[[], None]) -> None:
        self._view = view
        self._give = give

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def store(self, at: int, data: bytes) -> None:
        """Store bytes, across segments."""
        for segment in self._view.segments:
            if at < len(segment) and data:
                part = data[: len(segment) - at]
                segment[at : at + len(part)] = part
                data, at = data[len(part) :], 0
            else:
                at -= len(segment)

    def release(self) -> None:
        """Release the view."""
        self._view.release()
        self._give()


class CachedTasks(FileVerbs):
    """Verbs as coroutines. Used on one loop, between `open` and `close`."""

    def __init__(self, target: CachedTarget) -> None:
        self._target = target
        self.call_timeout = target.call_timeout
        self._files: list[dict[str, aio.AsyncCachedFile]] = []

    async def open(self) -> None:
        """Open separate handles on each file."""
        target = self._target
        for number in range(len(target.files)):
            handles: dict[str, aio.AsyncCachedFile] = {}
            self._files.append(handles)  # first: if one open fails, the others must be closed
            for way in IO:
                handles[way] = await self._open(target.key(number), **target.options_of(way))

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
        target.remember([name])
        before = target.quiet(name)
        handle = await aio.open(target.volume, target.key(name), mode, **target.options_of(way))
        target.entered(handle._file, before)
        return handle

    async def act(self, handle: aio.AsyncCachedFile, call: str, *arguments: Any) -> Any:
        if call == "close":
            self._target.entries.pop(handle._file, None)
        return await getattr(handle, call)(*arguments)

    async def ticket(self, level: Durability = "backend") -> None:
        async with asyncio.timeout(self._target.call_timeout):
            await self._target.volume.begin_sync(durability=level)
