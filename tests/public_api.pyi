"""The public interface of `pagecache`: a promise.

Names, parameters, defaults and errors below stay as they are; more may be added, nothing here is renamed or dropped.
Attributes are promised for reading. tests/test_public_api.py compares this file with the installed package. A line
"# module NAME" says where the names below it are found; the imports above the first one are for all of them.

Offsets and lengths are bytes, times are seconds. Sizes accept an int or a string: binary (K, M, G, T and KiB, MiB, GiB, TiB) and
decimal (kB, MB, GB, TB), case-insensitive, decimals allowed ("1.5GiB"); anything else is a ValueError that names it.
Every call is thread-safe unless it says otherwise. Every blocking call can be interrupted (Ctrl-C) and has a way out: a timeout,
`Volume.abort`, or the interrupt; ending a wait never loses data. Options with an unknown name: TypeError with the nearest match.
All errors and dataclasses here pickle.
"""
import io
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Literal, Protocol, Self
from typing_extensions import Buffer

_list = list                         # methods called `list` hide the built-in one

# module pagecache

Key = Hashable                       # what a backend calls its objects: a str or os.PathLike path, an inode number, a (bucket, key) pair
Size = int | str

# ------------------------------------------------------------------------------------------------ cache

@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    attempts: int = 5                      # calls including the first; progress starts the count anew
    first_delay: float = 0.05              # doubled each time, full jitter
    max_delay: float = 10.0
    deadline: float | None = 120.0         # ends trying, never a running call
    failed_retry: float | None = 30.0      # try parked data again after this long; None: only when asked

@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    page_size: Size = 4096                 # smallest index unit; power of two, >= 4096
    max_folio: Size = "2MiB"               # lowered to capacity / 8 where that is less
    dirty_background: float | Size = 0.25  # share of capacity (float) or bytes (at most the capacity): above this the flusher runs
    dirty_limit: float | Size = 0.50       # writers are slowed from the midpoint and stopped here (dirty + in flight + unstable, except
                                           # bytes in a spool: PageCache.attach)
    dirty_expire: float = 30.0             # older dirty data is written back even below dirty_background
    flush_interval: float = 5.0
    failed_limit: float = 0.5              # of dirty_limit: above this, writes to a file with failed data raise its error at once
    throttle_timeout: float | None = None  # None: a throttled writer waits; else BlockingIOError(EAGAIN)
    cow_limit: Size = "2MiB"               # largest folio that is copied when its in-flight bytes are modified
    gil_release: Size = "1MiB"             # copies of at least this size release the GIL
    retry: RetryPolicy = RetryPolicy()
    exit_timeout: float = 5.0              # at interpreter exit: write back at most this long, then list what was not saved on stderr
    stall_warn: float = 10.0
    poison: bool = False                   # debugging: overwrite freed frames and revoked backend buffers

class DiskTier:
    """A directory on a local disk that keeps clean data across restarts. One process at a time has it."""
    def __init__(self, path: str | os.PathLike[str], *, size: Size = "10GiB", journal_limit: Size | None = None, segment: Size = "64MiB",
                 direct_io: bool = False) -> None: ...
    path: str
    size: int

