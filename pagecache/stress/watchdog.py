"""Sees that workers go on; when one does not, says who waits for what.

It looks at how long each worker is at its operation. Where that is longer than `Plan.patience`, the run has failed: the
story has the operations that hang, the stacks of all threads and tasks, what the cache's wait report says where there
is one, and the last transitions of the core.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from typing import Any, Self

from pagecache.stress.story import who
from pagecache.stress.world import Failure, World

__all__ = ["Watchdog", "stacks"]

LOOK = 0.2  # seconds between two looks


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
            now = time.monotonic()
            late = {
                worker: active
                for worker, active in list(world.active.items())
                if now - active.since > world.plan.patience
            }
            if late:
                lines = [
                    f"{who(worker)} is at {active.operation} for {now - active.since:.0f} s"
                    for worker, active in sorted(late.items())
                ]
                world.fail(Failure("hang", "\n".join([*lines, *waits(world.target), stacks()])))
                return


def waits(target: Any) -> list[str]:
    """Who waits for what in the cache, where it can say that."""
    report = getattr(getattr(target, "cache", None), "waits", None)
    if report is None:
        return []
    return ["the cache says:", *(f"  {wait}" for wait in report())]


def stacks() -> str:
    """Of all threads, and of the tasks of their loops."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():
        lines.append(f"thread {names.get(ident, ident)}:")
        lines += [line.rstrip() for line in traceback.format_stack(frame)[-8:]]
    for task in list(asyncio.tasks._all_tasks if hasattr(asyncio.tasks, "_all_tasks") else []):
        if not task.done():
            frames = task.get_stack(limit=4)
            where = "; ".join(f"{frame.f_code.co_qualname}:{frame.f_lineno}" for frame in frames)
            lines.append(f"task {task.get_name()}: {where}")
    return "\n".join(lines)
