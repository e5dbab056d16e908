"""The end of a volume: detach, give up.

Detaching seals the volume first: nothing new is accepted, and who is changing a file has ended. So what is saved then
is all there is, and no write that was accepted can fall between the saving and the end. It refuses where saving fails,
unless the caller gives data up on purpose, and the volume goes on as before. Threads that hang in a dead backend are
left behind with all that they may still touch.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from . import lifetimes
from .backends.protocol import close_backend_file
from .engine import direct
from .engine.park import Deadline, deadline_error
from .engine.runner import Job
from .errors import FailedRange, LostRange, UnsavedDataError
from .inode import Inode
from .native import END, LOCK, NAMES, TOKEN

if TYPE_CHECKING:
    from .volume import Volume

__all__ = ["detach"]

PATIENCE = 1.0


def detach(volume: Volume, timeout: float | None, on_failed: Literal["raise", "discard"]) -> list[LostRange]:
    if volume.detached:
        return []
    deadline = Deadline(volume.engine.clock, timeout)
    seal = _Seal(volume)
    try:
        lost = _save(volume, deadline, on_failed)
    except BaseException:
        seal.lift()
        raise
    _finish(volume, deadline)
    return lost


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
    what = f"{total} bytes in {len({r.key for r in unsaved})} files are not saved"
    return UnsavedDataError(
        f"{volume.name}: {what}{f': {cause}' if cause else ''}",
        unsaved[0].key if unsaved else None,
        ranges=unsaved,
        exceptions=[cause] if cause else [],
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
    except TimeoutError as error:
        volume.engine.abort(error)
    return True


def _within(volume: Volume, call: Callable[[], object], what: str, deadline: Deadline) -> None:
    """A call whose outcome changes nothing any more: on a thread of the volume.

    Raises:
        TimeoutError: it has not ended before the deadline.
    """

    def alive() -> None:
        if deadline.passed():
            raise deadline_error(what)

    job = Job(volume.engine.park, call, what=what)
    try:
        volume.engine.runner.submit(NAMES, job).wait(alive)
    except OSError as error:
        if error is not job.error:
            raise


def _quiet(volume: Volume, inodes: list[Inode], deadline: Deadline) -> bool:
    """Whether no call of the backend runs any more, after a moment for read-ahead to end."""
    native = volume.engine.native
    moment = Deadline(deadline.clock, PATIENCE)
    while native.inflight() or any(i.native.in_old_hands() or i.native.commit_running() for i in inodes):
        if moment.passed() or deadline.passed():
            return False
        volume.engine.park.wait("volume", native.address, native.event_seq(), 0.01)
    return True


def _finish(volume: Volume, deadline: Deadline) -> None:
    """Threads end, files close, handles lead nowhere. What a hung call still uses is left alone until the process
    ends.
    """
    volume.detached = True
    with volume.names:
        inodes = [*volume.inodes.values(), *volume.orphans]
        volume.inodes.clear()
    for inode in inodes:
        for handle in inode.open_handles:
            handle._shut()

    def close_all() -> None:
        for inode in inodes:
            close_backend_file(inode.engine.backend_file)
        close = getattr(volume.engine.backend, "close", None)
        if close is not None:
            close()

    if _quiet(volume, inodes, deadline):
        with contextlib.suppress(TimeoutError):
            _within(volume, close_all, "close", deadline)
    stopped = volume.engine.stop(PATIENCE if deadline.at is None else max(0.2, deadline.left()))
    volume.aside.stop()
    volume.cache.forget(volume)
    if not stopped:
        return  # nor can anything be asked of that backend
    for inode in inodes:
        inode.native.drop_clean()
