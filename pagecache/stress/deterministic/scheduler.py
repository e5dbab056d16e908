"""Simulated threads: who runs, who sleeps, and what time it is.

All threads of a round are greenlets of one thread of the system, which runs one of them at a time. Another can go on
only in here: where a thread sleeps, wakes others or gives way, and at points (`passed`), of which CORE has many. A
policy draws which one from the numbers of the round's seed. So the same seed is the same run, to the last point.

    thread ── a lock, a queue, a park of the engine's, a leaf of CORE ──▶ sleep / wake / passed ──▶ policy ──▶ another

The interpreter lock is simulated as well: parts of the product rely on it. A thread that stops within CORE with the
lock keeps it, and is the holder. Until it goes on only those run that have let the lock go, each until it wants it
back. Any other place at which a thread stops is one of Python's, where the lock changes hands.

Time is virtual. Each point takes `TICK`; and where nobody can run it moves to the next time that somebody sleeps for.
Where there is none either, all wait for each other: `Stuck`, with who waits for what.

Before time moves `at_rest` is asked whether a thread sleeps too long (oversleeping.py); then the run ends too: `Late`.

Threads of Python come here through `threads.py`, CORE through `ask`. What is not simulated (a lock made elsewhere, a
system call that blocks) stops all of them; `Overseer` in job.py sees that.
"""

from __future__ import annotations

import ctypes
import errno
import math
import random
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from types import FrameType
from typing import Any

from greenlet import getcurrent, greenlet

from pagecache.native import simulated
from pagecache.stress.deterministic.policies import Policy

__all__ = ["Late", "Scheduler", "Simulated", "Stuck", "here"]

TICK = 10_000
"""Virtual nanoseconds of a point."""
BEGIN = 1_000_000_000_000
"""What the monotonic clock shows in the beginning."""
GRACE = 30_000_000_000
"""Virtual nanoseconds that the others have once the first thread has ended."""
EARLY, EARLY_NS = 1 / 500, 20_000_000
"""How often the next timer is early although others can run, and by how much at most: machines are slow at times."""
LONELY_MAX = 100_000
"""Times that a thread may give way in turn while nobody else can run."""
KEPT_MAX = 1_000_000
"""Points that a thread may pass while others wait for its interpreter lock."""
FIRST = 1 << 20
"""Identifier of the first thread."""
MASK = (1 << 64) - 1


class Stuck(Exception):
    """Nobody can run, and no time that passes will change that."""


class Late(Stuck):
    """Nobody can run, and a thread sleeps past the time at which it should."""


class Simulated:
    """One thread.

    Attributes:
        ident: as `threading.get_ident` says it; they count up.
        waits: what for, for reports; "": it can run.
        turn: of its sleeps; a timer of an earlier one is void.
        woken: the last sleep was ended by somebody.
        done: it has ended.
        needs_gil: it goes on only while nobody holds the interpreter lock; False: it has it, or runs without.
    """

    __slots__ = (
        *("done", "greenlet", "ident", "joiners", "name", "needs_gil"),
        *("priority", "target", "turn", "waits", "woken"),
    )

    def __init__(self, ident: int, name: str, target: Callable[[], None]) -> None:
        self.ident = ident
        self.name = name
        self.target = target
        self.greenlet: Any = None
        self.priority = 0.0
        self.turn = 0
        self.waits = ""
        self.woken = False
        self.done = False
        self.needs_gil = True
        self.joiners: list[Simulated] = []

    def __repr__(self) -> str:
        return f"<simulated thread {self.name}>"

    def frame(self) -> FrameType | None:
        """Where it is; None: it has not begun, or has ended."""
        if self.greenlet is getcurrent():
            return sys._getframe(1)
        found: FrameType | None = None if self.greenlet is None else self.greenlet.gr_frame
        return found


_schedulers: dict[int, Scheduler] = {}
"""By the thread of the system that they run in."""


