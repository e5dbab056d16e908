"""The end of a volume: detach, give up.

Detaching saves first and refuses where that fails, unless the caller gives data up on purpose; threads that hang in a
dead backend are left behind with all that they may still touch.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from . import lifetimes
from .engine.volume import close_backend_file
from .errors import FailedRange, LostRange, UnsavedDataError
from .native import END

if TYPE_CHECKING:
    from .volume import Volume

__all__ = ["finish", "give_up", "unsaved_error", "unsaved_ranges"]


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
    for inode in inodes:
        if stopped:
            inode.native.drop_clean()
        close_backend_file(inode.engine.backend_file)
    if stopped:
        close = getattr(volume.backend, "close", None)
        if close is not None:
            close()
