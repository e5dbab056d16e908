"""PageCache: one memory budget shared by any number of volumes.

The cache owns CORE's memory, the flusher, the loop of asynchronous backends and the server of its state; `closing` has
its end. In a forked child every call raises ForkedError and changes nothing (contract 2.22).
"""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from . import closing
from .backends.plain import PlainBackend
from .backends.protocol import AsyncBackend, Backend
from .backends.url import as_backend, check_mirror, store_of
from .config import CacheConfig, Durability, RetryPolicy, Size, VolumeOptions, check_retry, with_overrides
from .disk.backend import TieredBackend
from .engine import failures, throttle
from .engine.blocking import blocking, is_async, original
from .engine.flusher import Flusher
from .engine.mirror import MirrorLogs
from .engine.park import SLICE, Clock, Deadline, Park, Signal
from .engine.report import waits
from .engine.report.events import Feed
from .engine.report.reason import Reason, during
from .engine.volume import EngineVolume
from .errors import ConflictError, DeadlockError, ForkedError, LostRange, PageCacheError, ShutdownError, WritebackError
from .native import NativeCache, NativeVolume, TooManyViews
from .objects import Event
from .volume import detach, lifetimes
from .volume.ticket import SyncTicket
from .volume.volume import Volume, options_for

if TYPE_CHECKING:
    from .disk.tier import DiskTier, Tier
    from .engine.loop import CacheLoop
    from .observe.server import Server
    from .observe.trace import Trace
    from .options import CacheChanges, CacheOverrides, VolumeOverrides
    from .stats import CacheStats, Wait
    from .volume.inode import Inode
    from .volume.recovered import Found, Known

log = logging.getLogger("pagecache.volume")

RESIZE_ROUNDS = 50
ENDING_S = 10.0
"""Most seconds that an attach waits for a volume of the same store to end."""

_numbers = itertools.count(1)


def _open_tier(disk: DiskTier | str | os.PathLike[str], user: object) -> Tier:
    from .disk.tier import Tier, as_tier  # here: most programs have no tier

    return Tier.open(as_tier(disk), user)


def _spool_folder(spool: str | os.PathLike[str] | None) -> str | None:
    """Return the directory of spools; "": that for temporary files, None: there are none.

    Raises:
        ValueError: it is no directory in which files can be made. TypeError: it is no path.
    """
    if spool is None or spool == "":
        return spool
    folder = os.fspath(spool) if isinstance(spool, str | os.PathLike) else None
    if not isinstance(folder, str):
        raise TypeError(f"spool must be a str, an os.PathLike of str, or None, not {type(spool).__name__}")
    if not os.path.isdir(folder):
        raise ValueError(f"spool: {folder!r} is not a directory; name one that exists, or None for no spool")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"spool: no files can be made in {folder!r}; name a writable directory, or None for no spool")
    return os.path.abspath(folder)


def _error(kind: str, engine: Any, message: str) -> BaseException:
    """Return the exception for an error of a C entry."""
    key = getattr(engine, "key", None)
    match kind:
        case "shutdown":
            reason = engine.volume.abort_reason if engine is not None else None
            return ShutdownError(f"{message}{f': {reason}' if reason else ''}", key)
        case "replaced":
            return ConflictError(message, key, base=None if engine is None else engine.versions.base)
        case "deadlock":
            return DeadlockError(message, key)
        case "forked":
            return ForkedError(message, key)
        case "timeout":
            return TimeoutError(errno.ETIMEDOUT, message, key)
        case "pins":
            return TooManyViews(errno.ENOMEM, message, key)
        case "fault":
            return OSError(errno.EFAULT, message, key)
        case "too large":
            return OSError(errno.EFBIG, message, key)
    return PageCacheError(f"{kind}: {message}", key)


