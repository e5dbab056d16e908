"""DirectFile: a handle whose reads and writes bypass the cache (contract 2.9, 2.10).

Its verbs are Python over the engine's `direct_read` and `direct_write`: each costs a call of the backend anyway, and
the hot verbs of other handles need not check the kind of their handle. Calls that cannot be direct are buffered and
written back before they return.
"""

from __future__ import annotations

import errno
import io
import operator
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

from ..engine.io.direct import Read, Write, is_buffered
from ..errors import DeadlockError, Key, set_written, written_before
from ..native import FOREVER
from .cached import CachedFile

if TYPE_CHECKING:
    from ..volume import lifetimes


def _offset(value: Any, what: str = "offset", call: str = "", first: object = None) -> int:
    """Return an offset or a size as an int; `call` and `first`: name of the verb, and its argument before the
    offset.
    """
    try:
        number = operator.index(value)
    except TypeError:
        if isinstance(first, SupportsIndex):
            raise TypeError(f"the arguments are swapped, the offset is the second: {call}") from None
        raise TypeError(f"{what} must be an int, not {type(value).__name__}") from None
    if number < 0:
        raise ValueError(f"{what} {number} is negative; it must be 0 or more")
    if number > FOREVER:
        raise ValueError(f"{what} {number} is larger than 2**63 - 1")
    return number


def _bytes_of(data: Any) -> memoryview:
    """Return data as single bytes."""
    if isinstance(data, str):
        raise TypeError("a bytes-like object is required, not 'str'")
    with memoryview(data) as view:
        if not view.c_contiguous:
            raise TypeError("a contiguous bytes-like object is required")
        return _single_bytes(view) or memoryview(view.tobytes())


def _single_bytes(view: memoryview) -> memoryview | None:
    """Return a view of single bytes; None for formats that memoryview does not support, and for empty data."""
    try:
        return view.cast("B") if view.nbytes else None
    except (TypeError, ValueError):
        return None


def _space_of(buffer: Any) -> memoryview | None:
    """Return a writable view of single bytes; None: the buffer has no such view, or is empty."""
    try:
        view = memoryview(buffer)
    except TypeError:
        raise TypeError("a writable, contiguous bytes-like object is required, not 'this object'") from None
    with view:
        if view.readonly or not view.c_contiguous:
            raise TypeError("a writable, contiguous bytes-like object is required, not 'a read-only or strided one'")
        return _single_bytes(view)


