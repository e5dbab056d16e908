"""What a run found, as tables for a person and as JSON for a program.

The JSON document: `machine`, `settings`, `spread` (of the A/A comparison), `goals` (one object per goal: id, key,
metric, against, goal, value, low, spread, reached, note or skipped) and `rows` (the measurements without a goal, same
fields). `reached` is "yes", "no", "near" (missed by no more than the spread) or null where nothing was measured.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pagecache.bench.goals import BY_KEY
from pagecache.bench.rows import Case, Row
from pagecache.bench.suite import Outcome

STYLE = {"yes": "green", "near": "yellow", "no": "bold red"}


def verdict(row: Row, spread: float) -> str | None:
    """Whether a row reaches its goal: "yes", "near" or "no"; None without goal or value."""
    if row.goal is None or row.value is None:
        return None
    if row.goal.reached(row.value):
        return "yes"
    return "near" if row.goal.reached(row.value, spread) else "no"


def number(value: float | None) -> str:
    """Three figures, or nothing."""
    if value is None:
        return ""
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def percent(value: float) -> str:
    """A spread as `±3 %`."""
    return f"±{100 * value:.0f} %" if value else ""


def remark(row: Row) -> str:
    """What has to be known to read the row."""
    return f"skipped: {row.skipped}" if row.skipped else row.note


def duration(nanoseconds: float | None) -> str:
    """A time per item with a fitting unit."""
    if nanoseconds is None:
        return ""
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= factor:
            return f"{nanoseconds / factor:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def goal_table(outcome: Outcome) -> Table:
    """One line per goal that was asked for."""
    table = Table(title="Goals", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("goal", "metric", "against"):
        table.add_column(heading)
    for heading in ("bound", "median", "spread"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("reached")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("remark")
    for row in outcome.rows:
        if row.goal is None:
            continue
        state = verdict(row, outcome.spread)
        table.add_row(
            row.goal.key,
            row.metric,
            row.against,
            row.goal.text(),
            number(row.value),
            percent(row.spread),
            Text(state or "–", style=STYLE.get(state or "", "dim")),
            duration(row.nanoseconds),
            remark(row),
        )
    return table


def look_table(rows: Sequence[Row]) -> Table:
    """The measurements that have no goal."""
    table = Table(title="Beside others", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("metric", "against"):
        table.add_column(heading)
    for heading in ("speed", "lowest", "spread", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("remark")
    for row in rows:
        table.add_row(
            row.metric,
            row.against,
            f"{number(row.value)}×" if row.value is not None else "",
            number(row.low),
            percent(row.spread),
            duration(row.nanoseconds),
            remark(row),
        )
    return table


def summary(outcome: Outcome) -> list[str]:
    """The machine, how it was measured, and what was reached."""
    where, settings = outcome.machine, outcome.settings
    states = [verdict(row, outcome.spread) for row in outcome.rows if row.goal is not None]
    skipped = states.count(None)
    lines = [
        f"pagecache {where.package}, {where.python}, {where.cpus} CPUs ({where.model}), kernel {where.kernel}",
        f"load average at the start {where.load:.2f}; transparent huge pages {where.huge_pages}, "
        f"{outcome.huge_bytes >> 20} MiB of this process in them",
        f"{settings.rounds} rounds of {1e3 * settings.seconds:g} ms, working set {settings.size >> 20} MiB, "
        f"{outcome.repeat} repetition(s), {outcome.seconds:.0f} s; "
        f"A/A: differences below {100 * outcome.spread:.1f} % mean nothing",
        f"goals: {states.count('yes')} reached, {states.count('near')} missed by no more than that, "
        f"{states.count('no')} missed" + (f", {skipped} not measured" if skipped else ""),
    ]
    if where.busy:
        lines.append("other work ran when this started: repeat it on a quiet machine")
    return lines


def print_report(outcome: Outcome, console: Console | None = None) -> None:
    """Print tables and summary on stdout."""
    console = console or wide_console()
    if any(row.goal is not None for row in outcome.rows):
        console.print(goal_table(outcome))
    looks = [row for row in outcome.rows if row.goal is None]
    if looks:
        console.print(look_table(looks))
    for line in summary(outcome):
        console.print(line, highlight=False)


def wide_console() -> Console:
    """A console on stdout that does not squeeze a table into 80 columns where nobody looks at a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def row_dict(row: Row, spread: float) -> dict[str, Any]:
    """One row for JSON."""
    result: dict[str, Any] = {
        "case": row.case,
        "metric": row.metric,
        "against": row.against,
        "value": row.value,
        "unit": row.unit,
        "low": row.low,
        "spread": row.spread,
        "nanoseconds": row.nanoseconds,
        "note": row.note,
        "skipped": row.skipped or None,
    }
    if row.goal is None:
        return result
    return {
        "id": row.goal.id,
        "key": row.goal.key,
        "goal": {"sense": row.goal.sense, "bound": row.goal.bound, "group": row.goal.group},
        "reached": verdict(row, spread),
        **result,
    }


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """The whole outcome for JSON."""
    rows = [row_dict(row, outcome.spread) for row in outcome.rows]
    settings = asdict(outcome.settings)
    settings["native"] = settings["native"] and str(settings["native"])
    return {
        "machine": asdict(outcome.machine),
        "settings": settings,
        "repeat": outcome.repeat,
        "spread": outcome.spread,
        "seconds": outcome.seconds,
        "huge_bytes": outcome.huge_bytes,
        "goals": [row for row in rows if "id" in row],
        "rows": [row for row in rows if "id" not in row],
    }


def print_list(cases: Sequence[Case], console: Console | None = None) -> None:
    """Print the cases with their goals."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("case", "measures", "goal", "bound"):
        table.add_column(heading)
    for case in cases:
        goals = [BY_KEY[key] for key in case.goals]
        table.add_row(
            case.name, case.title, "\n".join(goal.key for goal in goals), "\n".join(goal.text() for goal in goals)
        )
    (console or wide_console()).print(table)


def list_as_dict(cases: Sequence[Case]) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "cases": [
            {"name": case.name, "title": case.title, "goals": [asdict(BY_KEY[key]) for key in case.goals]}
            for case in cases
        ]
    }
