"""`pagecache stress`, the fixture, and permitted plans."""

from __future__ import annotations

import faulthandler
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from pagecache.cli import main
from pagecache.stress import Plan, Report, UnusableTarget, command

pytest_plugins = ["pytester"]

SMALL = ("--threads", "3", "--tasks", "2", "--files", "2", "--size", "64KiB", "--capacity", "128KiB", "--seed", "7")


def stress(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "pagecache", "stress", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)


def with_factory(folder: Path) -> None:
    """Make python:mine:factory, whose backends lose bytes."""
    text = "from tests.stress.planted import *\nfactory = BACKENDS['DropsTail']\n"
    (folder / "mine.py").write_text(text, encoding="utf-8")
    (folder / "tests").symlink_to(Path(__file__).parent.parent)


def test_a_clean_run_says_what_was_exercised(tmp_path: Path) -> None:
    ran = stress(tmp_path, *SMALL, "--duration", "0.2")
    assert (ran.returncode, "nothing wrong" in ran.stdout) == (0, True), ran.stderr
    assert ran.stdout.count("\n") == 1, "one line where nothing was found"
    assert stress(tmp_path, *SMALL, "--duration", "0.1s", "-v").stdout.count("\n") > 5
    assert ran.stderr == "seed 7\n"
    assert list(tmp_path.iterdir()) == []


def test_a_finding_is_exit_status_1_and_a_replay_and_with_shrink_a_small_one(tmp_path: Path) -> None:
    """--replay finds it again: the target is in the file too. --json has the report and the shrunk script."""
    with_factory(tmp_path)
    ran = stress(tmp_path, "python:mine:factory", *SMALL, "--shrink", "--shrink-time", "600s", "--json")
    assert ran.returncode == 1, ran.stderr
    report = json.loads(ran.stdout)
    assert (report["ok"], report["kind"], report["shrunk"]["kind"]) == (False, "data", "data")
    assert "enough: 1 operation of 1 worker, of " in report["shrunk"]["story"]
    assert {"kinds", "steps", "replay"} <= report.keys()
    for more in ("", "-small"):
        file = tmp_path / f"pagecache-stress-7-0{more}.json"
        assert f"--replay {file}" in ran.stderr
        again = stress(tmp_path, "--replay", file.name)
        found = "python:mine:factory, round 0 of seed 7: data" in again.stdout
        assert (again.returncode, found) == (1, True), again.stdout


