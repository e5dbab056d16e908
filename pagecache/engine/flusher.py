"""Background work that no call requests.

One thread per cache. It decides and submits; it makes no backend call and waits for no credit, token, fill or lock, so
a dead backend cannot stop it. In each turn it

* passes the time to CORE,
* resumes failed data that is due,
* starts background passes above `dirty_background`, and for data older than `dirty_expire` regardless of the
  thresholds, oldest file first,
* starts commits of acknowledged bytes once they fill half the limit (never on commit_on_close volumes: an object would
  be published half-written),
* measures the throughput of backends, divides the dirty limit between volumes by it, and reports stalls and long waits,
* advances sync tickets, closes handles that the garbage collector found, closes idle files of backends,
* drops the global references (held.py) of volumes that need none.

It does not keep its cache alive. An unreferenced cache that was not closed passes itself to the flusher (`adopt`),
which ends it on a separate thread: ending waits, and the flusher does not.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import loglines
from ..errors import Key
from ..native import NativeCache, Pressure
from . import failures
from .commit import overdue
from .park import Clock, Park, start_thread
from .report.notices import fault
from .report.trouble import STALLED
from .report.waits import LongWaits
from .throttle import divide
from .volume import IDLE_TURN_FLUSHER

if TYPE_CHECKING:
    from ..cache import PageCache
    from .file import EngineFile
    from .volume import EngineVolume

log = logging.getLogger("pagecache.internal")

PASS_BUDGET = 16 << 20
"""Least bytes of a background pass: its file's token is held until all of them are acknowledged."""
TURN = 1024
"""Maximum files that one turn checks for one purpose; the next turn continues after them."""
BUSY = 0.02
RECHECK = 0.001
"""Seconds until the next check of a file whose failures are due and stay so."""
PAUSE = 1.0
"""Seconds of pause after an internal error."""
STILL = 3
"""Checks of waiting writers without any running call, before partly dirty units are sent."""


def _budget(file: EngineFile) -> int:
    """Return the bytes of a pass: it fills all calls that the volume may have in flight, with large units too."""
    return max(PASS_BUDGET, int(file.limits().write_unit) * int(file.volume.backend.limits.max_inflight))


