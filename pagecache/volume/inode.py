"""One cached object: its handles, its losses, and the lifetime of its backend file.

An `Inode` outlives its handles: its pages stay cached, and unsaved data keeps it alive. It is found by the identity of
its object, so every name of one object leads to one inode. Handles keep it alive; the volume's table does too, until it
has neither handles nor pages nor local data.

Losses (discard, take_remote, direct writes) go to an edge channel like the kernel's errseq: each handle open at that
time raises DataLossError once; a loss that no handle has reported is reported to the next opener (contract 2.16).
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from ..backends.protocol import BackendFile, ObjectStat
from ..engine.file import EngineFile
from ..errors import DataLossError, Key, LostRange
from .keys import is_below

if TYPE_CHECKING:
    from ..file.cached import CachedFile
    from .lifetimes import Use
    from .namespace import NameChange
    from .volume import Volume

LAST_NAMES = 8
"""Number of names that a file keeps when it is unknown which ones it has."""


@dataclass(slots=True)
class _Loss:
    seq: int
    ranges: list[LostRange]
    seen: bool


class Inode(EngineFile):
    """One object of a volume, independent of its names and the number of its handles."""

    __slots__ = (
        *("_kept", "_losses", "aliases", "collected", "cut_off", "given_up", "handles", "hinted", "last_loss"),
        *("missed", "naming", "open_handles", "opening", "owner", "writers", "written_ns"),
    )

    def __init__(self, volume: Volume, key: Key, backend_file: BackendFile, stat: ObjectStat) -> None:
        super().__init__(volume.engine, key, backend_file, stat.size, stat.version, stat.identity)
        self.owner = volume
        self.aliases: tuple[Key, ...] = ()  # other names that it was opened by, or had before: a few
        self.hinted = 0  # `InodeTable.hints` when its names were last found
        self.handles = 0
        self.writers = 0
        self.opening = 0  # of them: those whose open has not returned, and has emptied nothing
        self.given_up = False  # its local data was abandoned beside opens: it is dropped if these are given up as well
        self.cut_off: tuple[LostRange, ...] = ()  # unsaved bytes that abandoned handles have cut off
        self.naming: NameChange | None = None  # the call that changes its name; under the volume's lock
        self.missed = False  # a reconnect has left its file closed, because of that call
        self._kept: int | None = None  # epoch of the last close of a handle that has left changes of its own
        self.open_handles: dict[int, weakref.ref[CachedFile]] = {}  # oldest first, by the id of the `Use`
        self.collected: list[tuple[Use, bool]] = []  # uses of collected handles; whether these made changes
        self._losses: list[_Loss] = []
        self.last_loss = 0
        self.written_ns = 0  # time of the last change by files of a mount that are closed, until the store shows it

    # -- names; under the volume's lock

    def is_named(self) -> bool:
        """Return whether the object has its name, and no call of this cache changes that."""
        return self.naming is None and super().is_named()

    def is_called(self) -> bool:
        return self.naming is not None or super().is_called()

    def has_writer(self) -> bool:
        """Return whether a program has a handle for writing, or an open has emptied the object."""
        return self.writers > self.opening

    # -- changes of closed handles; under the volume's lock

    def keep_changes(self) -> None:
        """Record the close of a handle that has made changes, which later handles do not give up."""
        if self.has_local():
            self._kept = self.volume.native.take_epoch()
            self.given_up, self.cut_off = False, ()

    def keeps_changes(self) -> bool:
        """Return whether changes of closed handles are unsaved: uncommitted, if a commit publishes the object;
        otherwise not acknowledged. An fsync at the disk keeps them as a close does.
        """
        if self._kept is not None:
            whole = self.limits().commit_on_close
            if self.sync_done(self._kept) if whole else not self.unsaved_up_to(self._kept)[1]:
                self._kept = None
        return self._kept is not None or self.journaled.is_live()

    def supersede_changes(self) -> None:
        """Record that a handle has emptied the object, with all changes of closed ones."""
        self._kept = None

    # -- the time of changes that the store does not show yet

    def is_stored(self) -> bool:
        """Return whether the store shows all that is local: committed, if a commit publishes the object; otherwise
        acknowledged.
        """
        if self.limits().commit_on_close:
            return not self.has_local()
        return not (self.number("unstored") or self.number("staged"))

    def set_written(self, written_ns: int) -> None:
        with self.owner.inodes_lock:
            self.written_ns = max(self.written_ns, written_ns)

    def clear_written(self, written_ns: int) -> None:
        """Clear that time, unless a later change has set it."""
        with self.owner.inodes_lock:
            if self.written_ns == written_ns:
                self.written_ns = 0

    # -- the edge channel; under the volume's lock

    def record_loss(self, lost: list[LostRange], *, seen: bool) -> None:
        """Record a loss. `seen`: the caller of discard got the list, so later handles do not report it."""
        if not lost:
            return
        reported = min((handle._loss_cursor for handle in self.live_handles()), default=self.last_loss)
        self._losses = [loss for loss in self._losses if loss.seq > reported or not loss.seen]
        self.last_loss += 1
        self._losses.append(_Loss(self.last_loss, lost, seen))

    def report_to_handles(self, lost: list[LostRange], *, seen: bool = False) -> None:
        with self.owner.inodes_lock:
            self.record_loss(lost, seen=seen)

    def replaced(self) -> None:
        """Record that the version of the open handles is gone; they never see another one."""
        with self.owner.inodes_lock:
            handles = self.live_handles()
        for handle in handles:
            handle._replace()

    def live_handles(self) -> list[CachedFile]:
        """Return the open handles, oldest first."""
        return [handle for ref in self.open_handles.copy().values() if (handle := ref()) is not None]

    def loss_cursor(self) -> int:
        """Return the position of a new handle in the losses: after all reported ones."""
        if not self._losses:
            return self.last_loss
        return min((loss.seq for loss in self._losses if not loss.seen), default=self.last_loss + 1) - 1

    def loss_since(self, cursor: int) -> tuple[DataLossError | None, int]:
        """Return the losses that a handle has not reported yet, and its new position. They count as reported."""
        losses = self._losses and [loss for loss in self._losses if loss.seq > cursor]
        if not losses:
            return None, self.last_loss
        for loss in losses:
            loss.seen = True
        lost = [entry for loss in losses for entry in loss.ranges]
        total = sum(entry.length for entry in lost)
        return (
            DataLossError(f"{total} bytes of {self.key!r} were given up and are gone", self.key, ranges=lost),
            self.last_loss,
        )

    def losses_since(self, cursor: int) -> list[LostRange]:
        """Return the unreported losses of a handle without marking them as reported."""
        return [entry for loss in self._losses if loss.seq > cursor for entry in loss.ranges]

    def has_unreported_loss(self) -> bool:
        """Return whether a loss waits for the next opener."""
        return any(not loss.seen for loss in self._losses)


class InodeTable(dict[Key, Inode]):
    """The files of a volume: names that lead to them, and all of them by the identity of their objects.

        objects   identity -> file       each file is in it once
        names     name -> file           this dict

    If the store reports identities, a name is a hint: it led to the file when the store was last asked, and a change of
    a name drops the other hints of its files, which may be links or other spellings. A change of a directory or of a
    symbolic link, which may be in the path of any name, makes all hints from before worthless: `at` drops those that it
    meets. If the store knows names only, a file is its own identity, and its name is a fact that only the volume
    changes. Each name leads to a file in `objects`.

    The table counts the names below each directory (parts separated by "/"), so that a rename without such names needs
    no walk. A rename of a directory with known names walks all names of the volume. The volume's lock protects the
    table. All changes go through the methods below.
    """

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[Hashable, Inode] = {}
        self.identified = 0  # number of files with an identity of the store
        self.hints = 0  # number of changes that have made all hints worthless
        self.removals = 0  # number of files that have lost their last name
        self._unnamed: dict[Key, dict[Inode, None]] = {}  # files without a known name, by the last one
        self._below: dict[str, int] = {}

    def __setitem__(self, key: Key, inode: Inode) -> None:
        if key not in self and isinstance(key, str) and "/" in key:
            self._count(key, 1)
        super().__setitem__(key, inode)

    def __delitem__(self, key: Key) -> None:
        super().__delitem__(key)
        if isinstance(key, str) and "/" in key:
            self._count(key, -1)

    def clear(self) -> None:
        super().clear()
        self.objects.clear()
        self._unnamed.clear()
        self._below.clear()
        self.identified = 0

    # -- files

    def knows(self, inode: Inode) -> bool:
        """Return whether this is the file of its identity: it was neither removed nor abandoned."""
        identity = inode.identity
        return self.objects.get(inode if identity is None else identity) is inode

    def at(self, key: Key) -> Inode | None:
        """Return the file of a known name."""
        inode = self.get(key)
        if inode is not None and inode.hinted != self.hints and inode.identity is not None:
            self.drop_names(inode)
            return None
        return inode

    def names(self, inode: Inode) -> bool:
        """Return whether the file has a known name, which is its key."""
        return self.at(inode.key) is inode

    def add(self, inode: Inode) -> None:
        self.objects[_identity(inode)] = inode
        self.identified += inode.identity is not None

    def remove(self, inode: Inode) -> None:
        """Remove a file and its names, if it is in the table."""
        if self.knows(inode):
            self.drop_names(inode)
            self._forget_last_name(inode)
            del self.objects[_identity(inode)]
            self.identified -= inode.identity is not None

    def lose(self, inode: Inode) -> None:
        """Remove a file that has lost its last name: an open that has begun looks again."""
        self.removals += 1
        self.remove(inode)

    def identify(self, inode: Inode, identity: Hashable | None) -> None:
        """Set the identity that the store reports, unless another file has it."""
        if identity == inode.identity or identity in self.objects or not self.knows(inode):
            return
        del self.objects[_identity(inode)]
        self.identified -= inode.identity is not None
        inode.identify(identity)
        self.add(inode)

    def of_file(self, file: EngineFile) -> Inode | None:
        """Return a file of the engine if it is in the table."""
        return file if isinstance(file, Inode) and self.knows(file) else None

    def found(self, key: Key, stat: ObjectStat | None) -> Inode | None:
        """Return the file of a name, to which the store says `stat`; None: nothing has the name."""
        known = self.get(key)
        if known is not None and known.hinted != self.hints:
            known = self.at(key)
        if known is not None and (known.identity is None or (stat is not None and stat.identity is None)):
            return known
        return None if stat is None or stat.identity is None else self.objects.get(stat.identity)

    def check(self) -> Inode | None:
        """Return a file that is freed, or in `objects` under a wrong identity, or whose name leads to no file in it."""
        wrong = [inode for identity, inode in self.objects.items() if identity != _identity(inode) or inode.freed]
        wrong += [inode for inode in (*self.values(), *chain(*self._unnamed.values())) if not self.knows(inode)]
        wrong += [inode for key, inode in self.items() if key != inode.key and key not in inode.aliases]
        return next(iter(wrong), None)

    # -- names

    def bind(self, key: Key, inode: Inode) -> None:
        """Record that a name leads to a file of the table."""
        if inode.hinted != self.hints:
            if inode.identity is not None:
                self.drop_names(inode)
            inode.hinted = self.hints
        if self.get(key, inode) is not inode:
            self.unbind(key)
        if self.get(inode.key) is not inode:
            self._forget_last_name(inode)
            _rename(inode, key)
        elif key != inode.key and key not in inode.aliases:
            inode.aliases = (*inode.aliases, key)
        self[key] = inode

    def unbind(self, key: Key) -> None:
        """Record that it is unknown whether a name leads to a file."""
        inode = self.get(key)
        if inode is not None:
            del self[key]
            if self.get(inode.key) is not inode:
                self._name_by_alias(inode)

    def drop_names(self, inode: Inode) -> None:
        """Record that it is unknown which names a file has. It keeps them as the last known ones."""
        for key in (inode.key, *inode.aliases):
            if self.get(key) is inode:
                del self[key]
        self._keep_last_name(inode)

    def set_last_name(self, inode: Inode, key: Key) -> None:
        """Record a name that a file was found by, and that a call may change by now: it stays unknown which ones it
        has.
        """
        self.drop_names(inode)
        self._forget_last_name(inode)
        _rename(inode, key)
        self._keep_last_name(inode)

    def move_last_names(self, old: str, new: str) -> None:
        """Record that a directory was renamed, for files without a known name: their last ones stay unknown names."""

        def moved(key: Key) -> Key:
            return new + key.removeprefix(old) if isinstance(key, str) and key.startswith(f"{old}/") else key

        files = dict.fromkeys(inode for _, inode in self.last_below(old))
        for inode in files:
            self._forget_last_name(inode)
        for inode in files:
            inode.aliases = tuple(map(moved, inode.aliases))
            if (key := moved(inode.key)) != inode.key:
                inode.rename(key)
            else:
                inode.journaled.kept_name(key)
            self._keep_last_name(inode)

    def last_known(self, key: Key) -> Inode | None:
        """Return the file that has a name, or that had it when its names were last known."""
        return self.at(key) or next(reversed(self._unnamed.get(key, {})), None)

    def last_below(self, tree: str) -> list[tuple[str, Inode]]:
        """Return the files without a known name that had one below a directory, with the remaining part of that."""
        last = [(key, inode) for inode in chain(*self._unnamed.values()) for key in (*inode.aliases, inode.key)]
        return [(key.removeprefix(tree), inode) for key, inode in last if isinstance(key, str) and is_below(key, tree)]

    def has_below(self, tree: Key) -> bool:
        return tree in self._below

    def _name_by_alias(self, inode: Inode) -> None:
        for key in inode.aliases:
            if self.get(key) is inode:
                inode.aliases = tuple(other for other in inode.aliases if other != key)
                inode.rename(key)
                return
        inode.aliases = ()
        self._keep_last_name(inode)

    def _keep_last_name(self, inode: Inode) -> None:
        if self.knows(inode):
            self._unnamed.setdefault(inode.key, {})[inode] = None

    def _forget_last_name(self, inode: Inode) -> None:
        files = self._unnamed.get(inode.key, {})
        files.pop(inode, None)
        if not files:
            self._unnamed.pop(inode.key, None)

    def _count(self, key: str, more: int) -> None:
        at = key.find("/")
        while at >= 0:
            tree = key[:at]
            left = self._below.get(tree, 0) + more
            if left:
                self._below[tree] = left
            else:
                self._below.pop(tree, None)
            at = key.find("/", at + 1)


def _rename(inode: Inode, key: Key) -> None:
    """Give a name to a file whose names are unknown. Where identities show which object has a name, it keeps the last
    ones too.
    """
    last = () if inode.identity is None else (*inode.aliases, inode.key)
    inode.aliases = (tuple(name for name in last if name != key) if key in last else last)[-LAST_NAMES:]
    inode.rename(key)


def _identity(inode: Inode) -> Hashable:
    """Return the key of a file in `InodeTable.objects`: the identity of its object, or the file itself."""
    return inode if inode.identity is None else inode.identity
