"""A hang becomes small, in processes that end together with their hanging calls."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pagecache.stress import NotFailing, Plan, Report, Script, run, shrink
from pagecache.stress import shrinker as shrinking
from pagecache.stress.profiles import Operation
from pagecache.stress.shrink_tries import Tries, Try
from pagecache.stress.shrinker import Shrinking

from . import hanging

LONG = 600.0  # seconds that no shrink here needs
WRITE, READ, FSYNC = Operation("write", 0, "buffered", 0, 5000), Operation("read", 0, "buffered"), Operation("fsync", 0)
SMALL: dict[str, Any] = {"size": "64KiB", "capacity": "128KiB", "rounds": 1, "patience": 1.0}


def children() -> set[int]:
    """Processes of this one."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= set(map(int, (task / "children").read_text().split()))
    return found


def reported(script: Script) -> Report:
    """Report a hang as if it had been found by a process that has ended."""
    plan = Plan(seed=1, script=script, **SMALL)
    return Report(ok=False, kind="hang", story="", counters={}, replay={"version": 1, "plan": plan.to_dict()})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hang_shrinks_and_leaves_no_thread_and_no_process(tmp_path: Path) -> None:
    """The remainder hangs, as a replay and as a test; without the mistake the test passes."""
    script = Script((0,), (((READ, WRITE, FSYNC),), ((READ, READ),)))
    threads, processes = set(threading.enumerate()), children()
    shrunk = shrink(reported(script), hanging.never_commits, seconds=LONG)
    assert [thread for thread in threading.enumerate() if thread not in threads] == []
    assert children() <= processes
    assert shrunk.report.kind == "hang"
    assert (shrunk.workers, shrunk.before[1]) == (1, 2), shrunk.story
    assert shrunk.operations <= 2, shrunk.story
    assert "does not end" in shrunk.story or "still running after" in shrunk.story
    (tmp_path / "test_found.py").write_text(shrunk.test, encoding="utf-8")
    codes = []
    for more in ({}, {"PAGECACHE_TEST_FIXED": "1"}):
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | more
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_found.py"]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        codes.append(ran.returncode)
        assert ("a commit of the backend" in ran.stdout) == (not more), ran.stdout
    assert codes == [1, 0]


def test_a_backend_that_never_answers_is_a_hang_and_says_that_nothing_can_be_left_out() -> None:
    """It hangs while the files are made, or before; the run comes to an end."""
    for factory, said in (
        (hanging.never_writes, "making the files does not end"),
        (hanging.never_made, "what makes the backend does not return"),
    ):
        report = run(Plan(seed=1, threads=1, tasks=0, **SMALL | {"patience": 0.3}), factory)
        assert (report.kind, report.hung) == ("hang", True), report.story
        assert f"{factory.__name__}, round 0 of seed 1: hang\n{said}" in report.story
        assert "in never_made" in report.story or "in write_from" in report.story
        with pytest.raises(NotFailing, match="it fails before any worker begins"):
            shrink(report, factory, seconds=LONG)


def test_where_no_other_process_can_have_the_backend_that_is_said() -> None:
    script = Script((0,), (((WRITE, FSYNC),),))
    with pytest.raises(NotFailing, match=r"a hang is shrunk in another process, and .*lambda.* cannot be brought to"):
        shrink(reported(script), lambda: hanging.never_commits())


class Hanging(Tries):
    """A backend that hangs when the test says so."""

    def __init__(self, hangs: Any) -> None:
        super().__init__(None)
        self._hangs = hangs
        self.waits: list[float] = []

    def apart(self) -> str:
        return ""

    def run(self, plan: Plan) -> Try:
        self.count += 1
        self.waits.append(plan.patience)
        assert plan.script is not None
        hangs = self._hangs(plan.script, plan.patience)
        report = Report(
            ok=not hangs,
            kind="hang" if hangs else "",
            story="",
            counters={},
            replay={"version": 1, "plan": plan.to_dict()},
        )
        return Try(report, plan.script if hangs else None, 0.2)


def shrunk_by(tries: Hanging) -> Script:
    script = Script((0,), (((WRITE, WRITE, WRITE, FSYNC),),))
    plan = Plan(seed=1, script=script, **SMALL | {"patience": 60.0})
    found = Shrinking(plan, "hang", tries, LONG, lambda _line: None).run()
    left = Plan.from_replay(found.report.replay)
    assert left.script is not None
    assert left.patience == 60.0
    return left.script


def test_a_candidate_of_a_hang_is_given_ten_times_what_the_longest_call_took() -> None:
    """The wait is at least one second and at most five."""
    tries = Hanging(lambda script, patience: FSYNC in script.operations())
    assert len(shrunk_by(tries)) == 1
    assert tries.waits[0] == shrinking.HANG
    assert set(tries.waits) == {shrinking.HANG, 2.0}


def test_a_late_call_is_no_hang() -> None:
    """With fewer than two writes it ends after three seconds: the shrunk script hangs for five."""

    def hangs(script: Script, patience: float) -> bool:
        writes = sum(one.kind == "write" for one in script.operations())
        return any(one.kind == "fsync" for one in script.operations()) and (writes >= 2 or patience < 3)

    left = shrunk_by(Hanging(hangs))
    assert sum(one.kind == "write" for one in left.operations()) >= 2


def test_a_call_that_is_late_each_time_and_ends_is_reported_as_no_hang() -> None:
    waits: list[float] = []

    def hangs(_script: Script, patience: float) -> bool:
        waits.append(patience)
        return patience < 5 or len(waits) == 1

    with pytest.raises(NotFailing, match="no call took longer than 5 s again"):
        shrunk_by(Hanging(hangs))
