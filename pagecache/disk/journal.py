"""A redo log of unsaved bytes: fsync at "disk" appends to it and waits for the device.

    append   copies a record into the kernel, at the end of the current segment; files in the order of their appends
    confirm  waits for the device. One caller syncs for all that wait: it leads, and wakes those that are done and,
             if others remain, one that leads next
    removal  segments go in order, each when no file has an unsaved record in it; one whose records do not count goes
             when the next one has begun

Nothing reads the log while the process lives. `recovery.py` reads it at the next start.

    beside an append          the log
    a sync                    goes on; a later sync confirms the record
    a failed sync             begins a new segment, which says that all unconfirmed records do not count. `generation`
                              changes: files append their unsaved bytes anew
    a failed append           has not happened; the next one is written over it
                              Next segments begin with the state of each file that a lost record was about, or a
                              rename, remove or discard that could not be appended: it has happened
    a full folder             raises; records that settle bytes have a reserve
    a full disk               others give way, and the append is tried once more

A segment is removed only if the device has confirmed the records that settle its bytes, and the folder is synced after
each: if a crash undid the removal of a segment and not that of a later one, saved bytes would come back as unsaved.

Locks, in this order: `_sync` is held over a sync of the device and `_lock` over an append; `_waiting` guards the list
of waiters. Calls may be interrupted anywhere: each flag that others depend on is a lock that a `with` releases. What
changes the log is `uninterrupted`: a signal handler, which may end the cache, finds it between two changes, and no lock
but one for reading that its own thread holds. There no thread waits long for a lock: the call fails, and is made again
behind the handlers, as another thread may have the lock in a call of the disk that hangs.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, Protocol, TypeVar

from ..native import uninterrupted
from . import records
from .device import OS, Device
from .records import CONTENT, COPIES, FIRST, HEAD, FileState, Head, Kind, Record, packed, saved, span, summed
from .recovery import Recovered, name_of, recover

T = TypeVar("T")

IOV_MAX = os.sysconf("SC_IOV_MAX")
SEGMENT_MIN = 4096
STATED = (Kind.RENAMED, Kind.REMOVED, Kind.DISCARDED)
"""Kinds that the state of a file says as well."""
SLICE = 0.1
"""Seconds that a waiter sleeps before it checks everything again."""
SETTLING = frozenset((Kind.SAVED, Kind.REMOVED, Kind.DISCARDED))
RESERVE_SHARE = 16
"""One part in so many of a segment is for records that settle bytes."""
AHEAD_SHARE, AHEAD_MAX = 64, 1 << 20
"""Zeros written behind a small record: one part in so many of a segment, at most so many bytes. A sync of blocks that
were never written changes metadata: on ext4 it takes three times as long. Large records would only be written twice."""


class Writer(Protocol):  # a volume
    ended: bool  # the next one may have its files by now


class JournalFull(OSError):
    """The journal has reached its limit. Saving the files of `Journal.oldest()` makes room."""


class _BusyError(Exception):
    """Another thread has the lock. What was to be done is not, and may be tried again."""


class _Segment:
    __slots__ = ("fd", "files", "first", "going", "last", "number", "path", "salt", "size", "used", "zeroed")

    def __init__(self, number: int, path: str, size: int, fd: int = -1, salt: int = 0, first: int = 0) -> None:
        self.number, self.path, self.size, self.fd, self.salt = number, path, size, fd, salt
        self.first, self.last = first, 0  # LSNs
        self.used = self.zeroed = FIRST
        self.files: set[int] = set()
        """Files that may have unsaved records in it."""
        self.going = threading.Lock()


class _File:
    """A file of the journal: its state, and its last content record in each segment."""

    __slots__ = ("changed", "content", "released", "segment", "state", "stated", "undo")

    def __init__(self, state: FileState) -> None:
        self.state = state
        self.stated = 0  # LSN of the last record of its state
        self.changed = 0  # another number after each change, also one that was not appended or does not count
        self.content: dict[int, int] = {}
        self.segment = -1  # the last one that has its state
        self.undo: deque[tuple[int, int, int, int]] = deque()
        """Runs of content records that one sync is for: LSN, segment, and last content there and size before it."""
        self.released = False

    def written(self) -> int:
        return max(list(self.content.values()), default=0)

    def is_live(self) -> bool:
        return self.written() > self.state.saved


class _Attempt:
    """A sync of the device. Interrupts come between steps of Python: `done` is filled within one."""

    __slots__ = ("done", "failure", "last", "segments")

    def __init__(self, last: int, segments: list[_Segment]) -> None:
        self.last, self.segments = last, segments
        self.done: list[None] = []
        self.failure = OSError(errno.EIO, "a sync has no result")


class _Waiter:
    __slots__ = ("lsn", "turn")

    def __init__(self, lsn: int) -> None:
        self.lsn, self.turn = lsn, threading.Lock()
        self.turn.acquire()


class Journal:
    """The journal in a folder, which only this process opens.

    Args:
        folder: is made, with mode 0700, if it is not there.
        segment: bytes of a new segment.
        limit: most bytes of all segments. Records that settle bytes are taken beyond it, too: each segment leaves room
            for some, and after a restart there is one more.
        device: the disk.
        room: returns the bytes that others leave for it, which may be less than `limit`; takes no lock.
        grown: called after a segment was begun, to have others make room.
        gives_way: called with an error of the disk, without a lock of the journal; returns whether others have made
            room.

    Raises:
        OSError: of the disk, or the folder has a journal of a later format.
    """

    def __init__(
        self,
        folder: str,
        *,
        segment: int = 64 << 20,
        limit: int = 5 << 30,
        device: Device = OS,
        room: Callable[[], int] = lambda: sys.maxsize,
        grown: Callable[[], object] = lambda: None,
        gives_way: Callable[[OSError], bool] = lambda _: False,
    ) -> None:
        if segment < SEGMENT_MIN:
            raise ValueError(f"segment={segment}: at least {SEGMENT_MIN} bytes")
        if limit < segment:
            raise ValueError(f"limit={limit}: at least one segment, {segment} bytes")
        self._folder, self._size, self._limit, self._device = folder, segment, limit, device
        self._others_leave, self._grown, self._gives_way = room, grown, gives_way
        if device is OS:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            for place in (os.path.dirname(folder), os.path.dirname(os.path.dirname(folder))):
                with suppress(PermissionError):
                    device.sync_folder(place or os.curdir)
        self._sync, self._lock, self._waiting = threading.Lock(), threading.RLock(), threading.RLock()
        self._waiters: list[_Waiter] = []
        self._void: list[tuple[int, int, OSError, int]] = []
        """LSNs after the first up to the second do not count, and the generation since then."""
        self._attempt: _Attempt | None = None  # its result is not recorded
        self._attempted = 0  # last LSN of the last one
        self._closed = False
        self._readers = 0  # no segment is removed under them
        self._may_return = False  # records do not count, and no START says so: a crash may bring them back
        self._restates: set[int] = set()  # files with content whose records say something else than their state
        self._restated = 0  # LSN of the last state that was appended for that
        self.recovered: Recovered = recover(folder, device)
        """Unsaved files of earlier processes. They stay in the journal until they are saved or given up."""
        self._current: _Segment | None = None
        self._unsynced: deque[_Segment] = deque()
        self._last_head = bytes(HEAD)
        self._files: dict[int, _File] = {}
        self._changes = count(1)
        self._segments: deque[_Segment] = deque()
        self._adopt()

    def _adopt(self) -> None:
        """Take over the segments and the files that recovery found."""
        found = self.recovered
        for number, size in found.segments:
            self._segments.append(_Segment(number, os.path.join(self._folder, name_of(number)), size))
        segments = {segment.number: segment for segment in self._segments}
        for unsaved in found.files:
            made = self._files[unsaved.number] = _File(unsaved.state)
            for head, *_ in unsaved.content:
                made.content[head.segment] = max(head.lsn, made.content.get(head.segment, 0))
            for number in made.content:
                segments[number].files.add(unsaved.number)
        # What a killed process left to the kernel is confirmed from now on: later damage to it is a loss.
        for segment in self._segments:
            fd = self._device.open(segment.path, os.O_RDWR)
            try:
                self._device.fdatasync(fd)
            finally:
                self._device.close(fd)
        if self._segments:
            self._device.sync_folder(self._folder)
        self._lsn = found.last
        self._counts = self._confirmed = found.end
        self._next_segment = max((number for number, _ in found.segments), default=0) + 1
        self._next_file = max([found.last_file, *self._files]) + 1

    # ------------------------------------------------------------------------------------------------ append

    def number(self) -> int:
        """Return a number for a new file."""
        with self._lock:
            self._next_file += 1
            return self._next_file - 1

    def append(self, record: Record, buffers: Sequence[Any] = (), by: Writer | None = None) -> int:
        """Append a record, and return its LSN. The bytes of `buffers` must not change before the return.

        Raises:
            JournalFull: it would pass the limit.
            OSError: of the disk, or `by` has ended. The record is not in the journal.
        """
        if record.kind == Kind.DATA and sum(memoryview(part).nbytes for part in buffers) != record.length:
            raise ValueError(f"the buffers of a DATA record of {record.length} bytes have another length")
        return self._change_with_room(partial(self._append, record, buffers, by))

    def _change_with_room(self, call: Callable[[], T]) -> T:
        """Do `change`, and once more if others have made room."""
        try:
            return self.change(call)
        except OSError as error:
            if isinstance(error, JournalFull):
                self._make_room()
            elif not self._gives_way(error):
                raise
        return self.change(call)

    def change(self, call: Callable[[], T]) -> T:
        """Make a call of which a signal handler finds all or nothing. It appends records that settle bytes."""

        def locked() -> T:
            self._take()
            try:
                return call()
            finally:
                self._lock.release()

        return self._insist(locked)

    def _insist(self, call: Callable[[], T]) -> T:
        while True:
            with suppress(_BusyError):
                result: T = uninterrupted(call)
                return result

    def _take(self) -> None:
        if not self._lock.acquire(timeout=SLICE):
            raise _BusyError

    def _check_open(self) -> None:
        if self._closed:  # another process may have it
            raise OSError(errno.EBADF, f"the journal in {self._folder!r} is closed", self._folder)

    def _make_room(self) -> None:
        """Remove segments, after confirming the records that allow it."""
        self.confirm(self._counts)
        self._insist(self._remove)

    def _append(self, record: Record, buffers: Sequence[Any], by: Writer | None) -> int:
        with self._lock:
            self._check_open()
            if by is not None and by.ended:  # here: the next one takes the lock before it looks for its files
                raise OSError(errno.EBADF, "the volume has ended, and appends nothing more", self._folder)
            file = self._files.get(record.file)
            if record.kind == Kind.FILE:
                file = file or _File(FileState(record.file, saved=self._counts))  # no lost record is of it
                volume, key, base, created, renaming, removing, identity = record.values
                name = {"key": key, "renaming": renaming, "removing": removing, "gone": False, "identity": identity}
                state = replace(file.state, volume=volume, **name)
                if not file.is_live():
                    state = replace(state, base=base, created=created, size=record.offset)
                record = state.record(file.written())
            elif file is None and record.kind in SETTLING:
                return self._counts  # the journal has nothing of it
            elif file is None:
                raise ValueError(f"file {record.file} of the journal in {self._folder!r} has no FILE record")
            settles = record.kind not in records.LAID or record.kind == Kind.DROPPED
            file.changed = next(self._changes)
            try:
                lsn = self._write(file, record, buffers, settles)
            except OSError:
                if record.kind in STATED:
                    self._owe(file, record)
                raise
            self._files[record.file] = file
            self._drop(file)
            return lsn

    def _owe(self, file: _File, record: Record) -> None:
        """Have the next segment state what this record says, which cannot be appended: it has happened."""
        file.state.apply(record, self._lsn)
        if file.content:
            self._restates.add(record.file)
            self._end_current()

    def _write(self, file: _File, record: Record, buffers: Sequence[Any], settles: bool) -> int:
        body = [packed(record.values)] if record.kind != Kind.DATA else buffers
        length = len(body[0]) if record.kind != Kind.DATA else record.length
        segment = self._room(file, record.kind, span(length), settles)
        if file.segment != segment.number and (record.kind != Kind.FILE or record.file in self._restates):
            self._restate(segment, file)
        lsn = self._put(segment, record, body, length)
        state = file.state
        live = file.is_live()
        before = state.size
        if record.kind == Kind.FILE:
            state.restore(record.offset, record.values, live=live)
            file.segment = segment.number
        else:
            state.apply(record, lsn)
        if record.kind not in CONTENT:
            file.stated = lsn
        if record.kind in CONTENT or (record.kind == Kind.FILE and state.created and not live):
            self._count(segment, file, lsn, before)
        return lsn

    def _count(self, segment: _Segment, file: _File, lsn: int, size: int) -> None:
        """Count a content record. `size`: of the file before it."""
        number, undo = segment.number, file.undo
        while undo and undo[0][0] <= self._confirmed:
            undo.popleft()
        if not undo or undo[-1][0] <= self._attempted or undo[-1][1] != number:
            undo.append((lsn, number, file.content.get(number, 0), size))
        file.content[number] = lsn
        segment.files.add(file.state.number)

    def _room(self, file: _File, kind: int, needed: int, settles: bool) -> _Segment:
        """Return the segment for a record: the current one, or a new one. What is stated anew may fill several."""
        while (segment := self._current) is None or segment.used + self._needed(file, kind, needed, segment) > (
            segment.size - (0 if settles else segment.size // RESERVE_SHARE)
        ):
            whole = self._needed(file, Kind.DATA, needed)
            if FIRST + whole > self._size - self._size // RESERVE_SHARE:
                raise ValueError(f"a record of {needed} bytes does not fit into a segment of {self._size}")
            self._roll(settles)
        return segment

    def _needed(self, file: _File, kind: int, needed: int, segment: _Segment | None = None) -> int:
        owed = file.state.number in self._restates
        if (kind == Kind.FILE and not owed) or (segment is not None and file.segment == segment.number):
            return needed
        return needed + sum(span(len(body)) for _, body in self._stating(file))

    def _stating(self, file: _File) -> list[tuple[Record, bytes]]:
        """Return the records that state a file in a segment, and their bodies."""
        state = file.state
        stating = [state.record(file.written())]
        if state.stored is not None and state.number in self._restates:
            stating.append(saved(state.number, state.saved, state.base, state.stored))
        return [(record, packed(record.values)) for record in stating]

    def _restate(self, segment: _Segment, file: _File) -> None:
        """Write the state of a file: the segment says all about it that earlier ones did."""
        for record, body in self._stating(file):
            lsn = self._put(segment, record, [body], len(body))
        file.segment = segment.number
        if file.state.created and not file.is_live():
            self._count(segment, file, lsn, file.state.size)
            file.content[segment.number] = file.state.saved + 1  # any SAVED says that it is created
        if file.state.number in self._restates:
            self._restates.discard(file.state.number)
            file.stated = self._restated = lsn

    def _put(self, segment: _Segment, record: Record, buffers: Sequence[Any], length: int) -> int:
        lsn = self._lsn + 1
        head = Head(
            *(record.kind, record.file, record.offset, record.length, lsn, self._confirmed, length),
            *(segment.number, segment.used),
        )
        bytes_of_head = head.packed(segment.salt)
        parts = [bytes_of_head + self._last_head, *summed(buffers, segment.salt + lsn)]
        used = segment.used + head.span
        if used > segment.size:
            raise OSError(errno.ENOSPC, f"the state of a file does not fit into a segment of {segment.size} bytes")
        zeroed, ahead = max(used, segment.zeroed), min(segment.size // AHEAD_SHARE, AHEAD_MAX)
        if used > segment.zeroed and head.span < ahead // 8:
            zeroed = min(used + ahead, segment.size)
            parts.append(bytes(zeroed - segment.used - sum(map(len, parts))))
        if not self._unsynced or self._unsynced[-1] is not segment:
            self._unsynced.append(segment)
        try:
            self._write_all(segment.fd, parts, segment.used)
        except OSError:
            self._may_return |= record.kind in records.LAID  # the disk may have it as a whole
            if segment.used > FIRST:
                self._current = None  # it may have a bad place: the next record goes to another
            raise
        # No calls: no interrupt comes between these.
        self._last_head = bytes_of_head
        segment.used, segment.zeroed, segment.last = used, zeroed, lsn
        self._lsn = self._counts = lsn
        return lsn

    def _write_all(self, fd: int, parts: list[Any], offset: int) -> None:
        at = 0
        while at < len(parts):
            try:
                done = self._device.pwritev(fd, parts[at : at + IOV_MAX], offset)
            except OSError as error:
                raise self._failure(error, "cannot write") from error
            if not done:
                raise OSError(errno.EIO, f"the journal cannot write in {self._folder!r}: nothing was taken")
            offset += done
            while at < len(parts) and done >= len(parts[at]):
                done -= len(parts[at])
                at += 1
            if done:
                parts[at] = memoryview(parts[at])[done:]

    def _failure(self, error: OSError, what: str) -> OSError:
        text = f"the journal {what} in {self._folder!r}: {os.strerror(error.errno or errno.EIO)}"
        number = errno.EIO if error.errno in (None, errno.ETIMEDOUT) else error.errno  # no deadline has passed
        return OSError(number, text, self._folder)

    def _roll(self, settles: bool) -> None:
        """Begin a segment. Its start is confirmed before the first record is written."""
        others, limit = self.bytes, min(self._limit, self._others_leave())
        if others + self._size > limit and not settles:
            text = f"the journal in {self._folder!r} has {others} bytes; its limit is {limit}: save the oldest files"
            raise JournalFull(errno.ENOSPC, text, self._folder)
        number = self._next_segment
        path = os.path.join(self._folder, name_of(number))
        salt = int.from_bytes(os.urandom(4), "little")
        start = Head(Kind.START, salt, self._counts, self._lsn + 1, 0, self._confirmed, 0, number, 0)
        fd = -1
        try:
            self._next_segment += 1
            fd = self._device.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            self._device.fallocate(fd, self._size)
            # From here on no earlier segment may take a record: a crash may bring this start back.
            self._end_current()
            for at in COPIES:
                self._write_all(fd, [start.packed(0) + self._last_head], at)
            self._device.fdatasync(fd)
            self._device.sync_folder(self._folder)
        except BaseException as error:
            if fd >= 0:
                self._device.close(fd)
                self._abandon(_Segment(number, path, self._size))
            if isinstance(error, OSError):
                what = "cannot begin a segment" + ", to record what the stores have by now," * settles
                raise self._failure(error, what) from error
            raise
        segment = self._current = _Segment(number, path, self._size, fd, salt, self._lsn + 1)
        self._may_return = False
        self._segments.append(segment)
        self._remove_void()
        self._grown()
        for file in [self._files[number] for number in self._restates]:
            if segment.used > FIRST and segment.used + self._needed(file, Kind.DATA, 0, segment) > segment.size:
                break  # the next segment has the rest
            self._restate(segment, file)

    def _remove_void(self) -> None:
        """Remove the segments without a record that counts: the new start says so. What fails goes in its turn."""
        void = [segment for segment in list(self._segments)[1:-1] if segment.first > self._counts]
        with suppress(OSError):
            for segment in void if not self._readers else ():
                self._device.unlink(segment.path)
                self._device.sync_folder(self._folder)
                self._segments.remove(segment)

    def _end_current(self) -> None:
        segment, self._current = self._current, None
        if segment is not None and segment not in self._unsynced:
            self._finish(segment)

    def _abandon(self, segment: _Segment) -> None:
        """Remove a segment that did not begin. If that fails, it goes in its turn: recovery begins at the oldest."""
        try:
            self._device.unlink(segment.path)
        except OSError:
            self._segments.append(segment)

    # ------------------------------------------------------------------------------------------------ confirm

    def confirm(self, lsn: int) -> None:
        """Return when the device has confirmed all records up to this one.

        Raises:
            OSError: a sync failed, and the record does not count any longer. `generation` has changed.
        """
        try:
            while not self._is_confirmed(lsn):
                if self._sync.locked():
                    self._wait(lsn)
                else:
                    with suppress(_BusyError):
                        uninterrupted(partial(self._lead, lsn))
        except BaseException:
            if not self._sync.locked():
                uninterrupted(self._wake)  # another one leads
            raise

    def _lead(self, lsn: int) -> None:
        if not self._sync.acquire(blocking=False):
            return
        try:
            if not self._is_confirmed(lsn):
                self._sync_all()
        finally:
            self._sync.release()
        self._wake()
        self._remove()

    def lacks(self) -> bool:
        """Return whether records of what has happened do not count, or could not be appended; or others may return."""
        return bool(self._restates) or self._may_return

    def owes(self) -> bool:
        """Return whether records of what has happened do not count, or are stated anew and not confirmed."""
        return bool(self._restates) or self._restated > self._confirmed

    def is_behind(self) -> bool:
        """Return whether a record that counts is not confirmed, or it owes any, or others may return."""
        return self._counts > self._confirmed or self.owes() or self._may_return

    def restate(self) -> None:
        """State anew what has happened: it counts once it is confirmed. What does not count returns no longer."""
        self._change_with_room(self._restate_all)

    def _restate_all(self) -> None:
        with self._lock:
            self._check_open()
            while self.lacks():
                self._roll(settles=True)

    def _is_confirmed(self, lsn: int) -> bool:
        for after, last, error, _ in self._void:
            if after < lsn <= last:
                raise self._failure(error, "cannot be synced")
        if lsn > self._confirmed:
            self._check_open()
        return lsn <= self._confirmed

    def has_void(self, lsn: int) -> bool:
        """Return whether any record before this one, or it, does not count."""
        return any(after < lsn for after, *_ in self._void)

    def is_void(self, lsn: int) -> bool:
        """Return whether a record does not count."""
        return any(after < lsn <= last for after, last, *_ in self._void)

    def _wait(self, lsn: int) -> None:
        waiter = _Waiter(lsn)
        with self._waiting:
            self._waiters.append(waiter)
        try:
            # The list comes first: a leader that ends after this line wakes the waiter.
            if self._sync.locked():
                waiter.turn.acquire(timeout=SLICE)
        finally:
            with self._waiting, suppress(ValueError):
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        """Wake one waiter that is not done, so that the next sync begins at once, and all that are done."""
        with self._waiting:
            rest = [w for w in self._waiters if w.lsn > self._confirmed and not self.is_void(w.lsn)]
            done = [w for w in self._waiters if w not in rest] if rest else self._waiters
            self._waiters = rest[1:]
            for waiter in (*rest[:1], *done):
                waiter.turn.release()

    def _sync_all(self) -> None:
        attempt = self._attempt
        if attempt is None:
            self._take()
            try:
                attempt = _Attempt(self._counts, list(self._unsynced))
                self._attempted = attempt.last
            finally:
                self._lock.release()
            record, calls = attempt.done.extend, map(self._device.fdatasync, [s.fd for s in attempt.segments])
            try:
                self._attempt = attempt
                record(calls)
            except OSError as error:
                attempt.failure = error
        self._take()
        try:
            if len(attempt.done) < len(attempt.segments):
                self._poison(attempt.failure)
            else:
                self._confirmed = max(self._confirmed, attempt.last)
                while self._unsynced and self._unsynced[0] is not self._current:
                    if self._unsynced[0].last > attempt.last:
                        break
                    self._finish(self._unsynced.popleft())
            self._attempt = None
        finally:
            self._lock.release()

    def _finish(self, segment: _Segment) -> None:
        fd, segment.fd = segment.fd, -1
        if fd >= 0:
            self._device.close(fd)

    def _poison(self, error: OSError) -> None:
        """After a failed sync the kernel may have dropped the bytes: no unconfirmed record counts.

        Others look without the lock. The error and the generation change in one step, and first: who has appended
        before finds either. `last` falls when it is known what is to be stated anew: before, its confirmation fails.
        The calls of the disk come at the end.
        """
        low, high = self._confirmed, self._lsn
        again = bool(self._void) and self._void[-1][0] == low
        self._void[-1 if again else len(self._void) :] = [(low, high, error, self.generation + 1)]
        self._may_return |= high > low
        for number, file in list(self._files.items()):
            while file.undo and file.undo[-1][0] > self._confirmed:
                _, segment, last, file.state.size = file.undo[-1]
                file.changed = next(self._changes)
                file.content[segment] = last
                if not last:
                    del file.content[segment]
                file.undo.pop()
            if file.stated > self._confirmed:
                self._restates.add(number)
            if not file.content:
                self._restates.discard(number)
                self._drop(file)
        self._current, self._counts = None, self._confirmed
        while self._unsynced:
            self._finish(self._unsynced.popleft())

    # ------------------------------------------------------------------------------------------------ space

    @property
    def segment(self) -> int:
        """Bytes of a new segment."""
        return self._size

    @property
    def limit(self) -> int:
        """Most bytes of all segments."""
        return self._limit

    @property
    def generation(self) -> int:
        """Changes when unconfirmed records stop to count: append all unsaved bytes anew. An fsync has succeeded if it
        is the same after `confirm` as before the first `append`.
        """
        return self._void[-1][3] if self._void else 0

    @property
    def last(self) -> int:
        """LSN of the last record that counts."""
        return self._counts

    @property
    def bytes(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in list(self._segments))

    def read(self) -> Recovered:
        """Read what there is now, as `recover` does, beside appends and confirmations."""
        with suppress(OSError):  # else there is what a crash would leave
            self.restate()
        with self._lock:
            self._readers += 1
            sizes = {segment.number: segment.size for segment in list(self._segments) if not segment.going.locked()}
            if self._current is not None:
                sizes[self._current.number] = self._current.used
            confirmed, end = self._confirmed, self._counts
        try:
            return recover(self._folder, self._device, sizes, confirmed, end)
        finally:
            with self._lock:
                self._readers -= 1
            if not self._closed:  # else another process may have the folder
                self._insist(self._remove)

    def oldest(self) -> list[int]:
        """Return the files whose unsaved records keep the oldest segment."""
        with self._lock:
            first = self._segments[0] if self._segments else None
            return [n for n in sorted(first.files) if self._pins(n, first)] if first else []

    def written(self, number: int) -> int:
        """Return the LSN of the last content record of a file; 0: it has none."""
        file = self._files.get(number)  # without the lock: an interrupted call asks, beside one that hangs
        return 0 if file is None else file.written()

    def unsaved_size(self, number: int) -> int | None:
        """Return the size that the unsaved records of a file lead to; None: it has none."""
        with self._lock:
            file = self._files.get(number)
            return file.state.size if file is not None and file.is_live() else None

    def has_unsaved(self) -> bool:
        """Return whether any file has unsaved records."""
        with self._lock:
            return any(file.is_live() for file in list(self._files.values()))

    def unsaved(self, volume: str) -> dict[int, int]:
        """Return the files of a volume that have unsaved records, each with a number: another one after any change."""
        with self._lock:
            found = [(n, file) for n, file in list(self._files.items()) if file.state.volume == volume]
            return {n: file.changed for n, file in found if file.is_live()}

    def unsaved_now(self, volume: str) -> dict[int, int] | None:
        """Do `unsaved`; None: an append runs, which may take as long as the disk."""
        found: dict[int, int] | None = uninterrupted(partial(self._unsaved_now, volume))
        return found

    def _unsaved_now(self, volume: str) -> dict[int, int] | None:
        if not self._lock.acquire(timeout=SLICE):
            return None
        try:
            return self.unsaved(volume)
        finally:
            self._lock.release()

    def release(self, number: int) -> None:
        """Promise that no record of a file follows. Its state goes when all is saved."""
        with self._lock:
            if file := self._files.get(number):
                file.released = True
                self._drop(file)

    def forget(self, number: int, by: Writer | None = None) -> None:
        """Give up the unsaved bytes of a recovered file, or drop it after its bytes were saved elsewhere."""
        with self._lock:
            file = self._files.get(number)
        if file is not None:  # otherwise another call has
            self.confirm(self.append(records.discarded(number, file.state.size), by=by))
            self.release(number)

    def _drop(self, file: _File) -> None:
        if not file.content and (file.state.gone or file.released):
            self._files.pop(file.state.number, None)

    def _pins(self, number: int, segment: _Segment) -> bool:
        file = self._files.get(number)
        return file is not None and file.content.get(segment.number, 0) > file.state.saved

    def _removable(self) -> _Segment | None:
        """Return the oldest segment if it may go. Each file of it is visited once, but for one that keeps it."""
        if not self._segments or self._segments[0] is self._current:
            return None
        first = self._segments[0]
        while first.files:
            number = first.files.pop()
            if (file := self._files.get(number)) is not None:
                if self._pins(number, first) or file.stated > self._confirmed or number in self._restates:
                    first.files.add(number)
                    return None
                file.content.pop(first.number, None)
                self._drop(file)
        return first

    def _remove(self) -> None:
        """Remove the oldest segments while they may go."""
        while True:
            self._take()
            try:
                segment = self._removable()
            finally:
                self._lock.release()
            if segment is None or not segment.going.acquire(blocking=False):
                return
            try:
                if self._readers:
                    return
                if segment is not (self._segments[0] if self._segments else None):
                    continue
                try:
                    try:
                        self._device.unlink(segment.path)
                    except FileNotFoundError:
                        pass
                    self._device.sync_folder(self._folder)
                except OSError:
                    return  # it stays, and counts; the next confirmation tries again
                self._take()
                try:
                    self._segments.popleft()
                finally:
                    self._lock.release()
            finally:
                segment.going.release()

    def forked(self) -> None:
        """Close the files, in a forked child."""
        for segment in self._segments:
            self._finish(segment)

    def close(self) -> None:
        """Confirm all, and close the files. If nothing is unsaved, no segment remains."""
        try:
            self.confirm(self._counts)
        finally:
            self.change(self._close)
        self._insist(self._remove)

    def _close(self) -> None:
        with self._lock:
            self._current, self._closed = None, True
            while self._unsynced:
                self._finish(self._unsynced.popleft())
            for segment in self._segments:
                self._finish(segment)
