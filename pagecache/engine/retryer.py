"""Whether and when to retry, and the failures so far.

`decide` is a pure function of policy, error, attempt, time and a random number. A transient error is retried after an
exponential delay with full jitter (M. Brooker, "Exponential backoff and jitter", AWS 2015), until the attempts are used
up or the deadline has passed; then, and after a permanent error, the data is *parked*: dirty, readable, and free of
cost until something resumes it (contract 2.14).

`Failures` maps the failed ranges of one file to their records. Ranges are disjoint; a new failure replaces the ranges
it covers, an acknowledgement removes them.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from sortedcontainers import SortedDict

from ..config import RetryPolicy
from ..errors import BackendError
from .foreign import errno_of, max_write_of, retry_after_of, said_to_be_transient

if TYPE_CHECKING:
    from .file import EngineFile

__all__ = ["Again", "Failure", "Failures", "Parked", "Retries", "decide", "is_refusal", "is_transient"]

TRANSIENT = frozenset(
    {
        errno.EIO,
        errno.EAGAIN,
        errno.EINTR,
        errno.ETIMEDOUT,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EBUSY,
    }
)


NOT_SENT = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
"""Transient errors after which the call was certainly not carried out."""


class Again(NamedTuple):
    """A retry after `delay` seconds."""

    delay: float


class Parked:
    """No automatic retry."""


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may help: by the backend's explicit flag, or the errno; not for an error that is no
    OSError.
    """
    if isinstance(error, BackendError):
        return said_to_be_transient(error)
    if not isinstance(error, OSError):
        return not isinstance(error, Exception)  # interrupted, not refused
    return errno_of(error) in TRANSIENT


def is_refusal(error: BaseException) -> bool:
    """Return whether the call that raised this was certainly not carried out."""
    if isinstance(error, BackendError) and not said_to_be_transient(error):
        return True
    return isinstance(error, Exception) and (not is_transient(error) or errno_of(error) in NOT_SENT)


def decide(policy: RetryPolicy, error: BaseException, attempts: int, elapsed: float, random: float) -> Again | Parked:
    """Decide after call number `attempts` failed.

    Args:
        policy: number and delay of retries.
        error: of the call.
        attempts: calls so far, including this one.
        elapsed: seconds since the first of them.
        random: from [0, 1), the jitter.
    """
    if not is_transient(error):
        return Parked()
    if max_write_of(error) is not None:
        return Again(0.0)
    if attempts >= policy.attempts or (policy.deadline is not None and elapsed >= policy.deadline):
        return Parked()
    after = retry_after_of(error)
    if after is not None:
        return Again(after)
    return Again(min(policy.max_delay, policy.first_delay * 2.0 ** (attempts - 1)) * random)


class Failure(NamedTuple):
    """Bytes [start, end) whose last write-back failed."""

    start: int
    end: int
    errno: int
    attempts: int
    message: str
    since: float
    next_retry: float | None
    parked: bool
    error: BaseException


class Failures:
    """Disjoint failed ranges of one file, by start."""

    def __init__(self) -> None:
        self._map: SortedDict[int, Failure] = SortedDict()

    def __len__(self) -> int:
        return len(self._map)

    def __iter__(self) -> Iterator[Failure]:
        return iter(list(self._map.values()))

    def overlapping(self, start: int, end: int) -> list[Failure]:
        """Return failures that overlap [start, end). Cost: O(log n + hits)."""
        first = max(0, self._map.bisect_right(start) - 1)
        found = []
        for key in self._map.islice(first):
            if key >= end:
                break
            if self._map[key].end > start:
                found.append(self._map[key])
        return found

    def clear(self, start: int, end: int) -> bool:
        """Remove failures of [start, end), keeping parts outside. Return whether there were any."""
        found = self.overlapping(start, end)
        for failure in found:
            del self._map[failure.start]
            if failure.start < start:
                self._map[failure.start] = failure._replace(end=start)
            if failure.end > end:
                self._map[end] = failure._replace(start=end)
        return bool(found)

    def add(self, failure: Failure) -> None:
        self.clear(failure.start, failure.end)
        self._map[failure.start] = failure

    def postpone(self, failure: Failure, until: float | None) -> None:
        """Set the next check of a failure to `until`; None: on request only."""
        self._map[failure.start] = failure._replace(next_retry=until)

    def next_retry(self) -> float | None:
        """Return the earliest time of a retry."""
        return min((f.next_retry for f in self if f.next_retry is not None), default=None)

    def worst(self) -> Failure | None:
        """Return one failure to report: the first parked one, otherwise the first."""
        return next((f for f in self if f.parked), next(iter(self), None))


class Retries:
    """Files of one volume by the time at which the flusher must check their failures. Guarded by the volume's lock.

    Each file is planned at most once, at the earliest requested time.
    """

    def __init__(self) -> None:
        self._files: SortedDict[tuple[float, int], EngineFile] = SortedDict()
        self._keys: dict[EngineFile, tuple[float, int]] = {}
        self._numbers = itertools.count()

    def __contains__(self, file: EngineFile) -> bool:
        return file in self._keys

    def plan(self, file: EngineFile, at: float) -> None:
        """Plan a check of the file by `at`. Cost: O(log n)."""
        known = self._keys.get(file)
        if known is not None and known[0] <= at:
            return
        self.forget(file)
        key = self._keys[file] = (at, next(self._numbers))
        self._files[key] = file

    def take(self, now: float) -> list[EngineFile]:
        """Remove and return the due files, the earliest first."""
        taken = []
        while self._files and self._files.peekitem(0)[0][0] <= now:
            file = self._files.popitem(0)[1]
            del self._keys[file]
            taken.append(file)
        return taken

    def forget(self, file: EngineFile) -> None:
        key = self._keys.pop(file, None)
        if key is not None:
            del self._files[key]

    def earliest(self) -> tuple[float, EngineFile] | None:
        """Return the next time, and its file."""
        if not self._files:
            return None
        (at, _), file = self._files.peekitem(0)
        return at, file
