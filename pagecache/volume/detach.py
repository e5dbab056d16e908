"""The end of a volume: detach, and its forms that lose data.

Detaching seals the volume first: new changes are refused, and running ones end. So the data that is saved then is
complete, and no accepted write can fall between the saving and the end. If saving fails, detaching is refused and the
volume continues, unless the caller requests the loss. Threads that hang in a dead backend are left behind with all
memory that they may still use.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ..backends.protocol import close_backend_file
from ..engine import failures
from ..engine.foreign import shown
from ..engine.io import direct
from ..engine.park import SLICE, Deadline, Signal, deadline_error
from ..engine.report.notices import cause, spans
from ..engine.report.reason import Reason, during
from ..engine.runner import Job
from ..errors import FailedRange, Key, LostRange, ShutdownError, UnsavedDataError
from ..native import END, LOCK, NAMES, TOKEN, Op
from . import lifetimes
from .inode import Inode

if TYPE_CHECKING:
    from ..engine.file import EngineFile
    from .volume import Volume

END_TIMEOUT_S = 1.0


def detach(volume: Volume, timeout: float | None, on_failed: Literal["raise", "discard"]) -> list[LostRange]:
    deadline = Deadline(volume.engine.clock, timeout)
    turn = _turn(volume, deadline, on_failed)
    if turn is None:
        return []
    try:
        failed: list[OSError] = []
        if volume.engine.durability == "disk" and not volume.engine.aborted:
            with contextlib.suppress(ShutdownError):  # of an abort beside it
                volume._begin_sync(ending=True)  # a call that holds a file keeps no other one from the disk
        if volume.recovery is not None:
            if volume.engine.durability == "backend":
                failed = volume.recovery.outlast(deadline)
            volume.recovery.stop(_moment(deadline))
        return _end(volume, turn, deadline, on_failed, failed)
    finally:
        try:
            turn.over()
        finally:
            if volume.recovery is not None and not volume.detached:
                volume.recovery.go_on()


def _moment(deadline: Deadline) -> Deadline:
    """Return the end of a short wait, for calls of the store that nothing unsaved depends on."""
    return Deadline(deadline.clock, END_TIMEOUT_S if deadline.at is None else min(END_TIMEOUT_S, deadline.left()))


class Turn:
    """The turn of a thread to end a volume. Once it has called `seal`, no new changes are accepted while it lasts."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._thread = threading.get_ident()
        self._taken = self._sealed = False
        self._around: tuple[int, Signal] | None = None  # the turn of this thread that a signal handler has interrupted
        self.signal: Signal = Signal()

    def take(self) -> tuple[int, Signal] | None:
        """Take the turn, and return None; if it is taken, return its thread and the signal that is set at its end."""
        with self._volume.inodes_lock:
            current = self._volume.turn
            if current is not None and current[0] != self._thread:
                return current
            # A signal handler may end a volume that its own thread is ending: it must not wait for itself.
            self._around = current
            self._volume.turn = (self._thread, self.signal)
            self._taken = True
        return None

    def seal(self) -> None:
        self._sealed = True
        self._volume.engine.seal(self.signal, True)

    def over(self) -> None:
        """End it. An ended volume stays sealed: a writer may still wait for a lock in it. Each step can be repeated: an
        interrupt may have come before or after it.
        """
        if self._sealed and not self._volume.detached:
            self._volume.engine.seal(self.signal, False)
        self._sealed = False
        if self._taken:
            current = self._volume.turn
            if current is not None and current[1] is self.signal:
                self._volume.turn = self._around
            if not self.signal.is_set():
                self.signal.set()
            self._taken = False

    def __del__(self) -> None:
        """End it after an interrupt between its taking and the `try`."""
        self.over()


def _turn(volume: Volume, deadline: Deadline, on_failed: Literal["raise", "discard"]) -> Turn | None:
    """Wait for a turn to end the volume; None: another thread has ended it.

    Raises:
        UnsavedDataError: another thread had the turn until the deadline.
    """
    turn = Turn(volume)
    if volume.ended:
        return None
    if turn.take() is None:
        return turn
    reason = Reason("another thread that ends the volume", volume.engine.native)
    return during(reason, lambda: _stand_by(volume, turn, deadline, on_failed))


def _stand_by(volume: Volume, turn: Turn, deadline: Deadline, on_failed: Literal["raise", "discard"]) -> Turn | None:
    forced = False
    while not volume.ended:
        other = turn.take()
        if other is None:
            return turn
        while not other[1].wait(SLICE if forced else min(SLICE, deadline.left())):
            if volume.turn is not other:
                break  # an interrupt came before the signal, or a signal handler has the turn
            if forced or not deadline.passed():
                continue
            if volume.detached:
                return None  # all is saved, or discarded; only threads and files are left
            error = deadline_error("another thread is detaching the volume")
            if on_failed == "raise":
                raise _unsaved_error(volume, _unsaved(volume, deadline)[0], error) from error
            volume.engine.abort(error)  # this ends the waits of the thread that has the turn
            forced = True
    return None


