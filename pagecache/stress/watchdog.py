"""Sees that workers go on; when one does not, the run has failed, with all that `hang.py` can say.

It looks at how long each worker is at one call of its operation. Where that is longer than `Plan.patience`, that is a
hang. So is an operation whose calls return, and that is made of them without end: what fails is tried again, and a
fault that comes back each time would never be told.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Self

from pagecache.stress.hang import Hang
from pagecache.stress.story import who
from pagecache.stress.timeline import sentence, timeline
from pagecache.stress.world import Activity, Failure, World

__all__ = ["Watchdog", "hangs", "late", "overdue"]

LOOK = 0.2  # seconds between two looks
CALLS = 4  # so many times the patience all calls of an operation may take: less than a round may (trying.py)


class Watchdog:
    """A thread beside the workers; a context manager."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stress-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        world = self._world
        while not self._done.wait(LOOK):
            late = overdue(world.active.copy(), time.monotonic(), world.plan.patience)
            if late:
                world.fail(hangs(world, late))
                return


def overdue(active: dict[int, Activity], now: float, patience: float) -> list[str]:
    """Who is at one call for longer than that, or at one operation for `CALLS` times as long, as sentences."""
    found = []
    for worker, activity in sorted(active.items()):
        since, began = max(activity.since, activity.moved), activity.since
        if now - since > patience:
            found.append(f"{who(worker)} {sentence(activity)} after {now - since:.0f} s")
        elif now - began > CALLS * patience:
            found.append(f"{who(worker)} {sentence(activity)} after {now - began:.0f} s, though its calls return")
    return found


def late(sentence: str) -> Failure:
    """A failure where there is no round yet."""
    found = Hang.of([sentence], None, None)
    return Failure("hang", found.tell(), hang=found)


def hangs(world: World, late: list[str]) -> Failure:
    """A failure that says who is late, and everything around it."""
    found = Hang.of(late, world.target, world.loop)
    failure = Failure("hang", found.tell(), hang=found)
    return replace(failure, happened=timeline(world, failure))  # as it is before everything is given up
