"""Bytes that leave memory before their commit: the backend has acknowledged them, and a spool has them as well.

A `commit_on_close` backend shows nothing before the commit, so its acknowledged bytes must stay readable here. If
memory is short, CORE stages write requests (`Op.stage`): the bytes are written to the file's *spool*, a nameless
temporary file in the directory of the volume, and then sent like any others. Staged bytes are clean in memory; CORE
decides which reads are of them (`Op.staged`), and those read the spool.

    offset      0                                             size
    S of CORE   |████████████████        ██████████████████████|      all of it is in the spool
    unsent      |        ▒▒▒▒▒▒▒▒                              |      ... and the backend has forgotten these

Whatever makes unstable bytes dirty again makes staged ones *unsent*: a failed commit, a rollback, another base, a
reconnect. Before the next commit they are sent again from the spool, in whole write units and with a bounded amount of
memory; bytes of such a unit that are not staged come from the cache, or from the backend. `_unsent` may be larger than
S: only its part in S counts.

A file may *spill* besides: dirty bytes are put into the spool, and become staged and unsent at once, as if the backend
had taken and forgotten them. So it may hang or fail while they leave the memory limit.

A commit that succeeds ends all of this, and the spool goes. A read that CORE has planned before may come afterwards,
and find no spool or a newer one: it takes the spool first, then asks CORE whether the bytes are staged, and otherwise
is planned again. A newer spool exists only after CORE has dropped the bytes of the old one.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ...backends.spool import END, Ranges, Spool, parts_of_buffers, revoked
from ...backends.transfers import Transfers
from ...errors import ShutdownError
from ...native import Op, uninterrupted
from ..foreign import errno_of
from .owed import Growth

if TYPE_CHECKING:
    from ...backends.protocol import BackendFile
    from ..file import EngineFile

T = TypeVar("T")

STEP = 8 << 20
"""Bytes that are sent again at a time, unless a write unit is larger."""
KNOWN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of the spool that keep their errno; for others it means something about the backend."""


class NotStagedError(BlockingIOError):
    """A read of staged bytes came after their commit: it is planned again."""


