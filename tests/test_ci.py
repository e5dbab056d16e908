"""The environment that `.ci/run` gives the tests, failed tests that it runs again, and tables at the end of runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_without_a_program(number):
    pytest.skip("there is no program")

@pytest.mark.skipif(True, reason="only root may")
def test_of_root():
    pass

@pytest.mark.smoke
def test_of_a_mount():
    pytest.skip("there is no mount")

def test_that_runs():
    pass
"""


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_the_tests_of_ci_get_a_home_a_path_a_language_and_what_pip_needs(tmp_path: Path) -> None:
    """The test puts its own programs first in the path: `make` prints its environment, and nothing is installed."""
    script(tmp_path / "make", 'echo "make $*"; env')
    script(tmp_path / "apt-get", "true")
    kept = {
        "HOME": "/nonexistent",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PIP_INDEX_URL": "https://example.invalid/simple folder",
        "https_proxy": "http://127.0.0.1:1",
        "NO_PROXY": "localhost",
        "SSL_CERT_FILE": "/certificates",
        "REQUESTS_CA_BUNDLE": "/bundle",
    }
    dropped = {"PYTHONUNBUFFERED": "1", "TERM": "xterm", "PAGECACHE_DEBUG": "1", "MY_PIP": "1", "HTTPS_PROXY_X": "1"}
    done = subprocess.run(
        [ROOT / ".ci" / "run", "PYTHON=python3.13"], env=kept | dropped, capture_output=True, text=True, check=True
    )
    called, *variables = done.stdout.splitlines()
    assert called == "make test RUNNER=tests.unstable PYTHON=python3.13"
    found = dict(line.split("=", 1) for line in variables)
    for name in ("PWD", "OLDPWD", "SHLVL", "_"):  # of the shell that prints them
        found.pop(name, None)
    assert found == kept | {"LANG": "C.UTF-8"}


# Each test counts its runs in a file. With two processes, some tests have no verdict when one of them ends.
COUNTING = """
import ctypes, os, signal, pytest

def runs(name):
    with open(name, "a+b") as file:
        file.write(b".")
        return file.tell()

@pytest.mark.parametrize("number", range(40))
def test_that_passes(number):
    runs(f"passes-{number}")
"""
UNSTABLE = """
def test_that_fails_once():
    assert runs("once") == 2

def test_that_fails_twice():
    assert runs("twice") == 3

@pytest.mark.parametrize("name", ["a@b"])
@pytest.mark.xdist_group("tests/some")
def test_that_fails_beside_other_tests(name):
    assert "PYTEST_XDIST_WORKER" not in os.environ

def test_that_crashes_once():
    if runs("crashes") == 1:
        os.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.timeout(3)
def test_that_hangs_once():
    if runs("hangs") == 1:
        ctypes.PyDLL(None).sleep(1000)

@pytest.fixture
def broken_once():
    yield
    assert runs("fixture") == 2

def test_whose_fixture_fails_once(broken_once):
    pass
"""
ONCE = """
def test_once():
    assert runs("a run") == 2
"""
FAILING = """
def test_that_always_fails():
    assert runs("always") == 0
"""


def run_unstable(where: Path, source: str) -> tuple[int, list[str]]:
    """Run tests as `.ci/run` does, in two processes; return the exit status and the lines of the output."""
    (where / "test_some.py").write_text(source)
    options = ["-q", "-n2", "--dist=loadgroup", "--max-worker-restart=0", f"--rootdir={where}"]
    plugins = ["xdist.plugin", "pytest_timeout", "tests.hangs", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "tests.unstable", *(f"-p{plugin}" for plugin in plugins), *options]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


def counts(where: Path, pattern: str) -> set[int]:
    return {len(path.read_bytes()) for path in where.glob(pattern)}


