"""Foreign changes: another writer changed the stored object (contract 2.19).

A change is noticed when the versions differ at an open, when the backend refuses another version (ESTALE, from a
commit, a read or a write), or by an explicit invalidate. Only `resolve` lays local data over another version, and
returns which bytes of that it replaces (overlay.py), and an open after an announcement that concerns none of that data.
Taking another version as the base needs the token, and runs on the volume's threads as soon as the token is free; the
thread that notices the change never waits. All acknowledged bytes were sent for the old version, so the backend forgets
them (`rollback`) and all of them become dirty again.

Files of a commit_on_close backend are pinned to the version that they were opened with: without local data to settle,
the handles of a replaced version raise ConflictError rather than read a mix, and the next open has another file.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from ...backends.plain import open_to_read
from ...backends.protocol import BackendFile, ObjectStat
from ...errors import ConflictError, Key, LostRange, PageCacheError, ShutdownError
from ...native import END, FORGET_CUTS, STAMP_MAX
from ..attempts import insisting
from ..foreign import errno_of
from ..report.notices import cause, spans
from ..report.trouble import SETTLED
from ..retryer import is_transient
from . import overlay
from .owed import FOLLOWING, Step, repeated

if TYPE_CHECKING:
    from ..file import EngineFile

ROLLBACK = Step("rollback", ())
"""A debt, even if it is made at once: a read may be making another one."""
TAKEN = "the foreign version was taken"
"""Reason of a loss, for the log."""


class Dispute:
    """A foreign change of one file, and the reaction to it. Made with the first foreign change.

    Lock: `EngineFile.lock`, held by the caller of every method.
    """

    __slots__ = ("base_lost", "doubtful", "remote", "take_due", "versions")

    def __init__(self) -> None:
        self.versions: tuple[str | None, str | None] | None = None
        """Of a conflict: the base, and the stored one."""
        self.remote: str | None = None
        """The stored version, once the base is lost."""
        self.doubtful: tuple[str | None, str] = (None, "")
        """A stored version that perhaps an earlier process of ours has made; how, for the text of the error."""
        self.base_lost = False
        """Uncached bytes of the base can no longer be read."""
        self.take_due = False
        """Taking the stored version waits for the token."""

    def lose_base(self, remote: str | None) -> None:
        self.remote, self.base_lost = remote, True

    def doubt(self, version: str | None, how: str) -> None:
        self.doubtful = version, how

    def find_base(self) -> None:
        if self.base_lost:
            self.base_lost = False

    def declare(self, base: str | None, stored: str | None) -> bool:
        known = self.versions is not None
        self.versions, self.take_due = (base, stored), False
        return known

    def request_take(self) -> bool:
        known, self.take_due = self.take_due, True
        return known

    def end_take(self) -> None:
        """Record that there is no version to be taken: the object has no name."""
        if self.take_due:
            self.take_due = False

    def end(self) -> None:
        """Record that the stored version is the base now."""
        if self is not NO_DISPUTE:
            self.versions, self.remote = None, None
            self.base_lost = self.take_due = False


NO_DISPUTE = Dispute()
"""The dispute of every file that has met no foreign change."""


def is_remote_change(error: BaseException) -> bool:
    """Return whether the backend refused a call because another version is stored."""
    if isinstance(error, ConflictError) or not isinstance(error, OSError):
        return False
    return errno_of(error) == errno.ESTALE and not is_transient(error)


def refused(file: EngineFile, *, read: bool = False) -> bool:
    """Handle a call that was refused for the version; on a thread that may repeat it. False: the stored version is the
    base by now, and nothing is lost. `read`: the call was a read: the base may have changed beside it.
    """
    whole = file.limits().commit_on_close
    if not whole:
        file.doubt_copy(0, END)  # before the file is asked for its version, which may lack bytes that were sent
    while True:
        with file.lock:
            changes = file.changes()
        try:
            version = file.volume.backend.stat(file.key).version
        except Exception:
            version = None
        if file.has_local() or not whole:
            return changed(file, version, read=read and whole)
        with file.lock:
            stands = file.changes() == changes  # otherwise that version may be older than the base
            same = file.versions.is_base(version)
        if stands and not same and not file.is_renamed():
            _lose_base(file, version)
        if stands:
            return not same


def error_of(file: EngineFile, error: BaseException) -> BaseException:
    """Return the error for the caller of a call that was refused for the version. Of an object that this volume has
    removed it is the store's own: no other writer is in conflict.
    """
    return error if file.removed and file.conflict is None else file.conflict_error()


def announced(file: EngineFile, names: Iterable[Key], version: str | None, start: int, end: int) -> None:
    """Record an announced change of [start, end) of the stored object, which has `names`. Never waits, and may be
    called from anywhere [K8].
    """
    file.versions.distrust()
    whole = file.limits().commit_on_close  # such objects are replaced as a whole
    start, end = (0, END) if whole else (start, end)
    file.invalidate_range(start, end)
    for name in names:  # afterwards: a look beside it may have kept bytes that were sent before
        file.volume.announced(name)
    file.give_up_copy("the object was changed by another writer")
    local = file.local_ranges()
    if whole:
        if not _may_be_ours(file, version):
            changed(file, version)
    elif any(pos < end and start < pos + n for pos, n in local):
        changed(file, version)
    elif version is not None and file.conflict is None:
        file.versions.announce(version)  # its size is not known


def _may_be_ours(file: EngineFile, version: str | None) -> bool:
    """Return whether a commit or a rename of this cache may have made an announced version of a whole object: one runs,
    or its result is not known yet. Whoever finds out the result finds a foreign version, too, and no read takes one.

    Each of them is recorded before it begins, and the version that it makes before that record goes: so the version is
    compared last, and a rename before the debt that it leaves.
    """
    with file.lock:
        running = bool(file.publications) or file.unnaming is not None
    if running or file.owed.owes(FOLLOWING):
        return True
    with file.lock:
        return file.versions.stale or file.versions.is_base(version)


def unnamed(file: EngineFile) -> None:
    """Settle a conflict, or a lost base, of an object that has lost its last name: other versions are none of it now.
    What only the conflict has kept back is sent again, if the object still takes it.
    """
    with file.lock:
        known = file.conflict is not None or file.dispute.base_lost
        if known:
            file.dispute.end()
    if known:
        file.bind_calls()
        _go_on(file)


def changed(file: EngineFile, version: str | None, *, read: bool = False) -> bool:
    """Record that another version than the one below the local data is stored. Never waits. Not while this volume
    changes the name: the version may be that of another object. `read`: a read has found it; False: the version is the
    base of a whole object by now.
    """
    if file.is_renamed():
        return True
    if not file.has_local():
        if file.limits().commit_on_close:
            _lose_base(file, version)
        return True
    return (_conflict if file.volume.on_conflict == "fail" else _give_up)(file, version, read=read)


def replaced(file: EngineFile, version: str | None, how: str = "") -> None:
    """Record that a version of a commit_on_close object has replaced the base below local data, and that the backend
    file was opened since: bytes of the base can no longer be read. `how`: see `Dispute.doubtful`.
    """
    if how:
        with file.lock:
            file.disputed().doubt(version, how)
    _lose_base(file, version)
    changed(file, version)


def _lose_base(file: EngineFile, version: str | None) -> None:
    """Record that uncached bytes can only be read by opening the object again."""
    with file.lock:
        if file.removed:  # a remove ends with `unnamed`, which has taken the lock before
            return
        file.disputed().lose_base(version)
    file.bind_calls()


def _conflict(file: EngineFile, version: str | None, *, read: bool = False) -> bool:
    """Declare a conflict. False: `read`, and the version is the base by now."""
    with file.lock:
        if read and file.versions.is_base(version):
            return False
        known = file.removed or file.disputed().declare(file.versions.base, version)
    if known:  # or removed meanwhile: `unnamed` has taken the lock before
        return True
    file.bind_calls()
    error = file.conflict_error()
    ranges = tuple(error.ranges)
    what = f"another version is stored below unsaved bytes, {spans(ranges)}: {cause(error)}"
    file.volume.emit("conflict", file.key, ranges, error, what, SETTLED)
    file.volume.say(logging.ERROR, "conflicts", what, SETTLED, file.key)
    # Trying to send marks dirty bytes as failed, and shows that acknowledged ones are not committed.
    file.flush_start(STAMP_MAX)
    file.start_commit()
    return True


def _give_up(file: EngineFile, version: str | None, *, read: bool = False) -> bool:
    """Request that the stored version is taken. False: `read`, and it is the base by now."""
    with file.lock:
        if read and file.versions.is_base(version):
            return False
        known = file.removed or file.disputed().request_take()
    if not known:
        what = "another version is stored below unsaved bytes"
        file.volume.say(logging.ERROR, "conflicts", what, "ours are given up", file.key)
        file.settle(partial(take_due, file))
    return True


# -- with the token held, on a thread of the volume


def open_base(file: EngineFile) -> tuple[BackendFile, ObjectStat]:
    """Open the object as it is stored now; FileNotFoundError: this volume has removed it."""
    backend = file.volume.backend
    if file.removed:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file.key)
    try:
        fresh = open_to_read(backend, file.key)
    except FileNotFoundError:
        if file.is_renamed():
            raise
        fresh = backend.open(file.key, create=True)  # removed: everything is local then
    return fresh, fresh.stat()


def _unseen(stored: BackendFile, stat: ObjectStat) -> None:
    """Read nothing of a new base."""


def _new_base(
    file: EngineFile,
    *,
    keep: bool = True,
    most: int | None = None,
    see: Callable[[BackendFile, ObjectStat], None] = _unseen,
) -> tuple[ObjectStat, bool]:
    """Make another version the base; return its size and version, and whether the backend forgot its acknowledged
    changes.

    `keep`: local data stays. `most`: stored bytes past this are cut off before any other call. `see`: reads that
    version before it is the base; if it raises, the conflict stands.
    """
    whole, since = file.limits().commit_on_close, file.volume.reconnects
    if whole:
        if file.owed.owes(FOLLOWING):
            file.owed.pay_now(FOLLOWING)  # first: the present version is that of its present name
        file.uncommit()  # before any other call: nothing may count as acknowledged if that fails
        file.staging.forgotten()
        if hasattr(file.backend_file, "rollback"):
            again = repeated(file, durable=False)  # unless that version becomes the base
            file.owe_instead((ROLLBACK, *again), keep=(FOLLOWING,))
            file.owed.pay_now(ROLLBACK.method)
        file.base_requested()
        fresh, stat = open_base(file)
        try:
            see(fresh, stat)
            take_base(file, fresh, stat, since)
        except BaseException:
            if file.backend_file is not fresh:
                file.volume.close_later(fresh, file.key)
            raise
        _owe_cut(file, stat, most)
        if keep and stat.size < (end := file.staged_end()):
            file.owe(Step("truncate", (end,)))  # for reads behind the stored end, until the bytes are sent again
        return stat, True
    file.owed.pay_now()  # published truncates and holes become part of the other version
    file.base_requested()
    stat = file.opened().stat()
    see(file.opened(), stat)
    _owe_cut(file, stat, most)  # first: a direct write continues as soon as there is no conflict, and may extend it
    take_base(file, None, stat, since)
    file.forget_uncommitted(FORGET_CUTS)  # what the store has of them is a part of that version
    with file.lock:
        file.commits.holes.clear()
    return stat, False


def _forget_owed(file: EngineFile, *steps: Step) -> None:
    """A rename beside it may have owed the name by now: that stays owed."""
    with file.lock:
        file.commits.holes.clear()
    file.owe_instead(steps, keep=(FOLLOWING,))


def _owe_cut(file: EngineFile, stat: ObjectStat, most: int | None) -> None:
    if most is not None and stat.size > most:
        file.owe(Step("truncate", (most,)))


def take_base(file: EngineFile, fresh: BackendFile | None, stat: ObjectStat, since: int) -> None:
    """Direct reads and commits to this version, which was found after `since` reconnects. The old file may still be in
    use by reads: it is closed with the new one.

    Raises:
        ShutdownError: an abort has come since: the version is one of an earlier backend.
    """
    with file.lock:
        file.volume.check_alive(file.key, since)  # with the file: a reconnect gives it another one under this lock
        if fresh is not None:
            file.commits.holes.clear()
            file.owed.forget_locked(keep=FOLLOWING)  # first: the others concern forgotten changes
            file.replace_locked(fresh)
        file.change_begins(False)
        file.versions.take(stat.version)
        file.versions.sized()
        file.dispute.end()
    file.give_up_copy("the object was changed by another writer")
    file.bind()


class DirectWrites(Exception):
    """Direct writes run beside an operation that excludes them. They need the token, so its holder cannot wait for
    them.
    """


def rebase(file: EngineFile) -> list[LostRange]:
    """Lay what this program has written over the current stored version; return which bytes of it are replaced."""
    file.uncommit()  # all that was written is dirty or staged
    laid = overlay.Overlay(file)
    with file.rebasing():
        stat, forgotten = _new_base(file, see=lambda stored, stat: laid.read(stored, stat.size))
        try:
            laid.put()
            file.rebase(stat.size, forgotten)
            laid.finish(file.opened(), stat.size)
        except BaseException:
            _conflict(file, stat.version)  # pages have bytes of the earlier version
            raise
    if file.number("written_whole"):
        what = "not all of its written ranges are remembered: some of its pages count as written as a whole"
        next = "Volume.resolve returns all bytes that this replaces"
        file.volume.say(logging.WARNING, "conflicts", what, next, file.key)
    _go_on(file)
    return laid.replaced


def lie_over_announced(file: EngineFile) -> None:
    """Take a version of which the announcement has said that it changes no local byte."""
    with file.rebasing():
        stat, forgotten = _new_base(file)
        file.rebase(stat.size, forgotten)
    _go_on(file)


def take(file: EngineFile, record: Callable[[list[LostRange]], None] | None = None) -> list[LostRange]:
    """Drop local data in favour of the current stored version, and record the loss: by `record`, or as one that was not
    requested. Of a removed object no version is stored. If this fails after retries there is a conflict: nothing may
    replace that version. If an abort ends it, it is due.
    """
    try:
        return insisting(file, partial(_take, file, record))
    except ShutdownError:
        with file.lock:
            if file.conflict is None:
                file.disputed().request_take()  # a reconnect has it made
        raise
    except BaseException:
        if file.conflict is None:
            _conflict(file, None)
        raise


def take_due(file: EngineFile) -> None:
    """Take the stored version if that is due, which no write-back replaces until then."""
    if file.dispute.take_due:
        with contextlib.suppress(ShutdownError):  # it stays due
            take(file)


def _take(file: EngineFile, record: Callable[[list[LostRange]], None] | None) -> list[LostRange]:
    with file.lock:
        waits = file.unnaming is not None and not file.removed
        if waits and file.conflict is None:
            file.disputed().request_take()  # the end of that call takes it
        if file.removed:
            file.dispute.end_take()
    if waits:
        return []
    with file.rebasing():
        base = None if file.removed else _new_base(file, keep=False)
        with file.loses():
            lost = file.drop(0, END, taken=True) if base is not None or file.removed else []
            if base is not None:
                stat, forgotten = base
                file.rebase(stat.size, forgotten)
            if record is None:
                file.report_loss(lost, TAKEN)
            else:
                record(lost)
    return lost


def go_back(file: EngineFile) -> bool:
    """Make the version below the local data, which was dropped, the base again. If objects are replaced as a whole,
    that is the version that was opened; otherwise the stored one, with all acknowledged bytes. False: another version
    has replaced the opened one.
    """
    whole, lost = file.limits().commit_on_close, file.conflict is not None or file.dispute.base_lost
    since = file.volume.reconnects
    if whole:
        file.opened()  # by its present name
        _forget_owed(file, ROLLBACK)
        file.owed.pay_now()
    else:
        file.owed.pay_now()
    file.base_requested()
    stat = file.opened().stat()
    if whole and (lost or stat.version != file.versions.base):
        return False
    with file.rebasing():
        take_base(file, None, stat, since)
        file.rebase(stat.size, whole)
    return True


def force(file: EngineFile) -> list[LostRange]:
    """Replace the current stored version by the cached one, byte for byte if objects are replaced as a whole.

    Raises:
        PageCacheError: ENOBUFS: some cached byte is neither in memory nor staged.
        DirectWrites: some run, and may store bytes that would be cut off.
    """
    if file.direct_count():  # none begins during a conflict
        raise DirectWrites
    size = file.size
    whole = file.limits().commit_on_close
    if whole and not file.dirty_all():
        raise PageCacheError(
            "resolve: not every byte of this version is in memory or staged; rebase or discard",
            file.key,
            errno=errno.ENOBUFS,
        )
    with file.rebasing():
        stat, forgotten = _new_base(file, most=size)
        file.rebase(min(stat.size, size), forgotten)
        file.own_all()
        if stat.size > size:
            # A commit pays the debt. The cut is repeated with the later changes, unless it is durable without a commit.
            file.set_uncommitted(lowest=END if file.durable() else size)
    _go_on(file)
    return []


def _go_on(file: EngineFile) -> None:
    """Make bytes that failed for the old version dirty again, and send them."""
    with file.lock:
        file.retry(failed_too=True)
        file.failures.forget()
    file.flush_start(STAMP_MAX)
