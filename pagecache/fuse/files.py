"""Open files of a FUSE server: a table of handles over a volume, with the operations that the kernel requests.

A FUSE server needs no other part of the cache; names and attributes stay with the server. A number identifies an open
file, like `fh` in every binding. Any thread may make any call. Calls raise OSError; `errno_of` gives the errno for
programs. docs/how-to/fuse-server.md has the errors that each call reports.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from ..errors import DataLossError, Key
from ..file.cached import CachedFile
from ..objects import FileStat
from ..volume import opening, status
from ..volume.volume import Volume

log = logging.getLogger("pagecache.fuse")

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10  # of fallocate(2)
PASSED_ON = os.O_CREAT | os.O_EXCL | os.O_TRUNC
"""Flags of an open that concern the object. The kernel computes the offset of appended bytes itself."""


def all_data(size: int, offset: int, whence: int) -> int:
    """Return the result of `lseek` for a file without holes."""
    if offset >= size:
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
    return offset if whence == os.SEEK_DATA else size


class OpenFile:
    """One open of a file by a program. A file of the loop in C keeps the marks of its writes in C (loopfile.py).

    Attributes:
        file: the handle of the cache.
        written_ns: time of the last write through the file that the store does not show since; 0: none.
        wrote: there was a change since the last `flush`, successful or not. Not by O_CREAT or O_TRUNC: a shell closes
            one descriptor of a file before the program writes to another.
        publishing: number of running calls of `flush` that publish a whole object.
        reported: the current failure was reported through the file.
        was_read: the kernel may have pages of the file; a loop that counts reads has a better value.
    """

    __slots__ = (
        *("_lock", "file", "number", "publishing", "reported", "try_pread", "try_pwrite"),
        *("writable", "written_ns", "wrote"),
    )

    was_read = True

    def __init__(self, file: CachedFile, number: int, *, writable: bool) -> None:
        self.file = file
        self.number = number
        self.writable = writable
        self.written_ns = 0
        self.wrote = self.reported = False
        self.publishing = 0
        self._lock = threading.Lock()  # guards `publishing`, and the mark that `flush` takes; held briefly
        self.try_pread = file.try_pread
        self.try_pwrite = file.try_pwrite

    def write(self, data: Any, offset: int, *, mapped: bool | None = None) -> int:
        """Write data into the cache. `mapped`: pages of a mapping, which the kernel sends once: they are taken, and an
        earlier failure is left to other calls. None: not known; they are taken before it is reported.

        Returns:
            Number of bytes taken: fewer than given if the remainder failed; the next call reports the error.
        """
        if not mapped and self._has_to_report():
            failure, self.reported = self._failure(), True  # which the new bytes may clear
            if mapped is None:
                self._take(data, offset)
            raise failure
        try:
            return self._take(data, offset)
        except OSError as error:
            done = getattr(error, "characters_written", 0)
            if mapped or not done:
                raise
            return int(done)

    def _take(self, data: Any, offset: int) -> int:
        with self.changing():
            return self.file.pwrite(data, offset)

    def write_now(self, data: Any, offset: int) -> int | None:
        """Write without waiting; None: the call would have to wait or to report a failure, and not all was done."""
        if self._has_to_report():
            return None
        with self.changing():
            return self.try_pwrite(data, offset)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Context of a change through the file. Record its time, and that the next `flush` waits for it: again at the
        end, since a flush in between has taken both marks.
        """
        self.written_ns, self.wrote = time.time_ns(), True
        try:
            yield
        finally:
            self.wrote = True
            if not self.written_ns:
                self.written_ns = time.time_ns()

    def take_wrote(self) -> bool:
        """Return whether there was a change since the last call, and reset the mark."""
        if not self.wrote:  # a store would undo one of a change beside it
            return False
        self.wrote = False
        return True

    def clear_written(self, written_ns: int) -> None:
        """Clear the time of the last write, unless a later write has set it."""
        if self.written_ns == written_ns:
            self.written_ns = 0

    def stat(self) -> FileStat:
        """Return size and times as a reader finds them, independent of the file's current name."""
        file = self.file
        return status.of_open(file._inode, file.key)

    def _has_to_report(self) -> bool:
        """Return whether a write-back of the file has failed that was not reported through this handle."""
        failed = self.file._inode.number("failed") > 0
        if not failed:  # else a flush beside this call may set it
            self.reported = False
        return failed and not self.reported

    def _failure(self) -> OSError:
        file = self.file
        codes = [entry.errno for entry in file.volume.failed() if entry.key == file._inode.key]
        code = codes[0] if codes else errno.EIO
        return OSError(code, f"earlier writes could not be written back: {os.strerror(code)}", file.key)

    def flush(self) -> None:
        """Flush for close(2), which waits for it; called once for each duplicated descriptor.

        A store in place gets the bytes even if fsync ends at the disk tier: a later write-back would change the times
        that `tar` and `cp` set by name after the close.
        """
        file, written, whole = self.file, self.written_ns, self.file._commits_on_close()
        with self._lock:
            # A flush that publishes has taken the mark, and may fail yet: this one waits for the same bytes.
            wrote = self.take_wrote() or self.publishing > 0
            publishes = wrote and whole
            self.publishing += publishes
        try:
            if publishes:
                file.fsync()
            else:
                file.flush()
        except DataLossError:
            raise
        except OSError:
            if self.reported and not wrote:
                return
            self.reported = True
            raise
        finally:
            with self._lock:
                self.publishing -= publishes
        self.stored(written)

    def stored(self, written_ns: int) -> None:
        """Record that earlier writes are saved. The backend reports their times from now on, unless only the disk tier
        has them.
        """
        self.reported = False
        if self.file._inode.is_stored():
            self.clear_written(written_ns)

    def fsync(self, *, data_only: bool = False, timeout: float | None = None) -> None:
        written = self.written_ns
        self.file.fsync(data_only=data_only, timeout=timeout)
        self.stored(written)

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        """Punch holes and write zeros; space is never reserved, since a store may be full when the data arrives."""
        if mode not in (PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE):
            raise OSError(errno.EOPNOTSUPP, "fallocate: space cannot be promised", self.file.key)
        with self.changing():
            if mode & PUNCH_HOLE:
                self.file.punch_hole(offset, length)
                return
            if not mode & KEEP_SIZE and offset + length > self.file.size:
                self.file.truncate(offset + length)
            self.file.zero_range(offset, length)

    def close(self) -> None:
        """Close without a waiting program: an error goes to the log, and the data stays in the cache."""
        inode, written = self.file._inode, self.written_ns
        try:
            self.file.close()
        except OSError as error:
            if not self.reported:
                log.error("%r: not saved when it was closed: %s", self.file.key, error)
        except ValueError:
            pass  # the cache is closed
        if written and inode.is_stored():
            inode.clear_written(written)


