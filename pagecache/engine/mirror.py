"""The second stream: a best-effort copy of everything that is written back.

Each request to the backend is also taken for the mirror while it is in flight: CORE holds the frames, so nothing is
copied, and consecutive requests are joined up to the mirror's own limits. A file's copy is a queue in the order of
write-back: writes that do not overlap run concurrently, everything else (truncate, commit, rename, remove) is a step
that runs alone.

No call waits for the mirror, and the mirror never makes write-back fail. The copy of a file is given up if the mirror
fails, exceeds its share of memory or its deadline, or if bytes had to change during one of its calls. Then the queue is
dropped, and the object is removed from the mirror as soon as no call of it runs, so that a wrong copy is never mistaken
for a right one. The copy starts anew when the file is created or truncated to nothing.

Contract 2.13. Locks: `_lock` guards queues and totals; never held across a call of a backend.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from ..backends.plain import returned
from ..backends.protocol import Backend, BackendFile, close_backend_file
from ..errors import Key
from ..native import Op
from .park import SLICE, Deadline
from .report.notices import cause, fault
from .runner import TURN, OnDemand, Spare

if TYPE_CHECKING:
    from .file import EngineFile
    from .volume import EngineVolume

__all__ = ["Mirror", "MirrorError"]


SHARE = 8
"""Mirrors may hold one part in so many of the cache's capacity (including calls whose pages were written again)."""

OPEN_MAX = 64
"""Idle objects of the mirror that stay open."""


THREADS_MAX = 32
"""Maximum threads of a mirror, whatever its limit of concurrent calls."""


class MirrorError(OSError):
    """Why a copy was given up."""


class Write:
    """A request of the second stream."""

    def __init__(self, file: EngineFile, op: Op) -> None:
        self.file = file
        self.op = op
        self.since: float | None = None

    @property
    def extent(self) -> tuple[int, int]:
        return self.op.extent


class Step:
    """Any change other than a write; runs alone."""

    def __init__(self, call: Callable[[MirrorFile], None]) -> None:
        self.call = call


class MirrorFile:
    """The copy of one object: the queue of its pending changes, in order."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.valid = True
        self.moving: Key | None = None  # target of a rename that is still in the queue
        self.opened: BackendFile | None = None
        self.uncommitted = False
        self.queue: deque[Write | Step] = deque()
        self.running: list[Write | tuple[Step, float]] = []

    def writes(self) -> list[Write]:
        """Return the writes with running calls."""
        return [item for item in self.running if isinstance(item, Write)]

    def queued(self) -> int:
        """Return the bytes of writes without a call yet."""
        return sum(end - start for start, end in (w.extent for w in self.queue if isinstance(w, Write)))

    def next(self) -> Write | Step | None:
        """Take the next runnable step from the queue; the mirror's lock is held."""
        if not self.queue:
            return None
        head = self.queue[0]
        if isinstance(head, Step) or self.opened is None:
            if self.running:
                return None
        else:
            start, end = head.extent
            if any(not isinstance(item, Write) for item in self.running):
                return None
            if any(start < other.extent[1] and other.extent[0] < end for other in self.writes()):
                return None
        return self.queue.popleft()


class MirrorThreads(OnDemand):
    """The threads of a mirror, which start with the first file of the volume or with the first change of a name.

    They keep neither mirror nor cache alive while they wait.
    """

    def __init__(self, mirror: Mirror, name: str, most: int, spare: Spare) -> None:
        super().__init__(f"{name}-mirror", f"of the mirror of {name!r}", most, spare)
        self.work_for(mirror)
        self._ready: SimpleQueue[MirrorFile | None] = SimpleQueue()

    def work_for(self, mirror: Mirror) -> None:
        """Refer to the mirror weakly; again when its cache was dropped and goes on until its data is saved."""
        self._mirror = weakref.ref(mirror)

    def push(self, copy: MirrorFile) -> None:
        """Queue a copy with steps that may be runnable."""
        self._ready.put(copy)
        self.have_all()

    def _loop(self, era: int) -> None:
        while (copy := self._ready.get()) is not None:
            try:
                if not self._serve(copy):
                    return
            except BaseException:
                fault("a thread %s met an error that should not get here; it goes on", self._whose)
            finally:
                del copy

    def _turn(self) -> bool:
        try:
            copy = self._ready.get(timeout=TURN)
        except Empty:
            return self._mirror() is not None
        return copy is not None and self._serve(copy)

    def _serve(self, copy: MirrorFile) -> bool:
        """Run the next steps of the copy; return False if the mirror has gone."""
        mirror = self._mirror()
        if mirror is not None:
            mirror.serve(copy)
        return mirror is not None

    def is_lent(self) -> bool:
        """Return whether the spare thread does the work."""
        return self._lent and not self._threads

    def join(self, timeout: float) -> bool:
        """End the threads after their queue; return False if one still runs (a call hangs)."""
        with self._lock:
            self._most = 0
            threads = list(self._threads)
        visited = self._visited(timeout)  # before the marks of the end, which are for the threads
        for _ in threads:
            self._ready.put(None)
        for thread in threads:
            thread.join(timeout)
        return visited and not any(thread.is_alive() for thread in threads)


