"""Objects in the memory of this process: for tests, examples, benchmarks, and data that may vanish.

An object is a dict of chunks of up to 1 MiB:

    index 0        index 1        index 7
    [4 KiB....]    absent: zeros  [1 MiB...............]        size = 7.3 MiB

Absent chunks and ranges past the end of a short one read as zeros, so holes cost nothing. A chunk starts with the size
of its first write, and doubles by being replaced. Bytes past the size are always zero, in every chunk: extending needs
no clean-up, truncating does it.

Changes take the lock of the object. Reads take none: a chunk's memory never moves, and a reader that overlaps a change
sees each byte before or after it, as the protocol permits.
"""

from __future__ import annotations

import errno
import functools
import itertools
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Unpack

from ..config import with_overrides
from ..errors import Key, os_error
from ..options import LimitsOverrides
from .protocol import Backend, BackendFile, BackendLimits, ObjectStat, checked_key

CHUNK_BITS = 20
CHUNK = 1 << CHUNK_BITS
MASK = CHUNK - 1
CHUNK_MIN = 4096
MAPPED_MIN = 64 << 10  # minimum size for memory from a mapping: untouched pages of it cost nothing
ZEROS = memoryview(bytes(CHUNK))
_identities = itertools.count(1)  # of all objects of this process


