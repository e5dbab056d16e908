"""The interface between the cache and a store of bytes, with the promises of both sides.

`Backend` is a collection of objects by key, `BackendFile` one object, `NamespaceBackend` a collection with directories,
links and attributes, and the `Async` variants have coroutines. They are protocols: any class with these methods will
do. Subclassing `Backend` supplies the optional ones. `pagecache.testing.BackendConformance` checks a backend against
this text.

The caller promises:

* calls come from threads of the volume, several at once, with no lock of the cache held;
* `commit`, `truncate`, `punch_hole` and `rollback` of one object never run concurrently with each other or with
  `write_from`; parallel direct writes may overlap `commit`; `read_into` may run beside anything;
* no two `write_from` in flight on one object overlap;
* one call has at most `max_read` or `max_write` bytes in at most `max_vectors` buffers, obeys the units, and crosses no
  boundary; the limits are read again before each pass.

The backend promises: buffers are not touched after the call returned; errors are `OSError` (the errno decides whether
the call is repeated) or `BackendError` (has an explicit flag), anything else counts as EIO; sending bytes twice does no
harm. Optional methods of a `BackendFile` may be absent:

    close(self) -> None                         nothing is called afterwards
    punch_hole(self, offset, length) -> None    the range reads as zeros, the size stays
    limits: BackendLimits                       overrides the backend's for this object
    rollback(self) -> None                      forget acknowledged, uncommitted changes; required with commit_on_close
    next_data(self, offset) -> (begin, end) | None
                                                where the next data lies: bytes of [offset, begin) read as zeros, and
                                                nothing is implied about bytes from end on. None: zeros up to the end of
                                                the object. Data may be reported for zeros, never a hole for data
    unanswered: object                          with commit_on_close: identifies the commits of this file whose answer
                                                the cache may lack. Read when the file is replaced by one opened anew
    recognises(self, unanswered) -> bool        called on that one, of this or another backend: is the version that it
                                                was opened with one of these commits, or made by a rename of their
                                                object? It also recognises commits that are carried out later. Without
                                                it any version found then counts as one
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
from abc import abstractmethod
from collections.abc import AsyncIterable, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self, runtime_checkable

from ..config import RetryPolicy, Size, check_retry, named_options, parse_size
from ..errors import Key
from ..objects import ObjectStat as ObjectStat

UNIT_MAX = (1 << 31) - 1
"""Bytes: a unit is moved as a whole."""
INFLIGHT_MAX = 1024
"""Concurrent calls: each has a thread."""
OPTIONAL_MEMBERS = frozenset({"close", "punch_hole", "next_data", "limits", "rollback", "unanswered", "recognises"})
"""The members of a `BackendFile` that may be absent, described above: `limits`, `unanswered` and methods."""


class _FollowsUnit(int):
    """A `max_read` or `max_write` that was not given: `dataclasses.replace` of the unit changes it too."""

    __slots__ = ()


FOLLOWS_UNIT = _FollowsUnit(1 << 20)


def _sized_by_units(cls: type[BackendLimits]) -> type[BackendLimits]:
    """Class decorator: mark the sizes that the caller does not give. The signature shows their plain default."""
    init = cls.__init__

    @functools.wraps(init)
    def marked(self: BackendLimits, **values: Any) -> None:
        init(self, **({"max_read": FOLLOWS_UNIT, "max_write": FOLLOWS_UNIT} | values))

    cls.__init__ = marked  # type: ignore[method-assign]
    return cls


@named_options
@_sized_by_units
@dataclass(frozen=True, slots=True, kw_only=True)
class BackendLimits:
    """The limits of one call to a backend. Sizes are stored as ints, whatever form they were given in.

    Attributes:
        max_read: most bytes in one `read_into`, a multiple of `read_unit`; by default 1 MiB, or `read_unit` if that is
            more.
        max_write: most bytes in one `write_from`, a multiple of `write_unit`; by default 1 MiB, or `write_unit` if that
            is more.
        max_vectors: most buffers in one call.
        read_unit: reads start at, and cover, whole multiples of this; units are less than 2 GiB.
        write_unit: writes do too (the end of file aside); the cache reads missing bytes.
        boundary: no call crosses a multiple of this; 0: none.
        direct_unit: alignment of direct I/O.
        max_inflight: concurrent calls, per volume; at most 1024.
        read_ahead: largest readahead window, if the volume was attached without explicit options; 0: `max_inflight`
            times `max_read`, or for a prompt backend as the volume's options say.
        durable_writes: acknowledged means durable; commit is not needed.
        commit_on_close: an object becomes visible or valid by commit, and is committed only on the application's
            request.
        ordered_writes: one call at a time per file, ascending.
        parallel_direct_writes: direct writes of disjoint ranges may run concurrently.
        read_only: nothing can be changed.
        prompt: calls return promptly, and may be made on the thread of the caller: no abort, deadline or interrupt ends
            its wait for a running one.
        trusted: False: sync waits for it at most `sync_timeout` seconds.
        retry: policy after a failed call, unless the volume or the cache was given one; None: the cache's.
    """

    max_read: Size = "1MiB"
    max_write: Size = "1MiB"
    max_vectors: int = 512
    read_unit: Size = 1
    write_unit: Size = 1
    boundary: Size = 0
    direct_unit: Size = 1
    max_inflight: int = 8
    read_ahead: Size = 0
    durable_writes: bool = False
    commit_on_close: bool = False
    ordered_writes: bool = False
    parallel_direct_writes: bool = False
    read_only: bool = False
    prompt: bool = False
    trusted: bool = True
    sync_timeout: float | None = None
    retry: RetryPolicy | None = None

    def __post_init__(self) -> None:
        least = {"max_read": 1, "max_write": 1, "max_vectors": 1, "max_inflight": 1, "boundary": 0}
        least |= {"read_unit": 1, "write_unit": 1, "direct_unit": 1, "read_ahead": 0}
        most = dict.fromkeys(("read_unit", "write_unit", "direct_unit"), UNIT_MAX) | {"max_inflight": INFLIGHT_MAX}
        size = {}
        for name, minimum in least.items():
            size[name] = parse_size(getattr(self, name), name)
            if size[name] < minimum:
                raise ValueError(f"{name}: {getattr(self, name)!r} is less than {minimum}")
            if size[name] > most.get(name, size[name]):
                raise ValueError(f"{name}: {getattr(self, name)!r} is more than {most[name]}")
        for name in (field.name for field in fields(self) if field.type == "bool"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: {getattr(self, name)!r} is not True or False")
        wait = self.sync_timeout
        if wait is not None and (isinstance(wait, bool) or not isinstance(wait, int | float) or not wait >= 0):
            raise ValueError(f"sync_timeout: {wait!r} is not a number of seconds of at least 0, or None")
        check_retry(self.retry)
        for kind in ("read", "write"):
            name, unit = f"max_{kind}", size[f"{kind}_unit"]
            if size["boundary"] % unit:
                raise ValueError(f"boundary: {self.boundary!r} is not a multiple of {kind}_unit ({unit})")
            if isinstance(getattr(self, name), _FollowsUnit):
                size[name] = _FollowsUnit(max(FOLLOWS_UNIT, unit))
            if size[name] % unit:
                whole = max(size[name] - size[name] % unit, unit)
                raise ValueError(f"{name}: {size[name]} is not a multiple of {kind}_unit ({unit}); {whole} is")
        for name, value in size.items():
            object.__setattr__(self, name, value)


class CheckedKey(str):
    """A path whose object or directory the caller has looked up, and that may lead elsewhere by now.

    A backend with identities resolves no symbolic link in it, and raises OSError with ESTALE if it leads to another
    object, or through another directory. It compares what it has opened, and acts on that. Other backends take it as a
    plain path: the volume compares the objects of opens and looks.

    Attributes:
        object: identity of the object; None: any.
        directory: identity of the directory that has the last component; None: any.
    """

    __slots__ = ("directory", "object")

    def __new__(cls, path: str, *, object: Hashable | None = None, directory: Hashable | None = None) -> Self:
        made = super().__new__(cls, path)
        made.object, made.directory = object, directory
        return made

    object: Hashable | None
    directory: Hashable | None


def checked_key(key: Any) -> Key:
    """Refuse the keys that programs pass by mistake.

    Raises:
        ValueError: the key is None or empty.
    """
    if key is None or (isinstance(key, str | bytes) and not key):
        raise ValueError(f"key {key!r} names no object; a backend with such an object defines `canonical` to accept it")
    accepted: Key = key
    return accepted


def _unsupported(backend: object, what: str) -> io.UnsupportedOperation:
    return io.UnsupportedOperation(errno.ENOTSUP, f"{type(backend).__name__} cannot {what}")


@runtime_checkable
class BackendFile(Protocol):
    """One object, shared by all handles of the cache on it. Optional methods: see the text of this module."""

    @abstractmethod
    def stat(self) -> ObjectStat:
        """Return size and version as the next call would find them.

        A file of a `commit_on_close` backend also returns the key that its commit stores the object under, and `nlink`
        0 if that name was removed or replaced: a remove or rename of an object that was never stored, whose answer was
        lost, is settled by it.
        """
        ...

    @abstractmethod
    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers in order.

        Reflects every acknowledged truncate, hole and extension; may return older content only for bytes that are not
        committed yet.

        Returns:
            Bytes read; 0 only at or past the end. After a short result the caller requests the remainder.
        """
        ...

    @abstractmethod
    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Store the buffers in order; past the end this extends the object, and the gap reads as zeros.

        Args:
            offset: of the first byte.
            buffers: read-only, valid and unchanging during the call only.

        Returns:
            Bytes acknowledged, more than 0. The remainder is sent again; repeating a call must be harmless.
        """
        ...

    @abstractmethod
    def truncate(self, size: int) -> None:
        """Set the size: cut, or extend by zeros."""
        ...

    @abstractmethod
    def commit(self) -> str | None:
        """Make everything acknowledged durable and visible.

        Raising leaves it repeatable. A failed commit may forget acknowledged bytes (the cache sends them again), never
        acknowledged truncates, holes and names.

        Returns:
            The new version, as `stat` would give it.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """A store of objects.

    Required: `open` and `stat`. Subclassing supplies all others: `remove`, `rename` and `list` raise
    io.UnsupportedOperation, `sync` and `close` do nothing, `canonical` returns the key. These methods may be absent:

        warnings(self) -> Sequence[str]    return weaknesses of the store, in sentences for users, without a request.
                                           It is called after each commit; each sentence is reported once
        lasting_identity(self, identity) -> str | None
                                           return an `ObjectStat.identity` as a later process finds it; None: there is
                                           none. It tells the object of unsaved bytes on disk from a later one

    Attributes:
        limits: the calls that the backend accepts.
    """

    limits: BackendLimits = BackendLimits()

    @abstractmethod
    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        """Open one object. On a `commit_on_close` backend `create` makes nothing visible before commit.

        Raises:
            FileNotFoundError: no such object, and not `create`.
            FileExistsError: it exists, and `create` with `exclusive`.
        """
        ...

    @abstractmethod
    def stat(self, key: Any) -> ObjectStat:
        """Return size and version of an object that need not be open.

        Raises:
            FileNotFoundError: no such object.
        """
        ...

    def remove(self, key: Any) -> None:
        """Take the name away; files open on the object should keep working."""
        raise _unsupported(self, "remove objects")

    def rename(self, src: Any, dst: Any, *, replace: bool = True) -> None:
        """Give an object another name, atomically.

        Raises:
            FileNotFoundError: no `src`.
            FileExistsError: `dst` exists, and not `replace`.
        """
        raise _unsupported(self, "rename objects")

    def list(self, prefix: str = "") -> Iterable[ObjectStat]:
        """Return the objects whose key starts with `prefix`, each with its key."""
        raise _unsupported(self, "list objects")

    def canonical(self, key: Any) -> Key:
        """Return one common spelling for all spellings of a name, itself among them, without asking the store.

        The cache knows a name by it, and passes the original key to all other calls. Names that lead to one object have
        different canonical keys: `ObjectStat.identity` identifies the object. The default refuses None and empty keys.

        Raises:
            ValueError: no object can have this key.
        """
        return checked_key(key)

    def sync(self) -> None:
        """Make names (create, remove, rename) durable; called by `Volume.sync` after the files' own commits."""
        return

    def close(self) -> None:
        """Release the backend's resources."""
        return


