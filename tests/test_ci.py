"""The environment that `.ci/run` gives the tests, and the table of skipped tests at the end of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAM = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_without_a_program(number):
    pytest.skip("there is no program")

@pytest.mark.skipif(True, reason="only root may")
def test_of_root():
    pass

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
    first, *lines = done.stdout.splitlines()
    assert first == "make test PYTHON=python3.13"
    found = dict(line.split("=", 1) for line in lines)
    for name in ("PWD", "OLDPWD", "SHLVL", "_"):  # of the shell that prints them
        found.pop(name, None)
    assert found == kept | {"LANG": "C.UTF-8"}


def test_skipped_tests_are_counted_in_one_table(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(PROGRAM)
    plugins = ["-p", "xdist.plugin", "-p", "tests.skips", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", *plugins, f"--rootdir={tmp_path}", "-n", "2", "test_some.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    begin = next(number for number, line in enumerate(lines) if " skipped tests " in line)
    assert lines[begin + 1 : begin + 4] == [
        "      3  there is no program",
        "      1  only root may",
        "      4  skipped in all",
    ]


def test_tests_have_no_unbuffered_output_by_their_environment() -> None:
    """A child of a test that leaves without a flush loses its output, whatever the caller of the tests has set."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    program = "import os, tests.conftest; print(os.environ.get('PYTHONUNBUFFERED'))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "None\n"
