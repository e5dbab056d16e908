"""The second stream: a best-effort copy of everything that is written back.

    bytes in flight, sizes, commits, names ──► log of steps ──► one thread ──► calls of the mirror

The log has the changes of all objects in the order in which the volume made them, each under the name that its object
has then. So an object of the mirror is its object of the store as of the last applied step, or its copy is *given up*:
it is listed, and the end of the log removes it.

A remove, replacement or truncate drops the steps of the earlier copy, and voids its object; a call that fails or hangs
gives its copy up. The log has copies of the bytes. No call waits for the mirror, and its failures never make write-back
fail (contract 2.13). Locks: `_lock` guards log, names and list; never held across a call of a backend.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ..backends.protocol import Backend, close_backend_file
from ..backends.transfers import Transfers
from ..errors import Key
from .park import NEVER, SLICE, Clock, Deadline, Signal, make_calls, start_thread
from .report.notices import cause

if TYPE_CHECKING:
    from .file import EngineFile
    from .volume import EngineVolume

SHARE = 8
"""The logs of a cache may have bytes up to one part in so many of its capacity."""
STEPS_MAX = 1 << 14
"""Steps beyond which the copy is given up whose object changes: a mirror that hangs gets no bytes, but sizes and
commits."""
OPEN_MAX = 64
"""Objects of the mirror that stay open."""
MOMENT = 0.5
"""Seconds that the end of a volume waits at least for removals, and for the call that runs then."""
PATIENCE = 120.0
"""Seconds after which a call counts as hanging at the end of a volume whose retries have no deadline."""
NAMES_MOST = 100
"""Names in one line of the log."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Copy:
    """The copy of one object; `name`: at the end of the log. `valid`: the log takes changes of the object."""

    name: Key
    valid: bool = True


NO_COPY = Copy("", valid=False)
IDLE = NO_COPY, math.inf


@dataclass(slots=True, eq=False)
class Step:
    """A change; `key`: the name of its object after it. `lasting`: not dropped with its copy, as it changes names."""

    copy: Copy
    key: Key
    call: Callable[[Step], object]
    lasting: bool = False
    offset: int = 0
    data: bytearray = field(default_factory=bytearray)  # of a write at `offset`


