"""Valid mountpoints: not over a mount that is served, and not where the file system would contain itself.

    store /a   mountpoint /a      it hides the store
    store /a   mountpoint /a/m    /a/m/m/m/...: a walk through it never ends
    store /a/s mountpoint /a      it hides the store

Directories are compared by identity, not by name: links and bind mounts lead to one directory.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Any

from ..backends import DirectoryBackend


class CannotMount(Exception):
    """A mount is impossible; the text is a sentence with the reason."""


def check_mountpoint(path: str) -> None:
    """Raises:
    CannotMount: it is not a directory that can be mounted on.
    """
    try:
        is_directory = os.path.isdir(path)
        os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            dead = os.path.realpath(path)
            while mounted_at(dead) is None and dead != os.path.dirname(dead):
                dead = os.path.dirname(dead)
            what = f"the server of the mount at {dead} is gone; unmount it with fusermount3 -u -z {dead}"
            raise CannotMount(what) from None
        raise CannotMount(f"{path}: {error.strerror}") from None
    if not is_directory:
        raise CannotMount(f"{path}: not a directory")
    if not os.path.exists("/dev/fuse"):
        raise CannotMount("/dev/fuse: there is none: the kernel has no FUSE, or this container is not given it")
    where = os.path.realpath(path)
    fields = mounted_at(where)
    if fields is not None:
        kind, source = fields[fields.index("-") + 1 :][:2]
        if kind == "fuse" or kind.startswith("fuse."):  # not fuseblk: that is a disk
            raise CannotMount(
                f"{path}: {_unescaped(source)} ({kind}) is mounted there, and a mount does not hide what another "
                f"program serves: fusermount3 -u {where} first"
            )


def check_store(backend: Any, path: str) -> None:
    """Raises:
    CannotMount: the store is a directory, and one of it and the mountpoint contains the other.
    """
    while backend is not None and not isinstance(backend, DirectoryBackend):  # of a decorator: the one below it
        backend = getattr(backend, "inner", None)
    if backend is None:
        return
    root = backend.root
    rule = "a mountpoint and the store mounted on it cannot contain each other"
    if os.path.samefile(root, path):
        raise CannotMount(f"{path}: this is the directory to be mounted, {root}, which it would hide: {rule}")
    if _is_in(path, root):
        raise CannotMount(f"{path}: it is in the directory to be mounted, {root}, which would contain itself: {rule}")
    if _is_in(root, path):
        raise CannotMount(f"{path}: the directory to be mounted, {root}, is in it, and would be hidden: {rule}")


def _is_in(path: str, directory: str) -> bool:
    wanted, at = os.stat(directory), os.path.realpath(path)
    while at != os.path.dirname(at):
        at = os.path.dirname(at)
        if os.path.samestat(os.stat(at), wanted):
            return True
    return False


def mounted_at(path: str) -> list[str] | None:
    """Return the fields of /proc/self/mountinfo for the mount that programs find at a path without links; None: there
    is none.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        fields = [line.split(" ") for line in mounts]
    return next((entry for entry in reversed(fields) if _unescaped(entry[4]) == path), None)


def _unescaped(text: str) -> str:
    """Decode octal escapes of blanks and the like."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
