"""A call of the backend outlives the backend: the cache continues with another one before the call has returned.

    write           one page; its write-back is held in the backend
    abort           ends all waits with an error
    reconnect       not fenced: the held call may still be carried out
    lands late      write newer bytes and call fsync; then release the call. The old bytes must not be found afterwards:
                    the cache must not have sent newer ones before the old call returned [T-63, K7]
    or is lost      release the call, which reports success from a store that is gone. Its bytes must be stored all the
                    same: a late reply only ends the flight [2.22, T-75b]

Then the round rests once more.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from pagecache.stress.cached import CachedTarget
from pagecache.stress.pressed import PAGE, PAGES, WRITERS, play
from pagecache.stress.profiles import Operation
from pagecache.stress.steps import Steps
from pagecache.stress.world import World

__all__ = ["ENTER", "outlived", "started"]

MOMENT = 0.1  # seconds in which a write that does not wait for the old call reaches the backend
ENTER = 5.0  # seconds in which a requested write-back reaches the backend


def outlived(world: World, target: CachedTarget) -> None:
    """Run the check while nothing else runs and everything is saved.

    Raises:
        Broken: bytes of the held call are found where they must not be, or are missing.
    """
    limits = target.backend.limits
    if limits.commit_on_close or target.faulting.plan.rules:
        return
    rng = world.plan.rng("outlived", world.number)
    steps = Steps(world, 1 + world.plan.threads + world.plan.tasks + WRITERS + 1)
    for lost in (False, True):
        write = Operation("write", 0, "buffered", rng.randrange(PAGES) * PAGE, PAGE)
        _outlive(world, target, steps, write, lost=lost)
        world.rest(cold=True)


def _outlive(world: World, target: CachedTarget, steps: Steps, write: Operation, *, lost: bool) -> None:
    errors: list[BaseException] = []
    hold = target.pressure.hold(lost=lost)
    try:
        play(target, steps.conduct(write), errors)
        flush = started(target.flush, 0)
        if hold.entered.wait(ENTER):
            target.volume.abort()
            flush.join()
            target.reconnect(fenced=False)
            if lost:
                hold.let_go()
            else:
                early = target.pressure.hold(lost=False)
                early.let_go()
                play(target, steps.conduct(write), errors)
                fsync = started(target.fsync, 0)
                if early.entered.wait(MOMENT):
                    fsync.join(ENTER)
                hold.let_go()
                fsync.join()
            hold.over.wait(ENTER)
            world.counters["backends outlived"] += 1
    finally:
        hold.let_go()
    if errors:
        raise errors[0]


def started(call: Callable[[int], None], file: int) -> threading.Thread:
    """Start a call that may fail in a thread; later checks examine its effect."""

    def run() -> None:
        with contextlib.suppress(OSError):
            call(file)

    thread = threading.Thread(target=run, name="stress-outlived", daemon=True)
    thread.start()
    return thread
