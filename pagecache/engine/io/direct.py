"""Direct I/O: past the cache, and coherent with it (contract 2.9, 2.10).

A direct read takes no lock and leaves nothing in the cache. C makes the calls for which it has a method of its own
(op_direct.c), and the engine reads the rest.

A direct write decides which lock it needs, takes it and decides again:

    shared      it extends nothing, nothing of the file is local, handle and backend allow several at once, and no
                running one overlaps it
    exclusive   otherwise; local data of the range is written back and committed first, or a later failed commit would
                put it over the newer bytes

Threads of the volume send its pieces, while the caller waits. If the caller is interrupted, running calls go on and
keep lock and count until they have returned (op_direct.c). Stored bytes are uncommitted: the next fsync commits them; a
failed commit, or a reconnect before one, loses them. A write during which a commit failed is sent again. Bytes that a
failed write has stored past the end are cut off before anything else is sent (tails.py).

If memory is needed to make bytes safe or complete, direct I/O is buffered I/O with an immediate write-back:
`Write.buffered` requests that, and nothing has happened.
"""

from __future__ import annotations

import contextlib
import errno
import io
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ...backends.plain import returned
from ...backends.protocol import BackendLimits
from ...disk.backend import past_tier
from ...errors import BackendProtocolError, LostRange, ShutdownError
from ...native import DIRECT, DIRECTLY, DIRTY, FOREVER, LOCK, SHARED, UNSTABLE, WRITEBACK, Op, uninterrupted
from ..commit import remote, tails
from ..commit.owed import LeftBehindError
from ..foreign import as_os_error, max_write_of, named
from ..runner import Job
from . import barrier, reader

if TYPE_CHECKING:
    from ...backends.protocol import BackendFile
    from ..attempts import Attempts
    from ..file import EngineFile


ROUNDS = 8
"""How often a write is sent again because commits fail beside it, and how often its range is cleaned."""
NO_PROGRESS_MAX = 3
"""Results of 0 bytes before that is an error."""
EMPTY_READS_MAX = 2
"""Answers of 0 bytes below the stored end before that is an error, as for buffered reads (fill.c)."""
SHORT_READS_MAX = 32
"""Answers that end before the requested start, inside its read unit, before that is an error; as for buffered reads."""
BUSY = 0.001


def is_buffered(limits: BackendLimits) -> bool:
    """Return whether objects of such a backend are always read and written through the cache."""
    return int(limits.write_unit) > 1 or limits.commit_on_close


# ---------------------------------------------------------------------------------------- reading


class Read:
    """One direct read of at most `length` bytes at `pos`, and the number of bytes done.

    Args:
        pos, length: its range.
        into: memory of the caller; None: the result is a bytes object.
        met: exception of a call that C has made for its first bytes.
    """

    __slots__ = ("_into", "_lends", "_space", "done", "length", "met", "pos")

    def __init__(self, pos: int, length: int, into: memoryview | None, met: Exception | None) -> None:
        self.pos = pos
        self.length = length
        self.met = met
        self.done = 0
        self._into = into
        self._space = io.BytesIO(b"" if into is not None else bytes(length))  # gives its memory away as bytes
        self._lends = True

    def part(self, start: int, stop: int) -> memoryview:
        """Return the memory for [start, stop) of the file."""
        if self._into is not None:
            return self._into[start - self.pos : stop - self.pos]
        with self._space.getbuffer() as whole:
            return whole[start - self.pos : stop - self.pos]

    def lend(self, start: int, stop: int, call: Callable[[memoryview], int]) -> int:
        """Make a call that stores at most the bytes of [start, stop). If the backend keeps a view of the result, the
        result moves, and later calls get memory of their own.
        """
        if not self._lends:
            return self.copy(start, stop, call)
        lent = self.part(start, stop)
        try:
            return call(lent)
        finally:
            with contextlib.suppress(BufferError):
                lent.release()
            try:
                self._space.truncate(self.length)  # only an error if views of it are left
            except BufferError:
                self._space, self._lends = io.BytesIO(self._space.getvalue()), False

    def copy(self, start: int, stop: int, call: Callable[[memoryview], int]) -> int:
        """Make a call like `lend`, with other memory."""
        memory = memoryview(bytearray(stop - start))
        answer = call(memory)
        if answer > 0:
            self.part(start, start + answer)[:] = memory[:answer]
        return answer

    def content(self) -> bytes:
        content = self._space.getvalue()
        return content if self.done == len(content) else content[: self.done]


