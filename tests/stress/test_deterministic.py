"""The tester under the deterministic scheduler: a plan is always the same run, races are found, no alarm is false."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import MemoryBackend
from pagecache.engine.loop import CacheLoop
from pagecache.stress import Plan, UnusableTarget, run
from pagecache.stress.asynchronous import Elsewhere
from pagecache.stress.deterministic import job as deterministic
from pagecache.stress.profiles import PROFILES

from .planted import BACKENDS, HangsInCommit, Planted
from .simulated import reports

SMALL: dict[str, Any] = {"threads": 3, "tasks": 2, "operations": 10, "size": "64KiB", "capacity": "128KiB"}
SMALL |= {"scheduler": "deterministic", "duration": 3600.0}


def coroutines() -> Elsewhere:
    return Elsewhere(MemoryBackend())


def digest(report: dict[str, Any]) -> str:
    found: str = report["schedule"]["digest"]
    return found


def told(report: dict[str, Any]) -> list[str]:
    """The story without the line of the scheduler, which contains a speed."""
    return [line for line in report["story"].splitlines() if not line.startswith("deterministic scheduler:")]


def test_the_same_plan_is_the_same_run_in_another_process() -> None:
    """It is equal to the last point, whatever strings hash to, wherever memory is; with failing calls, on several
    files.
    """
    plans = [
        SMALL | {"seed": seed, "rounds": 1, "files": 4, "faults": faults}
        for seed, faults in ((1, "none"), (2, "nasty"), (3, "nasty"))
    ]
    one = reports(*plans, PYTHONHASHSEED="1")
    other = reports(*plans, PYTHONHASHSEED="2", PYTHONMALLOC="malloc")
    assert [report["story"] for report in one if not report["ok"]] == []
    assert list(map(digest, one)) == list(map(digest, other))
    assert len(set(map(digest, one))) == len(plans)


def test_a_round_depends_on_nothing_that_was_before_it() -> None:
    """Round 2 of a run alone, and twice in one process, equals round 2 in the run."""
    plan = SMALL | {"seed": 11, "files": 2}
    whole, before = plan | {"rounds": 3}, plan | {"rounds": 2}
    last = plan | {"first_round": 2, "rounds": 1}
    all_three, first_two, alone, again = reports(whole, before, last, last)
    assert digest(alone) == digest(again)
    for what in ("points", "switches"):
        assert all_three["schedule"][what] == first_two["schedule"][what] + alone["schedule"][what]


def test_runs_of_every_profile_are_clean() -> None:
    """No false alarm comes, with points in the core, failing calls, and slow ones."""
    plans = [
        SMALL | {"seed": 5, "rounds": 1, "files": 2, "profile": profile, "faults": faults}
        for profile in PROFILES
        for faults in ("none", "flaky", "slow")
    ]
    for plan, report in zip(plans, reports(*plans), strict=True):
        assert report["ok"], f"{plan}\n{report['story']}"
        assert report["schedule"]["points"] > 1000


def test_without_the_debug_build_waits_and_locks_are_points() -> None:
    """The installed extension has fewer points, and is tested too; the report says so."""
    report = run(Plan(seed=4, rounds=1, files=2, **SMALL))
    assert report.ok, report.story
    assert report.schedule["points"] > 1000
    assert "digest" in report.story
    assert "debug build" in report.story


RACES = ("fill_sees_invalidations", "direct_write_invalidates_again", "direct_write_checks_once")
"""Each is found within some twenty rounds; those of the core need its points."""
RACING: dict[str, Any] = {"threads": 3, "tasks": 0, "operations": 40, "files": 1, "size": "16KiB", "capacity": "64KiB"}
RACING |= {"mix": ("buffered", "direct", "parallel", "hints"), "profile": "generic-095"}
RACING |= {"scheduler": "deterministic", "duration": 3600.0, "seed": 1}


@pytest.mark.long
@pytest.mark.parametrize("bug", RACES)
def test_a_planted_race_is_found_within_some_rounds_and_replays_exactly(bug: str) -> None:
    """The round that failed, alone and in another process, fails at the same point with the same story. [I-17]"""
    [found] = reports(RACING | {"rounds": 150}, bug=bug)
    assert (found["ok"], found["kind"]) == (False, "data")
    one, other = reports(found["replay"]["plan"], found["replay"]["plan"], bug=bug)
    assert digest(one) == digest(other)
    assert told(one) == told(other) == told(found)


def test_a_thread_that_sleeps_past_a_retry_is_found() -> None:
    """It is reported before time moves on: the story names the file, the due time of its retry, and the sleeping
    threads with their wake-up times. [2.14]
    """
    plan = SMALL | {"seed": 1, "files": 2, "faults": "nasty", "rounds": 20}
    [found] = reports(plan, bug="retry_wakes_for_new_files_only")
    assert (found["ok"], found["kind"]) == (False, "hang")
    assert re.search(r"a retry of '\S+' is due at \d+\.\d+ s, and the flusher sleeps until \d+\.\d+ s", found["story"])
    [again] = reports(found["replay"]["plan"], bug="retry_wakes_for_new_files_only")
    assert told(again) == told(found)


@pytest.mark.parametrize("name", ["DropsTail", "WrongPlace"])
def test_a_backend_that_loses_bytes_is_found(name: str) -> None:
    """The layers below the cache are tested as with threads."""
    report = run(Plan(seed=1, rounds=20, files=2, **SMALL | {"operations": 40}), BACKENDS[name])
    assert (report.ok, report.kind) == (False, "data")


def test_a_call_that_blocks_for_real_is_reported_with_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait for something that is not simulated stops all threads: the run ends, and names the place."""
    monkeypatch.setattr(deterministic, "BLOCKED", 1.0)
    HangsInCommit.free.clear()
    HangsInCommit._commits = 0
    plan = Plan(seed=1, rounds=1, files=2, patience=1, **SMALL | {"operations": 40})
    try:
        report = run(plan, lambda: Planted(HangsInCommit))
    finally:
        HangsInCommit.free.set()
    assert (report.ok, report.kind, report.hung) == (False, "hang", True)
    assert "a call blocks for real" in report.story
    assert "in commit" in report.story


