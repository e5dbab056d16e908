"""Fills that failed: retries of errors, and errors for impossible results.

C calls the file's `read_into` itself, call after call, on a thread of the volume. If the backend is prompt, the thread
that waits for the bytes does, or a waiter that took a queued fill over. `fill` is entered when such a call raised or
did not return a number of bytes, and continues from there: transient errors are retried within the call, except for
readahead, which has no waiter.
"""

from __future__ import annotations

import errno
import logging
from functools import partial
from typing import TYPE_CHECKING

from ...backends.plain import returned
from ...errors import BackendProtocolError, ShutdownError
from ...native import NAMES, Op
from ..commit import remote
from ..commit.owed import NOTHING_OWED, LeftBehindError
from ..commit.staging import NotStagedError
from ..foreign import as_os_error, errno_of, is_interrupt, named, text_of
from ..gone import REMOVED
from ..report.notices import cause
from ..retryer import EARLY_MAX
from ..runner import Job

if TYPE_CHECKING:
    from ..file import EngineFile

log = logging.getLogger("pagecache.internal")

UNNAMED = frozenset({errno.ENOENT, errno.ESTALE})
"""Errors of a read that finds nothing under the name of the object, or another version."""
REOPENED_S = 0.01
"""Seconds until a read is made again that waits until its file is opened again. The work for that has a thread."""

STALE = -errno.ESTALE
"""The bytes read were invalidated repeatedly: C delivers them to the caller past the cache."""


class ReadAgainError(OSError):
    """A read was refused beside work of this volume that explains it, and that may wait for the folios of the read: it
    gives them back, and is made again.
    """


def fill(self: EngineFile, op: Op, met: BaseException | int) -> None:
    """Complete the fill; `met`: the exception of its last call, or the (negative) errno for its result.

    Raises:
        BackendProtocolError: the backend's result is impossible.
        OSError: of the backend, after the last retry.
    """
    if met == STALE:
        return
    try:
        failed = _again(self, op, _refusal(self, op) if isinstance(met, int) else met, None)
    except ReadAgainError:
        op.give_back()
    else:
        _complete(self, op, failed)


def read_aside(self: EngineFile, op: Op) -> None:
    """Make a read past the cache on a thread of the volume, and wait for it. The operation has a credit.

    Raises:
        OSError: of the backend, after the last retry. ShutdownError: the volume was aborted; the read goes on.
    """
    volume, since = self.volume, self.volume.reconnects
    job = Job(partial(_complete, self, op, None), what="read_into", key=self.key, file=self.id)
    volume.runner.submit(NAMES, job).wait(lambda: volume.check_alive(self.key, since))


def _complete(self: EngineFile, op: Op, failed: tuple[int, float] | None) -> None:
    """Make the remaining calls; `failed`: number of failed calls so far, and the time of the first."""
    while (call := op.begin()) is not None:
        try:
            answer = op.complete((self.read_staged if op.staged else self.read_into)(call[0], call[1]))
        except BaseException as error:
            if is_interrupt(error):
                raise
            op.ended()
            try:
                failed = _again(self, op, error, failed)
            except ReadAgainError:
                op.give_back()
                return
            continue
        if answer in (1, STALE):
            return
        if answer >= 0:
            failed = None  # progress resets the count
            continue
        try:
            failed = _again(self, op, _refusal(self, op), failed)
        except ReadAgainError:
            op.give_back()
            return


def outlast_names(self: EngineFile) -> bool:
    """Wait until no call changes the name of the object; the caller holds nothing that such a call needs. Return
    whether one ran.

    Raises:
        ShutdownError: the volume was aborted. BlockingIOError: this thread may have the token of the file.
    """
    call = self.unnaming
    if call is None:
        return False
    if self.volume.runner.is_worker():
        raise BlockingIOError(errno.EAGAIN, "the name of the object is being changed", self.key)
    self.outlast(lambda: self.unnaming is call, "the call that changes the name of the object")
    return True


