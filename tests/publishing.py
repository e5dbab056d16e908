"""A backend that publishes objects as a whole, over a directory: the behaviour of an object store, without one.

    write_from, truncate, punch_hole  ->  a private copy of the object             forgotten by rollback and crash
    commit                            ->  copy, fsync, rename                      visible, durable

`PublishingBackend` is a real `commit_on_close` backend (it passes the conformance suite), with additions for tests:

    write_unit=            as object stores have it; other limits as keywords
    read_back=False        reads show the last committed content, cut, punched and extended as acknowledged, as
                           stores do that show whole objects only
    fail_commits(...)      the next commits fail. Acknowledged bytes are forgotten then (truncates, holes and sizes
                           are not), or with kept=True are not; with done=True only the answer is lost
    crash()                uncommitted bytes are gone, open files answer ECONNRESET
    visible(key)           the content that another client would read
    violations             the caller's breaches of the protocol: changes of one object side by side, overlapping
                           writes, calls outside of the limits

Each open is a separate session, on the version it found; a commit over any other version gets ESTALE. A session follows
its object when that is renamed, and stays without a name when the name is taken away.
"""

from __future__ import annotations

import builtins
import errno
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pagecache.backends import Backend, BackendFile, BackendLimits, ObjectStat
from pagecache.config import parse_size
from pagecache.errors import BackendError, Key

PIECE = 1 << 20
Range = tuple[int, int]


def copy(source: int, target: int, begin: int, end: int) -> None:
    """Copy bytes [begin, end) from one file to the same place in the other."""
    while begin < end:
        piece = os.pread(source, min(PIECE, end - begin), begin)
        if not piece:
            return
        os.pwrite(target, piece, begin)
        begin += len(piece)


def zero(fd: int, begin: int, end: int) -> None:
    while begin < end:
        begin += os.pwrite(fd, bytes(min(PIECE, end - begin)), begin)


def at_least(fd: int, size: int) -> None:
    if os.fstat(fd).st_size < size:
        os.ftruncate(fd, size)


