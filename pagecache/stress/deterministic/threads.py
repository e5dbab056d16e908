"""Classes of `threading` and `queue` for simulated threads: calls are points, and sleeps are the scheduler's.

As in `threading`, any thread may release a lock; an RLock and a condition belong to their thread; nothing is fair.
"""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from queue import Empty
from typing import Any

from pagecache.native.simulated import passed
from pagecache.stress.deterministic.scheduler import Scheduler, Simulated

__all__ = ["Condition", "Event", "Lock", "RLock", "SimpleQueue", "Thread"]


class _Waiters:
    """Threads that sleep for one thing, the oldest first."""

    __slots__ = ("_scheduler", "_threads", "_what")

    def __init__(self, scheduler: Scheduler, what: str) -> None:
        self._scheduler = scheduler
        self._what = what
        self._threads: deque[Simulated] = deque()

    def sleep(self, timeout: float | None) -> bool:
        """Sleep, and return whether the thread was woken."""
        me = self._scheduler.running
        self._threads.append(me)
        woken = self._scheduler.sleep(self._what, timeout)
        if not woken and me in self._threads:  # timed out: no wake-up removed it
            self._threads.remove(me)
        return woken

    def wake(self, most: int) -> None:
        while self._threads and most:
            most -= self._scheduler.wake(self._threads.popleft())


class Lock:
    """A lock like threading.Lock."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiters = _Waiters(scheduler, "a lock")
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        passed("acquire")
        if not self._held:
            self._held = True
            return True
        if not blocking:
            return False
        until = None if timeout < 0 else self._scheduler.now_ns() + int(timeout * 1e9)
        while self._held:
            left = None if until is None else (until - self._scheduler.now_ns()) / 1e9
            if left is not None and left <= 0:
                return False
            self._waiters.sleep(left)
        self._held = True
        return True

    def release(self) -> None:
        if not self._held:
            raise RuntimeError("release unlocked lock")
        self._held = False
        self._waiters.wake(1)
        passed("release")

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


class RLock:
    """A lock like threading.RLock."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lock = Lock(scheduler)
        self._owner: Simulated | None = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._owner is not self._scheduler.running:
            if not self._lock.acquire(blocking, timeout):
                return False
            self._owner = self._scheduler.running
        self._count += 1
        return True

    def release(self) -> None:
        if self._owner is not self._scheduler.running:
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._owner = None
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


class Condition:
    """A condition like threading.Condition."""

    def __init__(self, scheduler: Scheduler, lock: Lock | RLock | None = None) -> None:
        self._scheduler = scheduler
        self._lock = RLock(scheduler) if lock is None else lock
        self._waiters: deque[Event] = deque()
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        count, notified = getattr(self._lock, "_count", 1), Event(self._scheduler, "a condition")
        self._waiters.append(notified)  # before the lock is released: a notified thread must count as asleep
        for _ in range(count):
            self._lock.release()
        try:
            if notified.wait(timeout):
                return True
            self._waiters.remove(notified)
            return False
        finally:
            for _ in range(count):
                self._lock.acquire()

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        until = None if timeout is None else self._scheduler.now_ns() + int(timeout * 1e9)
        while not (found := predicate()):
            left = None if until is None else (until - self._scheduler.now_ns()) / 1e9
            if left is not None and left <= 0:
                return found
            self.wait(left)
        return found

    def notify(self, n: int = 1) -> None:
        while self._waiters and n > 0:
            self._waiters.popleft().set()
            n -= 1

    def notify_all(self) -> None:
        self.notify(sys.maxsize)


class Event:
    """An event like threading.Event."""

    def __init__(self, scheduler: Scheduler, what: str = "an event") -> None:
        self._waiters = _Waiters(scheduler, what)
        self._flag = False

    def is_set(self) -> bool:
        return self._flag

    def set(self) -> None:
        self._flag = True
        self._waiters.wake(sys.maxsize)
        passed("set")

    def clear(self) -> None:
        self._flag = False

    def wait(self, timeout: float | None = None) -> bool:
        passed("wait")
        if not self._flag:
            self._waiters.sleep(timeout)
        return self._flag


class SimpleQueue:
    """A queue like queue.SimpleQueue."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiters = _Waiters(scheduler, "a queue")
        self._items: deque[Any] = deque()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._items.append(item)
        self._waiters.wake(1)
        passed("put")

    put_nowait = put

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        passed("get")
        until = None if timeout is None else self._scheduler.now_ns() + int(timeout * 1e9)
        while not self._items:
            left = None if until is None else (until - self._scheduler.now_ns()) / 1e9
            if not block or (left is not None and left <= 0):
                raise Empty
            self._waiters.sleep(left)
        return self._items.popleft()

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)


class Thread:
    """A thread like threading.Thread, made with a target."""

    def __init__(
        self,
        scheduler: Scheduler,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        daemon: bool | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._target = target
        self._args, self._kwargs = tuple(args), dict(kwargs or {})
        self.name = name or "a thread"
        self.daemon = bool(daemon)
        self._simulated: Simulated | None = None

    def __repr__(self) -> str:
        return f"<{self.name}, simulated>"

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def _run(self) -> None:
        scheduler = self._scheduler
        scheduler.python_threads[scheduler.running] = self
        try:
            self.run()
        except SystemExit:
            pass
        except BaseException as error:  # like threading.excepthook
            sys.stderr.write(f"{self.name}: {''.join(traceback.format_exception(error))}")
        finally:
            del scheduler.python_threads[scheduler.running]
            self._target = None

    def start(self) -> None:
        if self._simulated is not None:
            raise RuntimeError("threads can only be started once")
        self._simulated = self._scheduler.start(self.name, self._run)
        passed("start")

    @property
    def ident(self) -> int | None:
        return None if self._simulated is None else self._simulated.ident

    def is_alive(self) -> bool:
        return self._simulated is not None and not self._simulated.done

    def join(self, timeout: float | None = None) -> None:
        if self._simulated is None:
            raise RuntimeError("cannot join thread before it is started")
        scheduler, me = self._scheduler, self._scheduler.running
        until = None if timeout is None else scheduler.now_ns() + int(timeout * 1e9)
        while not self._simulated.done:
            left = None if until is None else (until - scheduler.now_ns()) / 1e9
            if left is not None and left <= 0:
                return
            self._simulated.joiners.append(me)
            if not scheduler.sleep(f"the end of {self.name}", left) and me in self._simulated.joiners:
                self._simulated.joiners.remove(me)
