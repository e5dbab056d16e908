"""How long things live: handles, names, inodes, backend files.

An inode without handles keeps its pages and, for a while, its backend file; one without a name (removed, abandoned)
is an orphan that is buried with its last handle, silently. Nothing is freed while somebody is at work on it: burying
is tried again by the flusher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .engine import barrier
from .engine.volume import close_backend_file
from .errors import Key, LostRange
from .inode import Inode
from .native import END, TOKEN

if TYPE_CHECKING:
    from .volume import Volume

__all__ = ["abandon_handle", "close_collected", "close_handle", "drop_local", "release", "unname"]

IDLE_INODES_MAX = 4096


def release(volume: Volume, inode: Inode, *, writable: bool, count: bool = True) -> None:
    """A handle is gone: an inode that nobody has open keeps its pages, and its backend file for a while."""
    with volume.names:
        if count:
            inode.handles -= 1
            inode.writers -= writable
        if inode.handles:
            return
        if inode in volume.orphans:
            doomed = True
        else:
            doomed = False
            volume.engine.idle[inode.engine] = None
    if doomed:
        bury(volume, inode)
    else:
        volume.engine.close_idle()
        prune(volume)


def close_handle(volume: Volume, inode: Inode, *, writable: bool) -> None:
    """The last writable handle flushes, and commits where the volume says so; the handle is gone anyway."""
    try:
        if writable and inode.writers == 1 and inode not in volume.orphans and not volume.detached:
            limits = inode.engine.limits()
            commit = limits.commit_on_close if volume.options.sync_on_close is None else volume.options.sync_on_close
            if inode.engine.conflict is not None:
                raise inode.engine.conflict_error()
            if commit and inode.native.has_local():
                barrier.fsync(inode.engine)
            elif not limits.commit_on_close and inode.native.has_local():
                barrier.flush(inode.engine, volume.engine.native.take_epoch(), version=True)
    finally:
        release(volume, inode, writable=writable)


def abandon_handle(volume: Volume, inode: Inode, *, writable: bool) -> None:
    last = writable and inode.writers == 1 and inode.native.has_local()
    inode.engine.abandoned |= last  # from here on nothing of it is handed over by anybody
    release(volume, inode, writable=writable)
    if last and volume.engine.mirror is not None:
        volume.engine.mirror.invalidate(inode.key, "the file was abandoned")
    if last:
        with volume.names:
            if volume.inodes.get(inode.key) is inode:
                del volume.inodes[inode.key]
            volume.orphans.add(inode)
            volume.engine.idle.pop(inode.engine, None)
        if inode.handles == 0:
            volume.engine.cache.flusher.defer(lambda: bury(volume, inode))


def close_collected(volume: Volume, inode: Inode, *, writable: bool) -> None:
    """The flusher's part of a handle that was collected unclosed: pages stay dirty, nothing is published."""
    release(volume, inode, writable=writable)


def bury(volume: Volume, inode: Inode) -> None:
    """An inode without name and handles: what is local is dropped, silently; tried again while somebody is at
    work.
    """
    if inode.native.has_local() and not volume.engine.aborted:
        if not inode.native.pass_idle() or inode.native.commit_running():
            volume.engine.cache.flusher.defer_again(lambda: bury(volume, inode))
            return
        rollback: Any = getattr(inode.engine.backend_file, "rollback", None)
        if inode.engine.abandoned and rollback is not None:
            volume.engine.call(rollback, "abandon", inode.key)
        drop_local(volume, inode, 0, END)
    destroy(volume, inode)


def destroy(volume: Volume, inode: Inode) -> bool:
    """Free an inode without handles, if nothing of it is local."""
    inode.native.drop_clean()
    if not inode.native.destroy():
        return False
    volume.engine.forget(inode.engine)
    backend_file = inode.engine.backend_file
    inode.engine.use(None)
    close_backend_file(backend_file)
    with volume.names:
        volume.orphans.discard(inode)
        if volume.inodes.get(inode.key) is inode:
            del volume.inodes[inode.key]
    return True


def prune(volume: Volume) -> None:
    """Forget inodes that nobody uses and that have little left to say, when there are many."""
    with volume.names:
        if len(volume.inodes) <= IDLE_INODES_MAX:
            return
        idle = [i for i in volume.inodes.values() if i.idle()][: len(volume.inodes) - IDLE_INODES_MAX]
    for inode in idle:
        if not inode.native.has_local() and inode.native.destroy():
            volume.engine.forget(inode.engine)
            close_backend_file(inode.engine.backend_file)
            with volume.names:
                if volume.inodes.get(inode.key) is inode:
                    del volume.inodes[inode.key]


def unname(volume: Volume, canonical: Key) -> None:
    """The object has no name any more: open handles keep it, else it goes."""
    with volume.names:
        inode = volume.inodes.pop(canonical, None)
        if inode is None:
            return
        volume.orphans.add(inode)
        inode.engine.removed = True
        volume.engine.idle.pop(inode.engine, None)
        unused = inode.handles == 0
    if unused:
        bury(volume, inode)


def drop_local(volume: Volume, inode: Inode, start: int, end: int) -> list[LostRange]:
    lost: list[LostRange] = []
    inode.native.run(TOKEN, "drop_local", (start, end, lost))
    return lost
