"""Whether and when to retry.

`decide` is a pure function of policy, error, attempt, time and a random number. A transient error is retried after an
exponential delay with full jitter (M. Brooker, "Exponential backoff and jitter", AWS 2015), until the attempts are used
up or the deadline has passed; then, and after a permanent error, the data is *parked*: dirty, readable, and free of
cost until something resumes it (contract 2.14).
"""

from __future__ import annotations

import errno

from ..config import RetryPolicy
from ..errors import BackendError
from .foreign import errno_of, max_write_of, retry_after_of, said_to_be_transient

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
TRANSIENT = NOT_SENT | {errno.EIO, errno.EINTR, errno.ETIMEDOUT, errno.ECONNABORTED, errno.ECONNRESET}
ENDED = frozenset({errno.ENOTCONN, errno.EPIPE, errno.ESHUTDOWN, errno.ENETRESET})
"""Errors of a connection that has ended, perhaps behind the call: no retry helps, and it may have been carried out."""


EARLY_MAX = 5
"""Calls that may follow each other without the delay of the policy."""


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


def decide(policy: RetryPolicy, error: BaseException, attempts: int, elapsed: float, random: float) -> float | None:
    """Return the seconds until the next attempt after call number `attempts` failed; None: there is none.

    Args:
        policy: number and delay of retries.
        error: of the call.
        attempts: calls so far, including this one.
        elapsed: seconds since the first of them.
        random: from [0, 1), the jitter.
    """
    if not is_transient(error):
        return None
    if max_write_of(error) is not None:
        return 0.0
    if attempts >= policy.attempts or (policy.deadline is not None and elapsed >= policy.deadline):
        return None
    delay = min(policy.max_delay, policy.first_delay * 2.0 ** min(attempts - 1, 60)) * random
    after = retry_after_of(error)
    if after is None:
        return delay
    most = policy.max_delay if policy.deadline is None else policy.deadline - elapsed
    return min(after if attempts < EARLY_MAX else max(after, delay), most)
