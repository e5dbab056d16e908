"""Asynchronous backends for the tests, with failures on request."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from pagecache import AsyncBackend, AsyncBackendFile, BackendLimits, ObjectStat
from pagecache.errors import Key

from ..plain import fill
from ..stores import WAIT_LIMIT_S

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


class Store(AsyncBackend):
    """Objects in memory. The keys of `gates` and `instead` are names of methods; `instead` replaces a method's work.

    With `commit_on_close` an open file has bytes of its own, which its commits publish. `versions`: objects have them.
    """

    def __init__(self, objects: dict[Key, bytes] | None = None, *, versions: bool = False, **limits: Any) -> None:
        self.limits = BackendLimits(**limits)
        self.versions = versions or self.limits.commit_on_close
        self.numbers = itertools.count(1)
        self.objects: dict[Key, StoredFile] = {key: StoredFile(self, data) for key, data in (objects or {}).items()}
        self.gates: dict[str, Gate] = {}
        self.instead: dict[str, ACTION] = {}
        self.calls: list[str] = []
        self.running = self.most = 0

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
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if method in self.gates:
                await self.gates[method].passing()
            if method in self.instead:
                answer = self.instead[method](*args)
                return await answer if isinstance(answer, Coroutine) else answer
            await asyncio.sleep(0)
            return NotImplemented
        finally:
            self.running -= 1

    async def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> AsyncBackendFile:
        if (answer := await self.reached("open", key)) is not NotImplemented:
            return answer  # type: ignore[no-any-return]
        if key in self.objects and exclusive:
            raise FileExistsError(17, "it is there", key)
        if key not in self.objects:
            if not create:
                raise FileNotFoundError(2, "it is not there", key)
            if not self.limits.commit_on_close:
                self.objects[key] = StoredFile(self, b"")
        return Session(self, key) if self.limits.commit_on_close else self.objects[key]

    async def stat(self, key: Key) -> ObjectStat:
        if (answer := await self.reached("stat", key)) is not NotImplemented:
            return answer  # type: ignore[no-any-return]
        if key not in self.objects:
            raise FileNotFoundError(2, "it is not there", key)
        return self.objects[key].status()

    async def remove(self, key: Key) -> None:
        await self.reached("remove", key)
        if self.objects.pop(key, None) is None:
            raise FileNotFoundError(2, "it is not there", key)

    async def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        await self.reached("rename", src, dst)
        if src not in self.objects:
            raise FileNotFoundError(2, "it is not there", src)
        if dst in self.objects and not replace:
            raise FileExistsError(17, "it is there", dst)
        self.objects[dst] = self.objects.pop(src)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectStat]:
        for key, file in sorted(self.objects.items(), key=str):
            if str(key).startswith(prefix):
                yield ObjectStat(size=len(file.data), key=key)

    def content(self, key: Key) -> bytes:
        return bytes(self.objects[key].data)


class StoredFile(AsyncBackendFile):
    def __init__(self, store: Store, data: bytes | bytearray) -> None:
        self.store, self.number = store, next(store.numbers)
        self.data = bytearray(data)

    def status(self) -> ObjectStat:
        return ObjectStat(size=len(self.data), version=str(self.number) if self.store.versions else None)

    async def stat(self) -> ObjectStat:
        await self.store.reached("file_stat")
        return self.status()

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        if (answer := await self.store.reached("read_into", offset, buffers)) is not NotImplemented:
            return answer  # type: ignore[no-any-return]
        return fill(buffers, self.data[offset:])

    async def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        if (answer := await self.store.reached("write_from", offset, buffers)) is not NotImplemented:
            return answer  # type: ignore[no-any-return]
        end = offset + sum(map(len, buffers))
        self.data.extend(bytes(max(0, end - len(self.data))))
        self.data[offset:end] = b"".join(buffers)
        self.number = next(self.store.numbers)
        return end - offset

    async def truncate(self, size: int) -> None:
        await self.store.reached("truncate", size)
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))
        self.number = next(self.store.numbers)

    async def commit(self) -> str | None:
        if (answer := await self.store.reached("commit")) is not NotImplemented:
            return answer  # type: ignore[no-any-return]
        return self.status().version


class Session(StoredFile):
    """The bytes of one open file."""

    def __init__(self, store: Store, key: Key) -> None:
        super().__init__(store, store.objects[key].data if key in store.objects else b"")
        self.key = key

    def status(self) -> ObjectStat:
        """Return its size, and the version of the stored object: 0 if none is stored."""
        stored = self.store.objects.get(self.key)
        return ObjectStat(size=len(self.data), version=str(0 if stored is None else stored.number))

    async def commit(self) -> str | None:
        if (answer := await self.store.reached("commit")) is not NotImplemented:
            return answer  # type: ignore[no-any-return]
        stored = self.store.objects.get(self.key)
        if stored is None or stored.data != self.data:
            self.store.objects[self.key] = StoredFile(self.store, self.data)
        return self.status().version

    async def rollback(self) -> None:
        await self.store.reached("rollback")
        self.data = bytearray(self.store.content(self.key) if self.key in self.store.objects else b"")
