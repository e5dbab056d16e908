"""What an answer means.

Order of effects (contract 2.14): the error is recorded, then CORE changes sets, marks and stamps and wakes whoever
waits, then events go out. Who is woken therefore sees the error.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import BackendError, ConflictError, PageCacheError
from ..native import BACKOFF, END, FAILED, KEPT, PARKED, STAMP_MAX, Op
from . import staging
from .retryer import Again, Failure, Parked, decide, errno_of, is_transient, text_of

if TYPE_CHECKING:
    from .file import EngineFile

__all__ = ["acknowledged", "as_os_error", "commit_failed", "committed", "failed"]

log = logging.getLogger("pagecache")


def as_os_error(error: BaseException) -> OSError:
    """The error itself, or what it counts as."""
    if isinstance(error, OSError):
        return error
    return PageCacheError(f"{type(error).__name__}: {error}", errno=errno_of(error))


def _late(file: EngineFile, op: Op) -> bool:
    """Whether the answer comes after an abort. Good or bad, it only ends what is in flight: the bytes are dirty, and
    another backend gets them. Where a fence came first not even that is left to do.
    """
    if not op.stopped:
        return False
    if not op.settled:
        start, end = op.extent
        op.finish(False, False)
        if start < end:
            file.native.retry(start, end)
    return True


def acknowledged(file: EngineFile, op: Op) -> None:
    if _late(file, op):
        return
    start, end = op.extent
    repaired = False
    if len(file.failures):
        with file.lock:
            repaired = not _neighbour_waits(file, start, end) and file.failures.clear(start, end)
    op.finish(True, False)
    if repaired:
        file.volume.emit("repaired", file.key, ((start, end - start),))


def _neighbour_waits(file: EngineFile, start: int, end: int) -> bool:
    """Whether bytes that only went along in their unit wait after a failure: what is known of it wakes them."""
    if file.limits().write_unit == 1:
        return False
    return bool(file.native.flush_pending(STAMP_MAX, start, end) & (BACKOFF | FAILED))


def failed(file: EngineFile, op: Op, error: BaseException) -> None:
    """Some of the request was not taken: dirty again, to be tried later or parked."""
    if _late(file, op):
        return
    volume = file.volume
    now = volume.clock.now()
    start, end = op.extent
    anew = (op.stage or op.staged) and staging.gone(error) and staging.give_up(file)
    progress = start < op.offset < end
    start = op.offset if progress else start
    with file.lock:
        before = [] if progress else file.failures.overlapping(start, end)
        attempts = 1 + max((f.attempts for f in before), default=0)
        since = min((f.since for f in before), default=now)
        decision = Again(0.0) if anew else decide(volume.retry, error, attempts, now - since, volume.random())
        parked = isinstance(decision, Parked)
        wait = volume.retry.failed_retry if isinstance(decision, Parked) else decision.delay
        if isinstance(error, ConflictError):
            wait = None  # nothing but `resolve` and `discard` settles it
        next_retry = None if wait is None else now + wait
        file.failures.add(
            Failure(start, end, errno_of(error), attempts, text_of(error), since, next_retry, parked, error)
        )
    if isinstance(error, BackendError) and error.max_write is not None:
        file.lower_max_write(error.max_write)
    op.finish(False, parked)
    ranges = ((start, end - start),)
    log.warning("%s: %r: write-back of [%d, %d) failed: %s", volume.name, file.key, start, end, error)
    volume.emit("failed", file.key, ranges, as_os_error(error))
    if parked:
        volume.emit("parked", file.key, ranges, as_os_error(error))
    if isinstance(decision, Again) and decision.delay == 0.0:
        file.refresh_limits()
        file.native.count_retry()
        file.native.retry(start, end)
        file.native.flush_start(STAMP_MAX, start, end)
    else:
        volume.retry_later(file)


def committed(file: EngineFile, op: Op, version: str | None, changes: int | None) -> None:
    """`changes`: those of our own that had begun before the call; None: some of them may have gone on beside it."""
    if _late(file, op):
        return
    with file.lock:
        file.commit_error = None
        file.commit_attempts = file.rebases = 0
        file.commit_not_before = 0.0
        alone = file.own_changes == changes
        file.own_changes += 1
        file.holes.clear()
        file.created = False
        if version is not None:
            file.version = version
            # Direct writes beside it have made another version of it since, perhaps.
            file.version_stale = not alone and not file.limits().commit_on_close
    op.finish(True, False)
    if file.volume.mirror is not None:
        file.volume.mirror.committed(file.key)
    file.volume.emit("committed", file.key)


def commit_failed(file: EngineFile, op: Op, error: BaseException) -> None:
    """Acknowledged bytes are dirty again, all of them unless the backend says that it kept them; and failed where
    another try would not help (contract 2.16.4).
    """
    error = (not op.stopped and staging.commit_lost(file, op, error)) or error
    if _late(file, op):
        return
    volume = file.volume
    now = volume.clock.now()
    local = file.native.local_ranges()
    kept = bool(getattr(error, "kept", False))
    parked = bool(local) and not kept and not is_transient(error)
    with file.lock:
        file.commit_attempts += 1
        file.commits_failed += 1
        file.own_changes += 1
        # It may have forgotten bytes that it had acknowledged; or it did its work and the answer was lost.
        file.version_stale |= is_transient(error) or not file.limits().commit_on_close
        file.commit_error = error
        decision = decide(volume.retry, error, file.commit_attempts, 0.0, volume.random())
        delay = decision.delay if isinstance(decision, Again) else volume.retry.max_delay
        file.commit_not_before = now + delay
        if parked:
            file.failures.add(_parked(file, local[0][0], sum(local[-1]), error, now))
    if not kept:
        file.lose_direct()
    op.finish(False, KEPT if kept else PARKED if parked else 0)
    log.warning("%s: %r: commit failed: %s", volume.name, file.key, error)
    volume.emit("failed", file.key, ((0, END),), as_os_error(error))
    if parked:
        volume.emit("parked", file.key, tuple(local), as_os_error(error))
        volume.retry_later(file)


def _parked(file: EngineFile, start: int, end: int, error: BaseException, now: float) -> Failure:
    before = file.failures.overlapping(start, end)
    since = min((f.since for f in before), default=now)
    wait = file.volume.retry.failed_retry
    next_retry = None if wait is None else now + wait
    return Failure(start, end, errno_of(error), file.commit_attempts, text_of(error), since, next_retry, True, error)