class PageCache:
    """One memory budget shared by any number of volumes. A context manager: leaving it is `close()`; when its body raised, that
    exception stays the primary one."""
    def __init__(self, capacity: Size = "256MiB", *, config: CacheConfig | None = None,                  # >= 16 pages
                 disk: DiskTier | str | os.PathLike[str] | None = None, **overrides: Any) -> None: ...
    capacity: int
    config: CacheConfig
    name: str                              # of this cache in live documents and metrics: unique in the process
    def attach(self, backend: Backend | AsyncBackend | str, *, name: str | None = None, options: VolumeOptions | None = None,
               backend_options: Mapping[str, Any] | None = None, mirror: Backend | AsyncBackend | str | None = None,
               timeout: float | None = None,           # the default of the volume's open, stat, exists, list, remove, rename, truncate
               prompt: bool | None = None,             # overrules the backend's limits
               retry: RetryPolicy | None = None,       # None: the cache's, where it was given one, else the backend's
               spool: str | os.PathLike[str] | None = "",   # directory of the files that keep uncommitted bytes of commit_on_close
                                                       # backends when memory is short; "": of temporary files; None: none
               disk: bool = True,                      # use the tier of the cache
               durability: Literal["backend", "disk"] = "backend",    # what fsync, close, sync and detach wait for
               on_recovery: Literal["resume", "hold"] = "resume",     # bytes found in the tier: save them, or wait for Volume.resume
               volume_id: str | None = None,           # what the tier knows the store by; None: its URL, or its `name`, or its class
               **overrides: Any) -> Volume:
        """`backend` may be a URL: `memory:`, `dir:PATH`, `s3://BUCKET/PREFIX?endpoint=URL`, `fsspec:URL`, or a scheme registered
        under the entry-point group `pagecache.backends`; `backend_options` go to its constructor. `overrides` are fields of
        VolumeOptions. `mirror`: a best-effort second copy of everything that is written back. A backend object has `open` and `stat`,
        whatever its class; what else it lacks is as in `Backend`."""
    def volumes(self) -> tuple[Volume, ...]: ...
    def configure(self, **changes: Any) -> None:
        """Change limits, intervals and policies of a running cache."""
    def resize(self, capacity: Size, *, timeout: float | None = None) -> None:
        """Grow, or give memory back to the system at once. Shrinking below what is local writes back and commits first; below what
        is pinned: BlockingIOError."""
    def sync(self, timeout: float | None = None) -> None:
        """`Volume.sync` on every volume side by side; a dead backend delays nobody else. Raises WritebackError with the ranges of
        all volumes (`exceptions`: the causes), TimeoutError."""
    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Events from one thread; returns the function that unsubscribes. Exceptions of the callback are logged."""
    def stats(self) -> CacheStats: ...
    def serve_stats(self, path: str | os.PathLike[str]) -> None:
        """Serve live statistics on a local socket for `pagecache top` and Prometheus; removed at close."""
    def trace(self, path: str | os.PathLike[str], *, records: int = 262144) -> Trace:
        """A context manager: what happens in its body is written to a file for Perfetto or chrome://tracing when it ends. OSError on
        entering it, where that could not be written; PageCacheError (EBUSY) while another trace of this cache runs."""
    def waits(self) -> _list[Wait]:
        """Who waits for what at this moment, for how long, and for which call of the backend; who has waited longest first. Stops nobody. A wait that has lasted `stall_warn` seconds is logged once."""
    def check(self) -> None:
        """Verify every internal invariant; AssertionError names the first one broken. For tests; stops the world."""
    def close(self, *, timeout: float | None = None, on_failed: Literal["raise", "discard"] = "raise") -> _list[LostRange]:
        """Write back, commit and detach everything. "raise": UnsavedDataError lists what could not be saved; the cache stays open,
        nothing is lost. "discard": returns what was given up. Idempotent."""
    def __enter__(self) -> Self: ...
    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None: ...

@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredFile:
    key: Key
    size: int                              # of the file, as it was saved in the journal
    ranges: tuple[tuple[int, int], ...]    # (offset, length) that the store does not have
    base: str | None                       # version that they were written over
    created: bool                          # the store has no such object yet

class Trace:
    path: str
    records: int
    dropped: int                           # after the end: the oldest ones, where there were more than `records`
    def __enter__(self) -> Self: ...
    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None: ...

@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    kind: Literal["failed", "repaired", "parked", "conflict", "invalidated", "stalled", "committed", "warning", "disk"]
    volume: str
    key: Key | None = None
    ranges: tuple[tuple[int, int], ...] = ()                              # (offset, length)
    error: OSError | None = None
    message: str = ""                                                     # what happened, without volume and key
    next: str = ""                                                        # what happens with it now
    time: float = 0.0                                                     # seconds since the epoch
    missed: int = 0                                                       # events left out before this one

@dataclass(frozen=True, slots=True, kw_only=True)
class WaitOwner:
    what: str                              # the call that is waited for: "a read of the backend", "a commit of the backend"
    thread: int | None = None
    name: str | None = None
    seconds: float | None = None
    place: str | None = None               # the line that it has reached in code of the backend
    def to_dict(self) -> dict[str, Any]: ...

@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    thread: int                            # threading.get_ident(); of a task, that of its loop
    name: str                              # of the thread, or of the task
    task: bool = False
    seconds: float
    what: str                              # "a fill of [0, 4096)", "the file's lock", "fsync"
    volume: str | None = None
    key: Key | None = None
    file: int | None = None                # its number in the cache
    offset: int | None = None
    length: int | None = None
    owner: WaitOwner | None = None
    def to_dict(self) -> dict[str, Any]: ...                              # an entry of /v1/waits of the live documents

# ------------------------------------------------------------------------------------------------ volume

@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeOptions:
    read_ahead: Size = "1MiB"              # largest window; 0 turns read-ahead off
    sync_on_close: bool | None = None      # None: as the backend's limits say (commit_on_close)
    on_conflict: Literal["fail", "take_remote"] = "fail"                 # the stored object changed under local data: raise
                                           # ConflictError at commit / give ours up
    write_through: bool = False            # every write returns only when the backend acknowledged it
    read_only: bool = False
    dirty_share: float = 1.0               # of the cache's dirty_limit that this volume may use
    source_may_fault: Literal["auto", "always", "never"] = "auto"        # stage user memory that may fault while copying
    revalidate: float = 0.0                # seconds for which an open believes the version that was last seen under its name
    policy: Literal["adaptive", "sticky"] = "adaptive"                   # which clean pages go when memory is short

class Volume:
    """One backend seen through the cache."""
    name: str
    options: VolumeOptions
    backend: Backend | AsyncBackend
    def open(self, key: Key, mode: str = "rb", *, flags: int | None = None, direct: bool = False,
             write_through: bool | None = None, keep_cache: bool = False, revalidate: float | None = None, read_ahead: Size | None = None,
             parallel_direct_writes: bool = False, timeout: float | None = None) -> CachedFile:
        """Modes are those of `open()` without buffering: r, r+, w, w+, x, x+, a, a+; 'b' optional, 't' is ValueError; or `flags`
        (os.O_RDWR | os.O_CREAT ...) instead. close-to-open: unless `keep_cache`, the backend's version is compared and changed clean
        data dropped. `parallel_direct_writes` takes effect where the backend allows it too.
        Raises FileNotFoundError, FileExistsError, IsADirectoryError, PermissionError (read_only), ConflictError."""
    def stat(self, key: Key, *, timeout: float | None = None) -> FileStat:
        """Size and times as a reader of the cache sees them (local extensions included)."""
    def exists(self, key: Key, *, timeout: float | None = None) -> bool: ...
    def list(self, prefix: str = "", *, timeout: float | None = None) -> Iterator[FileStat]: ...
    def remove(self, key: Key, *, timeout: float | None = None) -> None:
        """Open handles keep working on the removed file, as in POSIX, where the backend can; what was not written back stays
        readable through them and is dropped when the last of them closes."""
    def rename(self, src: Key, dst: Key, *, replace: bool = True, timeout: float | None = None) -> None: ...
    def truncate(self, key: Key, size: int, *, timeout: float | None = None) -> None: ...
    def sync(self, timeout: float | None = None, *, durability: Literal["backend", "disk"] | None = None) -> None:
        """syncfs: returns once every write made before the call is committed (also in objects still open on a commit_on_close backend:
        an explicit request); later writes are not waited for.
        Raises WritebackError with the errors of all files, TimeoutError (I/O goes on)."""
    def begin_sync(self, *, durability: Literal["backend", "disk"] | None = None) -> SyncTicket:
        """The same without waiting: a ticket for "everything written so far"."""
    def recovered(self) -> _list[RecoveredFile]:
        """Files whose bytes were found in the tier at attach and are not in the store yet."""
    def resume(self, key: Key | None = None) -> None:
        """Start to write back what was recovered (`on_recovery="hold"`). FileNotFoundError: nothing of the key was found at attach; not
        if it was saved or discarded meanwhile."""
    def resolve(self, key: Key, how: Literal["force", "rebase", "discard"]) -> _list[LostRange]:
        """Settle a ConflictError: write our whole version over the new one, lay exactly what we wrote over it, or drop ours.
        Returns what is lost by it: "discard" our bytes, "rebase" the bytes of the new version that ours replace with others (ESTALE)."""
    def invalidate(self, key: Key | None = None, offset: int = 0, length: int | None = None) -> None:
        """Write back, commit where needed, then drop cached data. Raises WritebackError (nothing lost), BlockingIOError (pinned by
        a writable view, or dirtied again and again)."""
    def drop_clean(self, key: Key | None = None, offset: int = 0, length: int | None = None) -> int:
        """Drop what can be dropped at once; returns bytes freed. Never blocks, never fails."""
    def invalidate_remote(self, key: Key, offset: int = 0, length: int | None = None, *, version: str | None = None) -> None:
        """The stored object changed. Callable from anywhere, also from inside a backend call; never blocks."""
    def discard(self, key: Key, offset: int = 0, length: int | None = None) -> _list[LostRange]:
        """Give up dirty, failed and unstable data on purpose. Each handle open at that time raises DataLossError once, from its next
        fsync, flush or close."""
    def failed(self) -> _list[FailedRange]: ...
    def not_mirrored(self) -> dict[Key, str]: ...                     # objects whose copy in the mirror was given up, and why
    def retry_failed(self, key: Key | None = None) -> None: ...
    def dirty_ranges(self, key: Key) -> _list[tuple[int, int]]: ...   # (offset, length): dirty, in flight or unstable
    def abort(self, reason: BaseException | None = None) -> None:
        """The backend is gone: every wait ends with ShutdownError, data stays in memory as failed until `reconnect`."""
    def reconnect(self, backend: Backend | AsyncBackend, *, fenced: bool = False) -> None:
        """`fenced=True` asserts that calls still running on the old backend can no longer change the store."""
    def detach(self, *, timeout: float | None = None, on_failed: Literal["raise", "discard"] = "raise") -> _list[LostRange]: ...
    def stats(self) -> VolumeStats: ...

class SyncTicket:
    """Can be awaited."""
    total: int                             # bytes that were local when the ticket was taken
    remaining: int                         # of them, not yet committed (an upper bound, by folio); never grows
    rate: float                            # bytes of it acknowledged per second, over the last seconds; 0.0 at first
    expected: float | None                 # seconds until all of it is acknowledged at this rate; None: it cannot be said
    errors: tuple[OSError, ...]            # what has failed so far; `wait` raises them together
    def done(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> None: ...             # raises as Volume.sync does
    def __await__(self) -> Generator[Any, None, None]: ...

# ------------------------------------------------------------------------------------------------ file

class Advice(Enum):
    NORMAL = "normal"; SEQUENTIAL = "sequential"; RANDOM = "random"; WILLNEED = "willneed"; DONTNEED = "dontneed"; NOREUSE = "noreuse"

class CachedFile(io.RawIOBase):
    """A handle. Everything io.RawIOBase promises (io.BufferedRandom, TextIOWrapper, zipfile, tarfile, h5py, pyarrow work on it), and
    positional calls that share no file position and are what servers should use.
    All or raise: a read is short only at the end of the file; a write takes everything, or raises an error whose
    `characters_written` says how much was accepted (and is kept). Use after close: ValueError."""
    key: Key
    name: str
    mode: str
    volume: Volume
    @property
    def size(self) -> int: ...
    # positional I/O (negative size or offset: ValueError)
    def pread(self, size: int, offset: int, /) -> bytes: ...
    def pread_into(self, buffer: Buffer, offset: int, /) -> int: ...
    def pwrite(self, data: Buffer, offset: int, /) -> int: ...
    def preadv(self, buffers: Sequence[Buffer], offset: int, /) -> int: ...
    def pwritev(self, buffers: Sequence[Buffer], offset: int, /) -> int: ...
    def try_pread(self, size: int, offset: int, /) -> bytes | None: ...   # None: it would wait or call the backend
    def try_pwrite(self, data: Buffer, offset: int, /) -> int | None: ...
    def append(self, data: Buffer) -> int:
        """Atomically at the end, whatever other handles do; returns the offset written at."""
    # size and space
    def truncate(self, size: int | None = None) -> int: ...
    def punch_hole(self, offset: int, length: int) -> None: ...           # neither changes the size
    def zero_range(self, offset: int, length: int) -> None: ...
    # hints and zero copy
    def prefetch(self, offset: int = 0, length: int | None = None, *, wait: bool = False) -> None: ...
    def prefetch_ranges(self, ranges: Iterable[tuple[int, int]], *, wait: bool = False) -> None: ...
    def advise(self, advice: Advice, offset: int = 0, length: int | None = None) -> None: ...
    def view(self, offset: int, length: int, *, writable: bool = False) -> View: ...
    # durability
    def flush(self) -> None:
        """Hand dirty data to the backend and wait for its acknowledgement; raises WritebackError. No commit. Nothing dirty: no
        backend call. On a `commit_on_close` backend it starts whole write units and does not wait: the rest belongs to fsync, close."""
    def fsync(self, *, data_only: bool = False, timeout: float | None = None,
              durability: Literal["backend", "disk"] | None = None) -> None:
        """Returns only if every byte written to the file before the call is committed. Not delayed by later writes."""
    def sync_range(self, offset: int, length: int) -> None: ...           # hand over and wait, no commit
    def close(self) -> None:
        """Last writable handle: flush, and commit where `sync_on_close`. Errors are raised, the handle is closed anyway, the data
        stays in the cache (`Volume.failed`). Idempotent."""
    def abandon(self) -> None:
        """Close without handing anything over. What this file has not committed is discarded if no other writable handle is open; on a
        `commit_on_close` backend nothing becomes visible. Never waits. `with` does this when its body raises on such a backend, so that
        a half-written object is never published; elsewhere it closes as usual. (A wrapper such as TextIOWrapper, BufferedWriter or ZipFile
        calls `close`, not `__exit__`: put this handle into the outer `with`.)"""
    def stats(self) -> FileStats: ...

class View:
    """Pinned cache memory: no copy. A context manager; the memory stays valid until the last memoryview or slice is released; `release`
    never raises. A range outside the file: ValueError. Writable views make their pages dirty again at release; a view cut off by
    truncate, invalidate or discard has `detached` True."""
    segments: tuple[memoryview, ...]       # ascending, together exactly the range; one segment where one folio holds it
    detached: bool
    def tobytes(self) -> bytes: ...
    def release(self) -> None: ...
    def __len__(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

# ------------------------------------------------------------------------------------------------ backend protocol

@dataclass(frozen=True, slots=True, kw_only=True)
class BackendLimits:
    max_read: Size = "1MiB"                # most bytes in one read_into / write_from call: whole units, else ValueError; when not
    max_write: Size = "1MiB"               # given, 1 MiB or one unit, whichever is more
    max_vectors: int = 512                 # most buffers in one call
    read_unit: Size = 1                    # reads start at, and cover, whole multiples of this
    write_unit: Size = 1                   # writes do too (the end of file aside); the cache reads what is missing. 8 MiB parts for
                                           # an object store, 512 for a disk
    boundary: Size = 0                     # no call crosses a multiple of this; 0: none
    direct_unit: Size = 1                  # alignment of direct I/O
    max_inflight: int = 8                  # calls at once, per volume
    read_ahead: Size = 0                   # window of sequential reads, where the volume was attached without options
    durable_writes: bool = False           # acknowledged means durable: commit is not needed
    commit_on_close: bool = False          # an object becomes visible or valid by commit (object stores); never committed behind
                                           # the application's back
    ordered_writes: bool = False           # one call at a time per file, ascending
    parallel_direct_writes: bool = False
    read_only: bool = False
    prompt: bool = False                   # calls return promptly and may be made on the thread of the caller
    trusted: bool = True                   # False: sync waits for it at most sync_timeout
    sync_timeout: float | None = None
    retry: RetryPolicy | None = None       # preferred policy; a network's stores: by time

@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStat:
    size: int
    version: str | None = None             # opaque; differs whenever content may differ (etag, generation, mtime_ns:size:ino)
    mtime: float | None = None
    key: Key | None = None                 # filled in by Backend.list
    kind: Literal["file", "dir", "symlink", "fifo", "socket", "char", "block"] = "file"
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    nlink: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    rdev: int | None = None                # of a char or block device
    allocated: int | None = None           # bytes that it takes in the store, fewer than `size` where it has holes; None: not known
    identity: Hashable | None = None       # what the store takes for one object, under all its names; None: it knows names only

class Backend(Protocol):
    """Where the bytes live. Calls come from threads of the volume, several at once, with no lock of the cache held.
    Raise OSError (errno decides whether it is retried) or BackendError (says so itself). Anything else raised counts as EIO.
    Required: open, stat. Subclassing gives the rest: remove, rename, list raise io.UnsupportedOperation, sync and close do nothing,
    canonical returns the key."""
    limits: BackendLimits
    @abstractmethod
    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        """FileNotFoundError unless create; FileExistsError if exclusive. `create` makes nothing visible before commit on a
        commit_on_close backend."""
    @abstractmethod
    def stat(self, key: Key) -> ObjectStat: ...                           # FileNotFoundError
    def remove(self, key: Key) -> None: ...
    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None: ...
    def list(self, prefix: str = "") -> Iterable[ObjectStat]: ...
    def canonical(self, key: Key) -> Key: ...                             # equal for every name of one object; ValueError refuses it
    def sync(self) -> None: ...                                           # make names (create, remove, rename) durable; called once by
                                                                          # Volume.sync, after the files' own commits
    def close(self) -> None: ...

class BackendFile(Protocol):
    """One object, shared by all handles of the cache on it. commit, truncate, punch_hole and rollback of one object never run at the same
    time as each other or as write_from (parallel direct writes may overlap commit); read_into may run beside anything."""
    @abstractmethod
    def stat(self) -> ObjectStat: ...
    @abstractmethod
    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers in order; returns bytes read, 0 only at or past the end (a short answer is asked again for the rest). Reflects
        every acknowledged truncate, hole and extension; may return older content only for bytes not yet committed."""
    @abstractmethod
    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Read-only buffers, valid and unchanging during the call only. May be short (> 0): the rest is sent again. Past the end it extends, the gap
        reads as zeros. Repeating it must be harmless."""
    @abstractmethod
    def truncate(self, size: int) -> None: ...
    @abstractmethod
    def commit(self) -> str | None:
        """Everything acknowledged becomes durable and visible; returns the new version. Raising leaves it repeatable: a failed commit may
        forget acknowledged bytes (the cache sends them again), never acknowledged truncates, holes and names."""
    # optional: def close(self) -> None
    # optional: def punch_hole(self, offset: int, length: int) -> None
    # optional: limits: BackendLimits          overrides the backend's for this object
    # with commit_on_close: def rollback(self) -> None     forget what was acknowledged and not committed (abort a multipart upload)

class NamespaceBackend(Backend, Protocol):
    """A backend with directories, links and attributes (a FUSE server needs them). Each method may raise io.UnsupportedOperation."""
    def mkdir(self, key: Key, mode: int = 0o777) -> None: ...
    def rmdir(self, key: Key) -> None: ...
    def readdir(self, key: Key) -> Iterable[ObjectStat]: ...              # key: the entry's full key
    def setattr(self, key: Key, *, mode: int | None = None, uid: int | None = None, gid: int | None = None,
                atime_ns: int | None = None, mtime_ns: int | None = None) -> ObjectStat: ...
    def symlink(self, target: str, key: Key) -> None: ...
    def readlink(self, key: Key) -> str: ...
    def link(self, src: Key, dst: Key) -> None: ...
    def getxattr(self, key: Key, name: str) -> bytes: ...
    def setxattr(self, key: Key, name: str, value: bytes, flags: int = 0) -> None: ...
    def listxattr(self, key: Key) -> Iterable[str]: ...
    def removexattr(self, key: Key, name: str) -> None: ...
    def statfs(self) -> os.statvfs_result: ...
    # optional: def mknod(self, key: Key, mode: int, rdev: int = 0) -> None     a FIFO, a socket, a device

class AsyncBackend(Protocol):
    """The same as coroutines (`list` gives an async iterable, `canonical` is plain); runs on the cache's own loop."""
    limits: BackendLimits
    @abstractmethod
    async def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> AsyncBackendFile: ...
    @abstractmethod
    async def stat(self, key: Key) -> ObjectStat: ...
    async def remove(self, key: Key) -> None: ...
    async def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None: ...
    def list(self, prefix: str = "") -> AsyncIterable[ObjectStat]: ...
    def canonical(self, key: Key) -> Key: ...
    async def sync(self) -> None: ...
    async def close(self) -> None: ...

