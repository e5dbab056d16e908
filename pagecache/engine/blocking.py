"""An asynchronous backend seen as a blocking one, without asyncio until a loop is needed.

`Blocking` has its coroutines run by the cache's event loop (loop.py) and waits for them. That module imports asyncio,
which takes almost as long as the rest of the package, so it is imported with the first asynchronous backend of a cache.

Re-entrancy (contract 2.25): a context variable lists the volumes whose calls a coroutine is in. It is visible in direct
awaits, in child tasks and in `to_thread`; work passed on by other means cannot be detected.
"""

from __future__ import annotations

import contextvars
import errno
import functools
import inspect
import sys
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..backends.plain import FILE_METHODS, forgotten, given, missing_in_file
from ..backends.protocol import OPTIONAL_MEMBERS, AsyncBackend, AsyncBackendFile, Backend, BackendFile, BackendLimits
from ..disk.backend import TieredBackend, TieredFile
from ..errors import BackendProtocolError, Key
from ..objects import ObjectStat

if TYPE_CHECKING:
    from .loop import CacheLoop

T = TypeVar("T")
METHODS = OPTIONAL_MEMBERS | {*FILE_METHODS}


# -- which calls the running code is in


class Call:
    """A call of an asynchronous backend while it runs."""

    __slots__ = ("addresses", "live", "outer")

    def __init__(self, addresses: list[int]) -> None:
        self.addresses = addresses
        self.live = True
        self.outer = calls.get()


calls: contextvars.ContextVar[Call | None] = contextvars.ContextVar("pagecachecalls", default=None)


def inside_calls() -> list[int]:
    """Return the addresses of the volumes whose calls the running coroutine is in, innermost first. Called from C."""
    found: list[int] = []
    call = calls.get()
    while call is not None:
        if call.live:
            found += call.addresses
        call = call.outer
    return found


# -- calls of a backend


async def call_async(what: str, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
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
    cancelled = getattr(sys.modules.get("asyncio"), "CancelledError", GeneratorExit)  # no asyncio: no task
    if isinstance(error, (GeneratorExit, cancelled)):
        return OSError(errno.EIO, f"{what} was cancelled")
    return error


# -- an asynchronous backend for threads


def is_async(backend: object) -> bool:
    """Return whether calls of a backend have to be awaited."""
    return isinstance(backend, type) is False and (
        AsyncBackend in type(backend).__mro__ or inspect.iscoroutinefunction(getattr(backend, "open", None))
    )


class BlockingFile:
    """An object of an asynchronous backend, for threads: a `BackendFile` that lacks the optional methods that the
    object lacks.
    """

    def __init__(self, backend: Blocking, file: AsyncBackendFile) -> None:
        self._backend = backend
        self.wrapped: Any = file

    def _call(self, what: str, *args: object) -> Any:
        method = getattr(self.wrapped, what)
        alive = self._backend.check_alive if what == "read_into" else None  # only the caller of a read may leave it
        return self._backend.call(what, lambda: call_async(what, method, *args), alive)

    def __getattr__(self, name: str) -> Any:
        """Return a blocking method, or a plain attribute such as `limits`."""
        found = getattr(self.wrapped, name)  # AttributeError if the object lacks it
        if name not in METHODS or not callable(found):
            return found
        return functools.partial(self._call, name)


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

    def _request(self, what: str, *args: object, **options: object) -> Any:
        method = getattr(self.wrapped, what)
        return self.call(what, lambda: call_async(what, method, *args, **options))

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        file = self._request("open", key, create=create, exclusive=exclusive)
        if missing := missing_in_file(file):
            what = f"open() answered {file!r}, which has no {missing}{forgotten(file)}"
            raise BackendProtocolError(what, key)
        return cast(BackendFile, BlockingFile(self, file))

    def stat(self, key: Key) -> ObjectStat:
        answer: ObjectStat = self._request("stat", key)
        return answer

    def remove(self, key: Key) -> None:
        self._request("remove", key)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        self._request("rename", src, dst, replace=replace)

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
        return cast(Key, self._request("canonical", key))

    def sync(self) -> None:
        self._request("sync")

    def close(self) -> None:
        self._request("close")

    def __getattr__(self, name: str) -> Any:
        """Return the backend's methods of namespaces."""
        found = getattr(self.wrapped, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return functools.partial(self._request, name)


def blocking(backend: Any, loop: Callable[[], CacheLoop]) -> Backend:
    """Return a backend for the engine's threads; `loop` gives the cache's loop if one is needed."""
    if not is_async(backend):
        plain: Backend = backend
        return plain
    return Blocking(backend, loop())


def original(backend: Backend) -> Any:
    """Return the backend that was attached."""
    backend = untiered(backend)
    return given(backend.wrapped if isinstance(backend, Blocking) else backend)


def untiered(backend: Backend) -> Backend:
    """Return the store itself, without a disk tier before it."""
    return backend.inner if isinstance(backend, TieredBackend) else backend


def original_file(backend_file: Any) -> Any:
    """Return the file of the backend that was attached."""
    if type(backend_file) is TieredFile:
        backend_file = backend_file.inner
    return backend_file.wrapped if isinstance(backend_file, BlockingFile) else backend_file
