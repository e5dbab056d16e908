"""The engine's state of one backend, and of the cache around it.

`EngineVolume` owns the threads of a volume and gives every module of the engine access to the backend and its limits,
clock, random numbers, retry policy and events.

Locks: `_lock` guards the registers (files, retries, tickets); it is held briefly and never across a call. `_advancing`
is held while tickets are advanced, which neither waits nor calls the backend.
"""

from __future__ import annotations

import itertools
import logging
import random
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .. import native as core
from ..backends.protocol import Backend, BackendFile, close_backend_file
from ..config import Durability, RetryPolicy, VolumeOptions
from ..disk.backend import TieredBackend
from ..errors import DeadlockError, Key, ShutdownError
from ..native import NativeVolume
from ..objects import Event
from . import failures
from .attempts import AGAIN, Attempts
from .blocking import Blocking, untiered
from .commit import overdue
from .commit.journaled import VolumeJournal
from .commit.spill import Spills
from .foreign import raised_by, text_of
from .held import Held
from .mirror import Mirror
from .namesync import NameSync
from .park import NEVER, SLICE, Deadline
from .report.notices import Notices, cause, fault
from .report.reason import Reason, during, of_file
from .report.trouble import Troubles
from .retryer import decide
from .runner import Job, ThreadRunner
from .throttle import Checks, Kept, Outage, Pace, Stall

if TYPE_CHECKING:
    from ..cache import PageCache
    from ..disk.tier import Tier
    from ..volume.ticket import SyncTicket
    from .file import EngineFile

log = logging.getLogger("pagecache.internal")
T = TypeVar("T")
_numbers = itertools.count(1)
EventKind = Literal[
    "failed", "repaired", "parked", "conflict", "invalidated", "stalled", "committed", "warning", "disk"
]

