"""Volume: one backend seen through the cache. Names, opens, sync, failed data.

Names are under one lock a volume, held for moments: an operation marks the keys it concerns as busy (all at once,
waiting for busy keys while holding none), lets go, calls the backend, publishes. So a slow open delays its own key
and nothing else (contract 2.20). The table maps canonical keys to inodes; the backend is always called with the key
that was given.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

from .backends.protocol import Backend, BackendFile, ObjectStat
from .config import VolumeOptions, parse_size
from .engine import barrier
from .engine.volume import EngineVolume, close_backend_file
from .errors import (
    BackendProtocolError,
    FailedRange,
    Key,
    LostRange,
    ShutdownError,
    UnsavedDataError,
)
from .file import CachedFile, extent
from .inode import Inode
from .native import END, FOREVER, TOKEN
from .stats import FileStat, FileStats, VolumeStats
from .ticket import SyncTicket

if TYPE_CHECKING:
    from .cache import PageCache

__all__ = ["Volume"]

MODES = {
    "r": os.O_RDONLY,
    "r+": os.O_RDWR,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "w+": os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "x+": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "a+": os.O_RDWR | os.O_CREAT | os.O_APPEND,
}
INVALIDATE_ROUNDS = 3
IDLE_INODES_MAX = 4096


def mode_flags(mode: str) -> int:
    """Flags of `os.open` for a mode of `open()`.

    Raises:
        ValueError: names the mode and the rule.
    """
    if not isinstance(mode, str):
        raise TypeError(f"mode must be a str, not {type(mode).__name__}")
    if "t" in mode:
        raise ValueError(f"mode {mode!r}: cached files are binary; wrap the handle in io.TextIOWrapper for text")
    plain = mode.replace("b", "", 1)
    plain = plain[0] + "+" if len(plain) == 2 and "+" in plain and plain[0] == plain[0].strip("+") else plain
    if plain not in MODES:
        raise ValueError(f"mode {mode!r} is not one of {', '.join(MODES)}, with or without 'b'")
    return MODES[plain]


def flags_mode(flags: int) -> str:
    """What `open()` would call these flags."""
    access = flags & os.O_ACCMODE
    if access == os.O_RDONLY:
        return "rb"
    if flags & os.O_APPEND:
        return "ab" if access == os.O_WRONLY else "ab+"
    if flags & os.O_EXCL:
        return "xb" if access == os.O_WRONLY else "xb+"
    return "wb" if access == os.O_WRONLY else "rb+"


def _stat(backend_file: BackendFile) -> ObjectStat:
    stat: Any = getattr(backend_file, "stat", None)
    return stat() if callable(stat) else cast(ObjectStat, None)


class Volume:
    """One backend seen through the cache; made by `PageCache.attach`."""

    name: str
    options: VolumeOptions

    def __init__(self, cache: PageCache, backend: Backend, name: str, options: VolumeOptions) -> None:
        self.cache = cache
        self.name = name
        self.options = options
        self.engine: EngineVolume = EngineVolume(cache, backend, name)
        self.detached = False
        self._names = threading.Condition(threading.Lock())
        self._busy: set[Key] = set()
        self._inodes: dict[Key, Inode] = {}
        self._orphans: set[Inode] = set()
        self._sync_supported = True
        self._names_changed = True

    @property
    def backend(self) -> Backend:
        """Where the bytes live."""
        return self.engine.backend

    def __repr__(self) -> str:
        return f"<pagecache.Volume {self.name!r} {'detached' if self.detached else type(self.backend).__name__}>"

    # -- alive

    def check_alive(self, key: Key | None = None) -> None:
        self.cache.check_forked()
        if self.detached:
            raise ShutdownError(f"the volume {self.name!r} is detached", key)
        self.engine.check_alive(key)

    # -- names

    def _canonical(self, key: Key) -> Key:
        try:
            hash(key)
        except TypeError:
            raise TypeError(f"key {key!r} is not hashable") from None
        return self.backend.canonical(key)

    @contextmanager
    def _holding(self, *keys: Key) -> Generator[None, None, None]:
        """Mark keys as busy, all at once; nobody waits while he holds one."""
        wanted = set(keys)
        with self._names:
            while self._busy & wanted:
                self.check_alive()
                self._names.wait(0.1)
            self._busy |= wanted
        try:
            yield
        finally:
            with self._names:
                self._busy -= wanted
                self._names.notify_all()

    def _inode(self, key: Key) -> Inode | None:
        with self._names:
            return self._inodes.get(key)

    def open(
        self,
        key: Key,
        mode: str = "rb",
        *,
        flags: int | None = None,
        direct: bool = False,
        write_through: bool | None = None,
        keep_cache: bool = False,
        read_ahead: int | str | None = None,
        parallel_direct_writes: bool = False,
    ) -> CachedFile:
        """Open an object.

        Args:
            key: what the backend calls it.
            mode: as `open()` without buffering: r, r+, w, w+, x, x+, a, a+; 'b' may be left out.
            flags: `os.O_RDWR | os.O_CREAT ...` instead of a mode.
            direct: not in this version.
            write_through: None: as the volume's options say.
            keep_cache: do not compare the backend's version (close-to-open) but use what is cached.
            read_ahead: largest window in bytes; None: as the volume's options say.
            parallel_direct_writes: not in this version.

        Raises:
            FileNotFoundError, FileExistsError, IsADirectoryError: as `open()`.
            PermissionError: for writing on a read-only volume.
            ConflictError: the stored object changed under local data.
            ValueError: mode, key or size; names value and rule.
        """
        self.check_alive(key)
        if direct or parallel_direct_writes:
            raise io.UnsupportedOperation("direct I/O")
        bits = mode_flags(mode) if flags is None else int(flags)
        window = int(self.options.read_ahead) if read_ahead is None else parse_size(read_ahead, "read_ahead")
        self._check_may_write(key, bits)
        canonical = self._canonical(key)
        with self._holding(canonical):
            inode = self._open_inode(canonical, key, bits, keep_cache)
            try:
                through = self.options.write_through if write_through is None else bool(write_through)
                name = mode if flags is None else flags_mode(bits)
                handle = CachedFile(inode, key, name, bits, through=through, read_ahead=window)
            except BaseException:
                self._release(inode, writable=False, count=False)
                raise
            with self._names:
                inode.handles += 1
                inode.open_handles.add(handle)
                inode.writers += bits & os.O_ACCMODE != os.O_RDONLY
                self.engine.idle.pop(inode.engine, None)
        try:
            if bits & os.O_TRUNC and inode.native.size:
                inode.native.run(7, "truncate", 0)
            if bits & os.O_APPEND:
                handle.seek(0, os.SEEK_END)
        except BaseException:
            handle.abandon() if inode.engine.limits().commit_on_close else handle.close()
            raise
        return handle

    def _check_may_write(self, key: Key, bits: int) -> None:
        writes = bits & os.O_ACCMODE != os.O_RDONLY or bits & (os.O_CREAT | os.O_TRUNC)
        if writes and (self.options.read_only or self.backend.limits.read_only):
            raise PermissionError(errno.EACCES, f"the volume {self.name!r} is read-only", key)

    def _open_inode(self, canonical: Key, key: Key, bits: int, keep_cache: bool) -> Inode:
        """The inode, its backend file open; the canonical key is busy."""
        inode = self._inode(canonical)
        if inode is not None and inode.engine.backend_file is not None:
            if bits & os.O_CREAT and bits & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key)
            if not keep_cache:
                quiet = inode.engine.quiet()
                stat = self._checked(self.engine.call(inode.engine.opened().stat, "open", key), key)
                if quiet is not None and inode.engine.quiet() == quiet:
                    self._compare(inode, stat)
                elif inode.engine.conflict is not None:
                    raise inode.engine.conflict_error()
            elif inode.engine.conflict is not None:
                raise inode.engine.conflict_error()
            return inode
        backend_file, stat, created = self._open_backend(key, bits)
        if inode is None:
            inode = Inode(self, canonical, backend_file, stat.size, stat.version)
            if created:
                inode.native.set_uncommitted()
            with self._names:
                self._inodes[canonical] = inode
            self.engine.add(inode.engine)
            self._names_changed |= created
            return inode
        inode.engine.use(backend_file)
        if created or not keep_cache or stat.size != inode.native.remote_size:
            self._compare(inode, stat)
        return inode

    def _open_backend(self, key: Key, bits: int) -> tuple[BackendFile, ObjectStat, bool]:
        """Open, create where wanted; says whether this created the object."""
        create, exclusive = bool(bits & os.O_CREAT), bool(bits & os.O_CREAT and bits & os.O_EXCL)
        backend = self.backend

        def attempt() -> tuple[BackendFile, ObjectStat, bool]:
            created = False
            try:
                if exclusive:
                    raise FileNotFoundError
                backend_file = backend.open(key)
            except FileNotFoundError:
                if not create:
                    raise
                created = True
                try:
                    backend_file = backend.open(key, create=True, exclusive=True)
                except FileExistsError:
                    if exclusive:
                        raise
                    created = False
                    backend_file = backend.open(key, create=True)
            return backend_file, _stat(backend_file), created

        def checked() -> tuple[BackendFile, ObjectStat, bool]:
            backend_file, stat, created = attempt()
            for method in ("stat", "read_into", "write_from", "truncate", "commit"):
                if not callable(getattr(backend_file, method, None)):
                    raise BackendProtocolError(f"open() answered {backend_file!r}, which has no {method}", key)
            return backend_file, self._checked(stat, key), created

        def undo(result: tuple[BackendFile, ObjectStat, bool]) -> None:
            close_backend_file(result[0])

        for last in (False, True):
            try:
                return self.engine.call(checked, "open", key, undo)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or last:
                    raise
                self._free_descriptors()
        raise AssertionError("the second attempt returns or raises")

    @staticmethod
    def _checked(stat: ObjectStat, key: Key) -> ObjectStat:
        size = getattr(stat, "size", None)
        if not isinstance(size, int) or not 0 <= size <= FOREVER:
            raise BackendProtocolError(f"stat() answered {stat!r}, which has no size of 0 or more", key)
        return stat

    def _free_descriptors(self) -> None:
        """Out of file descriptors: save and close every idle file of the backend."""
        with self._names:
            idle = [i for i in self._inodes.values() if i.handles == 0 and i.engine.backend_file is not None]
        for inode in idle:
            if inode.native.has_local() and not inode.engine.limits().commit_on_close:
                barrier.fsync(inode.engine)
        self.engine.close_idle(0)

    def _compare(self, inode: Inode, stat: ObjectStat) -> None:
        """Close-to-open: what changed behind our back is not served from the cache (contract 2.19, 2.20)."""
        engine = inode.engine
        if engine.conflict is not None:
            raise engine.conflict_error()
        if engine.version_stale:
            return  # our own writes changed it; what they left is read at the end of the flush
        if stat.version is not None and stat.version == engine.version and stat.size == inode.native.remote_size:
            return
        if stat.version is None and stat.size == inode.native.remote_size:
            return
        if inode.native.has_local():
            self._remote_change(inode, stat)
            return
        inode.native.invalidate_remote(0, END)
        inode.native.set_sizes(stat.size, stat.size)
        inode.native.invalidate_remote(0, END)
        engine.version = stat.version
        self.engine.emit("invalidated", inode.key)

    def _remote_change(self, inode: Inode, stat: ObjectStat) -> None:
        """The stored object changed under local data."""
        engine = inode.engine
        inode.native.invalidate_remote(0, END)
        policy = self.options.on_conflict
        if policy == "fail":
            engine.conflict = (engine.version, stat.version)
            error = engine.conflict_error()
            self.engine.emit("conflict", inode.key, tuple(error.ranges), error)
            raise error
        if policy == "take_remote":
            lost = self._drop_local(inode, 0, END)
            inode.record_loss(lost, seen=False)
            inode.native.set_sizes(stat.size, stat.size)
        else:
            inode.native.set_sizes(max(stat.size, inode.native.size), stat.size)
        engine.version = stat.version

    # -- handles

    def _release(self, inode: Inode, *, writable: bool, count: bool = True) -> None:
        """A handle is gone: an inode that nobody has open keeps its pages, and its backend file for a while."""
        with self._names:
            if count:
                inode.handles -= 1
                inode.writers -= writable
            if inode.handles:
                return
            if inode in self._orphans:
                doomed = True
            else:
                doomed = False
                self.engine.idle[inode.engine] = None
        if doomed:
            self.engine.cache.flusher.defer(lambda: self._bury(inode))
        else:
            self.engine.close_idle()
            self._prune()

    def close_handle(self, inode: Inode, *, writable: bool) -> None:
        """The last writable handle flushes, and commits where the volume says so; the handle is gone anyway."""
        try:
            if writable and inode.writers == 1 and inode not in self._orphans and not self.detached:
                limits = inode.engine.limits()
                commit = limits.commit_on_close if self.options.sync_on_close is None else self.options.sync_on_close
                if inode.engine.conflict is not None:
                    raise inode.engine.conflict_error()
                if commit and inode.native.has_local():
                    barrier.fsync(inode.engine)
                elif not limits.commit_on_close and inode.native.has_local():
                    barrier.flush(inode.engine, self.engine.native.take_epoch())
                    inode.engine.refresh_version()
        finally:
            self._release(inode, writable=writable)

    def abandon_handle(self, inode: Inode, *, writable: bool) -> None:
        last = writable and inode.writers == 1 and inode.native.has_local()
        inode.engine.abandoned |= last  # from here on nothing of it is handed over by anybody
        self._release(inode, writable=writable)
        if last:
            with self._names:
                if self._inodes.get(inode.key) is inode:
                    del self._inodes[inode.key]
                self._orphans.add(inode)
                self.engine.idle.pop(inode.engine, None)
            if inode.handles == 0:
                self.engine.cache.flusher.defer(lambda: self._bury(inode))

    def close_collected(self, inode: Inode, *, writable: bool) -> None:
        """The flusher's part of a handle that was collected unclosed: pages stay dirty, nothing is published."""
        self._release(inode, writable=writable)

    def _bury(self, inode: Inode) -> None:
        """An inode without name and handles: what is local is dropped, silently; tried again while somebody is at
        work.
        """
        if inode.native.has_local() and not self.engine.aborted:
            if not inode.native.pass_idle() or inode.native.commit_running():
                self.engine.cache.flusher.defer(lambda: self._bury(inode))
                return
            rollback: Any = getattr(inode.engine.backend_file, "rollback", None)
            if inode.engine.abandoned and rollback is not None:
                self.engine.call(rollback, "abandon", inode.key)
            self._drop_local(inode, 0, END)
        self._destroy(inode)

    def _destroy(self, inode: Inode) -> bool:
        """Free an inode without handles, if nothing of it is local."""
        inode.native.drop_clean()
        if not inode.native.destroy():
            return False
        self.engine.forget(inode.engine)
        backend_file = inode.engine.backend_file
        inode.engine.use(None)
        close_backend_file(backend_file)
        with self._names:
            self._orphans.discard(inode)
            if self._inodes.get(inode.key) is inode:
                del self._inodes[inode.key]
        return True

    def _prune(self) -> None:
        """Forget inodes that nobody uses and that have little left to say, when there are many."""
        with self._names:
            if len(self._inodes) <= IDLE_INODES_MAX:
                return
            idle = [i for i in self._inodes.values() if i.idle()][: len(self._inodes) - IDLE_INODES_MAX]
        for inode in idle:
            if not inode.native.has_local() and inode.native.destroy():
                self.engine.forget(inode.engine)
                close_backend_file(inode.engine.backend_file)
                with self._names:
                    if self._inodes.get(inode.key) is inode:
                        del self._inodes[inode.key]

    # -- the namespace

    def stat(self, key: Key) -> FileStat:
        """Size and times as a reader of the cache sees them (local extensions included)."""
        self.check_alive(key)
        inode = self._inode(self._canonical(key))
        if inode is not None and inode.engine.backend_file is not None:
            stat = self.engine.call(inode.engine.backend_file.stat, "stat", key)
        else:
            stat = self.engine.call(lambda: self.backend.stat(key), "stat", key)
        return self._file_stat(self._checked(stat, key), inode)

    def _file_stat(self, stat: ObjectStat, inode: Inode | None) -> FileStat:
        fields = {name: getattr(stat, name) for name in ObjectStat.__slots__}
        if inode is None:
            return FileStat(**fields)
        usage = inode.native.usage()
        if usage["local"] or usage["size"] > usage["remote_size"]:
            fields["size"] = usage["size"]
        return FileStat(**fields, dirty=usage["local"], cached=usage["cached"])

    def exists(self, key: Key) -> bool:
        """Whether `open(key)` would find an object."""
        try:
            self.stat(key)
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[FileStat]:
        """The stored objects whose key starts with `prefix`."""
        self.check_alive()
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {type(prefix).__name__}")
        for stat in self.engine.call(lambda: [*self.backend.list(prefix)], "list"):
            inode = None
            if stat.key is not None and stat.kind == "file":
                inode = self._inode(self._canonical(stat.key))
            yield self._file_stat(stat, inode)

    def remove(self, key: Key) -> None:
        """Take the name away. Open handles keep working; what was not written back stays readable through them and is
        dropped when the last of them closes.
        """
        self.check_alive(key)
        self._check_may_write(key, os.O_RDWR)
        canonical = self._canonical(key)
        with self._holding(canonical):
            links = self._links(canonical)
            self.engine.call(lambda: self.backend.remove(key), "remove", key)
            self._names_changed = True
            if links <= 1:
                self._unname(canonical)

    def _links(self, canonical: Key) -> int:
        """Names of a cached object: with others left it stays the same inode."""
        inode = self._inode(canonical)
        if inode is None or inode.engine.backend_file is None:
            return 1
        return self.engine.call(inode.engine.backend_file.stat, "stat", canonical).nlink or 1

    def _unname(self, canonical: Key) -> None:
        """The object has no name any more: open handles keep it, else it goes."""
        with self._names:
            inode = self._inodes.pop(canonical, None)
            if inode is None:
                return
            self._orphans.add(inode)
            inode.engine.removed = True
            self.engine.idle.pop(inode.engine, None)
            unused = inode.handles == 0
        if unused:
            self._bury(inode)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        """Give an object another name; an open destination behaves as removed."""
        self.check_alive(src)
        self._check_may_write(src, os.O_RDWR)
        old, new = self._canonical(src), self._canonical(dst)
        with self._holding(old, new):
            self.engine.call(lambda: self.backend.rename(src, dst, replace=replace), "rename", src)
            self._names_changed = True
            if old == new:
                return
            with self._names:
                inode = self._inodes.pop(old, None)
            self._unname(new)
            if inode is not None:
                inode.key = inode.engine.key = self._canonical(dst)
                with self._names:
                    self._inodes[inode.key] = inode

    def truncate(self, key: Key, size: int) -> None:
        """`CachedFile.truncate` by key."""
        with self.open(key, "r+") as handle:
            handle.truncate(size)

    # -- sync

    def sync(self, timeout: float | None = None) -> None:
        """syncfs: return once every write made before the call is committed; later writes are not waited for.

        Raises:
            WritebackError: with the errors of all files; their data is still in the cache.
            TimeoutError: I/O goes on.
        """
        self.begin_sync(timeout=timeout).wait(timeout)

    def begin_sync(self, *, timeout: float | None = None) -> SyncTicket:
        """The same without waiting: a ticket for "everything written so far"."""
        self.check_alive()
        self.engine.check_reentry("sync")
        ticket = SyncTicket(self)
        self.engine.add_ticket(ticket)
        return ticket

    def sync_names(self) -> None:
        """`Backend.sync`, once, where anything about names may have changed; a backend that cannot is remembered."""
        if not self._sync_supported or not self._names_changed:
            return
        self._names_changed = False
        try:
            self.engine.call(self.backend.sync, "sync")
        except io.UnsupportedOperation:
            self._sync_supported = False
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
                self._sync_supported = False
                return
            self._names_changed = True
            raise

    # -- invalidation, failed data

    def _inodes_of(self, key: Key | None) -> builtins.list[Inode]:
        if key is None:
            with self._names:
                return list(self._inodes.values())
        inode = self._inode(self._canonical(key))
        return [] if inode is None else [inode]

    def invalidate(self, key: Key | None = None, offset: int = 0, length: int | None = None) -> None:
        """Write back, commit where needed, then drop cached data.

        Raises:
            WritebackError: nothing is lost. BlockingIOError: dirtied again and again.
        """
        self.check_alive(key)
        for inode in self._inodes_of(key):
            start, end = extent(offset, length, inode.native.size)
            whole = length is None
            for _ in range(INVALIDATE_ROUNDS):
                if inode.native.has_local():
                    if inode.engine.limits().commit_on_close and inode.writers:
                        raise BlockingIOError(errno.EAGAIN, "invalidate: the object is open for writing", inode.key)
                    barrier.fsync(inode.engine)
                if inode.native.invalidate_range(start, END if whole else end):
                    break
            else:
                raise BlockingIOError(errno.EAGAIN, "invalidate: written again and again", inode.key)

    def drop_clean(self, key: Key | None = None, offset: int = 0, length: int | None = None) -> int:
        """Drop what can be dropped at once; returns bytes freed. Never blocks, never fails."""
        self.check_alive(key)
        freed = 0
        for inode in self._inodes_of(key):
            start, end = extent(offset, length, inode.native.size)
            freed += inode.native.drop_clean(start, END if length is None else end)
        return freed

    def invalidate_remote(
        self, key: Key, offset: int = 0, length: int | None = None, *, version: str | None = None
    ) -> None:
        """The stored object changed: nothing but local bytes of the range satisfies a read from here on. Callable from
        anywhere, also from inside a backend call; never blocks.
        """
        self.cache.check_forked()
        for inode in self._inodes_of(key):
            start, end = extent(offset, length, inode.native.size)
            inode.native.invalidate_remote(start, END if length is None else end)
            if version is not None:
                inode.engine.version = version
            self.engine.emit("invalidated", inode.key, ((start, end - start),))

    def _drop_local(self, inode: Inode, start: int, end: int) -> builtins.list[LostRange]:
        lost: builtins.list[LostRange] = []
        inode.native.run(TOKEN, "drop_local", (start, end, lost))
        return lost

    def discard(self, key: Key, offset: int = 0, length: int | None = None) -> builtins.list[LostRange]:
        """Give up dirty, failed and unstable data on purpose; returns what was lost. Each handle open at this time
        raises DataLossError once.
        """
        self.check_alive(key)
        lost: builtins.list[LostRange] = []
        for inode in self._inodes_of(key):
            start, end = extent(offset, length, inode.native.size)
            dropped = self._drop_local(inode, start, END if length is None else end)
            if dropped and inode.native.size < max(entry.offset + entry.length for entry in dropped):
                self._cut_backend(inode)
            with self._names:
                inode.record_loss(dropped, seen=True)
            lost += dropped
        return lost

    def _cut_backend(self, inode: Inode) -> None:
        """A failed hand-over may have been stored beyond what counts now."""
        if inode.engine.backend_file is not None:
            inode.native.run(7, "truncate", inode.native.size)

    def failed(self) -> builtins.list[FailedRange]:
        """What could not be written back and waits for its cause to be mended."""
        self.cache.check_forked()
        return [r for file in self.engine.files() for r in file.failed_ranges(everything=self.engine.aborted)]

    def retry_failed(self, key: Key | None = None) -> None:
        """Try failed data again now; does not wait for the outcome."""
        self.check_alive(key)
        for inode in self._inodes_of(key):
            inode.engine.resume()

    def dirty_ranges(self, key: Key) -> builtins.list[tuple[int, int]]:
        """(offset, length) of what is dirty, in flight or unstable."""
        self.cache.check_forked()
        return [r for inode in self._inodes_of(key) for r in inode.native.local_ranges()]

    def resolve(self, key: Key, how: Literal["force", "rebase", "discard"]) -> builtins.list[LostRange]:
        """Settle a ConflictError: write our whole version, lay our local bytes over the new one, or drop ours."""
        self.check_alive(key)
        if how not in ("force", "rebase", "discard"):
            raise ValueError(f"how {how!r} is not one of 'force', 'rebase', 'discard'")
        lost: builtins.list[LostRange] = []
        for inode in self._inodes_of(key):
            if inode.engine.conflict is None:
                continue
            inode.engine.version = inode.engine.conflict[1]
            inode.engine.conflict = None
            if how == "discard":
                lost += self.discard(key)
            stat = self.engine.call(inode.engine.opened().stat, "resolve", key)
            if how == "force":
                inode.native.set_sizes(inode.native.size, stat.size)
                inode.native.run(7, "truncate", inode.native.size)
            else:
                inode.native.set_sizes(max(stat.size, inode.native.size if how == "rebase" else 0), stat.size)
                inode.native.invalidate_remote(0, END)
            inode.engine.resume()
        return lost

    # -- abort, reconnect, detach

    def abort(self, reason: BaseException | None = None) -> None:
        """The backend is gone: every wait ends with ShutdownError, data stays in memory as failed until `reconnect`."""
        self.cache.check_forked()
        self.engine.abort(reason)

    def reconnect(self, backend: Backend, *, fenced: bool = False) -> None:
        """Go on with a new backend: what is not known to be committed is dirty again and is sent to it.

        Args:
            backend: opens the same objects as the old one.
            fenced: calls still running on the old backend can no longer change the store.

        Raises:
            BlockingIOError: such calls run, and it is not fenced.
        """
        self.cache.check_forked()
        if not self.engine.aborted:
            self.engine.abort(None)
        if not fenced and self.engine.native.inflight():
            raise BlockingIOError(
                errno.EAGAIN, "reconnect: calls of the old backend still run; wait for them, or fence them"
            )
        self.engine.resume(backend)
        with self._names:
            inodes = [*self._inodes.values(), *self._orphans]
        for inode in inodes:
            self._reopen(inode)

    def _reopen(self, inode: Inode) -> None:
        """Open the object in the new backend; its creation and size are owed where they are not known to be
        committed.
        """
        local = inode.native.has_local()
        if not local and not inode.handles:
            inode.engine.use(None)
            return
        backend_file = self.engine.call(lambda: self.backend.open(inode.key, create=local), "reconnect", inode.key)
        remote = inode.native.remote_size
        inode.engine.use(backend_file)
        inode.native.run(TOKEN, "forget_acknowledged", None)
        inode.native.retry(failed_too=True)
        stat = self.engine.call(backend_file.stat, "reconnect", inode.key)
        if stat.size != remote and local:
            self.engine.call(lambda: backend_file.truncate(remote), "reconnect", inode.key)
            inode.native.set_uncommitted()
        inode.engine.version = None
        inode.engine.version_stale = True

    def detach(
        self, *, timeout: float | None = None, on_failed: Literal["raise", "discard"] = "raise"
    ) -> builtins.list[LostRange]:
        """Write back, commit and let go of the backend.

        Raises:
            UnsavedDataError: lists what could not be saved; the volume stays attached, nothing is lost.
        """
        self.cache.check_forked()
        if on_failed not in ("raise", "discard"):
            raise ValueError(f"on_failed {on_failed!r} is not one of 'raise', 'discard'")
        if self.detached:
            return []
        lost: builtins.list[LostRange] = []
        try:
            if not self.engine.aborted:
                self.sync(timeout)
            unsaved = self._unsaved()
        except OSError as error:
            unsaved = self._unsaved() or [*getattr(error, "ranges", [])]
            if on_failed == "raise":
                raise self._unsaved_error(unsaved, error) from error
            if isinstance(error, TimeoutError):
                self.engine.abort(error)  # what hangs would keep the token for ever
        if unsaved and on_failed == "raise":
            raise self._unsaved_error(unsaved, None)
        lost += self._give_up()
        self._finish(1.0 if timeout is None else timeout)
        return lost

    def _unsaved(self) -> builtins.list[FailedRange]:
        return [r for file in self.engine.files() if not file.removed for r in file.failed_ranges(everything=True)]

    def _unsaved_error(self, unsaved: builtins.list[FailedRange], cause: BaseException | None) -> UnsavedDataError:
        total = sum(r.length for r in unsaved)
        what = f"{total} bytes in {len({r.key for r in unsaved})} files are not saved"
        return UnsavedDataError(
            f"{self.name}: {what}{f': {cause}' if cause else ''}",
            unsaved[0].key if unsaved else None,
            ranges=unsaved,
            exceptions=[cause] if cause else [],
        )

    def _give_up(self) -> builtins.list[LostRange]:
        lost: builtins.list[LostRange] = []
        with self._names:
            inodes = [*self._inodes.values(), *self._orphans]
        for inode in inodes:
            if not inode.native.has_local():
                continue
            if self.engine.aborted:
                ranges = inode.native.local_ranges()
                entries = [LostRange(inode.key, pos, n, errno.EIO, self.name) for pos, n in ranges]
            else:
                entries = self._drop_local(inode, 0, END)
            with self._names:
                inode.record_loss(entries, seen=False)
            if inode not in self._orphans:
                lost += entries
        return lost

    def _finish(self, timeout: float) -> None:
        """Threads end, files close, handles lead nowhere. What a hung call still uses is left alone until the process
        ends.
        """
        self.detached = True
        with self._names:
            inodes = [*self._inodes.values(), *self._orphans]
            self._inodes.clear()
        for inode in inodes:
            for handle in inode.open_handles:
                handle._shut()
        stopped = self.engine.stop(timeout)
        self.cache.forget(self)
        for inode in inodes:
            if stopped:
                inode.native.drop_clean()
            close_backend_file(inode.engine.backend_file)
        if stopped:
            self.backend.close()

    # -- numbers

    def stats(self) -> VolumeStats:
        """Counters of this volume."""
        self.cache.check_forked()
        with self._names:
            usage = self.engine.native.usage()
        return VolumeStats(**self.cache.counters(usage))

    def file_stats(self, inode: Inode) -> FileStats:
        return FileStats(**self.cache.counters(inode.native.usage()))
