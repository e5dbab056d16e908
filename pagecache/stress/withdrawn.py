"""Discard bytes that the store may have received, with visibility by commit: the next commit must not contain them.

    write, fsync    one page; the store does both calls, and their replies are lost
    discard         the page waits for a retry: the store drops the bytes it received [2.18, 2.19]
    write, fsync    another page; its commit publishes that page, and nothing of the discarded one

Then the round rests once more: memory and store must have the content from before the first write. Nothing else runs
during the check, and each handle must report the loss once [2.16, I-22].
"""

from __future__ import annotations

import contextlib
import threading

from pagecache.stress.cached import CachedTarget
from pagecache.stress.history import Broken
from pagecache.stress.outlived import ENTER, started
from pagecache.stress.pressed import PAGE, PAGES, WRITERS, play
from pagecache.stress.profiles import Operation
from pagecache.stress.steps import Steps
from pagecache.stress.world import World

__all__ = ["withdrawn"]


def withdrawn(world: World, target: CachedTarget) -> None:
    """Run the check on the first file, which has at least `PAGES` pages.

    Raises:
        Broken: the discarded bytes are found, or a handle reports another loss.
    """
    if not target.publishes or target.faulting.plan.rules:
        return
    world.rest(cold=False)  # other unsaved bytes would be discarded, too
    first, second = world.plan.rng("withdrawn", world.number).sample(range(PAGES), 2)
    steps = Steps(world, 1 + world.plan.threads + world.plan.tasks + WRITERS + 3)
    _give_up(world, target, steps, first * PAGE)
    errors: list[BaseException] = []
    for kind, way in (("write", "buffered"), ("fsync", "")):
        play(target, steps.conduct(Operation(kind, 0, way, second * PAGE, PAGE)), errors)
    if errors:
        raise errors[0]
    world.counters["uploads given up"] += 1
    world.rest(cold=True)


def _give_up(world: World, target: CachedTarget, steps: Steps, start: int) -> None:
    """Discard a page that was sent without a reply, so that its state in the store is unknown."""
    model = world.models[0]
    target.reported_losses(0)
    world.enter(steps.worker, Operation("write", 0, "buffered", start, PAGE), start, start + PAGE)
    unreported = target.pressure.unreported = threading.Event()
    try:
        write = steps.new(model, "write", "buffered", start, PAGE)
        model.begin(write)
        target.write(0, "buffered", start, write.data(start, start + PAGE), 0)
        fsync = started(target.fsync, 0)
        unreported.wait(ENTER)
        lost = target.lose(0, start, PAGE)
        model.cancel(write)
    finally:
        target.pressure.unreported = None
        world.leave(steps.worker)
    fsync.join()
    check_reported_losses(target, lost)


def check_reported_losses(target: CachedTarget, lost: list[tuple[int, int]]) -> None:
    with contextlib.suppress(OSError):
        target.flush(0)  # through a handle that is not checked below
    for name, reported in target.reported_losses(0):
        if sorted(reported) != sorted(lost):
            was, said = (str(one) if one else "nothing" for one in (lost, reported))
            raise Broken(f"file 0: {was} was given up, as (offset, length); {name} says {said}", "error")
