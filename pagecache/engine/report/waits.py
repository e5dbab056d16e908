"""Chains of waits: the report, and the warnings about long waits.

Each wait is followed to its owner, from the owner to the thing that the owner waits for, and so on: down to a running
call of a backend, to nothing, or back to an earlier wait of the chain. A caller that makes a call of the backend itself
(a read that misses) waits for that call, and is in the report like the waiters for calls of others.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeAlias

from ... import native
from ...native import Operation, WaitRecord
from .reason import ENDS, Reason
from .wait_snapshot import CALLER, Owner, WaitSnapshot, of, span

if TYPE_CHECKING:
    from ...stats import Wait, WaitOwner
    from ..volume import EngineCache

__all__ = ["LongWaits", "left_over", "report"]

log = logging.getLogger("pagecache")

DEEPEST = 32
"""Maximum sentences of a chain."""
WARNINGS, PERIOD = 10, 60.0
"""Maximum warnings about single waits in so many seconds; one line has the number of the others."""
OWN = "it goes on with what the call answers or raises; Volume.abort does not end the call"


Entry: TypeAlias = "tuple[tuple[int, int, str], Wait, bool]"
"""Start, thread and name; the wait; whether the flusher itself reports the awaited call."""


def report(cache: EngineCache) -> list[Wait]:
    """Return the current waits, the longest first."""
    return [wait for _, wait, _ in _entries(cache)]


def _entries(cache: EngineCache) -> list[Entry]:
    snapshot = WaitSnapshot(cache)
    found: list[Entry] = []
    for record in snapshot.records:
        if _stands(snapshot, record):
            wait = _wait(snapshot, record)
            named = record.reason is not None and record.reason.named()
            found.append(((record.since_ns, record.thread, wait.name), wait, named))
    for op in snapshot.operations:
        if op is snapshot.calling(op.thread):
            wait = _own_call(snapshot, op)
            found.append(((op.since_ns, op.thread, wait.name), wait, False))
    return sorted(found, key=lambda entry: entry[0])


def left_over(cache: EngineCache) -> str | None:
    """Return a stale record of an ended wait, for `PageCache.check`. A wait that ends during the check is gone at the
    second snapshot.
    """
    snapshot = WaitSnapshot(cache)
    found = {
        record.number: f"wait for {snapshot.what(record)}: {why}"
        for record in snapshot.records
        if (why := _over(snapshot, record))
    }
    return next((found[record.number] for record in native.waits(cache.native.core) if record.number in found), None)


def _over(snapshot: WaitSnapshot, record: WaitRecord) -> str | None:
    """Return why a record cannot be of a current wait."""
    if record.task is None:
        return "its thread has ended" if snapshot.ended(record.thread) else None
    return f"{record.task!r} is over" if record.task.done() else None


def _stands(snapshot: WaitSnapshot, record: WaitRecord) -> bool:
    """Return whether a thread sleeps in the wait itself: not an outer one of several, nor that of a task whose loop is
    gone.
    """
    if record.task is None:
        return snapshot.sleeping(record.thread) is record
    return record.loop is None or not record.loop.is_closed()


def _wait(snapshot: WaitSnapshot, record: WaitRecord) -> Wait:
    from ...stats import Wait

    reason: Reason | None = record.reason
    owner, name, what = snapshot.owner(record), snapshot.waiter(record), snapshot.what(record)
    if reason is None:
        key, file, start, end = snapshot.key(record.volume, record.inode), record.inode, record.pos, record.end
    else:
        key, file, start, end = reason.key, reason.file, reason.start, reason.end
    volume = snapshot.volumes.get(record.volume)
    return Wait(
        thread=record.thread,
        name=name,
        task=record.task is not None,
        seconds=max(0.0, snapshot.now - record.since_ns / 1e9),
        what=what,
        volume=None if volume is None else volume.name,
        key=key,
        file=file or None,
        offset=start if start < end else None,
        length=end - start if start < end else None,
        owner=_public(snapshot, owner),
        chain=_chain(snapshot, f"{name} waits for {what}{of(key)}", {record.number}, owner),
        next=ENDS if reason is None else reason.ends,
    )


def _own_call(snapshot: WaitSnapshot, op: Operation) -> Wait:
    from ...stats import Wait

    owner, name, key = snapshot.call(op), snapshot.name(op.thread), snapshot.key(op.volume, op.inode)
    what = f"a {'direct read' if op.kind == CALLER else 'fill'} of {span(op.pos, op.end)}"
    volume = snapshot.volumes.get(op.volume)
    return Wait(
        thread=op.thread,
        name=name,
        seconds=max(0.0, snapshot.now - op.since_ns / 1e9),
        what=what,
        volume=None if volume is None else volume.name,
        key=key,
        file=op.inode,
        offset=op.pos,
        length=op.end - op.pos,
        owner=_public(snapshot, owner),
        chain=(f"{name} waits for {what}{of(key)}", snapshot.sentence(owner)),
        next=OWN,
    )


def _public(snapshot: WaitSnapshot, owner: Owner | None) -> WaitOwner | None:
    from ...stats import WaitOwner

    if owner is None:
        return None
    if owner.thread is None:
        return WaitOwner(what=owner.does)
    since = None if owner.since is None else max(0.0, snapshot.now - owner.since)
    return WaitOwner(what=owner.what, thread=owner.thread, name=snapshot.name(owner.thread), seconds=since)


def _chain(snapshot: WaitSnapshot, first: str, seen: set[int], owner: Owner | None) -> tuple[str, ...]:
    """Yield the sentences from the waiter down; `seen`: their waits."""
    lines = [first]
    while owner is not None and len(lines) < DEEPEST:
        lines.append(snapshot.sentence(owner))
        if owner.thread is None:
            owner = owner.behind
            continue
        record = snapshot.sleeping(owner.thread, owner.since)
        if record is None:
            inner = snapshot.calling(owner.thread)
            if inner is None or inner is owner.op or owner.op is None:
                break
            owner = snapshot.call(inner)
            continue
        reason: Reason | None = record.reason
        key = snapshot.key(record.volume, record.inode) if reason is None else reason.key
        line = f"{snapshot.waiter(record)} waits for {snapshot.what(record)}{of(key)}"
        if record.number in seen:
            lines.append(f"{line}: a cycle of waits, which no thread can end")
            break
        seen.add(record.number)
        lines.append(line)
        owner = snapshot.owner(record)
    return tuple(lines)


class LongWaits:
    """Reports each wait once that it has lasted `stall_warn` seconds. For the flusher.

    Waits for a call that the flusher itself reports (`Job`) are skipped. A wait that begins after a check is due after
    another `stall_warn` seconds at the earliest, so checks are as rare as that, and cost next to nothing without long
    waits.
    """

    def __init__(self) -> None:
        self._reported: set[tuple[int, int, str]] = set()
        self._next = 0.0
        self._period = 0.0
        self._left = WARNINGS
        self._more = 0

    def check(self, cache: EngineCache) -> float:
        """Warn about due waits; return the seconds until the next check."""
        limit, now = cache.config.stall_warn, time.monotonic()
        self._next = min(self._next, now + limit)  # the limit may be smaller than it was
        if now < self._next:
            return self._next - now
        if now >= self._period + PERIOD:
            self._say_more(limit)
            self._period, self._left = now, WARNINGS
        oldest = native.waiting_since(cache.native.core)
        self._next = (oldest or now) + limit
        if self._next <= now:
            self._next = now + self._warn(cache, limit)
        return self._next - now

    def _warn(self, cache: EngineCache, limit: float) -> float:
        entries, left = _entries(cache), limit
        self._reported &= {identity for identity, _, _ in entries}
        for identity, wait, named in entries:
            if wait.seconds < limit:
                left = min(left, limit - wait.seconds)
            elif identity not in self._reported:
                self._reported.add(identity)
                if not named:
                    self._say(wait)
        if self._left == 0 and self._more:
            self._left = -1  # later warnings are counted until the period is over
            self._say_more(limit)
        return left

    def _say(self, wait: Wait) -> None:
        if self._left <= 0:
            self._more += 1
            return
        self._left -= 1
        why = "; ".join(wait.chain[1:]) or "no thread has it"
        what = wait.what + of(wait.key)
        log.warning(
            "%s: %s has waited %.1f s for %s: %s; %s", wait.volume, wait.name, wait.seconds, what, why, wait.next
        )

    def _say_more(self, limit: float) -> None:
        if self._more:
            log.warning("%d more waits have lasted %g seconds; PageCache.waits() lists them", self._more, limit)
        self._more = 0
