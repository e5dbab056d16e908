"""Choice of the next thread: a random walk, and PCT.

The scheduler asks a policy when the running thread sleeps (`next`), and after each `left` points (`at_point`). While
the interpreter lock keeps all others from running, it asks at the first later point without that lock.

    Walk   at each point the thread yields to any other with a probability of the round, from 1/2 to 1/128
    Pct    threads have priorities, and the runnable thread with the highest priority runs; after each few hundred or
           thousand points the running thread becomes the lowest, and occasionally all priorities are drawn anew. So
           there are few preemptions, and each is followed by a long run of the others (Burckhardt et al., "A randomized
           scheduler with probabilistic guarantees of finding bugs", ASPLOS 2010; a run there is one window, here it is
           many)
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Protocol

__all__ = ["Pct", "Policy", "Ranked", "Walk", "drawn"]

LEFT_MAX = 1000
"""Points after which timers are checked, in any thread."""


class Ranked(Protocol):
    """A thread as a policy sees it."""

    priority: float


class Policy(Protocol):
    """A policy as described above; each reply sets `left`."""

    name: str
    left: int

    def begun(self, thread: Ranked) -> None:
        """Register a new thread."""
        ...

    def next(self, ready: Sequence[Ranked]) -> int:
        """Return the index of the thread to run; the last one cannot run."""
        ...

    def at_point(self, running: Ranked, ready: Sequence[Ranked]) -> int:
        """Return the index of the thread that replaces the running one; -1: it goes on."""
        ...

    def woke(self, running: Ranked, ready: Sequence[Ranked]) -> int:
        """Return what `at_point` returns, before `left` points have passed: the thread woke others, or kept the
        interpreter lock from some.
        """
        ...

    def gives_way(self, running: Ranked, ready: Sequence[Ranked]) -> int:
        """Return the index of the thread to run; the running one waits for something without sleeping."""
        ...


class Walk:
    """A random walk: any thread, at any time."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        chance = 2.0 ** -rng.uniform(1, 7)
        self.name = f"walk, a switch every {1 / chance:.0f} points"
        self._scale = math.log(1 - chance)
        self.left = self._draw()

    def _draw(self) -> int:
        return min(LEFT_MAX, 1 + int(math.log(1 - self._rng.random()) / self._scale))

    def begun(self, thread: Ranked) -> None:
        pass

    def next(self, ready: Sequence[Ranked]) -> int:
        self.left = self._draw()
        return int(self._rng.random() * len(ready))

    def at_point(self, running: Ranked, ready: Sequence[Ranked]) -> int:
        self.left = self._draw()
        return int(self._rng.random() * len(ready)) if ready else -1

    def woke(self, running: Ranked, ready: Sequence[Ranked]) -> int:
        return -1

    def gives_way(self, running: Ranked, ready: Sequence[Ranked]) -> int:
        return self.next(ready)


class Pct:
    """The runnable thread with the highest priority; priorities change now and then."""

    WINDOW = 8
    """Number of changes after which all priorities are drawn anew."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._every = int(2.0 ** rng.uniform(4, 12))
        self.name = f"priorities, a change every {self._every} points"
        self._changes = self.WINDOW
        self._lowest = 0.0
        self._until_change = 0
        self.left = 0
        self._redraw()
        self._count()

    def _redraw(self) -> None:
        self._until_change = 1 + int(self._rng.random() * 2 * self._every)

    def _count(self) -> None:
        self.left = min(LEFT_MAX, self._until_change)

    def begun(self, thread: Ranked) -> None:
        thread.priority = self._rng.random()

    def _lower(self, running: Ranked) -> None:
        self._lowest -= 1.0
        running.priority = self._lowest

    def _highest(self, ready: Sequence[Ranked]) -> int:
        return max(range(len(ready)), key=lambda number: ready[number].priority)

    def next(self, ready: Sequence[Ranked]) -> int:
        return self._highest(ready)

    def at_point(self, running: Ranked, ready: Sequence[Ranked]) -> int:
        self._until_change -= min(LEFT_MAX, self._until_change)
        if self._until_change <= 0:
            self._change(running, ready)
        self._count()
        return self.woke(running, ready)

    def _change(self, running: Ranked, ready: Sequence[Ranked]) -> None:
        self._redraw()
        self._changes -= 1
        if self._changes:
            self._lower(running)
            return
        self._changes = self.WINDOW
        for thread in (running, *ready):
            thread.priority = self._rng.random()

    def woke(self, running: Ranked, ready: Sequence[Ranked]) -> int:
        if not ready:
            return -1
        best = self._highest(ready)
        return best if ready[best].priority > running.priority else -1

    def gives_way(self, running: Ranked, ready: Sequence[Ranked]) -> int:
        self._lower(running)
        return self._highest(ready)


def drawn(rng: random.Random) -> Policy:
    """Return a policy for a round."""
    return Walk(rng) if rng.random() < 0.5 else Pct(rng)
