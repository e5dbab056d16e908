"""The cache's own event loop, and an asynchronous backend seen as a blocking one.

One daemon thread per cache, started with the first asynchronous backend. Calls that carry bytes and that no thread
waits for (write-back, readahead, fills for tasks) run here as tasks: the loop takes work from CORE's queue like a
thread of a volume, and makes each piece a task without waiting. Everything else (commits, names, fills that a thread
waits for) stays on the threads used for any backend and calls through `Blocking`, which runs the coroutine here.

Interrupts do not reach this thread, so a coroutine may own an operation; `_settling` ends it with the task. Exceptions
of a backend never reach the loop: calls are wrapped so that even SystemExit is only a result.

Re-entrancy (contract 2.25): a context variable lists the volumes whose calls a coroutine is in. It is visible in direct
awaits, in child tasks and in `to_thread`; work passed on by other means cannot be detected.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import functools
import inspect
import logging
import threading
import weakref
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar, cast

from .. import native
from ..backends.plain import forgotten, given, missing_in_file
from ..backends.protocol import AsyncBackend, AsyncBackendFile, Backend, BackendFile, BackendLimits, ObjectStat
from ..errors import BackendProtocolError, DeadlockError, Key, ShutdownError
from ..native import NativeVolume, Op
from .park import SLICE, Park, Signal
from .report.reason import Reason
from .runner import Job, ThreadRunner

__all__ = [
    "Blocking",
    "BlockingFile",
    "CacheLoop",
    "advanced",
    "as_answer",
    "asked",
    "blocking",
    "inside_calls",
    "is_async",
    "original",
    "original_file",
]

log = logging.getLogger("pagecache.internal")
T = TypeVar("T")

BATCH = 64
"""Pieces of work that are started before the loop handles other events."""
LATER = 0.0005
"""Seconds before a pass checks again whether a writer has released its only folio."""
OPTIONAL = frozenset({"close", "punch_hole", "next_data", "rollback", "stage", "read_staged", "kept", "rebase"})


# -- which calls the running code is in


class Call:
    """A call of an asynchronous backend while it runs."""

    __slots__ = ("addresses", "live", "outer")

    def __init__(self, addresses: list[int]) -> None:
        self.addresses = addresses
        self.live = True
        self.outer = _calls.get()


_calls: contextvars.ContextVar[Call | None] = contextvars.ContextVar("pagecache_calls", default=None)


def inside_calls() -> list[int]:
    """Return the addresses of the volumes whose calls the running coroutine is in, innermost first. Called from C."""
    found: list[int] = []
    call = _calls.get()
    while call is not None:
        if call.live:
            found += call.addresses
        call = call.outer
    return found


# -- wakers of loops


_wakers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, native.Waker] = weakref.WeakKeyDictionary()


def running_loop() -> tuple[asyncio.AbstractEventLoop, native.Waker]:
    """Return the running loop and its waker for tasks. Called from C."""
    loop = asyncio.get_running_loop()
    waker = _wakers.get(loop)
    if waker is None:
        waker = native.make_waker()
        loop.add_reader(waker.fileno(), waker.dispatch)
        _wakers[loop] = waker
    return loop, waker


native.use_loops(running_loop, None, asyncio.CancelledError)


async def advanced(kind: str, address: int, seq: int, timeout: float, reason: Reason, since_ns: int) -> None:
    """Wait, on the running loop, until an event advances beyond `seq`, at most `timeout` seconds; a part of a wait that
    began at `since_ns`.
    """
    volume = reason.volume
    ticket = native.ticket(volume.cache.core, kind, address, seq, volume.address, reason.file, reason, since_ns)
    timer = asyncio.get_running_loop().call_later(timeout, ticket.wake)
    try:
        await ticket
    finally:
        timer.cancel()


# -- calls of a backend


async def asked(what: str, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Await a method of an asynchronous backend.

    Raises:
        BackendProtocolError: its result cannot be awaited.
    """
    answer = method(*args, **options)
    if not inspect.isawaitable(answer):
        raise BackendProtocolError(f"{what}() answered {answer!r}, which cannot be awaited{forgotten(answer)}")
    return await answer


