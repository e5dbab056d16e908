"""The tester finds mistakes, describes them, and reduces each to the fewest operations that fail. Scripts of
operations: as JSON, as they are played, and invalid ones.
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import Backend, DirectoryBackend
from pagecache.config import Durability
from pagecache.stress import NotFailing, Plan, Report, Script, shrink
from pagecache.stress.cached import CachedTarget
from pagecache.stress.job import Run
from pagecache.stress.profiles import PROFILES, WAYS, Operation, operations
from pagecache.stress.shrinker import reduced
from pagecache.stress.targets import Target

from ..file.rig import raises
from . import clean
from .planted import BACKENDS, TARGETS, FlushesOnly, NoFsync

MIX = ("buffered", "direct", "parallel", "through", "views", "append", "truncate", "punch", "hints")
PLAN: dict[str, Any] = {"threads": 3, "tasks": 2, "files": 2, "size": "128KiB", "capacity": "128KiB", "operations": 20}
BYTES = re.compile(r"file \d, bytes \d+ to \d+: wrong|file \d: \d+ bytes, where|file \d: append \[\d+, \d+\)")
LONG = 600.0  # seconds that no shrink here needs: it ends when no operation can be left out


def failed(plan: Plan, target: Any = None, make: Any = None) -> Report:
    """The report of a run that leaves no files."""
    run = Run(plan, target, make)
    run.keep = False
    return run.run()


def script_of(report: Report) -> Script:
    script = Plan.from_replay(report.replay).script
    assert script is not None
    return script


def over(kind: type[CachedTarget], factory: Callable[[], Backend] | None = None) -> Callable[[Plan, int], Target]:
    return lambda plan, number: kind(plan, number, factory, kind.__name__)


# -- parts


@pytest.mark.parametrize("needed", [[0], [99], [3, 77], [10, 11, 60], list(range(0, 100, 9)), list(range(100))])
def test_what_is_needed_is_left(needed: list[int]) -> None:
    assert reduced(range(100), lambda some: set(needed) <= set(some)) == needed


def test_nothing_is_left_that_can_be_left_out_alone() -> None:
    """Any condition may decide on failure: here one of several sets."""
    rng = random.Random(4)
    for _ in range(50):
        sets = [set(rng.sample(range(40), rng.randrange(1, 6))) for _ in range(3)]

        def fails(some: Sequence[int], sets: list[set[int]] = sets) -> bool:
            return any(each <= set(some) for each in sets)

        left = reduced(range(40), fails)
        assert fails(left)
        assert not any(fails([one for one in left if one != out]) for out in left)


# -- planted mistakes


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "most", "workers"),
    [("DropsTail", 1, 1), ("ReadsOld", 3, 1), ("TearsWrites", 1, 1), ("NoFsync", 3, 1), ("LeavesTail", 3, 2)],
)
def test_a_planted_mistake_is_found_and_shrinks_to_a_handful(name: str, most: int, workers: int) -> None:
    """It starts from some fifty operations of five workers. The remainder fails, says how, with range and writer, and
    is JSON. Which bytes an fsync does not save depends on time: a store to a view may need a truncate before it, which
    makes the file long enough, and without the store nothing is unsaved.
    """
    chosen: dict[str, Any] = {"target": BACKENDS[name]} if name in BACKENDS else {"make": over(TARGETS[name])}
    found = failed(Plan(seed=1, duration=20, mix=MIX, **PLAN), **chosen)
    shrunk = shrink(found, seconds=LONG, **chosen)
    assert (shrunk.ok, shrunk.kind) == (False, "data")
    script = script_of(shrunk)
    assert (len(script) <= most, len(script.workers) <= workers) == (True, True), shrunk.story
    assert BYTES.search(shrunk.story), shrunk.story
    assert "writer 1: " in shrunk.story
    plan = Plan.from_replay(shrunk.replay)
    assert plan.patience == 60.0
    again = Run(plan, chosen.get("target"), chosen.get("make")).run()
    assert again.kind == "data"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_race_shrinks_to_two_workers() -> None:
    """Appends use a size that was read before. The remaining ones are repeated until they collide."""
    plan = Plan(seed=1, duration=240, mix=("append", "buffered"), **PLAN | {"operations": 8, "tasks": 0})
    make = over(TARGETS["AppendsOver"])
    shrunk = shrink(failed(plan, make=make), seconds=LONG, make=make)
    script = script_of(shrunk)
    assert len(script.workers) == 2, shrunk.story
    assert len(script) <= 8, shrunk.story
    assert "lies on append" in shrunk.story or "where the end was" in shrunk.story


class TwoMistakes(CachedTarget):
    """Writes are not done, and a truncate raises an unexplained error."""

    def write(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None:
        pass

    def truncate(self, file: int, way: str, size: int) -> None:
        raise RuntimeError("a planted mistake")


def test_the_same_kind_of_failure_has_to_come_back() -> None:
    """Without the truncate it fails too, at the rest: that is another failure than the one being shrunk."""
    operations = Operation("write", 0, "buffered", 0, 4096), Operation("truncate", 0)
    plan = Plan(seed=1, rounds=1, script=Script((0,), ((operations,),)), size="64KiB", capacity="128KiB")
    replay = {"version": 1, "plan": plan.to_dict(), "target": None}
    found = Report(ok=False, story="", replay=replay, counters={}, kind="error")
    shrunk = shrink(found, seconds=LONG, make=over(TwoMistakes))
    assert shrunk.kind == "error"
    assert script_of(shrunk) == Script((0,), (((Operation("truncate", 0),),),))


def test_faults_and_operations_that_do_not_matter_are_gone() -> None:
    operation = Operation("writev", 1, "direct", 9001, 5432, extra=77)
    script = Script((5000, 7777), (((operation,), (Operation("fsync", 1, offset=5, length=7, extra=9),)),))
    plan = Plan(seed=1, rounds=1, script=script, size="64KiB", capacity="128KiB", faults="hell")
    found = failed(plan, BACKENDS["DropsTail"])
    shrunk = shrink(found, BACKENDS["DropsTail"], seconds=LONG)
    small = Plan.from_replay(shrunk.replay)
    assert small.script is not None
    assert (small.faults, small.script.threads) == ("none", (((operation,),),))


def test_what_cannot_be_shrunk_is_reported() -> None:
    """A failure that does not repeat, no failure, and a hang: each try would leave its threads behind."""
    plan = Plan(seed=1, rounds=1, **PLAN | {"operations": 2})
    passed = clean(plan)
    with pytest.raises(NotFailing, match=r"did not fail again in \d+ tries"):
        shrink(replace(passed, ok=False, kind="data"), seconds=0.5)
    raises(NotFailing, shrink, passed, seconds=LONG, match="there is nothing to shrink")
    hang = replace(passed, ok=False, kind="hang")
    raises(NotFailing, shrink, hang, seconds=LONG, match="a hang is not shrunk")


class OnlySeeds(CachedTarget):
    """fsync for a caller beside the writers at the end of a round raises an unexplained error, in a run of a seed."""

    def fsync(self, file: int, way: str = "buffered", level: Durability = "backend") -> None:
        if self._plan.script is None and threading.current_thread().name == "stress-sync":
            raise RuntimeError("a planted mistake")
        super().fsync(file, way)


def test_a_finding_without_an_operation_is_not_shrunk() -> None:
    """The report says so, and shows nothing that does not fail."""
    plan = Plan(seed=1, rounds=1, **PLAN | {"operations": 2})
    found = failed(plan, make=over(OnlySeeds))
    raises(NotFailing, shrink, found, seconds=LONG, make=over(OnlySeeds), match="as a script it does not fail")


@pytest.mark.timeout(900)
def test_a_round_with_crashes_shrinks() -> None:
    """A crash cuts off the workers' operations, so the round is a script of the planned ones."""
    plan = Plan(seed=6, duration=240, crashes=("forgetting",), mix=("buffered",), **PLAN | {"operations": 8})
    shrunk = shrink(failed(plan, make=over(FlushesOnly)), seconds=LONG, make=over(FlushesOnly))
    assert not shrunk.ok
    assert len(script_of(shrunk)) < 8, shrunk.story


