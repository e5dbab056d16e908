"""The process of the cache is killed: the state found afterwards, its operations, where it hangs; and none is left."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.backends.protocol import Backend
from pagecache.stress import Plan, Script, UnusableTarget, killed, run, shrink
from pagecache.stress.killed import Child, Journal, Task, records
from pagecache.stress.profiles import Operation
from pagecache.stress.world import Found

from . import hanging, naive

ROOT = str(Path(__file__).parents[2])
LONG = 600.0  # seconds that no shrink here needs
BOUND = 60.0  # seconds after which a test gives up
SMALL: dict[str, Any] = {"size": "64KiB", "capacity": "256KiB", "rounds": 1}
SAVED = Script((0,), (((Operation("write", 0, "buffered", 0, 4096), Operation("fsync", 0)),),))


def within_bound(so: Callable[[], object]) -> bool:
    end = time.monotonic() + BOUND
    while not so() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(so())


def at_home_in(folder: Path) -> list[str]:
    """The processes that run in a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(entry / "cwd")) == folder:
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_a_journal_has_what_was_put_before_the_end() -> None:
    """Records are in their order; one that is cut off by a death is absent."""
    fd = os.memfd_create("journal")
    try:
        journal = Journal(fd)
        for number in range(100):
            journal.put("record", number, b"x" * number)
        wanted = [("record", number, b"x" * number) for number in range(100)]
        assert list(records(fd)) == wanted
        os.truncate(fd, os.fstat(fd).st_size - 1)
        assert list(records(fd)) == wanted[:-1]
    finally:
        os.close(fd)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_runs_whose_process_is_killed_are_clean(tmp_path: Path, seed: int) -> None:
    """Nothing that was synced is gone or different. [I-18, I-21]"""
    fields = SMALL | {"threads": 2, "tasks": 2, "files": 2, "capacity": "128KiB", "operations": 60}
    report = run(Plan(seed=seed, crashes=("killed",), **fields), f"dir:{tmp_path}")
    assert report.ok, f"{report.story}\n{report.replay}"
    assert report.counters["crashes: killed"] == 3
    assert list(tmp_path.iterdir()) == []


def in_memory() -> Backend:
    return MemoryBackend()


