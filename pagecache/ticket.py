"""SyncTicket: "everything written so far", being saved.

A ticket takes an epoch and the files that have anything of it. Advancing it moves each file on (flush, then commit),
side by side, and the backend's names last, without ever waiting. The flusher advances the tickets of a volume in their
order, and so does whoever waits for one: a ticket is over only after those before it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from .engine.barrier import FileSync
from .engine.loop import advanced
from .engine.names import NameCall
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
        self._engine = engine
        self._mark = engine.names.mark()
        self._stamp = engine.native.take_epoch()
        files = [file for file in engine.dirty_files() if not file.removed]
        self.total = sum(file.native.unsaved() for file in files)
        self._pending = [FileSync(file, self._stamp) for file in files]
        self._errors: list[OSError] = []
        self._names: NameCall | None = None
        self._looked = float("-inf")
        self._finished = False

    @property
    def remaining(self) -> int:
        """Of `total`, not yet committed (an upper bound, by folio)."""
        return min(self.total, sum(sync.file.native.unsaved_up_to(self._stamp) for sync in self._pending))

    def done(self) -> bool:
        """Whether it is over, with or without errors."""
        if not self._finished:
            self._engine.poll_tickets()
        return self._finished

    def advance(self, *, first: bool) -> bool:
        """Do what can be done now, without waiting; True when it is over. Called for the tickets of a volume in their
        order, under one lock; `first`: those before it are over.
        """
        if self._finished:
            return True
        try:
            if self._pending:
                self._advance_files()
            self._finished = first and not self._pending and self._names_done()
        except ShutdownError as error:
            self._errors, self._finished = [error], True
        return self._finished

    def _advance_files(self) -> None:
        """Look at each file of which something has changed, and from time to time at all of them."""
        now = self._engine.clock.now()
        everything = now >= self._looked + SLICE
        still, errors = [], list(self._errors)
        for sync in self._pending:
            if sync.file.removed:
                continue  # its name went meanwhile: nobody can want it any more
            seq = sync.file.native.event_seq()
            if seq == sync.seen and not everything and not sync.due(now):
                still.append(sync)
                continue
            sync.seen = seq
            try:
                if not sync.poll():
                    still.append(sync)
            except ShutdownError:
                raise
            except OSError as error:
                errors.append(error)
        self._looked = now if everything else self._looked
        self._pending, self._errors = still, errors

    def _names_done(self) -> bool:
        """Backend.sync, once, for what no file carries; after the files."""
        self._engine.check_alive()
        if self._names is None:
            self._names = self._engine.names.begin(self._mark)
        while self._names is not None and self._names.job.finished():
            call = self._names
            if call.covers >= self._mark and call.error is not None:
                self._errors = [*self._errors, call.error]
                return True
            self._names = self._engine.names.begin(self._mark)
        return self._names is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is over. A backend that is not trusted is waited for at most its `sync_timeout`.

        Raises:
            WritebackError: with the ranges of all files; their data is still in the cache.
            TimeoutError: I/O goes on.
        """
        self._engine.check_wait("sync")
        self.wait_until(self.deadline(timeout))

    def deadline(self, timeout: float | None = None) -> Deadline:
        """The end of a wait that begins now."""
        limits = self._engine.backend.limits
        if not limits.trusted and limits.sync_timeout is not None:
            timeout = limits.sync_timeout if timeout is None else min(timeout, limits.sync_timeout)
        return Deadline(self._engine.clock, timeout)

    def wait_until(self, deadline: Deadline) -> None:
        """`wait` for a deadline that runs already."""
        cache = self._engine.cache.native
        while (seq := self._standing(deadline)) is not None:
            names = self._names
            if names is not None:
                names.job.rest(min(deadline.left(), SLICE))
            else:
                self._engine.park.wait("cache", cache.address, seq, min(deadline.left(), SLICE))
        self._raise()

    def _standing(self, deadline: Deadline) -> int | None:
        """What the cache's event stood at before this looked; None: it is over."""
        seq = self._engine.cache.native.event_seq()
        if self.done():
            return None
        if deadline.passed():
            raise deadline_error("sync")
        return seq

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
        return self._awaited().__await__()

    async def _awaited(self) -> None:
        """`wait`, for a task: of any loop, without a thread."""
        self._engine.check_wait("sync")
        deadline = self.deadline(None)
        cache = self._engine.cache.native
        while (seq := self._standing(deadline)) is not None:
            await advanced(cache.core, "cache", cache.address, seq, min(deadline.left(), SLICE))
        self._raise()
