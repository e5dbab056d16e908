"""Blocking calls from a trio loop: on threads with a deadline, and without a thread for cached data.

A call that takes too long is left to its thread: the task continues with ETIMEDOUT (EIO for the program), and the late
result is undone. So a backend that hangs costs threads, never the loop: reads of cached data go on.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import trio

from ..errors import Key
from ..volume.volume import Volume
from .errnos import errno_of
from .files import Files
from .ordering import Turns

T = TypeVar("T")
THREADS = 64
"""Calls that may wait for a backend at the same time."""


class Aside:
    """Threads for blocking calls.

    Args:
        deadline: seconds after which a task continues without its call; None: never.
        threads: concurrent calls.
    """

    def __init__(self, deadline: float | None = None, threads: int = THREADS) -> None:
        self.deadline = deadline
        self._limiter = trio.CapacityLimiter(threads)
        self._lock = threading.Lock()  # guards the two below; held briefly
        self._late: deque[Callable[[], object]] = deque()
        self._late_threads = 0  # that make these calls

    async def call(
        self, call: Callable[[], T], undo: Callable[[T], object] | None = None, over: Callable[[], object] | None = None
    ) -> T:
        """Make a call on a thread.

        Args:
            call: the function.
            undo: undoes a late result.
            over: called on the loop when the call has ended, maybe late, or will not begin.

        Raises:
            OSError: of the call; or ETIMEDOUT.
        """
        token = trio.lowlevel.current_trio_token()
        lock = threading.Lock()
        left = begun = ended = False  # left: the waiter of the call is gone
        results: list[T] = []

        def run() -> None:
            nonlocal begun, ended
            with lock:
                if left:
                    return
                begun = True
            done: list[T] = []
            try:
                done.append(call())
            finally:
                with lock:
                    ended, late = True, left
                    if not late:
                        results.extend(done)
                if late and over is not None:
                    with contextlib.suppress(trio.RunFinishedError):
                        token.run_sync_soon(over)
            if late and undo is not None:
                undo(done[0])

        deadline = math.inf if self.deadline is None else self.deadline
        try:
            try:
                with trio.fail_after(deadline):
                    await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._limiter)
            finally:
                with lock:
                    left, runs = True, begun and not ended
                if not runs and over is not None:
                    over()
        except trio.TooSlowError:
            if not results:
                raise OSError(errno.ETIMEDOUT, f"no answer for {deadline:g} s") from None
        except trio.Cancelled:
            if results and undo is not None:
                undo(results[0])
            raise
        return results[0]

    def later(self, *calls: Callable[[], object]) -> None:
        """Make calls that nobody waits for, and those left from before: on threads of their own, at most `threads`,
        which end with the last call. Without a thread, at the limit of the system, they are left.
        """
        with self._lock:
            self._late.extend(calls)
            if not self._late or self._late_threads >= self._limiter.total_tokens:
                return
            self._late_threads += 1
        try:
            threading.Thread(target=self._make_late, daemon=True).start()
        except BaseException as error:
            self._end_late()
            if not isinstance(error, RuntimeError):
                raise

    def _make_late(self) -> None:
        while True:
            with self._lock:
                if not self._late:
                    self._late_threads -= 1
                    return
                call = self._late.popleft()
            try:
                call()
            except BaseException:
                self._end_late()
                raise

    def _end_late(self) -> None:
        with self._lock:
            self._late_threads -= 1


class TrioFiles:
    """The open files of a server on trio: `Files` with coroutines. A read or write that the cache can complete at once
    does not suspend. The arguments are those of pyfuse3.

    Args:
        volume: of the files.
        deadline: seconds after which a call fails with EIO; None: never.
        threads: concurrent calls that wait for the backend.
        error: makes the exception for an errno, such as `pyfuse3.FUSEError`; None: OSErrors are raised unchanged.
    """

    def __init__(
        self,
        volume: Volume,
        *,
        deadline: float | None = None,
        threads: int = THREADS,
        error: Callable[[int], Exception] | None = None,
    ) -> None:
        self.files = Files(volume)
        self._aside = Aside(deadline, threads)
        self._turns = Turns(deadline)
        self._error = error

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Read `size` bytes, fewer at the end of the file."""
        try:
            opened = self.files.get(fh)
            if self._turns.writes:
                turns = self._turns.before(opened.file._inode, off, off + size)
                await self._turns.wait([turn for turn in turns if turn.end < math.inf])
            data = opened.try_pread(size, off)
            return await self._aside.call(partial(opened.file.pread, size, off)) if data is None else data
        except Exception as error:
            raise self._error_of(error) from None

    async def write(self, fh: int, off: int, buf: Any) -> int:
        """Write; return the number of bytes taken: all, or those before a failure, which the next call reports."""
        try:
            opened = self.files.get(fh)
            inode, end = opened.file._inode, off + len(buf)
            if not self._turns.writes or not self._turns.before(inode, off, end):
                done = opened.write_now(buf, off)
                if done is not None:
                    return done
            turn = await self._turns.begin(inode, off, end)
            return await self._aside.call(partial(opened.write, buf, off), over=partial(self._turns.end, turn))
        except Exception as error:
            raise self._error_of(error) from None

    async def open(self, key: Key, flags: int = os.O_RDONLY) -> int:
        """Open an object; return its number for the other calls."""
        return await self._call(partial(self.files.open, key, flags), self.files.take_back)

    async def size(self, key: Key) -> int:
        """Return the size of an object as a reader of the cache finds it."""
        return await self._call(partial(self.files.size, key))

    async def flush(self, fh: int) -> None:
        await self._call(partial(self.files.flush, fh))

    async def fsync(self, fh: int, datasync: bool = False) -> None:
        await self._call(partial(self.files.fsync, fh, datasync))

    async def truncate(self, fh: int, size: int) -> None:
        await self._cut(fh, size, partial(self.files.truncate, fh, size))

    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        await self._cut(fh, offset, partial(self.files.fallocate, fh, mode, offset, length))

    async def release(self, fh: int) -> None:
        """Release a file. A cancelled or late call is made all the same: the kernel sends it once."""
        release = partial(self.files.release, fh)
        try:
            await self._call(release)
        except BaseException:
            self._aside.later(release)  # one of the two calls does it
            raise

    def invalidate(self, key: Key, offset: int = 0, length: int | None = None, *, version: str | None = None) -> None:
        """Invalidate cached bytes after a foreign change of the object. Never waits."""
        self.files.invalidate(key, offset, length, version=version)

    async def _cut(self, fh: int, start: int, call: Callable[[], None]) -> None:
        """Make a call that changes all bytes from `start` on, in its turn."""
        try:
            turn = await self._turns.begin(self.files.get(fh).file._inode, start, math.inf)
            await self._aside.call(call, over=partial(self._turns.end, turn))
        except Exception as error:
            raise self._error_of(error) from None

    async def _call(self, call: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        self._aside.later()
        try:
            return await self._aside.call(call, undo)
        except Exception as error:
            raise self._error_of(error) from None

    def _error_of(self, error: Exception) -> Exception:
        return error if self._error is None else self._error(errno_of(error))
