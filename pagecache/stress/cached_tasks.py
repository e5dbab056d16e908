"""The cache's verbs for tasks: coroutines of `pagecache.aio`, and threads for calls that have no coroutine."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from pagecache import aio
from pagecache.errors import Key
from pagecache.options import OpenMode
from pagecache.stress.targets import Held
from pagecache.stress.views import HeldView

if TYPE_CHECKING:
    from pagecache.stress.cached import CachedTarget

__all__ = ["CachedTasks"]


class CachedTasks:
    """Verbs as coroutines. Used on one loop, between `open` and `close`."""

    def __init__(self, target: CachedTarget) -> None:
        self._target = target
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
        own = getattr(self, name, None)
        if own is not None:
            return await own(*arguments)
        return await asyncio.to_thread(getattr(self._target, name), *arguments)

    def _handle(self, file: int, way: str = "buffered") -> aio.AsyncCachedFile:
        return self._files[file][way or "buffered"]

    async def read(self, file: int, way: str, offset: int, length: int, extra: int) -> bytes:
        handle = self._handle(file, way)
        if extra & 2:
            got: bytes = await handle.pread(length, offset)
            return got
        room = bytearray(b"\xa5" * length)
        return bytes(room[: await handle.pread_into(room, offset)])

    async def readv(self, file: int, way: str, offset: int, length: int, extra: int) -> bytes:
        cut = extra % (length + 1)
        rooms = [bytearray(cut), bytearray(length - cut)]
        done = await self._handle(file, way).preadv(rooms, offset)
        return b"".join(rooms)[:done]

    async def read_cancelled(self, file: int, way: str, offset: int, length: int, extra: int) -> bytes | None:
        """Begin a read, and cancel it after up to two turns of the loop; None: it was cancelled."""
        read = asyncio.ensure_future(self.read(file, way, offset, length, extra))
        for _ in range(extra % 3):
            await asyncio.sleep(0)
        read.cancel()
        await asyncio.wait([read])
        return None if read.cancelled() else read.result()

    async def try_read(self, file: int, offset: int, length: int, way: str = "buffered") -> bytes | None:
        return self._handle(file, way).try_pread(length, offset)

    async def write(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None:
        await self._handle(file, way).pwrite(data, offset)

    async def writev(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None:
        cut = extra % (len(data) + 1)
        await self._handle(file, way).pwritev([data[:cut], data[cut:]], offset)

    async def try_write(self, file: int, offset: int, data: bytes) -> bool:
        return self._handle(file).try_pwrite(data, offset) is not None

    async def append(self, file: int, way: str, data: bytes) -> int:
        offset: int = await self._handle(file, way).append(data)
        return offset

    async def view(self, file: int, offset: int, length: int, writable: bool) -> HeldView:
        give = self._target.budget.take(length)
        try:
            return HeldView(await self._handle(file).view(offset, length, writable=writable), give)
        except BaseException:
            give()
            raise

    async def copy(self, file: int, way: str, held: Held, offset: int) -> None:
        handle, segments = self._handle(file, way), held.segments()
        await (handle.pwrite(segments[0], offset) if len(segments) == 1 else handle.pwritev(segments, offset))

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

    async def truncate(self, file: int, size: int, way: str = "buffered") -> None:
        await self._handle(file, way).truncate(size)

    async def punch(self, file: int, offset: int, length: int, way: str = "buffered") -> None:
        await self._handle(file, way).punch_hole(offset, length)

    async def zero(self, file: int, offset: int, length: int, way: str = "buffered") -> None:
        await self._handle(file, way).zero_range(offset, length)

    async def flush(self, file: int, way: str = "buffered") -> None:
        await self._handle(file, way).flush()

    async def sync_range(self, file: int, offset: int, length: int, way: str = "buffered") -> None:
        await self._handle(file, way).sync_range(offset, length)

    async def fsync(self, file: int, way: str = "buffered") -> None:
        await self._handle(file, way).fsync(timeout=self._target.call_timeout)

    async def ticket(self) -> None:
        async with asyncio.timeout(self._target.call_timeout):
            await self._target.volume.begin_sync()

    async def prefetch(self, file: int, offset: int, length: int, wait: bool, way: str = "buffered") -> None:
        await self._handle(file, way).prefetch(offset, length, wait=wait)
