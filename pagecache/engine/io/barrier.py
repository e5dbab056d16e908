"""fsync, sync, tickets: waiting for exactly the earlier writes.

Each takes an epoch s: everything dirtied before the call is stamped <= s, everything after it > s. A flush marks the
bytes stamped <= s once and waits until none of them is dirty or in flight; later writes have later stamps and are not
waited for. A commit follows if anything acknowledged is stamped <= s. Then everything is checked again, because a
failed commit makes acknowledged bytes dirty (contract 1.3, 2.15). fsync is level-triggered: it succeeds only if nothing
<= s is left.

One file's progress is a `FileSync`, which is polled. A poll begins with the flush again and goes as far as it can:
flush, commit, and for callers that want it the stored version. An exception changes no state; the next poll then
checks again.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import CommitError, WritebackError
from ...native import BACKOFF, DIRTY, END, FAILED, WAITS, WRITEBACK
from .. import failures
from ..commit import overdue
from ..foreign import errno_of, text_of
from ..park import SLICE, Deadline, deadline_error
from ..report.notices import cause
from ..report.reason import Reason, during, of_file
from ..retryer import Parked
from ..runner import Job

if TYPE_CHECKING:
    from ..file import EngineFile

__all__ = ["FileSync", "begin_flush", "begin_fsync", "commit", "drive", "flush", "fsync"]


def _writeback_error(file: EngineFile, what: str) -> WritebackError:
    with file.lock:
        worst = failures.worst(file)
    ranges = overdue.failed_ranges(file)
    message = f"{what} failed: {worst.message}" if worst else f"{what} failed"
    error = WritebackError(message, file.key, errno=worst.errno if worst else errno.EIO, ranges=ranges)
    if worst is not None:
        error.exceptions.append(worst.error)
        error.__cause__ = worst.error
    return error


class _Commit(NamedTuple):
    """The commit of a sync. One object for all values: an interrupt leaves either the old state or the new one."""

    seq: int = -1  # number of the commit that it waits for; -1: none
    failed: int = 0  # failed commits of the file before it
    until: float = 0.0  # time of the next commit, after one that has failed; 0.0: none has


_NO_COMMIT = _Commit()


class FileSync:
    """One file's progress to "committed up to s". One thread can drive many: `poll` returns whether it is done, and
    between two polls the caller waits for the inode's event.
    """

    def __init__(
        self,
        file: EngineFile,
        stamp: int,
        start: int = 0,
        end: int = END,
        *,
        flush: bool = True,
        commit: bool = True,
        version: bool = True,
    ) -> None:
        self.file = file
        self.here = self.commits_here = False  # the thread that drives it makes the calls
        self.flush = flush
        self.stamp = stamp
        self.start = start
        self.end = end
        self.commit = commit
        self._cursor = file.native.cursor()
        self._regress = -1
        self._done = False
        self._commit = _NO_COMMIT
        self._attempts = 0
        self._since = file.volume.clock.now()
        self._began = file.volume.reconnects
        self._version: Job[None] | None = None
        self._want_version = version
        file.refresh_limits()
        if flush:
            # A request in flight is not repeated: its error is raised, as kernels do for pages under writeback. With a
            # repetition, the order of several fsyncs would decide whether the sender gets its own failure.
            failures.resume(file, start, end)

    def poll(self) -> bool:
        """Do all work that is possible now; True: nothing up to the stamp is left.

        Raises:
            WritebackError, CommitError, ConflictError, ShutdownError.
        """
        file = self.file
        file.volume.check_alive(file.key, self._began)
        if file.is_cut_off() or (self.commit and file.is_unpublishable()):
            self._done = True  # it has no name under which it could be stored
        elif file.conflict is not None:
            raise file.conflict_error()
        self._done = self._done or self._is_done()
        return self._done

    def _is_done(self) -> bool:
        if self._version is None:
            if (self.flush and not self._flushed()) or (self.commit and not self._committed()):
                return False
            if not self._want_version:
                return True
            if self.file.native.pass_ending():
                return False  # this sync's requests are in flight; their end wakes it
            self._version = self.file.versions.start_reading(here=self.here)
        return self._version is None or self._version.finished()

    def _commit_is(self, commit: _Commit) -> None:
        before, self._commit = self._commit, commit
        if before.until or commit.until:
            with self.file.lock:
                self.file.commits.set_caller(self, bool(commit.until))

    @property
    def not_before(self) -> float:
        """Time of the next commit, after one that has failed; 0.0: none has."""
        return self._commit.until

    def _pending(self, *cursor: Any) -> int:
        """Return the number of dirty bytes and bytes in flight. Check the commit after that: bytes that it made dirty
        again are a failure of the commit. They are no failure of write-back, and must not be sent before the failure is
        reported.
        """
        found = self.file.native.flush_pending(self.stamp, self.start, self.end, *cursor)
        self._judge_commit()
        return found

    def _flushed(self) -> bool:
        native = self.file.native
        found = self._pending(self._cursor)
        if not found & (DIRTY | WRITEBACK):
            self._cursor = native.cursor()
            self._regress = -1
            found = self._pending()
            if found & FAILED and not found & (DIRTY | WRITEBACK):
                error = _writeback_error(self.file, "write-back")
                if error.exceptions or self._pending() & FAILED:
                    if self.commit:
                        overdue.refused(self.file, self.stamp)
                    raise error
                return False  # a later attempt has succeeded
            if not found:
                return True
        if self.file.is_found_elsewhere():
            return False  # the end of the call that changes the name wakes it
        if found & DIRTY and (self._regress != self._cursor[1] or native.pass_idle()):
            self._regress = int(self._cursor[1])
            if self.here:
                native.flush_here(self.stamp, self.start, self.end)
            else:
                native.flush_start(self.stamp, self.start, self.end)
        if found & BACKOFF:
            failures.ensure_retry(self.file)
        return False

    def _judge_commit(self) -> None:
        """Judge a commit that this sync waited for, before anything is sent again."""
        awaited, file = self._commit, self.file
        if awaited.seq >= 0 and file.native.commit_seq() != awaited.seq:
            error = file.commits.error
            if error is not None and file.commits.failed != awaited.failed:
                self._commit_failed(error)
            else:
                self._commit_is(_NO_COMMIT)

    def _committed(self) -> bool:
        file, native = self.file, self.file.native
        needed = native.commit_needed(self.stamp)
        self._judge_commit()  # none is needed because it failed
        if self.not_before and not (needed and file.volume.clock.now() < self.not_before):
            self._commit_is(_NO_COMMIT)
        if not needed:
            # Not done: a commit is ending, bytes are being given up, or a commit failed between two checks.
            return not self.flush or file.is_synced(self.stamp)
        if self.not_before or file.unnaming is not None:
            return False
        if self._commit.seq < 0:
            if file.commits.failing_since is not None:
                with file.lock:
                    file.commits.asked(first=not self._attempts)
            failed = file.commits.failed  # first: a failure in between counts
            self._commit_is(_Commit(native.commit_seq(), failed))
        (native.commit_here if self.commits_here else native.start_commit)(self.stamp if self.flush else 0)
        return False

    def _commit_failed(self, error: BaseException) -> None:
        file = self.file
        if file.conflict is not None:
            raise file.conflict_error()
        volume = file.volume
        now = volume.clock.now()
        self._attempts += 1
        decision = volume.judge(error, self._attempts, self._since)
        if isinstance(decision, Parked):
            overdue.refused(file, self.stamp)
            raise CommitError(
                f"commit failed: {text_of(error)}",
                file.key,
                errno=errno_of(error),
                ranges=overdue.failed_ranges(file),
                exceptions=[error],
            ) from error
        file.native.count_retry()
        until = now + decision.delay if file.commits.parked else max(now, file.commits.not_before)
        self._commit_is(_Commit(until=until))

    def leave(self) -> None:
        """Record that its caller polls no more: it makes no further try."""
        if self.not_before:
            commits = self.file.commits
            with self.file.lock:
                commits.set_caller(self, False)
            if commits.next_try is not None:
                overdue.plan(self.file, min(commits.next_try, self.not_before))

    def wait(self, seq: int, deadline: Deadline) -> None:
        """Sleep until something may have changed since `seq`."""
        if self._version is not None:
            self._version.join(min(deadline.left(), SLICE))
            return
        self.file.volume.park.wait("inode", self.file.native.address, seq, min(self.poll_delay(deadline), SLICE))

    def poll_delay(self, deadline: Deadline) -> float:
        """Return the seconds after which a check is due even without an event."""
        left = SLICE if deadline.at is None else min(SLICE, deadline.left())
        if self.not_before:
            left = min(left, max(0.001, self.not_before - deadline.clock.now()))
        return left

    def failure(self) -> tuple[str, float | None]:
        """Return the last error of a write-back or commit that must succeed first, and the time of its retry; "":
        none.
        """
        file = self.file
        with file.lock:
            worst, commit = failures.worst(file), file.commits.error
        if worst is not None:
            return cause(worst.error), worst.next_retry
        return ("", None) if commit is None else (cause(commit), self.not_before or None)

    def late(self, what: str) -> TimeoutError:
        """Return the error of a wait that ends before the sync."""
        failed, at = self.failure()
        now = self.file.volume.clock.now()
        return deadline_error(what, self.file.key, failed=failed, wait=None if at is None or at < now else at - now)


def _standing(sync: FileSync, deadline: Deadline, what: str) -> int | None:
    """Return the sequence number of the file's event from before the check; None: the sync is done."""
    seq = sync.file.native.event_seq()
    if sync.poll():
        return None
    if deadline.passed():
        raise sync.late(what)
    return seq


