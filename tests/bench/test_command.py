"""The command of a checkout, `python -m tests.bench`: goals, gate, repetitions, pictures and traces."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.bench.__main__ import main


def call(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_the_list_has_every_case_with_its_bounds() -> None:
    assert "P16/1ms" in call("--list").output
    cases = json.loads(call("--list", "--json").stdout)["cases"]
    assert {"reads", "peers", "miss"} <= {case["name"] for case in cases}


def test_chosen_goals_are_measured_and_repeated() -> None:
    result = call("--quick", "--repeat", "2", "--only", "P15,memory", "--json")
    assert result.exit_code == 0, result.output
    outcome = json.loads(result.stdout)
    assert {goal["key"] for goal in outcome["goals"]} == {"P15/calls", "P15/copies", "P11/4K", "P11/64K"}
    assert {goal["reached"] for goal in outcome["goals"]} == {"yes"}
    assert outcome["repeat"] == 2


def test_a_gate_fails_if_a_goal_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.goals.Goal.reached", lambda self, value, spread=0.0: False)
    assert call("--quick", "--only", "P15", "--gate").exit_code == 1
    assert call("--quick", "--only", "P15").exit_code == 0


def test_the_caches_of_a_run_are_traced(tmp_path: Path) -> None:
    assert call("--quick", "--only", "P11", "--trace", str(tmp_path / "trace.json")).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"trace.json", "trace-2.json"}


def test_an_option_that_cannot_work_is_refused_before_measuring(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing" / "x.svg")
    assert "no such directory" in call("--trace", missing).output
    assert "P99: no such goal" in call("--only", "P99").output
    pytest.importorskip("matplotlib")
    assert "no such directory" in call("--plot", missing).output