def test_the_replay_has_the_workers_that_were_asked_for() -> None:
    """Tasks are played as threads, and stay tasks of the plan."""
    replay = json.loads(json.dumps(run(Plan(seed=1, rounds=1, **SMALL)).replay))
    plan = Plan.from_replay(replay)
    assert (plan.threads, plan.tasks, plan.scheduler) == (3, 2, "deterministic")


def test_a_directory_of_the_system_is_refused(tmp_path: Path) -> None:
    """The scheduler cannot decide its order."""
    with pytest.raises(UnusableTarget, match="its order is the system's"):
        run(Plan(seed=1, rounds=1, **SMALL), f"path:{tmp_path}")


@pytest.mark.parametrize("named", [True, False])
def test_an_asynchronous_backend_is_refused_before_anything_waits_for_its_loop(
    named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop would be a simulated thread, and none lets it run while its first call is waited for."""
    loops: list[str] = []

    def loop(name: str, park: Any) -> Any:
        loops.append(name)
        return CacheLoop(name, park)

    monkeypatch.setattr("pagecache.stress.asynchronous.CacheLoop", loop)
    monkeypatch.setattr("pagecache.target.CacheLoop", loop)
    with pytest.raises(UnusableTarget, match="is asynchronous: the deterministic scheduler has no event loops"):
        run(Plan(seed=1, rounds=1, **SMALL), f"python:{__name__}:coroutines" if named else coroutines)
    assert loops == []


def test_an_unknown_scheduler_is_refused() -> None:
    with pytest.raises(ValueError, match="scheduler: 'fair' is not one of threads, deterministic"):
        Plan(scheduler="fair")
