"""From a trio loop to calls that block: threads with a deadline, and no thread at all for what is cached.

A call that takes too long is left to its thread: the task goes on with ETIMEDOUT (EIO for the program), and what the
call gives in the end is undone. So a backend that hangs costs threads, never the loop: reads of cached data go on.
"""

from __future__ import annotations

import errno
import math
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import trio

from ..errors import Key
from ..volume import Volume
from .files import Files, OpenFile

__all__ = ["Aside", "TrioFiles"]

T = TypeVar("T")
THREADS = 64
"""Calls that may wait for a backend at once."""


class Aside:
    """Where blocking calls are made.

    Args:
        deadline: seconds after which a task goes on without its call; None: never.
        threads: calls at once.
    """

    def __init__(self, deadline: float | None = None, threads: int = THREADS) -> None:
        self.deadline = deadline
        self._limiter = trio.CapacityLimiter(threads)

    async def call(
        self, call: Callable[[], T], undo: Callable[[T], object] | None = None, *, patience: float = math.inf
    ) -> T:
        """Make a call on a thread.

        Args:
            call: what to do.
            undo: what to do with an answer that comes too late.
            patience: seconds, where they are less than the deadline.

        Raises:
            OSError: of the call; or ETIMEDOUT.
        """
        lock = threading.Lock()
        left = False  # nobody waits for the call any more
        results: list[T] = []

        def run() -> None:
            result = call()
            with lock:
                results.append(result)
                late = left
            if late and undo is not None:
                undo(result)

        deadline = min(patience, math.inf if self.deadline is None else self.deadline)
        try:
            with trio.fail_after(deadline):
                await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._limiter)
        except trio.TooSlowError:
            with lock:
                left = True
                if not results:
                    raise OSError(errno.ETIMEDOUT, f"no answer for {deadline:g} s") from None
        except trio.Cancelled:
            with lock:
                left = True
            raise
        return results[0]


class TrioFiles:
    """The open files of a server on trio: `Files` with coroutines. A read or write that the cache can answer at once
    does not suspend.

    Args:
        volume: what they are files of.
        deadline: seconds after which a call fails with ETIMEDOUT; None: never.
        threads: calls at once that wait for the backend.

    All raise OSError; `errno_of` says what a program is told.
    """

    def __init__(self, volume: Volume, *, deadline: float | None = None, threads: int = THREADS) -> None:
        self.files = Files(volume)
        self.aside = Aside(deadline, threads)

    async def open(self, key: Key, flags: int = os.O_RDONLY) -> int:
        """Open an object; the number stands for it in the other calls."""
        return await self.aside.call(partial(self.files.open, key, flags), self.files.release)

    async def read(self, fh: int, size: int, offset: int) -> bytes:
        return await read(self.aside, self.files.get(fh), size, offset)

    async def write(self, fh: int, data: Any, offset: int) -> int:
        return await write(self.aside, self.files.get(fh), data, offset)

    async def flush(self, fh: int) -> None:
        await self.aside.call(partial(self.files.flush, fh))

    async def fsync(self, fh: int, datasync: bool = False) -> None:
        await self.aside.call(partial(self.files.fsync, fh, datasync))

    async def truncate(self, fh: int, size: int) -> None:
        await self.aside.call(partial(self.files.truncate, fh, size))

    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        await self.aside.call(partial(self.files.fallocate, fh, mode, offset, length))

    async def release(self, fh: int) -> None:
        await self.aside.call(partial(self.files.release, fh))

    def invalidate(self, key: Key, offset: int = 0, length: int | None = None, *, version: str | None = None) -> None:
        """Somebody else changed the object. Never waits."""
        self.files.invalidate(key, offset, length, version=version)


async def read(aside: Aside, opened: OpenFile, size: int, offset: int) -> bytes:
    data = opened.try_pread(size, offset)
    if data is not None:
        return data
    return await aside.call(partial(opened.file.pread, size, offset))


async def write(aside: Aside, opened: OpenFile, data: Any, offset: int) -> int:
    done = opened.write_now(data, offset)
    if done is not None:
        return done
    return await aside.call(partial(opened.write, data, offset))
