"""Files of the file system: handles of the cache that know where they belong.

`PageCacheFile` is a `CachedFile`, no wrapper around one: reads and writes are the cache's own, and its further ways in
(`pread`, `view`, `prefetch`, ...) are there. What is added is what fsspec's users ask of a file, and the end of `with`:

an exception in the body of `with fs.open(...)` must not publish half an object. A `CachedFile` takes care of that in
`__exit__`, which wrappers do not call: they call `close`. `TextFile` and `CompressedFile` therefore have one of their
own, and `close` looks whether it was called by `fsspec.open`'s `OpenFile.__exit__`, and what that was told.
"""

from __future__ import annotations

import contextlib
import io
import sys
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from fsspec.core import OpenFile

from ..file.cached import CachedFile

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["CompressedFile", "PageCacheFile", "TextFile", "checked_mode", "give_up", "reopen"]

LINE = 8192
"""Bytes that are looked at in one go for the end of a line."""
MODES = ("r", "r+", "w", "w+", "x", "x+", "a", "a+")


def checked_mode(mode: str) -> tuple[str, bool]:
    """The binary mode, and whether text was asked for.

    Raises:
        ValueError: names the mode and the rule.

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
            wrong = f"{letters!r} (here {mode!r})"  # fsspec.open adds a 'b' of its own
        raise ValueError(f"mode {wrong} is not one of {', '.join(MODES)}, with 'b' (bytes) or 't' (text, or neither)")
    return letters + "b", kinds != ["b"]


class PageCacheFile(CachedFile):
    """One open of a cached object; made by `PageCacheFileSystem.open`.

    Attributes:
        fs: the file system that opened it; None where the volume did.
        path: as that file system calls it.
    """

    fs: Any = None
    path: str = ""
    _warns_of_readers = False  # pandas and pyarrow leave them to the garbage collector, as files of fsspec may be

    @property
    def full_name(self) -> str:
        """A URL that opens it again."""
        return str(self.fs.unstrip_protocol(self.path))

    def info(self) -> dict[str, Any]:
        """What `fs.info` says of it."""
        found: dict[str, Any] = self.fs.info(self.path)
        return found

    @property
    def details(self) -> dict[str, Any]:
        """The same, by the name that fsspec's files have for it."""
        return self.info()

    def sync(self, timeout: float | None = None) -> None:
        """`fsync`: return when every byte written to the file is committed."""
        self.fsync(timeout=timeout)

    def discard(self) -> None:
        """`abandon`: close, and hand nothing over any more."""
        self.abandon()

    def close(self) -> None:
        """`CachedFile.close`; `abandon` where an exception left a `with fsspec.open(...)` that writes an object."""
        if self.closed or self._closing:
            return
        if self._writable and self._commits_on_close() and _left_by_exception(self):
            self.abandon()
        else:
            super().close()

    def readline(self, size: int | None = -1, /) -> bytes:
        """Up to the next newline, `size` bytes, or the end of the file."""
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
        """Opened again, at the same position, wherever it is unpickled.

        Raises:
            TypeError: it is closed, or the file has bytes that are not saved: nobody else could read them.
        """
        if self.closed:
            raise TypeError(f"cannot pickle {self!r}: it is closed")
        if self.fs is None:
            raise TypeError(f"cannot pickle {self!r}: it was not opened by a file system")
        if self._inode.hidden():
            raise TypeError(f"cannot pickle {self!r}: the file has bytes that are not saved; sync() or close() first")
        # Opened as it was it would be emptied, or had to be new.
        mode = self.mode if self.mode[0] in "ra" else "r+b"
        return reopen, (self.fs, self.path, mode, self.tell())


def reopen(fs: Any, path: str, mode: str, position: int) -> Any:
    """What a pickled file becomes."""
    file = fs.open(path, mode, autocommit=True)
    file.seek(position)
    return file


def _left_by_exception(file: io.IOBase) -> bool:
    """Whether `close` is called from the end of a `with fsspec.open(...)` whose body raised.

    `OpenFile.__exit__` is told of the exception and keeps it to itself: what it calls is `close`.
    """
    frame: FrameType | None = sys._getframe()  # that of `close` may be the first one: pyarrow calls it from C++
    while frame is not None:
        if frame.f_code is OpenFile.__exit__.__code__:
            told = frame.f_locals
            if any(one is file for one in told["self"].fobjects):
                return told["args"][0] is not None
        frame = frame.f_back
    return False


def give_up(file: Any) -> None:
    """The body of a `with` around the file raised: what would be published by closing it is not."""
    if file._commits_on_close():
        file.abandon()


class TextFile(io.TextIOWrapper):
    """Text over a file of the cache."""

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if e is not None:
            give_up(self.buffer)  # before what is buffered here comes to it
        _close(self, e)


def _close(file: io.IOBase, raised: BaseException | None) -> None:
    """At the end of a `with`, whose exception stays the primary one."""
    try:
        file.close()
    except OSError:
        if raised is None:
            raise


class CompressedFile(io.BufferedIOBase):
    """A compressing or decompressing file over one of the cache, closed together with it.

    Args:
        outer: what fsspec's compression of that name makes over `file`; it leaves `file` open.
        file: a file of the cache.
    """

    def __init__(self, outer: Any, file: Any) -> None:
        self._outer, self._file = outer, file

    def readable(self) -> bool:
        return bool(self._outer.readable())

    def writable(self) -> bool:
        return bool(self._outer.writable())

    def seekable(self) -> bool:
        return bool(self._outer.seekable())

    def read(self, size: int | None = -1, /) -> bytes:
        return bytes(self._outer.read(-1 if size is None else size))

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(LINE if size < 0 else size)

    def write(self, data: Buffer, /) -> int:
        return int(self._outer.write(data))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(self._outer.seek(offset, whence))

    def tell(self) -> int:
        return int(self._outer.tell())

    def flush(self) -> None:
        if not self._outer.closed and self._outer.writable():  # `super().close()` asks for it once more
            self._outer.flush()

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._outer.close()
        finally:
            super().close()
            self._file.close()

    def abandon(self) -> None:
        """Close; what is written is given up as far as it is not committed."""
        self._file.abandon()
        with contextlib.suppress(ValueError):  # the last block finds the file closed
            self.close()

    def _commits_on_close(self) -> bool:
        return bool(self._file._commits_on_close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if e is not None:
            give_up(self)
        _close(self, e)
