"""Calls about FIFOs, sockets and device nodes: making, renaming and removing them, attributes, listings."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from .calls import Recorder, check
from .calls_about_attributes import ELSE, recorded_by

ROOT = os.geteuid() == 0
ZERO = os.makedev(1, 5)
"""The number of /dev/zero."""
LARGE = os.makedev(259, 70_000)
"""A number whose minor part needs more than eight bits."""


def make_socket(path: Path) -> None:
    """Bind a socket by a short name: the length of its address is limited."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


MAKE: dict[str, Callable[[Path], None]] = {
    "fifo": lambda path: os.mkfifo(path, 0o644),
    "socket": make_socket,
    "mknod socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o755),
}
if ROOT:
    MAKE |= {
        "char": lambda path: os.mknod(path, stat.S_IFCHR | 0o640, ZERO),
        "block": lambda path: os.mknod(path, stat.S_IFBLK | 0o600, LARGE),
    }


def seen(path: Path) -> object:
    """Kind and mode, owners, links, size, and the number of a device."""
    found = path.lstat()
    device = found.st_rdev if stat.S_IFMT(found.st_mode) in (stat.S_IFCHR, stat.S_IFBLK) else 0
    return oct(found.st_mode), found.st_uid, found.st_gid, found.st_nlink, found.st_size, device


@check
def special_files(top: Path, record: Recorder) -> None:
    """Each call about each kind of them."""
    for kind, make in MAKE.items():
        folder = top / kind.replace(" ", "-")
        folder.mkdir()
        path, other = folder / "a", folder / "b"
        record(f"{kind}: made", lambda: make(path))
        record(f"{kind}: seen", lambda: seen(path))
        record(f"{kind}: made again", lambda: os.mknod(path, stat.S_IFIFO | 0o600))
        record.nothing(f"{kind}: exclusive", lambda: os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR))
        record(f"{kind}: mkdir", lambda: os.mkdir(path))
        record(f"{kind}: cut", lambda: os.truncate(path, 0))
        record(f"{kind}: listdir", lambda: os.listdir(path))
        record(f"{kind}: readlink", lambda: os.readlink(path))
        record(f"{kind}: rmdir", lambda: os.rmdir(path))
        record(f"{kind}: below it", lambda: os.lstat(path / "below") and None)
        record(f"{kind}: chmod", lambda: (os.chmod(path, 0o1751), seen(path))[1])
        if ROOT:
            record(f"{kind}: chown", lambda: (os.chown(path, 12, 34), seen(path))[1])
        record(
            f"{kind}: utime", lambda: (os.utime(path, ns=(5, 7)), path.stat().st_mtime_ns, path.stat().st_atime_ns)[1:]
        )
        record(f"{kind}: link", lambda: (os.link(path, other), seen(path), seen(other))[1:])
        record(f"{kind}: one number", lambda: path.lstat().st_ino == other.lstat().st_ino)
        record(f"{kind}: chmod by the other name", lambda: (os.chmod(other, 0o604), seen(path))[1])
        record(f"{kind}: unlink", lambda: (os.unlink(path), seen(other))[1])
        record(f"{kind}: rename", lambda: (os.rename(other, path), seen(path))[1])
        record(f"{kind}: gone", lambda: seen(other))
        record(f"{kind}: user attribute", lambda: os.setxattr(path, "user.a", b"1"))
        record(f"{kind}: no user attribute", lambda: os.getxattr(path, "user.a"))
        if ROOT:
            record(f"{kind}: trusted attribute", lambda: os.setxattr(path, "trusted.a", b"1"))
            record(f"{kind}: trusted attribute: found", lambda: os.getxattr(path, "trusted.a"))
            record(f"{kind}: trusted attribute: gone", lambda: os.removexattr(path, "trusted.a"))
        record(f"{kind}: a link to it", lambda: (os.symlink("a", other), oct(other.stat().st_mode))[1])
        record(f"{kind}: access", lambda: [os.access(path, how) for how in (os.R_OK, os.W_OK, os.X_OK)])
        record(f"{kind}: removed", lambda: (os.unlink(path), os.listdir(folder))[1])


@check
def numbers_of_devices(top: Path, record: Recorder) -> None:
    if not ROOT:
        return
    for number in (0, os.makedev(0, 1), os.makedev(255, 255), os.makedev(4095, (1 << 20) - 1)):
        record(f"number {number:#x}", lambda: os.mknod(top / f"d{number:x}", stat.S_IFBLK, number))
        record(f"number {number:#x}: seen", lambda: (top / f"d{number:x}").lstat().st_rdev)


@check
def modes_of_special_files(top: Path, record: Recorder) -> None:
    """Modes follow the umask and the directory."""
    for mask in (0, 0o022, 0o777):
        before = os.umask(mask)
        for bits in (0, 0o644, 0o666, 0o6777, 0o1777):
            path = top / f"{mask:o}-{bits:o}"
            record(f"mknod {mask:o} {bits:o}", lambda: os.mknod(path, stat.S_IFIFO | bits))
            record("mode", lambda: oct(path.lstat().st_mode))
        os.umask(before)
    (top / "group").mkdir()
    if ROOT:
        os.chown(top / "group", 0, 34)
    (top / "group").chmod(0o2775)
    for kind, make in MAKE.items():
        path = top / "group" / kind.replace(" ", "-")
        record(f"in a setgid directory: {kind}", lambda: (make(path), seen(path))[1])
    record("of a kind that there is not", lambda: os.mknod(top / "odd", 0o170000 | 0o600))
    record("of a directory", lambda: os.mknod(top / "odd", stat.S_IFDIR | 0o700))


@check
def special_files_of_others(top: Path, record: Recorder) -> None:
    if not ROOT:
        return
    (top / "open").mkdir()
    (top / "open").chmod(0o777)
    program = (
        ELSE
        + """
os.chdir("open")
tell("fifo", lambda: os.mkfifo("fifo", 0o666) or seen("fifo"))
tell("socket", lambda: os.mknod("socket", stat.S_IFSOCK | 0o666) or seen("socket"))
tell("char", lambda: os.mknod("char", stat.S_IFCHR | 0o666, os.makedev(1, 5)))
tell("block", lambda: os.mknod("block", stat.S_IFBLK | 0o666, os.makedev(7, 0)))
"""
    )
    recorded_by(program, top, record)
