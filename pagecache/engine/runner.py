"""The threads of a volume.

All backend calls except fills in the calling thread run here: `max_inflight` threads for calls that carry bytes and one
more, so that commits and names never wait behind them. They are daemons, and take one piece of work after another from
CORE. A hung backend hangs no threads of other volumes.

A volume begins with one thread, so its work is done even if Python refuses further ones, as it does while the
interpreter ends. A job starts a thread if all threads that run have a job; the first file starts all threads.

Jobs are the engine's own work (open, stat, remove, ...): kept here, counted in CORE's queue so that one place decides
the order. The caller waits; if it is interrupted the job still runs, and its result is undone. CORE counts calls that
carry bytes, and commits; running jobs are recorded here, for the flusher, which reports a hanging one.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from .. import loglines, native
from ..errors import Key, ShutdownError
from ..native import NativeVolume
from .park import SLICE, Clock, Deadline, Signal, start_thread
from .report.notices import fault
from .report.reason import Reason, during

log = logging.getLogger("pagecache.volume")
T = TypeVar("T")

IDLE = 60.0
AGAIN = 1.0
"""Seconds without a further try after Python has refused a thread."""
JOBS = (native.COMMIT, native.NAMES, native.DIRECT)


class Work(Generic[T]):
    """A call on another thread than that of its waiter, which may give up: then the call does not begin, or its result
    is undone. `_lock` decides between the two.
    """

    error: BaseException | None = None  # of the call

    def __init__(self, call: Callable[[], T], undo: Callable[[T], None] | None) -> None:
        self._call = call
        self._undo = undo
        self._lock = threading.Lock()
        self._started = self._abandoned = self._finished = False
        self._result: T | None = None

    def run(self) -> None:
        """Run the call unless its waiter has given up: a call reported as not done must not happen later."""
        with self._lock:
            if self._abandoned or self._started:
                return
            self._started = True
        try:
            result = self._make()
        except BaseException as error:
            self.error = error
        else:
            with self._lock:
                self._result, self._finished = result, True
                abandoned = self._abandoned
            if abandoned and self._undo is not None:
                self._undo(result)
        finally:
            self._end()

    def _make(self) -> T:
        """Make the call, on the thread that runs it."""
        return self._call()

    def _end(self) -> None:
        """Wake the waiter."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Give up waiting: the call does not begin, or its result is undone."""
        with self._lock:
            self._abandoned = True
            finished = self._finished
        if finished and self._undo is not None:
            self._undo(self._result)  # type: ignore[arg-type]

    def forget_error(self) -> None:
        """Let go of the error, which the waiter has raised: it keeps the waiter's frames, which keep this."""
        self.error = None

    def cancel(self) -> bool:
        """Give up waiting, unless the call has begun; return whether it has not."""
        with self._lock:
            self._abandoned |= not self._started
            return not self._started


class Job(Work[T]):
    """One call of the engine, run by a thread of the volume; `what` and `key` name it, should it hang."""

    def __init__(
        self,
        call: Callable[[], T],
        undo: Callable[[T], None] | None = None,
        *,
        what: str = "call",
        key: Key | None = None,
        file: int = 0,
        then: Callable[[], object] | None = None,
        last: bool = False,
    ) -> None:
        """Make a job. `file`: number of its inode, if it has one. `undo`: for a result whose waiter has given up.
        `then`: called when it is over, for callers that do not sleep on it. `last`: it closes files of the backend.
        """
        super().__init__(call, undo)
        self.what = what
        self.key = key
        self.file = file
        self.hang_reported = False
        self.last = last
        self.cls = native.NAMES
        self.volume: NativeVolume | None = None  # the volume whose threads are to run it
        self.thread: int | None = None  # the thread that runs it, since `began` of the monotonic clock
        self.began = 0.0
        self._then = then
        self._done = Signal()

    def _make(self) -> T:
        """Make the call. None but the last begins when the backend is about to be closed."""
        self.began, self.thread = time.monotonic(), threading.get_ident()
        if not self.last and self.volume is not None and self.volume.closing():
            raise ShutdownError("the volume is detached", self.key)
        return self._call()

    def _end(self) -> None:
        self._done.set()
        if self._then is not None:
            self._then()

    def finished(self) -> bool:
        """Return whether the call is over, with or without an error."""
        return self._done.is_set()

    def join(self, timeout: float) -> bool:
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
                during(Reason(f"the backend's {self.what}", self.volume, key=self.key, file=self.file), sleep)
        except BaseException:
            self.abandon()
            raise
        if self.error is not None:
            raise self.error
        return self._result  # type: ignore[return-value]


