"""Debts of a file: backend calls that must precede any other call on it.

A truncate or a hole with unknown result (transport error, abort) was published as done, so it must be repeated; after a
reconnect this also holds for every size that is not known to be committed (contract 2.17). Such calls are kept here, in
order. A thread that is about to write back, commit, truncate, punch, discard or fill pays first: the first one makes
the calls, the others wait for it.

If acknowledged means durable, a cut or a hole is over once it is paid: it is recorded here only, and unpaid ones move
with the file to the next backend. Otherwise it is recorded as uncommitted as well, and repeated together with all later
changes. A hole that the backend cannot make is made of zeros.

Nothing is paid while an abandoned call may still run on the file: it could land later than the paid calls. Passes,
commits and truncates hold the token and so never meet such a call; a fill waits for it to return.

Locks: `_paying` is held over the calls, by threads of the volume only: no interrupt can strike there.
`EngineFile.lock` guards which list of steps counts; a thread that pays for an old backend stops when its call has
returned.
"""

from __future__ import annotations

import errno
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from ...native import COMMIT, END, Op
from ..foreign import is_unsupported
from ..park import SLICE
from ..report.notices import cause
from ..report.reason import during, of_file
from ..runner import Job

if TYPE_CHECKING:
    from ...backends.protocol import BackendFile
    from ..file import EngineFile


FOLLOWING = "open"
"""Method of the debts to know the name of a file, and to open it by that: only these replace the file that later calls
take.
"""


ZEROS_MAX = 1 << 20
"""Bytes of memory for the zeros of a hole, unless a unit has more."""


class LeftBehindError(BlockingIOError):
    """A thread of the volume cannot pay: a call that was left behind still runs on the file."""


class Step(NamedTuple):
    """One call of the backend's file."""

    method: str
    arguments: tuple[int, ...]
    behind: bool = False
    """It removes only bytes past the current end: reads need not wait for it."""
    tail: bool = False
    """It removes only bytes that were never part of the file: a backend that cannot cut leaves them there."""

    def call(self, backend_file: BackendFile) -> None:
        method = getattr(backend_file, self.method, None)
        if method is None:
            raise OSError(errno.ENOSYS, f"the backend's file has no {self.method}")
        method(*self.arguments)


def repeated(file: EngineFile, durable: bool) -> list[Step]:
    """Return the steps that repeat acknowledged changes. No read makes those of a held file: its first save does."""
    undone = file.undone()
    lowest = undone["lowest"]
    if undone["created"] and file.limits().commit_on_close:
        lowest = 0  # by a rename it may have the name of an object that is stored, of which nothing is its own
    # Except of a whole object, whose calls store nothing, if bytes were cut off below its end.
    behind = file.withheld and not (file.limits().commit_on_close and lowest < file.remote_size)
    steps = [] if lowest == END else [Step("truncate", (lowest,), behind)]
    owed = not durable and file.owed.owes("truncate")  # otherwise owed ones stay
    sized = steps or owed or file.staged_bytes() or undone["created"] or (undone["resized"] and not durable)
    if sized or file.tail():
        steps.append(Step("truncate", (file.remote_size,), behind, tail=not sized))
    holes, end = file.commits.holes, file.remote_size
    return steps + [Step("punch_hole", (pos, min(stop, end) - pos)) for pos, stop in holes if pos < end]


