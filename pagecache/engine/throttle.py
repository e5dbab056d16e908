"""Writers that have to wait: for room below the dirty limit, or for memory.

Nobody waits here with a lock held (but an append, whose lock frees no memory). The flusher is asked to work, commits
of what is only acknowledged are started where the volume allows them, and the writer sleeps until a completion, a
commit, a discard or a new limit. Where nothing that runs or could run would ever make room, waiting would be for
ever: ENOBUFS says so instead (contract 2.23, 2.24).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .. import native
from ..errors import PageCacheError, WritebackError
from .park import SLICE, Deadline

if TYPE_CHECKING:
    from .file import EngineFile

__all__ = ["room"]

PATIENCE = 20
"""Looks without any possible progress before a wait is given up: the flusher has had its turn by then."""

MIRROR_GRACE = 1.0
"""Seconds that a writer waits for memory before mirrors have to give up what they hold."""


def _check_failed(file: EngineFile) -> None:
    """Above failed_limit, new writes to a file with failed data raise its error at once (contract 2.16)."""
    with file.lock:
        worst = file.failures.worst()
    if worst is None or not worst.parked:
        return
    failed = sum(length for _, length in file.native.failed_ranges())
    if failed > file.volume.cache.limits.failed_limit:
        raise WritebackError(
            f"write refused: {failed} bytes of this file could not be written back: {worst.message}",
            file.key,
            errno=worst.errno,
            ranges=file.failed_ranges(),
        )
    file.volume.resume_parked(file)


def _hopeless(file: EngineFile, memory: int) -> str | None:
    """Why no operation that runs or could run will make room; None: there is hope."""
    volumes = file.volume.cache.engine_volumes()
    usages = [(volume, volume.native.usage()) for volume in volumes]
    if any(volume.native.inflight() for volume in volumes):
        return None
    if memory and sum(u["clean"] - u["pinned"] for _, u in usages) > 0:
        return None
    movable = sum(u["dirty"] - u["failed"] for _, u in usages)
    committable = sum(u["unstable"] for v, u in usages if not v.backend.limits.commit_on_close)
    if movable > 0 or committable > 0:
        return None
    failed = sum(u["failed"] for _, u in usages)
    if failed:
        return f"{failed} bytes could not be written back and are kept until that succeeds (Volume.failed)"
    if any(u["unstable"] for _, u in usages):
        return "what fills it becomes durable only when its objects are closed or synced"
    return "what fills it is pinned by views"


def room(self: EngineFile, length: int, memory: int) -> None:
    """Wait until `length` more dirty bytes fit, or (memory) until frames may be free.

    Raises:
        BlockingIOError: throttle_timeout passed.
        PageCacheError: ENOBUFS, no operation can ever make room.
        WritebackError: the file's failed data is above failed_limit.
    """
    _check_failed(self)
    cache, volume = self.volume.cache, self.volume
    inside = bool(native.inside())  # a backend call that waits for room may be what makes it (contract 2.25)
    if not memory and (inside or self.native.dirty_room(length)):
        return
    deadline = Deadline(volume.clock, cache.config.throttle_timeout)
    began = volume.clock.now()
    hopeless = 0
    try:
        while memory or not self.native.dirty_room(length):
            volume.check_alive(self.key)
            seq = cache.native.event_seq()
            cache.flusher.make_room(urgent=True)
            if not memory and self.native.dirty_room(length):
                return
            why = _hopeless(self, memory)
            if inside and not why:
                why = "this write comes from inside a backend call, which what fills it may wait for"
            hopeless = hopeless + 1 if why else 0
            if why and hopeless >= PATIENCE:
                raise PageCacheError(f"the cache is full: {why}", self.key, errno=errno.ENOBUFS)
            if memory and volume.clock.now() - began > MIRROR_GRACE:
                for other in cache.engine_volumes():
                    if other.mirror is not None:
                        other.mirror.make_room()
            if deadline.passed():
                raise BlockingIOError(
                    errno.EAGAIN, "throttled: no room for dirty data within throttle_timeout", self.key
                )
            volume.park.wait("cache", cache.native.address, seq, min(deadline.left(), SLICE if not why else 0.01))
            if memory and not why:
                return
    finally:
        self.native.count_throttled(volume.clock.now() - began)
        _check_failed(self)