def _end(
    volume: Volume, turn: Turn, deadline: Deadline, on_failed: Literal["raise", "discard"], failed: list[OSError]
) -> list[LostRange]:
    if not volume.detached:  # otherwise an interrupt struck the other thread after the saving
        turn.seal()
        try:
            _save(volume, deadline, on_failed, failed)
        except OSError:
            if not volume.detached:  # by a signal handler in this thread
                raise
        if not volume.detached:
            _log_losses(volume, volume.given_up)
    if not volume.ended:
        _finish(volume, deadline)
    lost, volume.given_up = volume.given_up, []
    return lost


def _log_losses(volume: Volume, lost: list[LostRange]) -> None:
    if not lost:
        left = {file.key for file in ([] if volume.engine.journal is None else volume.engine.journal.files())}
        left |= {file.key for file in ([] if volume.recovery is None else volume.recovery.kept())}
        stays = f"unsaved bytes of {len(left)} files stay in the disk tier" if left else "everything is saved"
        volume.engine.say(logging.INFO, "the volume", "detached", stays)
        return
    ranges = [(entry.offset, entry.length) for entry in lost]
    files = len({entry.key for entry in lost})
    what = f"detached; {spans(ranges)} of {files} files were not saved and are given up"
    volume.engine.say(
        logging.ERROR, "data that was given up", what, "each handle raises DataLossError once", lost[0].key
    )


def _save(volume: Volume, deadline: Deadline, on_failed: Literal["raise", "discard"], failed: list[OSError]) -> None:
    """Save everything, or give it up. `failed`: of recovered files that could not be laid.

    Raises:
        UnsavedDataError: not everything could be saved.
    """
    cause = failed[0] if failed else None
    try:
        if not volume.engine.aborted:
            abandoned = _drain(volume, deadline)
            lifetimes.withhold_again(volume)  # no writer begins from now on
            _sync(volume, deadline)
            taken_back, cut = _take_back(volume, abandoned, deadline), _cut_views(volume, deadline)
            if taken_back or cut:
                _sync(volume, deadline)
            if volume.engine.durability == "disk":
                _sync_names(volume, deadline)
            # A call that creates a file may have begun before the seal, and ended after the sync.
            known: set[tuple[Key, int, int]] = set()
            unsaved, left = _unsaved(volume, deadline)
            while (found := {(each.key, each.offset, each.length) for each in unsaved}) != known:
                _sync(volume, deadline)
                known, (unsaved, left) = found, _unsaved(volume, deadline)
        else:
            unsaved, left = _unsaved(volume, deadline)
    except OSError as error:
        cause, (unsaved, left) = error, _unsaved(volume, deadline)
    if cause is not None and not unsaved:
        unsaved = [
            found for found in getattr(cause, "ranges", []) if isinstance(found, FailedRange)
        ]  # not a conflict's
    if (unsaved or cause is not None) and on_failed == "raise":
        raise _unsaved_error(volume, unsaved, cause) from cause
    if isinstance(cause, TimeoutError):
        volume.engine.abort(cause)  # a hanging call would keep the token forever
    _give_up(volume, left, deadline, discards=cause is not None or bool(unsaved))


def _sync(volume: Volume, deadline: Deadline) -> None:
    volume._begin_sync(ending=True).wait(deadline.timeout())


def _sync_names(volume: Volume, deadline: Deadline) -> None:
    """Have the store sync names, which the disk tier does not have, if it does that promptly."""
    with contextlib.suppress(OSError):
        volume._begin_saving([]).wait(_moment(deadline).timeout())


def _drain(volume: Volume, deadline: Deadline) -> list[Inode]:
    """Wait until all changes that began before the seal have ended. Return the abandoned files."""
    with volume.inodes_lock:
        inodes = [*volume.inodes.objects.values(), *volume.orphans]
    for inode in inodes:
        inode.run(LOCK, "holding", lambda: None, deadline.until())
    return [inode for inode in inodes if inode.abandoned and inode.has_local()]


def _take_back(volume: Volume, abandoned: list[Inode], deadline: Deadline) -> bool:
    """Wait until abandoned files have gone back. A sync leaves out the creations that they still owe, and comes first:
    a call that hangs in one of them keeps no other file from being saved. Return whether there were any.
    """
    with lifetimes.using(abandoned) as left:  # not those that went back and were freed meanwhile
        for inode in left:
            lifetimes.settle_abandoned(inode, volume._attempts("detach", inode.key, deadline.timeout()))
    return bool(abandoned)