class Files:
    """The open files of a server, by number.

    Args:
        volume: of the files.

    >>> import os, pagecache
    >>> from pagecache.fuse import Files
    >>> with pagecache.PageCache("1MiB") as cache:
    ...     files = Files(cache.attach("memory:"))
    ...     fh = files.open("greeting", os.O_RDWR | os.O_CREAT)
    ...     files.write(fh, 0, b"hello"), files.read(fh, 1, 100)
    ...     files.flush(fh); files.release(fh)
    (5, b'ello')
    """

    kind: type[OpenFile] = OpenFile
    """Class of open files: a loop that writes without Python keeps some of their state (loopfile.py)."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.by_number: dict[int, OpenFile] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards the table; held briefly

    def open(self, key: Key, flags: int = os.O_RDONLY) -> int:
        """Open an object.

        Args:
            key: in the backend.
            flags: of open(2); those that do not concern the object are ignored.

        Returns:
            A number for the other calls.

        Raises:
            OSError: as `Volume.open`.
        """
        return self.open_file(key, flags).number

    def open_file(self, key: Key, flags: int) -> OpenFile:
        writable, bits = self._bits(flags)
        opened = self.add(self.volume.open(key, flags=bits), writable=writable)
        if flags & (os.O_EXCL | os.O_TRUNC) and not opened.file._inode.is_stored():
            opened.written_ns = time.time_ns()
        return opened

    def open_again(self, opened: OpenFile, flags: int) -> OpenFile | None:
        """Open the object of an open file again, under its current name; None: the file was closed."""
        writable, bits = self._bits(flags)
        file = opening.open_again(opened.file, bits)
        return None if file is None else self.add(file, writable=writable)

    @staticmethod
    def _bits(flags: int) -> tuple[bool, int]:
        """Return whether an open with these flags writes, and the flags for the cache."""
        # O_TRUNC writes, whatever the access mode; the kernel has checked the permission.
        writable = flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)
        # Writers may have to read as well: a program may map a file that it opened for writing.
        access = os.O_RDWR if writable else os.O_RDONLY
        return writable, access | flags & PASSED_ON

    def add(self, file: CachedFile, *, writable: bool) -> OpenFile:
        with self._lock:
            opened = self.kind(file, next(self._numbers), writable=writable)
            self.by_number[opened.number] = opened
        return opened

    def get(self, fh: int) -> OpenFile:
        """Raises:
        OSError: EBADF, no such number.
        """
        try:
            return self.by_number[fh]
        except KeyError:
            raise OSError(errno.EBADF, f"no open file has the number {fh}") from None

    def size(self, key: Key) -> int:
        """Return the size of an object as a reader of the cache finds it."""
        return self.volume.stat(key).size

    def read(self, fh: int, offset: int, size: int) -> bytes:
        """Read `size` bytes, fewer at the end of the file."""
        return self.get(fh).file.pread(size, offset)

    def write(self, fh: int, offset: int, data: Any) -> int:
        """Write; return the number of bytes taken: all, or those before a failure, which the next call reports."""
        return self.get(fh).write(data, offset)

    def flush(self, fh: int) -> None:
        self.get(fh).flush()

    def fsync(self, fh: int, datasync: bool = False, timeout: float | None = None) -> None:
        self.get(fh).fsync(data_only=bool(datasync), timeout=timeout)

    def truncate(self, fh: int, size: int) -> None:
        opened = self.get(fh)
        with opened.changing():
            opened.file.truncate(size)

    def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        self.get(fh).fallocate(mode, offset, length)

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        """Return the next data or hole (os.SEEK_DATA, os.SEEK_HOLE) at or after `offset`; OSError with ENXIO: none."""
        return self.get(fh).file._find_data(offset, whence, here=True)

    def release(self, fh: int) -> None:
        """Release a file after its last descriptor was closed, with or without a `flush`. Never raises."""
        with self._lock:
            opened = self.by_number.get(fh)
            if opened is not None:
                if opened.written_ns:
                    opened.file._inode.set_written(opened.written_ns)  # first: a status finds the one or the other
                del self.by_number[fh]
        if opened is not None:
            opened.close()

    def give_up(self, fh: int) -> None:
        """Close a file whose opener was told an error: what the open has emptied or made is not published."""
        if (opened := self.by_number.get(fh)) is not None:
            opened.file._never_opened()

    def take_back(self, fh: int) -> None:
        self.give_up(fh)
        self.release(fh)

    def invalidate(self, key: Key, offset: int = 0, length: int | None = None, *, version: str | None = None) -> None:
        """Invalidate cached bytes after a foreign change of the object."""
        self.volume.invalidate_remote(key, offset, length, version=version)

    def close(self) -> None:
        """Release everything at the end of the server."""
        for fh in list(self.by_number):
            self.release(fh)
