"""The end of a volume: detach, give up.

Detaching seals the volume first: nothing new is accepted, and who is changing a file has ended. So what is saved then
is all there is, and no write that was accepted can fall between the saving and the end. It refuses where saving fails,
unless the caller gives data up on purpose, and the volume goes on as before. Threads that hang in a dead backend are
left behind with all that they may still touch.

One at a time ends a volume. Whoever comes second waits for the first, until his own deadline, and finds the volume
ended, or tries for himself; where he may give data up, the first does not keep him from it.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from ..backends.protocol import close_backend_file
from ..engine.foreign import shown
from ..engine.io import direct
from ..engine.park import SLICE, Deadline, Signal, deadline_error
from ..engine.report.notices import cause, spans
from ..engine.report.reason import Reason, during
from ..engine.runner import Job
from ..errors import FailedRange, LostRange, UnsavedDataError
from ..native import END, LOCK, NAMES, TOKEN
from . import lifetimes
from .inode import Inode

if TYPE_CHECKING:
    from .volume import Volume

__all__ = ["Turn", "detach"]

PATIENCE = 1.0


def detach(volume: Volume, timeout: float | None, on_failed: Literal["raise", "discard"]) -> list[LostRange]:
    deadline = Deadline(volume.engine.clock, timeout)
    turn = _turn(volume, deadline, on_failed)
    if turn is None:
        return []
    try:
        with volume.engine.keeper():
            return _end(volume, deadline, on_failed)
    finally:
        turn.over()


class Turn:
    """Who is ending a volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._thread = threading.get_ident()
        self._taken = False
        self.signal: Signal = volume.engine.park.signal()

    def take(self) -> tuple[int, Signal] | None:
        """None: it is taken; else the thread that has it, and what is set when that is over."""
        with self._volume.names:
            current = self._volume.turn
            if current is not None and current[0] != self._thread:
                return current
            # A signal handler may end what its own thread is ending: nobody waits for himself.
            self._volume.turn = (self._thread, self.signal)
            self._taken = True
        return None

    def over(self) -> None:
        taken, self._taken = self._taken, False
        if taken:
            current = self._volume.turn
            if current is not None and current[1] is self.signal:
                self._volume.turn = None
            self.signal.set()

    def __del__(self) -> None:
        """Where an interrupt struck before anybody else came to it."""
        self.over()


def _turn(volume: Volume, deadline: Deadline, on_failed: Literal["raise", "discard"]) -> Turn | None:
    """Wait for a turn to end the volume; None: somebody else has ended it.

    Raises:
        UnsavedDataError: it was somebody else's until the deadline.
    """
    turn = Turn(volume)
    if volume.ended:
        return None
    if turn.take() is None:
        return turn
    reason = _reason(volume, "another thread that ends the volume")
    return during(reason, lambda: _stand_by(volume, turn, deadline, on_failed))


def _stand_by(volume: Volume, turn: Turn, deadline: Deadline, on_failed: Literal["raise", "discard"]) -> Turn | None:
    forced = False
    while not volume.ended:
        other = turn.take()
        if other is None:
            return turn
        while not other[1].wait(SLICE if forced else min(SLICE, deadline.left())):
            if forced or not deadline.passed():
                continue
            if volume.detached:
                return None  # all is saved, or given up; only threads and files are left
            error = deadline_error("somebody else is detaching the volume")
            if on_failed == "raise":
                raise _unsaved_error(volume, _unsaved(volume), error) from error
            volume.engine.abort(error)  # this ends the waits of whoever has the turn
            forced = True
    return None


def _end(volume: Volume, deadline: Deadline, on_failed: Literal["raise", "discard"]) -> list[LostRange]:
    lost: list[LostRange] = []
    if not volume.detached:  # else an interrupt struck whoever came as far as that
        seal = _Seal(volume)
        try:
            lost = _save(volume, deadline, on_failed)
        except OSError:
            if not volume.detached:  # by a signal handler in this thread
                seal.lift()
                raise
        except BaseException:
            seal.lift()
            raise
    if not volume.ended:
        _finish(volume, deadline)
        _tell(volume, lost)
    return lost


