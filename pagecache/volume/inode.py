"""One cached object: its handles, its losses, and the lifetime of its backend file.

An `Inode` outlives its handles: its pages stay cached, and unsaved data keeps it alive. It is found by the canonical
key, so every alias of one object leads to one inode. Handles keep it alive; the volume's table does too, until it has
neither handles nor pages nor local data.

Losses (discard, take_remote, a lost stage) go to an edge channel like the kernel's errseq: each handle open at that
time raises DataLossError once; a loss that no handle has reported is reported to the next opener (contract 2.16).
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..backends.protocol import BackendFile
from ..engine.file import EngineFile
from ..errors import DataLossError, Key, LostRange
from ..native import NativeInode

if TYPE_CHECKING:
    from ..file.cached import CachedFile
    from .namespace import Naming
    from .volume import Volume

__all__ = ["Inode", "InodeTable"]


@dataclass(slots=True)
class _Loss:
    seq: int
    ranges: list[LostRange]
    seen: bool


class Inode:
    """One object of a volume, independent of its name and the number of its handles."""

    def __init__(self, volume: Volume, key: Key, backend_file: BackendFile, size: int, version: str | None) -> None:
        self.volume = volume
        self.key = key
        self.engine: EngineFile = EngineFile(volume.engine, key, backend_file, size, version)
        self.engine.report_losses_to(self._report_loss)
        self.native: NativeInode = self.engine.native
        self.handles = 0
        self.writers = 0
        self.naming: Naming | None = None  # the call that changes its name; under the volume's lock
        self.missed = False  # a reconnect has left its file closed, because of that call
        self.dropped = False  # local data was dropped: no handle could reach it
        self._kept: int | None = None  # epoch of the last close of a handle that has left changes of its own
        self.open_handles: weakref.WeakKeyDictionary[CachedFile, None] = weakref.WeakKeyDictionary()  # oldest first
        self.pins: weakref.WeakSet[object] = weakref.WeakSet()
        self._losses: list[_Loss] = []
        self._last_loss = 0

    # -- changes of closed handles; under the volume's lock

    def keep_changes(self) -> None:
        """Record the close of a handle that has made changes, which later handles do not give up."""
        if self.native.has_local():
            self._kept = self.volume.engine.native.take_epoch()

    def keeps_changes(self) -> bool:
        """Return whether changes of closed handles are unsaved: uncommitted, if a commit publishes the object;
        otherwise not acknowledged.
        """
        if self._kept is not None:
            whole, native = self.engine.limits().commit_on_close, self.native
            if native.sync_done(self._kept) if whole else not native.unsaved_up_to(self._kept)[1]:
                self._kept = None
        return self._kept is not None

    def supersede_changes(self) -> None:
        """Record that a handle has emptied the object, with all changes of closed ones."""
        self._kept = None

    # -- the edge channel; under the volume's lock

    def record_loss(self, lost: list[LostRange], *, seen: bool) -> None:
        """Record a loss. `seen`: the caller of discard got the list, so later handles do not report it."""
        if not lost:
            return
        reported = min((handle._loss_cursor for handle in self.open_handles), default=self._last_loss)
        self._losses = [loss for loss in self._losses if loss.seq > reported or not loss.seen]
        self._last_loss += 1
        self._losses.append(_Loss(self._last_loss, lost, seen))

    def record_discard(self, lost: list[LostRange]) -> None:
        """Record a loss that a caller requested."""
        with self.volume.inodes_lock:
            self.record_loss(lost, seen=True)

    def _report_loss(self, lost: list[LostRange]) -> None:
        """Record a loss that was not requested."""
        with self.volume.inodes_lock:
            self.record_loss(lost, seen=False)

    def replaced(self) -> None:
        """Record that the version of the open handles is gone; they never see another one."""
        with self.volume.inodes_lock:
            handles = list(self.open_handles)
        for handle in handles:
            handle._replace()

    def loss_cursor(self) -> int:
        """Return the position of a new handle in the losses: after all reported ones."""
        return min((loss.seq for loss in self._losses if not loss.seen), default=self._last_loss + 1) - 1

    def loss_since(self, cursor: int) -> tuple[DataLossError | None, int]:
        """Return the losses that a handle has not reported yet, and its new position. They count as reported."""
        losses = [loss for loss in self._losses if loss.seq > cursor]
        if not losses:
            return None, self._last_loss
        for loss in losses:
            loss.seen = True
        lost = [entry for loss in losses for entry in loss.ranges]
        total = sum(entry.length for entry in lost)
        return (
            DataLossError(f"{total} bytes of {self.key!r} were given up and are gone", self.key, ranges=lost),
            self._last_loss,
        )

    def losses_since(self, cursor: int) -> list[LostRange]:
        """Return the unreported losses of a handle without marking them as reported."""
        return [entry for loss in self._losses if loss.seq > cursor for entry in loss.ranges]

    def has_unreported_loss(self) -> bool:
        """Return whether a loss waits for the next opener."""
        return any(not loss.seen for loss in self._losses)

    def hidden(self) -> bool:
        """Return whether the store differs from the cache: bytes are not written back, or not committed, for objects
        that become visible by commit.
        """
        if not self.native.has_local():
            return False
        usage = self.native.usage()
        return self.engine.limits().commit_on_close or bool(usage["dirty"] or usage["writeback"])

    def idle(self) -> bool:
        """Return whether the object has no handles and no views."""
        return self.handles == 0 and not len(self.pins)


class InodeTable(dict[Key, Inode]):
    """The inodes of a volume by their keys. The table counts the keys below each directory (parts separated by "/"), so
    that a rename without such keys needs no walk. All changes go through the methods below.
    """

    def __init__(self) -> None:
        super().__init__()
        self._below: dict[str, int] = {}

    def __setitem__(self, key: Key, inode: Inode) -> None:
        if key not in self:
            self._count(key, 1)
        super().__setitem__(key, inode)

    def __delitem__(self, key: Key) -> None:
        super().__delitem__(key)
        self._count(key, -1)

    def take(self, key: Key) -> Inode | None:
        """Remove a key and return its inode, if there is one."""
        inode = self.get(key)
        if inode is not None:
            del self[key]
        return inode

    def clear(self) -> None:
        super().clear()
        self._below.clear()

    def has_below(self, tree: str) -> bool:
        """Return whether a key lies below this directory."""
        return tree in self._below

    def _count(self, key: Key, more: int) -> None:
        if not isinstance(key, str):
            return
        at = key.find("/")
        while at >= 0:
            tree = key[:at]
            left = self._below.get(tree, 0) + more
            if left:
                self._below[tree] = left
            else:
                self._below.pop(tree, None)
            at = key.find("/", at + 1)