class Mirror:
    """The second stream of one volume, with its own threads."""

    def __init__(self, volume: EngineVolume, backend: Backend) -> None:
        self.volume = volume
        self.backend = backend
        self.lost = 0
        self._lock = threading.Lock()
        self._files: dict[Key, MirrorFile] = {}
        most = min(int(backend.limits.max_inflight), THREADS_MAX)
        self.threads: MirrorThreads = MirrorThreads(self, volume.name, most, volume.cache.spare)

    def busy(self) -> bool:
        """Return whether any change is pending or running."""
        with self._lock:
            return any(copy.queue or copy.running for copy in self._files.values())

    # -- pending changes

    def take(self, file: EngineFile, op: Op) -> None:
        """Queue the bytes of a request to the backend, whose first call has not begun."""
        if file.removed or file.abandoned:
            return
        with self._lock:
            copy = self._copy(file.key)
            if not copy.valid:
                return
            last = copy.queue[-1] if copy.queue else None
            try:
                mirrored = op.mirror(last.op if isinstance(last, Write) else None)
            except MemoryError:
                mirrored = None
            if mirrored is not None and not (isinstance(last, Write) and mirrored is last.op):
                copy.queue.append(Write(file, mirrored))
            share = self.volume.cache.limits.capacity // SHARE
            largest = self._largest() if self.volume.cache.native.held() > share else None
        if mirrored is None:
            self._give_up(copy, MirrorError("there was no memory for its request"))
        elif largest is not None:
            self._give_up(largest, MirrorError(f"mirrors hold more than their share of memory, {share} bytes"))
        self.threads.push(copy)

    def then(self, key: Key, call: Callable[[MirrorFile], None]) -> None:
        """Queue a call after the pending changes of the file."""
        with self._lock:
            copy = self._copy(key)
            if copy.valid:
                copy.queue.append(Step(call))
        self.threads.push(copy)

    def truncated(self, key: Key, size: int) -> None:
        """Record that the file ends at `size`; with 0 a copy that was given up starts anew."""
        if size == 0:
            self.created(key)
        else:
            self.then(key, lambda copy: self._open(copy).truncate(size))

    def punched(self, key: Key, start: int, end: int) -> None:
        def punch(copy: MirrorFile) -> None:
            opened: Any = self._open(copy)
            end_now = min(end, opened.stat().size)
            if end_now > start:
                opened.punch_hole(start, end_now - start)

        self.then(key, punch)

    def created(self, key: Key) -> None:
        """Record that the file is empty: earlier content of the mirror is void, and the copy is right from now on."""
        with self._lock:
            copy = self._copy(key)
            dropped = self._drop(copy)
            copy.valid = True
            copy.queue.append(Step(self._remove))
            copy.queue.append(Step(self._open_step))
        _end(dropped)
        self.threads.push(copy)

    def committed(self, key: Key) -> None:
        self.then(key, lambda copy: self._commit(copy))

    def removed(self, key: Key) -> None:
        with self._lock:
            copy = self._copy(key)
            dropped = self._drop(copy)
            copy.queue.append(Step(self._remove))
        _end(dropped)
        self.threads.push(copy)

    def renamed(self, src: Key, dst: Key) -> None:
        """Rename the copy; if the destination's copy is busy, it is given up instead."""
        with self._lock:
            copy, other = self._copy(src), self._files.pop(dst, None)
            dropped = self._drop(other) if other is not None else []
            busy = other is not None and bool(other.running)
            if not busy:
                del self._files[src]
                self._files[dst] = copy
                copy.moving = dst
                copy.queue.append(Step(self._rename if copy.valid else self._remove))
            elif other is not None:
                self._files[dst] = other
                other.valid = False
                other.queue.append(Step(self._remove))
        _end(dropped)
        if busy:
            self.removed(src)
        self.threads.push(copy)
        if other is not None:
            self.threads.push(other)

    def invalidate(self, key: Key, why: str) -> None:
        """Give up a copy, even a long unused one; no new one begins."""
        with self._lock:
            copy = self._copy(key)
        self._give_up(copy, MirrorError(why))

    # -- memory and time

    def _largest(self) -> MirrorFile | None:
        """Return the copy with the most bytes in its queue; the lock is held."""
        return max((copy for copy in self._files.values() if copy.queued()), key=MirrorFile.queued, default=None)

    def check(self, now: float) -> float:
        """Give up copies past their deadline. Called by the flusher: makes no call of a backend.

        Return the seconds until the next call is due: a call that begins after this has `deadline` seconds.
        """
        deadline = self.volume.retry.deadline
        if deadline is None:
            return math.inf
        late, left = [], deadline
        with self._lock:
            for copy in self._files.values():
                oldest = min((_since(item) for item in copy.running), default=math.inf)
                if copy.valid and oldest + deadline <= now:
                    late.append(copy)
                elif copy.valid:
                    left = min(left, oldest + deadline - now)
        for copy in late:
            self._give_up(copy, MirrorError(f"a call took longer than {deadline} s"))
        return left

    # -- giving up

    def _drop(self, copy: MirrorFile) -> list[Write]:
        """Empty the queue; the lock is held, the caller ends the writes after releasing it."""
        dropped = [item for item in copy.queue if isinstance(item, Write)]
        copy.queue.clear()
        return dropped

    def _give_up(self, copy: MirrorFile, error: BaseException) -> None:
        with self._lock:
            if not copy.valid:
                return
            copy.valid = False
            self.lost += 1
            dropped = self._drop(copy)
            copy.queue.append(Step(self._remove))
        _end(dropped)
        what = f"the mirror's copy is given up: {cause(error)}"
        next = "it is removed there, and begins anew when the file is made or emptied"
        self.volume.say(logging.WARNING, "the mirror", what, next, copy.key)
        self.threads.push(copy)

    # -- calls of the backend, on the mirror's threads

    def _copy(self, key: Key) -> MirrorFile:
        """Return the copy of a key; the lock is held."""
        return self._files.setdefault(key, MirrorFile(key))

    def _open(self, copy: MirrorFile) -> BackendFile:
        if copy.opened is None:
            try:
                copy.opened = self.backend.open(copy.key, create=True)
            except FileNotFoundError:
                self._make_parents(copy.key)
                copy.opened = self.backend.open(copy.key, create=True)
            self.volume.held.set_files(copy, copy.opened)
        return copy.opened

    def _take_opened(self, copy: MirrorFile) -> BackendFile | None:
        """Take the copy's file; the caller closes it."""
        opened, copy.opened = copy.opened, None
        self.volume.held.set_files(copy)
        return opened

    def _make_parents(self, key: Key) -> None:
        """Make the directories of a key, if the mirror has directories."""
        mkdir: Any = getattr(self.backend, "mkdir", None)
        if mkdir is None or not isinstance(key, str | os.PathLike):
            return
        parts = os.fspath(key).split("/")
        for number in range(1, len(parts)):
            try:
                mkdir("/".join(parts[:number]))
            except FileExistsError:
                continue
            except io.UnsupportedOperation:
                return

    def _open_step(self, copy: MirrorFile) -> None:
        self._open(copy)

    def _close(self, copy: MirrorFile) -> None:
        if copy.uncommitted:
            self._commit(copy)
        close_backend_file(self._take_opened(copy))

    def _commit(self, copy: MirrorFile) -> None:
        if copy.opened is not None:
            copy.opened.commit()
        copy.uncommitted = False

    def _remove(self, copy: MirrorFile) -> None:
        """Remove the object in any case; during a rename under both names."""
        opened: Any = self._take_opened(copy)
        copy.uncommitted = False
        with contextlib.suppress(Exception):
            if hasattr(opened, "rollback"):
                opened.rollback()
        close_backend_file(opened)
        keys = [copy.key] if copy.moving is None else [copy.key, copy.moving]
        copy.key, copy.moving = keys[-1], None
        for key in keys:
            try:
                self._remove_object(key)
            except Exception as error:
                what = f"the mirror's copy is not right, and cannot be removed: {cause(error)}"
                self.volume.say(logging.ERROR, "the mirror", what, "it has to be removed by hand", key)

    def _remove_object(self, key: Key) -> None:
        try:
            self.backend.remove(key)
        except FileNotFoundError:
            return
        except io.UnsupportedOperation:
            emptied = self.backend.open(key, create=True)
            emptied.truncate(0)
            emptied.commit()

    def _rename(self, copy: MirrorFile) -> None:
        self._commit(copy)
        self._close(copy)
        if copy.moving is None:
            return
        self._make_parents(copy.moving)
        try:
            self.backend.rename(copy.key, copy.moving, replace=True)
        except FileNotFoundError:
            self._remove_object(copy.moving)  # nothing was mirrored yet
        copy.key, copy.moving = copy.moving, None

    def _write(self, copy: MirrorFile, write: Write) -> None:
        write_from = self._open(copy).write_from
        copy.uncommitted = True
        while (call := write.op.begin()) is not None:
            answer = write.op.complete(write_from(call[0], call[1]))
            if answer == 1:
                break
            if answer < 0:
                rule = "write_from did not answer with the number of bytes taken"
                raise MirrorError(-answer, f"{rule}: {returned(write.op.answer)}")
        if write.file.native.mirror_spoiled():
            raise MirrorError("its bytes had to change in place")

    # -- threads

    def serve(self, copy: MirrorFile) -> None:
        """Run the next steps of the copy."""
        with self._lock:
            item = copy.next()
            if item is None:
                return
            now = self.volume.clock.now()
            if isinstance(item, Write):
                item.since = now
                copy.running.append(item)
            else:
                copy.running.append((item, now))
            more = bool(copy.queue)
        if more:
            self.threads.push(copy)
        self._run(copy, item)

    def _run(self, copy: MirrorFile, item: Write | Step) -> None:
        failed: BaseException | None = None
        try:
            if isinstance(item, Write):
                self._write(copy, item)
            else:
                item.call(copy)
        except BaseException as error:
            failed = error
        if isinstance(item, Write):
            _end([item])
        with self._lock:
            copy.running = [r for r in copy.running if r is not item and not (isinstance(r, tuple) and r[0] is item)]
            idle = not copy.running and not copy.queue and copy.valid and copy.opened is None
            if idle and self._files.get(copy.key) is copy:
                del self._files[copy.key]
        if failed is not None:
            self._give_up(copy, failed)
        self._close_idle()
        self.threads.push(copy)

    def _close_idle(self) -> None:
        with self._lock:
            idle = [c for c in self._files.values() if c.opened is not None and not c.running and not c.queue]
            for copy in idle[OPEN_MAX:]:
                copy.queue.append(Step(self._close))
        for copy in idle[OPEN_MAX:]:
            self.threads.push(copy)

    # -- the end

    def drained(self) -> bool:
        with self._lock:
            return not any(copy.queue or copy.running for copy in self._files.values())

    def stop(self, timeout: float) -> bool:
        """Let the mirror catch up, for at most `timeout` seconds; give up the remainder. False when a call hangs: its
        thread stays.
        """
        deadline = Deadline(self.volume.clock, timeout)
        while not self.drained() and not deadline.passed():
            self.volume.park.signal().wait(min(SLICE / 10, deadline.left()))
        with self._lock:
            behind = [copy for copy in self._files.values() if copy.queued()]
        for copy in behind:
            self._give_up(copy, MirrorError("the volume ended before it had caught up"))
        removing = Deadline(self.volume.clock, SLICE)
        while self.threads.is_lent() and not self.drained() and not removing.passed():
            self.volume.park.signal().wait(SLICE / 10)
        if not self.threads.join(SLICE):
            return False
        with self._lock:
            copies = list(self._files.values())
        for copy in copies:
            self._close(copy)
        self.backend.close()
        return True


def _since(item: Write | tuple[Step, float]) -> float:
    since = item.since if isinstance(item, Write) else item[1]
    return float("inf") if since is None else since


def _end(writes: list[Write]) -> None:
    """End the writes' holds on memory."""
    for write in writes:
        if not write.op.settled:
            write.op.finish(False, False)
