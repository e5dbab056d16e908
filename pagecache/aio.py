"""Cached files for asyncio.

    async with pagecache.aio.open(volume, key, "r+") as f:
        data = await f.pread(4096, 0)
        await f.pwrite(data, 8192)
        await f.fsync()

Volumes, files and their pages are shared with threads: a handle here and a `CachedFile` of one object share everything.
A hit of at most 256 KiB completes without suspending the task, without a thread and without a future. Every other call
is that of the `CachedFile`, on a thread (`engine/aside.py`), so no call blocks the loop. Any number of event loops may
be used concurrently, and a loop that is closed in the middle leaves nothing behind: running calls go on.

Programs without asyncio (trio, curio, another loop) use `CachedFile.try_pread` and `try_pwrite` on their loop, and
threads for all other calls.
"""

from __future__ import annotations

import contextlib
import operator
import os
import types
from collections.abc import Generator, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from .engine.park import Deadline
from .errors import Key, set_written, written_before
from .file.cached import Advice, CachedFile
from .file.direct import DirectFile
from .file.view import View
from .native import LOOP_PIECE

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .config import Durability
    from .options import AdviceName, OpenMode, OpenOptions
    from .stats import FileStats
    from .volume.volume import Volume

__all__ = ["AsyncCachedFile", "open"]


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Let the loop run its other tasks once, like `asyncio.sleep(0)`."""
    yield


def _no_hit(*_arguments: object) -> None:
    """Serve no bytes of the cache."""


class AsyncCachedFile:
    """One open of a cached object, for tasks; made by `open`. The verbs are those of `CachedFile`, to be awaited.

    pread, pread_into, pwrite: a hit of at most 256 KiB is complete when the `await` is reached. A task that is
    cancelled while it waits leaves nothing locked; its call goes on.

    >>> import asyncio, pagecache, pagecache.aio
    >>> async def main(volume):
    ...     async with pagecache.aio.open(volume, "greeting", "w+") as f:
    ...         await f.pwrite(b"hello", 0)
    ...         return await f.pread(4, 1)
    >>> with pagecache.PageCache("1MiB") as cache:
    ...     asyncio.run(main(cache.attach("memory:")))
    b'ello'
    """

    _unreported: OSError | None = None  # of a close that its task has left

    def __init__(self, file: CachedFile) -> None:
        self._file = file
        self._aside = file.volume.aside
        direct = isinstance(file, DirectFile)  # each read and write is a call of the file, on a thread of its lane
        self._hit_pread = _no_hit if direct else file._hit_pread
        self._hit_pread_into = _no_hit if direct else file._hit_pread_into
        self._hit_pwrite = _no_hit if direct else file._hit_pwrite

    def __repr__(self) -> str:
        return repr(self._file).replace("CachedFile", "AsyncCachedFile", 1)

    # -- state

    @property
    def key(self) -> Key:
        """Key of the object."""
        return self._file.key

    @property
    def name(self) -> str:
        """Text of the key."""
        return self._file.name

    @property
    def mode(self) -> str:
        """Mode of the open, such as "rb+"."""
        return self._file.mode

    @property
    def volume(self) -> Volume:
        """Volume of the object."""
        return self._file.volume

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    @property
    def size(self) -> int:
        """Size in bytes, including local extensions."""
        return self._file.size

    def readable(self) -> bool:
        return bool(self._file.readable())

    def writable(self) -> bool:
        return bool(self._file.writable())

    def seekable(self) -> bool:
        return True

    async def stats(self) -> FileStats:
        """Return the counters of this object, over all its handles."""
        return self._file.stats()

    # -- at an offset: at once if possible, or on a thread

    async def pread(self, size: int, offset: int, /) -> bytes:
        """Read size bytes at offset; fewer only at the end of the file."""
        found: bytes | None = self._hit_pread(size, offset)
        return await self._pread_aside(size, offset) if found is None else found

    async def _pread_aside(self, size: int, offset: int) -> bytes:
        return await self._aside.run("read", partial(self._file.pread, size, offset), key=self.key)

    async def pread_into(self, buffer: Buffer, offset: int, /) -> int:
        """Read into a writable buffer; return the number of bytes. A cancelled read stores nothing afterwards."""
        found: int | None = self._hit_pread_into(buffer, offset)
        return await self._pread_into_aside(buffer, offset) if found is None else found

    async def _pread_into_aside(self, buffer: Buffer, offset: int) -> int:
        """Read on a thread, into memory that nobody else has, and copy that in pieces."""
        with memoryview(buffer) as view:
            if view.readonly or not view.c_contiguous:
                raise TypeError("a writable, contiguous bytes-like object is required")
            data = await self._pread_aside(view.nbytes, offset)
            if len(data) <= LOOP_PIECE:
                self._file._spread([buffer], data)
                return len(data)
            with view.cast("B") as space, memoryview(data) as source:
                for at in range(0, len(data), LOOP_PIECE):
                    with space[at : at + LOOP_PIECE] as piece, source[at : at + LOOP_PIECE] as part:
                        self._file._spread([piece], part)
                    await turn()
        return len(data)

    async def pwrite(self, data: Buffer, offset: int, /) -> int:
        """Write all of data at offset; return its length. Data must not change before the write has ended."""
        taken: int | None = self._hit_pwrite(data, offset)
        if taken is None:
            taken = await self._aside.run("write", partial(self._file.pwrite, data, offset), key=self.key)
        return taken

    async def append(self, data: Buffer) -> int:
        """Write atomically at the end; return the offset."""
        return await self._aside.run("write", partial(self._file.append, data), key=self.key)

    # -- several buffers

    async def preadv(self, buffers: Sequence[Buffer], offset: int, /) -> int:
        """Read into several buffers, one after another."""
        views = [memoryview(buffer) for buffer in buffers]
        if any(view.readonly or not view.c_contiguous for view in views):
            raise TypeError("a segment is not a writable, contiguous bytes-like object")
        if total := self._file._tangled(views, offset):
            data: bytes = await self.pread(total, offset)
            self._file._spread(views, data)
            return len(data)
        done = 0
        for view in views:
            count = await self.pread_into(view, offset + done)
            done += count
            if count < view.nbytes:
                break  # the end: bytes appended past it now do not belong into the next segment
        return done

    async def pwritev(self, buffers: Sequence[Buffer], offset: int, /) -> int:
        """Write several buffers, one after another."""
        views = [memoryview(buffer) for buffer in buffers]
        if not all(view.c_contiguous for view in views):
            raise TypeError("a segment is not a contiguous bytes-like object")
        if (joined := self._file._joined(views, offset)) is not None:
            return int(await self.pwrite(joined, offset))
        done = 0
        for view in views:
            try:
                done += await self.pwrite(view, offset + done)
            except OSError as error:
                set_written(error, done + written_before(error))
                raise
        return done

    def try_pread(self, size: int, offset: int, /) -> bytes | None:
        """Read like pread, or return None if that would wait or call the backend. Not to be awaited."""
        found: bytes | None = self._file.try_pread(size, offset)
        return found

    def try_pwrite(self, data: Buffer, offset: int, /) -> int | None:
        """Write like pwrite, or return None if that would wait or call the backend. Not to be awaited."""
        taken: int | None = self._file.try_pwrite(data, offset)
        return taken

    # -- at the file position

    async def seek(self, offset: int, whence: int = 0, /) -> int:
        """Seek like CachedFile.seek; os.SEEK_DATA and os.SEEK_HOLE may wait for the backend."""
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            find = partial(self._file._find_data, operator.index(offset), whence)
            offset, whence = await self._aside.run("read", find, key=self.key), os.SEEK_SET
        position: int = self._file.seek(offset, whence)  # here: a call that its task has left moves nothing
        return position

    async def tell(self) -> int:
        """Return the position of the handle."""
        position: int = self._file.tell()
        return position

    async def read(self, size: int | None = -1, /) -> bytes:
        """Read at the file position; all remaining bytes when size is negative."""
        at = self._file.tell()
        wanted = self._file.size - at if size is None or size < 0 else size
        data: bytes = await self.pread(max(0, wanted), at)
        self._file.seek(at + len(data))
        return data

    async def readall(self) -> bytes:
        return await self.read()

    async def readinto(self, buffer: Buffer, /) -> int:
        """Fill the buffer from the position on; return the number of bytes, fewer than its length only at the end."""
        at = self._file.tell()
        count = int(await self.pread_into(buffer, at))
        self._file.seek(at + count)
        return count

    async def write(self, data: Buffer, /) -> int:
        """Write all of data at the file position; at the end for a handle that appends."""
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        count = memoryview(data).nbytes
        if "a" in self._file.mode:
            at: int = await self.append(data)
        else:
            at = self._file.tell()
            try:
                await self.pwrite(data, at)
            except OSError as error:
                if accepted := written_before(error):
                    with contextlib.suppress(OSError, ValueError):  # closed, or its volume was detached
                        self._file.seek(at + accepted)
                raise
        self._file.seek(at + count)
        return count

    # -- size and space

    async def truncate(self, size: int | None = None) -> int:
        """Cut the file, or extend it by zeros; None: at the file position. The position is unchanged."""
        size = self._file.tell() if size is None else size
        return await self._aside.run("change", partial(self._file.truncate, size), key=self.key)

    async def punch_hole(self, offset: int, length: int) -> None:
        """Make [offset, offset + length) zeros, freeing the space if the backend can; the size is unchanged."""
        await self._aside.run("change", partial(self._file.punch_hole, offset, length), key=self.key)

    async def zero_range(self, offset: int, length: int) -> None:
        """Make [offset, offset + length) zeros, within the file; the size is unchanged."""
        await self._aside.run("change", partial(self._file.zero_range, offset, length), key=self.key)

    # -- hints and zero copy

    async def prefetch(self, offset: int = 0, length: int | None = None, *, wait: bool = False) -> None:
        """Read a range into the cache; `wait`: return when it is there."""
        if wait:
            await self._aside.run("read", partial(self._file.prefetch, offset, length, wait=True), key=self.key)
        else:
            self._file.prefetch(offset, length)

    async def prefetch_ranges(self, ranges: Iterable[tuple[int, int | None]], *, wait: bool = False) -> None:
        """Read several ranges into the cache, (offset, length) each, like `CachedFile.prefetch_ranges`."""
        wanted = list(ranges)
        self._file.prefetch_ranges(wanted)
        if wait:
            await self._aside.run("read", partial(self._file.prefetch_ranges, wanted, wait=True), key=self.key)

    async def advise(self, advice: Advice | AdviceName, offset: int = 0, length: int | None = None) -> None:
        """Announce the use of the file or a range."""
        self._file.advise(advice, offset, length)

    async def view(self, offset: int, length: int, *, writable: bool = False) -> View:
        """Return cache memory of the range without a copy; a plain context manager, whose release never waits."""
        view = partial(self._file.view, offset, length, writable=writable)
        return await self._aside.run("read", view, View.release, key=self.key)

    # -- durability

    async def flush(self) -> None:
        """Write dirty data back to the backend and wait for its acknowledgement. No commit."""
        await self._aside.run("sync", self._file._send, key=self.key)
        self._file._raise_loss()

    async def fsync(
        self, *, data_only: bool = False, timeout: float | None = None, durability: Durability | None = None
    ) -> None:
        """Return only if every byte written to the file before the call is committed; `durability`: as in
        `CachedFile.fsync`.

        Raises:
            WritebackError, CommitError: it is not, and is still dirty. TimeoutError: the deadline passed; I/O goes on.
        """
        deadline = Deadline(self.volume.engine.clock, timeout)

        def save() -> None:
            self._file._save(deadline.timeout(), durability)

        await self._aside.run("sync", save, key=self.key, timeout=timeout)
        self._file._raise_loss()

    async def sync_range(self, offset: int, length: int) -> None:
        """Write a range back and wait for its acknowledgement; no commit."""
        await self._aside.run("sync", partial(self._file.sync_range, offset, length), key=self.key)

    # -- the end

    async def close(self) -> None:
        """Close the handle, as `CachedFile.close` does; the next call raises the error of one that was cancelled."""
        if self._file._closing is None and not self._file._close_may_wait():
            self._file.close()
            return
        error = None
        if not self._file.closed:
            error = await self._aside.run("close", self._error_of_close, self._keep_error, key=self.key)
        kept, self._unreported = self._unreported, None  # perhaps the same error
        error = error or kept
        try:
            if error is not None:
                raise error
        finally:
            del error, kept  # error → traceback → this frame → error

    def _error_of_close(self) -> OSError | None:
        try:
            self._file.close()
        except OSError as error:
            return error
        return None

    def _keep_error(self, error: OSError | None) -> None:
        self._unreported = error or self._unreported

    async def abandon(self) -> None:
        """Close without write-back, as `CachedFile.abandon` does. Never waits."""
        self._file.abandon()

    async def __aenter__(self) -> Self:
        self._file.__enter__()
        return self

    async def __aexit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if e is None:
            await self.close()
        elif self._file._commits_on_close():
            await self.abandon()
        elif self._file._closing is None:  # else a close runs that the body has left
            with contextlib.suppress(OSError):  # the body's exception stays the primary one; the data stays cached
                await self.close()


class _Opening:
    """The result of `open`: to be awaited, or entered."""

    def __init__(self, volume: Volume, key: Key, mode: OpenMode, options: OpenOptions) -> None:
        self._volume = volume
        self._call = partial(volume.open, key, mode, **options)
        self._file: AsyncCachedFile | None = None

    async def _open(self) -> AsyncCachedFile:
        file = await self._volume.aside.run("open", self._call, CachedFile._never_opened, key=self._call.args[0])
        return AsyncCachedFile(file)

    def __await__(self) -> Generator[Any, None, AsyncCachedFile]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncCachedFile:
        self._file = await self._open()
        return await self._file.__aenter__()

    async def __aexit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            await self._file.__aexit__(t, e, tb)


def open(volume: Volume, key: Key, mode: OpenMode = "rb", **options: Unpack[OpenOptions]) -> _Opening:
    """Open an object for tasks; enter the result (`async with`) or await it.

    Args:
        volume: of a `PageCache`; its backend may be blocking or asynchronous.
        key: of the object in the backend.
        mode: that of `Volume.open`.
        **options: those of `Volume.open`.

    Raises:
        the errors of `Volume.open`, when it is awaited.
    """
    return _Opening(volume, key, mode, options)