def as_answer(error: BaseException, what: str) -> BaseException:
    """Return the error for threads when a call was cancelled within the backend."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return OSError(errno.EIO, f"{what} was cancelled")
    return error


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
        native.use_loops(running_loop, inside_calls, asyncio.CancelledError)
        self._park = park
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.ending = self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"pagecache-{name}-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
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
        return self._thread.is_alive()

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
        _calls.set(call)  # inherited by the tasks that are made here
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
                await native.ticket(volume.cache.core, "volume", volume.address, seq, 0, 0, None, 0)

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
    _calls.set(call)
    try:
        outcome.value = await work()
    except BaseException as error:
        outcome.error = as_answer(error, what)
    finally:
        call.live = False
        outcome.end()


# -- an asynchronous backend for threads


def is_async(backend: object) -> bool:
    """Return whether calls of a backend have to be awaited."""
    return isinstance(backend, type) is False and (
        AsyncBackend in type(backend).__mro__ or inspect.iscoroutinefunction(getattr(backend, "open", None))
    )


class BlockingFile:
    """An object of an asynchronous backend, for threads. It lacks the optional methods that the object lacks."""

    def __init__(self, backend: Blocking, key: Key, file: AsyncBackendFile) -> None:
        self._backend = backend
        self._key = key
        self.wrapped: Any = file

    def _call(self, what: str, *args: object, alive: Callable[[], None] | None = None) -> Any:
        method = getattr(self.wrapped, what)
        return self._backend.call(what, lambda: asked(what, method, *args), alive)

    def stat(self) -> ObjectStat:
        answer: ObjectStat = self._call("stat")
        return answer

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        answer: int = self._call("read_into", offset, buffers, alive=self._backend.check_alive)
        return answer

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        answer: int = self._call("write_from", offset, buffers)
        return answer

    def truncate(self, size: int) -> None:
        self._call("truncate", size)

    def commit(self) -> str | None:
        answer: str | None = self._call("commit")
        return answer

    def __getattr__(self, name: str) -> Any:
        """Return an optional member: a blocking method, or a plain attribute such as `limits`."""
        found = getattr(self.wrapped, name)  # AttributeError if the object lacks it
        if name not in OPTIONAL or not callable(found):
            return found
        alive = self._backend.check_alive if name == "read_staged" else None
        return functools.partial(self._call, name, alive=alive)


class Blocking(Backend):
    """An asynchronous backend, for threads."""

    def __init__(self, backend: AsyncBackend, loop: CacheLoop) -> None:
        self.wrapped = backend
        self.loop = loop
        self.address: int | None = None
        self.check_alive: Callable[[], None] = lambda: None

    @property
    def limits(self) -> BackendLimits:  # type: ignore[override]
        return self.wrapped.limits

    def call(self, what: str, work: Callable[[], Coroutine[Any, Any, T]], alive: Callable[[], None] | None = None) -> T:
        return self.loop.call(what, work, alive, () if self.address is None else (self.address,))

    def _ask(self, what: str, *args: object, **options: object) -> Any:
        method = getattr(self.wrapped, what)
        return self.call(what, lambda: asked(what, method, *args, **options))

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        file = self._ask("open", key, create=create, exclusive=exclusive)
        if missing := missing_in_file(file):
            what = f"open() answered {file!r}, which has no {missing}{forgotten(file)}"
            raise BackendProtocolError(what, key)
        return BlockingFile(self, key, file)

    def stat(self, key: Key) -> ObjectStat:
        answer: ObjectStat = self._ask("stat", key)
        return answer

    def remove(self, key: Key) -> None:
        self._ask("remove", key)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        self._ask("rename", src, dst, replace=replace)

    def list(self, prefix: str = "") -> Iterable[ObjectStat]:
        async def collected() -> list[ObjectStat]:
            answer: Any = self.wrapped.list(prefix)
            if inspect.isawaitable(answer):
                answer = await answer
            if not isinstance(answer, AsyncIterable):
                raise BackendProtocolError(
                    f"list() answered {answer!r}, which is no asynchronous iterable{forgotten(answer)}"
                )
            return [stat async for stat in answer]

        return self.call("list", collected)

    def canonical(self, key: Key) -> Key:
        answer: Any = self.wrapped.canonical(key)
        if not inspect.iscoroutine(answer):
            return cast(Key, answer)
        try:  # a coroutine that awaits nothing needs no loop, and runs on any thread, including the loop's own
            answer.send(None)
        except StopIteration as end:
            return cast(Key, end.value)
        answer.close()
        return cast(Key, self._ask("canonical", key))

    def sync(self) -> None:
        self._ask("sync")

    def close(self) -> None:
        self._ask("close")

    def __getattr__(self, name: str) -> Any:
        """Return the backend's methods of namespaces."""
        found = getattr(self.wrapped, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return functools.partial(self._ask, name)


def blocking(backend: Any, loop: Callable[[], CacheLoop]) -> Backend:
    """Return a backend for the engine's threads; `loop` gives the cache's loop if one is needed."""
    if not is_async(backend):
        plain: Backend = backend
        return plain
    return Blocking(backend, loop())


def original(backend: Backend) -> Any:
    """Return the backend that was attached."""
    return given(backend.wrapped if isinstance(backend, Blocking) else backend)


def original_file(backend_file: Any) -> Any:
    """Return the file of the backend that was attached."""
    return backend_file.wrapped if isinstance(backend_file, BlockingFile) else backend_file
