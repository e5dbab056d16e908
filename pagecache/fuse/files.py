"""Open files of a FUSE server: a table of handles over a volume, with the verbs that the kernel asks for.

This is all of the cache that a server of one's own needs; names and attributes stay with the server. A number stands
for an open, as `fh` does in every binding. All calls may be made from any thread, and raise OSError; `errno_of` says
what of that a program is told.

Which error is told when (docs/how-to/fuse-server.md has the table):

* `fsync` tells the truth, as often as it is asked: it returns only when everything written before is committed.
* `flush`, which close(2) waits for, and the next `write` tell a handle once that what was written could not be handed
  over. The data stays in the cache, and is tried again; a later failure is told again.
* What is gone (`DataLossError`) is told to each handle once, by `flush` or `fsync`.
* `release` has nobody to tell: what fails there goes to the log, and stays in `Volume.failed`.

On stores where an object becomes visible by a commit, `flush` commits what this handle has written.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import threading
import time
from typing import Any

from ..errors import DataLossError, Key
from ..file.cached import CachedFile
from ..stats import FileStat
from ..volume import opening
from ..volume.volume import Volume

__all__ = ["Files", "OpenFile"]

log = logging.getLogger("pagecache.fuse")

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10  # of fallocate(2)
PASSED_ON = os.O_CREAT | os.O_EXCL | os.O_TRUNC
"""Flags of an open that concern the object. Where appended bytes go the kernel has decided when it sends them."""


def all_data(size: int, offset: int, whence: int) -> int:
    """The answer of `lseek` about a file without holes."""
    if offset >= size:
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
    return offset if whence == os.SEEK_DATA else size


class OpenFile:
    """One open of a file by a program.

    Attributes:
        file: the handle of the cache.
        written_ns: when something was last written through it that was not handed over since; 0: never.
        wrote: something was written since the last `flush`, whatever came of that.
    """

    __slots__ = ("_told", "file", "number", "try_pread", "try_pwrite", "writable", "written_ns", "wrote")

    was_read: bool = True
    """Whether the kernel may have pages of it; a loop that counts reads knows better (loopfile.py)."""

    def __init__(self, file: CachedFile, number: int, *, writable: bool) -> None:
        self.file = file
        self.number = number
        self.writable = writable
        self.written_ns = 0
        self.wrote = False
        self.try_pread = file.try_pread
        self.try_pwrite = file.try_pwrite
        self._told = False  # of the failure that there is now

    def write(self, data: Any, offset: int) -> int:
        """Take the data into the cache.

        Returns:
            How many bytes were taken: less than there are where the rest failed, whose error comes with the next call.
        """
        self.check_failed()
        self.written_ns, self.wrote = time.time_ns(), True
        try:
            return self.file.pwrite(data, offset)
        except OSError as error:
            done = getattr(error, "characters_written", 0)
            if not done:
                raise
            return int(done)

    def write_now(self, data: Any, offset: int) -> int | None:
        """The same without waiting; None: it would have to, and nothing was done."""
        self.check_failed()
        self.written_ns, self.wrote = time.time_ns(), True
        return self.try_pwrite(data, offset)

    def stat(self) -> FileStat:
        """Size and times as a reader finds them, whatever the file is called by now."""
        file = self.file
        return file.volume._stat_of(file._inode, file.key)

    def check_failed(self) -> None:
        """Tell this handle once that something of the file could not be handed over."""
        if not self.file._native.number("failed"):
            self._told = False
        elif not self._told:
            self._told = True
            raise self._failure()

    def _failure(self) -> OSError:
        file = self.file
        codes = [entry.errno for entry in file.volume.failed() if entry.key == file._inode.key]
        code = codes[0] if codes else errno.EIO
        return OSError(code, f"what was written could not be handed over: {os.strerror(code)}", file.key)

    def flush(self) -> None:
        """close(2) waits for this, once for each descriptor that was duplicated of it."""
        file, written, wrote = self.file, self.written_ns, self.take_wrote()
        try:
            if wrote and file._commits_on_close():
                file.fsync()
            else:
                file.flush()
        except DataLossError:
            raise
        except OSError:
            if self._told and not wrote:
                return
            self._told = True
            raise
        self.handed_over(written)

    def take_wrote(self) -> bool:
        """Whether something was written; from here on: since now."""
        wrote, self.wrote = self.wrote, False
        return wrote

    def handed_over(self, written_ns: int) -> None:
        """What was written until then is with the backend, which says when it changed."""
        self._told = False
        if self.written_ns == written_ns:
            self.written_ns = 0

    def idle(self) -> bool:
        """Whether `flush` has nothing to wait for."""
        return not (self.wrote or self._told or self.file._is_unsaved())

    def fsync(self, *, data_only: bool = False, timeout: float | None = None) -> None:
        written = self.written_ns
        self.file.fsync(data_only=data_only, timeout=timeout)
        self.handed_over(written)

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        """Holes and zeros; space is never promised, since a store may be full when the data gets there."""
        if mode & ~KEEP_SIZE == PUNCH_HOLE and mode & KEEP_SIZE:
            self.file.punch_hole(offset, length)
        elif mode & ~KEEP_SIZE == ZERO_RANGE:
            if not mode & KEEP_SIZE and offset + length > self.file.size:
                self.file.truncate(offset + length)
            self.file.zero_range(offset, length)
        else:
            raise OSError(errno.EOPNOTSUPP, "fallocate: space cannot be promised", self.file.key)

    def lseek(self, offset: int, whence: int) -> int:
        """The next data or hole (os.SEEK_DATA, os.SEEK_HOLE) at or behind `offset`; OSError with ENXIO: none."""
        return self.file._find_data(offset, whence, here=True)

    def close(self) -> None:
        """Nobody waits for it: an error goes to the log, and the data stays in the cache."""
        try:
            self.file.close()
        except OSError as error:
            if not self._told:
                log.error("%r: not saved when it was closed: %s", self.file.key, error)
        except ValueError:
            pass  # the cache is closed


class Files:
    """The open files of a server, by number.

    Args:
        volume: what they are files of.

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
    """What an open file is made as: a loop that writes without Python keeps some of its state (loopfile.py)."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.by_number: dict[int, OpenFile] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards the table, for moments

    def open(self, key: Key, flags: int = os.O_RDONLY) -> int:
        """Open an object.

        Args:
            key: what the backend calls it.
            flags: of open(2); what does not concern the object is ignored.

        Returns:
            A number for the other calls.

        Raises:
            OSError: as `Volume.open`.
        """
        return self.open_file(key, flags).number

    def open_file(self, key: Key, flags: int) -> OpenFile:
        writable, bits = self._bits(flags)
        return self.add(self.volume.open(key, flags=bits), writable=writable)

    def open_again(self, opened: OpenFile, flags: int) -> OpenFile | None:
        """Open the object of an open file once more, whatever its name is now; None: the file was closed."""
        writable, bits = self._bits(flags)
        file = opening.open_again(opened.file, bits)
        return None if file is None else self.add(file, writable=writable)

    @staticmethod
    def _bits(flags: int) -> tuple[bool, int]:
        """Whether an open with these flags writes, and the flags for the cache."""
        # O_TRUNC writes, whatever else is wanted; who may do that the kernel has looked at.
        writable = flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)
        # Who writes may have to read as well: a program may map what it has opened for writing.
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
        """Of an object, as a reader of the cache finds it."""
        return self.volume.stat(key).size

    def read(self, fh: int, offset: int, size: int) -> bytes:
        """`size` bytes, less at the end of the file."""
        return self.get(fh).file.pread(size, offset)

    def write(self, fh: int, offset: int, data: Any) -> int:
        """How many bytes were taken: all, or those before what failed, whose error comes with the next call."""
        return self.get(fh).write(data, offset)

    def flush(self, fh: int) -> None:
        self.get(fh).flush()

    def fsync(self, fh: int, datasync: bool = False) -> None:
        self.get(fh).fsync(data_only=bool(datasync))

    def truncate(self, fh: int, size: int) -> None:
        self.get(fh).file.truncate(size)

    def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        self.get(fh).fallocate(mode, offset, length)

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        """The next data or hole (os.SEEK_DATA, os.SEEK_HOLE) at or behind `offset`; OSError with ENXIO: none."""
        return self.get(fh).lseek(offset, whence)

    def release(self, fh: int) -> None:
        """The last descriptor of an open is closed, whether there was a `flush` or not. Never raises."""
        with self._lock:
            opened = self.by_number.pop(fh, None)
        if opened is not None:
            opened.close()

    def invalidate(self, key: Key, offset: int = 0, length: int | None = None, *, version: str | None = None) -> None:
        """Somebody else changed the object: what is cached of it is read again."""
        self.volume.invalidate_remote(key, offset, length, version=version)

    def close(self) -> None:
        """Release everything: the server ends."""
        for fh in list(self.by_number):
            self.release(fh)
