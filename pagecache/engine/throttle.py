"""Writers that must wait: for room below the dirty limit, or for memory.

Below the midpoint between `dirty_background` and `dirty_limit` no writer comes here. Above it a writer pauses, so that
its speed matches the measured speed of the backend; at the limit it queues, first come first served, until a
completion, a commit, a discard or a new limit makes room. No lock is held during these waits (except by an append,
whose lock frees no memory). The bytes that a writer may dirty are reserved in CORE before the write, and given back
there in any case.

If no running or possible operation would ever make room, the wait ends with ENOBUFS (contract 2.23, 2.24).
"""

from __future__ import annotations

import errno
import gc
import math
import threading
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

from .. import native
from ..errors import PageCacheError, WritebackError
from ..native import WAITS, Pressure
from . import failures
from .commit import overdue
from .park import SLICE, Deadline
from .report.reason import during, of_file

if TYPE_CHECKING:
    from .file import EngineFile
    from .volume import EngineVolume

HOPELESS_CHECKS_MAX = 20
"""Checks without any possible progress during a wait before it is given up: the flusher has had its turn by then.
Only the first writer in line checks, so each writer also counts the checks of the writers before it."""

PAUSE_MIN, PAUSE_MAX = 0.010, 0.200
"""Seconds of one pause."""

WINDOW_MIN, WINDOW_MAX, MEMORY = 0.05, 0.5, 0.5
"""A rate is measured over so many seconds, and decays over about as many. A longer interval contains idle time."""

VISITS_MAX = 64
"""Files that one check visits: those whose bytes may be beyond write-back."""

FLOORS = 8
"""One part in so many of the limit is kept for volumes without completions."""


class Pace:
    """The completions of a volume: bytes a second, and a recent total for comparison with other volumes."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self.done = 0.0
        self.share = (0, 0)
        self._acked = 0
        self._since: float | None = None

    def sample(self, pressure: Pressure, now: float) -> None:
        """Measure the bytes acknowledged since the last call."""
        if self._since is None:
            self._since = now
        elapsed = now - self._since
        if elapsed < WINDOW_MIN:
            return
        fresh = pressure.acked - self._acked
        self.done += fresh
        if elapsed <= WINDOW_MAX and (fresh or pressure.running):
            rate = fresh / elapsed
            weight = elapsed / (elapsed + MEMORY)
            self.rate = rate if self.rate is None else self.rate + (rate - self.rate) * weight
        self._acked, self._since = pressure.acked, now

    def pause(self, length: int, pressure: Pressure) -> tuple[float, int]:
        """Return how long a writer of `length` bytes pauses, and how much may be dirtied before the next pause.

        At the limit all writers together become as fast as completions are; half way they are twice as fast.
        """
        if self.rate is None:
            return PAUSE_MIN, length
        speed = max(self.rate, 1.0) * 1000 / (max(pressure.position, 1) * max(pressure.throttled, 1))
        seconds = length / speed
        if seconds < PAUSE_MIN:
            return PAUSE_MIN, int(PAUSE_MIN * speed)
        return min(seconds, PAUSE_MAX), length


class Stall:
    """A detector of calls that never end."""

    def __init__(self) -> None:
        self._answers = -1
        self._since = 0.0
        self._reported = False

    def check(self, pressure: Pressure, now: float, limit: float) -> tuple[bool, float]:
        """Return whether to report now that nothing ended for `limit` seconds, and the time of the next check."""
        if not pressure.running or pressure.answers != self._answers:
            self._answers, self._since, self._reported = pressure.answers, now, False
        left = self._since + limit - now
        if not pressure.running or self._reported:
            return False, limit
        self._reported = left <= 0
        return self._reported, left if left > 0 else limit


class Outage:
    """A detector of calls that fail for long and are made again. Failures that are less than `apart` seconds apart are
    one outage, which is reported once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = -math.inf

    def begins(self, now: float, apart: float) -> bool:
        """Record a call that has failed for long; return whether an outage begins with it."""
        with self._lock:
            begins, self._last = now - self._last > apart, now
            return begins


