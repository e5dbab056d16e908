"""A table of the skipped tests at the end of a run: the reasons, and the number of tests for each.

A run of the first part (split.py) keeps its table in build/skipped.json. A run of the rest adds it, so that the last
table of `make test-all` is of all tests.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest

__all__ = ["table"]


def reason(report: pytest.TestReport) -> str:
    """Return the sentence that a test was skipped with."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def table(reasons: Counter[str]) -> list[str]:
    """Return one line for each reason, the most frequent first."""
    counts = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return [f"{count:>7}  {why}" for why, count in [*counts, ("skipped in all", reasons.total())]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reasons = Counter(reason(report) for report in terminalreporter.getreports("skipped"))
    part = config.getoption("part", default=None)
    kept = config.rootpath / "build" / "skipped.json"
    if part == "first":
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(reasons))
    elif part == "rest" and kept.exists():
        reasons += Counter(json.loads(kept.read_text()))
    if reasons:
        terminalreporter.section("skipped tests", sep="-")
        for line in table(reasons):
            terminalreporter.write_line(line)
