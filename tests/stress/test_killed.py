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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import MemoryBackend
from pagecache.backends.protocol import Backend
from pagecache.stress import Plan, Script, UnusableTarget, killed, run, shrink
from pagecache.stress.history import Broken
from pagecache.stress.killed import Child
from pagecache.stress.profiles import Operation

from ..file.rig import eventually, raises
from . import clean, planted

ROOT = str(Path(__file__).parents[2])
LONG = 600.0  # seconds that no shrink here needs
BOUND = 60.0  # seconds after which a test gives up
SMALL: dict[str, Any] = {"size": "64KiB", "capacity": "256KiB", "rounds": 1}
SAVED = Script((0,), (((Operation("write", 0, "buffered", 0, 4096), Operation("fsync", 0)),),))


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


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_runs_whose_process_is_killed_are_clean(tmp_path: Path, seed: int) -> None:
    """Nothing that was synced is gone or different. [I-18, I-21]"""
    fields = SMALL | {"threads": 2, "tasks": 2, "files": 2, "capacity": "128KiB", "operations": 60}
    report = clean(Plan(seed=seed, crashes=("killed",), **fields), f"dir:{tmp_path}")
    assert report.counters["crashes: killed"] == 3
    assert list(tmp_path.iterdir()) == []


def in_memory() -> Backend:
    return MemoryBackend()


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (None, {"crashes": "killed"}, "crashes: killed cannot be on .* ends with its process"),
    (in_memory, {"crashes": "killed"}, "crashes: killed cannot be on .* ends with its process"),
    (lambda: MemoryBackend(), {"crashes": "killed"}, "killed cannot be on .* cannot be brought to another process"),
    (in_memory, {"crashes": "killed", "threads": 0}, "killed cannot be on .* its workers are threads"),
    ("path:", {"crashes": "killed"}, "crashes: killed cannot be on path:.* here is none"),
    ("path:", {"crashes": "forgetting"}, "crashes: forgetting cannot be on path:.* here is none"),
    (lambda: MemoryBackend(durable_writes=True), {"crashes": "forgetting"}, "durable_writes"),
    ("path:", {"mix": "buffered,foreign"}, "mix: foreign cannot be on path:"),
    (None, {"mix": "buffered,foreign", "crashes": "forgetting"}, "mix: foreign cannot be in rounds with crashes"),
]


@pytest.mark.parametrize(("target", "fields", "message"), REFUSED)
def test_an_option_that_the_target_cannot_serve_is_refused(
    target: Any, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """A run without it would pass, and prove nothing. Nothing is left behind."""
    plan = Plan(**SMALL | {"seed": 1, "threads": 2, "tasks": 2, "operations": 60} | fields)
    raises(UnusableTarget, run, plan, f"path:{tmp_path}" if target == "path:" else target, match=message)
    assert list(tmp_path.iterdir()) == []


# -- their operations


def test_operations_of_a_killed_process_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads make its calls."""
    monkeypatch.setattr(killed, "CALLS", (1 << 40,))
    fields = SMALL | {"threads": 3, "tasks": 0, "files": 1, "operations": 60, "mix": ("buffered",)}
    report = clean(Plan(seed=1, crashes=("killed",), **fields), f"dir:{tmp_path}")
    assert report.counters["operations"] >= 3 * 3 * 60
    assert {"read", "write"} <= report.kinds.keys()


@pytest.mark.long
def test_operations_before_a_kill_are_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round shrinks to a write, an fsync and the kill. Tasks take no part in it. [I-18]"""
    monkeypatch.setenv(planted.WHERE, str(tmp_path))
    read = Operation("read", 0, "buffered", 0, 4096)
    reads = ((read, replace(read, file=1)),)
    script = Script((0, 5000), (((*SAVED.threads[0][0], read), ()), reads), (reads,) * 3)
    found = run(Plan(seed=1, script=script, crashes=("killed",), **SMALL), planted.Hasty)
    shrunk = shrink(found, planted.Hasty, seconds=LONG)
    small = Plan.from_replay(shrunk.replay).script
    assert small is not None
    assert (shrunk.kind, len(small.workers), len(small)) == ("crash", 1, 2), shrunk.story
    assert re.search(r"writer 1: write .*\n.*fsync.*\n.*the tester crashed the tested system", shrunk.story)
    for left in tmp_path.iterdir():
        left.unlink()
    assert run(Plan.from_replay(shrunk.replay), planted.Hasty).kind == "crash"


# -- where they hang


@pytest.mark.long
def test_a_hang_in_the_process_of_the_cache_has_its_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits, stacks and transitions are those of that process. [I-23]"""
    monkeypatch.setenv(planted.HOME, str(os.getpid()))
    monkeypatch.setenv(planted.WHERE, str(tmp_path))
    monkeypatch.setattr(killed, "CALLS", (1 << 40,))
    plan = Plan(seed=1, script=SAVED, crashes=("killed",), patience=1, **SMALL)
    report = run(plan, planted.hangs_elsewhere)
    assert report.kind == "hang", report.story
    assert "writer 1: fsync of file 0, still running" in report.story
    for part in ("waits for fsync", "is in a commit of the backend", "in commit_elsewhere\n", "last transitions:\n"):
        assert part in report.story
    assert any("fsync of file 0" in step for step in report.steps), report.steps


def test_a_process_that_says_nothing_is_asked_where_its_threads_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killed, "ASKED", 0.0)
    child = Child(Plan(seed=1, threads=1), 0, None)
    assert "another one does not find the files" in child.begun(threading.Event())
    hang = child.hang(["late"])
    child.kill()
    assert hang.startswith("late\nits threads:\n")
    assert "in serve" in hang


def test_a_process_that_ends_by_itself_is_a_finding() -> None:
    child = Child(Plan(seed=1, threads=1), 0, ends)
    with pytest.raises(Broken, match=r"(?s)the process of the cache ended with status 1.*a planted mistake"):
        child.begun(threading.Event())
    child.kill()


def ends() -> Backend:
    os.write(2, b"a planted mistake")
    os._exit(1)


# -- and none is left

LEAVES = """
import threading
from pagecache.stress import Plan
from pagecache.stress.killed import Child
child = Child(Plan(seed=1, threads=1), 0, None)
child.begun(threading.Event())
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
    eventually(lambda: not at_home_in(tmp_path), BOUND)


MODES = {"dir": ["dir:store"], "killed": ["dir:store", "--crashes", "killed"]}


@pytest.mark.parametrize("mode", MODES)
def test_ctrl_c_ends_with_130_and_leaves_neither_files_nor_processes(tmp_path: Path, mode: str) -> None:
    """On a terminal."""
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
        if not asked and len(list((tmp_path / "store").iterdir())) >= 4:  # the files of the round
            asked = True
            os.write(terminal, b"\x03")
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            said += os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            break
    else:
        os.kill(program, signal.SIGKILL)
    _pid, status = os.waitpid(program, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130, said[-3000:]
    assert said.rstrip().endswith(b"interrupted: nothing is left in the target"), said[-3000:]
    eventually(lambda: not at_home_in(tmp_path), BOUND)
    assert [list((tmp_path / name).iterdir()) for name in ("store", "temporary")] == [[], []]
