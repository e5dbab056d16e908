"""The cache's own event loop.

One daemon thread per cache, started with the first asynchronous backend. Calls that carry bytes and that no thread
waits for (write-back, readahead, fills for tasks) run here as tasks: the loop takes work from CORE's queue like a
thread of a volume, and makes each piece a task without waiting. Everything else (commits, names, fills that a thread
waits for) stays on the threads used for any backend and calls through `Blocking` (blocking.py), which runs the
coroutine here.

Interrupts do not reach this thread, so a coroutine may own an operation; `_settling` ends it with the task. Exceptions
of a backend never reach the loop: calls are wrapped so that even SystemExit is only a result.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from .. import native
from ..errors import DeadlockError, ShutdownError
from ..native import NativeVolume, Op
from .blocking import Call, as_answer, calls, inside_calls
from .park import SLICE, Park, Signal, start_thread
from .report.reason import Reason
from .runner import Job, ThreadRunner
from .tasks import ended

__all__ = ["CacheLoop", "advanced", "new_waiter"]

log = logging.getLogger("pagecache.internal")
T = TypeVar("T")

BATCH = 64
"""Pieces of work that are started before the loop handles other events."""
LATER = 0.0005
"""Seconds before a pass checks again whether a writer has released its only folio."""


# -- wakers of loops


_wakers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, native.Waker] = weakref.WeakKeyDictionary()


def new_waiter() -> tuple[asyncio.Future[None], asyncio.AbstractEventLoop, asyncio.Future[Any], native.Waker]:
    """Return the running task as a waiter: a new future, the loop, the task, and the loop's waker. Called from C."""
    loop = asyncio.get_running_loop()
    waker = _wakers.get(loop)
    if waker is None:
        waker = native.make_waker()
        loop.add_reader(waker.fileno(), waker.dispatch)
        _wakers[loop] = waker
    future: asyncio.Future[None] = loop.create_future()
    return future, loop, asyncio.current_task(loop) or future, waker


native.use_loops(new_waiter, None)


async def advanced(kind: str, address: int, seq: int, timeout: float, reason: Reason, since_ns: int) -> None:
    """Wait, on the running loop, until an event advances beyond `seq`, at most `timeout` seconds; a part of a wait that
    began at `since_ns`.
    """
    volume = reason.volume
    ticket = native.ticket(volume.cache.core, kind, address, seq, volume.address, reason.file, reason, since_ns)
    timer = asyncio.get_running_loop().call_later(timeout, ticket.wake)
    try:
        await ended(ticket)
    finally:
        timer.cancel()


# -- the loop


class _Outcome:
    """The result of a call on the loop, for the waiting thread."""

    __slots__ = ("_signal", "error", "task", "value")

    def __init__(self, park: Park) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.task: asyncio.Task[None] | None = None
        self._signal: Signal = park.signal()

    def end(self) -> None:
        self._signal.set()

    def wait(self, timeout: float) -> bool:
        return self._signal.wait(timeout)


