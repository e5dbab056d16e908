"""The state of a cache at one moment, for reports of waits.

    records (C, with Reasons of the engine)     waiter, awaited thing, start of the wait
    operations (C), jobs of the volumes         threads that run a call of a backend, or hold a lock
    names and places of the threads             identity of the threads

A WaitSnapshot is taken without stopping any thread: concurrent changes may or may not be in it. For the owner of an
awaited thing it uses only this snapshot and, for the token, the file. A thing without a thread is unowned, with the
obstacle that it waits behind. Nothing in here waits, and nothing that it reports on calls it.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from ... import native
from ...errors import Key
from ...native import INVALIDATE as INVALIDATE_LOCK
from ...native import LOCK, OPERATIONS, SHARED, TOKEN, TOKENS, WAITS, Operation, WaitRecord

if TYPE_CHECKING:
    from ..file import EngineFile
    from ..runner import Job
    from ..volume import EngineCache
    from .reason import Reason

__all__ = ["Owner", "WaitSnapshot", "current_frames", "of", "span", "unowned"]

FOLIO, FLIGHT, INVALIDATE, EXCLUSIVE, SHARE, TOKEN_WAIT, CREDIT = (
    WAITS[name] for name in ("folio", "flight", "invalidate", "lock", "lock_shared", "token", "credit")
)
"""Kinds of waits of C; the others have a Reason."""
FILL, UNCACHED, WRITE, COMMIT, CALLER = (OPERATIONS[name] for name in ("fill", "uncached", "write", "commit", "caller"))
"""Kinds of operations."""
STRAY = TOKENS["stray"]
"""The token of an abandoned call."""
COARSE = 0.01
"""Seconds by which the clock of operations may be behind that of records."""

WHATS = {
    INVALIDATE: "the end of a truncate or hole",
    EXCLUSIVE: "the file's lock",
    SHARE: "the file's lock, shared",
    TOKEN_WAIT: "the file's token",
    CREDIT: "a call more than the volume may have at once (max_inflight)",
}
VERBS = {
    "write": "a write",
    "append": "an append",
    "zero_range": "a zero_range",
    "view": "a writable view",
    "truncate": "a truncate",
    "punch": "a hole",
    "drop_local": "a discard",
    "direct_write": "a direct write",
    "direct_read": "a direct read",
    "cut_views": "the end of its views",
    "holding": "a detach",
    "lending": "a rename",
}
"""The purpose of an operation's locks, by the method of the engine or the verb of the handle."""


@dataclass(slots=True, eq=False)
class Owner:
    """The owner of an awaited thing.

    Attributes:
        what: its activity, as a noun.
        does: its activity, as the end of a sentence that begins with its name; a whole sentence if it is not a thread.
        thread, since: None: no thread owns it.
        behind: the obstacle of a thing without a thread.
        method: of the backend whose code the thread is in: its position is worth reporting.
        op: its operation, if there is one.
    """

    what: str
    does: str
    thread: int | None = None
    since: float | None = None
    behind: Owner | None = None
    method: str | None = None
    op: Operation | None = None


def unowned(does: str, behind: Owner | None = None) -> Owner:
    return Owner("no thread", does, behind=behind)


def span(start: int, end: int) -> str:
    return f"[{start}, {end})"


def of(key: Key | None) -> str:
    return "" if key is None else f" of {key!r}"


