"""Workers in other processes: their operations, the places where they hang; and that none is left."""

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

from pagecache.stress import Plan, Script, killed, processes, run, shrink
from pagecache.stress.child import Child, Task
from pagecache.stress.journal import read
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


# -- their operations


def test_operations_of_a_killed_process_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads play in a child."""
    monkeypatch.setattr(killed, "_moment", lambda rng: (0, 0))
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
    assert any(re.search(r"writer \d (wrote|truncated)", step) for step in report.steps), report.steps
    for left in tmp_path.iterdir():
        left.unlink()
    shrunk = shrink(report, naive.hasty, seconds=LONG)
    assert (shrunk.report.kind, shrunk.workers) == ("crash", 1)
    assert shrunk.operations <= 3, shrunk.story
    assert "the tester crashed the tested system" in shrunk.story
    assert run(Plan.from_replay(shrunk.report.replay), naive.hasty).kind == "crash"


def test_a_round_of_several_processes_shrinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shrinks to a worker in each of two: with one there would be no other process."""
    monkeypatch.setattr(processes, "play", hanging.plays_without_cut)
    plan = Plan(
        seed=1, duration=100, threads=4, tasks=5, files=2, operations=20, processes=3, mix=("buffered", "truncate"),
        **SMALL | {"rounds": 0},
    )  # fmt: skip
    shrunk = shrink(plan, f"path:{tmp_path}", seconds=LONG)
    small = Plan.from_replay(shrunk.report.replay)
    assert shrunk.report.kind == "error"
    assert (shrunk.workers, small.processes, shrunk.before[1]) == (2, 2, 4), shrunk.story
    assert shrunk.operations <= 3, shrunk.story
    assert "a planted mistake" in shrunk.story
    assert list(tmp_path.iterdir()) == []


# -- where they hang


@pytest.mark.long
def test_a_hang_in_the_process_of_the_cache_has_its_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits, stacks, trace and transitions are those of that process. [I-23]"""
    monkeypatch.setenv("PAGECACHE_TEST_HOME", str(os.getpid()))
    monkeypatch.setenv("PAGECACHE_TEST_WHERE", str(tmp_path))
    monkeypatch.setattr(killed, "_moment", lambda rng: (0, 0))
    plan = Plan(seed=1, script=SAVED, crashes=("killed",), patience=1, **SMALL)
    report = run(plan, hanging.hangs_elsewhere)
    assert report.kind == "hang", report.story
    assert "in the process of the cache: writer 1 called fsync of file 0, still running" in report.story
    waits = [wait for wait in report.hang["waits"] if wait["what"].startswith("fsync")]
    assert waits[0]["owner"]["what"] == "a commit of the backend"
    assert any("in commit" in line for frames in report.hang["stacks"].values() for line in frames)
    assert any("pwrite" in line for line in report.hang["records"]), report.hang["records"]
    assert report.hang["transitions"]
    assert any("called fsync" in step for step in report.steps), report.steps


def test_a_hang_in_one_of_several_processes_has_its_stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "play", hanging.plays_without_sync)
    writes = ((Operation("write", 0, "buffered", 0, 4096),),)
    script = Script((0,), (writes, ((Operation("fsync", 0),),)))
    report = run(Plan(seed=1, script=script, processes=2, patience=1, **SMALL), f"path:{tmp_path}")
    assert report.kind == "hang", report.story
    assert "in process 1: writer 2 called fsync of file 0, still running" in report.story
    assert any("in fsync" in line for frames in report.hang["stacks"].values() for line in frames)


def test_a_process_that_says_nothing_is_asked_where_its_threads_are() -> None:
    task = Task(hanging.plays_for_ever, Plan(seed=1), 0, 1, None, [], {}, [], 0)
    with Child(task) as child:
        assert within_bound(lambda: list(read(child.fd)))
        with pytest.raises(Found, match="a process of workers does not end") as found:
            child.end(0.1, threading.Event())
        assert found.value.failure.hang is not None
        assert "plays_for_ever" in "\n".join(found.value.failure.hang.stacks["its threads"])
        stopped = threading.Event()
        stopped.set()
        assert child.end(BOUND, stopped) == -signal.SIGKILL


# -- and none is left

LEAVES = """
from pagecache.stress.child import Child, Task
from pagecache.stress.journal import read
from pagecache.stress import Plan
from tests.stress import hanging
child = Child(Task(hanging.plays_for_ever, Plan(seed=1), 0, 1, None, [], {}, [], 0))
while not list(read(child.fd)):
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
    "processes": ["path:store", "--processes", "2", "--threads", "4", "--mix", "buffered,append,names"],
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
