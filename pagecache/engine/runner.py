"""The threads of a volume.

All backend calls except fills in the calling thread run here: `max_inflight` threads for calls that carry bytes and one
more, so that commits and names never wait behind them. They are daemons, started when the volume is attached (threads
cannot be started from an exit hook), and take one piece of work after another from CORE. A hung backend hangs only the
threads of its own volume.

Jobs are the engine's own work (open, stat, remove, ...): kept here, counted in CORE's queue so that one place decides
the order. The caller waits; if it is interrupted the job still runs, and its result is undone. CORE counts calls that
carry bytes, and commits; running jobs are recorded here, for the flusher, which reports a hanging one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from .. import native
from ..errors import Key
from ..native import ENGINE_JOB, Kind, NativeVolume, Span
from .park import SLICE, Clock, Deadline, Park
from .report.notices import fault
from .report.reason import ENDS, Reason, during

__all__ = ["Job", "ThreadRunner"]

log = logging.getLogger("pagecache.internal")
T = TypeVar("T")

IDLE = 60.0
JOBS = (native.COMMIT, native.NAMES, native.DIRECT)


class Job(Generic[T]):
    """One call of the engine, run by a thread of the volume; `what` and `key` name it, should it hang."""

    def __init__(
        self,
        park: Park,
        call: Callable[[], T],
        undo: Callable[[T], None] | None = None,
        *,
        what: str = "call",
        key: Key | None = None,
        file: int = 0,
        then: Callable[[], object] | None = None,
    ) -> None:
        """Make a job. `file`: number of its inode, if it has one. `undo`: for a result whose waiter has given up.
        `then`: called when it is over, for callers that do not sleep on it.
        """
        self.what = what
        self.key = key
        self.file = file
        self.told = False  # its hang was reported
        self.cls = native.NAMES
        self.volume: NativeVolume | None = None  # the volume whose threads are to run it
        self.thread: int | None = None  # the thread that runs it, since `began` of the monotonic clock
        self.began = 0.0
        self._call = call
        self._undo = undo
        self._then = then
        self._done = park.signal()
        self._lock = threading.Lock()
        self._started = self._abandoned = self._finished = False
        self._result: T | None = None
        self._error: BaseException | None = None

    @property
    def error(self) -> BaseException | None:
        """Return the exception of the call."""
        return self._error

    def run(self) -> None:
        """Run the call unless its waiter has given up: a call reported as not done must not happen later."""
        with self._lock:
            if self._abandoned or self._started:
                return
            self._started = True
        self.began, self.thread = time.monotonic(), threading.get_ident()
        try:
            result = self._call()
        except BaseException as error:
            self._error = error
        else:
            with self._lock:
                self._result, self._finished = result, True
                abandoned = self._abandoned
            if abandoned and self._undo is not None:
                self._undo(result)
        finally:
            self._done.set()
            if self._then is not None:
                self._then()

    def abandon(self) -> None:
        """Give up waiting: the call does not begin, or its result is undone."""
        with self._lock:
            self._abandoned = True
            finished = self._finished
        if finished and self._undo is not None:
            self._undo(self._result)  # type: ignore[arg-type]

    def cancel(self) -> bool:
        """Cancel the job; False: it has begun."""
        with self._lock:
            self._abandoned |= not self._started
            return not self._started

    def finished(self) -> bool:
        """Return whether the call is over, with or without an error."""
        return self._done.is_set()

    def rest(self, timeout: float) -> bool:
        """Sleep until it is over, at most `timeout` seconds; return whether it is."""
        return self._done.wait(timeout)

    def wait(self, alive: Callable[[], None], deadline: Deadline | None = None) -> T:
        """Return the result, or raise the call's exception; `alive` raises when waiting is pointless, and so does the
        deadline.
        """

        def sleep() -> None:
            while not self._done.wait(SLICE if deadline is None else min(SLICE, deadline.left())):
                alive()

        try:
            if self.volume is None:
                sleep()
            else:
                during(self._reason(self.volume), sleep)
        except BaseException:
            self.abandon()
            raise
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def _reason(self, volume: NativeVolume) -> Reason:
        """Return the reason of waits for it."""
        return Reason(
            f"the backend's {self.what}",
            volume,
            lambda look: look.job(self),
            key=self.key,
            file=self.file,
            ends=ENDS,
            named=lambda: self.thread is not None,
        )


class ThreadRunner:
    """Daemon threads that work for one volume until it stops."""

    def __init__(self, volume: NativeVolume, name: str, threads: int, park: Park, clock: Clock) -> None:
        self._volume = volume
        self._park = park
        self._clock = clock
        self._name = name
        self._era = 0
        self._jobs: dict[int, deque[Job[object]]] = {cls: deque() for cls in JOBS}
        self._running: dict[Job[object], float] = {}  # job -> its start
        self._threads: list[threading.Thread] = []
        self._start(threads)

    def _start(self, threads: int) -> None:
        started = [
            threading.Thread(target=self._loop, args=(self._era,), name=f"pagecache-{self._name}-{k}", daemon=True)
            for k in range(threads)
        ]
        self._threads = [thread for thread in self._threads if thread.is_alive()] + started
        for thread in started:
            thread.start()

    def renew(self, threads: int) -> None:
        """Start fresh threads: the earlier ones may hang in a backend that is gone. They end when their call
        returns.
        """
        self._era += 1
        self._start(threads)

    def _loop(self, era: int) -> None:
        while era == self._era:
            try:
                if self._volume.work(self._run_job, IDLE) is None:
                    return
            except BaseException:
                fault("a thread of a volume met an error that should not get here; it goes on")

    def _run_job(self, cls: int) -> None:
        jobs = self._jobs[cls]
        try:
            job = jobs.popleft()
        except IndexError:
            return  # counted twice: see below
        if jobs:
            self._volume.push_job(cls)  # an interrupt may have struck between queueing a job and counting it
        self._running[job] = self._clock.now()
        recorder = self._volume.cache.recorder
        try:
            what = recorder.text(job.what, job.key) if recorder.on else 0
            with Span(recorder, Kind.ENGINE, ENGINE_JOB, value=what, slow=True):
                job.run()
        finally:
            del self._running[job]

    def hung(self, now: float, limit: float) -> tuple[list[Job[object]], float]:
        """Return jobs that have run for `limit` seconds, each only once, and the time of the next check. For the
        flusher.
        """
        found, left = [], limit
        # Building a list of items is not atomic, since the garbage collector may switch threads; a copy is.
        for job, since in self._running.copy().items():
            if since + limit > now:
                left = min(left, since + limit - now)
            elif not job.told:
                job.told = True
                found.append(job)
        return found, left

    def running(self) -> list[Job[object]]:
        """Return the running jobs."""
        return list(self._running)

    def naming(self) -> int:
        """Return the number of running jobs that carry no bytes."""
        return sum(job.cls < native.FILL for job in list(self._running))

    def submit(self, cls: int, job: Job[T]) -> Job[T]:
        job.cls = cls
        job.volume = self._volume
        self._jobs[cls].append(job)  # type: ignore[arg-type]
        self._volume.push_job(cls)
        return job

    def alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def is_worker(self) -> bool:
        return threading.current_thread() in self._threads

    def join(self, timeout: float) -> bool:
        """Wait for the threads after the volume was stopped; False when some still run (a call hangs)."""
        for thread in self._threads:
            thread.join(timeout / len(self._threads))
        return not self.alive()