class AsyncBackendFile(Protocol):
    @abstractmethod
    async def stat(self) -> ObjectStat: ...
    @abstractmethod
    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int: ...
    @abstractmethod
    async def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int: ...
    @abstractmethod
    async def truncate(self, size: int) -> None: ...
    @abstractmethod
    async def commit(self) -> str | None: ...

class BackendError(OSError):
    """Lets a backend say whether trying again helps. `max_write`: this object takes at most so many bytes a call; sent again at once.
    `kept`, from commit: what was acknowledged is still there, repeating the commit is enough."""
    def __init__(self, errno: int, message: str, *, retry: bool, retry_after: float | None = None, max_write: int | None = None,
                 kept: bool = False) -> None: ...

def backend_from_url(url: str, **options: Any) -> Backend | AsyncBackend: ...   # ValueError names the known schemes

# ------------------------------------------------------------------------------------------------ errors (all OSError, errno set, filename = key)

@dataclass(frozen=True, slots=True)
class LostRange:   key: Key; offset: int; length: int; errno: int; volume: str
@dataclass(frozen=True, slots=True)
class FailedRange: key: Key; offset: int; length: int; errno: int; attempts: int; next_retry: float | None; volume: str; message: str; since: float

class PageCacheError(OSError):                                            # above all of these
    errno: int
