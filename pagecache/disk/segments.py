"""The bytes of a disk tier: segments, files of one size that are written from front to back and removed whole.

    00000000000000a1.clean   |extent|extent|extent|  ...  |extent|        a full one; the lowest number goes first
    00000000000000a2.clean   |extent|extent|  unwritten              |   the one that is written

An *extent* is a range of one object with checksums (`native/checked.py`). Its *address* is the number of its segment,
times 2**32, and its position there. Numbers are never used again, so the address of bytes that are gone leads nowhere,
and nothing has to be looked up and changed when a segment goes.

A segment that goes gives its extents that were read to `rescue`, which appends them anew: at most a part of one in
`RESCUED`, or a cache whose data is all read again would only be copied.

`append` gives an address at once, and the writer's thread writes later: reads never wait for a slow disk. What waits is
bounded, and beyond that nothing is taken. A disk that fails is left alone for `PAUSE` seconds.

Locks: `_lock` guards all fields, and is never held across I/O. Segments are created by the writer alone, and removed by
it, too, unless unsaved bytes find the disk full: then the thread that has them removes the oldest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from time import monotonic

from ..native import checked

QUEUED_MAX = 32 << 20
"""Bytes that wait to be written."""
PAUSE = 10.0
"""Seconds until a disk that failed is tried again."""
FILES_MAX = 64
"""Segments that are open for reading."""
RESCUED = 4
RESCUED_MAX = 16 << 20
"""Bytes of one segment that are written again, and of all that wait for it besides `QUEUED_MAX`."""
FREE_SHARE, FREE_MAX = 20, 10 << 30
"""What is left to others: one part in so many of the file system, at most so many bytes."""
NAME = re.compile(r"([0-9a-f]{16})\.clean")
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
NUMBERS = 1 << 30
"""Numbers of segments are below: no tier comes so far, and files of others with such names are left alone."""


class _Open:
    """A segment that is open for reading, closed with its last reference: no reader finds another file behind it."""

    def __init__(self, path: str, flags: int) -> None:
        self.fd = os.open(path, flags)

    def close(self) -> None:
        if hasattr(self, "fd"):
            os.close(vars(self).pop("fd"))

    __del__ = close


class Segments:
    """The segments of one directory.

    Args:
        folder: the directory.
        size: most bytes of all segments and of what `others` returns.
        segment: bytes of a new one.
        aligned: read past the page cache of the kernel.
        others: returns the bytes of other files of the tier.
        report: called with a failure, and with None when writing goes on after one.
        rescue: called with a number before that segment goes.
    """

    def __init__(
        self,
        folder: str,
        size: int,
        segment: int,
        *,
        aligned: bool,
        others: Callable[[], int],
        report: Callable[[OSError | None], None],
        rescue: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.folder, self.size, self.segment, self.aligned = folder, size, segment, aligned
        self._others, self._report, self._rescue = others, report, rescue
        self._lock = threading.Lock()
        self._live: dict[int, int] = {}  # number -> bytes, ascending
        self._files: OrderedDict[int, _Open] = OrderedDict()  # the least recently used first
        self._queue: deque[tuple[int, int, bytearray]] = deque()  # number, position, bytes
        self._unwritten: set[int] = set()  # addresses
        self._queued = 0
        self._paused_until = 0.0
        self._failing = self._sound = False  # it was reported; it is the size that leaves no room now
        self._file: int | None = None  # descriptor of the segment that is written
        self._number = 0  # of it; 0: none
        for name in os.listdir(folder):
            match = NAME.fullmatch(name)
            number = NUMBERS if match is None else int(match[1], 16)
            if number < NUMBERS:
                self._live[number] = os.stat(self._path(number)).st_size
        self._live = dict(sorted(self._live.items()))
        self._total = sum(self._live.values())
        self._made = max(self._live, default=0)  # the highest number of a segment that was made, or never will be
        self._next, self._used = self._made + 1, segment  # where `append` goes on; full: a new one
        self._current = 0
        self.work: Callable[[], object] = lambda: None  # wakes the writer

    def begin_behind(self, last: int) -> None:
        """Make no segment up to the highest number in an address that is known, whether or not that was ever made."""
        self._made = max(self._made, last)
        self._next = self._made + 1

    def _path(self, number: int) -> str:
        return os.path.join(self.folder, f"{number:016x}.clean")

    # -- for every thread

    @property
    def oldest(self) -> int:
        """The lowest number whose segment is there, or will be; addresses below lead nowhere."""
        with self._lock:
            waiting = self._queue[0][0] if self._queue else self._next
            return next(iter(self._live), waiting)

    def size_now(self) -> int:
        """Return the bytes of the segments."""
        with self._lock:
            return self._total

    def is_live(self, address: int) -> bool:
        """Return whether the segment of an address is there, or will be."""
        number = address >> 32
        return number in self._live or number > self._made

    def is_old(self, address: int) -> bool:
        """Return whether an address is in the oldest quarter of the segments, or in none."""
        return address >> 32 <= self._made - len(self._live) * 3 // 4

    def append(self, copy: int, offset: int, buffers: Sequence[memoryview], length: int, least: int) -> int | None:
        """Take an extent; return its address. None: it was not taken, since the disk is slower or fails. `least`: bytes
        that it takes of the segment at least, for what the catalogue has of it.
        """
        taken = checked.checked_size(length)
        if max(taken, least) > self.segment or self._is_full(taken):
            return None
        packed = checked.pack(copy, offset, buffers, length)
        with self._lock:
            address = None if self._is_full(taken) else self._place(packed, least)
        if address is not None:
            self.work()
        return address

    def _place(self, packed: bytearray, least: int) -> int:
        """Give an address to bytes, and queue them. The lock is held."""
        taken = max(len(packed), least)
        if self._used + taken > self.segment:
            self._current, self._used = self._next, 0
            self._next += 1
        number, pos = self._current, self._used
        self._used += taken
        self._unwritten.add(number << 32 | pos)
        self._queued += len(packed)
        self._queue.append((number, pos, packed))
        return number << 32 | pos

    def append_again(self, address: int, length: int, least: int) -> int | None:
        """Append an extent anew, with its checksums; return its address. None: it cannot be read. By the writer."""
        packed = bytearray(checked.checked_size(length))
        try:
            file = _Open(self._path(address >> 32), os.O_RDONLY | os.O_CLOEXEC)
            if os.preadv(file.fd, [packed], address & 0xFFFFFFFF) < len(packed):
                return None
        except OSError:
            return None
        with self._lock:
            full = self._queued + len(packed) > QUEUED_MAX + RESCUED_MAX
            return None if full or address in self._unwritten else self._place(packed, least)

    def _is_full(self, taken: int) -> bool:
        return self._queued + taken > QUEUED_MAX or monotonic() < self._paused_until

    def read(
        self, address: int, length: int, copy: int, offset: int, skip: int, buffers: Sequence[memoryview]
    ) -> int | None:
        """Fill buffers from an extent; None: it is not there, or not yet. OSError: the bytes cannot be read, or are not
        those that were written (EILSEQ).
        """
        number, pos = address >> 32, address & 0xFFFFFFFF
        with self._lock:
            if number not in self._live or address in self._unwritten:
                return None
            file = self._files.get(number)
            if file is not None:
                self._files.move_to_end(number)
        if file is None:
            try:
                file = _Open(self._path(number), os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECT if self.aligned else 0))
            except FileNotFoundError:
                self._forget(number)
                return None
            with self._lock:
                if number in self._live:  # else it has gone beside the open
                    file = self._files.setdefault(number, file)
                surplus = self._files.popitem(last=False) if len(self._files) > FILES_MAX else None
            del surplus
        return checked.read(file.fd, pos, length, copy, offset, skip, buffers, aligned=self.aligned)

    # -- the writer

    def write_next(self) -> bool:
        """Write the next extent; False: none waits."""
        with self._lock:
            if not self._queue:
                self._queued = 0  # an interrupt may have counted bytes that were not queued
                return False
            number, pos, packed = self._queue[0]
        try:
            if number != self._number:
                self._begin(number)
            if self._file is not None:
                done = 0
                with memoryview(packed) as view:
                    while done < len(view):
                        done += os.pwrite(self._file, view[done:], pos + done)
        except OSError as error:
            self._fail(number, error)
            return True
        with self._lock:
            self._queue.popleft()
            self._queued -= len(packed)
            if self._file is not None:
                self._unwritten.discard(number << 32 | pos)
        return True

    def _begin(self, number: int) -> None:
        """Create a segment, after the oldest ones have made room for it."""
        self.end()
        self._number = number
        while True:
            if self._fits(self.segment) and self._has_free():
                break
            with self._lock:
                oldest = next(iter(self._live), None)
            if oldest is None:
                self._sound = not self._fits(self.segment)  # the journal and spools have all of it
                raise OSError(errno.ENOSPC, "no space is left for a segment", self.folder)
            self._rescue(oldest)
            self.remove(oldest)
        fd = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self.segment)
        except OSError:
            os.close(fd)
            os.unlink(self._path(number))
            raise
        self._file = fd
        with self._lock:
            self._live[number], self._made = self.segment, number
            self._total += self.segment
            went_on, self._failing = self._failing, False
        if went_on:
            self._report(None)

    def shrink(self) -> None:
        """Remove the oldest segments while all files together take too much; not the one that is written."""
        while not self._fits(0) and self.drop_oldest():
            pass

    def _fits(self, more: int) -> bool:
        """Return whether so many bytes more are within the size."""
        return self.size_now() + more + self._others() <= self.size

    def _has_free(self) -> bool:
        """Return whether another segment leaves enough to others. `shrink` does not ask: file systems may show late
        what a removal has freed.
        """
        found = os.statvfs(self.folder)
        least = min(found.f_blocks * found.f_frsize // FREE_SHARE, FREE_MAX)
        return found.f_bavail * found.f_frsize - self.segment >= least

    def drop_oldest(self) -> bool:
        """Remove the oldest segment, but not the one that is written; return whether one went. By any thread."""
        while True:
            with self._lock:
                oldest = next(iter(self._live), self._number)
            if oldest == self._number:
                return False
            if self.remove(oldest):  # else another thread removes it: its space may not be free yet
                return True

    def _fail(self, number: int, error: OSError) -> None:
        """Drop the segment that is written, and what waits."""
        with self._lock:
            self._queue.clear()
            self._queued = 0
            self._unwritten.clear()
            self._current, self._used = 0, self.segment
            self._made = self._next - 1
            self._paused_until = monotonic() + PAUSE
        self.end()
        self.remove(number)
        sound, self._sound = self._sound, False
        if not sound:
            self._failing = True
            self._report(error)

    def remove(self, number: int) -> bool:
        """Remove a segment; return whether it was there."""
        found = self._forget(number)
        with contextlib.suppress(OSError):  # FileNotFoundError: it was never made, or another program has removed it
            os.unlink(self._path(number))
        return found

    def _forget(self, number: int) -> bool:
        with self._lock:
            size = self._live.pop(number, None)
            self._total -= size or 0
            file = self._files.pop(number, None)
        del file
        return size is not None

    def clear(self) -> None:
        """Remove all segments: nothing leads to them."""
        for number in list(self._live):
            self.remove(number)

    def forked(self) -> None:
        """Close all files, in a forked child: it reads none, and the space of those that go would stay taken."""
        for file in self._files.values():
            file.close()
        self.end()

    def close(self) -> None:
        """Close all files; nothing is read from now on."""
        self.end()
        with self._lock:
            files, self._files, self._live = self._files, OrderedDict(), {}
        del files

    def end(self) -> None:
        """Close the segment that is written."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