IDLE_FILES_MAX = max(64, min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
"""Files of the backend that stay open without handles: up to a quarter of the descriptors of the process. A surplus one
with unsaved data has to be committed before it is closed.
"""
IDLE_TURN, IDLE_TURN_FLUSHER = 4, 1024
"""Maximum idle files that a close, or a turn of the flusher, checks."""


def threads_of(backend: Backend) -> int:
    """Return how many threads call a backend."""
    return int(backend.limits.max_inflight) + 1


class EngineVolume:
    """One backend, its threads, its files."""

    def __init__(
        self,
        cache: PageCache,
        backend: Backend,
        name: str,
        options: VolumeOptions,
        mirror: Backend | None,
        prompt: bool | None,
        retry: RetryPolicy | None,
        spool: str | None,
    ) -> None:
        self.cache = cache
        self.backend = backend
        self.name = name
        self.number = next(_numbers)
        self.on_conflict = options.on_conflict
        self.spool = spool  # directory of the spools of its files; "": that of temporary files; None: it has none
        self.clock, self.park = cache.clock, cache.park
        self.random = random.Random().random
        self.native = NativeVolume(cache.native, int(backend.limits.max_inflight), sticky=options.policy == "sticky")
        self._prompt = prompt
        self._retry = retry
        self.held = Held()
        self.reconnects = 0
        self._bind(backend)
        self.runner = ThreadRunner(self.native, name, threads_of(backend), self.clock)
        self.aborted = self.left = False
        self.aborts = 0
        self.seals: set[object] = set()
        self.abort_reason: BaseException | None = None
        self.notices = Notices(name)
        self.pace = Pace()
        self.checks = Checks()
        self.kept = Kept()
        self.stall = Stall()
        self.outage = Outage()
        self.dirty_share = options.dirty_share
        self.withheld_bytes = 0  # of recovered files, a part of its share of the dirty limit
        self.idle: dict[EngineFile, None] = {}
        self.cut_off: set[EngineFile] = set()  # files without the name that the backend would find them by
        self.settling: set[EngineFile] = set()  # files with work that waits for the token, or runs
        self._lock = threading.RLock()  # a signal handler may abort the volume in between
        self._files: dict[int, EngineFile] = {}
        self._retries: dict[EngineFile, float] = {}  # when the flusher must check their failures
        self._tickets: list[SyncTicket] = []
        self.journal: VolumeJournal | None = None
        self.spills: Spills | None = None
        self.durability: Durability = "backend"
        self.mirror: Mirror | None = None
        try:
            self.runner.start()
            if mirror is not None:
                self.held.use("mirror", mirror)
                self.mirror = Mirror(self, mirror)
        except BaseException:
            self.native.stop()
            self.native.end()
            raise
        self._advancing = threading.RLock()  # re-entrant: a signal handler may abort the volume in between
        self.name_sync = NameSync(self)
        self.troubles = Troubles()
        self._warned: set[str] = set()

    @property
    def retry(self) -> RetryPolicy:
        """The policy of the volume: its own, one that was chosen for the cache, the backend's, or the default."""
        shared = self.cache.config.retry
        return self._retry or (shared if shared != RetryPolicy() else self.backend.limits.retry or shared)

    def judge(self, error: BaseException, attempts: int, since: float) -> float | None:
        """Return the seconds until the next attempt after call number `attempts` failed, the first of them at `since`;
        None: there is none. Calls that fail for `stall_warn` seconds are reported. May be called with a lock held.
        """
        now, policy = self.clock.now(), self.retry
        delay = decide(policy, error, attempts, now - since, self.random())
        if delay is not None and now - since >= self.cache.config.stall_warn:
            apart = max(30.0, 2 * policy.max_delay)  # calls in flight fail later than the delay between two of them
            if self.outage.begins(now, apart):
                what = f"calls have failed for {now - since:.3g} seconds: {cause(error)}"
                next = "each is made again"
                next += "" if policy.deadline is None else f" for at most {policy.deadline:g} seconds"
                self.emit("stalled", message=what, next=next)
                self.say(logging.WARNING, "calls that are made again", what, next)
        return delay

    def _bind(self, backend: Backend) -> None:
        """Hold a backend, and choose which of its calls their callers make themselves."""
        self.held.use("backend", backend)
        prompt = bool(backend.limits.prompt) if self._prompt is None else self._prompt
        store = untiered(backend)
        on_loop = isinstance(store, Blocking)
        if isinstance(store, Blocking):
            store.address = self.native.address
            store.check_alive = partial(self.check_alive, None, self.reconnects)  # it may look after the reconnect
        self.prompt = prompt and not on_loop
        self.reads_here = self.prompt or on_loop  # whose waiter can leave
        self.native.set_calls(reads_here=self.reads_here, on_loop=on_loop)

    # -- the disk tier

    def use_journal(
        self, tier: Tier, volume_id: str, durability: Durability, begin_saving: Callable[[list[EngineFile]], Any]
    ) -> None:
        """Let fsyncs end at the journal of a tier: those that ask for it, or by default. Then spools are in its folder,
        unless the program has named another one.
        """
        self.journal = VolumeJournal(self, tier.journal, tier.refused, volume_id, begin_saving)
        self.durability = durability
        if durability == "disk":
            self.spool = tier.described.path if self.spool == "" else self.spool
            self.spills = Spills(self, tier)

    def spooled_bytes(self) -> int:
        """Return the bytes of spools, if the volume saves in the disk tier."""
        return 0 if self.spills is None else int(self.native.usage()["staged"])

    def spill(self, file: EngineFile, *, locked: bool) -> bool:
        """Have dirty bytes leave memory without the store, if the volume saves in the disk tier; return whether any
        did. `locked`: the caller has the inode lock of the file.
        """
        return self.spills is not None and self.spills.make_room(file, locked=locked) > 0

    def spills_first(self) -> bool:
        """Return whether background passes send nothing, because memory that is short is had by `spill`."""
        return self.spills is not None and self.spills.room() > 0

    def level(self, durability: Durability | None) -> Durability:
        """Return what a call for which a program has given this waits for.

        Raises:
            ValueError: no such level, or the volume has no disk tier.
        """
        if durability is None:
            return self.durability
        if durability not in ("backend", "disk"):
            raise ValueError(f"durability: {durability!r} is not 'backend', 'disk' or None")
        if durability == "disk" and self.journal is None:
            raise ValueError(f"durability: 'disk', but the volume {self.name!r} has no disk tier; see PageCache(disk=)")
        return durability

    def tiered(self, store: Backend) -> Backend:
        """Return another store with the tier of this volume before it, if there is one."""
        before = self.backend
        if not isinstance(before, TieredBackend):
            return store
        made = TieredBackend(store, before.tier, before.volume_id)
        made.hits = before.hits
        return made

    def lasting_identity(self, identity: Hashable | None) -> str | None:
        """Return the identity of an object as a later process finds it; None: it has none."""
        lasting: Any = getattr(self.backend, "lasting_identity", None)
        return None if lasting is None or identity is None else lasting(identity)

    def announced(self, key: Key) -> None:
        """Let the disk tier know that another program has changed an object. Never waits."""
        if isinstance(self.backend, TieredBackend):
            self.backend.announced(key)

    def disk_hits(self) -> int:
        """Return how many reads the tier has served."""
        return self.backend.hits if isinstance(self.backend, TieredBackend) else 0

    # -- alive or not

    def check_alive(self, key: Key | None = None, since: int | None = None) -> None:
        """Raise ShutdownError if waiting is pointless; `since`: `reconnects` when the wait began."""
        if since is not None and since != self.reconnects:
            raise ShutdownError(f"the volume {self.name!r} was aborted, and reconnected since", key)
        if self.aborted:
            reason = f": {text_of(self.abort_reason)}" if self.abort_reason is not None else ""
            raise ShutdownError(f"the volume {self.name!r} was aborted{reason}", key)
        if self.native.closing():
            raise ShutdownError(f"the volume {self.name!r} is detached", key)
        if self.cache.flusher.over or (self.runner.ending and not self.runner.alive()):
            raise ShutdownError(f"the threads of the volume {self.name!r} have ended", key)

    def check_unsealed(self, key: Key | None = None) -> None:
        """Check, after taking a file's lock, that the file may be changed.

        Raises:
            ShutdownError: the volume is ending, and saves its data.
        """
        if self.seals:
            raise ShutdownError(f"the volume {self.name!r} is being detached", key)

    def check_reentry(self, what: str, key: Key | None = None) -> None:
        """Refuse a call that may wait for this volume from within its own backend's calls (contract 2.25)."""
        if self.native.address in core.inside():
            raise DeadlockError(f"{what} from inside a backend call of the same volume", key)

    def check_wait(self, what: str, key: Key | None = None) -> None:
        """Check that only backend calls of volumes attached later wait for write-back: an order, so no cycle."""
        inside = core.inside()
        if not inside:
            return
        self.check_reentry(what, key)
        for volume in self.cache._engine_volumes():
            if volume.native.address in inside and volume.number < self.number:
                raise DeadlockError(f"{what} from inside a backend call of {volume.name!r}, attached earlier", key)

    # -- calls of the backend that carry no bytes

    def call(self, call: Callable[[], T], what: str, key: Key | None = None) -> T:
        """Make a call of the backend once and wait for it; an interrupt or an abort ends only the wait, unless the
        backend is prompt.
        """
        self.check_reentry(what, key)
        return Attempts(self, what, key).repeated(call, again=False)

    def call_here(self, what: str, key: Key, call: Callable[[], T]) -> T:
        """Make a call of the backend on this thread."""
        try:
            return during(Reason(f"the backend's {what}", self.native, key=key, own=what), call)
        except (ValueError, TypeError):  # about the key
            raise
        except Exception as error:
            raised = raised_by(error, what, key)
            if raised is error:
                raise
            raise raised from error

    def post(self, call: Callable[[], object], what: str) -> None:
        """Make a call of the backend on a thread of the volume, without waiting."""

        def run() -> None:
            try:
                call()
            except Exception:
                fault("%s: %s failed without a waiter; it is not repeated", self.name, what)

        self.runner.submit(core.NAMES, Job(run, what=what, last=True))

    def sleep(self, file: EngineFile, seconds: float, what: str = AGAIN, *, since: int | None = None) -> None:
        """Wait for a time to pass, for a file; ended by an abort or a signal handler that raises. `since`: `reconnects`
        before what is to be made again: a reconnect may be over before this looks.
        """
        began = self.reconnects if since is None else since
        reason = of_file(file, what, timed=True)
        self.sleep_until(self.clock.now() + seconds, reason, partial(self.check_alive, file.key, began))

    def sleep_until(self, at: float, reason: Reason, alive: Callable[[], None], deadline: Deadline = NEVER) -> None:
        """Wait for a time to pass. `alive` raises when waiting is pointless, and after the deadline."""

        def sleep() -> None:
            while True:
                seq = self.native.event_seq()
                alive()
                left = at - self.clock.now()
                if left <= 0:
                    return
                self.park.wait("volume", self.native.address, seq, min(left, deadline.left(), SLICE))

        if at > self.clock.now():
            during(reason, sleep)

    # -- files

    def add(self, file: EngineFile) -> None:
        self.runner.have_all()
        with self._lock:
            self._files[file.id] = file
        file.hold()

    def add_job(self, file: EngineFile, jobs: deque[Callable[[], object]], job: Callable[[], object]) -> bool:
        """Add to the jobs of a file, which is not freed before they have run. False: it was freed."""
        with self._lock:
            if file.freed:
                return False
            self.settling.add(file)  # first: a job is never missing
            jobs.append(job)
            return True

    def free(self, file: EngineFile) -> bool:
        """Free CORE's part of a file, and forget it. False: an operation uses it, a job waits, or a reconnect may."""
        with self._lock:
            if self.aborted or file.settling or not file.free():
                return False
            self._files.pop(file.id, None)
            self._retries.pop(file, None)
            self.idle.pop(file, None)
            self.cut_off.discard(file)
            self.settling.discard(file)
        self.kept.forget(file)
        self.troubles.forget(file)
        return True

    def file(self, inode: int) -> EngineFile | None:
        """Return the file with this number. Takes no lock: a signal handler may ask while its thread has it."""
        return self._files.get(inode)

    def files(self) -> list[EngineFile]:
        with self._lock:
            return list(self._files.values())

    def files_at(self, ids: list[int]) -> list[EngineFile]:
        """Return the remaining files with these numbers, in their order."""
        with self._lock:
            return [self._files[id] for id in ids if id in self._files]

    def dirty_files(self) -> list[EngineFile]:
        """Return every file with local or uncommitted changes, in the order in which they arose."""
        return self.files_at(self.native.dirty_inodes())

    def some_dirty(self, most: int) -> list[EngineFile]:
        """Return the next files with local or uncommitted changes that write-back may save."""
        return [file for file in self.files_at(self.native.some_dirty(most)) if not file.is_kept_back()]

    def some_aged(self, most: int) -> list[EngineFile]:
        """Return the next files with dirty bytes that write-back may save, oldest first."""
        return self.files_at(self.native.some_aged(most))

    # -- failed data

    def retry_by(self, file: EngineFile, at: float) -> None:
        """Have the flusher check the failures of a file at time `at`."""
        with self._lock:
            self._retries[file] = min(at, self._retries.get(file, at))
        self.cache.flusher.wake_by(at)

    def retry_planned(self, file: EngineFile) -> float | None:
        """Return when the flusher is to check the failures of a file."""
        with self._lock:
            return self._retries.get(file)

    def take_retries(self, now: float) -> list[EngineFile]:
        """Return the due files, the earliest first; the flusher plans each again. Cost: O(planned)."""
        with self._lock:
            due = sorted((f for f, at in self._retries.items() if at <= now), key=self._retries.__getitem__)
            for file in due:
                del self._retries[file]
        return due

    def next_retry(self) -> float | None:
        with self._lock:
            return min(self._retries.values(), default=None)

    def replan_parked(self) -> None:
        for file in self.troubles.failing_files():
            next_retry = failures.replan_parked(file)
            if next_retry is not None:
                self.retry_by(file, next_retry)
            overdue.replan(file)

    # -- idle files of the backend

    def mark_idle(self, file: EngineFile) -> None:
        """Allow closing the backend file of a file without handles."""
        with self._lock:
            self.idle[file] = None
        file.set_unused(True)

    def keep(self, file: EngineFile) -> None:
        """Keep the backend file of a file as it is, open or closed, for a coming use."""
        with self._lock:
            self.idle.pop(file, None)
        file.set_unused(False)

    def idle_files(self) -> list[EngineFile]:
        """Return the files that no handle uses and that may be open in the backend, oldest first."""
        with self._lock:
            return [file for file in self.idle if file.backend_file is not None]

    def take_idle(self, most: int, turn: int | None = IDLE_TURN) -> list[BackendFile]:
        """Take files of the backend that no handle uses, oldest first, down to `most`; the caller closes them.

        A file with uncommitted data is committed first if the engine may do so, and moves to the end.

        Args:
            most: files that may stay open.
            turn: maximum files to check; None: all surplus ones.
        """
        return [backend_file for _, backend_file in self._taken_idle(most, turn)]

    def _taken_idle(self, most: int, turn: int | None) -> list[tuple[Key, BackendFile]]:
        taken: list[tuple[Key, BackendFile]] = []
        if len(self.idle) <= most:
            return taken
        with self._lock:
            excess = list(islice(self.idle, max(0, min(len(self.idle) - most, turn or len(self.idle)))))
        for file in excess:
            if file.has_local():
                with self._lock:
                    if self.idle.pop(file, file) is None:
                        self.idle[file] = None
                if not self.backend.limits.commit_on_close:
                    file.flush_start(core.STAMP_MAX)
                    if self.clock.now() >= file.commits.not_before:
                        file.start_commit()
                continue
            with self._lock:
                if self.idle.pop(file, file) is file:
                    continue  # in use
                if file.has_local():  # a use has begun and ended since the look
                    self.idle[file] = None
                    continue
                backend_file = file.backend_file
                seen = getattr(backend_file, "seen", None)
                file.use(None, None if seen is None else (self.reconnects, seen))
            if backend_file is not None:
                taken.append((file.key, backend_file))
        return taken

    def close_idle(self, turn: int = IDLE_TURN) -> None:
        if len(self.idle) > IDLE_FILES_MAX:
            for key, backend_file in self._taken_idle(IDLE_FILES_MAX, turn):
                self.close_later(backend_file, key)

    def close_later(self, backend_file: BackendFile | None, key: Key) -> None:
        """Close a file of the backend without waiting, unless the backend is prompt."""
        if getattr(backend_file, "close", None) is None:
            return
        if not self.native.closing() and (not self.prompt or self.cache.flusher.is_current()):
            self.post(lambda: close_backend_file(backend_file), "close")
            return
        try:
            self.call_here("close", key, lambda: close_backend_file(backend_file))
        except ShutdownError:  # the volume ends, and no thread may be left
            close_backend_file(backend_file)
        except Exception:
            fault("%s: close failed without a waiter; it is not repeated", self.name)

    # -- tickets, events

    def add_ticket(self, ticket: SyncTicket) -> None:
        with self._lock:
            self._tickets.append(ticket)
        self.cache.flusher.wake()

    def poll_tickets(self, beside: float | None = None) -> float:
        """Advance the tickets, in order. Never waits.

        Return the seconds until the next call; infinite when no ticket is left. `beside`: return this if another thread
        advances them, which may be below a signal handler and wait for the caller's next turn.
        """
        if not self._tickets:
            return float("inf")
        if beside is not None:
            if not self._advancing.acquire(blocking=False):
                return beside
            try:
                return self.poll_tickets()
            finally:
                self._advancing.release()
        with self._advancing:
            with self._lock:
                tickets = list(self._tickets)
            first = True
            for ticket in tickets:
                if ticket._advance(first=first):
                    with suppress(ValueError):  # a signal handler's sync has removed it, inside this advance
                        self._tickets.remove(ticket)
                else:
                    first &= not ticket._asked  # no caller waits for a save in the background
            with self._lock:
                return min((ticket._pause() for ticket in self._tickets), default=float("inf"))

    def emit(
        self,
        kind: EventKind,
        key: Key | None = None,
        ranges: tuple[tuple[int, int], ...] = (),
        error: OSError | None = None,
        message: str = "",
        next: str = "",
    ) -> None:
        """Send an event to subscribers, and keep a failure; `next`: the automatic next step."""
        try:
            event = Event(
                kind=kind,
                volume=self.name,
                key=key,
                ranges=ranges,
                error=error,
                message=message,
                next=next,
                time=time.time(),
            )
            self.troubles.add(event, self.clock.now())
            self.cache.feed.emit(event)
        except Exception:  # the reported operation goes on
            fault("%s: %r: an event %r got lost", self.name, key, kind)

    def say(self, level: int, topic: str, what: str, next: str = "", key: Key | None = None) -> None:
        """Log a line; see notices.py. Any locks may be held."""
        try:
            line = f"{'' if key is None else f'{key!r}: '}{what}{f'; {next}' if next else ''}"
            self.notices.say(level, topic, line, self.clock.now())
        except Exception:  # the operation goes on
            fault("%s: a line about %s got lost", self.name, topic)

    def pass_on_warnings(self) -> None:
        """Report what the backend says of its store, each sentence once."""
        backend: Any = self.backend
        try:
            for text in backend.warnings():
                if text not in self._warned:
                    self._warned.add(text)
                    self.say(logging.WARNING, "the store", text)
                    self.emit("warning", message=text)
        except Exception:  # the commit that was made is not affected
            fault("%s: warnings of the backend got lost", self.name)

    # -- the end

    def seal(self, turn: object, sealed: bool) -> None:
        """Refuse changes while a turn has sealed the volume. Each step can be repeated: an interrupt may have come
        before or after it.
        """
        with self._lock:
            (self.seals.add if sealed else self.seals.discard)(turn)
            self.native.seal(bool(self.seals))

    def abort(self, reason: BaseException | None, *, left: bool = False) -> None:
        """`left`: the volume ends, and the disk tier has what is unsaved: a running commit counts."""
        self.aborts += 1  # first: see `resume`
        known, self.left, self.aborted, self.abort_reason = self.aborted, left, True, reason
        if not known and not left:
            because = f": {text_of(reason)}" if reason is not None else ""
            next = "what is not committed is kept as failed until reconnect; calls of the backend are left alone"
            self.say(logging.WARNING, "the volume", f"aborted{because}", next)
        self.native.abort(left)
        for file in self.files():
            file.aborted()
        self.poll_tickets()  # they end here

    def resume(self, backend: Backend, aborts: int) -> None:
        """Revive the volume on another backend; its files have their new backend files. `aborts`: their number when the
        reconnect began; a later one aborts it again.
        """
        self.backend = backend
        self.reconnects += 1
        self._bind(backend)
        self.held.keep()
        self.name_sync.reset()
        self.native.set_inflight(int(backend.limits.max_inflight))
        reason = self.abort_reason
        self.aborted, self.abort_reason = False, None
        next = "what is not known to be committed is sent again"
        self.say(logging.INFO, "the volume", f"reconnected to {type(backend).__name__}", next)
        self.native.resume()
        for file in self.files():
            if file.settling:
                file.settle_start()
            if file.commits.failing_since is not None:
                self.retry_by(file, self.clock.now())
        if self.aborts != aborts:
            self.abort(self.abort_reason or reason)

    def end(self) -> None:
        """Forget all files after the threads have ended. CORE frees each with its last handle, view or caller, and the
        volume with the last file.
        """
        self.native.end()
        with self._lock:
            forgotten = self._files, self.idle, self._retries
            self._files, self.idle, self._retries = {}, {}, {}
        for file in forgotten[0].values():
            file.let_go()  # file objects may stay
        del forgotten  # without the lock: files of a backend may run code when they are collected

    def stop(self, timeout: float, deadline: Deadline) -> bool:
        """End the threads, that of the mirror by the deadline; False when one hangs in the backend: then nothing of the
        volume may be freed.
        """
        self.native.stop()
        stopped = self.runner.join(timeout)
        return (self.mirror is None or self.mirror.stop(deadline)) and stopped