class WritebackError(PageCacheError): ranges: _list[FailedRange]  # data is still in the cache, still dirty
class CommitError(WritebackError): ...                                    # acknowledged data could not be made durable; dirty again
class UnsavedDataError(WritebackError): ...                               # close/detach: still in the cache, nothing is lost yet
class ConflictError(PageCacheError): base: str | None; remote: str | None; ranges: _list[tuple[int, int]]   # ESTALE
class DataLossError(PageCacheError): ranges: _list[LostRange]     # EIO: data is gone (discard, abort); once per handle
class ShutdownError(PageCacheError): ...                                  # ESHUTDOWN: volume aborted or detached, cache closed
class DeadlockError(PageCacheError): ...                                  # EDEADLK: this call could only wait for itself
class ForkedError(PageCacheError): ...                                    # EOWNERDEAD: cache created before fork(), used in the child
class BackendProtocolError(PageCacheError): ...                           # EPROTO: a backend broke its contract (reads)

# ------------------------------------------------------------------------------------------------ state shown to people

@dataclass(frozen=True, slots=True, kw_only=True)
class FileStat(ObjectStat):
    dirty: int = 0                         # bytes dirty, in flight or unstable
    cached: int = 0                        # valid bytes in memory, dirty ones included

@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """dirty, writeback and unstable are disjoint except for bytes dirtied again in flight; failed is a part of them and of staged bytes.
    Seconds are sums over threads. More counters may follow; `to_dict` has them all."""
    capacity: int; used: int; clean: int; dirty: int; writeback: int; unstable: int; failed: int; pinned: int; folios: int
    hits: int; misses: int; evicted: int
    read_requests: int; read_bytes: int; write_requests: int; write_bytes: int; commits: int; failed_commits: int
    retries: int; short_writes: int; cow_copies: int; staged_copies: int; throttled_seconds: float; lock_waits: int
    disk_hits: int = 0; disk_bytes: int = 0; journal_bytes: int = 0; disk_errors: int = 0
    def to_dict(self) -> dict[str, int | float]: ...
