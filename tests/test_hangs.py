"""Tests that hang are named, whatever they hang in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from xdist.scheduler import loadscope

from .hangs import Scheduling

ROOT = Path(__file__).parent.parent
HANGING = """
import ctypes, signal, pytest
@pytest.fixture
def endless():
    yield
    while True:
        signal.pause()

@pytest.mark.xdist_group("group")
def test_in_c():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    ctypes.PyDLL(None).pause()  # with the interpreter's lock

def test_after_its_timeout(endless):
    signal.pause()

def test_after_an_error(endless):
    raise ValueError

@pytest.mark.xdist_group("group")
def test_next():
    pass

def test_another():
    pass

def test_the_last():
    pass
"""


def begun(where: Path, source: str, processes: str, *options: str) -> subprocess.Popen[str]:
    (where / "test_one.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-p", "tests.hangs", "-p", "no:cacheprovider", f"--rootdir={where}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PAGECACHE_TESTS_LAST": "0.5"}
    env.pop("PYTEST_ADDOPTS", None)
    return subprocess.Popen(
        [*command, "-n", processes, "--dist", "loadgroup", *options, "test_one.py"],
        cwd=where,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.parametrize("processes", ["1", "2"])
def test_tests_that_hang_are_named_and_all_others_run(tmp_path: Path, processes: str) -> None:
    run = begun(tmp_path, HANGING, processes, "-o", "timeout=1")
    printed, _ = run.communicate(timeout=200)
    for name in ("test_in_c", "test_after_its_timeout", "test_after_an_error"):
        assert f"crashed while running 'test_one.py::{name}'" in printed, printed
    assert printed.count("Timeout (0:00:01.500000)!") == 3, printed  # and the stacks
    assert "5 failed, 3 passed in" in printed, printed


class Process:
    """What a schedule sees of a process that runs tests."""

    gateway = SimpleNamespace(id="gw")
    shutting_down = False

    def __init__(self) -> None:
        self.given: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        assert not self.shutting_down
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


@pytest.mark.parametrize("both_ready", [False, True])
def test_no_test_is_lost_where_one_process_ends_while_another_begins(
    monkeypatch: pytest.MonkeyPatch, both_ready: bool
) -> None:
    """One that takes the place of another is ready, and has not collected yet."""
    monkeypatch.setattr(loadscope, "parse_tx_spec_config", lambda _: [None, None])
    scheduling: Any = Scheduling(cast(Any, SimpleNamespace(option=SimpleNamespace(loadscopereorder=True))))
    tests = [f"test_{n}" for n in range(9)]
    first, second, third, fourth = (Process() for _ in range(4))
    for process in (first, second):
        scheduling.add_node(process)
        scheduling.add_node_collection(process, tests)
    scheduling.schedule()
    over = {scheduling.remove_node(first)}
    scheduling.add_node(third)
    over.add(scheduling.remove_node(second))
    assert over == {tests[first.given[0]], tests[second.given[0]]}
    if both_ready:
        scheduling.add_node(fourth)
    scheduling.add_node_collection(third, tests)
    scheduling.schedule()
    for index in third.given:
        over.add(tests[index])
        scheduling.mark_test_complete(third, index)
    assert over == set(tests)
    assert third.shutting_down


def test_a_run_that_is_ended_from_outside_says_what_was_running(tmp_path: Path) -> None:
    run = begun(tmp_path, "import signal\ndef test_it():\n    signal.pause()\n", "1", "-v")
    assert run.stdout is not None
    printed = ""
    while "test_it" not in printed:  # until then the process that gets the signal may not know of it
        printed += run.stdout.read(1)
    run.terminate()
    printed += run.communicate(timeout=60)[0]
    assert run.returncode == -signal.SIGTERM
    assert "running:\n  test_one.py::test_it, for " in printed
