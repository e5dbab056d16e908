"""Calls to an fsspec file system, in one form for blocking and for asynchronous ones.

`Calls` calls the plain methods; `AwaitedCalls` waits for the coroutines with an underscore.

Only methods that take a path literally are used: `mv`, `copy` and `rm` of the base class look for patterns in it and
for directories. Cached listings of a file system are dropped before each lookup.

Missing abilities of a file system show in its class (`lacks`): a method that no subclass overrides raises
NotImplementedError. Errors get an errno here that decides whether a retry may help (`translated`).
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import io
import os
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any

from ...distribution import needs

try:
    import fsspec as fsspec
    import fsspec.implementations.cached
    import fsspec.implementations.local
    from fsspec.asyn import AsyncFileSystem, get_loop, sync
    from fsspec.caching import caches
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from fsspec.implementations.dirfs import DirFileSystem
except ModuleNotFoundError as error:
    what = needs("fsspec 2024.12 or later is not installed", "fsspec")
    raise ModuleNotFoundError(what, name=error.name) from error

from ...errors import BackendError, Key
from ..objects.store import Store
from ..protocol import ObjectStat
from ..spool import Spool, dealt
from ..url import store_of

TAGS = (
    *("ETag", "etag", "e_tag", "generation", "sha", "hex", "content_hash", "content_md5", "md5Hash", "Content-MD5"),
    *("Digest", "CRC", "chksum"),
)
"""Names, in infos of file systems, of values that identify the content."""
TIMES = (
    *("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "modificationTime", "modify"),
    "created",
)
"""Names of the time of the last change; an object that is replaced as a whole is made at that time."""
LISTING_OPTIONS = {"use_listings_cache", "listings_expiry_time", "max_paths", "asynchronous", "loop", "batch_size"}
"""Options that fsspec passes to any file system; they do not change its objects."""
PIPE_MAX = 1 << 20
"""Largest object in bytes that is stored from one piece of memory."""
STEP = 1 << 20

ERRNOS = (errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.ETIMEDOUT, errno.EAGAIN,
          errno.ECONNREFUSED, errno.ECONNABORTED)  # fmt: skip
"""Those of errors whose class says as much."""
BY_STATUS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 410: errno.ENOENT, 412: errno.ESTALE}
REFUSALS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    io.UnsupportedOperation,
)
"""Errors of a request that was certainly not carried out."""
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


# -- kind of a file system


def beneath(fs: Any) -> Any:
    """Return the file system that does the work, below those that only change its names or its appearance."""
    while True:
        if isinstance(fs, DirFileSystem):
            fs = fs.fs
        elif isinstance(fs, AsyncFileSystemWrapper):
            fs = fs.sync_fs
        else:
            return fs


def name_of(fs: Any) -> str:
    """Return its protocol, for messages."""
    protocol = beneath(fs).protocol
    return f"{protocol if isinstance(protocol, str) else protocol[0]}:"


def path_beneath(fs: Any, root: str) -> str:
    """Return a path as the file system that does the work has it, see `beneath`."""
    if isinstance(fs, DirFileSystem):
        return path_beneath(fs.fs, fs._join(root))
    if beneath(fs) is not fs:
        return path_beneath(fs.sync_fs, root)
    path: str = fs._strip_protocol(root) if root else ""
    return path


def store_name(fs: Any, root: str) -> str:
    """Return the name in a disk tier of what a path of a file system leads to; ValueError: an argument is an object."""
    real = beneath(fs)
    parameters = [*inspect.signature(type(real).__init__).parameters.values()][1:]
    names = [each.name for each in parameters if each.kind <= each.POSITIONAL_OR_KEYWORD]
    given = {names[at] if at < len(names) else str(at): value for at, value in enumerate(real.storage_args)}
    given = {name: value for name, value in {**given, **real.storage_options}.items() if name not in LISTING_OPTIONS}
    kind = f"{type(real).__module__}.{type(real).__qualname__}"
    return store_of(f"fsspec:{name_of(fs)}{path_beneath(fs, root)}", {"": kind, **given})


def _has(fs: Any, *methods: str) -> bool:
    """Return whether its class itself implements any of these methods."""
    own = [vars(cls) for cls in type(fs).__mro__ if cls not in (AsyncFileSystem, fsspec.AbstractFileSystem)]
    return any(method in names for names in own for method in methods)


def renames(fs: Any) -> bool:
    """Return whether `mv` is one call of the file system, not a copy and a removal."""
    return _has(beneath(fs), "mv", "_mv_file")


def lacks(fs: Any, *, moves: bool) -> str | None:
    """Return why objects cannot be written, according to the class; `moves`: they are moved into place."""
    real = beneath(fs)
    if real.async_impl and not _has(real, "_pipe_file", "_put_file"):
        return "it has no way to store an object"
    if moves and not _has(real, "rm_file", "_rm", "_rm_file"):
        return "it has no way to remove an object, and temporary ones would be left behind"
    if moves and not _has(real, "mv", "_mv_file", "cp_file", "_cp_file"):
        return "it has no way to put a new object in the place of an old one"
    return None


# -- infos of objects


def _time(value: object) -> float | None:
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def stat_of(info: dict[str, Any], key: Key | None = None) -> ObjectStat:
    """Return the status in an info; UnsupportedOperation: it lacks even the size."""
    if info.get("type") == "directory":
        return ObjectStat(size=0, key=key, kind="dir")
    size = info.get("size")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise io.UnsupportedOperation(errno.ENOTSUP, f"the size is {size!r}: objects of unknown size cannot be cached")
    dated = next((info[name] for name in TIMES if info.get(name) is not None), None)
    mtime = _time(dated)
    tag = next((f"{name}={info[name]}" for name in TAGS if info.get(name)), None)
    if tag is None and dated is not None:
        tag = f"{dated if mtime is None else repr(mtime)}:{size}:{info.get('ino', '')}"
    return ObjectStat(size=size, version=tag, mtime=mtime, key=key)


def tagged(info: ObjectStat) -> bool:
    """Return whether the version identifies the content, not only a time."""
    return info.version is not None and info.version.partition("=")[0] in TAGS


# -- errors


def translated(error: BaseException, key: Key, name: str) -> BaseException:
    """Return the error with an errno; unchanged if it has one, or if the cause is unknown."""
    if isinstance(error, BackendError | io.UnsupportedOperation):
        return error
    if isinstance(error, NotImplementedError):
        return io.UnsupportedOperation(errno.ENOTSUP, f"{name} does not offer this: {error or 'not implemented'}")
    if isinstance(error, OSError):
        code = error.errno
        if isinstance(code, int) and code > 0 and not isinstance(error, ssl.SSLError):
            return OSError(code, error.strerror or str(error), key)
        other = errno.ECONNRESET if isinstance(error, ConnectionError) else errno.EIO
        by_class = next((number for number in ERRNOS if isinstance(error, type(OSError(number, "")))), other)
        return OSError(by_class, f"{name} {type(error).__name__}: {error}", key)
    status = getattr(error, "status", None) or getattr(error, "status_code", None)
    if status in BY_STATUS:
        return OSError(BY_STATUS[status], f"{name} {error}", key)
    if status in TRY_AGAIN:
        return BackendError(errno.EIO, f"{name} {error}", retry=True)
    return error


@contextmanager
def about(key: Key, name: str) -> Iterator[None]:
    """Translate errors of a file system to those of a backend."""
    try:
        yield
    except Exception as error:
        better = translated(error, key, name)
        if better is error:
            raise
        try:
            raise better from error
        finally:
            del better  # it keeps this frame


# -- calls


class Calls(Store[ObjectStat]):
    """The calls to one file system whose methods block. Paths are those of the file system."""

    def __init__(self, fs: Any) -> None:
        self.fs = fs
        self.name = name_of(fs)
        self.renames = renames(fs)
        self._listings = fs.sync_fs if isinstance(fs, AsyncFileSystemWrapper) else fs

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        return getattr(self.fs, method)(*args, **options)

    def reader(self, path: str) -> Reader:
        """Return a reader of ranges of the current object."""
        own = _has(beneath(self.fs), "cat_file", "_cat_file")
        return Reader(self, path) if own else OpenedReader(self, path)

    def forget(self, path: str) -> None:
        """Drop the file system's cached state of a path and of its directory."""
        for known in (path, self.fs._parent(path)):
            self._listings.invalidate_cache(known)

    def stat(self, path: str) -> ObjectStat:
        self.forget(path)
        return stat_of(self.call("info", path))

    def found(self, path: str) -> ObjectStat | None:
        """Return the status of an object; None: there is none."""
        try:
            return self.stat(path)
        except FileNotFoundError:
            return None

    def head(self, name: str) -> ObjectStat | None:
        found = self.found(name)
        if found is not None and found.kind == "dir":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        return found

    def find(self, path: str) -> dict[str, dict[str, Any]]:
        """Return everything below a path, by path; no directories."""
        self._listings.invalidate_cache()
        found: dict[str, dict[str, Any]] = self.call("find", path, detail=True)
        return found

    def entries(self, path: str) -> list[dict[str, Any]]:
        """Return the infos of a directory."""
        self.forget(path)
        infos: list[dict[str, Any]] = self.call("ls", path, detail=True)
        return infos

    def delete(self, name: str) -> None:
        self.call("rm_file", name)

    def make_directories(self, path: str) -> None:
        with contextlib.suppress(FileExistsError, NotImplementedError):
            self.call("makedirs", path, exist_ok=True)

    def move(self, old: str, new: str) -> None:
        """Rename an object that has no other user, and replace the object with the new name."""
        if not self.renames:
            self.copy(old, new)
            self.delete(old)
            return
        self.rename(old, new)
        if self.found(old) is not None:
            raise self.replaces_nothing()

    def copy(
        self, old: str, new: str, version: ObjectStat | None = None, there: ObjectStat | None = None
    ) -> ObjectStat | None:
        self.call("cp_file", old, new)
        return None

    def rename(self, old: str, new: str) -> None:
        real = beneath(self.fs)
        if _has(real, "_mv_file"):  # no class above it has this as its own, and `mv` of the base class is not literal
            try:
                sync(real.loop or get_loop(), real._mv_file, path_beneath(self.fs, old), path_beneath(self.fs, new))
            except FileNotFoundError as error:
                if self.found(old) is not None:
                    raise
                # A retry of the file system itself finds nothing if the first try was carried out.
                raise OSError(errno.EIO, f"{self.name} {old} is gone: {error}") from error
        else:
            self.call("mv", old, new)

    def replaces_nothing(self) -> OSError:
        """Some return "false" in place of an error."""
        return io.UnsupportedOperation(errno.ENOTSUP, f"{self.name} mv does not replace an existing object")

    def store(self, spool: Spool, size: int, path: str) -> None:
        """Store the first `size` bytes of a spool as an object; before it returns, a part may be visible."""
        spool.set_size(size)
        real = beneath(self.fs)
        if size <= PIPE_MAX and _has(real, "pipe_file", "_pipe_file"):
            self.call("pipe_file", path, os.pread(spool.fd, size, 0))
        elif _has(real, "put_file", "_put_file"):
            self.call("put_file", spool.path, path)
        else:
            self.pour(spool, size, path)

    def pour(self, spool: Spool, size: int, path: str) -> None:
        """Write through an open file, and abandon it after an error: closing would make an object of the part."""
        file = self.fs.open(path, "wb")
        try:
            for at in range(0, size, STEP):
                file.write(os.pread(spool.fd, min(STEP, size - at), at))
        except BaseException:
            give_up(file)
            raise
        file.close()

    def is_copy(self, found: ObjectStat, version: ObjectStat) -> bool:
        return tagged(found) and found.version == version.version

    def is_refusal(self, error: BaseException) -> bool:
        return isinstance(translated(error, None, self.name), REFUSALS)

    def about(self, key: Key) -> AbstractContextManager[None]:
        return about(key, self.name)


