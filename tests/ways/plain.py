"""An asynchronous backend as an outside author writes it, with only the interface at hand: no base class, coroutines
only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pagecache import BackendLimits, ObjectStat

from ..aio.stores import Gate


class PlainFile:
    """One object; with commit_on_close, written bytes show when they are committed."""

    def __init__(self, store: PlainStore, key: Any, data: bytes) -> None:
        self.store, self.key = store, key
        self.data = bytearray(data)

    async def stat(self) -> ObjectStat:
        await self.store.reached("file_stat")
        return ObjectStat(size=len(self.data), version=self.store.version(self.key))

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        await self.store.reached("read_into")
        done = 0
        for buffer in buffers:
            part = self.data[offset + done : offset + done + len(buffer)]
            buffer[: len(part)] = part
            done += len(part)
        return done

    async def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        await self.store.reached("write_from")
        end = offset + sum(map(len, buffers))
        self.data.extend(bytes(max(0, end - len(self.data))))
        self.data[offset:end] = b"".join(buffers)
        if not self.store.limits.commit_on_close:
            self.store.publish(self)
        return end - offset

    async def truncate(self, size: int) -> None:
        await self.store.reached("truncate")
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))
        if not self.store.limits.commit_on_close:
            self.store.publish(self)

    async def commit(self) -> str | None:
        await self.store.reached("commit")
        self.store.publish(self)
        return self.store.version(self.key)

    async def rollback(self) -> None:
        await self.store.reached("rollback")
        self.data = bytearray(self.store.objects.get(self.key, b""))


class PlainStore:
    """Published contents by key."""

    def __init__(self, objects: dict[Any, bytes] | None = None, **limits: Any) -> None:
        self.limits = BackendLimits(**limits)
        self.objects: dict[Any, bytes] = dict(objects or {})
        self.versions: dict[Any, int] = {}
        self.calls: list[str] = []
        self.gates: dict[str, Gate] = {}

    def gate(self, method: str) -> Gate:
        """Make calls of a method wait from here on, until the gate is opened."""
        self.gates[method] = Gate()
        return self.gates[method]

    async def reached(self, method: str) -> None:
        self.calls.append(method)
        if method in self.gates:
            await self.gates[method].passing()
        await asyncio.sleep(0)

    def publish(self, file: PlainFile) -> None:
        if self.objects.get(file.key) != bytes(file.data):
            self.objects[file.key] = bytes(file.data)
            self.versions[file.key] = self.versions.get(file.key, 0) + 1

    def version(self, key: Any) -> str:
        return str(self.versions.get(key, 0))

    async def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> PlainFile:
        await self.reached("open")
        if key in self.objects and exclusive:
            raise FileExistsError(17, "it is there", key)
        if key not in self.objects:
            if not create:
                raise FileNotFoundError(2, "it is not there", key)
            if not self.limits.commit_on_close:
                self.objects[key] = b""
        return PlainFile(self, key, self.objects.get(key, b""))

    async def stat(self, key: Any) -> ObjectStat:
        if key not in self.objects:
            raise FileNotFoundError(2, "it is not there", key)
        return ObjectStat(size=len(self.objects[key]), version=self.version(key))

    async def remove(self, key: Any) -> None:
        if self.objects.pop(key, None) is None:
            raise FileNotFoundError(2, "it is not there", key)

    async def rename(self, src: Any, dst: Any, *, replace: bool = True) -> None:
        if src not in self.objects:
            raise FileNotFoundError(2, "it is not there", src)
        if dst in self.objects and not replace:
            raise FileExistsError(17, "it is there", dst)
        self.objects[dst] = self.objects.pop(src)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectStat]:
        for key in sorted(self.objects):
            if str(key).startswith(prefix):
                yield ObjectStat(size=len(self.objects[key]), key=key)

    async def sync(self) -> None: ...

    async def close(self) -> None: ...

    def canonical(self, key: Any) -> Any:
        return key