class PublishingFile(BackendFile):
    """One session on one object. `lock` guards all of it, including in-flight spans."""

    def __init__(self, backend: PublishingBackend, key: Key, base: int | None) -> None:
        self.backend, self.key, self.lock = backend, key, threading.RLock()
        self.version = backend.version_of(base)
        self.work, self.safe = backend.private(), backend.private()
        self.changed = base is None
        self.detached = self.dead = False
        self.in_flight: list[Range] = []
        self.exclusive = ""
        if base is not None:
            for fd in (self.work.fileno(), self.safe.fileno()):
                copy(base, fd, 0, os.fstat(base).st_size)
            os.close(base)

    # ---------------------------------------------------------------- the protocol

    def stat(self) -> ObjectStat:
        with self.alive():
            return ObjectStat(size=self.size(), version=self.version)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        with self.alive():
            source = self.work if self.backend.read_back else self.safe
            at_least(source.fileno(), self.size())
            return os.preadv(source.fileno(), buffers, offset)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        with self.writing("write_from", offset, buffers) as length, self.alive():
            os.pwritev(self.work.fileno(), buffers, offset)
            self.changed = True
            return length

    def truncate(self, size: int) -> None:
        with self.alone("truncate"), self.alive():
            for fd in (self.work.fileno(), self.safe.fileno()):
                os.ftruncate(fd, size)
            self.changed = True

    def punch_hole(self, offset: int, length: int) -> None:
        with self.alone("punch_hole"), self.alive():
            end = min(offset + length, self.size())
            for fd in (self.work.fileno(), self.safe.fileno()):
                zero(fd, offset, min(end, os.fstat(fd).st_size))
            self.changed = True

    def rollback(self) -> None:
        with self.alone("rollback"), self.alive():
            self.restart()

    def commit(self) -> str | None:
        with self.alone("commit"), self.alive():
            failure = self.backend.next_failure()
            if failure is None or failure.done:
                self.publish()
            elif not failure.kept:
                self.forget()
            if failure is not None:
                raise failure.error()
            return self.version

    def close(self) -> None:
        with self.lock:
            for file in (self.work, self.safe):
                file.close()
            self.dead = True

    def __del__(self) -> None:
        if hasattr(self, "safe"):
            self.close()

    # ---------------------------------------------------------------- implementation

    def size(self) -> int:
        return os.fstat(self.work.fileno()).st_size

    def publish(self) -> None:
        """Publish old content and acknowledged bytes under the name, if it still belongs to this object."""
        if not self.changed or self.detached:
            return
        self.version = self.backend.publish(self.key, self.work.fileno(), self.version)
        self.settle()

    def settle(self) -> None:
        """Make the content of `work` the committed one."""
        size = os.fstat(self.work.fileno()).st_size
        os.ftruncate(self.safe.fileno(), 0)
        copy(self.work.fileno(), self.safe.fileno(), 0, size)
        self.changed = False

    def forget(self) -> None:
        """Forget acknowledged bytes, but not truncates, holes and the size."""
        size = os.fstat(self.work.fileno()).st_size
        at_least(self.safe.fileno(), size)
        os.ftruncate(self.work.fileno(), 0)
        copy(self.safe.fileno(), self.work.fileno(), 0, size)
        os.ftruncate(self.work.fileno(), size)

    def restart(self) -> None:
        """Start over from the visible content."""
        os.ftruncate(self.work.fileno(), 0)
        base = self.backend.visible_fd(self.key)
        self.version = self.backend.version_of(base)
        if base is not None:
            copy(base, self.work.fileno(), 0, os.fstat(base).st_size)
            os.close(base)
        self.settle()
        self.changed = base is None

    # ---------------------------------------------------------------- duties of the caller

    @contextmanager
    def alive(self) -> Iterator[None]:
        with self.lock:
            if self.dead:
                raise OSError(errno.ECONNRESET, "the session is gone", self.key)
            yield

    @contextmanager
    def writing(self, op: str, offset: int, buffers: Sequence[memoryview]) -> Iterator[int]:
        length = sum(map(len, buffers))
        end = offset + length
        with self.lock:
            if self.exclusive:
                self.violation(f"{op} at {offset} beside {self.exclusive}")
            if any(offset < high and low < end for low, high in self.in_flight):
                self.violation(f"{op} at {offset} overlaps another one in flight")
            self.check_limits(op, offset, end, buffers)
            self.in_flight.append((offset, end))
        try:
            self.backend.in_transfer(self)
            yield length
        finally:
            with self.lock:
                self.in_flight.remove((offset, end))

    def check_limits(self, op: str, offset: int, end: int, buffers: Sequence[memoryview]) -> None:
        limits = self.backend.limits
        unit, boundary = int(limits.write_unit), int(limits.boundary)
        inside = not self.dead and end < self.size()
        if offset % unit or (inside and end % unit):
            self.violation(f"{op} of [{offset}, {end}): not whole units of {unit}")
        if end - offset > int(limits.max_write) or len(buffers) > limits.max_vectors:
            self.violation(f"{op} of [{offset}, {end}): too much for one call")
        if boundary and offset // boundary != (end - 1) // boundary:
            self.violation(f"{op} of [{offset}, {end}): crosses a multiple of {boundary}")

    @contextmanager
    def alone(self, op: str) -> Iterator[None]:
        with self.lock:
            if self.in_flight or self.exclusive:
                self.violation(f"{op} beside {self.exclusive or self.in_flight}")
            before, self.exclusive = self.exclusive, op
        try:
            self.backend.in_transfer(self)
            yield
        finally:
            with self.lock:
                self.exclusive = before

    def violation(self, what: str) -> None:
        self.backend.violations.append(f"{self.key!r}: {what}")


class Failure:
    """One commit that will fail."""

    def __init__(self, error: BaseException | None, kept: bool, done: bool) -> None:
        self.kept, self.done, self._error = kept, done, error

    def error(self) -> BaseException:
        if self._error is not None:
            return self._error
        return BackendError(errno.EIO, "the commit failed, as the test wants", retry=True, kept=self.kept)


