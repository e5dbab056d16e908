"""`Backend.sync`: makes names durable, which no file's commit covers.

Changes of names are counted. A sync that needs those up to its own beginning needs a call of `Backend.sync` that began
after them: a running call may have begun too early, then another follows. So concurrent syncs share calls, an idle
volume makes none, and a backend without support is asked once.

A call that fails with a transient error is repeated, by the retry policy, while a sync needs it.

Locks: `_lock`, held briefly; the calls run on the volume's threads and are polled, never waited for.
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


class NameSyncCall:
    """One call of `Backend.sync`. Its retry is a separate call.

    Attributes:
        covers: number of changes that are durable when it has succeeded.
        tries: failed calls before it.
        error: of the last possible attempt.
    """

    def __init__(self, sync: NameSync, covers: int, tries: Tries) -> None:
        self.covers = covers
        self.tries = tries
        self.submitted = False
        self.error: OSError | None = None
        cache = sync.volume.cache.native
        self.job: Job[None] = Job(lambda: sync.run(self), what="sync", then=cache.wake_all)

    def poll_delay(self) -> float:
        """Return the seconds after which it may be time to submit it."""
        return SLICE if self.submitted else self.tries.pause()


class NameSync:
    """The durable part of a volume's names."""

    def __init__(self, volume: EngineVolume) -> None:
        self.volume = volume
        self._lock = threading.Lock()
        self._supported = True
        self._changes = 1  # changes from before the attach may not be durable either
        self._durable = 0
        self._running: NameSyncCall | None = None

    def changed(self, *exc: object) -> None:
        """Count a change, or a possible change, of a name. As a context, of a change that runs: a sync covers it only
        if the sync begins after it; a failed change may have been carried out.
        """
        with self._lock:
            self._changes += 1

    __enter__ = __exit__ = changed

    def mark(self) -> int:
        """Return the number of changes so far."""
        with self._lock:
            return self._changes

    def reset(self) -> None:
        """Reset the state for another backend."""
        with self._lock:
            self._supported = True
            self._changes += 1
            self._running = None

    def begin(self, mark: int) -> NameSyncCall | None:
        """Return the call to wait for until everything up to the mark is durable; None: it is."""
        with self._lock:
            if not self._supported or self._durable >= mark:
                return None
            call = self._running
            if call is None:
                call = self._running = NameSyncCall(self, self._changes, Tries(self.volume))
        self.submit(call)
        return call

    def submit(self, call: NameSyncCall) -> None:
        """Submit a call if its time has come; called again until it has."""
        if not call.submitted and call.tries.pause() <= 0:  # an interrupt may have struck before
            with self._lock:
                call.covers = self._changes
            self.volume.runner.submit(NAMES, call.job)
            call.submitted = True

    def run(self, call: NameSyncCall) -> None:
        """Run the call on a thread of the volume."""
        supported, call.error = True, OSError(errno.EIO, "sync ended by an internal error")
        delay = None  # seconds until its retry, if there is one
        try:
            self.volume.backend.sync()
            call.error = None
        except BaseException as error:
            supported = errno_of(error) not in (errno.ENOSYS, errno.EOPNOTSUPP)
            delay = call.tries.judge(error) if supported else None
            call.error = as_os_error(error) if supported and delay is None else None
        finally:
            with self._lock:
                if self._running is call:
                    self._running = None if delay is None else NameSyncCall(self, call.covers, call.tries)
                    self._supported = supported
                    if call.error is None and delay is None:
                        self._durable = max(self._durable, call.covers)
