"""What can go wrong, as exceptions that a program can act on.

Every error is an `OSError` with `errno` set and `filename` = the key concerned, so that code written for files keeps
working; what is particular to a cache (which ranges, which versions, whether data is lost) is in attributes. The line
that matters to a caller runs between two of them:

    WritebackError and below   the data is still in the cache, still dirty: nothing is lost, it can be tried again
    DataLossError              the data is gone, because somebody gave it up; told once to each handle

All of them pickle, attributes and `characters_written` included: they cross process boundaries with pools and test
runners. `BackendError` alone is raised *by* backends, to say whether trying again helps.

    OSError
      BackendError
      PageCacheError
        WritebackError       CommitError, UnsavedDataError
        ConflictError  DataLossError  ShutdownError  DeadlockError  ForkedError  BackendProtocolError
"""

from __future__ import annotations

import errno as codes
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = [
    "BackendError",
    "BackendProtocolError",
    "CommitError",
    "ConflictError",
    "DataLossError",
    "DeadlockError",
    "FailedRange",
    "ForkedError",
    "Key",
    "LostRange",
    "PageCacheError",
    "ShutdownError",
    "UnsavedDataError",
    "WritebackError",
]

Key = Hashable
"""What a backend calls its objects: a str or os.PathLike path, an inode number, a (bucket, key) pair."""


@dataclass(frozen=True, slots=True)
class LostRange:
    """Bytes that exist nowhere any more; `errno` is why they could not be saved, 0 where nobody tried.

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
    """Bytes whose last hand-over or commit failed: in memory, readable, dirty.

    Attributes:
        key, volume: the object, and the name of its volume.
        offset, length: the range in bytes.
        errno: code of the last error.
        attempts: calls so far, the first included.
        next_retry: seconds from the moment of asking until the cache tries again by itself; None: only when asked.
        message: the backend's own words.
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
    """How many bytes were accepted before a write failed, as `BlockingIOError` tells it."""
    return int(getattr(error, "characters_written", 0))


def set_written(error: OSError, accepted: int) -> None:
    """Let the error of a write say how many bytes were accepted before it."""
    error.characters_written = accepted  # type: ignore[attr-defined]


def _restore(
    cls: type[OSError], args: tuple[Any, ...], options: dict[str, Any], written: int | None, state: dict[str, Any]
) -> OSError:
    """Build an error again from what `__reduce__` of one of the classes below took apart."""
    error = cls(*args, **options)
    error.__dict__.update(state)
    if written is not None:
        set_written(error, written)
    return error


class PageCacheError(OSError):
    """Above all errors of the cache.

    Args:
        message: one sentence for a person; `strerror`.
        key: the object concerned; `filename`.
        errno: the code; each class has its own default.
    """

    errno: int  # always set, other than that of an OSError
    default_errno: ClassVar[int] = codes.EIO
    _options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, message: str, key: Key | None = None, *, errno: int | None = None) -> None:
        code = self.default_errno if errno is None else errno
        if key is None:
            super().__init__(code, message)
        else:
            super().__init__(code, message, key)

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep what `OSError.__reduce__` forgets: keyword arguments and `characters_written`."""
        options = {"errno": self.errno} | {name: getattr(self, name) for name in self._options}
        state = {name: value for name, value in self.__dict__.items() if name not in options}
        written = getattr(self, "characters_written", None)
        return _restore, (type(self), (self.strerror, self.filename), options, written, state)


class WritebackError(PageCacheError):
    """Data could not be handed over. It is still in the cache, still dirty; the next fsync, or `Volume.retry_failed`,
    tries again.

    Attributes:
        ranges: what has failed, per file.
        exceptions: the causes, where several files or volumes are concerned.
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
    """Closing or detaching would have lost data: still open, still in the cache. Repair the backend, or give the data
    up.
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
    """Data is gone: it was discarded, or given up at an abort. Raised once per handle that was open then.

    Attributes:
        ranges: what was lost.
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
    """The call came from inside a backend call and could only have waited for itself."""

    default_errno = codes.EDEADLK


class ForkedError(PageCacheError):
    """The cache was made before a fork() and used in the child. Make a new one there."""

    default_errno = codes.EOWNERDEAD


class BackendProtocolError(PageCacheError):
    """A backend broke its contract: an answer that is no count, too many bytes, an exception that is no OSError."""

    default_errno = codes.EPROTO


class BackendError(OSError):
    """Raised by a backend that knows whether trying again helps.

    Args:
        errno: what readers and writers of the cache see.
        message: one sentence for a person.
        retry: whether the same call may succeed later.
        retry_after: seconds to wait before that; None: as the retry policy says.
        max_write: this object takes at most so many bytes a call; they are sent again at once, in such pieces.
        kept: from `commit`: what was acknowledged is still there, repeating the commit is enough.
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
        """Keep the keyword arguments, which `OSError.__reduce__` forgets."""
        options = {name: getattr(self, name) for name in ("retry", "retry_after", "max_write", "kept")}
        state = {name: value for name, value in self.__dict__.items() if name not in options}
        state["filename"] = self.filename
        return _restore, (type(self), (self.errno, self.strerror), options, None, state)