@pytest.mark.timeout(600)
def test_failed_tests_that_pass_alone_are_named_last(tmp_path: Path) -> None:
    """Each other test runs once, also if a crash or a timeout ends the process that would have run it."""
    status, lines = run_unstable(tmp_path, COUNTING + UNSTABLE)
    unstable = [line for line in lines if line.startswith("UNSTABLE ")]
    assert status == 0, "\n".join(lines)
    assert sorted(unstable) == [
        "UNSTABLE test_some.py::test_that_crashes_once",
        "UNSTABLE test_some.py::test_that_fails_beside_other_tests[a@b]",
        "UNSTABLE test_some.py::test_that_fails_once",
        "UNSTABLE test_some.py::test_that_fails_twice",
        "UNSTABLE test_some.py::test_that_hangs_once",
        "UNSTABLE test_some.py::test_whose_fixture_fails_once",
    ]
    assert lines[-len(unstable) :] == unstable
    assert len(list(tmp_path.glob("passes-*"))) == 40
    assert counts(tmp_path, "passes-*") == {1}


def test_a_test_that_fails_three_times_fails_the_run(tmp_path: Path) -> None:
    status, lines = run_unstable(tmp_path, COUNTING + ONCE + FAILING)
    assert status == 1
    assert "FAILED 3 times: test_some.py::test_that_always_fails" in lines
    assert counts(tmp_path, "always") == {3}


def test_an_error_outside_of_tests_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text("import there_is_no_such_module\n")
    status, lines = run_unstable(tmp_path, COUNTING + ONCE)
    assert status != 0
    assert not [line for line in lines if line.startswith(("run again", "UNSTABLE"))]


def test_tests_of_a_group_run_in_one_process(tmp_path: Path) -> None:
    """Mounts and servers of tests rely on it. A newer pytest may break it without a message."""
    grouped = """
@pytest.mark.xdist_group("tests/some")
@pytest.mark.parametrize("number", range(40))
def test_of_a_group(number):
    runs(os.environ["PYTEST_XDIST_WORKER"])
"""
    status, _ = run_unstable(tmp_path, COUNTING + grouped)
    assert status == 0
    assert counts(tmp_path, "gw*") == {40}


def test_a_run_without_unstable_tests_names_none(tmp_path: Path) -> None:
    status, lines = run_unstable(tmp_path, COUNTING)
    assert status == 0
    assert lines[-1].startswith("40 passed")