def outlast_refusal(self: EngineFile) -> bool:
    """Wait for the work that may be why the store refused a read; the caller holds nothing that it needs. Return
    whether any ran: a call that changes the name, or a commit or rollback.

    Raises:
        ShutdownError: the volume was aborted. BlockingIOError: this thread may have the token of the file.
    """

    def forgets() -> bool:
        return self.forgetting or self.commit_running()

    if outlast_names(self):
        return True
    if not forgets():
        return False
    if self.volume.runner.is_worker():
        raise BlockingIOError(errno.EAGAIN, "a commit or rollback of the object runs", self.key)
    self.outlast(forgets, "the commit or rollback that runs")
    return True


def refusal(file: EngineFile, op: Op, offset: int) -> str:
    """Return why the last result of a read of this operation is impossible."""
    rule = "did not answer with the number of bytes read"
    size = file.remote_size
    if type(op.answer) is int and op.answer >= 0:
        rule += f" (0 is for the end of the object, at {size})" if offset < size else ""
    return f"read_into({offset}, {op.length} bytes) {rule}: {returned(op.answer)}"


def _refusal(file: EngineFile, op: Op) -> BackendProtocolError:
    return BackendProtocolError(refusal(file, op, op.offset), file.key)


def _again(
    file: EngineFile, op: Op, error: BaseException, failed: tuple[int, float] | None
) -> tuple[int, float] | None:
    """Wait until the call may be repeated, or raise; `failed`: number of failed calls so far, and the time of the
    first.
    """
    failed, delay = _judge(file, op, error, failed)
    if delay:
        file.volume.sleep(file, delay)
    return failed


def _judge(
    file: EngineFile, op: Op, error: BaseException, failed: tuple[int, float] | None
) -> tuple[tuple[int, float] | None, float]:
    """Return the seconds until the call may be repeated, or raise."""
    if op.stopped:  # the answer says nothing about the present backend
        file.volume.check_alive(file.key)
        raise ShutdownError(f"the volume {file.volume.name!r} was aborted", file.key) from error
    if isinstance(error, LeftBehindError) and not op.ahead:
        file.owed.outlast()
        return failed, 0.0
    volume, now = file.volume, file.volume.clock.now()
    attempts, since = failed or (0, now)
    if isinstance(error, ReadAgainError) and file.unnaming is None:
        file.bind_calls()  # the remove or rename has ended since; an interrupt may have kept its call from doing this
        return failed, 0.0
    if isinstance(error, NotStagedError):
        return failed, 0.0  # they are committed now, or dropped: they are read from the object
    if isinstance(error, BackendProtocolError):
        # The backend may have forgotten bytes that the cache still asks for.
        if op.anew():
            return failed, 0.0
        if file.forgetting or file.commit_running():
            raise ReadAgainError from error
        if file.owed is not NOTHING_OWED and attempts < EARLY_MAX:
            return (attempts + 1, since), 0.0  # a size that was owed beside a commit may be due now, or paid
    if errno_of(error) in UNNAMED and op.anew():
        return failed, 0.0  # the name has changed since it began
    if file.unnaming is not None and errno_of(error) in UNNAMED:
        raise ReadAgainError from error
    if remote.is_remote_change(error) and file.versions.stale and file in volume.settling and not op.ahead:
        return failed, REOPENED_S  # a late commit of an earlier backend has stored it: the file is opened again next
    if remote.is_remote_change(error) and not file.removed:
        if attempts < min(volume.retry.attempts, EARLY_MAX) and not remote.refused(file, read=True):
            return (attempts + 1, since), 0.0
        if file.unnaming is not None:
            raise ReadAgainError from error
        if not file.removed:
            raise file.conflict_error() from error
    if remote.is_remote_change(error) and file.dispute.base_lost:
        raise file.conflict_error() from error
    if remote.is_remote_change(error):  # of an object that this volume has removed: no other writer is in conflict
        raise FileNotFoundError(errno.ENOENT, REMOVED, file.key) from error
    delay = volume.judge(error, attempts + 1, since)
    if delay is None or op.ahead or op.settled:
        if isinstance(error, OSError):
            raised = named(as_os_error(error, file.key), file.key)
            raise raised from (error.__cause__ if raised is error else error)
        raise OSError(errno.EIO, f"reading raised {text_of(error)}", file.key) from error
    file.count("retries")
    what = f"read_into of {op.length} bytes at {op.offset} failed at try {attempts + 1}: {cause(error)}"
    volume.say(logging.DEBUG, "failed reads", what, f"it is made again in {delay:.3g} s", file.key)
    return (attempts + 1, since), delay
