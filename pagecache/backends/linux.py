"""Two system calls that `os` lacks: rename without replacing, and punching holes.

Both come from the C library, loaded on first use. If the library or the file system does not support the call, the
result is False, and the caller uses another way; every other failure is an OSError.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os

__all__ = ["punch_hole", "rename_noreplace"]

RENAME_NOREPLACE = 1
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
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


def rename_noreplace(src_dir: int, src: str, dst_dir: int, dst: str) -> bool:
    """Rename unless `dst` exists (FileExistsError); False: not supported in one step."""
    call = getattr(_library(), "renameat2", None)
    if call is None:
        return False
    return _done(call(src_dir, os.fsencode(src), dst_dir, os.fsencode(dst), RENAME_NOREPLACE))


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Free the blocks of a range, which then reads as zeros; False: not supported by the file system."""
    call = getattr(_library(), "fallocate", None)
    if call is None or ctypes.sizeof(ctypes.c_long) < 8:  # a 32-bit fallocate takes a 32-bit off_t
        return False
    return _done(call(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, length))
