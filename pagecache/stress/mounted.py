"""A directory of the operating system as a target: `path:DIR`, by the system calls that programs use.

    way         calls
    buffered    pread, preadv, pwrite, pwritev
    direct      pread and pwrite with O_DIRECT, on whole pages, if the file system has it
    through     pwrite with O_DSYNC
    append      write with O_APPEND; the file position gives the offset
    views       mmap, shared: read, stored to, and used as the source of writes

Access to a mapping past the end of its file raises a signal and not an error, so truncates wait for mappings, and
mappings for truncates. On FUSE writes wait as well: the kernel may drop a page whose bytes a write has not sent yet; a
mapping then reads the old bytes into the page, and writes the whole page back (docs/how-to/mount.md). All other calls
overlap freely. The stored bytes are read with O_DIRECT, or without it after dropping the pages.
"""

from __future__ import annotations

import ctypes
import errno
import io
import mmap
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from pagecache.backends import linux
from pagecache.errors import DataLossError, set_written
from pagecache.options import OpenMode
from pagecache.stress.plan import Plan
from pagecache.stress.profiles import Edges, shared_names
from pagecache.stress.targets import FULL, Held, UnusableTarget

__all__ = ["MountedTarget"]

HINTS = FULL | {
    errno.EIO: "Linux says this to O_DIRECT beside a mapping of the same page, and to a sync after it: leave one of "
    "the two out, for example with --mix buffered,views,append,truncate,punch"
}

PAGE = mmap.PAGESIZE
READ_ALL = 1 << 30
DIRECT_TRIES = 20
"""A direct read that overlaps a truncate sometimes raises EIO (ext4, Linux 6.18), without any fault of the disk."""


NONE = dict.fromkeys(("try_read", "try_write"), "no call that refuses to wait")
NONE |= dict.fromkeys(("change", "lose", "replace", "elsewhere"), "a file system has no foreign writers")
NONE["tear"] = "system calls are not asked for it"
"""Verb that a directory does not have -> the reason."""


class Mapping:
    """A range of a file in memory. See `targets.Held`."""

    detached = False

    def __init__(self, fd: int, offset: int, length: int, release: Callable[[], None], *, writable: bool) -> None:
        before = offset % mmap.ALLOCATIONGRANULARITY
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._map = mmap.mmap(fd, before + length, access=access, offset=offset - before)
        self._memory = memoryview(self._map)[before:]
        self._release = release

    def tobytes(self) -> bytes:
        return self._memory.tobytes()

    def store(self, at: int, data: bytes) -> None:
        self._memory[at : at + len(data)] = data

    def segments(self) -> Sequence[memoryview]:
        return (self._memory,)

    def release(self) -> None:
        self._memory.release()
        self._map.close()
        self._release()


