"""Asynchronous backends for the tests, with failures on request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

from pagecache import AsyncBackend, AsyncBackendFile, ObjectStat
from pagecache.errors import Key

from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend, RecordingFile

ACTION = Callable[..., Any]


class Gate:
    """Calls of one method wait here, as tasks."""

    def __init__(self) -> None:
        self.waiting = self.came = 0
        self.entered = threading.Event()
        self._changed = threading.Condition()
        self._open = False
        self._futures: list[asyncio.Future[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def passing(self) -> None:
        if self._open:
            return
        self._loop = asyncio.get_running_loop()
        future = self._loop.create_future()
        self._futures.append(future)
        with self._changed:
            self.waiting += 1
            self.came += 1
            self._changed.notify_all()
        self.entered.set()
        try:
            await future
        finally:
            self.waiting -= 1

    def open(self) -> None:
        """Release the waiting calls, from any thread."""
        self._open = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._let_go)

    def _let_go(self) -> None:
        for future in self._futures:
            if not future.done():
                future.set_result(None)

    def wait_entered(self, calls: int = 1) -> None:
        """Return once that many calls have come here. For a task: `await asyncio.to_thread(gate.wait_entered)`."""
        with self._changed:
            enough = self._changed.wait_for(lambda: self.came >= calls, WAIT_LIMIT_S)
        assert enough, f"{self.came} of {calls} calls reached the gate"


def reaching(method: str, name: str = "") -> Any:
    """A method that a test may hold at a gate, or replace; else the blocking object does its work."""

    async def call(self: Any, *args: Any, **options: Any) -> Any:
        answer = await self.store.reached(name or method, *args)
        return getattr(self.inner, method)(*args, **options) if answer is NotImplemented else answer

    return call


class Store(AsyncBackend):
    """Objects in memory: a `RecordingBackend`, or with `commit_on_close` an `ObjectBackend`, on the loop. The keys
    of `gates` and `instead` are names of methods; `instead` replaces a method's work. `versions`: objects have them.
    """

    def __init__(self, objects: dict[Key, bytes] | None = None, *, versions: bool = False, **limits: Any) -> None:
        self.whole = limits.get("commit_on_close", False)
        self.inner = ObjectBackend(objects, **limits) if self.whole else RecordingBackend(objects, **limits)
        self.limits, self.objects, self.store = self.inner.limits, self.inner.objects, self
        self.versions = versions or self.whole
        self.gates: dict[str, Gate] = {}
        self.instead: dict[str, ACTION] = {}
        self.calls: list[str] = []

    def gate(self, method: str) -> Gate:
        self.gates[method] = Gate()
        return self.gates[method]

    def open_all(self) -> None:
        self.instead.clear()
        for gate in self.gates.values():
            gate.open()

    async def reached(self, method: str, *args: Any) -> Any:
        """Handle a call before its method runs. Return its replacement answer, or NotImplemented."""
        self.calls.append(method)
        if method in self.gates:
            await self.gates[method].passing()
        if method in self.instead:
            answer = self.instead[method](*args)
            return await answer if isinstance(answer, Coroutine) else answer
        await asyncio.sleep(0)
        return NotImplemented

    def shown(self, found: ObjectStat) -> ObjectStat:
        """A status; the version of an object that was never committed is 0."""
        return replace(found, version=found.version or "0" if self.versions else None)

    async def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> AsyncBackendFile:
        if (answer := await self.reached("open", key)) is not NotImplemented:
            return answer  # type: ignore[no-any-return]
        return (Session if self.whole else StoredFile)(self, self.inner.open(key, create=create, exclusive=exclusive))

    async def stat(self, key: Key) -> ObjectStat:
        answer = await self.reached("stat", key)
        return self.shown(self.inner.stat(key)) if answer is NotImplemented else answer

    remove, rename = map(reaching, ("remove", "rename"))

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectStat]:
        for found in self.inner.list(prefix):
            yield self.shown(found)

    def content(self, key: Key) -> bytes:
        return self.inner.written(key)


class StoredFile(AsyncBackendFile):
    def __init__(self, store: Store, inner: RecordingFile) -> None:
        self.store, self.inner = store, inner

    async def stat(self) -> ObjectStat:
        await self.store.reached("file_stat")
        return self.store.shown(self.inner.stat())

    read_into, write_from, truncate = map(reaching, ("read_into", "write_from", "truncate"))

    async def commit(self) -> str | None:
        answer = await self.store.reached("commit")
        version = self.inner.commit() if answer is NotImplemented else answer
        return version if self.store.versions or answer is not NotImplemented else None


class Session(StoredFile):
    """The bytes of one open file."""

    rollback = reaching("rollback")
