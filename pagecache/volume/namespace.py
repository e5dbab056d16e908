"""Calls that change names: remove and rename (contract 2.20).

They run on a thread of the volume while their keys are busy, and publish there the changes of the backend. A rename
holds the tokens of its files until it returns, even after its caller stopped waiting: in that time nothing of them is
written back or committed, under either name.

While such a call runs the names of its files are unknown. A concurrent reconnect leaves these files closed, because
opening one by a name that is gone would create it again, and later writes would go there; the call catches up with the
reconnect when it returns. A fenced reconnect asks the store for the result of the call instead: the call can do nothing
more, and may never return.

A remove or rename concerns a name and the object that has it: the store is asked which one, before the first attempt.
The known names of the objects concerned are dropped afterwards, since other names may be links or other spellings of
this one. An object that has lost its last name is removed; a symbolic link has no cached object. Renaming a directory
also moves the known names below it, and no open of such a name runs in that time; other names may have led through the
directory, or through a link, so all of them are dropped. An object is no directory: other objects can have keys below
its own in a store without directories, and keep them.

A transient error is followed by a retry. If the earlier attempt may have been carried out, the store is asked first:

    remove   the name is gone            it was carried out
    rename   src is gone, dst exists     it was carried out; but if dst may have the object that was cached there, src
                                         was not there before either: unknown
             src exists                  it was not; but without `replace` it is unknown if dst exists, too
    both     the name has a version other than the cached one: unknown

If it is unknown, the first error is raised. The store has no record of an object that was created and not committed:
its call is repeated, and FileNotFoundError shows that an earlier attempt has renamed or removed the backend's file.

A call whose result is unknown when no attempt follows stays open in the volume (`Unsettled`), after its error. The next
call for one of its names first settles it by a look at the names, and so does a reconnect; the name of an object that
was never stored is that of its open file. Otherwise an open of the old name would take its object for present, or for
removed by another program, and bytes that are written later would be acknowledged and never stored.

A backend that reports no identity finds an object by its name, and a commit of a `commit_on_close` backend stores it
under its name. So a write beside a remove could reach the next object of that name, and a commit could bring a removed
one back. A rename holds the tokens of both files, and a remove that of such a file, until the last attempt is over:
nothing of them is in flight. Reads take no token. Those of a backend that finds the object by its name at each call are
refused while a call runs, and answers of earlier ones are dropped; their callers wait for the end of the call, holding
nothing, and read again. A whole object has a version, so its reads continue until the store refuses one.

Then the object has a new name, by which its file is opened again, or none. An object without a name is cut off: no call
of the backend for it follows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ..backends.protocol import Backend, ObjectStat
from ..engine.attempts import Attempts
from ..engine.commit import remote
from ..errors import Key
from ..native import TOKEN, Op
from ..objects import Kind
from . import lifetimes, opening, reconnect
from .inode import Inode
from .keys import above, is_below

if TYPE_CHECKING:
    from .volume import Volume

__all__ = ["Naming", "Unsettled", "remove", "rename", "settle_names", "unsettled_at"]


@dataclass(eq=False, slots=True)
class Naming:
    """A running call; `old` and `new` are the canonical spellings. Without `dst` it is a remove."""

    volume: Volume
    before: _Before
    src: Key
    old: Key
    dst: Key | None = None
    new: Key | None = None
    over: bool = False  # its effect is published, by itself or by a fenced reconnect
    # Held briefly, by a call that changes a file late.
    catching_up: threading.Lock = field(default_factory=threading.Lock)
    inodes: list[Inode] = field(default_factory=list)
    beneath: list[Inode] = field(default_factory=list)  # files of a directory, whose tokens are not lent

    def begin(self) -> Backend:
        """Announce the call to reconnects, and return the backend to call.

        Raises:
            ShutdownError: the volume was aborted.
        """
        volume = self.volume
        with volume.inodes_lock:
            volume._check_alive(self.src)
            self.before.tried = True
            self.inodes = self.before.files()
            self.beneath = [inode for _, inode in self.below()]
            for inode in (*self.inodes, *self.beneath):
                inode.naming = self
            return volume.engine.backend

    def has_below(self) -> bool:
        """Return whether cached files lie below a name that is renamed."""
        with self.volume.inodes_lock:
            return self.dst is not None and isinstance(self.old, str) and self.volume.inodes.has_below(self.old)

    def below(self) -> list[tuple[str, Inode]]:
        """Return the cached files below a name that is renamed, with the remaining part of their keys; they follow it
        if it is a directory. `inodes_lock` is held; the tree is busy, so none comes or is freed.
        """
        inodes, old = self.volume.inodes, self.old
        if self.dst is None or not isinstance(old, str) or old == self.new:
            return []
        if not inodes.has_below(old):
            return []
        below = [key for key in inodes if isinstance(key, str) and is_below(key, old)]
        return [(key.removeprefix(old), inode) for key in below if (inode := inodes.at(key)) is not None]

    def end(self, inode: Inode) -> bool:
        """Record that the call has returned, which fixes the name. False: a reconnect has left the file closed, until
        `catch_up` has opened it.
        """
        volume = self.volume
        with volume.inodes_lock:
            if inode.naming is self and inode.missed and not (volume.engine.aborted or volume.detached):
                return False
            if inode.naming is self:
                inode.naming = None  # a later reconnect opens the files that it has left
            return True

    def catch_up(self, inode: Inode) -> None:
        """Open files that a reconnect has left closed. The token is held, on a thread of the volume."""
        while not self.end(inode):
            with self.volume.inodes_lock:
                inode.missed = False
                backend = self.volume.engine.backend
            reconnect.catch_up(self, backend, inode)

    def claim(self) -> bool:
        """Return whether the effect of the call is still to be published, by this caller; True once."""
        with self.volume.inodes_lock:
            over, self.over = self.over, True
            return not over

    def publish(self) -> None:
        """Publish the effect of the call on names and files."""
        volume, before, mirror = self.volume, self.before, self.volume.engine.mirror
        if self.old == self.new:
            return
        gone = before.lost_last_name()
        if before.loser is not None and gone:
            lifetimes.unname(volume, before.loser)
        elif before.loser is not None and before.links == 1:
            before.loser.native.drop_clean()
        with volume.inodes_lock:
            table = volume.inodes
            below = self.below() if before.kind in ("dir", None) else []
            for inode in before.files():
                table.drop_names(inode)
            table.unbind(self.old)
            if before.kind in ("dir", "symlink"):
                table.drop_hints()
            if self.new is not None and before.kind == "dir":
                table.move_last_names(str(self.old), str(self.new))
        moved: list[tuple[Key, Key, Inode | None]] = []
        if self.new is not None and before.kind != "symlink":
            moved.append((self.old, self.new, before.source))
        moved += [(f"{self.old}{rest}", f"{self.new}{rest}", inode) for rest, inode in below]
        for _, key, file in moved:
            self._take_name(key, file)
        if mirror is not None and self.new is None and before.kind != "symlink" and before.links in (None, 1):
            mirror.removed(self.old)
        if mirror is not None:
            for last, key, _ in moved:
                mirror.renamed(last, key)

    def _take_name(self, key: Key, inode: Inode | None) -> None:
        """Give a name to a file, instead of the one that had it."""
        volume = self.volume
        displaced = volume._inode_at(key)
        if displaced is not None and displaced is not inode and displaced.engine.identity is None:
            lifetimes.unname(volume, displaced)
        with volume.inodes_lock:
            volume.inodes.unbind(key)
            if inode is not None and volume.inodes.knows(inode):
                volume.inodes.drop_names(inode)
                volume.inodes.bind(key, inode)

    def settle(self, backend: Backend) -> None:
        """Publish the effect of the call, as found in this backend. The call can do nothing more, and its result does
        not count. On a thread of the volume, which is aborted.
        """
        done = not _stored(backend, self.src) and (self.dst is None or _stored(backend, self.dst))
        if self.dst is None and any(inode.native.undone()["created"] for inode in self.inodes):
            done = False  # it was never stored
        self.publish_found(backend, self.claim() and done)

    def publish_found(self, backend: Backend, done: bool) -> None:
        """Publish the effect of the call, if it was carried out. On a thread of the volume, which is aborted."""
        with self.volume.inodes_lock:
            for inode in (*self.inodes, *self.beneath):
                inode.naming = None
        with self.catching_up:  # so a concurrent `catch_up` of an earlier reconnect notices
            pass
        if done:
            self.publish()


@contextmanager
def _change(volume: Volume) -> Generator[None, None, None]:
    """Context of a change: a sync covers it only if the sync begins after it; a failed change may have been carried
    out.
    """
    volume.engine.name_sync.changed()
    try:
        yield
    finally:
        volume.engine.name_sync.changed()


@dataclass(slots=True)
class _Before:
    """The objects that had the names before the first attempt: an attempt that was carried out has changed them."""

    tried: bool = False  # an attempt has begun
    kind: Kind | None = None  # of what has the name that is removed or renamed; None: unknown
    source: Inode | None = None  # the file that has this name
    loser: Inode | None = None  # the file that loses a name: `source` of a remove, the replaced one of a rename
    links: int | None = None  # number of names of the loser; None: the store has no links
    version: str | None = None  # of the source; None: unknown
    replaced: str | None = None  # version of the object that is replaced; None: unknown
    held: tuple[Inode, ...] = ()  # objects found by the names that the call changes: no commit of them begins

    def look(self, volume: Volume, src: Key, old: Key, dst: Key | None = None, new: Key | None = None) -> None:
        """Look at the names, unless an attempt has begun. A store without identities, links and directories is not
        asked: names are facts.
        """
        if self.tried:
            return
        backend = volume.engine.backend
        with volume.inodes_lock:
            below = new is not None and isinstance(old, str) and volume.inodes.has_below(old)
            ask = bool(volume.inodes.identified) or below
        found = _stat(backend, src, ask=ask)
        self.source = _file(volume, old, found)
        self.kind = found.kind if found is not None else "file" if self.source is not None else None
        self.version = _known_version(self.source)
        self.loser = self.source
        if new is not None and new != old:
            found = _stat(backend, dst, ask=ask)
            self.loser = _file(volume, new, found)
            if self.loser is self.source:
                self.loser = None  # two names of one object
            self.replaced = _known_version(self.loser)
        self.links = None if found is None else found.nlink

    def files(self) -> list[Inode]:
        """Return the files concerned."""
        return list({inode: None for inode in (self.source, self.loser) if inode is not None})

    def found_by_name(self) -> list[Inode]:
        """Return the files that the backend finds by their names: nothing of them may be in flight beside the call."""
        return [inode for inode in self.files() if inode.engine.finds_by_name()]

    def lost_last_name(self) -> bool:
        """Return whether the loser has no name any longer. Links that come and go beside the call change the number of
        its names: only an open file tells the present one. A closed one that an open may find by another name stays.
        """
        if self.links is None or self.loser is None:
            return self.links in (None, 1)
        with suppress(Exception):
            found = self.loser.engine.stat_open()
            return found is not None and found.nlink == 0
        return False

    def end(self) -> None:
        """Let commits and reads of the objects begin: no attempt follows."""
        for inode in self.held:
            inode.engine.end_unnaming(self)

    def begin(self) -> None:
        """Let no commit begin of an object that is found by its name, and none of its reads count as a change by
        another writer, until `end`.
        """
        self.held = tuple(self.found_by_name())
        for inode in self.held:
            inode.engine.begin_unnaming(self)

    def is_other(self, version: str | None) -> bool:
        """Return whether the found version shows that another object has the name by now."""
        return None not in (self.version, version) and version != self.version

    def removed(self, backend: Backend, src: Key) -> bool | None:
        """Return whether an attempt to remove was carried out, from the object that has the name now; None: unknown."""
        version = _version(backend, src)
        return True if version is _GONE else None if self.is_other(version) else False

    def renamed(self, backend: Backend, src: Key, dst: Key, *, replace: bool) -> bool | None:
        """Return whether an attempt to rename was carried out, from the objects that have the names now; None:
        unknown.
        """
        old, new = _version(backend, src), _stat(backend, dst, ask=True)
        if old is _GONE:
            return None if new is None or self._may_be_loser(new) else True
        unknown = self.is_other(old) or (new is not None and not replace and src != dst)
        return None if unknown else False

    def _may_be_loser(self, found: ObjectStat) -> bool:
        """Return whether this status may be that of the object that was to be replaced, which this cache may have
        changed since.
        """
        if self.loser is None:
            return False
        identity, versions = self.loser.engine.identity, self.loser.engine.versions
        if None not in (identity, found.identity):
            return found.identity == identity
        unknown = found.version is None or found.version == self.version
        return not unknown and (versions.stale or found.version in (self.replaced, versions.base))


@dataclass(eq=False, slots=True)
class Unsettled:
    """A remove or rename. While it is in `Volume.unsettled` its result is unknown: an attempt may have been carried
    out, and none follows.
    """

    volume: Volume
    src: Key
    old: Key
    dst: Key | None = None
    new: Key | None = None
    before: _Before = field(default_factory=_Before)
    looking: bool = False  # a thread of the volume asks the backend
    done: bool = False  # it was carried out, and its effect is published

    def names(self) -> tuple[Key, ...]:
        """Return the canonical keys."""
        return (self.old,) if self.new is None else (self.old, self.new)

    def lenders(self) -> list[Inode]:
        """Look at the names. Return the files whose tokens an attempt needs: nothing of them may be in flight. A remove
        of other files takes no token: that would wait for write-back of bytes that are no longer needed.
        """
        self.before.look(self.volume, self.src, self.old, self.dst, self.new)
        return self.before.found_by_name() if self.new is None else self.before.files()

    def naming(self) -> Naming:
        """Return the call whose effect is to be published."""
        return Naming(self.volume, self.before, self.src, self.old, self.dst, self.new)

    def ended(self, tries: Attempts) -> None:
        """Let commits begin, and leave the call open if its result is unknown and files are cached whose names it has
        changed. No attempt follows, and the names are busy.
        """
        volume, below = self.volume, self.naming().has_below()
        self.before.end()
        if tries.doubtful and not self.done and self.old != self.new:
            with volume.inodes_lock:
                if below or any(map(volume.inodes.knows, self.before.files())):
                    volume.unsettled.update(dict.fromkeys(self.names(), self))

    def look(self, backend: Backend) -> bool:
        """Return whether it was carried out; this settles it."""
        found: bool | None
        if self.is_draft():
            found = backend is self.volume.engine.backend and self._has_moved()
        elif self.new is None:
            found = self.before.removed(backend, self.src)
        else:
            found = self.before.renamed(backend, self.src, self.dst, replace=True)
        self.drop()
        return found is True

    def is_draft(self) -> bool:
        """Return whether the object is published by a commit that has not been made: the store has no record of its
        name. An abandoned one is never published.
        """
        source = self.before.source
        if source is None or source.engine.abandoned or not source.engine.limits().commit_on_close:
            return False
        return bool(source.native.undone()["created"])

    def _has_moved(self) -> bool:
        """Return whether the open file of an object that was never stored has the new name, or none after a remove."""
        source = self.before.source
        found = None if source is None else source.engine.stat_open()
        if found is None or self.new is None:
            return found is not None and found.nlink == 0
        return found.key is not None and self.volume._canonical(found.key) == self.new

    def is_open(self) -> bool:
        """Return whether it is not settled yet."""
        return self.volume.unsettled.get(self.old) is self

    def drop(self) -> None:
        """Record that it is settled."""
        with self.volume.inodes_lock:
            for name in self.names():
                if self.volume.unsettled.get(name) is self:
                    del self.volume.unsettled[name]

    def settle(self, tries: Attempts) -> None:
        """Look at the names, and publish. On a thread of the volume; the names are busy, and the tokens are lent."""
        if self.is_open():
            self.looking = True
            try:
                _exchange(self, tries, self.look)
            finally:
                self.looking = False

    def settle_aborted(self, backend: Backend) -> None:
        """Look at the names in the backend of a reconnect, and publish. On a thread of the volume, which is aborted."""
        if self.is_open() and not self.looking:  # otherwise the thread publishes
            self.naming().publish_found(backend, self.look(backend))


def unsettled_at(volume: Volume, *keys: Key) -> Unsettled | None:
    """Return a call of unknown result that concerns one of these canonical keys, or a directory above it."""
    with volume.inodes_lock:
        if volume.unsettled:
            for name in (name for key in keys for name in (key, *above(key))):
                if name in volume.unsettled:
                    return volume.unsettled[name]
        return None


def settle_names(volume: Volume, tries: Attempts, *keys: Key) -> Unsettled | None:
    """Settle the calls of unknown result that concern these canonical keys, which the caller does not hold. Return the
    last one.
    """
    last = None
    while (change := unsettled_at(volume, *keys)) is not None:
        last, settle = change, partial(change.settle, tries)
        run, within = _lending(change, settle, tries)
        volume.busy.run(run, tries, *change.names(), within=within, trees=True, ended=change.before.end)
    return last


def _run(volume: Volume, call: Callable[[], None], tries: Attempts, *keys: Key, **options: Any) -> None:
    """Run a call that changes names like `BusyKeys.run`. Calls of unknown result that concern the keys are settled
    first; if one of them was this call, it is done.
    """
    done = False

    def run() -> None:
        nonlocal done
        if unsettled_at(volume, *keys) is None:  # otherwise it ended while this call waited for the keys
            call()
            done = True

    while not done:
        settled = settle_names(volume, tries, *keys)
        if settled is not None and settled.done and keys == settled.names():
            return
        volume.busy.run(run, tries, *keys, **options)


def remove(volume: Volume, key: Key, canonical: Key, tries: Attempts) -> None:
    """Remove a name. `canonical` is the canonical key."""
    change = Unsettled(volume, key, canonical)
    run, within = _lending(change, lambda: _remove(change, tries), tries)
    _run(volume, run, tries, canonical, within=within, ended=partial(change.ended, tries))


def _remove(change: Unsettled, tries: Attempts) -> None:
    """Run one attempt, on a thread of the volume; the name is busy, and the token is lent to this call, if needed."""
    _exchange(change, tries, lambda backend: _attempt(change, tries, backend, lambda: backend.remove(change.src)))


def rename(volume: Volume, src: Key, dst: Key, old: Key, new: Key, tries: Attempts, *, replace: bool) -> None:
    """Rename. `old` and `new` are the canonical keys."""
    change = Unsettled(volume, src, old, dst, new)
    run, within = _lending(change, lambda: _rename(change, replace, tries), tries)
    _run(volume, run, tries, old, new, within=within, trees=True, ended=partial(change.ended, tries))


def _rename(change: Unsettled, replace: bool, tries: Attempts) -> None:
    """Run one attempt, on a thread of the volume; the keys are busy, and the tokens are lent to this call."""

    def make(backend: Backend) -> bool:
        call = partial(backend.rename, change.src, change.dst, replace=replace)
        return _attempt(change, tries, backend, call, replace=replace)

    _exchange(change, tries, make)


def _lending(
    change: Unsettled, attempt: Callable[[], None], tries: Attempts
) -> tuple[Callable[[], None], Callable[[Callable[[], None]], None]]:
    """Return an attempt to change names that has the tokens of its files, and the context of its caller's wait."""
    lenders: list[Op] = []

    def run() -> None:
        call: Callable[[], object] = attempt
        for op in lenders:
            call = partial(op.call, call)
        call()

    def within(wait: Callable[[], None]) -> None:
        """Wait with the tokens of the objects held: nothing of them is in flight."""
        lenders.clear()

        def lend(*ops: Op) -> None:
            lenders.extend(ops)
            wait()

        cached = [inode.native for inode in tries.repeated(change.lenders, what="stat") if not inode.engine.freed]
        try:
            if len(cached) == 2:
                cached[0].run_both(cached[1], "lending", lend, tries.until())
            elif cached:
                cached[0].run(TOKEN, "lending", lend, tries.until())
            else:
                wait()
        except TimeoutError as error:
            if cached and not lenders:
                raise tries.late("the object is busy with another call") from error
            raise

    return run, within


