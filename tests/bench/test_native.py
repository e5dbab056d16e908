"""The count of instructions, with a program that stands in for valgrind."""

import random
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bench import cases_native
from tests.bench.rows import Bench, Row, Settings

VALGRIND = """#!/bin/sh
# arguments: --tool=callgrind --callgrind-out-file=/dev/null PROGRAM MODE COUNT
case "$4" in
hit) each=500 ;;
memcpy) each=400 ;;
esac
[ "$3" = /broken ] && { echo "cannot run it" >&2; exit 1; }
echo "==1== Collected : $((123456 + each * $5))" >&2
"""


@pytest.fixture
def valgrind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "valgrind"
    program.write_text(VALGRIND)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def only_row(native: Path | None) -> Row:
    with ExitStack() as stack:
        bench = Bench(Settings(native=native), Path("/nowhere"), random.Random(1), stack)
        (row,) = cases_native.hit_instructions.run(bench)
    return row


@pytest.mark.usefixtures("valgrind")
def test_the_setup_of_the_program_is_not_counted() -> None:
    row = only_row(Path("/program"))
    assert row.value == 100
    assert row.note == "500 with memcpy, 400 of it alone"


@pytest.mark.usefixtures("valgrind")
def test_a_program_that_fails_is_named_with_its_last_words() -> None:
    row = only_row(Path("/broken"))
    assert row.value is None
    assert "exit status 1, cannot run it" in row.skipped


def test_without_a_program_or_valgrind_the_row_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--native" in only_row(None).skipped
    monkeypatch.setenv("PATH", str(tmp_path))
    assert only_row(Path("/program")).skipped == "valgrind is not installed"