class Staging:
    """The spool of one file, and the ranges that are to be sent again. Made with the first staged bytes.

    Lock: `lock`, taken before `EngineFile.lock`, guards all fields, and is held over writes to the spool: a thread that
    an abort has left behind must not write after a thread of the next backend. Reads of the spool take no lock, except
    for a commit: a file may spill beside that.
    """

    __slots__ = (
        *("_elsewhere", "_file", "_freed", "_growth", "_moves", "_sending", "_spool", "_unsent"),
        *("epoch", "lock", "writes"),
    )

    def __init__(self, file: EngineFile) -> None:
        self._file = file
        self.lock: Any = contextlib.nullcontext() if file is None else threading.Lock()  # see `NOTHING_STAGED`
        self._spool: Spool | None = None
        self._elsewhere = self._moves = False  # it has been moved from the directory of a tier; it is being moved
        self._unsent = Ranges()
        self._sending: Op | None = None  # a commit that does nothing but send and commit
        self._freed = 0  # changes when bytes of the spool go
        self._growth: Growth | None = None  # owed
        self.epoch = 0  # changes whenever the backend forgets: a request reads it before its first call
        self.writes = 0  # to the spool so far

    # -- write-back and reads

    def put(self, epoch: int, offset: int, buffers: Sequence[memoryview]) -> None:
        """Write bytes of a request to the spool.

        Raises:
            OSError: ENOSPC and others: it names the directory. ShutdownError: the request was left behind.
        """
        with self.lock:
            if epoch != self.epoch:
                raise ShutdownError("the volume was aborted", self._file.key)
            try:
                self._put(offset, buffers)
            except OSError as error:
                spills = self._file.volume.spills
                if self._elsewhere or spills is None or not spills.may_leave(error):
                    raise
                self._elsewhere = self._moves = True
                try:
                    self._named(partial(self._put_elsewhere, offset, buffers))
                except BaseException:
                    self._elsewhere = False  # the next try of the request moves it, if it fails again
                    raise
                finally:
                    self._moves = False

    def _put_elsewhere(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Go on in the directory of temporary files, with all that the spool has: that of the tier takes no more."""
        other = Spool(None)
        if self._spool is not None:
            other.take(self._spool, lambda: self._file.volume.check_alive(self._file.key))
        other.write_all(offset, buffers)
        self._spool = other
        self._freed += 1  # last: reads of the former one are planned again

    def _put(self, offset: int, buffers: Sequence[memoryview]) -> None:
        if self._spool is None:
            self._elsewhere = False
            self._spool = self._named(lambda: Spool(self._file.volume.spool or None))
        self.writes += 1
        spool = self._spool
        self._named(lambda: spool.write_all(offset, buffers))

    def spill(self, runs: Sequence[tuple[int, int]]) -> int:
        """Stage dirty bytes without the backend; return how many. The inode lock is held, and no direct write runs.

        Raises:
            OSError: of the spool; they stay dirty.
        """
        file, sends, end, epoch = self._file, self.sends(), runs[-1][1], self.epoch
        rebases, before, growth = file.rebases, file.remote_size, Growth(self._file, end, sends)
        if rebases % 2 or self._moves:
            return 0  # the bytes around written ones may be of either version; the move of a spool may take long
        data = [memoryview(bytearray(end - begin)) for begin, end in runs]
        if any(file.read(begin, room) < len(room) for (begin, _), room in zip(runs, data, strict=True)):
            return 0
        file.versions.about_to_change()
        with self.lock:  # which a rebase takes before it changes anything (`forgotten`); then it forgets what is owed
            if sends != self.sends() or (rebases, epoch) != (file.rebases, self.epoch) or file.forgetting:
                return 0  # a commit has just begun to send, or ended; or what was copied or measured has changed
            for (begin, stop), room in zip(runs, data, strict=True):
                self._put(begin, (room,))
                self._unsent.add(begin, stop)  # first: what is staged and not in there counts as sent
            moved: int = uninterrupted(partial(self._stage, runs, growth, before))  # a handler may pay what is owed
        return moved

    def _stage(self, runs: Sequence[tuple[int, int]], growth: Growth, before: int) -> int:
        """Stage bytes of the spool. Their size is owed first: reads of a gap before them wait for it."""
        file, sends = self._file, growth.behind
        if growth.arguments[0] <= before:
            return file.spilled(runs, sending=sends)
        with growth.leading:
            file.owe(growth)
            try:
                return file.spilled(runs, sending=sends)
            finally:
                self._grown(growth, before)

    def _grown(self, growth: Growth, before: int) -> None:
        """Owe the size to which spilled bytes lead: `growth`, less if not all of them are staged, or none."""
        file, led = self._file, self._file.remote_size
        growth.leads = led >= growth.arguments[0]
        if led <= before:
            file.owed.drop(growth)
            return
        if self._growth is not None:
            file.owed.drop(self._growth)
        self._growth = growth
        if not growth.leads:
            self._growth = Growth(file, led, growth.behind)
            file.owe(self._growth)
            file.owed.drop(growth)
        self._have_reads_wait()

    def sent(self, epoch: int, begin: int, end: int) -> None:
        """Record that the backend has acknowledged [begin, end)."""
        with self.lock:
            if epoch == self.epoch:
                self._unsent.cut(begin, end)

    def read(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Read staged bytes; may be short.

        Raises:
            NotStagedError: they are not staged any longer. OSError: the spool cannot be read; names the directory.
        """
        freed, spool = self._freed, self._spool  # first: see the top of this file
        found = None if spool is None else self._file.staged_from(offset)
        if spool is None or found is None or found[0] > offset:
            raise NotStagedError(errno.EAGAIN, "the bytes are not staged any longer")
        done = min(found[1] - offset, sum(map(len, buffers)))
        with revoked(parts_of_buffers(buffers, 0, done)) as parts:
            self._named(lambda: spool.fill(offset, parts))
        if self._freed != freed:
            raise NotStagedError(errno.EAGAIN, "the bytes may have gone meanwhile", self._file.key)
        return done

    def _named(self, call: Callable[[], T]) -> T:
        """Make a call of the spool, once more if clean data of the disk tier gave way to it. Its errors name the
        directory, and say nothing about the backend.
        """
        spills = self._file.volume.spills
        try:
            try:
                return call()
            except OSError as error:
                if self._elsewhere or spills is None or not spills.gives_way(error):
                    raise
            return call()
        except ShutdownError:
            raise
        except OSError as error:
            import tempfile  # on first use, as the spool does

            code = errno_of(error) if errno_of(error) in KNOWN else errno.EIO
            folder = ("" if self._elsewhere else self._file.volume.spool) or tempfile.gettempdir()
            raise OSError(code, f"the spool in {folder!r}: {error.strerror or error}", self._file.key) from error

    # -- what the backend forgets, under the token or after an abort

    def forgotten(self) -> None:
        """Record that the backend has forgotten all acknowledged bytes, or may have."""
        with self.lock:
            self.epoch += 1
            if self._spool is not None:
                self._unsent.add(0, END)

    def cut(self, begin: int, end: int) -> None:
        """Record that [begin, end) has left the file, or its local data. A write unit that was cut is sent again: the
        backend may be unable to keep a part of it.
        """
        with self.lock:
            if self._spool is None:
                return
            if not self._file.staged_bytes():
                self._spool, self._unsent = None, Ranges()
                return
            unit = int(self._file.limits().write_unit)
            for edge in (begin, end) if unit > 1 else ():
                if edge % unit:
                    self._unsent.add(edge - edge % unit, edge - edge % unit + unit)
            self._free(begin, end)

    def _free(self, begin: int, end: int) -> None:
        """Free the space of bytes that are not staged any longer."""
        self._freed += 1
        with contextlib.suppress(OSError):  # space that stays taken harms nothing
            if self._spool is not None:
                self._spool.free(begin, end)

    def committed(self, writes: int) -> None:
        """Record that CORE has dropped staged bytes after a commit, at whose end there were so many writes. Later ones
        are of the next commit, and keep the spool. The lock is held since before that end.
        """
        if self._spool is None:
            return
        if self.writes == writes and not self._file.staged_bytes():
            self._spool, self._unsent = None, Ranges()
            return
        at = 0
        while (found := self._file.staged_from(at)) is not None:
            self._free(at, found[0])
            at = found[1]
        self._free(at, END)

    # -- sending again

    def send_again(self, op: Op, backend_file: BackendFile) -> None:
        """Send unsent bytes before a commit; the token is held. An abort ends this early.

        Raises:
            OSError: of the backend, or of the spool.
        """
        if self._spool is None:
            return
        epoch = self.epoch
        calls = Transfers(backend_file, self._file.volume.backend, self._file.key)
        for begin, end in self._parts():
            if op.stopped:
                return
            sent = 0
            try:
                sent, error = calls.send(begin, self._assembled(calls, begin, end, epoch))
            finally:
                if begin + sent < end:
                    with self.lock:
                        self._unsent.add(begin + sent, end)
            if error is not None:
                raise error

    def begin_sending(self, op: Op) -> None:
        """Let bytes be spilled beside a commit, until `end_sending`: the thread does nothing but send and commit."""
        with self.lock:
            self._sending = op

    def end_sending(self, op: Op) -> None:
        """See `begin_sending`. Not that of a later commit, if this one was left behind."""
        with self.lock:
            if self._sending is op:
                self._sending = None
        self._have_reads_wait()

    def sends(self) -> bool:
        """Return whether a commit does nothing but send and commit."""
        op = self._sending
        return op is not None and not op.stopped

    def _have_reads_wait(self) -> None:
        """Have reads wait for the size of what was spilled beside a commit, if that is over."""
        if self._growth is not None and self._growth.behind and not self.sends():
            self._growth.be_due()

    def is_unsent(self) -> bool:
        """Return whether the backend has nothing of what is staged."""
        at = 0
        while self._spool is not None and (found := self._file.staged_from(at)) is not None:
            at = found[1]
            with self.lock:
                if not all(unsent for _, _, unsent in self._unsent.pieces(*found)):
                    return False
        return at > 0

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of unsent bytes, widened to write units, of at most `STEP` bytes or one unit."""
        file, unit = self._file, int(self._file.limits().write_unit)
        most, size = max(STEP // unit, 1) * unit, file.remote_size
        pos = done = 0
        while (found := file.staged_from(pos)) is not None:
            pos = found[1]
            with self.lock:
                pieces = list(self._unsent.pieces(*found))
            for begin, end, unsent in pieces:
                begin, end = max(begin - begin % unit, done), min(-(-end // unit) * unit, size)
                while unsent and begin < end:
                    done = min(end, begin + most)
                    yield begin, done
                    begin = done

    def _assembled(self, calls: Transfers, begin: int, end: int, epoch: int) -> bytearray:
        """Return the bytes [begin, end): staged ones from the spool, others from memory, or as the backend has them.
        They count as sent: what is spilled over them from here on is not.
        """
        room = bytearray(end - begin)
        if list(self.parts(begin, end)) != [(begin, end)]:
            unit = int(calls.limits().read_unit)
            start = begin - begin % unit
            stored = calls.fetch(start, -(-end // unit) * unit - start)[begin - start : end - start]
            room[: len(stored)] = stored
            self._file.read_local(begin, room)  # the backend may show what it has acknowledged only after a commit
        with memoryview(room) as whole, self.lock:
            if epoch == self.epoch:
                self._unsent.cut(begin, end)
            for low, high in self.parts(begin, end):  # with what was spilled beside the read
                with whole[low - begin : high - begin] as part:
                    self.read(low, (part,))
        return room

    def parts(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the staged ranges of [begin, end)."""
        while begin < end and self._spool is not None:
            found = self._file.staged_from(begin)
            if found is None or found[0] >= end:
                break
            begin = min(found[1], end)
            yield found[0], begin


NOTHING_STAGED = Staging(cast("EngineFile", None))
"""The staging of every file that has had none: without a spool no method changes it, or looks at the file."""
