"""Failed ranges of a file: their records, their retries and their reports.

CORE's index is the only registry of failed bytes: it has which bytes wait for a retry (BACKOFF) and which are parked
(X). A record is an attachment to such a range, with errno, attempts, times and the exception. It states nothing about
the bytes, and may be missing: bytes without a record are reported and retried all the same.

Records cover whole blocks, as the index does. A new failure replaces the records of the bytes that the failed call
carried, in the section that reports the result to CORE. Records end in one function, `follow`, which asks the index.
`check` compares both.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ConflictError, FailedRange
from ..native import BACKOFF, DIRTY, END, FAILED, STAMP_MAX, WRITEBACK
from .foreign import errno_of, text_of

if TYPE_CHECKING:
    from .file import EngineFile


PER_TURN = 64
"""Maximum records that `due` resumes in one turn, and maximum steps of its search for bytes without a record."""


class Failure(NamedTuple):
    """The record of the blocks [start, end), in which the last write-back failed."""

    start: int
    end: int
    errno: int
    attempts: int
    message: str
    since: float
    next_retry: float | None
    error: BaseException
    hopeless: bool
    """They were parked, now or before."""


_START, _END = attrgetter("start"), attrgetter("end")


class Failures:
    """The records of one file: disjoint failed ranges, by start. Made with the first failure.

    Lock: `EngineFile.lock`, held by the caller of every method but `__len__` and `hopeless`.

    An interrupt may strike at any point. One step changes the records as a whole.
    """

    __slots__ = ("_records", "position", "search_again")

    def __init__(self) -> None:
        self._records: list[Failure] = []
        self.position = 0
        """Offset at which the next turn continues its search for bytes without a record; 0: no search runs."""
        self.search_again = False
        """Whether bytes that the search has passed may wait now."""

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Failure]:
        return iter(list(self._records))

    @property
    def hopeless(self) -> int:
        """Bytes with records that were parked, now or before. Cost: O(n)."""
        return sum(failure.end - failure.start for failure in self if failure.hopeless)

    def overlapping(self, start: int, end: int) -> list[Failure]:
        """Return failures that overlap [start, end). Cost: O(log n + hits)."""
        return self._records[bisect_right(self._records, start, key=_END) : bisect_left(self._records, end, key=_START)]

    def add(self, failure: Failure) -> None:
        self.clear(failure.start, failure.end, failure)

    def clear(self, start: int, end: int, *by: Failure) -> None:
        """Remove failures of [start, end), keeping parts outside; `by` takes their place."""
        old, first = self.overlapping(start, end), bisect_right(self._records, start, key=_END)
        before = [failure._replace(end=start) for failure in old[:1] if failure.start < start]
        new = [*before, *by, *(failure._replace(start=end) for failure in old[-1:] if failure.end > end)]
        self._records[first : first + len(old)] = new

    def postpone(self, failure: Failure, until: float | None) -> None:
        """Set the next check of a failure to `until`; None: on request only."""
        self.add(failure._replace(next_retry=until))

    def next_retry(self) -> float | None:
        """Return the earliest time of a retry. Cost: O(n)."""
        return min((failure.next_retry for failure in self._records if failure.next_retry is not None), default=None)

    def due(self, now: float, most: int) -> list[Failure]:
        """Return at most `most` failures whose retry is due, earliest first. Cost: O(n)."""
        due = (failure for failure in self._records if failure.next_retry is not None and failure.next_retry <= now)
        return heapq.nsmallest(most, due, key=attrgetter("next_retry", "start"))

    def after(self, pos: int) -> Failure | None:
        """Return the first failure that ends after `pos`. Cost: O(log n)."""
        first = bisect_right(self._records, pos, key=_END)
        return self._records[first] if first < len(self._records) else None

    def search_anew(self) -> None:
        """Have a search in progress begin again after its end."""
        if self.position:
            self.search_again = True

    def continue_at(self, pos: int) -> None:
        self.position = pos

    def end_search(self) -> bool:
        """Record that the search has reached the end; return whether it begins again."""
        again = self.search_again
        if self.position:
            self.position, self.search_again = 0, False
        return again

    def forget(self) -> None:
        """Forget all records: retries of these bytes begin anew."""
        if self._records:
            self.clear(0, END)
        self.search_anew()  # waiting bytes that it has passed have no record from here on


NO_FAILURES = Failures()
"""The records of every file that has met no failure."""


def record(file: EngineFile, failure: Failure, parts: Iterable[tuple[int, int]]) -> None:
    """Attach a failure to the blocks of these ranges. The lock is held, and CORE does not have the result yet."""
    for start, end in parts:
        first, last = _blocks(file, start, end)
        file.failing().add(failure._replace(start=first, end=last))
    file.volume.kept.add(file)


def waiting(file: EngineFile, start: int, end: int) -> list[Failure]:
    """Return the records that overlap [start, end) of bytes that wait for the time of a retry. The lock is held."""
    found = [failure for failure in file.failures.overlapping(start, end) if failure.next_retry is not None]
    return [failure for failure in found if file.range_next(failure.start, failure.end, BACKOFF) != END]


def _blocks(file: EngineFile, start: int, end: int) -> tuple[int, int]:
    """Return the range, rounded outward to whole blocks."""
    page = int(file.volume.cache.config.page_size)
    return start // page * page, min(-(-end // page) * page, END)


def carried(file: EngineFile, start: int, end: int) -> list[tuple[int, int]]:
    """Return the parts of a running request to which a failure of it belongs.

    A request of whole write units also has neighbours, which are not in flight. Those that wait for a retry keep the
    record of that failure: a parked neighbour is not retried as often as this request.
    """
    if file.limits().write_unit == 1:
        return [(start, end)]
    page = int(file.volume.cache.config.page_size)
    parts: list[tuple[int, int]] = []
    at = start
    while (at := file.range_next(at, end, WRITEBACK)) != END:
        stop = min((at // page + 1) * page, end)
        if parts and file.range_next(parts[-1][1], at, BACKOFF) == END:
            parts[-1] = parts[-1][0], stop
        else:
            parts.append((at, stop))
        at = stop
    return parts or [(start, end)]


def follow(file: EngineFile, start: int, end: int, *, resumed: bool = False) -> list[tuple[int, int]]:
    """Drop the records of the blocks of [start, end) whose failed bytes the index no longer has. The lock is held.

    Bytes that are dirty and do not wait are newer than the failure: they start without a record.

    `resumed`: a retry of these bytes has just begun, so they need not wait. A byte that is dirty or in flight keeps its
    record, which counts the attempts.

    Returns: the dropped ranges.
    """
    dropped: list[tuple[int, int]] = []
    if start >= end:
        return dropped
    start, end = _blocks(file, start, end)
    for failure in file.failures.overlapping(start, end):
        first, last = max(start, failure.start), min(end, failure.end)
        if file.range_next(first, last, DIRTY | WRITEBACK if resumed else BACKOFF) == END:
            file.failures.clear(first, last)
            dropped.append((first, last))
    return dropped


def is_parked(file: EngineFile, failure: Failure, start: int = 0, end: int = END) -> bool:
    """Return whether the index has parked bytes in the range of a record, and in [start, end)."""
    return file.range_next(max(start, failure.start), min(end, failure.end), FAILED) != END


def worst(file: EngineFile) -> Failure | None:
    """Return the record to report: of the first parked bytes that have one, otherwise the first. The lock is held."""
    if len(file.failures) and file.number("failed"):
        at = 0
        while (at := file.range_next(at, END, FAILED)) != END:
            failure = file.failures.after(at)
            if failure is None:
                break
            if failure.start <= at:
                return failure
            at = failure.start
    return file.failures.after(0)


def _unrecorded(file: EngineFile) -> int | None:
    """Return the first parked byte without a record. The lock is held."""
    at = 0
    while (at := file.range_next(at, END, FAILED)) != END:
        failure = file.failures.after(at)
        if failure is None or failure.start > at:
            return at
        at = failure.end
    return None


def check(file: EngineFile) -> str | None:
    """Return a sentence on records that disagree with the index; None: they agree.

    A parked block has a record, unless the failure of a commit, an abort, an abandoned file or a conflict explains it.
    A record without a time of a retry has parked blocks, if any of its blocks wait and the file is not cut off.
    """
    with file.lock:
        for one, other in pairwise(file.failures):
            if one.end > other.start:
                return f"{file.key!r}: the records of failed ranges {one[:2]} and {other[:2]} overlap"
        for failure in file.failures:
            # In this order: a retry that begins beside this makes parked bytes dirty at once.
            timeless = failure.next_retry is None and not is_parked(file, failure) and not file.is_cut_off()
            if timeless and file.range_next(failure.start, failure.end, BACKOFF) != END:
                return f"{file.key!r}: nothing retries the bytes of {failure[:2]}, which wait for it"
        volume = file.volume
        if file.abandoned or file.conflict or file.commits.failed or volume.aborted or volume.reconnects:
            return None
        at = _unrecorded(file)
    return None if at is None else f"{file.key!r}: the failed block at {at} has no record"


def _may_wait(file: EngineFile, start: int, end: int) -> bool:
    """Return whether a retry of [start, end) may find waiting bytes: such bytes, or a record that overlaps."""
    if not len(file.failures):
        return False
    with file.lock:
        known = bool(file.failures.overlapping(start, end))
    return known or file.range_next(start, end, BACKOFF) != END


def resume(file: EngineFile, start: int = 0, end: int = END) -> None:
    """Make parked and waiting data dirty again, and send it."""
    if file.conflict is not None:
        return
    if not file.number("failed") and not _may_wait(file, start, end):
        return  # bytes that wait without any record are retried by `due`
    file.refresh_limits()
    file.retry(start, end, failed_too=True)
    file.flush_start(STAMP_MAX, start, end)


def ensure_retry(file: EngineFile) -> None:
    """Ensure that the flusher has the time of the earliest waiting failure."""
    with file.lock:
        file.failures.search_anew()
    planned, now = file.volume.retry_planned(file), file.volume.clock.now()
    if planned is not None and planned <= now + file.volume.retry.max_delay:
        return  # without a look at all records
    with file.lock:
        at = file.failures.next_retry()
    file.volume.retry_by(file, now if at is None else at)


def replan_parked(file: EngineFile) -> float | None:
    """Plan parked data by the current policy; return the time of the next retry."""
    wait, now = file.volume.retry.failed_retry, file.volume.clock.now()
    with file.lock:
        for failure in file.failures:
            if is_parked(file, failure) and not isinstance(failure.error, ConflictError):
                at = math.inf if failure.next_retry is None else failure.next_retry
                file.failures.postpone(failure, None if wait is None else min(at, now + wait))
        return file.failures.next_retry()


def due(file: EngineFile, now: float) -> float | None:
    """Resume due failures, as many as one turn may; return the time of the next turn."""
    with file.lock:
        due = file.failures.due(now, PER_TURN)
    file.refresh_limits()  # dirty again, it is divided by the current limits [K5]
    for failure in due:
        file.count("retries")
        file.retry(failure.start, failure.end, failed_too=is_parked(file, failure))
        file.flush_start(STAMP_MAX, failure.start, failure.end)
    with file.lock:
        for failure in due:
            follow(file, failure.start, failure.end, resumed=True)  # it may have been written back with its neighbours
            for current in file.failures.overlapping(failure.start, failure.end):
                if current is failure:
                    file.failures.postpone(failure, now + file.volume.retry.max_delay)
        next_retry = file.failures.next_retry()
        folio = int(file.volume.cache.config.max_folio)
        alone, more = _waiting_alone(file, folio)
    for start in alone:  # parked bytes wait for a request
        if file.retry(start, start + folio):
            file.flush_start(STAMP_MAX, start, start + folio)
    return now if more else next_retry


def _waiting_alone(file: EngineFile, folio: int) -> tuple[list[int], bool]:
    """Search for folios with waiting bytes and no record, for `PER_TURN` steps, from where the last turn ended. A
    record that may be of the same folio has the time for it. The lock is held.

    Returns: the starts of the folios, and whether the search has to continue in the next turn.
    """
    found: list[int] = []
    at, steps = file.failures.position, 0
    while steps < PER_TURN and (at := file.range_next(at, END, BACKOFF)) != END:
        failure = file.failures.after(at)
        if failure is not None and failure.start <= at:
            at = failure.end
        else:
            start = at // folio * folio
            if not file.failures.overlapping(start, start + folio):
                found.append(start)
            at = start + folio
        steps += 1
    if at < END:
        file.failing().continue_at(at)
        return found, True
    return found, file.failures.end_search()


def failed_ranges(file: EngineFile, everything: bool = False) -> list[FailedRange]:
    """Return the permanent failures (everything: all local data, of an aborted volume or after a failed commit), cut at
    the size.
    """
    now = file.volume.clock.now()
    ranges = file.local_ranges() if everything else file.failed_ranges()
    found = []
    with file.lock:
        for pos, length in ranges:
            known = file.failures.overlapping(pos, pos + length)
            failure = known[0] if known else None
            if everything and len(known) > 1:
                failure = next((f for f in known if is_parked(file, f, pos, pos + length)), failure)
            found.append(_failed_range(file, pos, length, failure, now))
    return found


def _failed_range(file: EngineFile, pos: int, length: int, failure: Failure | None, now: float) -> FailedRange:
    if failure is None:
        return _uncommitted(file, pos, length, "", now)
    at = failure.next_retry if file.conflict is None else None  # only `resolve` and `discard` settle a conflict
    wait = None if at is None else max(0.0, at - now)
    since = max(0.0, now - failure.since)
    return FailedRange(
        file.key, pos, length, failure.errno, failure.attempts, wait, file.volume.name, failure.message, since
    )


def _why_local(file: EngineFile, otherwise: str) -> tuple[int, str]:
    """Return errno and text of the reason why bytes that did not fail themselves stay local."""
    reason = file.volume.abort_reason
    error = file.commits.error if reason is None else reason
    return (0, otherwise) if error is None else (errno_of(error), text_of(error))


def uncommitted_range(file: EngineFile) -> FailedRange:
    """Return a range for a change without bytes (creation, size, holes) that waits for a commit."""
    otherwise = "its creation, size, holes or direct writes are not committed"
    return _uncommitted(file, file.size, 0, otherwise, file.volume.clock.now())


def _uncommitted(file: EngineFile, pos: int, length: int, otherwise: str, now: float) -> FailedRange:
    commits = file.commits
    code, message = _why_local(file, otherwise)
    wait = None if commits.next_try is None else max(0.0, commits.next_try - now)
    since = 0.0 if commits.failing_since is None else max(0.0, now - commits.failing_since)
    return FailedRange(file.key, pos, length, code, commits.attempts, wait, file.volume.name, message, since)
