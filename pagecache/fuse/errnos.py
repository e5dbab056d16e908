"""What an error becomes on its way to the kernel: one of the errnos that programs expect of a file system, or EIO.

What the cache raises says more than an errno can; that goes to the log where nobody else tells it. Errnos of networks,
of waiting and of ends (ECONNRESET, ETIMEDOUT, ESHUTDOWN, EPROTO, ...) mean nothing to a program that reads a file.
"""

from __future__ import annotations

import errno
import io

__all__ = ["errno_of"]

KNOWN = frozenset(
    {
        errno.EPERM,
        errno.ENOENT,
        errno.EACCES,
        errno.EBUSY,
        errno.EEXIST,
        errno.EXDEV,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EINVAL,
        errno.ENFILE,
        errno.EMFILE,
        errno.ETXTBSY,
        errno.EFBIG,
        errno.ENOSPC,
        errno.EROFS,
        errno.EMLINK,
        errno.EDEADLK,
        errno.ENAMETOOLONG,
        errno.ENOTEMPTY,
        errno.ELOOP,
        errno.ENODATA,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EOPNOTSUPP,
        errno.ERANGE,
        errno.E2BIG,
        errno.ESTALE,
        errno.EDQUOT,
        errno.EBADF,
        errno.ENOSYS,
    }
)

# What is raised without a number, as `FileNotFoundError(name)` is.
BY_CLASS: dict[type[OSError], int] = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    NotADirectoryError: errno.ENOTDIR,
    IsADirectoryError: errno.EISDIR,
    PermissionError: errno.EACCES,
}


def errno_of(error: BaseException) -> int:
    """The errno that a program gets for an error of the cache, of its backend, or of a call that was wrong."""
    if isinstance(error, io.UnsupportedOperation):
        return errno.EOPNOTSUPP
    if isinstance(error, OSError):
        if error.errno is None:
            return next((code for cls, code in BY_CLASS.items() if isinstance(error, cls)), errno.EIO)
        return error.errno if error.errno in KNOWN else errno.EIO
    if isinstance(error, ValueError):
        return errno.EINVAL  # a name that no object of this backend can have
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    return errno.EIO
