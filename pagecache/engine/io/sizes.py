"""Truncate, punch, discard: changes of storage without bytes (contract 2.17, 2.18).

The caller holds the locks, a thread of the volume makes the backend's call: so an abort, a deadline or Ctrl-C ends the
wait, and the token stays with the call until it returns. The backend goes first, then the change is published:

    the backend did it            published, uncommitted until the next commit
    it refused                    nothing has changed
    unknown                       published as done, and owed again before the next call of the file (owed.py)

The result is unknown after an error of the transport, and after a wait that ended while the call ran.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import DeadlockError, LostRange, ShutdownError
from ...native import COMMIT, END, Op, uninterrupted
from .. import failures
from ..attempts import Attempts
from ..commit import tails
from ..commit.owed import Rollback, Step
from ..foreign import is_unsupported
from ..report.notices import cause
from ..retryer import is_refusal
from . import direct

if TYPE_CHECKING:
    from ...backends.protocol import BackendFile
    from ..file import EngineFile


class _Change:
    """One change of storage, with retries. `perhaps_done`: the backend may have carried it out."""

    def __init__(self, file: EngineFile, step: Step | Rollback) -> None:
        self._file = file
        self._step = step
        self._lock = threading.Lock()  # between the calling thread and the one that may stop waiting
        self._left = False
        self.perhaps_done = False

    def leave(self) -> bool:
        """Stop waiting: a call that has not begun does not begin. Return whether the change may be done."""
        with self._lock:
            self._left = True
            return self.perhaps_done

    def begin(self, op: Op) -> None:
        """Begin the call on a thread of the volume. The file is read first: `op.call` refuses after an abort, so it is
        no later backend's.
        """
        backend_file = self._file.opened()
        op.call(lambda: self._call(op, backend_file))

    def _call(self, op: Op, backend_file: BackendFile) -> None:
        tails.owe(self._file)  # the change may extend the object
        self._file.owed.pay_now()
        with self._lock:
            if self._left:
                return
            before, self.perhaps_done = self.perhaps_done, True
        try:
            self._step.call(backend_file)
        except BaseException as error:
            if is_refusal(error) and not op.stopped:  # after an abort even a change that was carried out may be refused
                self.perhaps_done = before and not is_unsupported(error)  # else no earlier try was carried out either
            raise

    def run(self, op: Op, tries: Attempts) -> None:
        """Wait until the backend has done it; transient errors are retried."""
        tries.repeated(lambda: self.begin(op), what=self._step.method, cls=COMMIT, file=self._file)


def _change(
    file: EngineFile, op: Op, step: Step, publish: Callable[[bool], None], tries: Attempts | None = None
) -> None:
    """Change the backend first, then publish. A definite refusal changes nothing. A cut of a withheld file is made with
    its first save.
    """
    durable = file.durable()
    if file.withheld and step.method == "truncate" and step.arguments[0] < file.remote_size:
        file.owe(step._replace(behind=True))
        publish(not durable)
        file.set_uncommitted()
        return
    file.versions.about_to_change()
    change = _Change(file, step)
    try:
        change.run(op, tries or Attempts(file.volume, step.method, file.key))
        publish(not durable)
    except BaseException:
        if change.leave():
            file.owe(step)
            publish(not durable)
            file.set_uncommitted()  # so that a commit comes, which pays
        raise


def _check_changeable(file: EngineFile, check_open: Callable[[], None]) -> None:
    """Check, with the locks held, whether the handle has changed since it requested them.

    Raises:
        ShutdownError: the volume is ending. ValueError: the handle was closed, or the file abandoned.
    """
    check_open()
    file.volume.check_unsealed(file.key)
    if file.abandoned:
        raise ValueError(f"{file.key!r}: the file was abandoned while it was about to be changed")


def truncate(self: EngineFile, op: Op, change: tuple[int, Callable[[], None], Attempts | None]) -> None:
    """Truncate, under the inode lock, the token and the invalidate lock. `change`: the size, the check that the handle
    is open, and the attempts of a call with a deadline.
    """
    size, check_open, tries = change
    _check_changeable(self, check_open)
    if tries is None or tries.deadline.at is None:
        self.settle_fills(min(size, self.size))
    else:
        pos = min(size, self.size)
        self.outlast(lambda: self.range_busy(pos), "a read of bytes that are cut off", tries)

    def publish(uncommitted: bool) -> None:
        self.truncate_cached(size, uncommitted)
        self.journaled.cut(size)
        self.staging.cut(size, END)
        if self.volume.mirror is not None:
            if size:
                self.volume.mirror.changed(self, "truncate", size)
            else:
                self.volume.mirror.emptied(self)
        page = int(self.volume.cache.config.page_size)
        with self.lock:
            # The block with the new end may still wait, or have failed, as a whole.
            failures.follow(self, -(-size // page) * page, END)

    with self.reserved(size):
        _change(self, op, Step("truncate", (size,)), publish, tries)


def punch(self: EngineFile, op: Op, change: tuple[list[int], Callable[[], None]]) -> None:
    """Punch a hole, under the locks of `truncate`. `change`: start, end, and the end of the finished part, which is
    start until it is published; and the check that the handle is open.
    """
    extent, check_open = change
    _check_changeable(self, check_open)
    start, end = extent[0], min(extent[1], self.remote_size)
    if start >= end:
        return
    self.settle_fills(start, end)

    def publish(uncommitted: bool) -> None:
        views = self.number("write_pinned") > 0  # first: they may store to the hole until they are released
        self.punch_cached(start, end, uncommitted)
        self.journaled.punched(start, end, views)
        self.staging.cut(start, end)
        extent[2] = end
        if uncommitted and (self.journaled.is_live() or hasattr(self.backend_file, "rollback")):
            with self.lock:
                self.committing().holes.append((start, end))
        if self.volume.mirror is not None:
            self.volume.mirror.changed(self, "punch_hole", start, end - start)
        if len(self.failures):
            page = int(self.volume.cache.config.page_size)
            inner = -(-start // page) * page, end // page * page  # a block with an end of the hole stays as a whole
            with self.lock:
                failures.follow(self, *inner)

    try:
        _change(self, op, Step("punch_hole", (start, end - start)), publish)
    except OSError as error:
        if not is_unsupported(error):
            raise


Record = Callable[[list[LostRange]], object]
"""Records a loss, before a sync can end without those bytes."""


def drop_local(self: EngineFile, op: Op, extent: tuple[int, int, Record, bool, bool]) -> None:
    """Drop local data of a range, and record the loss; the token excludes passes and commits.

    A backend that keeps acknowledged bytes separately still has them: it forgets all of them first, unless it already
    has (`forgotten`), and local ones outside of the range are sent again (contract 2.19).

    Raises:
        OSError: it did not forget, or there is no memory to leave writable views their content (ENOMEM). Nothing is
            dropped.
    """
    start, end, record, cut, forgotten = extent
    self.detach_views(start, end, parts=True)  # first: it may need memory
    if not forgotten and hasattr(self.backend_file, "rollback") and self.acknowledged(start, end):
        lost = _drop_acknowledged(self, op, start, end, record)
    else:
        lost = _drop(self, start, end, record)
    if cut and lost and self.size < lost[-1].offset + lost[-1].length and self.backend_file is not None:
        _cut_tail(self, op)


def _drop(file: EngineFile, start: int, end: int, record: Record) -> list[LostRange]:
    def drop() -> list[LostRange]:
        with file.loses():
            lost = file.drop(start, end)
            if lost:
                record(lost)
                file.versions.note_discard()
        return lost

    lost: list[LostRange] = uninterrupted(drop)  # once they are dropped, no later call reports them
    return lost


def _drop_acknowledged(file: EngineFile, op: Op, start: int, end: int, record: Record) -> list[LostRange]:
    if file.close_gate():
        direct.outlast(file)  # what they have stored would be forgotten, and acknowledged afterwards
    rollback = Rollback(bool(file.undone()["created"]))
    change = _Change(file, rollback)
    with file.keeping_reads_back():
        try:
            change.run(op, Attempts(file.volume, rollback.method, file.key))
            lost = _drop(file, start, end, record)
            file.lie_over(rollback.stored)
        except BaseException:
            if change.leave() or rollback.done:
                file.lie_over(None)
            raise
    return lost


def cut_views(self: EngineFile, op: Op, unused: None) -> None:
    """Detach writable views from the file; they keep a copy of their current content."""
    self.detach_views()


def _cut_tail(file: EngineFile, op: Op) -> None:
    """Cut off bytes of a failed write-back that may have been stored past the valid end. The list of losses matters
    more than this call: if it fails or is refused, these bytes are a tail like any other (tails.py).

    The inode lock is not held, so the gate excludes direct writes: their stored bytes are acknowledged.
    """
    file.close_gate()
    try:
        direct.outlast(file)
        _cut_to(file, op, file.remote_size)
    except (ShutdownError, DeadlockError):
        file.tail_left()  # after an abort the reconnect owes the cut to the next backend


def _cut_to(file: EngineFile, op: Op, size: int) -> None:
    def publish(uncommitted: bool) -> None:
        if uncommitted:
            file.set_uncommitted(lowest=size)

    try:
        _change(file, op, Step("truncate", (size,), tail=True), publish)
    except ShutdownError:
        raise
    except OSError as error:
        next = "it is made again before the file's next call"
        if is_unsupported(error):
            next = "it may be stored"
        else:
            file.tail_left()
        what = f"cutting the tail from {size} on, which was given up, failed: {cause(error)}"
        file.volume.say(logging.WARNING, "calls that are owed", what, next, file.key)