class DirectFile(CachedFile):
    """A handle of `Volume.open(..., direct=True)`; everything except reads and writes is as with any handle."""

    def __init__(self, use: lifetimes.Use, key: Key, mode: str, flags: int, *, parallel: bool, read_ahead: int) -> None:
        # Calls that are buffered are written back before they return.
        super().__init__(use, key, mode, flags, through=True, read_ahead=read_ahead)
        self._appends = bool(flags & os.O_APPEND)
        self._parallel = parallel

    # -- reading

    def _check_readable(self) -> None:
        self._check_open()
        if not self._readable:
            raise io.UnsupportedOperation(f"File not open for reading: {self.key!r}")

    def _reads_buffered(self) -> bool:
        return is_buffered(self._inode.limits()) or bool(self._inode.staged_bytes())

    def pread_into(self, buffer: Any, offset: int, /) -> int:
        self._check_readable()
        pos = _offset(offset, call="pread_into(buffer, offset)", first=buffer)
        if self._reads_buffered():
            return super().pread_into(buffer, pos)
        space = _space_of(buffer)
        with memoryview(buffer) as view:
            if self._inode.holds_memory(view, pos):
                raise DeadlockError("a direct read into a view of the same bytes of the file", self.key)
        if space is not None and not self._may_fault(buffer):
            with space:
                return self._fill(space, pos)
        with memoryview(buffer) as view:
            aside = memoryview(bytearray(max(0, min(view.nbytes, self._inode.size - pos))))
        done = self._fill(aside, pos)
        self._copy_aside(buffer, aside[:done])
        return done

    def _fill(self, space: memoryview, pos: int) -> int:
        length = max(0, min(len(space), self._inode.size - pos))
        if not length:
            return 0
        with space[:length] as wanted:
            read = Read(pos, wanted)
            self._inode.run_owning("direct_read", read)
        return read.done

    def pread(self, size: int, offset: int, /) -> bytes:
        self._check_readable()
        length, pos = _offset(size, "size"), _offset(offset)
        if self._reads_buffered():
            return super().pread(length, pos)
        length = max(0, min(length, self._inode.size - pos))
        try:
            space = bytearray(length)
        except MemoryError:
            what = f"no memory for a read of {length} bytes at offset {pos}; read smaller pieces"
            raise MemoryError(what) from None
        with memoryview(space) as view:
            done = self._fill(view, pos)
        return bytes(space) if done == len(space) else bytes(space[:done])

    def preadv(self, buffers: Sequence[Any], offset: int, /) -> int:
        self._check_readable()
        pos, done = _offset(offset, call="preadv(buffers, offset)", first=buffers), 0
        for buffer in buffers:
            _space_of(buffer)
        if total := self._tangled(buffers, pos):
            data = self.pread(total, pos)
            self._spread(buffers, data)
            return len(data)
        for buffer in buffers:
            with memoryview(buffer) as view:
                wanted = view.nbytes
            count = self.pread_into(buffer, pos + done)
            done += count
            if count < wanted:
                break  # the end: bytes appended past it now do not belong into the next segment
        return done

    def read(self, size: int | None = -1, /) -> bytes:
        self._check_readable()
        pos = self.tell()
        length = -1 if size is None else operator.index(size)
        content = self.pread(FOREVER if length < 0 else length, pos)
        self.seek(pos + len(content))
        return content

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any, /) -> int:
        self._check_readable()
        pos = self.tell()
        done = self.pread_into(buffer, pos)
        self.seek(pos + done)
        return done

    # -- writing

    def pwrite(self, data: Any, offset: int, /) -> int:
        self._check_writable()
        pos = _offset(offset, call="pwrite(data, offset)", first=data)
        return self._write(data, pos, append=False)[1]

    def _write(self, data: Any, pos: int, *, append: bool) -> tuple[int, int]:
        """Write, and return offset and length of the written range."""
        source = self._steady(data)
        with _bytes_of(source) as view, view.toreadonly() as content:
            length = len(content)
            if not length:
                return self._inode.size if append else pos, 0
            self._altered = True
            write = Write(pos, content, self._check_writable, append=append, parallel=self._parallel)
            try:
                if pos + length > FOREVER:
                    raise OSError(errno.EFBIG, "the write would end beyond 2**63 - 1", self.key)
                self._inode.run_owning("direct_write", write)
            except OSError as error:
                set_written(error, write.done)
                raise
        if not write.buffered:
            return write.offset, length
        if append:
            return super().append(source), length
        super().pwrite(source, pos)
        return pos, length

    def pwritev(self, buffers: Sequence[Any], offset: int, /) -> int:
        self._check_writable()
        pos, done = _offset(offset, call="pwritev(buffers, offset)", first=buffers), 0
        for buffer in buffers:
            _bytes_of(buffer).release()
        if (joined := self._joined(buffers, pos)) is not None:
            return self._write(joined, pos, append=False)[1]
        for buffer in buffers:
            try:
                done += self._write(buffer, pos + done, append=False)[1]
            except OSError as error:
                set_written(error, done + written_before(error))
                raise
        return done

    def try_pwrite(self, data: Any, offset: int, /) -> int | None:
        """Return None: a direct write always calls the backend."""
        self._check_writable()
        _offset(offset, call="try_pwrite(data, offset)", first=data)
        with _bytes_of(data) as view:
            return None if len(view) else 0

    def append(self, data: Any) -> int:
        self._check_writable()
        return self._write(data, 0, append=True)[0]

    def write(self, data: Any, /) -> int:
        self._check_writable()
        start = 0 if self._appends else self.tell()
        try:
            pos, length = self._write(data, start, append=self._appends)
        except OSError as error:
            accepted = written_before(error)
            if accepted and not self._appends:
                self.seek(start + accepted)
            raise
        if length:
            self.seek(pos + length)
        return length
