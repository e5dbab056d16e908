"""PageCache: one memory budget shared by any number of volumes.

The cache owns CORE's memory, the flusher, and the hooks of the process: at interpreter exit what is dirty is written
back for at most `exit_timeout` and the rest is listed on stderr; in a forked child every call raises ForkedError and
touches nothing (contract 2.22). A cache that is dropped without `close` lives on in `_dropped` until it has saved what
it has; then its threads end.
"""

from __future__ import annotations

import atexit
import dataclasses
import errno
import itertools
import logging
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

from . import lifetimes
from .backends.protocol import AsyncBackend, Backend, BackendLimits
from .backends.url import as_backend, check_mirror
from .config import CacheConfig, Size, VolumeOptions, with_overrides
from .engine import throttle
from .engine.flusher import Flusher
from .engine.loop import CacheLoop, blocking
from .engine.park import Clock, Deadline, Park
from .engine.volume import EngineVolume
from .errors import (
    ConflictError,
    DeadlockError,
    FailedRange,
    ForkedError,
    LostRange,
    PageCacheError,
    ShutdownError,
    UnsavedDataError,
    WritebackError,
)
from .inode import Inode
from .native import NativeCache, is_debug
from .stats import CacheStats, Event
from .ticket import SyncTicket
from .volume import Volume

__all__ = ["PageCache"]

log = logging.getLogger("pagecache")

RESIZE_ROUNDS = 50
LOOP_PATIENCE = 1.0
"""Seconds that calls of an asynchronous backend have to end when the cache does."""
SEPARATE = {"capacity", "used", "throttled_seconds", "details"}
COUNTERS = [field.name for field in dataclasses.fields(CacheStats) if field.name not in SEPARATE]

_open: weakref.WeakSet[PageCache] = weakref.WeakSet()
_dropped: set[PageCache] = set()
_numbers = itertools.count(1)


def _error(kind: str, engine: Any, message: str) -> BaseException:
    """The exceptions that C entries raise."""
    key = getattr(engine, "key", None)
    match kind:
        case "shutdown":
            reason = engine.volume.abort_reason if engine is not None else None
            return ShutdownError(f"{message}{f': {reason}' if reason else ''}", key)
        case "replaced":
            return ConflictError(message, key, base=None if engine is None else engine.version)
        case "deadlock":
            return DeadlockError(message, key)
        case "forked":
            return ForkedError(message, key)
        case "timeout":
            return TimeoutError(message)
        case "pins":
            return OSError(errno.ENOMEM, message, key)
        case "fault":
            return OSError(errno.EFAULT, message, key)
        case "too large":
            return OSError(errno.EFBIG, message, key)
    return PageCacheError(f"{kind}: {message}", key)


@atexit.register
def _at_exit() -> None:
    for cache in {*_open, *_dropped}:
        cache.at_exit()


