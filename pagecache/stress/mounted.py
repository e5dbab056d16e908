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

import errno
import io
import mmap
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from pagecache import Advice
from pagecache.errors import set_written
from pagecache.native import names
from pagecache.options import OpenMode
from pagecache.stress.plan import Plan
from pagecache.stress.profiles import shared_names
from pagecache.stress.targets import Held, Target, UnusableTarget

Beside = Callable[[], AbstractContextManager[None]]

PAGE = mmap.PAGESIZE
DIRECT_TRIES = 20
"""A direct read that overlaps a truncate sometimes raises EIO (ext4, Linux 6.18), without any fault of the disk."""


NONE = dict.fromkeys(("change", "lose", "replace", "elsewhere"), "a file system has no foreign writers")
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

    @property
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
    def mapped(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()

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


class Descriptor(io.FileIO):
    """An open file, with the methods of a handle of the cache. `cutting`, `writing`: beside truncates, and writes."""

    def __init__(self, path: Path, flags: int, cutting: Beside = nullcontext, writing: Beside = nullcontext) -> None:
        super().__init__(path, MODES[flags & os.O_ACCMODE], opener=lambda path, _flags: os.open(path, flags, 0o644))
        self.fd = self.fileno()
        self._direct, self._sync = bool(flags & os.O_DIRECT), flags & os.O_DSYNC
        self._cutting, self._writing = cutting, writing

    def __del__(self) -> None:
        self.close()  # a failed round leaves it open

    def pread(self, length: int, offset: int) -> bytes:
        if not self._direct:
            return os.pread(self.fd, length, offset)
        with mmap.mmap(-1, max(length, PAGE)) as room, memoryview(room) as memory, memory[:length] as wanted:
            for left in reversed(range(DIRECT_TRIES)):
                try:
                    return bytes(wanted[: os.preadv(self.fd, [wanted], offset)])
                except OSError as error:
                    if error.errno != errno.EIO or not left:
                        raise
            raise AssertionError

    def whole(self) -> bytes:
        """Return all bytes."""
        return self.pread((os.fstat(self.fd).st_size // PAGE + 2) * PAGE, 0)

    def pread_into(self, room: bytearray, offset: int) -> int:
        return self.preadv([room], offset)

    def preadv(self, rooms: Sequence[bytearray], offset: int) -> int:
        if not self._direct:
            return os.preadv(self.fd, rooms, offset)
        got = self.pread(sum(map(len, rooms)), offset)
        stream = io.BytesIO(got)
        for room in rooms:
            stream.readinto(room)
        return len(got)

    def try_pread(self, *_arguments: object) -> None:
        raise io.UnsupportedOperation(errno.ENOTSUP, "no call that refuses to wait")

    try_pwrite = try_pread

    def pwrite(self, data: bytes | memoryview, offset: int) -> None:
        if not self._direct:
            with self._writing():
                _all(partial(os.pwrite, self.fd), data, offset)
            return
        with mmap.mmap(-1, len(data)) as room, memoryview(room) as memory, self._writing():
            memory[:] = data
            _all(partial(os.pwrite, self.fd), memory, offset)

    def pwritev(self, parts: Sequence[bytes], offset: int) -> None:
        data, done = b"".join(parts), 0
        if not self._direct:
            with self._writing():
                done = os.pwritev(self.fd, parts, offset)
        if done < len(data):
            self.pwrite(data[done:], offset + done)

    def append(self, data: bytes) -> int:
        # By the same object, whatever its name is now; a separate descriptor: its position is the end of the bytes.
        fd = os.open(f"/proc/self/fd/{self.fd}", os.O_WRONLY | os.O_APPEND | self._sync)
        try:
            with self._writing():
                done = os.write(fd, data)
            if done < len(data):
                raise _short(done)
            return os.lseek(fd, 0, os.SEEK_CUR) - done
        finally:
            os.close(fd)

    def truncate(self, size: int | None = None) -> int:
        with self._cutting():
            return super().truncate(size)

    def punch_hole(self, offset: int, length: int) -> None:
        if not names.punch_hole(self.fd, offset, length):
            raise io.UnsupportedOperation(errno.ENOTSUP, "the file system has no holes")

    def zero_range(self, offset: int, length: int) -> None:
        if not names.zero_range(self.fd, offset, length):
            raise io.UnsupportedOperation(errno.ENOTSUP, "the file system cannot zero a range")

    def sync_range(self, _offset: int, _length: int) -> None:
        os.fdatasync(self.fd)

    def fsync(self, timeout: float = 0.0, durability: str = "backend") -> None:
        os.fsync(self.fd)

    def prefetch(self, offset: int, length: int, *, wait: bool) -> None:
        os.posix_fadvise(self.fd, offset, length, os.POSIX_FADV_WILLNEED)

    def drop(self, offset: int, length: int) -> None:
        """Drop cached bytes that are clean; `length` 0: all from an offset on."""
        os.posix_fadvise(self.fd, offset, length, os.POSIX_FADV_DONTNEED)

    def advise(self, advice: Advice, offset: int, length: int) -> None:
        os.posix_fadvise(self.fd, offset, length, ADVICES.get(advice, os.POSIX_FADV_NORMAL))


MODES = {os.O_RDONLY: "rb", os.O_RDWR: "r+b"}
ADVICES = {Advice.RANDOM: os.POSIX_FADV_RANDOM, Advice.SEQUENTIAL: os.POSIX_FADV_SEQUENTIAL}
FLAGS: dict[OpenMode, int] = {"rb": os.O_RDONLY, "r+b": os.O_RDWR, "wb": os.O_RDWR | os.O_CREAT | os.O_TRUNC}
FLAGS |= {"w+b": FLAGS["wb"], "x+b": os.O_RDWR | os.O_CREAT | os.O_EXCL}


class MountedTarget(Target):
    """A directory; see `targets.Target`."""

    shows = True
    edges = (PAGE, 16 * PAGE)

    def __init__(self, plan: Plan, number: int, folder: str) -> None:
        super().__init__(f"path:{folder}")
        self.root = folder
        self._folder = Path(folder) / f"pagecache-stress-{plan.seed}-{number}"
        self._place = _place(folder)
        self.ways = frozenset(
            ("buffered", "through", "views", "append", "truncate", "punch", "names", "hints", "shared", "links")
        )
        if plan.tasks:
            self.skipped["tasks"] = "system calls have no coroutines; threads alone"
        if plan.faults != "none":
            self.skipped["faults"] = "system calls are not made to fail"
        if not os.path.isdir(folder):
            raise UnusableTarget(f"path:{folder}: no such directory")
        self._apart = on_fuse(folder)
        if self._apart:
            self.skipped["writes beside mappings"] = "FUSE: the kernel itself loses bytes of a write there"
        self._handles: list[dict[str, Descriptor]] = []
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
                self.key(number).write_bytes(content)
        except OSError as error:
            raise UnusableTarget(f"{self.name}: no file can be made: {error.strerror}") from error
        self._open()

    def _open(self) -> None:
        for number, mappings in enumerate(self._mappings):
            writing: Beside = mappings.cutting if self._apart and "views" in self.ways else nullcontext
            open_by = partial(Descriptor, self.key(number), cutting=mappings.cutting, writing=writing)
            self._handles.append({"buffered": open_by(os.O_RDWR), "through": open_by(os.O_RDWR | os.O_DSYNC)})
            try:
                self._handles[number]["direct"] = open_by(os.O_RDWR | os.O_DIRECT)
            except OSError as error:
                self.skipped["direct"] = f"O_DIRECT: {error.strerror}"
        if "direct" not in self.skipped:
            self.ways |= {"direct"}
            self.direct_unit = PAGE

    def key(self, what: int | str) -> Path:
        """Return the path of a file, or of a name."""
        return self._folder / (f"file{what}" if isinstance(what, int) else what)

    def check_place(self) -> None:
        if _place(self.root) not in (None, self._place):
            raise UnusableTarget(
                f"{self.name}: another directory has this path since the round began: mount before the run, and unmount"
                f" after it; {self._folder.name!r} is left in the first one"
            )

    def close(self) -> None:
        for ways in self._handles:
            for handle in ways.values():
                handle.close()

    def discard(self) -> None:
        for path in self._folder.iterdir():
            path.unlink()
        self._folder.rmdir()

    # -- what is stored

    def store(self, file: int | str) -> bytes | None:
        direct = "direct" in self.ways
        try:
            handle = Descriptor(self.key(file), os.O_RDONLY | (os.O_DIRECT if direct else 0))
        except FileNotFoundError:
            return None
        with handle:
            if not direct:
                handle.drop(0, 0)
            return handle.whole()

    def everywhere(self, file: int) -> Sequence[tuple[str, Callable[[], bytes]]]:
        handles = self._handles[file]
        return [(f"a {way} descriptor", handles[way].whole) for way in ("buffered", "direct") if way in handles]

    # -- verbs

    def handle(self, file: int, way: str, extra: int = 0) -> Descriptor:
        return self._handles[file][way or "buffered"]

    def view(self, file: int, offset: int, length: int, writable: bool) -> Mapping:
        fd, mappings = self._handles[file]["buffered"].fd, self._mappings[file]
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
        super().copy(file, way, held, offset)

    def sync(self) -> None:
        for ways in self._handles:
            ways["buffered"].fsync()
        for path in (*self._folder.iterdir(), self._folder):
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

    ticket = sync

    def drop(self, file: int, offset: int, length: int) -> None:
        self._handles[file]["buffered"].drop(offset, length)

    def drop_all(self) -> None:
        for file in range(len(self._handles)):
            self.drop(file, 0, 0)

    def invalidate(self, file: int | str, offset: int, length: int) -> None:
        if isinstance(file, int):
            self.fsync(file)
            self.drop(file, offset, length)

    def reopen(self, file: int, offset: int, length: int, direct: bool) -> bytes:
        with Descriptor(self.key(file), os.O_RDONLY) as handle:
            return handle.pread(length, offset)

    # -- names

    def opened(self, name: str, mode: OpenMode) -> AbstractContextManager[Descriptor]:
        return self.enter(name, "", mode)

    def renamed(self, old: str, new: str) -> None:
        self.key(old).rename(self.key(new))

    def removed(self, name: str) -> None:
        self.key(name).unlink()

    def enter(self, name: str, way: str, mode: OpenMode) -> Descriptor:
        return Descriptor(self.key(name), FLAGS[mode] | (os.O_DSYNC if way == "through" else 0))

    def link(self, old: str, new: str) -> None:
        os.link(self.key(old), self.key(new), follow_symlinks=False)

    def symlink(self, leads: str, name: str) -> None:
        os.symlink(leads, self.key(name))

    def link_of(self, name: str) -> str | None:
        try:
            found = os.readlink(self.key(name))
        except OSError:
            return None
        return found if found in shared_names() else None

    def look(self, name: int | str) -> bytes | None:
        try:
            return self.key(name).read_bytes()
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