@runtime_checkable
class NamespaceBackend(Backend, Protocol):
    """A backend with directories, links and attributes. Each method may raise io.UnsupportedOperation.

    `link`, `setattr` and the methods of extended attributes concern the object that a symbolic link leads to. If they
    take `follow` too, `follow=False` means the link itself; a mount uses that. These methods may be absent:

        mknod(self, key, mode, rdev=0) -> None      make a FIFO, a socket or a device node; `mode` has its type and
                                                    permissions, as for os.mknod
        lstat(self, key) -> ObjectStat              return the status of a symbolic link itself, or of any other name as
                                                    `stat`; backends with symbolic links need it
    """

    def mkdir(self, key: Any, mode: int = 0o777) -> None:
        """Make a directory; FileExistsError if the name is taken."""
        raise _unsupported(self, "make directories")

    def rmdir(self, key: Any) -> None:
        """Remove an empty directory."""
        raise _unsupported(self, "remove directories")

    def readdir(self, key: Any) -> Iterable[ObjectStat]:
        """Return the entries of a directory, each with its full key; links are not followed."""
        raise _unsupported(self, "list directories")

    def setattr(
        self,
        key: Any,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> ObjectStat:
        """Change the given attributes; return the new status."""
        raise _unsupported(self, "change attributes")

    def symlink(self, target: str, key: Any) -> None:
        """Make `key` a symbolic link to `target`."""
        raise _unsupported(self, "make symbolic links")

    def readlink(self, key: Any) -> str:
        """Return the target of a symbolic link."""
        raise _unsupported(self, "read symbolic links")

    def link(self, src: Any, dst: Any) -> None:
        """Give an object a second name."""
        raise _unsupported(self, "make hard links")

    def getxattr(self, key: Any, name: str) -> bytes:
        """Return the value of an extended attribute; ENODATA if it does not exist."""
        raise _unsupported(self, "read extended attributes")

    def setxattr(self, key: Any, name: str, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute; `flags` as in os.setxattr."""
        raise _unsupported(self, "set extended attributes")

    def listxattr(self, key: Any) -> Iterable[str]:
        """Return the names of the extended attributes."""
        raise _unsupported(self, "list extended attributes")

    def removexattr(self, key: Any, name: str) -> None:
        """Remove an extended attribute; ENODATA if it does not exist."""
        raise _unsupported(self, "remove extended attributes")

    def statfs(self) -> os.statvfs_result:
        """Return used and free space."""
        raise _unsupported(self, "report how much space there is")


@runtime_checkable
class AsyncBackendFile(Protocol):
    """`BackendFile` as coroutines, run on the cache's own event loop. The optional methods are coroutines too."""

    @abstractmethod
    async def stat(self) -> ObjectStat:
        """Return size and version; as `BackendFile.stat`."""
        ...

    @abstractmethod
    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers in order; as `BackendFile.read_into`."""
        ...

    @abstractmethod
    async def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Store the buffers in order; as `BackendFile.write_from`."""
        ...

    @abstractmethod
    async def truncate(self, size: int) -> None:
        """Cut, or extend by zeros; as `BackendFile.truncate`."""
        ...

    @abstractmethod
    async def commit(self) -> str | None:
        """Make everything acknowledged durable and visible; as `BackendFile.commit`."""
        ...


@runtime_checkable
class AsyncBackend(Protocol):
    """`Backend` as coroutines, run on the cache's own event loop; `list` gives an async iterable, `canonical` is
    plain.

    Attributes:
        limits: the calls that the backend accepts.
    """

    limits: BackendLimits = BackendLimits()

    @abstractmethod
    async def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> AsyncBackendFile:
        """Open one object; as `Backend.open`."""
        ...

    @abstractmethod
    async def stat(self, key: Any) -> ObjectStat:
        """Return size and version of an object; as `Backend.stat`."""
        ...

    async def remove(self, key: Any) -> None:
        """Remove the name; as `Backend.remove`."""
        raise _unsupported(self, "remove objects")

    async def rename(self, src: Any, dst: Any, *, replace: bool = True) -> None:
        """Rename an object atomically; as `Backend.rename`."""
        raise _unsupported(self, "rename objects")

    def list(self, prefix: str = "") -> AsyncIterable[ObjectStat]:
        """Return the objects whose key starts with `prefix`, as an async iterable."""
        raise _unsupported(self, "list objects")

    def canonical(self, key: Any) -> Key:
        """Return one spelling of a name; as `Backend.canonical`, a plain function."""
        return checked_key(key)

    async def sync(self) -> None:
        """Make names durable; as `Backend.sync`."""
        return

    async def close(self) -> None:
        """Release the resources of the backend."""
        return


def close_backend_file(backend_file: BackendFile | None) -> None:
    """Close a backend's file, if it has `close`. Ignore errors: all that matters was committed or reported before."""
    close: Any = getattr(backend_file, "close", None)
    if close is not None:
        with contextlib.suppress(Exception):
            close()