class MirrorLogs:
    """The bytes in the logs of all mirrors of a cache, those of steps that are applied included."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0

    def add(self, count: int) -> int:
        """Count bytes in, or out below zero; return how many there are."""
        with self._lock:
            self._bytes += count
            return self._bytes


class Mirror:
    """The second stream of one volume."""

    def __init__(self, volume: EngineVolume, backend: Backend) -> None:
        self.volume, self.backend = volume, backend
        self._most = int(backend.limits.max_write)
        self._lock = threading.Lock()
        self._log: deque[Step] = deque()
        self._logs = volume.cache.mirrored
        self._running = IDLE  # the copy of the step that is applied, since when
        self._ending = False  # the steps that close files and backend are in the log
        self._copies: WeakValueDictionary[Key, Copy] = WeakValueDictionary()  # by name, at the end of the log
        self._lost: dict[Copy, str] = {}  # given up, and why
        self._open: dict[Key, tuple[Copy, Any]] = {}  # files, the longest unused first; of the thread
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()  # one for each step
        name = f"pagecache-{volume.name}-mirror"
        self._thread = threading.Thread(target=make_calls, args=(self._calls,), name=name, daemon=True)
        start_thread(self._thread, f"of the mirror of {volume.name!r}")

    def busy(self) -> bool:
        """Return whether any step is in the log or running."""
        with self._lock:
            return bool(self._log) or self._running is not IDLE

    def not_mirrored(self) -> dict[Key, str]:
        """Return the names of objects whose copy was given up, and why."""
        with self._lock:
            return {copy.name: why for copy, why in self._lost.items()}

    # -- what happens to objects

    def opened(self, file: EngineFile, *, created: bool) -> None:
        """Record that the volume has a file now, whose object is empty if it was created."""
        with self._lock:
            file.set_copy(self._copies.setdefault(file.key, Copy(file.key)))
        if created:
            self.emptied(file)

    def emptied(self, file: EngineFile) -> None:
        """Begin the copy of an object anew: under its name, or if that is lost, under another one that is known."""
        with self._lock:
            former, name = file.copy, file.copy.name
            if self._copies.get(name) is not former:
                name = file.key
            if not file.removed and (name != former.name or self._copies.get(name) is former):
                self._retire(name)
                file.set_copy(self._copies.setdefault(name, Copy(name)))
                self._append(file.copy, lambda step: self._file(step).truncate(0))

    def take(self, file: EngineFile, offset: int, buffers: Sequence[memoryview]) -> None:
        """Append a copy of bytes that a call to the backend has; join them to the last ones."""
        copy = file.copy
        try:
            with self._lock:
                if not copy.valid:
                    return
                data, last = bytearray().join(buffers), self._log[-1] if self._log else Step(NO_COPY, "", self._write)
                end = last.offset + len(last.data)
                follows = last.copy is copy and last.data and end == offset
                if follows and end + len(data) - last.offset <= self._most:
                    last.data += data
                else:
                    self._append(copy, self._write, offset=offset, data=data)
                    file.count("mirror_requests")
                logged = self._logs.add(len(data))
        except MemoryError:
            self.give_up(copy, "there was no memory for its request")
            return
        file.count("mirror_bytes", len(data))
        share = self.volume.cache.limits.capacity // SHARE
        if logged > share:
            self.give_up(copy, f"mirrors hold more than their share of memory, {share} bytes")

    def changed(self, file: EngineFile, method: str, *arguments: int) -> None:
        """Append a call of the object's file."""
        copy = file.copy
        with self._lock:
            if not copy.valid:
                return
            self._append(copy, lambda step: getattr(self._file(step), method)(*arguments))
            behind = len(self._log) > STEPS_MAX
        if behind:
            self.give_up(copy, f"the log has more than {STEPS_MAX} steps")

    def removed(self, name: Key, *, linked: bool) -> None:
        """Record that an object has lost its name; `linked`: it has others."""
        with self._lock:
            self._retire(name)
            copy = self._copies.setdefault(name, Copy(name))
            self._append(copy, lambda step: self._remove(step.key), lasting=True)
        if linked:
            self.give_up(copy, "the object has lost this name, and has others, which a mirror does not follow")

    def renamed(self, old: Key, new: Key, *, tree: bool) -> None:
        """Record that an object, or a directory, has another name; an object that had it has lost it."""
        with self._lock:
            self._retire(new)
            for key in [key for key in self._copies if str(key).startswith(f"{old}/")] if tree else [old]:
                copy = self._copies.pop(key, None) or Copy(key)
                copy.name = f"{new}{str(key).removeprefix(str(old))}" if tree else new
                self._copies[copy.name] = copy
                self._append(copy, partial(self._rename, key), lasting=True)
            if tree:
                self._append(Copy(new), partial(self._rename_below, old), lasting=True)

    def give_up(self, copy: Copy, why: str) -> None:
        """Drop the steps of a copy, and remove it at the end of the log: another object may have its name before. It
        begins anew when its object is created or emptied.
        """
        with self._lock:
            if not copy.valid:
                return
            self._lost[copy] = why
            self._drop(copy)
            self._append(copy, lambda step: self._remove(step.key), lasting=True)
        next = "it is removed there, and begins anew when the object is made or emptied"
        self.volume.say(logging.WARNING, "the mirror", f"the mirror's copy is given up: {why}", next, copy.name)

    def check(self, now: float) -> float:
        """Give up a copy whose call has passed its deadline. Return the seconds until the next check."""
        deadline = math.inf if (limit := self.volume.retry.deadline) is None else limit
        copy, since = self._running
        if now < since + deadline:
            return min(since + deadline - now, deadline)
        self.give_up(copy, f"a call took longer than {deadline} s")
        return deadline

    def stop(self, deadline: Deadline) -> bool:
        """Let the mirror catch up until the deadline, unless a call hangs; give up the remainder, and remove it in the
        time left, or a moment. False when a call still runs then: its thread stays.
        """
        self._outlast(deadline)
        with self._lock:
            behind = {self._running[0], *(step.copy for step in self._log)}
        for copy in behind:
            self.give_up(copy, "the volume ended before it had caught up")
        end = NEVER if deadline.at is None else Deadline(Clock(), max(MOMENT, deadline.left()))
        self._outlast(end)
        with self._lock:  # so the call that runs is the last one
            left, self._log = self._log, deque()
        self._outlast(Deadline(Clock(), MOMENT))
        with self._lock:
            names = {name for step in left for name in (step.key, *getattr(step.call, "args", ()))}
            if hangs := self._running is not IDLE:  # what is left is done when its call returns, if it does
                self._log = left
                names.add(self._running[0].name)
            if not self._ending:
                self._append(NO_COPY, partial(self._end, end), lasting=True)
                self._ending = True
        names.discard(NO_COPY.name)
        if names:
            shown = ", ".join(sorted(map(repr, names))[:NAMES_MOST])
            what = f"the volume ended before {len(names)} names were removed there: {shown}"
            self.volume.say(logging.ERROR, "names that stay in the mirror", what, "they have to be removed by hand")
        if not hangs:
            self._outlast(end)
            self._thread.join(MOMENT)
        return not self._thread.is_alive()

    def _outlast(self, deadline: Deadline) -> None:
        """Wait until all steps are applied, a call hangs, or the deadline has passed."""
        limit = self.volume.retry.deadline
        while self._thread.is_alive() and self.busy() and not deadline.passed():
            if self.volume.clock.now() >= self._running[1] + (PATIENCE if limit is None else limit):
                return
            Signal().wait(min(SLICE / 10, deadline.left()))

    # -- the log; `_lock` is held

    def _append(self, copy: Copy, call: Callable[[Step], object], **more: Any) -> None:
        self._log.append(Step(copy, copy.name, call, **more))
        self._calls.put(self._apply)

    def _retire(self, name: Key) -> None:
        """End the copy of an object that is gone."""
        copy = self._copies.pop(name, NO_COPY)
        self._lost.pop(copy, None)
        self._drop(copy)

    def _drop(self, copy: Copy) -> None:
        if copy.valid:
            copy.valid = False
            self._logs.add(-sum(len(step.data) for step in self._log if step.copy is copy))
            self._log = deque(step for step in self._log if step.lasting or step.copy is not copy)

    # -- the thread

    def _apply(self) -> None:
        """Apply the next step."""
        with self._lock:
            if not self._log:
                return  # steps were dropped
            step = self._log.popleft()
            self._running = step.copy, self.volume.clock.now()
        try:
            step.call(step)
        except BaseException as error:
            self.give_up(step.copy, cause(error))
        while len(self._open) > OPEN_MAX:
            self._close(next(iter(self._open)))
        with self._lock:
            self._logs.add(-len(step.data))
            self._running = IDLE

    def _file(self, step: Step) -> Any:
        """Return the file of an object; it is made if it does not exist."""
        _, opened = self._open.pop(step.key, (NO_COPY, None))
        if opened is None:
            self._make_parents(step.key)
            opened = self.backend.open(step.key, create=True)
            self.volume.held.set_files(self, opened, *(other for _, other in self._open.values()))
        self._open[step.key] = step.copy, opened
        return opened

    def _make_parents(self, key: Key) -> None:
        mkdir: Any = getattr(self.backend, "mkdir", None)
        parts = os.fspath(key).split("/") if mkdir is not None and isinstance(key, str | os.PathLike) else []
        for number in range(1, len(parts)):
            with contextlib.suppress(OSError):  # it exists; otherwise the next call raises
                mkdir("/".join(parts[:number]))

    def _close(self, key: Key, *, commit: bool = True) -> None:
        """Close the file of an object, with the bytes that were written to it or without."""
        copy, opened = self._open.pop(key, (NO_COPY, None))
        try:
            if opened is not None and commit:
                opened.commit()
        except BaseException as error:
            self.give_up(copy, cause(error))
        close_backend_file(opened)

    def _end(self, until: Deadline, step: Step) -> None:
        """Close the files, one in each step, and then the backend. After the deadline none is committed again."""
        if self._open:
            key, (copy, _) = next(iter(self._open.items()))
            self._close(key, commit=copy.valid and not until.passed())
            with self._lock:
                self._append(NO_COPY, partial(self._end, until), lasting=True)
            return
        self._calls.put(None)
        try:
            self.backend.close()
        except BaseException as error:
            self.volume.say(logging.WARNING, "the mirror", f"closing it failed: {cause(error)}")

    def _write(self, step: Step) -> None:
        _, error = Transfers(self._file(step), self.backend, step.key).send(step.offset, step.data)
        if error is not None:
            raise error

    def _remove(self, key: Key) -> None:
        """Remove an object. A mirror that cannot has it empty."""
        self._close(key, commit=False)
        try:
            self.backend.remove(key)
        except FileNotFoundError:
            pass
        except io.UnsupportedOperation:
            emptied = self.backend.open(key, create=True)
            emptied.truncate(0)
            emptied.commit()
        except BaseException as error:
            what = f"the mirror's copy is not right, and cannot be removed: {cause(error)}"
            self.volume.say(logging.ERROR, "the mirror", what, "it has to be removed by hand", key)

    def _rename(self, src: Key, step: Step) -> None:
        self._close(step.key, commit=False)
        self._close(src)
        self._make_parents(step.key)
        try:
            self.backend.rename(src, step.key)
        except BaseException as error:
            self._remove(src)
            self._remove(step.key)
            if not isinstance(error, FileNotFoundError):  # otherwise nothing was mirrored yet, or it was given up
                raise

    def _rename_below(self, src: Key, step: Step) -> None:
        """Rename the remaining objects below a directory: many stores have no directories."""
        for stat in list(self.backend.list(f"{src}/")):
            name = f"{step.key}{str(stat.key).removeprefix(str(src))}"
            with self._lock:
                copy = self._copies.setdefault(name, Copy(name))
                self._log.appendleft(Step(copy, name, partial(self._rename, stat.key), lasting=True))
                self._calls.put(self._apply)
