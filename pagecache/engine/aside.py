"""Threads for calls of tasks.

A hit of an asynchronous handle needs no thread. Every other call is one of a handle of threads, and runs here, on
daemon threads of the volume, while the task waits. Each kind has a lane, so that queued writers do not block the close
that would make room for them. A lane has as many threads as calls that the backend accepts, and at least eight; they
start and end on demand, and calls beyond them wait in a queue.

A task that stops waiting (cancelled, interrupted, its loop closed) leaves its call: a call that has not begun does not
begin, a running call goes on, and its result is undone. Of such calls 64 in each lane do not count as running: one hung
object, of which tasks give up call after call, does not keep those of other objects from beginning.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .. import native
from ..errors import Key
from ..native import WaitRecord
from .park import deadline_error, start_thread
from .report.reason import Reason
from .runner import Work

if TYPE_CHECKING:
    from ..native import NativeVolume
    from .volume import EngineVolume

T = TypeVar("T")
Lane = Literal["open", "read", "write", "change", "sync", "close"]

WHATS: dict[Lane, str] = {
    "open": "an open",
    "read": "a read or view",
    "write": "a write",
    "change": "a truncate or hole",
    "sync": "an fsync or flush",
    "close": "a close",
}
THREADS = 8
"""Threads of one lane, at least."""
LEFT = 64
"""Further ones, at most, for running calls that their tasks have left."""
IDLE = 5.0
"""Seconds after which an idle thread ends."""
_numbers = itertools.count(-1, -1)  # those of waits of threads are positive


class _Call(Work[Any]):
    """One call of a task."""

    def __init__(
        self,
        call: Callable[[], Any],
        undo: Callable[[Any], None] | None = None,
        what: str = "",
        volume: NativeVolume | None = None,  # None: the wait is not reported
        key: Key | None = None,
    ) -> None:
        context = contextvars.copy_context()  # carries the mark of a running backend call to the other thread
        super().__init__(partial(context.run, call), undo)
        import asyncio  # a task waits: its program has imported it

        loop = asyncio.get_running_loop()
        self._task = weakref.ref(asyncio.current_task(loop) or loop)  # a report must not keep it alive
        self.over = loop.create_future()
        self.number = next(_numbers)
        self._what, self._volume, self._key = what, volume, key
        self._waiter, self.since_ns = threading.get_ident(), time.monotonic_ns()

    def _end(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: its tasks leave their calls when they are freed
            self.over.get_loop().call_soon_threadsafe(native.wake, self.over)

    def record(self) -> WaitRecord | None:
        """Return the wait of the task, for reports; None: the task is gone."""
        task, volume = self._task(), self._volume
        if task is None or volume is None:
            return None
        reason = Reason(self._what, volume, key=self._key)
        kind, address = reason.kind, volume.address
        loop = self.over.get_loop()
        return WaitRecord(self.number, kind, self._waiter, self.since_ns, address, 0, 0, 0, reason, task, loop)

    def result(self) -> Any:
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # error → traceback → this frame → error
        return self._result

    def expire(self, error: TimeoutError) -> None:
        """End the wait with an error, unless the call has begun."""
        if self.cancel() and not self.over.done():
            self.error = error
            self.over.set_result(None)


class _Lane:
    """A queue and its threads, which start and end on demand."""

    def __init__(self, name: str, most: Callable[[], int]) -> None:
        self._name = name
        self._most = most
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = threading.RLock()  # a task that is freed inside a call of the lane leaves its own
        self._threads = self._idle = 0
        self._waiting = 0  # calls that no thread has taken
        self._running = set[_Call]()  # for tasks that wait
        self._left = 0  # running calls whose tasks do not wait any longer

    def submit(self, call: _Call) -> None:
        with self._lock:
            more = self._grow(self._waiting + 1)
            self._waiting += 1
            self._calls.put(call)  # under the lock: a thread that is about to end looks under it
        if more:
            self._start()

    def leave(self, call: _Call, *, freed: bool) -> None:
        """Count the call no longer, if it runs: its task has left it. One that waits may begin in its place. `freed`:
        the task was freed, which happens inside any code, so no thread is started.
        """
        with self._lock:
            running = call in self._running
            self._left += running
            self._running.discard(call)
            more = running and not freed and self._grow(self._waiting)
        if more:
            with contextlib.suppress(BlockingIOError):
                self._start()

    def _grow(self, waiting: int) -> bool:
        """Count one more thread, if so many calls wait for one and there may be one. The lock is held."""
        more = self._idle < waiting and self._threads < self._limit()
        self._threads += more
        return more

    def _limit(self) -> int:
        return self._most() + min(self._left, LEFT)

    def _start(self) -> None:
        try:
            thread = threading.Thread(target=self._work, name=f"pagecache-{self._name}", daemon=True)
            start_thread(thread, f"for a call of a task ({self._name})")
        except BaseException as error:
            with self._lock:
                self._threads -= 1
                if self._threads and isinstance(error, BlockingIOError):
                    return  # a thread of this lane makes the call when it gets to it
            raise

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            try:
                call = self._calls.get(timeout=IDLE)
            except Empty:
                call = None
            with self._lock:
                self._idle -= 1
                if call is not None:
                    self._waiting -= 1
                    self._running.add(call)
                elif not self._waiting:
                    self._threads -= 1
                    return
            if call is not None:
                call.run()
                with self._lock:
                    self._left -= call not in self._running
                    self._running.discard(call)
                    if self._threads > self._limit():
                        self._threads -= 1
                        return
            del call

    def stop(self) -> None:
        with self._lock:
            threads = self._threads
        for _ in range(threads):
            self._calls.put(None)


class Aside:
    """The lanes of one volume."""

    def __init__(self, name: str, engine: EngineVolume, check_forked: Callable[[], None]) -> None:
        self._engine = engine
        self._check_forked = check_forked
        self._lanes = {lane: _Lane(f"{name}-{lane}", self._most) for lane in WHATS}

    def _most(self) -> int:
        return max(THREADS, int(self._engine.backend.limits.max_inflight))

    async def run(
        self,
        lane: Lane,
        call: Callable[[], T],
        undo: Callable[[T], None] | None = None,
        *,
        key: Key | None = None,
        timeout: float | None = None,
    ) -> T:
        """Run a call on a thread, and wait for it.

        Args:
            lane: the queue.
            call: the function.
            undo: for a result whose task no longer waits; must not wait.
            key: of the object, for reports.
            timeout: seconds in which the call must begin.

        Raises:
            ForkedError: in a forked child.
            RuntimeError: no event loop of asyncio runs.
            TimeoutError: the call has not begun in time, and does not begin.
        """
        self._check_forked()  # the child has the counts of threads, but not the threads
        volume, timer = self._engine.native, None
        tasks = volume.cache.tasks
        made = _Call(call, undo, WHATS[lane], volume, key)
        try:
            tasks[made.number] = weakref.ref(made)
            if timeout is not None:
                late = deadline_error(WHATS[lane], key, then="it has not begun")
                timer = made.over.get_loop().call_later(timeout, made.expire, late)
            self._lanes[lane].submit(made)
            await made.over
            value: T = made.result()
        except BaseException as error:
            made.abandon()
            self._lanes[lane].leave(made, freed=isinstance(error, GeneratorExit))
            raise
        finally:
            tasks.pop(made.number, None)
            if timer is not None:
                timer.cancel()
        return value

    def stop(self) -> None:
        for lane in self._lanes.values():
            lane.stop()