def here() -> Scheduler | None:
    """The scheduler of the running thread; None: it is a real one."""
    return _schedulers.get(threading.get_ident())


class Scheduler:
    """The threads of one round. Made, and run, in a thread of the system that does nothing else.

    Attributes:
        threads: all that have not ended, in the order in which they began.
        switches: how often another thread went on.
        digest: a number that depends on each of them, and when it was.
        at_rest: called when no thread can run; returns a sentence if one of them sleeps too long. It may lock what no
            thread that sleeps has locked.
    """

    def __init__(self, policy: Policy, rng: random.Random) -> None:
        self.policy = policy
        self.rng = rng
        self.threads: dict[Simulated, None] = {}
        self.python_threads: dict[Simulated, object] = {}  # what `current_thread` answers
        self.switches = 0
        self.digest = 0
        self.stopped = False  # from another thread: nobody is to go on any more
        self.system_thread = threading.get_ident()
        self._ready: list[Simulated] = []
        self._holder: Simulated | None = None
        self._sleepers: dict[int, deque[Simulated]] = {}
        self._timers: list[tuple[int, int, Simulated, int]] = []
        self._number = 0
        self._timer = 0
        self._lonely = 0
        self._points = 0
        self.at_rest: Callable[[], str | None] = lambda: None
        self._stuck: Stuck | None = None
        self._first: Simulated | None = None
        self._until = -1
        self._next: Simulated | None = None
        self._preempted = False  # one was woken: the policy is asked at the next point, though `_left` are left
        self._left = 0
        self._asleep: tuple[str, int]
        self.running: Simulated
        self.state = simulated.simulation()

    @property
    def points(self) -> int:
        """How many were passed; from any thread."""
        return self._points or int(self.state.points)

    # -- a run

    def run(self, call: Callable[[], None]) -> None:
        """Play `call` as the first thread, and all that it starts, until they have ended; some may be left, where the
        first has ended long ago. What it raises is for itself to keep.

        Raises:
            Stuck: they wait for each other.
        """
        self._root = getcurrent()
        ask = self.ask
        simulated.simulate(ask)
        self.state.now_ns, self.state.tick_ns, self.state.most = BEGIN, TICK, KEPT_MAX
        _schedulers[self.system_thread] = self
        try:
            self._first = self.start("first", call)
            self._next = self._chosen()
            while self._next is not None:
                thread, self._next = self._next, None
                self.running = thread
                thread.greenlet.switch()
                if self._next is None and self._stuck is None and not self.stopped:
                    self._next = self._chosen()  # one has ended
            if self._stuck is not None:
                raise self._stuck
        finally:
            for thread in self.threads:  # what is left in the middle of something stays there for ever
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(thread.greenlet))
            del _schedulers[self.system_thread]
            self._points = self.points
            simulated.simulate(None)

    def start(self, name: str, target: Callable[[], None]) -> Simulated:
        """A new thread, which can run."""
        thread = Simulated(FIRST + self._number, name, target)
        self._number += 1
        thread.greenlet = greenlet(self._body, self._root)
        self.threads[thread] = None
        self.policy.begun(thread)
        self._enter(thread)
        return thread

    def _body(self) -> None:
        thread = self.running
        self.state.thread = thread.ident
        try:
            thread.target()
        finally:
            thread.done = True
            del self.threads[thread]
            for joiner in thread.joiners:
                self._wake(joiner)
            if thread is self._first:
                self._until = self.now_ns() + GRACE

    # -- time

    def now_ns(self) -> int:
        """The monotonic clock."""
        state = self.state
        return int(state.now_ns + state.points * TICK)

    def _fire(self) -> None:
        """Wake those whose time has come."""
        timers = self._timers
        if not timers or timers[0][0] > (now := self.now_ns()):
            return
        while timers and timers[0][0] <= now:
            _, _, thread, turn = heappop(timers)
            if thread.turn == turn:
                self._up(thread)

    def _pass_time(self, most: float = math.inf) -> bool:
        """Move the clock to the next timer; False: there is none, or not within so many nanoseconds."""
        timers = self._timers
        while timers and timers[0][2].turn != timers[0][3]:
            heappop(timers)
        if not timers or timers[0][0] - self.now_ns() > most:
            return False
        self.state.now_ns += max(0, timers[0][0] - self.now_ns())
        self._fire()
        return True

    # -- who runs

    def _enter(self, thread: Simulated) -> None:
        self._ready.append(thread)
        self.state.others += not thread.needs_gil

    def _leave(self, thread: Simulated) -> None:
        self._ready.remove(thread)
        self.state.others -= not thread.needs_gil

    def _runnable(self) -> list[Simulated]:
        """Those who can go on, but for the running one."""
        if self._holder is None:
            return self._ready
        return [thread for thread in self._ready if not thread.needs_gil]

    def _up(self, thread: Simulated) -> None:
        thread.turn += 1
        thread.waits = ""
        self._enter(thread)

    def _wake(self, thread: Simulated) -> bool:
        if thread.waits:
            thread.woken = True
            self._up(thread)
            return True
        return False

    def _chosen(self) -> Simulated | None:
        """Who goes on, where the one that ran cannot; None: nobody ever will."""
        if self.stopped:
            return None
        self._fire()
        self._count()
        while not (ready := self._runnable()):
            if self.threads and (late := self._late()) is not None:
                self._stuck = Late(f"{late}\n{self.report()}")
                return None
            if not self._pass_time():
                if self.threads:
                    self._stuck = Stuck(self.report())
                return None
        if 0 <= self._until < self.now_ns():
            return None
        thread = ready[self.policy.next(ready)]
        self._leave(thread)
        self.state.left = self.policy.left
        return thread

    def _late(self) -> str | None:
        """Ask `at_rest`, without a point and without a tick: the run is the same whether it is asked or not."""
        left, points = self.state.left, self.state.points
        self.state.left = 1 << 62
        late = self.at_rest()
        self.state.left, self.state.points = left, points
        return late

    def wakes(self, ident: int) -> float | None:
        """When the sleep of a thread ends by itself, in seconds; None: it does not sleep for a time."""
        times = (at for at, _, thread, turn in self._timers if thread.ident == ident and thread.turn == turn)
        at = min(times, default=None)
        return None if at is None else at / 1e9

    def _count(self) -> bool:
        """Tell the policy how many points of those that it asked for are left; whether it wanted to be asked now."""
        left, preempted = int(self.state.left), self._preempted
        self.policy.left, self._preempted = self._left + min(left, 0) if preempted else left, False
        return self.policy.left <= 0

    def _switch(self, thread: Simulated | None) -> None:
        """Let it go on; returns when this one is chosen again. None: back to `run`, for good."""
        if thread is self.running:
            return
        self.switches += 1
        if thread is None or not thread.greenlet:  # one that has not begun is begun from below
            self._next = thread
            self._mark(0 if thread is None else thread.ident)
            self._root.switch()
        else:
            self.running = thread
            self._mark(thread.ident)
            thread.greenlet.switch()

    def _mark(self, ident: int) -> None:
        self.digest = (
            self.digest * 6364136223846793005 + (self.state.points << 8 ^ ident) + 1442695040888963407
        ) & MASK

    def _sleep(self, waits: str, timeout_ns: int) -> bool:
        """Sleep until woken, or for a time (-1: for ever); whether it was woken."""
        me = self.running
        me.woken, me.waits = False, waits
        if timeout_ns >= 0:
            self._timer += 1
            heappush(self._timers, (self.now_ns() + timeout_ns, self._timer, me, me.turn))
        self._switch(self._chosen())
        return me.woken

    def _yield_to(self, thread: Simulated | None) -> None:
        """Another one goes on, and this one can. None: it goes on itself."""
        self.state.left = self.policy.left
        if thread is not None:
            self._leave(thread)
            self._enter(self.running)
            self._switch(thread)

    # -- for CORE

    def ask(self, what: int, point: str | None, word: int, number: int, gil: int) -> int:
        """See `_native/types/simulated.c`; called without what CORE has put aside."""
        if self.stopped:
            self._root.switch()
        if what == simulated.WAKE:
            sleepers = self._sleepers.get(word)
            while sleepers and number > 0:
                number -= self.wake(sleepers.popleft())
            return 0
        me, answer = self.running, 0
        me.needs_gil = gil == simulated.WANTED
        if gil == simulated.KEPT:
            self._holder = me
        if what == simulated.WAIT:
            answer = self._wait(word, number)
        elif what == simulated.YIELD:
            self._give_way()
        elif me.needs_gil and self._holder is not None:
            self._enter(me)
            self._switch(self._chosen())
        elif self.state.left < -KEPT_MAX and self._holder is me:
            self._give_up("nobody, and never lets the interpreter lock go")
        else:
            self._fire()
            self.state.again = self._holder is not None and len(self._ready) > self.state.others
            self._yield_to(self._at_point())
        if self._holder is me:
            self._holder = None
        return answer

    def _at_point(self) -> Simulated | None:
        """Whom the policy lets go on, at a point; None: the running one."""
        policy = self.policy
        over = self._count()  # or it is here because it has woken some, or the interpreter lock may go to others again
        if over and self.rng.random() < EARLY:
            self._pass_time(EARLY_NS)
        ready = self._runnable()
        number = (policy.at_point if over else policy.woke)(self.running, ready)
        return ready[number] if number >= 0 else None

    def _wait(self, word: int, timeout_ns: int) -> int:
        me = self.running
        sleepers = self._sleepers.setdefault(word, deque())
        sleepers.append(me)
        if self._sleep("CORE", timeout_ns):
            return 0
        if me in sleepers:  # nobody tried to wake it after its time had come
            sleepers.remove(me)
        return errno.ETIMEDOUT

    def _give_way(self) -> None:
        self._fire()
        self._count()
        while (ready := self._runnable()) or self._pass_time():
            if ready:
                self._lonely = 0
                self._yield_to(ready[self.policy.gives_way(self.running, ready)])
                return
        self._lonely += 1
        if self._lonely > LONELY_MAX:
            self._give_up("somebody, again and again")

    def _give_up(self, waits: str) -> None:
        """The running thread would go on for ever."""
        self.running.waits = waits
        self._stuck = Stuck(self.report())
        self._switch(None)

    # -- for threads of Python

    def sleep(self, waits: str, timeout: float | None = None) -> bool:
        """Sleep until `wake`, or for so many seconds; whether it was woken."""
        self.state.points += 1
        self._asleep = waits, -1 if timeout is None else max(0, math.ceil(timeout * 1e9))
        return simulated.away(self._away)

    def _away(self) -> bool:
        waits, timeout_ns = self._asleep
        self.running.needs_gil = True
        return self._sleep(waits, timeout_ns)

    def wake(self, thread: Simulated) -> bool:
        """It can run again, where it sleeps: from the next point on. False: its time had come before."""
        woken = self._wake(thread)
        if not self._preempted:
            self._left, self._preempted = int(self.state.left), True
            self.state.left = 0
        return woken

    # -- reports

    def report(self) -> str:
        """Who waits for what, and the stacks of all."""
        lines = []
        for thread in self.threads:
            lines.append(f"{thread.name}: {self._told(thread)}")
            frame = thread.frame()
            if frame is not None:
                lines += [line.rstrip() for line in traceback.format_stack(frame)[-8:]]
        return "\n".join(lines)

    def _told(self, thread: Simulated) -> str:
        holder = self._holder
        if thread.waits:
            return f"waits for {thread.waits}"
        if holder is not None and thread.needs_gil:
            return f"waits for the interpreter lock of {holder.name}"
        return "can run"