@pytest.mark.parametrize("options", [[], ["--json"], ["--shrink"]])
def test_a_finding_is_shown_though_its_replay_can_be_written_nowhere(
    monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """Or though the target cannot be used to shrink it."""
    replay = {"plan": {"seed": 7, "first_round": 3}, "target": "memory:"}
    found = Report(ok=False, story="round 3 of seed 7: data\nfile 1: wrong", counters={}, kind="data", replay=replay)
    raising = {"write": OSError("nowhere"), "shrink": UnusableTarget("gone")}
    for name, error in raising.items():
        monkeypatch.setattr(command, name, Mock(side_effect=error))
    monkeypatch.setattr(command, "execute", lambda plan, target: found)
    monkeypatch.setattr("pagecache.cli.stress.leave", lambda status, *, hung: sys.exit(status))  # else the tests end
    ran = CliRunner().invoke(main, ["stress", *options])
    assert ran.exit_code == 1
    assert "file 1: wrong" in ran.stdout
    assert "again: nowhere" in ran.stderr
    assert ("not shrunk: gone" in ran.stderr) is ("--shrink" in options)


@pytest.mark.long
def test_a_thread_that_keeps_the_interpreter_lock_is_reported_with_the_stacks_of_all_threads(tmp_path: Path) -> None:
    """No Python thread can report it, not even the watchdog's: the process ends with 1. [I-23]"""
    (tmp_path / "mine.py").write_text(
        "import ctypes\n"
        "from pagecache.backends import MemoryBackend\n"
        "class Stands(MemoryBackend):\n"
        "    def stat(self, key):\n"
        "        ctypes.PyDLL(None).sleep(90)\n",
        encoding="utf-8",
    )
    hasty = "import sys; from pagecache.stress import command; command.STANDS = 0.5; command.WINDS = 0.05; "
    cli = "from pagecache.cli import main; main(sys.argv[1:])"
    arguments = ("stress", "python:mine:Stands", *SMALL, "--patience", "0.5")
    ran = subprocess.run(
        [sys.executable, "-c", hasty + cli, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.startswith("seed 7\nTimeout (0:00:01)!"), ran.stderr
    assert 'mine.py", line 5 in stat' in ran.stderr


def test_no_timer_is_left_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is renewed while the run goes on, and never fires later."""
    calls: list[str] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda most, exit: calls.append(f"ends after {most}"))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: calls.append("over"))
    monkeypatch.setattr(command, "WINDS", 0.01)
    plan = Plan(seed=1, duration=0.3, patience=3, size="64KiB", capacity="128KiB", operations=5)
    assert command.execute(plan, None).ok
    assert calls.count("ends after 63.0") > 1
    assert (calls.count("over"), calls[-1]) == (1, "over")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--profile", "fast"], "profile: 'fast' is not one of fsx, database"),
        (["--mix", "buffered,mmap"], "mix: 'mmap' is not one of buffered, direct"),
        (["--mix", "rivals"], "mix: rivals leaves nothing to do of profile fsx; profiles that have it: losses"),
        (["--crashes", "killed"], "crashes: killed cannot be on memory:: the store ends with its process"),
        (["--capacity", "4TiB"], "capacity: 4398046511104 is not at least 65536 and at most 2199023255552"),
        (["--size", "1TiB"], "size: 1099511627776 is not at least 4096 and at most 1073741824"),
        (
            ["--size", "100MiB", "--files", "100"],
            "size: 104857600 bytes in each of 100 files; the tester has all of it in",
        ),
        (["--threads", "-1"], "threads: -1 is not at least 0 and at most 10000"),
        (["--faults", "odd"], "'odd' is not one of the fault profiles"),
        (["--duration", "soon"], "duration: 'soon' is not a duration"),
        (["--shrink-time", "long"], "--shrink-time: 'long' is not a duration"),
        (["--threads", "0", "--tasks", "0"], "nothing would run"),
        (["path:/nowhere"], "path:/nowhere: no such directory"),
        (["nonsense"], "'nonsense' is neither a URL"),
        (["/tmp"], "path:, python:, s3: ...) nor module:factory; did you mean dir:/tmp or path:/tmp?"),
    ],
)
def test_wrong_usage_is_exit_status_2_and_one_line(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    ran = stress(tmp_path, *arguments)
    assert ran.returncode == 2
    assert complaint in ran.stderr.splitlines()[-1]
    assert "seed" not in ran.stderr, "a run that cannot begin needs no seed"


def test_the_fixture_fails_with_the_story_or_the_reason_and_costs_others_nothing(pytester: pytest.Pytester) -> None:
    """Tests that do not use it import nothing of the package. Times are texts, as they are for the command; an invalid
    target, or impossible crashes, are one line.
    """
    pytester.makepyfile(
        test_mine="""
        import sys

        def test_before():
            assert "pagecache" not in sys.modules

        def test_mine(pagecache_stress):
            report = pagecache_stress(seed=1, duration="0.1s", threads=2, tasks=0, size="64KiB", operations=10)
            assert report.ok

        def test_found(pagecache_stress):
            from tests.stress.planted import BACKENDS
            pagecache_stress(BACKENDS["DropsTail"], seed=1, duration=20, threads=4, tasks=0, size="64KiB")

        def test_target(pagecache_stress):
            pagecache_stress(lambda: None)

        def test_crashes(pagecache_stress):
            pagecache_stress(crashes="killed")
        """
    )
    root = Path(__file__).parents[2]
    pytester.makeini(f"[pytest]\npythonpath = {root}\n")
    result = pytester.runpytest_subprocess(timeout=280)
    result.assert_outcomes(passed=2, failed=3)
    result.stdout.fnmatch_lines(["*round 0 of seed 1: data*", "*again: Plan.from_replay(*"])
    result.stdout.fnmatch_lines(["pagecache_stress: *gave None, which is no Backend*"])
    result.stdout.fnmatch_lines(["pagecache_stress: crashes: killed cannot be on memory:*"])
    result.stdout.no_fnmatch_line("*Traceback*")
