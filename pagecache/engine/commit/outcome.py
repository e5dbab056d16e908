"""Find out whether a commit with a lost reply was carried out, if the backend has staged bytes of the file.

    commit carried out, reply lost       the backend has moved the staged bytes into the object; CORE still has them in
                                         S
    commit not carried out               the staged bytes are where they were

Readers, and the completion of write units, use `read_staged` for bytes of S that are no longer in memory. After a
commit that was carried out, `read_staged` finds none: no unit could be completed, no flush would end, and no later
commit would find out the result.

So such a commit leaves a debt (`Outcome`). Like all debts of owed.py it is paid before the file's next write-back,
commit, truncate, punch, discard or fill of stored bytes; in addition, by a read of staged bytes that finds none. Paying
reads one staged byte. If it is there, the commit was not carried out, and the file continues as after any other failed
commit. If it is missing, the commit is repeated at once: nothing was sent since, and no staged bytes are left to be
published, so it publishes nothing. It succeeds (the commit was carried out: a backend recognizes its own lost reply,
contract 2.19), or reports that bytes are gone (ENOENT: not carried out; readers of these bytes give them up), or that
another version is stored (ESTALE: a conflict). Any other error leaves the result unknown, and the debt stands.

Locks: the debt arises with the token held, so nothing of the file is in flight; the paying thread is alone with the
file until it is paid (owed.py). It never waits for the token or a folio: readers that own folios may pay.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakSet

from ...errors import BackendError, ShutdownError
from ...native import COMMIT_CALL
from ..foreign import errno_of, retry_after_of, text_of
from ..retryer import is_transient
from . import staging

if TYPE_CHECKING:
    from ...backends.protocol import BackendFile
    from ..file import EngineFile

__all__ = ["NO_COMMITS", "Commits", "Outcome", "call_commit", "owe", "stored"]


class Commits:
    """Failed commits and refused saves of one file since the last success (overdue.py), and uncommitted holes of a
    backend that can roll back. Made with the first of either.

    Lock: `EngineFile.lock`, held by the caller of every method. Holes are added under the token, too.
    """

    __slots__ = (
        "_callers",
        "attempts",
        "error",
        "failed",
        "failing_since",
        "holes",
        "next_try",
        "not_before",
        "parked",
        "round",
        "round_since",
        "stamp",
        "trying",
    )

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.attempts = 0
        self.failed = 0
        """Failed commits in all."""
        self.round = 0
        """Failed commits since a caller or the flusher began to try anew: the number that the policy bounds."""
        self.round_since = 0.0
        self.failing_since: float | None = None
        """Time of the first failure; None: no save is overdue."""
        self.stamp = 0
        """Epoch of the changes that are overdue."""
        self.parked = False
        """Whether the policy gives no quick retry."""
        self.next_try: float | None = None
        """Time of the flusher's next try; None: only a caller makes one."""
        self.trying = False
        """Whether the flusher's try has begun, and no caller has asked for a commit since."""
        self._callers: WeakSet[object] = WeakSet()
        self.not_before = 0.0
        self.holes: list[tuple[int, int]] = []

    def fail(self, error: BaseException, stamp: int, now: float) -> None:
        """Record a failed commit of the changes up to `stamp`."""
        self.fall_due(stamp, now)
        self.attempts += 1
        self.failed += 1
        self.round_since = self.round_since if self.round else now
        self.round += 1
        self.error = error
        self.trying = False

    def fall_due(self, stamp: int, now: float) -> None:
        """Record that the save of the changes up to `stamp` has failed."""
        self.failing_since = now if self.failing_since is None else self.failing_since
        self.stamp = max(self.stamp, stamp)

    def park(self) -> None:
        self.parked = True

    def try_at(self, at: float | None) -> None:
        """Plan the flusher's next try."""
        self.next_try = at

    def begin_try(self, again: float) -> None:
        """Record that the flusher begins a try; `again`: the time of the next one unless it fails before."""
        self.next_try, self.trying, self.round = again, True, 0

    def asked(self, first: bool) -> None:
        """Record that a caller asks for a commit; `first`: for the first time."""
        self.trying = False
        if first:
            self.round = 0

    def set_caller(self, caller: object, makes_it: bool) -> None:
        """Record whether a caller makes the next try."""
        (self._callers.add if makes_it else self._callers.discard)(caller)

    def has_callers(self) -> bool:
        return len(self._callers) > 0

    def end(self) -> None:
        """Record that no save is overdue any longer."""
        self.failing_since, self.stamp, self.parked, self.next_try, self.trying = None, 0, False, None, False

    def wait_until(self, at: float) -> None:
        """Start no commit of its own accord before `at`."""
        self.not_before = at

    def note_hole(self, start: int, end: int) -> None:
        self.holes.append((start, end))

    def forget_holes(self) -> None:
        """Forget the holes: they are committed, or the backend has forgotten them."""
        self.holes.clear()

    def forget_failures(self) -> None:
        """Forget failures of an earlier backend. A save that is overdue stays so, and is tried at once."""
        if self.failed:
            self.error, self.attempts, self.round, self.not_before = None, 0, 0, 0.0
        if self.failing_since is not None:
            self.next_try = 0.0

    def succeed(self) -> tuple[BaseException | None, int]:
        """Start anew after a success; return the last error, and the number of failed commits before it."""
        failed = self.error, self.attempts
        if self is not NO_COMMITS:
            self.error, self.attempts, self.round, self.not_before = None, 0, 0, 0.0
            self.holes.clear()
        return failed


