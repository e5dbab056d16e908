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

from .plain import fill

Range = tuple[int, int]


def absent(key: Key) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)


def resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


class PublishingFile(BackendFile):
    """One session on one object. `lock` guards all of it, including in-flight spans."""

    def __init__(self, backend: PublishingBackend, key: Key, base: bytes | None, version: str | None) -> None:
        self.backend, self.key, self.lock = backend, key, threading.RLock()
        self.version, self.changed = version, base is None
        self.work, self.safe = bytearray(base or b""), bytearray(base or b"")
        self.detached = self.dead = False
        self.in_flight: list[Range] = []
        self.exclusive = ""

    # ---------------------------------------------------------------- the protocol

    def stat(self) -> ObjectStat:
        with self.alive():
            return ObjectStat(size=len(self.work), version=self.version)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        with self.alive():
            source = self.work if self.backend.read_back else self.safe
            source.extend(bytes(len(self.work) - len(source)))
            return fill(buffers, source[offset : offset + sum(map(len, buffers))])

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        with self.writing("write_from", offset, buffers) as length, self.alive():
            self.work.extend(bytes(max(0, offset + length - len(self.work))))
            self.work[offset : offset + length] = b"".join(buffers)
            self.changed = True
            return length

    def truncate(self, size: int) -> None:
        with self.alone("truncate"), self.alive():
            for content in (self.work, self.safe):
                resize(content, size)
            self.changed = True

    def punch_hole(self, offset: int, length: int) -> None:
        with self.alone("punch_hole"), self.alive():
            for content in (self.work, self.safe):
                end = min(offset + length, len(content))
                content[offset:end] = bytes(max(0, end - offset))
            self.changed = True

    def rollback(self) -> None:
        with self.alone("rollback"), self.alive():
            base, self.version = self.backend.found(self.key)
            self.work, self.safe = bytearray(base or b""), bytearray(base or b"")
            self.changed = base is None

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
            self.dead = True

    # ---------------------------------------------------------------- implementation

    def publish(self) -> None:
        """Publish old content and acknowledged bytes under the name, if it still belongs to this object."""
        if self.changed and not self.detached:
            self.version = self.backend.publish(self.key, self.work, self.version)
            self.safe, self.changed = bytearray(self.work), False

    def forget(self) -> None:
        """Forget acknowledged bytes, but not truncates, holes and the size."""
        resize(self.safe, len(self.work))
        self.work = bytearray(self.safe)

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
        if offset % unit or (end < len(self.work) and end % unit):
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
        return self.found(key)[0]

    # ---------------------------------------------------------------- the protocol

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> PublishingFile:
        with self._lock:
            base, version = self.found(key)
            if base is None and not create:
                raise absent(key)
            if base is not None and create and exclusive:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), key)
            file = PublishingFile(self, key, base, version)
            self._sessions.add(file)
            return file

    def stat(self, key: Key) -> ObjectStat:
        try:
            found = self._path(key).stat()
        except FileNotFoundError:
            raise absent(key) from None
        return ObjectStat(size=found.st_size, version=str(found.st_mtime_ns))

    def remove(self, key: Key) -> None:
        with self._lock:
            try:
                self._path(key).unlink()
            except FileNotFoundError:
                if not self._open_files(key):  # otherwise it is not committed yet
                    raise absent(key) from None
            self._detach(key)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        with self._lock:
            following = self._open_files(src)
            fresh, there = not self._path(src).exists(), self._path(dst).exists()
            if fresh and not following:
                raise absent(src)
            if there and not replace:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), dst)
            self._detach(dst)
            if not fresh:
                self._path(src).rename(self._path(dst))
            for file in following:
                file.key = dst
                if fresh and there:
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

    def found(self, key: Key) -> tuple[bytes, str] | tuple[None, None]:
        """The visible content and its version. The times of objects never repeat: see `publish`."""
        try:
            with self._path(key).open("rb") as file:
                return file.read(), str(os.fstat(file.fileno()).st_mtime_ns)
        except FileNotFoundError:
            return None, None

    def publish(self, key: Key, content: bytearray, expected: str | None) -> str:
        """Publish content under a name, atomically and durably, if the version is the expected one."""
        with self._lock:
            _, version = self.found(key)
            if version != expected:
                raise OSError(errno.ESTALE, f"expected version {expected}, found {version}", key)
            with tempfile.NamedTemporaryFile(dir=self.root, buffering=0, delete=False) as file:
                file.write(content)
                self._clock = max(self._clock + 1, time.time_ns())
                os.utime(file.fileno(), ns=(self._clock, self._clock))
                os.fsync(file.fileno())
                os.rename(file.name, self._path(key))
                self._sync_names()
                return str(os.fstat(file.fileno()).st_mtime_ns)

    def next_failure(self) -> Failure | None:
        with self._lock:
            return self._failures.pop(0) if self._failures else None
