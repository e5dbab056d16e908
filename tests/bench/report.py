"""The result as tables and as JSON.

The JSON document: `machine`, `settings`, `spread` (of the A/A comparison), `goals` (one object per goal: id, key,
metric, against, goal, value, low, spread, reached, note or skipped) and `rows` (the measurements without a goal, same
fields). `reached` is "yes", "no", "near" (missed by no more than the spread) or null if there is no value.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pagecache.bench import report
from pagecache.bench.report import console, duration, number, percent, remark
from pagecache.bench.suite import Case
from tests.bench.goals import BY_KEY
from tests.bench.suite import Outcome, goal_of, verdict

STYLE = {"yes": "green", "near": "yellow", "no": "bold red"}


def goal_table(outcome: Outcome) -> Table:
    """Return a table with one line per goal."""
    table = Table(title="Goals", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("goal", "metric", "against"):
        table.add_column(heading)
    for heading in ("bound", "median", "spread"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("reached")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("remark")
    for row in outcome.result.rows:
        goal = goal_of(row)
        if goal is None:
            continue
        state = verdict(row, outcome.result.spread)
        table.add_row(
            goal.key,
            row.metric,
            row.against,
            goal.text(),
            number(row.value),
            percent(row.spread),
            Text(state or "–", style=STYLE.get(state or "", "dim")),
            duration(row.nanoseconds),
            remark(row),
        )
    return table


def summary(outcome: Outcome) -> list[str]:
    """Return the machine, the way of measuring, and the count of goals, as lines."""
    states = [verdict(row, outcome.result.spread) for row in outcome.result.rows if row.key]
    skipped = states.count(None)
    return [
        *report.conditions(outcome.machine, outcome.settings, outcome.result),
        f"{outcome.repeat} repetition(s); goals: {states.count('yes')} reached, "
        f"{states.count('near')} missed by no more than the spread, "
        f"{states.count('no')} missed" + (f", {skipped} not measured" if skipped else ""),
    ]


def print_report(outcome: Outcome, to: Console | None = None) -> None:
    """Print tables and summary on stdout."""
    to = to or console()
    if any(row.key for row in outcome.result.rows):
        to.print(goal_table(outcome))
    others = [row for row in outcome.result.rows if not row.key]
    if others:
        to.print(report.row_table(others))
    for line in summary(outcome):
        to.print(line, highlight=False)


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """Return the whole outcome for JSON."""
    document = report.as_dict(outcome.machine, outcome.settings, outcome.result)
    rows = {row.key: row for row in outcome.result.rows}
    for found in document["goals"]:
        goal = BY_KEY[found["key"]]
        found["goal"] = {"sense": goal.sense, "bound": goal.bound, "group": goal.group}
        found["reached"] = verdict(rows[goal.key], outcome.result.spread)
    return document | {"repeat": outcome.repeat}


def case_table(cases: Sequence[Case]) -> Table:
    """Return a table of cases with their goals."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("case", "measures", "goal", "bound"):
        table.add_column(heading)
    for case in cases:
        goals = [BY_KEY[key] for key in case.goals]
        table.add_row(
            case.name, case.title, "\n".join(goal.key for goal in goals), "\n".join(goal.text() for goal in goals)
        )
    return table


def cases_as_dict(cases: Sequence[Case]) -> dict[str, Any]:
    """Return the cases with their goals, for JSON."""
    return {
        "cases": [
            {"name": case.name, "title": case.title, "goals": [asdict(BY_KEY[key]) for key in case.goals]}
            for case in cases
        ]
    }
