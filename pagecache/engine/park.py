"""How a thread waits.

Every wait of the engine has one shape: note an event's sequence number, check the condition, sleep while the sequence
is unchanged. Sleeps are slices, signal handlers run in between, and each check may raise (aborted, deadline): every
wait can be ended [K9]. A thread that changes a condition advances the event first, so no wake-up is missed.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from .. import native
from ..errors import Key

SLICE = 0.1


class Clock:
    """Monotonic seconds."""

    now = staticmethod(time.monotonic)


def start_thread(thread: threading.Thread, whose: str) -> None:
    """Start a thread.

    Raises:
        BlockingIOError: Python or the system refuses (EAGAIN).
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise BlockingIOError(errno.EAGAIN, f"a thread {whose} cannot be started: {error}") from error


def make_calls(calls: SimpleQueue[Callable[[], object] | None]) -> None:
    """Make calls until None; the target of a thread. It refers to the objects of calls only while there are some."""
    while (call := calls.get()) is not None:
        call()
        del call


def deadline_error(
    what: str,
    key: Key | None = None,
    *,
    failed: str = "",
    wait: float | None = None,
    then: str = "what was started goes on",
) -> TimeoutError:
    """Return the error of a wait whose deadline passed.

    Args:
        what: the operation.
        key: the object concerned; `filename`.
        failed: the error of the last attempt, if one failed.
        wait: seconds until the next attempt.
        then: the next step.
    """
    text = f"{what}: the deadline passed"
    if failed:
        text += f"; the last try failed: {failed}"
    if wait is not None:
        text += f"; the next try is in {max(0.0, wait):.1f} s"
    text += f"; {then}"
    return TimeoutError(errno.ETIMEDOUT, text) if key is None else TimeoutError(errno.ETIMEDOUT, text, key)


class Deadline:
    """A point in time by which a wait must end, or never."""

    __slots__ = ("at", "clock")

    def __init__(self, clock: Clock, timeout: float | None) -> None:
        if timeout is not None and not isinstance(timeout, int | float):
            raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}")
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout: {timeout!r} is not a number of seconds of at least 0, or None")
        self.clock = clock
        self.at = None if timeout is None else clock.now() + timeout

    def left(self) -> float:
        """Return the seconds left, 0.0 when it has passed."""
        return SLICE if self.at is None else max(0.0, self.at - self.clock.now())

    def timeout(self) -> float | None:
        """Return the seconds left, for waits that take a timeout; None: unlimited."""
        return None if self.at is None else self.left()

    def until(self) -> float | None:
        """Return it on the monotonic clock, for waits of CORE; None: never."""
        return None if self.at is None else time.monotonic() + self.left()

    def passed(self) -> bool:
        return self.at is not None and self.clock.now() >= self.at


NEVER = Deadline(Clock(), None)


class Signal:
    """A flag, set once. Made of one lock without Python code: threading.Condition can lose its lock to an interrupt
    that strikes between acquiring it and the block that would release it. If one strikes a waiter here, the lock stays
    taken, and the other waiters see the flag at the end of their slice.
    """

    __slots__ = ("_lock", "_set")

    def __init__(self) -> None:
        self._set = False
        self._lock = threading.Lock()  # locked while it is not set: waiters sleep on it
        self._lock.acquire()

    def set(self) -> None:
        self._set = True
        self._lock.release()

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float) -> bool:
        """Return whether it is set, after waiting at most `timeout` seconds; signal handlers run."""
        if not self._set and self._lock.acquire(timeout=timeout):
            self._lock.release()
        return self._set


class Park:
    """Waits of threads for events of CORE."""

    def wait(self, kind: str, address: int, seq: int, timeout: float) -> None:
        """Sleep while an event of CORE stands at `seq`, at most a slice."""
        native.wait(kind, address, seq, min(timeout, SLICE))
