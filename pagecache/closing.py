"""The end of a cache: closed, dropped without being closed, or met by the end of the interpreter.

What is dirty is written back each time. A cache that is dropped without `close` lives on in `_dropped` until it has
saved what it has; then its threads end. At interpreter exit saving takes at most `exit_timeout`, and the rest is listed
on stderr. A forked child does nothing of this: it has neither the threads nor the right (contract 2.22).
"""

from __future__ import annotations

import atexit
import logging
import sys
import warnings
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from .engine.park import Deadline
from .engine.report.notices import spans
from .errors import FailedRange, LostRange, UnsavedDataError, WritebackError
from .volume import lifetimes
from .volume.inode import Inode

if TYPE_CHECKING:
    from .cache import PageCache
    from .volume.volume import Volume

__all__ = ["all_unwritten", "close", "drop", "end", "opened", "withhold"]

log = logging.getLogger("pagecache.volume")

LISTED = 20
"""Ranges that the log names one by one."""
EVENT_PATIENCE = 1.0
"""Seconds that subscribers have for the last events of a cache."""
LOOP_PATIENCE = 1.0
"""Seconds that calls of an asynchronous backend have to end when the cache does."""

_open: weakref.WeakSet[PageCache] = weakref.WeakSet()
_dropped: set[PageCache] = set()


def opened(cache: PageCache) -> None:
    """From here on its data is saved whatever becomes of it."""
    _open.add(cache)


def give_up(cache: PageCache) -> None:
    """Nobody can end it, as its threads will never go on: it is not waited for at exit."""
    _open.discard(cache)


@atexit.register
def _at_exit() -> None:
    for cache in {*_open, *_dropped}:
        cache._at_exit()


def close(cache: PageCache, timeout: float | None, on_failed: Literal["raise", "discard"]) -> list[LostRange]:
    """`PageCache.close`, whoever else closes it."""
    for engine in cache._engine_volumes():
        engine.check_wait("close")
    deadline = Deadline(cache.clock, timeout)
    lost: list[LostRange] = []
    while not cache.closed:
        lost += _detach_all(cache, deadline, on_failed)
        cache._retire()
    with cache.ending:
        _finish(cache, deadline)
    return lost


def _detach_all(cache: PageCache, deadline: Deadline, on_failed: Literal["raise", "discard"]) -> list[LostRange]:
    lost: list[LostRange] = []
    unsaved: list[UnsavedDataError] = []
    cache._begin_syncs([])  # side by side: a dead backend delays nobody else's data
    # What was attached later may store into what was attached before.
    for volume in reversed(cache.volumes()):
        try:
            lost += volume.detach(timeout=None if deadline.at is None else deadline.left(), on_failed=on_failed)
        except UnsavedDataError as error:
            unsaved.append(error)
    if unsaved:
        raise unsaved[0] if len(unsaved) == 1 else _all_unsaved(unsaved)
    return lost


def _finish(cache: PageCache, deadline: Deadline) -> None:
    """Threads end, memory goes. Once; where an interrupt struck, again."""
    if cache.ended:
        return
    if cache.live is not None:
        cache.live.stop()
    cache.flusher.stop()
    if cache.loop is not None:
        cache.loop.stop(LOOP_PATIENCE if deadline.at is None else min(LOOP_PATIENCE, deadline.left()))
    cache.feed.stop(EVENT_PATIENCE)
    cache.native.close()
    _open.discard(cache)
    _dropped.discard(cache)
    cache.ended = True


def withhold(cache: PageCache) -> list[tuple[Volume, Inode]]:
    """What only its writer may publish, and he has not; nobody else does from here on."""
    return [(volume, inode) for volume in cache.volumes() for inode in lifetimes.withhold(volume)]


def drop(cache: PageCache) -> None:
    """Dropped without close: only queue; this may run in any thread at any point, also inside our own calls."""
    flusher = cache.flusher
    _dropped.add(cache)
    name = repr(cache)
    unsaved = any(volume.engine.native.dirty_inodes(1) for volume in cache.volumes())
    flusher.adopt(cache)  # from here on it may be closed at any moment
    if unsaved:
        warnings.warn(f"unclosed {name} with unsaved data", ResourceWarning, stacklevel=3, source=cache)


def end(cache: PageCache) -> None:
    """Close a cache that was dropped, on a thread of its own. What cannot be saved stays, and is tried again; what
    only its writer could publish is listed and given up, because he is gone.
    """
    name = repr(cache)  # a log record that held more would keep the cache
    try:
        for volume, inode in withhold(cache):
            lost = [(entry.offset, entry.length) for entry in lifetimes.forsake(volume, inode)]
            what = f"{name} was dropped unclosed; {spans(lost)} was never published"
            volume.engine.say(logging.ERROR, "data that was given up", what, "it is gone", inode.key)
        cache.close()
    except OSError as error:
        ranges: list[FailedRange] = getattr(error, "ranges", [])
        pause = cache.config.retry.failed_retry
        then = "at exit" if pause is None else f"in {pause:g} s, and at exit"
        log.error("%s was dropped unclosed; not saved yet: %s; tried again %s", name, str(error), then)
        for entry in ranges[:LISTED]:
            log.error("not saved yet: %s", entry)
        if len(ranges) > LISTED:
            log.error("not saved yet: %d more ranges", len(ranges) - LISTED)


def at_exit(cache: PageCache) -> None:
    """Interpreter exit: write back for at most exit_timeout, list what was not saved, never hang."""
    withhold(cache)
    try:
        cache.close(timeout=cache.config.exit_timeout)
    except OSError as error:
        print(f"pagecache: at exit: {error}", file=sys.stderr)
        for entry in getattr(error, "ranges", []):
            where = f"[{entry.offset}, {entry.offset + entry.length})"
            print(f"pagecache: not saved: {entry.volume}: {entry.key!r} {where}", file=sys.stderr)
    finally:
        if cache.live is not None:
            cache.live.stop()


def all_unwritten(errors: list[OSError]) -> OSError:
    """What several volumes have failed with, as one error."""
    if len(errors) == 1:
        return errors[0]
    return WritebackError(
        f"{len(errors)} volumes could not be saved; the first: {errors[0]}",
        errno=errors[0].errno,
        ranges=_ranges_of(errors),
        exceptions=errors,
    )


def _ranges_of(errors: Iterable[OSError]) -> list[FailedRange]:
    return [r for error in errors for r in getattr(error, "ranges", []) if isinstance(r, FailedRange)]


def _all_unsaved(errors: list[UnsavedDataError]) -> UnsavedDataError:
    return UnsavedDataError(
        f"{len(errors)} volumes are not saved; the first: {errors[0]}",
        errors[0].filename,
        errno=errors[0].errno,
        ranges=_ranges_of(errors),
        exceptions=errors,
    )
