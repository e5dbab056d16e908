"""A RecordingBackend that can stage.

Written bytes show only after a commit, as in an object store, so bytes read from the wrong place are wrong. A failed
commit and a rollback forget the acknowledged bytes; a failed commit leaves the staged ones.
Further operations for gates and faults: stage read_staged rollback kept.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from pagecache import ObjectStat

from .backends import Key, PunchingFile, RecordingBackend, RecordingFile, StoredObject

__all__ = ["KeepingBackend", "KeepingFile"]


class KeepingFile(PunchingFile):
    """One open object of a KeepingBackend."""

    backend: KeepingBackend

    @property
    def marks(self) -> bytearray:
        """A flag for each byte: whether it is staged."""
        return self.backend.marks.setdefault(self.stored, bytearray())

    def mark(self, offset: int, length: int, value: int) -> None:
        with self.backend.lock:
            self.marks.extend(bytes(max(0, offset + length - len(self.marks))))
            self.marks[offset : offset + length] = bytes([value]) * length

    def fill(self, offset: int, buffers: Sequence[memoryview], limit: int | None = None) -> int:
        if self.backend.limits.durable_writes:
            return super().fill(offset, buffers, limit)
        with self.backend.lock:
            written, self.stored.written = self.stored.written, self.stored.safe
            try:
                return super().fill(offset, buffers, limit)
            finally:
                self.stored.written = written

    def store(self, offset: int, buffers: Sequence[memoryview], limit: int | None = None) -> int:
        length = super().store(offset, buffers, limit)
        self.mark(offset, length, 0)
        return length

    def stage(self, offset: int, buffers: Sequence[memoryview]) -> int:
        length = sum(len(buffer) for buffer in buffers)
        with (
            self.backend.writing(self.stored, offset, length),
            self.backend.call("stage", self.key, offset, length, buffers) as action,
        ):
            self.backend.check_transfer("write", offset, buffers)
            with self.backend.lock:
                taken: int = action(self, offset, buffers) if callable(action) else self.store(offset, buffers)
                self.mark(offset, taken, 1)
                return taken

    def read_staged(self, offset: int, buffers: Sequence[memoryview]) -> int:
        length = sum(len(buffer) for buffer in buffers)
        with self.backend.call("read_staged", self.key, offset, length, buffers) as action, self.backend.lock:
            if length > int(self.backend.limits.max_read) or len(buffers) > self.backend.limits.max_vectors:
                self.backend.violations.append(f"read_staged at {offset}: {length} bytes, {len(buffers)} buffers")
            kept = bytes(self.marks[offset : offset + length])
            if not kept.startswith(b"\1"):
                raise FileNotFoundError(errno.ENOENT, "not staged")
            limit = (kept + b"\0").index(0)
            if limit < length and not self.backend.lost:
                self.backend.violations.append(f"read_staged at {offset}: {length} bytes, {limit} of them are staged")
            if callable(action):
                limit = min(limit, action(length))
            return super().fill(offset, buffers, limit)

    def make_durable(self) -> str:
        with self.backend.lock:
            self.marks.clear()
            super().make_durable()
            self.backend.versions[self.stored] = self.backend.versions.get(self.stored, 1) + 1
            return str(self.backend.versions[self.stored])

    def forget(self) -> None:
        with self.backend.lock:
            marks, written, safe = self.marks, self.stored.written, self.stored.safe
            for k in range(len(safe)):
                if k >= len(marks) or not marks[k]:
                    written[k] = safe[k]

    def truncate(self, size: int) -> None:
        super().truncate(size)
        with self.backend.lock:
            del self.marks[size:]

    def punch_hole(self, offset: int, length: int) -> None:
        super().punch_hole(offset, length)
        self.mark(offset, max(0, min(length, len(self.marks) - offset)), 0)

    def rollback(self) -> None:
        with self.backend.exclusive(self.stored, "rollback"), self.backend.call("rollback", self.key):
            self.backend.forget_uncommitted(self.stored)

    def kept(self) -> bool:
        with self.backend.call("kept", self.key):
            return self.backend.keeps


class KeepingBackend(RecordingBackend):
    """See the top of this file."""

    def __init__(self, objects: dict[Key, bytes] | None = None, **options: Any) -> None:
        super().__init__(objects, **{"commit_on_close": True, **options})
        self.marks: dict[StoredObject, bytearray] = {}
        self.versions: dict[StoredObject, int] = {}  # made by commits only
        self.keeps = True
        self.lost = False

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> RecordingFile:
        file = super().open(key, create=create, exclusive=exclusive)
        return KeepingFile(self, key, file.stored)

    def object_stat(self, stored: StoredObject) -> ObjectStat:
        with self.lock:
            return ObjectStat(size=len(stored.written), version=str(self.versions.get(stored, 1)))

    def forget_uncommitted(self, stored: StoredObject) -> None:
        with self.lock:
            stored.written = bytearray(stored.committed or b"")
            stored.safe = bytearray(stored.committed or b"")
            self.marks.pop(stored, None)

    def lose_staging(self, key: Key) -> None:
        """Drop all staged bytes, and the size that they added."""
        with self.lock:
            self.lost = True
            self.forget_uncommitted(self.objects[key])

    def lose_part(self, key: Key, offset: int, length: int) -> None:
        """Drop some of the staged bytes."""
        with self.lock:
            self.lost = True
            self.marks[self.objects[key]][offset : offset + length] = bytes(length)

    def staged(self, key: Key) -> int:
        with self.lock:
            return sum(self.marks.get(self.objects[key], b""))
