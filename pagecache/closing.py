"""The end of a cache: by close, by dropping it without a close, or by the end of the interpreter.

Dirty data is written back in each case. A cache that is dropped without `close` lives on in `_dropped` until its data
is saved; then its threads end. When its finaliser runs, the collector may already have run those of all other objects
that it found with the cache; so objects of backends are not among them while anything is unsaved (engine/held.py). At
interpreter exit saving takes at most `exit_timeout`, and unsaved ranges are listed on stderr. A forked child does none
of this for its parent's caches: it has neither the threads nor the right (contract 2.22).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from . import loglines
from .engine.park import Deadline, start_thread
from .engine.report.notices import spans
from .errors import FailedRange, Key, LostRange, UnsavedDataError, WritebackError
from .volume import lifetimes
from .volume.inode import Inode

if TYPE_CHECKING:
    from .cache import PageCache
    from .volume.volume import Volume

log = logging.getLogger("pagecache.volume")

LISTED = 20
"""Maximum ranges in the log."""
EVENTS_TIMEOUT_S = 1.0
"""Seconds for the delivery of a cache's last events."""
LINES_TIMEOUT_S = 1.0
"""Seconds for the log handlers of the program to take the last lines."""
LOOP_TIMEOUT_S = 1.0
"""Seconds for calls of an asynchronous backend to end with the cache."""

_open: weakref.WeakSet[PageCache] = weakref.WeakSet()
_dropped: set[PageCache] = set()
_registry = threading.RLock()
_asked = False  # for a call at the begin of a worker process of multiprocessing
_finalizer: Any = None  # of this process, which is a worker


def _forked() -> None:
    global _registry, _finalizer
    _registry, _finalizer = threading.RLock(), None


os.register_at_fork(after_in_child=_forked)


def registry() -> threading.RLock:
    """Return the lock of the open caches of the process; no other cache attaches a backend while it is held. It is
    taken before the lock of a cache.
    """
    return _registry


def opened(cache: PageCache) -> None:
    """Register a cache, whose data is saved from now on, even if it is dropped."""
    with _registry:
        _open.add(cache)
        util = sys.modules.get("multiprocessing.util")
        if hasattr(util, "Finalize"):  # another thread may be importing it
            _watch_worker(util)


def _watch_worker(util: Any) -> None:
    """Have the end of a worker process of multiprocessing run the exit hook: it may be `os._exit`, without atexit. One
    that was spawned ends as a program does.
    """
    global _asked, _finalizer
    if sys.modules["multiprocessing.process"].parent_process() is None:
        if not _asked:  # the child of a fork server imports its program before it is a worker
            _asked = True
            util.register_after_fork(util, _watch_worker)
    elif _finalizer is None and not (  # a worker may set another method than that by which it began
        "--multiprocessing-fork" in sys.orig_argv
        and sys.modules["multiprocessing"].get_start_method(allow_none=True) == "spawn"
    ):
        _finalizer = util.Finalize(None, _end_worker, exitpriority=-50)


def _others() -> list[threading.Thread]:
    not_these = {threading.main_thread(), threading.current_thread()}
    return [each for each in threading.enumerate() if not each.daemon and each not in not_these]


def _end_worker() -> None:
    """Run the exit hook. The threads of the program end after this, and may still write: it waits for them."""

    def run() -> None:
        while others := _others():
            with contextlib.suppress(RuntimeError):  # it is being started
                others[0].join()
        _at_exit()

    if not _others() and all(cache.native.forked for cache in caches()):
        loglines.outlast(LINES_TIMEOUT_S)
        return
    try:
        start_thread(threading.Thread(target=run, name="pagecache-exit", daemon=False), "that runs the exit hook")
    except OSError:
        _at_exit()


def give_up(cache: PageCache) -> None:
    """Give up a cache whose threads will never run again: exit does not wait for it."""
    with _registry:
        _open.discard(cache)


def caches() -> list[PageCache]:
    """Return the caches of this process that have not ended."""
    with _registry:
        return [*{*_open, *_dropped}]


def is_ending(cache: PageCache) -> bool:
    """Return whether a cache was dropped, and its end is to begin or runs. If that is refused, it goes on."""
    return cache in _dropped and cache.flusher.is_ending()


@atexit.register
def _at_exit() -> None:
    failed: list[BaseException] = []
    for cache in [each for each in caches() if not each._exited]:  # a worker process may have run this
        try:
            cache._at_exit()
        except BaseException as error:  # Ctrl-C: the other caches have their turn
            failed.append(error)
    loglines.outlast(LINES_TIMEOUT_S)
    if failed:
        raise failed[0]


def close(cache: PageCache, timeout: float | None, on_failed: Literal["raise", "discard"]) -> list[LostRange]:
    """Close the cache, see `PageCache.close`; other threads may do so at the same time."""
    for engine in cache._engine_volumes():
        engine.check_wait("close")
    deadline = Deadline(cache.clock, timeout)
    lost: list[LostRange] = []
    try:
        while not cache.closed:
            _detach_all(cache, deadline, on_failed, lost)
            cache._retire()
        with cache.ending:
            _finish(cache, deadline)
        loglines.outlast(LINES_TIMEOUT_S)
    except BaseException:
        cache.given_up += lost
        raise
    before, cache.given_up = cache.given_up, []
    return before + lost


