"""The operations around a failure, as sentences."""

from __future__ import annotations

from pagecache.stress import Plan
from pagecache.stress.cached import CachedTarget
from pagecache.stress.history import Broken
from pagecache.stress.profiles import KINDS, MOVES, Operation
from pagecache.stress.report import narrative, sentence
from pagecache.stress.world import Activity, World


def test_each_kind_can_be_shown() -> None:
    for kind in KINDS:
        way = "buffered" if kind in MOVES else ""
        file = None if KINDS[kind] == "names" else 0
        text = sentence(Activity(1, Operation(kind, 0, way, 0, 10), file, 0.0, 0, 10, 1))
        assert text.endswith(", still running"), text


def test_a_crash_is_among_the_operations_of_all_workers() -> None:
    """It concerns all bytes, and belongs to no worker."""
    plan = Plan(seed=1, size="64KiB", capacity="128KiB")
    world = World(plan, CachedTarget(plan, 0, None, "memory:"), 0)
    world.crashed(world.clock.tick())
    (line,) = narrative(world, Broken("lost", "crash"))
    assert line.endswith("the tester crashed the tested system, and checked the remains")
