"""Inode numbers and stat(2) results for objects in a store.

A store may keep no modes, owners or times, and the mounting user may want other owners: missing values come from the
options. Written bytes that are not yet stored have moved the times already.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import time
from dataclasses import dataclass

from ..backends.protocol import ObjectStat
from ..objects import Kind

BLOCK = 512
TYPES: dict[Kind, int] = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The appearance of a file system.

    Attributes:
        uid: owner of everything; None: as stored, or the serving user if the store has none.
        gid: group of everything; None: as stored, or the serving user's group.
        file_mode: of files in stores without modes.
        directory_mode: of directories in stores without modes.
    """

    uid: int | None = None
    gid: int | None = None
    file_mode: int = 0o644
    directory_mode: int = 0o755


@dataclass(frozen=True, slots=True)
class Owner:
    """The user and group that make a new object."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Attributes:
    """The stat(2) result, with the kind in `mode`.

    Attributes:
        allocated: bytes of storage, for `blocks`; None: as many as `size`.
        taken: bytes of the file that the cache had accepted before `allocated` was read (PC_BY_TAKEN): the loop in
            C adds those accepted later.
    """

    number: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    rdev: int = 0
    allocated: int | None = None
    taken: int = 0

    @property
    def blocks(self) -> int:
        return -(-(self.size if self.allocated is None else self.allocated) // BLOCK)


class Appearance:
    """Conversion of a store's status to attributes. Thread-safe: immutable."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self._began_ns = time.time_ns()  # default time of objects without one
        self._uid, self._gid = os.getuid(), os.getgid()

    def mode(self, found: ObjectStat) -> int:
        if found.mode is not None:
            return stat.S_IMODE(found.mode)
        return self.options.directory_mode if found.kind == "dir" else self.options.file_mode

    def uid(self, found: ObjectStat) -> int:
        uid = found.uid if self.options.uid is None else self.options.uid
        return self._uid if uid is None else uid

    def gid(self, found: ObjectStat) -> int:
        gid = found.gid if self.options.gid is None else self.options.gid
        return self._gid if gid is None else gid

    def owned(self, found: ObjectStat) -> ObjectStat:
        """Return the status with a mode and owners, even if the store keeps none."""
        return dataclasses.replace(found, mode=self.mode(found), uid=self.uid(found), gid=self.gid(found))

    def attributes(self, number: int, found: ObjectStat, written_ns: int, taken: int = 0) -> Attributes:
        """Args:
        number: inode number.
        found: the store's status, with the size for readers.
        written_ns: time of the last write that is not stored yet; 0: none.
        taken: as in `Attributes`.
        """
        mtime = found.mtime_ns
        if mtime is None:
            mtime = self._began_ns if found.mtime is None else int(found.mtime * 1e9)
        mtime = max(mtime, written_ns)
        links = found.nlink
        if links is None:
            links = 2 if found.kind == "dir" else 1
        return Attributes(
            number,
            TYPES[found.kind] | self.mode(found),
            links,
            self.uid(found),
            self.gid(found),
            found.size,
            mtime if found.atime_ns is None else found.atime_ns,
            mtime,
            mtime if found.ctime_ns is None else max(found.ctime_ns, written_ns),
            found.rdev or 0,
            found.allocated,
            taken,
        )
