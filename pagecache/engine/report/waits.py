"""The waits of a cache: who waits for what, since when, and the call of a backend that it waits for.

    records (C, with Reasons of the engine)     waiter, awaited thing, file and range, start
    operations (C) and jobs of the volumes      calls of backends that run: thread, file and range, start

The call of a wait is the one that has run longest of those for the same bytes, or else for the same object, or, where
any call of the volume may end the wait, of the volume. A caller that makes a call of the backend itself (a read that
misses) waits for that call, and is in the report like the others.

No thread is stopped: what changes beside the report may be in it or not. Nothing in here waits.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from ... import native
from ...errors import Key
from ...native import OPERATIONS, WAITS, Operation, WaitRecord
from .reason import Reason

if TYPE_CHECKING:
    from ...cache import PageCache
    from ...stats import Wait, WaitOwner
    from ..volume import EngineVolume

SENDING = (OPERATIONS["commit"], OPERATIONS["write"])
CREDIT, ROOM, MEMORY, SYNC = (WAITS[name] for name in ("credit", "room", "memory", "sync"))
WHATS = {
    WAITS["folio"]: "a fill of {}",
    WAITS["flight"]: "a write of {} to end",
    WAITS["invalidate"]: "the end of a truncate or hole",
    WAITS["lock"]: "the file's lock",
    WAITS["lock_shared"]: "the file's lock, shared",
    WAITS["token"]: "the file's token",
    CREDIT: "a call more than the volume may have at once (max_inflight)",
}
"""Waits of C; the others have a Reason, or words."""


@dataclass(slots=True, eq=False)
class _Call:
    """A call of a backend that runs. `job`: the flusher reports it when it hangs."""

    what: str
    thread: int
    since: float
    volume: int
    file: int
    key: Key | None = None
    start: int = 0
    end: int = 0
    job: bool = False


_alone = threading.RLock()  # a fork waits for it, or the child would have it taken, and no garbage collection
os.register_at_fork(before=_alone.acquire, after_in_parent=_alone.release, after_in_child=_alone.release)


def current_frames() -> dict[int, FrameType]:
    """Return `sys._current_frames`, without garbage collection during the call.

    It holds a lock of the interpreter that starting and ending threads wait for with the GIL, and callbacks of the
    collector release the GIL: python/cpython#106883, fixed by 3.11.8 and 3.12.2 in this way.
    """
    with _alone:
        collects = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if collects:
                gc.enable()


class _Register:
    """The waits and calls of one moment."""

    def __init__(self, cache: PageCache) -> None:
        self.now = time.monotonic()
        self.volumes = {volume.native.address: volume for volume in cache._engine_volumes()}
        self.records = cache.native.waits()
        self._operations = native.operations(cache.native.core)
        self._names = {thread.ident: thread.name for thread in threading.enumerate()}
        self.frames = current_frames()
        self.calls = sorted(self._calls(), key=lambda call: call.since)
        # The innermost wait and call of each thread.
        self.sleeping = {r.thread: r for r in sorted(self.records, key=lambda r: r.since_ns) if r.task is None}
        own = (op for op in self._operations if op.in_call and not op.helper)
        self._own = {op.thread: op for op in own if op.kind not in SENDING}  # a wait for a sync is on record

    def _calls(self) -> Iterator[_Call]:
        for op in self._operations:
            if op.in_call or op.kind == OPERATIONS["commit"]:
                yield self._call(op)
        for address, volume in self.volumes.items():
            for job in volume.runner.running():
                if job.thread is not None and not job.finished():
                    yield _Call(
                        f"{job.what} of the backend", job.thread, job.began, address, job.file, job.key, job=True
                    )

    def _call(self, op: Operation) -> _Call:
        what = "a read of the spool" if op.staged else "a read of the backend"
        if op.kind in SENDING:
            what = f"a {'commit' if op.kind == OPERATIONS['commit'] else 'write'} of the backend"
        return _Call(what, op.thread, op.since_ns / 1e9, op.volume, op.inode, None, op.pos, op.end)

    def _key(self, volume: int, file: int) -> Key | None:
        found = self.volumes[volume].file(file) if file and volume in self.volumes else None
        return None if found is None else found.key

    def _awaited(self, record: WaitRecord, reason: Reason) -> _Call | None:
        """Return the call that a wait is for."""
        if reason.own is not None:
            return _Call(
                f"{reason.own} of the backend", record.thread, record.since_ns / 1e9, record.volume, reason.file
            )
        calls = [] if reason.timed else self.calls
        beside = [call for call in calls if call.volume == record.volume and call.thread != record.thread]
        same = [
            call
            for call in calls
            if (reason.file and call.file == reason.file) or (reason.key is not None and call.key == reason.key)
        ]
        overlap = [call for call in same if call.start < reason.end and reason.start < call.end]
        if record.kind in (ROOM, MEMORY):
            found = beside or calls
        elif reason.file and record.kind in (SYNC, WAITS["reason"]):
            found = overlap or same
        else:
            found = overlap or same or beside
        return found[0] if found else None

    def waits(self) -> Iterator[tuple[tuple[int, int, str], Wait, bool]]:
        """Yield start, thread and name; the wait; whether the flusher itself reports the awaited call."""
        for record in self.records:
            if self.sleeping.get(record.thread) is not record and record.task is None:
                continue  # an outer one of several
            if record.loop is not None and record.loop.is_closed():
                continue  # of a task that never goes on
            reason: Reason | str | None = record.reason
            if not isinstance(reason, Reason):
                found = self.volumes[record.volume].native if record.volume in self.volumes else None
                what = reason or WHATS[record.kind].format(_span(record.pos, record.end))
                key = self._key(record.volume, record.inode)
                reason = Reason(what, found, key, record.inode, record.pos, record.end)  # type: ignore[arg-type]
            call = self._awaited(record, reason)
            task = record.task is not None
            name = getattr(record.task, "get_name", lambda: "a task")() if task else self._name(record.thread)
            yield self._entry(record.thread, name, task, record.since_ns, record.volume, reason, call)
        for op in self._operations:
            record_of = self.sleeping.get(op.thread)
            asleep = record_of is not None and record_of.since_ns >= op.since_ns
            if op is self._own.get(op.thread) and not asleep:
                direct = op.kind == OPERATIONS["caller"]
                what = f"a {'direct read' if direct else 'fill'} of {_span(op.pos, op.end)}"
                native_volume = self.volumes[op.volume].native
                reason = Reason(what, native_volume, self._key(op.volume, op.inode), op.inode, op.pos, op.end)
                yield self._entry(
                    op.thread, self._name(op.thread), False, op.since_ns, op.volume, reason, self._call(op)
                )

    def _entry(
        self, thread: int, name: str, task: bool, since_ns: int, volume: int, reason: Reason, call: _Call | None
    ) -> tuple[tuple[int, int, str], Wait, bool]:
        from ...stats import Wait

        ranged = reason.start < reason.end
        wait = Wait(
            thread=thread,
            name=name,
            task=task,
            seconds=max(0.0, self.now - since_ns / 1e9),
            what=reason.what,
            volume=self.volumes[volume].name if volume in self.volumes else None,
            key=reason.key,
            file=reason.file or None,
            offset=reason.start if ranged else None,
            length=reason.end - reason.start if ranged else None,
            owner=None if call is None else self._owner(call),
        )
        return (since_ns, thread, name), wait, call is not None and call.job

    def _owner(self, call: _Call) -> WaitOwner:
        from ...stats import WaitOwner

        seconds = max(0.0, self.now - call.since)
        place = self._place(call.thread)
        return WaitOwner(what=call.what, thread=call.thread, name=self._name(call.thread), seconds=seconds, place=place)

    def _name(self, thread: int) -> str:
        return self._names.get(thread, f"thread {thread}")

    def _place(self, thread: int) -> str | None:
        """Return the line that a thread has reached in code of the backend; None: it is in none."""
        frame = self.frames.get(thread)
        while frame is not None and _package(frame) == "threading":
            frame = frame.f_back
        if frame is None or _package(frame) in ("pagecache", "asyncio", "selectors"):
            return None
        return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _span(start: int, end: int) -> str:
    return f"[{start}, {end})"


def report(cache: PageCache) -> list[Wait]:
    """Return the current waits, the longest first."""
    return [wait for _, wait, _ in sorted(_Register(cache).waits(), key=lambda entry: entry[0])]


def left_over(cache: PageCache) -> str | None:
    """Return a stale record of an ended wait, for `PageCache.check`. A wait that ends during the check is gone at the
    second look.
    """
    register = _Register(cache)
    found = {
        record.number
        for record in register.records
        if (record.thread not in register.frames if record.task is None else record.task.done())
    }
    left = next((record for record in cache.native.waits() if record.number in found), None)
    return None if left is None else f"the waiter is gone, and its wait is on record: {left}"


class LongWaits:
    """Reports each wait once that it has lasted `stall_warn` seconds. For the flusher.

    Waits for a call that the flusher itself reports (`Job`) are skipped. A wait that begins after a check is due after
    another `stall_warn` seconds at the earliest, so checks are as rare as that, and cost next to nothing without long
    waits.
    """

    def __init__(self) -> None:
        self._reported: set[tuple[int, int, str]] = set()
        self._next = 0.0

    def check(self, cache: PageCache) -> float:
        """Warn about due waits; return the seconds until the next check."""
        limit, now = cache.config.stall_warn, time.monotonic()
        self._next = min(self._next, now + limit)  # the limit may be smaller than it was
        if now < self._next:
            return self._next - now
        oldest = cache.native.waiting_since()
        self._next = (oldest or now) + limit
        if self._next <= now:
            self._next = now + self._warn(cache, limit)
        return self._next - now

    def _warn(self, cache: PageCache, limit: float) -> float:
        register, left = _Register(cache), limit
        volumes = {volume.name: volume for volume in register.volumes.values()}
        entries = sorted(register.waits(), key=lambda entry: entry[0])
        self._reported &= {identity for identity, _, _ in entries}
        for identity, wait, named in entries:
            if wait.seconds < limit:
                left = min(left, limit - wait.seconds)
            elif identity not in self._reported:
                self._reported.add(identity)
                if not named and wait.volume in volumes:
                    self._say(volumes[wait.volume], wait)
        return left

    def _say(self, volume: EngineVolume, wait: Wait) -> None:
        what = wait.what if wait.key is None else f"{wait.what} of {wait.key!r}"
        owner, call = wait.owner, "no call of the backend runs for it"
        if owner is not None:
            at = "" if owner.place is None else f", at {owner.place}"
            call = f"{owner.name} is in {owner.what} for {owner.seconds:.1f} s{at}"
        line = f"{wait.name} has waited {wait.seconds:.1f} s for {what}: {call}"
        volume.say(
            logging.WARNING,
            "waits, which PageCache.waits() lists,",
            line,
            "Volume.abort or an interrupt ends the waiting",
        )
