"""fsync, sync, tickets: waiting for exactly the earlier writes.

Each takes an epoch s: everything dirtied before the call is stamped <= s, everything after it > s. A flush marks the
bytes stamped <= s once and waits until none of them is dirty or in flight; later writes have later stamps and are not
waited for. A commit follows if anything acknowledged is stamped <= s. Then everything is checked again, because a
failed commit makes acknowledged bytes dirty (contract 1.3, 2.15). fsync is level-triggered: it succeeds only if nothing
<= s is left.

One file's progress is a `FileSync`, which is polled. CORE has its state, and does all that the normal way needs
(`_native/io/sync.c`); this module judges failures, holds back what must not begin, and decides about retries. An
exception changes no state; the next poll then checks again.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from ...errors import CommitError, WritebackError
from ...native import (
    DIRECTLY,
    END,
    FAILED,
    SYNC_COMMIT,
    SYNC_COMMIT_FAILED,
    SYNC_DONE,
    SYNC_FAILED,
    SYNC_SEND,
    TOKEN,
    WAITS,
)
from .. import failures
from ..attempts import insisting
from ..commit import overdue
from ..failures import NO_FAILURES
from ..foreign import errno_of, text_of
from ..park import NEVER, SLICE, Deadline, deadline_error
from ..report.notices import cause
from ..report.reason import during, of_file
from ..runner import Job

if TYPE_CHECKING:
    from ..file import EngineFile


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


ALL = 1 << SYNC_SEND | 1 << SYNC_COMMIT
"""Both things that a sync may begin."""


def needs(file: EngineFile, *, commit: bool = True) -> int:
    """Return the holds of a file that a sync may have to wait for: a pass or a commit takes the token, and a commit of
    some backends begins only when no direct write runs.
    """
    limits = file.limits()
    beside = not commit or limits.durable_writes or limits.parallel_direct_writes
    return TOKEN if beside else TOKEN | DIRECTLY


class FileSync:
    """One file's progress to "committed up to s". One thread can drive many: `poll` returns whether it is done, and
    between two polls the caller waits for the inode's event.

    It is for everything dirtied up to the epoch `stamp`, or so far, in [start, end). `version`: it also waits until the
    stored version that its writes have made is known, so that this cache's own change does not look like a foreign one.
    `asked`: a caller wants it; otherwise it ends without a commit once a whole object has changed since.

    Attributes:
        here: what the thread that drives it does itself, of `ALL`.
        not_before: time of the next commit, after one that has failed; 0.0: none has.
    """

    def __init__(
        self,
        file: EngineFile,
        stamp: int | None = None,
        start: int = 0,
        end: int = END,
        *,
        flush: bool = True,
        commit: bool = True,
        version: bool = True,
        asked: bool = True,
    ) -> None:
        self.file = file
        self.here = 0
        self.start, self.end = start, end
        self.commit = commit
        self.not_before = 0.0
        unasked = not asked and bool(file.limits().commit_on_close)
        self._state, failed = file.begin_sync(
            stamp, start, end, flush=flush, commit=commit, version=version, unasked=unasked
        )
        self._attempts = 0
        self._since = file.volume.clock.now()
        self._began = file.volume.reconnects
        self._version: Job[None] | None = None
        file.refresh_limits()
        if flush and (failed or file.failures is not NO_FAILURES):
            # A request in flight is not repeated: its error is raised, as kernels do for pages under writeback. With a
            # repetition, the order of several fsyncs would decide whether the sender gets its own failure.
            failures.resume(file, start, end)

    def runs(self, what: str, *, look: bool) -> bool:
        """Go on as long as no other thread has to be waited for; return whether nothing up to the stamp is left. A file
        in trouble is left to `poll`, and so is all but a `look` before a deadline, which is checked between two calls.
        """
        file = self.file
        if file.write_from is None or file.volume.aborted or file.volume.reconnects != self._began:
            return False
        here = 0 if look else self.here
        met = file.advance(self._state, here, here, what)
        if met == SYNC_COMMIT_FAILED:
            self._judge()
        if met != SYNC_DONE or file.losing.locked():  # in this order
            return False
        self._note_synced()
        return not self._state.stale or (self.here != 0 and self._ended())

    def poll(self) -> bool:
        """Do all work that is possible now; True: nothing up to the stamp is left, or may be saved without a caller.

        Raises:
            WritebackError, CommitError, ConflictError, ShutdownError.
        """
        file, more = self.file, 0
        file.volume.check_alive(file.key, self._began)
        if self._state.unasked and file.changed_since(self._state.stamp):
            return True
        while self._version is None:
            allowed = self._allowed() if file.is_troubled() else ALL
            if allowed is None:
                return True
            met = file.advance(self._state, allowed | more, self.here)
            if met == SYNC_DONE and not file.losing.locked():  # in this order
                self._note_synced()
                return self._ended()
            more = 0
            if met == SYNC_COMMIT_FAILED:
                self._judge()
            elif met == SYNC_COMMIT and self._may_commit():
                more = 1 << SYNC_COMMIT
            else:
                if met == SYNC_FAILED:
                    self._report()
                if self._state.backoff:
                    failures.ensure_retry(file)
                return False
        return self._version.finished()

    def _allowed(self) -> int | None:
        """Return what may begin beside trouble; None: the file has no name under which it could be stored."""
        file = self.file
        if file.is_cut_off() or (self.commit and file.is_unpublishable()):
            return None
        if file.conflict is not None:
            raise file.conflict_error()
        # The end of the call that changes the name, or that takes another version, wakes it.
        return 0 if file.is_found_elsewhere() or file.dispute.take_due else 1 << SYNC_SEND

    def _may_commit(self) -> bool:
        """Return whether a commit may begin that was held back."""
        file = self.file
        if self.not_before:
            if file.volume.clock.now() < self.not_before:
                return False
            self._pause(0.0)
        if file.unnaming is not None:
            return False
        if file.commits.failing_since is not None and not self._state.waits_for_commit:
            with file.lock:
                file.commits.asked(first=not self._attempts)
        return True

    def _note_synced(self) -> None:
        """Remember it for the journal, which asks later."""
        file, state = self.file, self._state
        if file.volume.journal is not None and state.flush and self.commit and not self.start and self.end == END:
            file.note_synced(state.stamp)

    def _ended(self) -> bool:
        """Read the version that the writes have made, if it is wanted; return whether that is over."""
        file = self.file
        if self.not_before:
            self._pause(0.0)
        if self._state.stale:
            self._version = file.versions.start_reading(here=bool(self.here))
        return self._version is None or self._version.finished()

    def _pause(self, until: float) -> None:
        """Make the next commit at this time; 0.0: at any time. After an abort there is none: a reconnect may have
        forgotten the callers.
        """
        self.not_before = until
        file, volume = self.file, self.file.volume
        with file.lock:
            lives = not volume.aborted and volume.reconnects == self._began  # in this order
            (file.commits.callers.add if until and lives else file.commits.callers.discard)(self)

    def _report(self) -> None:
        """Raise the error of the failed bytes, unless a later attempt has succeeded, or they are about to go."""
        file = self.file
        if file.abandoned and self.commit:
            return
        if file.conflict is not None:
            raise file.conflict_error()
        error = _writeback_error(file, "write-back")
        if error.exceptions or file.flush_pending(self._state.stamp, self.start, self.end) & FAILED:
            if self.commit:
                overdue.refused(file, self._state.stamp)
            raise error

    def _judge(self) -> None:
        """Raise the error of a failed commit, or plan the next one, before anything is sent again."""
        file, volume = self.file, self.file.volume
        error = file.commits.error
        if error is None:
            return  # another one has succeeded since
        if file.conflict is not None:
            raise file.conflict_error()
        now = volume.clock.now()
        self._attempts += 1
        delay = volume.judge(error, self._attempts, self._since)
        if delay is None:
            overdue.refused(file, self._state.stamp)
            raise CommitError(
                f"commit failed: {text_of(error)}",
                file.key,
                errno=errno_of(error),
                ranges=overdue.failed_ranges(file),
                exceptions=[error],
            ) from error
        file.count("retries")
        self._pause(now + delay if file.commits.parked else max(now, file.commits.not_before))

    def needs(self) -> int:
        """Return the holds of the file that it may have to wait for."""
        return needs(self.file, commit=self.commit)

    def leave(self) -> None:
        """Record that its caller polls no more: it makes no further try."""
        if self.not_before:
            commits = self.file.commits
            with self.file.lock:
                commits.callers.discard(self)
            if commits.next_try is not None:
                overdue.plan(self.file, min(commits.next_try, self.not_before))

    def wait(self, deadline: Deadline) -> None:
        """Sleep until something may have changed since the last poll."""
        if self._version is not None:
            self._version.join(min(deadline.left(), SLICE))
            return
        left = min(SLICE, deadline.left())
        if self.not_before:
            left = min(left, max(0.001, self.not_before - deadline.clock.now()))
        self.file.volume.park.wait("inode", self.file.address, self._state.event, left)

    def failure(self) -> tuple[str, float | None]:
        """Return the last error of a write-back or commit that must succeed first, and the time of its retry; "":
        none.
        """
        file = self.file
        with file.lock:
            worst, commits = failures.worst(file), file.commits
            # This sync plans its next commit when it sees the failure, which may be later than the deadline.
            error, at = commits.error, self.not_before or (commits.next_try if commits.parked else commits.not_before)
        if worst is not None:
            return cause(worst.error), worst.next_retry
        return ("", None) if error is None else (cause(error), at)

    def late(self, what: str) -> TimeoutError:
        failed, at = self.failure()
        now = self.file.volume.clock.now()
        return deadline_error(what, self.file.key, failed=failed, wait=None if at is None or at <= now else at - now)


def drive(sync: FileSync, timeout: float | None, what: str) -> None:
    """Wait on this thread until it is done.

    Raises:
        TimeoutError: the deadline passed; I/O goes on.
    """
    file, volume = sync.file, sync.file.volume
    volume.check_wait(what, file.key)
    deadline = NEVER if timeout is None else Deadline(volume.clock, timeout)
    if volume.prompt:
        sync.here = ALL
        publishes = file.bound_commit is None and file.limits().commit_on_close
        if publishes and threading.current_thread() is threading.main_thread():
            sync.here = 1 << SYNC_SEND  # an interrupt would leave open whether the commit did
    if sync.runs(what, look=deadline is not NEVER):
        return

    def wait() -> None:
        file.check_here(sync.needs())
        while not sync.poll():
            if deadline.passed():
                raise sync.late(what)
            sync.wait(deadline)

    whole = sync.start == 0 and sync.end == END
    start, end = (0, 0) if whole else (sync.start, sync.end)
    try:
        during(of_file(file, what, start=start, end=end, kind=WAITS["sync"]), wait)
    finally:
        sync.leave()


def flush(file: EngineFile, start: int = 0, end: int = END, *, version: bool = False) -> None:
    """Wait until nothing of [start, end) dirtied so far is dirty or in flight. `version`: see `FileSync`; then the
    store also has every cut and hole that reads wait for, if its name is known.

    Raises:
        WritebackError: it failed; it is still dirty. OSError: of a call that is owed; it stays so.
    """
    drive(FileSync(file, start=start, end=end, commit=False, version=version), None, "flush")
    if version and len(file.owed) and file.owed.is_due():
        insisting(file, lambda: file.settled(lambda: file.owed.pay_now() if file.owed.is_due() else None))
        drive(FileSync(file, commit=False), None, "flush")  # for the version that this has made


def commit(file: EngineFile) -> None:
    """Commit acknowledged bytes, without any write-back.

    Raises:
        CommitError: they stay uncommitted.
    """
    drive(FileSync(file, flush=False), None, "commit")


def fsync(file: EngineFile, timeout: float | None = None) -> None:
    """Wait until everything written to the file before the call is committed.

    Raises:
        WritebackError, CommitError: it is not, and is still dirty.
        TimeoutError: the deadline passed; I/O goes on.
    """
    if file.withheld:
        file.set_aside(withheld=False)  # the caller publishes it on purpose
    drive(FileSync(file), timeout, "fsync")
    file.confirm_saved()


def log(file: EngineFile, timeout: float | None = None) -> bool:
    """Wait until everything written to the file before the call is in the journal of the disk tier. False: it has to be
    saved in the store instead.

    Raises:
        TimeoutError: the file was busy until the deadline.
    """
    volume = file.volume
    volume.check_wait("fsync", file.key)
    if volume.journal is None:
        return False
    if file.withheld and file.changed_since(file.journaled.asked) and not file.journaled.has_all():
        file.set_aside(withheld=False)  # as in `fsync`: only what is recovered and held stays so
    until = None if timeout is None else Deadline(volume.clock, timeout).at
    return not volume.journal.append([file], until)


def save(file: EngineFile, timeout: float | None = None) -> None:
    """Do `log`, or `fsync` where that is not possible."""
    deadline = Deadline(file.volume.clock, timeout)
    if not log(file, deadline.timeout()):
        fsync(file, deadline.timeout())
