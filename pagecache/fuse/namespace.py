"""Names and attributes for the kernel, over a backend's directories, or over keys with slashes in them.

`Namespace` is the server's interface, of a store without links, special files and attributes. `Directories` passes
calls on to a backend that has directories. `Prefixes` makes directories of the prefixes of keys, for plain object
stores:

    objects  "a/1" "a/b/2" "c"          ->    /  a/  a/1  a/b/  a/b/2  c

There a directory exists because something is in it, or because it was made here, or emptied here, and not removed: the
store has no record of it. Unsupported operations raise io.UnsupportedOperation: EOPNOTSUPP for the program.

Bytes and sizes come from the volume. Backend calls run in the calling thread, which is one of the server's: a mount
makes many small ones, and another thread for each would take most of their time. The server enforces deadlines.
"""

from __future__ import annotations

import dataclasses
import errno
import inspect
import io
import os
import stat
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from ..backends.protocol import ObjectStat
from ..engine.attempts import Attempts
from ..errors import os_error
from ..objects import Kind
from ..volume.inode import Inode
from ..volume.volume import Volume
from .remembered import PAGE, Answer, Remembered

T = TypeVar("T")
NOW_NS = 2_000_000_000
"""Largest distance of a requested time from now that still means "now": the store's own time is kept then."""

XATTR_QUERIES: dict[str, Callable[[Any], Any]] = {"getxattr": bytes, "listxattr": list}
"""Calls about extended attributes that change nothing, and the types of their results."""


def unsupported(what: str, key: str) -> OSError:
    return io.UnsupportedOperation(errno.EOPNOTSUPP, f"this store cannot {what}", key)


class Namespace(ABC):
    """Names below a root, whose key is "". Keys are paths without a slash at either end.

    Attributes:
        has_xattrs: extended attributes are kept.
        keeps_modes: modes and owners are kept.
    """

    has_xattrs = False
    keeps_modes = False

    def __init__(self, volume: Volume) -> None:
        self.volume = volume

    @property
    def backend(self) -> Any:
        return self.volume.engine.backend

    def query(self, what: str, key: str, call: Callable[[], T]) -> T:
        """Make a call that changes nothing: it is repeated after a transient error."""
        self.volume._check_alive(key)
        self.volume.engine.check_reentry(what, key)
        return Attempts(self.volume.engine, what, key).here(call)

    @abstractmethod
    def status(self, key: str) -> ObjectStat:
        """Return the status of a key, links not followed; sizes of files as a reader of the cache finds them."""

    @abstractmethod
    def entries(self, key: str) -> Iterable[tuple[str, ObjectStat]]:
        """Return name and status of everything in a directory."""

    @abstractmethod
    def mkdir(self, key: str) -> None: ...

    @abstractmethod
    def rmdir(self, key: str) -> None: ...

    def created(self, key: str) -> None:  # noqa: B027
        """Record that an object was made under this key."""

    def remember(self, seconds: float) -> None:  # noqa: B027
        """Let one listing of a directory answer lookups of its names for so long."""

    def changed(self, *keys: str) -> None:  # noqa: B027
        """Record that objects may have changed through this mount."""

    @abstractmethod
    def remove(self, key: str, kind: Kind) -> None: ...

    @abstractmethod
    def rename(self, src: str, dst: str, kind: Kind | None, *, replace: bool) -> None: ...

    @abstractmethod
    def setattr(self, key: str, found: ObjectStat, changes: dict[str, int]) -> ObjectStat:
        """Change attributes of `found`; return the new status."""

    def link(self, src: str, dst: str, kind: Kind) -> None:
        """Give an object another name; for a link, the link itself."""
        raise unsupported("give an object two names", src)

    def symlink(self, target: str, key: str) -> None:
        raise unsupported("keep symbolic links", key)

    def readlink(self, key: str) -> str:
        raise os_error(errno.EINVAL, key)

    def mknod(self, key: str, mode: int, rdev: int) -> None:
        """Make a FIFO, a socket, a device node."""
        raise unsupported("keep special files", key)

    def xattr(self, call: str, key: str, kind: Kind, *arguments: Any) -> Any:
        """Make the backend's call of this name about extended attributes; for a link about those of the link itself."""
        raise unsupported("keep extended attributes", key)

    def statfs(self) -> os.statvfs_result | None:
        """Return the free space; None: the store does not report it."""
        return None

    def sync(self) -> None:
        """Make names durable."""
        with suppress(io.UnsupportedOperation):
            self.query("sync", "", self.backend.sync)


