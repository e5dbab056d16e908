"""The conformance suite's calls on a backend, as the cache makes them: within its limits, repeated after short results.
Its fixtures; and the promises about content: reads, writes, buffers, size and holes.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import io
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..backends.plain import completed, returned
from ..backends.protocol import Backend, BackendFile, BackendLimits
from ..errors import BackendError, Key
from .checks import each, fixture, promise, same, skip

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
            assert isinstance(moved, int), f"{verb}: {returned(moved)}, which is no count"
            assert 0 <= moved <= len(part), f"{verb}: {returned(moved)}, not a count of the bytes that it was given"
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


MOMENT = 2.0
"""Time limit in seconds for `let_go`."""


def let_go(buffer: bytearray) -> None:
    """Check that the backend released a buffer; a thread of the backend may still be about to leave the call.

    Raises:
        BufferError: the buffer is still exported.
    """
    until = time.monotonic() + MOMENT
    while time.monotonic() < until:
        with contextlib.suppress(BufferError):
            buffer.clear()
            return
        time.sleep(0.001)
    buffer.clear()


class BytePromises:
    """Fixtures, and promises about the bytes of an object."""

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

    @promise("read and write", COUNT)
    def test_bytes_come_back(self, backend: Backend, opened: Opened, unit: int) -> None:
        """`read_into` returns every byte that write_from took; a read is short only at the end."""
        data = content(3 * unit + 17, 1)
        file = opened(0, data)
        same(read(backend, file, 0, len(data)), data)
        same(read(backend, opened(0), 0, len(data)), data)
        same(file.stat().size, len(data))
        same(backend.stat(self.make_key(0)).size, len(data))

    @promise("read and write", COUNT)
    def test_read_ends_at_the_end(self, backend: Backend, opened: Opened, unit: int) -> None:
        """`read_into` returns 0 at and past the end, and only there."""
        data = content(unit + 5, 2)
        file = opened(0, data)
        same(read(backend, file, unit, unit), data[unit:])
        for offset in (2 * unit, 100 * unit):
            same(file.read_into(offset, [memoryview(bytearray(unit))]), 0)

    @promise("read and write", COUNT)
    def test_read_leaves_neighbours_alone(self, backend: Backend, opened: Opened, unit: int) -> None:
        """`read_into` changes the given buffers only."""
        file = opened(0, content(2 * unit, 3))
        buffer = bytearray(b"#" * (unit + 20))
        view = memoryview(buffer)
        transfer(backend, file, "read_into", unit, view[10 : 10 + unit])
        same(buffer[:10] + buffer[-10:], b"#" * 20)
        same(buffer[10:-10], content(2 * unit, 3)[unit:])

    @promise("read and write", END)
    def test_write_past_the_end_leaves_zeros(self, backend: Backend, opened: Opened, unit: int) -> None:
        """`write_from` past the end extends the object, and the gap reads as zeros."""
        file = opened(0, b"head")
        write(backend, file, 3 * unit, b"tail")
        file.commit()
        same(read(backend, file, 0, 4 * unit), b"head" + bytes(3 * unit - 4) + b"tail")

    @promise("read and write", COUNT)
    def test_write_changes_its_range_only(self, backend: Backend, opened: Opened, unit: int) -> None:
        """`write_from` changes the bytes of its range only."""
        data = content(4 * unit, 4)
        file = opened(0, data)
        write(backend, file, unit, content(unit, 5))
        file.commit()
        same(read(backend, file, 0, 4 * unit), data[:unit] + content(unit, 5) + data[2 * unit :])

    @promise("read and write", REPEAT)
    def test_repeating_a_write_is_harmless(self, backend: Backend, opened: Opened, unit: int) -> None:
        """A repeated write_from changes nothing more."""
        file = opened(0, b"")
        for _ in range(3):
            write(backend, file, unit, content(unit, 6))
        write(backend, file, 0, content(unit, 7))
        write(backend, file, unit, content(unit, 6))
        file.commit()
        same(read(backend, file, 0, 3 * unit), content(unit, 7) + content(unit, 6))

    @promise("buffers", BUFFERS)
    @each("size", ["two", "uneven", "most"])
    def test_buffers_are_taken_in_order(self, backend: Backend, opened: Opened, unit: int, size: str) -> None:
        """Up to max_vectors buffers are filled, or stored, in their order."""
        file = opened(0, b"")
        limits = limits_of(backend, file)
        room = min(int(limits.max_read), int(limits.max_write), int(limits.boundary) or 1 << 62, 1 << 20)
        count = min(limits.max_vectors, {"two": 2, "uneven": 5, "most": limits.max_vectors}[size])
        if size == "most":
            lengths = [max(1, room // count)] * min(count, room)
        else:
            lengths = [min(unit, room // count) - 3 * i for i in range(count)]
        total = sum(lengths)
        data = content(total, 8)
        parts, at = [], 0
        for length in lengths:
            parts.append(memoryview(data)[at : at + length])
            at += length
        answer = file.write_from(0, parts)
        assert 0 < answer <= total, f"write_from answered {answer!r} for {total} bytes"
        rest = answer - answer % int(limits.write_unit)
        write(backend, file, rest, data[rest:])
        file.commit()
        same(read(backend, file, 0, total + unit), data)
        buffers = [bytearray(length) for length in lengths]
        answer = file.read_into(0, [memoryview(buffer) for buffer in buffers])
        assert 0 < answer <= total, f"read_into answered {answer!r} for {total} bytes"
        same(b"".join(buffers)[:answer], data[:answer])

    @promise("buffers", BUFFERS)
    def test_buffers_are_not_changed_and_not_kept(self, backend: Backend, opened: Opened, unit: int) -> None:
        """`write_from` does not change its buffers, and no buffer is kept after a call."""
        data = bytearray(content(unit, 9))
        file = opened(0, b"")
        view = memoryview(data).toreadonly()
        transfer(backend, file, "write_from", 0, view)
        view.release()
        same(data, content(unit, 9))
        data[:] = b"!" * unit
        let_go(data)
        file.commit()
        same(read(backend, file, 0, unit), content(unit, 9))
        buffer = bytearray(unit)
        into = memoryview(buffer)
        transfer(backend, file, "read_into", 0, into)
        into.release()
        let_go(buffer)

    @promise("units and places", LIMITS)
    def test_longest_call(self, backend: Backend, opened: Opened) -> None:
        """Calls of max_read and max_write bytes are accepted, and the bytes come back."""
        file = opened(0, b"")
        limits = limits_of(backend, file)
        length = max(int(limits.max_write), int(limits.max_read))
        data = content(min(length, 16 << 20), 10)
        write(backend, file, 0, data)
        file.commit()
        same(read(backend, file, 0, len(data) + 1), data)

    @promise("units and places", LIMITS)
    def test_any_place_that_the_units_allow(self, backend: Backend, opened: Opened) -> None:
        """Every multiple of read_unit and write_unit is accepted as offset and as length."""
        limits = backend.limits
        per_write, per_read = int(limits.write_unit), int(limits.read_unit)
        data = bytearray(content(max(32768, 16 * per_write, 16 * per_read), 31))
        file = opened(0, bytes(data))
        for count, at in ((1, 1), (3, 5), (511 if per_write == 1 else 1, 7)):
            piece = content(count * per_write, at)
            data[at * per_write : (at + count) * per_write] = piece
            write(backend, file, at * per_write, piece)
        file.commit()
        for count, at in ((1, 1), (3, 5), (511 if per_read == 1 else 1, 7)):
            found = read(backend, file, at * per_read, count * per_read)
            same(found, data[at * per_read : (at + count) * per_read])
        same(read(backend, file, 0, len(data)), data)

    @promise("read and write", REFLECT)
    def test_reads_follow_commits(self, backend: Backend, opened: Opened, unit: int) -> None:
        """`read_into` returns the committed bytes, also for a reader of the earlier content, and for a later open."""
        file = opened(0, content(2 * unit, 32))
        reader = opened(0)
        for seed in (33, 34):
            read(backend, file, 0, 2 * unit)
            try:
                read(backend, reader, 0, 2 * unit)
            except OSError as error:  # the handle may stay with a version that no longer exists
                assert backend.limits.commit_on_close, "only where objects are published may a version be gone"
                same(error.errno, errno.ESTALE)
            write(backend, file, 0, content(unit, seed))
            file.commit()
            expected = content(unit, seed) + content(2 * unit, 32)[unit:]
            same(read(backend, file, 0, 2 * unit), expected)
            if not backend.limits.commit_on_close:
                same(read(backend, reader, 0, 2 * unit), expected)
            same(read(backend, opened(0), 0, 2 * unit), expected)

    @promise("recognises", COMMIT)
    def test_own_commit_is_recognised(self, backend: Backend, opened: Callable[..., Any]) -> None:
        """`recognises()` distinguishes the commits of another file of the object from other versions.

        The file is opened anew.
        """
        file = opened(0, b"old")
        if not hasattr(file, "recognises"):
            skip("no recognises")
        write(backend, file, 0, b"ours")
        file.commit()
        same(opened(0).recognises(file.unanswered), True)
        other = opened(0)
        write(backend, other, 0, b"theirs")
        other.commit()
        same(opened(0).recognises(file.unanswered), False)

    # --------------------------------------------------------------------------------------- size and space

    @promise("truncate", REFLECT)
    def test_truncate_cuts(self, backend: Backend, opened: Opened, unit: int) -> None:
        """`truncate` to a smaller size cuts the object for every reader."""
        data = content(3 * unit, 11)
        file = opened(0, data)
        file.truncate(unit + 1)
        same(read(backend, file, 0, 3 * unit), data[: unit + 1])
        file.commit()
        for reader in (file, opened(0)):
            same(read(backend, reader, 0, 3 * unit), data[: unit + 1])
        same(backend.stat(self.make_key(0)).size, unit + 1)

    @promise("truncate", REFLECT)
    def test_truncate_extends_by_zeros(self, backend: Backend, opened: Opened, unit: int) -> None:
        """`truncate` to a larger size extends the object by zeros."""
        file = opened(0, b"head")
        file.truncate(2 * unit)
        same(read(backend, file, 0, 3 * unit), b"head" + bytes(2 * unit - 4))
        file.commit()
        same(backend.stat(self.make_key(0)).size, 2 * unit)

    @promise("truncate", REFLECT)
    @each("commit_between", [False, True])
    def test_cut_bytes_do_not_come_back(
        self, backend: Backend, opened: Opened, unit: int, commit_between: bool
    ) -> None:
        """Cut bytes read as zeros when the object grows again."""
        data = content(3 * unit, 12)
        file = opened(0, data)
        file.truncate(10)
        if commit_between:
            file.commit()
        file.truncate(2 * unit)
        same(read(backend, file, 0, 3 * unit), data[:10] + bytes(2 * unit - 10))
        write(backend, file, 2 * unit, b"end")
        file.commit()
        same(read(backend, file, 0, 3 * unit), data[:10] + bytes(2 * unit - 10) + b"end")

    @promise("punch_hole", REFLECT)
    def test_punched_hole_reads_as_zeros(self, backend: Backend, opened: Opened, unit: int) -> None:
        """A punched range reads as zeros; the bytes beside it, and the size, do not change."""
        data = content(4 * unit, 13)
        file = opened(0, data)
        if not hasattr(file, "punch_hole"):
            skip("no punch_hole")
        file.punch_hole(unit, unit)
        file.punch_hole(2 * unit + 7, 11)
        file.punch_hole(4 * unit - 5, 10 * unit)
        file.punch_hole(6 * unit, unit)
        expected = data[:unit] + bytes(unit) + data[2 * unit : 2 * unit + 7] + bytes(11) + data[2 * unit + 18 : -5]
        expected += bytes(5)
        same(read(backend, file, 0, 5 * unit), expected)
        file.commit()
        same(read(backend, file, 0, 5 * unit), expected)
        same(backend.stat(self.make_key(0)).size, 4 * unit)

    @promise("next_data", OPTIONAL)
    def test_no_data_is_hidden(self, backend: Backend, opened: Opened, unit: int) -> None:
        """Ranges that next_data skips read as zeros, before and after a commit; at the end it returns None."""
        file = opened(0, content(unit, 15))
        if not hasattr(file, "next_data"):
            skip("no next_data")
        write(backend, file, 12 * unit, content(unit, 16))
        file.truncate(40 * unit)
        write(backend, file, 20 * unit, content(unit, 17))
        if hasattr(file, "punch_hole"):
            file.punch_hole(20 * unit, unit)
        file.truncate(32 * unit)
        for reader in (file, opened(0)):
            data = read(backend, reader, 0, 32 * unit)
            for start in (0, unit - 1, unit, 12 * unit, 13 * unit - 1, 20 * unit, 32 * unit - 1):
                found = reader.next_data(start)  # type: ignore[attr-defined]
                begin, end = (32 * unit, 32 * unit + 1) if found is None else found
                same((start <= begin, begin < end), (True, True))
                same(data[start:begin], bytes(len(data[start:begin])))
            same([reader.next_data(at) for at in (32 * unit, 40 * unit)], [None, None])  # type: ignore[attr-defined]
            file.commit()
