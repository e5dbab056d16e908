"""Cases and rows of the benchmarks that belong to goals: texts, units and directions are those of the goal."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pagecache.bench.harness import Comparison
from pagecache.bench.suite import Bench, Case, Group, Row, Settings, measured
from tests.bench.goals import BY_KEY

__all__ = ["Bench", "Case", "Row", "Settings", "case", "comparison_row", "exact", "skipped", "timed"]


def texts(key: str) -> dict[str, Any]:
    """Return the fields of a row that the goal decides."""
    goal = BY_KEY[key]
    return {"key": key, "metric": goal.metric, "against": goal.against, "unit": goal.unit}


def exact(case: str, key: str, value: float, note: str = "") -> Row:
    """Return a row that was counted."""
    return Row(case=case, value=value, low=value, note=note, **texts(key))


def skipped(case: str, key: str, reason: str) -> Row:
    """Return a row for a goal that cannot be measured on this machine."""
    return Row(case=case, skipped=reason, **texts(key))


def timed(case: str, key: str, comparison: Comparison, name: str, against: str, note: str = "") -> Row:
    """Return a row of a goal: `name` relative to `against`, in the direction of the goal."""
    return measured(comparison, name, against, case=case, note=note, **texts(key))


def comparison_row(
    case: str, metric: str, against: str, comparison: Comparison, name: str, base: str, note: str = ""
) -> Row:
    """Return a row without a goal: the speed of `name` relative to `base`."""
    return measured(comparison, name, base, case=case, metric=metric, against=against, note=note)


def case(
    name: str, title: str, goals: Iterable[str] = (), group: Group | None = None
) -> Callable[[Callable[[Bench], Iterator[Row]]], Case]:
    """Make a case of a function that yields rows; the group is that of its goals."""
    keys = tuple(goals)
    chosen = group or (BY_KEY[keys[0]].group if keys else "hits")
    return lambda run: Case(name, title, keys, run, chosen)
