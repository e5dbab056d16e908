"""SyncTicket: "everything written so far", being saved.

Taking a ticket takes only an epoch: no file is checked. Advancing it first collects the files with changes of that
epoch, some at a time. Then it advances each file (flush, then commit), concurrently, and the backend's names last,
without ever waiting. The flusher advances the tickets of a volume in order, and so does a waiter of one: a ticket is
over only after the earlier ones, but for those of the disk tier.

An advance polls the files whose event has moved. CORE finds them by comparing one number per file. Changes without an
event (a time that has come, a removed file) are found by polls in turn, some files every tenth of a second.

Other threads do what comes first: they lay recovered bytes, and append files to the journal that calls hold.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..engine import failures
from ..engine.foreign import as_os_error, shown
from ..engine.io.barrier import FileSync
from ..engine.namesync import NameSyncCall
from ..engine.park import SLICE, Deadline, deadline_error
from ..engine.report.reason import Reason, during
from ..engine.runner import Job
from ..errors import FailedRange, ShutdownError, WritebackError
from ..native import NAMES, Events
from . import lifetimes

if TYPE_CHECKING:
    from ..engine.file import EngineFile
    from .recovered import Awaited, Recovery
    from .volume import Volume

WINDOW = 5.0
"""Seconds of a rate."""
STEP = 0.1
"""Minimum seconds between two counts: a display that reads several numbers gets those of one moment."""
TICK = 0.02
"""Seconds between two advances by the flusher."""
TURN = 1024
"""Maximum files that one advance collects, or polls without an event. More files are counted every `STEP` at most."""


NAMED = 100
"""Files that are searched for a failure when a wait has reached its deadline."""


def _left(file: EngineFile) -> WritebackError:
    ranges = failures.failed_ranges(file, everything=True) or [failures.uncommitted_range(file)]
    what = "the cache is ending, and leaves the object to its writer, which has not closed it"
    return WritebackError(what, file.key, ranges=ranges)


class _Speed:
    """Bytes a second over the last `WINDOW` seconds, of a count that is read at intervals."""

    def __init__(self, now: float) -> None:
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])

    def due(self, now: float) -> bool:
        return now >= self._samples[-1][0] + STEP

    def sample(self, now: float, count: int) -> None:
        self._samples.append((now, count))
        while self._samples[1][0] <= now - WINDOW:
            self._samples.popleft()

    def rate(self) -> float:
        (since, before), (now, count) = self._samples[0], self._samples[-1]
        return (count - before) / (now - since) if now > since else 0.0


class SyncTicket:
    """A running sync. Awaitable.

    Attributes:
        total: bytes that were local when the ticket was taken.
    """

    total: int

    def __init__(
        self,
        volume: Volume,
        files: list[EngineFile] | None = None,
        *,
        names: bool = True,
        asked: bool = True,
        recovery: Recovery | None = None,
        busy: Sequence[EngineFile] = (),
        failed: OSError | None = None,
        ending: bool = False,
    ) -> None:
        """Begin a sync of these files; None: of all that are unsaved. `names`: also of names, by `Backend.sync`;
        `asked`: by a caller; otherwise it saves whole objects up to their last fsync at "disk". Without one of these it
        is over without the earlier ones. `recovery`: of files to be laid; `busy`: files that the journal gets later;
        `failed`: the first error; `ending`: see `Volume._begin_sync`.
        """
        engine = volume.engine
        self._engine, self._aside = engine, volume.aside
        self._mark = engine.name_sync.mark()
        self._began = engine.reconnects
        self._stamp = engine.native.take_epoch()
        if ending:  # now: nothing that a writer changes from now on has this epoch
            lifetimes.withhold_again(volume)
        self.total = engine.native.unsaved()
        self._names, self._asked, self._ending = names, asked, ending
        self._files: list[EngineFile] | None = files  # None: not listed yet, or all are collected
        self._next = 0  # index of the first uncollected one; an interrupt may come at any point
        self._taken_up = False
        self._pending: dict[int, FileSync] = {}  # by their numbers in `_events`
        self._events = Events()
        self._timed: set[int] = set()  # those that wait for a time
        self._turn: Iterator[int] = iter(())  # of those that are polled in any case
        self._errors: list[OSError] = [] if failed is None else [failed]
        self._laying: list[Awaited] = []
        self._appending: list[Job[list[EngineFile]]] = []
        try:
            self._laying = [] if recovery is None else recovery.hurry()
            if (journal := engine.journal) is not None:
                self._appending += [journal.append_later(file) for file in busy]
        except BlockingIOError as error:
            self._errors = [*self._errors, error]
        self._name_sync: NameSyncCall | None = None
        self._records = names  # whether the journal is to know of what was saved
        self._recording: Job[OSError | None] | None = None
        self._checked_at = float("-inf")
        self._finished = False
        # Guards the fields below; held while dirty data is counted, without waits. A signal handler may come in between
        # and abort the volume.
        self._counting = threading.RLock()
        self._remaining = self.total
        self._parked: dict[FileSync, int] = {}
        self._unsent: dict[FileSync, int] = {}
        self._sent = 0
        self._speed = _Speed(engine.clock.now())

    # -- progress

    @property
    def remaining(self) -> int:
        """The part of `total` that is not yet committed (an upper bound, by folio); it never grows. Failed data remains
        in it.
        """
        with self._counting:
            if len(self._pending) > TURN:
                self._count_now_and_then()
            else:
                self._count()
            return self._remaining

    @property
    def rate(self) -> float:
        """Bytes of it that the backend acknowledged per second, over the last seconds; 0.0 at first."""
        with self._counting:
            self._count_now_and_then()
            return self._speed.rate()

    @property
    def expected(self) -> float | None:
        """Seconds until the backend has acknowledged all of it at this rate; None: unknown, as there is no progress, or
        only commits are awaited. 0.0: it is over.
        """
        with self._counting:
            self._count_now_and_then()
            if self._finished:
                return 0.0
            unsent, rate = sum(self._unsent.values()), self._speed.rate()
            return unsent / rate if unsent and rate else None

    @property
    def errors(self) -> tuple[OSError, ...]:
        """The failures so far, by file; `wait` raises them together at the end."""
        return tuple(self._errors)

    def _count_now_and_then(self) -> None:
        if not self._finished and self._speed.due(self._engine.clock.now()):
            self._count()

    def _count(self) -> None:
        """Count the remaining data. `_counting` is held."""
        if self._finished or not self._taken_up:
            return
        # In this order: a failure in between is counted twice, not missed.
        pending = [sync for sync in list(self._pending.values()) if not self._gone(sync)]
        counted = {sync: sync.file.unsaved_up_to(self._stamp) for sync in pending}
        left = sum(unsaved for unsaved, _ in counted.values()) + sum(self._parked.values())
        self._remaining = min(self._remaining, left)
        for sync, before in list(self._unsent.items()):
            _, now = counted.get(sync, (0, 0))
            self._sent += max(0, before - now)  # a failed commit makes acknowledged bytes dirty
            if sync in counted:
                self._unsent[sync] = now
            else:
                self._unsent.pop(sync, None)
        now_seconds = self._engine.clock.now()
        if self._speed.due(now_seconds):
            self._speed.sample(now_seconds, self._sent)

    def _gone(self, sync: FileSync) -> bool:
        """Leave out a file that was removed, freed or abandoned: it need not be saved. Return whether it was."""
        gone = sync.file.removed or sync.file.freed or sync.file.abandoned
        if gone:
            self._unsent.pop(sync, None)
        return gone

    # -- advancing

    def done(self) -> bool:
        """Whether it is over, with or without errors."""
        if not self._finished:
            self._engine.poll_tickets()
        return self._finished

    def _advance(self, *, first: bool) -> bool:
        """Do all work that is possible now, without waiting; True when it is over. Called for the tickets of a volume
        in their order, under one lock; `first`: the earlier ones are over.
        """
        if self._finished:
            return True
        try:
            if not self._taken_up:
                with self._counting:
                    self._take_up()
            if self._laying or self._appending:
                self._take_later()
            if self._pending:
                self._advance_files()
            left = not self._taken_up or self._laying or self._appending or self._pending
            over = not left and (first or not (self._asked and self._names)) and self._names_done() and self._recorded()
        except ShutdownError as error:
            self._errors, over = [*self._errors, error], True
        if over:
            self._finish()
        return over

    def _finish(self) -> None:
        """Fix the numbers at the end; a kept ticket keeps no file alive."""
        with self._counting:
            self._count()
            self._finished = True
            self._pending, self._unsent, self._parked = {}, {}, {}
            self._files, self._taken_up = None, True
            self._laying, self._appending = [], []

    def _pause(self) -> float:
        """Return the seconds until the next advance is due even without an event."""
        return TICK if self._taken_up else 0.0

    def _take_up(self) -> None:
        """Collect the next files with changes of the epoch. `_counting` is held."""
        self._engine.check_alive(None, self._began)
        if self._files is None:
            journal = self._engine.journal  # may have records of what was saved just before
            also = [] if journal is None else journal.files()
            self._files = list(dict.fromkeys([*self._engine.dirty_files(), *also]))
        files, end = self._files, min(self._next + TURN, len(self._files))
        for position in range(self._next, end):
            try:
                self._take(files[position])
            except ShutdownError:
                raise
            except Exception as error:
                self._errors = [*self._errors, as_os_error(error, files[position].key)]
            self._next = position + 1
        if end == len(files):
            self._files, self._taken_up = None, True

    def _take_later(self) -> None:
        """Collect files that were laid, and those that the journal could not take."""
        self._engine.check_alive(None, self._began)
        with self._counting:
            for laying in [each for each in self._laying if not each.waits()]:
                if (error := laying.error()) is not None:
                    self._errors = [*self._errors, error]
                elif (inode := laying.inode()) is not None:
                    self._take(inode, self._engine.native.take_epoch())
                self._laying.remove(laying)
            for job in [each for each in self._appending if each.finished()]:
                try:
                    for file in job.wait(lambda: None):
                        self._take(file)
                except ShutdownError:
                    raise
                except Exception as failed:
                    self._errors = [*self._errors, as_os_error(failed, job.key)]
                self._appending.remove(job)

    def _take(self, file: EngineFile, stamp: int | None = None) -> None:
        gone = file.freed or file.removed or file.abandoned
        self._records = True
        if stamp is None:
            stamp = self._stamp if self._asked or not file.limits().commit_on_close else file.journaled.asked
        if gone or file.recovering or file.is_synced(stamp):
            return
        if file.withheld:
            if self._asked and not self._ending and file in (self._engine.cache.spared or ()):  # else it is held
                self._errors = [*self._errors, _left(file)]
            return
        leaves = self._ending and self._engine.cache.spared is not None  # to a writer that begins beside it
        sync = FileSync(file, stamp, asked=self._asked and not leaves)
        _, self._unsent[sync] = file.unsaved_up_to(self._stamp)
        self._pending[self._events.add(file)] = sync

    def _advance_files(self) -> None:
        """Poll each file with an event, and each in turn from time to time."""
        now = self._engine.clock.now()
        for number in self._due(now):
            sync = self._pending.get(number)
            if sync is None:
                continue
            if self._gone(sync):
                self._drop(number)
                continue
            try:
                if sync.poll():
                    self._drop(number)
                elif sync.not_before:
                    self._timed.add(number)
            except ShutdownError:
                raise
            except Exception as error:
                self._unsent.pop(sync, None)
                self._parked[sync], _ = sync.file.unsaved_up_to(self._stamp)
                self._errors = [*self._errors, as_os_error(error, sync.file.key)]
                sync.leave()
                self._drop(number)

    def _due(self, now: float) -> list[int]:
        """Return the numbers of the files to poll now."""
        due = self._events.moved()
        for number in list(self._timed):
            sync = self._pending.get(number)
            if sync is None or 0.0 < sync.not_before <= now:
                self._timed.discard(number)
                due.append(number)
        if now >= self._checked_at + SLICE:
            self._checked_at = now
            turn = list(islice(self._turn, TURN))
            if len(turn) < TURN:
                self._turn = iter(list(self._pending))
                turn += islice(self._turn, TURN - len(turn))
            due += turn
        return list(dict.fromkeys(due))

    def _drop(self, number: int) -> None:
        self._pending.pop(number, None)
        self._events.drop(number)

    def _names_done(self) -> bool:
        """Call Backend.sync once, after the files, for changes that no file's commit covers."""
        self._engine.check_alive()
        if not self._names:
            return True
        if self._name_sync is None:
            self._name_sync = self._engine.name_sync.begin(self._mark)
        while self._name_sync is not None:
            if not self._name_sync.submitted:
                self._engine.name_sync.submit(self._name_sync)
            if not self._name_sync.job.finished():
                return False
            call = self._name_sync
            if call.covers >= self._mark and call.error is not None:
                self._errors = [*self._errors, call.error]
                self._name_sync, self._mark = None, 0  # it is over
                return True
            self._name_sync = self._engine.name_sync.begin(self._mark)
        return self._name_sync is None

    def _recorded(self) -> bool:
        """Have the journal record what the store has, by a thread of the volume."""
        journal = self._engine.journal
        if self._recording is None:
            if journal is None or not (self._asked and self._records and journal.lacks_saved()):
                return True
            then = self._engine.cache.native.wake_all
            self._recording = self._engine.runner.submit(NAMES, Job(journal.record_saved, what="record", then=then))
        if not self._recording.finished():
            return False
        try:
            error = self._recording.wait(lambda: None)
        except ShutdownError:
            raise
        except Exception as failed:
            error = as_os_error(failed)
        self._errors = self._errors if error is None else [*self._errors, error]
        return True

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is over. A backend that is not trusted is waited for at most its `sync_timeout`.

        Raises:
            WritebackError: with the ranges of all files; their data is still in the cache.
            TimeoutError: I/O goes on.
        """
        self._engine.check_wait("sync")
        self._wait_until(self._deadline(timeout))

    def _deadline(self, timeout: float | None = None) -> Deadline:
        limits = self._engine.backend.limits
        if not limits.trusted and limits.sync_timeout is not None:
            timeout = limits.sync_timeout if timeout is None else min(timeout, limits.sync_timeout)
        return Deadline(self._engine.clock, timeout)

    def _wait_until(self, deadline: Deadline) -> None:
        """Wait like `wait`, for a running deadline."""
        cache = self._engine.cache.native
        first = self._standing(deadline)

        def sleep() -> None:
            seq = first
            while seq is not None:
                call = self._name_sync
                if call is not None:
                    call.job.join(min(deadline.left(), call.poll_delay(), SLICE))
                else:
                    self._check_here()
                    self._engine.park.wait("cache", cache.address, seq, min(deadline.left(), SLICE))
                seq = self._standing(deadline)

        if first is not None:
            during(Reason("sync", self._engine.native), sleep)
        self._raise()

    def _standing(self, deadline: Deadline) -> int | None:
        """Return the sequence number of the cache's event from before the check; None: it is over."""
        seq = self._engine.cache.native.event_seq()
        if self.done():
            return None
        if deadline.passed():
            raise self._late()
        return seq

    def _check_here(self) -> None:
        """Raise DeadlockError if only files wait that a call of this thread has, below a signal handler."""
        pending = list(self._pending.values())
        if pending and all(sync.file.holds_here(sync.needs()) for sync in pending):
            pending[0].file.check_here(pending[0].needs())

    def _late(self) -> TimeoutError:
        """Return the error of a wait that ends early: about a failing file, or the first one."""
        call, pending = self._name_sync, list(self._pending.values())[:NAMED]
        if pending:
            return next((sync for sync in pending if sync.failure()[0]), pending[0]).late("sync")
        if call is not None:
            wait = None if call.submitted else call.poll_delay()
            return deadline_error("sync", failed=call.tries.failed, wait=wait)
        if laying := next((each for each in list(self._laying) if each.waits()), None):
            return laying.late("sync")
        if self._recording is not None:
            return deadline_error("sync", then="the disk tier is busy")
        if job := next(iter(self._appending), None):
            return deadline_error("sync", job.key, then="another call holds the file")
        return deadline_error("sync", then="the syncs before it are not over")

    def _raise(self) -> None:
        if not self._errors:
            return
        if len(self._errors) == 1 or isinstance(self._errors[-1], ShutdownError):
            raise self._errors[-1]
        ranges: list[FailedRange] = []
        for error in self._errors:
            ranges += getattr(error, "ranges", [])
        first = self._errors[0]
        raise WritebackError(
            f"{len(self._errors)} files could not be saved; the first: {shown(first)}",
            first.filename,
            errno=first.errno,
            ranges=[r for r in ranges if isinstance(r, FailedRange)],
            exceptions=self._errors,
        )

    def __await__(self) -> Generator[Any, None, None]:
        return self._aside.run("sync", self.wait).__await__()
