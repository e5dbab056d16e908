"""The context manager: one trace of one cache.

The file is made at entry, under another name in its folder, so that every problem with it shows before the body runs.
At exit it is written and renamed: its name has a whole trace or the earlier file.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import operator
import os
import secrets
import stat
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ...distribution import VERSION
from ...errors import PageCacheError
from ...native.recording import Recorder, clock
from .chrome import Writer

if TYPE_CHECKING:
    from ...cache import PageCache

__all__ = ["RECORDS", "Trace"]

log = logging.getLogger("pagecache")

RECORDS = 1 << 18
RECORDS_MAX = 1 << 24
BUFFER = 1 << 18


class Trace:
    """Record the work of a cache while the body runs, and write it to `path` when it ends; made by `PageCache.trace`.

    A context manager that can be entered once.

    Attributes:
        path: the file, absolute.
        records: records that the ring keeps, rounded up to a power of two.
        dropped: after the end, how many records were not kept.
    """

    path: str
    records: int
    dropped: int

    def __init__(self, cache: PageCache, path: str | os.PathLike[str], records: int = RECORDS) -> None:
        try:
            wanted = operator.index(records)
        except TypeError:
            raise TypeError(f"records must be an int, not {type(records).__name__}") from None
        if not 2 <= wanted <= RECORDS_MAX:
            raise ValueError(f"records: {records!r} is not in the range 2 to {RECORDS_MAX}")
        self.path = os.path.realpath(os.fsdecode(path))
        self.records = 1 << (wanted - 1).bit_length()
        self.dropped = 0
        self._cache = cache
        self._used = False
        self._out: io.TextIOWrapper | None = None
        self._other = ""
        self._start = 0
        self._began = 0.0

    def __repr__(self) -> str:
        return f"<pagecache.Trace to {self.path!r}>"

    @property
    def _recorder(self) -> Recorder:
        return self._cache.native.recorder

    # -- the beginning

    def __enter__(self) -> Self:
        self._cache._check_open()
        if self._used:
            raise RuntimeError("a trace is used once; make another one with PageCache.trace")
        self._open()
        started = False
        try:
            started = self._recorder.start(self.records)
            if not started:
                raise PageCacheError("a trace of this cache runs already", self.path, errno=errno.EBUSY)
            self._used = True
            self._began, self._start = time.time(), clock()
            self._name_files()
        except BaseException:
            if started:
                self._recorder.stop()
                self._recorder.free()
            self._remove()
            raise
        return self

    def _open(self) -> None:
        """Make the file beside its final name.

        Raises:
            OSError: It could not be made there.
        """
        try:
            mode = os.stat(self.path).st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.path)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", self.path)
        folder, name = os.path.split(self.path)
        self._other = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(4)}")
        try:
            fd = os.open(self._other, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise type(error)(error.errno, os.strerror(error.errno or 0), self.path) from None
        self._out = open(fd, "w", BUFFER, encoding="utf-8", newline="\n")  # noqa: SIM115

    def _remove(self) -> None:
        out, self._out = self._out, None
        if out is not None:
            with contextlib.suppress(OSError):
                out.close()  # its buffer is not wanted
            with contextlib.suppress(OSError):
                os.unlink(self._other)

    # -- the end

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self._cache.native.forked:
            if self._out is not None:
                self._out.close()  # the parent writes it
            return
        try:
            self._save()
        except OSError as error:
            if e is None:
                raise
            log.error("the trace %s was not written: %s", self.path, error)

    def _save(self) -> None:
        recorder = self._recorder
        made, first, end, lost = recorder.stop()
        stopped = clock()
        self.dropped = made - (end - first) + lost
        try:
            self._name_files()
            self._write(first, end, stopped, lost)
        except BaseException:
            self._remove()
            raise
        finally:
            recorder.free()
        if self.dropped:
            log.warning(
                "%s: %d of %d records were dropped, the oldest ones; records=%d would have kept them",
                self.path,
                self.dropped,
                made,
                min(1 << (made - 1).bit_length(), RECORDS_MAX),
            )

    def _name_files(self) -> None:
        """Note the files at the beginning, and again at the end, when some have another key."""
        for volume in self._cache._engine_volumes():
            for file in volume.files():
                self._recorder.files[file.native.id] = (volume.name, file.key)

    def _write(self, first: int, end: int, stopped: int, lost: int) -> None:
        assert self._out is not None
        other = {
            "pagecache": VERSION,
            "python": sys.version.split()[0],
            "capacity": self._cache.capacity,
            "records": self.records,
            "kept": end - first - lost,
            "dropped": self.dropped,
            "lost": lost,
            "began": self._began,
            "seconds": (stopped - self._start) / 1e9,
        }
        page = int(self._cache.config.page_size)
        writer = Writer(self._out, self._recorder, pid=os.getpid(), page=page, start=self._start, end=stopped)
        writer.write(self._recorder.read(first, end), f"pagecache {self._cache.capacity} bytes", other)
        self._out.close()
        os.replace(self._other, self.path)
        self._out = None
