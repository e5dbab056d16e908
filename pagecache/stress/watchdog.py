"""Check that workers make progress; a worker that does not fails the run, with the full report of hang.py.

A call that takes longer than `Plan.patience` is a hang. So is an operation whose calls return, but without end: a fault
that returns at each retry would otherwise stay undetected.
"""

from __future__ import annotations

import threading
import time
from typing import Self

from pagecache.stress.hang import Hang
from pagecache.stress.history import Broken
from pagecache.stress.narrative import narrative, sentence
from pagecache.stress.story import worker_name
from pagecache.stress.world import Activity, World

__all__ = ["Watchdog", "hangs", "late", "overdue"]

CHECK_S = 0.2  # seconds between two checks
CALLS = 4  # all calls of an operation may take so many times the patience


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
        while not self._done.wait(CHECK_S):
            late = overdue(world.active.copy(), time.monotonic(), world.plan.patience)
            if late:
                world.fail(hangs(world, late))
                return


def overdue(active: dict[int, Activity], now: float, patience: float) -> list[str]:
    """Return a sentence for each worker that exceeds `patience` in one call, or `CALLS` times that in one operation."""
    found = []
    for worker, activity in sorted(active.items()):
        since, began = max(activity.since, activity.moved), activity.since
        if now - since > patience:
            found.append(f"{worker_name(worker)}: {sentence(activity)} after {now - since:.0f} s")
        elif now - began > CALLS * patience:
            found.append(
                f"{worker_name(worker)}: {sentence(activity)} after {now - began:.0f} s, though its calls return"
            )
    return found


def late(sentence: str) -> Broken:
    """Return a failure without a round."""
    found = Hang.of([sentence], None, None)
    return Broken(found.describe(), "hang", hang=found)


def hangs(world: World, late: list[str]) -> Broken:
    """Return a failure with the late workers and the state around them."""
    found = Hang.of(late, world.target, world.loop)
    failure = Broken(found.describe(), "hang", hang=found)
    failure.happened = narrative(world, failure)  # before the round is torn down
    return failure
