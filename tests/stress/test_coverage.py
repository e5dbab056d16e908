"""Coverage: which operations met on the same bytes, and in which state the page was."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

from pagecache.stress import Plan, run
from pagecache.stress.cached import CachedTarget
from pagecache.stress.coverage import SAMPLE, STATES, UNSEEN, Coverage, kinds_of, partners, summary
from pagecache.stress.narrative import narrative, sentence
from pagecache.stress.profiles import KINDS, MOVES, PROFILES, WAYS, Operation
from pagecache.stress.world import Activity, Failure, World

SMALL: dict[str, Any] = {"size": "64KiB", "capacity": "128KiB", "rounds": 1, "duration": 0.01}


def test_an_operation_is_beside_those_running_on_its_bytes_and_after_earlier_ones() -> None:
    """fsync concerns the whole file; operations on another page or another file never count as neighbours."""
    target = CachedTarget(Plan(**SMALL), 0, None, "memory:")
    world = World(Plan(seed=1, files=2, **SMALL), target, 0)
    world.begin()

    def enter(worker: int, kind: str, file: int, start: int, end: int) -> None:
        way = "buffered" if kind in ("read", "write") else ""
        world.enter(worker, Operation(kind, file, way, start, end - start), start, end)

    enter(1, "write", 0, 0, 100)
    enter(2, "read", 0, 50, 60)  # beside the write
    enter(3, "punch", 0, 8192, 9000)  # alone
    enter(4, "write", 1, 0, 100)  # another file
    enter(5, "fsync", 0, 30_000, 30_001)  # beside everything of file 0
    for worker in range(1, 6):
        world.leave(worker)
    enter(1, "truncate", 0, 10, 20)  # after the read, which was the last there
    world.leave(1)
    met = {(kind, met) for kind, met, _state in world.coverage.now()}
    assert met == {
        ("write", "alone"),
        ("read", "beside write"),
        ("read", "after write"),
        ("punch", "alone"),
        ("fsync", "beside write"),
        ("fsync", "beside read"),
        ("fsync", "beside punch"),
        ("truncate", "after read"),
    }
    target.give_up()


def test_a_name_and_a_file_that_others_change_belong_to_no_worker() -> None:
    """A script's file number is not the file that another program changes, nor one of a worker's own objects."""
    target = CachedTarget(Plan(**SMALL), 0, None, "memory:")
    world = World(Plan(seed=1, files=1, **SMALL), target, 0)
    world.begin()
    for worker, kind in enumerate(("watch", "truncate", "publish", "publish"), 1):
        world.enter(worker, Operation(kind, 0, "", 0, 10), 0, 10)
    assert {(kind, met) for kind, met, _state in world.coverage.now()} == {
        ("watch", "alone"),
        ("truncate", "alone"),
        ("publish", "alone"),
    }
    target.give_up()


def test_each_kind_can_be_shown() -> None:
    for kind in KINDS:
        way = "buffered" if kind in MOVES else ""
        file = None if KINDS[kind] == "names" else 0
        text = sentence(Activity(1, Operation(kind, 0, way, 0, 10), file, 0.0, 0, 10, 1))
        assert text.endswith(", still running"), text


def test_a_crash_is_among_the_operations_of_all_workers() -> None:
    """It concerns all bytes, and belongs to no worker."""
    plan = Plan(seed=1, **SMALL)
    world = World(plan, CachedTarget(plan, 0, None, "memory:"), 0)
    world.crashed(world.clock.tick())
    (line,) = narrative(world, Failure("crash", "lost"))
    assert line.endswith("the tester crashed the tested system, and checked the remains")


def test_the_state_is_that_of_the_page_in_the_cache() -> None:
    """The page is absent, then clean, then dirty, then clean again, as in the cache."""
    target = CachedTarget(Plan(**SMALL), 0, None, "memory:")
    target.start([bytes(10_000)])
    states: list[str | None] = [target.state(0, 5000)]
    target.read(0, "buffered", 5000, 10, 0)
    states.append(target.state(0, 5000))
    target.write(0, "buffered", 5000, b"x" * 10, 0)
    states.append(target.state(0, 5000))
    target.fsync(0)
    states += [target.state(0, 5000), target.state(0, 10_000)]
    target.give_up()
    assert states == ["absent", "clean", "dirty", "clean", None]


def test_one_in_some_operations_looks_at_the_cache() -> None:
    coverage = Coverage()
    assert [coverage.sampled() for _ in range(2 * SAMPLE)].count(True) == 2
    report = run(Plan(seed=3, threads=3, tasks=2, operations=40, **SMALL))
    assert report.ok, report.story
    states = {name.split(" | ")[2] for name in report.coverage}
    assert states <= {*STATES, UNSEEN}
    assert {UNSEEN, "clean"} <= states
    assert sum(report.coverage.values()) >= report.counters["operations"]


def test_a_long_operation_is_remembered_at_both_ends() -> None:
    coverage = Coverage()
    coverage.met("write", 0, 0, 1 << 30, [], UNSEEN)
    for at in (0, 1 << 29, (1 << 30) - 1):
        coverage.met("read", 0, at, at + 1, [], UNSEEN)
    assert {met for kind, met, _state in coverage.now() if kind == "read"} == {"after write", "alone"}


def test_the_table_says_what_was_not_met() -> None:
    def counts() -> Iterator[tuple[tuple[str, str, str], int]]:
        yield ("read", "beside write", "dirty"), 3
        yield ("read", "after write", UNSEEN), 2
        yield ("write", "alone", "absent"), 1

    lines = summary(dict(counts()), ["read", "write"])
    assert lines[0] == "of 4 pairs of operations 1 ran side by side on the same bytes, 1 one after the other"
    assert [line.split() for line in lines[2:4]] == [
        ["read", "5", "1/2", "1/2", "dirty", "3"],
        ["write", "1", "0/2", "0/2", "absent", "1"],
    ]
    assert lines[4:] == [
        "never side by side, in either order: 2 pairs, most often read, write",
        "  (a longer --duration, fewer --files or a smaller --size brings more of them together)",
    ]


def test_pairs_that_cannot_meet_are_not_missed() -> None:
    """The file that another program changes has separate operations, and a sync concerns all files."""
    kinds = ["read", "sync", "change", "watch"]
    assert partners("read", kinds) == ["read", "sync"]
    assert partners("sync", kinds) == kinds
    assert partners("watch", kinds) == ["sync", "change", "watch"]
    met = {(kind, f"beside {other}", UNSEEN): 1 for kind in kinds for other in partners(kind, kinds)}
    lines = summary(met, kinds)
    assert lines[0].startswith("of 12 pairs of operations 12 ran side by side")
    assert ["read", "2", "2/2"] in [line.split()[:3] for line in lines]
    assert len(lines) == 6


def test_what_can_meet_depends_on_profile_and_ways() -> None:
    assert kinds_of(PROFILES["fsx"], WAYS) == [kind for kind in PROFILES["fsx"].weights if KINDS[kind] != "names"]
    assert kinds_of(PROFILES["log"], ["direct", "append"]) == ["append", "read"]


def test_a_thread_that_comes_and_goes_during_an_examination_disturbs_no_other() -> None:
    """The garbage collector may let other threads run between any two allocations."""
    target = CachedTarget(Plan(**SMALL), 0, None, "memory:")
    world = World(Plan(seed=1, files=1, **SMALL), target, 0)
    world.begin()
    for worker in range(1, 20):
        world.enter(worker, Operation("read", 0, "buffered", 0, 10), 0, 10)
    numbers = iter(range(100, 10_000))

    def come_and_go(phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            number = next(numbers)
            world.active[number] = world.active[1]
            world.active.pop(number - 1, None)

    before = gc.get_threshold()
    tuples = [(number, world) for number in range(5000)]  # tuples from the free list are used up
    gc.callbacks.append(come_and_go)
    gc.set_threshold(1)
    try:
        world.enter(20, Operation("read", 0, "buffered", 0, 10), 0, 10)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(come_and_go)
    assert next(numbers) > 101, "no other thread came"
    assert len(tuples) == 5000
    target.give_up()
