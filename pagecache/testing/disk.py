"""A simulated disk: it loses what it has not confirmed, tears and reorders writes, fails, and fills up.

    page cache   what calls see
    pending      versions of each sector of 512 bytes since the last confirmation; names that changed
    durable      what `fdatasync` (bytes, size) and `sync_folder` (names) have confirmed

A power cut leaves any version of each sector, each independently of the others, and each changed name or not. A sync
that fails drops the sectors that it should have written: a later one does not write them, as on Linux.
"""

from __future__ import annotations

import errno
import os
import posixpath
import threading
from collections.abc import Callable, Sequence
from typing import Any

SECTOR = 512
Pick = Callable[[int], int]


class _Inode:
    __slots__ = ("content", "number")

    def __init__(self, number: int, content: bytes = b"") -> None:
        self.number, self.content = number, bytearray(content)


class SimulatedDisk:
    """A disk with the calls that a journal makes.

    Args:
        capacity: bytes that files can take; None: no limit.
        fault: called before each call with its name and its number from 0; returns an errno, or 0. A write that fails
            has been carried out in part.
    """

    def __init__(self, capacity: int | None = None, fault: Callable[[str, int], int] | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        """Calls that changed something, in their order: the input of `PowerCut`."""
        self.count = 0
        self.capacity, self.fault = capacity, fault
        self.bad_sectors: set[tuple[str, int]] = set()
        """(path, sector) that cannot be read."""
        self._files: dict[str, _Inode] = {}
        self._open: dict[int, tuple[_Inode, str]] = {}
        self._next = 100
        self._lock = threading.Lock()

    @classmethod
    def holding(cls, files: dict[str, bytes]) -> SimulatedDisk:
        """Return a disk on which these files are durable."""
        disk = cls()
        for path, content in files.items():
            disk._next += 1
            disk._files[path] = _Inode(disk._next, content)
            disk.calls.append(("holds", path, disk._next, content))
        return disk

    def content(self, path: str) -> bytearray:
        """Return the bytes of a file; changes of them are damage."""
        return self._files[path].content

    def _enter(self, name: str) -> int:
        number, self.count = self.count, self.count + 1
        return self.fault(name, number) if self.fault is not None else 0

    def _check(self, name: str) -> None:
        if code := self._enter(name):
            raise OSError(code, os.strerror(code))

    # ------------------------------------------------------------------------------------------------ calls

    def listdir(self, folder: str) -> list[str]:
        with self._lock:
            self._check("listdir")
            return [posixpath.basename(path) for path in self._files if posixpath.dirname(path) == folder]

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        with self._lock:
            self._check("open")
            if flags & os.O_CREAT:
                if path in self._files:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
                self._next += 1
                self._files[path] = _Inode(self._next)
                self.calls.append(("create", path, self._next))
            elif path not in self._files:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self._next += 1
            self._open[self._next] = (self._files[path], path)
            return self._next

    def close(self, fd: int) -> None:
        with self._lock:
            del self._open[fd]

    def size(self, fd: int) -> int:
        with self._lock:
            return len(self._open[fd][0].content)

    def preadv(self, fd: int, buffers: Sequence[Any], offset: int) -> int:
        with self._lock:
            self._check("preadv")
            inode, path = self._open[fd]
            length, done = sum(map(len, buffers)), 0
            if any((path, s) in self.bad_sectors for s in range(offset // SECTOR, -(-(offset + length) // SECTOR))):
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            for buffer in buffers:
                part = inode.content[offset + done : offset + done + len(buffer)]
                buffer[: len(part)] = part
                done += len(part)
            return done

    def pwritev(self, fd: int, buffers: Sequence[Any], offset: int) -> int:
        with self._lock:
            code = self._enter("pwritev")
            data = b"".join(buffers)
            if code:
                data = data[: len(data) // 2]
            inode = self._open[fd][0]
            self._grow(inode, offset + len(data))
            inode.content[offset : offset + len(data)] = data
            self.calls.append(("write", inode.number, offset, data))
            if code:
                raise OSError(code, os.strerror(code))
            return len(data)

    def fallocate(self, fd: int, size: int) -> None:
        with self._lock:
            self._check("fallocate")
            inode = self._open[fd][0]
            self._grow(inode, size)
            self.calls.append(("size", inode.number, len(inode.content)))

    def _grow(self, inode: _Inode, size: int) -> None:
        more = max(0, size - len(inode.content))
        used = sum(len(file.content) for file in self._files.values())
        if self.capacity is not None and more and used + more > self.capacity:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        inode.content += bytes(more)

    def fdatasync(self, fd: int) -> None:
        with self._lock:
            code = self._enter("fdatasync")
            self.calls.append(("sync fails" if code else "sync", self._open[fd][0].number))
            if code:
                raise OSError(code, os.strerror(code))

    def unlink(self, path: str) -> None:
        with self._lock:
            self._check("unlink")
            if path not in self._files:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            del self._files[path]
            self.calls.append(("unlink", path))

    def sync_folder(self, folder: str) -> None:
        with self._lock:
            self._check("sync_folder")
            self.calls.append(("sync folder", folder))


class PowerCut:
    """The disks that a power cut may leave after some calls.

    cut = PowerCut()
    for call in disk.calls:
        cut.after(call)
        left = cut.disk(rng.randrange)
    """

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._changed: dict[str, list[int | None]] = {}  # later states of a name
        self._content: dict[int, bytearray] = {}
        self._cache: dict[int, bytearray] = {}
        self._sizes: dict[int, int] = {}  # not durable yet
        self._versions: dict[tuple[int, int], list[bytes]] = {}  # later states of a sector
        self._dropped: set[tuple[int, int]] = set()

    def after(self, call: tuple[Any, ...]) -> None:
        """Go on by one call."""
        kind, *rest = call
        if kind == "holds":
            path, inode, content = rest
            self._names[path] = inode
            self._content[inode], self._cache[inode] = bytearray(content), bytearray(content)
        elif kind == "create":
            path, inode = rest
            self._changed.setdefault(path, []).append(inode)
            self._content[inode], self._cache[inode] = bytearray(), bytearray()
        elif kind == "unlink":
            self._changed.setdefault(rest[0], []).append(None)
        elif kind == "sync folder":
            self._confirm_names(rest[0])
        elif kind == "size":
            self._extend(*rest)
        elif kind == "write":
            self._write(*rest)
        elif kind == "sync":
            self._confirm(rest[0])
        else:
            self._dropped.update(place for place in self._versions if place[0] == rest[0])

    def _extend(self, inode: int, size: int) -> None:
        cache = self._cache[inode]
        cache += bytes(max(0, size - len(cache)))
        if len(cache) > len(self._content[inode]):
            self._sizes[inode] = len(cache)

    def _write(self, inode: int, offset: int, data: bytes) -> None:
        self._extend(inode, offset + len(data))
        cache = self._cache[inode]
        cache[offset : offset + len(data)] = data
        for sector in range(offset // SECTOR, -(-(offset + len(data)) // SECTOR)):
            place = (inode, sector)
            self._versions.setdefault(place, []).append(bytes(cache[sector * SECTOR : (sector + 1) * SECTOR]))
            self._dropped.discard(place)

    def _confirm(self, inode: int) -> None:
        size = self._sizes.pop(inode, 0)
        self._content[inode] += bytes(max(0, size - len(self._content[inode])))
        for place in [p for p in self._versions if p[0] == inode and p not in self._dropped]:
            begin = place[1] * SECTOR
            last = self._versions.pop(place)[-1]
            self._content[inode][begin : begin + len(last)] = last

    def _confirm_names(self, folder: str) -> None:
        for path in [path for path in self._changed if posixpath.dirname(path) == folder]:
            inode = self._changed.pop(path)[-1]
            if inode is None:
                self._names.pop(path, None)
            else:
                self._names[path] = inode

    def disk(self, pick: Pick) -> SimulatedDisk:
        """Return one of the disks; `pick` chooses one of so many states of each name, size and sector."""
        names = dict(self._names)
        for path, states in self._changed.items():
            if at := pick(1 + len(states)):
                inode = states[at - 1]
                if inode is None:
                    names.pop(path, None)
                else:
                    names[path] = inode
        contents = {inode: bytearray(self._content[inode]) for inode in names.values()}
        for inode, size in self._sizes.items():
            if pick(2) and inode in contents:
                contents[inode] += bytes(max(0, size - len(contents[inode])))
        for (inode, sector), versions in self._versions.items():
            at = pick(1 + len(versions))
            if at and inode in contents:
                content, begin = contents[inode], sector * SECTOR
                content += bytes(max(0, begin + len(versions[at - 1]) - len(content)))
                content[begin : begin + len(versions[at - 1])] = versions[at - 1]
        return SimulatedDisk.holding({path: bytes(contents[inode]) for path, inode in names.items()})
