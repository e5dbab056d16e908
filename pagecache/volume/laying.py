"""How the bytes of one file that an earlier process has left are laid over its object.

Bytes that were laid in part, as a store failed or the volume ended, are dropped again.

Whether the stored object is the one that they were written over:

    its version is the recorded one                        yes
    it is stored in place                                  yes: every write of ours has made another version
    a commit was about to begin, and its bytes are these,
    or those of that time                                  yes: it was that commit
    otherwise                                              no: a conflict, and the bytes below are gone
    there is none, and there was one, or another identity  nothing is laid; they stay listed
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ..engine.commit import remote
from ..engine.report.notices import spans
from ..engine.throttle import sure_room
from ..errors import Key, LostRange, ShutdownError
from ..file.cached import CachedFile
from ..native import END
from . import lifetimes, status

if TYPE_CHECKING:
    from ..backends.protocol import ObjectStat
    from ..disk.records import FileState
    from ..disk.recovery import Unsaved
    from ..engine.attempts import Attempts
    from ..engine.commit.journaled import VolumeJournal
    from ..engine.runner import Job
    from .inode import Inode
    from .volume import Volume

GONE = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}
"""What a look for an object says if there is none of its name."""
STEP = 1 << 20
"""Bytes that are laid, or compared, at a time."""


class Left:
    """One file that was left, and what has become of it; `Recovery` says when it is laid."""

    def __init__(self, volume: Volume, unsaved: Unsaved, key: Key, *, held: bool) -> None:
        self.unsaved, self.key, self.held = unsaved, key, held
        self.memory = _memory(volume, written(unsaved, unsaved.base_size))
        self.laying: Job[None] | None = None  # the last one
        self.tries: Attempts | None = None  # of that
        self.laying_error: tuple[int, Exception] | None = None  # of the last failed try while not held; its `tried`
        self.over = False  # it was laid, or given up
        self.gone = False  # there was no object, at the last look
        self.asked, self.missed = 1, 0  # it is looked for without a call: how often, and that all of these found none
        self.tried = self.since = 0  # `asked`, and `EngineVolume.reconnects`, when the last laying began
        self.link: Key | None = None  # another name that led to the object when it was opened last
        self.inode: Inode | None = None  # its object, once its bytes are local
        self.begun: Inode | None = None  # its bytes may have been laid in part
        self.size_before = 0  # of that
        self.resumed: int | None = None  # `Recovery._resumes` when a program decided; None: the object was seen

    def has_memory(self) -> bool:
        """Return whether it has bytes in memory that nothing writes back."""
        if self.inode is None:
            return self.held and self.laying is not None and not self.laying.finished()
        return self.inode.withheld and self.inode.has_local()

    def waits(self) -> bool:
        """Return whether it is to be laid without a call for it."""
        return self.asked > self.missed and not (self.held or self.over)


def lay_readable(volume: Volume, each: Left, tries: Attempts) -> Inode | None:
    """Do `_lay`. Bytes that have become unreadable since the start keep no others from being laid."""
    while True:
        try:
            return _lay(volume, each, tries)
        except OSError as error:
            if error.errno != errno.EILSEQ or not each.unsaved.check():
                raise


def _lay(volume: Volume, each: Left, tries: Attempts) -> Inode | None:
    """Lay the bytes of a file over the stored object. None: there is nothing to lay. FileNotFoundError: there is no
    such object, and there was one.
    """
    unsaved, handle = each.unsaved, None
    if each.begun is not None and each.begun.recovering and not each.begun.freed:
        take_back(volume, each, each.begun)
    try:
        try:
            handle = _found(volume, unsaved.state, tries)
        except OSError as error:
            if error.errno not in GONE or each.link is None:
                raise
            handle = _opened(volume, unsaved.state, each.link, tries, created=False)
        if each.over:
            return None  # it was given up
        if handle is None:
            try:
                journal_of(volume).forget(unsaved.number)
            except OSError as error:  # of the disk, and no error of the call: the next start looks again
                journal_of(volume).failed(error)
            return None
        inode: Inode = handle._inode
        if not (inode.journaled.is_live() and inode.journaled.number == unsaved.number):
            _adopt(volume, each, handle, tries)
        inode.keep_changes()
        _report_damage(volume, inode, unsaved)
    finally:
        if handle is not None:
            handle._leave()
    return inode


def _adopt(volume: Volume, each: Left, handle: CachedFile, tries: Attempts) -> None:
    """Make the bytes local."""
    inode: Inode = handle._inode
    unsaved, state = each.unsaved, each.unsaved.state
    inode.journaled.settle(tries.deadline)  # of another volume's bytes of the object, which are saved
    each.begun, each.size_before = inode, inode.size
    newer = False
    if volume.recovery is not None:
        volume.recovery.has_begun(each, inode)  # first: an open by another name waits for it
        newer = volume.recovery.has_newer(each, inode)
    changed = inode.journaled.is_live() or (inode.has_local() and not inode.undone()["created"])
    if changed or newer:
        each.begun = None
        what = "unsaved changes that were made since" if changed else "perhaps newer bytes: close, resume or discard it"
        raise OSError(errno.EBUSY, f"the object has {what}", state.key)
    lifetimes.opened(handle._use)  # until here a close beside it saves what its own handle has written
    inode.set_recovering(True)
    stored = None if inode.undone()["created"] else inode.versions.base
    ours = _is_ours(handle, unsaved, stored)
    large = _memory(volume, written(unsaved, _size_below(handle, unsaved))) > room_to_lay(volume)
    inode.set_aside(withheld=each.held or not large)  # nothing is published in between
    if not ours:  # nothing that the store has is of the version below
        inode.invalidate_range(0, END)
        inode.set_sizes(unsaved.base_size, unsaved.base_size)
    try:
        _write(handle, unsaved)
        tries.alive(each.since)  # a reconnect beside bytes that are not local yet compares nothing with them
    except BaseException:
        take_back(volume, each, inode)
        raise
    if not ours:
        inode.versions.replace(state.base, stale=False)
        how = ", perhaps newer bytes of this program, killed in a commit: 'discard' keeps them" if state.saving else ""
        if state.renaming is not None and inode.key != each.key:  # a copy may have another version: no proof
            how = f"; the rename from {state.key!r}, which a crash has met, may have made it"
        remote.replaced(inode, stored, how)
    inode.journal().adopt(unsaved.number, unsaved.content[-1].head.lsn, state)
    inode.set_recovering(False)


def take_back(volume: Volume, each: Left, inode: Inode) -> None:
    """Drop the bytes that were laid. An error, such as that of an abort, leaves this to the next call: until then
    nothing saves them.
    """
    inode.set_aside(withheld=True)
    lifetimes.drop_local(volume, inode, 0, END, cut=False)
    inode.settled(partial(_forget, inode, each.size_before))
    inode.set_aside(withheld=False)
    if inode.conflict is not None:
        inode.settled(partial(remote.take, inode))  # the laying compares again
    inode.set_recovering(False)
    each.begun = None


def end_hold(volume: Volume, each: Left, inode: Inode, tries: Attempts) -> None:
    """Let a held file go back to what is stored, of which a discard has left no bytes: it owes no size, no creation."""

    def abandon() -> None:
        with volume.inodes_lock:
            busy = inode.writers or inode.removed or inode.conflict is not None
            ends = each.held and inode.has_local() and not (busy or inode.unsaved())
            if ends:
                inode.set_aside(abandoned=True)  # from now on opens wait
        if ends and not inode.limits().commit_on_close:
            _forget(inode, each.size_before)
        if ends:
            inode.journaled.given_up()

    inode.settled(abandon)
    lifetimes.settle_abandoned(inode, tries)


def _found(volume: Volume, state: FileState, tries: Attempts) -> CachedFile | None:
    """Open the object that the bytes belong to: its name was perhaps about to change. None: it was removed."""
    other, draft = state.renaming, state.created and volume.engine.backend.limits.commit_on_close
    by_draft = other is not None and volume.recovery is not None and volume.recovery.has_draft(other)
    if state.removing and other is not None and not by_draft and _has_taken(volume, state, other, tries):
        return None
    named = other is None and not state.removing
    try:
        return _opened(volume, state, state.key, tries, created=state.created and (draft or named))
    except FileNotFoundError:
        if state.removing:
            return None
        if other is None:
            raise
    try:
        return _opened(volume, state, other, tries, created=False)
    except FileNotFoundError:
        if not state.created:
            raise
    return _opened(volume, state, state.key, tries, created=True)


def _has_taken(volume: Volume, state: FileState, other: Key, tries: Attempts) -> bool:
    """Return whether the object of another name, which was about to take that of this one, has it. A missing source
    alone is no proof.
    """
    backend = volume.engine.backend
    look: Callable[[Key], ObjectStat] = getattr(backend, "lstat", backend.stat)  # links may lead nowhere, or out
    has_other = volume.recovery is not None and volume.recovery.has_other(state)
    with suppress(FileNotFoundError):
        found = tries.repeated(partial(look, state.key))
        lasting = volume.engine.lasting_identity(found.identity)
        if lasting is not None and state.identity is not None:
            same = lasting == state.identity
        else:
            same = found.version is not None and found.version == state.base and not has_other
        if same:
            return False
    with suppress(FileNotFoundError):
        tries.repeated(partial(look, other))
        return False
    with suppress(FileNotFoundError):  # a store has nothing of a draft
        status.of_name(volume, canonical(volume, other), other, tries)
        return False
    return True


def _opened(volume: Volume, state: FileState, key: Key, tries: Attempts, *, created: bool) -> CachedFile:
    """Open the object of a name; `created`: or make it. FileNotFoundError: there is none, or it is another one."""
    created &= not volume._is_read_only() or bool(volume.engine.backend.limits.commit_on_close)  # that makes none yet
    window = int(volume.options.read_ahead)
    make = partial(CachedFile, key=key, mode="rb+", flags=os.O_RDWR, through=False, read_ahead=window)
    flags, lasting = os.O_RDWR | (os.O_CREAT if created else 0), volume.engine.lasting_identity
    other = FileNotFoundError(errno.ENOENT, "another object has its name", key)
    if state.identity is not None:  # before the open: another writable handle keeps a close from saving
        try:
            found = lasting(tries.repeated(partial(volume.engine.backend.stat, key)).identity)
        except FileNotFoundError:
            found, flags = state.identity, flags | (os.O_EXCL if created else 0)
        if found != state.identity:
            raise other
    made = flags & os.O_EXCL
    try:
        handle = volume._open(key, volume._canonical(key), flags, 0.0, make, tries, lays=True, brief=True)
    except OSError as error:
        if made and (tries.doubtful or isinstance(error, ShutdownError)):
            state.identify(None)  # it may be there
        raise
    identity = lasting(handle._inode.identity)
    if identity != state.identity and not (made or state.identity is None):
        handle._leave()
        raise other
    if identity != state.identity:  # a kill just before this leaves an empty object, and the bytes listed
        journal_of(volume).identified(state, identity)
        state.identify(identity)
    return handle


def _is_ours(handle: CachedFile, unsaved: Unsaved, stored: str | None) -> bool:
    """Return whether the stored object is the one that the bytes were written over, or the result of a commit of ours;
    `stored`: its version, None: there is none.
    """
    state = unsaved.state
    if not handle._inode.limits().commit_on_close or stored == state.base or not (state.base or state.created):
        return True
    # Bytes that were written beside the commit may be in it or not.
    tries = [each for each in (unsaved.until(lsn) for lsn, _ in state.saving) if each.content]
    made = (unsaved, *tries) if state.saving else ()
    return any(handle._inode.size == each.state.size and _has(handle, each.ranges, each) for each in made)


def _has(handle: CachedFile, ranges: Iterable[tuple[int, int]], unsaved: Unsaved) -> bool:
    return all(
        handle.pread(min(STEP, begin + length - at), at) == unsaved.read(at, min(STEP, begin + length - at))
        for begin, length in ranges
        for at in range(begin, begin + length, STEP)
    )


def _write(handle: CachedFile, unsaved: Unsaved) -> None:
    state = unsaved.state
    cut, size = _is_cut(handle, unsaved), _size_below(handle, unsaved)
    if cut and handle._inode.size > unsaved.base_size:
        handle.truncate(unsaved.base_size)
    for begin, end in written(unsaved, size):
        for at in range(begin, end, STEP):
            handle.pwrite(unsaved.read(at, min(STEP, end - at)), at)
    short = handle._inode.size < state.size
    if (cut and handle._inode.size > state.size) or (short and handle._inode.limits().commit_on_close):
        handle.truncate(state.size)
    elif short:
        handle.pwrite(b"\0", state.size - 1)  # a truncate would extend the stored object
    if state.created:
        handle._inode.set_uncommitted(created=True)
    elif unsaved.is_cut:  # in the store it may be done, and not committed
        handle._inode.set_uncommitted(lowest=min(unsaved.base_size, state.size))


def _is_cut(handle: CachedFile, unsaved: Unsaved) -> bool:
    """Return whether the object ends where the journal says. What another program has appended in place stays, unless
    the object was cut here, or is another one.
    """
    return unsaved.is_cut or unsaved.state.created or handle._inode.limits().commit_on_close


def _size_below(handle: CachedFile, unsaved: Unsaved) -> int:
    """Return the size of the object that the bytes are laid over, as far as they may reach."""
    if _is_cut(handle, unsaved):
        return unsaved.base_size
    return max(unsaved.base_size, min(handle._inode.size, unsaved.state.size))


def written(unsaved: Unsaved, size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges that are written: all but zeros behind the end of the object, which has so many bytes, and gaps,
    where another program may have stored its own.
    """
    begin = end = 0
    for piece in unsaved.pieces:
        stop = piece.end if piece.head is not None else min(piece.end, size)
        if piece.is_damaged or piece.is_gap or piece.begin >= stop:
            continue
        if piece.begin != end:
            yield begin, end
            begin = piece.begin
        end = stop
    yield begin, end


