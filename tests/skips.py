"""A table of the skipped tests at the end of a run: the reasons, and the number of tests for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

__all__ = ["table"]


def reason(report: pytest.TestReport) -> str:
    """Return the sentence that a test was skipped with."""
    told = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return told.removeprefix("Skipped: ")


def table(reasons: Iterable[str]) -> list[str]:
    """Return one line for each reason, the most frequent first."""
    counts = sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0]))
    return [f"{count:>7}  {why}" for why, count in [*counts, ("skipped in all", sum(n for _, n in counts))]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = [reason(report) for report in terminalreporter.getreports("skipped")]
    if reasons:
        terminalreporter.section("skipped tests", sep="-")
        for line in table(reasons):
            terminalreporter.write_line(line)
