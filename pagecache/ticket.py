"""SyncTicket: "everything written so far", being saved.

A ticket takes an epoch and the files that have anything of it; polling moves each file on (flush, then commit) and the
backend's names last. The flusher polls, whoever waits polls too; tickets of one volume complete in order because each
waits for those before it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from .engine.barrier import FileSync
from .engine.park import SLICE, Deadline, deadline_error
from .errors import FailedRange, ShutdownError, WritebackError

if TYPE_CHECKING:
    from .volume import Volume

__all__ = ["SyncTicket"]


class SyncTicket:
    """A sync that is under way. Can be awaited.

    Attributes:
        total: bytes that were local when the ticket was taken.
    """

    total: int

    def __init__(self, volume: Volume) -> None:
        engine = volume.engine
        self._volume = volume
        self._lock = threading.Lock()
        self._stamp = engine.native.take_epoch()
        files = [file for file in engine.dirty_files() if not file.removed]
        self.total = sum(file.native.usage()["local"] for file in files)
        self._pending = [FileSync(file, self._stamp) for file in files]
        self._errors: list[OSError] = []
        self._finished = False

    @property
    def remaining(self) -> int:
        """Of `total`, not yet committed (an upper bound, by file)."""
        with self._lock:
            return min(self.total, sum(sync.file.native.usage()["local"] for sync in self._pending))

    def done(self) -> bool:
        """Whether it is over, with or without errors."""
        return self.poll()

    def poll(self) -> bool:
        """Do what can be done now, without waiting; True when it is over. Somebody else polling is good enough."""
        if self._finished:
            return True
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._poll()
        finally:
            self._lock.release()
        return self._finished

    def _poll(self) -> None:
        still = []
        for sync in self._pending:
            try:
                if not sync.poll():
                    still.append(sync)
            except ShutdownError as error:
                self._errors = [error]
                self._finished = True
                return
            except OSError as error:
                self._errors.append(error)
        self._pending = still
        self._finished = not still

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is over.

        Raises:
            WritebackError: with the ranges of all files; their data is still in the cache.
            TimeoutError: I/O goes on.
        """
        engine = self._volume.engine
        engine.check_reentry("sync")
        limits = engine.backend.limits
        if timeout is None and not limits.trusted:
            timeout = limits.sync_timeout
        deadline = Deadline(engine.clock, timeout)
        while True:
            with self._lock:
                first = self._pending[0] if self._pending else None
            seq = first.file.native.event_seq() if first else 0
            if self.poll():
                break
            if deadline.passed():
                raise deadline_error("sync")
            if first is not None:
                first.wait(seq, deadline)
            else:
                engine.park.wait("volume", engine.native.address, 0, min(deadline.left(), SLICE))
        self._raise()
        self._volume.sync_names(deadline)

    def _raise(self) -> None:
        if not self._errors:
            return
        if len(self._errors) == 1:
            raise self._errors[0]
        ranges: list[FailedRange] = []
        for error in self._errors:
            ranges += getattr(error, "ranges", [])
        first = self._errors[0]
        raise WritebackError(
            f"{len(self._errors)} files could not be saved; the first: {first}",
            first.filename,
            errno=first.errno,
            ranges=[r for r in ranges if isinstance(r, FailedRange)],
            exceptions=self._errors,
        )

    def __await__(self) -> Generator[Any, None, None]:
        return self._poll_until_done().__await__()

    async def _poll_until_done(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self.wait)