def divide(volumes: list[EngineVolume], limit: int) -> None:
    """Set each volume's share of the limit: a floor and the bytes that it withholds, which no other one can take, and
    a part of the rest by its recent completions. The shares add up to the limit, unless the volumes withhold more.
    """
    if not volumes:
        return
    floor = _floor(limit, len(volumes))
    total = sum(volume.pace.done for volume in volumes)
    rest = max(0, limit - floor * len(volumes) - sum(volume.withheld_bytes for volume in volumes))
    for volume in volumes:
        part = volume.pace.done / total if total else 1 / len(volumes)
        least = floor + volume.withheld_bytes
        share = min(least + int(rest * part), int(limit * volume.dirty_share))
        old, old_least = volume.pace.share
        # Small changes are not worth waking every writer.
        if abs(share - old) > old // 64 or least != old_least:
            volume.pace.share = (share, least)
            volume.native.set_dirty_limit(share, min(least, share))
        if total > limit:
            volume.pace.done /= 2  # old completions decay


def _floor(limit: int, volumes: int) -> int:
    return limit // (FLOORS * volumes)


def sure_room(volume: EngineVolume) -> int:
    """Return how many bytes of a volume may be dirty for as long as they are, whatever other volumes complete."""
    limit, volumes = volume.cache.limits.dirty_limit, len(volume.cache._engine_volumes())
    return min(limit if volumes == 1 else _floor(limit, volumes), int(limit * volume.dirty_share))


def _check_failed(file: EngineFile) -> None:
    """Raise the error of a file with failed data above failed_limit, for new writes to it (contract 2.16). Not if
    memory is had by `spill`: then the disk has the bytes, and a store that is down keeps no writer.
    """
    if not len(file.failures) or not file.number("failed") or file.volume.spills_first():
        return
    with file.lock:
        worst = failures.worst(file)
    if worst is None:
        return
    failed = sum(length for _, length in file.failed_ranges())
    if failed > file.volume.cache.limits.failed_limit:
        raise WritebackError(
            f"write refused: {failed} bytes of this file could not be written back: {worst.message}",
            file.key,
            errno=worst.errno,
            ranges=failures.failed_ranges(file),
        )
    file.resume_parked()


