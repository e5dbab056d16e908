"""A test that hangs ends the run as a failure that names it, with the stacks of all threads, wherever it hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BESIDE = """
import ctypes, signal, threading, time, pytest

def in_another_thread():
    time.sleep(1000)

threading.Thread(target=in_another_thread, daemon=True).start()

def test_before():
    pass
"""
# The place of a hang -> the test.
HANGING = {
    "in C without the interpreter's lock": "def test_hangs():\n    ctypes.CDLL(None).sleep(1000)\n",
    "in C with the interpreter's lock": "def test_hangs():\n    ctypes.PyDLL(None).sleep(1000)\n",
    "in a lock": "def test_hangs():\n    lock = threading.Lock()\n    lock.acquire()\n    lock.acquire()\n",
    "in Python": "def test_hangs():\n    while True:\n        pass\n",
    "in a wait that signals do not end": """
def test_hangs():
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    signal.sigwait({signal.SIGUSR2})
""",
    "in a fixture after the test": """
@pytest.fixture
def endless():
    yield
    signal.pause()

def test_hangs(endless):
    pass
""",
    "in a fixture after an error": """
@pytest.fixture
def endless():
    yield
    signal.pause()

def test_hangs(endless):
    raise ValueError
""",
}


def begun(where: Path, source: str, *options: str) -> subprocess.Popen[str]:
    """Start pytest with the options of the project and `options`, without plug-ins of other packages."""
    (where / "test_one.py").write_text(source)
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["tool"]["pytest"]["ini_options"]["addopts"].split()
    plugins = ["-p", "xdist.plugin", "-p", "pytest_timeout", "-p", "tests.hangs", "-p", "no:cacheprovider"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    env.pop("PYTEST_ADDOPTS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *plugins, f"--rootdir={where}", *project, *options, "test_one.py"],
        cwd=where,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.parametrize("where", HANGING)
def test_a_test_that_hangs_ends_its_process_with_the_stacks_of_all_threads(tmp_path: Path, where: str) -> None:
    run = begun(tmp_path, BESIDE + HANGING[where], "--timeout=0.5")
    printed, _ = run.communicate(timeout=100)
    assert run.returncode == 1
    assert "Timeout (0:00:00.500000)!" in printed, printed
    assert " in in_another_thread\n" in printed, printed
    assert f" in {'endless' if 'fixture' in where else 'test_hangs'}\n" in printed, printed


@pytest.mark.parametrize("processes", ["1", "3"])
def test_a_run_in_several_processes_names_the_test_and_ends(tmp_path: Path, processes: str) -> None:
    """No process takes the place of one that has ended; the others end the tests that they run."""
    source = """
import ctypes, time, pytest

@pytest.mark.parametrize("number", range(40))
def test_each(number):
    time.sleep(0.01)
    if number == 5:
        ctypes.CDLL(None).sleep(1000)
"""
    run = begun(tmp_path, source, "-n", processes, "--dist", "loadgroup", "--timeout=3")
    printed, _ = run.communicate(timeout=100)
    assert run.returncode == 1
    assert "Timeout (0:00:03)!" in printed, printed
    assert "crashed while running 'test_one.py::test_each[5]'" in printed, printed
    assert "1 failed, " in printed, printed


def test_a_run_that_is_ended_from_outside_says_what_was_running(tmp_path: Path) -> None:
    run = begun(tmp_path, "import signal\ndef test_it():\n    signal.pause()\n", "-n", "1", "-v")
    assert run.stdout is not None
    printed = ""
    while "test_it" not in printed:  # until then the process that gets the signal may not have begun the test
        printed += run.stdout.read(1)
    run.terminate()
    printed += run.communicate(timeout=60)[0]
    assert run.returncode == -signal.SIGTERM
    assert "running:\n  test_one.py::test_it, for " in printed
