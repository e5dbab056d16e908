"""Simulated threads: the choice of the running thread, sleeps, and virtual time.

All threads of a round are greenlets of one thread of the system, which runs one of them at a time. A switch happens
only in this module: when a thread sleeps, wakes others or yields, and at points (`passed`), of which the C core has
many. A policy chooses the next thread from random numbers of the round's seed. So one seed gives one run, to the last
point.

    thread ── a lock, a queue, a park, a leaf lock of the core ──▶ sleep / wake / passed ──▶ policy ──▶ another

The interpreter lock is simulated as well, since parts of the product rely on it. A thread that stops in the core with
that lock keeps it, and is the holder. Until the holder goes on, only threads that released the lock run, each until it
needs the lock again. Any other place at which a thread stops is in Python code, where the lock changes hands.

Time is virtual. Each point takes `TICK`. When no thread can run, the clock moves to the next timer of a sleep. If there
is none, all threads wait for each other: `Stuck`, with a list of all waits.

Before the clock moves, `at_rest` checks whether a thread sleeps too long (oversleeping.py); that ends the run: `Late`.

Python threads come here through `threads.py`, the core through `handle`. Unsimulated waits (a lock made elsewhere, a
system call that blocks) stop all threads; `Overseer` in job.py detects that.
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
"""First value of the monotonic clock."""
GRACE = 30_000_000_000
"""Virtual nanoseconds that the other threads get after the first thread has ended."""
EARLY, EARLY_NS = 1 / 500, 20_000_000
"""Probability that the next timer fires early although other threads can run, and its largest advance: machines
stall."""
LONELY_MAX = 100_000
"""Consecutive yields of a thread while no other can run, before the run counts as stuck."""
KEPT_MAX = 1_000_000
"""Points that a thread may pass while others wait for its interpreter lock."""
FIRST = 1 << 20
"""Identifier of the first thread."""
MASK = (1 << 64) - 1


class Stuck(Exception):
    """No thread can run, and passing time will not change that."""


class Late(Stuck):
    """No thread can run, and one sleeps past the time at which it should wake."""


class Simulated:
    """One simulated thread.

    Attributes:
        ident: value of `threading.get_ident`; they count up.
        waits: the awaited thing, for reports; "": the thread can run.
        turn: number of its sleeps; a timer of an earlier sleep is void.
        woken: a wake-up ended the last sleep, not a timeout.
        done: it has ended.
        needs_gil: it runs only while no thread holds the interpreter lock; False: it has the lock, or runs without.
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
        """Return the current frame; None: the thread has not begun, or has ended."""
        if self.greenlet is getcurrent():
            return sys._getframe(1)
        found: FrameType | None = None if self.greenlet is None else self.greenlet.gr_frame
        return found


_schedulers: dict[int, Scheduler] = {}
"""Thread of the system -> the scheduler that runs in it."""


def here() -> Scheduler | None:
    """Return the scheduler of the running thread; None: a real thread."""
    return _schedulers.get(threading.get_ident())


