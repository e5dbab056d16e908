"""The environment that `.ci/run` gives the tests, and the table of skipped tests at the end of a run."""

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
    runs = re.split(r"^make ", done.stdout, flags=re.MULTILINE)[1:]
    assert [run.splitlines()[0] for run in runs] == ["test PYTHON=python3.13", "test-all PYTHON=python3.13"]
    for run in runs:
        found = dict(line.split("=", 1) for line in run.splitlines()[1:])
        for name in ("PWD", "OLDPWD", "SHLVL", "_"):  # of the shell that prints them
            found.pop(name, None)
        assert found == kept | {"LANG": "C.UTF-8"}


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


def made(checkout: Path, target: str) -> list[str]:
    """Run make; return the parts of the tests that it ran."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", target], cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"/python -m pytest .*--part (\w+)$", done.stdout, re.MULTILINE)[::2]  # called, and printed


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