class Flusher:
    """The background thread of one cache."""

    def __init__(self, cache: PageCache, native: NativeCache, clock: Clock, park: Park) -> None:
        self._cache = weakref.ref(cache)
        self._adopted: PageCache | None = None
        self._ending: threading.Thread | None = None
        self._ended = 0.0
        self._native = native
        self._clock = clock
        self._park = park
        self._stop = False
        # Whether its thread has ended. `Thread.is_alive` is of no use: an exception of a signal handler in it makes
        # CPython 3.11 take the thread for ended.
        self.over = False
        self.next_turn = math.inf  # on the clock; infinite during a turn, which may have checked already
        self._still = 0
        self._deferred: deque[Callable[[], object]] = deque()
        self._later: deque[Callable[[], object]] = deque()
        self._long_waits = LongWaits()
        self._thread = threading.Thread(target=self._run, name="pagecache-flusher", daemon=True)

    def start(self) -> None:
        self._native.tick(self._clock.now())
        start_thread(self._thread, "of the cache")

    def stop(self) -> None:
        self._stop = True
        self._adopted = None
        self._native.wake_flusher()
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            self._thread.join(1.0)

    def adopt(self, cache: PageCache) -> None:
        """Keep a dropped, unclosed cache alive until its data is saved. Called by its finaliser."""
        self._adopted = cache
        self._native.wake_flusher()

    def is_ending(self) -> bool:
        """Return whether the end of a dropped cache is to begin, or runs."""
        return self._ending is None or self._ending.is_alive()

    def is_current(self) -> bool:
        """Return whether the calling thread is the flusher's, which makes no backend call."""
        return threading.current_thread() is self._thread

    def defer(self, call: Callable[[], object]) -> None:
        """Queue a finaliser's call: finalisers run in any thread at any point, even inside engine code."""
        self._deferred.append(call)
        self._native.wake_flusher()

    def defer_again(self, call: Callable[[], object]) -> None:
        """Repeat a call that was obstructed, shortly, but not in this turn."""
        self._later.append(call)
        self.wake_by(self._clock.now() + BUSY)

    def wake(self) -> None:
        self._native.wake_flusher()

    def wake_by(self, at: float) -> None:
        """Have a turn begin at `at` or before. The caller has recorded the work that is due then.

        A turn of this thread itself plans the next one when it ends.
        """
        if at < self.next_turn and threading.current_thread() is not self._thread:
            self._native.wake_flusher()

    def _run(self) -> None:
        try:
            while not self._stop:
                seq = self._native.flusher_seq()
                self.next_turn = math.inf
                began = self._clock.now()
                try:
                    delay = self.turn()
                except BaseException:
                    fault("the flusher met an error that should not get here; it goes on")
                    delay = PAUSE
                self.next_turn = began + delay
                while not self._stop and not self._deferred and self._native.flusher_seq() == seq:
                    if (left := self.next_turn - self._clock.now()) <= 0:
                        break
                    self._park.wait("flusher", self._native.address, seq, left)
        finally:
            self.over = True

    def turn(self) -> float:
        """Check everything once; return the seconds until the next turn is due."""
        cache = self._adopted or self._cache()
        if cache is None:
            return PAUSE  # its finaliser is about to pass it here
        now = self._clock.now()
        self._native.tick(now)
        again, self._later = self._later, deque()
        self._deferred.extend(again)
        while self._deferred:
            self._deferred.popleft()()
        # Data that becomes dirty right after this check is due in `dirty_expire` seconds.
        delay = min(cache.config.flush_interval, max(cache.config.dirty_expire, BUSY))
        divide(cache._engine_volumes(), cache.limits.dirty_limit)
        over = False
        for volume in cache._engine_volumes():
            pressure = volume.native.pressure()
            over |= bool(pressure.over_background) and not volume.aborted
            try:
                delay = min(delay, self._serve_volume(volume, pressure, now))
            except BaseException:  # the other volumes have their turn
                fault("%s: the flusher met an error that should not get here; it goes on", volume.name)
                delay = min(delay, PAUSE)
        if cache._prune():
            delay = min(delay, BUSY)
        cache._let_go()
        delay = min(delay, self._long_waits.check(cache))
        loglines.say_left()
        if over:
            self.make_room()
            delay = min(delay, BUSY)
        if self._adopted is not None:
            delay = min(delay, self._end(self._adopted, now))
        return min(delay, BUSY) if self._later else delay  # last: all work before may have put some off

    def _serve_volume(self, volume: EngineVolume, pressure: Pressure, now: float) -> float:
        """Do the work of a volume first, report last: a report that raises stops no work."""
        volume.pace.sample(pressure, now)
        delay = math.inf
        if not volume.aborted:
            delay = self._serve_files(volume, pressure, now)
            if volume.mirror is not None:
                delay = min(delay, volume.mirror.check(now))
        return min(delay, self._stalled(volume, pressure, now))

    def _serve_files(self, volume: EngineVolume, pressure: Pressure, now: float) -> float:
        self._retry(volume, now)
        delay = self._age(volume, now)
        if volume.backend.limits.commit_on_close:
            if not volume.spills_first():
                delay = min(delay, self._start_whole_units(volume))
        elif pressure.local > pressure.limit // 2:
            delay = min(delay, self._commit_unstable(volume, pressure.limit // 2))
        if volume.journal is not None:
            delay = min(delay, volume.journal.poll(now))
        delay = min(delay, volume.poll_tickets(BUSY))
        volume.close_idle(IDLE_TURN_FLUSHER)
        next_retry = volume.next_retry()  # last: all calls before may have planned one
        return delay if next_retry is None else min(delay, max(0.0, next_retry - now))

    def _stalled(self, volume: EngineVolume, pressure: Pressure, now: float) -> float:
        """Report a stall once: no call that carries bytes has ended for too long while some run; and each other call
        (of a name, a truncate) that hangs. Return the seconds until the next check.
        """
        limit = volume.cache.config.stall_warn
        stalled, left = volume.stall.check(pressure, now, limit)
        if stalled:
            what = f"{pressure.running} calls run, and none has ended for {limit:g} seconds"
            self._report_stalled(volume, what, None)
        hung, soon = volume.runner.hung(now, limit)
        for job in hung:
            of = "" if job.key is None else f" of {job.key!r}"
            self._report_stalled(volume, f"{job.what}{of} has run for {limit:g} seconds and has not ended", job.key)
        return min(left, soon, volume.notices.check(now))

    def _report_stalled(self, volume: EngineVolume, what: str, key: Key | None) -> None:
        volume.emit("stalled", key, message=what, next=STALLED)
        volume.say(logging.WARNING, "calls that hang", what, STALLED)

    def _end(self, cache: PageCache, now: float) -> float:
        """Close a dropped cache. If data cannot be saved, repeat it every `failed_retry`: there is no other owner.
        Return the seconds until the next attempt.
        """
        pause = cache.config.retry.failed_retry
        if self._ending is not None:
            lost = all(volume.aborted for volume in cache._engine_volumes())  # the program cannot reconnect it
            if pause is None or lost:
                return math.inf
            if self._ending.is_alive():
                return pause
            if now < self._ended + pause:
                return self._ended + pause - now
        self._ended = now
        ending = threading.Thread(target=cache._end, name="pagecache-end", daemon=True)
        try:
            start_thread(ending, "of the cache")
        except BlockingIOError:
            return PAUSE  # once there is a thread for it, or at exit
        self._ending = ending
        return math.inf if pause is None else pause

    def _retry(self, volume: EngineVolume, now: float) -> None:
        for file in volume.take_retries(now):
            next_retry: float | None = now + PAUSE
            try:
                times = failures.due(file, now), overdue.due(file, now)
                next_retry = min((at for at in times if at is not None), default=None)
            except BaseException:  # the other files have their turn
                fault("%s: %r: a retry met an error that should not get here", volume.name, file.key)
            if next_retry is not None:
                volume.retry_by(file, next_retry if next_retry > now else now + RECHECK)

    def _age(self, volume: EngineVolume, now: float) -> float:
        """Write back data older than dirty_expire, regardless of the thresholds; oldest first.

        It is treated like data of an fsync: marked, so that all of it is issued whichever pass gets the token, and
        ahead of other background work, file by file in turn. If only a commit makes bytes visible, age does not count:
        a write-back would protect nothing.
        """
        expire = volume.cache.config.dirty_expire
        delay = volume.cache.config.flush_interval
        if volume.backend.limits.commit_on_close:
            return delay
        ids, left = volume.native.aged(now, expire, TURN)
        stamp = volume.native.take_epoch() if ids else 0
        for file in volume.files_at(ids):
            file.refresh_limits()
            file.note_sent(stamp)
            file.age_anew()
            file.flush_start(stamp)
        return delay if left is None else min(delay, max(0.0, left))

    def _start_whole_units(self, volume: EngineVolume) -> float:
        """Send an object while it grows: each write unit as soon as all of it is dirty. Return the seconds until the
        next files are to be checked.
        """
        files = volume.some_aged(TURN)
        for file in files:
            unit = int(file.limits().write_unit)
            if 1 < unit <= file.usage()["dirty"]:
                file.refresh_limits()
                file.pass_background(_budget(file))
        return BUSY if len(files) == TURN else volume.cache.config.flush_interval

    def make_room(self, *, urgent: bool = False) -> None:
        """Start work that makes room: passes over the oldest dirty files, commits of the files with most unstable
        bytes.

        Args:
            urgent: a writer waits. Then all unstable bytes are committed, not only those above their share. If nothing
                else makes progress, partly dirty units are sent, where only commits make bytes visible: they leave
                memory for the spool.
        """
        cache = self._adopted or self._cache()
        volumes = [volume for volume in (cache._engine_volumes() if cache is not None else []) if not volume.aborted]
        if urgent:
            self._still = 0 if any(v.native.pressure().running for v in volumes) else self._still + 1
        partial = urgent and self._still >= STILL
        for volume in volumes:
            for file in volume.some_aged(TURN) if urgent or not volume.spills_first() else []:
                file.refresh_limits()
                file.pass_background(_budget(file), partial)
            if not volume.backend.limits.commit_on_close:
                self._commit_unstable(volume, 0 if urgent else volume.native.pressure().limit // 2)

    def _commit_unstable(self, volume: EngineVolume, allowed: int) -> float:
        """Commit files until no more than `allowed` bytes are acknowledged and uncommitted. Among the next files, those
        with most such bytes go first. Return the seconds until there is more to commit, or a failed commit may be
        retried.
        """
        total = volume.native.usage()["unstable"]
        if total <= allowed:
            return math.inf
        files = volume.some_dirty(TURN)
        unstable = sorted(((f.number("unstable"), k, f) for k, f in enumerate(files)), reverse=True)
        now, delay = self._clock.now(), BUSY if len(files) == TURN else math.inf
        for size, _, file in unstable:
            if total <= allowed or size == 0:
                break
            if now >= file.commits.not_before:
                file.start_commit()
            else:
                delay = min(delay, file.commits.not_before - now)
            total -= size
        return delay
