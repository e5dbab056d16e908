"""Stores with plain classes: no base class, no limits, only the methods that a backend has to have. `fill` serves other
stores of the tests too.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from typing import Any

from pagecache import ObjectStat


def fill(buffers: Sequence[memoryview], data: bytes | bytearray | memoryview) -> int:
    """Copy data to the buffers in order; return the number of bytes."""
    done = 0
    for buffer in buffers:
        part = data[done : done + len(buffer)]
        buffer[: len(part)] = part
        done += len(part)
    return done


class Blobs:
    """A store with the two methods that a backend needs."""

    def __init__(self) -> None:
        self.objects: dict[Any, bytearray] = {}
        self.lock = threading.RLock()

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Blob:
        with self.lock:
            if key not in self.objects:
                if not create:
                    raise FileNotFoundError(errno.ENOENT, "no such object", key)
                self.objects[key] = bytearray()
            elif create and exclusive:
                raise FileExistsError(errno.EEXIST, "there is one", key)
            return Blob(self.objects[key], self.lock)

    def stat(self, key: Any) -> ObjectStat:
        if key not in self.objects:
            raise FileNotFoundError(errno.ENOENT, "no such object", key)
        return ObjectStat(size=len(self.objects[key]))


class Blob:
    def __init__(self, content: bytearray, lock: Any) -> None:
        self.content, self.lock = content, lock

    def stat(self) -> ObjectStat:
        return ObjectStat(size=len(self.content))

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        with self.lock:
            return fill(buffers, self.content[offset:])

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        data = b"".join(buffers)
        with self.lock:
            self.content.extend(bytes(max(0, offset - len(self.content))))
            self.content[offset : offset + len(data)] = data
        return len(data)

    def truncate(self, size: int) -> None:
        with self.lock:
            del self.content[size:]
            self.content.extend(bytes(size - len(self.content)))

    def commit(self) -> str | None:
        return None


class AsyncBlobs:
    """A store with coroutines instead of methods."""

    def __init__(self) -> None:
        self.blobs = Blobs()

    async def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> AsyncBlob:
        return AsyncBlob(self.blobs.open(key, create=create, exclusive=exclusive))

    async def stat(self, key: Any) -> ObjectStat:
        return self.blobs.stat(key)


class AsyncBlob:
    def __init__(self, blob: Blob) -> None:
        self.blob = blob

    async def stat(self) -> ObjectStat:
        return self.blob.stat()

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self.blob.read_into(offset, buffers)

    async def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self.blob.write_from(offset, buffers)

    async def truncate(self, size: int) -> None:
        self.blob.truncate(size)

    async def commit(self) -> None:
        pass


class Wrong(Blobs):
    """A store whose files answer as a test says: `answers` has what a method returns, by its name."""

    def __init__(self, **answers: Any) -> None:
        super().__init__()
        self.answers: dict[str, Any] = {}
        self.open("key", create=True).write_from(0, [memoryview(b"12345")])
        self.answers = answers

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Any:
        file: Any = super().open(key, create=create, exclusive=exclusive)
        for name, answer in self.answers.items():
            setattr(file, name, lambda *_, answer=answer: answer)
        return self.answers.get("open", file)

    def list(self, prefix: str = "") -> Any:
        return self.answers["list"]


class AsyncWrong(AsyncBlobs):
    """A store with coroutines instead of methods."""

    def __init__(self, **answers: Any) -> None:
        self.blobs = Wrong(**answers)

    async def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> Any:
        file = self.blobs.open(key, create=create, exclusive=exclusive)
        return None if file is None else AsyncBlob(file)
