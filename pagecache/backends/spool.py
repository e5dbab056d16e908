"""The next version of an object while it is being written: in a file of this machine that has no name.

What was written, and zeros where the object was cut and grown again, are in the spool; everything else is where the
object is stored. `held` says which is which, as byte ranges:

    offset   0          4096       8192                 size
             stored     spooled    stored               spooled: nothing was ever stored there

The file goes away with the last reference, whatever ends the process, and a reader that has one may go on with it when
others have taken a new spool.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

__all__ = ["END", "Ranges", "Spool", "parts_of_buffers", "revoke", "revoked"]

END = 1 << 63
IOV_MAX = os.sysconf("SC_IOV_MAX")
ZEROS = memoryview(bytes(1 << 16))


class Ranges:
    """Disjoint byte ranges that do not touch, ascending. Not thread-safe."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []

    def add(self, begin: int, end: int) -> None:
        """[begin, end) is in."""
        first = bisect.bisect_left(self._ends, begin)  # the first one that meets or touches it
        last = bisect.bisect_right(self._begins, end)
        if first < last:
            begin, end = min(begin, self._begins[first]), max(end, self._ends[last - 1])
        self._begins[first:last], self._ends[first:last] = [begin], [end]

    def copy(self) -> Ranges:
        made = Ranges()
        made._begins, made._ends = self._begins.copy(), self._ends.copy()
        return made

    def pieces(self, begin: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """[begin, end) cut into what is in and what is not, ascending."""
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


def parts_of_buffers(buffers: Sequence[memoryview], begin: int, end: int) -> list[memoryview]:
    """The bytes [begin, end) of several buffers in a row."""
    parts, at = [], 0
    for buffer in buffers:
        part = buffer[max(0, begin - at) : max(0, end - at)]
        if len(part):
            parts.append(part)
        at += len(buffer)
    return parts


def revoke(views: Iterable[memoryview]) -> None:
    """Nobody gets at the memory through these any more, but who is at it now.

    For the end of a call: its error may be kept, or be part of a cycle, with the variables of all that it went through,
    and the cache's memory would be kept with them.
    """
    for view in views:
        with contextlib.suppress(BufferError):
            view.release()


@contextmanager
def revoked(parts: Sequence[memoryview]) -> Iterator[Sequence[memoryview]]:
    """They are slices that were made for this block; `revoke` at its end."""
    try:
        yield parts
    finally:
        revoke(parts)


class Spool:
    """One such file.

    Args:
        folder: where it is kept; None: where temporary files are.

    Raises:
        OSError: there is no room, or no such folder.
    """

    def __init__(self, folder: str | None) -> None:
        self.fd, name = tempfile.mkstemp(prefix="pagecache-", dir=folder)
        os.unlink(name)

    @property
    def path(self) -> str:
        """A name by which this process can open it again."""
        return f"/proc/self/fd/{self.fd}"

    def write(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """May be short, like the call of the system."""
        return os.pwritev(self.fd, buffers[:IOV_MAX], offset)

    def write_all(self, offset: int, data: memoryview) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self.fd, data[done:], offset + done)

    def zero(self, begin: int, end: int) -> None:
        while begin < end:
            begin += os.pwrite(self.fd, ZEROS[: end - begin], begin)

    def fill(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers; what was never written reads as zeros."""
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

    def set_size(self, size: int) -> None:
        """As long as this: what was behind it never comes back."""
        os.ftruncate(self.fd, size)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)