class AwaitedCalls(Calls):
    """Calls to a file system whose methods are coroutines, which run on fsspec's loop."""

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        return sync(get_loop(), getattr(self.fs, f"_{method}"), *args, **options)

    def reader(self, path: str) -> Reader:
        return Reader(self, path)

    def pour(self, spool: Spool, size: int, path: str) -> None:
        content = io.BytesIO()  # `getvalue` makes no copy
        for at in range(0, size, STEP):  # one read ends at 2 GiB
            content.write(os.pread(spool.fd, min(STEP, size - at), at))
        self.call("pipe_file", path, content.getvalue())


def give_up(file: Any) -> None:
    """Release a file that is open for writing, without making an object of it."""
    with contextlib.suppress(Exception):
        file.discard()
    if isinstance(file, fsspec.spec.AbstractBufferedFile):
        file.closed = True  # close() and the garbage collector would upload the buffered bytes
    else:
        with contextlib.suppress(Exception):
            file.close()


# -- reading


class Unranged(io.UnsupportedOperation):
    """A file system that returns whole objects only."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.ENOTSUP, text)


class Reader:
    """Ranges of one object, one request each."""

    def __init__(self, calls: Calls, path: str) -> None:
        self._calls = calls
        self._path = path

    def read(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers; return the number of bytes read."""
        length = sum(map(len, buffers))
        data = self._calls.call("cat_file", self._path, start=offset, end=offset + length)
        return self._deal(data, length, buffers)

    def _deal(self, data: bytes, length: int, buffers: Sequence[memoryview]) -> int:
        if len(data) > length:
            wrong = f"{len(data)} bytes where {length} were asked for"
            raise Unranged(f"{self._calls.name} cannot read ranges: it gave {wrong}")
        return dealt(data, buffers)

    def close(self) -> None:
        return


