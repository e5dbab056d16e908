"""Files of the file system: handles of the cache with a reference to their file system.

`PageCacheFile` is a subclass of `CachedFile`, not a wrapper: reads and writes are the cache's own, and its other
methods (`pread`, `view`, `prefetch`, ...) are available. It adds the attributes that users of fsspec expect, and the
end of `with`: an exception in the body of `with fs.open(...)` must not publish half an object. `CachedFile.__exit__`
takes care of that, but wrappers do not call it: they call `close`. `TextFile` and `CompressedFile` therefore have an
`__exit__` themselves, and `close` checks whether `fsspec.open`'s `OpenFile.__exit__` called it, and with which
exception.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from fsspec.core import OpenFile

from ..file.cached import CachedFile

LINE = 8192
"""Bytes that are searched at once for the end of a line."""
MODES = ("r", "r+", "w", "w+", "x", "x+", "a", "a+")


def checked_mode(mode: str) -> tuple[str, bool]:
    """Return the binary mode, and whether the mode asks for text.

    >>> checked_mode("r+b"), checked_mode("rb+"), checked_mode("at"), checked_mode("w")
    (('r+b', False), ('r+b', False), ('ab', True), ('wb', True))
    """
    if not isinstance(mode, str):
        raise TypeError(f"mode must be a str, not {type(mode).__name__}")
    kinds = [letter for letter in mode if letter in "bt"]
    letters = mode.translate({ord("b"): None, ord("t"): None})
    if letters not in MODES or len(kinds) > 1:
        wrong = repr(mode)
        if letters and letters not in MODES and len(kinds) == 1:
            wrong = f"{letters!r} (here {mode!r})"  # fsspec.open adds a 'b'
        raise ValueError(f"mode {wrong} is not one of {', '.join(MODES)}, with 'b' (bytes) or 't' (text, or neither)")
    return letters + "b", kinds != ["b"]


class PageCacheFile(CachedFile):
    """One open of a cached object; made by `PageCacheFileSystem.open`.

    Attributes:
        fs: the file system that opened it; None if the volume did.
        path: in that file system.
    """

    fs: Any = None
    path: str = ""
    _warns_of_readers = False  # pandas and pyarrow leave files to the garbage collector, as fsspec permits

    @property
    def full_name(self) -> str:
        """Return a URL that opens the file again."""
        return str(self.fs.unstrip_protocol(self.path))

    def info(self) -> dict[str, Any]:
        """Return the result of `fs.info` for the file."""
        found: dict[str, Any] = self.fs.info(self.path)
        return found

    @property
    def details(self) -> dict[str, Any]:
        """Return `info()`, under the name of fsspec's files."""
        return self.info()

    def sync(self, timeout: float | None = None) -> None:
        """`fsync`: return when every byte written to the file is committed."""
        self.fsync(timeout=timeout)

    def discard(self) -> None:
        """Close and drop unsaved bytes, like `abandon`."""
        self.abandon()

    def close(self) -> None:
        """Close as `CachedFile.close`; `abandon` if an exception left a `with fsspec.open(...)` that writes."""
        if self.closed:
            return
        if self._writable and self._commits_on_close() and left_by_exception(self):
            self.abandon()
        else:
            super().close()

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read up to the next newline, `size` bytes, or the end of the file."""
        limit = -1 if size is None else size
        start = at = self.tell()
        parts: list[bytes] = []
        while limit < 0 or at - start < limit:
            part = self.pread(LINE if limit < 0 else min(LINE, limit - (at - start)), at)
            end = part.find(b"\n") + 1
            parts.append(part[:end] if end else part)
            at += len(parts[-1])
            if end or not part:
                break
        self.seek(at)
        return b"".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the file as one to open again, at its position.

        Raises:
            TypeError: it is closed, or the file has unsaved bytes, which the other process could not read.
        """
        if self.closed:
            raise TypeError(f"cannot pickle {self!r}: it is closed")
        if self.fs is None:
            raise TypeError(f"cannot pickle {self!r}: it was not opened by a file system")
        if not self._inode.is_stored():
            raise TypeError(f"cannot pickle {self!r}: the file has bytes that are not saved; sync() or close() first")
        # Opening with the original mode would truncate it, or fail as it exists.
        mode = self.mode if self.mode[0] in "ra" else "r+b"
        return reopen, (self.fs, self.path, mode, self.tell())