def test_where_there_can_be_no_killed_process_that_is_refused(tmp_path: Path) -> None:
    """The option was given explicitly: a run without it would pass, and prove nothing. Nothing is left behind."""
    plan = Plan(seed=1, crashes=("killed",), threads=2, tasks=2, operations=60, **SMALL)
    for target in (None, in_memory):
        with pytest.raises(UnusableTarget, match=r"crashes: killed cannot be on .* ends with its process"):
            run(plan, target)
    with pytest.raises(UnusableTarget, match=r"crashes: killed cannot be on .* cannot be brought to another process"):
        run(plan, lambda: DirectoryBackend(tmp_path))
    with pytest.raises(UnusableTarget, match=r"crashes: killed cannot be on path:.* here is none"):
        run(plan, f"path:{tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_a_way_that_was_named_and_the_target_has_not_is_refused(tmp_path: Path) -> None:
    """Nothing is left behind."""
    with pytest.raises(UnusableTarget, match="mix: foreign cannot be on path:"):
        run(Plan(seed=1, mix=("buffered", "foreign"), **SMALL), f"path:{tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_changes_of_the_store_behind_a_cache_are_refused_with_crashes() -> None:
    with pytest.raises(UnusableTarget, match="mix: foreign cannot be in rounds with crashes"):
        run(Plan(seed=1, mix=("buffered", "foreign"), crashes=("forgetting",), **SMALL))


# -- their operations


def test_operations_of_a_killed_process_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads play in a child."""
    monkeypatch.setattr(killed, "RECORDS", (1 << 40,))
    fields = SMALL | {"threads": 3, "tasks": 0, "files": 1, "operations": 60, "mix": ("buffered",)}
    report = run(Plan(seed=1, crashes=("killed",), **fields), f"dir:{tmp_path}")
    assert report.ok, report.story
    assert report.counters["operations"] >= 3 * 3 * 60
    assert {"read", "write"} <= report.kinds.keys()


@pytest.mark.long
def test_operations_before_a_kill_are_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round shrinks to a write, an fsync and the kill. [I-18]"""
    monkeypatch.setenv(naive.WHERE, str(tmp_path))
    plan = Plan(
        seed=1, duration=100, crashes=("killed",), mix=("buffered", "truncate"), profile="database",
        threads=2, tasks=0, files=2, operations=40, **SMALL | {"rounds": 0},
    )  # fmt: skip
    report = run(plan, naive.hasty)
    assert report.kind == "crash", report.story
    assert any(re.search(r"writer \d: (write|truncate)", step) for step in report.steps), report.steps
    for left in tmp_path.iterdir():
        left.unlink()
    shrunk = shrink(report, naive.hasty, seconds=LONG)
    assert (shrunk.report.kind, shrunk.workers) == ("crash", 1)
    assert shrunk.operations <= 3, shrunk.story
    assert "the tester crashed the tested system" in shrunk.story
    assert run(Plan.from_replay(shrunk.report.replay), naive.hasty).kind == "crash"


# -- where they hang


@pytest.mark.long
def test_a_hang_in_the_process_of_the_cache_has_its_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits, stacks and transitions are those of that process. [I-23]"""
    monkeypatch.setenv("PAGECACHE_TEST_HOME", str(os.getpid()))
    monkeypatch.setenv("PAGECACHE_TEST_WHERE", str(tmp_path))
    monkeypatch.setattr(killed, "RECORDS", (1 << 40,))
    plan = Plan(seed=1, script=SAVED, crashes=("killed",), patience=1, **SMALL)
    report = run(plan, hanging.hangs_elsewhere)
    assert report.kind == "hang", report.story
    assert "in the process of the cache: writer 1: fsync of file 0, still running" in report.story
    waits = [wait for wait in report.hang["waits"] if wait["what"].startswith("fsync")]
    assert waits[0]["owner"]["what"] == "a commit of the backend"
    assert any("in commit" in line for frames in report.hang["stacks"].values() for line in frames)
    assert report.hang["transitions"]
    assert any("fsync of file 0" in step for step in report.steps), report.steps


def test_a_process_that_says_nothing_is_asked_where_its_threads_are() -> None:
    task = Task(hanging.plays_for_ever, Plan(seed=1), 0, 1, None, [], {}, 0)
    with Child(task) as child:
        assert within_bound(lambda: list(records(child.journal)))
        with pytest.raises(Found, match="a process of workers does not end") as found:
            child.end(0.1, threading.Event())
        assert found.value.failure.hang is not None
        assert "plays_for_ever" in "\n".join(found.value.failure.hang.stacks["its threads"])
    stopped = threading.Event()
    stopped.set()
    with Child(task) as child:
        assert child.end(BOUND, stopped) == -signal.SIGKILL


# -- and none is left

LEAVES = """
from pagecache.stress import Plan
from pagecache.stress.killed import Child, Task, records
from tests.stress import hanging
child = Child(Task(hanging.plays_for_ever, Plan(seed=1), 0, 1, None, [], {}, 0))
while not list(records(child.journal)):
    pass
print("plays", flush=True)
input()
"""


def test_a_killed_process_takes_its_children_along(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": ROOT}
    command = [sys.executable, "-c", LEAVES]
    parent = subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdin is not None
    with parent.stdin, parent.stdout:
        assert parent.stdout.readline() == b"plays\n"
        assert len(at_home_in(tmp_path)) >= 2
        parent.kill()
        parent.wait()
    assert within_bound(lambda: not at_home_in(tmp_path)), at_home_in(tmp_path)


MODES = {
    "dir": ["dir:store"],
    "killed": ["dir:store", "--crashes", "killed"],
}


@pytest.mark.parametrize("mode", MODES)
def test_ctrl_c_ends_with_130_and_leaves_neither_files_nor_processes(tmp_path: Path, mode: str) -> None:
    """On a terminal: the line of progress is gone, and the left-over files are named."""
    (tmp_path / "store").mkdir()
    (tmp_path / "temporary").mkdir()
    program, terminal = pty.fork()
    if not program:
        os.chdir(tmp_path)
        os.environ.update(TERM="xterm", TMPDIR=str(tmp_path / "temporary"))
        options = ["--duration", "1000s", "--seed", "3", "--size", "64KiB", "--capacity", "256KiB"]
        patient = (
            "from pagecache.stress import job; job.CALLS = job.REMOVED = 60; from pagecache.cli import main; main()"
        )
        os.execv(sys.executable, [sys.executable, "-c", patient, "stress", *MODES[mode], *options])
    said, asked, end = b"", False, time.monotonic() + 2 * BOUND
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            said += os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not asked and re.search(rb" [1-9]\d* operations", said):
            asked = True
            os.write(terminal, b"\x03")
    else:
        os.kill(program, signal.SIGKILL)
    _pid, status = os.waitpid(program, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130, said[-3000:]
    assert said.rstrip().endswith(b"interrupted: nothing is left in the target"), said[-3000:]
    assert within_bound(lambda: not at_home_in(tmp_path)), at_home_in(tmp_path)
    assert [list((tmp_path / name).iterdir()) for name in ("store", "temporary")] == [[], []]
