"""Small write-back caches over a remote store, as people write them in an afternoon.

Each has the verbs of a file system (open, pread, pwrite, truncate, fsync, close), and reports after fsync that the
bytes are safe. `Served` offers them as a backend, so that a tester of objects can use them: `commit` is fsync. A crash
takes the bytes in their memory; those in the remote store stay.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from pagecache.backends import Backend, BackendFile, MemoryBackend, ObjectStat
from pagecache.errors import Key

from ..plain import fill
from .planted import Factory, Planted

__all__ = ["CACHES", "Cache", "Handle"]


class Handle:
    """One open of a cached object."""

    def __init__(self, cache: Cache, key: Key) -> None:
        self.cache, self.key, self.dirty = cache, key, False

    @property
    def content(self) -> bytearray:
        return self.cache.content[self.key]

    def pread(self, length: int, offset: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def pwrite(self, data: bytes, offset: int) -> None:
        content = self.content
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        self.dirty = True
        self.cache.wrote(self.key, offset, len(data))

    def truncate(self, size: int) -> None:
        content = self.content
        content.extend(bytes(max(0, size - len(content))))
        del content[size:]
        self.dirty = True
        self.cache.cut(self.key, size)

    def fsync(self) -> None:
        self.cache.saved(self)

    def close(self) -> None:
        self.cache.closed(self)


class Cache:
    """Whole objects in memory, and the uploaded ones in `remote`. When objects are uploaded is the subclasses'
    mistake.
    """

    def __init__(self, remote: MemoryBackend) -> None:
        self.remote = remote
        self.content: dict[Key, bytearray] = {}

    def open(self, key: Key, create: bool = False) -> Handle:
        if key not in self.content:
            try:
                self.content[key] = bytearray(self.remote.snapshot(key))
            except FileNotFoundError:
                if not create:
                    raise
                self.content[key] = bytearray()
                self.remote.open(key, create=True)
        return Handle(self, key)

    def upload(self, key: Key) -> None:
        self.remote.put(key, bytes(self.content[key]))

    def wrote(self, key: Key, offset: int, length: int) -> None: ...
    def cut(self, key: Key, size: int) -> None: ...
    def saved(self, handle: Handle) -> None: ...
    def closed(self, handle: Handle) -> None: ...


class UploadsOnClose(Cache):
    """The whole file is uploaded on close, in the background: no caller could get an error."""

    uploads = 0

    def closed(self, handle: Handle) -> None:
        if handle.dirty:
            try:
                self.upload(handle.key)
            except OSError:
                pass

    def upload(self, key: Key) -> None:
        self.uploads += 1
        if self.uploads % 3 == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO), key)
        super().upload(key)


class CleanBeforeUpload(Cache):
    """fsync takes the list of dirty ranges, and passes it to an uploader that runs with the next fsync."""

    def __init__(self, remote: MemoryBackend) -> None:
        super().__init__(remote)
        self.dirty: set[Key] = set()
        self.queue: set[Key] = set()

    def wrote(self, key: Key, offset: int, length: int) -> None:
        self.dirty.add(key)

    def cut(self, key: Key, size: int) -> None:
        self.dirty.add(key)

    def saved(self, handle: Handle) -> None:
        queue, self.queue, self.dirty = self.queue, self.dirty, set()
        for key in queue:
            self.upload(key)


class ForgetsTruncate(Cache):
    """Dirty ranges are uploaded in place; a truncate dirties nothing."""

    def __init__(self, remote: MemoryBackend) -> None:
        super().__init__(remote)
        self.ranges: list[tuple[Key, int, int]] = []

    def wrote(self, key: Key, offset: int, length: int) -> None:
        self.ranges.append((key, offset, offset + length))

    def saved(self, handle: Handle) -> None:
        for key, start, end in self.ranges:
            content = self.content.get(key, bytearray())[start:end]
            if content:
                self.remote.open(key, create=True).write_from(start, [memoryview(content)])
        self.ranges.clear()


class SavesItsOwnHandle(Cache):
    """fsync uploads the bytes written through its own handle; those of other handles wait for their turn."""

    def saved(self, handle: Handle) -> None:
        if handle.dirty:
            self.upload(handle.key)
        handle.dirty = False


# ---------------------------------------------------------------------------------------- seen as backends


class ServedFile(BackendFile):
    """Calls go through one handle, or through a new one each, as with a gateway without state between requests."""

    def __init__(self, cache: Cache, key: Key, keep: bool) -> None:
        self._cache, self._key = cache, key
        self._kept = cache.open(key) if keep else None

    def _handle(self) -> Handle:
        return self._kept or self._cache.open(self._key)

    def stat(self) -> ObjectStat:
        return ObjectStat(size=len(self._handle().content))

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        data = self._handle().pread(sum(map(len, buffers)), offset)
        return fill(buffers, data)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        data = b"".join(buffers)
        self._handle().pwrite(data, offset)
        return len(data)

    def truncate(self, size: int) -> None:
        self._handle().truncate(size)

    def commit(self) -> str | None:
        self._handle().fsync()
        return None

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()


class Served(Backend):
    """A small cache as a backend."""

    def __init__(self, cache: Cache, keep: bool) -> None:
        self._cache, self._keep = cache, keep

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        if exclusive and key in self._cache.content:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key)
        self._cache.open(key, create)
        return ServedFile(self._cache, key, self._keep)

    def stat(self, key: Key) -> ObjectStat:
        return ObjectStat(size=len(self._cache.open(key).content))


def cache(name: str, rule: str, sentence: str, kind: type[Cache], *, keep: bool = True) -> Planted:
    def target() -> Factory:
        remote = MemoryBackend()
        return lambda: Served(kind(remote), keep)

    return Planted(name, sentence, rule, "cache", target=target)


CACHES = [
    cache(
        "cache_uploads_on_close_and_loses_errors",
        "I-18, 2.15",
        "fsync does nothing, close uploads the file and swallows errors: a crash, or a bad upload, loses all of it.",
        UploadsOnClose,
    ),
    cache(
        "cache_is_clean_before_the_upload",
        "I-18, K2",
        "Bytes count as saved when their upload is queued: a crash after fsync loses them.",
        CleanBeforeUpload,
    ),
    cache(
        "cache_forgets_truncates",
        "2.17, T-75b",
        "A truncate is never uploaded: the bytes that it cut are back after a restart.",
        ForgetsTruncate,
    ),
    cache(
        "cache_saves_its_own_handle_only",
        "2.15, I-18",
        "fsync uploads what its own handle wrote: bytes of another handle of the file are lost by a crash.",
        SavesItsOwnHandle,
        keep=False,
    ),
]
