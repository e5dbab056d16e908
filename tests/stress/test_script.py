"""Operations one by one: as JSON, as they are played, and invalid scripts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pagecache.stress import Plan, Script
from pagecache.stress.cached import CachedTarget
from pagecache.stress.job import Run
from pagecache.stress.profiles import PROFILES, WAYS, Operation, operations

from ..file.rig import raises

SMALL: dict[str, Any] = {"size": "64KiB", "capacity": "128KiB", "rounds": 1, "duration": 0.01}
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
        ({"kind": "wriet"}, r"script\.threads\[0\]\[0\]\[0\]\.kind: 'wriet' is not one of read, "),
        ({"kind": ["write"]}, r"kind: \['write'\] is not one of"),
        ({"way": "sideways"}, r"way: 'sideways' is not one of buffered, direct"),
        ({"kind": "fsync"}, r"way: 'buffered' is none of fsync, which moves no bytes"),
        ({"file": 1}, r"file: 1 is not at least 0 and at most 0"),
        ({"kind": "publish", "way": "", "file": 3}, r"file: 3 is not at least 0 and at most 2"),
        ({"offset": 0.5}, r"offset: 0\.5 is not an int"),
        ({"offset": 1 << 50}, r"offset: \d+ is not at least"),
        ({"length": -1}, r"length: -1 is not at least 0"),
        ({"extra": True}, r"extra: True is not an int"),
        ({"extra": 1 << 16}, r"extra: 65536 is not at least 0 and at most 65535"),
        ({"end": 1}, r"end: 1 is not true or false"),
        ({"size": 4}, r"script\.threads\[0\]\[0\]\[0\]: size is not one of kind, file"),
    ],
)
def test_a_bad_operation_is_named_with_its_place_and_the_rule(change: dict[str, Any], complaint: str) -> None:
    raises(ValueError, Script.from_dict, {"contents": [0], "threads": [[[WRITE | change]]]}, match=complaint)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([], r"script: \[\] is not an object with contents and threads"),
        ({"content": [0]}, r"script: content is not one of contents, repeat, tasks, threads"),
        ({"contents": [], "threads": [[[WRITE]]]}, r"script\.contents: 0 files, not 1 to 1024"),
        ({"contents": [-1], "threads": [[[WRITE]]]}, r"script\.contents\[0\]: -1 is not at least 0"),
        ({"contents": 7, "threads": [[[WRITE]]]}, r"script\.contents: 7 is not a list"),
        ({"contents": [0]}, r"script\.threads: none, and script\.tasks: none: nothing would run"),
        ({"contents": [0], "threads": [[]]}, r"script\.threads: no worker has a stir"),
        ({"contents": [0], "threads": [[WRITE]]}, r"script\.threads\[0\]\[0\]: \{.*\} is not a list"),
        ({"contents": [0], "threads": [[["write"]]]}, r"script\.threads\[0\]\[0\]\[0\]: 'write' is not an operation"),
        ({"contents": [0], "threads": [[[{"kind": "fsync"}]]]}, r"\[0\]: it has no file"),
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

    run = Run(Plan(seed=1, script=script, **SMALL), make=make)
    report = run.run()
    assert report.ok, report.story
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

        plan = Plan(seed=9, threads=1, tasks=0, files=2, operations=30, script=script, profile="database", **SMALL)
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