def test_tries_leave_nothing_behind(tmp_path: Path) -> None:
    """This includes the failing ones."""
    (tmp_path / "store").mkdir()
    plan = Plan(seed=1, duration=20, mix=MIX, **PLAN)
    make = over(NoFsync, lambda: DirectoryBackend(tmp_path / "store"))
    shrunk = shrink(failed(plan, make=make), seconds=LONG, make=make)
    assert len(script_of(shrunk)) <= 3
    assert list((tmp_path / "store").rglob("pagecache-stress-*")) == []


PLAYED: dict[str, Any] = {"size": "64KiB", "capacity": "128KiB", "rounds": 1, "duration": 0.01}
BESIDE = {(0, page * 4096, 4096) for page in range(4)}
"""The ranges that the writers of the sync beside writers write."""
WRITE = {"kind": "write", "file": 0, "way": "buffered", "length": 4096}


class Recording(CachedTarget):
    """A file that records each write and its place."""

    def __init__(self, plan: Plan, number: int) -> None:
        super().__init__(plan, number, None, "told")
        self.writes: list[tuple[int, int, int]] = []

    def write(self, file: int, way: str, offset: int, data: bytes, extra: int) -> None:
        self.writes.append((file, offset, len(data)))
        super().write(file, way, offset, data, extra)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_script_survives_json(profile: str) -> None:
    """This covers every operation of a seed, in the short form and in the one that is written to files."""
    stream = operations(PROFILES[profile], Plan(seed=3).rng("x"), files=2, size=1 << 16, edges=(4096,), ways=WAYS)
    worker = (tuple(next(stream) for _ in range(40)), tuple(next(stream) for _ in range(3)))
    plan = Plan(seed=5, script=Script((0, 100), (worker, ()), ((), worker), repeat=3))
    replay = {"version": 1, "plan": plan.to_dict()}
    assert Plan.from_replay(json.loads(json.dumps(replay))) == plan
    assert (plan.threads, plan.tasks, plan.files) == (2, 2, 2)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "wriet"}, r"script: wriet\.kind: 'wriet' is not one of read, "),
        ({"kind": ["write"]}, r"kind: \['write'\] is not one of"),
        ({"way": "sideways"}, r"write\.way: 'sideways' is not one of buffered, direct"),
        ({"kind": "fsync"}, r"way: 'buffered' is none of fsync, which moves no bytes"),
        ({"file": 1}, r"file: 1 is not at least 0 and at most 0"),
        ({"kind": "publish", "way": "", "file": 3}, r"file: 3 is not at least 0 and at most 2"),
        ({"offset": 0.5}, r"offset: 0\.5 is not an int"),
        ({"length": -1}, r"length: -1 is not at least 0"),
        ({"extra": 1 << 16}, r"extra: 65536 is not at least 0 and at most 65535"),
        ({"end": 1}, r"end: 1 is not true or false"),
        ({"size": 4}, r"script: .*'size'"),
    ],
)
def test_a_bad_operation_is_refused_with_the_rule(change: dict[str, Any], complaint: str) -> None:
    raises(ValueError, Script.from_dict, {"contents": [0], "threads": [[[WRITE | change]]]}, match=complaint)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (7, "script: "),
        ({"content": [0]}, r"script: .*'content'"),
        ({"contents": [-1], "threads": [[[WRITE]]]}, r"script\.contents\[0\]: -1 is not at least 0"),
        ({"contents": 7, "threads": [[[WRITE]]]}, r"script: 'int' object is not iterable"),
        ({"contents": [0]}, r"script\.threads: no worker has a stir"),
        ({"contents": [0], "threads": [[WRITE]]}, r"script: "),
        ({"contents": [0], "threads": [[[{"kind": "fsync"}]]]}, r"script: .*'file'"),
        ({"contents": [0], "threads": [[[WRITE]]], "repeat": 0}, r"script\.repeat: 0 is not at least 1"),
    ],
)
def test_an_invalid_script_is_refused_with_the_reason(document: object, complaint: str) -> None:
    raises(ValueError, Script.from_dict, document, match=complaint)