def _store_zeros(file: EngineFile, backend_file: BackendFile, pos: int, length: int) -> None:
    """Store zeros in place of a hole, in whole units: those with an end of the hole keep their other bytes."""
    limits, stored, max_write = file.limits(), backend_file.stat().size, file.max_write()
    read_unit, write_unit, boundary = int(limits.read_unit), int(limits.write_unit), int(limits.boundary)
    unit, end = math.lcm(read_unit, write_unit), min(pos + length, stored)
    at = pos // unit * unit
    while at < end:
        file.volume.check_alive(file.key)
        inner = pos <= at and at + unit <= end
        stop = min(end // unit * unit, at + max(ZEROS_MAX // unit, 1) * unit) if inner else min(at + unit, stored)
        content = bytearray(stop - at)
        if not inner:
            whole, spare = bytearray(unit), unit - len(content)  # a read covers whole units, at the end, too
            _carry(backend_file.read_into, at, memoryview(whole), int(limits.max_read), read_unit, boundary, spare)
            content[:] = whole[: len(content)]
            low, high = max(pos - at, 0), min(end, stop) - at
            content[low:high] = bytes(high - low)
        _carry(backend_file.write_from, at, memoryview(content).toreadonly(), max_write, write_unit, boundary)
        at = stop


def _carry(
    call: Callable[..., int], at: int, part: memoryview, most: int, unit: int, boundary: int, spare: int = 0
) -> None:
    """Make the calls for a buffer, within the limits of the backend; its last `spare` bytes may stay as they are."""
    while len(part) > spare:
        length = min(len(part), max(most - most % unit, unit), boundary - at % boundary if boundary else len(part))
        done = call(at, [part[:length]])
        if done < len(part) - spare:
            done -= done % unit
        if done <= 0:
            raise OSError(errno.EIO, f"a call for {length} bytes at {at} made no progress")
        at, part = at + done, part[done:]


class Debt(Protocol):
    """One debt: a `Step`, or the name of the file."""

    @property
    def method(self) -> str: ...
    @property
    def arguments(self) -> tuple[int, ...]: ...
    @property
    def behind(self) -> bool: ...

    def call(self, backend_file: BackendFile) -> None: ...


class Rollback:
    """Make the backend forget acknowledged, uncommitted changes. `stored`: the size that it has afterwards. `created`:
    except the creation of the object, which is then changed again.
    """

    method, behind = "rollback", False

    def __init__(self, created: bool) -> None:
        self._created = created
        self.done = False
        self.stored = 0

    def call(self, backend_file: BackendFile) -> None:
        forgetful: Any = backend_file
        forgetful.rollback()
        self.done = True
        self.stored = backend_file.stat().size
        if self._created:
            backend_file.truncate(self.stored)


class Growth:
    """Give the object the size to which bytes lead that have left memory without a call. Other calls may run: what they
    have stored behind that size, or are about to, is not cut off.

    It is `behind` while a commit sends, beside which no read makes the call: one of the gap is refused until then.
    `leading` is held until it is known how far the bytes lead. If not so far, it is not owed, and nobody waits for a
    payer that has it: that makes no call, whatever size the file has by then.

    Later spills replace it, also during the call, which gives the object the size of all that was spilled before. So a
    payer makes one such call, and does not wait for the sizes of bytes that are spilled beside it.
    """

    method = "truncate"
    leads, made = True, False

    def __init__(self, file: EngineFile, size: int, behind: bool) -> None:
        self._file, self.arguments, self.behind = file, (size,), behind
        self.leading = threading.Lock()

    def be_due(self) -> None:
        """Have reads wait for the call."""
        self.behind = False
        self._file.bind_calls()

    def call(self, backend_file: BackendFile) -> None:
        with self.leading:
            self.made = self.leads and self._file.remote_size >= self.arguments[0]
        if self.made:
            backend_file.truncate(max(*self.arguments, self._file.number("sent_end")))


class Owed:
    """The owed calls of one file. Made with the first debt.

    Locks: `EngineFile.lock` guards the list of steps, `_paying` their calls.
    """

    __slots__ = ("_file", "_paying", "_steps")

    def __init__(self, file: EngineFile) -> None:
        self._file = file
        self._steps: deque[Debt] = deque()
        self._paying = threading.Lock()

    def __len__(self) -> int:
        return len(self._steps)

    def owes(self, method: str | None) -> bool:
        """Return whether a call of this method is owed; None: any call."""
        if not self._steps:
            return False
        with self._file.lock:
            return any(method in (None, step.method) for step in self._steps)

    def forget(self, method: str) -> None:
        if not self._steps:
            return
        with self._file.lock:
            if any(step.method == method for step in self._steps):
                self._steps = deque(step for step in self._steps if step.method != method)

    def drop(self, step: Debt) -> bool:
        if not self._steps:
            return False
        with self._file.lock:
            owed = any(other is step for other in self._steps)
            if owed:
                self._steps.remove(step)  # the list stays: a call that runs counts as paid
        self._file.bind_calls()
        return owed

    def reads_wait(self) -> bool:
        """Return whether a debt changes the bytes of reads. `EngineFile.lock` is held."""
        return len(self._steps) > 0 and any(not step.behind for step in self._steps)

    def is_due(self) -> bool:
        """Return whether the end of a flush makes the calls: reads wait for one; name and version are known."""
        file = self._file
        with file.lock:
            known = not file.is_kept_back() and file.conflict is None
            return known and self.reads_wait() and self._steps[0].method != FOLLOWING

    def add(self, step: Debt, *, first: bool = False) -> None:
        """Add a debt; that of the name comes first, since the others concern the object that has it."""
        with self._file.lock:
            following = [other for other in self._steps if other.method == FOLLOWING]
            others = [other for other in self._steps if other.method != FOLLOWING]
            if step.method == FOLLOWING:
                self._steps = deque([step, *others])
            elif first:
                self._steps = deque([*following, step, *others])
            else:
                self._steps.append(step)
        self._file.bind_calls()

    def replace(self, steps: Iterable[Debt], *, keep: Collection[str] = ()) -> tuple[Debt, ...]:
        """Replace the debts, for another backend, or another version. `keep`: methods whose steps stay owed, before the
        new ones: nothing newer was stored, as they are paid first. Return the kept steps.
        """
        with self._file.lock:
            kept = tuple(step for step in self._steps if step.method in keep)
            self._steps = deque([*kept, *steps])
        self._file.bind_calls()
        return kept

    def forget_locked(self, *, keep: str) -> None:
        """Forget the debts but those of one method. `EngineFile.lock` is held; the caller binds afterwards."""
        if self._steps:
            self._steps = deque(step for step in self._steps if step.method == keep)

    def pay(self, *, sending: Op | None = None) -> None:
        """Wait until nothing is owed that was owed before, paying if necessary. `sending`: of a commit, beside whose
        calls no other thread makes those of `Growth.behind`; nor it itself, once it is left behind.

        Raises:
            OSError: a call failed; it stays owed. ShutdownError: the volume was aborted.
        """
        if not self._steps:
            return
        file, volume = self._file, self._file.volume
        while self._steps:
            since = volume.reconnects
            volume.check_alive(file.key)
            if volume.runner.is_worker():
                if file.in_old_hands():
                    raise LeftBehindError(errno.EAGAIN, "a call that was left behind still runs on this file", file.key)
                self.pay_now(sending=sending)
                return
            if not file.in_old_hands():
                job = Job(partial(self.pay_now, sending=sending), what="truncate", key=file.key, file=file.id)
                volume.runner.submit(COMMIT, job).wait(partial(volume.check_alive, file.key, since))
                return
            self.outlast()

    def outlast(self) -> None:
        """Wait until no abandoned call runs, or nothing is owed.

        Raises:
            ShutdownError: the volume was aborted.
        """
        self._file.outlast(lambda: len(self._steps) > 0 and self._file.in_old_hands(), "a call that was left behind")

    def is_paying(self) -> bool:
        """Return whether a call runs that can still land."""
        return self._paying.locked()

    def fence(self) -> None:
        """Record that the paying thread's call can no longer land, and may never return: the next payer does not wait
        for it.
        """
        self._paying = threading.Lock()

    def _wait_for_payer(self) -> threading.Lock | None:
        """Wait until this thread has `_paying`, and return it; None: nothing is owed."""
        while self._steps:
            paying = self._paying
            if paying.acquire(timeout=SLICE):
                return paying
            self._file.volume.check_alive(self._file.key)
        return None

    def pay_now(self, method: str | None = None, *, sending: Op | None = None) -> None:
        """Make the calls on a thread of the volume. The caller ensures that no abandoned call runs. `method`: only make
        those of this one, and what comes before them. `sending`: see `pay`.
        """
        while self.owes(method):
            self._file.volume.check_alive(self._file.key)
            paying = self._paying
            if not paying.acquire(blocking=False):
                got = during(of_file(self._file, "what the file owes the backend"), self._wait_for_payer)
                if got is None:
                    continue
                paying = got
            try:
                steps = self._steps  # first: a fence comes before the list of the next backend
                if paying is self._paying and self._pay_all(method, steps, sending):
                    return
            finally:
                paying.release()
                self._file.wake()

    def _pay_all(self, method: str | None, steps: deque[Debt], sending: Op | None) -> bool:
        """Make the calls, alone; return whether all were made. A list that was replaced during a call belongs to
        another backend or version.
        """
        file, grown = self._file, False
        if steps and method != FOLLOWING:
            file.versions.about_to_change()
        while self.owes(method):
            # A reconnect replaces the list, then the file, then revives the volume: check these in reverse order.
            file.volume.check_alive(file.key)
            backend_file = file.still_opened()
            with file.lock:
                if steps is not self._steps or not steps:
                    break
                step = steps[0]
                if isinstance(step, Growth) and (grown or (step.behind and (sending is None or sending.stopped))):
                    break
            is_cut = step.method == "truncate"
            try:
                step.call(backend_file)
            except OSError as error:
                if not (isinstance(step, Step) and is_unsupported(error)):
                    raise
                if step.method == "punch_hole":
                    _store_zeros(file, backend_file, *step.arguments)
                elif step.tail:
                    is_cut = False
                    what = f"the backend cannot cut off stored bytes from {step.arguments[0]} on: {cause(error)}"
                    file.volume.say(logging.WARNING, "calls that are owed", what, "they may stay there", file.key)
                else:
                    raise
            if isinstance(step, Growth):
                is_cut = step.made
                grown = grown or is_cut
            with file.lock:
                if steps is self._steps:
                    if is_cut and not file.durable():  # it needs a commit
                        file.cut_paid(*step.arguments)
                    if steps and steps[0] is step:
                        steps.popleft()
        file.bind_calls()
        return steps is self._steps


NOTHING_OWED = Owed(cast("EngineFile", None))
"""The debts of every file that has had none: without steps, no method looks at the file."""
