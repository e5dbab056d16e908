"""The calls of a disk that the journal makes, so that tests can make them fail, or cut the power."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol


class Device(Protocol):
    """The calls of a disk that a journal makes."""

    def listdir(self, folder: str) -> list[str]: ...
    def open(self, path: str, flags: int, mode: int = 0o600) -> int: ...
    def close(self, fd: int) -> None: ...
    def size(self, fd: int) -> int: ...
    def preadv(self, fd: int, buffers: Sequence[Any], offset: int) -> int: ...
    def pwritev(self, fd: int, buffers: Sequence[Any], offset: int) -> int: ...
    def fallocate(self, fd: int, size: int) -> None: ...
    def fdatasync(self, fd: int) -> None: ...
    def unlink(self, path: str) -> None: ...
    def sync_folder(self, folder: str) -> None: ...


class _OS:
    listdir = staticmethod(os.listdir)
    close = staticmethod(os.close)
    preadv = staticmethod(os.preadv)
    pwritev = staticmethod(os.pwritev)
    fdatasync = staticmethod(os.fdatasync)
    unlink = staticmethod(os.unlink)

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def fallocate(self, fd: int, size: int) -> None:
        os.posix_fallocate(fd, 0, size)

    def sync_folder(self, folder: str) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


OS: Device = _OS()


def make_folders(path: str, mode: int = 0o777) -> None:
    """Make a directory, and those above it that are missing. A power cut takes none of them."""
    at = Path(os.path.abspath(path))
    changed = [str(each.parent) for each in (at, *at.parents) if not os.path.lexists(each)]
    os.makedirs(path, mode)
    for folder in changed:
        with suppress(PermissionError):  # of a directory that is only passed
            OS.sync_folder(folder)
