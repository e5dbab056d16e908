"""Find a thread that sleeps past the time at which work of its is due.

The scheduler asks when no simulated thread can run, before virtual time moves on: then each thread has decided how long
it sleeps. The engine sleeps in slices, so the timer of a thread proves little: the flusher reports when its next turn
begins, a sync when it commits again.

    failed bytes of a file    the flusher, at the time of the retry
    dirty bytes of a file     the flusher, at `dirty_expire`
    a ticket                  the flusher, every `BUSY` seconds
    a commit of a sync        the thread that waits for the sync
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pagecache.engine.flusher import BUSY
from pagecache.engine.io.barrier import FileSync
from pagecache.native import waits

if TYPE_CHECKING:
    from pagecache.cache import PageCache
    from pagecache.engine.volume import EngineVolume

__all__ = ["oversleeping"]

LATE = 0.005
"""Tolerance in seconds: the flusher waits a millisecond at least, and reads the clock more than once a turn."""


def oversleeping(cache: PageCache, now: float, wakes: Callable[[int], float | None]) -> str | None:
    """Return a sentence about a thread that sleeps too long, or None.

    Args:
        cache: the owner of the threads.
        now: the virtual clock, in seconds.
        wakes: returns when the sleep of a thread ends by timeout; None: it sleeps without timeout, or is awake.
    """
    flusher = cache.flusher
    turn = flusher.next_turn()
    for volume in cache._engine_volumes():
        for what, due in _due(volume, now) if flusher.alive() and not volume.aborted else ():
            if due + LATE < turn != float("inf"):  # infinite: in the middle of a turn
                return f"{what} is due at {due:.3f} s, and the flusher sleeps until {turn:.3f} s (now is {now:.3f} s)"
    for record in waits(cache.native.core):
        sync: Any = getattr(getattr(record.reason, "owner", None), "__self__", None)
        until = wakes(record.thread) if isinstance(sync, FileSync) and sync.not_before > now else None
        if until is not None and sync.not_before + LATE < until:
            what = f"the next commit of {sync.file.key!r} is due at {sync.not_before:.3f} s"
            return f"{what}, and the thread that waits for it sleeps until {until:.3f} s (now is {now:.3f} s)"
    return None


def _due(volume: EngineVolume, now: float) -> Iterator[tuple[str, float]]:
    """Yield the flusher's due work and its times."""
    for file in volume.files():
        due = file.failures.next_retry()
        if due is not None:
            yield f"a retry of {file.key!r}", due
    if volume.has_tickets():
        yield "the next look at a ticket", now + BUSY
    if not volume.backend.limits.commit_on_close:
        expire = max(BUSY, volume.cache.config.dirty_expire)
        for file in volume.dirty_files():
            dirtied = file.native.dirtied()
            if dirtied and not (file.abandoned or file.withheld):
                yield f"the write-back of old bytes of {file.key!r}", dirtied + expire
