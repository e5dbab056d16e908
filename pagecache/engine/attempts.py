"""Backend calls without bytes: their deadline, and the attempts for one call of the program.

A transient error stays invisible to the program while the retry policy has attempts left (contract 2.14). The caller
waits between two attempts, so the volume's threads are free for other calls. Three things end the wait: the deadline of
the caller, an abort, and an interrupt. None of them ends a running backend call.

The calls of a prompt backend are made on the thread of the caller. Nothing ends the wait for a running one, so an
interrupt strikes in the middle of it. In a call whose second half publishes what the first half has changed (`whole`)
it strikes at the end. One that may wait for more than the backend is made on a thread of the volume by the main thread,
which handles signals.

A reading call is repeated unchanged. Of a call that changes names `make` records whether a failed attempt may have
been carried out (`doubtful`), and opening.py and namespace.py handle that case.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar

from ..errors import Key
from ..native import NAMES, uninterrupted
from .foreign import as_os_error, raised_by
from .park import NEVER, Deadline, deadline_error
from .report.notices import cause
from .report.reason import Reason, during, of_file
from .retryer import is_refusal
from .runner import Job

if TYPE_CHECKING:
    from .file import EngineFile
    from .volume import EngineVolume

T = TypeVar("T")

AGAIN = "the next try of a call that failed"
"""Words for a wait, in reports."""


class Tries:
    """The failures of a call, and the time of its next attempt, by the retry policy of a volume."""

    count = 0
    failed = ""
    at: float | None = None

    def __init__(self, volume: EngineVolume) -> None:
        self.volume = volume
        self._since = volume.clock.now()

    def judge(self, error: BaseException) -> float | None:
        """Return the seconds until the next attempt after one that raised `error`; None: there is none."""
        volume, now = self.volume, self.volume.clock.now()
        self.count += 1
        self.failed = cause(error)
        if not isinstance(error, OSError) or self.count >= volume.retry.attempts:
            return None
        delay = volume.judge(error, self.count, self._since)
        if delay is not None:
            self.at = now + delay
        return delay

    def pause(self) -> float:
        """Return the seconds until the next attempt; 0.0: it is due."""
        return 0.0 if self.at is None else max(0.0, self.at - self.volume.clock.now())


class Attempts(Tries):
    """One call of the program that carries no bytes.

    Attributes:
        what: the operation, for errors and reports.
        key: the object concerned.
        deadline: the end of the caller's wait.
        doubtful: a failed attempt may have been carried out.
        first: error of the first doubtful attempt.
    """

    doubtful = False
    first: BaseException | None = None
    _done = False
    _judged: tuple[BaseException, float | None] | None = None

    def __init__(self, volume: EngineVolume, what: str, key: Key | None = None, timeout: float | None = None) -> None:
        self.volume = volume
        self.what = what
        self.key = key
        self.deadline = NEVER if timeout is None else Deadline(volume.clock, timeout)

    def alive(self, began: int | None = None) -> None:
        """Raise if waiting longer is pointless; `began`: `EngineVolume.reconnects` at the first attempt."""
        self.volume.check_alive(self.key, began)
        if self.deadline is not NEVER and self.deadline.passed():
            raise self.late()

    def late(self, then: str = "what was started goes on") -> TimeoutError:
        if pause := self.pause():
            then = f"the next try would be in {pause:.1f} s"
        return deadline_error(self.what, self.key, failed=self.failed, then=then)

    # -- tries

    def make(self, call: Callable[[], T]) -> T:
        """Make the backend call that changes names; on a thread of the volume, in an attempt of `repeated`."""
        try:
            return call()
        except BaseException as error:
            if not is_refusal(error):
                self.doubtful, self.first = True, self.first or error
            raise

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
            self._judged = error, super().judge(error)
        return self._judged[1]

    def repeated(
        self,
        call: Callable[[], T],
        undo: Callable[[T], None] | None = None,
        *,
        what: str | None = None,
        cls: int = NAMES,
        file: EngineFile | None = None,
        whole: bool = False,
        waits: bool = False,
        again: bool = True,
    ) -> T:
        """Make a call, with retries after transient errors, until the deadline. That of a prompt backend begins before
        it, on this thread.

        Args:
            call: a call of the backend.
            undo: for a result that comes after the deadline.
            what: the backend's method, if the operation has another name.
            cls: class of the call in the volume's queue.
            file: the object that the call changes, under its locks.
            whole: no interrupt may strike in the middle of the call.
            waits: such a call may wait for more than the backend.
            again: False: without retries.

        Raises:
            TimeoutError: the deadline passed. ShutdownError: the volume was aborted.
        """
        volume, key, what = self.volume, self.key, what or self.what
        job: Job[T] | None = None
        raised: Exception | None = None
        here = file is None and volume.prompt
        if here and whole and threading.current_thread() is threading.main_thread():
            here = not waits
            call = partial(uninterrupted, call) if here else call
        began, self._since = volume.reconnects, volume.clock.now()
        try:
            while True:
                if file is None and (not here or self.count or volume.aborted):
                    volume.check_alive(key, began)
                if not here:
                    number = 0 if file is None else file.id
                    job = Job(call, undo, what=what, key=key, file=number)
                elif self.deadline is not NEVER and self.deadline.passed():
                    raise self.late()
                try:
                    if job is None:
                        result = during(Reason(f"the backend's {what}", volume.native, key=key, own=what), call)
                    else:
                        result = volume.runner.submit(cls, job).wait(partial(self.alive, began), self.deadline)
                except Exception as error:
                    if job is not None and error is not job.error:
                        raise
                    raised = raised_by(error, what, key) if file is None else as_os_error(error, key)
                    if raised is not error:
                        raise raised from error
                    if not again or self.judge(error) is None:
                        raise
                    self._say(error)
                else:
                    self.count, self.failed, self.at = 0, "", None
                    return result
                self._pause(began, file)
        finally:
            if job is not None:
                job.forget_error()
            self._judged = self.first = raised = None  # errors keep frames, which keep errors

    def here(self, call: Callable[[], T]) -> T:
        """Make the call on this thread, with retries; no deadline ends it while the call runs."""
        began, self._since = self.volume.reconnects, self.volume.clock.now()
        try:
            while True:
                try:
                    return self.volume.call_here(self.what, self.key, call)
                except OSError as error:
                    if self.judge(error) is None:
                        raise
                    self._say(error)
                self._pause(began)
        finally:
            self._judged = None

    def _say(self, error: BaseException) -> None:
        what = f"{self.what} failed at try {self.count}: {cause(error)}"
        next = f"it is made again in {self.judge(error) or 0.0:.3g} s"
        self.volume.say(logging.DEBUG, "calls that are made again", what, next, self.key)

    def _pause(self, began: int, file: EngineFile | None = None) -> None:
        """Sleep until the time of the next attempt."""
        volume = self.volume
        reason = (
            Reason(AGAIN, volume.native, key=self.key, timed=True) if file is None else of_file(file, AGAIN, timed=True)
        )
        volume.sleep_until(self.at or 0.0, reason, partial(self.alive, began), self.deadline)
        self.at = None


def insisting(file: EngineFile, call: Callable[[], T]) -> T:
    """Make a call, with retries after transient errors; sleep on this thread."""
    tries, since = Tries(file.volume), file.volume.reconnects
    while True:
        try:
            return call()
        except Exception as error:
            delay = tries.judge(error)
            if as_os_error(error, file.key) is not error:
                raise as_os_error(error, file.key) from error
            if delay is None:
                raise
        file.volume.sleep(file, delay, since=since)