class VolumeStats(CacheStats): ...         # the same, of one volume
class FileStats(CacheStats): ...           # the same, of one inode

# module pagecache.testing

class FaultPlan:
    """Scripted (a list of rules) or seeded (`FaultPlan.profile("nasty", seed=7)`)."""
    def __init__(self, rules: Sequence[Any] = ..., seed: int = 0) -> None: ...
    @classmethod
    def profile(cls, name: str, seed: int = 0) -> Self: ...

class FaultyBackend(Backend):
    limits: BackendLimits
    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile: ...
    def stat(self, key: Key) -> ObjectStat: ...
    def __init__(self, inner: Backend, plan: FaultPlan | str = "none", seed: int = 0) -> None: ...

class LatencyBackend(Backend):
    limits: BackendLimits
    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile: ...
    def stat(self, key: Key) -> ObjectStat: ...
    def __init__(
        self, inner: Backend, *, read: float = 0.0, write: float = 0.0, commit: float = 0.0, jitter: float = 0.0, seed: int = 0
    ) -> None: ...

class BackendConformance:
    """Subclass in a pytest module: `def make_backend(self, tmp_path)` gives a fresh backend, `make_key(self, i)` keys where str will not do."""
    def make_backend(self, tmp_path: Any) -> Backend: ...
    def make_key(self, i: int) -> Key: ...

