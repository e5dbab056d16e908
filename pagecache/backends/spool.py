"""Spools: nameless files of this machine for bytes of objects that are not stored yet, at their own offsets.

    offset   0          4096       8192                 size
             -          spooled    -                    spooled

Its owner knows which ranges have bytes; all others are holes, and take no space. The file vanishes with its last
reference, however the process ends. A reader with a reference may go on with it when others have taken a new spool.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from ..native.names import punch_hole

END = 1 << 63
IOV_MAX = os.sysconf("SC_IOV_MAX")
ZEROS = memoryview(bytes(1 << 16))


class Ranges:
    """Disjoint byte ranges that do not touch, ascending. Not thread-safe."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []

    def add(self, begin: int, end: int) -> None:
        """Add [begin, end)."""
        first = bisect.bisect_left(self._ends, begin)  # the first range that overlaps or touches it
        last = bisect.bisect_right(self._begins, end)
        if first < last:
            begin, end = min(begin, self._begins[first]), max(end, self._ends[last - 1])
        self._begins[first:last], self._ends[first:last] = [begin], [end]

    def cut(self, begin: int, end: int) -> None:
        """Remove [begin, end)."""
        first = bisect.bisect_right(self._ends, begin)  # the first range that overlaps it
        last = bisect.bisect_left(self._begins, end)
        if first < last:
            low, high = self._begins[first], self._ends[last - 1]
            self._begins[first:last] = [low] * (low < begin) + [end] * (end < high)
            self._ends[first:last] = [begin] * (low < begin) + [high] * (end < high)

    def copy(self) -> Ranges:
        made = Ranges()
        made._begins, made._ends = self._begins.copy(), self._ends.copy()
        return made

    def pieces(self, begin: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Cut [begin, end) into ranges inside and outside, ascending."""
        at = bisect.bisect_right(self._ends, begin)
        while begin < end:
            if at == len(self._begins) or end <= self._begins[at]:
                yield begin, end, False
                return
            if begin < self._begins[at]:
                yield begin, self._begins[at], False
                begin = self._begins[at]
            yield begin, min(end, self._ends[at]), True
            begin, at = self._ends[at], at + 1


def dealt(data: bytes | bytearray | memoryview, buffers: Sequence[memoryview]) -> int:
    """Fill buffers with the data, in order; return the number of bytes."""
    view, done = memoryview(data), 0
    for buffer in buffers:
        part = view[done : done + len(buffer)]
        buffer[: len(part)] = part
        done += len(part)
    return done


def parts_of_buffers(buffers: Sequence[memoryview], begin: int, end: int) -> list[memoryview]:
    """Return the bytes [begin, end) of consecutive buffers."""
    parts, at = [], 0
    for buffer in buffers:
        part = buffer[max(0, begin - at) : max(0, end - at)]
        if len(part):
            parts.append(part)
        at += len(buffer)
    return parts


def revoke(views: Iterable[memoryview]) -> None:
    """Release the memory behind these views, except for accesses in progress.

    For the end of a call: its error may be kept, or be part of a reference cycle, with the variables of all frames, and
    would keep the cache's memory.
    """
    for view in views:
        with contextlib.suppress(BufferError):
            view.release()


@contextmanager
def revoked(parts: Sequence[memoryview]) -> Iterator[Sequence[memoryview]]:
    """Context of slices that were made for this block; `revoke` at its end."""
    try:
        yield parts
    finally:
        revoke(parts)


class Spool:
    """A nameless file.

    Args:
        folder: its directory; None: that of temporary files.

    Raises:
        OSError: there is no space, or no such folder.
    """

    def __init__(self, folder: str | None) -> None:
        import tempfile  # here: `import pagecache` loads this module, and most programs make no spool

        self.fd, name = tempfile.mkstemp(prefix="pagecache-", dir=folder)
        os.unlink(name)

    @property
    def path(self) -> str:
        """Return a name by which this process can open it again."""
        return f"/proc/self/fd/{self.fd}"

    def write(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Write; may be short, like the system call."""
        return os.pwritev(self.fd, buffers[:IOV_MAX], offset)

    def write_all(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Write all of the buffers."""
        done, length = 0, sum(map(len, buffers))
        while done < length:
            with revoked(parts_of_buffers(buffers, done, length)) as parts:
                done += self.write(offset + done, parts)

    def take(self, other: Spool, alive: Callable[[], None]) -> None:
        """Write what another one has, without its holes; `alive` raises to end that."""
        at, size = 0, os.fstat(other.fd).st_size
        while at < size:
            alive()
            try:
                at = os.lseek(other.fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return  # a hole is last
            part = memoryview(os.pread(other.fd, min(os.lseek(other.fd, at, os.SEEK_HOLE) - at, 1 << 20), at))
            self.write_all(at, (part,))
            at += len(part)

    def zero(self, begin: int, end: int) -> None:
        """Zero the bytes of [begin, end), without space if the file system can."""
        end = min(end, os.fstat(self.fd).st_size)
        if begin < end and not punch_hole(self.fd, begin, end - begin):
            while begin < end:
                begin += os.pwrite(self.fd, ZEROS[: end - begin], begin)

    def fill(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers; unwritten ranges read as zeros."""
        for buffer in buffers:
            done = os.preadv(self.fd, [buffer], offset)
            while 0 < done < len(buffer):
                more = os.preadv(self.fd, [buffer[done:]], offset + done)
                if not more:
                    break
                done += more
            for at in range(done, len(buffer), len(ZEROS)):
                buffer[at : at + len(ZEROS)] = ZEROS[: len(buffer) - at]
            offset += len(buffer)

    def free(self, begin: int, end: int) -> None:
        """Free the space of [begin, end), if the file system can; its bytes are undefined afterwards."""
        size = os.fstat(self.fd).st_size
        if end >= size:
            self.cut(begin)
        elif begin < end:
            punch_hole(self.fd, begin, end - begin)

    def cut(self, size: int) -> None:
        """Drop the bytes past a size."""
        self.set_size(min(size, os.fstat(self.fd).st_size))

    def set_size(self, size: int) -> None:
        """Set the size: bytes past it are dropped for good."""
        os.ftruncate(self.fd, size)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)