class OpenedReader(Reader):
    """Ranges through open files, one for each concurrent call: file systems without their own `cat_file` open and close
    a file for every range.
    """

    def __init__(self, calls: Calls, path: str) -> None:
        super().__init__(calls, path)
        self._lock = threading.Lock()  # guards the next two
        self._idle: list[Any] = []
        self._closed = False

    def read(self, offset: int, buffers: Sequence[memoryview]) -> int:
        with self._lock:
            file = self._idle.pop() if self._idle else None
        if file is None:
            file = self._open()
        try:
            file.seek(offset)
            length = sum(map(len, buffers))
            done = self._deal(self._take(file, length), length, buffers)
        except BaseException:
            file.close()
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(file)
                return done
        file.close()
        return done

    def _open(self) -> Any:
        file = self._calls.fs.open(self._path, "rb")
        if isinstance(file, fsspec.spec.AbstractBufferedFile):
            # The file's own readahead would fetch megabytes for a page, and keep them.
            file.cache = caches["none"](file.blocksize, file._fetch_range, file.size)
        return file

    def _take(self, file: Any, length: int) -> bytes:
        pieces, left = [], length
        while left and (piece := file.read(left)):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        with self._lock:
            self._closed, idle = True, self._idle
            self._idle = []
        for file in idle:
            with contextlib.suppress(Exception):
                file.close()