class PageCache:
    """One memory budget shared by any number of volumes. A context manager: leaving it is `close()`.

    Args:
        capacity: bytes of memory for cached data; at least 16 pages.
        config: limits, intervals and policies; `overrides` are single fields of it.

    Raises:
        ValueError, TypeError: an option out of range or unknown; names value, rule or the nearest name.

    >>> with PageCache("1MiB", dirty_limit="256KiB") as cache:
    ...     cache.capacity
    1048576
    """

    capacity: int
    config: CacheConfig

    def __init__(self, capacity: Size = "256MiB", *, config: CacheConfig | None = None, **overrides: Any) -> None:
        if config is not None and not isinstance(config, CacheConfig):
            raise TypeError(f"config must be a CacheConfig, not {type(config).__name__}")
        self.config = with_overrides(config or CacheConfig(), overrides)
        self.limits = self.config.resolve(capacity)
        self.capacity = self.limits.capacity
        self.native = NativeCache(self.limits, _error)
        self.native.configure(self.limits, self.config.poison)
        self.closed = False
        self._exited = False
        self._lock = threading.RLock()
        self._volumes: list[Volume] = []
        self._retired: dict[str, int] = {}
        self._subscribers: list[Callable[[Event], None]] = []
        self._names = itertools.count(1)
        self._number = next(_numbers)
        self.clock, self.park = Clock(), Park()
        self.flusher = Flusher(self, self.native, self.clock, self.park)
        self.flusher.start()
        self._loop: CacheLoop | None = None
        _open.add(self)

    def __repr__(self) -> str:
        return f"<{'closed ' if self.closed else ''}pagecache.PageCache of {self.capacity} bytes>"

    # -- for the other modules

    def check_forked(self) -> None:
        if self.native.forked:
            raise ForkedError("the cache was created before fork() and is used in the child")

    def check_open(self) -> None:
        self.check_forked()
        if self.closed:
            raise ShutdownError("the cache is closed")

    def engine_volumes(self) -> list[EngineVolume]:
        with self._lock:
            return [volume.engine for volume in self._volumes]

    def event_loop(self) -> CacheLoop:
        """The cache's own event loop, for asynchronous backends; started when the first one comes."""
        with self._lock:
            if self._loop is None:
                self._loop = CacheLoop(str(self._number), self.park)
            return self._loop

    def divide_limit(self) -> None:
        """Each volume's share of the dirty limit; called again whenever that or the volumes change."""
        throttle.divide(self.engine_volumes(), self.limits.dirty_limit)

    def emit(self, event: Event) -> None:
        """Events go out from the flusher's thread, so that no callback runs inside a call."""
        if self._subscribers:
            self.flusher.defer(lambda: self._deliver(event))
            self.flusher.wake()

    def _deliver(self, event: Event) -> None:
        for callback in list(self._subscribers):
            try:
                callback(event)
            except Exception:
                log.exception("a subscriber raised")

    def forget(self, volume: Volume) -> None:
        usage = volume.engine.native.usage()
        with self._lock:
            for name, value in usage.items():
                self._retired[name] = self._retired.get(name, 0) + value
            if volume in self._volumes:
                self._volumes.remove(volume)
        self.divide_limit()

    def counters(self, usage: Mapping[str, int]) -> dict[str, Any]:
        """The fields of CacheStats from CORE's numbers."""
        memory = self.native.usage()
        fields: dict[str, Any] = {name: usage.get(name, 0) for name in COUNTERS}
        fields["throttled_seconds"] = usage.get("throttled_ns", 0) / 1e9
        fields["capacity"] = self.capacity
        fields["used"] = usage.get("cached", memory["used"])
        fields["details"] = {
            **{k: v for k, v in memory.items() if k not in fields},
            **{k: v for k, v in usage.items() if k not in fields},
        }
        return fields

    # -- volumes

    def attach(
        self,
        backend: Backend | AsyncBackend | str,
        *,
        name: str | None = None,
        options: VolumeOptions | None = None,
        backend_options: Mapping[str, Any] | None = None,
        mirror: Backend | AsyncBackend | str | None = None,
        **overrides: Any,
    ) -> Volume:
        """See a backend through the cache.

        Args:
            backend: an object, or a URL: `memory:`, `dir:PATH`, or a scheme registered under `pagecache.backends`.
            name: for messages and statistics; unique in the cache.
            options: how it is seen.
            backend_options: go to the constructor behind a URL.
            mirror: a best-effort second copy of everything that is written back; an object or a URL. Nobody waits for
                it, and its failures are not the volume's: a copy that cannot follow is removed there, and starts
                anew when the file is created or truncated to nothing.
            **overrides: single fields of the options.

        Raises:
            ValueError: URL, option, or a capacity that is too small for the backend's write unit.
        """
        self.check_open()
        if backend_options is not None and not isinstance(backend, str):
            raise TypeError("backend_options go with a URL; this backend is already made")
        resolved = as_backend(backend, "backend", dict(backend_options or {}))
        second = None if mirror is None else as_backend(mirror, "mirror", {})
        self._check_limits(resolved)
        if second is not None:
            self._check_limits(second)
            check_mirror(resolved, second)
        if options is not None and not isinstance(options, VolumeOptions):
            raise TypeError(f"options must be VolumeOptions, not {type(options).__name__}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        chosen = with_overrides(options or VolumeOptions(), overrides)
        with self._lock:
            self.check_open()
            taken = {volume.name for volume in self._volumes}
            label = name if name is not None else f"{type(resolved).__name__}-{next(self._names)}"
            if label in taken:
                raise ValueError(f"name: {label!r} is the name of another volume of this cache")
            second = None if second is None else blocking(second, self.event_loop)
            volume = Volume(self, blocking(resolved, self.event_loop), label, chosen, second)
            self._volumes.append(volume)
        self.divide_limit()
        return volume

    def _check_limits(self, backend: Backend) -> None:
        if not isinstance(backend.limits, BackendLimits):
            raise TypeError(f"limits: {backend.limits!r} is not a BackendLimits")
        unit = int(backend.limits.write_unit)
        if self.capacity < 8 * unit:
            raise ValueError(f"capacity: {self.capacity} is less than 8 write units of {unit} bytes of the backend")

    def volumes(self) -> tuple[Volume, ...]:
        """Those attached, in the order of attaching."""
        self.check_forked()
        with self._lock:
            return tuple(self._volumes)

    # -- limits

    def configure(self, **changes: Any) -> None:
        """Change limits, intervals and policies of a running cache; `page_size` and `max_folio` are fixed."""
        self.check_open()
        for fixed in ("page_size", "max_folio"):
            if fixed in changes:
                raise ValueError(f"{fixed}: {changes[fixed]!r} cannot be changed while the cache lives")
        with self._lock:
            config = with_overrides(self.config, changes)
            limits = config.resolve(self.capacity)
            self.config, self.limits = config, limits
            self.native.configure(limits, config.poison)
        self.divide_limit()
        self.flusher.wake()

    def resize(self, capacity: Size, *, timeout: float | None = None) -> None:
        """Grow, or give memory back to the system at once. Shrinking below what is local writes back and commits first.

        Raises:
            BlockingIOError: pinned or uncommitted data does not fit. TimeoutError: the deadline passed.
        """
        self.check_open()
        limits = self.config.resolve(capacity)
        deadline = Deadline(self.clock, timeout)
        # The new dirty limits first: who writes on meanwhile is slowed to what will fit.
        self.native.configure(limits, self.config.poison)
        try:
            self._resize(limits.capacity, deadline)
        except BaseException:
            self.native.configure(self.limits, self.config.poison)
            raise
        with self._lock:
            self.limits, self.capacity = limits, limits.capacity
        self.divide_limit()

    def _resize(self, capacity: int, deadline: Deadline) -> None:
        for attempt in range(RESIZE_ROUNDS):
            result = self.native.resize(capacity)
            if result == 0:
                return
            if result != -errno.EBUSY:
                what = "cannot be had (reserved for growth: 4 times the first capacity, at least 64 GiB)"
                raise OSError(-result, f"capacity: {capacity} {what}")
            if attempt > 2 and self.stats().pinned > capacity:
                break
            self._save_for_resize(deadline)
        raise BlockingIOError(errno.EAGAIN, f"capacity: {capacity} is less than what is pinned or cannot be saved")

    def _save_for_resize(self, deadline: Deadline) -> None:
        for volume in self.volumes():
            if not volume.engine.backend.limits.commit_on_close:
                volume.sync(None if deadline.at is None else deadline.left())

    # -- the whole

    def sync(self, timeout: float | None = None) -> None:
        """`Volume.sync` on every volume side by side; a dead backend delays nobody else.

        Raises:
            WritebackError: with the ranges of all volumes. TimeoutError: I/O goes on.
        """
        self.check_open()
        deadline = Deadline(self.clock, timeout)
        errors: list[OSError] = []
        tickets = self._begin_syncs(errors)
        waits = [(ticket, ticket.deadline(None if deadline.at is None else deadline.left())) for ticket in tickets]
        for ticket, until in waits:
            try:
                ticket.wait_until(until)
            except OSError as error:
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise WritebackError(
                f"{len(errors)} volumes could not be saved; the first: {errors[0]}",
                errno=errors[0].errno,
                ranges=_ranges_of(errors),
                exceptions=errors,
            )

    def _begin_syncs(self, errors: list[OSError]) -> list[SyncTicket]:
        """One ticket a volume, all under way at once; those that are gone go to `errors`."""
        tickets = []
        for volume in self.volumes():
            try:
                tickets.append(volume.begin_sync())
            except ShutdownError as error:
                errors.append(error)
        return tickets

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Events from one thread; returns the function that unsubscribes. Exceptions of the callback are logged."""
        self.check_open()
        if not callable(callback):
            raise TypeError(f"callback {callback!r} is not callable")
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    def stats(self) -> CacheStats:
        """Counters and memory of the whole cache."""
        self.check_forked()
        total: dict[str, int] = dict(self._retired)
        for engine in self.engine_volumes():
            for name, value in engine.native.usage().items():
                total[name] = total.get(name, 0) + value
        total.pop("cached", None)
        return CacheStats(**self.counters(total))

    def check(self) -> None:
        """Verify every internal invariant; AssertionError names the first one broken. For tests; stops the world."""
        self.check_forked()
        with self._lock:
            broken = self.native.check()
        if broken is not None:
            invariant, what = broken
            raise AssertionError(f"{invariant}: {what}\n{self.native.trace()}")

    @staticmethod
    def unchecked() -> tuple[str, ...]:
        """Invariants of the contract that `check` cannot verify in this build, because what they speak of is not
        there.
        """
        return () if is_debug() else ("I-15",)

    # -- the end

    def close(
        self, *, timeout: float | None = None, on_failed: Literal["raise", "discard"] = "raise"
    ) -> list[LostRange]:
        """Write back, commit and detach everything. Idempotent.

        Args:
            timeout: seconds for all of it; None: as long as it takes.
            on_failed: "raise": UnsavedDataError lists what could not be saved, the cache stays open, nothing is lost;
                "discard": returns what was given up.
        """
        self.check_forked()
        if on_failed not in ("raise", "discard"):
            raise ValueError(f"on_failed {on_failed!r} is not one of 'raise', 'discard'")
        if self.closed:
            return []
        for engine in self.engine_volumes():
            engine.check_wait("close")
        deadline = Deadline(self.clock, timeout)
        lost: list[LostRange] = []
        unsaved: list[UnsavedDataError] = []
        self._begin_syncs([])  # side by side: a dead backend delays nobody else's data
        # What was attached later may store into what was attached before.
        for volume in reversed(self.volumes()):
            try:
                lost += volume.detach(timeout=None if deadline.at is None else deadline.left(), on_failed=on_failed)
            except UnsavedDataError as error:
                unsaved.append(error)
        if unsaved:
            raise unsaved[0] if len(unsaved) == 1 else _all_unsaved(unsaved)
        self.closed = True
        self.flusher.stop()
        if self._loop is not None:
            self._loop.stop(LOOP_PATIENCE if deadline.at is None else min(LOOP_PATIENCE, deadline.left()))
        self.native.close()
        _open.discard(self)
        _dropped.discard(self)
        return lost

    def __enter__(self) -> Self:
        self.check_open()
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        withheld = self._withhold() if e is not None else []
        try:
            self.close()
        except OSError as error:
            if e is None:
                raise
            log.error("%s", error)
        finally:
            for _, inode in withheld:
                inode.engine.withheld = False  # who syncs or closes after this does it on purpose

    def _withhold(self) -> list[tuple[Volume, Inode]]:
        return [(volume, inode) for volume in self.volumes() for inode in lifetimes.withhold(volume)]

    def __del__(self) -> None:
        """Dropped without close: only queue; this may run in any thread at any point, also inside our own calls."""
        try:
            flusher = self.flusher
            if self.closed or self._exited or self.native.forked:
                return
        except AttributeError:
            return  # never made
        _dropped.add(self)
        name = repr(self)
        unsaved = any(volume.engine.native.dirty_inodes() for volume in self.volumes())
        flusher.adopt(self)  # from here on it may be closed at any moment
        if unsaved:
            warnings.warn(f"unclosed {name} with unsaved data", ResourceWarning, stacklevel=2, source=self)

    def end(self) -> None:
        """Close a cache that was dropped, on a thread of its own. What cannot be saved stays, and is tried again; what
        only its writer could publish is listed and given up, because he is gone.
        """
        name = repr(self)  # a log record that held more would keep the cache
        try:
            for volume, inode in self._withhold():
                for lost in lifetimes.forsake(volume, inode):
                    log.error("%s was dropped unclosed; not published, and gone: %s", name, lost)
            self.close()
        except OSError as error:
            log.error("%s was dropped unclosed; not saved yet: %s", name, str(error))
            for entry in getattr(error, "ranges", []):
                log.error("not saved yet: %s", entry)

    def at_exit(self) -> None:
        """Interpreter exit: write back for at most exit_timeout, list what was not saved, never hang."""
        self._exited = True
        if self.closed or self.native.forked:
            return
        self._withhold()
        try:
            self.close(timeout=self.config.exit_timeout)
        except OSError as error:
            print(f"pagecache: at exit: {error}", file=sys.stderr)
            for entry in getattr(error, "ranges", []):
                where = f"[{entry.offset}, {entry.offset + entry.length})"
                print(f"pagecache: not saved: {entry.volume}: {entry.key!r} {where}", file=sys.stderr)


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
