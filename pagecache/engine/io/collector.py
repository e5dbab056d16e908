"""The effects of a call's result.

Order of effects (contract 2.14): the error is recorded, then CORE changes sets, marks and stamps and wakes waiters,
then events are emitted. So a woken waiter sees the error.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING

from ...errors import ConflictError
from ...native import KEPT, PARKED, STAMP_MAX, Op
from .. import failures
from ..commit import overdue
from ..commit.commits import NO_COMMITS
from ..failures import Failure
from ..foreign import as_os_error, errno_of, max_write_of, text_of
from ..report.notices import cause, fault, spans
from ..report.trouble import SETTLED, tried_again
from ..retryer import is_refusal, is_transient

if TYPE_CHECKING:
    from ..file import EngineFile

writeback_log = logging.getLogger("pagecache.writeback")

CALLER_GRACE = 1.0
"""Seconds that the caller of a failed commit may be late for its next try, before the flusher makes it."""


def end_after_fault(file: EngineFile, op: Op, error: BaseException, *, commit: bool) -> None:
    """End an operation that an internal error has left in the middle; `error` is being handled.

    Every write request and commit comes here when anything between its begin and its end raises (issuer.py). Its bytes
    become dirty and parked, so each wait for them ends with an error; `failed_retry` and the next fsync send them
    again. An operation that has ended before is unchanged.
    """
    note = _note_commit_fault if commit else _note_write_fault
    steps = [partial(note, file, op, error), partial(_finish, op), partial(failures.ensure_retry, file)]
    for step in [partial(_forget_failed, file, op), partial(file.staging.forgotten), *steps] if commit else steps:
        try:
            step()
        except BaseException:  # the other steps must run
            fault("%s: %r: an internal error is not recorded", file.volume.name, file.key)
    fault("%s: %r: an internal error ended a %s", file.volume.name, file.key, "commit" if commit else "write-back")


def end_interrupted(file: EngineFile, op: Op, *, commit: bool) -> None:
    """End an operation that Ctrl-C has left in the middle, on the thread of a caller whose backend is prompt.

    Whatever the backend did, bytes are dirty again. After an interrupted commit, acknowledged bytes stay acknowledged,
    and the commit is requested again; unless the backend has raised an error.
    """
    start, end = op.extent
    op.ended()
    if commit:
        file.versions.doubt()
    _forget_failed(file, op)
    with contextlib.suppress(ValueError):  # it has ended
        op.finish(False, KEPT if commit and not op.commit_failed else False)
        if start < end:
            file.retry(start, end)


def _forget_failed(file: EngineFile, op: Op) -> None:
    """After a failed commit the backend may have forgotten what it had acknowledged."""
    if op.commit_failed and not op.settled:
        file.lose_direct()
        file.staging.forgotten()


def _finish(op: Op) -> None:
    with contextlib.suppress(ValueError):  # it has ended
        op.finish(False, PARKED)


def _note_write_fault(file: EngineFile, op: Op, error: BaseException) -> None:
    start, end = op.extent
    if start < end:
        now, wait = file.volume.clock.now(), file.volume.retry.failed_retry
        next_retry, what = None if wait is None else now + wait, f"an internal error: {text_of(error)}"
        with file.lock:
            failure = Failure(start, end, errno_of(error), 1, what, now, next_retry, error, True)
            failures.record(file, failure, [(start, end)])


def _note_commit_fault(file: EngineFile, op: Op, error: BaseException) -> None:
    if op.settled:
        return
    with file.lock:
        file.change_begins(True)
        now = file.volume.clock.now()
        file.committing().fail(error, _stamp(file), now)
        file.count("failed_commits")
        file.commits.wait_until(now + file.volume.retry.max_delay)
        file.commits.park()
    file.volume.troubles.failing(file)
    file.volume.kept.add(file)
    wait = file.volume.retry.failed_retry
    overdue.plan(file, None if wait is None else now + wait)


def _stamp(file: EngineFile) -> int:
    """Return the epoch of the changes that a commit was for: those that a caller wanted, or all."""
    return file.commit_asked() or file.volume.native.take_epoch()


def _late(file: EngineFile, op: Op) -> bool:
    """Return whether the result comes after an abort. It then only ends the flight: the bytes are dirty, and the next
    backend gets them. After a fence not even that is left to do.
    """
    if not op.stopped:
        return False
    if not op.settled:
        start, end = op.extent
        op.finish(False, False)
        if start < end:
            file.retry(start, end)
    return True


def _late_commit(file: EngineFile, op: Op) -> bool:
    """Return whether the result of a commit comes after an abort. The commit may have forgotten or stored acknowledged
    bytes although its result does not count; neither is a foreign change.
    """
    if op.stopped and not op.settled:
        file.versions.doubt()
        file.staging.forgotten()
    return _late(file, op)


def acknowledged(file: EngineFile, op: Op) -> None:
    if _late(file, op):
        return
    if not len(file.failures):
        op.finish(True, False)
        if file.commits.trying:
            overdue.sent(file)
        return
    start, end = op.extent
    what, next = f"write-back of [{start}, {end}) went through", "it waits for a commit"
    with file.lock:  # until the event is queued: later events of these bytes follow it
        op.finish(True, False)
        ended = failures.follow(file, start, end)
        repaired = ended and file.commits.error is None  # otherwise the successful commit reports it
        if repaired:
            remaining = file.failures.overlapping(start, end)  # of neighbours in its units
            ranges = tuple((at, stop - at) for at, stop in ended) if remaining else ((start, end - start),)
            file.volume.emit("repaired", file.key, ranges, message=what, next=next)
    if repaired:
        file.volume.say(logging.INFO, "data that was saved after all", what, next, file.key)
    if file.commits.trying:
        overdue.sent(file)


def failed(file: EngineFile, op: Op, error: BaseException, *, sent: bool) -> None:
    """Record a partly refused request: its bytes are dirty again, to be retried or parked.

    `sent`: the backend was asked to write, and has accepted what lies before the position of the request. Otherwise
    that is the position of a read.
    """
    if _late(file, op):
        return
    volume = file.volume
    now = volume.clock.now()
    start, end = op.extent
    if (most := max_write_of(error)) is not None:
        file.lower_max_write(most)
    progress = sent and start < op.offset < end
    front, start = start, op.offset if progress else start
    with file.lock:
        parts = failures.carried(file, start, end)
        before = [] if progress else [f for part in parts for f in file.failures.overlapping(*part)]
        attempts = 1 + max((f.attempts for f in before), default=0)
        since = min((f.since for f in before), default=now)
        delay = volume.judge(error, attempts, since)
        parked = delay is None
        wait = volume.retry.failed_retry if delay is None else delay
        if isinstance(error, ConflictError):
            wait = None  # only `resolve` and `discard` settle a conflict
        # An immediate retry is checked like any begun one (`failures.due`).
        next_retry = None if wait is None else now + (wait or volume.retry.max_delay)
        hopeless = parked or any(f.hopeless for f in before)
        failure = Failure(start, end, errno_of(error), attempts, text_of(error), since, next_retry, error, hopeless)
        failures.record(file, failure, parts)
        # Later events of these bytes follow this one.
        op.finish(False, parked)
        failures.follow(file, front, start)  # the accepted bytes before the failed ones
        what = f"write-back of [{start}, {end}) failed at try {attempts}: {cause(error)}"
        volume.troubles.failing(file)
        _report_failed(file, "failed write-back", ((start, end - start),), error, what, parked=parked, wait=wait)
    if delay == 0.0:
        file.refresh_limits()
        file.count("retries")
        file.retry(start, end)
        file.flush_start(STAMP_MAX, start, end)
    if next_retry is not None:
        volume.retry_by(file, next_retry)


def _report_failed(
    file: EngineFile,
    topic: str,
    ranges: tuple[tuple[int, int], ...],
    error: BaseException,
    what: str,
    *,
    parked: bool,
    wait: float | None,
    next: str | None = None,
) -> None:
    """Report a failure, with the file's lock held; it is an ERROR if there is no automatic retry."""
    volume, raised = file.volume, as_os_error(error)
    next = SETTLED if isinstance(error, ConflictError) else next or tried_again(wait)
    volume.emit("failed", file.key, ranges, raised, what, next)
    if parked:
        volume.emit("parked", file.key, ranges, raised, what, next)
        topic = "data that is kept after a failure"
    level = logging.ERROR if parked and wait is None else logging.WARNING
    volume.say(level, topic, what, next, file.key)


