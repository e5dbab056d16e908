"""The report of a hang: which threads wait for what, and the last transitions."""

from __future__ import annotations

import asyncio
import re
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pagecache import PageCache
from pagecache.stress import Plan, Script, hang, run
from pagecache.stress.hang import overdue, stacks, state
from pagecache.stress.profiles import Operation
from pagecache.stress.world import Activity, World

from ..check_backend.backends import files

SMALL: dict[str, Any] = {"size": "64KiB", "capacity": "128KiB", "rounds": 1, "patience": 1}


@pytest.mark.long
def test_a_hang_has_its_waits_with_their_owners_all_stacks_and_the_last_transitions() -> None:
    """Of a write and an fsync, whose commit does not return. [I-23]"""
    free = threading.Event()

    def commit(file: Any) -> str | None:
        if threading.current_thread().name != "stress-rest":  # the thread that made the files
            free.wait(100)
        return str(file.inner.commit())

    script = Script((0,), (((Operation("write", 0, "buffered", 0, 4096), Operation("fsync", 0)),),))
    try:
        hung = run(Plan(seed=1, script=script, **SMALL), files(commit=commit))
    finally:
        free.set()
    assert (hung.ok, hung.kind, hung.hung) == (False, "hang", True), hung.story
    assert re.search(r"^writer 1: fsync of file 0, still running after \d+ s$", hung.story, re.MULTILINE)
    assert re.search(r"^  stress-1 waits for fsync.*is in a commit of the backend for", hung.story, re.MULTILINE)
    assert re.search(r"^thread stress-1 .*:\n    File", hung.story, re.MULTILINE)
    assert "in commit\n" in hung.story
    assert re.search(r"^last transitions:\n  \S", hung.story, re.MULTILINE)


@pytest.mark.parametrize(
    ("moved", "now", "told"),
    [
        (0.0, 150.0, ""),
        (0.0, 170.0, "70 s"),
        (165.0, 220.0, ""),
        (165.0, 230.0, "65 s"),
        (330.0, 340.0, ""),
        (330.0, 341.0, "241 s, though its calls return"),
    ],
)
def test_a_call_without_an_end_is_a_hang_and_so_are_calls_without_end(moved: float, now: float, told: str) -> None:
    """A sync, with the tester's checks after it, makes short calls for minutes on a slow store: that is none."""
    activity = Activity(1, Operation("fsync", 0), 0, since=100.0, start=0, end=4096, begun=1, moved=moved)
    found = [f"writer 1: fsync of file 0, still running after {told}"] if told else []
    assert overdue({1: activity}, now, 60.0) == found


def test_calls_that_return_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of threads and of tasks are noted; those that raise too."""
    moved: list[int] = []
    monkeypatch.setattr(World, "move", lambda self, worker: moved.append(worker))
    report = run(Plan(seed=1, **SMALL | {"patience": 60}, threads=2, tasks=2, operations=20), "memory:")
    assert report.ok, report.story
    assert set(moved) == {1, 2, 3, 4}


def test_a_hang_says_which_invariant_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the first lines; nothing is there if all hold, or if a check hangs as well."""
    target = SimpleNamespace()
    with PageCache("1MiB") as target.cache:
        assert "is broken" not in state(["late"], target, None)

        def finds(cache: PageCache) -> None:
            raise AssertionError("I-3: a page has two marks\nand what was done last")

        monkeypatch.setattr(PageCache, "check", finds)
        assert state(["late"], target, None).startswith("late\nthe cache is broken: I-3: a page has two marks\n")
        free = threading.Event()
        monkeypatch.setattr(hang, "CHECK", 0.01)
        monkeypatch.setattr(PageCache, "check", lambda cache: free.wait(100))
        try:
            assert "is broken" not in state(["late"], target, None)
        finally:
            free.set()


def test_the_stacks_of_tasks_are_reported_too() -> None:
    async def sleeping() -> None:
        await asyncio.Event().wait()

    async def looked() -> dict[str, list[str]]:
        task = asyncio.create_task(sleeping(), name="a task that waits")
        await asyncio.sleep(0)
        try:
            return stacks(asyncio.get_running_loop())
        finally:
            task.cancel()

    found = asyncio.run(looked())
    assert any("sleeping" in line for line in found["task a task that waits"])