class Mappings:
    """Mappings of a file, or truncates and writes of it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._mapped = 0
        self._cutting = 0

    def enter(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._cutting)
            self._mapped += 1

    def leave(self) -> None:
        with self._changed:
            self._mapped -= 1
            self._changed.notify_all()

    @contextmanager
    def cutting(self) -> Iterator[None]:
        with self._changed:
            self._cutting += 1
            self._changed.wait_for(lambda: not self._mapped)
        try:
            yield
        finally:
            with self._changed:
                self._cutting -= 1
                self._changed.notify_all()


class Descriptor:
    """An open file on a shared name; see `targets.Target.enter`."""

    def __init__(self, path: Path, flags: int) -> None:
        self._fd = os.open(path, os.O_RDWR | flags, 0o644)

    def pread(self, length: int, offset: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def pwrite(self, data: bytes, offset: int) -> None:
        _all(partial(os.pwrite, self._fd), data, offset)

    def append(self, data: bytes) -> int:
        # By the same object, whatever its name is now; a separate descriptor: its position is the end of the bytes.
        fd = os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_APPEND)
        try:
            done = os.write(fd, data)
            if done < len(data):
                raise _short(done)
            return os.lseek(fd, 0, os.SEEK_CUR) - done
        finally:
            os.close(fd)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def fsync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


FLAGS = {"r+b": 0, "w+b": os.O_CREAT | os.O_TRUNC, "x+b": os.O_CREAT | os.O_EXCL}


class MountedTarget:
    """A directory; see `targets.Target`."""

    moves = detaches = False
    exact = False
    explained: frozenset[int] = frozenset()
    refused: frozenset[int] = frozenset()
    loses_direct = False
    withholds = False
    shows = True
    store_unit = 1
    tasks = None
    by_name = creates_unasked = False

    def __init__(self, plan: Plan, number: int, folder: str) -> None:
        self._files = plan.files
        self.root = folder
        self._folder = Path(folder) / f"pagecache-stress-{plan.seed}-{number}"
        self._place = _place(folder)
        self.name = f"path:{folder}"
        self.edges = Edges((PAGE, 16 * PAGE))
        self.skipped: dict[str, str] = {}
        self.direct_unit = 1
        self.losses: list[DataLossError] = []
        self.repairs: Counter[str] = Counter()
        self.remarks: list[str] = []
        self.hints = HINTS
        self.ways = frozenset({"buffered", "through", "views", "append", "truncate", "punch", "names", "hints"}) | {
            "shared",
            "links",
        }
        if plan.tasks:
            self.skipped["tasks"] = "system calls have no coroutines; threads alone"
        if plan.faults != "none":
            self.skipped["faults"] = "system calls are not made to fail"
        if not os.path.isdir(folder):
            raise UnusableTarget(f"path:{folder}: no such directory")
        self._apart = on_fuse(folder)
        if self._apart:
            self.skipped["writes beside mappings"] = "FUSE: the kernel itself loses bytes of a write there"
        self._fds: list[dict[str, int]] = []
        self._mappings = [Mappings() for _ in range(plan.files)]

    def __getattr__(self, verb: str) -> Any:
        if verb in NONE:
            raise io.UnsupportedOperation(errno.ENOTSUP, NONE[verb])
        raise AttributeError(verb)

    # -- beginning and end

    def start(self, contents: Sequence[bytes]) -> None:
        try:
            if self._folder.is_dir():  # left by a failed run with this seed and round
                shutil.rmtree(self._folder)
            self._folder.mkdir()
        except OSError as error:
            raise UnusableTarget(f"{self.name}: {error.strerror}: {self._folder}") from error
        try:
            for number, content in enumerate(contents):
                self._path(number).write_bytes(content)
        except OSError as error:
            hint = f": {self.hints[error.errno]}" if error.errno in self.hints else ""
            raise UnusableTarget(f"{self.name}: no file can be made: {error.strerror}{hint}") from error
        self._open()

    def _open(self) -> None:
        for number in range(self._files):
            path = self._path(number)
            self._fds.append({"buffered": os.open(path, os.O_RDWR), "through": os.open(path, os.O_RDWR | os.O_DSYNC)})
        try:
            for number, fds in enumerate(self._fds):
                fds["direct"] = os.open(self._path(number), os.O_RDWR | os.O_DIRECT)
        except OSError as error:
            self.skipped["direct"] = f"O_DIRECT: {error.strerror}"
        else:
            self.ways |= {"direct"}
            self.direct_unit = PAGE

    def key(self, what: int | str) -> Path:
        """Return the path of a file, or of a name."""
        return self._path(what)

    def _path(self, what: int | str) -> Path:
        return self._folder / (f"file{what}" if isinstance(what, int) else what)

    def check_place(self) -> None:
        """Check that the path still leads to the directory in which the round began.

        Raises:
            UnusableTarget: it leads to another one, which explains any finding.
        """
        if _place(self.root) not in (None, self._place):
            raise UnusableTarget(
                f"{self.name}: another directory has this path since the round began: mount before the run, and unmount"
                f" after it; {self._folder.name!r} is left in the first one"
            )

    def calm(self) -> None:
        """Do nothing: there are no faults."""

    stir = check = calm

    def close(self) -> None:
        for fds in self._fds:
            for fd in fds.values():
                os.close(fd)

    give_up = close

    def discard(self) -> None:
        for path in self._folder.iterdir():
            path.unlink()
        self._folder.rmdir()

    # -- what is stored

    def store(self, file: int | str) -> bytes | None:
        path = self._path(file)
        try:
            fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if "direct" in self.ways else 0))
        except FileNotFoundError:
            return None
        try:
            if "direct" in self.ways:
                return self._read_direct(fd, 0, (os.fstat(fd).st_size // PAGE + 2) * PAGE)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return os.pread(fd, READ_ALL, 0)
        finally:
            os.close(fd)

    def everywhere(self, file: int) -> Sequence[tuple[str, Callable[[], bytes]]]:
        ways = [way for way in ("buffered", "direct") if way in self._fds[file]]
        return [(f"a {way} descriptor", partial(self._whole, file, way)) for way in ways]

    def _whole(self, file: int, way: str) -> bytes:
        size = os.fstat(self._fds[file]["buffered"]).st_size
        return self.read(file, way, 0, (size // PAGE + 2) * PAGE, 0)

    # -- verbs

    def read(self, file: int, way: str, offset: int, length: int, extra: int) -> bytes:
        fd = self._fds[file][way or "buffered"]
        return self._read_direct(fd, offset, length) if way == "direct" else os.pread(fd, length, offset)

    @staticmethod
    def _read_direct(fd: int, offset: int, length: int) -> bytes:
        with mmap.mmap(-1, max(length, PAGE)) as room, memoryview(room) as memory, memory[:length] as wanted:
            for left in reversed(range(DIRECT_TRIES)):
                try:
                    return bytes(wanted[: os.preadv(fd, [wanted], offset)])
                except OSError as error:
                    if error.errno != errno.EIO or not left:
                        raise
            raise AssertionError

    def readv(self, file: int, way: str, offset: int, length: int, extra: int) -> bytes:
        if way == "direct":
            return self.read(file, way, offset, length, extra)
        cut = extra % (length + 1)
        rooms = [bytearray(cut), bytearray(length - cut)]
        done = os.preadv(self._fds[file][way or "buffered"], rooms, offset)
        return b"".join(rooms)[:done]

    def _writing(self, file: int) -> AbstractContextManager[None]:
        return self._mappings[file].cutting() if self._apart and "views" in self.ways else nullcontext()

    def write(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None:
        fd = self._fds[file][way or "buffered"]
        if way != "direct":
            with self._writing(file):
                _all(partial(os.pwrite, fd), data, offset)
            return
        with mmap.mmap(-1, len(data)) as room, memoryview(room) as memory, self._writing(file):
            memory[:] = data
            _all(partial(os.pwrite, fd), memory, offset)

    def writev(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None:
        if way == "direct":
            self.write(file, way, offset, data, extra)
            return
        cut = extra % (len(data) + 1)
        with self._writing(file):
            done = os.pwritev(self._fds[file][way or "buffered"], [data[:cut], data[cut:]], offset)
        if done < len(data):
            self.write(file, way, offset + done, data[done:], extra)

    def append(self, file: int, way: str, data: bytes) -> int:
        # A separate descriptor: its position afterwards is the end of the appended bytes.
        fd = os.open(self._path(file), os.O_WRONLY | os.O_APPEND | (os.O_DSYNC if way == "through" else 0))
        try:
            with self._writing(file):
                done = os.write(fd, data)
            if done < len(data):
                raise _short(done)
            return os.lseek(fd, 0, os.SEEK_CUR) - done
        finally:
            os.close(fd)

    def view(self, file: int, offset: int, length: int, writable: bool) -> Held:
        fd, mappings = self._fds[file]["buffered"], self._mappings[file]
        mappings.enter()
        try:
            if offset + length > os.fstat(fd).st_size:
                raise ValueError(f"[{offset}, {offset + length}) is not in the file")
            return Mapping(fd, offset, length, mappings.leave, writable=writable)
        except BaseException as error:
            mappings.leave()
            if isinstance(error, OSError) and error.errno == errno.ENODEV:
                raise io.UnsupportedOperation(errno.ENOTSUP, "the file system has no shared mappings") from None
            raise

    def copy(self, file: int, way: str, held: Held, offset: int) -> None:
        if self._apart:
            raise io.UnsupportedOperation(errno.ENOTSUP, "FUSE: a write out of a mapping of its own file")
        fd = self._fds[file]["buffered"]
        for segment in held.segments():
            _all(partial(os.pwrite, fd), segment, offset)
            offset += len(segment)

    def truncate(self, file: int, size: int, way: str = "buffered") -> None:
        with self._mappings[file].cutting():
            os.ftruncate(self._fds[file][way], size)

    def punch(self, file: int, offset: int, length: int, way: str = "buffered") -> None:
        if not linux.punch_hole(self._fds[file][way], offset, length):
            raise io.UnsupportedOperation(errno.ENOTSUP, "the file system has no holes")

    def zero(self, file: int, offset: int, length: int, way: str = "buffered") -> None:
        zero_range(self._fds[file][way], offset, length)

    def flush(self, file: int, way: str = "buffered") -> None:
        """Do nothing: writes go to the system at once."""

    def sync_range(self, file: int, offset: int, length: int, way: str = "buffered") -> None:
        os.fdatasync(self._fds[file][way])

    def fsync(self, file: int, way: str = "buffered") -> None:
        os.fsync(self._fds[file][way])

    def sync(self) -> None:
        for fds in self._fds:
            os.fsync(fds["buffered"])
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            for path in self._folder.iterdir():
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ELOOP):  # removed since, or a symbolic link
                        raise
                    continue
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            os.fsync(folder)
        finally:
            os.close(folder)

    ticket = sync

    def drop(self, file: int, offset: int, length: int) -> None:
        os.posix_fadvise(self._fds[file]["buffered"], offset, length, os.POSIX_FADV_DONTNEED)

    def drop_all(self) -> None:
        for file in range(self._files):
            self.drop(file, 0, 0)

    def invalidate(self, file: int | str, offset: int, length: int) -> None:
        if isinstance(file, int):
            self.fsync(file)
            self.drop(file, offset, length)

    def prefetch(self, file: int, offset: int, length: int, wait: bool, way: str = "buffered") -> None:
        os.posix_fadvise(self._fds[file][way], offset, length, os.POSIX_FADV_WILLNEED)

    def advise(self, file: int, offset: int, length: int, extra: int, way: str = "buffered") -> None:
        advices = (os.POSIX_FADV_RANDOM, os.POSIX_FADV_SEQUENTIAL, os.POSIX_FADV_NORMAL)
        os.posix_fadvise(self._fds[file][way], offset, length, advices[extra % 3])

    def reopen(self, file: int, offset: int, length: int, direct: bool) -> bytes:
        fd = os.open(self._path(file), os.O_RDONLY)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    # -- names

    def publish(self, name: str, data: bytes, extra: int) -> None:
        path = self._path(name)
        if extra % 2:
            path.write_bytes(data)
            return
        beside = self._path(f"{name}-new")
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            if extra % 4:
                os.fsync(file.fileno())
        beside.rename(path)

    def rename(self, old: str, new: str, hold: bool = False) -> bytes | None:
        return self._holding(old, hold, lambda: self._path(old).rename(self._path(new)))

    def remove(self, name: str, hold: bool = False) -> bytes | None:
        return self._holding(name, hold, self._path(name).unlink)

    def _holding(self, name: str, hold: bool, call: Callable[[], object]) -> bytes | None:
        """Make a call; with `hold`, read afterwards from a descriptor that was opened before."""
        if not hold:
            call()
            return None
        with self._path(name).open("rb") as held:
            call()
            return held.read()

    def enter(self, name: str, way: str, mode: OpenMode) -> Descriptor:
        return Descriptor(self._path(name), FLAGS[mode] | (os.O_DSYNC if way == "through" else 0))

    def link(self, old: str, new: str) -> None:
        os.link(self._path(old), self._path(new), follow_symlinks=False)

    def symlink(self, leads: str, name: str) -> None:
        os.symlink(leads, self._path(name))

    def link_of(self, name: str) -> str | None:
        try:
            found = os.readlink(self._path(name))
        except OSError:
            return None
        return found if found in shared_names() else None

    def act(self, handle: Descriptor, call: str, *arguments: Any) -> Any:
        return getattr(handle, call)(*arguments)

    def has_compared(self, handle: Descriptor) -> bool:
        return True

    def settle(self, name: str) -> None:
        """Do nothing: no other program stores versions."""

    def reported_losses(self, file: int) -> list[tuple[str, list[tuple[int, int]]]]:
        return []

    def look(self, name: str) -> bytes | None:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None


def _place(folder: str) -> tuple[int, int] | None:
    """Return the identity of a directory; None: there is none, or its server has died."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def on_fuse(folder: str) -> bool:
    """Return whether a process serves the directory."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        fields = [line.split() for line in mounts]
    return any(entry[2] == number and entry[entry.index("-") + 1].startswith("fuse") for entry in fields)


def _all(write: Callable[[bytes | memoryview, int], int], data: bytes | memoryview, offset: int) -> None:
    """Write everything; an error reports how much was written."""
    memory, done = memoryview(data), 0
    while done < len(memory):
        try:
            count = write(memory[done:], offset + done)
        except OSError as error:
            set_written(error, done)
            raise
        if not count:
            raise _short(done)
        done += count


def _short(done: int) -> OSError:
    error = OSError(errno.EIO, "a short write")
    set_written(error, done)
    return error


def zero_range(fd: int, offset: int, length: int) -> None:
    """Zero a range with FALLOC_FL_ZERO_RANGE, keeping the size.

    Raises:
        io.UnsupportedOperation: the file system does not have it.
    """
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
    if call(fd, 0x10 | 0x01, offset, length):
        number = ctypes.get_errno()
        if number in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise io.UnsupportedOperation(number, "the file system cannot zero a range")
        raise OSError(number, os.strerror(number))
