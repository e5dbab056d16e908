"""Backend calls that carry no bytes: their deadline, and the tries that one call of the program makes.

A transient error is not the program's concern while the retry policy has tries left (contract 2.14). The caller waits
between two tries, so the volume's threads are free for other calls. Three things end the waiting: the deadline of the
caller, an abort, and an interrupt. None of them ends a backend call that runs.

A call that reads is repeated as it is. A call that changes names is repeated where its second try can be told from the
first: `make` notes whether a failed try may have been carried out (`doubtful`), and opening.py and names.py say what
follows from that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ..errors import Key
from ..native import NAMES
from .foreign import as_os_error, raised_by
from .park import SLICE, Deadline, deadline_error
from .report.look import Look, Owner, nobody
from .report.notices import cause
from .report.reason import Reason, during, of_file
from .retryer import Parked, decide, is_refusal
from .runner import Job

if TYPE_CHECKING:
    from .file import EngineFile
    from .volume import EngineVolume

__all__ = ["Attempts", "Tries"]

T = TypeVar("T")


class Tries:
    """How often a call has failed, and when it is made again; by the retry policy of a volume."""

    def __init__(self, volume: EngineVolume) -> None:
        self._volume = volume
        self._since = volume.clock.now()
        self.count = 0
        self.failed = ""
        self.at: float | None = None

    def judge(self, error: BaseException) -> float | None:
        """Seconds until the next try after one that raised `error`; None: there is none."""
        volume, now = self._volume, self._volume.clock.now()
        self.count += 1
        self.failed = cause(error)
        if not isinstance(error, OSError) or self.count >= volume.retry.attempts:
            return None
        decision = decide(volume.retry, error, self.count, now - self._since, volume.random())
        if isinstance(decision, Parked):
            return None
        self.at = now + decision.delay
        return decision.delay

    def left(self) -> float:
        """Seconds until the next try; 0.0: it is due."""
        return 0.0 if self.at is None else max(0.0, self.at - self._volume.clock.now())

    def succeeded(self) -> None:
        """The next call begins anew."""
        self.count, self.failed, self.at = 0, "", None
        self._since = self._volume.clock.now()


class Attempts:
    """One call of the program that carries no bytes.

    Attributes:
        what: the operation, for errors and reports.
        key: the object concerned.
        deadline: when the caller stops waiting.
        doubtful: a try that failed may have been carried out.
        first: what the first doubtful try raised.
        job: the try that runs, or ran last.
    """

    def __init__(self, volume: EngineVolume, what: str, key: Key | None = None, timeout: float | None = None) -> None:
        self.volume = volume
        self.what = what
        self.key = key
        self.deadline = Deadline(volume.clock, timeout)
        self.doubtful = False
        self.first: BaseException | None = None
        self.job: Job[Any] | None = None
        self._done = False
        self._tries = Tries(volume)
        self._judged: tuple[BaseException, float | None] | None = None

    # -- the deadline

    def left(self) -> float | None:
        """Seconds left, for waits that take a timeout; None: any number."""
        return None if self.deadline.at is None else self.deadline.left()

    def until(self) -> float | None:
        """The deadline on the monotonic clock, for waits of CORE."""
        return None if self.deadline.at is None else time.monotonic() + self.deadline.left()

    def alive(self, began: int | None = None) -> None:
        """Raise where there is no point in waiting longer; `began`: `EngineVolume.reconnects` at the first try."""
        self.volume.check_alive(self.key, began)
        if self.deadline.passed():
            raise self.late()

    def late(self, then: str = "what was started goes on") -> TimeoutError:
        """The error of a deadline that passed."""
        if left := self._tries.left():
            then = f"the next try would be in {left:.1f} s"
        return deadline_error(self.what, self.key, failed=self._tries.failed, then=then)

    # -- tries

    def make(self, call: Callable[[], T]) -> T:
        """The backend's call itself, where it changes names; on a thread of the volume, in a try of `repeated`."""
        try:
            result = call()
        except BaseException as error:
            if not is_refusal(error):
                self.doubtful, self.first = True, self.first or error
            raise
        return result

    def settle(self) -> None:
        """The backend has done it: what is raised from here on is no reason for another try."""
        self._done = True

    def give_up(self) -> NoReturn:
        """Raise the error of the first doubtful try: nobody can tell whether it was carried out."""
        assert self.first is not None
        self._done = True
        raise self.first

    def judge(self, error: BaseException) -> float | None:
        """Seconds until the next try; None: there is none. Asked again of the same error, the same answer."""
        if self._done:
            return None
        if self._judged is None or self._judged[0] is not error:
            self._judged = error, self._tries.judge(error)
        return self._judged[1]

    def once(self, call: Callable[[], T]) -> T:
        """Make a call on a thread of the volume, and wait for it until the deadline."""
        return self._try(call, None, partial(self.alive, self.volume.reconnects))

    def repeated(
        self,
        call: Callable[[], T],
        undo: Callable[[T], None] | None = None,
        *,
        what: str | None = None,
        cls: int = NAMES,
        file: EngineFile | None = None,
    ) -> T:
        """Make a call on a thread of the volume, again after a transient error, until the deadline.

        Args:
            call: a call of the backend.
            undo: for a result that comes after the deadline.
            what: the backend's method, where the operation has another name.
            cls: which calls of the volume it goes with.
            file: the object that the call changes, under its locks.

        Raises:
            TimeoutError: the deadline passed. ShutdownError: the volume was aborted.
        """
        alive = partial(self.alive, self.volume.reconnects)
        try:
            while True:
                try:
                    result = self._try(call, undo, alive, what, cls, file)
                except OSError as error:
                    if self.job is None or error is not self.job.error or self.judge(error) is None:
                        raise
                    self._say(error)
                else:
                    self._tries.succeeded()
                    return result
                self._pause(alive, file)
        finally:
            self._judged = self.first = None  # errors keep the frames that keep them

    def here(self, call: Callable[[], T]) -> T:
        """The same on this thread, which no deadline ends while the call runs."""
        alive = partial(self.alive, self.volume.reconnects)
        try:
            while True:
                try:
                    return self.volume.asked(self.what, self.key, call)
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
    ) -> T:
        volume = self.volume
        if file is None:
            volume.check_alive(self.key)
        number = 0 if file is None else file.native.id
        job = Job(volume.park, call, undo, what=what or self.what, key=self.key, file=number)
        self.job = job
        try:
            return volume.runner.submit(cls, job).wait(alive, self.deadline)
        except Exception as error:
            if error is not job.error:
                raise
            raised = raised_by(error, job.what, self.key) if file is None else as_os_error(error, self.key)
            if raised is error:
                raise
            raise raised from error

    def _say(self, error: BaseException) -> None:
        what = f"{self.what} failed at try {self._tries.count}: {cause(error)}"
        next = f"it is made again in {self.judge(error) or 0.0:.3g} s"
        self.volume.say(logging.DEBUG, "calls that are made again", what, next, self.key)

    def _pause(self, alive: Callable[[], None], file: EngineFile | None) -> None:
        """Sleep until the time of the next try."""
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

        def owner(look: Look) -> Owner:
            return nobody(f"time: {max(0.0, at - volume.clock.now()):.1f} s are left after {self._tries.failed}")

        if at > volume.clock.now():
            what, ends = "the next try of a call that failed", "it goes on when the time has passed"
            if file is None:
                during(Reason(what, volume.native, owner, key=self.key, ends=ends), sleep)
            else:
                during(of_file(file, what, owner, ends=ends), sleep)
        self._tries.at = None

    # -- what else is waited for until the deadline

    def outlast_fills(self, file: EngineFile, pos: int) -> None:
        """Wait until no fill owns a folio behind `pos`; under the invalidate lock."""
        volume, native = self.volume, file.native
        alive = partial(self.alive, volume.reconnects)

        def sleep() -> None:
            while True:
                seq = native.event_seq()
                alive()
                if not native.range_busy(pos):
                    return
                volume.park.wait("inode", native.address, seq, min(self.deadline.left(), SLICE))

        def owner(look: Look) -> Owner | None:
            return look.busy(volume.native.address)

        if native.range_busy(pos):
            during(of_file(file, "a read of bytes that are cut off", owner), sleep)
