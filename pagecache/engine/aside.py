"""Threads for blocking calls of tasks.

Hits, misses, fsync and flush of an asynchronous handle need no thread. Other calls do: a write that must wait for room
or for a lock, truncate, open, close, views. They run here, on a few daemon threads per volume, while the task waits.
Each kind has a lane, so that queued writers do not block the close that would make room for them; each lane has a limit
of threads, and calls beyond it wait in a queue.

A task that stops waiting (cancelled, interrupted, its loop closed) leaves its call: a call that has not begun does not
begin, a running call goes on, and its result is undone.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar

from .. import native
from ..errors import Key
from ..native import NativeVolume
from .park import start_thread
from .report.reason import Reason
from .tasks import ended

__all__ = ["Aside", "Lane"]

T = TypeVar("T")
Lane = Literal["open", "read", "write", "change", "close"]

WHATS: dict[Lane, str] = {
    "open": "an open",
    "read": "a read or view",
    "write": "a write",
    "change": "a truncate or hole",
    "close": "a close",
}
THREADS_MAX = 8
"""Threads of one lane."""
IDLE = 5.0
"""Seconds after which an idle thread ends."""


class _Call:
    """One call; `_lock` decides between the thread that runs it and the task that may leave it."""

    def __init__(
        self,
        call: Callable[[], Any],
        undo: Callable[[Any], None] | None,
        lane: Lane = "read",
        volume: NativeVolume | None = None,
        key: Key | None = None,
    ) -> None:
        if volume is None:
            self.ticket = native.open_ticket()
        else:
            reason = Reason(WHATS[lane], volume, key=key)
            self.ticket = native.open_ticket(volume.cache.core, volume.address, reason)
        self._call = call
        self._undo = undo
        self._context = contextvars.copy_context()  # carries the mark of a running backend call to the other thread
        self._lock = threading.Lock()
        self._left = self._started = self._done = False
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        with self._lock:
            if self._left:
                return
            self._started = True
        try:
            value = self._context.run(self._call)
        except BaseException as error:
            self._error = error
            self.ticket.fire()
            return
        with self._lock:
            self._value, self._done = value, True
            left = self._left
        if left:
            self._take_back()
        else:
            self.ticket.fire()

    def result(self) -> Any:
        """Return or raise the result of the call, after its end."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # error → traceback → this frame → error
        return self._value

    def leave(self) -> None:
        with self._lock:
            self._left, done = True, self._done
        if done:
            self._take_back()

    def _take_back(self) -> None:
        if self._undo is not None:
            self._undo(self._value)


class _Lane:
    """A queue and its threads, which start and end on demand."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._idle = 0

    def submit(self, call: _Call) -> None:
        with self._lock:
            more = self._idle <= self._calls.qsize() and self._threads < THREADS_MAX
            self._threads += more
            self._calls.put(call)  # under the lock: a thread that is about to end checks the queue under it
        if more:
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
                if call is None and self._calls.empty():
                    self._threads -= 1
                    return
            if call is not None:
                call.run()
            del call

    def stop(self) -> None:
        with self._lock:
            threads = self._threads
        for _ in range(threads):
            self._calls.put(None)


class Aside:
    """The lanes of one volume."""

    def __init__(self, name: str, volume: NativeVolume, check_forked: Callable[[], None]) -> None:
        self._volume = volume
        self._check_forked = check_forked
        self._lanes = {lane: _Lane(f"{name}-{lane}") for lane in ("open", "read", "write", "change", "close")}

    async def run(
        self, lane: Lane, call: Callable[[], T], undo: Callable[[T], None] | None = None, *, key: Key | None = None
    ) -> T:
        """Run a call on a thread, and wait for it.

        Args:
            lane: the queue.
            call: the function.
            undo: for a result whose task no longer waits; must not wait.
            key: of the object, for reports.

        Raises:
            ForkedError: in a forked child.
        """
        self._check_forked()  # the child has the counts of threads, but not the threads
        made = _Call(call, undo, lane, self._volume, key)
        try:
            self._lanes[lane].submit(made)
            await ended(made.ticket)
            value: T = made.result()
        except BaseException:
            made.leave()
            raise
        return value

    def stop(self) -> None:
        """Let threads end after their current work, without waiting for them."""
        for lane in self._lanes.values():
            lane.stop()