def _cut_views(volume: Volume, deadline: Deadline) -> bool:
    """Detach open writable views from their files, which would stay dirty forever. Return whether there were any."""
    with volume.inodes_lock:
        inodes = [inode for inode in volume.inodes.objects.values() if inode.number("write_pinned")]
    for inode in inodes:
        inode.run(TOKEN, "cut_views", None, deadline.until())
    return bool(inodes)


def _unsaved(volume: Volume, deadline: Deadline) -> tuple[list[FailedRange], set[EngineFile]]:
    """Return unsaved ranges, and the files whose unsaved bytes stay in the disk tier. An object with only its creation,
    size, holes or direct writes uncommitted counts with no bytes.
    """
    found: list[FailedRange] = []
    left: set[EngineFile] = set()
    for file in volume.engine.files():
        on_disk = file.withheld or volume.engine.durability == "disk"
        if file.recovering or (on_disk and file.journaled.has_all(deadline)):
            left.add(file)
        elif not (file.removed or file.abandoned):
            ranges = failures.failed_ranges(file, everything=True)
            if not ranges and file.has_local():
                ranges = [failures.uncommitted_range(file)]
            found += ranges
    return found, left


def _unsaved_error(volume: Volume, unsaved: list[FailedRange], cause: BaseException | None) -> UnsavedDataError:
    total = sum(r.length for r in unsaved)
    what = f"{total} bytes in {len({r.key for r in unsaved})} files are not saved" if unsaved else "not detached"
    return UnsavedDataError(
        f"{volume.name}: {what}{f': {shown(cause)}' if cause is not None else ''}",
        unsaved[0].key if unsaved else None,
        ranges=unsaved,
        exceptions=[] if cause is None else [cause],
    )


def _give_up(volume: Volume, left: set[EngineFile], deadline: Deadline, *, discards: bool) -> None:
    """Give up local data, but for files that are `left` to the disk tier. `discards`: not only that of removed and
    abandoned files, and the volume keeps the list: after an interrupt the next end returns it.
    """
    lost = volume.given_up
    with volume.inodes_lock:
        inodes = [*volume.inodes.objects.values(), *volume.orphans]
    unsaved = [inode for inode in inodes if inode not in left]
    doomed = {inode for inode in unsaved if inode.removed or inode.abandoned}
    leaves = any(inode.has_local() and inode in left for inode in inodes)
    end = _moment(deadline) if leaves else deadline  # no call is waited for that may be left, too
    for inode in unsaved if discards else ():
        if inode not in doomed:  # before the volume is aborted: else the next attach finds what the disk has of it
            _give_up_file(volume, inode, end, lost)
    if lost and volume.engine.journal is not None and not volume.engine.aborted:
        volume.engine.journal.confirm_all()
    if leaves and not volume.engine.aborted:
        volume.engine.abort(None, left=True)  # before the others: a call that hangs in one is not waited for
    for inode in doomed:
        _give_up_file(volume, inode, deadline, [])


def _give_up_file(volume: Volume, inode: Inode, deadline: Deadline, lost: list[LostRange]) -> None:
    """Give up the local data of a file, and report that to its handles."""
    if not inode.has_local():
        return
    known = len(lost)
    if not volume.engine.aborted:
        drop = partial(_drop, volume, inode, lost, deadline)
        try:
            inode.run(TOKEN, "lending", drop, deadline.until())
        except TimeoutError as error:
            if not deadline.passed():
                raise  # of the backend
            volume.engine.abort(error)
    if volume.engine.aborted and len(lost) == known:
        _lose(inode, inode.local_ranges() + direct.uncommitted(inode) or [(inode.size, 0)], lost)


def _lose(inode: Inode, ranges: list[tuple[int, int]], lost: list[LostRange]) -> None:
    found = [LostRange(inode.key, pos, n, errno.EIO, inode.volume.name) for pos, n in ranges]
    lost += found
    inode.report_to_handles(found, seen=True)


def _drop(volume: Volume, inode: Inode, lost: list[LostRange], deadline: Deadline, op: Op) -> None:
    """Drop the local data of a file, whose token is held: a commit of it has ended."""
    changed, known, sent = inode.has_local(), len(lost), direct.uncommitted(inode)
    forgotten = changed and _roll_back(volume, inode, deadline)
    if not volume.engine.aborted:

        def record(found: list[LostRange]) -> None:
            lost.extend(found)
            inode.report_to_handles(found, seen=True)

        inode.drop_local(op, (0, END, record, deadline.at is None, forgotten))
        inode.journaled.given_up()
        if changed and not (inode.removed or inode.abandoned):  # it has no bytes, so it is no loss of the drop
            _lose(inode, sent or ([] if len(lost) > known else [(inode.size, 0)]), lost)


