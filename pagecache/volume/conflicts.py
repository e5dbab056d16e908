"""What others changed behind the cache: dropped from it where it is clean, settled where it met changes of our own.

Where nobody announces changes, opens notice them (opening.py). Nothing local is dropped here but by "discard".
"""

from __future__ import annotations

import errno
import gc
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ..backends.protocol import NamespaceBackend, ObjectStat
from ..engine.commit import remote, staging
from ..engine.io import barrier, direct
from ..errors import Key, LostRange
from ..file.cached import extent
from ..native import END
from .inode import Inode

if TYPE_CHECKING:
    from .volume import Volume

__all__ = ["announce", "invalidate", "resolve", "set_attributes"]

ROUNDS = 3
"""How often what is dirtied again meanwhile is written back."""


def invalidate(inode: Inode, offset: int, length: int | None) -> None:
    """Write back, commit where needed, then drop cached data.

    Raises:
        WritebackError: nothing is lost. BlockingIOError: dirtied again and again, or held by a writable view.
    """
    start, end = extent(offset, length, inode.native.size)
    for _ in range(ROUNDS):
        if inode.native.has_local():
            if inode.engine.limits().commit_on_close and (inode.writers or inode.engine.unclosed):
                raise BlockingIOError(errno.EAGAIN, "invalidate: the object is open for writing", inode.key)
            barrier.fsync(inode.engine)
        if inode.native.invalidate_range(start, END if length is None else end):
            return
        if inode.native.usage()["write_pinned"]:
            gc.collect()  # a view in a reference cycle is open until it is collected
        if inode.native.usage()["write_pinned"]:
            raise BlockingIOError(errno.EAGAIN, "invalidate: a writable view is open", inode.key)
    raise BlockingIOError(errno.EAGAIN, "invalidate: written again and again", inode.key)


def announce(volume: Volume, inode: Inode, offset: int, length: int | None, version: str | None) -> None:
    """The stored object changed: nothing but local bytes of the range satisfies a read from here on."""
    if version is not None and version == inode.engine.version and not inode.engine.version_stale:
        return  # our own doing, or known
    start, end = extent(offset, length, inode.native.size)
    remote.announced(inode.engine, version, start, END if length is None else end)
    if volume.engine.mirror is not None:
        volume.engine.mirror.invalidate(inode.key, "the object was changed by somebody else")
    what = f"somebody else changed [{start}, {end})"
    next = "what is cached of it is read again" if not inode.native.has_local() else "unsaved bytes are kept"
    volume.engine.emit("invalidated", inode.key, ((start, end - start),), message=what, next=next)
    volume.engine.say(logging.DEBUG, "changes of stored objects", what, next, inode.key)


def resolve(volume: Volume, inode: Inode, how: Literal["force", "rebase", "discard"]) -> list[LostRange]:
    """Settle its conflict, if it has one; returns what was lost."""
    engine = inode.engine
    if engine.conflict is None:
        return []
    if how == "discard":
        lost = engine.settled(lambda: remote.take(engine))
        with volume.names:
            inode.record_loss(lost, seen=True)
        return lost
    if how == "force" and engine.limits().commit_on_close:
        _fill_all(inode)
    settle = remote.force if how == "force" else remote.rebase
    while True:
        try:
            staging.reading_back(engine, lambda: engine.settled(lambda: settle(engine)))
        except remote.DirectWrites:
            direct.outlast(engine)  # none begins while there is a conflict
        else:
            return []


def _fill_all(inode: Inode) -> None:
    """Our whole version into memory, while what lies under it can still be read, but for what the backend keeps."""
    keeps = hasattr(inode.engine.backend_file, "rebase")
    with inode.engine.forcing():
        pos = 0
        while keeps and (staged := inode.native.staged_from(pos)) is not None:
            if pos < staged[0]:
                inode.native.fill(pos, staged[0] - pos)
            pos = staged[1]
        inode.native.fill(pos, max(0, inode.native.size - pos))


def set_attributes(volume: Volume, key: Key, inode: Inode | None, changes: dict[str, int]) -> ObjectStat:
    """Times are a part of the version of many stores: of an object that is cached it is looked at before and after,
    under the token, so that nothing else of ours changes it.
    """
    backend: Any = volume.engine.backend

    def change() -> ObjectStat:
        own = getattr(backend, "setattr", None) or partial(
            NamespaceBackend.setattr, backend
        )  # which says that it cannot
        changed: ObjectStat = own(key, **changes)
        return changed

    if inode is None:
        return volume.engine.call(change, "setattr", key)
    engine = inode.engine

    def change_ours() -> ObjectStat:
        found = engine.stat_open()
        before = backend.stat(key) if found is None else found
        changed = change()
        with engine.lock:
            if before.version == engine.version and not engine.version_stale:
                engine.version = changed.version
        return changed

    return engine.settled(change_ours)
