"""The engine's state of one cached object; the object whose methods C calls.

`fill`, `write`, `write_units`, `commit`, `room`, `write_back`, `write_through`, `truncate`, `punch`, `drop_local`,
`direct_read` and `direct_write` are entered from C with an operation, on a caller's thread or one of the volume's.
Their modules implement them; this class keeps the backend's file, its limits and version, and the failed ranges. While
`abandoned` or `withheld` is set, only an explicit fsync or close writes back: nothing is published behind the
application's back.

Locks: `lock` guards `failures`, `commit_error` and the version; it is held briefly and never across a call.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ..backends.protocol import BackendFile, BackendLimits, ObjectStat
from ..errors import ConflictError, FailedRange, Key, LostRange, ShutdownError
from ..native import BACKOFF, END, NAMES, STAMP_MAX, NativeInode, Op
from . import throttle
from .commit import staging
from .commit.owed import Owed, Step
from .commit.tails import Tails
from .foreign import errno_of, text_of
from .io import direct, issuer, reader, sizes
from .report.notices import fault, spans
from .retryer import Failure, Failures
from .runner import Job

if TYPE_CHECKING:
    from .attempts import Attempts
    from .volume import EngineVolume

__all__ = ["EngineFile", "limits_of"]

T = TypeVar("T")
log = logging.getLogger("pagecache.internal")


def limits_of(limits: BackendLimits, max_write: int | None = None, *, stages: bool = False) -> dict[str, int]:
    """Return the limits in CORE's form; `max_write` if the object asked for less, `stages` if it can stage bytes."""
    most = int(limits.max_write)
    return {
        "max_read": int(limits.max_read),
        "max_write": most if max_write is None else max(1, min(most, max_write)),
        "read_unit": int(limits.read_unit),
        "write_unit": int(limits.write_unit),
        "boundary": int(limits.boundary),
        "max_vectors": min(int(limits.max_vectors), 1024),
        "durable_writes": limits.durable_writes,
        "commit_on_close": limits.commit_on_close,
        "ordered_writes": limits.ordered_writes,
        "stages": stages,
    }


class _Aside:
    """A flag of a file that excludes it from syncs or write-back; CORE counts and lists such files separately."""

    def __set_name__(self, owner: type[EngineFile], name: str) -> None:
        self._bit = f"_{name}"

    def __get__(self, file: EngineFile, owner: type[EngineFile]) -> bool:
        return bool(getattr(file, self._bit))

    def __set__(self, file: EngineFile, value: bool) -> None:
        with file.aside_lock:
            setattr(file, self._bit, value)
            kept_back = file._abandoned or file._withheld
            file.native.set_aside(unsynced=kept_back or file._removed, kept_back=kept_back)