def direct_read(self: EngineFile, op: Op, read: Read) -> None:
    """Read; `done` is less than the length only at the end of the file.

    Raises:
        BackendProtocolError, OSError: of the backend; the memory may have been changed.
    """
    at = read.pos
    end = min(at + read.length, self.size)
    while at < end:
        local, stop = self.direct_split(at, end)
        if at < local:
            at += self.read(at, read.part(at, local)) or _wait_for_copy(self)
        else:
            _read_remote(self, op, read, at, stop)
            at = stop
        end = min(end, self.size)
    read.done = max(0, end - read.pos)


def _wait_for_copy(file: EngineFile) -> int:
    file.volume.sleep(file, BUSY, "a page that is being changed")
    return 0


def _read_remote(file: EngineFile, op: Op, read: Read, at: int, stop: int) -> None:
    """Read the backend's bytes of [at, stop); zeros past its end."""
    unit = int(file.limits().read_unit)
    end = max(at, min(stop, file.remote_size))
    while at < end:
        head = at % unit
        length = min(end - at + head, int(file.limits().max_read))
        length = _within_boundary(at - head, length, file.limits())
        if head == 0 and length % unit == 0:
            got = _read_once(file, op, read, at, at + length)
        else:
            whole = memoryview(bytearray(-(-length // unit) * unit))
            units = Read(at - head, len(whole), whole, read.met)
            got = min(_read_once(file, op, units, units.pos, units.pos + len(whole), more_than=head), length) - head
            read.part(at, at + got)[:] = whole[head : head + got]
        read.met = None
        if not got:
            break  # truncated concurrently
        at += got
    if at < stop:
        read.part(at, stop)[:] = bytes(stop - at)


def _within_boundary(at: int, length: int, limits: BackendLimits) -> int:
    boundary = int(limits.boundary)
    return min(length, boundary - at % boundary) if boundary else length


def _read_once(file: EngineFile, op: Op, read: Read, at: int, stop: int, more_than: int = 0) -> int:
    """Read bytes of [at, stop) by one call, more than `more_than`, or just that past the end. Transient errors are
    retried.
    """
    volume, no_progress, attempts, since = file.volume, 0, 0, file.volume.clock.now()
    while True:
        volume.check_alive(file.key)
        seen, stored, read_into = file.storage_seen(), file.remote_size, file.read_into
        try:
            if (met := read.met) is not None:
                read.met = None
                raise met
            answer = _call_read(file, op, read, at, stop)
        except LeftBehindError:
            file.owed.outlast()
            continue
        except Exception as error:
            if op.stopped:
                volume.check_alive(file.key)
                raise ShutdownError(f"the volume {volume.name!r} was aborted", file.key) from error
            again = reader.outlast_names(file) or isinstance(error, reader.ReadAgainError)  # the call is over by now
            if not again and read_into == file.read_into:
                attempts += 1
                _again(file, error, attempts, since)
            continue
        if read_into != file.read_into:
            continue  # the object has lost the name, or has another one, that the backend has found it by
        if op.stopped:
            raise ShutdownError(f"the volume {volume.name!r} was aborted", file.key)
        if answer < 0:
            call = f"read_into({at}, {stop - at} bytes)"
            rule = "did not answer with the number of bytes read"
            raise BackendProtocolError(f"{call} {rule}: {returned(op.answer)}", file.key)
        if answer > more_than:
            return answer
        if at + more_than >= file.remote_size:
            return more_than
        if not seen or seen != file.storage_seen():
            volume.sleep(file, BUSY, "the end of a truncate")  # it has cut storage but not yet the size
            continue
        if at + more_than >= stored:
            continue  # it was cut before the call, and has grown since
        no_progress += 1 if answer else SHORT_READS_MAX // EMPTY_READS_MAX
        if no_progress >= SHORT_READS_MAX:
            raise BackendProtocolError(f"read_into({at}) answered {answer} before the end of the object", file.key)


def _call_read(file: EngineFile, op: Op, read: Read, at: int, stop: int) -> int:
    """Make one call: on this thread if callers may, otherwise on a thread of the volume.

    Unless the backend is prompt, it has other memory: an abort or an interrupt ends the wait, and the backend goes on.
    """
    volume, since = file.volume, file.volume.reconnects
    read_into = past_tier(file.read_into)
    if volume.prompt:
        return read.lend(at, stop, lambda memory: op.read(read_into, at, memory))

    def call(memory: memoryview) -> int:
        if volume.reads_here:
            return op.read(read_into, at, memory)
        job = Job(lambda: op.read(read_into, at, memory, True), what="read_into", key=file.key, file=file.id)
        return volume.runner.submit(DIRECT, job).wait(lambda: volume.check_alive(file.key, since))

    return read.copy(at, stop, call)


def _again(file: EngineFile, error: Exception, attempts: int, since: float) -> None:
    """Wait until a call may be repeated, or raise its error."""
    volume = file.volume
    if remote.is_remote_change(error):
        remote.refused(file, read=True)  # and do not repeat it: earlier parts may be of the other version
        found = remote.error_of(file, error)
        if found is not error:
            raise found from error
    delay = volume.judge(error, attempts, since)
    if delay is None:
        raised = named(as_os_error(error, file.key), file.key)
        raise raised from (error.__cause__ if raised is error else error)
    file.count("retries")
    volume.sleep(file, delay)


# ---------------------------------------------------------------------------------------- writing


@dataclass(slots=True, eq=False)
class Write:
    """One direct write, and its result.

    `offset` is its start (an append finds it out), `done` the number of bytes acknowledged from there.
    `buffered`: nothing was done, it must go through the cache. `shared`: the held lock is. `check_open` raises if the
    handle was closed.
    """

    offset: int
    data: memoryview
    check_open: Callable[[], None]
    append: bool
    parallel: bool
    done: int = 0
    buffered: bool = False
    shared: bool = False

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


def direct_write(self: EngineFile, op: Op, write: Write) -> None:
    """Wait until the backend has all of it, or it must be written through the cache.

    Raises:
        OSError: of the backend; `write.done` bytes are acknowledged.
    """
    self.volume.check_wait("a direct write", self.key)
    self.refresh_limits()
    if self.conflict is not None:
        raise self.conflict_error()
    while True:
        write.buffered = not _locked(self, op, write)
        if write.buffered:
            return
        write.check_open()
        self.volume.check_unsealed(self.key)
        if self.tail():
            tails.cut(self)  # before the write is counted: a cut under the token waits for counted ones
        # Take the file before `direct_begin`, which refuses after an abort: so no call goes to a later backend.
        backend_file = self.still_opened()
        if _began(self, op, write, backend_file):
            break
        op.release_lock()
    extends = write.end > min(self.size, self.remote_size)
    self.journaled.outdate()
    self.invalidate_range(write.offset, write.end)
    self.versions.about_to_change()
    self.give_up_copy("a direct write does not pass through it")
    sender = _Sender(self, op, write, backend_file.write_from, in_order=extends or self.limits().ordered_writes)
    try:
        for _ in range(ROUNDS):
            sender.send()
            if op.direct_end():
                return
            write.done = 0  # a commit failed concurrently, and may have forgotten it
        raise OSError(errno.EIO, f"{ROUNDS} commits failed beside a direct write", self.key)
    except Exception:
        if sender.running():
            write.done = 0  # a failed commit or a reconnect may still forget it, and reports only what has ended
        else:
            while not op.direct_end():
                write.done = 0
            if write.end > self.remote_size:
                with contextlib.suppress(ShutdownError):  # an abort: the reconnect handles it
                    tails.outlast(self)
        raise


def _began(file: EngineFile, op: Op, write: Write, backend_file: BackendFile) -> bool:
    """Count the write, once the gate is open, and pay what the file owes. False: the stored end may have changed, or
    the object has another name or none, so the lock must be chosen again; nothing is counted.
    """
    if not op.direct_begin():
        file.outlast(file.gate_closed, "the gate for direct writes")
        return False
    if not write.shared or file.direct_may_share(write.offset, write.end):
        if write.append:
            write.offset = file.size
        if file.conflict is not None:  # again: a thread that settles a conflict checks whether a write has begun
            raise file.conflict_error()
        if write.end > FOREVER:  # the place of an append is known only now
            raise OSError(errno.EFBIG, "the write would end beyond 2**63 - 1", file.key)
        if len(file.owed):
            file.owed.pay()
        if file.backend_file is backend_file:
            return True
    while not op.direct_end():
        pass  # a commit without these bytes has failed since it began
    return False


def outlast(file: EngineFile, tries: Attempts | None = None) -> None:
    """Wait until no direct write runs; the caller has ensured that none begins.

    Raises:
        DeadlockError: this thread is in one, and in a signal handler.
    """
    file.check_here(DIRECTLY)
    file.outlast(file.direct_count, "direct writes to end", tries)


def _locked(file: EngineFile, op: Op, write: Write) -> bool:
    """Take the lock that the write needs (contract 2.10). False: it must go through the cache; nothing is held."""
    limits = file.limits()
    one_by_one = limits.ordered_writes or not limits.parallel_direct_writes
    parallel = write.parallel and not one_by_one and not write.append
    if not _may_be_direct(file, write):
        return False
    if parallel and file.direct_may_share(write.offset, write.end):
        op.acquire(SHARED)
        stands = file.direct_may_share(write.offset, write.end) and _may_be_direct(file, write)
        if stands and op.direct_share(write.offset, write.end):
            write.shared = True
            return True
        op.release_lock()  # never upgraded in place: two such writes would wait for each other
    op.acquire(LOCK)
    write.shared = False
    if write.append:
        write.offset = file.size
    if _may_be_direct(file, write):
        if limits.ordered_writes:
            barrier.flush(file)  # nor does a pass send anything in between
        _clean(file, write.offset, write.end)
        return True
    op.release_lock()
    return False


def _may_be_direct(file: EngineFile, write: Write) -> bool:
    limits = file.limits()
    unit = int(limits.direct_unit)
    if is_buffered(limits) or file.is_cut_off() or file.staged_bytes() or file.number("write_pinned"):
        return False  # a view shows the cache's memory: the write must go through it
    return write.append or not (write.offset % unit or len(write.data) % unit)


def _clean(file: EngineFile, start: int, end: int) -> None:
    """Clear the range of local data. The lock is held: it stays clear."""
    for _ in range(ROUNDS):
        found = file.range_local(start, end)
        if found & (DIRTY | WRITEBACK):
            barrier.flush(file, start, end)
        elif found & UNSTABLE:
            barrier.commit(file)
        else:
            return
    raise BlockingIOError(errno.EAGAIN, "the bytes under a direct write do not become clean", file.key)


class _Piece:
    """A part of a direct write, which a thread of the volume sends call after call, until it is through or fails."""

    def __init__(self, sender: _Sender, start: int, end: int) -> None:
        self._sender = sender
        self.at = start
        self.end = end
        file = sender.file
        self.job = Job(self._run, what="write_from", key=file.key, file=file.id)

    def _run(self) -> None:
        self._sender.op.carry(self._send)

    def _send(self) -> None:
        sender, zeros = self._sender, 0
        base = sender.write.offset
        while self.at < self.end:
            with sender.write.data[self.at - base : self.end - base] as part:
                taken = sender.op.send(sender.write_from, self.at, part)
            if taken < 0:
                call = f"write_from({self.at}, {self.end - self.at} bytes)"
                rule = f"did not answer with the number of bytes taken, at most {self.end - self.at}"
                raise BackendProtocolError(f"{call} {rule}: {returned(sender.op.answer)}", sender.file.key)
            zeros = 0 if taken else zeros + 1
            if zeros == NO_PROGRESS_MAX:
                raise OSError(errno.EIO, f"write_from made no progress {NO_PROGRESS_MAX} times", sender.file.key)
            self.at += taken


class _Sender:
    """The sender of a write's pieces, in order or concurrently, with retries of failed ones."""

    def __init__(
        self, file: EngineFile, op: Op, write: Write, write_from: Callable[..., int], *, in_order: bool
    ) -> None:
        self.file = file
        self.op = op
        self.write = write
        self.write_from: Any = write_from
        self._window = 1 if in_order else int(file.limits().max_inflight)
        self._began = file.volume.reconnects
        self._running: deque[_Piece] = deque()

    def running(self) -> bool:
        """Return whether a call may still run."""
        return any(not piece.job.cancel() and not piece.job.finished() for piece in self._running)

    def send(self) -> None:
        """Send all of it.

        Raises:
            OSError: `write.done` has the number of bytes acknowledged from its beginning.
        """
        volume, write = self.file.volume, self.write
        attempts, since, left = 0, volume.clock.now(), [(write.offset, write.end)]
        try:
            while left:
                before = sum(end - start for start, end in left)
                left, error = self._send_once(left)
                write.done = (left[0][0] if left else write.end) - write.offset
                if error is None:
                    continue
                attempts = 1 if sum(end - start for start, end in left) < before else attempts + 1
                most = None if error is None else max_write_of(error)
                if most is not None:
                    self.file.lower_max_write(most)
                _again(self.file, error, attempts, since)
        except BaseException:
            for piece in self._running:
                piece.job.abandon()
            raise

    def _send_once(self, ranges: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], Exception | None]:
        """Send each range once; return their unsent remainders, and the first error."""
        error: Exception | None = None
        left = []
        pieces = (_Piece(self, start, end) for start, end in self._pieces(ranges))
        for piece in pieces:
            if error is None:
                self._running.append(piece)
                self.file.volume.runner.submit(DIRECT, piece.job)
                if len(self._running) < self._window:
                    continue
                piece = self._running[0]
                error = self._wait(piece)
                self._running.popleft()
            if piece.at < piece.end:
                left.append((piece.at, piece.end))
        while self._running:
            piece = self._running[0]
            error = self._wait(piece) or error
            self._running.popleft()
            if piece.at < piece.end:
                left.append((piece.at, piece.end))
        return sorted(left), error

    def _wait(self, piece: _Piece) -> Exception | None:
        volume, began = self.file.volume, self._began
        try:
            piece.job.wait(lambda: volume.check_alive(self.file.key, began))
        except Exception as error:
            if error is not piece.job.error:
                raise  # the wait ended, not the call
            return error
        return None

    def _pieces(self, ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        limits = self.file.limits()
        unit, most = int(limits.direct_unit), self.file.max_write()
        for start, end in ranges:
            while start < end:
                length = max(most - most % unit, min(unit, most))
                length = _within_boundary(start, min(length, end - start), limits)
                yield start, start + length
                start += length


# ---------------------------------------------------------------------------------------- losses


def lose(file: EngineFile, *, forget: bool = False) -> None:
    """Record the loss of uncommitted direct writes: a commit failed, or the backend is gone, so their stored state is
    unknown. Each handle reports it once; cached copies of them are read again. Later writes over them are not lost.
    """
    uninterrupted(partial(_lose, file, forget))  # once they are taken, no later call reports them


def _lose(file: EngineFile, forget: bool) -> None:
    before = file.direct_ranges()
    unreported = file.direct_lost(forget)
    for pos, length in (*before, *unreported):
        file.invalidate_range(pos, pos + length)
    unreported = _without(unreported, file.written_ranges())  # not all local bytes: those beside them were read
    size, volume = file.size, file.volume
    lost = [
        LostRange(file.key, pos, min(length, size - pos), errno.EIO, volume.name)
        for pos, length in unreported
        if pos < size
    ]
    file.report_loss(lost, "what direct writes had sent was not committed, and cannot be sent again")


def uncommitted(file: EngineFile) -> list[tuple[int, int]]:
    """Return (offset, length) of uncommitted direct writes without local data over them."""
    return _without(file.direct_ranges(), file.local_ranges())


def _without(ranges: list[tuple[int, int]], others: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts of `ranges` outside of `others`, which ascend."""
    found = []
    for pos, length in ranges:
        end = pos + length
        for other, n in others:
            if other >= end or other + n <= pos:
                continue
            if pos < other:
                found.append((pos, other - pos))
            pos = max(pos, other + n)
        if pos < end:
            found.append((pos, end - pos))
    return found
