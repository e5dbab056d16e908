"""Objects of a file system that can only store them as a whole.

An open object stays with the version that it was opened with. What is written goes to a spool (`spool.py`), where
memory may let go of it; reads see it laid over what is stored. A commit

    1. brings what is missing of the object into the spool          the stored version has to be ours: ESTALE
    2. stores that under a temporary name                           DIRECTORY/.pagecache-stage/TIME-TOKEN-N
    3. looks whether the stored version still is ours               ESTALE
    4. moves it over the object

so that nobody ever sees a part of it, and whatever fails leaves the old object as it was. Where one call stores a whole
object or nothing (`publish="put"`), steps 2 and 4 are that call. Between 3 and 4 nothing keeps others out: no file
system of fsspec has a call for it.

A commit that does not know how step 4 ended finds another version when it is tried again. That is ours if it has our
bytes.

A process that dies leaves a temporary object at most. Who commits in that directory first removes those of yesterday.
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
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from ..errors import Key
from .fsspec_calls import Calls, Unranged, about, lacks, stat_of, tagged
from .protocol import AsyncBackend, AsyncBackendFile, BackendLimits, ObjectStat
from .spool import END, Ranges, Spool, parts_of_buffers

__all__ = ["STAGE", "ObjectFile", "Objects"]

STAGE = ".pagecache-stage"
LEFT_AFTER = 86400.0
"""Seconds: an upload that began longer ago has ended one way or another."""
STEP = 1 << 20
TICK = 1.1
"""Seconds: the coarsest clock of a file system counts these, give or take."""
TICKS = 3
PAUSE = 0.005


def _stale(key: Key, what: str) -> OSError:
    return OSError(errno.ESTALE, what, key)


def _missing(key: Key) -> OSError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)


def _same(stored: ObjectStat | None, base: ObjectStat | None) -> bool:
    """Whether both are one version, as far as can be told."""
    if stored is None or base is None:
        return stored is base
    if stored.version is None or base.version is None:
        return stored.size == base.size
    return stored.version == base.version


class ObjectFile(AsyncBackendFile):
    """One object as it was at open, and what was written since."""

    def __init__(self, objects: Objects, key: Key, base: ObjectStat | None) -> None:
        self._objects = objects
        self._calls = objects.calls
        self.key = key
        self.detached = False  # the name was taken away, or is another object's
        self._lock = threading.Lock()  # guards all below; held for moments
        self._turns = 0  # of what is stored, and of what is cut: a read that saw one is done again
        self._publishing = False  # it may be stored already and not be known here
        self._unsure = False  # a commit may have stored it
        self._reader: Any = None
        self._take(base)

    def _take(self, base: ObjectStat | None, *, committed: bool = False) -> None:
        """This is stored, and nothing was written since; `committed`: it is what was written before."""
        reader, self._reader = self._reader, None if base is None else self._calls.reader(self._path)
        if reader is not None:
            reader.close()
        with self._lock:
            self.base = base
            self._size = 0 if base is None else base.size
            self._spool: Spool | None = None
            self._spooled = Ranges()
            self._spooled.add(self._size, END)
            self._changed = base is None
            self._turns += 1
            self._publishing = self._unsure = False
            self._committed = committed

    @property
    def _path(self) -> str:
        return self._objects.path_of(self.key)

    def moved(self, key: Key, base: ObjectStat | None) -> None:
        """The object has another name, and by that perhaps another version."""
        with self._lock:
            self.key, self._turns = key, self._turns + 1
            if base is not None:
                self.base = base
        if self.base is not None:
            self._reader.close()
            self._reader = self._calls.reader(self._path)

    # ---------------------------------------------------------------- reading

    async def stat(self) -> ObjectStat:
        with self._lock:
            if self.base is None:
                return ObjectStat(size=self._size)
            return replace(self.base, size=self._size)

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        with about(self.key, self._calls.name):
            while True:
                with self._lock:
                    turns, spool, base, reader = self._turns, self._spool, self.base, self._reader
                    end = min(offset + sum(map(len, buffers)), self._size)
                    pieces = list(self._spooled.pieces(offset, end)) if offset < end else []
                done, asked = offset, False
                for begin, stop, spooled in pieces:
                    parts = parts_of_buffers(buffers, begin - offset, stop - offset)
                    if spooled:
                        self._fill(spool, begin, parts)
                        done = stop
                        continue
                    asked = True
                    try:
                        done = begin + await reader.read(begin, parts)
                    except FileNotFoundError:
                        done = begin
                    if done < stop:
                        break
                if not asked or await self._still(base, turns, short=bool(pieces) and done < end):
                    with self._lock:
                        if turns == self._turns:
                            return done - offset

    def _fill(self, spool: Spool | None, begin: int, parts: Sequence[memoryview]) -> None:
        if spool is not None:
            spool.fill(begin, parts)
        else:
            for part in parts:  # behind what is stored, and never written: a truncate made it longer
                part[:] = bytes(len(part))

    async def _still(self, base: ObjectStat | None, turns: int, short: bool) -> bool:
        """Whether what was read is of the version that this file stays with. False: it is to be read again.

        Raises:
            OSError: ESTALE, that version is not there any more.
        """
        if not (self._objects.check_reads or short):
            return True
        stored = await self._calls.found(self._path)
        if _same(stored, base):
            return True
        while self._publishing:  # the other version may be our own
            await self._calls.sleep(PAUSE)
        if turns == self._turns:
            raise _stale(self.key, f"{self._calls.name} another version is stored than the one that was opened")
        return False

    # ---------------------------------------------------------------- writing

    def _writable_spool(self) -> Spool:
        """The lock is held."""
        if self._objects.why_read_only:
            raise io.UnsupportedOperation(errno.ENOTSUP, self._objects.why_read_only)
        if self._spool is None:
            self._spool = Spool(self._objects.spool)
        self._changed = True
        return self._spool

    async def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        with self._lock:
            spool = self._writable_spool()
        done = spool.write(offset, buffers)
        with self._lock:
            self._spooled.add(offset, offset + done)
            self._size = max(self._size, offset + done)
        return done

    async def stage(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return await self.write_from(offset, buffers)

    async def read_staged(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """What a commit has taken meanwhile is read from the object."""
        with self._lock:
            spool, committed = self._spool, self._committed
            end = min(offset + sum(map(len, buffers)), self._size)
            piece = next(self._spooled.pieces(offset, end), None) if offset < end else None
        if spool is not None and piece is not None and piece[2]:
            spool.fill(offset, parts_of_buffers(buffers, 0, piece[1] - offset))
            return piece[1] - offset
        if not committed:
            raise FileNotFoundError(errno.ENOENT, "nothing is staged there", self.key)
        return await self.read_into(offset, buffers)

    async def truncate(self, size: int) -> None:
        with self._lock:
            spool = self._writable_spool()
            if size < self._size:
                spool.set_size(min(size, os.fstat(spool.fd).st_size))
                self._spooled.add(size, END)
            self._size = size
            self._turns += 1

    async def punch_hole(self, offset: int, length: int) -> None:
        with self._lock:
            spool, end = self._writable_spool(), min(offset + length, self._size)
        if offset < end:
            spool.zero(offset, end)
            with self._lock:
                self._spooled.add(offset, end)

    async def rollback(self) -> None:
        with about(self.key, self._calls.name):
            self._take(await self._calls.found(self._path))

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        with self._lock:
            self._spool = None

    # ---------------------------------------------------------------- commit

    async def commit(self) -> str | None:
        if self._changed and not self.detached:
            with about(self.key, self._calls.name):
                await self._commit()
        return None if self.base is None else self.base.version

    async def _commit(self) -> None:
        stored = await self._calls.found(self._path)
        if not _same(stored, self.base):
            if stored is None or not self._unsure or not await self._is_ours(stored):
                raise self._conflict(stored)
            self._take(stored, committed=True)
            return
        with self._lock:
            spool = self._writable_spool()
        await self._complete(spool)
        try:
            for _ in range(TICKS):
                await self._publish(spool)
                stored = await self._calls.stat(self._path)
                if stored.size != self._size:
                    raise OSError(errno.EIO, f"{stored.size} bytes are stored where {self._size} were sent", self.key)
                known = None if self.base is None else self.base.version
                if known is None or stored.version != known or tagged(stored):
                    break
                await self._calls.sleep(TICK)  # the clock that makes versions has not moved on
            self._take(stored, committed=True)
        finally:
            self._publishing = False

    async def _complete(self, spool: Spool) -> None:
        """Everything is in the spool."""
        missing = [(begin, end) for begin, end, held in self._spooled.pieces(0, self._size) if not held]
        if not missing:
            return
        room = memoryview(bytearray(min(self._objects.step, max(end - begin for begin, end in missing))))
        for begin, end in missing:
            while begin < end:
                done = await self._reader.read(begin, [room[: end - begin]])
                if not done:
                    raise self._conflict(await self._calls.found(self._path))
                spool.write_all(begin, room[:done])
                begin += done
        stored = await self._calls.found(self._path)
        if not _same(stored, self.base):
            raise self._conflict(stored)
        with self._lock:
            self._spooled.add(0, END)

    async def _publish(self, spool: Spool) -> None:
        objects, calls = self._objects, self._calls
        if objects.publish == "put":
            self._unsure = self._publishing = True
            await self._store(spool, self._path, calls.fs._parent(self._path))
            return
        temporary = await objects.temporary(self._path)
        try:
            await self._store(spool, temporary, calls.fs._parent(temporary))
            stored = await calls.found(self._path)
            if not _same(stored, self.base):
                raise self._conflict(stored)
            self._unsure = self._publishing = True
            await calls.move(temporary, self._path)
        except BaseException:
            with contextlib.suppress(Exception):
                await calls.remove(temporary)
            raise

    async def _store(self, spool: Spool, path: str, directory: str) -> None:
        try:
            await self._calls.store(spool, self._size, path)
        except FileNotFoundError:
            await self._calls.make_directories(directory)
            await self._calls.store(spool, self._size, path)

    async def _is_ours(self, stored: ObjectStat) -> bool:
        """Whether it has the bytes that an attempt of ours has sent."""
        spool = self._spool
        if spool is None or stored.size != self._size:
            return False
        reader = self._calls.reader(self._path)
        theirs, ours = (memoryview(bytearray(min(STEP, self._size))) for _ in range(2))
        at = 0
        try:
            while at < self._size:
                done = await reader.read(at, [theirs[: self._size - at]])
                spool.fill(at, [ours[:done]])
                if not done or theirs[:done] != ours[:done]:
                    return False
                at += done
        finally:
            reader.close()
        return _same(await self._calls.found(self._path), stored)

    def _conflict(self, stored: ObjectStat | None) -> OSError:
        found = "no object" if stored is None else f"version {stored.version}"
        ours = "none" if self.base is None else f"version {self.base.version}"
        return _stale(self.key, f"{self._calls.name} {found} is stored where {ours} was opened")


class Objects(AsyncBackend):
    """The objects below a path of a file system; `calls` says how that is asked."""

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
        self._lock = threading.Lock()  # guards the next four
        self._open_files: weakref.WeakSet[ObjectFile] = weakref.WeakSet()
        self._prepared: set[str] = set()  # stages that were looked at, and directories that were made
        self._made: set[str] = set()
        self._reads_ranges = False  # was tried
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
        """What the file system calls it."""
        name = str(self.canonical(key))
        path: str = self.fs._strip_protocol(f"{self.root}/{name}" if self.root else name)
        return path

    def _allow(self) -> None:
        if self.limits.read_only:
            why = self.why_read_only or f"{self.calls.name} was given as read_only"
            raise io.UnsupportedOperation(errno.ENOTSUP, why)

    # ---------------------------------------------------------------- objects

    async def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> ObjectFile:
        path = self.path_of(key)
        if create:
            self._allow()
        with about(key, self.calls.name):
            base = await self.calls.found(path)
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
        """One byte of an object is read, once.

        Raises:
            UnsupportedOperation: that cannot be had.
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
            found = await self.calls.found(self.path_of(key))
            if found is None:
                raise _missing(key)
            return found

    async def remove(self, key: Key) -> None:
        path = self.path_of(key)
        self._allow()
        with about(key, self.calls.name):
            await self._object(path, key)
            await self.calls.remove(path)
        self._detach(key)

    async def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        old, new = self.path_of(src), self.path_of(dst)
        self._allow()
        following = self._files(src)
        with about(src, self.calls.name):
            stored = await self.calls.found(old)
            if stored is None and not following:
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
            if stored is not None:
                await self.calls.move(old, new)
                there = await self.calls.stat(new)
            elif there is not None:
                await self.calls.remove(new)  # what replaces it is not stored yet
                there = None
        self._detach(dst)
        for file in following:
            file.moved(dst, there)

    async def _object(self, path: str, key: Key) -> None:
        found = await self.calls.found(path)
        if found is None:
            raise _missing(key)
        if found.kind == "dir":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), key)

    def _files(self, key: Key) -> builtins.list[ObjectFile]:
        """Those that are open on it, and have its name."""
        name = self.canonical(key)
        with self._lock:
            return [f for f in self._open_files if not f.detached and self.canonical(f.key) == name]

    def _detach(self, key: Key) -> None:
        for file in self._files(key):
            file.detached = True

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectStat]:
        """The objects whose key starts with `prefix`, in the order of their keys."""
        if "\0" in prefix or prefix.startswith("/") or ".." in prefix.split("/"):
            return
        folder = prefix.rpartition("/")[0]
        top: str = self.fs._strip_protocol(self.root) if self.root else self.fs.root_marker
        where = self.fs._strip_protocol(f"{self.root}/{folder}" if self.root and folder else folder or top)
        with about(prefix, self.calls.name):
            try:
                infos = await self.calls.find(where)
            except FileNotFoundError:
                return
        below = len(top.rstrip("/") + "/") if top.strip("/") else len(self.fs.root_marker)
        for path in sorted(infos):
            key = path[below:]
            if key.startswith(prefix) and STAGE not in key.split("/") and infos[path].get("type") != "directory":
                yield stat_of(infos[path], key)

    async def close(self) -> None:
        """Directories that were made for temporary objects go, where they are directories at all."""
        with self._lock:
            made, self._made = self._made, set()
            self._prepared.clear()
        for path in made:
            with contextlib.suppress(Exception):
                await self.calls.ask("rmdir", path)

    # ---------------------------------------------------------------- temporary objects

    async def temporary(self, path: str) -> str:
        """A name for the next version of an object, in a directory that is there."""
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
        with contextlib.suppress(Exception):  # there is none, or it cannot be listed: nothing depends on it
            for path in await self.calls.names(stage):
                begun, _, rest = path.rpartition("/")[2].partition("-")
                if begun.isdecimal() and rest and time.time() - int(begun) >= older_than:
                    await self.calls.remove(path)
                    removed += 1
        return removed

    async def remove_leftovers(self, directory: str = "", older_than: float = LEFT_AFTER) -> int:
        """Remove temporary objects of processes that died, of one directory; returns how many."""
        name = f"{directory}/x" if directory else "x"
        with about(directory, self.calls.name):
            return await self._clear(self._stage(self.path_of(name)), older_than)