def namespace_of(volume: Volume) -> Namespace:
    """Return directories if the backend has them, prefixes otherwise."""
    backend: Any = volume.engine.backend
    return Directories(volume) if callable(getattr(backend, "readdir", None)) else Prefixes(volume)


class Directories(Namespace):
    """A backend with directories."""

    def __init__(self, volume: Volume) -> None:
        super().__init__(volume)
        self.has_xattrs = callable(getattr(self.backend, "getxattr", None))
        self._has_xattrs_of_links = self.has_xattrs and "follow" in inspect.signature(self.backend.getxattr).parameters
        self.keeps_modes = callable(getattr(self.backend, "setattr", None))

    def change(self, what: str, key: str, call: Callable[[], T], *, made: str | None = None) -> T:
        """Make a call that changes names: a sync covers it only if the sync begins after it. `made`: a name that leads
        somewhere by it.
        """
        self.volume._check_may_write(key, os.O_RDWR)
        self.volume._check_alive(key)
        self.volume.engine.check_reentry(what, key)

        def changed() -> T:
            with self.volume.engine.name_sync:
                return self.volume.engine.call_here(what, key, call)

        recovery = self.volume.recovery
        if made is None or recovery is None:
            return changed()
        name, tries = self.volume._canonical(made), self.volume._attempts(what, made, None)
        recovery.first(tries, name)
        holding = self.volume.busy.holding(name, what=f"a {what}", tries=tries)
        with holding.block, holding:  # no open finds what the name leads to before
            answer = changed()
            recovery.give_up(made)
            return answer

    def status(self, key: str, seen: Inode | None = None) -> ObjectStat:
        """Return the status, with the cache's size if the store may lack bytes. `seen`: the name led to it just now."""
        lstat = getattr(self.backend, "lstat", self.backend.stat)
        canonical = self.volume._canonical(key)
        if self.volume.recovery is not None:
            self.volume.recovery.first(self.volume._attempts("stat", key, None), canonical)
        known = self.volume._inode_at(canonical) if seen is None else seen
        quiet = None if known is None else known.versions.quiet()
        try:
            found: ObjectStat = self.query("stat", key, lambda: lstat(key))
        except FileNotFoundError:
            if self.volume._inode_at(canonical) is None:
                raise
            return self.volume.stat(key)  # it exists here, and is not stored yet
        inode = self.volume._inode_found(canonical, found) if found.kind == "file" else None
        if inode is None or inode.backend_file is None:
            return found
        same = inode is known or (found.version is not None and found.version == inode.versions.base)
        if seen is None and not same:
            return self.status(key, inode)  # it may have been written back after that look
        quiet = quiet if inode is known else inode.versions.quiet()
        stored = same and not inode.has_local() and quiet is not None and inode.versions.quiet() == quiet
        if stored:
            return found
        found = dataclasses.replace(found, size=inode.size)
        if inode.freed:  # it has no size any longer, and the store has all
            found = self.query("stat", key, lambda: lstat(key))
        return found

    def entries(self, key: str) -> Iterable[tuple[str, ObjectStat]]:
        listed: list[ObjectStat] = self.query("readdir", key, lambda: list(self.backend.readdir(key)))
        start = len(key) + 1 if key else 0
        return [(str(entry.key)[start:], self._listed(entry)) for entry in listed]

    def _listed(self, found: ObjectStat) -> ObjectStat:
        """Return the status with the size for a reader of the cache."""
        inode = self.volume._inode_found(found.key, found) if found.kind == "file" else None  # no valid key, maybe
        if inode is not None:
            local, here = inode.has_local(), inode.size
            freed = inode.freed  # last: then it has no size any longer
            if local and not freed:
                return dataclasses.replace(found, size=here)
            if freed or (inode.backend_file is not None and found.size != here):
                with suppress(FileNotFoundError):
                    return self.status(str(found.key))  # it may have been written back after the listing
        recovery = self.volume.recovery if found.kind == "file" and inode is None else None
        size = None if recovery is None else recovery.size(str(found.key), found.identity)
        return found if size is None else dataclasses.replace(found, size=size)

    def mkdir(self, key: str) -> None:
        self.change("mkdir", key, lambda: self.backend.mkdir(key, 0o700), made=key)

    def rmdir(self, key: str) -> None:
        self.change("rmdir", key, lambda: self.backend.rmdir(key))

    def remove(self, key: str, kind: Kind) -> None:
        if kind == "file":
            self.volume.remove(key)
        else:
            self.change("remove", key, lambda: self.backend.remove(key))

    def rename(self, src: str, dst: str, kind: Kind | None, *, replace: bool) -> None:
        self.volume.rename(src, dst, replace=replace)

    def link(self, src: str, dst: str, kind: Kind) -> None:
        how = {"follow": False} if kind == "symlink" else {}
        self.change("link", src, lambda: self.backend.link(src, dst, **how), made=dst)

    def symlink(self, target: str, key: str) -> None:
        self.change("symlink", key, lambda: self.backend.symlink(target, key), made=key)

    def mknod(self, key: str, mode: int, rdev: int) -> None:
        mknod = getattr(self.backend, "mknod", None)
        if mknod is None:
            raise unsupported("keep special files", key)
        self.change("mknod", key, lambda: mknod(key, mode, rdev), made=key)

    def readlink(self, key: str) -> str:
        return self.query("readlink", key, lambda: str(self.backend.readlink(key)))

    def setattr(self, key: str, found: ObjectStat, changes: dict[str, int]) -> ObjectStat:
        if found.kind == "file" and changes.keys() & {"atime_ns", "mtime_ns"}:
            return self.volume.setattr(key, **changes)
        how = {"follow": False} if found.kind == "symlink" else {}
        changed: ObjectStat = self.change("setattr", key, lambda: self.backend.setattr(key, **changes, **how))
        return changed

    def xattr(self, call: str, key: str, kind: Kind, *arguments: Any) -> Any:
        how = {"follow": False} if kind == "symlink" else {}
        if how and not self._has_xattrs_of_links:
            if call == "listxattr":
                return []
            raise unsupported("keep extended attributes of symbolic links", key)
        make = partial(getattr(self.backend, call), key, *arguments, **how)
        if call in XATTR_QUERIES:
            return self.query(call, key, lambda: XATTR_QUERIES[call](make()))
        return self.change(call, key, make)

    def statfs(self) -> os.statvfs_result | None:
        with suppress(io.UnsupportedOperation, AttributeError):
            found: os.statvfs_result = self.query("statfs", "", self.backend.statfs)
            return found
        return None


