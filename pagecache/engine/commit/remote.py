"""Somebody else changed the stored object (contract 2.19).

It is noticed when the versions differ at an open, when the backend refuses another version (ESTALE, from a commit, a
read or a write), or because somebody says so. Without local data the cached bytes go. With local data `on_conflict`
decides:

    fail          a conflict: nothing more is handed over, commits and opens raise ConflictError, what is local stays
                  readable, and `resolve` or `discard` settles it
    rebase        what is local is laid over the new version
    take_remote   what is local is given up, and told as a loss

Taking another version as the base needs the token, and is done on the volume's threads as soon as it is free; what
notices the change never waits. Everything that was acknowledged was sent with the old version around it, so the backend
forgets it (`rollback`) and all of it is dirty again.

Files of a commit_on_close backend are pinned to the version that they were opened with: where there is no local data to
settle, the handles of a version that was replaced raise ConflictError rather than read a mix, and the next open has
another file.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Any

from ...backends.protocol import BackendFile, ObjectStat
from ...errors import ConflictError, LostRange, PageCacheError
from ...native import END, STAMP_MAX
from ..foreign import errno_of
from ..report.notices import cause, spans
from ..report.trouble import SETTLED
from ..retryer import is_transient
from . import staging
from .owed import Step

if TYPE_CHECKING:
    from ..file import EngineFile

__all__ = [
    "TAKEN",
    "announced",
    "changed",
    "force",
    "is_remote_change",
    "open_base",
    "outdated",
    "rebase",
    "refused",
    "take",
    "take_base",
]

TAKEN = "the version that somebody else has stored was taken"
"""Why bytes are given up, for the log."""


def is_remote_change(error: BaseException) -> bool:
    """Whether the backend refused a call because another version is stored."""
    if isinstance(error, ConflictError) or not isinstance(error, OSError):
        return False
    return errno_of(error) == errno.ESTALE and not is_transient(error)


def refused(file: EngineFile) -> bool:
    """A call of the backend was refused for the version; on a thread that may call it once more. False: what is stored
    is the base by now, and nothing is lost.
    """
    while True:
        with file.lock:
            changes = file.own_changes
        try:
            version = file.volume.backend.stat(file.key).version
        except Exception:
            version = None
        if file.native.has_local() or not file.limits().commit_on_close:
            changed(file, version)
            return True
        with file.lock:
            stands = file.own_changes == changes  # else that version may be older than the base
            same = version is not None and version == file.version and not file.version_stale
        if stands and not same:
            _lose_base(file, version)
        if stands:
            return not same


def outdated(file: EngineFile) -> bool:
    """Whether a call was refused for a version that is settled by now: what is stored is the base, and the call was one
    of the base before. Of objects that are replaced as a whole; on a thread that may call the backend once more.
    """
    if not file.limits().commit_on_close:
        return False
    try:
        version = file.volume.backend.stat(file.key).version
    except Exception:
        return False
    with file.lock:
        return version is not None and version == file.version and not file.version_stale


def announced(file: EngineFile, version: str | None, start: int, end: int) -> None:
    """Somebody says that [start, end) of the stored object changed. Never waits, and is called from anywhere [K8]."""
    whole = file.limits().commit_on_close  # such objects are replaced as a whole
    start, end = (0, END) if whole else (start, end)
    file.native.invalidate_remote(start, end)
    if file.volume.mirror is not None and not file.removed:
        file.volume.mirror.invalidate(file.key, "the object was changed by somebody else")
    local = file.native.local_ranges()
    if (whole and file.native.has_local()) or any(pos < end and start < pos + n for pos, n in local):
        changed(file, version)
    elif whole:
        _lose_base(file, version)
    elif version is not None and file.conflict is None:
        file.version = version


def changed(file: EngineFile, version: str | None) -> None:
    """Another version than that under the local data is stored. Never waits."""
    if not file.native.has_local():
        if file.limits().commit_on_close:
            _lose_base(file, version)
        return
    match file.volume.on_conflict:
        case "fail":
            _conflict(file, version)
        case "rebase":
            _settle(file, version, take_remote=False)
        case "take_remote":
            _settle(file, version, take_remote=True)


def _lose_base(file: EngineFile, version: str | None) -> None:
    """What is not cached cannot be read any more, but by opening the object again."""
    with file.lock:
        file.remote_version = version
        file.base_lost = True
    file.bind_reads()


def _conflict(file: EngineFile, version: str | None) -> None:
    with file.lock:
        known = file.conflict is not None
        file.conflict = (file.version, version)
    if known:
        return
    file.bind_reads()
    error = file.conflict_error()
    ranges = tuple(error.ranges)
    what = f"another version is stored below unsaved bytes of ours, {spans(ranges)}: {cause(error)}"
    file.volume.emit("conflict", file.key, ranges, error, what, SETTLED)
    file.volume.say(logging.ERROR, "conflicts", what, SETTLED, file.key)
    # What is dirty is found out to be failed, and what is acknowledged not to be committed, by trying.
    file.native.flush_start(STAMP_MAX)
    file.native.start_commit()


def _settle(file: EngineFile, version: str | None, *, take_remote: bool) -> None:
    with file.lock:
        asked, file.rebase_asked = file.rebase_asked, True
    if not asked:
        what = "another version is stored below unsaved bytes of ours"
        next = "ours are given up" if take_remote else "ours are laid over it"
        file.volume.say(logging.ERROR if take_remote else logging.WARNING, "conflicts", what, next, file.key)
        file.settle(lambda: _take(file) if take_remote else _rebase(file, version))


# -- with the token held, on a thread of the volume


def open_base(file: EngineFile) -> tuple[BackendFile, ObjectStat]:
    """The object as it is stored now."""
    backend = file.volume.backend
    try:
        fresh = backend.open(file.key)
    except FileNotFoundError:
        fresh = backend.open(file.key, create=True)  # removed: everything is local then
    return fresh, fresh.stat()


def _new_base(file: EngineFile, *, keep: bool = True, most: int | None = None) -> tuple[ObjectStat, bool]:
    """Another version is the base from here on: its size and version, and whether the backend forgot what it had.

    `keep`: what it had staged is wanted, and has to be in memory. `most`: what it has behind that is cut off before
    anything else is called.
    """
    whole = file.limits().commit_on_close
    if keep and whole and file.native.usage()["staged"] and hasattr(file.backend_file, "rebase"):
        return _lay_staged_over(file, most), True
    if keep:
        staging.recall(file)
    if whole:
        file.native.uncommit()  # first: nothing counts as acknowledged if a call fails now
        rollback: Any = getattr(file.backend_file, "rollback", None)
        if rollback is not None:
            rollback()
        file.holes.clear()
        file.owed.replace(())  # it was to be done to what is forgotten
        file.native.base_asked()
        fresh, stat = open_base(file)
        take_base(file, fresh, stat)
        _owe_cut(file, stat, most)
        return stat, True
    file.owed.pay_now()  # what was published of our truncates and holes is part of what the other version becomes
    file.native.base_asked()
    stat = file.opened().stat()
    _owe_cut(file, stat, most)  # first: a direct write goes on as soon as there is no conflict, and may extend it
    take_base(file, None, stat)
    return stat, False


def _lay_staged_over(file: EngineFile, most: int | None) -> ObjectStat:
    """The same where the backend can have another base below what it keeps: that need not come back into memory. What
    it has besides was sent with neighbours of the old version, and is sent again.
    """
    rebasing: Any = file.opened()
    file.native.uncommit()  # first: nothing else counts as acknowledged if a call fails now
    file.native.base_asked()
    rebasing.rebase(file.native.staged_ranges())
    file.holes.clear()
    file.owed.replace(())
    stat = file.opened().stat()
    take_base(file, None, stat)
    _owe_cut(file, stat, most)
    return stat


def _owe_cut(file: EngineFile, stat: ObjectStat, most: int | None) -> None:
    if most is not None and stat.size > most:
        file.owed.add(Step("truncate", (most,)))


def take_base(file: EngineFile, fresh: BackendFile | None, stat: ObjectStat) -> None:
    """Reads and commits go to this version. The old file may still be read from: it is closed with the new one."""
    with file.lock:
        file.version, file.version_stale = stat.version, False
        file.conflict, file.remote_version = None, None
        file.base_lost = file.rebase_asked = False
        file.own_changes += 1
    if file.volume.mirror is not None and not file.removed:
        file.volume.mirror.invalidate(file.key, "the object was changed by somebody else")
    if fresh is not None and file.backend_file is not None:
        file.retired.append(file.backend_file)
    file.use(fresh or file.backend_file)


class DirectWrites(Exception):
    """Some run beside what cannot be done beside them. They need the token: who holds it cannot wait for them."""


def rebase(file: EngineFile) -> None:
    """What is local lies over the version that is stored now."""
    file.rebase_asked = False
    stat, forgotten = _new_base(file)
    file.native.rebase(stat.size, forgotten)
    _go_on(file)


def take(file: EngineFile) -> list[LostRange]:
    """What is local is given up for the version that is stored now."""
    file.rebase_asked = False
    stat, forgotten = _new_base(file, keep=False)
    lost = file.drop(0, END)
    file.native.rebase(stat.size, forgotten)
    return lost


def _rebase(file: EngineFile, version: str | None) -> None:
    try:
        rebase(file)
    except staging.Missing:
        _conflict(file, version)  # nobody waits who could read it back


def _take(file: EngineFile) -> None:
    file.tell_loss(take(file), TAKEN)


def force(file: EngineFile) -> None:
    """Our whole version goes over the one that is stored now, byte for byte where objects are replaced as a whole.

    Raises:
        PageCacheError: ENOBUFS, some byte of ours is neither in memory nor staged.
        DirectWrites: some run, and may store what would be cut off.
    """
    if file.native.direct_count():  # none begins while there is a conflict
        raise DirectWrites
    size = file.native.size
    whole = file.limits().commit_on_close
    if whole and not file.native.dirty_all(hasattr(file.backend_file, "rebase")):
        raise PageCacheError(
            "resolve: not every byte of this version is in memory or staged; rebase or discard",
            file.key,
            errno=errno.ENOBUFS,
        )
    stat, forgotten = _new_base(file, most=size)
    file.native.rebase(min(stat.size, size), forgotten)
    if stat.size > size:
        file.note_cut(size)
    _go_on(file)


def _go_on(file: EngineFile) -> None:
    """What failed for the old version is plain dirty again, and is sent."""
    with file.lock:
        file.failures.clear(0, END)
    file.native.retry(failed_too=True)
    file.native.flush_start(STAMP_MAX)
