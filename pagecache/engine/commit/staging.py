"""Bytes that the backend stages for the cache: the calls, and the handling of their loss.

CORE decides which bytes are staged (`Op.stage`) and which reads are of staged bytes (`Op.staged`). Two failures concern
staging only. A read may find that a commit intervened: the staged bytes are in the object now, and are read from there.
Or the stage is gone (FileNotFoundError, or a BackendError with ENOENT): bytes still in memory become dirty again and
are sent anew, all others are lost, which every handle open at that time reports once (contract 2.16, 2.23).

A rollback forgets everything acknowledged, so before one the staged bytes are read back into memory (contract 2.19).
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ...backends.protocol import BackendFile
from ...errors import BackendError, LostRange, PageCacheError
from ...native import Op
from ..foreign import errno_of, text_of
from ..park import SLICE
from ..report.notices import cause
from ..report.reason import during, of_file
from ..retryer import is_transient
from .owed import Rollback

if TYPE_CHECKING:
    from ..file import EngineFile

__all__ = ["Missing", "commit_lost", "give_up", "gone", "lose", "possible", "reading_back", "recall", "stands"]

T = TypeVar("T")

RECALL_ROUNDS = 8
RECALL_STEP = 1 << 20


def possible(backend_file: BackendFile | None) -> bool:
    """Return whether the file can stage bytes."""
    return callable(getattr(backend_file, "stage", None)) and callable(getattr(backend_file, "read_staged", None))


def stands(file: EngineFile, op: Op) -> bool:
    """Return whether the backend's reply to the current read counts. The backend may have forgotten or committed bytes
    that the cache still asks for: so wait for the call that caused it, and repeat reads of invalidated bytes.

    Raises:
        OSError: a debt could not be paid.
    """

    def sleep() -> None:
        while True:
            seq = file.native.event_seq()
            if not _forgets(file):
                return
            file.volume.check_alive(file.key)
            file.volume.park.wait("inode", file.native.address, seq, SLICE)

    if _forgets(file):
        during(of_file(file, "the commit or rollback that runs", lambda snapshot: snapshot.token(file)), sleep)
    if len(file.owed):
        file.owed.pay()  # the last commit may have taken the staged bytes (outcome.py)
    return not op.anew() and (not op.staged or file.native.is_staged(op.offset))


def _forgets(file: EngineFile) -> bool:
    return file.forgetting or file.native.commit_running()


def gone(error: BaseException) -> bool:
    """Return whether an error of `stage` or `read_staged` means that nothing is staged any longer."""
    return errno_of(error) == errno.ENOENT and not is_transient(error)


def give_up(file: EngineFile, *, committing: bool = False) -> bool:
    """Give up staged bytes that are gone. Return whether any were given up: not while the result of a commit is
    unknown, since bytes that are no longer staged may be in the object.
    """
    if not file.native.usage()["staged"] or (file.owed.owes("commit") and not committing):
        return False
    # The backend may be unable to publish without the lost bytes. Nothing is staged until a rollback.
    owes = hasattr(file.backend_file, "rollback")
    file.allow_staging(not owes)
    if not lose(file, _stored_size(file), committing=committing):
        file.allow_staging(True)
        return False  # a commit began: its result decides
    if owes:
        file.settle(lambda: _begin_anew(file))
    return True


def _stored_size(file: EngineFile) -> int:
    try:
        return file.opened().stat().size
    except Exception:
        return file.native.remote_size


def lose(file: EngineFile, stored: int, *, committing: bool) -> bool:
    """Record that nothing is staged any longer, of an object with `stored` bytes. Return False while a commit runs,
    unless `committing`: it is the caller's, or one whose result does not count.
    """
    with file.loses():
        ranges = file.native.staged_lost(min(stored, file.native.undone()["lowest"]), committing)
        if ranges is None:
            return False
        if file.volume.mirror is not None and ranges and not file.removed:
            file.volume.mirror.invalidate(file.key, "staged data was lost")
        lost = [LostRange(file.key, pos, length, errno.ENOENT, file.volume.name) for pos, length in ranges]
        file.report_loss(lost, "the backend lost its staged bytes")
    return True


def _begin_anew(file: EngineFile) -> None:
    """Send all other acknowledged bytes again after a loss; the token is held."""
    if file.native.usage()["staged"]:
        lose(file, _stored_size(file), committing=True)  # for calls that were in flight when the loss was found
    rollback = Rollback()
    try:
        rollback.call(file.opened())
    except Exception as error:
        next = "it is made again before the file's next call"
        file.volume.say(logging.WARNING, "calls that are owed", f"rolling back failed: {cause(error)}", next, file.key)
        file.lie_over(None)
    else:
        file.lie_over(rollback.stored)
    file.allow_staging(True)


class Missing(PageCacheError):
    """Staged bytes must be read back first: nothing has happened."""

    def __init__(self, file: EngineFile, ranges: list[tuple[int, int]]) -> None:
        super().__init__(
            "what the backend keeps of this file has to be read back first, and does not fit into the cache: "
            "give all of it up, or commit it",
            file.key,
            errno=errno.ENOBUFS,
        )
        self.missing = ranges


def recall(file: EngineFile, skip: int = 0, skip_end: int = 0) -> None:
    """Make staged bytes dirty, except a range that is about to be dropped; the token is held.

    Raises:
        Missing: some of them are not in memory.
    """
    if missing := file.native.staged_recall(skip, skip_end):
        raise Missing(file, missing)


def reading_back(file: EngineFile, call: Callable[[], T]) -> T:
    """Make a call after which the backend has no staged bytes, once they are in memory."""
    for _ in range(RECALL_ROUNDS):
        try:
            return call()
        except Missing as error:
            if sum(length for _, length in error.missing) > file.volume.cache.limits.capacity:
                raise
            for pos, length in error.missing:
                for at in range(pos, pos + length, RECALL_STEP):
                    file.native.fill(at, min(RECALL_STEP, pos + length - at))
    return call()


def commit_lost(file: EngineFile, op: Op, error: BaseException) -> BackendError | None:
    """Return the error of a commit that failed because staged bytes are gone; it is repeated without them."""
    if not gone(error) or not _lacks(file, op):
        return None
    give_up(file, committing=True)
    return BackendError(errno.EAGAIN, f"staged data was lost: {text_of(error)}", retry=True, retry_after=0.0)


def _lacks(file: EngineFile, op: Op) -> bool:
    """Return whether any staged bytes are gone. They are kept by write unit, so single units may be gone: one byte of
    each is read, which is every byte if a unit is one byte. Any other error leaves the question open.
    """
    unit = int(file.limits().write_unit)
    room = memoryview(bytearray(1 if unit > 1 else min(int(file.limits().max_read), RECALL_STEP)))
    read_staged, pos = file.read_staged, 0
    while (found := file.native.staged_from(pos)) is not None:
        pos, end = found
        try:
            done = read_staged(pos, (room[: end - pos],))
        except Exception as lost:
            return gone(lost) and not op.stopped
        if op.stopped:
            return False  # an abort: the next backend checks again
        if done <= 0:
            return True
        pos += unit - pos % unit if unit > 1 else done
    return False