def test_a_script_is_played_as_it_is_written() -> None:
    """Two stirs are repeated; the file begins with the content that the script names."""
    one, other = Operation("write", 0, "buffered", 8192, 100), Operation("write", 1, "buffered", 10, 20, end=True)
    script = Script((0, 1000), (((one, other), (one,)),), repeat=2)
    made: list[Recording] = []

    def make(plan: Plan, number: int) -> Recording:
        made.append(Recording(plan, number))
        return made[-1]

    report = clean(Plan(seed=1, script=script, **PLAYED), make=make)
    assert made[0].writes == [
        (0, 8192, 100),
        (1, 1010, 20),
        (0, 8192, 100),
        (1, 1040, 20),
        (0, 8192, 100),
        (0, 8192, 100),
    ]
    assert (report.counters["operations"], report.counters["rests"]) == (6, 2)


def test_the_operations_of_a_seed_become_a_script_that_does_the_same() -> None:
    """With one thread: equal calls in equal order."""
    writes: list[list[tuple[int, int, int]]] = []
    script: Script | None = None
    for _ in range(2):
        made: list[Recording] = []

        def make(plan: Plan, number: int, made: list[Recording] = made) -> Recording:
            made.append(Recording(plan, number))
            return made[-1]

        plan = Plan(seed=9, threads=1, tasks=0, files=2, operations=30, script=script, profile="database", **PLAYED)
        run = Run(plan, make=make)
        report = run.run()
        assert report.ok, report.story
        script = run.script()
        writes.append(made[0].writes)
    assert script is not None
    assert len(script) == 90
    workers = [[call for call in calls if call not in BESIDE] for calls in writes]
    assert workers[1]
    assert workers[0] == workers[1]
