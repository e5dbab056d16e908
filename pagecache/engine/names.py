"""`Backend.sync`: making names durable, for everything that no file carries.

Changes of names are counted. A sync that wants those up to its own beginning needs a call of `Backend.sync` that began
after them: one that runs may have begun too early, then another follows. So concurrent syncs share calls, an idle
volume makes none, and a backend that cannot is asked once.

A call that fails with a transient error is followed by another one, by the retry policy, as long as a sync wants it.

Locks: `_lock`, for moments; the calls run on the volume's threads and are polled, never waited for.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from ..native import NAMES
from .attempts import Tries
from .foreign import as_os_error, errno_of
from .park import SLICE
from .runner import Job

if TYPE_CHECKING:
    from .volume import EngineVolume

__all__ = ["NameCall", "NameSync"]


class NameCall:
    """One call of `Backend.sync`. Its next try is a call like any other.

    Attributes:
        covers: changes that are durable when it has succeeded.
        tries: those that failed before it.
        error: of the last try there is.
    """

    def __init__(self, names: NameSync, covers: int, tries: Tries) -> None:
        self.covers = covers
        self.tries = tries
        self.submitted = False
        self.error: OSError | None = None
        cache = names.volume.cache.native
        self.job: Job[None] = Job(names.volume.park, lambda: names.run(self), what="sync", then=cache.wake_all)

    def rest(self) -> float:
        """Seconds after which it may be time to submit it."""
        return SLICE if self.submitted else self.tries.left()


class NameSync:
    """What of a volume's names is durable."""

    def __init__(self, volume: EngineVolume) -> None:
        self.volume = volume
        self._lock = threading.Lock()
        self._supported = True
        self._changes = 1  # what happened before the volume was attached may not be durable either
        self._durable = 0
        self._running: NameCall | None = None

    def changed(self) -> None:
        """A name was made, moved or removed, or may have been."""
        with self._lock:
            self._changes += 1

    def mark(self) -> int:
        """All changes so far."""
        with self._lock:
            return self._changes

    def reset(self) -> None:
        """Another backend: nothing is known of it."""
        with self._lock:
            self._supported = True
            self._changes += 1
            self._running = None

    def begin(self, mark: int) -> NameCall | None:
        """The call to wait for next until everything up to the mark is durable; None: it is."""
        with self._lock:
            if not self._supported or self._durable >= mark:
                return None
            call = self._running
            if call is None:
                call = self._running = NameCall(self, self._changes, Tries(self.volume))
        self.submit(call)
        return call

    def submit(self, call: NameCall) -> None:
        """Have a call made, if its time has come; asked again until it has."""
        if not call.submitted and call.tries.left() <= 0:  # an interrupt may have struck before
            with self._lock:
                call.covers = self._changes
            self.volume.runner.submit(NAMES, call.job)
            call.submitted = True

    def run(self, call: NameCall) -> None:
        """On a thread of the volume."""
        supported, call.error = True, OSError(errno.EIO, "sync ended by an internal error")
        delay = None
        try:
            supported, error = self._sync()
            delay = None if error is None else call.tries.judge(error)
            call.error = None if error is None or delay is not None else as_os_error(error)
        finally:
            self._over(call, supported, delay)

    def _sync(self) -> tuple[bool, BaseException | None]:
        """Make the call: whether the backend supports it, and what it failed with."""
        try:
            self.volume.backend.sync()
        except BaseException as error:
            supported = errno_of(error) not in (errno.ENOSYS, errno.EOPNOTSUPP)
            return supported, error if supported else None
        return True, None

    def _over(self, call: NameCall, supported: bool, delay: float | None) -> None:
        """A call has ended; `delay`: seconds until its next try, if there is one."""
        with self._lock:
            if self._running is not call:
                return
            self._running = None if delay is None else NameCall(self, call.covers, call.tries)
            self._supported = supported
            if call.error is None and delay is None:
                self._durable = max(self._durable, call.covers)