def _roll_back(volume: Volume, inode: Inode, deadline: Deadline) -> bool:
    """Roll back uploaded bytes that will never be published; abandoned files do that themselves. Return whether the
    backend was called; if it does not reply before the deadline, the volume is aborted.
    """
    if inode.abandoned:
        return False
    rollback: Any = getattr(inode.backend_file, "rollback", None)
    if rollback is None or not inode.limits().commit_on_close:
        return False
    try:
        _within(volume, rollback, "rollback", deadline)
    except Exception as error:
        if isinstance(error, TimeoutError) and deadline.passed():
            volume.engine.abort(error)
        what = f"rolling back discarded bytes failed: {cause(error)}"
        volume.engine.say(logging.WARNING, "the volume", what, "uploaded bytes may stay behind", inode.key)
    return True


def _within(volume: Volume, call: Callable[[], object], what: str, deadline: Deadline) -> None:
    """Make a call whose result no longer matters, on a thread of the volume.

    Raises:
        TimeoutError: it has not ended before the deadline.
        ShutdownError: the threads have ended, and none has begun it.
    """
    runner, job = volume.engine.runner, Job(call, what=what, last=True)

    def alive() -> None:
        if deadline.passed():
            raise deadline_error(what)
        if runner.ending and not runner.alive() and job.cancel():
            raise ShutdownError(f"{what}: the threads of the volume {volume.name!r} have ended")

    runner.submit(NAMES, job).wait(alive)


def _quiet(volume: Volume, inodes: list[Inode], deadline: Deadline) -> bool:
    """Return whether all backend calls have ended, after a moment for readahead."""
    native = volume.engine.native
    moment = _moment(deadline)

    def busy() -> bool:
        if native.inflight() or native.calling() or volume.engine.runner.waiting():
            return True
        return any(i.in_old_hands() or i.commit_running() for i in inodes)

    def outlast() -> bool:
        while busy():
            if moment.passed():
                return False
            volume.engine.park.wait("volume", native.address, native.event_seq(), 0.01)
        return True

    return not busy() or during(Reason("the end of the backend's calls", volume.engine.native), outlast)


def _finish(volume: Volume, deadline: Deadline) -> None:
    """End threads, close files, and invalidate handles. Memory that a hung call still uses stays until the process
    ends. After an interrupt, the next end of the volume completes this.
    """
    with volume.late_lock:  # no reconnect goes on beside this
        volume.detached = True
    with volume.inodes_lock:
        inodes = [*volume.inodes.objects.values(), *volume.orphans]
    for inode in inodes:
        for handle in inode.live_handles():
            handle._shut()
    volume.engine.native.close()
    with volume.inodes_lock:  # opens look at it under this lock
        inodes = [*volume.inodes.objects.values(), *volume.orphans]
    if _quiet(volume, inodes, deadline):
        _close_backend(volume, inodes, deadline)
    patience = max(0.2, _moment(deadline).left())
    reason = Reason("the end of the volume's threads", volume.engine.native)
    stopped = during(reason, lambda: volume.engine.stop(patience, deadline))
    volume.aside.stop()
    if volume.engine.journal is not None:  # before it is forgotten: another volume may have its store then
        volume.engine.journal.end()
    if (tier := volume.cache.tier) is not None:  # so too; an append that was running has made no record since
        left = [(inode.journaled.number, inode) for inode in inodes if inode.journaled.number]
        left += [] if volume.recovery is None else volume.recovery.begun()
        for number, inode in left:
            if inode.in_old_hands() or (volume.engine.aborted and inode.is_called()):
                tier.leave(number, inode)
    volume.cache._forget(volume)
    with volume.inodes_lock:
        volume.inodes.clear()
        volume.orphans.clear()
    volume.engine.held.end()
    if stopped:  # otherwise a call that hangs uses them, and that backend cannot be called either
        volume.engine.end()
    volume.ended = True
    if stopped:
        for inode in inodes:
            inode.drop_clean()


def not_attached(volume: Volume) -> None:
    """End a volume whose attach has failed; the backend stays open, and can be attached again."""
    volume.backend_closed = True
    _finish(volume, Deadline(volume.engine.clock, 0.0))


def _close_backend(volume: Volume, inodes: list[Inode], deadline: Deadline) -> None:
    """Close the backend once, whatever the result: everything important was committed or reported before."""

    def close_all() -> None:
        volume.backend_closed = True  # here: an interrupted wait takes a call back that has not begun
        for inode in inodes:
            close_backend_file(inode.backend_file)
        volume.engine.backend.close()

    if volume.backend_closed:
        return
    try:
        try:
            _within(volume, close_all, "close", deadline)
        except ShutdownError:
            if volume.backend_closed:  # it comes from the backend
                raise
            close_all()  # here: an interrupt struck the earlier end after that of the threads
    except Exception as error:
        what = f"closing the backend failed: {cause(error)}"
        volume.engine.say(logging.WARNING, "the volume", what, "all data was dealt with before")
