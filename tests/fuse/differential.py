"""One random script of calls on a mount and on tmpfs: the programs see the same results, errors, bytes and links.

    script(seed)  ->  calls ──> a process ──> the call below the mount  ──> result  ┐
                                         └──> the call below tmpfs      ──> result  ┴─> equal

A call names a file by a path or by the slot of an open file. Both are drawn without regard to what exists, so many
calls fail, on both sides alike. Several processes make the calls in turn, and each has its own open files.
"""

from __future__ import annotations

import errno
import mmap
import multiprocessing
import os
import random
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pagecache.native import names

__all__ = ["Call", "content", "programs", "script"]

AT_FDCWD = -100
PATHS = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a"]
SLOTS = 4
MODES = [0o600, 0o644, 0o755, 0o640]
SIZES = [0, 1, 100, 4096, 5000, 12_288, 70_000]
ACCESS = [
    *(os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_TRUNC, os.O_WRONLY | os.O_APPEND),
    *(os.O_RDONLY | os.O_NOFOLLOW, os.O_RDONLY | os.O_DIRECTORY),
]
CREATE = [
    *(os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    os.O_RDWR | os.O_CREAT | os.O_APPEND,
]
SET_TIMES = 10**9 * 10**9
"""Times in nanoseconds that a program sets are before this one, those of changes after it."""
Call = tuple[Any, ...]


def status(found: os.stat_result) -> Call:
    """The fields that both sides have in common: not the size of a directory, nor the time of a FIFO, whose bytes never
    reach the server of a mount.
    """
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFIFO:
        return kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_nlink
    size, links = (None, None) if kind == stat.S_IFDIR else (found.st_size, found.st_nlink)
    times = [ns if ns < SET_TIMES else "now" for ns in (found.st_mtime_ns,)]
    return kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, size, links, times


def _stored(fd: int, byte: int, offset: int) -> None:
    """Write through a shared mapping."""
    size = os.fstat(fd).st_size
    if size > offset and stat.S_ISREG(os.fstat(fd).st_mode):
        with mmap.mmap(fd, 0) as mapped:
            mapped[offset : min(offset + 100, size)] = bytes([byte]) * (min(offset + 100, size) - offset)
            mapped.flush()


def _loaded(fd: int, offset: int) -> bytes:
    """Read through a mapping."""
    if os.fstat(fd).st_size <= offset or not stat.S_ISREG(os.fstat(fd).st_mode):
        return b"behind the end"
    with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped:
        return mapped[offset : offset + 100]


def _sought(fd: int, offset: int, whence: int) -> int:
    if whence == os.SEEK_END and stat.S_ISDIR(os.fstat(fd).st_mode):
        whence = os.SEEK_SET  # the end of a directory is a matter of its file system
    return os.lseek(fd, offset, whence)


def _scanned(path: str) -> list[tuple[str, Call]]:
    with os.scandir(path) as entries:
        return sorted((entry.name, status(entry.stat(follow_symlinks=False))) for entry in entries)


def _synced(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


ON_SLOTS: dict[str, Callable[..., Any]] = {
    "write": lambda fd, byte, length: os.write(fd, bytes([byte]) * length),
    "pwrite": lambda fd, byte, length, offset: os.pwrite(fd, bytes([byte]) * length, offset),
    "read": os.read,
    "pread": os.pread,
    "seek": _sought,
    "ftruncate": os.ftruncate,
    "fsync": os.fsync,
    "fdatasync": os.fdatasync,
    "fstat": lambda fd: status(os.fstat(fd)),
    "fchmod": os.fchmod,
    "futime": lambda fd, seconds: os.utime(fd, (seconds, seconds)),
    "load": _loaded,
    "store": _stored,
}
"""Calls about an open file, by its descriptor."""
ON_PATHS: dict[str, Callable[..., Any]] = {
    "truncate": os.truncate,
    "stat": lambda path: status(os.stat(path)),
    "lstat": lambda path: status(os.lstat(path)),
    "access": lambda path: os.access(path, os.R_OK | os.W_OK),
    "entries": lambda path: sorted(os.listdir(path)),
    "scan": _scanned,
    "unlink": os.unlink,
    "mkdir": lambda path: os.mkdir(path, 0o755),
    "rmdir": os.rmdir,
    "symlink": lambda path, target: os.symlink(target, path),
    "readlink": os.readlink,
    "fifo": lambda path: os.mkfifo(path, 0o600),
    "sync_directory": _synced,
    "chmod": os.chmod,
    "chown": lambda path, group: os.chown(path, -1, group, follow_symlinks=False),
    "utime": lambda path, seconds: os.utime(path, (seconds, seconds), follow_symlinks=False),
    "setxattr": os.setxattr,
    "getxattr": os.getxattr,
    "listxattr": lambda path: sorted(os.listxattr(path)),
    "removexattr": os.removexattr,
}
"""Calls about a name."""
ON_TWO_PATHS: dict[str, Callable[[str, str], Any]] = {
    "rename": os.rename,
    "rename_noreplace": lambda path, other: names.rename_noreplace(AT_FDCWD, path, AT_FDCWD, other),
    "link": lambda path, other: os.link(path, other, follow_symlinks=False),
}


class Program:
    """The open files of a process below one root, and its calls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[int, int] = {}

    def make(self, call: Call) -> Any:
        """The result of a call, or the name of its errno."""
        name, first, *rest = call
        try:
            if name in ON_SLOTS:
                return ON_SLOTS[name](self.files[first], *rest)
            if name in ON_PATHS:
                return ON_PATHS[name](self._at(first), *rest)
            if name in ON_TWO_PATHS:
                return ON_TWO_PATHS[name](self._at(first), self._at(*rest))
            return getattr(self, name)(first, *rest)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        except KeyError:
            return "no such slot"

    def end(self) -> None:
        for fd in self.files.values():
            os.close(fd)

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path)

    def _keep(self, slot: int, fd: int) -> None:
        self.close(slot)
        self.files[slot] = fd

    def open(self, slot: int, path: str, flags: int, mode: int = 0o644) -> None:
        self._keep(slot, os.open(self._at(path), flags | os.O_NONBLOCK, mode))  # a FIFO must not block

    create = open

    def close(self, slot: int) -> None:
        if slot in self.files:
            os.close(self.files.pop(slot))

    def reopen(self, slot: int, flags: int) -> None:
        self._keep(slot, os.open(f"/proc/self/fd/{self.files[slot]}", flags | os.O_NONBLOCK))

    def duplicate(self, slot: int, other: int) -> None:
        self._keep(other, os.dup(self.files[slot]))

    def copy(self, slot: int, other: int, length: int) -> int:
        return os.copy_file_range(self.files[slot], self.files[other], length)


CALLS = {
    **dict.fromkeys(("create", "open", "write", "pwrite", "rename", "unlink"), 5),
    **dict.fromkeys(("close", "pread", "read", "mkdir", "link", "symlink", "ftruncate", "truncate", "stat"), 3),
    **dict.fromkeys(("reopen", "duplicate", "seek", "copy", "fsync", "fdatasync", "fstat", "load", "store"), 2),
    **dict.fromkeys(
        ("lstat", "entries", "scan", "rename_noreplace", "rmdir", "readlink", "fchmod", "futime", "chmod"), 2
    ),
    **dict.fromkeys(("access", "fifo", "sync_directory", "chown", "utime"), 1),
    **dict.fromkeys(("setxattr", "getxattr", "listxattr", "removexattr"), 1),
}
"""All calls, and how often each is drawn."""


def script(seed: int, length: int, left_out: Collection[str] = ()) -> list[Call]:
    """A random script without some calls."""
    rng = random.Random(seed)
    kinds = [name for name in CALLS if name not in left_out]
    weights = [CALLS[name] for name in kinds]
    return [_drawn(rng, name) for name in rng.choices(kinds, weights, k=length)]


def _drawn(rng: random.Random, name: str) -> Call:
    slot, path, other = rng.randrange(SLOTS), rng.choice(PATHS), rng.choice(PATHS)
    offset = rng.choice(SIZES) + rng.randrange(3)
    length = rng.choice(SIZES)
    byte = rng.randrange(256)
    xattr = f"user.{rng.choice('xy')}"
    seconds = rng.randrange(10**6)
    arguments: dict[str, tuple[Any, ...]] = {
        "open": (slot, path, rng.choice(ACCESS)),
        "create": (slot, path, rng.choice(CREATE)),
        "reopen": (slot, rng.choice(ACCESS[:4])),
        "duplicate": (slot, rng.randrange(SLOTS)),
        "write": (slot, byte, length),
        "pwrite": (slot, byte, length, offset),
        "read": (slot, length),
        "pread": (slot, length, offset),
        "seek": (slot, offset, rng.choice([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END])),
        "copy": (slot, rng.randrange(SLOTS), length),
        "ftruncate": (slot, offset),
        "truncate": (path, offset),
        "load": (slot, offset),
        "store": (slot, byte, offset),
        "fchmod": (slot, rng.choice(MODES)),
        "futime": (slot, seconds),
        "symlink": (path, rng.choice(["a", "b", "d", "e", "d/a", "nowhere"])),
        "chmod": (path, rng.choice(MODES)),
        "chown": (path, rng.choice([0, 1, 2])),
        "utime": (path, seconds),
        "setxattr": (path, xattr, bytes([byte]) * 5, rng.choice([0, os.XATTR_CREATE, os.XATTR_REPLACE])),
        "getxattr": (path, xattr),
        "removexattr": (path, xattr),
        **dict.fromkeys(("rename", "rename_noreplace", "link"), (path, other)),
        **dict.fromkeys(("close", "fsync", "fdatasync", "fstat"), (slot,)),
    }
    return (name, *arguments.get(name, (path,)))


class Programs:
    """Processes that make calls in turn, below several roots each."""

    def __init__(self, roots: Sequence[Path], count: int) -> None:
        context = multiprocessing.get_context("fork")
        self._ends: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(roots, theirs), daemon=True)
            process.start()
            theirs.close()
            self._ends.append(ours)
            self._processes.append(process)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.pid is not None]

    def make(self, number: int, call: Call) -> list[Any]:
        """The results of a call by one of the processes: one for each root."""
        end = self._ends[number % len(self._ends)]
        end.send(call)
        results: list[Any] = end.recv()
        return results

    def end(self) -> None:
        for end in self._ends:
            end.send(None)
        for process in self._processes:
            process.join()


def _serve(roots: Sequence[Path], end: Connection) -> None:
    os.umask(0o022)
    programs = [Program(root) for root in roots]
    while (call := end.recv()) is not None:
        end.send([program.make(call) for program in programs])
    for program in programs:
        program.end()


@contextmanager
def programs(roots: Sequence[Path], count: int) -> Iterator[Programs]:
    made = Programs(roots, count)
    try:
        yield made
    finally:
        made.end()


def _xattrs(path: Path) -> dict[str, bytes]:
    try:
        return {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
    except OSError:
        return {}


def content(root: Path) -> dict[str, Any]:
    """Everything below a root: status, target or bytes, extended attributes."""
    found: dict[str, Any] = {}
    for folder, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(folder) / name
            kind = path.lstat().st_mode
            what: object = None
            if stat.S_ISLNK(kind):
                what = os.readlink(path)
            elif stat.S_ISREG(kind):
                what = path.read_bytes()
            found[str(path.relative_to(root))] = (status(path.lstat()), what, _xattrs(path))
    return found
