"""Check that workers make progress; if one does not, report the state: all waits, stacks of all threads and tasks, and
the last transitions of the core.

A call that takes longer than `Plan.patience` is a hang. So is an operation whose calls return, but without end: a fault
that returns at each retry would otherwise stay undetected.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from pagecache import PageCache, Wait
from pagecache.stress.history import Broken
from pagecache.stress.oracle import worker_name
from pagecache.stress.report import narrative, sentence
from pagecache.stress.world import Activity, World
from pagecache.target import Hung, within

SHOWN = 40  # transitions in a report
DEEP = 12  # lines of a stack
OWN = ("MainThread", "stress-live", "stress-standing", "stress-watchdog", "stress-check")
"""Threads of the tester, which do not explain a hang."""
CHECK_S = 0.2  # seconds between two checks of workers
CALLS = 4  # all calls of an operation may take so many times the patience
CHECK = 5.0  # time limit in seconds for a check of the cache: a hanging thread may hold its lock


def state(late: list[str], target: Any, loop: asyncio.AbstractEventLoop | None) -> str:
    """Describe the current state, also of a target in another process, without the tester's own threads; threads with
    equal stacks are grouped, and unavailable parts left out. `late`: a sentence for each worker that hangs.
    """
    if (elsewhere := getattr(target, "hang", None)) is not None:
        return str(elsewhere(late))
    cache: Any = getattr(target, "cache", None)
    found, lines = stacks(loop), list(late)
    if cache is not None and (broken := checked(cache)):
        lines.append(f"the cache is broken: {broken}")
    with contextlib.suppress(Exception):
        waits = [f"  {said(wait)}" for wait in cache.waits()]
        lines += ["the cache says:", *waits] if waits else []
    same: dict[tuple[str, ...], list[str]] = {}
    for name, frames in found.items():
        if not name.removeprefix("thread ").startswith(OWN):
            same.setdefault(tuple(frames), []).append(name)
    for stack, names in same.items():
        lines += [f"{', '.join(names)}:", *(f"  {frame}" for frame in stack)]
    with contextlib.suppress(Exception):
        transitions = cache.native.trace().splitlines()[-SHOWN:]
        lines += ["last transitions:", *(f"  {line}" for line in transitions)] if transitions else []
    return "\n".join(lines)


def checked(cache: PageCache) -> str:
    """Return the finding of `PageCache.check` in a line; "" if it does not return."""
    try:
        within(CHECK, cache.check, "stress-check")
    except AssertionError as error:
        return str(error).partition("\n")[0]
    except Hung:
        pass
    return ""


def said(wait: Wait) -> str:
    """Describe a wait: waiter, awaited thing, duration and call."""
    of = f" of {wait.key!r}" if wait.key is not None else ""
    owns = ""
    if (owner := wait.owner) is not None:
        at = "" if owner.place is None else f", at {owner.place}"
        owns = f"; {owner.name} is in {owner.what} for {owner.seconds:.1f} s{at}"
    return f"{wait.name} waits for {wait.what}{of} for {wait.seconds:.1f} s{owns}"


def stacks(loop: asyncio.AbstractEventLoop | None = None) -> dict[str, list[str]]:
    """Return the stacks of all threads, and of the tasks of a loop."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found: dict[str, list[str]] = {}
    for ident, frame in sys._current_frames().items():
        lines = "".join(traceback.format_stack(frame)).splitlines()
        found[f"thread {names.get(ident, '?')} ({ident})"] = lines[-DEEP:]
    if loop is not None:
        for task in asyncio.all_tasks(loop):
            frames = task.get_stack(limit=4)
            found[f"task {task.get_name()}"] = [
                f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}" for frame in frames
            ]
    return found


@contextmanager
def beside(name: str, call: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run a thread during the body; at its end the event of the call is set."""
    over = threading.Event()
    thread = threading.Thread(target=call, args=(over,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def watchdog(world: World) -> AbstractContextManager[None]:
    """Fail the world if a worker makes no progress during the body."""

    def watch(over: threading.Event) -> None:
        while not over.wait(CHECK_S):
            late = overdue(world.active.copy(), time.monotonic(), world.plan.patience)
            if late:
                world.fail(hangs(world, late))
                return

    return beside("stress-watchdog", watch)


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


def hangs(world: World | None, late: list[str]) -> Broken:
    """Return a failure with the late workers and the state around them; `world`: of a round, if one has begun."""
    failure = Broken(state(late, getattr(world, "target", None), getattr(world, "loop", None)), "hang")
    if world is not None:
        failure.happened = narrative(world, failure)  # before the round is torn down
    return failure
