"""Calls of the conformance suite on a backend: as the cache makes them, within its limits, repeated after short
results.
"""

from __future__ import annotations

import inspect
import io
import math
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ..backends.plain import completed
from ..backends.protocol import Backend, BackendFile, BackendLimits
from ..errors import BackendError, Key
from .checks import fixture, skip

ZERO_ANSWERS_MAX = 3
Opened = Callable[..., BackendFile]
"""The function of the fixture `opened`."""

# Sources of promises, for the marker `promise`.
GUIDE = "docs/how-to/backend.md"
BUFFERS = f"{GUIDE}, rule 1 (buffers are borrowed)"
COUNT = f"{GUIDE}, rule 2 (count honestly)"
REPEAT = f"{GUIDE}, rule 3 (repeating is harmless)"
END = f"{GUIDE}, rule 4 (past the end)"
REFLECT = f"{GUIDE}, rule 5 (reads reflect)"
COMMIT = f"{GUIDE}, rule 6 (commit makes durable)"
VERSIONS = f"{GUIDE}, rule 7 (versions)"
ONE = f"{GUIDE}, rule 8 (one object)"
CONCURRENT = f"{GUIDE}, what you may rely on"
LIMITS = f"{GUIDE}, limits"
OPTIONAL = f"{GUIDE}, optional methods"
METHODS = "pagecache.backends.protocol, Backend"
NAMES = "docs/contract.md 2.20"


def content(length: int, seed: int) -> bytes:
    """Return bytes that differ at every position and for every seed."""
    return random.Random(seed).randbytes(length)


def limits_of(backend: Backend, file: BackendFile) -> BackendLimits:
    """Return the limits of one call on this file."""
    limits: BackendLimits = getattr(file, "limits", backend.limits)
    return limits


def supported(call: Callable[[], Any]) -> Any:
    """Return the result of an optional operation, or skip."""
    try:
        return call()
    except io.UnsupportedOperation as error:
        skip(f"the backend says: {error}")


def transfer(backend: Backend, file: BackendFile, verb: str, offset: int, data: memoryview) -> int:
    """Move bytes as the cache does; return their number, which is smaller only if a read reached the end."""
    limits, done = limits_of(backend, file), 0
    boundary, most = int(limits.boundary), int(limits.max_read if verb.startswith("read") else limits.max_write)
    while done < len(data):
        at = offset + done
        room = min(most, boundary - at % boundary) if boundary else most
        part = data[done : done + room]
        for _ in range(ZERO_ANSWERS_MAX):
            moved = getattr(file, verb)(at, [part])
            assert isinstance(moved, int), f"{verb} answered {moved!r}, which is no count"
            assert 0 <= moved <= len(part), f"{verb} answered {moved} for {len(part)} bytes"
            if moved or verb == "read_into":
                break
        if not moved:
            assert verb == "read_into", f"{verb} made no progress at {at} in {ZERO_ANSWERS_MAX} calls"
            break
        done += moved
    return done


def write(backend: Backend, file: BackendFile, offset: int, data: bytes) -> None:
    """Write all bytes."""
    with memoryview(data) as view:
        transfer(backend, file, "write_from", offset, view)


def read(backend: Backend, file: BackendFile, offset: int, length: int) -> bytes:
    """Read up to the end."""
    buffer = bytearray(length)
    with memoryview(buffer) as view:
        done = transfer(backend, file, "read_into", offset, view)
    return bytes(buffer[:done])


def together(works: list[Callable[[], None]]) -> None:
    """Run all functions concurrently; raise the first exception."""
    start, failed = threading.Barrier(len(works)), []

    def run(work: Callable[[], None]) -> None:
        try:
            start.wait(10.0)
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
        assert not thread.is_alive(), "a call to the backend did not return within a minute"
    if failed:
        raise failed[0]


def commit(backend: Backend, file: BackendFile, data: bytes | bytearray) -> None:
    """Commit. A failed commit may forget acknowledged bytes: send them again, as the cache does."""
    try:
        file.commit()
    except BackendError as error:
        if not error.retry:
            raise
        if not error.kept:
            write(backend, file, 0, bytes(data))
        file.commit()


class ConformanceBase:
    """The suite's fixtures. Subclass it and define `make_backend`; also `make_key` if keys are not text."""

    def make_backend(self, tmp_path: Any) -> Backend:
        """Return a fresh, empty backend."""
        raise NotImplementedError("define make_backend(self, tmp_path) in the subclass")

    def make_key(self, i: int) -> Key:
        """Return the i-th key; different for each i."""
        return f"object-{i}"

    @property
    def prefix(self) -> str:
        """Return the prefix of text keys, if the backend may have other objects; those are not touched."""
        return ""

    @fixture
    def backend(self, tmp_path: Any) -> Iterator[Backend]:
        backend: Backend = completed(self.make_backend(tmp_path), "make_backend() gave")
        if inspect.iscoroutinefunction(backend.open):
            raise TypeError(f"make_backend() gave {backend!r}, which is asynchronous: use `pagecache check-backend`")
        if backend.limits.read_only:
            skip("the backend is read-only: there is no way to put something in")
        yield backend
        backend.close()

    @fixture
    def opened(self, backend: Backend) -> Iterator[Opened]:
        """Return a function that opens files, and close them at the end."""
        files: list[BackendFile] = []

        def opened(i: int = 0, data: bytes | None = None) -> BackendFile:
            file = backend.open(self.make_key(i), create=data is not None)
            files.append(file)
            if data is not None:
                if data:
                    write(backend, file, 0, data)
                file.commit()
            return file

        yield opened
        for file in files:
            if hasattr(file, "close"):
                file.close()

    @fixture
    def unit(self, backend: Backend) -> int:
        """Return the unit of offsets and lengths in these tests; at least 4 KiB, so that requests can be misaligned."""
        return math.lcm(int(backend.limits.read_unit), int(backend.limits.write_unit), 4096)
