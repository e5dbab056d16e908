"""CachedFile: a handle.

Its hot verbs (pread, pwrite, read, write, append, ...) are methods of the C type it derives from; this module has the
others: durability, sizes, hints, and closing. A handle is a complete io.RawIOBase whose reads are short only at the end
of the file, so buffered and text wrappers, zipfile, tarfile and numpy work on it.
"""

from __future__ import annotations

import errno
import io
import operator
import os
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..config import Durability, VolumeOptions
from ..engine.attempts import Attempts
from ..engine.io import barrier, holes
from ..engine.park import SLICE, Deadline, Signal, deadline_error
from ..engine.report.reason import during, of_file
from ..errors import Key, LostRange, ShutdownError, set_written, written_before
from ..native import END, FOREVER, INVALIDATE, LOCK, TOKEN, Handle
from ..volume import lifetimes
from . import prefetch
from .view import View

if TYPE_CHECKING:
    from ..options import AdviceName
    from ..stats import FileStats
    from ..volume.volume import Volume

FAULTS = {"auto": 0, "always": 1, "never": 2}


class Advice(Enum):
    """Expected use of a file."""

    NORMAL = "normal"
    SEQUENTIAL = "sequential"
    RANDOM = "random"
    WILLNEED = "willneed"
    DONTNEED = "dontneed"
    NOREUSE = "noreuse"


ADVICE = {*Advice, *(advice.value for advice in Advice)}


def extent(offset: int, length: int | None, size: int) -> tuple[int, int]:
    """Return [start, end) of a range whose length may be None, "to the end of the file"."""
    start = _number(offset, "offset")
    if length is None:
        return start, max(start, size)
    count = _number(length, "length")
    if start + count > FOREVER:
        raise ValueError(f"offset {start} + length {count} is larger than 2**63 - 1")
    return start, start + count


def _pair(pair: tuple[int, int | None], size: int) -> tuple[int, int]:
    try:
        offset, length = pair
    except (TypeError, ValueError):
        raise TypeError(f"ranges: {pair!r} is not a pair (offset, length)") from None
    return extent(offset, length, size)


def _number(value: int, what: str) -> int:
    number = operator.index(value)
    if not 0 <= number <= FOREVER:
        raise ValueError(f"{what} {value!r} is not in the range 0 to 2**63 - 1")
    return number


def _text(key: Key) -> str:
    return os.fsdecode(key) if isinstance(key, str | bytes | os.PathLike) else str(key)


@dataclass(slots=True, eq=False)
class _Closing:
    """The call that closes a handle. A `with` unlocks `block` in C, also after an interrupt: then nobody waits for it.

    Attributes:
        over: set at its end.
        succeeded: it has not failed.
        reason: why it has.
    """

    thread: int = field(default_factory=threading.get_ident)
    block: threading.Lock = field(default_factory=threading.Lock)
    over: Signal = field(default_factory=Signal)
    succeeded: bool = False
    reason: BaseException | None = None


CLOSED = _Closing(0, succeeded=True)
"""Of every handle that is closed: a kept error would keep the frames that it has passed."""