def _attempt(
    change: Unsettled, tries: Attempts, backend: Backend, call: Callable[[], None], *, replace: bool = True
) -> bool:
    """Make one attempt, unless an earlier one was carried out; return True.

    Raises:
        OSError: the first error, if it is unknown whether an earlier attempt was carried out.
    """
    before, created, remove = change.before, change.is_draft(), change.new is None
    doubtful, done = tries.doubtful, False
    if doubtful and not created:
        src, dst = change.src, change.dst
        found = before.removed(backend, src) if remove else before.renamed(backend, src, dst, replace=replace)
        done = tries.give_up() if found is None else found
    if not done:
        try:
            tries.make(call)
        except FileNotFoundError:
            landed = created or doubtful if remove else created and doubtful
            if not landed:
                raise  # otherwise it was never stored; or an earlier attempt has changed the backend's open file
    tries.settle()
    return True


def _exchange(change: Unsettled, tries: Attempts, make: Callable[[Backend], bool]) -> None:
    """Publish the effect of a call, if `make` returns True: it has carried it out, or found that it was. No commit of a
    whole object begins before that.
    """
    volume, before, naming = change.volume, change.before, change.naming()
    try:
        backend = naming.begin()
        before.begin()
        for inode in before.held:
            tries.outlast_publications(inode.engine)
        with _change(volume):
            if not make(backend):
                return
        if naming.claim():
            naming.publish()
            source, foreign = before.source, None
            if naming.dst is not None and source is not None and not (volume.engine.aborted or source.engine.removed):
                foreign = opening.follow(source, naming.dst)
            before.end()  # the name is fixed: another version under it is another writer's
            if source is not None and foreign is not None:
                remote.changed(source.engine, foreign.version)
    finally:
        change.done = not naming.claim()
        lent, others = ([], naming.inodes) if naming.dst is None else (naming.inodes, naming.beneath)
        for inode in lent:
            naming.catch_up(inode)
        for inode in others:
            if not naming.end(inode):
                inode.engine.settle(partial(naming.catch_up, inode))


_GONE = object()


def _version(backend: Backend, key: Key) -> Any:
    """Return the version of the object with a name, links not followed; `_GONE`: there is none."""
    lstat = getattr(backend, "lstat", backend.stat)
    try:
        return lstat(key).version
    except FileNotFoundError:
        return _GONE


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
    return None if inode is None or inode.engine.versions.stale else inode.engine.versions.base


def _stored(backend: Backend, key: Key) -> bool:
    return _version(backend, key) is not _GONE