class PublishingBackend(Backend):
    """See the top of this file."""

    def __init__(
        self, root: str | os.PathLike[str], *, write_unit: int | str = 1, read_back: bool = True, **limits: Any
    ) -> None:
        self.root = Path(root)
        unit = parse_size(write_unit, "write_unit")
        limits = {"max_write": max((1 << 20) // unit, 1) * unit, **limits}
        self.limits = BackendLimits(commit_on_close=True, write_unit=unit, **limits)
        self.read_back = read_back
        self.violations: list[str] = []
        self.in_transfer: Callable[[PublishingFile], None] = lambda file: None  # a test may wait here
        self._lock = threading.RLock()  # names, sessions, failures
        self._sessions: weakref.WeakSet[PublishingFile] = weakref.WeakSet()
        self._failures: list[Failure] = []
        self._clock = 0
        (self.root / "objects").mkdir(exist_ok=True)

    # ---------------------------------------------------------------- what tests use

    def fail_commits(
        self, times: int = 1, *, kept: bool = False, done: bool = False, error: BaseException | None = None
    ) -> None:
        with self._lock:
            self._failures += [Failure(error, kept, done) for _ in range(times)]

    def crash(self) -> None:
        with self._lock:
            files = [*self._sessions]
        for file in files:
            file.close()

    def visible(self, key: Key) -> bytes | None:
        """The visible content; None: no such object."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None

    # ---------------------------------------------------------------- the protocol

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> PublishingFile:
        with self._lock:
            base = self.visible_fd(key)
            if base is None and not create:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
            if base is not None and create and exclusive:
                os.close(base)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key)
            file = PublishingFile(self, key, base)
            self._sessions.add(file)
            return file

    def stat(self, key: Key) -> ObjectStat:
        fd = self.visible_fd(key)
        if fd is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        try:
            return ObjectStat(size=os.fstat(fd).st_size, version=self.version_of(fd))
        finally:
            os.close(fd)

    def remove(self, key: Key) -> None:
        with self._lock:
            try:
                self._path(key).unlink()
            except FileNotFoundError:
                if not self._open_files(key):  # otherwise it is not committed yet
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key) from None
            self._detach(key)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        with self._lock:
            following = self._open_files(src)
            if self.visible(src) is None and not following:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), src)
            if self.visible(dst) is not None and not replace:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), dst)
            self._detach(dst)
            fresh = self.visible(src) is None
            if not fresh:
                self._path(src).rename(self._path(dst))
            for file in following:
                file.key = dst
                if fresh and self.visible(dst) is not None:
                    file.version = self.stat(dst).version  # which its commit replaces

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        for path in sorted((self.root / "objects").iterdir()):
            key = unquote(path.name)
            if key.startswith(prefix):
                found = self.stat(key)
                yield ObjectStat(size=found.size, version=found.version, key=key)

    def sync(self) -> None:
        self._sync_names()

    # ---------------------------------------------------------------- implementation

    def _path(self, key: Key) -> Path:
        return self.root / "objects" / quote(str(key), safe="")

    def _sync_names(self) -> None:
        fd = os.open(self.root / "objects", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _open_files(self, key: Key = None) -> builtins.list[PublishingFile]:
        with self._lock:
            return [file for file in self._sessions if not file.dead and not file.detached and key in (None, file.key)]

    def _detach(self, key: Key) -> None:
        for file in self._open_files(key):
            file.detached = True

    def private(self) -> Any:
        """A file that no other session sees and that goes away with its session."""
        return tempfile.TemporaryFile(dir=self.root, buffering=0)

    def visible_fd(self, key: Key) -> int | None:
        try:
            return os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    def version_of(self, fd: int | None) -> str | None:
        """The times of objects never repeat: see `publish`."""
        return None if fd is None else str(os.fstat(fd).st_mtime_ns)

    def publish(self, key: Key, content: int, expected: str | None) -> str | None:
        """Publish content under a name, atomically and durably, if the version is the expected one."""
        with self._lock:
            found = self.visible_fd(key)
            version = self.version_of(found)
            if found is not None:
                os.close(found)
            if version != expected:
                raise OSError(errno.ESTALE, f"expected version {expected}, found {version}", key)
            fd, name = tempfile.mkstemp(dir=self.root)
            try:
                copy(content, fd, 0, os.fstat(content).st_size)
                self._clock = max(self._clock + 1, time.time_ns())
                os.utime(fd, ns=(self._clock, self._clock))
                os.fsync(fd)
                os.rename(name, self._path(key))
                self._sync_names()
                return self.version_of(fd)
            finally:
                os.close(fd)

    def next_failure(self) -> Failure | None:
        with self._lock:
            return self._failures.pop(0) if self._failures else None