def _detach_all(
    cache: PageCache, deadline: Deadline, on_failed: Literal["raise", "discard"], lost: list[LostRange]
) -> None:
    failed: list[OSError] = []
    cache._begin_syncs([], ending=True)  # concurrently: a dead backend does not delay the data of others
    # A volume may store into volumes that were attached earlier.
    for volume in reversed(cache.volumes()):
        try:
            lost.extend(volume.detach(timeout=deadline.timeout(), on_failed=on_failed))
        except OSError as error:  # the other volumes have their turn
            failed.append(error)
    if failed:
        raise together(UnsavedDataError, failed, "are not saved", failed[0].filename)


def _finish(cache: PageCache, deadline: Deadline) -> None:
    """End threads, free memory. Once; repeated after an interrupt."""
    if cache.ended:
        return
    if cache.live is not None:
        cache.live.stop()
    cache.flusher.stop()
    if cache.loop is not None:
        cache.loop.stop(LOOP_TIMEOUT_S if deadline.at is None else min(LOOP_TIMEOUT_S, deadline.left()))
    cache.feed.stop(EVENTS_TIMEOUT_S)
    cache.native.close()
    if cache.tier is not None:
        cache.tier.close(cache.tier_use)
    give_up(cache)
    _dropped.discard(cache)
    cache.ended = True


def withhold(cache: PageCache) -> list[tuple[Volume, Inode]]:
    """Withhold objects that only their writers may publish, and have not; no other call publishes them from now on.
    Until `end_withholding` each end of a volume looks for such objects again, at last under its seal.
    """
    if cache.spared is None:
        cache.spared = set()
    return [(volume, inode) for volume in cache.volumes() for inode in lifetimes.withhold(volume)]


def end_withholding(cache: PageCache) -> None:
    """Let later syncs and closes publish what was withheld: they do it on purpose."""
    if cache._exited:
        return  # the exit hook withholds them, too
    withheld, cache.spared = cache.spared, None
    for inode in list(withheld or ()):
        inode.set_aside(withheld=False)


def drop(cache: PageCache) -> None:
    """Queue the end of a cache that was dropped without close: this may run in any thread at any point, even inside the
    cache's own code.
    """
    flusher = cache.flusher
    _dropped.add(cache)
    name = repr(cache)
    unsaved = any(volume.engine.native.dirty_inodes(1) for volume in cache.volumes())
    flusher.adopt(cache)  # from now on it may be closed at any moment
    if unsaved:
        warnings.warn(f"unclosed {name} with unsaved data", ResourceWarning, stacklevel=3, source=cache)


def end(cache: PageCache) -> None:
    """Close a dropped cache, on a separate thread. Unsaved data stays, and saving is repeated; withheld objects, whose
    writers are gone, are listed and dropped, but for what the journal has of them.
    """
    name = repr(cache)  # a log record with the object itself would keep the cache alive
    try:
        withheld = withhold(cache)
        cache._begin_syncs([], ending=True)  # a rollback that hangs keeps no other object from being saved
        forsaken: list[tuple[Volume, Inode]] = []
        failed: list[OSError] = []
        for volume, inode in withheld:
            then = "the next attach finds what fsync has put on disk" if inode.journaled.is_live() else "it is gone"
            try:
                lifetimes.forsake(volume, inode, partial(_report_forsaken, name, then, inode))
                forsaken.append((volume, inode))
            except OSError as error:
                failed.append(error)
        for volume, inode in forsaken:  # all are listed by now: one may hang
            lifetimes.roll_back(volume, inode)
        if failed:
            raise failed[0]
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


def _report_forsaken(name: str, then: str, inode: Inode, lost: list[LostRange]) -> None:
    what = f"{name} was dropped unclosed; {spans([(entry.offset, entry.length) for entry in lost])} was never published"
    inode.volume.say(logging.ERROR, "data that was given up", what, then, inode.key)


def at_exit(cache: PageCache) -> None:
    """Write back at interpreter exit, for at most exit_timeout, and list unsaved ranges; never hang."""
    try:
        withhold(cache)
        _close_and_list(cache, cache.config.exit_timeout)
    except BaseException:
        _close_and_list(cache, 0.0)
        raise
    finally:
        if cache.live is not None:
            cache.live.stop()


def _close_and_list(cache: PageCache, timeout: float | None) -> None:
    try:
        cache.close(timeout=timeout)
    except OSError as error:
        print(f"pagecache: at exit: {error}", file=sys.stderr)
        for entry in getattr(error, "ranges", []):
            where = f"[{entry.offset}, {entry.offset + entry.length})"
            print(f"pagecache: not saved: {entry.volume}: {entry.key!r} {where}", file=sys.stderr)


def together(
    kind: type[WritebackError | UnsavedDataError], errors: Sequence[OSError], what: str, key: Key | None = None
) -> OSError:
    """Return the failures of several volumes as one error."""
    if len(errors) == 1:
        return errors[0]
    return kind(
        f"{len(errors)} volumes {what}; the first: {errors[0]}",
        key,
        errno=errors[0].errno,
        ranges=[r for error in errors for r in getattr(error, "ranges", []) if isinstance(r, FailedRange)],
        exceptions=errors,
    )