# module pagecache.backends

class MemoryBackend(Backend):
    limits: BackendLimits
    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile: ...
    def stat(self, key: Key) -> ObjectStat: ...
    def __init__(self, limits: BackendLimits | None = None, **overrides: Any) -> None: ...

class DirectoryBackend(NamespaceBackend):
    limits: BackendLimits
    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile: ...
    def stat(self, key: Key) -> ObjectStat: ...
    def __init__(self, root: str | os.PathLike[str], limits: BackendLimits | None = None, **overrides: Any) -> None: ...

class S3Backend(Backend):
    limits: BackendLimits
    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile: ...
    def stat(self, key: Key) -> ObjectStat: ...
    def __init__(self, bucket: str, prefix: str = "", *, endpoint_url: str | None = None, connect_timeout: float = 5.0,
                 read_timeout: float = 20.0, **options: Any) -> None: ...    # seconds; also words of the URL

class FsspecBackend(Backend):
    limits: BackendLimits
    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile: ...
    def stat(self, key: Key) -> ObjectStat: ...
    def __init__(self, fs: Any, root: str = "", **options: Any) -> None: ...

class TransformBackend(Backend):
    limits: BackendLimits
    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile: ...
    def stat(self, key: Key) -> ObjectStat: ...
    def __init__(self, inner: Backend, transform: Any) -> None: ...