def reopen(fs: Any, path: str, mode: str, position: int) -> Any:
    """Return the file for a pickled one."""
    file = fs.open(path, mode, autocommit=True)
    file.seek(position)
    return file


def left_by_exception(file: io.IOBase) -> bool:
    """Return whether the end of a `with fsspec.open(...)`, whose body raised, called `close`.

    `OpenFile.__exit__` gets the exception and does not pass it on: it calls `close`.
    """
    frame: FrameType | None = sys._getframe()  # `close` may be in the first frame: pyarrow calls it from C++
    while frame is not None:
        if frame.f_code is OpenFile.__exit__.__code__:
            caller_locals = frame.f_locals
            if any(one is file for one in caller_locals["self"].fobjects):
                return caller_locals["args"][0] is not None
        frame = frame.f_back
    return False


def give_up(file: Any) -> None:
    """Drop unpublished bytes after the body of a `with` around the file raised."""
    if file._commits_on_close():
        file.abandon()


def _write_end(file: TextFile | CompressedFile, write: Callable[[], None], below: Any) -> None:
    """Write the last bytes of a file, once, then close the one below it: of two threads none closes that before."""
    if file._ending == threading.get_ident():
        return  # below that call, in a signal handler
    try:
        with file._lock:
            if not file._ended:
                file._ending = threading.get_ident()
                try:
                    write()
                except BaseException:
                    give_up(below)  # it lacks them
                    raise
                finally:
                    file._ending, file._ended = 0, True
    finally:
        if file._ended:  # else an interrupt struck before
            below.close()


class TextFile(io.TextIOWrapper):
    """A text file over a file of the cache."""

    _ending, _ended = 0, False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lock = threading.RLock()
        super().__init__(*args, **kwargs)

    def close(self) -> None:
        """Close; an object whose last bytes could not be written is given up, not published without them."""
        if self.buffer is not None:  # else detached
            _write_end(self, self._write_end, self.buffer)

    def _write_end(self) -> None:
        if not self.closed:
            self.flush()

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if e is not None:
            give_up(self.buffer)  # before the bytes buffered here reach it
        _close(self, e)


def _close(file: io.IOBase, raised: BaseException | None) -> None:
    """Close at the end of a `with`; an exception of its body stays the primary one."""
    try:
        file.close()
    except OSError:
        if raised is None:
            raise


class CompressedFile(io.BufferedIOBase):
    """A compressing or decompressing file over one of the cache, closed together with it.

    Args:
        outer: made by fsspec's compression of that name over `file`; it leaves `file` open.
        file: a file of the cache.
    """

    _ending, _ended = 0, False

    def __init__(self, outer: Any, file: Any) -> None:
        self._lock = threading.RLock()
        self._outer, self._file = outer, file
        for name in ("readable", "writable", "seekable", "write", "seek", "tell"):
            setattr(self, name, getattr(outer, name))

    def read(self, size: int | None = -1, /) -> bytes:
        return bytes(self._outer.read(-1 if size is None else size))

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(LINE if size < 0 else size)

    def flush(self) -> None:
        if not self._outer.closed and self._outer.writable():  # `super().close()` calls it once more
            self._outer.flush()

    def close(self) -> None:
        _write_end(self, self._write_end, self._file)

    def _write_end(self) -> None:
        try:
            self._outer.close()
        finally:
            super().close()

    def abandon(self) -> None:
        """Close; drop uncommitted bytes. Never waits."""
        self._file.abandon()
        if self._lock.acquire(blocking=False):  # else another thread closes it
            try:
                with contextlib.suppress(ValueError):  # the last block finds the file closed
                    self.close()
            finally:
                self._lock.release()

    def _commits_on_close(self) -> bool:
        return bool(self._file._commits_on_close())

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if e is not None:
            give_up(self)
        _close(self, e)
