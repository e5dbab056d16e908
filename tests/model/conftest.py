"""How many states there were, at the end of the test run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

RecordProperty = Callable[[str, object], None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        f"{dict(report.user_properties)['model']}"
        for report in terminalreporter.getreports("passed")
        if report.when == "call" and "model" in dict(report.user_properties)
    ]
    if lines:
        terminalreporter.section("state model", sep="-")
        for line in lines:
            terminalreporter.write_line(line)