class Kept:
    """The bytes of a volume that write-back does not make clean, though it may try: they have failed for good, are in
    conflict, were recovered and are held, or belong to an object that has lost the name under which they would be
    stored.

    A check visits at most `VISITS_MAX` files, in turn, and takes the others as it has found them. So the sum may be too
    small for a while: writers wait longer then. It is too large only if bytes have become clean, which makes room.

    Lock: `_lock`, a leaf; re-entrant: a signal handler may write in between, and visit. The sum changes with its parts,
    without a call in between, after which CPython would handle signals.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[EngineFile, int] = OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()

    def add(self, file: EngineFile) -> None:
        """Have a file visited that may have such bytes; called after the reason for it is recorded there."""
        with self._lock:
            self._files.setdefault(file, 0)

    def forget(self, file: EngineFile) -> None:
        with self._lock:
            if file in self._files:
                self._bytes -= self._files[file]
                del self._files[file]

    def has_withheld(self) -> bool:
        """Return whether one of the files visited last, or next, is withheld. Cost: O(VISITS_MAX)."""
        with self._lock:
            return any(file.withheld for file in list(islice(reversed(self._files), VISITS_MAX)))

    def visit(self) -> int:
        """Return the sum. Cost: O(VISITS_MAX)."""
        with self._lock:
            for file in list(islice(self._files, VISITS_MAX)):
                kept = _kept_of(file)
                if file not in self._files:
                    continue  # a signal handler has had it forgotten
                self._bytes += (kept or 0) - self._files[file]
                if kept is None:
                    del self._files[file]
                else:
                    self._files[file] = kept
                    self._files.move_to_end(file)
            return self._bytes


def _kept_of(file: EngineFile) -> int | None:
    """Return the bytes of a file that write-back does not make clean; None: it has no reason to have any.

    In conflict that is everything, until `resolve`: what was written to a folio after its bytes had failed is never
    tried. After a commit that has failed for good it is everything, too: acknowledged bytes are sent again for each.
    """
    commits = file.commits
    disputed = file.conflict is not None or (commits.parked and commits.error is not None and overdue.stands(file))
    aside, tried = file.is_cut_off() or file.withheld, file.failures.hopeless
    if file.freed or not (disputed or aside or len(file.failures) or commits.error is not None):
        return None
    usage = file.usage()
    if aside:
        return max(0, usage["local"] - usage["write_pinned"])
    unsaved = max(0, _unsaved(usage, file.volume.backend.limits.commit_on_close) - usage["write_pinned"])
    return unsaved if disputed else min(unsaved, tried)


def _can_move(volume: EngineVolume, usage: dict[str, int], kept: int) -> bool:
    """Return whether write-back or a commit, including a running one, will clean any bytes.

    Bytes of writable views do not count: they are dirty until the views are released, however often they are sent and
    committed. Nor do the `kept` ones.
    """
    whole = volume.backend.limits.commit_on_close
    return _unsaved(usage, whole) > max(usage["failed"], kept) + usage["write_pinned"]


def _unsaved(usage: dict[str, int], whole: bool) -> int:
    """Return the bytes in memory that write-back or a commit without a request may clean."""
    return max(usage["dirty"], usage["local"] - (usage["unstable"] if whole else 0))


def _failures(usages: list[dict[str, int]]) -> int:
    """Return a number that grows with each failed write-back or commit."""
    return sum(usage["returned"] + usage["failed_commits"] for usage in usages)


def _hopeless(file: EngineFile, length: int, before: int) -> str | None:
    """Return why no running or possible operation will make room for `length` bytes, or memory for 0; None: one may.

    Running retries of bytes that have failed for good may, until one of them has failed: `before` is the result of
    `_failures` when the wait began.
    """
    memory = length == 0
    volumes = file.volume.cache._engine_volumes()
    usages = [(volume, volume.native.usage()) for volume in volumes]
    if any(volume.settling for volume in volumes if not volume.aborted):
        return None
    unfailed = _failures([usage for _, usage in usages]) == before
    if unfailed and any(_runs(volume, usage, memory) for volume, usage in usages):
        return None
    held = 0
    if memory:
        # A folio that is being filled counts as clean: its bytes will be reclaimable memory soon.
        clean = sum(u["clean"] - u["pinned"] + u["write_pinned"] for _, u in usages)
        held = file.volume.cache.native.held()
        if clean > held:
            return None
    kept = {volume: volume.kept.visit() for volume in volumes}
    own = kept.get(file.volume, 0)
    fits = not own or own + length <= file.volume.native.pressure().limit  # when all others are clean
    if fits and any(_can_move(volume, usage, kept[volume]) for volume, usage in usages):
        return None
    if unfailed and sum(u["writeback"] - u["write_pinned"] for _, u in usages) > 0:
        return None
    cut_off = any(volume.cut_off for volume in volumes)
    if any(volume.kept.has_withheld() for volume in volumes):
        return "recovered files fill it, which are held until Volume.resume"
    failed = sum(u["failed"] for _, u in usages) or (0 if cut_off else sum(kept.values()))
    if failed:
        return f"{failed} bytes could not be written back and are kept until that succeeds (Volume.failed)"
    if cut_off:
        return "what fills it belongs to objects that have lost their names, and goes when they are closed"
    if any(u["unstable"] for volume, u in usages if volume.backend.limits.commit_on_close):
        return (
            "what fills it becomes durable only when its objects are closed or synced, and leaves memory before only"
            " with a spool: attach(spool=...)"
        )
    if held:
        return f"{held} bytes are held by calls that do not return, and by slices of buffers that are still referenced"
    return "what fills it is pinned by views"


def _runs(volume: EngineVolume, usage: dict[str, int], memory: bool) -> bool:
    """Return whether a call that may make room runs. One that carries bytes holds its memory, and a commit cleans no
    bytes of writable views.
    """
    requests = volume.native.inflight()
    commits = volume.native.pressure().running > requests and usage["local"] > usage["write_pinned"]
    return commits or (requests > 0 and not memory)


class Checks:
    """Checks for possible progress by the writers in line of a volume: the number that found none, and how many of them
    were made before the last one that found some.
    """

    def __init__(self) -> None:
        self.hopeless = self.answered = 0

    def count(self, *, hopeless: bool) -> None:
        if hopeless:
            self.hopeless += 1
        else:
            self.answered = self.hopeless

    def since(self, began: int) -> int:
        """Return the number of checks since `began`, a former value of `hopeless`, and since the last progress."""
        return self.hopeless - max(began, self.answered)


class _Wait:
    """One writer's wait, with the conditions that end it."""

    def __init__(self, file: EngineFile, *, inside: bool, memory: bool, locked: bool) -> None:
        self.file, self.locked = file, locked
        self.inside, self.memory = inside, memory
        self.volume, self.cache = file.volume, file.volume.cache
        self.deadline = Deadline(self.volume.clock, self.cache.config.throttle_timeout)
        self._failures: int | None = None
        self._checks = Checks() if inside or memory else self.volume.checks  # all writers that wait for memory check
        self._began = self._checks.hopeless

    def check(self) -> int:
        """Raise if the wait has to end; return the event's number to sleep on."""
        self.volume.check_alive(self.file.key)
        self.volume.check_unsealed(self.file.key)
        _check_failed(self.file)
        return self.cache.native.event_seq()

    def make_room(self, length: int) -> bool:
        """Start work that makes room for so many bytes, or memory for 0; return whether it may succeed.

        Raises:
            PageCacheError: ENOBUFS: it could not for long enough.
        """
        self.cache.flusher.make_room(urgent=True)
        if self._failures is None:
            self._failures = _failures([volume.native.usage() for volume in self.cache._engine_volumes()])
        why = _hopeless(self.file, length, self._failures)
        if self.inside and why is None:
            why = "this write comes from inside a backend call, which what fills it may wait for"
        self._checks.count(hopeless=why is not None)
        found = self._checks.since(self._began)
        if self.memory and found == HOPELESS_CHECKS_MAX // 2:
            # Views and errors in reference cycles hold memory, and a waiting thread makes no objects that would start
            # the collector.
            gc.collect()
        if why and found >= HOPELESS_CHECKS_MAX:
            raise PageCacheError(f"the cache is full: {why}", self.file.key, errno=errno.ENOBUFS)
        return why is None

    def sleep(self, seq: int, most: float) -> None:
        if self.deadline.passed():
            message = "throttled: no room for dirty data within throttle_timeout"
            raise BlockingIOError(errno.EAGAIN, message, self.file.key)
        self.volume.park.wait("cache", self.cache.native.address, seq, min(self.deadline.left(), most))

    def pause(self, length: int, place: int) -> bool:
        """Pause between midpoint and limit. There is room: the deadline makes the pause shorter, without an error.

        Return whether the place has its reservation.
        """
        pressure = self.volume.native.pressure()
        now = self.volume.clock.now()
        seconds, grant = self.volume.pace.pause(length, pressure)
        if self._paused(now + seconds, place):
            return True
        self.volume.native.grant(grant)
        return self.file.room_take(place, True)

    def _paused(self, until: float, place: int) -> bool:
        """Sleep; return whether the place got its reservation in that time."""
        while (left := until - self.volume.clock.now()) > 0 and not self.deadline.passed():
            seq = self.check()
            if self.file.room_take(place):
                return True
            self.volume.park.wait("cache", self.cache.native.address, seq, min(left, self.deadline.left()))
        return False

    def for_room(self, length: int, place: int) -> None:
        while True:
            seq = self.check()
            if self.file.room_take(place):
                return
            if self.volume.spill(self.file, locked=self.locked):
                continue
            if self.file.room_fits(place):
                if self.pause(length, place):
                    return
            elif not self.file.line_first(place):
                self.sleep(seq, SLICE)
            else:
                hope = self.make_room(length)
                if self.file.room_take(place):
                    return
                self.sleep(seq, SLICE if hope else PAUSE_MIN)

    def for_memory(self) -> None:
        while True:
            seq = self.check()
            hope = self.volume.spill(self.file, locked=self.locked) or self.make_room(0)
            self.sleep(seq, SLICE if hope else PAUSE_MIN)
            if hope:
                return


def room(self: EngineFile, pos: int, length: int, place: int, locked: bool) -> None:
    """Wait until the reservation of the place is granted, for [pos, pos + length); place 0: until memory may be free.
    `locked`: the caller has the inode lock.

    Raises:
        BlockingIOError: throttle_timeout passed.
        PageCacheError: ENOBUFS: no operation can ever make room.
        WritebackError: the file's failed data is above failed_limit.
    """
    _check_failed(self)
    inside = bool(native.inside())  # a backend call that waits for room may be the call that makes it (contract 2.25)
    if place and (inside or self.room_take(place)):
        return
    began = self.volume.clock.now()
    try:
        wait = _Wait(self, inside=inside, memory=not place, locked=locked)
        if place:
            reason = of_file(self, f"room for {length} bytes", start=pos, end=pos + length, kind=WAITS["room"])
            during(reason, lambda: wait.for_room(length, place))
        else:
            during(of_file(self, "memory", kind=WAITS["memory"]), wait.for_memory)
    finally:
        self.count("throttled_ns", int((self.volume.clock.now() - began) * 1e9))