class PageCache:
    """One memory budget shared by any number of volumes. A context manager: leaving it is `close()`.

    Args:
        capacity: bytes of memory for cached data; at least 16 pages.
        config: limits, intervals and policies; `overrides` are single fields of it.
        disk: a tier on a local disk that keeps what was read and written, across restarts; a path: with the defaults of
            `DiskTier`.

    Attributes:
        capacity, config: the current values; `resize` and `configure` change them.
        name: name of the cache in the live documents.

    Raises:
        ValueError, TypeError: an option out of range or unknown; names value, rule or the nearest name.
        OSError: the directory of the tier cannot be used; EBUSY: another process has it.

    >>> with PageCache("1MiB", dirty_limit="256KiB") as cache:
    ...     cache.capacity
    1048576
    """

    capacity: int
    config: CacheConfig
    name: str

    def __init__(
        self,
        capacity: Size = "256MiB",
        *,
        config: CacheConfig | None = None,
        disk: DiskTier | str | os.PathLike[str] | None = None,
        **overrides: Unpack[CacheOverrides],
    ) -> None:
        if config is not None and not isinstance(config, CacheConfig):
            raise TypeError(f"config must be a CacheConfig, not {type(config).__name__}")
        self.config = with_overrides(config or CacheConfig(), overrides, PageCache.__init__)
        self.limits = self.config.resolve(capacity)
        self.capacity = self.limits.capacity
        self.config.check_fits(self.capacity)
        self.tier_use = object()
        self.tier = None if disk is None else _open_tier(disk, self.tier_use)
        try:
            self._start()
        except BaseException:
            if self.tier is not None:
                self.tier.close(self.tier_use)
            raise
        closing.opened(self)

    def _start(self) -> None:
        self.native = NativeCache(self.limits, _error)
        self.native.configure(self.limits, self.config.poison)
        self.closed = self.ended = False
        self.given_up: list[LostRange] = []  # by ends that have not returned it
        self.spared: set[Inode] | None = None  # by an end that leaves objects to their writers; None: there is none
        self.ending = threading.RLock()  # held while threads end; a signal handler may close in between
        self._exited = False
        self._lock = threading.RLock()
        self._volumes: list[Volume] = []
        self._retired = NativeVolume.no_usage() | {"disk_hits": 0}
        self._mounted_names: Callable[[], int] = lambda: 0  # nodes of a mount over this cache
        self.feed, self.mirrored = Feed(), MirrorLogs()
        self._names = itertools.count(1)
        self._number = next(_numbers)
        self.name = f"cache-{self._number}"
        self.clock, self.park = Clock(), Park()
        self.began = self.clock.now()
        self.flusher = Flusher(self, self.native, self.clock, self.park)
        try:
            self.flusher.start()
        except BaseException:
            self.closed = self.ended = True
            self.native.close()
            raise
        self.loop: CacheLoop | None = None
        self.live: Server | None = None

    def __repr__(self) -> str:
        return f"<{'closed ' if self.closed else ''}pagecache.PageCache of {self.capacity} bytes>"

    # -- for the other modules

    def _check_forked(self) -> None:
        if self.native.forked:
            raise ForkedError("the cache was created before fork() and is used in the child")

    def _check_open(self) -> None:
        self._check_forked()
        if self.closed:
            raise ShutdownError("the cache is closed")

    def _engine_volumes(self) -> list[EngineVolume]:
        with self._lock:
            return [volume.engine for volume in self._volumes]

    def _event_loop(self) -> CacheLoop:
        """Return the cache's own event loop, for asynchronous backends; started with the first one."""
        with self._lock:
            if self.loop is None:
                from .engine.loop import CacheLoop  # imports asyncio

                self.loop = CacheLoop(str(self._number))
            return self.loop

    def _divide_limit(self) -> None:
        """Set each volume's share of the dirty limit; called again whenever that or the volumes change."""
        throttle.divide(self._engine_volumes(), self.limits.dirty_limit)

    def _forget(self, volume: Volume) -> None:
        counters = volume.engine.native.counters() | {"disk_hits": volume.engine.disk_hits()}
        if self.tier is not None:
            self.tier.detached(volume.engine)
        with self._lock:
            if volume in self._volumes:
                self._volumes.remove(volume)
                for name, value in counters.items():
                    self._retired[name] += value
        self._divide_limit()

    def _counters(self, usage: Mapping[str, int], memory: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Return the fields of CacheStats from CORE's numbers; `memory`: those of the whole cache, if already known."""
        from .stats import COUNTERS

        memory = self.native.usage() if memory is None else memory
        fields: dict[str, Any] = {name: usage.get(name, 0) for name in COUNTERS}
        fields["throttled_seconds"] = usage.get("throttled_ns", 0) / 1e9
        fields["capacity"] = self.capacity
        fields["used"] = usage.get("cached", memory["used"])
        tier = self.tier
        fields["disk_bytes"], fields["disk_errors"] = (0, 0) if tier is None else (tier.size_now(), tier.errors)
        fields["journal_bytes"] = 0 if tier is None else tier.journal_bytes()
        fields["details"] = {
            **{k: v for k, v in memory.items() if k not in fields},
            **{k: v for k, v in usage.items() if k not in fields},
            "mounted_names": self._mounted_names(),
        }
        return fields

    # -- volumes

    def attach(
        self,
        backend: Backend | AsyncBackend | PlainBackend | str,
        *,
        name: str | None = None,
        options: VolumeOptions | None = None,
        backend_options: Mapping[str, Any] | None = None,
        mirror: Backend | AsyncBackend | PlainBackend | str | None = None,
        timeout: float | None = None,
        prompt: bool | None = None,
        retry: RetryPolicy | None = None,
        spool: str | os.PathLike[str] | None = "",
        disk: bool = True,
        durability: Durability = "backend",
        on_recovery: Literal["resume", "hold"] = "resume",
        volume_id: str | None = None,
        **overrides: Unpack[VolumeOverrides],
    ) -> Volume:
        """Attach a backend to the cache.

        Args:
            backend: an object of any class that has `open` and `stat` (`Backend` lists the optional methods), or a URL:
                `memory:`, `dir:PATH`, `s3://BUCKET/PREFIX`, `fsspec:URL`, or a scheme registered under
                `pagecache.backends`.
            name: for messages and statistics; unique in the cache.
            options: of the volume.
            backend_options: go to the constructor behind a URL.
            mirror: a best-effort second copy of everything that is written back; an object or a URL. No call waits for
                it, and its failures do not affect the volume: a copy that cannot follow is removed there, and starts
                anew when the file is created or truncated to nothing.
            timeout: default in seconds for `Volume.open`, `stat`, `exists`, `list`, `remove`, `rename` and `truncate`;
                None: no limit.
            prompt: whether calls return promptly, so that callers make them on their own threads; None: as
                `BackendLimits.prompt` says. False for a directory on a network file system.
            retry: policy after a failed call; None: that of the cache, or where that is the default, the one that
                `BackendLimits.retry` prefers. S3 and the remote file systems of fsspec prefer to retry for 60 seconds.
            spool: directory of the nameless temporary files that keep uncommitted bytes of a `commit_on_close` backend
                when memory is short, at most the size of the changed objects; "": that for temporary files. None: such
                bytes stay in memory, and a write that does not fit below `dirty_limit` is refused (ENOBUFS).
            disk: use the disk tier of the cache, if it has one.
            durability: what fsync, close, sync and detach wait for: "backend": the store; "disk": the disk of the tier.
                Then the store gets the bytes in the background, and a later attach those that a crash or a detach left.
            on_recovery: "resume": save bytes that were found in the tier in the background; "hold": only after
                `Volume.resume`, or an open for writing.
            volume_id: what the tier knows the store by; None: the backend's attribute `name`, which those of pagecache
                have, else the URL with its options, or the class of an object. Two stores with one id are taken for
                one; only versions tell their objects apart.
            **overrides: single fields of the options.

        Raises:
            ValueError: URL, option, no such spool directory, an object that another volume of this process has already,
                `prompt` for an asynchronous backend, or no `volume_id` in a tier for a store that an object was given
                to, such as a client.
            TypeError: no backend; names all missing methods.
            OSError: EBUSY: another volume of the store is ending, and leaves bytes in the tier perhaps.
        """
        self._check_open()
        Deadline(self.clock, timeout)  # raises the error of an invalid timeout
        if backend_options is not None and not isinstance(backend, str):
            raise TypeError("backend_options go with a URL; this backend is already made")
        resolved = as_backend(backend, "backend", dict(backend_options or {}))
        second = None if mirror is None else as_backend(mirror, "mirror", {})
        if second is not None:
            check_mirror(resolved, second)
        if options is not None and not isinstance(options, VolumeOptions):
            raise TypeError(f"options must be VolumeOptions, not {type(options).__name__}")
        if prompt is not None and not isinstance(prompt, bool):
            raise TypeError(f"prompt must be True, False or None, not {type(prompt).__name__}")
        if prompt and is_async(resolved):
            raise ValueError("prompt: True, but calls of an asynchronous backend are awaited by the cache's event loop")
        check_retry(retry)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        folder = _spool_folder(spool)
        if not isinstance(disk, bool):
            raise TypeError(f"disk must be True or False, not {disk!r}; a tier is given to PageCache")
        if durability not in ("backend", "disk"):
            raise ValueError(f"durability: {durability!r} is not 'backend' or 'disk'")
        if on_recovery not in ("resume", "hold"):
            raise ValueError(f"on_recovery: {on_recovery!r} is not 'resume' or 'hold'")
        if durability == "disk" and (self.tier is None or not disk):
            why = "disk=False" if self.tier is not None else "this cache has no disk tier; see PageCache(disk=)"
            raise ValueError(f"durability: 'disk', but {why}")
        if volume_id is not None and (not isinstance(volume_id, str) or not volume_id):
            raise ValueError(f"volume_id: {volume_id!r} is not a text of at least one character")
        chosen = options_for(resolved.limits, options, overrides, PageCache.attach)
        kind = type(original(resolved)).__name__
        in_tier = None  # what the tier knows the store by
        if self.tier is not None and disk:
            in_tier = volume_id or getattr(original(resolved), "name", None)
            if not isinstance(in_tier, str):
                in_tier = store_of(backend, backend_options or {}) if isinstance(backend, str) else kind
        with self._attaching(in_tier, durability) as found:
            taken = {volume.name for volume in self._volumes}
            label = name if name is not None else f"{kind}-{next(self._names)}"
            if label in taken:
                raise ValueError(f"name: {label!r} is the name of another volume of this cache")
            self._check_unused(resolved, "backend")
            if second is not None:
                self._check_unused(second, "mirror")
            second = None if second is None else blocking(second, self._event_loop)
            store = blocking(resolved, self._event_loop)
            if self.tier is not None and in_tier is not None:
                store = TieredBackend(store, self.tier, in_tier)
            volume = Volume(self, store, label, chosen, second, timeout, prompt, retry, folder)
            try:
                self._volumes.append(volume)
                if isinstance(store, TieredBackend):
                    self._use_tier(volume, store, durability, on_recovery, found)
                self._divide_limit()
                volume.engine.say(logging.INFO, "the volume", f"attached: {kind}")
                if volume.recovery is not None:
                    volume.recovery.start()
            except BaseException:
                detach.not_attached(volume)
                raise
        return volume

    @contextlib.contextmanager
    def _attaching(self, volume_id: str | None, durability: Durability) -> Iterator[Found]:
        """Hold the locks of an attach when no other volume of a store is ending: only a later attach finds what that
        leaves in the tier. Yield what was left there. `volume_id`: None: the volume has no tier.

        Raises:
            OSError: EBUSY: one still is, or this thread is ending it.
        """
        deadline: Deadline | None = None
        known: Known = {}
        while True:
            # Before the locks, for which the flusher and the exit wait: the disk may hang.
            known = {} if volume_id is None else self._read_left(volume_id, durability, known)
            with closing.registry(), self._lock:
                self._check_open()
                ending = None if volume_id is None else self._ending(volume_id)
                found = self._still_left(volume_id, known) if ending is None else None
                if found is not None:
                    yield found
                    return
            if ending is None:
                continue
            deadline = deadline or Deadline(self.clock, ENDING_S)
            turn = ending.turn or (0, Signal())
            if turn[0] == threading.get_ident() or deadline.passed():
                raise OSError(errno.EBUSY, f"volume {ending.name!r} of this store is ending; attach when it has ended")
            if ending.turn is None and ending.detached:  # an interrupt has struck its end after the saving
                ending.detach(timeout=deadline.left())
                continue
            reason = Reason("the end of another volume of the store", ending.engine.native)
            during(reason, partial(turn[1].wait, min(SLICE, deadline.left())))

    def _read_left(self, volume_id: str, durability: Durability, known: Known) -> Known:
        """Read what was left in the tier, which may be closed beside this."""
        from .volume import recovered  # here: most programs have no tier

        assert self.tier is not None
        try:
            if durability == "disk":
                self.tier.journal()
            return recovered.read(self.tier, volume_id, known)
        except OSError:
            self._check_open()
            raise

    def _still_left(self, volume_id: str | None, known: Known) -> Found | None:
        if self.tier is None or volume_id is None:
            return {}
        from .volume import recovered

        return recovered.still_left(self.tier, volume_id, known)

    def _ending(self, volume_id: str) -> Volume | None:
        """Return a volume of a store that is ending, and may leave bytes in the tier."""
        for cache in closing.caches():
            for volume in () if cache.tier is not self.tier or cache.native.forked else tuple(cache._volumes):
                journal = volume.engine.journal
                if journal is not None and journal.volume_id == volume_id and journal.may_leave():
                    if volume.turn is not None or volume.detached or closing.is_ending(cache):
                        return volume
        return None

    def _use_tier(
        self,
        volume: Volume,
        store: TieredBackend,
        durability: Durability,
        on_recovery: Literal["resume", "hold"],
        found: Found,
    ) -> None:
        """Let a volume use the tier that its store has. `found`: what was left there."""
        from .volume import recovered

        tier, engine = store.tier, volume.engine
        tier.attached(engine)
        engine.use_journal(tier, store.volume_id, durability, volume._begin_saving)
        volume.recovery = recovered.find(volume, tier, store.volume_id, found, hold=on_recovery == "hold")

    def _check_unused(self, backend: Backend, what: str, by: Volume | None = None) -> None:
        """Check that no other volume of the process has the backend: two volumes would not notice each other's changes,
        and the first one that ends would close it under the other.

        Raises:
            ValueError: a volume other than `by` has it.
        """
        wanted = original(backend)
        for cache in closing.caches():
            for volume in () if cache.native.forked else tuple(cache._volumes):
                mirror = volume.engine.mirror
                used = (volume.backend, None if mirror is None else original(mirror.backend))
                if volume is not by and any(wanted is other for other in used):
                    place = "this cache" if cache is self else f"another cache ({cache.name!r})"
                    raise ValueError(f"{what}: {backend!r} is in {place} already, as volume {volume.name!r}")

    def volumes(self) -> tuple[Volume, ...]:
        """The attached volumes, in the order of attaching."""
        self._check_forked()
        with self._lock:
            return tuple(self._volumes)

    # -- limits

    def configure(self, **changes: Unpack[CacheChanges]) -> None:
        """Change limits, intervals and policies of a running cache; `page_size` and `max_folio` are fixed."""
        self._check_open()
        for fixed in ("page_size", "max_folio"):
            if fixed in changes:
                raise ValueError(f"{fixed}: {changes.get(fixed)!r} cannot be changed while the cache lives")
        with self._lock:
            config = with_overrides(self.config, changes)
            config.check_fits(self.capacity, changes.keys() & {"dirty_background", "dirty_limit"})
            limits = config.resolve(self.capacity)
            self.config, self.limits = config, limits
            self.native.configure(limits, config.poison)
        self._divide_limit()
        if "retry" in changes:
            for volume in self._engine_volumes():
                volume.replan_parked()
        self.flusher.wake()

    def resize(self, capacity: Size, *, timeout: float | None = None) -> None:
        """Grow, or give memory back to the system at once. Shrinking below the local data writes back and commits
        first.

        Raises:
            BlockingIOError: pinned or uncommitted data does not fit. TimeoutError.
        """
        self._check_open()
        limits = self.config.resolve(capacity)
        deadline = Deadline(self.clock, timeout)
        # The new dirty limits first: they slow concurrent writers down to the new size.
        self.native.configure(limits, self.config.poison)
        try:
            self._resize(limits.capacity, deadline)
        except BaseException:
            self.native.configure(self.limits, self.config.poison)
            raise
        with self._lock:
            self.limits, self.capacity = limits, limits.capacity
        self._divide_limit()

    def _resize(self, capacity: int, deadline: Deadline) -> None:
        for attempt in range(RESIZE_ROUNDS):
            result = self.native.resize(capacity)
            if result == 0:
                return
            if result != -errno.EBUSY:
                what = "cannot be had (reserved for growth: 4 times the first capacity, at least 64 GiB)"
                raise OSError(-result, f"capacity: {capacity} {what}")
            if attempt == 2:
                gc.collect()  # views in reference cycles hold memory until they are collected
            if attempt > 2 and self.stats().pinned > capacity:
                break
            for volume in self.volumes():
                if not volume.engine.backend.limits.commit_on_close:
                    volume.sync(deadline.timeout(), durability="backend")
        raise BlockingIOError(errno.EAGAIN, f"capacity: {capacity} is less than the pinned and unsaved data")

    # -- the whole

    def sync(self, timeout: float | None = None) -> None:
        """Sync every volume concurrently, like `Volume.sync`; a dead backend does not delay other volumes.

        Raises:
            WritebackError: with the ranges of all volumes. TimeoutError: I/O goes on.
        """
        self._check_open()
        deadline = Deadline(self.clock, timeout)
        errors: list[OSError] = []
        tickets = self._begin_syncs(errors)
        waits = [(ticket, ticket._deadline(deadline.timeout())) for ticket in tickets]
        for ticket, until in waits:
            try:
                ticket._wait_until(until)
            except OSError as error:
                errors.append(error)
        if errors:
            raise closing.together(WritebackError, errors, "could not be saved")

    def _begin_syncs(self, errors: list[OSError], *, ending: bool = False) -> list[SyncTicket]:
        """Begin one ticket per volume, those first that wait for no disk; `errors`: of ended volumes; `ending`: see
        `Volume._begin_sync`.
        """
        tickets = []
        for volume in sorted(self.volumes(), key=lambda each: each.engine.durability == "disk"):
            try:
                tickets.append(volume._begin_sync(ending=ending))
            except ShutdownError as error:
                errors.append(error)
        return tickets

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call `callback` with each event from now on; return the function that ends that.

        Events come one after another, from one thread that does nothing else: a callback may be slow, and may call any
        method of the cache. Its exceptions are logged. See docs/events.md.
        """
        self._check_open()
        if not callable(callback):
            raise TypeError(f"callback {callback!r} is not callable")
        return self.feed.subscribe(callback)

    def stats(self) -> CacheStats:
        """Return counters and memory of the whole cache."""
        self._check_forked()
        from .stats import CacheStats

        return CacheStats(**self._counters(self._usage()[0]))

    def _usage(self) -> tuple[dict[str, int], list[tuple[Volume, dict[str, int]]]]:
        """Return CORE's numbers: of all volumes together, including detached ones, and of each volume."""
        with self._lock:
            total, volumes = dict(self._retired), list(self._volumes)
        each = [(volume, volume._usage()) for volume in volumes]
        for _, usage in each:
            for name, value in usage.items():
                total[name] += value
        total.pop("cached", None)
        return total, each

    def serve_stats(self, path: str | os.PathLike[str]) -> None:
        """Serve the state of the cache on a local socket, by HTTP: to `pagecache top`, Prometheus, curl. Ends with the
        cache; docs/live.md lists the documents.

        Args:
            path: of the socket, made with mode 0600. A socket whose owner is gone is replaced.

        Raises:
            FileExistsError: the path exists and is not a socket.
            OSError: EADDRINUSE: another process serves there already; or the directory is missing, or not writable.
        """
        self._check_open()
        # Imported here, so that caches without a server do not import it.
        from .observe.address import Listener, checked_path
        from .observe.server import Server

        listener = Listener(checked_path(path))
        try:
            with self._lock:
                self._check_open()
                if self.live is None:
                    self.live = Server(self)
            self.live.add(listener)  # without the lock, which a request may wait for
        except BaseException:
            listener.close()
            raise

    def _retire(self) -> None:
        """Close the cache after all volumes were detached, unless one was attached since."""
        with self._lock:
            self.closed = all(volume.detached for volume in self._volumes)

    def waits(self) -> list[Wait]:
        """Return the current waits: awaited thing, duration, owner, and the wait of the owner in turn. Stops no thread;
        callable from any thread, even in a signal handler.
        """
        self._check_forked()
        return waits.report(self)

    def check(self) -> None:
        """Verify every internal invariant; AssertionError names the first one broken. For tests; stops the world."""
        self._check_forked()
        with self._lock:
            broken = self.native.check()
        looks: tuple[tuple[str, Callable[[], str | None]], ...] = (
            ("I-29", self._check_failed_ranges),
            ("I-30", lambda: next(filter(None, map(lifetimes.check, self.volumes())), None)),
            ("I-31", lambda: next(filter(None, map(lifetimes.check_names, self.volumes())), None)),
            ("I-16", lambda: waits.left_over(self)),
        )
        for name, look in looks:
            if broken is None and (found := look()) is not None:
                broken = name, found
        if broken is not None:
            invariant, what = broken
            raise AssertionError(f"{invariant}: {what}\n{self.native.trace()}")

    def _check_failed_ranges(self) -> str | None:
        for file in (file for volume in self._engine_volumes() for file in volume.dirty_files()):
            found = failures.check(file)
            if found is not None and not file.freed:
                return found
        return None

    def trace(self, path: str | os.PathLike[str], *, records: int = 1 << 18) -> Trace:
        """Write a trace of a `with` block to a file for Perfetto or chrome://tracing.

        Args:
            path: written when the block ends, whole or not at all.
            records: maximum number of events, the newest ones: waits, and calls of the backend. About 300 bytes each,
                until the trace is written.

        Raises, on entering it:
            OSError: the file cannot be written there. PageCacheError: EBUSY: a trace of this cache runs already.
        """
        self._check_open()
        from .observe.trace import Trace

        return Trace(self, path, records)

    # -- the end

    def close(
        self, *, timeout: float | None = None, on_failed: Literal["raise", "discard"] = "raise"
    ) -> list[LostRange]:
        """Write back, commit and detach everything. Idempotent.

        Args:
            timeout: seconds for all of it; None: no limit.
            on_failed: "raise": UnsavedDataError lists unsaved ranges, the cache stays open, nothing is lost;
                "discard": unsaved data is dropped, and the losses are returned.
        """
        self._check_forked()
        if on_failed not in ("raise", "discard"):
            raise ValueError(f"on_failed {on_failed!r} is not one of 'raise', 'discard'")
        return closing.close(self, timeout, on_failed)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if e is not None:
                closing.withhold(self)
            self.close()
        except OSError as error:
            if e is None:
                raise
            log.error("%s; the cache is left open, and can be closed again", error)
        finally:
            if e is not None:
                closing.end_withholding(self)

    def __del__(self) -> None:
        try:
            ended = self.closed or self._exited or self.native.forked
        except AttributeError:
            return  # never made
        if not ended:
            closing.drop(self)

    def _prune(self) -> bool:
        """Free some hollow objects when there are too many; for the flusher. Return whether there are more."""
        if self.native.hollow() <= lifetimes.hollow_max(self.capacity):
            return False
        with self._lock:
            volumes = list(self._volumes)
        more = False
        for volume in volumes:
            more = not volume.detached and lifetimes.prune(volume, lifetimes.PRUNED_BY_FLUSHER)
        return more

    def _let_go(self) -> None:
        """Drop the global references of volumes without handles and unsaved bytes; for the flusher."""
        for volume in self.volumes():
            lifetimes.let_go(volume)

    def _end(self) -> None:
        """Close a cache that was dropped; for the flusher."""
        closing.end(self)

    def _at_exit(self) -> None:
        """Write back at interpreter exit, for at most exit_timeout, and list unsaved ranges; never hang."""
        self._exited = True
        if not self.closed and not self.native.forked:
            closing.at_exit(self)