class CachedFile(Handle, io.RawIOBase):
    """One open of a cached object; made by `Volume.open`.

    A read is short only at the end of the file. A write takes everything, or raises an error whose `characters_written`
    has the number of accepted bytes (which are kept). Use after close: ValueError.

    Attributes:
        key, name: key of the object, and its text.
        mode: mode of the open, such as "rb+".
        volume: volume of the object.

    >>> import pagecache
    >>> with pagecache.PageCache("1MiB") as cache:
    ...     with cache.attach("memory:").open("greeting", "w+") as f:
    ...         f.write(b"hello")
    ...         f.pread(4, 1)
    5
    b'ello'
    """

    key: Key
    name: str
    mode: str
    volume: Volume
    _altered = False  # its size, holes or direct bytes were changed through this handle, or a view to write was taken
    _superseded: tuple[LostRange, ...] = ()  # unsaved bytes of closed handles that the open has cut off
    _closing: _Closing | None = None  # set in one step by the call that closes it
    _direct = False  # reads and writes bypass the cache
    _warns_of_readers = True  # unclosed handles are reported, even if nothing can be lost

    def __init__(self, use: lifetimes.Use, key: Key, mode: str, flags: int, *, through: bool, read_ahead: int) -> None:
        inode = use.inode
        self.key = key
        self.name = key if type(key) is str else _text(key)
        self.mode = mode
        self.volume = inode.owner
        self._inode = inode
        self._use = use
        self._readable = flags & os.O_ACCMODE in (os.O_RDONLY, os.O_RDWR)
        self._writable = flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)
        self._makes = bool(flags & (os.O_TRUNC | os.O_EXCL))
        self._loss_cursor = inode.loss_cursor()
        cache = inode.owner.cache
        page = int(cache.config.page_size)
        self._read_ahead = read_ahead // page
        options: VolumeOptions = inode.owner.options
        self._bind(
            inode.core,
            inode.address,
            self._readable,
            self._writable,
            bool(flags & os.O_APPEND),
            through,
            self._direct,
            FAULTS[options.source_may_fault],
            self._read_ahead,
            int(cache.config.gil_release),
        )

    # -- state

    @property
    def size(self) -> int:
        """Size in bytes, including local extensions."""
        self._check_open()
        return self._inode.size

    def fileno(self) -> int:
        """Raise io.UnsupportedOperation: there is no file descriptor."""
        raise io.UnsupportedOperation("fileno: a cached file has no descriptor")

    def isatty(self) -> bool:
        self._check_open()
        return False

    def stats(self) -> FileStats:
        """Return the counters of this object, over all its handles."""
        self._check_open()
        return self.volume._file_stats(self._inode)

    def __repr__(self) -> str:
        state = "closed " if self.closed else ""
        return f"<{state}pagecache.CachedFile {self.name!r} mode={self.mode!r} volume={self.volume.name!r}>"

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"I/O operation on closed file: {self.key!r}")
        if self.volume.detached or self.volume.cache.native.forked:
            self.volume.cache._check_forked()
            raise ShutdownError(f"the volume {self.volume.name!r} is detached", self.key)
        self._check_usable()

    def _check_writable(self) -> None:
        self._check_open()
        if not self._writable:
            raise io.UnsupportedOperation(f"File not open for writing: {self.key!r}")

    # -- size and space

    def truncate(self, size: int | None = None) -> int:
        """Cut the file, or extend it by zeros; None: at the file position. The position is unchanged.

        Raises:
            OSError: the backend refused; nothing has changed.

        Blocks: until the file's calls in flight have returned, and for the backend's call.
        """
        return self._truncate(size)

    def _truncate(self, size: int | None, tries: Attempts | None = None) -> int:
        self._check_writable()
        length = self.tell() if size is None else _number(size, "size")
        self.volume._check_alive(self.key)
        self._resize(length, tries)
        return length

    def _resize(self, size: int, tries: Attempts | None = None, check: Callable[[], None] | None = None) -> None:
        """Truncate; `check`: called when it has its turn."""
        until = None if tries is None else tries.deadline.until()

        def begin() -> None:
            (check or self._check_writable)()
            self._altered = True

        self._inode.run(LOCK | TOKEN | INVALIDATE, "truncate", (size, begin, tries), until)

    def _empty(self, tries: Attempts | None = None) -> None:
        """Truncate to nothing, as the end of an open."""
        inode, local = self._inode, list[tuple[int, int]]()

        def check() -> None:
            self._check_writable()
            local[:] = inode.local_ranges()

        try:
            self._resize(0, tries, check)
        except BaseException:
            if inode.size or not self._altered:  # refused, or not begun
                self._makes = self._altered = False
                raise
            self._supersede(local)
            raise
        self._supersede(local)

    def _supersede(self, local: list[tuple[int, int]]) -> None:
        with self.volume.inodes_lock:
            kept = local if self._inode.keeps_changes() else []  # also those of a close beside the truncate
            self._superseded = tuple(LostRange(self.key, pos, length, 0, self.volume.name) for pos, length in kept)
            self._inode.supersede_changes()
            self._use.opened()  # from now on no close beside it publishes the emptied object

    def punch_hole(self, offset: int, length: int) -> None:
        """Make [offset, offset + length) zeros, freeing the space if the backend can; the size is unchanged.

        Raises:
            OSError: `characters_written` bytes of the range are zeros, the remainder is unchanged.
            CommitError: all of it is zeros, and the hole is not committed yet.
        """
        self._check_writable()
        self.volume._check_alive(self.key)
        start, end = extent(offset, length, self._inode.size)
        end = min(end, self._inode.size)
        if start >= end:
            return
        inode = self._inode
        self._altered = True
        zeros = [start, end, start]  # the third: end of the finished zeros
        try:
            if hasattr(inode.backend_file, "punch_hole"):
                self._inode.run(LOCK | TOKEN | INVALIDATE, "punch", (zeros, self._check_writable))
            punched = zeros[2] > start
            self._zero_remainder(zeros)
            limits = inode.limits()
            if punched and not limits.durable_writes and not limits.commit_on_close:
                barrier.commit(inode)  # saves a list of holes that a reconnect would have to repeat (contract 2.17)
        except OSError as error:
            set_written(error, zeros[2] - start)
            raise

    def _zero_remainder(self, zeros: list[int]) -> None:
        """Write zeros where the backend has not punched; the third number advances."""
        _start, end, done = zeros
        try:
            if done < end:
                self._zero(done, end - done)
        except OSError as error:
            zeros[2] += written_before(error)
            raise
        zeros[2] = end

    def zero_range(self, offset: int, length: int) -> None:
        """Make [offset, offset + length) zeros, within the file; the size is unchanged.

        Raises:
            OSError: `characters_written` bytes of the range are zeros, the remainder is unchanged.
        """
        self._check_writable()
        start, end = extent(offset, length, self._inode.size)
        if start < end:
            self._zero(start, end - start)

    def _find_data(self, offset: int, whence: int, *, here: bool = False) -> int:
        """Return the target of `seek` with SEEK_DATA and SEEK_HOLE. `here`: call the backend on this thread."""
        self._check_open()
        volume = self._inode.volume

        def query(call: Callable[[], holes.Extent]) -> holes.Extent:
            volume.check_reentry("next_data", self.key)
            tries = Attempts(volume, "next_data", self.key)
            return tries.here(call) if here else tries.repeated(call)

        return holes.find_data(self._inode, offset, whence, query)

    # -- hints and zero copy

    def prefetch(self, offset: int = 0, length: int | None = None, *, wait: bool = False) -> None:
        """Read a range into the cache; `wait`: return when it is there. Errors of the backend are raised with `wait`
        only.
        """
        self._check_open()
        start, end = extent(offset, length, self._inode.size)
        end = min(end, self._inode.size)
        prefetch.fetch(self._inode, [(start, end)], self.volume.cache.capacity, wait=wait)

    def prefetch_ranges(self, ranges: Iterable[tuple[int, int | None]], *, wait: bool = False) -> None:
        """Read several ranges (offset, length) into the cache at once, in order; a length of None means "to the end of
        the file".

        Ranges that are near one another are read in one backend call, with the bytes between them. An invalid range is
        an error before anything is read.
        """
        self._check_open()
        size = self._inode.size
        extents = [_pair(pair, size) for pair in ranges]
        wanted = [(start, min(end, size)) for start, end in extents]
        together = prefetch.merged(wanted, self._inode.limits())
        prefetch.fetch(self._inode, together, self.volume.cache.capacity, wait=wait)

    def advise(self, advice: Advice | AdviceName, offset: int = 0, length: int | None = None) -> None:
        """Announce the use of the file, as posix_fadvise does; never waits, and changes no byte.

        Reads of this handle, whatever the range: NORMAL as it was opened, SEQUENTIAL with windows of twice the size,
        RANDOM exactly the requested bytes, NOREUSE evicts the bytes first when memory is short (until NORMAL). Actions
        on the range: WILLNEED is `prefetch`; DONTNEED drops its whole clean pages, and starts write-back of dirty ones,
        so that a later DONTNEED drops those too.
        """
        self._check_open()
        start, end = extent(offset, length, self._inode.size)
        if advice not in ADVICE:
            raise ValueError(f"advice {advice!r} is not one of {', '.join(map(str, Advice))}")
        match Advice(advice):
            case Advice.NORMAL:
                self._set_readahead(self._read_ahead)
                self._set_noreuse(False)
            case Advice.SEQUENTIAL:
                self._set_readahead(self._read_ahead * 2)
            case Advice.RANDOM:
                self._set_readahead(0)
            case Advice.NOREUSE:
                self._set_noreuse(True)
            case Advice.WILLNEED:
                self.prefetch(start, end - start)
            case Advice.DONTNEED:
                end = END if length is None else end
                self._inode.drop_clean(start, end)
                if self._writable:
                    self._inode.begin_hand_over(start, end)

    def view(self, offset: int, length: int, *, writable: bool = False) -> View:
        """Return cache memory of the range without a copy.

        Stores to a writable view are the file's at once; its pages are dirty until it is released, and every fsync in
        between writes back all earlier stores.

        Raises:
            ValueError: the range is not inside the file.
            io.UnsupportedOperation: the handle is not open for reading, or for a writable view not for writing.
            OSError: ENOMEM: writable views hold a quarter of the cache.

        Blocks: until missing bytes were read; a writable view also until conflicting writers and calls are done.
        """
        self._check_open()
        if not self._readable:
            raise io.UnsupportedOperation(f"File not open for reading: {self.key!r}")
        if writable:
            self._check_writable()
            self.volume._check_alive(self.key)
            self._altered = True
        start, end = extent(offset, length, self._inode.size)
        if end > self._inode.size:
            raise ValueError(f"view [{start}, {end}) is not inside the file of {self._inode.size} bytes")
        return View(self._inode, start, end - start, writable=writable)

    # -- durability

    def _raise_loss(self) -> None:
        """Raise the losses of the file since the last call."""
        with self.volume.inodes_lock:
            error, self._loss_cursor = self._inode.loss_since(self._loss_cursor)
        if error is not None:
            raise error

    def flush(self) -> None:
        """Write dirty data back to the backend and wait for its acknowledgement. No commit; without dirty data, or a
        cut or hole that is owed, no backend call.

        Raises:
            WritebackError: it failed; it stays dirty. OSError: of an owed call. DataLossError: data was lost (once).
        """
        here = self._closing is not None and self._closing.thread == threading.get_ident()
        if here or (self.volume.detached and not self.closed):
            return
        self._send()
        self._raise_loss()

    def _send(self) -> None:
        """Do what `flush` does, without a report of losses: that is for the caller, who may have left."""
        self._check_open()
        inode = self._inode
        if self._writable and inode.limits().commit_on_close:
            inode.refresh_limits()
            inode.pass_background(FOREVER)
        elif self._is_unsaved():
            barrier.flush(inode, version=True)

    def fsync(
        self, *, data_only: bool = False, timeout: float | None = None, durability: Durability | None = None
    ) -> None:
        """Return only if every byte written to the file before the call is committed. Not delayed by later writes.

        Args:
            data_only: has no effect: sizes are always saved.
            timeout: seconds to wait; None: no limit.
            durability: "backend": in the store. "disk": on the disk of the cache's tier, from where a later attach
                saves them; if the tier cannot take them, in the store. None: as the volume does.

        Raises:
            WritebackError, CommitError: it is not, and is still dirty: call again once the cause is repaired.
            TimeoutError: the deadline passed; I/O goes on.
            DataLossError: data was lost (once); all other data is committed.

        Blocks: until storage replied, or `timeout`.
        """
        self._save(timeout, durability)
        if self._inode.last_loss > self._loss_cursor:
            self._raise_loss()

    def _save(self, timeout: float | None, durability: Durability | None) -> None:
        """Do what `fsync` does, without a report of losses: that is for the caller, who may have left."""
        level = self.volume.engine.level(durability)
        self._check_open()
        inode = self._inode
        held = inode.withheld and self.volume._is_read_only()  # what was recovered
        kept = inode._kept
        if unclosed := inode.unclosed:
            inode.set_unclosed(False)  # first: a writer that is collected beside it leaves bytes of its own
        try:
            if held or (level == "backend" and inode.removed and inode.is_unpublishable()):
                inode.volume.check_alive(self.key)
            else:
                (barrier.save if level == "disk" else barrier.fsync)(inode, timeout)
        except BaseException:
            if unclosed and inode.has_local():
                with self.volume.inodes_lock:
                    if inode._kept in (kept, None):  # else a close has taken the bytes over
                        inode.set_unclosed(True)
            raise

    def sync_range(self, offset: int, length: int) -> None:
        """Write a range back and wait for its acknowledgement; no commit.

        Raises:
            WritebackError: it failed; it stays dirty.
        """
        self._check_open()
        start, end = extent(offset, length, self._inode.size)
        if start < end and (self._writable or not self._inode.withheld):  # a held file has no writer
            barrier.flush(self._inode, start, end)

    # -- the end

    def _is_unsaved(self) -> bool:
        """Return whether there may be data to write back."""
        return self._writable and (self._inode.has_local() or self._inode.versions.stale)

    def _close_may_wait(self) -> bool:
        """Return whether its close may write data back, or wait for the disk of the journal."""
        journal = self.volume.engine.journal
        used = self._writable and journal is not None and journal.is_used()
        return self._is_unsaved() or used or self._inode.losing.locked()  # in this order

    def _changed(self) -> bool:
        """Return whether changes may have been made through this handle."""
        return self._altered or self._wrote()

    def _commits_on_close(self) -> bool:
        """Return whether a `with` whose body raised abandons the file."""
        return self._inode.limits().commit_on_close

    def close(self) -> None:
        """Close the handle; the last writable one flushes, and commits if `sync_on_close`. Errors are raised, the
        handle is closed in any case, the data stays in the cache (`Volume.failed`). Idempotent.
        """
        self._close(None)

    def _close(self, timeout: float | None) -> None:
        """Close, waiting for a commit for at most `timeout` seconds."""

        def save() -> None:
            try:
                lifetimes.close_handle(self._use, changed=self._writable and self._changed(), timeout=timeout)
            except OSError:
                self._raise_loss()  # this handle makes no other call that could report it
                raise
            if self._inode.last_loss > self._loss_cursor:
                self._raise_loss()

        if (closing := self._close_by(save)) is not None:
            try:
                self._outlast(closing, timeout)
            finally:
                del closing  # error → traceback → this frame → error

    def _close_by(self, work: Callable[[], None]) -> _Closing | None:
        """Close after this work, unless another call has begun to: return that."""
        if self.closed:
            return None
        closing = _Closing()
        running: _Closing | None = None
        with closing.block:
            try:
                running = self.__dict__.setdefault("_closing", closing)
                if running is not closing:
                    return running
                if not self.volume.cache.native.forked:
                    work()
                closing.succeeded = True
            except BaseException as error:
                closing.reason = error
                raise
            finally:
                try:
                    if self._closing is closing:
                        self._end()
                finally:
                    closing.over.set()
                    del closing, running  # error → traceback → this frame → error
        return None

    def _outlast(self, closing: _Closing, timeout: float | None) -> None:
        """Wait until another thread has closed the handle, and raise its error."""
        inode, volume = self._inode, self._inode.volume
        if closing.thread == threading.get_ident() or volume.cache.native.forked:
            return  # below that call, in a signal handler
        block, over = closing.block, closing.over
        if block.locked():
            volume.check_wait("close", self.key)
            deadline, since = Deadline(volume.clock, timeout), volume.reconnects

            def sleep() -> None:
                inode.check_here(barrier.needs(inode))
                while block.locked() and not over.wait(min(SLICE, deadline.left())):
                    volume.check_alive(self.key, since)
                    if deadline.passed():
                        raise deadline_error("close", self.key)

            during(of_file(inode, "a close"), sleep)
        try:
            if isinstance(closing.reason, Exception):
                raise closing.reason
            if not closing.succeeded:
                raise InterruptedError(errno.EINTR, "the close was interrupted, what is unsaved stays so", self.key)
        finally:
            del closing  # error → traceback → this frame → error

    def abandon(self) -> None:
        """Close without write-back; uncommitted data of this file is dropped if no other writable handle is open, and
        closed ones have left no unsaved changes. Never waits.
        """
        self._abandon(())

    def _abandon(self, cut_off: tuple[LostRange, ...]) -> None:
        """Abandon; `cut_off` is lost as well if the data is dropped."""

        def give_up() -> None:
            self._unbind()  # calls that wait for the file's lock find it closed
            lifetimes.abandon_handle(self._use, cut_off, changed=self._changed())

        self._close_by(give_up)

    def _never_opened(self) -> None:
        """Close a handle whose opener has given up. An object that this open has truncated or made is not published."""
        if self._makes and self._commits_on_close():
            self._abandon(self._superseded)
        else:
            self._leave()

    def _leave(self) -> None:
        """Close without write-back: dirty data stays dirty in the cache. Never waits."""

        def leave() -> None:
            if self._changed():
                with self.volume.inodes_lock:
                    self._inode.keep_changes()
            lifetimes.release(self._use)

        self._close_by(leave)

    def _end(self) -> None:
        if not self._use.left and not self.volume.cache.native.forked:
            lifetimes.release(self._use)  # an interrupt struck before
        self._inode.open_handles.pop(id(self._use), None)
        self._unbind()
        super().close()  # calls flush, which has nothing left to do
        self._closing = CLOSED

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if e is not None and self._commits_on_close():
            self.abandon()
            return
        try:
            self.close()
        except OSError:
            if e is None:
                raise  # the body's exception stays the primary one; the data stays in the cache

    def __del__(self) -> None:
        """Queue the close of a handle that was collected unclosed: this may run in any thread, even inside the cache's
        own code.
        """
        try:
            if self.closed or self._closing:
                return
            use, writable, changed = self._use, self._writable, self._changed()
        except AttributeError:
            return  # never bound
        name = repr(self)
        self._closing = CLOSED
        self._unbind()
        volume = self.volume
        if not volume.cache.native.forked and not volume.detached:
            use.inode.collected.append((use, changed))
            volume.engine.cache.flusher.defer(partial(lifetimes.close_collected, use, loss_cursor=self._loss_cursor))
            if writable or self._warns_of_readers:
                warnings.warn(f"unclosed {name}", ResourceWarning, stacklevel=2, source=self)

    # Names that C code of wrappers looks up.
    def __next__(self) -> bytes:
        line: bytes = self.readline()
        if not line:
            raise StopIteration
        return line

    def __getstate__(self) -> Any:
        raise TypeError("cannot pickle a CachedFile: open the key again in the other process")
