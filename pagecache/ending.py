"""The end of a volume, and its second life: detach, give up, reconnect.

Detaching saves first and refuses where that fails, unless the caller gives data up on purpose; threads that hang in a
dead backend are left behind with all that they may still touch.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from . import lifetimes
from .engine.volume import close_backend_file
from .errors import FailedRange, LostRange, UnsavedDataError
from .inode import Inode
from .native import END, TOKEN

if TYPE_CHECKING:
    from .volume import Volume

__all__ = ["finish", "give_up", "reopen", "unsaved_error", "unsaved_ranges"]


def reopen(volume: Volume, inode: Inode) -> None:
    """Open the object in the new backend; its creation and size are owed where they are not known to be
    committed.
    """
    local = inode.native.has_local()
    if not local and not inode.handles:
        inode.engine.use(None)
        return
    backend_file = volume.engine.call(lambda: volume.backend.open(inode.key, create=local), "reconnect", inode.key)
    inode.native.run(TOKEN, "forget_acknowledged", None)  # before a commit can reach the new backend
    remote, cut_to = inode.native.remote_size, inode.native.cut_to
    stat = volume.engine.call(backend_file.stat, "reconnect", inode.key)
    if local and cut_to < stat.size:
        volume.engine.call(lambda: backend_file.truncate(cut_to), "reconnect", inode.key)
    if local and (stat.size != remote or cut_to < stat.size):
        volume.engine.call(lambda: backend_file.truncate(remote), "reconnect", inode.key)
        inode.native.set_uncommitted()
    inode.engine.use(backend_file)
    inode.native.retry(failed_too=True)
    inode.engine.version = None
    inode.engine.version_stale = True


def unsaved_ranges(volume: Volume) -> list[FailedRange]:
    return [r for file in volume.engine.files() if not file.removed for r in file.failed_ranges(everything=True)]


def unsaved_error(volume: Volume, unsaved: list[FailedRange], cause: BaseException | None) -> UnsavedDataError:
    total = sum(r.length for r in unsaved)
    what = f"{total} bytes in {len({r.key for r in unsaved})} files are not saved"
    return UnsavedDataError(
        f"{volume.name}: {what}{f': {cause}' if cause else ''}",
        unsaved[0].key if unsaved else None,
        ranges=unsaved,
        exceptions=[cause] if cause else [],
    )


def give_up(volume: Volume) -> list[LostRange]:
    lost: list[LostRange] = []
    with volume.names:
        inodes = [*volume.inodes.values(), *volume.orphans]
    for inode in inodes:
        if not inode.native.has_local():
            continue
        if volume.engine.aborted:
            ranges = inode.native.local_ranges()
            entries = [LostRange(inode.key, pos, n, errno.EIO, volume.name) for pos, n in ranges]
        else:
            entries = lifetimes.drop_local(volume, inode, 0, END)
        with volume.names:
            inode.record_loss(entries, seen=False)
        if inode not in volume.orphans:
            lost += entries
    return lost


def finish(volume: Volume, timeout: float) -> None:
    """Threads end, files close, handles lead nowhere. What a hung call still uses is left alone until the process
    ends.
    """
    volume.detached = True
    with volume.names:
        inodes = [*volume.inodes.values(), *volume.orphans]
        volume.inodes.clear()
    for inode in inodes:
        for handle in inode.open_handles:
            handle._shut()
    stopped = volume.engine.stop(timeout)
    volume.cache.forget(volume)
    if not stopped:
        return  # nor can anything be asked of that backend
    for inode in inodes:
        inode.native.drop_clean()
        close_backend_file(inode.engine.backend_file)
    close = getattr(volume.backend, "close", None)
    if close is not None:
        close()
