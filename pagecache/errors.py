"""Errors of the cache, as exceptions that a program can act on.

Every error is an `OSError` with `errno` set and `filename` = the key concerned, so that code written for files keeps
working; details of a cache (ranges, versions, losses) are in attributes. The important distinction for a caller:

    WritebackError and below   the data is still in the cache, still dirty: nothing is lost, it can be retried
    DataLossError              the data is gone, because it was given up; raised once by each handle

All of them pickle, attributes and `characters_written` included: they cross process boundaries with pools and test
runners. Backends raise only `BackendError`, to say whether a retry helps.

    OSError
      BackendError
      PageCacheError
        WritebackError       CommitError, UnsavedDataError
        ConflictError  DataLossError  ShutdownError  DeadlockError  ForkedError  BackendProtocolError
"""

from __future__ import annotations

import errno as codes
import os
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

Key = Hashable
"""Key of an object in a backend: a str or os.PathLike path, an inode number, a (bucket, key) pair."""


def os_error(code: int, key: Key) -> OSError:
    """Return the error of an errno about an object."""
    return OSError(code, os.strerror(code), key)


@dataclass(frozen=True, slots=True)
class LostRange:
    """Bytes that no longer exist anywhere; `errno` is why they could not be saved, 0 if there was no attempt.

    Attributes:
        key, volume: the object, and the name of its volume.
        offset, length: the range in bytes.
    """

    key: Key
    offset: int
    length: int
    errno: int
    volume: str


@dataclass(frozen=True, slots=True)
class FailedRange:
    """Bytes whose last write-back or commit failed: in memory, readable, dirty.

    Attributes:
        key, volume: the object, and the name of its volume.
        offset, length: the range in bytes.
        errno: code of the last error.
        attempts: calls so far, including the first.
        next_retry: seconds from now until the cache retries automatically; None: only on request.
        message: the backend's message.
        since: seconds since the first failure.
    """

    key: Key
    offset: int
    length: int
    errno: int
    attempts: int
    next_retry: float | None
    volume: str
    message: str
    since: float


def written_before(error: OSError) -> int:
    """Return how many bytes were accepted before a write failed, as in `BlockingIOError`."""
    return int(getattr(error, "characters_written", 0))


def set_written(error: OSError, accepted: int) -> None:
    """Set in the error of a write how many bytes were accepted before it."""
    error.characters_written = accepted  # type: ignore[attr-defined]


def _restore(
    cls: type[OSError], args: tuple[Any, ...], options: dict[str, Any], written: int | None, state: dict[str, Any]
) -> OSError:
    """Make an error from the parts that `__reduce__` of one of the classes below returned."""
    error = cls(*args, **options)
    error.__dict__.update(state)
    if written is not None:
        set_written(error, written)
    return error


class PageCacheError(OSError):
    """Base class of all errors of the cache.

    Args:
        message: one sentence for a person; `strerror`.
        key: the object concerned; `filename`.
        errno: the code; each class has its own default.
    """

    errno: int  # always set, unlike that of an OSError
    default_errno: ClassVar[int] = codes.EIO
    _options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, message: str, key: Key | None = None, *, errno: int | None = None) -> None:
        code = self.default_errno if errno is None else errno
        if key is None:
            super().__init__(code, message)
        else:
            super().__init__(code, message, key)

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep parts that `OSError.__reduce__` drops: keyword arguments and `characters_written`."""
        options = {"errno": self.errno} | {name: getattr(self, name) for name in self._options}
        state = {name: value for name, value in self.__dict__.items() if name not in options}
        written = getattr(self, "characters_written", None)
        return _restore, (type(self), (self.strerror, self.filename), options, written, state)


class WritebackError(PageCacheError):
    """Data could not be written back. It is still in the cache, still dirty; the next fsync, or `Volume.retry_failed`,
    retries.

    Attributes:
        ranges: the failed ranges, per file.
        exceptions: the causes, if several files or volumes are concerned.
    """

    ranges: list[FailedRange]
    exceptions: list[BaseException]
    _options = ("ranges", "exceptions")

    def __init__(
        self,
        message: str,
        key: Key | None = None,
        *,
        errno: int | None = None,
        ranges: Iterable[FailedRange] = (),
        exceptions: Iterable[BaseException] = (),
    ) -> None:
        super().__init__(message, key, errno=errno)
        self.ranges = list(ranges)
        self.exceptions = list(exceptions)


class CommitError(WritebackError):
    """Acknowledged data could not be made durable. It is dirty again."""


class UnsavedDataError(WritebackError):
    """Closing or detaching would have lost data: still open, still in the cache. Repair the backend, or discard the
    data.
    """


class ConflictError(PageCacheError):
    """The stored object changed under local data; `Volume.resolve` settles it.

    Attributes:
        base: the version that the local data was laid over.
        remote: the version that is stored now.
        ranges: the local data as (offset, length).
    """

    default_errno = codes.ESTALE
    base: str | None
    remote: str | None
    ranges: list[tuple[int, int]]
    _options = ("base", "remote", "ranges")

    def __init__(
        self,
        message: str,
        key: Key | None = None,
        *,
        errno: int | None = None,
        base: str | None = None,
        remote: str | None = None,
        ranges: Iterable[tuple[int, int]] = (),
    ) -> None:
        super().__init__(message, key, errno=errno)
        self.base = base
        self.remote = remote
        self.ranges = list(ranges)


class DataLossError(PageCacheError):
    """Data is gone: it was discarded, or dropped at an abort. Raised once per handle that was open then.

    Attributes:
        ranges: the lost ranges.
    """

    ranges: list[LostRange]
    _options = ("ranges",)

    def __init__(
        self, message: str, key: Key | None = None, *, errno: int | None = None, ranges: Iterable[LostRange] = ()
    ) -> None:
        super().__init__(message, key, errno=errno)
        self.ranges = list(ranges)


class ShutdownError(PageCacheError):
    """The volume was aborted or detached, or the cache closed."""

    default_errno = codes.ESHUTDOWN


class DeadlockError(PageCacheError):
    """The call came from inside a backend call, or a signal handler, and would have waited for that, or its thread."""

    default_errno = codes.EDEADLK


class ForkedError(PageCacheError):
    """The cache was made before a fork() and used in the child. Make a new one there."""

    default_errno = codes.EOWNERDEAD


class BackendProtocolError(PageCacheError):
    """A backend broke its contract: a result that is no count, too many bytes, an exception that is no OSError."""

    default_errno = codes.EPROTO


class BackendError(OSError):
    """Raised by a backend that can decide whether a retry helps.

    Args:
        errno: for readers and writers of the cache.
        message: one sentence for a person.
        retry: whether a repeated call may succeed later.
        retry_after: seconds to wait before that; None: as the retry policy says.
        max_write: the object takes at most so many bytes per call; the bytes are sent again at once, in such pieces.
        kept: from `commit`: acknowledged bytes are still there, repeating the commit suffices.
    """

    def __init__(
        self,
        errno: int,
        message: str,
        *,
        retry: bool,
        retry_after: float | None = None,
        max_write: int | None = None,
        kept: bool = False,
    ) -> None:
        super().__init__(errno, message)
        self.retry = retry
        self.retry_after = retry_after
        self.max_write = max_write
        self.kept = kept

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the keyword arguments, which `OSError.__reduce__` drops."""
        options = {name: getattr(self, name) for name in ("retry", "retry_after", "max_write", "kept")}
        state = {name: value for name, value in self.__dict__.items() if name not in options}
        state["filename"] = self.filename
        return _restore, (type(self), (self.errno, self.strerror), options, None, state)
