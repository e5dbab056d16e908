"""Discard bytes that the store has acknowledged and not committed; then a commit fails, and the store forgets them.

    write, flush    one page; the store has acknowledged it
    discard         the page: the store may have it, or the bytes from before
    read            shows one of the two, and keeps it in memory
    fsync           its commit fails, and the store restores the bytes from before

Then memory must show the stored bytes [2.17, 2.18], and each handle must have reported the loss once [2.16, I-22].
Nothing else runs during the check.
"""

from __future__ import annotations

import contextlib

from pagecache.stress.cached import CachedTarget
from pagecache.stress.history import Broken
from pagecache.stress.pressed import PAGE, PAGES, WRITERS
from pagecache.stress.pressure import Relapse
from pagecache.stress.profiles import Operation
from pagecache.stress.steps import Steps
from pagecache.stress.world import World

__all__ = ["check_reported_losses", "relapsed"]


def relapsed(world: World, target: CachedTarget) -> None:
    """Run the check on the first file, with all its pages present and everything saved.

    Raises:
        Broken: memory shows other bytes than the store, or a handle reports another loss.
    """
    limits = target.backend.limits
    if limits.commit_on_close or limits.durable_writes or int(limits.read_unit) > 1:
        return
    if target.faulting.plan.rules:
        return
    pages = max(1, min(PAGES, world.plan.size_bytes // PAGE))
    model, start = world.models[0], world.plan.rng("relapsed", world.number).randrange(pages) * PAGE
    steps = Steps(world, 1 + world.plan.threads + world.plan.tasks + WRITERS + 2)
    target.reported_losses(0)
    world.enter(steps.worker, Operation("write", 0, "buffered", start, PAGE), start, start + PAGE)
    target.pressure.relapse = Relapse()
    try:
        write = steps.new(model, "write", "buffered", start, PAGE)
        model.begin(write)
        target.write(0, "buffered", start, write.data(start, start + PAGE), 0)
        target.flush(0)
        lost = target.lose(0, start, PAGE)
        model.finish(write, certain=False)
        target.read(0, "buffered", start, PAGE, 0)
        with contextlib.suppress(OSError):
            target.fsync(0)
        check_reported_losses(target, lost)
    finally:
        target.pressure.relapse = None
        world.leave(steps.worker)
    world.counters["commits that forgot"] += 1
    world.rest(cold=False)


def check_reported_losses(target: CachedTarget, lost: list[tuple[int, int]]) -> None:
    with contextlib.suppress(OSError):
        target.flush(0)  # through a handle that is not checked below
    for name, reported in target.reported_losses(0):
        if sorted(reported) != sorted(lost):
            was, said = (str(one) if one else "nothing" for one in (lost, reported))
            raise Broken(f"file 0: {was} was given up, as (offset, length); {name} says {said}", "error")