NO_COMMITS = Commits()
"""The commits of every file without a failed one, and without holes."""


def owe(file: EngineFile) -> None:
    """Record a failed commit that may have been carried out. The token is held."""
    if file.native.usage()["staged"] and not file.owed.owes(Outcome.method):
        file.owe(Outcome(file))


class Outcome:
    """The debt to find out the result of the last commit. A step in the debts of a file."""

    method = "commit"
    arguments: tuple[int, ...] = ()
    behind = False

    def __init__(self, file: EngineFile) -> None:
        self._file = file

    def call(self, backend_file: BackendFile) -> None:
        file = self._file
        if file.conflict is not None:
            raise file.conflict_error()
        if file.removed or file.abandoned or _still_staged(file):
            return  # an object without a name is never published
        with file.publishing() as allowed:
            if not allowed:
                raise BackendError(errno.EAGAIN, "a call that removes the name of the object runs", retry=True)
            self._commit_again(backend_file)

    def _commit_again(self, backend_file: BackendFile) -> None:
        file = self._file
        generation = file.native.generation()
        file.versions.doubt()
        try:
            version = call_commit(file, backend_file.commit)
        except Exception as error:
            if staging.gone(error):
                return
            if not is_transient(error):
                raise
            message = f"whether the last commit was carried out is not known: {text_of(error)}"
            raise BackendError(errno_of(error), message, retry=True, retry_after=retry_after_of(error)) from error
        if not file.native.commit_found(generation):
            raise ShutdownError("the volume was aborted while the outcome of a commit was asked for", file.key)
        stored(file, version, None, file.native.wake)


def _still_staged(file: EngineFile) -> bool:
    """Return whether the first staged byte is where it was, or none has to be any longer."""
    found = file.native.staged_from(0)
    if found is None:
        return True
    try:
        answer = file.read_staged(found[0], (memoryview(bytearray(1)),))
    except OSError as error:
        if staging.gone(error):
            return False
        raise
    return bool(answer != 0)


def call_commit(file: EngineFile, call: Callable[[], str | None]) -> str | None:
    """Make the commit call, and record its duration."""
    volume = file.volume
    began = volume.clock.now()
    try:
        return call()
    finally:
        volume.native.count_call(COMMIT_CALL, volume.clock.now() - began)


def stored(file: EngineFile, version: str | None, changes: int | None, finish: Callable[[], None]) -> None:
    """Record a commit that was carried out; `finish` wakes its waiters.

    `changes`: this cache's changes that had begun before the call; None: some of them may have run beside it.
    """
    with file.lock:  # until the events are queued
        versions = file.versions
        alone = versions.changes == changes
        failed, tries = file.commits.succeed()
        versions.count_change(stale=False)
        if version is not None:
            # Concurrent direct writes may have made another version of it since.
            versions.commit(version, stale=not alone and not file.limits().commit_on_close)
        finish()
        if file.commits.failing_since is not None and file.native.sync_done(file.commits.stamp):
            file.commits.end()
        what = f"the commit went through after {tries} that failed"
        if failed is not None:
            file.volume.emit("repaired", file.key, message=what, next="it is stored")
        file.volume.emit("committed", file.key, message="committed", next="it is stored")
    file.volume.pass_on_warnings()
    if failed is not None:
        file.volume.say(logging.INFO, "data that was saved after all", what, "it is stored", file.key)
    if file.volume.mirror is not None:
        file.volume.mirror.committed(file.key)
    file.volume.say(logging.DEBUG, "commits", "committed", key=file.key)
