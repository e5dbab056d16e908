"""Errors as errnos for the kernel: one that programs expect of a file system, or EIO.

The cache's errors have more details than an errno; they go to the log if no other message has them. Errnos of networks,
of waiting and of shutdown (ECONNRESET, ETIMEDOUT, ESHUTDOWN, EPROTO, ...) mean nothing to a program that reads a file.
"""

from __future__ import annotations

import errno
import io

from ..engine import foreign

NAMES = (
    "EPERM ENOENT EACCES EBUSY EEXIST EXDEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ETXTBSY EFBIG ENOSPC EROFS EMLINK "
    "EDEADLK ENAMETOOLONG ENOTEMPTY ELOOP ENODATA ENOMEM ENOBUFS EOPNOTSUPP ERANGE E2BIG ESTALE EDQUOT EBADF ENOSYS"
)
KNOWN = frozenset(getattr(errno, name) for name in NAMES.split())


def errno_of(error: BaseException) -> int:
    """Return the errno for a program, for an error of the cache, of its backend, or of a wrong call."""
    if isinstance(error, io.UnsupportedOperation):
        return errno.EOPNOTSUPP
    if isinstance(error, OSError):
        code = foreign.errno_of(error)
        return code if code in KNOWN else errno.EIO
    if isinstance(error, ValueError):
        return errno.EINVAL  # no object of this backend can have the name
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    return errno.EIO
