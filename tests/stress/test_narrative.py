"""Reports: the operations around a failure, as sentences, and bytes that a lost update leaves."""

from __future__ import annotations

import re

from pagecache.stress import Plan, run
from pagecache.stress.cached import CachedTarget
from pagecache.stress.history import Broken
from pagecache.stress.oracle import values
from pagecache.stress.profiles import KINDS, MOVES, Operation
from pagecache.stress.report import narrative, sentence
from pagecache.stress.world import Activity, World

from ..check_backend.backends import files, not_safe


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


def test_a_lost_update_is_reported_with_both_values() -> None:
    report = run(
        Plan(seed=3, threads=6, tasks=0, files=1, size="64KiB", duration=20, operations=60), files(write_from=not_safe)
    )
    assert not report.ok
    assert report.kind == "data"
    assert "seen: " not in report.story
    if "bytes" in report.story.splitlines()[1] and "wrong" in report.story.splitlines()[1]:
        assert re.search(r"\n  expected (zero|hex|0x|one of).*, found (zero|hex|0x)", report.story)


def test_values_say_in_which_base_they_are() -> None:
    assert values(bytes(1)) == "zero"
    assert values(bytes(8)) == "zeros"
    assert values(b"\x74") == "0x74 (116)"
    assert values(b"\x74\x00\xff") == "hex 74 00 ff"
