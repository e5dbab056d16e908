"""The commands as a user calls them: their output, their exit status, and leftover files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import call


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place for temporary files; empty again after every command."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    return place


@pytest.mark.smoke("command line")
def test_the_package_can_be_run_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "pagecache", "--help"], capture_output=True, text=True, check=True)
    assert "stress" in done.stdout
    assert "bench" in call("-h").output


def test_bench_measures_what_was_chosen(temporary: Path) -> None:
    result = call("bench", "--quick", "P5", "P14", "--json")
    assert result.exit_code == 0, result.output
    outcome = json.loads(result.stdout)
    assert {row["key"] for row in outcome["rows"]} == {"P5/64K", "P5/4K", "P14/dir"}
    assert outcome["machine"]["python"].startswith("CPython")
    assert not list(temporary.iterdir())


def test_bench_prints_a_table_and_its_conditions() -> None:
    lines = call("bench", "writeback", "--quick").stdout.splitlines()
    assert any("os.pwrite + fsync" in line and "× speed" in line for line in lines)
    assert any("differences below" in line for line in lines)


def test_what_bench_does_not_measure_is_one_line_that_names_what_it_does() -> None:
    result = call("bench", "P99")
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("main bench: ")
    assert "P99: no such case; cases are P1, hits, P5, P14, P17, writeback, F1, files" in line