def _meets(op: Operation, record: WaitRecord) -> bool:
    return op.start < record.end and record.pos < op.stop


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _line(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


_alone = threading.Lock()


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


class WaitSnapshot:
    """A snapshot; see the top of this file."""

    def __init__(self, cache: EngineCache) -> None:
        self.now = time.monotonic()
        self.records = native.waits(cache.native.core)
        self.operations = native.operations(cache.native.core)
        self.volumes = {volume.native.address: volume for volume in cache._engine_volumes()}
        self._names = {thread.ident: thread.name for thread in threading.enumerate()}
        self._frames = current_frames()
        self._sleeping: dict[int, WaitRecord] = {}
        for record in sorted(self.records, key=lambda record: record.since_ns):
            if record.task is None:
                self._sleeping[record.thread] = record
        # In the order of creation: the last one of a thread is the innermost.
        self._calling = {op.thread: op for op in self.operations if op.in_call and not op.helper}

    # -- threads and places

    def name(self, thread: int) -> str:
        return self._names.get(thread, f"thread {thread}")

    def ended(self, thread: int) -> bool:
        return thread not in self._frames

    def file(self, volume: int, inode: int) -> EngineFile | None:
        found = self.volumes.get(volume)
        return None if found is None or not inode else found.file(inode)

    def key(self, volume: int, inode: int) -> Key | None:
        file = self.file(volume, inode)
        return None if file is None else file.key

    def sleeping(self, thread: int, since: float | None = None) -> WaitRecord | None:
        """Return the innermost wait of a thread, if it began after `since`."""
        record = self._sleeping.get(thread)
        if record is None or (since is not None and record.since_ns / 1e9 < since - COARSE):
            return None
        return record

    def calling(self, thread: int) -> Operation | None:
        """Return the innermost backend call that a caller's thread makes itself, unless it sleeps in a wait inside of
        it.
        """
        op = self._calling.get(thread)
        return None if op is None or self.sleeping(thread, op.since_ns / 1e9) else op

    def place(self, thread: int, method: str) -> str:
        """Return the position of a thread in code of the backend: the innermost line, and that of the called method."""
        frame = self._frames.get(thread)
        while frame is not None and _package(frame) == "threading":
            frame = frame.f_back
        if frame is None or _package(frame) == "pagecache":
            return ""
        at = _line(frame)
        while frame is not None and frame.f_code.co_name != method:
            frame = frame.f_back
        return f", at {at}" if frame is None or _line(frame) == at else f", at {at}, from {_line(frame)}"

    # -- activity of an operation, a job or a volume

    def call(self, op: Operation) -> Owner:
        """Return the owner for an operation that makes calls of the backend."""
        key, since = self.key(op.volume, op.inode), op.since_ns / 1e9
        if op.kind == COMMIT:
            what, does = "a commit of the backend", f"is in commit{of(key)}"
            return Owner(what, does, op.thread, since, method="commit", op=op)
        if op.kind == WRITE:
            what, method = "a write of the backend", "write_from"
        elif op.staged:
            what, method = "a read of the spool", "read_staged"
        else:
            what, method = "a read of the backend", "read_into"
        does = f"{'is in' if op.in_call else 'is between calls of'} {method}{of(key)} {span(op.pos, op.end)}"
        return Owner(what, does, op.thread, since, method=method if op.in_call else None, op=op)

    def holder(self, op: Operation) -> Owner:
        """Return the owner for an operation that holds a lock of its file."""
        verb = VERBS.get(op.what or "", op.what or "a change")
        what = f"{verb} of {span(op.start, op.stop)}" if op.start < op.stop else verb
        key, since = self.key(op.volume, op.inode), op.since_ns / 1e9
        if not op.left:
            return Owner(what, f"has{of(key).replace(' of', '')} locked for {what}", op.thread, since)
        return Owner(
            what, f"{what}{of(key)} was left by its caller while its calls run", behind=self.at_work(op.volume, key)
        )

    def job(self, job: Job[Any]) -> Owner | None:
        """Return the owner that runs a job; None: it is over."""
        if job.finished():
            return None
        what, does = f"{job.what} of the backend", f"{job.what}{of(job.key)}"
        if job.thread is not None:
            return Owner(what, f"is in {does}", job.thread, job.began, method=job.what)
        return Owner(
            what, f"no thread has begun {does}", behind=None if job.volume is None else self.busy(job.volume.address)
        )

    def at_work(self, volume: int, key: Key | None) -> Owner | None:
        """Return the owner of a running job for an object."""
        engine = self.volumes.get(volume)
        for job in [] if engine is None else engine.runner.running():
            if job.key == key:
                return self.job(job)
        return None

    def busy(self, volume: int) -> Owner | None:
        """Return the longest running activity of a volume."""
        found = [self.call(op) for op in self.operations if op.volume == volume and (op.in_call or op.kind == COMMIT)]
        engine = self.volumes.get(volume)
        for job in [] if engine is None else engine.runner.running():
            owner = None if job.thread is None else self.job(job)  # waits itself
            if owner is not None:
                found.append(owner)
        return min(found, key=lambda owner: owner.since or self.now, default=None)

    # -- owners of awaited things

    def owner(self, record: WaitRecord) -> Owner | None:
        if record.reason is not None:
            reason: Reason = record.reason
            return reason.owner(self)
        if record.kind == FOLIO:
            return self._fill(record)
        if record.kind in (EXCLUSIVE, SHARE):
            return self._lock(record.inode, LOCK | SHARED) or unowned("it is free by now, or a write is copying")
        if record.kind == INVALIDATE:
            return self._lock(record.inode, INVALIDATE_LOCK)
        if record.kind == CREDIT:
            return self.busy(record.volume)
        sent = next((op for op in self._of(record.inode, WRITE) if _meets(op, record)), None)
        if record.kind == FLIGHT and sent is not None:
            return self.call(sent)
        file = self.file(record.volume, record.inode)
        return None if file is None else self.token(file)

    def _of(self, inode: int, *kinds: int) -> list[Operation]:
        """Return operations of a file, oldest first."""
        found = [op for op in self.operations if op.inode == inode and op.kind in kinds]
        return sorted(found, key=lambda op: op.since_ns)

    def _fill(self, record: WaitRecord) -> Owner | None:
        for op in self._of(record.inode, FILL):
            if op.request == record.request or (not record.request and _meets(op, record)):
                return self.call(op)
        if record.request:
            return unowned("no thread has begun that read", self.busy(record.volume))
        return self._lock(record.inode, LOCK) or unowned("it is free by now, or being copied to")

    def _lock(self, inode: int, which: int) -> Owner | None:
        held = [op for op in self._of(inode, CALLER) if op.holds & which]
        if not held:
            return None
        owner = self.holder(held[0])
        if len(held) > 1:
            owner.does += f", beside {len(held) - 1} more"
        return owner

    def lock(self, file: EngineFile) -> Owner | None:
        """Return the holder of the lock of a file, or one that shares it; None: it is free."""
        return self._lock(file.native.id, LOCK | SHARED)

    def token(self, file: EngineFile) -> Owner | None:
        """Return the holder of the token of a file, or its obstacle; None: it is free."""
        inode, volume = file.native.id, file.volume.native.address
        calls = self._of(inode, COMMIT) or self._of(inode, WRITE)
        if calls:
            return self.call(calls[0])
        held = self._lock(inode, TOKEN)
        if held is not None:
            return held
        token = file.native.locks()["token"]
        if token == STRAY:
            return unowned(f"a call on {file.key!r} that was left behind still runs", self.at_work(volume, file.key))
        return unowned(f"no thread has begun the next call on {file.key!r}", self.busy(volume)) if token else None

    # -- texts

    def what(self, record: WaitRecord) -> str:
        if record.reason is not None:
            reason: Reason = record.reason
            return reason.what
        where = span(record.pos, record.end)
        if record.kind == FLIGHT:
            return f"a write of {where} to end"
        if record.kind == FOLIO:
            filled = record.request or any(_meets(op, record) for op in self._of(record.inode, FILL))
            return f"a fill of {where}" if filled else f"the page {where}"
        return WHATS[record.kind]

    def waiter(self, record: WaitRecord) -> str:
        """Return the name of the thread, or of the task."""
        if record.task is None:
            return self.name(record.thread)
        return str(record.task.get_name()) if hasattr(record.task, "get_name") else "a task"

    def sentence(self, owner: Owner) -> str:
        """Describe an owner's activity and its duration."""
        lasts = "" if owner.since is None else f" for {max(0.0, self.now - owner.since):.1f} s"
        if owner.thread is None:
            return f"{owner.does}{lasts}"
        place = "" if owner.method is None else self.place(owner.thread, owner.method)
        return f"{self.name(owner.thread)} {owner.does}{lasts}{place}"