def skipped(where: Path, *options: str) -> list[str]:
    """Run the tests of PROGRAM in two processes; return the table of those that were skipped."""
    (where / "test_some.py").write_text(PROGRAM)
    plugins = ["xdist.plugin", "tests.split", "tests.skips", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", *(f"-p{plugin}" for plugin in plugins), f"--rootdir={where}", "-n", "2"]
    done = subprocess.run(
        [*command, *options, "test_some.py"], cwd=where, env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    begin = next(number for number, line in enumerate(lines) if " skipped tests " in line)
    end = next(number for number, line in enumerate(lines) if line.endswith("  skipped in all"))
    return [" ".join(line.split()) for line in lines[begin + 1 : end + 1]]


def test_skipped_tests_are_counted_in_one_table(tmp_path: Path) -> None:
    assert skipped(tmp_path) == ["3 there is no program", "1 only root may", "1 there is no mount", "5 skipped in all"]


def test_the_table_of_the_rest_has_the_skipped_tests_of_the_first_part(tmp_path: Path) -> None:
    assert skipped(tmp_path, "--part", "first") == ["1 there is no mount", "1 skipped in all"]
    assert skipped(tmp_path, "--part", "rest") == skipped(tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with our Makefile where everything is built, and programs only print how they are called."""
    for name in ("pagecache", "tests", "docs", ".venv/bin", "build/debug/pagecache/_native", "build/c-schedules"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "setup.py", "pagecache/cache.py"):
        (tmp_path / name).touch()
    for name in (".venv/bin/python", ".venv/bin/ruff", ".venv/bin/mypy", "build/c-schedules/schedules"):
        script(tmp_path / name, 'echo "$0 $*"')
    for name in (".venv/.created", ".venv/.built", ".venv/.dev", "build/debug/pagecache/_native/.built"):
        (tmp_path / name).touch()
    return tmp_path


def make(checkout: Path, *arguments: str) -> tuple[int, str]:
    """Run make; return its exit status and output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", *arguments], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def made(checkout: Path, target: str) -> list[str]:
    """Run make; return the parts of the tests that it ran."""
    status, output = make(checkout, target)
    assert status == 0, output
    return re.findall(r"/python -m pytest .*--part (\w+)$", output, re.MULTILINE)[::2]  # called, and printed


def test_make_runs_failed_tests_again_only_if_told_to(checkout: Path) -> None:
    """`.ci/run` does, and by hand each failed test is a failure."""
    assert made(checkout, "test") == ["first"]
    _, output = make(checkout, "test", "RUNNER=tests.unstable")
    assert re.findall(r"/python -m (\S+) .*--part first$", output, re.MULTILINE)[::2] == ["tests.unstable"]


def test_schedules_of_the_core_are_the_same_in_each_run(checkout: Path) -> None:
    """`make test` runs them; neither the time of day nor the load of the machine chooses them."""
    script(checkout / "build/c-schedules/schedules", 'echo "schedules $*"')
    assert "schedules --number 30000 --seed 1\n" in make(checkout, "run-schedules")[1]
    assert "schedules --number 30000 --seed 7\n" in make(checkout, "run-schedules", "SEED=7")[1]


def test_nightly_runs_all_parts_and_ends_with_a_table(checkout: Path) -> None:
    script(checkout / ".venv/bin/mypy", "exit 1")
    status, output = make(checkout, "nightly", "NIGHTLY=slow lint mutations")
    assert status == 2
    table = output[output.index("\npart ") :].splitlines()[1:]
    assert [" ".join(line.split()[:2]) for line in table[:4]] == [
        "part verdict",
        "slow passed",
        "lint failed",
        "mutations passed",
    ]
    assert all(re.fullmatch(r"\w+ +\w+ +\d+:\d\d", line) for line in table[1:4])
    script(checkout / ".venv/bin/mypy", "exit 0")
    assert make(checkout, "nightly", "NIGHTLY=lint mutations")[0] == 0


def test_make_runs_the_first_part_again_only_after_a_change(checkout: Path) -> None:
    assert made(checkout, "test") == ["first"]
    assert made(checkout, "test-all") == ["rest"]
    os.utime(checkout / "build/tested", (0, 0))  # now each file is newer
    assert made(checkout, "test-all") == ["first", "rest"]
    assert made(checkout, "test-all") == ["rest"]
    assert made(checkout, "test") == ["first"]


def test_make_runs_the_first_part_again_if_files_were_added_or_deleted(checkout: Path) -> None:
    """The times of files do not show it: an added file may be old, and a deleted file has no time."""
    added = checkout / "tests" / "test_new.py"
    assert made(checkout, "test") == ["first"]
    added.touch()
    os.utime(added, (0, 0))
    assert made(checkout, "test-all") == ["first", "rest"]
    assert made(checkout, "test-all") == ["rest"]
    added.unlink()
    assert made(checkout, "test-all") == ["first", "rest"]
    assert made(checkout, "test-all") == ["rest"]


def test_make_runs_the_first_part_again_if_a_file_changed_while_it_ran(checkout: Path) -> None:
    """Which version was tested is not known."""
    script(checkout / ".venv/bin/mypy", "sleep 0.1; touch pagecache/cache.py")
    assert made(checkout, "test") == ["first"]
    script(checkout / ".venv/bin/mypy", "")
    assert made(checkout, "test-all") == ["first", "rest"]


def test_make_runs_the_first_part_again_after_it_has_failed(checkout: Path) -> None:
    assert made(checkout, "test") == ["first"]
    script(checkout / ".venv/bin/mypy", "exit 1")
    with pytest.raises(AssertionError):
        made(checkout, "test")
    script(checkout / ".venv/bin/mypy", "exit 0")
    assert made(checkout, "test-all") == ["first", "rest"]


def test_tests_have_no_unbuffered_output_by_their_environment() -> None:
    """A child of a test that leaves without a flush loses its output, whatever the caller of the tests has set."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    program = "import os, tests.conftest; print(os.environ.get('PYTHONUNBUFFERED'))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "None\n"