class ThreadRunner:
    """Daemon threads that work for one volume, from `start` until it stops."""

    def __init__(self, volume: NativeVolume, name: str, threads: int, clock: Clock) -> None:
        self._name = name
        self._most = threads
        self._volume = volume
        self._clock = clock
        self._jobs: dict[int, deque[Job[object]]] = {cls: deque() for cls in JOBS}
        self._running: dict[Job[object], float] = {}  # job -> its start
        self._former: list[threading.Thread] = []  # of backends before this one
        self._ended = 0  # threads of this backend that have ended; guarded by the lock of the lists
        self.ending = False  # a thread has ended, or all of them are to: `alive` says whether work will be done
        self._era = 0
        self._lock = threading.RLock()  # guards the lists of threads; a signal handler may need a thread in between
        self._threads: list[threading.Thread] = []
        self._stopped = False
        self._refused = -math.inf  # when a thread could not be started

    def start(self) -> None:
        """Start the first thread.

        Raises:
            BlockingIOError: Python or the system refuses.
        """
        with self._lock:
            self._start(self._era)

    def have_all(self) -> None:
        """Start all missing threads: there is a file, and its bytes may be queued at any time."""
        if len(self._threads) < self._most:
            self._grow(self._most)

    def _grow(self, wanted: int) -> None:
        """Start threads until there are `wanted`, up to the limit and as far as Python allows."""
        refusal: BlockingIOError | None = None
        with self._lock:
            while len(self._threads) < min(wanted, self._most) and time.monotonic() >= self._refused + AGAIN:
                try:
                    self._start(self._era)
                except BlockingIOError as error:
                    refusal, self._refused = error, time.monotonic()
        if refusal is not None:
            level = logging.DEBUG if "shutdown" in str(refusal) else logging.WARNING
            what = "%s; %d of %d threads run"
            loglines.say(log, level, what, refusal.strerror, len(self._threads), self._most)

    def _start(self, era: int) -> None:
        """Start a thread. The lock is held.

        Raises:
            BlockingIOError: Python or the system refuses.
        """
        name = f"pagecache-{self._name}-{len(self._threads)}"
        thread, started = threading.Thread(target=self._loop, args=(era,), name=name, daemon=True), False
        try:
            start_thread(thread, f"of the volume {self._name!r}")
            started = True
        finally:
            if started or thread.is_alive():  # else it was refused, or an interrupt struck first
                self._threads.append(thread)

    def renew(self, threads: int) -> None:
        """Start fresh threads: the earlier ones may hang in a backend that is gone. They end when their call returns.

        Raises:
            BlockingIOError: no thread can be started; the earlier ones go on.
        """
        with self._lock:
            before, self._threads = self._threads, []
            self._former = [thread for thread in [*self._former, *before] if thread.is_alive()]
            try:
                self._start(self._era + 1)
            except BaseException:
                self._threads += before
                raise
            self._ended, self._most = 0, threads
            self._era += 1
        self._grow(threads)

    def _loop(self, era: int) -> None:
        """Work until the end, or until a later era begins. The target of the threads."""
        try:
            while era >= self._era:
                try:
                    if self._volume.work(self._run_job, IDLE) is None:
                        return
                except BaseException:
                    fault("a thread of a volume met an error that should not get here; it goes on")
        finally:
            with self._lock:
                self._ended += era == self._era
                self.ending = True
            self._volume.wake_worker()  # the piece of work that woke it is for another thread

    def _run_job(self, cls: int) -> None:
        jobs = self._jobs[cls]
        try:
            job = jobs.popleft()
        except IndexError:
            return  # counted twice: see below
        if jobs:
            self._volume.push_job(cls)  # an interrupt may have struck between queueing a job and counting it
        self._running[job] = self._clock.now()
        try:
            try:
                self._match()  # a job that was submitted since `popleft` did not count this one
            except BaseException:  # the job has a waiter
                fault("%s: a thread could not be started", self._name)
            job.run()
        finally:
            del self._running[job]
            if job.thread is not None:
                self._volume.cache.trace_call(job.what, job.key, job.file, job.began, not job._finished)

    def hung(self, now: float, limit: float) -> tuple[list[Job[object]], float]:
        """Return jobs that have run for `limit` seconds, each only once, and the time of the next check. For the
        flusher.
        """
        found, left = [], limit
        # Building a list of items is not atomic, since the garbage collector may switch threads; a copy is.
        for job, since in self._running.copy().items():
            if since + limit > now:
                left = min(left, since + limit - now)
            elif not job.hang_reported:
                job.hang_reported = True
                found.append(job)
        return found, left

    def running(self) -> list[Job[object]]:
        """Return the jobs that threads have taken; the call of one may not have begun."""
        return list(self._running)

    def waiting(self) -> bool:
        """Return whether a job has not begun. Those that have are counted by CORE."""
        return any(self._jobs.values())

    def naming(self) -> int:
        """Return the number of running jobs that carry no bytes."""
        return sum(job.cls < native.FILL for job in list(self._running))

    def submit(self, cls: int, job: Job[T]) -> Job[T]:
        job.cls = cls
        job.volume = self._volume
        self._jobs[cls].append(job)  # type: ignore[arg-type]
        self._volume.push_job(cls)
        self._match()
        return job

    def _match(self) -> None:
        """Start threads until there is one for each job that runs or waits."""
        if len(self._threads) < self._most and any(self._jobs.values()):
            self._grow(len(self._running) + sum(map(len, self._jobs.values())))

    def alive(self) -> bool:
        """Return whether queued work will be done."""
        return not self._stopped and self._ended < len(self._threads)

    def is_worker(self) -> bool:
        thread = threading.current_thread()
        return thread in self._threads or thread in self._former

    def join(self, timeout: float) -> bool:
        """Wait for the threads after the volume was stopped. Return False if one still runs (a call hangs)."""
        with self._lock:
            self._most, self.ending = 0, True
            threads = [*self._former, *self._threads]
        for thread in threads:
            thread.join(timeout / len(threads))
        self._stopped = True
        return not any(thread.is_alive() for thread in threads)
