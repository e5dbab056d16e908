"""Backend calls without bytes: their deadline, and the attempts for one call of the program.

A transient error stays invisible to the program while the retry policy has attempts left (contract 2.14). The caller
waits between two attempts, so the volume's threads are free for other calls. Three things end the wait: the deadline of
the caller, an abort, and an interrupt. None of them ends a running backend call.

The calls of a prompt backend are made on the thread of the caller. Nothing ends the wait for a running one, so an
interrupt strikes in the middle of it. A call whose second half publishes what the first half has changed (`whole`) is
made on a thread of the volume all the same if the caller is the main thread, which handles signals.

A reading call is repeated unchanged. A call that changes names is repeated if the effect of its second attempt can be
distinguished from that of the first: `make` records whether a failed attempt may have been carried out (`doubtful`),
and opening.py and namespace.py handle that case.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ..errors import Key
from ..native import NAMES
from .foreign import as_os_error, raised_by
from .park import SLICE, Deadline, deadline_error
from .report.notices import cause
from .report.reason import Reason, during, of_file
from .retryer import Parked, is_refusal
from .runner import Job

if TYPE_CHECKING:
    from .file import EngineFile
    from .volume import EngineVolume

__all__ = ["Attempts", "Tries"]

T = TypeVar("T")


class Tries:
    """The failures of a call, and the time of its next attempt, by the retry policy of a volume."""

    def __init__(self, volume: EngineVolume) -> None:
        self._volume = volume
        self._since = volume.clock.now()
        self.count = 0
        self.failed = ""
        self.at: float | None = None

    def judge(self, error: BaseException) -> float | None:
        """Return the seconds until the next attempt after one that raised `error`; None: there is none."""
        volume, now = self._volume, self._volume.clock.now()
        self.count += 1
        self.failed = cause(error)
        if not isinstance(error, OSError) or self.count >= volume.retry.attempts:
            return None
        decision = volume.judge(error, self.count, self._since)
        if isinstance(decision, Parked):
            return None
        self.at = now + decision.delay
        return decision.delay

    def left(self) -> float:
        """Return the seconds until the next attempt; 0.0: it is due."""
        return 0.0 if self.at is None else max(0.0, self.at - self._volume.clock.now())

    def succeeded(self) -> None:
        """Reset the count after a success."""
        self.count, self.failed, self.at = 0, "", None
        self._since = self._volume.clock.now()


class Attempts:
    """One call of the program that carries no bytes.

    Attributes:
        what: the operation, for errors and reports.
        key: the object concerned.
        deadline: the end of the caller's wait.
        doubtful: a failed attempt may have been carried out.
        first: error of the first doubtful attempt.
        job: the running or last attempt, if a thread of the volume made it.
    """

    def __init__(self, volume: EngineVolume, what: str, key: Key | None = None, timeout: float | None = None) -> None:
        self.volume = volume
        self.what = what
        self.key = key
        self.deadline = Deadline(volume.clock, timeout)
        self.doubtful = False
        self.first: BaseException | None = None
        self.job: Job[Any] | None = None
        self._error: BaseException | None = None  # of the last attempt, as the backend raised it
        self._done = False
        self._tries = Tries(volume)
        self._judged: tuple[BaseException, float | None] | None = None

    # -- the deadline

    def left(self) -> float | None:
        """Return the seconds left, for waits that take a timeout; None: unlimited."""
        return None if self.deadline.at is None else self.deadline.left()

    def until(self) -> float | None:
        """Return the deadline on the monotonic clock, for waits of CORE."""
        return None if self.deadline.at is None else time.monotonic() + self.deadline.left()

    def alive(self, began: int | None = None) -> None:
        """Raise if waiting longer is pointless; `began`: `EngineVolume.reconnects` at the first attempt."""
        self.volume.check_alive(self.key, began)
        if self.deadline.passed():
            raise self.late()

    def late(self, then: str = "what was started goes on") -> TimeoutError:
        """Return the error of a deadline that passed."""
        if left := self._tries.left():
            then = f"the next try would be in {left:.1f} s"
        return deadline_error(self.what, self.key, failed=self._tries.failed, then=then)

    # -- tries

    def make(self, call: Callable[[], T]) -> T:
        """Make the backend call that changes names; on a thread of the volume, in an attempt of `repeated`."""
        try:
            result = call()
        except BaseException as error:
            if not is_refusal(error):
                self.doubtful, self.first = True, self.first or error
            raise
        return result

    def settle(self) -> None:
        """Record that the backend has done it: later errors cause no further attempt."""
        self._done = True

    def give_up(self) -> NoReturn:
        """Raise the error of the first doubtful attempt, whose effect is unknown."""
        assert self.first is not None
        self._done = True
        raise self.first

    def judge(self, error: BaseException) -> float | None:
        """Return the seconds until the next attempt; None: there is none. Repeated calls for one error return one
        result.
        """
        if self._done:
            return None
        if self._judged is None or self._judged[0] is not error:
            self._judged = error, self._tries.judge(error)
        return self._judged[1]

    def once(self, call: Callable[[], T]) -> T:
        """Make a call, and wait for it until the deadline."""
        try:
            return self._try(call, None, partial(self.alive, self.volume.reconnects))
        finally:
            self._error = None

    def repeated(
        self,
        call: Callable[[], T],
        undo: Callable[[T], None] | None = None,
        *,
        what: str | None = None,
        cls: int = NAMES,
        file: EngineFile | None = None,
        whole: bool = False,
    ) -> T:
        """Make a call, with retries after transient errors, until the deadline.

        Args:
            call: a call of the backend.
            undo: for a result that comes after the deadline.
            what: the backend's method, if the operation has another name.
            cls: class of the call in the volume's queue.
            file: the object that the call changes, under its locks.
            whole: no interrupt may strike in the middle of the call.

        Raises:
            TimeoutError: the deadline passed. ShutdownError: the volume was aborted.
        """
        alive = partial(self.alive, self.volume.reconnects)
        try:
            while True:
                try:
                    result = self._try(call, undo, alive, what, cls, file, whole)
                except OSError as error:
                    if error is not self._error or self.judge(error) is None:
                        raise
                    self._say(error)
                else:
                    self._tries.succeeded()
                    return result
                self._pause(alive, file)
        finally:
            self._judged = self.first = self._error = None  # errors keep frames, which keep errors

    def here(self, call: Callable[[], T]) -> T:
        """Make the call on this thread, with retries; no deadline ends it while the call runs."""
        alive = partial(self.alive, self.volume.reconnects)
        try:
            while True:
                try:
                    return self.volume.call_here(self.what, self.key, call)
                except OSError as error:
                    if self.judge(error) is None:
                        raise
                    self._say(error)
                self._pause(alive, None)
        finally:
            self._judged = None

    def _try(
        self,
        call: Callable[[], T],
        undo: Callable[[T], None] | None,
        alive: Callable[[], None],
        what: str | None = None,
        cls: int = NAMES,
        file: EngineFile | None = None,
        whole: bool = False,
    ) -> T:
        volume = self.volume
        if file is None:
            if volume.prompt and not (whole and threading.current_thread() is threading.main_thread()):
                return self._try_here(call, alive, what or self.what)
            volume.check_alive(self.key)
        number = 0 if file is None else file.native.id
        job = Job(volume.park, call, undo, what=what or self.what, key=self.key, file=number)
        self.job = job
        try:
            return volume.runner.submit(cls, job).wait(alive, self.deadline)
        except Exception as error:
            if error is not job.error:
                raise
            self._error = error
            raised = raised_by(error, job.what, self.key) if file is None else as_os_error(error, self.key)
            if raised is error:
                raise
            raise raised from error

    def _try_here(self, call: Callable[[], T], alive: Callable[[], None], what: str) -> T:
        """Make a call of a prompt backend on this thread, unless the deadline has passed."""
        alive()

        def attempt() -> T:
            try:
                return call()
            except Exception as error:
                self._error = error
                raised = raised_by(error, what, self.key)
                if raised is error:
                    raise
                raise raised from error

        return during(Reason(f"the backend's {what}", self.volume.native, key=self.key, own=what), attempt)

    def _say(self, error: BaseException) -> None:
        what = f"{self.what} failed at try {self._tries.count}: {cause(error)}"
        next = f"it is made again in {self.judge(error) or 0.0:.3g} s"
        self.volume.say(logging.DEBUG, "calls that are made again", what, next, self.key)

    def _pause(self, alive: Callable[[], None], file: EngineFile | None) -> None:
        """Sleep until the time of the next attempt."""
        volume, at = self.volume, self._tries.at or 0.0

        def sleep() -> None:
            native = volume.native
            while True:
                seq = native.event_seq()
                alive()
                left = at - volume.clock.now()
                if left <= 0:
                    return
                volume.park.wait("volume", native.address, seq, min(left, self.deadline.left(), SLICE))

        if at > volume.clock.now():
            what = "the next try of a call that failed"
            if file is None:
                during(Reason(what, volume.native, key=self.key, timed=True), sleep)
            else:
                during(of_file(file, what, timed=True), sleep)
        self._tries.at = None

    # -- other waits until the deadline

    def outlast_fills(self, file: EngineFile, pos: int) -> None:
        """Wait until no fill owns a folio past `pos`; under the invalidate lock."""
        self._outlast(file, "a read of bytes that are cut off", lambda: file.native.range_busy(pos))

    def outlast_changes(self, file: EngineFile) -> None:
        """Wait until no change of the file runs; no handle begins one."""
        self._outlast(file, "a change that was abandoned", file.is_changing)

    def outlast_publications(self, file: EngineFile) -> None:
        """Wait until no call stores the object under its name; none begins."""
        self._outlast(file, "the running commit", lambda: bool(file.publications))

    def outlast_calls(self, file: EngineFile) -> None:
        """Wait until no pass, commit or direct write of a file runs; none that begins makes a call."""
        self._outlast(file, "the calls of a file whose directory is renamed", file.native.storage_busy)

    def _outlast(self, file: EngineFile, what: str, busy: Callable[[], bool]) -> None:
        volume, native = self.volume, file.native
        alive = partial(self.alive, volume.reconnects)

        def sleep() -> None:
            while True:
                seq = native.event_seq()
                alive()
                if not busy():
                    return
                volume.park.wait("inode", native.address, seq, min(self.deadline.left(), SLICE))

        if busy():
            during(of_file(file, what), sleep)
