"""Whether and when to retry.

`decide` is a pure function of policy, error, attempt, time and a random number. A transient error is retried after an
exponential delay with full jitter (M. Brooker, "Exponential backoff and jitter", AWS 2015), until the attempts are used
up or the deadline has passed; then, and after a permanent error, the data is *parked*: dirty, readable, and free of
cost until something resumes it (contract 2.14).
"""

from __future__ import annotations

import errno
import itertools
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from ..config import RetryPolicy
from ..errors import BackendError
from .foreign import errno_of, max_write_of, retry_after_of, said_to_be_transient

if TYPE_CHECKING:
    from .file import EngineFile

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
ENDED = frozenset({errno.ENOTCONN, errno.EPIPE, errno.ESHUTDOWN, errno.ENETRESET})
"""Errors of a connection that has ended, perhaps behind the call: no retry helps, and it may have been carried out."""


EARLY_MAX = 5
"""Calls that may follow each other without the delay of the policy."""


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
    if not isinstance(error, Exception):
        return False
    return errno_of(error) in NOT_SENT if is_transient(error) else errno_of(error) not in ENDED


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
    delay = min(policy.max_delay, policy.first_delay * 2.0 ** min(attempts - 1, 60)) * random
    after = retry_after_of(error)
    if after is None:
        return Again(delay)
    most = policy.max_delay if policy.deadline is None else policy.deadline - elapsed
    return Again(min(after if attempts < EARLY_MAX else max(after, delay), most))


class Retries:
    """Files of one volume by the time at which the flusher must check their failures. Guarded by the volume's lock.

    Each file is planned at most once, at the earliest requested time. An interrupt may strike between two steps: an
    entry counts while `_planned` has it, which is set last; others are dropped when they are met.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[float, int]] = []  # a heap of times, each with the number of its entry
        self._files: dict[int, EngineFile] = {}  # by these numbers
        self._planned: dict[EngineFile, tuple[float, int]] = {}
        self._numbers = itertools.count()

    def __contains__(self, file: EngineFile) -> bool:
        return file in self._planned

    def plan(self, file: EngineFile, at: float) -> None:
        """Plan a check of the file by `at`. Cost: O(log n)."""
        known = self._planned.get(file)
        if known is not None and known[0] <= at:
            return
        entry = at, next(self._numbers)
        self._files[entry[1]] = file
        heappush(self._entries, entry)
        self._planned[file] = entry
        if known is not None:
            self._files.pop(known[1], None)

    def take(self, now: float) -> list[EngineFile]:
        """Remove and return the due files, the earliest first."""
        taken = []
        while (found := self.earliest()) is not None and found[0] <= now:
            self.forget(found[1])
            taken.append(found[1])
        return taken

    def forget(self, file: EngineFile) -> None:
        entry = self._planned.pop(file, None)
        if entry is not None:
            self._files.pop(entry[1], None)

    def earliest(self) -> tuple[float, EngineFile] | None:
        """Return the next time, and its file."""
        while self._entries:
            entry = self._entries[0]
            file = self._files.get(entry[1])
            if file is not None and self._planned.get(file) == entry:
                return entry[0], file
            heappop(self._entries)
            self._files.pop(entry[1], None)
        return None
