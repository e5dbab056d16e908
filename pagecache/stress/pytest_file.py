"""A failure as a test file for pytest: it contains the script, runs it, and fails with the story while the bug
exists.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from pagecache.stress.naming import name_of
from pagecache.stress.report import Report

__all__ = ["pytest_file", "readable"]

SURE = 1e-4  # highest probability that the test passes in spite of the bug
TRIES_MAX = 400
WIDE = 110

FILE = '''"""What `pagecache stress` found, made small{when}.
{module}
{story}
"""

import pytest

from pagecache.stress import Plan, run

REPLAY = {replay}


def test_{name}():
    plan, target = Plan.from_replay(REPLAY), REPLAY["target"]
    for _ in range({tries}):  # threads decide the order of calls
        report = run(plan, target)
        if not report.ok:
            pytest.fail(report.story, pytrace=False)
'''


def pytest_file(report: Report, rate: float, target: str | Callable[[], Any] | None) -> str:
    """Return the text of the file; "": a file cannot name the target. `rate`: how often the replay fails."""
    if target is not None and name_of(target) is None:
        return ""
    plan = report.replay["plan"]
    tries = tries_for(rate)
    story = "\n".join([*report.steps, report.story])
    return FILE.format(
        when=f": it fails in {rate:.0%} of its runs" if rate < 1 else "",
        story=commented(story),
        module=imported(report.replay.get("target")),
        replay=readable(report.replay, show=repr),
        name=f"{report.kind}_of_seed_{plan['seed']}",
        tries=tries,
    )


def imported(target: str | None) -> str:
    """Return the directory from which the test can be run."""
    if target is None or not target.startswith("python:"):
        return ""
    return f"\nRun it where Python finds the module {target.split(':')[1]}: in its directory, or by PYTHONPATH.\n"


def commented(text: str) -> str:
    """Escape text for use in a docstring."""
    printable = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    lines = printable.replace("\\", "\\\\").replace('"""', "'''").splitlines()
    return "\n".join(line[:WIDE] for line in lines).strip("\n").removesuffix('"')


def tries_for(rate: float) -> int:
    """Return the number of tries after which the test hardly ever passes while the bug exists."""
    if rate >= 1:
        return 3
    return min(TRIES_MAX, math.ceil(math.log(SURE) / math.log(1 - max(rate, 0.01))))


def readable(value: Any, indent: str = "", *, show: Callable[[Any], str] = json.dumps) -> str:
    """Format a value as JSON, or with `show`, with short values on one line."""
    text = show(value)
    if len(indent) + len(text) <= WIDE or not value or not isinstance(value, dict | list):
        return text
    inner = indent + "    "
    if isinstance(value, dict):
        ends, parts = "{}", [f"{show(name)}: {readable(one, inner, show=show)}" for name, one in value.items()]
    else:
        ends, parts = "[]", [readable(one, inner, show=show) for one in value]
    return f"{ends[0]}\n" + ",\n".join(inner + part for part in parts) + f"\n{indent}{ends[1]}"