def _memory(volume: Volume, ranges: Iterable[tuple[int, int]]) -> int:
    """Return the bytes of the pages that ranges (begin, end) take."""
    page = int(volume.cache.config.page_size)
    return page * sum(-(-end // page) - begin // page for begin, end in ranges if begin < end)


def room_to_lay(volume: Volume) -> int:
    """Return the memory for a file whose bytes nothing writes back while they are laid."""
    return min(volume.cache.limits.dirty_limit // 2, sure_room(volume.engine))


def _forget(inode: Inode, size: int) -> None:
    """Forget the cuts of a file that was laid in part, whose bytes are dropped; its token is held. `size`: stored."""
    inode.owe_instead()
    inode.base_requested()
    inode.rebase(size, True)


def canonical(volume: Volume, key: Key) -> Key:
    try:
        return volume._canonical(key)
    except Exception:  # the first call for it raises that
        return key


def journal_of(volume: Volume) -> VolumeJournal:
    journal = volume.engine.journal
    assert journal is not None
    return journal


def _report_damage(volume: Volume, inode: Inode, unsaved: Unsaved) -> None:
    damaged, doubtful = unsaved.damaged, unsaved.doubtful
    for ranges, what in (
        (damaged, f"the disk tier has other bytes than were written at {spans(damaged)}"),
        (doubtful, "records of the journal are lost, perhaps some of this file"),
    ):
        if ranges:
            error = OSError(errno.EIO, what)
            volume.engine.emit("disk", inode.key, tuple(ranges), error, what, "each handle raises DataLossError once")
            inode.report_loss([LostRange(inode.key, *each, errno.EIO, volume.name) for each in ranges], what)
