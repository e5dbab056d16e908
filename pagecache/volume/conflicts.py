"""Foreign changes of stored objects: clean cached bytes are dropped, conflicts with local changes are settled."""

from __future__ import annotations

import errno
import gc
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ..backends.protocol import NamespaceBackend, ObjectStat
from ..engine.blocking import untiered
from ..engine.commit import remote
from ..engine.io import barrier, direct
from ..errors import ConflictError, Key, LostRange
from ..file.cached import extent
from ..native import END
from . import lifetimes
from .inode import Inode

if TYPE_CHECKING:
    from .volume import Volume

ROUNDS = 3
"""How often bytes that became dirty again are written back."""


def invalidate(inode: Inode, offset: int, length: int | None) -> None:
    """Write back, commit if needed, then drop cached data.

    Raises:
        WritebackError: nothing is lost. BlockingIOError: dirtied repeatedly, or held by a writable view.
    """
    start, end = extent(offset, length, inode.size)
    for _ in range(ROUNDS):
        if inode.has_local():
            if inode.limits().commit_on_close and (inode.has_writer() or inode.unclosed):
                raise BlockingIOError(errno.EAGAIN, "invalidate: the object is open for writing", inode.key)
            if not inode.withheld:
                barrier.fsync(inode)
        if inode.invalidate_range(start, END if length is None else end) or inode.withheld:
            return
        if inode.number("write_pinned"):
            gc.collect()  # a view in a reference cycle is open until it is collected
        if inode.number("write_pinned"):
            raise BlockingIOError(errno.EAGAIN, "invalidate: a writable view is open", inode.key)
    raise BlockingIOError(errno.EAGAIN, "invalidate: written again and again", inode.key)


def announce(volume: Volume, inode: Inode, offset: int, length: int | None, version: str | None) -> None:
    """Record a change of the stored object: later reads of the range use local bytes only, and the store for all
    others.
    """
    if inode.versions.is_base(version):
        return  # this cache's own change, or a known one
    start, end = extent(offset, length, inode.size)
    remote.announced(inode, (inode.key, *inode.aliases), version, start, END if length is None else end)
    what = f"another writer changed [{start}, {end})"
    next = "cached bytes of it are read again" if not inode.has_local() else "unsaved bytes are kept"
    volume.engine.emit("invalidated", inode.key, ((start, end - start),), message=what, next=next)
    volume.engine.say(logging.DEBUG, "changes of stored objects", what, next, inode.key)


def resolve(inode: Inode, how: Literal["force", "rebase", "discard"]) -> list[LostRange]:
    """Settle the conflict of an inode, if it has one; return the losses."""
    if inode.conflict is None:
        return []
    if how == "discard":
        lost = inode.settled(lambda: remote.take(inode, partial(inode.report_to_handles, seen=True)))
        inode.journaled.confirm_dropped()
        return lost
    if how == "force" and inode.limits().commit_on_close:
        try:
            _fill_all(inode)
        except ConflictError as error:
            what = "force needs every byte of our version, and some can be read no longer: rebase or discard"
            raise ConflictError(
                what, error.filename, base=error.base, remote=error.remote, ranges=error.ranges
            ) from error
    settle = remote.force if how == "force" else remote.rebase

    while True:
        try:  # another caller may have settled it by then
            return inode.settled(lambda: [] if inode.conflict is None else settle(inode))
        except remote.DirectWrites:
            direct.outlast(inode)  # none begins during a conflict


def _fill_all(inode: Inode) -> None:
    """Read the whole local version into memory, while the version below it can still be read, except staged bytes."""
    with inode.forcing():
        pos = 0
        while (staged := inode.staged_from(pos)) is not None:
            if pos < staged[0]:
                inode.fill_missing(pos, staged[0] - pos)
            pos = staged[1]
        inode.fill_missing(pos, max(0, inode.size - pos))


def set_attributes(volume: Volume, name: Key, key: Key, changes: dict[str, int]) -> ObjectStat:
    """Set attributes. Times are a part of the version in many stores: so the version of a cached object is read before
    and after, under the token, which excludes other changes by this cache.
    """
    backend: Any = volume.engine.backend
    store: Any = untiered(backend)

    def change() -> ObjectStat:
        own = getattr(backend, "setattr", None) or partial(NamespaceBackend.setattr, store)  # raises that it cannot
        changed: ObjectStat = own(key, **changes)
        return changed

    inode = volume._inode_at(name)
    if inode is None and volume.inodes.identified:
        inode = volume._inode_found(name, volume.engine.call(lambda: backend.stat(key), "stat", key))

    def change_ours(inode: Inode) -> ObjectStat:
        found = inode.stat_open()
        before = backend.stat(key) if found is None else found
        changed = change()
        if inode.identity is not None and changed.identity != inode.identity:
            return changed  # the name leads to another object
        inode.versions.follow(before.version, changed.version)
        return changed

    with lifetimes.using([] if inode is None else [inode]) as used:
        for ours in used:
            return ours.settled(partial(change_ours, ours))
        return volume.engine.call(change, "setattr", key)