class Scheduler:
    """The threads of one round. Made, and run, in a thread of the system that does nothing else.

    Attributes:
        threads: all that have not ended, in the order of their start.
        switches: number of switches between threads.
        digest: a number that depends on each switch and its time.
        at_rest: called when no thread can run; returns a sentence if one of them sleeps too long. It may take locks
            that no sleeping thread holds.
    """

    def __init__(self, policy: Policy, rng: random.Random) -> None:
        self.policy = policy
        self.rng = rng
        self.threads: dict[Simulated, None] = {}
        self.python_threads: dict[Simulated, object] = {}  # values of `current_thread`
        self.switches = 0
        self.digest = 0
        self.stopped = False  # set by another thread: end the run
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
        self._preempted = False  # a thread was woken: ask the policy at the next point, though `_left` points remain
        self._left = 0
        self._asleep: tuple[str, int]
        self.running: Simulated
        self.state = simulated.simulation()

    @property
    def points(self) -> int:
        """Return the number of passed points; from any thread."""
        return self._points or int(self.state.points)

    # -- a run

    def run(self, call: Callable[[], None]) -> None:
        """Play `call` as the first thread, with all threads that it starts, until they have ended. Some may be left if
        the first ended long ago. `call` must keep its own exceptions.

        Raises:
            Stuck: the threads wait for each other.
        """
        self._root = getcurrent()
        handle = self.handle
        simulated.simulate(handle)
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
                    self._next = self._chosen()  # a thread has ended
            if self._stuck is not None:
                raise self._stuck
        finally:
            for thread in self.threads:  # unfinished threads stay suspended forever
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(thread.greenlet))
            del _schedulers[self.system_thread]
            self._points = self.points
            simulated.simulate(None)

    def start(self, name: str, target: Callable[[], None]) -> Simulated:
        """Make a new thread, which can run."""
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
        """Return the monotonic clock in nanoseconds."""
        state = self.state
        return int(state.now_ns + state.points * TICK)

    def _fire(self) -> None:
        """Wake threads whose timers are due."""
        timers = self._timers
        if not timers or timers[0][0] > (now := self.now_ns()):
            return
        while timers and timers[0][0] <= now:
            _, _, thread, turn = heappop(timers)
            if thread.turn == turn:
                self._up(thread)

    def _pass_time(self, most: float = math.inf) -> bool:
        """Move the clock to the next timer; False: there is none, or not within `most` nanoseconds."""
        timers = self._timers
        while timers and timers[0][2].turn != timers[0][3]:
            heappop(timers)
        if not timers or timers[0][0] - self.now_ns() > most:
            return False
        self.state.now_ns += max(0, timers[0][0] - self.now_ns())
        self._fire()
        return True

    # -- choice of the running thread

    def _enter(self, thread: Simulated) -> None:
        self._ready.append(thread)
        self.state.others += not thread.needs_gil

    def _leave(self, thread: Simulated) -> None:
        self._ready.remove(thread)
        self.state.others -= not thread.needs_gil

    def _runnable(self) -> list[Simulated]:
        """Return the threads that can run, without the running one."""
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
        """Return the next thread after the running one stopped; None: no thread can ever run."""
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
        """Ask `at_rest`, without a point and without a tick: the run is equal with and without the call."""
        left, points = self.state.left, self.state.points
        self.state.left = 1 << 62
        late = self.at_rest()
        self.state.left, self.state.points = left, points
        return late

    def wakes(self, ident: int) -> float | None:
        """Return when the sleep of a thread times out, in seconds; None: it does not sleep with a timeout."""
        times = (at for at, _, thread, turn in self._timers if thread.ident == ident and thread.turn == turn)
        at = min(times, default=None)
        return None if at is None else at / 1e9

    def _count(self) -> bool:
        """Report to the policy how many of its points are left; return whether it is due."""
        left, preempted = int(self.state.left), self._preempted
        self.policy.left, self._preempted = self._left + min(left, 0) if preempted else left, False
        return self.policy.left <= 0

    def _switch(self, thread: Simulated | None) -> None:
        """Run a thread; return when the current one is chosen again. None: back to `run`, for good."""
        if thread is self.running:
            return
        self.switches += 1
        if thread is None or not thread.greenlet:  # `run` starts threads that have not begun
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
        """Sleep until woken, or until the timeout (-1: none); return whether the thread was woken."""
        me = self.running
        me.woken, me.waits = False, waits
        if timeout_ns >= 0:
            self._timer += 1
            heappush(self._timers, (self.now_ns() + timeout_ns, self._timer, me, me.turn))
        self._switch(self._chosen())
        return me.woken

    def _yield_to(self, thread: Simulated | None) -> None:
        """Let another thread run while this one stays runnable. None: continue."""
        self.state.left = self.policy.left
        if thread is not None:
            self._leave(thread)
            self._enter(self.running)
            self._switch(thread)

    # -- for CORE

    def handle(self, what: int, point: str | None, word: int, number: int, gil: int) -> int:
        """Serve the core, see `_native/types/simulated.c`, which puts its state of the thread aside during the call."""
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
            self._give_up("nothing, and never releases the interpreter lock")
        else:
            self._fire()
            self.state.again = self._holder is not None and len(self._ready) > self.state.others
            self._yield_to(self._at_point())
        if self._holder is me:
            self._holder = None
        return answer

    def _at_point(self) -> Simulated | None:
        """Return the thread that the policy lets run at a point; None: the running one."""
        policy = self.policy
        over = self._count()  # otherwise it woke a thread, or the interpreter lock became free for others
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
        if me in sleepers:  # timed out: no wake-up removed it
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
            self._give_up("another thread, again and again")

    def _give_up(self, waits: str) -> None:
        """Raise `Stuck`: the running thread would loop forever."""
        self.running.waits = waits
        self._stuck = Stuck(self.report())
        self._switch(None)

    # -- for threads of Python

    def sleep(self, waits: str, timeout: float | None = None) -> bool:
        """Sleep until `wake`, or for `timeout` seconds; return whether the thread was woken."""
        self.state.points += 1
        self._asleep = waits, -1 if timeout is None else max(0, math.ceil(timeout * 1e9))
        return simulated.away(self._away)

    def _away(self) -> bool:
        waits, timeout_ns = self._asleep
        self.running.needs_gil = True
        return self._sleep(waits, timeout_ns)

    def wake(self, thread: Simulated) -> bool:
        """Make a sleeping thread runnable, from the next point on. False: it had timed out before."""
        woken = self._wake(thread)
        if not self._preempted:
            self._left, self._preempted = int(self.state.left), True
            self.state.left = 0
        return woken

    # -- reports

    def report(self) -> str:
        """Return all waits, and the stacks of all threads."""
        lines = []
        for thread in self.threads:
            lines.append(f"{thread.name}: {self._state_of(thread)}")
            frame = thread.frame()
            if frame is not None:
                lines += [line.rstrip() for line in traceback.format_stack(frame)[-8:]]
        return "\n".join(lines)

    def _state_of(self, thread: Simulated) -> str:
        holder = self._holder
        if thread.waits:
            return f"waits for {thread.waits}"
        if holder is not None and thread.needs_gil:
            return f"waits for the interpreter lock of {holder.name}"
        return "can run"
