"""An object store: nothing is visible before commit, content is replaced as a whole, and a commit checks the version.

`ObjectBackend` returns files that are pinned to the version they were opened with. Reading another version is ESTALE,
and so is a commit over one, unless the stored object is the result of this file's own commit whose answer got lost.
Uploaded bytes are kept aside until commit or rollback. Everything else is as in backends.py: gates, faults, recorded
calls.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from pagecache import BackendLimits, ObjectStat

from ..plain import fill
from .backends import Key, RecordingBackend, RecordingFile, StoredObject


def stale() -> OSError:
    return OSError(errno.ESTALE, "another version is stored")


class ObjectFile(RecordingFile):
    """One object as it was at open, and the parts uploaded since."""

    def __init__(self, backend: ObjectBackend, key: Key, stored: StoredObject) -> None:
        super().__init__(backend, key, stored)
        self.objects = backend
        self.base = backend.content(key)
        self.version = backend.version(key)
        self.parts: list[tuple[int, bytes]] = []
        self.cuts: list[int] = []
        self.attempts: set[int] = set()

    def stat(self) -> ObjectStat:
        with self.backend.call("file_stat", self.key), self.backend.lock:
            return ObjectStat(size=len(self.objects.content(self.key)), version=self.objects.version(self.key))

    def fill(self, offset: int, buffers: Sequence[memoryview], limit: int | None = None) -> int:
        with self.backend.lock:
            if self.objects.pinned and self.objects.version(self.key) not in (self.version, None):
                raise stale()
            content = bytearray(self.objects.content(self.key) if not self.objects.pinned else self.base)
            for size in self.cuts:
                content.extend(bytes(max(0, size - len(content))))
                del content[size:]
            # The gaps between uploaded bytes keep the old content; the last part sets the length of the file.
            end = max((offset + len(data) for offset, data in self.parts), default=0)
            content.extend(bytes(max(0, end - len(content))))
        data = memoryview(bytes(content[offset:]))[:limit]
        return fill(buffers, data)

    def store(self, offset: int, buffers: Sequence[memoryview], limit: int | None = None) -> int:
        data = b"".join(buffers)[:limit]
        with self.backend.lock:
            self.parts.append((offset, data))
        return len(data)

    def truncate(self, size: int) -> None:
        with self.backend.exclusive(self.stored, "truncate"), self.backend.call("truncate", self.key, size):
            self.parts = [(offset, data[: size - offset]) for offset, data in self.parts if offset < size]
            self.cuts.append(size)

    def make_durable(self) -> str:
        """Lay every part over the opened version."""
        with self.backend.lock:
            found = self.objects.committed_object(self.key)
            if found is not None and str(found.version) != self.version:
                if self.objects.made_by.get(self.key) not in self.attempts:
                    raise stale()
                self.base = bytes(found.committed or b"")
            content = bytearray(self.base)
            for size in self.cuts:
                content.extend(bytes(max(0, size - len(content))))
                del content[size:]
            for offset, data in self.parts:
                content.extend(bytes(max(0, offset + len(data) - len(content))))
                content[offset : offset + len(data)] = data
            self.version = self.objects.put(self.key, bytes(content))
            self.base = bytes(content)
            self.parts, self.cuts = [], []
            self.objects.made_by[self.key] = attempt = next(self.objects.attempts)
            self.attempts.add(attempt)
            return self.version

    def rollback(self) -> None:
        with self.backend.exclusive(self.stored, "rollback"), self.backend.call("rollback", self.key):
            self.parts, self.cuts = [], []


class ObjectBackend(RecordingBackend):
    """See the top of this file."""

    def __init__(self, objects: dict[Key, bytes] | None = None, *, pinned: bool = True, **limits: Any) -> None:
        super().__init__(objects)
        self.limits = BackendLimits(**{"commit_on_close": True, **limits})
        self.pinned = pinned
        self.attempts = itertools.count(1)
        self.made_by: dict[Key, int] = {}
        self.versions = itertools.count(100)

    def committed_object(self, key: Key) -> StoredObject | None:
        found = self.objects.get(key)
        return found if found is not None and found.committed is not None else None

    def content(self, key: Key) -> bytes:
        found = self.committed_object(key)
        return b"" if found is None else bytes(found.committed or b"")

    def version(self, key: Key) -> str | None:
        found = self.committed_object(key)
        return None if found is None else str(found.version)

    def put(self, key: Key, content: bytes) -> str:
        """Give the object this content, as any client of the store could."""
        with self.lock:
            stored = self.objects.setdefault(key, StoredObject(committed=False))
            stored.written, stored.safe, stored.committed = bytearray(content), bytearray(content), content
            stored.version = next(self.versions)
            self.made_by.pop(key, None)
            return str(stored.version)

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> ObjectFile:
        with self.call("open", key), self.lock:
            if self.committed_object(key) is None and not create:
                raise FileNotFoundError(2, "no such object", str(key))
            if self.committed_object(key) is not None and exclusive:
                raise FileExistsError(17, "object exists", str(key))
            stored = self.committed_object(key) or StoredObject(committed=False)
            return ObjectFile(self, key, stored)

    def stat(self, key: Key) -> ObjectStat:
        with self.call("stat", key), self.lock:
            if self.committed_object(key) is None:
                raise FileNotFoundError(2, "no such object", str(key))
            return ObjectStat(size=len(self.content(key)), version=self.version(key))


def losing_the_answer(error: BaseException) -> Callable[[ObjectFile], str]:
    """A commit that does its work and never answers."""

    def answer(file: ObjectFile) -> str:
        file.make_durable()
        raise error

    return answer