def committed(file: EngineFile, op: Op, version: str | None, changes: int | None) -> None:
    """Record a successful commit. `changes`: this cache's changes that had begun before the call; None: some of them
    may have run beside it.
    """
    if op.late and _late_commit(file, op):
        return
    volume, failed, tries = file.volume, None, 0
    staging = file.staging
    with staging.lock, file.lock:  # until the events are queued
        if file.commits is not NO_COMMITS:
            failed, tries = file.commits.succeed()
        file.versions.commit(version, changes)
        spooled = staging.writes  # first: the end releases the token
        if op.finish(True, False):  # no abort has come since
            staging.committed(spooled)
        if file.commits.failing_since is not None and file.sync_done(file.commits.stamp):
            file.commits.end()
        if failed is not None:
            what = f"the commit went through after {tries} that failed"
            volume.emit("repaired", file.key, message=what, next="it is stored")
        if volume.cache.feed.subscribers:
            volume.emit("committed", file.key, message="committed", next="it is stored")
    if hasattr(volume.backend, "warnings"):
        volume.pass_on_warnings()
    if failed is not None:
        volume.say(logging.INFO, "data that was saved after all", what, "it is stored", file.key)
    if volume.mirror is not None:
        volume.mirror.changed(file, "commit")
    if writeback_log.isEnabledFor(logging.DEBUG):
        volume.say(logging.DEBUG, "commits", "committed", key=file.key)


