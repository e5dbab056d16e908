"""A RecordingBackend whose written bytes show only after a commit, as in an object store.

So bytes that are read from the wrong place are wrong. A failed commit and a rollback forget the acknowledged bytes.
"rollback" is an operation for gates and faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pagecache import ObjectStat

from .backends import Key, PunchingFile, RecordingBackend, RecordingFile, StoredObject

__all__ = ["ForgetfulBackend", "ForgetfulFile"]


class ForgetfulFile(PunchingFile):
    """One open object of a ForgetfulBackend."""

    backend: ForgetfulBackend

    def fill(self, offset: int, buffers: Sequence[memoryview], limit: int | None = None) -> int:
        if self.backend.limits.durable_writes:
            return super().fill(offset, buffers, limit)
        with self.backend.lock:
            written, self.stored.written = self.stored.written, self.stored.safe
            try:
                return super().fill(offset, buffers, limit)
            finally:
                self.stored.written = written

    def make_durable(self) -> str:
        with self.backend.lock:
            super().make_durable()
            self.backend.versions[self.stored] = self.backend.versions.get(self.stored, 1) + 1
            return str(self.backend.versions[self.stored])

    def rollback(self) -> None:
        with self.backend.exclusive(self.stored, "rollback"), self.backend.call("rollback", self.key):
            self.backend.forget_uncommitted(self.stored)


class ForgetfulBackend(RecordingBackend):
    """See the top of this file."""

    def __init__(self, objects: dict[Key, bytes] | None = None, **options: Any) -> None:
        super().__init__(objects, **{"commit_on_close": True, **options})
        self.versions: dict[StoredObject, int] = {}  # made by commits only

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> RecordingFile:
        file = super().open(key, create=create, exclusive=exclusive)
        return ForgetfulFile(self, key, file.stored)

    def object_stat(self, stored: StoredObject) -> ObjectStat:
        with self.lock:
            return ObjectStat(size=len(stored.written), version=str(self.versions.get(stored, 1)))

    def forget_uncommitted(self, stored: StoredObject) -> None:
        with self.lock:
            stored.written = bytearray(stored.committed or b"")
            stored.safe = bytearray(stored.committed or b"")