DIRECTORY = ObjectStat(size=0, kind="dir")


class Prefixes(Namespace):
    """A store of objects, whose keys have slashes in them."""

    def __init__(self, volume: Volume) -> None:
        super().__init__(volume)
        self._lock = threading.Lock()  # guards the set; held briefly
        self._made: set[str] = set()  # directories that exist even if empty
        self._remembered = Remembered()
        self._reconnects = volume.engine.reconnects
        self._lists_by_pages = inspect.isgeneratorfunction(getattr(self.backend, "list", None))

    def remember(self, seconds: float) -> None:
        self._remembered.lifetime_s = seconds

    def changed(self, *keys: str) -> None:
        self._remembered.mark(*keys)

    def status(self, key: str) -> ObjectStat:
        """Return the status of a key, by a listing that was fetched a short time ago, if there is one."""
        if not self._is_directory_here(key) and self._remembered.lifetime_s:
            self.volume._check_alive(key)
            if self._reconnects != self.volume.engine.reconnects:
                self._reconnects = self.volume.engine.reconnects
                self._remembered.clear()
            answer = self._remembered.find(key)
            if answer is None and self._remembered.is_directory(key) is None and self._lists_by_pages:
                self._list_page(key)
            if answer is None and self._remembered.is_directory(key):
                return DIRECTORY
            if answer is None and self._lists_by_pages and self._remembered.wants(key):
                self._list_page(key.rpartition("/")[0])
                answer = self._remembered.find(key)
            if answer is not None:
                return self._answered(key, answer)
        return self._stored(key)

    def _answered(self, key: str, answer: Answer) -> ObjectStat:
        """Return the status of a key that a listing answers for. What is cached of the object decides, if anything is:
        the listing may say that it is still what is stored.
        """
        found = answer.entries.get(key)
        canonical = self.volume._canonical(key)
        inode = self.volume._inode_at(canonical)
        if inode is not None:
            if found is not None and found.version is not None:
                inode.versions.confirm(canonical, found.version, answer.clock)
            return self._stored(key)
        if found is None:
            raise os_error(errno.ENOENT, key)
        return found

    def _list_page(self, directory: str) -> None:
        """Fetch one page of a listing, for later lookups. An error is none of theirs."""
        answer = self._begin_listing(directory)
        try:
            prefix = f"{directory}/" if directory else ""
            found = [(str(entry.key), entry) for entry in islice(self.backend.list(prefix), PAGE)]
        except BaseException as error:
            self._remembered.leave(directory, answer)
            if not isinstance(error, OSError):
                raise
        else:
            self._remembered.end(directory, answer, found, complete=len(found) < PAGE)

    def _begin_listing(self, directory: str) -> Answer:
        answer = self._remembered.begin(directory, self.volume.engine.clock.now())
        left = {} if self.volume.recovery is None else self.volume.recovery.below("")
        self._remembered.mark(*left, *(str(entry.key) for entry in self.volume.unsaved()))
        return answer

    def _is_directory_here(self, key: str) -> bool:
        with self._lock:
            return not key or key in self._made

    def _stored(self, key: str) -> ObjectStat:
        if self._is_directory_here(key):
            return DIRECTORY
        try:
            return self.volume.stat(key)
        except FileNotFoundError:
            if next(iter(self._below(key, mark=True)), None) is None:
                raise os_error(errno.ENOENT, key) from None
            return DIRECTORY

    def _below(self, key: str, *, all: bool = False, mark: bool = False) -> Iterable[tuple[str, ObjectStat]]:
        """Yield the remaining keys of objects in a directory, stored or not; one is enough unless `all`. `mark`: also
        an object "key/", with which other programs mark a directory; its remaining key is "".
        """
        prefix = f"{key}/" if key else ""
        # A list that is no generator returns all below.
        directory = None if self._lists_by_pages else getattr(self.backend, "entries", None)

        def listed() -> list[ObjectStat]:
            if directory is not None:
                return list(directory(key))
            found = self.backend.list(prefix)
            return list(found) if all else [entry for entry, _ in zip(found, range(2), strict=False)]

        left = {} if self.volume.recovery is None else self.volume.recovery.below(prefix)  # first: they become unsaved
        unsaved = [(str(entry.key), entry) for entry in self.volume.unsaved(hidden=True)]
        below: dict[str, ObjectStat] = {found: entry for found, entry in unsaved if found.startswith(prefix)}
        for name, state in left.items():
            if state.created and self.volume.backend.limits.commit_on_close:
                below.setdefault(name, ObjectStat(key=name, size=state.size))
        for entry in self.query("list", key, listed):
            name = str(entry.key)
            if name in left and left[name].identity in (None, self.volume.engine.lasting_identity(entry.identity)):
                entry = dataclasses.replace(entry, size=left[name].size)
            below.setdefault(name, entry)
        return [(found[len(prefix) :], entry) for found, entry in below.items() if mark or len(found) > len(prefix)]

    def entries(self, key: str) -> Iterable[tuple[str, ObjectStat]]:
        entries: dict[str, ObjectStat] = {}
        prefix = f"{key}/" if key else ""
        answer = self._begin_listing(key) if self._remembered.lifetime_s else None
        try:
            below = list(self._below(key, all=True))
        except BaseException:
            if answer is not None:
                self._remembered.leave(key, answer)
            raise
        if answer is not None:
            self._remembered.end(key, answer, ((prefix + rest, entry) for rest, entry in below), complete=True)
        for rest, entry in below:
            name, slash, _ = rest.partition("/")
            if name not in ("", ".", ".."):
                if not slash or name not in entries:
                    entries[name] = DIRECTORY if slash else entry
        with self._lock:
            made = [found[len(prefix) :] for found in self._made if found.startswith(prefix)]
        entries |= {name: DIRECTORY for name in made if name and "/" not in name and name not in entries}
        if not entries and key:
            self._stored(key)  # raises if it does not exist at all
        return entries.items()

    def mkdir(self, key: str) -> None:
        self.volume._check_may_write(key, os.O_RDWR)
        if self._kind(key) is not None:
            raise os_error(errno.EEXIST, key)
        self._keep(key)

    def _kind(self, key: str) -> Kind | None:
        """Return the kind of what has a name; None: nothing has."""
        try:
            return self._stored(key).kind
        except FileNotFoundError:
            return None

    def _keep(self, key: str) -> None:
        """Keep a directory, and those above it, even if empty."""
        with self._lock:
            while key:
                self._made.add(key)
                key = key.rpartition("/")[0]

    def rmdir(self, key: str) -> None:
        self.volume._check_may_write(key, os.O_RDWR)
        if self._stored(key).kind != "dir":
            raise os_error(errno.ENOTDIR, key)
        if next(iter(self.entries(key)), None) is not None:
            raise os_error(errno.ENOTEMPTY, key)
        if any(not rest for rest, _ in self._below(key, mark=True)):
            self.volume.remove(f"{key}/")
        with self._lock:
            self._made.discard(key)
        self.changed(key)

    def created(self, key: str) -> None:
        self._keep(key.rpartition("/")[0])
        self.changed(key)

    def remove(self, key: str, kind: Kind) -> None:
        self._keep(key.rpartition("/")[0])  # an existing directory survives its last object
        try:
            self.volume.remove(key)
        finally:
            self.changed(key)

    def rename(self, src: str, dst: str, kind: Kind | None, *, replace: bool) -> None:
        directory = (kind or self._stored(src).kind) == "dir"
        if directory and next(iter(self._below(src, mark=True)), None) is not None:
            # Like a rename across file systems: mv and others copy then. Object by object would not be atomic.
            raise OSError(errno.EXDEV, "a directory of this store cannot be renamed as a whole", src)
        there = self._kind(dst)
        if there is not None and not replace:
            raise os_error(errno.EEXIST, dst)
        if there == "dir" and not directory:
            raise os_error(errno.EISDIR, dst)
        self.volume._check_may_write(src, os.O_RDWR)
        if directory and there is not None:
            self.rmdir(dst)  # refused if it is no directory
        self._keep(src.rpartition("/")[0])
        self._keep(dst if directory else dst.rpartition("/")[0])
        if directory:
            with self._lock:
                moved = {key for key in self._made if key == src or key.startswith(f"{src}/")}
                self._made = (self._made - moved) | {dst + key[len(src) :] for key in moved}
            self.changed(src, dst)
        else:
            try:
                self.volume.rename(src, dst, replace=replace)
            finally:
                self.changed(src, dst)

    def setattr(self, key: str, found: ObjectStat, changes: dict[str, int]) -> ObjectStat:
        """Accept changes without effect, and those that the store makes by itself."""
        now = time.time_ns()
        times = [changes[name] for name in ("atime_ns", "mtime_ns") if name in changes]
        for time_ns in times:
            if abs(time_ns - now) > NOW_NS and abs(time_ns - int((found.mtime or 0) * 1e9)) > 1000:
                raise unsupported("keep times", key)
        if "mode" in changes and stat.S_IMODE(changes["mode"]) != found.mode:
            raise unsupported("keep modes", key)
        for name in ("uid", "gid"):
            if name in changes and changes[name] != getattr(found, name):
                raise unsupported("keep owners", key)
        return found