def _zeroed(length: int) -> memoryview:
    if length < MAPPED_MIN:
        return memoryview(bytearray(length))
    # Private: a child after fork() must not write into the parent's objects.
    return memoryview(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class MemoryFile(BackendFile):
    """One object, shared by all its opens. It works on after its name was removed or replaced."""

    def __init__(self, serial: int) -> None:
        self._serial = serial  # of the object: a new object under an old name never has an old version
        self._identity = next(_identities)
        self._lock = threading.Lock()
        self._chunks: dict[int, memoryview] = {}
        self._size = 0
        self._changes = 0
        self._mtime = time.time()

    def stat(self) -> ObjectStat:
        with self._lock:
            version = f"{self._serial}.{self._changes}"
            return ObjectStat(size=self._size, version=version, mtime=self._mtime, identity=self._identity)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        room = self._size - offset
        done = 0
        for buffer in buffers:
            if room <= 0:
                break
            length = len(buffer)
            begin = offset & MASK
            if length <= room and begin + length <= CHUNK:
                chunk = self._chunks.get(offset >> CHUNK_BITS)
                if chunk is not None and begin + length <= len(chunk):
                    buffer[:] = chunk[begin : begin + length]
                else:
                    self._copy_out(offset, buffer)
            else:
                length = min(length, room)
                self._copy_out(offset, buffer[:length])
            offset += length
            done += length
            room -= length
        return done

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        start = offset
        with self._lock:
            for buffer in buffers:
                length = len(buffer)
                if length and offset + length > self._size:
                    self._size = offset + length  # first: an interrupt leaves no bytes behind the end
                begin = offset & MASK
                chunk = self._chunks.get(offset >> CHUNK_BITS)
                if chunk is not None and begin + length <= len(chunk):
                    chunk[begin : begin + length] = buffer
                else:
                    self._copy_in(offset, buffer)
                offset += length
            self._changes += 1
        return offset - start

    def truncate(self, size: int) -> None:
        with self._lock:
            if size < self._size:
                self._clear(size, self._size)
            self._size = size
            self._changed()

    def punch_hole(self, offset: int, length: int) -> None:
        with self._lock:
            self._clear(offset, min(offset + length, self._size))
            self._changed()

    def commit(self) -> str | None:
        self._mtime = time.time()
        return self.stat().version

    def _changed(self) -> None:
        self._changes += 1
        self._mtime = time.time()

    def _copy_out(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`, which lies within the size, from chunks and holes."""
        done = 0
        while done < len(buffer):
            begin = (offset + done) & MASK
            length = min(CHUNK - begin, len(buffer) - done)
            chunk = self._chunks.get((offset + done) >> CHUNK_BITS, ZEROS[:0])
            stored = max(0, min(length, len(chunk) - begin))
            buffer[done : done + stored] = chunk[begin : begin + stored]
            buffer[done + stored : done + length] = ZEROS[: length - stored]
            done += length

    def _copy_in(self, offset: int, buffer: memoryview) -> None:
        """Store `buffer`, making and growing chunks; the lock is held."""
        done = 0
        while done < len(buffer):
            index, begin = (offset + done) >> CHUNK_BITS, (offset + done) & MASK
            length = min(CHUNK - begin, len(buffer) - done)
            chunk = self._chunks.get(index, ZEROS[:0])
            if begin + length > len(chunk):
                grown = _zeroed(max(CHUNK_MIN, 1 << (begin + length - 1).bit_length()))
                grown[: len(chunk)] = chunk
                grown[begin : begin + length] = buffer[done : done + length]
                self._chunks[index] = grown  # complete before a reader can see it
            else:
                chunk[begin : begin + length] = buffer[done : done + length]
            done += length

    def _clear(self, begin: int, end: int) -> None:
        """Make [begin, end) a hole; the lock is held. The cost depends on the stored chunks, not on the range."""
        first, last = begin >> CHUNK_BITS, (end - 1) >> CHUNK_BITS
        if begin >= end:
            return
        for index in [index for index in self._chunks if first <= index <= last]:
            low, high = max(begin - index * CHUNK, 0), min(end - index * CHUNK, CHUNK)
            chunk = self._chunks[index]
            high = min(high, len(chunk))
            if low == 0 and high == len(chunk):
                del self._chunks[index]
            elif low < high:
                chunk[low:high] = ZEROS[: high - low]


class MemoryBackend(Backend):
    """A dict of objects. Any hashable is a key; a path and its text are one key.

    Args:
        limits: of one call; default: those of `BackendLimits`, with parallel direct writes,
            and prompt.
        overrides: fields of `BackendLimits`, such as ``durable_writes=True`` or ``max_write="64KiB"``.

    >>> backend = MemoryBackend()
    >>> file = backend.open("greeting", create=True)
    >>> file.write_from(0, [memoryview(b"hello")])
    5
    >>> backend.snapshot("greeting")
    b'hello'
    """

    def __init__(self, limits: BackendLimits | None = None, **overrides: Unpack[LimitsOverrides]) -> None:
        self.limits = with_overrides(limits or BackendLimits(parallel_direct_writes=True, prompt=True), overrides)
        self._serials = itertools.count(1)
        self._lock = threading.Lock()
        self._objects: dict[Key, MemoryFile] = {}

    @functools.cached_property
    def name(self) -> str:
        """Name of the store in a disk tier: no other store of memory, in this process or another, has the same."""
        return f"memory:{os.urandom(16).hex()}"

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> MemoryFile:
        name = self.canonical(key)
        with self._lock:
            found = self._objects.get(name)
            if found is None:
                if not create:
                    raise os_error(errno.ENOENT, key)
                found = self._objects[name] = MemoryFile(next(self._serials))
            elif create and exclusive:
                raise os_error(errno.EEXIST, key)
            return found

    def stat(self, key: Key) -> ObjectStat:
        return self.open(key).stat()

    def remove(self, key: Key) -> None:
        with self._lock:
            if self._objects.pop(self.canonical(key), None) is None:
                raise os_error(errno.ENOENT, key)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        old, new = self.canonical(src), self.canonical(dst)
        with self._lock:
            if old not in self._objects:
                raise os_error(errno.ENOENT, src)
            if new in self._objects and not replace:
                raise os_error(errno.EEXIST, dst)
            self._objects[new] = self._objects.pop(old)

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        with self._lock:
            objects = list(self._objects.items())
        for key, found in objects:
            if not prefix or (isinstance(key, str) and key.startswith(prefix)):
                yield replace(found.stat(), key=key)

    def canonical(self, key: Key) -> Key:
        return checked_key(os.fspath(key) if type(key) is not str and isinstance(key, os.PathLike) else key)

    def snapshot(self, key: Key) -> bytes:
        """Return the current content, as one piece."""
        found = self.open(key)
        content = bytearray(found.stat().size)
        done = found.read_into(0, [memoryview(content)])
        return bytes(content[:done])

    def put(self, key: Key, content: bytes) -> None:
        """Replace the content, or make the object, past the cache, as a foreign writer does."""
        found = self.open(key, create=True)
        found.truncate(0)
        found.write_from(0, [memoryview(content)])
        found.commit()