# module pagecache.metrics

class Collector(ABC):
    """The metrics of one cache, for `prometheus_client`'s registries; the same as `GET /metrics`."""
    def __init__(self, cache: PageCache) -> None: ...

# module pagecache.aio

def open(volume: Volume, key: Key, mode: str = "rb", **options: Any) -> AbstractAsyncContextManager[AsyncCachedFile]:
    """The options are those of `Volume.open`."""

class AsyncCachedFile:
    """The verbs of CachedFile as coroutines; a hit completes without suspending, nothing ever blocks the loop. Sync and async
    handles of the same file share everything."""
    key: Key
    name: str
    mode: str
    volume: Volume
    @property
    def size(self) -> int: ...
    async def read(self, size: int | None = -1, /) -> bytes: ...
    async def readinto(self, buffer: Buffer, /) -> int: ...
    async def write(self, data: Buffer, /) -> int: ...
    async def seek(self, offset: int, whence: int = 0, /) -> int: ...
    async def tell(self) -> int: ...
    async def prefetch(self, offset: int = 0, length: int | None = None, *, wait: bool = False) -> None: ...
    async def prefetch_ranges(self, ranges: Iterable[tuple[int, int]], *, wait: bool = False) -> None: ...
    async def advise(self, advice: Advice, offset: int = 0, length: int | None = None) -> None: ...
    async def view(self, offset: int, length: int, *, writable: bool = False) -> View: ...
    async def stats(self) -> FileStats: ...
    async def pread(self, size: int, offset: int, /) -> bytes: ...
    async def pread_into(self, buffer: Buffer, offset: int, /) -> int: ...
    async def pwrite(self, data: Buffer, offset: int, /) -> int: ...
    async def preadv(self, buffers: Sequence[Buffer], offset: int, /) -> int: ...
    async def pwritev(self, buffers: Sequence[Buffer], offset: int, /) -> int: ...
    async def append(self, data: Buffer) -> int: ...
    async def truncate(self, size: int | None = None) -> int: ...
    async def punch_hole(self, offset: int, length: int) -> None: ...
    async def zero_range(self, offset: int, length: int) -> None: ...
    async def flush(self) -> None: ...
    async def fsync(self, *, data_only: bool = False, timeout: float | None = None,
                    durability: Literal["backend", "disk"] | None = None) -> None: ...
    async def sync_range(self, offset: int, length: int) -> None: ...
    async def close(self) -> None: ...
    async def abandon(self) -> None: ...

# module pagecache.stress

class Plan:
    """Fields: the options of `pagecache stress`: seed, duration, threads, ..."""
    @classmethod
    def from_replay(cls, replay: dict[str, Any]) -> Self: ...
class Report:
    ok: bool
    story: str                             # a few lines for a person: what went wrong, or what was exercised
    replay: dict[str, Any]                 # feeds `Plan.from_replay` and `pagecache stress --replay`
    counters: dict[str, int]
    def to_dict(self) -> dict[str, Any]: ...
def run(plan: Plan, target: str | Callable[[], Backend] | None = None) -> Report:
    """The factory is called again after each crash."""
