"""The objects below a path of an fsspec file system: keys, names, versions, and leftovers of dead processes.

`object.py` reads and publishes single objects. Everything here is a coroutine, so that it serves blocking and
asynchronous file systems: see `calls.py`.

If a rename is a copy, the object gets another version with equal content. That is no foreign change, so its earlier
version is reported while the copy stays unchanged.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import itertools
import os
import secrets
import threading
import time
import weakref
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import Key
from ..protocol import AsyncBackend, BackendLimits, ObjectStat
from .calls import Calls, Unranged, about, lacks, stat_of, translated
from .object import ObjectFile

__all__ = ["LEFT_AFTER", "STAGE", "Objects"]

STAGE = ".pagecache-stage"
LEFT_AFTER = 86400.0
"""Seconds after which an upload has certainly ended."""
RENAMED_MAX = 1 << 16
"""Limit of renamed objects whose earlier version is stored."""
UNSETTLED_MAX = 1 << 10
"""Limit of removes and renames with a lost answer whose result is not known yet."""
REFUSALS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    io.UnsupportedOperation,
)
"""Errors of a request that was certainly not carried out."""


def _missing(key: Key) -> OSError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)


@dataclass(eq=False, slots=True)
class _Change:
    """A remove or rename whose last request, which ends the old name, was sent.

    Attributes:
        old: the path that the request ends.
        stored: the object that had it, with the version from before a rename.
        files: open files of that object.
        dst, new: the new key and its path; None: a remove.
        there: the object that had the new path, with the version of the store.
        replaced: open files of that object.
        done: the request was carried out, and the backend's own part is done.
    """

    old: str
    stored: ObjectStat
    files: list[ObjectFile]
    dst: Key = None
    new: str | None = None
    there: ObjectStat | None = None
    replaced: list[ObjectFile] = field(default_factory=list)
    done: bool = False

    def was_carried_out(self, stat: ObjectStat | None, now: ObjectStat | None) -> bool:
        """Return whether the request was carried out, from the objects that have the old and the new path now. Objects
        without versions are compared by size.
        """
        if stat is not None and (stat.version is None or stat.version == self.stored.version):
            return False
        if self.new is None:
            return True
        there, version = self.there, None if now is None else now.version
        unchanged = there is not None and version not in (None, self.stored.version) and version == there.version
        return now is not None and now.size == self.stored.size and not unchanged


def _detach(files: list[ObjectFile]) -> None:
    """Take the name from open files."""
    for file in files:
        file.detached = True


async def _nothing() -> None:
    """Do nothing, in place of a request that is not needed."""


class Objects(AsyncBackend):
    """The objects below a path of a file system, accessed through `calls`."""

    def __init__(self, calls: Calls, root: str, limits: BackendLimits, publish: str, options: dict[str, Any]) -> None:
        self.calls = calls
        self.fs = calls.fs
        self.root = root.rstrip("/")
        self.publish = publish
        self.spool: str | None = options["spool"]
        self.check_reads: bool = options["check_reads"]
        why = lacks(calls.fs, moves=publish == "move")
        self.why_read_only = "" if why is None else f"{calls.name} objects can only be read: {why}"
        self.limits = replace(limits, read_only=limits.read_only or why is not None)
        self.step = int(limits.max_read)
        self._lock = threading.Lock()  # guards the fields below
        self._open_files: weakref.WeakSet[ObjectFile] = weakref.WeakSet()
        self._prepared: set[str] = set()  # cleaned stage directories, and directories that were made
        self._made: set[str] = set()
        # Path -> its version, and the version before the rename.
        self._renamed: dict[str, tuple[str | None, str | None]] = {}
        self._unsettled: dict[str, _Change] = {}  # old path -> its change, while the result of that is unknown
        self._reads_ranges = False  # a ranged read was tried
        self._token = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    # ---------------------------------------------------------------- keys

    def canonical(self, key: Key) -> Key:
        path = os.fspath(key) if isinstance(key, str | os.PathLike) else None
        if not isinstance(path, str):
            raise ValueError(f"{key!r} is not a key of a file system: it must be a str or an os.PathLike of str")
        if "\0" in path:
            raise ValueError(f"{key!r} is not a key of a file system: it has a NUL character")
        if "://" in path and not self.root:
            return path
        if path.startswith("/"):
            raise ValueError(f"{key!r} is not a key of a file system: it is absolute")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ValueError(f"{key!r} is not a key of a file system: it has a '..'")
        if not parts:
            raise ValueError(f"{key!r} is not a key of a file system: it names no object")
        if STAGE in parts:
            raise ValueError(f"{key!r} is not a key of a file system: {STAGE} is the backend's own")
        return "/".join(parts)

    def path_of(self, key: Key) -> str:
        """Return the path in the file system."""
        name = str(self.canonical(key))
        path: str = self.fs._strip_protocol(name if "://" in name and not self.root else self._whole(name))
        return path

    def _whole(self, name: str) -> str:
        """Return an absolute path of the file system: without the root marker it may be relative to a login
        directory.
        """
        return f"{self.root}/{name}" if self.root else f"{self.fs.root_marker}{name}"

    def _allow(self) -> None:
        if self.limits.read_only:
            why = self.why_read_only or f"{self.calls.name} was given as read_only"
            raise io.UnsupportedOperation(errno.ENOTSUP, why)

    # ---------------------------------------------------------------- objects

    def _status_of(self, path: str, stat: ObjectStat) -> ObjectStat:
        """Return the status with the version from before a rename: a copy has another version of equal content."""
        with self._lock:
            version, before = self._renamed.get(path, (stat.version, stat.version))
            if version != stat.version:
                del self._renamed[path]
                return stat
        return replace(stat, version=before)

    def _remember_rename(self, path: str, version: str | None, before: str | None) -> None:
        with self._lock:
            self._renamed.pop(path, None)
            if version != before:
                self._renamed[path] = version, before
            if len(self._renamed) > RENAMED_MAX:
                del self._renamed[next(iter(self._renamed))]

    async def found(self, path: str) -> ObjectStat | None:
        """Return the stored status; None: no object."""
        stat = await self.calls.found(path)
        return None if stat is None else self._status_of(path, stat)

    # ---------------------------------------------------------------- changes of names with a lost answer

    async def _looked_up(self, path: str) -> ObjectStat | None:
        """Return the stored status. This settles an earlier change of the name whose answer was lost."""
        with self._lock:
            change = self._unsettled.get(path)  # taken first: an earlier answer proves nothing about it
        stat = await self.found(path)
        if change is not None:
            now = None if change.new is None else await self.calls.found(change.new)
            with self._lock:
                settles = self._unsettled.get(path) is change
                if settles:
                    del self._unsettled[path]
            if settles and change.was_carried_out(stat, now):
                self._finish(change, now)
        return stat

    async def settle(self, path: str) -> None:
        """Settle a change of the name whose answer was lost: open files may have another name by it, or none."""
        if path in self._unsettled:
            await self._looked_up(path)

    def _finish(self, change: _Change, now: ObjectStat | None) -> None:
        """Do the backend's own part of a change; `now`: the object with the new path."""
        _detach(change.files if change.new is None else change.replaced)
        if change.new is not None:
            if now is not None:
                self._remember_rename(change.new, now.version, change.stored.version)
                now = self._status_of(change.new, now)
            for file in change.files:
                file.moved(change.dst, now)
        change.done = True

    async def _make(self, change: _Change, request: Coroutine[Any, Any, None]) -> None:
        """Send the last request of a change, and do the own part. If the answer is lost, look up the names; if that
        fails too, the next call for the old name does.
        """
        try:
            await request
            self._finish(change, None if change.new is None else await self.calls.found(change.new))
        except BaseException as error:
            if isinstance(translated(error, change.old, self.calls.name), REFUSALS):
                raise
            with self._lock:
                self._unsettled[change.old] = change
                if len(self._unsettled) > UNSETTLED_MAX:
                    del self._unsettled[next(iter(self._unsettled))]
            if isinstance(error, Exception):
                with contextlib.suppress(Exception):
                    await self._looked_up(change.old)
            if not change.done:
                raise

    async def _was_done(self, path: str, new: str | None) -> bool:
        """Return whether an earlier call of this kind was carried out, and its answer was lost."""
        with self._lock:
            change = self._unsettled.get(path)
        if change is None or change.new != new:
            return False
        await self._looked_up(path)
        return change.done

    # ---------------------------------------------------------------- objects by name

    async def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> ObjectFile:
        path = self.path_of(key)
        if create:
            self._allow()
        with about(key, self.calls.name):
            base = await self._looked_up(path)
            if base is None and not create:
                raise _missing(key)
            if base is not None and base.kind == "dir":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), key)
            if base is not None and create and exclusive:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key)
            if base is not None and base.size > 1:
                await self._try_ranges(path)
        file = ObjectFile(self, key, base)
        with self._lock:
            self._open_files.add(file)
        return file

    async def _try_ranges(self, path: str) -> None:
        """Try to read one byte of an object, once.

        Raises:
            UnsupportedOperation: ranges cannot be read.
        """
        if self._reads_ranges:
            return
        reader = self.calls.reader(path)
        try:
            done = await reader.read(1, [memoryview(bytearray(1))])
        except (ValueError, TypeError, NotImplementedError, io.UnsupportedOperation) as error:
            if isinstance(error, Unranged):
                raise
            raise Unranged(f"{self.calls.name} cannot read ranges: {error}") from error
        finally:
            reader.close()
        self._reads_ranges = done == 1

    async def stat(self, key: Key) -> ObjectStat:
        with about(key, self.calls.name):
            found = await self._looked_up(self.path_of(key))
            if found is None:
                raise _missing(key)
            return found

    async def remove(self, key: Key) -> None:
        path = self.path_of(key)
        self._allow()
        with about(key, self.calls.name):
            if await self._was_done(path, None):
                return
            stored, files = await self._looked_up(path), self._files(key)
            if stored is not None and stored.kind == "dir":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), key)
            if stored is not None:
                await self._make(_Change(path, stored, files), self.calls.remove(path))
            elif files:  # of an object that was created, and is not committed yet
                _detach(files)
            else:
                raise _missing(key)

    async def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        old, new = self.path_of(src), self.path_of(dst)
        self._allow()
        with about(src, self.calls.name):
            if await self._was_done(old, new):
                return
            stored, following = await self._looked_up(old), self._files(src)
            if stored is None:  # an object that was created, and is not committed yet, is not in the store
                following = [file for file in following if file.is_created()]
                if not following:
                    raise _missing(src)
            if stored is not None and stored.kind == "dir":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), src)
        with about(dst, self.calls.name):
            there = await self.calls.found(new)
            if there is not None and there.kind == "dir":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), dst)
            if there is not None and not replace:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), dst)
            if old == new:
                return
            if stored is None:
                await self._rename_created(following, src, dst, there)
            else:
                await self._move(_Change(old, stored, following, dst, new, there, self._files(dst)))

    async def _rename_created(
        self, following: builtins.list[ObjectFile], src: Key, dst: Key, there: ObjectStat | None
    ) -> None:
        """Rename an object that is not stored yet; its commit finds no object with the new name."""
        new, replaced = self.path_of(dst), self._files(dst)
        if there is not None and any(file.is_doubtful() for file in following):
            what = f"a commit of {src!r} may have been carried out; commit it before it replaces an object"
            raise OSError(errno.EBUSY, what, dst)
        if there is not None:
            await self._make(_Change(new, self._status_of(new, there), replaced), self.calls.remove(new))
        _detach(replaced)
        for file in following:
            file.moved(dst, None)

    async def _move(self, change: _Change) -> None:
        """Rename a stored object.

        Raises:
            OSError: ESTALE: another program has stored another version while this one was copied.
        """
        old, new, stored = change.old, str(change.new), change.stored
        if self.calls.renames:
            await self._make(change, self.calls.move(old, new))
            return
        await self.calls.copy(old, new)
        found = await self.found(old)
        if found is not None and found.version != stored.version:
            what = f"version {found.version} was stored while version {stored.version} was copied; both names are left"
            raise OSError(errno.ESTALE, what)
        await self._make(change, self.calls.remove(old) if found is not None else _nothing())

    def leave(self, file: ObjectFile) -> None:
        """Forget a file that was closed."""
        with self._lock:
            self._open_files.discard(file)

    def _files(self, key: Key) -> builtins.list[ObjectFile]:
        """Return the open files of this name."""
        name = self.canonical(key)
        with self._lock:
            return [f for f in self._open_files if not f.detached and self.canonical(f.key) == name]

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectStat]:
        """Yield the objects whose key starts with `prefix`, sorted by key."""
        if "\0" in prefix or prefix.startswith("/") or ".." in prefix.split("/"):
            return
        folder = prefix.rpartition("/")[0]
        top: str = self.fs._strip_protocol(self.root) if self.root else self.fs.root_marker
        where = self.fs._strip_protocol(self._whole(folder)) if folder else top
        with about(prefix, self.calls.name):
            try:
                infos = await self.calls.find(where)
            except FileNotFoundError:
                return
        below = len(top.rstrip("/") + "/") if top.strip("/") else len(self.fs.root_marker)
        for path in sorted(infos):
            key = path[below:]
            if key.startswith(prefix) and STAGE not in key.split("/") and infos[path].get("type") != "directory":
                yield self._status_of(path, stat_of(infos[path], key))

    async def close(self) -> None:
        """Remove the directories made for temporary objects, if they are real directories."""
        with self._lock:
            made, self._made = self._made, set()
            self._prepared.clear()
        for path in made:
            with contextlib.suppress(Exception):
                await self.calls.call("rmdir", path)

    # ---------------------------------------------------------------- temporary objects

    async def temporary(self, path: str) -> str:
        """Return a name for the next version of an object, in an existing directory."""
        stage = self._stage(path)
        with self._lock:
            new = stage not in self._prepared
            self._prepared.add(stage)
        if new:
            await self._clear(stage, LEFT_AFTER)
            if self.calls.renames:
                await self.calls.make_directories(stage)
                with self._lock:
                    self._made.add(stage)
        return f"{stage}/{int(time.time())}-{self._token}-{next(self._numbers)}"

    def _stage(self, path: str) -> str:
        parent = self.fs._parent(path).rstrip("/")
        return f"{parent}/{STAGE}" if parent else f"{self.fs.root_marker}{STAGE}"

    async def _clear(self, stage: str, older_than: float) -> int:
        removed = 0
        with contextlib.suppress(Exception):  # it does not exist, or cannot be listed: removal is optional
            for path in await self.calls.names(stage):
                begun, _, rest = path.rpartition("/")[2].partition("-")
                if begun.isdecimal() and rest and time.time() - int(begun) >= older_than:
                    await self.calls.remove(path)
                    removed += 1
        return removed

    async def remove_leftovers(self, directory: str = "", older_than: float = LEFT_AFTER) -> int:
        """Remove temporary objects of dead processes from one directory; return their number."""
        name = f"{directory}/x" if directory else "x"
        with about(directory, self.calls.name):
            return await self._clear(self._stage(self.path_of(name)), older_than)