class EngineFile:
    """One object of a volume: its inode in CORE and its file in the backend."""

    removed = _Aside()
    abandoned = _Aside()
    withheld = _Aside()

    fill = reader.fill
    start_fill = reader.start_fill
    write = issuer.write
    start_write = issuer.start_write
    start_write_units = issuer.start_write_units
    write_units = issuer.write_units
    commit = issuer.commit
    room = throttle.room
    write_back = issuer.write_back
    write_through = issuer.write_through
    truncate = sizes.truncate
    punch = sizes.punch
    drop_local = sizes.drop_local
    direct_read = direct.direct_read
    direct_write = direct.direct_write
    lose_direct = direct.lose
    cut_views = sizes.cut_views

    def __init__(
        self, volume: EngineVolume, key: Key, backend_file: BackendFile, size: int, version: str | None
    ) -> None:
        self.volume = volume
        self.key = key
        self.lock = threading.Lock()
        self.failures = Failures()
        self.commit_error: BaseException | None = None
        self.commit_attempts = 0
        self.commits_failed = 0
        self.commit_not_before = 0.0
        self.version = version
        self.version_stale = False
        self.own_changes = 0
        self.conflict: tuple[str | None, str | None] | None = None
        self.remote_version: str | None = None
        self.base_lost = False
        self._nr_forcing = 0
        self.rebase_asked = False
        self.rebases = 0
        self.retired: list[BackendFile] = []
        self.report_loss: Callable[[list[LostRange]], None] = lambda lost: None
        self._removed = self._abandoned = self._withheld = False
        self.settling: deque[Callable[[], None]] = deque()
        self.holes: list[tuple[int, int]] = []  # uncommitted, of a backend that can roll back; under the token
        self.cutting = False  # a thread without the inode lock is about to cut storage: no direct write begins
        self.forgetting = False  # a rollback outside of a commit runs; set under the token
        self.freed = False  # CORE's part is freed: its id may belong to another file by now
        self.unclosed = False
        self.aside_lock = threading.Lock()
        self._limits_lock = threading.Lock()  # held while limits are read and passed to CORE: the newest win
        self._max_write: int | None = None
        self._seen_limits: BackendLimits | None = None
        self.native = NativeInode(volume.native, size, limits_of(volume.backend.limits))
        self.native.set_user(self)
        self.backend_file: BackendFile | None = None
        self.read_into: Any = None
        self.owed = Owed(self)
        self.tails = Tails(self)
        self.read_staged: Any = None
        self.stages = False
        self.use(backend_file)

    # -- the backend's file

    def use(self, backend_file: BackendFile | None) -> None:
        """Direct calls to this file from now on; None: it is closed until the object is opened again."""
        self.backend_file = backend_file
        self.bind_reads()
        self.read_staged = getattr(backend_file, "read_staged", self._closed)
        self.stages = staging.possible(backend_file)
        if backend_file is not None:
            self.apply_limits()

    def bind_reads(self) -> None:
        """Set the function that C calls for a fill: the backend's method, unless a check must come first. Each change
        of the checks binds again. Atomic, or a call that looked before a change could bind after the call of that
        change.
        """
        whole = self.limits().commit_on_close
        with self.lock:
            if self.backend_file is None:
                self.read_into = self._closed
            elif not self._nr_forcing and (self.base_lost or (whole and self.conflict is not None)):
                self.read_into = self._refuse_read
            elif self.owed.reads_wait():
                self.read_into = self._read_later
            else:
                self.read_into = self.backend_file.read_into

    @contextmanager
    def forcing(self) -> Iterator[None]:
        """Context in which reads return the bytes below the cached version, to bring all of them into memory, whatever
        is stored.
        """
        self._force_reads(1)
        try:
            yield
        finally:
            self._force_reads(-1)

    def _force_reads(self, more: int) -> None:
        with self.lock:
            self._nr_forcing += more
        self.bind_reads()

    def _read_later(self, offset: int, buffers: Any) -> int:
        self.owed.pay()
        return self.opened().read_into(offset, buffers)

    def _refuse_read(self, offset: int, buffers: object) -> int:
        """Refuse a read in place of read_into, while the base version cannot be read, or must not be."""
        raise self.conflict_error()

    def _closed(self, offset: int, buffers: object) -> int:
        raise ShutdownError("the object is not open in the backend", self.key)

    def opened(self) -> BackendFile:
        if self.backend_file is None:
            raise ShutdownError("the object is not open in the backend", self.key)
        return self.backend_file

    def stat_open(self) -> ObjectStat | None:
        """Return the backend's status of its open file; None: it has no file open. A file without handles may be closed
        concurrently, so a result counts only if the file is still in use afterwards.
        """
        while (backend_file := self.backend_file) is not None:
            try:
                found = backend_file.stat()
            except Exception:
                if self.backend_file is backend_file:
                    raise
            else:
                if self.backend_file is backend_file:
                    return found
        return None

    def limits(self) -> BackendLimits:
        return getattr(self.backend_file, "limits", None) or self.volume.backend.limits

    def durable(self) -> bool:
        """Return whether bytes that the backend acknowledges now need no commit; CORE uses this value too."""
        undone = self.native.undone()
        return self.limits().durable_writes and undone["lowest"] == END and not undone["created"]

    def refresh_limits(self) -> None:
        """Read the limits before a pass: a backend may change them at any time. On return CORE has them."""
        if self.limits() is not self._seen_limits:
            self.apply_limits()

    def lower_max_write(self, most: int) -> None:
        self._max_write = max(1, most)
        self.apply_limits()

    def max_write(self) -> int:
        """Return the maximum bytes of one call for this object."""
        most = int(self.limits().max_write)
        return most if self._max_write is None else min(most, self._max_write)

    def apply_limits(self) -> None:
        with self._limits_lock:
            limits = self.limits()
            self.native.set_limits(limits_of(limits, self._max_write, stages=self.stages))
            self._seen_limits = limits  # last: a thread that sees it starts a pass at once

    def start_version(self) -> Job[None] | None:
        """Read the stored version after writes of this cache, on a thread of the volume. None: it is known.

        On commit_on_close backends acknowledgements change no version, and a commit returns its own (contract 2.19).
        """
        if not self.version_stale or self.backend_file is None or self.limits().commit_on_close:
            return None
        job = Job(self.volume.park, self._read_version, what="stat", key=self.key, then=self.native.wake)
        return self.volume.runner.submit(NAMES, job)

    def _read_version(self) -> None:
        """Record the stored version as this cache's own, if no change overlapped the read."""
        with self.lock:
            changes = self.own_changes
        if self.native.storage_busy() or len(self.owed):
            return  # the call after the end of that change reads it
        version = self.opened().stat().version
        with self.lock:
            if self.own_changes == changes:
                self.version, self.version_stale = version, False

    def quiet(self) -> int | None:
        """Return a number that changes with each change of storage by this cache; None while one is about to begin."""
        with self.lock:
            changes = self.own_changes  # first: a change that begins after this changes the number
            if self.version_stale or len(self.owed) or not self.native.pass_idle() or self.native.commit_due():
                return None  # work under the token alone announces its changes: `about_to_change`
            return changes

    def begin_hand_over(self, start: int, end: int) -> None:
        """Start write-back of a range's dirty bytes, without waiting. Not if a commit makes bytes visible: age and
        hints do not count there (contract 2.11).
        """
        if self.volume.aborted or self.conflict is not None or self.limits().commit_on_close:
            return
        self.refresh_limits()
        self.native.flush_start(STAMP_MAX, start, end)

    # -- engine work that needs the token, without a waiter

    def settle(self, job: Callable[[], None]) -> None:
        """Run a job under the token, on a thread of the volume, once the token is free."""
        self.settling.append(job)
        self.native.settle_start()

    def settled(self, job: Callable[[], T], tries: Attempts | None = None) -> T:
        """Run a job like `settle`, and return its result; as a part of a call with a deadline."""
        self.volume.check_reentry("settling a conflict", self.key)
        work = Job(self.volume.park, job, what="work under the token", key=self.key, file=self.native.id)
        work.volume = self.volume.native
        self.settle(work.run)
        if tries is not None:
            return work.wait(tries.alive, tries.deadline)
        return work.wait(lambda: self.volume.check_alive(self.key))

    def run_settling(self) -> bool:
        """Run the requested jobs, with the token held; False: there were none."""
        if not self.settling:
            return False
        while self.settling:
            try:
                self.settling.popleft()()
            except Exception:
                fault("%s: %r: work under the file's token failed", self.volume.name, self.key)
        return True

    def holding(self, op: Op, call: Callable[[], None]) -> None:
        """Run a call that needs the held locks."""
        call()

    def lending(self, op: Op, call: Callable[..., None] | tuple[Op, Callable[..., None]]) -> None:
        """Lend the token to a call on another thread, by `op.call`. With the token of another file: a pair."""
        if isinstance(call, tuple):
            call[1](op, call[0])
        else:
            call(op)

    # -- changes

    def about_to_change(self) -> None:
        """Announce a call: whatever its result, another stored version may come from this cache."""
        with self.lock:
            self.version_stale = True
            self.own_changes += 1

    def lie_over(self, stored: int | None) -> None:
        """Record that the backend has forgotten its acknowledged changes, and has `stored` bytes (None: unknown, so the
        size is owed too): all of them are dirty again, and truncates and holes are owed. The token is held.
        """
        self.lose_direct(forget=True)
        undone = self.native.undone()
        size, lowest = self.native.size, undone["lowest"]
        steps: list[Step] = []
        if stored is None or lowest < stored:
            steps += [Step("truncate", (length,)) for length in sorted({min(lowest, size), size})]
            end = size
        else:
            end = stored
        steps += [Step("punch_hole", (pos, min(stop, end) - pos)) for pos, stop in self.holes if pos < end]
        if stored is None:
            steps.insert(0, Step("rollback", ()))
            self.native.set_uncommitted(lowest=min(lowest, size))
        for step in steps:
            self.owed.add(step)
        self.native.rebase(end, not steps)
        if undone["created"]:
            self.native.set_uncommitted(created=True)  # other openers do not see it yet, and closing publishes it

    def note_cut(self, size: int) -> None:
        """Record that storage was or will be cut to this size, and needs a commit, which pays the debts. The cut is
        repeated with the later changes, unless it is durable without a commit.
        """
        self.native.set_uncommitted(lowest=END if self.durable() else size)

    def drop(self, start: int, end: int) -> list[LostRange]:
        """Drop local data of a range, and return the losses; the token is held."""
        with self.lock:
            error = self.failures.worst()
        ranges = self.native.discard(start, end)
        if self.volume.mirror is not None and ranges and not self.removed:
            self.volume.mirror.invalidate(self.key, "local data was given up")
        with self.lock:
            self.failures.clear(start, end)
        code = error.errno if error else 0
        return [LostRange(self.key, pos, length, code, self.volume.name) for pos, length in ranges]

    def tell_loss(self, lost: list[LostRange], why: str) -> None:
        """Report an unrequested loss, in the log and once per handle."""
        if not lost:
            return
        ranges = [(entry.offset, entry.length) for entry in lost]
        what = f"{why}; {spans(ranges)} given up, {sum(entry.length for entry in lost)} bytes"
        self.volume.say(
            logging.ERROR, "data that was given up", what, "each handle raises DataLossError once", self.key
        )
        self.report_loss(lost)

    # -- failures

    def resume(self, start: int = 0, end: int = END) -> None:
        """Make parked and waiting data dirty again, and send it."""
        if self.conflict is not None:
            return
        with self.lock:
            known = bool(self.failures.overlapping(start, end))
        if not known and not self.native.number("failed"):
            return
        self.refresh_limits()
        self.native.retry(start, end, failed_too=True)
        self.native.flush_start(STAMP_MAX, start, end)

    def ensure_retry(self) -> None:
        """Ensure that the flusher has the time of the earliest waiting failure."""
        if self.volume.retry_planned(self):
            return
        with self.lock:
            at = self.failures.next_retry()
        self.volume.retry_by(self, self.volume.clock.now() if at is None else at)

    def replan_parked(self) -> float | None:
        """Plan parked data by the current policy; return the time of the next retry."""
        wait, now = self.volume.retry.failed_retry, self.volume.clock.now()
        with self.lock:
            for failure in self.failures:
                if failure.parked and not isinstance(failure.error, ConflictError):
                    at = math.inf if failure.next_retry is None else failure.next_retry
                    self.failures.postpone(failure, None if wait is None else min(at, now + wait))
            return self.failures.next_retry()

    def due(self, now: float) -> float | None:
        """Resume due failures; return the time of the next one."""
        due: list[Failure] = []
        with self.lock:
            due = [f for f in self.failures if f.next_retry is not None and f.next_retry <= now]
            for failure in due:
                if not self.native.flush_pending(STAMP_MAX, failure.start, failure.end):
                    self.failures.clear(failure.start, failure.end)  # it was written back with its neighbours
        self.refresh_limits()  # dirty again, it is divided by the current limits [K5]
        for failure in due:
            self.native.count_retry()
            self.native.retry(failure.start, failure.end, failed_too=failure.parked)
            self.native.flush_start(STAMP_MAX, failure.start, failure.end)
        with self.lock:
            for failure in due:
                for current in self.failures.overlapping(failure.start, failure.end):
                    if current is failure:
                        self.failures.postpone(failure, now + self.volume.retry.max_delay)
            next_retry = self.failures.next_retry()
        if next_retry is None and self.native.flush_pending(STAMP_MAX) & BACKOFF:
            # CORE's state decides: bytes that wait without a recorded failure are woken here.
            self.native.retry()
            self.native.flush_start(STAMP_MAX)
        return next_retry

    def failed_ranges(self, everything: bool = False) -> list[FailedRange]:
        """Return the permanent failures (everything: all local data, of an aborted volume), cut at the size."""
        now = self.volume.clock.now()
        ranges = self.native.local_ranges() if everything else self.native.failed_ranges()
        found = []
        with self.lock:
            for pos, length in ranges:
                known = self.failures.overlapping(pos, pos + length)
                worst = next((f for f in known if f.parked), known[0] if known else None)
                found.append(self._failed_range(pos, length, worst, now))
        return found

    def _failed_range(self, pos: int, length: int, failure: Failure | None, now: float) -> FailedRange:
        if failure is None:
            code, message = self._why_local("")
            return FailedRange(self.key, pos, length, code, 0, None, self.volume.name, message, 0.0)
        at = failure.next_retry if self.conflict is None else None  # only `resolve` and `discard` settle a conflict
        wait = None if at is None else max(0.0, at - now)
        since = max(0.0, now - failure.since)
        return FailedRange(
            self.key, pos, length, failure.errno, failure.attempts, wait, self.volume.name, failure.message, since
        )

    def _why_local(self, otherwise: str) -> tuple[int, str]:
        """Return errno and text of the reason why bytes that did not fail themselves stay local."""
        reason = self.volume.abort_reason
        error = self.commit_error if reason is None else reason
        return (0, otherwise) if error is None else (errno_of(error), text_of(error))

    def uncommitted_range(self) -> FailedRange:
        """Return a range for a change without bytes (creation, size, holes) that waits for a commit."""
        code, message = self._why_local("its creation, size, holes or direct writes are not committed")
        return FailedRange(
            self.key, self.native.size, 0, code, self.commit_attempts, None, self.volume.name, message, 0.0
        )

    def conflict_error(self) -> ConflictError:
        base, remote = self.conflict or (self.version, self.remote_version)
        return ConflictError(
            f"{self.key!r}: the stored object is another version than that under this one",
            self.key,
            base=base,
            remote=remote,
            ranges=self.native.local_ranges(),
        )
