"""System calls that `os` lacks: the status of a file with its birth time, rename without replacing, punching holes.

They come from the C library, loaded on first use. If the library or the file system does not support a change, the
result is False, and the caller uses another way; every other failure is an OSError.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Hashable
from typing import NamedTuple

__all__ = ["Status", "punch_hole", "rename_noreplace", "status", "status_of", "zero_range"]

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
STATX_ALL = 0xFFF  # the fields of stat, and the birth time
STATX_BTIME = 0x800
STATX = struct.Struct("=IIQIIIHxxQQQQ" + 4 * "qIxxxx" + "IIII")  # struct statx, up to the numbers of devices
StatxBuffer = ctypes.c_char * 256
RENAME_NOREPLACE = 1
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
FALLOC_FL_ZERO_RANGE = 16
UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "statx"):
        library.statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
    if hasattr(library, "fallocate"):
        library.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
    return library


def _done(result: int) -> bool:
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code in UNKNOWN:
        return False
    raise OSError(code, os.strerror(code))


class Status(NamedTuple):
    """The fields of `os.stat_result` that the directory backend uses, and the birth time.

    A file system uses the inode number of a removed object again at once. The birth time tells the objects apart, if
    the file system has it; otherwise it is 0.
    """

    st_mode: int
    st_ino: int
    st_dev: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_size: int
    st_blocks: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_rdev: int
    birth_ns: int

    @property
    def st_mtime(self) -> float:
        """Return the time of the last change in seconds, rounded as `os.stat` does."""
        seconds, rest = divmod(self.st_mtime_ns, 10**9)
        return seconds + 1e-9 * rest

    @property
    def identity(self) -> Hashable:
        """Return the identity of the object; `ObjectStat.identity` defines it."""
        return self.st_dev, self.st_ino, self.birth_ns


def status(name: str, directory: int = AT_FDCWD, *, follow: bool = False) -> Status:
    """Return the status of a name; `follow`: of the object that a symbolic link leads to."""
    call = getattr(_library(), "statx", None)
    if call is None:
        return _without_birth(
            os.stat(name, dir_fd=None if directory == AT_FDCWD else directory, follow_symlinks=follow)
        )
    return _statx(directory, os.fsencode(name), 0 if follow else AT_SYMLINK_NOFOLLOW)


def status_of(fd: int) -> Status:
    """Return the status of an open object."""
    if getattr(_library(), "statx", None) is None:
        return _without_birth(os.fstat(fd))
    return _statx(fd, b"", AT_EMPTY_PATH)


def _statx(directory: int, name: bytes, flags: int) -> Status:
    found = StatxBuffer()
    if _library().statx(directory, name, flags, STATX_ALL, found):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    mask, _, _, nlink, uid, gid, mode, ino, size, blocks, _, *times, rmajor, rminor, major, minor = STATX.unpack_from(
        found
    )
    atime, atime_ns, birth, birth_ns, ctime, ctime_ns, mtime, mtime_ns = times
    return Status(
        mode,
        ino,
        os.makedev(major, minor),
        nlink,
        uid,
        gid,
        size,
        blocks,
        atime * 10**9 + atime_ns,
        mtime * 10**9 + mtime_ns,
        ctime * 10**9 + ctime_ns,
        os.makedev(rmajor, rminor),
        birth * 10**9 + birth_ns if mask & STATX_BTIME else 0,
    )


def _without_birth(found: os.stat_result) -> Status:
    return Status._make([*(getattr(found, name) for name in Status._fields[:-1]), 0])


def rename_noreplace(src_dir: int, src: str, dst_dir: int, dst: str) -> bool:
    """Rename unless `dst` exists (FileExistsError); False: not supported in one step."""
    call = getattr(_library(), "renameat2", None)
    if call is None:
        return False
    return _done(call(src_dir, os.fsencode(src), dst_dir, os.fsencode(dst), RENAME_NOREPLACE))


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Free the blocks of a range, which then reads as zeros; False: not supported by the file system."""
    return _fallocate(fd, FALLOC_FL_PUNCH_HOLE, offset, length)


def zero_range(fd: int, offset: int, length: int) -> bool:
    """Zero a range, and keep the size; False: not supported by the file system."""
    return _fallocate(fd, FALLOC_FL_ZERO_RANGE, offset, length)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    call = getattr(_library(), "fallocate", None)
    if call is None or ctypes.sizeof(ctypes.c_long) < 8:  # a 32-bit fallocate takes a 32-bit off_t
        return False
    return _done(call(fd, FALLOC_FL_KEEP_SIZE | mode, offset, length))
