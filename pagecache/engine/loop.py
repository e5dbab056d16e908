"""The cache's own event loop, on which the coroutines of asynchronous backends run.

One daemon thread per cache, started with the first asynchronous backend. All calls are made by the threads that make
those of any backend, through `Blocking` (blocking.py): `call` starts the coroutine here and waits for its end. So
whatever the engine does with a blocking backend it does with an asynchronous one.

`call` is `asyncio.run_coroutine_threadsafe` without its future, whose lock an interrupt could leave locked (park.py).
Exceptions of a backend never reach the loop: they are the result of the call, even SystemExit.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from .. import native
from ..errors import DeadlockError, ShutdownError
from .blocking import Call, as_answer, calls, inside_calls
from .park import SLICE, Signal, start_thread
from .report.notices import fault

T = TypeVar("T")


class _Running(Generic[T]):
    """A coroutine on the loop, for the thread that waits for its result."""

    def __init__(self, what: str, work: Callable[[], Coroutine[Any, Any, T]], call: Call) -> None:
        self._what, self._work, self._call = what, work, call
        self._task: asyncio.Task[None] | None = None
        self._value: T | None = None
        self._error: BaseException | None = None
        self._ended = Signal()
        self.wait = self._ended.wait

    def begin(self) -> None:
        """Start it; on the loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        calls.set(self._call)
        try:
            self._value = await self._work()
        except BaseException as error:
            self._error = as_answer(error, self._what)
        finally:
            self._call.live = False
            self._ended.set()

    def cancel(self) -> None:
        """Cancel it; on the loop."""
        if self._task is not None:
            self._task.cancel()

    def result(self) -> T:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # error → traceback → this frame → error
        return self._value  # type: ignore[return-value]


class CacheLoop:
    """The event loop of one cache."""

    def __init__(self, name: str) -> None:
        native.use_inside(inside_calls)
        self._loop = asyncio.new_event_loop()
        self._ended = self._over = False
        self._thread = threading.Thread(target=self._run, name=f"pagecache-{name}-loop", daemon=True)
        try:
            start_thread(self._thread, "of the cache")
        except BaseException:
            self._loop.close()
            raise

    def _run(self) -> None:
        try:
            native.enter_loop()
            asyncio.set_event_loop(self._loop)
            while not self._ended:
                try:
                    self._loop.run_forever()
                except BaseException:  # a callback of the backend raised SystemExit: the loop has other users
                    fault("the event loop of the cache met an error that should not get here; it goes on")
            with contextlib.suppress(Exception):
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
        finally:
            self._over = True

    def alive(self) -> bool:
        return not self._over

    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

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

        Raises:
            DeadlockError: this is the thread of the loop. ShutdownError: the loop has ended.
            the exception of the coroutine, whatever its type; OSError (EIO) if it was cancelled.
        """
        if self.is_current():
            raise DeadlockError(f"{what} of an asynchronous backend, waited for on the event loop that runs it")
        running = _Running(what, work, Call([*addresses, *native.inside()]))
        self._post(running.begin)
        try:
            while not running.wait(SLICE):
                if alive is not None:
                    alive()
                if self._over:
                    raise ShutdownError("the event loop of the cache has ended")
        except BaseException:
            if alive is not None:
                with contextlib.suppress(ShutdownError):
                    self._post(running.cancel)
            raise
        return running.result()

    def _post(self, call: Callable[..., object], *args: object) -> None:
        """Call a function on the loop's thread.

        Raises:
            ShutdownError: the loop has ended.
        """
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError as error:
            raise ShutdownError("the event loop of the cache has ended") from error

    # -- the end

    def stop(self, timeout: float) -> bool:
        """Cancel running tasks and end the thread; False when a task does not end in time."""
        if not self.alive():
            return True
        with contextlib.suppress(ShutdownError):
            self._post(lambda: self._loop.create_task(self._end(timeout)))
        self._thread.join(timeout + SLICE)
        return not self.alive()

    async def _end(self, timeout: float) -> None:
        this = asyncio.current_task()
        others = {task for task in asyncio.all_tasks() if task is not this}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=timeout)
        self._ended = True
        self._loop.stop()
