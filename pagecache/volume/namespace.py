"""Calls that change names: remove and rename (contract 2.20).

They run while their keys are busy, and publish the changes of the backend: on a thread of the volume, or on that of the
caller if the backend is prompt, where signals wait for the end. A rename holds the tokens of its files until it
returns, even after its caller stopped waiting: in that time nothing of them is written back or committed, under either
name.

While such a call runs the names of its files are unknown. A concurrent reconnect leaves these files closed, because
opening one by a name that is gone would create it again; the call catches up with the reconnect when it returns. A
fenced reconnect asks the store for the result of the call instead.

A remove or rename concerns a name and the object that has it: the store is asked which one, before the first attempt.
The known names of the objects concerned are dropped afterwards, since other names may be links or other spellings of
this one. An object that has lost its last name is removed; a symbolic link has no cached object. Renaming a directory
also moves the known names below it, and no open of such a name runs in that time; other names may have led through the
directory, or through a link, so all of them are dropped. An object is no directory: other objects can have keys below
its own in a store without directories, and keep them.

A transient error is followed by a retry. If the earlier attempt may have been carried out, the store is asked first; if
that tells nothing, the first error is raised (the rules: contract 2.14). A call whose result is unknown when no attempt
follows stays open in `Volume.unsettled`, after its error. The next call for one of its names first settles it by a look
at the names, and so does a reconnect. Otherwise an open of the old name would take its object for present, or for
removed by another program, and bytes that are written later would be acknowledged and never stored. A file that the
backend finds by its name settles it before its next call of the backend, whoever makes it: that is a debt of the file
(`Unsettled`). Nothing of these files is in flight then, and no operation that has one of the names does anything before
the settlement; so it needs neither the names nor a token. A settled call that was carried out stays in the table until
a call for one of its names, which succeeds if it is the same call again.

A backend that reports no identity finds an object by its name, and a commit of a `commit_on_close` backend stores it
under its name. So a write beside a remove could reach the next object of that name, and a commit could bring a removed
one back. A rename holds the tokens of both files, and a remove that of such a file, until the last attempt is over:
nothing of them is in flight. Direct writes take no token: the gate keeps them out, once those that run are over. Nor do
reads. Those of a backend that finds the object by its name at each call are refused while a call runs, and answers of
earlier ones are dropped; their callers wait for the end of the call, holding nothing, and read again. A truncate that
such a read makes, since the file owes it, is waited for. A whole object has a version, so its reads continue until the
store refuses one.

Then the object has a new name, by which its file is opened before any other call on it, or none. An object without a
name is cut off: no call of the backend for it follows. The files of a renamed directory lend no token, as there may be
any number of them. Those that the backend finds by name at each call owe it the end of the rename: write-back that
begins beside it sends nothing, other calls are refused as transient, and the rename waits for those in flight.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ..backends.protocol import Backend, BackendFile, ObjectStat
from ..disk.backend import TieredBackend
from ..engine.attempts import Attempts, insisting
from ..engine.commit.owed import FOLLOWING, NOTHING_OWED
from ..engine.io import direct
from ..errors import Key, os_error
from ..native import TOKEN, Op
from ..objects import Kind
from . import lifetimes, opening, reconnect
from .inode import Inode
from .keys import above, is_below

if TYPE_CHECKING:
    from .volume import Volume


@dataclass(eq=False, slots=True)
class NameChange:
    """A remove or rename; `old` and `new` are the canonical spellings. Without `dst` it is a remove. While it is in
    `Volume.unsettled` its result is unknown: an attempt may have been carried out, and none follows.
    """

    volume: Volume
    src: Key
    old: Key
    names: tuple[Key, ...]  # the canonical ones
    dst: Key | None = None
    new: Key | None = None

    # The objects that had the names before the first attempt: one that was carried out has changed them.
    tried: bool = False  # an attempt has begun
    kind: Kind | None = None  # of what has the name that is removed or renamed; None: unknown
    source: Inode | None = None  # the file that has this name
    loser: Inode | None = None  # the file that loses a name: `source` of a remove, the replaced one of a rename
    files: tuple[Inode, ...] = ()  # these two
    by_name: list[Inode] = field(default_factory=list)  # those of them that the backend finds by name
    links: int | None = None  # number of names of the loser; None: the store has no links
    tree: bool = False  # cached files have names below the old one
    version: str | None = None  # of the source; None: unknown
    replaced: str | None = None  # version of the object that is replaced; None: unknown

    # The last attempt.
    pending: bool = False  # it runs, and its effect is not published
    done: bool = False  # its effect is published, by itself or by a fenced reconnect
    doubtful: bool = False  # one has ended, and may have been carried out
    over: bool = False  # no attempt runs or follows
    held: tuple[Inode, ...] = ()  # objects found by the names that it changes: no commit of them begins
    beneath: list[Inode] = field(default_factory=list)  # files of a directory, named or not; their tokens are not lent
    catching_up: threading.Lock = field(default_factory=threading.Lock)  # held briefly, by a late change of a file
    publishing: threading.Lock = field(default_factory=threading.Lock)  # held while its effect is published
    opened: BackendFile | None = None  # the source's file of its backend
    debts: dict[Inode, Unsettled] = field(default_factory=dict)  # of files that are found by the names it changes

    # -- before the first attempt

    def look(self) -> None:
        """Look at the names, unless an attempt has begun. A store without identities, links and directories is not
        asked: names are facts.
        """
        if self.tried:
            return
        volume, backend = self.volume, self.volume.engine.backend
        with volume.inodes_lock:
            self.tree = self.new is not None and volume.inodes.has_below(self.old)
            ask = bool(volume.inodes.identified) or self.tree
        found = _stat(backend, self.src, ask=ask)
        self.source = self.loser = _file(volume, self.old, found)
        self.kind = found.kind if found is not None else "file" if self.source is not None else None
        self.version = _known_version(self.source)
        if self.new is not None and self.new != self.old:
            found = _stat(backend, self.dst, ask=ask)
            self.loser = _file(volume, self.new, found)
            if self.loser is self.source:
                self.loser = None  # two names of one object
            self.replaced = _known_version(self.loser)
        self.links = None if found is None else found.nlink
        self.files = () if self.source is None else (self.source,)
        if self.loser is not None and self.loser is not self.source:
            self.files += (self.loser,)

    def found_by_name(self) -> list[Inode]:
        """Return the files that the backend finds by names that the call changes."""
        beneath = self.beneath if self.beneath and self.may_be_directory() else []
        return [*self.by_name, *[inode for inode in beneath if inode.finds_by_name()]] if beneath else self.by_name

    def may_wait(self) -> bool:
        """Return whether an attempt may wait for other calls, or for the journal, or has many files to publish."""
        volume = self.volume
        slow = self.tried or self.tree or volume.late or volume.engine.journal is not None
        return bool(slow or self.by_name)

    def may_be_directory(self) -> bool:
        """Return whether names below the old one change with it."""
        return self.kind in ("dir", None)

    def lenders(self) -> Sequence[Inode]:
        """Look at the names. Return the files whose tokens an attempt needs: nothing of them may be in flight. A remove
        of other files takes no token: that would wait for write-back of bytes that are no longer needed.
        """
        self.look()
        self.by_name = [inode for inode in self.files if inode.finds_by_name()]
        return self.by_name if self.new is None else self.files

    def below(self) -> list[tuple[str, Inode]]:
        """Return the cached files below a name that is renamed, with the remaining part of their keys; they follow it
        if it is a directory, and cannot be found by these names while a link is renamed. `inodes_lock` is held; the
        tree is busy, so none comes or is freed.
        """
        inodes, tree = self.volume.inodes, str(self.old)
        if self.new in (None, self.old) or not inodes.has_below(self.old):
            return []
        below = [key for key in inodes if isinstance(key, str) and is_below(key, tree)]
        return [(key.removeprefix(tree), inode) for key in below if (inode := inodes.at(key)) is not None]

    def last_below(self) -> list[tuple[str, Inode]]:
        """Return the files without a known name that had one below a directory that is renamed, or below a link, with
        the remaining part of that. `inodes_lock` is held.
        """
        if self.new in (None, self.old) or self.kind == "file":
            return []
        return self.volume.inodes.last_below(str(self.old))

    # -- an attempt, which no signal interrupts

    def begin(self) -> Backend:
        """Announce an attempt to reconnects, and return the backend to call. Until `release_names` no commit begins of
        an object that is found by its name, and none of its reads counts as a change by another writer.

        Raises:
            ShutdownError: the volume was aborted.
        """
        volume = self.volume
        with volume.inodes_lock:
            volume._check_alive(self.src)
            self.tried, self.pending, self.done, self.over = True, True, False, False
            below = self.below() if self.tree else []
            self.beneath = [inode for _, inode in (*below, *self.last_below())]
            for inode in (*self.files, *self.beneath):
                inode.naming = self
            backend = volume.engine.backend
        if volume.engine.journal is not None:
            self._note_begin()
        self.opened = None if self.source is None else self.source.backend_file
        self.held = tuple(self.found_by_name())
        for inode in self.held:
            inode.begin_unnaming(self)
            if not inode.limits().commit_on_close:
                self.owe(inode)
        return backend

    def _note_begin(self) -> None:
        """Let the journal know that names of its files are about to change."""
        journal = self.volume.engine.journal
        if journal is None or self.old == self.new:
            return
        changed: list[Inode] = []
        if self.loser is not None and self.links in (None, 1):
            lost = self.source is not None and self.is_draft() and not self.source.journaled.is_live()  # by a crash
            self.loser.journal().removing(None if self.new is None or lost else self.src)
            changed.append(self.loser)
        if self.new is not None and self.source is not None:
            self.source.journal().renaming(self.new)
            changed.append(self.source)
        if self.beneath:
            with self.volume.inodes_lock:
                below = [*self.below(), *self.last_below()]
            for rest, inode in below:
                inode.journal().renaming(f"{self.new}{rest}")
                changed.append(inode)
        self._confirm_names(changed)

    def _confirm_names(self, files: Iterable[Inode]) -> None:
        journal = self.volume.engine.journal
        if journal is not None and any(inode.journaled.is_live() for inode in files):
            journal.confirm_all()

    def _keep_names(self, *, confirm: bool = True) -> None:
        """Let the journal know that the call has changed no name."""
        files = (*self.files, *self.beneath)
        for inode in files:
            inode.journaled.kept_name(inode.key)
        if confirm:
            self._confirm_names(files)

    def outlast(self, tries: Attempts) -> None:
        """Wait until no call for an object that is found by its name is in flight."""
        for inode in self.held:
            inode.outlast(partial(getattr, inode, "publications"), "the running commit", tries)
            if inode.limits().commit_on_close:
                continue
            inode.outlast(inode.owed.is_paying, "a call that is owed", tries)  # a read makes it, without a token
            if inode not in self.files:
                inode.outlast(inode.storage_busy, "the calls of a file whose directory is renamed", tries)

    def owe(self, inode: Inode) -> None:
        """Let a file make no call before this call is over, and its result known."""
        if inode not in self.debts:
            self.debts[inode] = Unsettled(self, inode)

    def release_names(self) -> None:
        """Let calls for the objects begin: no attempt follows. While the result is unknown, each file asks first. It is
        called again after an interrupt.
        """
        if self.over and not any(inode.unnaming is self for inode in self.held):
            return  # the names may be those of another call by now
        unknown = not self.done and self.is_open()
        for inode in self.held:
            if unknown and not self.over:  # else they owe it, or another look has ended that
                self.owe(inode)
        self.over = True
        if self.tried and not (unknown or self.done):
            self._keep_names(confirm=False)
        if self.debts and not unknown:
            self.pay_off()
        for inode in self.held:
            inode.end_unnaming(self)
        if self.tried and not unknown:  # else recovery looks for names that may be those of other objects by then
            self._confirm_names((*self.files, *self.beneath))  # last: it waits, and may be interrupted

    def pay_off(self) -> None:
        """End the debts of its files: the result is known, and published."""
        while self.debts:
            _, debt = self.debts.popitem()
            debt.end(carried_out=self.done)

    def claim(self) -> bool:
        """Return whether the effect of the attempt is still to be published, by this caller; True once."""
        with self.volume.inodes_lock:
            pending, self.pending = self.pending, False
            self.done |= pending
            return pending

    def end(self, *, doubtful: bool) -> None:
        """Record that the attempt has returned, which fixes the names; `doubtful`: one may have been carried out. Files
        that a reconnect has left closed are opened: at once if this thread has their tokens.
        """
        self.pending = False
        self.doubtful = doubtful
        lent, others = ((), self.files) if self.new is None else (self.files, self.beneath)
        for inode in lent:
            if not self._leave(inode):
                self.catch_up(inode)
        for inode in others:
            if not self._leave(inode):
                inode.settle(partial(self.catch_up, inode))

    def _leave(self, inode: Inode) -> bool:
        """Record that the name of a file is fixed. False: a reconnect has left it closed, until `catch_up` has opened
        it.
        """
        volume = self.volume
        with volume.inodes_lock:
            left = inode.naming is self and inode.missed and not (volume.engine.aborted or volume.detached)
            if inode.naming is self and not left:
                inode.naming = None  # a later reconnect opens the files that it has left
            return not left

    def catch_up(self, inode: Inode) -> None:
        """Open files that a reconnect has left closed. The token is held, on a thread of the volume."""
        while not self._leave(inode):
            with self.volume.inodes_lock:
                inode.missed = False
                backend = self.volume.engine.backend
            if self.doubtful and not self.done:  # the caller has left: no attempt follows
                with suppress(Exception):  # an error: the volume was aborted again, or the open has it, too
                    insisting(inode, partial(self.settle, ending=True))
            reconnect.catch_up(self, backend, inode)

    # -- its effect

    def publish(self, gone: bool) -> None:
        """Publish the effect of the call on names and files; `gone`: see `has_lost_last_name`."""
        volume, mirror = self.volume, self.volume.engine.mirror
        if self.old == self.new:
            return
        self._give_up()
        with volume.inodes_lock:
            below = self.below() if self.new is not None and self.may_be_directory() else []
        for name in [*self.names, *(f"{self.old}{rest}" for rest, _ in below)] if self.doubtful else ():
            volume.engine.announced(name)  # until now files with these names have filled copies on disk
        if mirror is None or self.kind == "symlink":
            pass
        elif self.new is None:
            mirror.removed(self.old, linked=self.loser is not None and (self.links or 1) > 1)
        else:
            mirror.renamed(self.old, self.new, tree=self.kind == "dir" or bool(below))
        with volume.inodes_lock:
            table = volume.inodes
            for inode in self.files:
                table.drop_names(inode)
            table.unbind(self.old)
            for _, inode in self.below() if self.kind == "symlink" else ():
                if inode.identity is not None:
                    table.drop_names(inode)
            if self.kind in ("dir", "symlink"):
                table.hints += 1  # all files that the store identifies: their paths may have changed
            if self.new is not None and self.kind in ("dir", "symlink"):
                table.move_last_names(str(self.old), str(self.new))
        moved: list[tuple[Key, Inode | None]] = []
        if self.new is not None and self.kind != "symlink":
            moved.append((self.new, self.source))
        if below:
            moved += [(f"{self.new}{rest}", inode) for rest, inode in below]
        for key, file in moved:
            self._take_name(key, file)
        for _, file in moved:  # all have their names: this may ask the backend, which may hang
            if file is not None:
                opening.follow(file, self.opened if file is self.source else None)
                file.journaled.follows()
        loser = self.loser
        if loser is not None and gone:  # last: the journal has the new name of the source before
            lifetimes.unname(volume, loser)
        elif loser is not None and self.links == 1:
            loser.drop_clean()
            loser.journaled.kept_name(loser.key)  # it has got another one

    def _give_up(self) -> None:
        """Give up what a crash has left of gone objects whose names lead to other ones."""
        if self.new is not None and self.volume.recovery is not None:
            self.volume.recovery.give_up(self.new, tree=True)

    def has_unstored(self) -> bool:
        """Return whether the new name of a rename is that of an object that the store may not have."""
        return self.loser is not None and not self.loser.abandoned and self.loser.has_local()

    def has_lost_last_name(self) -> bool:
        """Return whether the loser has no name any longer. Links that come and go beside the call change the number of
        its names: only an open file tells the present one, whose backend may hang. Otherwise the number before the call
        decides.
        """
        found, loser = None, self.loser
        if loser is None or self.links is None or self.old == self.new:
            return loser is not None
        if not self.volume.engine.aborted:  # its backend is gone, and may never answer
            with suppress(Exception):
                found = loser.stat_open()
        return self.links == 1 if found is None else found.nlink == 0

    def _take_name(self, key: Key, inode: Inode | None) -> None:
        """Give a name to a file, instead of the one that had it."""
        volume = self.volume
        with volume.inodes_lock:
            displaced = volume.inodes.at(key)
        if displaced is not None and displaced is not inode and displaced.identity is None:
            lifetimes.unname(volume, displaced)
        with volume.inodes_lock:
            if inode is not None and volume.inodes.knows(inode):
                volume.inodes.drop_names(inode)
                volume.inodes.bind(key, inode)
            else:
                volume.inodes.unbind(key)

    # -- an unknown result

    def was_done(self, backend: Backend, *, replace: bool = True, ran: bool = False) -> bool | None:
        """Return whether an attempt was carried out, from the objects that have the names now; None: unknown. `ran`:
        one has run until now, which explains that the source is gone.
        """
        old = _stat(backend, self.src, ask=True)
        new = None if self.new is None else _stat(backend, self.dst, ask=True)
        if old is None:
            unknown = self.new is not None and (new is None or (not ran and self._may_be_loser(new)))
        else:
            unknown = None not in (self.version, old.version) and old.version != self.version
            if unknown and new is not None and new.version == self.version != self.replaced:
                return True  # the object has moved, and another one has its old name since
            unknown |= new is not None and not replace and self.src != self.dst
        # The file of another backend is not asked, which may never answer.
        if unknown and self.new is not None and backend is self.volume.engine.backend and self._has_moved():
            return True
        return None if unknown else old is None

    def _may_be_loser(self, found: ObjectStat) -> bool:
        """Return whether this status may be that of the object that was to be replaced, which this cache may have
        changed since. If its version is unknown: not if the source was there, since that is gone.
        """
        if self.loser is None:
            return False
        identity, base = self.loser.identity, self.loser.versions.base
        if None not in (identity, found.identity):
            return found.identity == identity
        known = _knows_version(self.loser, self.debts.get(self.loser))
        if found.version in (None, self.version):
            return False
        return found.version in (self.replaced, base) if known else self.opened is None

    def is_draft(self) -> bool:
        """Return whether the object is published by a commit that has not been made: the store has no record of its
        name, unless the object replaces a stored one. An abandoned one is never published.
        """
        source = self.source
        if source is None or source.abandoned or not source.limits().commit_on_close:
            return False
        return bool(source.undone()["created"]) and source.versions.base is None

    def _has_moved(self) -> bool:
        """Return whether the open file has the new name, or none after a remove: that tells of an object that was never
        stored, and of one whose old name another object has.
        """
        found = None
        if self.source is not None:
            try:
                found = self.source.stat_open()
            except Exception:
                if not self.volume.engine.aborted:
                    raise  # the next attempt asks again; the file of a backend that has ended tells nothing
        if found is None or self.new is None:
            return found is not None and found.nlink == 0
        return found.key is not None and self.volume._canonical(found.key) == self.new

    def ended(self, tries: Attempts) -> None:
        """Let commits begin, and leave the call open if its result is unknown and files are cached whose names it has
        changed. No attempt follows, and the names are busy.
        """
        volume = self.volume
        if tries.doubtful and not (self.done or self.over) and self.old != self.new:
            self._give_up()
            with volume.inodes_lock:
                if self.beneath or any(map(volume.inodes.knows, self.files)):
                    volume.unsettled.update(dict.fromkeys(self.names, self))
        self.release_names()

    def is_open(self) -> bool:
        """Return whether it is left open, and not settled yet."""
        return self.volume.unsettled.get(self.old) is self

    def found_done(self, backend: Backend, ran: bool = False) -> bool:
        """Return whether it was carried out, by a look at the names. `ran`: see `was_done`."""
        if self.is_draft():
            return backend is self.volume.engine.backend and self._has_moved()
        return self.was_done(backend, ran=ran) is True

    def close(self) -> None:
        """Forget that it was left open. `inodes_lock` is held."""
        for name in self.names:
            if self.volume.unsettled.get(name) is self:
                del self.volume.unsettled[name]

    def settle(self, *, ending: bool = False) -> None:
        """Look at the names, and publish, unless that was done. On a thread of the volume, for a call that has the
        names, or for a file that owes it: several of them may look, and one publishes. `ending`: it may become open.
        """
        volume, reconnects = self.volume, self.volume.engine.reconnects

        def unsettled() -> bool:
            return (self.is_open() or (ending and not self.over)) and not self.done

        if not unsettled():
            with self.publishing:  # the names are as another look leaves them
                return
        carried_out = self.found_done(volume.engine.backend)
        gone = carried_out and self.has_lost_last_name()
        with self.publishing, volume.engine.name_sync:
            with volume.inodes_lock:
                volume.engine.check_alive(self.src, reconnects)  # a reconnect has settled it
                if not unsettled():
                    return
                if not carried_out:
                    self._keep_names(confirm=False)  # before another call may begin
                    self.close()
            if carried_out:
                self.publish(gone)
                self.done = True  # last: the names are as it has left them
            self.pay_off()
        self._confirm_names((*self.files, *self.beneath))

    def settle_by_name(self) -> None:
        """Settle it for a call that has the names. On a thread of the volume; the tokens are lent."""
        self.settle()
        with self.volume.inodes_lock:
            self.close()
        source = self.source
        if self.done and source is not None and self.new is not None:
            with suppress(FileNotFoundError):  # another program has removed it since
                opening.open_renamed(source)

    def settle_aborted(self, backend: Backend, fenced: bool, alive: Callable[[], None]) -> None:
        """Look at the names in the backend of a reconnect, and publish. On a thread of the volume, which is aborted. An
        attempt that still runs publishes by itself, unless it is `fenced`: then it can do nothing more, and its result
        does not count. `alive` raises when another reconnect does this instead.
        """
        unsettled = self.is_open() and not self.pending
        if not (fenced or unsettled):
            return
        done = self.found_done(backend, ran=not unsettled)  # holding nothing: it may never answer
        locked = self.publishing.acquire(timeout=reconnect.CALLERS)  # unless its thread hangs in the earlier backend
        try:
            with self.volume.inodes_lock:
                alive()
                unsettled = self.is_open() and not self.pending
            done &= not (unsettled and self.done)  # by a file that has asked
            claimed = unsettled or self.claim()
            if not unsettled:
                created = self.new is None and any(inode.undone()["created"] for inode in self.files)
                done &= claimed and not created  # the store may have lost a name that was not committed
            try:
                if done:
                    self.publish(self.has_lost_last_name())
                elif claimed:
                    self._keep_names()
            finally:
                self._give_back(fenced, alive)
        finally:
            if locked:
                self.publishing.release()

    def _give_back(self, fenced: bool, alive: Callable[[], None]) -> None:
        """Record that the names are fixed; those of a running attempt if it is `fenced`."""
        with self.volume.inodes_lock:
            self.close()
            alive()  # else the attempt opens the files that the next reconnect has left, as it returns
            for inode in (*self.files, *self.beneath) if fenced else ():
                inode.naming = None
        with self.catching_up:  # so a concurrent `catch_up` of an earlier reconnect notices
            pass


class Unsettled:
    """The debt of a file to know the end of a call that changes its name."""

    method, arguments, behind = FOLLOWING, (), False

    def __init__(self, change: NameChange, file: Inode) -> None:
        self._change, self._file = change, file
        self.renamed = file.owed.owes(FOLLOWING)  # before: this takes the place of that debt
        file.owe(self)

    def call(self, backend_file: BackendFile) -> None:
        """Find out the result, which ends the debt.

        Raises:
            OSError: EBUSY: the call runs still, or another attempt of it follows.
        """
        if not self._change.over:
            raise OSError(errno.EBUSY, "the name of the object is being changed", self._file.key)
        self._change.settle()

    def end(self, *, carried_out: bool) -> None:
        """End the debt. A file that was not opened by its name before is to be, still."""
        if self._file.owed.drop(self) and self.renamed and not carried_out:
            opening.owe_opening(self._file)


def unsettled_at(volume: Volume, *keys: Key, trees: bool = False) -> NameChange | None:
    """Return a call of unknown result that concerns one of these canonical keys, or a directory above it; `trees`: or a
    key below it.
    """
    if not volume.unsettled:
        return None
    with volume.inodes_lock:
        names = [name for key in keys for name in (key, *above(key))]
        if trees:
            names += [name for name in volume.unsettled for key in keys if is_below(str(name), str(key))]
        return next((volume.unsettled[name] for name in names if name in volume.unsettled), None)


def settle_names(volume: Volume, tries: Attempts, *keys: Key, trees: bool = False) -> list[NameChange]:
    """Settle the calls of unknown result that concern these canonical keys, which the caller does not hold, and return
    them. `trees`: as for `unsettled_at`.
    """
    settled = []
    while (change := unsettled_at(volume, *keys, trees=trees)) is not None:
        settled.append(change)
        _run(change, change.settle_by_name, tries, change.release_names)
    return settled


def remove(volume: Volume, key: Key, canonical: Key, tries: Attempts) -> None:
    """Remove a name. `canonical` is the canonical key."""
    change = NameChange(volume, key, canonical, (canonical,))
    _carry_out(change, tries, lambda backend: backend.remove(key))


def rename(volume: Volume, src: Key, dst: Key, old: Key, new: Key, tries: Attempts, *, replace: bool) -> None:
    """Rename. `old` and `new` are the canonical keys."""
    change = NameChange(volume, src, old, (old, new), dst, new)

    def call(backend: Backend) -> None:
        if isinstance(backend, TieredBackend):
            tree = change.tree if change.kind is None else change.kind in ("dir", "symlink")
            backend.rename(src, dst, replace=replace, tree=tree)
        else:
            backend.rename(src, dst, replace=replace)

    _carry_out(change, tries, call, replace)


def _carry_out(change: NameChange, tries: Attempts, call: Callable[[Backend], None], replace: bool = True) -> None:
    """Make a call that changes names. Calls of unknown result that concern them are settled first; if one of them was
    this call, it is done.
    """
    volume, keys, trees, done = change.volume, change.names, change.new is not None, False

    def attempt() -> None:
        nonlocal done
        if unsettled_at(volume, *keys, trees=trees) is None:  # else it ended while this call waited for keys
            _exchange(change, tries, call, replace)
            done = True

    while not done:
        if any(each.done and keys == each.names for each in settle_names(volume, tries, *keys, trees=trees)):
            return
        _run(change, attempt, tries, partial(change.ended, tries))


def _run(change: NameChange, attempt: Callable[[], None], tries: Attempts, ended: Callable[[], None]) -> None:
    """Run attempts while the names of a change are busy, with the tokens of its files: nothing of them is in flight."""
    lenders: list[Op] = []

    def run() -> None:
        call: Callable[[], object] = attempt
        for op in lenders:
            call = partial(op.call, call)
        call()

    def within(wait: Callable[..., object]) -> None:
        lenders.clear()

        def lend(*ops: Op) -> None:
            lenders.extend(ops)
            for inode in cached:
                if inode in change.by_name:  # here: a direct write that runs needs the threads of the volume
                    inode.close_gate()
                    direct.outlast(inode, tries)
            wait(waits=change.may_wait())

        cached = [inode for inode in tries.repeated(change.lenders, what="stat") if not inode.freed]
        try:
            if len(cached) == 2:
                cached[0].run_both(cached[1], "lending", lend, tries.deadline.until())
            elif cached:
                cached[0].run(TOKEN, "lending", lend, tries.deadline.until())
            else:
                wait(waits=change.may_wait())
        except TimeoutError as error:
            if cached and not lenders:
                raise tries.late("the object is busy with another call") from error
            raise

    trees = change.new is not None
    change.volume.busy.run(run, tries, *change.names, within=within, trees=trees, ended=ended)


def _attempt(
    change: NameChange, tries: Attempts, backend: Backend, call: Callable[[Backend], None], replace: bool
) -> None:
    """Make one attempt, unless an earlier one was carried out.

    Raises:
        OSError: the first error, if it is unknown whether an earlier attempt was carried out.
    """
    draft, doubtful, done = change.is_draft(), tries.doubtful, False
    if doubtful and not draft:
        found = change.was_done(backend, replace=replace)
        done = tries.give_up() if found is None else found
    if not done:
        unpublished = backend.limits.commit_on_close and (change.source is None or change.source.abandoned)
        if not (replace or doubtful) and change.has_unstored():
            raise os_error(errno.EEXIST, str(change.dst))
        try:
            if unpublished and change.volume.engine.reconnects and _stat(backend, change.src, ask=True) is None:
                # In the backend a file from before a reconnect, never stored, may have the name.
                raise os_error(errno.ENOENT, change.src)
            tries.make(partial(call, backend))
        except FileNotFoundError:
            landed = draft or doubtful if change.new is None else draft and doubtful
            if not landed:
                raise  # otherwise it was never stored; or an earlier attempt has changed the backend's open file
    tries.settle()


def _exchange(change: NameChange, tries: Attempts, call: Callable[[Backend], None], replace: bool) -> None:
    """Make one attempt, and publish the effect. No commit of a whole object begins before that."""
    try:
        if change.volume.late:
            reconnect.open_late(change.files)
        backend, source = change.begin(), None if change.new is None else change.source
        if change.held:
            change.outlast(tries)
        with lifetimes.using([source] if source is not None else []):  # its file stays open, and follows
            with change.volume.engine.name_sync:
                _attempt(change, tries, backend, call, replace)
            gone = change.has_lost_last_name()
            with change.publishing:  # a reconnect waits for its end
                if claimed := change.claim():
                    change.publish(gone)
            if claimed:
                change.release_names()  # the name is fixed: another version under it is another writer's
                if source is not None and source.owed.owes(FOLLOWING):
                    with suppress(FileNotFoundError):  # another program has removed it since: this call is done
                        opening.open_renamed(source)
    finally:
        change.end(doubtful=tries.doubtful)


def _stat(backend: Backend, key: Key, *, ask: bool) -> ObjectStat | None:
    """Return the status of what has a name, links not followed; None: the store has no record of the name. A backend
    without `lstat` has no links, and is not called unless `ask`.
    """
    lstat: Callable[[Key], ObjectStat] | None = getattr(backend, "lstat", backend.stat if ask else None)
    try:
        return None if lstat is None else lstat(key)
    except FileNotFoundError:
        return None


def _file(volume: Volume, key: Key, found: ObjectStat | None) -> Inode | None:
    """Return the cached file that has a name. A symbolic link is none."""
    if found is not None and found.kind == "symlink":
        return None
    with volume.inodes_lock:
        return volume.inodes.found(key, found)


def _known_version(inode: Inode | None) -> str | None:
    """Return the version of the stored object below the cached bytes; None: there are none, or it is unknown."""
    return inode.versions.base if inode is not None and _knows_version(inode) else None


def _knows_version(inode: Inode, debt: Unsettled | None = None) -> bool:
    """Return whether the version below the cached bytes is known: not while the file owes to follow its name, since a
    copy may have another one. `debt`: has taken the place of that debt, if there was one.
    """
    owes = inode.owed is not NOTHING_OWED and inode.owed.owes(FOLLOWING)
    renamed = owes if debt is None else debt.renamed
    return not (renamed or inode.versions.stale or inode.versions.copied)
