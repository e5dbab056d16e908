"""Who runs next: a random walk, and PCT.

A policy is asked where the running thread sleeps (`next`), and after each `left` points that it passes (`at_point`);
where the interpreter lock lets nobody else go on, at the next point at which it does.

    Walk   at each point the thread gives way with a probability of the round's own, from 1/2 to 1/128, to any other
    Pct    threads have priorities, and the highest that can run does; after each few hundred or thousand points the
           running thread becomes the lowest, once in a while all priorities are drawn anew. So there are few
           preemptions, and each is followed by a long run of the others (Burckhardt et al., "A randomized scheduler
           with probabilistic guarantees of finding bugs", ASPLOS 2010; there a run is one window, here it is many)
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Protocol

__all__ = ["Pct", "Policy", "Ranked", "Walk", "drawn"]

LEFT_MAX = 1000
"""Points after which timers are looked at, whoever runs."""


class Ranked(Protocol):
    """What a policy knows of a thread."""

    priority: float


class Policy(Protocol):
    """See above; `left` is set by each answer."""

    name: str
    left: int

    def begun(self, thread: Ranked) -> None:
        """A thread is there from now on."""
        ...

    def next(self, ready: Sequence[Ranked]) -> int:
        """Which of those who can run does; the thread that ran cannot."""
        ...

    def at_point(self, running: Ranked, ready: Sequence[Ranked]) -> int:
        """Which of the others goes on in place of the running one; -1: it goes on itself."""
        ...

    def woke(self, running: Ranked, ready: Sequence[Ranked]) -> int:
        """The same, before `left` have passed: it has woken some, or kept the interpreter lock from some."""
        ...

    def gives_way(self, running: Ranked, ready: Sequence[Ranked]) -> int:
        """Which of the others goes on: the running one waits for something without sleeping."""
        ...


class Walk:
    """Any thread, any time."""

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
    """The one with the highest priority, which changes now and then."""

    WINDOW = 8
    """So many changes, and all priorities are drawn anew."""

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
    """One for a round."""
    return Walk(rng) if rng.random() < 0.5 else Pct(rng)
