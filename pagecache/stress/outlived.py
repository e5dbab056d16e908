"""A call of the backend outlives the backend: the cache goes on with another one before the call has returned.

    write           one page; its hand-over is held in the backend
    abort           whoever waits for it is told
    reconnect       not fenced: the call that is held may still do what it was asked for
    lands late      newer bytes are written and an fsync is called; then the call is let go. Nothing of the old bytes is
                    found afterwards: nothing newer was sent before the old call had returned [T-63, K7]
    or is lost      the call is let go and says that it has succeeded, in a store that is gone. What it had is stored
                    all the same: a late answer only ends the flight [2.22, T-75b]

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

MOMENT = 0.1  # seconds in which a write that does not wait for the old call comes to the backend
ENTER = 5.0  # seconds in which a hand-over that was asked for comes to the backend


def outlived(world: World, target: CachedTarget) -> None:
    """Nobody else runs, and everything is saved.

    Raises:
        Broken: what was held is found where it must not be, or is gone.
    """
    limits = target.backend.limits
    if limits.commit_on_close or not target.holds or target.faulting.plan.rules:
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
    """A call that may fail, in a thread: what it was to do is looked at afterwards."""

    def run() -> None:
        with contextlib.suppress(OSError):
            call(file)

    thread = threading.Thread(target=run, name="stress-outlived", daemon=True)
    thread.start()
    return thread