def _tell(volume: Volume, lost: list[LostRange]) -> None:
    if not lost:
        volume.engine.say(logging.INFO, "the volume", "detached", "everything is saved")
        return
    ranges = [(entry.offset, entry.length) for entry in lost]
    files = len({entry.key for entry in lost})
    what = f"detached; {spans(ranges)} of {files} files were not saved and are given up"
    volume.engine.say(
        logging.ERROR, "data that was given up", what, "each handle raises DataLossError once", lost[0].key
    )


class _Seal:
    """Nothing new is accepted by a volume, until this is lifted."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._lifted = True
        volume.engine.seal(True)
        self._lifted = False

    def lift(self) -> None:
        """A volume that has ended stays sealed: a writer may still wait for a lock in it."""
        if not self._lifted and not self._volume.detached:
            self._lifted = True
            self._volume.engine.seal(False)

    def __del__(self) -> None:
        """Where an interrupt struck before anybody else came to lifting it."""
        self.lift()


def _save(volume: Volume, deadline: Deadline, on_failed: Literal["raise", "discard"]) -> list[LostRange]:
    """Save everything, or say what is given up.

    Raises:
        UnsavedDataError: not everything could be saved.
    """
    cause: OSError | None = None
    try:
        if not volume.engine.aborted:
            _drain(volume, deadline)
            volume.sync(None if deadline.at is None else deadline.left())
            if _cut_views(volume, deadline):
                volume.sync(None if deadline.at is None else deadline.left())
    except OSError as error:
        cause = error
    unsaved = _unsaved(volume)
    if cause is not None and not unsaved:
        unsaved = [*getattr(cause, "ranges", [])]
    if (unsaved or cause is not None) and on_failed == "raise":
        raise _unsaved_error(volume, unsaved, cause) from cause
    if isinstance(cause, TimeoutError):
        volume.engine.abort(cause)  # what hangs would keep the token for ever
    return _give_up(volume, deadline)


def _drain(volume: Volume, deadline: Deadline) -> None:
    """Return once nobody changes a file who had not seen the seal."""
    with volume.names:
        inodes = [*volume.inodes.values(), *volume.orphans]
    for inode in inodes:
        until = None if deadline.at is None else time.monotonic() + deadline.left()
        inode.native.run(LOCK, "holding", lambda: None, until)


def _cut_views(volume: Volume, deadline: Deadline) -> bool:
    """Writable views that are still open lose their files, which would be dirty for ever. Whether there were any."""
    with volume.names:
        inodes = [inode for inode in volume.inodes.values() if inode.native.usage()["write_pinned"]]
    for inode in inodes:
        until = None if deadline.at is None else time.monotonic() + deadline.left()
        inode.native.run(TOKEN, "cut_views", None, until)
    return bool(inodes)


def _unsaved(volume: Volume) -> list[FailedRange]:
    """What is local; an object of which only its creation, size, holes or direct writes are uncommitted counts with no
    bytes.
    """
    found: list[FailedRange] = []
    for file in volume.engine.files():
        if file.removed or file.abandoned:
            continue
        ranges = file.failed_ranges(everything=True)
        if not ranges and file.native.has_local():
            ranges = [file.uncommitted_range()]
        found += ranges
    return found


def _unsaved_error(volume: Volume, unsaved: list[FailedRange], cause: BaseException | None) -> UnsavedDataError:
    total = sum(r.length for r in unsaved)
    what = f"{total} bytes in {len({r.key for r in unsaved})} files are not saved" if unsaved else "not detached"
    return UnsavedDataError(
        f"{volume.name}: {what}{f': {shown(cause)}' if cause is not None else ''}",
        unsaved[0].key if unsaved else None,
        ranges=unsaved,
        exceptions=[] if cause is None else [cause],
    )


def _give_up(volume: Volume, deadline: Deadline) -> list[LostRange]:
    lost: list[LostRange] = []
    with volume.names:
        inodes = [*volume.inodes.values(), *volume.orphans]
    for inode in inodes:
        if not inode.native.has_local():
            continue
        forgotten = not volume.engine.aborted and _roll_back(volume, inode, deadline)
        if volume.engine.aborted:
            ranges = inode.native.local_ranges() + direct.uncommitted(inode.engine) or [(inode.native.size, 0)]
            entries = [LostRange(inode.key, pos, n, errno.EIO, volume.name) for pos, n in ranges]
        else:
            entries = lifetimes.drop_local(volume, inode, 0, END, cut=deadline.at is None, forgotten=forgotten)
        with volume.names:
            inode.record_loss(entries, seen=True)
        if inode not in volume.orphans:
            lost += entries
    return lost


def _roll_back(volume: Volume, inode: Inode, deadline: Deadline) -> bool:
    """What was uploaded and is never to be published shall not stay behind; who abandons sees to it himself. Whether
    the backend was asked; where it does not answer before the deadline, the volume is aborted.
    """
    if inode.engine.abandoned:
        return False
    rollback: Any = getattr(inode.engine.backend_file, "rollback", None)
    if rollback is None or not inode.engine.limits().commit_on_close or not inode.native.pass_idle():
        return False
    try:
        _within(volume, rollback, "rollback", deadline)
    except Exception as error:
        if isinstance(error, TimeoutError) and deadline.passed():
            volume.engine.abort(error)
        what = f"rolling back what is given up failed: {cause(error)}"
        volume.engine.say(logging.WARNING, "the volume", what, "what was uploaded may stay behind", inode.key)
    return True


def _within(volume: Volume, call: Callable[[], object], what: str, deadline: Deadline) -> None:
    """A call whose outcome changes nothing any more: on a thread of the volume.

    Raises:
        TimeoutError: it has not ended before the deadline.
    """

    def alive() -> None:
        if deadline.passed():
            raise deadline_error(what)

    volume.engine.runner.submit(NAMES, Job(volume.engine.park, call, what=what)).wait(alive)


def _quiet(volume: Volume, inodes: list[Inode], deadline: Deadline) -> bool:
    """Whether no call of the backend runs any more, after a moment for read-ahead to end."""
    native = volume.engine.native
    moment = Deadline(deadline.clock, PATIENCE)

    def busy() -> bool:
        return bool(native.inflight()) or any(i.native.in_old_hands() or i.native.commit_running() for i in inodes)

    def outlast() -> bool:
        while busy():
            if moment.passed() or deadline.passed():
                return False
            volume.engine.park.wait("volume", native.address, native.event_seq(), 0.01)
        return True

    return not busy() or during(_reason(volume, "the end of the backend's calls"), outlast)


def _reason(volume: Volume, what: str) -> Reason:
    native = volume.engine.native
    ends = "the volume ends without what hangs"
    return Reason(what, native, lambda look: look.busy(native.address), ends=ends)


def _finish(volume: Volume, deadline: Deadline) -> None:
    """Threads end, files close, handles lead nowhere. What a hung call still uses is left alone until the process
    ends. Where an interrupt strikes in here, the next who ends the volume does what is left.
    """
    volume.detached = True
    with volume.names:
        inodes = [*volume.inodes.values(), *volume.orphans]
    for inode in inodes:
        for handle in inode.open_handles:
            handle._shut()
    if _quiet(volume, inodes, deadline):
        _close_backend(volume, inodes, deadline)
    patience = PATIENCE if deadline.at is None else max(0.2, deadline.left())
    stopped = during(_reason(volume, "the end of the volume's threads"), lambda: volume.engine.stop(patience))
    volume.aside.stop()
    volume.cache._forget(volume)
    with volume.names:
        volume.inodes.clear()
    volume.ended = True
    if not stopped:
        return  # nor can anything be asked of that backend
    for inode in inodes:
        inode.native.drop_clean()


def _close_backend(volume: Volume, inodes: list[Inode], deadline: Deadline) -> None:
    """Once, whatever comes of it: everything that matters was committed or reported before."""
    closing, volume.backend_closed = not volume.backend_closed, True

    def close_all() -> None:
        for inode in inodes:
            close_backend_file(inode.engine.backend_file)
        volume.engine.backend.close()

    if not closing:
        return
    try:
        _within(volume, close_all, "close", deadline)
    except Exception as error:
        what = f"closing the backend failed: {cause(error)}"
        volume.engine.say(logging.WARNING, "the volume", what, "all data was dealt with before")
