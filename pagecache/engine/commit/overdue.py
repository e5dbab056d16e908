"""Saves that failed: data that an fsync, close or sync wanted to have committed, or that the cache itself committed.

A file is *overdue* from its first failed commit or refused save until everything up to `Commits.stamp` is committed.
The index has which bytes that concerns; the record has only the epoch, the times and the last error. So it ends by
itself: when the bytes are committed, discarded, or the object is removed.

Tries of an overdue file:

    by         when                                                 then
    a caller   its fsync, close or sync goes on (barrier.py)        the flusher makes none beside it
    flusher    `next_try`: after the delay of the policy, and       sends dirty bytes up to the stamp; the last of their
               `failed_retry` seconds after each parked failure     acknowledgements starts the commit

On a `commit_on_close` backend a commit publishes the object. The flusher publishes no more than the caller wanted to
have published: once the object has changed after the stamp, only the next fsync, close or sync saves it.

Lock: `EngineFile.lock` for the record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import FailedRange
from ...native import DIRTY, WRITEBACK
from .. import failures

if TYPE_CHECKING:
    from ..file import EngineFile


def stands(file: EngineFile) -> bool:
    """Return whether data of a failed save is still not saved."""
    commits = file.commits
    return commits.failing_since is not None and not file.removed and not file.sync_done(commits.stamp)


def _is_listed(file: EngineFile) -> bool:
    """Return whether all unsaved data of the file counts as failed: its last save is parked, and no range says so."""
    commits = file.commits
    if not commits.parked or not stands(file):
        return False
    return commits.error is not None or not file.number("failed")


def failed_ranges(file: EngineFile) -> list[FailedRange]:
    """Return the permanent failures: all local data, of an aborted volume and after a failed commit."""
    listed = _is_listed(file)
    ranges = failures.failed_ranges(file, everything=listed or file.volume.aborted)
    return [failures.uncommitted_range(file)] if listed and not ranges else ranges


def failed_bytes(file: EngineFile) -> int:
    """Return the bytes that count as failed and that the index does not count as such."""
    if not _is_listed(file):
        return 0
    usage = file.usage()
    return usage["local"] + usage["staged"] - usage["failed"]


def is_blocked(file: EngineFile) -> bool:
    """Return whether a try without a caller would publish changes that no caller wanted to have published."""
    return file.limits().commit_on_close and file.changed_since(file.commits.stamp)


def plan(file: EngineFile, at: float | None) -> None:
    """Plan the next try; None: only on request."""
    with file.lock:
        file.commits.try_at(at)
    if at is not None:
        file.volume.retry_by(file, at)


def refused(file: EngineFile, stamp: int) -> None:
    """Record that a caller gives up: its changes up to `stamp` are not saved."""
    now, wait = file.volume.clock.now(), file.volume.retry.failed_retry
    with file.lock:
        commits = file.committing()
        commits.fall_due(stamp, now)
        commits.park()
        planned = commits.next_try is not None
    file.volume.troubles.failing(file)
    if not planned:
        plan(file, None if wait is None or file.conflict is not None else now + wait)


def due(file: EngineFile, now: float) -> float | None:
    """Make a try that is due; return the time of the next check. On the flusher."""
    commits = file.commits
    if commits.failing_since is None:
        return None
    if not stands(file):
        with file.lock:
            if not stands(file):  # another save may have failed since
                commits.end()
                return None
    at = commits.next_try
    if at is None or at > now:
        return at
    if len(commits.callers):
        return now + file.volume.retry.max_delay
    return _start(file, now)


def _start(file: EngineFile, now: float) -> float | None:
    """Begin a try, unless only a caller may; return the time of the next check."""
    again = now + file.volume.retry.max_delay
    with file.lock:
        commits = file.commits
        if commits.failing_since is None:
            return None  # a commit has saved everything since the check
        if file.conflict is not None or file.abandoned or file.withheld or is_blocked(file):
            commits.try_at(None)
            return None
        commits.begin_try(again)  # a failure plans another one
    file.count("retries")
    file.refresh_limits()
    found = file.flush_pending(file.commits.stamp)
    if found & DIRTY:
        file.flush_start(file.commits.stamp)
    elif not found:
        file.start_commit(file.commits.stamp)
    return again


def resume(file: EngineFile) -> None:
    if stands(file):
        now = file.volume.clock.now()
        if (at := _start(file, now)) is not None:
            file.volume.retry_by(file, at)


def sent(file: EngineFile) -> None:
    """Start the commit of a try once everything that it sends is acknowledged."""
    if not file.flush_pending(file.commits.stamp) & (DIRTY | WRITEBACK):
        file.start_commit(file.commits.stamp)


def replan(file: EngineFile) -> None:
    """Plan a parked save by a changed `failed_retry`."""
    commits, wait = file.commits, file.volume.retry.failed_retry
    if not commits.parked or not stands(file) or file.conflict is not None:
        return
    at = None if wait is None else file.volume.clock.now() + wait
    plan(file, at if at is None or commits.next_try is None else min(at, commits.next_try))


def oldest(file: EngineFile) -> float | None:
    """Return when the oldest data arose that is not saved, as far as known: dirty, in a running call, or overdue."""
    found = []
    if age := file.number("age"):
        found.append(age / 1e9)
    sent = file.sent_before
    if sent is not None and file.flush_pending(sent[0]):
        found.append(sent[1])
    with file.lock:
        found += [failure.since for failure in file.failures]
    if (since := file.overdue_since()) is not None:
        found.append(since)
    return min(found, default=None)
