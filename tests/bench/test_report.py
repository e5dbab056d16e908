"""The processing of measured numbers: goals, verdicts, medians of repetitions, tables, JSON, a picture."""

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from pagecache.bench.report import duration, machine
from pagecache.bench.suite import Result, UnknownCase, rows_of, select
from tests.bench import report, suite
from tests.bench.goals import BY_KEY, GOALS
from tests.bench.rows import Bench, Case, Row, Settings, exact, skipped


def row(key: str, value: float | None, spread: float = 0.0) -> Row:
    goal = BY_KEY[key]
    return Row(
        case="case",
        metric=goal.metric,
        against=goal.against,
        value=value,
        unit=goal.unit,
        low=value,
        spread=spread,
        key=key,
    )


def outcome(*rows: Row, spread: float = 0.02) -> suite.Outcome:
    return suite.Outcome(machine(), Settings(), 1, Result(rows, spread, seconds=1.0))


def test_keys_of_goals_are_unique_and_every_goal_is_measured_by_one_case() -> None:
    measured = [key for case in suite.CASES for key in case.goals]
    assert len(BY_KEY) == len(GOALS)
    assert sorted(measured) == sorted(BY_KEY)


def test_every_goal_is_in_the_table() -> None:
    """P21 is a comparison with another system and has no bound."""
    performance = {f"P{number}" for number in (*range(1, 30), 31, 32, 33, 34, 37)} - {"P21"}
    assert {goal.id for goal in GOALS} == performance | {f"F{number}" for number in range(1, 6)}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("P1/64K", 1.71, "yes"),
        ("P1/64K", 1.68, "near"),
        ("P1/64K", 1.60, "no"),
        ("P2/4K", 1.10, "yes"),
        ("P2/4K", 1.12, "near"),
        ("P2/4K", 1.20, "no"),
        ("P13", 64, "yes"),
        ("P13", 65, "no"),
        ("P15/copies", 0, "yes"),
        ("P15/copies", 1, "no"),
        ("P7", None, None),
    ],
)
def test_verdicts(key: str, value: float | None, expected: str | None) -> None:
    assert suite.verdict(row(key, value), 0.02) == expected


def test_a_miss_within_the_spread_fails_no_gate() -> None:
    rows = (row("P1/64K", 1.68), row("P1/4K", 1.0), row("P16/1ms", 2.0), row("P8", 9.0), skipped("x", "P7", "why"))
    assert [missed.key for missed in outcome(*rows).missed()] == ["P1/4K", "P16/1ms"]


def test_the_middle_of_several_repetitions_counts() -> None:
    repetitions = [[row("P8", value)] for value in (9.0, 5.0, 7.0)]
    assert [middle.value for middle in suite.middle_rows(repetitions)] == [7.0]


def test_a_row_that_was_skipped_in_every_repetition_stays_skipped() -> None:
    rows = [skipped("x", "P7", "why")]
    assert [middle.skipped for middle in suite.middle_rows([rows, rows])] == ["why"]


def test_a_case_that_fails_says_so_for_each_goal_it_did_not_measure(capsys: pytest.CaptureFixture[str]) -> None:
    def run(bench: Bench) -> Iterator[Row]:
        yield exact("broken", "P11/4K", 80)
        raise OSError(28, "No space left on device")

    case = Case("broken", "a case", ("P11/4K", "P11/64K"), run)
    rows = list(rows_of(case, None))  # type: ignore[arg-type]
    assert [(found.key, found.value) for found in rows] == [("P11/4K", 80), ("P11/64K", None)]
    assert "No space left" in rows[1].skipped
    assert "broken failed" in capsys.readouterr().err


def test_words_select_by_case_goal_and_part() -> None:
    assert [case.name for case in select(suite.CASES, ["P1"])] == ["reads"]
    assert [case.name for case in select(suite.CASES, ["P1/4K", " memory "])] == ["reads", "memory"]
    assert select(suite.CASES, []) == list(suite.CASES)
    groups = {group: select(suite.CASES, [], group) for group in ("hits", "writeback", "files")}
    assert sorted(case.name for cases in groups.values() for case in cases) == sorted(case.name for case in suite.CASES)
    assert "marks" in [case.name for case in groups["writeback"]]
    with pytest.raises(UnknownCase, match="P99"):
        select(suite.CASES, ["P99"])


def test_the_table_names_each_goal_its_number_and_whether_it_is_reached() -> None:
    text = io.StringIO()
    rows = (row("P8", 7.5, 0.03), row("P1/4K", 1.0), skipped("instructions", "P7", "no valgrind"))
    plain = dataclasses.replace(row("P8", 2.0), key="", metric="a look")
    report.print_report(outcome(*rows, plain), Console(file=text, width=200))
    lines = text.getvalue().splitlines()
    assert any("P8" in line and "7.50" in line and "±3 %" in line and "yes" in line for line in lines)
    assert any("P1/4K" in line and "no" in line for line in lines)
    assert any("skipped: no valgrind" in line for line in lines)
    assert any("a look" in line and "2.00 × speed" in line for line in lines)
    assert "goals: 1 reached, 0 missed by no more than the spread, 1 missed, 1 not measured" in text.getvalue()


def test_the_json_document_has_goals_and_rows_apart() -> None:
    plain = dataclasses.replace(row("P8", 2.0), key="")
    document = json.loads(json.dumps(report.as_dict(outcome(row("P8", 7.5), plain))))
    assert [(goal["id"], goal["value"], goal["reached"]) for goal in document["goals"]] == [("P8", 7.5, "yes")]
    assert len(document["rows"]) == 1
    assert document["machine"]["cpus"] >= 1


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tests.bench.plot import draw, share

    assert share(row("P1/64K", 3.4)) == pytest.approx(2.0)
    assert share(row("P2/64K", 2.0)) == pytest.approx(0.5)
    path = tmp_path / "picture.svg"
    draw(outcome(row("P8", 7.5, 0.1), row("P1/4K", 0.7), row("P15/copies", 0), skipped("x", "P7", "why")), path)
    assert path.read_text(encoding="utf-8").lstrip().startswith("<?xml")


@pytest.mark.parametrize(
    ("nanoseconds", "expected"), [(None, ""), (12.3, "12.3 ns"), (1234.0, "1.23 µs"), (5e6, "5 ms"), (2e9, "2 s")]
)
def test_times_have_a_fitting_unit(nanoseconds: float | None, expected: str) -> None:
    assert duration(nanoseconds) == expected
