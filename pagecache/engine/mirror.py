"""The second stream: a best-effort copy of everything that is written back.

One log has the changes of all objects in the order in which the volume made them, and one thread applies it. So a name
is free in the mirror before the next object gets it there, as it was in the store.

    bytes in flight, sizes, commits, names ──► log of steps ──► one thread ──► calls of the mirror

CORE holds the frames of bytes in the log, so nothing is copied. No call waits for the mirror, and its failures never
make write-back fail. The copy of an object is given up if a call of it fails or passes its deadline, if the log exceeds
its share of memory, or if bytes had to change during a call. Then its writes are dropped, the object is removed from
the mirror, and its name is listed, so that a wrong copy is never mistaken for a right one. The copy begins anew when
the object is created or truncated to nothing.

Contract 2.13. Locks: `_lock` guards log, names and list; never held across a call of a backend.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary, ref

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

__all__ = ["Copy", "Mirror", "MirrorError"]

SHARE = 8
"""The log may hold one part in so many of the cache's capacity, calls whose pages were written again included."""
OPEN_MAX = 64
"""Objects of the mirror that stay open."""


class MirrorError(OSError):
    """Why a copy was given up."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Copy:
    """The copy of one object; `name`: at the end of the log."""

    name: Key
    valid: bool = True


@dataclass(slots=True, eq=False)
class Step:
    """A change, under the name that the object has there. `always`: also of a copy that was given up."""

    copy: Copy
    key: Key
    call: Callable[[Key], object]
    op: Op | None = None
    always: bool = False

    def drop(self) -> None:
        """End the hold on its bytes."""
        op, self.op = self.op, None
        if op is not None and not op.settled:
            op.finish(False, False)


class MirrorThread(OnDemand):
    """The thread of a mirror, which starts with the first file of the volume or the first change of a name.

    It keeps neither mirror nor cache alive while it waits.
    """

    def __init__(self, mirror: Mirror, name: str, spare: Spare) -> None:
        super().__init__(f"{name}-mirror", f"of the mirror of {name!r}", 1, spare)
        self.steps: SimpleQueue[bool] = SimpleQueue()  # True: for each step; False: the end
        self.work_for(mirror)

    def work_for(self, mirror: Mirror) -> None:
        """Refer to the mirror weakly; again when its cache was dropped and goes on until its data is saved."""
        self._mirror = ref(mirror)

    def _loop(self, era: int) -> None:
        while self._turn(None):
            pass

    def _turn(self, timeout: float | None = TURN) -> bool:
        try:
            mirror = self._mirror() if self.steps.get(timeout=timeout) else None
            if mirror is not None:
                mirror.apply()
            return mirror is not None
        except Empty:
            return self._mirror() is not None
        except BaseException:
            fault("the thread %s met an error that should not get here; it goes on", self._whose)
            return True

    def join(self, timeout: float) -> bool:
        """End the thread after its steps; return False if it still runs (a call hangs)."""
        with self._lock:
            self._most = 0
            threads = list(self._threads)
        visited = self._visited(timeout)  # before the mark of the end, which is for the thread
        self.steps.put(False)
        for thread in threads:
            thread.join(timeout)
        return visited and not any(thread.is_alive() for thread in threads)


class Mirror:
    """The second stream of one volume. `lost`: names of objects that are not mirrored, and why."""

    def __init__(self, volume: EngineVolume, backend: Backend) -> None:
        self.volume, self.backend = volume, backend
        self.thread = MirrorThread(self, volume.name, volume.cache.spare)
        self.lost: dict[Key, str] = {}
        self._lock = threading.Lock()
        self._log: deque[Step] = deque()
        self._running: tuple[Copy, float] | None = None  # the copy of the step that is applied, since when
        self._names: WeakValueDictionary[Key, Copy] = WeakValueDictionary()  # at the end of the log
        self._open: dict[Key, BackendFile] = {}  # the longest unused first; of the thread

    def busy(self) -> bool:
        """Return whether any step is in the log or running."""
        with self._lock:
            return bool(self._log) or self._running is not None

    # -- what happens to objects

    def opened(self, file: EngineFile, *, created: bool) -> None:
        """Record that the volume has a file now, whose object is empty if it was created: then what the mirror has
        under its name is void, and the copy begins anew. Takes a lock, and starts no thread.
        """
        with self._lock:
            copy = file.copy
            if copy is None or self._names.get(copy.name) is not copy:
                copy = self._copy(file.key)
            if created:
                self._retire(copy)
                copy = self._names[copy.name] = Copy(copy.name)
                self._append(copy, self._begin, always=True)
            file.set_copy(copy)

    def take(self, file: EngineFile, op: Op) -> None:
        """Append the bytes of a request to the backend, whose first call has not begun; join them to the last ones."""
        with self._lock:
            copy = file.copy
            if copy is None or not copy.valid or file.removed or file.abandoned:
                return
            last = self._log[-1].op if self._log and self._log[-1].copy is copy else None
            try:
                mirrored, why = op.mirror(last), None
            except MemoryError:
                mirrored, why = last, "there was no memory for its request"
            if mirrored is not None and mirrored is not last:
                self._append(copy, partial(self._write, file, mirrored), mirrored)
            share = self.volume.cache.limits.capacity // SHARE
            if self.volume.cache.native.held() > share:
                why = f"mirrors hold more than their share of memory, {share} bytes"
        if why is not None:
            self._give_up(copy, MirrorError(why))
        self.thread.have_all()

    def truncated(self, file: EngineFile, size: int) -> None:
        if size == 0 and not file.removed:
            self.opened(file, created=True)
        else:
            self._then(file, lambda key: self._file(key).truncate(size))

    def punched(self, file: EngineFile, start: int, end: int) -> None:
        def punch(key: Key) -> None:
            opened: Any = self._file(key)
            length = min(end, opened.stat().size) - start
            if length > 0:
                opened.punch_hole(start, length)

        self._then(file, punch)

    def committed(self, file: EngineFile) -> None:
        self._then(file, lambda key: self._open[key].commit() if key in self._open else None)

    def _then(self, file: EngineFile, call: Callable[[Key], object]) -> None:
        with self._lock:
            copy = file.copy
            if copy is not None and copy.valid and not file.removed:
                self._append(copy, call)

    def named(self, old: Key, new: Key | None, *, tree: bool, linked: bool) -> None:
        """Record that an object, or a directory, has another name or none; an object that had the new one has lost it.
        `linked`: the object that has lost its name has others.
        """
        with self._lock:
            self._retire(self._copy(old if new is None else new))
            moved: dict[Key, Copy] = {}
            call = self._remove if new is None else partial(self._rename, dst=new, tree=tree, moved=moved)
            self._append(self._copy(old), call, always=True)
            for key in [] if new is None else [old, *self._below(old, tree)]:
                name = new if key == old else _moved(key, old, new)
                copy = moved[key] = self._names[name] = self._copy(key)
                del self._names[key]
                copy.name = name
                if key in self.lost:
                    self.lost[name] = self.lost.pop(key)
        if linked and new is None:
            self._lose(old, "the object has lost this name, and has others, which a mirror does not follow")
        self.thread.have_all()

    def invalidate(self, file: EngineFile, why: str) -> None:
        """Give the copy of an object up; no new one begins before the object does."""
        with self._lock:
            copy = file.copy
            if copy is None or self._names.get(copy.name) is not copy or file.removed:
                return
        self._give_up(copy, MirrorError(why))

    # -- the log; `_lock` is held

    def _append(self, copy: Copy, call: Callable[[Key], object], op: Op | None = None, *, always: bool = False) -> None:
        self._log.append(Step(copy, copy.name, call, op, always))
        self.thread.steps.put(True)

    def _below(self, directory: Key, tree: bool) -> list[Key]:
        return [key for key in {*self._names, *self.lost} if tree and _is_below(key, directory)]

    def _copy(self, name: Key) -> Copy:
        copy = self._names.get(name)
        if copy is None:
            copy = self._names[name] = Copy(name, name not in self.lost)
        return copy

    def _retire(self, copy: Copy) -> None:
        """Drop the name and the writes of a copy whose object is gone."""
        self._names.pop(copy.name, None)
        self.lost.pop(copy.name, None)
        self._drop(copy)

    def _drop(self, copy: Copy) -> None:
        copy.valid = False
        for step in self._log:
            if step.copy is copy:
                step.drop()

    # -- giving up

    def _give_up(self, copy: Copy, error: BaseException) -> None:
        """Drop its writes, and remove it: after the running call if that is for it, or else at the end of the log, as
        another object may have its name before.
        """
        with self._lock:
            if not copy.valid:
                return
            self._drop(copy)
            if self._running is None or self._running[0] is not copy:
                self._append(copy, self._remove, always=True)
        self._lose(copy.name, cause(error))

    def _lose(self, name: Key, why: str) -> None:
        with self._lock:
            self.lost[name] = why
        next = "it is removed there, and begins anew when the object is made or emptied"
        self.volume.say(logging.WARNING, "the mirror", f"the mirror's copy is given up: {why}", next, name)

    def check(self, now: float) -> float:
        """Give up a copy whose call has passed its deadline. For the flusher: makes no call of a backend.

        Return the seconds until the next call is due: a call that begins after this has `deadline` seconds.
        """
        deadline, running = self.volume.retry.deadline, self._running
        if deadline is None or running is None:
            return math.inf if deadline is None else deadline
        left = running[1] + deadline - now
        if left <= 0:
            self._give_up(running[0], MirrorError(f"a call took longer than {deadline} s"))
        return left if left > 0 else deadline

    # -- the thread

    def apply(self) -> None:
        """Apply the next step of the log."""
        with self._lock:
            if not self._log:
                return
            step = self._log.popleft()
            copy, valid = step.copy, step.copy.valid
            self._running = (copy, self.volume.clock.now())
        try:
            if valid or step.always:
                step.call(step.key)
        except BaseException as error:
            self._give_up(copy, error)
        step.drop()
        with self._lock:
            wrong = valid and not copy.valid  # by this call, or during it
            if not wrong:
                self._running = None
        if wrong:
            try:
                self._remove(step.key)
            finally:
                with self._lock:
                    self._running = None
        while len(self._open) > OPEN_MAX:
            self._close(next(iter(self._open)))

    def _file(self, key: Key) -> BackendFile:
        opened = self._open.pop(key, None)
        if opened is None:
            try:
                opened = self.backend.open(key, create=True)
            except FileNotFoundError:
                self._make_parents(key)
                opened = self.backend.open(key, create=True)
        self._open[key] = opened
        self.volume.held.set_files(self, *self._open.values())
        return opened

    def _make_parents(self, key: Key) -> None:
        """Make the directories of a key, if the mirror has directories."""
        mkdir: Any = getattr(self.backend, "mkdir", None)
        parts = os.fspath(key).split("/") if mkdir is not None and isinstance(key, str | os.PathLike) else []
        with contextlib.suppress(io.UnsupportedOperation):
            for number in range(1, len(parts)):
                with contextlib.suppress(FileExistsError):
                    mkdir("/".join(parts[:number]))

    def _write(self, file: EngineFile, op: Op, key: Key) -> None:
        write_from = self._file(key).write_from
        while (call := op.begin()) is not None:
            answer = op.complete(write_from(call[0], call[1]))
            if answer == 1:
                break
            if answer < 0:
                rule = "write_from did not answer with the number of bytes taken"
                raise MirrorError(-answer, f"{rule}: {returned(op.answer)}")
        if file.native.mirror_spoiled():
            raise MirrorError("its bytes had to change in place")

    def _close(self, key: Key, *, keep: bool = True) -> None:
        """Close an object, with what was written to it or without."""
        opened: Any = self._open.pop(key, None)
        self.volume.held.set_files(self, *self._open.values())
        try:
            if opened is not None and keep:
                opened.commit()
            elif hasattr(opened, "rollback"):
                opened.rollback()
        finally:
            close_backend_file(opened)

    def _begin(self, key: Key) -> None:
        self._remove(key)
        self._file(key)

    def _remove(self, key: Key) -> None:
        """Remove an object in any case. A mirror that cannot has it empty."""
        with contextlib.suppress(Exception):
            self._close(key, keep=False)
        try:
            try:
                self.backend.remove(key)
            except io.UnsupportedOperation:
                emptied = self.backend.open(key, create=True)
                emptied.truncate(0)
                emptied.commit()
        except FileNotFoundError:
            return
        except Exception as error:
            what = f"the mirror's copy is not right, and cannot be removed: {cause(error)}"
            self.volume.say(logging.ERROR, "the mirror", what, "it has to be removed by hand", key)

    def _rename(self, src: Key, *, dst: Key, tree: bool, moved: dict[Key, Copy]) -> None:
        """Rename an object, or each one below a directory: many stores have no directories."""
        keys = {src}
        if tree:
            with contextlib.suppress(io.UnsupportedOperation):
                keys = {stat.key for stat in self.backend.list(f"{src}/")}
            keys = {key for key in (*keys, *moved) if _is_below(key, src)}
        for key in keys:
            name = dst if key == src else _moved(key, src, dst)
            with contextlib.suppress(Exception):
                self._close(name, keep=False)
            try:
                self._close(key)
                self._make_parents(name)
                self.backend.rename(key, name, replace=True)
            except BaseException as error:
                self._remove(key)
                self._remove(name)
                if isinstance(error, FileNotFoundError):
                    continue  # nothing was mirrored yet, or it was given up
                if key in moved:
                    self._give_up(moved[key], error)
                else:
                    self._lose(name, cause(error))

    # -- the end

    def stop(self, timeout: float) -> bool:
        """Let the mirror catch up, for at most `timeout` seconds; give up the remainder. False when a call hangs: its
        thread stays.
        """
        for seconds in (timeout, SLICE):
            deadline = Deadline(self.volume.clock, seconds)
            while self.busy() and not deadline.passed():
                self.volume.park.signal().wait(min(SLICE / 10, deadline.left()))
            with self._lock:
                behind = {step.copy for step in self._log}
            for copy in behind:
                self._give_up(copy, MirrorError("the volume ended before it had caught up"))
        if not self.thread.join(SLICE):
            return False
        for key in list(self._open):
            self._close(key)
        self.backend.close()
        return True


def _is_below(key: Key, directory: Key) -> bool:
    return str(key).startswith(f"{directory}/")


def _moved(key: Key, src: Key, dst: Key) -> str:
    return f"{dst}{str(key).removeprefix(str(src))}"