class CacheLoop:
    """The event loop of one cache."""

    def __init__(self, name: str, park: Park) -> None:
        native.use_loops(new_waiter, inside_calls)
        self._park = park
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.ending = self._ended = self._over = False
        self._thread = threading.Thread(target=self._run, name=f"pagecache-{name}-loop", daemon=True)
        try:
            start_thread(self._thread, "of the cache")
        except BaseException:
            self._loop.close()
            raise

    def _run(self) -> None:
        try:
            self._run_tasks()
        finally:
            self._over = True

    def _run_tasks(self) -> None:
        native.enter_loop()
        asyncio.set_event_loop(self._loop)
        while not self._ended:
            try:
                self._loop.run_forever()
            except BaseException:  # a callback of the backend raised SystemExit: the loop has other users
                log.exception("the event loop of the cache met an error that should not get here; it goes on")
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def alive(self) -> bool:
        return not self._over

    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    # -- tasks

    def spawn(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Start a coroutine as a task; on the loop's thread."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def carry(self, op: Op, work: Coroutine[Any, Any, None]) -> None:
        """Run an operation as a task; on the loop's thread."""
        self.spawn(_settling(op, work))

    def post(self, call: Callable[..., object], *args: object) -> None:
        """Call a function on the loop's thread.

        Raises:
            ShutdownError: the loop has ended.
        """
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError as error:
            raise ShutdownError("the event loop of the cache has ended") from error

    def call(
        self,
        what: str,
        work: Callable[[], Coroutine[Any, Any, T]],
        alive: Callable[[], None] | None = None,
        addresses: Sequence[int] = (),
    ) -> T:
        """Run a coroutine on the loop and wait for it on this thread.

        Args:
            what: the method, for messages.
            work: makes the coroutine.
            alive: called regularly; raises if waiting is pointless. Then, and when a signal handler raises, the
                coroutine is cancelled. None: it is never cancelled, and its return is awaited.
            addresses: volumes whose call this is, besides those whose calls this thread is in.
        """
        if self.is_current():
            raise DeadlockError(f"{what} of an asynchronous backend, waited for on the event loop that runs it")
        outcome = _Outcome(self._park)
        call = Call([*addresses, *native.inside()])
        self.post(self._begin, what, work, outcome, call)
        try:
            while not outcome.wait(SLICE):
                if alive is not None:
                    alive()
                if not self.alive():
                    raise ShutdownError("the event loop of the cache has ended")
        except BaseException:
            if alive is not None:
                with contextlib.suppress(ShutdownError):
                    self.post(_cancel, outcome)
            raise
        if outcome.error is not None:
            try:
                raise outcome.error
            finally:
                del outcome  # error → traceback → this frame → error
        return outcome.value  # type: ignore[no-any-return]

    def _begin(self, what: str, work: Callable[[], Coroutine[Any, Any, T]], outcome: _Outcome, call: Call) -> None:
        outcome.task = self.spawn(_answer(what, work, outcome, call))

    async def aside(self, runner: ThreadRunner, call: Callable[[], T]) -> T:
        """Run a blocking call on a thread of a volume."""
        future: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            try:
                value = call()
            except BaseException as error:
                self.post(_fail, future, error)
            else:
                self.post(_succeed, future, value)

        runner.submit(native.NAMES, Job(self._park, run))
        return await future

    # -- work of a volume

    def serve(self, volume: NativeVolume) -> None:
        """Start a volume's work as it comes, until the volume stops."""
        self.post(lambda: self.spawn(self._serve(volume)))

    async def _serve(self, volume: NativeVolume) -> None:
        call = Call([volume.address])
        calls.set(call)  # inherited by the tasks that are made here
        while True:
            seq = volume.event_seq()
            started = 0
            while (more := volume.start_work()) is True and started < BATCH:
                started += 1
            if more is None:
                return
            if more is True:
                await asyncio.sleep(0)
            elif more == "later":
                await asyncio.sleep(LATER)
            else:
                await ended(native.ticket(volume.cache.core, "volume", volume.address, seq, 0, 0, None, 0))

    # -- the end

    def stop(self, timeout: float) -> bool:
        """Cancel running tasks and end the thread; False when a task does not end in time."""
        if not self.alive():
            return True
        with contextlib.suppress(ShutdownError):
            self.post(lambda: self.spawn(self._end(timeout)))
        self._thread.join(timeout + SLICE)
        return not self.alive()

    async def _end(self, timeout: float) -> None:
        self.ending = True
        this = asyncio.current_task()
        others = {task for task in asyncio.all_tasks() if task is not this}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=timeout)
        self._ended = True
        self._loop.stop()


async def _settling(op: Op, work: Coroutine[Any, Any, None]) -> None:
    """Settle the operation when the work ends: the frames of a stored exception would keep it alive."""
    try:
        await work
    finally:
        op.settle()


def _succeed(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error if not isinstance(error, StopIteration) else RuntimeError("StopIteration"))


def _cancel(outcome: _Outcome) -> None:
    if outcome.task is not None:
        outcome.task.cancel()


async def _answer(what: str, work: Callable[[], Coroutine[Any, Any, object]], outcome: _Outcome, call: Call) -> None:
    """Pass the result of the work to the waiting thread."""
    calls.set(call)
    try:
        outcome.value = await work()
    except BaseException as error:
        outcome.error = as_answer(error, what)
    finally:
        call.live = False
        outcome.end()
