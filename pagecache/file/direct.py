"""DirectFile: a handle whose reads and writes bypass the cache (contract 2.9, 2.10).

C reads local files of a prompt backend. All other reads, and writes, are Python over the engine's `direct_read` and
`direct_write`. Calls that cannot be direct are buffered, and written back before they return.
"""

from __future__ import annotations

import errno
import operator
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

from ..engine.io.direct import Read, Write, is_buffered
from ..errors import Key, set_written, written_before
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


class DirectFile(CachedFile):
    """A handle of `Volume.open(..., direct=True)`; everything except reads and writes is as with any handle."""

    _direct = True

    def __init__(self, use: lifetimes.Use, key: Key, mode: str, flags: int, *, parallel: bool, read_ahead: int) -> None:
        # Calls that are buffered are written back before they return.
        super().__init__(use, key, mode, flags, through=True, read_ahead=read_ahead)
        self._appends = bool(flags & os.O_APPEND)
        self._parallel = parallel

    # -- reading

    def _read_rest(self, buffer: Any, done: int, pos: int, length: int, met: Exception | None) -> int | bytes:
        """Read the bytes that C leaves to the engine. Return them; with a buffer, store them from `done` on, and return
        their number. `met`: the exception of C's call for the first of them.
        """
        self._inode.refresh_limits()
        if is_buffered(self._inode.limits()):
            return self.pread(length, pos)
        space = None
        if buffer is not None:
            with memoryview(buffer) as view:
                space = _single_bytes(view)
        try:
            read = Read(pos, length, None if space is None else space[done : done + length], met)
        except MemoryError:
            what = f"no memory for a read of {length} bytes at offset {pos}; read smaller pieces"
            raise MemoryError(what) from None
        if pos < self._inode.size:
            self._inode.run_owning("direct_read", read)
        return read.content() if space is None else read.done

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
