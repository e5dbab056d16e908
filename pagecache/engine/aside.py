"""Threads for what a task must not wait for itself.

Hits, misses, fsync and flush of an asynchronous handle need no thread of their own. The rest does: a write that has to
wait for room or for a lock, truncate, open, close, views. It runs here, on a few daemon threads a volume, and a task
waits for it. Each kind has a lane, so that writers in line do not stand in the way of the close that would make room
for them; each lane has a bound, and what is beyond it waits in a queue.

A task that does not wait any more (cancelled, interrupted, its loop closed) leaves its call: what has not begun does
not begin, what has begun goes on, and what it made is undone.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar

from .. import native
from ..errors import Key
from ..native import NativeVolume
from .report.look import Look, Owner, nobody
from .report.reason import Reason

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
"""Seconds after which a thread without anything to do ends."""


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
        self._thread: int | None = None
        self._began = 0.0
        if volume is None:
            self.ticket = native.open_ticket()
        else:
            reason = Reason(WHATS[lane], volume, self._owner, key=key)
            self.ticket = native.open_ticket(volume.cache.core, volume.address, reason)
        self._call = call
        self._undo = undo
        self._context = contextvars.copy_context()  # a call of a backend stays one on the other thread
        self._lock = threading.Lock()
        self._left = self._started = self._done = False
        self._value: Any = None

    def run(self) -> None:
        with self._lock:
            if self._left:
                return
            self._started = True
        self._began, self._thread = time.monotonic(), threading.get_ident()
        try:
            value = self._context.run(self._call)
        except BaseException as error:
            self.ticket.finish(None, error)
            return
        with self._lock:
            self._value, self._done = value, True
            left = self._left
        if left:
            self._take_back()
        else:
            self.ticket.finish(value, None)

    def _owner(self, look: Look) -> Owner:
        """Who does it, for reports."""
        if self._thread is None:
            return nobody(f"it is in line: {THREADS_MAX} calls of the kind are at work at most")
        return Owner("the call itself", "does that", self._thread, self._began)

    def leave(self) -> None:
        with self._lock:
            self._left, done = True, self._done
        if done:
            self._take_back()

    def _take_back(self) -> None:
        if self._undo is not None:
            self._undo(self._value)


class _Lane:
    """A queue and its threads, which come and go."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._idle = 0

    def submit(self, call: _Call) -> None:
        with self._lock:
            more = self._idle <= self._calls.qsize() and self._threads < THREADS_MAX
            self._threads += more
            self._calls.put(call)  # with the lock: a thread that is about to end looks at the queue with it
        if more:
            try:
                threading.Thread(target=self._work, name=f"pagecache-{self._name}", daemon=True).start()
            except BaseException:
                with self._lock:
                    self._threads -= 1
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
        """Have something done by a thread.

        Args:
            lane: which queue it waits in.
            call: what is to be done.
            undo: for a result that came when nobody waited for it any more; must not wait.
            key: of what it is done to, for reports.

        Raises:
            ForkedError: in a forked child.
        """
        self._check_forked()  # the child has the counts of threads, and none of the threads
        made = _Call(call, undo, lane, self._volume, key)
        try:
            self._lanes[lane].submit(made)
            value: T = await made.ticket
        except BaseException:
            made.leave()
            raise
        return value

    def stop(self) -> None:
        """Threads end with what they have to do; none has to be waited for."""
        for lane in self._lanes.values():
            lane.stop()