def _reason(sync: FileSync, what: str) -> Reason:
    whole = sync.start == 0 and sync.end == END
    start, end = (0, 0) if whole else (sync.start, sync.end)
    return of_file(sync.file, what, start=start, end=end, kind=WAITS["sync"])


def drive(sync: FileSync, timeout: float | None, what: str) -> None:
    """Wait on this thread until it is done.

    Raises:
        TimeoutError: the deadline passed; I/O goes on.
    """
    sync.file.volume.check_wait(what, sync.file.key)
    deadline = Deadline(sync.file.volume.clock, timeout)
    sync.here = sync.commits_here = sync.file.volume.prompt
    if sync.here and sync.file.limits().commit_on_close:
        # The commit publishes: an interrupt would leave open whether it did.
        sync.commits_here = threading.current_thread() is not threading.main_thread()
    first = _standing(sync, deadline, what)

    def sleep() -> None:
        seq = first
        while seq is not None:
            if sync.file.native.event_seq() == seq:  # otherwise its calls were made here
                sync.wait(seq, deadline)
            seq = _standing(sync, deadline, what)

    if first is not None:
        try:
            during(_reason(sync, what), sleep)
        finally:
            sync.leave()


def begin_flush(file: EngineFile, start: int = 0, end: int = END, *, version: bool = False) -> FileSync:
    """Return a sync until nothing of [start, end) dirtied so far is dirty or in flight. `version`: also until the
    resulting stored version is known, so that this cache's own change does not look like a foreign one.
    """
    return FileSync(file, file.volume.native.take_epoch(), start, end, commit=False, version=version)


def begin_fsync(file: EngineFile) -> FileSync:
    """Return a sync until everything written so far is committed."""
    return FileSync(file, file.volume.native.take_epoch())


def flush(file: EngineFile, stamp: int, start: int = 0, end: int = END, *, version: bool = False) -> None:
    """Wait until nothing of [start, end) dirtied up to the stamp is dirty or in flight.

    Raises:
        WritebackError: it failed; it is still dirty.
    """
    drive(FileSync(file, stamp, start, end, commit=False, version=version), None, "flush")


def commit(file: EngineFile) -> None:
    """Commit acknowledged bytes, without any write-back.

    Raises:
        CommitError: they stay uncommitted.
    """
    drive(FileSync(file, file.volume.native.take_epoch(), flush=False), None, "commit")


def fsync(file: EngineFile, timeout: float | None = None) -> None:
    """Wait until everything written to the file before the call is committed.

    Raises:
        WritebackError, CommitError: it is not, and is still dirty.
        TimeoutError: the deadline passed; I/O goes on.
    """
    drive(begin_fsync(file), timeout, "fsync")