def commit_failed(file: EngineFile, op: Op, error: BaseException, *, kept: bool, called: bool) -> None:
    """Record a failed commit: acknowledged bytes are dirty again, all of them unless the backend has `kept` them; and
    failed if a retry would not help (contract 2.16.4). Direct writes in place are lost only if the backend was `called`
    to commit; those of a whole object go with its version.
    """
    if _late_commit(file, op):
        return
    volume = file.volume
    now = volume.clock.now()
    local = file.local_ranges()
    stamp = _stamp(file)
    with file.lock:
        # The backend may have forgotten acknowledged bytes; or it committed, and the reply was lost.
        file.change_begins(not is_refusal(error) or not file.limits().commit_on_close)
        commits = file.committing()
        commits.fail(error, stamp, now)
        file.count("failed_commits")
        delay = volume.judge(error, commits.round, commits.round_since)
        wait, pause, by_caller = volume.retry.failed_retry, volume.retry.max_delay, False
        if delay is not None:
            wait = pause = delay
            by_caller = file.commit_asked() > 0
        else:
            commits.park()
            if isinstance(error, ConflictError):
                wait = None  # only `resolve` and `discard` settle a conflict
        commits.wait_until(now + pause)
        at = None if wait is None or overdue.is_blocked(file) else now + wait + CALLER_GRACE * by_caller
        commits.try_at(at)
        next = _next_commit(file, wait, by_caller=by_caller, planned=at is not None)
        parked = bool(local) and not kept and not is_transient(error)
        if parked:
            failure = _parked(file, local[0][0], sum(local[-1]), error, now, wait)
            waiting = failures.waiting(file, failure.start, failure.end)
            failures.record(file, failure, [(failure.start, failure.end)])
            for earlier in waiting:  # they are no part of this commit, and their retry stays
                failures.record(file, earlier, [(earlier.start, earlier.end)])
    volume.troubles.failing(file)
    volume.kept.add(file)
    if not kept:
        if called or file.limits().commit_on_close:
            file.lose_direct()
        file.staging.forgotten()
    with file.lock:
        op.finish(False, KEPT if kept else PARKED if parked else 0)
        what = f"commit of {spans(local)} failed at try {commits.attempts}: {cause(error)}"
        _report_failed(file, "failed commits", tuple(local), error, what, parked=commits.parked, wait=wait, next=next)
    if parked and wait is not None:
        volume.retry_by(file, now + wait)
    if at is not None:
        volume.retry_by(file, at)


def _next_commit(file: EngineFile, wait: float | None, *, by_caller: bool, planned: bool) -> str:
    """Describe the future of a failed commit.

    Args:
        file: its lock is held.
        wait: seconds until the next try; None: no automatic one.
        by_caller: the caller of the failed commit makes the next try.
        planned: the flusher makes one.
    """
    by = "the next fsync, sync or close"
    if wait is None:
        return f"kept until {by}, `retry_failed` or `discard`"
    if by_caller or not file.limits().commit_on_close:
        return tried_again(wait)
    return f"{tried_again(wait)}, or by {by} if it changes before" if planned else f"tried again by {by}"


def _parked(file: EngineFile, start: int, end: int, error: BaseException, now: float, wait: float | None) -> Failure:
    before = file.failures.overlapping(start, end)
    since = min((f.since for f in before), default=now)
    next_retry = None if wait is None else now + wait
    attempts = file.commits.attempts
    return Failure(start, end, errno_of(error), attempts, text_of(error), since, next_retry, error, True)
